"""Fixtures: a store and its log."""

import pytest

from imserver.gateway.storage.store import Store
from imserver.messenger.messages.log.message_log import MessageLog
from tests.stores import OpenStore


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    """A store in a new database, once on each engine."""
    return open_store(url)


@pytest.fixture
def log(store: Store) -> MessageLog:
    """Its log."""
    return store.part(MessageLog)
