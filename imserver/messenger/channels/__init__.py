"""Channels whose histories are in the log."""
