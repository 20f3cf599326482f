"""Databases of each kind, for nodes."""

from tests.storage.conftest import database_servers, open_store, sqlite_model, url

__all__ = ["database_servers", "open_store", "sqlite_model", "url"]
