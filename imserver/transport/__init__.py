"""Sockets and frames: listeners, the two doors, parked connections and their outboxes."""
