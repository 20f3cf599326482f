"""The receiver of events in a chaos run: what it lacks, or got out of order, the checker finds."""

import json
from http.client import RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from bench.events import EventReceiver
from bench.history import History
from checker.cli import check
from checker.history import read

pytestmark = pytest.mark.linux

LOG = [
    {"id": "log-1", "sender": "ann"},
    {"id": "log-2", "sender": "bob"},
    {"id": "log-3", "sender": "ann"},
    {"id": "log-4", "user": "ann"},
]


def post(receiver: EventReceiver, *rows: dict[str, Any]) -> None:
    """Deliver events as a server does."""
    body = json.dumps({"events": [{"app": "101", "event": "message", **event} for event in rows]})
    with urlopen(receiver.url, body.encode(), timeout=60) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("order", "rules"),
    [((0, 1, 2, 3), set()), ((1, 0, 2, 3), set()), ((0, 2, 3), {"missing"}), ((2, 0, 1, 3), {"other order"})],
)
def test_what_is_missing_or_comes_after_a_later_one_of_its_user_is_found(
    order: tuple[int, ...], rules: set[str], tmp_path: Path
) -> None:
    log = [(f"101 {event['id']}", event.get("user", event.get("sender", ""))) for event in LOG]
    receiver, history = EventReceiver(), History(tmp_path / "history")
    try:
        for number in order:
            post(receiver, LOG[number])
        post(receiver, LOG[order[0]])
        assert (len(receiver.seen), receiver.repeats) == (len(order), 1)
        assert receiver.has_all(log) == (len(order) == len(LOG))
        receiver.control("kill")
        with pytest.raises(RemoteDisconnected):
            post(receiver, {"id": "log-9", "sender": "ann"})
        assert len(receiver.seen) == len(order)
    finally:
        receiver.close()
    receiver.note(history, log)
    history.close()
    assert {each.rule for each in check(read((tmp_path / "history").read_text().splitlines()))} == rules
