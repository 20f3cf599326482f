"""The cluster: leases, sessions and channels in a registry, and calls between
nodes."""
