"""Databases of each engine, as the tests of storage have them."""

from tests.storage.conftest import database_servers, open_store, own_database, sqlite_model, url, write_at

__all__ = ["database_servers", "open_store", "own_database", "sqlite_model", "url", "write_at"]
