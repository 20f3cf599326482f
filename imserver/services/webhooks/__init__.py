"""Back ends: told what happens, and asked who may log in."""
