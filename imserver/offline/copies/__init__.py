"""Copies of what a node stores: backups, restores, moves to another engine. No
server imports them."""
