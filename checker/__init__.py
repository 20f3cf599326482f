"""Judges what clients of a messaging system have seen. It reads histories and
knows nothing of the system.

README.md has the format of a history and the rules.
"""
