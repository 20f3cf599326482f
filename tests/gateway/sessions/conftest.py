"""What tests of sessions share."""

import pytest

from imserver.gateway.sessions import sessions as module


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old connection has a second to show that it lives."""
    monkeypatch.setattr(module, "ALIVE_SECONDS", 1.0)
