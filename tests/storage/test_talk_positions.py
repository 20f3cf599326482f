"""Where users stand whose clients cannot say it, on every engine."""

import pytest

from imserver.storage.talk_positions import TalkPositions

from .conftest import OpenStore


@pytest.fixture
def positions(url: str, open_store: OpenStore) -> TalkPositions:
    """Those in a new database, once on each engine."""
    return TalkPositions(open_store(url, seconds=10))


def test_a_position_is_remembered_per_app_and_user_and_never_goes_back(positions: TalkPositions) -> None:
    assert positions.get("action:1", "ann") == 0
    positions.raise_to([("action:1", "ann", 5), ("action:1", "bob", 10**12), ("action:2", "ann", 1)])
    positions.raise_to([("action:1", "bob", 7), ("action:1", "ann", 6)])
    found = [positions.get(*who) for who in (("action:1", "ann"), ("action:1", "bob"), ("action:2", "ann"))]
    assert found == [6, 10**12, 1]


def test_users_are_told_apart_by_every_letter(positions: TalkPositions) -> None:
    positions.raise_to([("action:1", "安", 1), ("action:1", "ann", 2), ("action:1", "ANN", 3)])
    assert [positions.get("action:1", user) for user in ("安", "ann", "ANN", "ann ")] == [1, 2, 3, 0]
