"""The database: what outlives the process, in SQLite, PostgreSQL or MySQL.

Nothing that speaks to them is imported before something is kept.
"""
