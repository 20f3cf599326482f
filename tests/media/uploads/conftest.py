"""Fixtures: a store, and the time that transfers go by."""

from collections.abc import Callable

import pytest

from imserver.gateway.storage.store import Store
from imserver.media.uploads import resumable, transfers, uploads
from tests.stores import OpenStore


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """A store without a database, which the first write makes."""
    return open_store(threaded=True)


@pytest.fixture
def clock(constants: Callable[..., None]) -> list[float]:
    """What time it is."""
    now = [1000.0]
    for each in (resumable, transfers, uploads):
        constants(each, monotonic=lambda: now[0])
    return now
