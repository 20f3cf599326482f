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
    *_, socket_address = addresses[0]
    return str(socket_address[0])


class NodeMarks(NamedTuple):
    """Whether a node serves, whether it is ready, its connections, and how many
    more it takes."""

    started: bool
    ready: bool
    connections: int
    room: int


RUSH_SECONDS: Final = 0.1
"""How long new connections go to the same few nodes at least; at most it is
:data:`_LONGEST_SECONDS`. Between these limits, other nodes are chosen when each
of the few has got half the mean. So nodes are filled evenly, however many
connections come."""
_LONGEST_SECONDS: Final = 0.5
_COUNT_SECONDS: Final = 1.0
"""Time over which the rate of new connections is measured."""
_RUSH_PER_SECOND: Final = 500
"""This rate of new connections is a rush."""
_RUSH_ROOM: Final = 8192
"""In a rush a node gets new connections only if it has room for this many:
twice an accept queue."""
_EVEN_CONNECTIONS: Final = 512
"""Nodes whose numbers of connections differ by less are filled evenly."""
_SILENT_SECONDS: Final = 5.0
"""A child gets no new clients if its loop was blocked for this time."""
_LONG_LIFE_SECONDS: Final = 60.0
"""The failure of a child that has lived for this time counts as the first
failure."""
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""The longest time until a failed child is restarted."""
_MAX_FAILURES: Final = 16
"""Failures are counted up to here: the pause no longer grows."""

_ATTACH_REUSEPORT_CBPF: Final = 51
"""SO_ATTACH_REUSEPORT_CBPF of Linux, which the module socket does not have."""
# Opcodes of classic BPF (linux/bpf_common.h). A is the accumulator.
_LOAD: Final = 0x20  # A = a word at an address
_MODULO: Final = 0x94  # A = A mod a constant
_JUMP_IF_AT_LEAST: Final = 0x35  # skips instructions unless A >= a constant
_ADD: Final = 0x04  # A += a constant
_RETURN_CONSTANT: Final = 0x06
_RETURN_ACCUMULATOR: Final = 0x16
_RANDOM_NUMBER: Final = 0xFFFFF000 + 56
"""The address at which the kernel has a random number: SKF_AD_OFF +
SKF_AD_RANDOM."""
_NO_LISTENER: Final = 0xFFFFFFFF
"""A number that no listener has: the kernel chooses by hash."""


class ConnectionSteering:
    """Sends new connections only to children that can serve them.

    A classic BPF program selects the listener by number
    (SO_ATTACH_REUSEPORT_CBPF; needs no privilege). If it is not ``possible``
    (no Linux, or other processes share the ports), connections wait in the
    queue of the child.
    """

    _INSTRUCTION = Struct("=HBBI")

    def __init__(
        self, all_listeners: Sequence[Listeners], possible: bool = True
    ) -> None:
        self._count = len(all_listeners)
        # One program applies to all sockets of the port.
        self._firsts = [
            sock for sock in all_listeners[0].values() if sock.family != _socket.AF_UNIX
        ]
        self._closed: frozenset[int] = frozenset()
        self._possible = possible and sys.platform == "linux"

    def exclude(self, closed: frozenset[int]) -> None:
        """Send new connections to the other children from now on. If all
        children would be excluded, no child is."""
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
                sock.setsockopt(_socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, option)
        except OSError as error:
            self._possible = False
            logging.getLogger(__name__).info(
                "connection steering is unavailable (%s): while a node restarts, "
                "its new connections wait",
                error.strerror,
            )

    def _program(self, closed: frozenset[int]) -> list[bytes]:
        """The instructions that select one of the open listeners by chance."""
        # opcode, instructions to skip if true, and if false, constant
        pack = self._INSTRUCTION.pack
        if not closed:
            return [pack(_RETURN_CONSTANT, 0, 0, _NO_LISTENER)]

        # A number of an open listener, as if the closed ones did not count.
        open_listeners = self._count - len(closed)
        program = [
            pack(_LOAD, 0, 0, _RANDOM_NUMBER),
            pack(_MODULO, 0, 0, open_listeners),
        ]
        # Each closed listener up to it moves it on by one.
        for number in sorted(closed):
            program.append(pack(_JUMP_IF_AT_LEAST, 0, 1, number))
            program.append(pack(_ADD, 0, 0, 1))
        program.append(pack(_RETURN_ACCUMULATOR, 0, 0, 0))
        return program


class Rush:
    """Chooses which of many nodes get new connections. While very many come,
    ``few`` nodes at a time get them, in turn. A login takes less time on a node
    that logs in many clients at once. Nodes with fewer connections than others
    get new ones first. ``few`` 0: there are not many nodes. Owner of the
    counts.
    """

    def __init__(self, few: int) -> None:
        self._few = few
        self._counts: dict[int, NodeMarks] = {}
        self._counted_at = -math.inf
        self._per_second = 0.0
        self._chosen: frozenset[int] = frozenset()
        self._until = 0.0
        self._coming: dict[int, float] = {}
        """Node → about how many connections it has got but not reported yet."""
        self._last: dict[int, float] = {}
        """Node → when it was last chosen."""

    @property
    def active(self) -> bool:
        """Whether very many came in the last second."""
        return self._per_second >= _RUSH_PER_SECOND

    def choose(self, nodes: dict[int, NodeMarks], now: float) -> frozenset[int]:
        """The numbers of the nodes that get new connections, from the nodes
        that accept clients."""
        if not self._few or not nodes:
            return frozenset(nodes)
        if now - self._counted_at >= _COUNT_SECONDS:
            self._count(nodes, now)
        if now >= self._until or not self._chosen <= nodes.keys():
            self._choose_again(nodes, now)
        return self._chosen

    def _choose_again(self, nodes: dict[int, NodeMarks], now: float) -> None:
        """Choose nodes, and until when they get new connections."""
        coming = self._coming
        counts = {
            number: marks.connections + coming.get(number, 0.0)
            for number, marks in nodes.items()
        }
        mean = sum(counts.values()) / len(counts)

        def rank(number: int) -> tuple[bool, float]:
            return counts[number] > mean, self._last.get(number, 0.0)

        # First the nodes with fewer connections, and among them the one whose
        # turn was longest ago.
        order = sorted(counts, key=rank)
        few_have_room = all(
            nodes[number].room >= _RUSH_ROOM for number in order[: self._few]
        )
        difference = max(counts.values()) - min(counts.values())
        if self.active and few_have_room:
            most = self._few
        elif difference < _EVEN_CONNECTIONS:
            most = len(order)
        else:
            most = sum(count <= mean for count in counts.values())

        # until each has got half the mean
        seconds = most * mean / 2 / max(self._per_second, 1.0)
        seconds = min(max(seconds, RUSH_SECONDS), _LONGEST_SECONDS)
        self._chosen = frozenset(order[:most])
        self._until = now + seconds
        share = seconds * self._per_second / most
        for number in self._chosen:
            coming[number] = coming.get(number, 0.0) + share
            self._last[number] = now

    def _count(self, nodes: dict[int, NodeMarks], now: float) -> None:
        """Measure how many connections come."""
        before = self._counts
        self._counts = nodes
        came = 0
        for number, marks in nodes.items():
            if number in before:
                came += max(marks.connections - before[number].connections, 0)
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
        """The marks that the node has reported."""
        return NodeMarks(*_MARKS.unpack_from(self._memory, _MARKS_AT))

    def text(self, failed: bool) -> str:
        """The notes that the child reported for the banner, one per line, or
        why it ended; else empty."""
        has_failed, length = _HEADER.unpack_from(self._memory, _HEADER_AT)
        if has_failed != failed:
            return ""
        return self._memory[_TEXT_AT : _TEXT_AT + length].decode("utf-8", "replace")


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
        """When the next child starts, while the slot has no child."""
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
        """Record that a child was started."""
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
        marks = self.status.marks
        if self.state is not SlotState.SERVING or not marks.ready or marks.room <= 0:
            return False
        return self.silent_seconds(now) < _SILENT_SECONDS

    def ended(self, now: float, planned: bool) -> float:
        """The child ended; returns the seconds until the next one starts.

        0 if it was planned; otherwise random below a bound that doubles with
        each failure, so that children with the same fault do not restart
        together. The first failure after a minute counts as the first.
        """
        if planned or now - self.since >= _LONG_LIFE_SECONDS:
            self.failures = 0
        pause = 0.0
        if not planned:
            longest = min(2.0**self.failures, _LONGEST_PAUSE_SECONDS)
            pause = random.uniform(0.0, longest)
            self.failures = min(self.failures + 1, _MAX_FAILURES)

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
    if not config.clustered or (count == 1 and first == 0):
        return
    if first == 0:
        raise StartError(
            f"app.rpc_port 0: {count} nodes need fixed ports, because the port "
            "identifies a node"
        )

    last = first + PORTS_PER_NODE * count - 1
    if count > 1:
        need = f"{count} nodes need"
    else:
        need = "a node needs"
    if last > LAST_PORT:
        raise StartError(f"app.rpc_port {first}: {need} the ports up to {last}")

    ports = {
        "app.http_port": config.app.http_port,
        "app.websocket_port": config.app.websocket_port,
    }
    for number, row in enumerate(config.server.extra_listen):
        ports[f"server.extra_listen[{number}]"] = row.port
    for name, port in ports.items():
        if first <= port <= last:
            raise StartError(
                f"app.rpc_port {first}: {need} the ports up to {last}, and {name} "
                f"is {port}"
            )


def resolve_addresses(config: Config) -> Config:
    """Resolve the listen addresses and the advertised address once, for all
    nodes.

    Each node finds the advertised address by itself if only its database tells
    whether it is in demo mode.
    """
    extra = []
    for row in config.server.extra_listen:
        if row.host:
            row = msgspec.structs.replace(row, host=resolve(row.host))
        extra.append(row)
    host = resolve(config.server.host)
    advertise = config.cluster.advertise
    is_undecided = config.demo and not config.server.insecure
    if not advertise and not is_undecided:
        advertise = own_address()
    return _replaced(
        config,
        server={"host": host, "extra_listen": tuple(extra)},
        cluster={"advertise": advertise},
    )


def for_child(config: Config, number: int) -> Config:
    """Settings of child ``number``: each has two RPC ports, the first one is
    part of its node id."""
    rpc_port = config.app.rpc_port + PORTS_PER_NODE * number
    settings = _replaced(config, app={"rpc_port": rpc_port})
    # the supervisor has logged the warnings
    return msgspec.structs.replace(settings, warnings=())


def name_of(config: Config) -> str:
    """The node id for these settings."""
    return node_name(config.cluster.advertise, config.app.rpc_port)


def apply_reload(
    config: Config, given: Config, used: Config
) -> tuple[Config, list[str]]:
    """The reloaded settings, and the names of the settings in them that need a
    full restart and therefore keep their old values.

    ``given`` are the settings as read at the start, ``used`` the settings after
    :func:`resolve_addresses`.
    """
    changed: list[str] = []
    unchanged: dict[str, dict[str, Any]] = {}
    for section, keys in _FIXED.items():
        old = getattr(given, section)
        new = getattr(config, section)
        effective = getattr(used, section)
        unchanged[section] = {key: getattr(effective, key) for key in keys}
        for key in keys:
            if getattr(old, key) != getattr(new, key):
                changed.append(f"{section}.{key}")
    return _replaced(config, **unchanged), changed


def _replaced(config: Config, **sections: dict[str, Any]) -> Config:
    """The settings with other values of some keys: section → key → value."""
    parts = {
        name: msgspec.structs.replace(getattr(config, name), **keys)
        for name, keys in sections.items()
    }
    return msgspec.structs.replace(config, **parts)
