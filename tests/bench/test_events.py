"""The scenario events: its figures against a real server, and that its receiver misses nothing."""

import json
from http.client import RemoteDisconnected
from typing import Any
from urllib.request import urlopen

import pytest

from bench.events import EventReceiver
from tests.bench.play import found

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


@pytest.mark.full
def test_events() -> None:
    report = found(
        "events", "--members", "4", "--rate", "50", "--seconds", "1", "--absent", "5", "--delay", "0"
    )
    figures = report["figures"]
    assert figures["messages"] == figures["events"] == 50
    assert figures["events_lost"] == figures["events_inverted"] == figures["absent_lost"] == 0
    assert figures["plain_cpu_us"] > 0
    assert figures["events_cpu_us"] > 0
    assert 0 < figures["event_p50_ms"] <= figures["event_p99_ms"] <= figures["event_max_ms"]
    assert 0 < figures["absent_p50_ms"] <= figures["absent_max_ms"]
