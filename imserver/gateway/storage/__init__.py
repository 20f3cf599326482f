"""The database: SQLite, PostgreSQL or MySQL. It holds everything that outlives
the process.

Database libraries are imported when something is first stored.
"""
