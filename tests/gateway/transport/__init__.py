"""Sockets, frames, outboxes: tests on real sockets and a real loop, in this
process."""
