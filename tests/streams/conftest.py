"""Databases of each engine, as the tests of storage have them."""

from tests.storage.conftest import database_servers, sqlite_model, url

__all__ = ["database_servers", "sqlite_model", "url"]
