"""Scenarios in a tiny form need no second to settle."""

import pytest


@pytest.fixture
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("context.REST", "push.QUIET"):
        monkeypatch.setattr(f"bench.{name}_SECONDS", 0.2)
