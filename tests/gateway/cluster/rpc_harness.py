"""Nodes with an RPC and nothing else, and strangers at their ports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any
from weakref import WeakSet

import gevent
import zmq

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc.counters import PeerUnavailable
from imserver.gateway.cluster.rpc.curve import CurveKeys
from imserver.gateway.cluster.rpc.peer import SECONDS, RpcSeconds
from imserver.gateway.cluster.rpc.server import Rpc
from imserver.gateway.process import Secret, fingerprint_of
from tests.ports import free_ports
from tests.support import until as until

SECRET = b"the secret of the cluster in tests"
FOREIGN = b"the secret of some other cluster  "
KEYS = CurveKeys.derive(SECRET)
FOREIGN_KEYS = CurveKeys.derive(FOREIGN)


class PatientRpc(Rpc):
    """Its questions have as long as a busy machine needs for a connection."""

    def query(
        self,
        lease: Lease,
        kind: str,
        body: bytes,
        timeout: float = 20.0,
        *,
        slow: bool = False,
    ) -> bytes:
        return super().query(lease, kind, body, timeout, slow=slow)


class Node:
    """One end: ``items`` it received, ``batches`` as (sender, count). A test
    may replace ``answer`` and ``receive``.
    """

    def __init__(
        self,
        epoch: int,
        *,
        secret: bytes = SECRET,
        second: bytes = b"",
        control_port: int = 0,
        data_port: int = 0,
        seconds: RpcSeconds = SECONDS,
        **options: Any,
    ) -> None:
        self._seconds = seconds
        self.items: list[bytes] = []
        self.batches: list[tuple[int, int]] = []
        self.receive: Callable[[int, list[bytes]], None] = self.received
        self.answer: Callable[[str, bytes], bytes] = lambda kind, body: (
            kind.encode() + b":" + body
        )
        self.rpc = PatientRpc(
            Secret(secret, second),
            lambda kind, body: self.answer(kind, body),
            lambda sender, items: self.receive(sender, items),
            seconds=seconds,
            **options,
        )
        control_port = control_port or free_ports(2)
        self.rpc.start("127.0.0.1", control_port, data_port or control_port + 1)
        self.rpc.epoch = epoch
        self.counters = self.rpc.counters
        addresses = self.rpc.control_address, self.rpc.data_address
        self.lease = lease(
            epoch, *addresses, options.get("version", 1), fingerprint_of(secret)
        )

    def received(self, sender: int, items: list[bytes]) -> None:
        self.items += items
        self.batches.append((sender, len(items)))

    @property
    def ports(self) -> dict[str, int]:
        """As arguments for another node at the same address."""
        control = self.rpc.control_address
        data = self.rpc.data_address
        return {
            "control_port": int(control.rpartition(":")[2]),
            "data_port": int(data.rpartition(":")[2]),
        }

    def reborn(self, epoch: int, **options: Any) -> Node:
        """End this node, and start one at the same address: the same node's
        next life."""
        self.rpc.stop()
        return Node(epoch, **self.ports, seconds=self._seconds, **options)


def lease(
    epoch: int, control: str, data: str, version: int = 1, fingerprint: str = ""
) -> Lease:
    node = control.removeprefix("tcp://")
    return Lease(node, epoch, control, data, fingerprint=fingerprint, version=version)


def lease_of_nobody(epoch: int) -> Lease:
    """A lease that names two ports where nobody listens."""
    first = free_ports(2)
    return lease(epoch, *(f"tcp://127.0.0.1:{port}" for port in (first, first + 1)))


class Nodes:
    """Starts nodes and ends all of them. ``seconds``: the times of their
    RPC."""

    def __init__(self, seconds: RpcSeconds = SECONDS) -> None:
        self._seconds = seconds
        self._started: list[Node] = []

    def __call__(self, epoch: int, **options: Any) -> Node:
        return self.add(Node(epoch, **{"seconds": self._seconds, **options}))

    def add(self, node: Node) -> Node:
        self._started.append(node)
        return node

    def pair(self, **options: Any) -> tuple[Node, Node]:
        return self(1, **options), self(2, **options)

    def end(self) -> None:
        for node in self._started:
            # Without peers there is nobody that a stop would wait for.
            node.rpc.update({})
            node.rpc.stop()


class Stranger:
    """A plain ZeroMQ socket of nobody's node, with the keys it is given (None:
    without encryption).

    A connection that ended is not made again: a test that is held up would see
    that instead of the end.
    """

    def __init__(self, kind: int, keys: CurveKeys | None = KEYS) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
        ):
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        if keys is not None:
            keys.connect_to(self.socket)

    def connect(self, address: str) -> Stranger:
        self.socket.connect(address)
        return self

    def send(self, *parts: bytes) -> None:
        until(
            lambda: self.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT,
            what="a connection",
        )
        self.socket.send_multipart(parts, zmq.NOBLOCK)

    def receive(self) -> list[bytes]:
        until(lambda: self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN, what="a message")
        return self.socket.recv_multipart(zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()


def stranger(
    kind: int, address: str, keys: CurveKeys | None = KEYS
) -> closing[Stranger]:
    return closing(Stranger(kind, keys).connect(address))


def attempt(
    node: Node, to: Lease, body: bytes = b"", seconds: float = 60.0
) -> gevent.Greenlet[..., Any]:
    """Ask in a greenlet of its own; its value is the answer, or the
    exception."""

    def query() -> bytes | PeerUnavailable:
        try:
            return node.rpc.query(to, "kind", body, seconds)
        except PeerUnavailable as error:
            return error

    return gevent.spawn(query)


_spawned: WeakSet[gevent.Greenlet[..., Any]] = WeakSet()
gevent.Greenlet.add_spawn_callback(_spawned.add)


def greenlets() -> frozenset[gevent.Greenlet[..., Any]]:
    """The greenlets that live, once they stay the same; those of other tests
    may end later."""
    seen: list[frozenset[gevent.Greenlet[..., Any]]] = []

    def settled() -> bool:
        seen.append(frozenset(one for one in _spawned if not one.dead))
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    until(settled)
    return seen[-1]
