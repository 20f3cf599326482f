"""For features: stores in databases of each kind, and other pauses of what delivers to receivers."""

import pytest

from imserver.features.webhooks import consumer
from tests.storage.conftest import database_servers, open_store, sqlite_model, url

__all__ = ["database_servers", "hasty_consumers", "open_store", "patient_consumers", "sqlite_model", "url"]


@pytest.fixture
def hasty_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses of what delivers to receivers."""
    for name, seconds in (("FIRST_PAUSE", 0.01), ("LONGEST_PAUSE", 0.05), ("SAVE", 0.02), ("WAIT", 0.02)):
        monkeypatch.setattr(consumer, f"{name}_SECONDS", seconds)


@pytest.fixture
def patient_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that failed is not tried again by itself."""
    for name in ("FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(consumer, name, 3600.0)
