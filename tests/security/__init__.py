"""Attacks on a running server, and the findings of a security audit: each must
fail."""
