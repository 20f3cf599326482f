"""Pushes: to whom they go, in which order, once, and what becomes of those that nobody could get."""
