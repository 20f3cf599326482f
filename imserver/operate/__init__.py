"""For whoever runs a server: `imserver doctor`, and `check-config --production`. No node imports it."""
