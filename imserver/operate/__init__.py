"""For whoever runs a server: `imserver init`, `doctor`, parts of `check-config`. No node imports it."""
