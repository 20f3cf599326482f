"""Sessions on this node and on all nodes: they begin, are found, and end."""
