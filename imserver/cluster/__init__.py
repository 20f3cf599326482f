"""Other nodes: leases, sessions and rooms in a registry, and calls between nodes."""
