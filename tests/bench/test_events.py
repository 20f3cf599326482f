"""The scenario events: its figures against a real server, and that its receiver misses nothing."""

import json
from http.client import RemoteDisconnected
from typing import Any
from urllib.request import urlopen

import pytest

from bench.events import EventReceiver

pytestmark = pytest.mark.linux


def post(receiver: EventReceiver, *events: dict[str, Any]) -> None:
    """Deliver events as a server does."""
    body = json.dumps({"events": [{"app": "101", "event": "message", **event} for event in events]})
    with urlopen(receiver.url, body.encode(), timeout=60) as answer:
        assert answer.status == 200


def test_the_receiver_counts_repeats_and_inversions() -> None:
    receiver = EventReceiver()
    try:
        post(receiver, {"id": "log-1", "sender": "ann"}, {"id": "log-3", "sender": "ann"})
        post(receiver, {"id": "log-2", "sender": "bob"}, {"id": "event-1", "user": "ann"})
        post(receiver, {"id": "log-1", "sender": "ann"}, {"id": "log-1", "sender": "ann", "app": "102"})
        assert (len(receiver.seen), receiver.repeats, receiver.inversions) == (5, 1, 0)
        post(receiver, {"id": "log-2", "sender": "ann", "app": "102"})
        post(receiver, {"id": "log-0", "sender": "ann", "app": "102"})
        assert receiver.inversions == 1
        assert [event.user for event in receiver.wait("message", 7)] == ["ann", "ann", "bob", *["ann"] * 4]
        receiver.control("kill")
        with pytest.raises(RemoteDisconnected):
            post(receiver, {"id": "log-9", "sender": "ann"})
        assert len(receiver.seen) == 7
    finally:
        receiver.close()
