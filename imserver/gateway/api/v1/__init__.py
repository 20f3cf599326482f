"""``/api/v1``: push, presence, channels, sessions and apps for back ends, as
JSON."""
