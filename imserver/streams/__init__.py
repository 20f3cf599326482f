"""Entries by position: where they come from."""
