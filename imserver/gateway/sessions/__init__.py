"""Sessions and presence, on this node and on all nodes."""
