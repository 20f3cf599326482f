"""A slot holds one child process at a time: its settings, listeners, status
page, state and restart delay."""

import _socket
import logging
import math
import mmap
import random
import sys
from array import array
from collections.abc import Sequence
from enum import Enum
from struct import Struct, pack
from typing import Any, Final, NamedTuple

import msgspec

from imserver.gateway.cluster.registry import node_name, own_address
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.node.http_servers import Listeners


def resolve(host: str) -> str:
    """The first address of a host. Raises StartError."""
    try:
        addresses = _socket.getaddrinfo(
            host, 0, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartError(
            f"server.host {host} cannot be resolved: {error.strerror}"
        ) from None
    return str(addresses[0][4][0])


class NodeMarks(NamedTuple):
    """Whether a node serves, whether it is ready, its connections, and how many
    more it takes."""

    started: bool
    ready: bool
    connections: int
    room: int


RUSH_SECONDS: Final = 0.1
"""New connections go to the same few nodes at least so long, at most
:data:`_LONGEST_SECONDS`; between these until each has got half the mean. So
nodes are filled evenly, however many connections come."""
_LONGEST_SECONDS: Final = 0.5


class ConnectionSteering:
    """Sends new connections only to children that can serve them.

    A classic BPF program selects the listener by number
    (SO_ATTACH_REUSEPORT_CBPF; needs no privilege). Where it is not ``possible``
    (no Linux, or other processes share the ports) connections wait in the queue
    of the child.
    """

    _INSTRUCTION = Struct("=HBBI")

    def __init__(
        self, all_listeners: Sequence[Listeners], possible: bool = True
    ) -> None:
        self._count = len(all_listeners)
        # One program applies to all sockets of the port.
        self._firsts = [
            each for each in all_listeners[0].values() if each.family != _socket.AF_UNIX
        ]
        self._closed: frozenset[int] = frozenset()
        self._possible = possible and sys.platform == "linux"

    def exclude(self, closed: frozenset[int]) -> None:
        """Send new connections to the other children from now on. If all are
        excluded, none is."""
        if len(closed) == self._count:
            closed = frozenset()
        if closed == self._closed or not self._possible:
            return
        self._closed = closed
        program = array("B", b"".join(self._program(closed)))
        address, size = program.buffer_info()
        option = pack("@HP", size // self._INSTRUCTION.size, address)
        try:
            for sock in self._firsts:
                # SO_ATTACH_REUSEPORT_CBPF
                sock.setsockopt(_socket.SOL_SOCKET, 51, option)
        except OSError as error:
            self._possible = False
            logging.getLogger(__name__).info(
                "connection steering is unavailable (%s): while a node restarts, its new connections wait",
                error.strerror,
            )

    def _program(self, closed: frozenset[int]) -> list[bytes]:
        pack = self._INSTRUCTION.pack
        if not closed:
            # out of range: the kernel chooses by hash
            return [pack(0x06, 0, 0, 0xFFFFFFFF)]
        program = [
            pack(0x20, 0, 0, 0xFFFFF000 + 56),  # A = a random number
            pack(0x94, 0, 0, self._count - len(closed)),  # A = A mod open listeners
        ]
        for number in sorted(closed):
            program += [
                pack(0x35, 0, 1, number),  # if A >= number:
                pack(0x04, 0, 0, 1),  # A += 1
            ]
        return [*program, pack(0x16, 0, 0, 0)]  # return A


class Rush:
    """Chooses which of many nodes get new connections. While very many come,
    ``few`` get them at a time, in turn: a node that logs many clients in at
    once takes less for each. If nodes have more connections than others, those
    get new ones first. ``few`` 0: there are not many nodes. Owner of what was
    counted.
    """

    def __init__(self, few: int) -> None:
        self._few = few
        self._counts: dict[int, NodeMarks] = {}
        self._counted_at = -math.inf
        self._per_second = 0.0
        self._chosen: frozenset[int] = frozenset()
        self._until = 0.0
        self._coming: dict[int, float] = {}
        """Node → the connections that it has not reported yet, about."""
        self._last: dict[int, float] = {}
        """Node → when it was last chosen."""

    @property
    def active(self) -> bool:
        """Whether very many came in the last second."""
        return self._per_second >= 500

    def choose(self, nodes: dict[int, NodeMarks], now: float) -> frozenset[int]:
        """The numbers of the nodes that get new connections, of those that
        accept clients."""
        if not self._few or not nodes:
            return frozenset(nodes)
        if now - self._counted_at >= 1.0:
            self._count(nodes, now)
        if now >= self._until or not self._chosen <= nodes.keys():
            coming = self._coming
            counts = {
                number: marks.connections + coming.get(number, 0.0)
                for number, marks in nodes.items()
            }
            mean = sum(counts.values()) / len(counts)
            order = sorted(
                counts,
                key=lambda number: (counts[number] > mean, self._last.get(number, 0.0)),
            )
            most = sum(count <= mean for count in counts.values())
            # Twice an accept queue.
            if self.active and all(
                nodes[number].room >= 8192 for number in order[: self._few]
            ):
                most = self._few
            elif max(counts.values()) - min(counts.values()) < 512:
                most = len(order)
            seconds = most * mean / 2 / max(self._per_second, 1.0)
            seconds = min(max(seconds, RUSH_SECONDS), _LONGEST_SECONDS)
            self._chosen = frozenset(order[:most])
            self._until = now + seconds
            for number in self._chosen:
                coming[number] = (
                    coming.get(number, 0.0) + seconds * self._per_second / most
                )
            self._last |= dict.fromkeys(self._chosen, now)
        return self._chosen

    def _count(self, nodes: dict[int, NodeMarks], now: float) -> None:
        before = self._counts
        self._counts = nodes
        came = sum(
            max(marks.connections - before[number].connections, 0)
            for number, marks in nodes.items()
            if number in before
        )
        self._per_second = came / (now - self._counted_at)
        self._counted_at = now
        self._coming = {}


_BEATS: Final = Struct("=Q")
_MARKS: Final = Struct("=??IQ")
_HEADER: Final = Struct("=?H")
"""Whether the text is a failure; its length."""
_MARKS_AT: Final = _BEATS.size
_HEADER_AT: Final = _MARKS_AT + _MARKS.size
_TEXT_AT: Final = _HEADER_AT + _HEADER.size


class StatusPage:
    """Shared memory through which a child reports to the supervisor, without
    system calls.

    The supervisor creates it before the fork; afterwards only the child writes.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        """Reset for the next child."""
        self._memory[:] = bytes(mmap.PAGESIZE)

    # --- child side -----------------------------------------------------------

    def beat(self, marks: NodeMarks) -> None:
        """Count a loop iteration and set the marks."""
        _MARKS.pack_into(self._memory, _MARKS_AT, *marks)
        _BEATS.pack_into(self._memory, 0, self.beats + 1)

    def report(self, text: str, failed: bool = False) -> None:
        """Store the notes for the banner, or (``failed``) why the child ends,
        in one line."""
        data = text.encode("utf-8", "backslashreplace")[: mmap.PAGESIZE - _TEXT_AT]
        self._memory[_TEXT_AT : _TEXT_AT + len(data)] = data
        _HEADER.pack_into(self._memory, _HEADER_AT, failed, len(data))

    # --- supervisor side ------------------------------------------------------

    @property
    def beats(self) -> int:
        """Loop iterations so far; does not grow while the loop is blocked."""
        beats: int = _BEATS.unpack_from(self._memory, 0)[0]
        return beats

    @property
    def marks(self) -> NodeMarks:
        """What the node says of itself."""
        return NodeMarks(*_MARKS.unpack_from(self._memory, _MARKS_AT))

    def text(self, failed: bool) -> str:
        """The notes that the child reported for the banner, one per line, or
        why it ended; else empty."""
        kind, length = _HEADER.unpack_from(self._memory, _HEADER_AT)
        text = self._memory[_TEXT_AT : _TEXT_AT + length].decode("utf-8", "replace")
        return text if kind == failed else ""


class SlotState(Enum):
    """State of a slot's child."""

    DOWN, STARTING, SERVING, DRAINING = range(4)


class Slot:
    """One child position. Owner: the supervisor. ``number`` counts from 0 and
    selects the ports; ``name`` is the node id."""

    def __init__(self, number: int, name: str, listeners: Listeners) -> None:
        self.number = number
        self.name = name
        self.listeners = listeners
        self.status = StatusPage()
        self.state = SlotState.DOWN
        self.pid = 0
        self.generation = 0
        """How many rolling restarts had begun when the child was forked."""
        self.since = 0.0
        """When the child was forked, or ended."""
        self.due = 0.0
        """When the next child starts, while there is none."""
        self.deadline = math.inf
        """When the child is killed if it still runs."""
        self.hangs = False
        self.failures = 0
        """Consecutive children that ended unexpectedly and early."""
        self.waiting_signals: list[int] = []
        """Signals to forward once the child serves; earlier they would end it
        or get lost."""
        self._beats = 0
        self._beat_at = 0.0

    def forked(self, pid: int, now: float, generation: int) -> None:
        """A child was started."""
        self.pid = pid
        self.since = now
        self.generation = generation
        self.state = SlotState.STARTING
        self.deadline = math.inf
        self.hangs = False
        self._beats = 0
        self._beat_at = now

    def observe(self, now: float, missed: float) -> bool:
        """Read the status page; True when the child has just begun to serve.

        ``missed`` are seconds in which the supervisor did not read; they do not
        count as silence.
        """
        beats = self.status.beats
        if beats != self._beats:
            self._beats = beats
            self._beat_at = now
        else:
            self._beat_at += missed
        if self.state is SlotState.STARTING and self.status.marks.started:
            self.state = SlotState.SERVING
            return True
        return False

    def silent_seconds(self, now: float) -> float:
        """Seconds since the last heartbeat."""
        return now - self._beat_at

    def accepts_clients(self, now: float) -> bool:
        """Whether new clients should be sent to this child. Not while its loop
        is blocked."""
        _, ready, _, room = self.status.marks
        return (
            self.state is SlotState.SERVING
            and ready
            and room > 0
            and self.silent_seconds(now) < 5.0
        )

    def ended(self, now: float, planned: bool) -> float:
        """The child ended; returns the seconds until the next one starts.

        0 if it was planned; otherwise random below a bound that doubles with
        each failure, so that children with the same fault do not restart
        together. The first failure after a minute counts as the first.
        """
        if planned or now - self.since >= 60.0:
            self.failures = 0
        if planned:
            pause = 0.0
        else:
            pause = random.uniform(0.0, min(2.0**self.failures, 30.0))
        if planned:
            self.failures = 0
        else:
            self.failures = min(self.failures + 1, 16)
        self.state = SlotState.DOWN
        self.pid = 0
        self.since = now
        self.due = now + pause
        self.waiting_signals.clear()
        return pause


PORTS_PER_NODE: Final = 2
"""RPC ports of a node: the first one is in its id."""
LAST_PORT: Final = 65535
#: Settings that the supervisor has already applied, or on which all processes must agree.
_FIXED: Final = {
    "app": ("log_file", "http_port", "websocket_port", "rpc_port"),
    "server": (
        "host",
        "reuse_port",
        "extra_listen",
        "data_dir",
        "secret_file",
        "second_secret_file",
        "backlog",
        "processes",
    ),
    "redis": ("url", "addr", "db"),
    "cluster": ("advertise", "bind"),
}


def check_ports(config: Config) -> None:
    """Check that the RPC ports of all nodes fit between the other ports. Raises
    StartError."""
    first = config.app.rpc_port
    count = config.server.processes
    last = first + PORTS_PER_NODE * count - 1
    if not config.clustered or (count == 1 and first == 0):
        return
    if count > 1:
        need = f"{count} nodes need"
    else:
        need = "a node needs"
    if first == 0:
        raise StartError(
            f"app.rpc_port 0: {count} nodes need fixed ports, because the port identifies a node"
        )
    if last > LAST_PORT:
        raise StartError(f"app.rpc_port {first}: {need} the ports up to {last}")
    ports = {
        "app.http_port": config.app.http_port,
        "app.websocket_port": config.app.websocket_port,
    }
    ports |= {
        f"server.extra_listen[{n}]": row.port
        for n, row in enumerate(config.server.extra_listen)
    }
    for name, port in ports.items():
        if first <= port <= last:
            raise StartError(
                f"app.rpc_port {first}: {need} the ports up to {last}, and {name} is {port}"
            )


def resolve_addresses(config: Config) -> Config:
    """Resolve the listen addresses and the advertised address once, for all
    nodes.

    Each node finds the advertised address by itself if only its database tells
    whether it is in demo mode.
    """
    undecided = config.demo and not config.server.insecure
    extra = [
        msgspec.structs.replace(row, host=row.host and resolve(row.host))
        for row in config.server.extra_listen
    ]
    return _replaced(
        config,
        server={"host": resolve(config.server.host), "extra_listen": tuple(extra)},
        cluster={
            "advertise": config.cluster.advertise
            or ("" if undecided else own_address())
        },
    )


def for_child(config: Config, number: int) -> Config:
    """Settings of child ``number``: each has two RPC ports, the first one is
    part of its node id."""
    return msgspec.structs.replace(
        _replaced(
            config, app={"rpc_port": config.app.rpc_port + PORTS_PER_NODE * number}
        ),
        warnings=(),  # the supervisor has logged them
    )


def name_of(config: Config) -> str:
    """The node id for these settings."""
    return node_name(config.cluster.advertise, config.app.rpc_port)


def apply_reload(
    config: Config, given: Config, used: Config
) -> tuple[Config, list[str]]:
    """Reloaded settings without those that only a full restart can change; and
    the names of these.

    ``given`` are the settings as read at the start, ``used`` those after
    :func:`resolve_addresses`.
    """
    changed: list[str] = []
    unchanged: dict[str, dict[str, Any]] = {}
    for section, keys in _FIXED.items():
        old = getattr(given, section)
        new = getattr(config, section)
        unchanged[section] = {key: getattr(getattr(used, section), key) for key in keys}
        changed += [
            f"{section}.{key}" for key in keys if getattr(old, key) != getattr(new, key)
        ]
    return _replaced(config, **unchanged), changed


def _replaced(config: Config, **sections: dict[str, Any]) -> Config:
    parts = {
        name: msgspec.structs.replace(getattr(config, name), **keys)
        for name, keys in sections.items()
    }
    return msgspec.structs.replace(config, **parts)
