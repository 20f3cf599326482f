"""Fixtures: a store and its log."""

import pytest

from imserver.gateway.storage.store import Store
from imserver.messenger.messages import catch_up, deliverer, message_search, stored_channels
from imserver.messenger.messages.log import groups, transaction, writer
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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long or needs much in small, so that it happens often."""
    for module, name, value in (
        (deliverer, "GAP_SECONDS", 0.001),
        (deliverer, "QUIET_SECONDS", 0.01),
        (deliverer, "RETRY_SECONDS", 0.005),
        (deliverer, "PAGE", 4),
        (deliverer, "MAX_WAITING", 3),
        (writer, "BATCH_DRAFTS", 4),
        (catch_up, "RECOVERED", 6),
        (catch_up, "RESEND_LIMIT", 6),
        (stored_channels, "MAX_RECOVERED", 2),
        (groups, "MOST_LEAVING", 2),
        (transaction, "MOST_EDITS", 3),
        (message_search, "SEARCH_SECONDS", 0.01),
    ):
        monkeypatch.setattr(module, name, value)
