"""Fixtures for tests of what back ends are asked and told."""

import pytest

from imserver.backends.webhooks import consumer


@pytest.fixture
def patient_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that failed is not tried again by itself."""
    for name in ("FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(consumer, name, 3600.0)
