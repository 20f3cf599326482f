"""Pushes: targets, order, idempotency, and pending pushes for absent users."""
