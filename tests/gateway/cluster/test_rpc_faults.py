"""Peers that cannot be reached: a network between them."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import gevent
import pytest
from gevent import socket as green
from msgspec.structs import replace

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc.peer import RpcSeconds
from tests.gateway.cluster.rpc_harness import Node, Nodes, attempt, until

SECONDS: Final = RpcSeconds(stall=0.2, connect=0.2, silence=0.2, watch=0.05, probe=0.5)
"""Faults are noticed within tenths of a second."""


def send_until_refused(node: Node, lease: Lease, first: int) -> int:
    """Send numbered items at a steady pace until one is refused; returns the next number."""
    number = first

    def refused() -> bool:
        nonlocal number
        if not node.rpc.send(lease, b"%08d" % number):
            return True
        number += 1
        return False

    until(refused, what="a refusal")
    return number


class Network:
    """Copies bytes between two ports, until it is told to swallow them, or to cut all connections."""

    def __init__(self, address: str) -> None:
        self.swallows: tuple[str, ...] = ()
        """What disappears: ``requests`` to the port, ``answers`` from it."""
        self.seen = bytearray()
        self.pairs: list[tuple[green.socket, green.socket]] = []
        """The two ends of each connection."""
        self._to = tuple(address.removeprefix("tcp://").rsplit(":", 1))
        self._listener = green.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._greenlets = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            inner, _ = self._listener.accept()
            outer = green.create_connection(self._to)
            self.pairs.append((inner, outer))
            self._greenlets += [
                gevent.spawn(self._copy, "requests", inner, outer),
                gevent.spawn(self._copy, "answers", outer, inner),
            ]

    def _copy(self, what: str, source: green.socket, target: green.socket) -> None:
        try:
            while data := source.recv(65536):
                self.seen += data
                if what not in self.swallows:
                    target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            sock.close()

    def cut(self) -> None:
        """End all connections; new ones are possible."""
        for pair in self.pairs:
            for sock in pair:
                with suppress(OSError):  # a node has ended it already
                    sock.shutdown(green.SHUT_RDWR)
        self.pairs.clear()

    def close(self) -> None:
        gevent.killall(self._greenlets)
        for sock in (self._listener, *(sock for pair in self.pairs for sock in pair)):
            sock.close()


class Between:
    """A network between a node and whoever uses ``lease``."""

    def __init__(self, node: Node) -> None:
        self.control, self.data = Network(node.lease.control), Network(node.lease.data)
        self.lease = Lease(
            node.lease.node, epoch=node.lease.epoch, control=self.control.address, data=self.data.address
        )
        self.networks = (self.control, self.data)

    def close(self) -> None:
        for network in self.networks:
            network.close()


@pytest.mark.parametrize("what", [("requests", "answers"), ("requests",), ("answers",)], ids="-".join)
def test_a_partition_is_noticed_and_what_it_swallowed_is_counted(peers: Nodes, what: tuple[str, ...]) -> None:
    """Of one direction, too: then b does not receive, or its answers get lost."""
    a, b = peers.pair()
    between = Between(b)
    assert a.rpc.send(between.lease, b"%08d" % 0)
    until(lambda: len(b.items) == 1)
    for network in between.networks:
        network.swallows = what
    sent = send_until_refused(a, between.lease, 1)
    received = 1 if "requests" in what else sent  # the last ones are still under way
    until(lambda: len(b.items) >= received)
    assert len(b.items) == received
    for network in between.networks:
        network.swallows = ()
        network.cut()
    until(lambda: a.rpc.send(between.lease, b"%08d" % sent), what="the peer to be back")
    until(lambda: b.items[-1] == b"%08d" % sent)
    assert b.items == sorted(set(b.items))
    assert b.counters.lost == sent + 1 - len(b.items)
    assert b.counters.gaps == (b.counters.lost > 0)
    between.close()


def test_order_is_kept_and_losses_are_counted_when_connections_break_under_load(peers: Nodes) -> None:
    a, b = peers.pair()
    between = Between(b)
    number = 0
    for _ in range(5):
        for _ in range(300):
            number += a.rpc.send(between.lease, b"%08d" % number)
            gevent.sleep(0)
        between.data.cut()
    until(lambda: a.rpc.send(between.lease, b"%08d" % number))
    until(lambda: b.items[-1:] == [b"%08d" % number])
    assert b.items == sorted(set(b.items))
    assert b.counters.lost + len(b.items) == number + 1
    between.close()


def test_bytes_are_encrypted_and_those_damaged_on_the_way_cost_a_connection_not_the_peer(
    peers: Nodes,
) -> None:
    a, b = peers.pair(seconds=replace(SECONDS, reconnect=1.0))
    between, secret = Between(b), b"in the clear" * 10
    assert a.rpc.send(between.lease, b"%08d" % 0)
    until(lambda: attempt(a, between.lease, secret).get() == b"kind:" + secret)
    until(lambda: len(b.items) == 1)
    assert len(between.control.seen) > 500
    assert b"in the clear" not in between.control.seen
    for network in between.networks:
        inner, _ = network.pairs[-1]
        inner.sendall(b"\x04\xc8damaged" + bytes(200))
    until(lambda: a.rpc.send(between.lease, b"%08d" % 1) and len(b.items) > 1, what="an event to arrive")
    until(lambda: attempt(a, between.lease, seconds=2).get() == b"kind:", what="an answer")
    between.close()
