"""``/api/v1``: push, presence, rooms, sessions and apps for back ends, as JSON."""
