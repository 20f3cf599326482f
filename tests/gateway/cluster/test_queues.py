"""Queues, batches and numbers, without sockets."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.gateway.cluster.rpc import server
from imserver.gateway.cluster.rpc.counters import RpcCounters
from imserver.gateway.cluster.rpc.peer import BATCH_BYTES, BATCH_ITEMS, ITEM_BYTES, SendQueue
from imserver.gateway.cluster.rpc.server import SequenceTracker
from imserver.gateway.logging import RateLimitedLog


def test_a_queue_is_bounded_in_items() -> None:
    queue = SendQueue(2, 1000)
    assert queue.add(b"a")
    assert queue.add(b"b")
    assert not queue.add(b"c")
    assert queue.take() == [b"a", b"b"]
    assert queue.add(b"c")


def test_a_queue_is_bounded_in_bytes() -> None:
    queue = SendQueue(100, 10)
    assert queue.add(b"12345678")
    assert not queue.add(b"123")
    assert queue.add(b"12")
    assert not queue.add(b"1")
    assert queue.bytes == 10


def test_an_item_that_no_receiver_would_take_is_refused_at_once() -> None:
    queue = SendQueue(100, 100 * ITEM_BYTES)
    assert queue.add(bytes(ITEM_BYTES))
    assert not queue.add(bytes(ITEM_BYTES + 1))


def test_an_item_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    queue = SendQueue(100, 100 * ITEM_BYTES)
    items = [b"a", bytes(BATCH_BYTES + 1), b"b"]
    for item in items:
        queue.add(item)
    assert [queue.take() for _ in items] == [[item] for item in items]


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


@pytest.fixture
def counters() -> RpcCounters:
    return RpcCounters()


def test_consecutive_batches_leave_no_gap(counters: RpcCounters) -> None:
    incoming = SequenceTracker(counters)
    assert incoming.accept(7, 1, 3)
    assert incoming.accept(7, 4, 1)
    assert incoming.accept(7, 5, 10)
    assert (counters.gaps, counters.lost, counters.late) == (0, 0, 0)


def test_a_gap_is_counted_with_what_it_swallowed_and_delivery_goes_on(counters: RpcCounters) -> None:
    incoming = SequenceTracker(counters)
    assert incoming.accept(7, 1, 1)
    assert incoming.accept(7, 12, 1)
    assert incoming.accept(7, 13, 1)
    assert (counters.gaps, counters.lost) == (1, 10)


def test_what_was_lost_before_a_senders_first_batch_counts(counters: RpcCounters) -> None:
    assert SequenceTracker(counters).accept(7, 5, 1)
    assert (counters.gaps, counters.lost) == (1, 4)


def test_late_batches_are_not_delivered(counters: RpcCounters) -> None:
    incoming = SequenceTracker(counters)
    assert incoming.accept(7, 5, 1)
    assert not incoming.accept(7, 1, 4)
    assert incoming.accept(7, 6, 1)
    assert counters.late == 4


def test_senders_are_distinguished_by_their_epoch(counters: RpcCounters) -> None:
    incoming = SequenceTracker(counters)
    assert incoming.accept(7, 1, 100)
    assert incoming.accept(8, 1, 1)
    assert incoming.accept(7, 101, 1)
    assert (counters.gaps, counters.late) == (0, 0)


def test_under_a_new_epoch_of_its_own_a_receiver_starts_again(counters: RpcCounters) -> None:
    incoming = SequenceTracker(counters)
    assert incoming.accept(7, 1, 100)
    incoming.forget()
    assert incoming.accept(7, 1, 1)
    assert (counters.gaps, counters.late) == (0, 0)


def test_the_senders_remembered_are_bounded_and_those_active_lately_stay(
    counters: RpcCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIVES", 10)
    incoming = SequenceTracker(counters)
    for sender in range(100):
        assert incoming.accept(1000, sender + 1, 1)
        assert incoming.accept(sender, 1, 1)
    assert (counters.gaps, counters.late) == (0, 0)
    assert len(incoming._next) <= 10


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
