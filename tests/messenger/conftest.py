"""Fixtures for tests of the messenger."""

from collections.abc import Callable

import pytest

from imserver.messenger.messages.log import transaction

WriteAt = Callable[[float], None]


@pytest.fixture
def write_at(monkeypatch: pytest.MonkeyPatch) -> WriteAt:
    """Set the Unix time at which the log writes."""
    return lambda seconds: monkeypatch.setattr(transaction, "time", lambda: seconds)
