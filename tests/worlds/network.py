"""The simulated network: routes with delays that can be cut, sockets of
clients, and messages between nodes."""

from __future__ import annotations

import _socket
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any

import gevent
from gevent.event import AsyncResult

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc.counters import (
    PeerUnavailable,
    RpcCounters,
    UnknownQuery,
)
from imserver.gateway.cluster.rpc.peer import PING
from imserver.gateway.transport.poller import Parked, Readers
from tests.worlds.loop import Owner, VirtualLoop

_MILLISECOND = 0.001
_NOTICED_SECONDS = 2.0
"""After so long a node knows that it does not reach another one."""
DESCRIPTORS = count(1_000_000)


class Route:
    """One direction between two places. What is on the way while it is cut
    arrives when it is mended.

    ``slow``: factor of the delays.
    """

    def __init__(self, loop: VirtualLoop, name: str, seed: int) -> None:
        self.loop = loop
        self.random = Random(f"{seed} {name}")
        self.cut_at: float | None = None
        self.slow = 1.0
        self._waiting: list[tuple[Owner, Callable[..., object], tuple[Any, ...]]] = []

    def delay(self) -> float:
        """Seconds that something takes: usually half a millisecond, sometimes
        far more."""
        seconds = self.random.expovariate(1 / (0.5 * _MILLISECOND))
        if self.random.random() < 0.01:
            seconds += self.random.uniform(0.0, 60 * _MILLISECOND)
        return self.slow * (0.000_05 + seconds)

    @property
    def is_known_cut(self) -> bool:
        """Whether it is cut for so long that both ends know."""
        return (
            self.cut_at is not None and self.loop.clock - self.cut_at > _NOTICED_SECONDS
        )

    def cut(self) -> None:
        if self.cut_at is None:
            self.cut_at = self.loop.clock

    def mend(self) -> None:
        self.cut_at = None
        waiting = self._waiting
        self._waiting = []
        for number, (owner, call, args) in enumerate(waiting):
            self.loop.call_later(0.001 + number * 1e-6, owner, call, *args)

    def arrive(
        self, owner: Owner, call: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        if self.cut_at is None and not self._waiting:
            if owner is self.loop.current:
                call(*args)
            else:
                self.loop.call_later(0.0, owner, call, *args)
        else:
            self._waiting.append((owner, call, args))


class Pipe:
    """What one sender sends over a route arrives in order at ``owner``."""

    def __init__(self, route: Route, owner: Owner, call: Callable[..., object]) -> None:
        self._route = route
        self.owner = owner
        self._call = call
        self._last = 0.0

    def send(self, *args: Any) -> None:
        """Send something. Never switches."""
        loop = self._route.loop
        self._last = max(self._last + 1e-7, loop.clock + self._route.delay())
        loop.call_later(self._last - loop.clock, loop.world, self._arrived, args)

    def _arrived(self, args: tuple[Any, ...]) -> None:
        self._route.arrive(self.owner, self._call, args)


# --- sockets of clients -------------------------------------------------------


class SimSocket:
    """The end of a TCP connection at a node. ``pipe`` takes bytes to the
    client, and None for the end."""

    family = _socket.AF_UNIX

    def __init__(self, loop: VirtualLoop) -> None:
        self.pipe: Pipe
        self.poller: SimPoller | None = None
        """That of the node, once it has admitted the connection."""
        self._loop = loop
        self._fd = next(DESCRIPTORS)
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._closed = False

    def fileno(self) -> int:
        return -1 if self._closed else self._fd

    def received(self, data: bytes | None) -> None:
        """Bytes from the client have arrived; None: it has ended."""
        if data is None:
            self._ended = True
        else:
            self._chunks.append(data)
        if self.poller is not None and not self._closed:
            self.poller.arrived(self._fd)

    @property
    def is_readable(self) -> bool:
        return not self._closed and (bool(self._chunks) or self._ended)

    def recv(self, size: int) -> bytes:
        if not self._chunks:
            if self._ended:
                return b""
            raise BlockingIOError
        assert self.poller is not None
        data = self._chunks.popleft()
        if len(data) > size:
            self._chunks.appendleft(data[size:])
        if self._chunks or self._ended:
            self._loop.run_callback(self.poller.arrived, self._fd)
        return data[:size]

    def send(self, data: bytes) -> int:
        if self._closed:
            raise OSError
        self.pipe.send(bytes(data))
        return len(data)

    def shutdown(self, _how: int) -> None:
        self.pipe.send(None)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.pipe.send(None)


class SimPoller(Readers):
    """Watches simulated sockets."""

    def __init__(self, _loop: Any, readers: int) -> None:
        super().__init__(readers)
        self._parked: dict[int, Parked] = {}

    def add(self, parked: Parked) -> None:
        self._parked[parked.fd] = parked
        self._look(parked)

    take = add

    def at(self, fd: int) -> Parked | None:
        return self._parked.get(fd)

    def remove(self, parked: Parked) -> None:
        if self._parked.get(parked.fd) is parked:
            del self._parked[parked.fd]

    def pause(self, parked: Parked, paused: bool) -> None:
        """Nothing listens here."""

    def watch_writable(self, parked: Parked, wanted: bool) -> None:
        """A simulated socket takes everything."""

    def mask(self, parked: Parked) -> None:
        parked.masked = True

    def unmask(self, parked: Parked) -> None:
        parked.masked = False
        self._look(parked)

    def _look(self, parked: Parked) -> None:
        if parked.sock.is_readable:  # type: ignore[attr-defined]
            gevent.get_hub().loop.run_callback(self.arrived, parked.fd)

    def arrived(self, fd: int) -> None:
        """Something can be read. Called by the loop."""
        parked: Any = self._parked.get(fd)
        if parked is None or not parked.sock.is_readable:
            return
        if parked.reading:
            self.mask(parked)
        else:
            if not any(each is parked for each in self.ready):
                self.ready.append(parked)
            self.wake()

    def close(self) -> None:
        self._parked.clear()


# --- messages between nodes ---------------------------------------------------


class RpcNetwork:
    """All nodes that listen. ``route(a, b)``: the route from one process to
    another."""

    def __init__(self, loop: VirtualLoop, route: Callable[[str, str], Route]) -> None:
        self.loop = loop
        self.route = route
        self.listening: dict[str, SimRpc] = {}
        """Address → who listens there."""

    def make(self, _secret: object, answer: Any, received: Any, **_: Any) -> SimRpc:
        """As the constructor of
        :class:`imserver.gateway.cluster.rpc.server.Rpc`."""
        return SimRpc(self, answer, received)


class SimRpc:
    """In place of :class:`imserver.gateway.cluster.rpc.server.Rpc`: the same
    promises without ZeroMQ. Messages of one node to another keep their order,
    and each may be lost with all that are on the way."""

    def __init__(
        self,
        network: RpcNetwork,
        answer: Callable[[str, bytes], bytes],
        received: Callable[[int, list[bytes]], None],
    ) -> None:
        self.counters = RpcCounters()
        self.control_address = self.data_address = ""
        self._epochs = [0]
        self.queued_items = self.queued_bytes = 0
        self.owner = network.loop.current
        self._network = network
        self._answer = answer
        self._received = received
        self._pipes: dict[str, Pipe] = {}

    @property
    def epoch(self) -> int:
        return self._epochs[-1]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self._epochs.append(epoch)

    def start(self, host: str, control_port: int, data_port: int) -> None:
        self.control_address = f"tcp://{host}:{control_port}"
        self.data_address = f"tcp://{host}:{data_port}"
        self._network.listening[self.data_address] = self

    def stop(self) -> None:
        self._network.listening.pop(self.data_address, None)

    kill = stop

    def update(self, leases: Mapping[int, Lease]) -> None:
        """Peers without a lease are disconnected: what is on the way to them
        has an old epoch."""

    def _reach(self, lease: Lease) -> tuple[SimRpc, Route, Route] | None:
        other = self._network.listening.get(lease.data)
        if other is None or not other.owner.alive or lease.epoch == self.epoch:
            return None
        there = self._network.route(self.owner.name, other.owner.name)
        back = self._network.route(other.owner.name, self.owner.name)
        return None if there.is_known_cut or back.is_known_cut else (other, there, back)

    def send(self, lease: Lease, item: bytes) -> bool:
        reach = self._reach(lease)
        if reach is None:
            return False
        other, there, _ = reach
        pipe = self._pipes.get(other.data_address)
        if pipe is None or pipe.owner is not other.owner:
            pipe = Pipe(there, other.owner, other.accept)
            self._pipes[other.data_address] = pipe
        pipe.send(self.epoch, lease.epoch, item)
        return True

    def accept(self, sender: int, destination: int, item: bytes) -> None:
        """An item of another node has arrived."""
        if destination not in self._epochs:
            self.counters.stale += 1
        else:
            self.counters.received += 1
            self._received(sender, [item])

    def query(
        self,
        lease: Lease,
        kind: str,
        body: bytes,
        timeout: float = 1.0,
        *,
        slow: bool = False,
    ) -> bytes:
        reach = self._reach(lease)
        if reach is None:
            raise PeerUnavailable(lease.node, "no connection is possible")
        other, there, back = reach
        result: AsyncResult[bytes | None] = AsyncResult()
        answers = Pipe(back, self.owner, result.set)
        Pipe(there, other.owner, other.ask).send(lease.epoch, kind, body, answers)
        with gevent.Timeout(timeout * (2 if slow else 1), False):
            if (answer := result.get()) is not None:
                return answer
        raise PeerUnavailable(lease.node, "no answer")

    def ask(self, epoch: int, kind: str, body: bytes, answers: Pipe) -> None:
        """A query of another node has arrived."""
        gevent.spawn(self._run, epoch, kind, body, answers)

    def _run(self, epoch: int, kind: str, body: bytes, answers: Pipe) -> None:
        answer = None
        with suppress(UnknownQuery):
            if epoch in self._epochs:
                answer = b"" if kind == PING else self._answer(kind, body)
        answers.send(answer)

    def query_all(
        self, leases: Collection[Lease], kind: str, body: bytes, timeout: float = 1.0
    ) -> tuple[dict[str, bytes], list[str]]:
        answers: dict[str, bytes] = {}
        missing: list[str] = []

        def query(lease: Lease) -> None:
            try:
                answers[lease.node] = self.query(lease, kind, body, timeout)
            except PeerUnavailable:
                missing.append(lease.node)

        gevent.joinall([gevent.spawn(query, lease) for lease in leases])
        return answers, sorted(missing)
