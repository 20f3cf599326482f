"""Copies of the data of a node: backups, restores, and moves to another engine.
No server imports them."""
