"""Outboxes: one send a turn, bounds in bytes and in time, and everything in
order."""

import _socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from time import monotonic

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.transport.bulk_permits import BulkPermit, BulkPermits
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.outbox import (
    BULK_CONNECTIONS,
    PIECE_CONNECTIONS,
    SEND_BYTES,
    SLICE_SECONDS,
    Backlog,
)
from imserver.gateway.transport.states import CLOSING
from tests.gateway.transport.harness import (
    MEBIBYTE,
    Client,
    Socket,
    SocketHarness,
    look,
    turn,
    until,
)

SMALL = 4096


@pytest.fixture
def harness() -> Iterator[SocketHarness]:
    with SocketHarness() as one:
        yield one


def sends(connection: Connection) -> list[int]:
    assert isinstance(connection.sock, Socket)
    return connection.sock.sends


def fill(connection: Connection, frames: int = 4000) -> list[bytes]:
    """Send more than the kernel takes of a connection with small buffers; what
    was sent."""
    payloads = [b"%d %s" % (number, b"x" * 100) for number in range(frames)]
    for payload in payloads:
        connection.send(payload)
    turn()
    assert type(connection.outbox) is Backlog
    return payloads


# --- one turn -----------------------------------------------------------------


def test_all_that_one_turn_enqueues_leaves_in_one_send_or_some_of_whole_frames(
    harness: SocketHarness,
) -> None:
    connection, client = harness.connect()
    for number in range(100):
        connection.send(b"%d" % number)
    assert sends(connection) == [], "nothing leaves before the turn ends"
    turn()
    assert sends(connection) == [sum(2 + len(str(number)) for number in range(100))]
    assert client.payloads() == [b"%d" % number for number in range(100)]
    connection.send(b"next")
    turn()
    assert len(sends(connection)) == 2
    connection, client = harness.connect(tcp=True)
    payload = b"x" * 9996
    for _ in range(14):
        connection.send(payload)
    turn()
    assert sends(connection) == [60_000, 60_000, 20_000]
    assert max(sends(connection)) <= SEND_BYTES
    client.expect(14)


def test_what_is_enqueued_first_leaves_first_but_behind_its_earlier_output(
    harness: SocketHarness,
) -> None:
    flusher = harness.flusher
    others = [harness.connect() for _ in range(3)]
    (fresh, fresh_client), (busy, busy_client) = harness.connect(), harness.connect()
    (slow, slow_client) = harness.connect(buffer_bytes=SMALL)
    answer = fresh.encoding.frame(b"answer")
    flusher.enqueue_first(fresh, answer)
    turn()
    assert fresh_client.payloads() == [b"answer"], (
        "with nothing else to write it is written, too"
    )
    sent = fill(slow)
    for connection, _ in others:
        connection.send(b"push")
    busy.send(b"earlier")
    for connection in (busy, fresh, slow):
        flusher.enqueue_first(connection, answer)
    assert flusher.dirty == [fresh, *(connection for connection, _ in others), busy]
    busy_client.expect(2)
    assert busy_client.payloads() == [b"earlier", b"answer"]
    slow_client.expect(len(sent) + 1)
    assert slow_client.payloads() == [*sent, b"answer"]
    for _, client in others:
        client.expect(1)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_whatever_is_enqueued_in_whatever_turns_arrives_in_order(
    data: st.DataObject,
) -> None:
    """Random sends to several connections, some with tiny buffers that are read
    late, over several turns."""
    with SocketHarness(batch=data.draw(st.integers(1, 4))) as harness:
        several = [
            harness.connect(buffer_bytes=data.draw(st.sampled_from([0, SMALL])))
            for _ in range(5)
        ]
        expected: list[list[bytes]] = [[] for _ in several]
        steps = st.tuples(
            st.integers(0, 4),
            st.integers(0, 4),
            st.sampled_from([1, 100, 3000, 70_000]),
            st.integers(0, 2),
        )
        for number, (who, to, size, then) in enumerate(
            data.draw(st.lists(steps, max_size=40))
        ):
            payload = b"%d:" % number + b"x" * size
            for index in {who, to}:
                several[index][0].send(payload)
                expected[index].append(payload)
            if then == 1:
                turn()
            elif then == 2:
                several[who][1].read()
        for (connection, client), row in zip(several, expected, strict=True):
            until(lambda client=client, row=row: len(client.payloads()) >= len(row))
            assert client.payloads() == row
            assert connection.is_open
        until(lambda: harness.budget.total == 0 and not harness.flusher.stalled)


def test_a_broadcast_to_many_lets_the_loop_look_at_its_sockets_in_between() -> None:
    with SocketHarness(batch=10) as harness:
        crowd = [harness.connect() for _ in range(100)]
        written: list[int] = []
        live, client = harness.connect(
            harness.encoding(lambda *_: written.append(written_so_far()))
        )

        def written_so_far() -> int:
            return sum(len(sends(connection)) for connection, _ in crowd)

        for connection, _ in crowd:
            connection.send(b"news")
        client.sock.send(b"\x81\x80\0\0\0\0")
        until(lambda: written)
        assert written[0] < 100, "served before everybody was written to"
        until(lambda: written_so_far() == 100)
        assert live.is_open


def broadcast(
    harness: SocketHarness, connections: list[Connection], payload: bytes
) -> None:
    """What fan-out does for an app with very many users."""
    flusher = harness.flusher
    for connection in connections:
        if connection.outbox is None:
            connection.outbox = []
            flusher.bulk.append(connection)
        assert isinstance(connection.outbox, list)
        connection.outbox.append(connection.encoding.frame(payload))
    flusher.filled(len(connections))
    flusher.schedule()


def test_what_is_sent_to_one_goes_before_a_broadcast_that_waits_and_behind_it_in_its_own_outbox() -> (
    None
):
    with SocketHarness(batch=4) as harness:
        several = [harness.connect() for _ in range(40)]
        lone, lone_client = harness.connect()
        broadcast(harness, [connection for connection, _ in several], b"to all")
        last, last_client = several[-1]
        last.send(b"to one")
        lone.send(b"to another")
        turn()
        assert lone_client.payloads() == [b"to another"]
        assert last_client.payloads() == [b"to all", b"to one"]
        assert harness.flusher.bulk, "most of the broadcast still waits"
        for _, client in several[:-1]:
            client.expect(1)
            assert client.payloads() == [b"to all"]
        assert not harness.flusher.bulk


def test_a_broadcast_waits_for_its_permit_and_what_is_sent_to_one_does_not() -> None:
    with SocketHarness() as harness, ExitStack() as stack:
        permits = stack.enter_context(closing(BulkPermits(1, 600.0)))

        def permit(granted: Callable[[], object]) -> BulkPermit:
            line = stack.enter_context(permits.line())
            assert line is not None
            return stack.enter_context(
                closing(BulkPermit(line, harness.loop, granted, 600.0, 600.0, 600.0))
            )

        def serve() -> None:
            permits.wait(line.fileno(), 0.0)
            look()

        line = stack.enter_context(closing(_socket.socket()))
        holder = permit(list)
        harness.flusher.permit = permit(harness.flusher.schedule)
        until(lambda: serve() or holder.request())
        several = [harness.connect() for _ in range(40)]
        (last, last_client), (lone, lone_client) = several[-1], harness.connect()
        broadcast(harness, [connection for connection, _ in several], b"to all")
        lone.send(b"to another")
        lone_client.expect(1)
        serve()
        last.send(b"to one")
        last_client.expect(2)
        assert last_client.payloads() == [b"to all", b"to one"]
        assert [client.payloads() for _, client in several[:-1]] == [[]] * 39
        holder.release()
        until(
            lambda: (
                serve()
                or all(client.payloads() == [b"to all"] for _, client in several[:-1])
            )
        )
        until(lambda: serve() or holder.request())


def two_pieces_a_slice(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let the time of a slice end with its second piece. Returns the number of
    connections in both."""
    times = count(1000.0, SLICE_SECONDS * 0.6)
    monkeypatch.setattr(
        "imserver.gateway.transport.outbox.monotonic", lambda: next(times)
    )
    return 2 * PIECE_CONNECTIONS


def test_a_slice_ends_with_its_time_and_others_are_served_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = two_pieces_a_slice(monkeypatch)
    with SocketHarness(batch=100_000) as harness:
        crowd = [harness.connect() for _ in range(4 * size)]

        def written() -> int:
            return sum(len(sends(connection)) for connection, _ in crowd)

        def answer(connection: Connection, payload: bytes, _text: bool) -> None:
            seen.append(written())
            connection.send(payload)

        seen: list[int] = []
        _, other = harness.connect(harness.encoding(answer))
        broadcast(harness, [connection for connection, _ in crowd], b"to all")
        other.sock.send(b"\x81\x80\0\0\0\0")
        other.expect(1)
        assert seen[0] in (size, 2 * size), (
            "one slice, or one more before the loop looks at its sockets"
        )
        for _, client in crowd:
            client.expect(1)


def test_an_unfinished_broadcast_is_not_overtaken_and_skips_the_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = two_pieces_a_slice(monkeypatch)
    with SocketHarness(batch=100_000) as harness:
        crowd = [harness.connect() for _ in range(3 * size)]
        everybody = [connection for connection, _ in crowd]
        broadcast(harness, everybody, b"first")
        turn()
        assert harness.flusher.bulk, "most of it still waits"
        (lost, gone), (closed, leaving), (pushed, receiver) = crowd[-3:]
        lost.lost()
        pushed.send(b"push")
        closed.close(4000)
        newcomer, late = harness.connect()
        broadcast(harness, [*everybody[:-3], pushed, newcomer], b"second")
        pushed.send(b"another")
        until(lambda: not harness.flusher.bulk)
        assert (gone.payloads(), gone.ended) == ([], True)
        assert leaving.close_code() == 4000
        assert leaving.payloads() == [b"first"]
        assert receiver.payloads() == [b"first", b"push", b"second", b"another"]
        assert late.payloads() == [b"second"]
        for _, client in crowd[:-3]:
            assert client.payloads() == [b"first", b"second"]


def test_broadcasts_that_never_cease_take_no_more_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = two_pieces_a_slice(monkeypatch)
    with SocketHarness(batch=100_000) as harness:
        crowd = [harness.connect() for _ in range(3 * size)]
        everybody = [connection for connection, _ in crowd]
        lengths: list[int] = []

        def once_more() -> None:
            broadcast(harness, everybody, b"to all")
            lengths.append(len(harness.flusher.bulk))
            if len(lengths) < 30:
                harness.flusher.call_before_flush(once_more)

        once_more()
        for _, client in crowd:
            client.expect(30)
        assert min(lengths) >= len(crowd), (
            "some of the last one waits whenever the next one comes"
        )
        assert max(lengths) <= 2 * len(crowd) + size


def test_a_broadcast_goes_on_while_single_ones_never_cease_and_is_drained_when_few_wait() -> (
    None
):
    with SocketHarness(batch=4) as harness:
        several = [harness.connect() for _ in range(40)]
        busy, _ = harness.connect()
        broadcast(harness, [connection for connection, _ in several], b"to all")
        for _ in range(40):
            busy.send(b"more")
            look()
        assert not harness.flusher.bulk
        for _, client in several:
            assert client.payloads() == [b"to all"]
    with SocketHarness() as harness:
        connection, _ = harness.connect()
        before = harness.flusher.bulk_filled
        assert harness.flusher.drained(before)
        harness.flusher.bulk += [connection] * (BULK_CONNECTIONS + 1)
        harness.flusher.filled(BULK_CONNECTIONS + 1)
        assert not harness.flusher.drained(before)
        assert gevent.spawn(harness.flusher.drained, before).get(), (
            "another greenlet has sent nothing to many"
        )
        assert harness.flusher.drained(harness.flusher.bulk_filled), (
            "nothing was sent to many since then"
        )
        harness.flusher.schedule()
        until(lambda: harness.flusher.drained(before))


def test_what_the_kernel_does_not_take_waits_and_leaves_in_order_when_it_does(
    harness: SocketHarness,
) -> None:
    connection, client = harness.connect(buffer_bytes=SMALL)
    payloads = fill(connection)
    connection.send(b"behind the backlog")
    turn()
    assert harness.flusher.stalled == {connection}
    assert 0 < harness.budget.total == connection.held_bytes()
    until(lambda: len(client.payloads()) == len(payloads) + 1)
    assert client.payloads() == [*payloads, b"behind the backlog"]
    until(lambda: connection.outbox is None)
    assert (harness.flusher.stalled, harness.budget.total, harness.budget.sizes) == (
        set(),
        0,
        {},
    )
    assert max(sends(connection)) <= SEND_BYTES
    connection, _ = harness.connect(buffer_bytes=SMALL)
    fill(connection)
    look()
    before = len(sends(connection))
    for _ in range(20):
        look()
    assert len(sends(connection)) == before


# --- slow readers -------------------------------------------------------------


def test_a_backlog_above_its_bound_closes_the_slow_reader_and_nobody_else() -> None:
    with SocketHarness(outbox_bytes=100_000) as harness:
        slow, client = harness.connect(buffer_bytes=SMALL)
        quick, other = harness.connect()
        for connection in (slow, quick):
            fill_with(connection, 90_000)
        turn()
        until(lambda: len(other.payloads()) == 90)
        assert slow.is_open
        for connection in (slow, quick):
            fill_with(connection, 60_000)
        turn()
        assert harness.ended == [(slow, 4000)]
        assert harness.flusher.slow_readers == 1
        assert client.close_code() == 4000
        until(lambda: len(other.payloads()) == 150)
        assert quick.is_open


def test_a_backlog_that_does_not_move_for_too_long_closes_its_reader() -> None:
    with SocketHarness(outbox_seconds=30, close_seconds=5) as harness:
        stuck, client = harness.connect(buffer_bytes=SMALL)
        slow, other = harness.connect(buffer_bytes=SMALL)
        idle, _ = harness.connect()
        payloads = fill(stuck)
        assert fill(slow) == payloads
        harness.flusher.expire()
        assert not harness.ended
        for connection in (stuck, slow):
            assert isinstance(connection.outbox, Backlog)
            connection.outbox.progress_at -= 31
        began = monotonic()
        until(
            lambda: other.read() and getattr(slow.outbox, "progress_at", began) >= began
        )
        harness.flusher.expire()
        harness.flusher.expire()
        assert harness.ended == [(stuck, 4000)]
        assert (stuck.state, harness.flusher.slow_readers) == (CLOSING, 1), (
            "it has time to read why"
        )
        assert client.close_code() == 4000
        until(lambda: len(other.payloads()) == len(payloads))
        assert (slow.is_open, idle.is_open) == (True, True)


def fill_with(connection: Connection, size: int) -> None:
    """Send so many bytes in messages of 1,000."""
    for _ in range(size // 1000):
        connection.send(b"x" * 996)


def test_one_turn_may_enqueue_more_than_the_bound_to_a_reader_who_reads() -> None:
    with SocketHarness(outbox_bytes=50_000) as harness:
        connection, client = harness.connect(tcp=True)
        fill_with(connection, 200_000)
        client.expect(200)
        slow, _ = harness.connect(buffer_bytes=SMALL)
        fill_with(slow, 40_000)
        turn()
        fill_with(slow, 200_000)
        assert (connection.is_open, slow.is_open) == (True, True), (
            "nobody is closed in the middle of a fan-out"
        )
        turn()
        assert harness.ended == [(slow, 4000)]


def backlogs(harness: SocketHarness, *sizes: int) -> list[tuple[Connection, Client]]:
    """Slow readers with backlogs of about these sizes."""
    several = []
    for size in sizes:
        connection, client = harness.connect(buffer_bytes=SMALL)
        fill_with(connection, size)
        several.append((connection, client))
    turn()
    turn()
    return several


def test_past_the_nodes_budget_the_largest_holder_is_closed_first() -> None:
    with SocketHarness(node_bytes=500_000) as harness:
        (a, _), (b, _), (c, _) = backlogs(harness, 100_000, 300_000, 50_000)
        assert not harness.ended
        (d, _), *_ = backlogs(harness, 200_000)
        assert harness.ended == [(b, 4000)]
        assert harness.flusher.slow_readers == 1
        assert [one.is_open for one in (a, c, d)] == [True] * 3
        assert harness.budget.total == sum(harness.budget.sizes.values()) <= 500_000
    with SocketHarness(node_bytes=100_000) as harness:
        reader, _ = backlogs(harness, 40_000)[0]
        sender, client = harness.connect(harness.encoding(limit=MEBIBYTE))
        client.send(
            b"\x82\xff" + (200_000).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 90_000
        )
        until(lambda: harness.ended)
        assert harness.ended == [(sender, 4000)]
        assert reader.is_open


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(2_000, 60_000), min_size=1, max_size=6),
    reads=st.lists(st.integers(0, 5), max_size=6),
)
def test_the_budget_is_the_sum_of_what_is_held_at_any_time(
    sizes: list[int], reads: list[int]
) -> None:
    with SocketHarness(node_bytes=150_000, outbox_bytes=50_000) as harness:
        several = backlogs(harness, *sizes)
        for index in reads:
            connection, client = several[index % len(several)]
            client.read()
            look()
            if connection.is_open:
                connection.send(b"more" * 100)
            turn()
            assert harness.budget.total == sum(harness.budget.sizes.values()) <= 150_000
            assert all(
                one.held_bytes() == size for one, size in harness.budget.sizes.items()
            )
        until(
            lambda: (
                [client.read() for _, client in several] and not harness.budget.sizes
            )
        )
        assert harness.budget.total == 0
