"""Streams: entries by position, and the consumer that delivers them at least once."""
