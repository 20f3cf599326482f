"""What waits to be told: order, batches, repeats with pauses, bounds, and what
is lost at the end."""

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from imserver.backends.webhooks import requests as module
from imserver.backends.webhooks.requests import (
    LastAnswers,
    Receiver,
    WebhookCounts,
    WebhookQueue,
)
from imserver.gateway.transport.outgoing import Outgoing, Unreachable
from tests.backends.webhooks.conftest import Pauses
from tests.gateway.core.back_end import REFUSED, BackEnd
from tests.gateway.transport.harness import turn, until

EVENTS = frozenset({"login"})


class One:
    """A queue, its back end, its tally."""

    def __init__(self) -> None:
        self.back_end = BackEnd()
        self.tally = WebhookCounts()
        self.queue = self.another("101")

    def another(self, app: str) -> WebhookQueue:
        receiver = Receiver(app, f"http://{app}/", b"secret", EVENTS)
        return WebhookQueue(receiver, self.back_end, self.tally, LastAnswers())  # type: ignore[arg-type]

    def add(self, *numbers: int, queue: WebhookQueue | None = None) -> None:
        for number in numbers:
            (queue or self.queue).add(b'{"n":%d}' % number)

    def received(self) -> list[int]:
        return [event["n"] for event in self.back_end.events]

    def finish(self) -> None:
        until(lambda: not self.queue.consumer.is_busy)


@pytest.fixture
def one() -> Iterator[One]:
    result = One()
    yield result
    result.back_end.open.set()
    result.queue.stop()


@pytest.fixture
def sleeper(one: One, pauses: Pauses) -> Pauses:
    pauses.of(one.queue.consumer)
    return pauses


def test_events_are_sent_in_their_order_and_together(one: One) -> None:
    one.add(*range(250))
    one.finish()
    assert one.received() == list(range(250))
    assert [len(post.json["events"]) for post in one.back_end.posts] == [100, 100, 50]
    assert (
        one.tally.delivered.total(),
        one.tally.waiting.total(),
        one.tally.waiting_bytes,
    ) == (250, 0, 0)


def test_a_batch_is_bounded_in_bytes_but_for_a_single_event(one: One) -> None:
    big = b'"%b"' % (b"x" * (module.BATCH_BYTES - 10))
    for event in (big, big, b'"%b"' % (b"y" * module.BATCH_BYTES), b"1"):
        one.queue.add(event)
    one.finish()
    assert [len(post.json["events"]) for post in one.back_end.posts] == [1, 1, 1, 1]


def test_what_fails_is_sent_again_unchanged_and_before_what_comes_later(
    one: One, sleeper: Pauses
) -> None:
    answers: list[Any] = ["no route", (500, b""), (302, b""), (404, b""), (204, b"")]
    one.back_end.reply = lambda _: answers.pop(0) if answers else (200, b"")
    one.add(1)
    turn()
    one.add(2)
    one.finish()
    assert one.received() == [1, 1, 1, 1, 1, 2]
    assert len({post.delivery for post in one.back_end.posts[:5]}) == 1
    assert len({post.body for post in one.back_end.posts[:5]}) == 1
    assert one.back_end.posts[5].delivery != one.back_end.posts[0].delivery
    assert (
        one.tally.delivered.total(),
        one.tally.failures.total(),
        one.tally.dropped.total(),
    ) == (2, 4, 0)


def test_a_back_end_that_refuses_connections_is_tried_every_two_seconds(
    one: One, sleeper: Pauses
) -> None:
    answers = [*[REFUSED] * 20, *["away"] * 8]
    one.back_end.reply = lambda _: answers.pop(0) if answers else (200, b"")
    one.add(1)
    one.finish()
    assert max(sleeper.seconds[:20]) <= 2
    assert max(sleeper.seconds[20:]) > 2, "another fault"
    assert one.received()[-1] == 1


def test_a_batch_that_is_never_taken_is_dropped_logged_and_counted(
    one: One, sleeper: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    one.back_end.reply = lambda post: (
        (200, b"") if post.json["events"][0]["n"] == 2 else "away"
    )
    one.add(1)
    turn()
    one.add(2)
    with caplog.at_level(logging.WARNING):
        one.finish()
    assert one.received()[-1] == 2
    assert one.received().count(1) == one.tally.failures.total() > 5
    assert (one.tally.delivered.total(), one.tally.dropped.total()) == (1, 1)
    assert sum(sleeper.seconds) >= module.REPEAT_SECONDS
    assert "1 events were dropped" in caplog.text
    assert "101" in caplog.text
    assert "away" in caplog.text


def test_of_too_many_the_oldest_are_dropped(
    one: One, caplog: pytest.LogCaptureFixture
) -> None:
    most = module.MAX_EVENTS
    one.back_end.open.clear()
    one.add(0)
    until(lambda: one.back_end.posts)
    with caplog.at_level(logging.WARNING):
        one.add(*range(1, most + 5))
    assert one.tally.waiting.total() == most
    one.back_end.open.set()
    one.finish()
    assert one.received() == [0, *range(5, most + 5)]
    assert (one.tally.delivered.total(), one.tally.dropped.total()) == (most + 1, 4)
    assert "dropped" in caplog.text


def test_what_waits_of_all_apps_is_bounded_in_bytes(
    one: One, small_limits: None
) -> None:
    one.back_end.open.clear()
    other = one.another("102")
    one.add(0)
    one.add(0, queue=other)
    until(lambda: len(one.back_end.posts) == 2)
    one.add(*range(1, 9))
    assert one.tally.waiting_bytes <= 50
    dropped = one.tally.dropped.total()
    one.add(1, queue=other)
    assert one.tally.dropped.total() == dropped + 1, (
        "the other app has nothing of its own to give way"
    )
    assert one.tally.waiting_bytes <= 50
    one.back_end.open.set()
    one.finish()
    other.stop()
    assert one.tally.waiting_bytes == 0


def test_another_receiver_gets_what_is_sent_from_then_on(one: One) -> None:
    one.back_end.open.clear()
    one.add(1)
    until(lambda: one.back_end.posts)
    one.add(2)
    one.queue.receiver = Receiver("101", "http://new/", b"new", EVENTS)
    one.back_end.open.set()
    one.finish()
    assert [(post.url, post.secret) for post in one.back_end.posts] == [
        ("http://101/", b"secret"),
        ("http://new/", b"new"),
    ]


def test_what_is_left_at_the_end_is_counted_as_dropped(
    one: One, caplog: pytest.LogCaptureFixture
) -> None:
    one.back_end.open.clear()
    one.add(1)
    until(lambda: one.back_end.posts)
    one.add(2, 3)
    with caplog.at_level(logging.WARNING):
        one.queue.stop()
    assert not one.queue.consumer.is_busy
    assert (
        one.tally.dropped.total(),
        one.tally.waiting.total(),
        one.tally.waiting_bytes,
    ) == (3, 0, 0)
    assert "3 events were dropped: the node stops" in caplog.text


def test_the_error_says_whether_the_connection_was_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host, port = unused.getsockname()
        with pytest.raises(Unreachable) as fault:
            Outgoing().get(f"http://{host}:{port}/", 60)
        assert fault.value.is_refused
    with pytest.raises(Unreachable) as fault:
        Outgoing().get("no address", 60)
    assert not fault.value.is_refused
