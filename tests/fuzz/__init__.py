"""Fuzzing: each parser of bytes from outside against inputs that nobody would
write.

``table.py`` has all parsers. ``python -m tests.fuzz`` fuzzes them guided by
coverage (``guided.py``).
"""
