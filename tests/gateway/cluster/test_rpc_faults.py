"""Peers that stop, die or cannot be reached: real processes, patched as servers are, a network between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import gevent
import pytest
from gevent import socket as green
from gevent.fileobject import FileObject
from msgspec.structs import replace

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc.counters import PeerUnavailable
from imserver.gateway.cluster.rpc.peer import RpcSeconds
from tests.gateway.cluster.rpc_harness import Node, Nodes, attempt, until
from tests.ports import free_ports
from tests.processes import end, pause, spawn
from tests.support import ROOT, clean_environment

HASTY: Final = RpcSeconds(stall=0.2, connect=0.2, silence=0.2, watch=0.05, probe=0.5)
"""Faults are noticed within tenths of a second."""


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes(HASTY)
    yield nodes
    nodes.end()


class Child:
    """A node in a process of its own that keeps count of what it receives."""

    CODE = """
from gevent import monkey; monkey.patch_all()
import json, sys
from gevent.fileobject import FileObject
from tests.gateway.cluster.rpc_harness import Node
node = Node(int(sys.argv[1]), control_port=int(sys.argv[2]))
print(json.dumps([node.lease.control, node.lease.data]), flush=True)
for line in FileObject(0, "rb", close=False):
    counters = node.counters
    print(json.dumps({"items": len(node.items), "ordered": node.items == sorted(node.items),
        "gaps": counters.gaps, "lost": counters.lost, "late": counters.late}), flush=True)
node.rpc.stop()
"""

    def __init__(self, epoch: int) -> None:
        port = free_ports(2)  # of this process: they are still its own when the child was killed
        self.process = spawn(
            [sys.executable, "-c", self.CODE, str(epoch), str(port)],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout
        self._output = FileObject(self.process.stdout, "rb", close=False)
        control, data = json.loads(self._output.readline())
        self.lease = Lease(control.removeprefix("tcp://"), epoch=epoch, control=control, data=data)

    def state(self) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(b"state\n")
        self.process.stdin.flush()
        state: dict[str, Any] = json.loads(self._output.readline())
        return state

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        end(self.process, signal.SIGKILL)


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(2)
    yield child
    child.end()


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


def test_a_stopped_process_delays_nobody_and_is_found_when_it_goes_on(nodes: Nodes, child: Child) -> None:
    a, well = nodes(1), nodes(3)
    assert a.rpc.send(child.lease, b"%08d" % 0)
    until(lambda: attempt(a, child.lease).get() == b"kind:")
    until(lambda: child.state()["items"] == 1)
    pause(child.process.pid)
    sent = send_until_refused(a, child.lease, 1)
    # Questions to it fail at once, those to others are answered as ever.
    started = monotonic()
    answers, missing = a.rpc.query_all([child.lease, well.lease], "kind", b"", 50)
    assert (list(answers), missing) == ([well.lease.node], [child.lease.node])
    assert monotonic() - started < 30
    child.signal(signal.SIGCONT)
    until(lambda: a.rpc.send(child.lease, b"%08d" % sent), what="the peer to be back")
    # ZeroMQ and the kernel held what had been taken: nothing is missing.
    until(lambda: child.state()["items"] == sent + 1)
    assert child.state() == {"items": sent + 1, "ordered": True, "gaps": 0, "lost": 0, "late": 0}


def test_a_killed_process_is_refused_until_its_next_life(nodes: Nodes, child: Child) -> None:
    a = nodes(1)
    assert a.rpc.send(child.lease, b"%08d" % 0)
    until(lambda: child.state()["items"] == 1)
    child.signal(signal.SIGKILL)
    send_until_refused(a, child.lease, 1)
    with pytest.raises(PeerUnavailable):
        a.rpc.query(child.lease, "kind", b"", 0.5)
    ports = [int(address.rpartition(":")[2]) for address in (child.lease.control, child.lease.data)]
    child.process.wait()
    second = nodes(7, control_port=ports[0], data_port=ports[1])
    a.rpc.update({7: second.lease})
    assert a.rpc.send(second.lease, b"to the second life")
    until(lambda: second.items == [b"to the second life"])
    assert second.counters.gaps == 0


class Network:
    """Copies bytes between two ports, until it is told to swallow them, or to cut all connections."""

    def __init__(self, address: str) -> None:
        self.swallows: tuple[str, ...] = ()
        """What disappears: ``requests`` to the port, ``answers`` from it."""
        self._to = tuple(address.removeprefix("tcp://").rsplit(":", 1))
        self._listener = green.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[green.socket, green.socket]] = []
        self._greenlets = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            inner, _ = self._listener.accept()
            outer = green.create_connection(self._to)
            self._pairs.append((inner, outer))
            self._greenlets += [
                gevent.spawn(self._copy, "requests", inner, outer),
                gevent.spawn(self._copy, "answers", outer, inner),
            ]

    def _copy(self, what: str, source: green.socket, target: green.socket) -> None:
        try:
            while data := source.recv(65536):
                if what not in self.swallows:
                    target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            sock.close()

    def cut(self) -> None:
        """End all connections; new ones are possible."""
        for pair in self._pairs:
            for sock in pair:
                with suppress(OSError):  # a node has ended it already
                    sock.shutdown(green.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        gevent.killall(self._greenlets)
        for sock in (self._listener, *(sock for pair in self._pairs for sock in pair)):
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
def test_a_partition_is_noticed_and_what_it_swallowed_is_counted(nodes: Nodes, what: tuple[str, ...]) -> None:
    """Of one direction, too: then b does not receive, or its answers get lost."""
    a, b = nodes.pair()
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


def test_order_is_kept_and_losses_are_counted_when_connections_break_under_load(nodes: Nodes) -> None:
    a, b = nodes.pair()
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


def test_bytes_that_were_damaged_on_the_way_cost_a_connection_not_the_peer(nodes: Nodes) -> None:
    a, b = nodes.pair(seconds=replace(HASTY, reconnect=1.0))
    between = Between(b)
    assert a.rpc.send(between.lease, b"%08d" % 0)
    until(lambda: attempt(a, between.lease).get() == b"kind:")
    until(lambda: len(b.items) == 1)
    for network in between.networks:
        inner, _ = network._pairs[-1]
        inner.sendall(b"\x04\xc8damaged" + bytes(200))
    until(lambda: a.rpc.send(between.lease, b"%08d" % 1) and len(b.items) > 1, what="an event to arrive")
    until(lambda: attempt(a, between.lease, seconds=2).get() == b"kind:", what="an answer")
    between.close()


def test_a_slow_loop_of_the_peer_costs_no_event(nodes: Nodes, child: Child) -> None:
    a = nodes(1)
    number = 0
    for _ in range(4):
        pause(child.process.pid)
        for _ in range(200):
            number += a.rpc.send(child.lease, b"%08d" % number)
            gevent.sleep(0)
        child.signal(signal.SIGCONT)
        until(lambda: attempt(a, child.lease).get() == b"kind:")
    until(lambda: child.state()["items"] == number)
    assert child.state() == {"items": number, "ordered": True, "gaps": 0, "lost": 0, "late": 0}
