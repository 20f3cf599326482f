"""Fixtures: a store."""

import pytest

from imserver.gateway.storage.store import Store
from tests.stores import OpenStore


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """A store without a database, which the first write makes."""
    return open_store(threaded=True)
