"""Channels: names that clients subscribe to, with history, recovery and
presence."""
