"""Delivery: entries of the log reach the connections of everybody who may read
them, and results reach their senders."""
