"""Rooms and single connections, on this node and on all."""
