"""Queues, batches, numbers, the circuit breaker, and what a ZeroMQ socket must
not do to its process."""

import logging
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imserver.gateway.cluster.rpc.counters import RpcCounters
from imserver.gateway.cluster.rpc.peer import (
    BASE_SECONDS,
    BATCH_BYTES,
    BATCH_ITEMS,
    CAP_SECONDS,
    ITEM_BYTES,
    Breaker,
    SendQueue,
)
from imserver.gateway.cluster.rpc.server import REMEMBERED_EPOCHS, SequenceTracker
from imserver.gateway.logging import RateLimitedLog
from tests.support import Clock


@pytest.mark.parametrize(
    ("limits", "sizes", "added"),
    [
        ((2, 1000), [1, 1, 1], [True, True, False]),
        ((100, 10), [8, 3, 2, 1], [True, False, True, False]),
        # no receiver would take it
        ((100, 100 * ITEM_BYTES), [ITEM_BYTES, ITEM_BYTES + 1], [True, False]),
    ],
)
def test_a_queue_is_bounded(
    limits: tuple[int, int], sizes: list[int], added: list[bool]
) -> None:
    queue = SendQueue(*limits)
    assert [queue.add(bytes(size)) for size in sizes] == added
    assert queue.bytes == sum(size for size, ok in zip(sizes, added, strict=True) if ok)
    queue.take()
    assert queue.add(bytes(sizes[-1])) == (sizes[-1] <= ITEM_BYTES)


@given(
    st.lists(st.integers(0, 3 * BATCH_BYTES // 2), max_size=40), st.integers(0, 2500)
)
def test_batches_keep_order_and_bounds_also_when_they_are_put_back(
    sizes: list[int], small: int
) -> None:
    items = [bytes(size) for size in sizes] + [
        b"%d" % number for number in range(small)
    ]
    queue = SendQueue(10_000, 1 << 40)
    total = sum(map(len, items))
    for _ in range(2):
        assert all(map(queue.add, items))
        assert (queue.bytes, queue.clear(), queue.bytes) == (total, len(items), 0)
    assert all(map(queue.add, items))
    batches = []
    while queue.items:
        queue.put_back(queue.take())
        assert queue.bytes == total
        batches.append(queue.take())
        total -= sum(map(len, batches[-1]))
    assert [item for batch in batches for item in batch] == items
    assert queue.bytes == 0
    for batch in batches:
        assert 1 <= len(batch) <= BATCH_ITEMS
        assert len(batch) == 1 or sum(map(len, batch)) <= BATCH_BYTES
    # No batch could have had the first item of the next one, too.
    for batch, following in pairwise(batches):
        assert (
            len(batch) == BATCH_ITEMS
            or sum(map(len, batch)) + len(following[0]) > BATCH_BYTES
        )


@pytest.mark.parametrize(
    ("batches", "accepted", "counts"),
    [
        ([(7, 1, 1, 3), (7, 1, 4, 1), (7, 1, 5, 10)], [True] * 3, (0, 0, 0)),
        ([(7, 1, 1, 1), (7, 1, 12, 1), (7, 1, 13, 1)], [True] * 3, (1, 10, 0)),
        ([(7, 1, 5, 1), (7, 1, 1, 4), (7, 1, 6, 1)], [True, False, True], (1, 4, 4)),
        ([(7, 1, 1, 100), (8, 1, 1, 1), (7, 1, 101, 1)], [True] * 3, (0, 0, 0)),
        (
            [(7, 1, 1, 3), (7, 2, 1, 1), (7, 1, 4, 2), (7, 2, 2, 1)],
            [True, True, False, True],
            (0, 0, 2),
        ),
    ],
    ids=[
        "no gap",
        "a gap",
        "late ones, behind a gap before the first",
        "two senders",
        "two own epochs",
    ],
)
def test_batches_are_taken_in_their_order_and_gaps_are_counted(
    batches: list[tuple[int, int, int, int]],
    accepted: list[bool],
    counts: tuple[int, int, int],
) -> None:
    counters = RpcCounters()
    incoming = SequenceTracker(counters)
    assert [incoming.accept(*batch) for batch in batches] == accepted
    assert (counters.gaps, counters.lost, counters.late) == counts


def test_the_senders_remembered_are_bounded_and_those_active_lately_stay() -> None:
    counters = RpcCounters()
    incoming = SequenceTracker(counters)
    active = 2 * REMEMBERED_EPOCHS
    for sender in range(REMEMBERED_EPOCHS):
        assert incoming.accept(active, 1, sender + 1, 1)
        assert incoming.accept(sender, 1, 1, 1)
    assert incoming.accept(active, 1, REMEMBERED_EPOCHS + 1, 1)
    assert incoming.accept(REMEMBERED_EPOCHS - 1, 1, 2, 1)
    assert counters.gaps == 0
    assert incoming.accept(0, 1, 2, 1)
    assert counters.gaps == 1, "the oldest one is forgotten"


def test_a_rate_limited_warning_is_written_at_once_then_each_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    complain = RateLimitedLog(
        logging.getLogger("test"), "%s was refused", clock=lambda: now
    )
    for _ in range(3):
        complain("a peer")
    now = 61.0
    complain("another")
    assert [record.getMessage() for record in caplog.records] == [
        "a peer was refused",
        "another was refused (2 more since the last one)",
    ]


@pytest.mark.parametrize(
    ("threshold", "fail"), [(3, Breaker.failed), (100, Breaker.trip)]
)
def test_it_opens_at_failures_in_a_row_and_each_vain_probe_doubles_the_longest_wait_up_to_the_cap(
    threshold: int, fail: Callable[[Breaker], None]
) -> None:
    clock = Clock()
    limits = list[float]()
    clock.now = 0.0
    breaker = Breaker(
        threshold, clock=clock, uniform=lambda _, high: limits.append(high) or high
    )
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        assert breaker.admits_calls
        assert breaker.allows()
        breaker.succeeded()
    for _ in range(3):
        fail(breaker)
        assert breaker.admits_calls is (fail is Breaker.failed and _ < 2)
    fail(breaker)
    assert (breaker.allows(), breaker.wait_seconds) == (False, BASE_SECONDS)
    assert limits == [BASE_SECONDS], (
        "what fails when it is open does not prolong the wait"
    )
    clock.now += BASE_SECONDS
    assert breaker.wait_seconds == 0
    assert [breaker.allows(), breaker.admits_calls, breaker.allows()] == [
        True,
        False,
        False,
    ], "all wait for a probe"
    for _ in range(60):
        breaker.failed()
        assert not breaker.allows()
        clock.now += CAP_SECONDS
        assert breaker.allows()
    assert limits[:4] == [BASE_SECONDS * 2**n for n in range(4)]
    assert limits[-1] == CAP_SECONDS
    breaker.succeeded()
    assert (breaker.admits_calls, breaker.allows()) == (True, True)
    breaker.trip()
    assert limits[-1] == BASE_SECONDS


def test_waits_of_many_breakers_are_spread() -> None:
    waits = []
    for _ in range(200):
        breaker = Breaker(1, base_seconds=1.0, clock=lambda: 0.0)
        breaker.failed()
        waits.append(breaker.wait_seconds)
    assert all(0 <= wait <= 1 for wait in waits)
    assert min(waits) < 0.2
    assert max(waits) > 0.8


DIALLER = """
import sys
from subprocess import PIPE, Popen
import gevent, zmq
from imserver.gateway.cluster.rpc.wire import ZmqSocket

peer = Popen([sys.executable, "-c", sys.argv[1]], stdout=PIPE, text=True)
dialled = ZmqSocket(zmq.Context(), zmq.DEALER)
dialled.connect(peer.stdout.readline().strip())
while not dialled.writable():
    gevent.sleep(0.01)
dialled.send([b"how are you?"])
assert peer.stdout.readline() == "said\\n"
gevent.sleep(0.2)
peer.kill()
peer.wait()
gevent.sleep(0.5)
print("alive")
"""

PEER = """
import time, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind("tcp://127.0.0.1:*")
print(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\\0").decode(), flush=True)
who, _ = socket.recv_multipart()
for _ in range(400):
    socket.send_multipart([who, b"well"])
print("said", flush=True)
time.sleep(60)
"""


def test_a_peer_that_dies_while_its_answers_are_not_read_costs_nobody_the_process() -> (
    None
):
    done = subprocess.run(
        [sys.executable, "-c", DIALLER, PEER],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
