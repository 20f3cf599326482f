"""The message log: every stored message of every app, numbered in the order of
the commits."""
