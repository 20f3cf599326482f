"""The pool of readers, on epoll and on a watcher a socket: the same promises,
by the same tests."""

import _socket
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag
from gevent.hub import get_hub

from imserver.gateway.node.http_servers import echo
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.outbox import Backlog
from imserver.gateway.transport.poller import NO_SOCKET, EpollPoller, Poller
from tests.gateway.transport.harness import (
    POLLERS,
    SocketHarness,
    look,
    turn,
    until,
    waiting,
)
from tests.integration.raw import text
from tests.integration.setting import open_files
from tests.support import run_python

SPINNING_TURNS = 200
"""A loop that turns so often in a twentieth of a second waits for nothing."""


class Spy:
    """Something parked: one end of a pair of sockets. ``act`` is what serving
    it does."""

    def __init__(
        self,
        poller: Poller,
        act: Callable[["Spy"], None] | None = None,
        pair: tuple[_socket.socket, _socket.socket] | None = None,
    ) -> None:
        self.poller = poller
        self.sock, self.far = pair or _socket.socketpair()
        self.sock.setblocking(False)
        self.far.setblocking(False)
        self.fd = self.sock.fileno()
        self.reading = self.masked = False
        self.interest = 0
        self.act = act
        self.read: list[bytes] = []
        self.writable = 0
        self.ended = False

    def on_readable(self) -> None:
        data = self.sock.recv(100)
        if not data:
            self.lost()
            return
        self.read.append(data)
        if self.act is not None:
            self.act(self)

    def on_writable(self) -> None:
        self.writable += 1

    def lost(self) -> None:
        self.ended = True
        self.poller.remove(self)
        self.sock.close()


class Lot:
    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.spies: list[Spy] = []

    def park(self, act: Callable[[Spy], None] | None = None) -> Spy:
        spy = Spy(self.poller, act)
        self.spies.append(spy)
        self.poller.add(spy)
        return spy

    def take_over(self, old: Spy) -> Spy:
        """Have another object own the socket of ``old``."""
        new = Spy(self.poller, pair=(old.sock, old.far))
        old.sock = NO_SOCKET
        self.spies.append(new)
        self.poller.take(new)
        return new


@pytest.fixture(params=POLLERS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def lot(kind: Any) -> Iterator[Lot]:
    one = Lot(kind(get_hub().loop, 4))
    yield one
    for spy in one.spies:
        one.poller.remove(spy)
        spy.sock.close()
        spy.far.close()
    one.poller.close()


def turns_of_the_loop(seconds: float = 0.05) -> int:
    """How often the loop turns while the test only waits."""
    count = 0

    def turned() -> None:
        nonlocal count
        count += 1

    watcher = get_hub().loop.prepare()
    watcher.start(turned)
    gevent.sleep(seconds)
    watcher.stop()
    watcher.close()
    return count


# --- serving ------------------------------------------------------------------


def test_a_reader_serves_everybody_unless_it_blocks_and_is_replaced(lot: Lot) -> None:
    spies = [lot.park() for _ in range(50)]
    other = lot.park()
    for _ in range(3):
        for spy in spies:
            spy.far.send(b"x")
        until(lambda: all(spy.read for spy in spies))
        for spy in spies:
            spy.read.clear()
    assert (lot.poller.count, other.read) == (1, [])
    assert turns_of_the_loop() < SPINNING_TURNS
    go = Flag()
    blocked = [lot.park(lambda _: go.wait()) for _ in range(20)]
    live = lot.park()
    for spy in blocked:
        spy.far.send(b"x")
    until(lambda: all(spy.read for spy in blocked))
    live.far.send(b"x")
    until(lambda: live.read)
    assert lot.poller.count == 21
    assert turns_of_the_loop() < SPINNING_TURNS
    go.set()
    until(lambda: lot.poller.count == 4)
    live.far.send(b"y")
    until(lambda: len(live.read) == 2)


def test_commands_that_block_begin_in_the_same_turn_as_far_as_there_are_readers(
    lot: Lot,
) -> None:
    go, turns, begun = Flag(), 0, list[int]()

    def turned() -> None:
        nonlocal turns
        turns += 1

    def block(_: Spy) -> None:
        begun.append(turns)
        go.wait()

    def all_blocked() -> bool:
        return len(begun) == 4

    watcher = get_hub().loop.prepare()
    watcher.start(turned)
    spies = [lot.park(block) for _ in range(4)]
    for _ in range(2):  # the first time, the readers are made
        begun.clear()
        for spy in spies:
            spy.far.send(b"x")
        until(all_blocked)
        go.set()
        until(lambda: not any(spy.reading for spy in spies))
        go.clear()
    watcher.stop()
    watcher.close()
    assert len(set(begun)) == 1


def test_what_raises_is_logged_and_the_pool_lives_on(
    lot: Lot, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_spy: Spy) -> None:
        raise RuntimeError("a defect")

    class Worse(Spy):
        def lost(self) -> None:
            fail(self)

    bad = lot.park(fail)
    worse = Worse(lot.poller, fail)
    good = lot.park()
    lot.spies.append(worse)
    lot.poller.add(worse)
    with caplog.at_level(logging.ERROR):
        bad.far.send(b"x")
        worse.far.send(b"x")
        until(lambda: bad.ended and worse.read)
        lot.poller.remove(worse)
    good.far.send(b"x")
    until(lambda: good.read)
    assert lot.poller.count == 1
    assert caplog.text.count("a defect") >= 2


def test_what_comes_while_a_command_blocks_waits_for_it_and_turns_no_loop(
    lot: Lot,
) -> None:
    order: list[str] = []
    go = Flag()

    def slow(spy: Spy) -> None:
        order.append(f"begin {spy.read[-1].decode()}")
        go.wait()
        order.append(f"end {spy.read[-1].decode()}")

    spy = lot.park(slow)
    spy.far.send(b"1")
    until(lambda: order)
    spy.far.send(b"2")
    assert turns_of_the_loop() < SPINNING_TURNS
    assert order == ["begin 1"]
    go.set()
    until(lambda: len(order) == 4)
    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


def test_peers_that_go_before_or_while_their_commands_block_turn_no_loop_and_are_closed(
    kind: Any,
) -> None:
    go, served, slow = waiting()
    with SocketHarness(poller=kind) as harness:
        clients = [
            harness.connect(harness.encoding(slow), tcp=True)[1] for _ in range(30)
        ]
        for number, client in enumerate(clients):
            client.send(text("x"))
            if number % 3 == 0:
                client.hang_up()
        until(lambda: len(served) == 30)
        for number, client in enumerate(clients):
            if number % 3:
                (client.hang_up if number % 3 == 1 else client.reset)()
        look()
        assert turns_of_the_loop() < SPINNING_TURNS
        assert not harness.poller.ready
        assert not harness.ended
        go.set()
        until(lambda: len(harness.ended) == 30)


def test_a_crowd_that_vanishes_at_once_does_not_delay_a_live_one(kind: Any) -> None:
    count = min(2000, open_files(4000) // 2)
    with SocketHarness(poller=kind) as harness:
        crowd = [harness.connect() for _ in range(count)]
        _, live = harness.connect(harness.encoding(echo))
        turn()
        for _, client in crowd:
            client.hang_up()
        live.send(text("still here"))
        live.expect(1)
        gone = len(harness.ended)
        until(lambda: len(harness.ended) == count)
        if kind is EpollPoller:
            assert gone < count / 4, "the live one was served among the first"
        assert {code for _, code in harness.ended} == {1006}
        assert len(harness.context.connections) == 1
        assert turns_of_the_loop() < SPINNING_TURNS


@pytest.mark.parametrize(
    "end", [_socket.socket.close, lambda sock: sock.shutdown(_socket.SHUT_WR)]
)
def test_what_was_sent_before_the_end_is_served(
    lot: Lot, end: Callable[[_socket.socket], object]
) -> None:
    spy = lot.park()
    spy.far.send(b"x" * 350)
    end(spy.far)
    until(lambda: spy.ended)
    assert [len(data) for data in spy.read] == [100, 100, 100, 50]


# --- writing ------------------------------------------------------------------


def test_writability_is_reported_when_asked_for_and_a_paused_socket_waits(
    lot: Lot,
) -> None:
    spy = lot.park()
    look()
    assert spy.writable == 0
    lot.poller.watch_writable(spy, True)
    until(lambda: spy.writable)
    lot.poller.watch_writable(spy, False)
    count = spy.writable
    spy.far.send(b"x")
    until(lambda: spy.read)
    look()
    assert spy.writable == count
    spy = lot.park()
    other = lot.park()
    lot.poller.pause(spy, True)
    spy.far.send(b"x")
    other.far.send(b"x")
    until(lambda: other.read)
    assert turns_of_the_loop() < SPINNING_TURNS
    assert not spy.read
    lot.poller.pause(spy, False)
    until(lambda: spy.read)


def stall(connection: Connection) -> None:
    for _ in range(2000):
        connection.send(b"x" * 100)
    turn()
    assert type(connection.outbox) is Backlog


@pytest.mark.parametrize(
    "then", ["while its command blocks", "after it", "while it is masked"]
)
def test_a_backlog_is_written_on_although_the_client_sent_something(
    kind: Any, then: str
) -> None:
    go, served, slow = waiting()
    with SocketHarness(poller=kind) as harness:
        connection, client = harness.connect(harness.encoding(slow), buffer_bytes=4096)
        client.send(text("1"))
        until(lambda: served)
        if then != "while it is masked":
            stall(connection)
        client.send(text("2"))
        look()
        if then == "while it is masked":
            stall(connection)
        elif then == "after it":
            go.set()
            until(lambda: len(served) == 2)
        until(lambda: len(client.payloads()) == 2000)
        until(lambda: connection.outbox is None)
        go.set()
        until(lambda: len(served) == 2)
        assert turns_of_the_loop() < SPINNING_TURNS


def test_a_backlog_of_a_client_that_ended_its_half_is_written_to_its_end_or_given_up(
    kind: Any,
) -> None:
    """Whichever comes first; but nothing is left behind, and no loop turns for
    it."""
    with SocketHarness(poller=kind) as harness:
        connection, client = harness.connect(buffer_bytes=4096)
        stall(connection)
        client.sock.shutdown(_socket.SHUT_WR)
        until(lambda: client.read() is not None and harness.ended)
        assert harness.budget.total == 0
        assert not harness.flusher.stalled
        assert turns_of_the_loop() < SPINNING_TURNS


# --- who is watched -----------------------------------------------------------


def test_nobody_is_served_after_the_poller_and_who_ends_then_changes_nothing(
    kind: Any,
) -> None:
    poller = kind(get_hub().loop, 4)
    spy = Spy(poller)
    poller.add(spy)
    poller.close()
    spy.far.send(b"x")
    look()
    assert not spy.read
    poller.mask(spy)
    poller.unmask(spy)
    poller.watch_writable(spy, True)
    poller.remove(spy)
    spy.sock.close()
    spy.far.close()


def test_a_number_used_again_belongs_to_its_new_socket(lot: Lot) -> None:
    old = lot.park()
    lot.poller.remove(old)
    old.sock.close()
    new = lot.park()
    assert new.fd == old.fd
    lot.poller.remove(old)
    new.far.send(b"x")
    until(lambda: new.read)
    assert not old.read


def test_a_socket_can_be_taken_over_while_the_old_object_is_served_and_masked(
    lot: Lot,
) -> None:
    go = Flag()
    old = lot.park(lambda _: go.wait())
    old.far.send(b"1")
    until(lambda: old.read)
    old.far.send(b"2")
    look()
    assert old.masked
    new = lot.take_over(old)
    lot.poller.remove(old)
    until(lambda: new.read)
    go.set()
    new.far.send(b"3")
    until(lambda: len(new.read) == 2)
    assert old.read == [b"1"]


def test_a_socket_that_was_waited_for_to_become_writable_is_taken_over_for_reading() -> (
    None
):
    lot = Lot(EpollPoller(get_hub().loop, 4))
    old = lot.park()
    lot.poller.watch_writable(old, True)
    new = lot.take_over(old)
    new.far.send(b"x")
    until(lambda: new.read)
    assert (old.writable, new.writable) == (0, 0)
    lot.poller.remove(new)
    lot.poller.close()
    for sock in (new.sock, new.far):
        sock.close()


@pytest.mark.linux
@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
@pytest.mark.parametrize("patched", [True, False])
def test_linux_gets_epoll_also_in_a_patched_process(patched: bool) -> None:
    code = (
        ("from gevent import monkey; monkey.patch_all();" if patched else "")
        + "from gevent.hub import get_hub; from imserver.gateway.transport import poller;"
        + "print(type(poller.make(get_hub().loop, 4)).__name__)"
    )
    assert run_python(code) == "EpollPoller\n"
