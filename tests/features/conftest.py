"""Stores in databases of each kind, for the rows and the log of features."""

from tests.storage.conftest import database_servers, open_store, sqlite_model, url

__all__ = ["database_servers", "open_store", "sqlite_model", "url"]
