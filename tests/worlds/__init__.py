"""Seeded worlds: whole nodes under a virtual clock, with a simulated network,
Redis and database.

See :mod:`tests.worlds.world`.
"""
