"""Calls between the nodes of a cluster, over ZeroMQ."""
