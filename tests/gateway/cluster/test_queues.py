"""Queues, batches and numbers, without sockets."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.gateway.cluster.rpc.counters import RpcCounters
from imserver.gateway.cluster.rpc.peer import BATCH_BYTES, BATCH_ITEMS, ITEM_BYTES, SendQueue
from imserver.gateway.cluster.rpc.server import LIVES, SequenceTracker
from imserver.gateway.logging import RateLimitedLog


@pytest.mark.parametrize(
    ("limits", "sizes", "added"),
    [
        ((2, 1000), [1, 1, 1], [True, True, False]),
        ((100, 10), [8, 3, 2, 1], [True, False, True, False]),
        ((100, 100 * ITEM_BYTES), [ITEM_BYTES, ITEM_BYTES + 1], [True, False]),  # no receiver would take it
    ],
)
def test_a_queue_is_bounded(limits: tuple[int, int], sizes: list[int], added: list[bool]) -> None:
    queue = SendQueue(*limits)
    assert [queue.add(bytes(size)) for size in sizes] == added
    assert queue.bytes == sum(size for size, ok in zip(sizes, added, strict=True) if ok)
    queue.take()
    assert queue.add(bytes(sizes[-1])) == (sizes[-1] <= ITEM_BYTES)


@given(st.lists(st.integers(0, 3 * BATCH_BYTES // 2), max_size=40), st.integers(0, 2500))
def test_batches_keep_the_order_and_their_bounds(sizes: list[int], small: int) -> None:
    items = [bytes(size) for size in sizes] + [b"%d" % number for number in range(small)]
    queue = SendQueue(10_000, 1 << 40)
    for item in items:
        assert queue.add(item)
    batches = []
    while queue.items:
        batches.append(queue.take())
    assert [item for batch in batches for item in batch] == items
    assert queue.bytes == 0
    for batch in batches:
        assert 1 <= len(batch) <= BATCH_ITEMS
        assert len(batch) == 1 or sum(map(len, batch)) <= BATCH_BYTES
    # No batch could have had the first item of the next one, too.
    for batch, following in pairwise(batches):
        assert len(batch) == BATCH_ITEMS or sum(map(len, batch)) + len(following[0]) > BATCH_BYTES


def test_a_batch_that_was_put_back_comes_again_first() -> None:
    queue = SendQueue(10_000, 1 << 30)
    items = [b"%d" % number for number in range(2 * BATCH_ITEMS)]
    for item in items:
        queue.add(item)
    size = queue.bytes
    queue.put_back(queue.take())
    assert queue.bytes == size
    assert queue.take() == items[:BATCH_ITEMS]


def test_clearing_a_queue_says_how_much_was_lost() -> None:
    queue = SendQueue(10, 1000)
    queue.add(b"a")
    queue.add(b"b")
    assert queue.clear() == 2
    assert (queue.bytes, queue.clear()) == (0, 0)


@pytest.mark.parametrize(
    ("batches", "accepted", "counts"),
    [
        ([(7, 1, 3), (7, 4, 1), (7, 5, 10)], [True] * 3, (0, 0, 0)),
        ([(7, 1, 1), (7, 12, 1), (7, 13, 1)], [True] * 3, (1, 10, 0)),
        ([(7, 5, 1), (7, 1, 4), (7, 6, 1)], [True, False, True], (1, 4, 4)),
        ([(7, 1, 100), (8, 1, 1), (7, 101, 1)], [True] * 3, (0, 0, 0)),
    ],
    ids=["no gap", "a gap", "late ones, behind a gap before the first", "two senders"],
)
def test_batches_are_taken_in_their_order_and_gaps_are_counted(
    batches: list[tuple[int, int, int]], accepted: list[bool], counts: tuple[int, int, int]
) -> None:
    counters = RpcCounters()
    incoming = SequenceTracker(counters)
    assert [incoming.accept(*batch) for batch in batches] == accepted
    assert (counters.gaps, counters.lost, counters.late) == counts
    incoming.forget()
    assert incoming.accept(7, 1, 1), "under a new epoch of its own a receiver starts again"


def test_the_senders_remembered_are_bounded_and_those_active_lately_stay() -> None:
    counters = RpcCounters()
    incoming, active = SequenceTracker(counters), 2 * LIVES
    for sender in range(LIVES):
        assert incoming.accept(active, sender + 1, 1)
        assert incoming.accept(sender, 1, 1)
    assert incoming.accept(active, LIVES + 1, 1)
    assert incoming.accept(LIVES - 1, 2, 1)
    assert counters.gaps == 0
    assert incoming.accept(0, 2, 1)
    assert counters.gaps == 1, "the oldest one is forgotten"


def test_a_rate_limited_warning_is_written_at_once_and_then_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    complain = RateLimitedLog(logging.getLogger("test"), "%s was refused", clock=lambda: now)
    for _ in range(3):
        complain("a peer")
    now = 61.0
    complain("another")
    assert [record.getMessage() for record in caplog.records] == [
        "a peer was refused",
        "another was refused (2 more since the last one)",
    ]
