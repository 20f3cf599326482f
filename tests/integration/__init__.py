"""Real servers over real sockets."""
