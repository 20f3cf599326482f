"""Small batches of what looks at all connections."""

import pytest

from imserver.gateway.hub import expiry


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has a turn after each second connection."""
    for name in ("_BATCH", "_PING_BATCH"):
        monkeypatch.setattr(expiry, name, 2)
