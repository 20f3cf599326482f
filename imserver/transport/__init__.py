"""Sockets and frames: listeners, the two servers, parked connections and their outboxes."""
