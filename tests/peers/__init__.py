"""Other servers beside this one, measured on the same machine: python -m tests.peers.measure."""
