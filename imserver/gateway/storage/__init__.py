"""The database: SQLite, PostgreSQL or MySQL. It stores all data that outlive
the process.

Database libraries are imported when something is first stored.
"""
