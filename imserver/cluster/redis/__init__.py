"""The registry in Redis."""
