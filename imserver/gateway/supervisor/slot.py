"""Slots. A slot is the place of one child process, with its settings,
listeners, status page, state and restart delay."""

import _socket
import logging
import math
import mmap
import random
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from struct import Struct, pack
from typing import Any, Final, NamedTuple

import msgspec

from imserver.gateway.cluster.registry import node_name, own_address
from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError
from imserver.gateway.node.http_servers import Listeners


def resolve(host: str) -> str:
    """Return the first IP address of a host name. Raises StartError if it has
    no address."""
    try:
        addresses = _socket.getaddrinfo(
            host, 0, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartError(
            f"server.host {host} cannot be resolved: {error.strerror}"
        ) from None
    # Each row ends with an address and a port.
    *_, socket_address = addresses[0]
    return str(socket_address[0])


class NodeMarks(NamedTuple):
    """The state that a node reports to the supervisor.

    ``started`` tells whether the node has begun to serve, and ``ready`` whether
    it accepts clients. ``connections`` is the number of its connections, and
    ``room`` how many more it accepts.
    """

    started: bool
    ready: bool
    connections: int
    room: int


RUSH_SECONDS: Final = 0.1
"""The least time for which new connections go to the same few nodes.

After this time, other nodes are chosen when each of the few has got enough
connections: half as many as a node has on average. At the latest they are
chosen after :data:`_LONGEST_SECONDS`. So all nodes get about as many
connections, however many come.
"""
_LONGEST_SECONDS: Final = 0.5
"""The longest time for which new connections go to the same few nodes."""
_COUNT_SECONDS: Final = 1.0
"""Time over which the rate of new connections is measured."""
_RUSH_PER_SECOND: Final = 500
"""From this number of new connections per second there is a rush."""
_RUSH_ROOM: Final = 8192
"""In a rush a node gets new connections only if it has room for this many
connections. It is twice the length of an accept queue."""
_EVEN_CONNECTIONS: Final = 512
"""If the numbers of connections of all nodes differ by less, all nodes get new
connections."""
_SILENT_SECONDS: Final = 5.0
"""A child gets no new clients if its event loop was blocked for this many
seconds."""
_LONG_LIFE_SECONDS: Final = 60.0
"""If a child has lived for this time, its failure counts as the first
failure."""
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""The longest time until a failed child is restarted."""
_MAX_FAILURES: Final = 16
"""Failures are counted up to this number. Beyond it, the pause before a restart
no longer grows."""

_ATTACH_REUSEPORT_CBPF: Final = 51
"""The option SO_ATTACH_REUSEPORT_CBPF of Linux. The module socket does not have
this constant."""
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
"""A number that no listener has. If the program returns it, the kernel chooses
a listener by hash."""


class ConnectionSteering:
    """Sends new connections only to children that can serve them.

    All children listen at the same ports (SO_REUSEPORT), so the kernel chooses
    a child for each new connection. A classic BPF program, which needs no
    privilege, makes that choice: it returns the number of a listener.

    ``possible`` is False on systems other than Linux, and if other processes
    share the ports. Then a connection to a child that cannot serve it waits in
    the queue of that child.
    """

    _INSTRUCTION = Struct("=HBBI")

    def __init__(
        self, all_listeners: Sequence[Listeners], possible: bool = True
    ) -> None:
        """``all_listeners`` has the listening sockets of each child, in the
        order of their numbers."""
        self._count = len(all_listeners)
        # A program that is attached to one socket applies to all sockets of its
        # port. So the sockets of the first child are enough.
        self._firsts = [
            sock for sock in all_listeners[0].values() if sock.family != _socket.AF_UNIX
        ]
        self._closed: frozenset[int] = frozenset()
        """The numbers of the children that get no new connections."""
        self._possible = possible and sys.platform == "linux"

    def exclude(self, closed: frozenset[int]) -> None:
        """From now on send no new connections to the children with these
        numbers.

        If ``closed`` has the numbers of all children, no child is excluded: a
        client that waits is better than a refused connection.
        """
        if len(closed) == self._count:
            closed = frozenset()
        if closed == self._closed or not self._possible:
            return
        self._closed = closed
        try:
            self._attach(self._program(closed))
        except OSError as error:
            self._possible = False
            logging.getLogger(__name__).info(
                "connection steering is unavailable (%s): while a node restarts, "
                "its new connections wait",
                error.strerror,
            )

    def _attach(self, instructions: Sequence[bytes]) -> None:
        """Let the kernel choose listeners by this program. Raises OSError."""
        program = array("B", b"".join(instructions))
        address, size = program.buffer_info()
        # struct sock_fprog: the number of instructions, and their address.
        option = pack("@HP", size // self._INSTRUCTION.size, address)
        for sock in self._firsts:
            sock.setsockopt(_socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, option)

    def _program(self, closed: frozenset[int]) -> list[bytes]:
        """Return the BPF instructions that choose one of the open listeners at
        random.

        ``closed`` has the numbers of the listeners that are not chosen.
        """
        # An instruction has an opcode, how many instructions to skip if its
        # condition is true and if it is false, and a constant.
        pack = self._INSTRUCTION.pack
        if not closed:
            return [pack(_RETURN_CONSTANT, 0, 0, _NO_LISTENER)]

        # The program first makes a random number below the number of open
        # listeners.
        open_listeners = self._count - len(closed)
        program = [
            pack(_LOAD, 0, 0, _RANDOM_NUMBER),
            pack(_MODULO, 0, 0, open_listeners),
        ]
        program += self._skip(closed)
        program.append(pack(_RETURN_ACCUMULATOR, 0, 0, 0))
        return program

    def _skip(self, closed: frozenset[int]) -> list[bytes]:
        """Return the instructions that change a number of an open listener to
        its number among all listeners.

        They add one for each closed listener up to the number. For example, if
        the listener 1 is closed, 0, 1, 2 become 0, 2, 3.
        """
        pack = self._INSTRUCTION.pack
        instructions = []
        for number in sorted(closed):
            instructions.append(pack(_JUMP_IF_AT_LEAST, 0, 1, number))
            instructions.append(pack(_ADD, 0, 0, 1))
        return instructions


class Rush:
    """Chooses which of many nodes get new connections.

    In a rush, very many clients connect. Then only ``few`` nodes at a time get
    the new connections, and the nodes take turns. A login takes less time on a
    node that logs in many clients at once. Nodes with fewer connections than
    others get new ones first. If ``few`` is 0, there are not many nodes, and
    all of them get new connections.
    """

    def __init__(self, few: int) -> None:
        """``few`` is the number of nodes that get new connections during a
        rush; 0 means all nodes."""
        self._few = few
        self._counts: dict[int, NodeMarks] = {}
        """Number of a node → its marks at the last count of connections."""
        self._counted_at = -math.inf
        """The time of the last count of connections; minus infinity before the
        first count."""
        self._per_second = 0.0
        """How many connections came per second, according to the last count."""
        self._chosen: frozenset[int] = frozenset()
        """The numbers of the nodes that get new connections."""
        self._chosen_until = 0.0
        """Time until which the chosen nodes get new connections."""
        self._unreported: dict[int, float] = {}
        """Number of a node → an estimate of the connections that it has got but
        not reported yet."""
        self._chosen_at: dict[int, float] = {}
        """Number of a node → the time of its last choice."""

    @property
    def active(self) -> bool:
        """Whether there is a rush: very many clients connected in the last
        second."""
        return self._per_second >= _RUSH_PER_SECOND

    def choose(self, nodes: dict[int, NodeMarks], now: float) -> frozenset[int]:
        """Return the numbers of the nodes that get new connections now.

        ``nodes`` has the nodes that accept clients, by number. A choice lasts
        for a short time, or until one of the chosen nodes no longer accepts
        clients.
        """
        # There are not many nodes, or none of them accepts clients.
        if not self._few or not nodes:
            return frozenset(nodes)
        if now - self._counted_at >= _COUNT_SECONDS:
            self._count(nodes, now)
        if now >= self._chosen_until or not self._chosen <= nodes.keys():
            self._choose_again(nodes, now)
        return self._chosen

    def _choose_again(self, nodes: dict[int, NodeMarks], now: float) -> None:
        """Choose the nodes that get new connections, and the time until which
        they get them."""
        counts = self._expected_counts(nodes)
        mean = sum(counts.values()) / len(counts)
        order = self._order_of_turns(counts, mean)
        chosen_count = self._chosen_count(nodes, counts, order)

        # The nodes keep their turn until each of them has got half the mean.
        seconds = chosen_count * mean / 2 / max(self._per_second, 1.0)
        seconds = min(max(seconds, RUSH_SECONDS), _LONGEST_SECONDS)
        self._give_turn(order[:chosen_count], now, seconds)

    def _order_of_turns(self, counts: Mapping[int, float], mean: float) -> list[int]:
        """Sort nodes by the order in which they get new connections.

        The nodes with fewer connections than the ``mean`` come first. Among
        these, the node that has waited longest for a turn comes first.
        """

        def rank(number: int) -> tuple[bool, float]:
            return counts[number] > mean, self._chosen_at.get(number, 0.0)

        return sorted(counts, key=rank)

    def _expected_counts(self, nodes: dict[int, NodeMarks]) -> dict[int, float]:
        """Return an estimate of how many connections each node has now.

        Connections that a node got a moment ago are not in its marks yet.
        """
        return {
            number: marks.connections + self._unreported.get(number, 0.0)
            for number, marks in nodes.items()
        }

    def _give_turn(self, numbers: list[int], now: float, seconds: float) -> None:
        """Let these nodes get the new connections for some seconds.

        This estimates the connections that the nodes will get, because the
        nodes report them in their marks only later.
        """
        self._chosen = frozenset(numbers)
        self._chosen_until = now + seconds
        expected_each = seconds * self._per_second / len(numbers)
        for number in numbers:
            unreported = self._unreported.get(number, 0.0)
            self._unreported[number] = unreported + expected_each
            self._chosen_at[number] = now

    def _chosen_count(
        self, nodes: dict[int, NodeMarks], counts: dict[int, float], order: list[int]
    ) -> int:
        """Return how many nodes get new connections, from the start of ``order``.

        In a rush these are a few nodes, if each of them has enough room.
        Without a rush, all nodes get new connections if they have about the
        same number of connections. Otherwise only the nodes with no more
        connections than the mean get new ones, so that these nodes catch up.
        """
        if self.active and all(
            nodes[number].room >= _RUSH_ROOM for number in order[: self._few]
        ):
            return self._few
        # If all nodes have about the same number of connections, no node needs
        # to catch up.
        difference = max(counts.values()) - min(counts.values())
        if difference < _EVEN_CONNECTIONS:
            return len(order)
        mean = sum(counts.values()) / len(counts)
        return sum(count <= mean for count in counts.values())

    def _count(self, nodes: dict[int, NodeMarks], now: float) -> None:
        """Measure how many connections have come per second since the last
        call.

        ``nodes`` has the current marks. A node that was not in the last call
        counts from the next call on.
        """
        before = self._counts
        self._counts = nodes
        new_connections = 0
        for number, marks in nodes.items():
            if number in before:
                growth = marks.connections - before[number].connections
                new_connections += max(growth, 0)
        self._per_second = new_connections / (now - self._counted_at)
        self._counted_at = now
        # The marks now include the connections that were not reported before.
        self._unreported = {}


# The layout of a status page: heartbeats, marks, header of the text, text.
_BEATS: Final = Struct("=Q")
_MARKS: Final = Struct("=??IQ")
"""The fields of :class:`NodeMarks`."""
_HEADER: Final = Struct("=?H")
"""Whether the text is the reason of a failure, and the length of the text in
bytes."""
_MARKS_AT: Final = _BEATS.size
_HEADER_AT: Final = _MARKS_AT + _MARKS.size
_TEXT_AT: Final = _HEADER_AT + _HEADER.size


class StatusPage:
    """Shared memory through which a child reports to the supervisor, without
    system calls.

    The supervisor creates the page before the fork. Afterwards only the child
    writes to it.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        """Reset the page for the next child."""
        self._memory[:] = bytes(mmap.PAGESIZE)

    # --- child side -----------------------------------------------------------

    def beat(self, marks: NodeMarks) -> None:
        """Set the marks, and count a heartbeat."""
        _MARKS.pack_into(self._memory, _MARKS_AT, *marks)
        _BEATS.pack_into(self._memory, 0, self.beats + 1)

    def report(self, text: str, failed: bool = False) -> None:
        """Store a text for the supervisor.

        Usually these are the notes for the banner, one per line. With
        ``failed`` it is the reason why the child ends, in one line. A text that
        is too long for the page is cut.
        """
        data = text.encode("utf-8", "backslashreplace")[: mmap.PAGESIZE - _TEXT_AT]
        self._memory[_TEXT_AT : _TEXT_AT + len(data)] = data
        _HEADER.pack_into(self._memory, _HEADER_AT, failed, len(data))

    # --- supervisor side ------------------------------------------------------

    @property
    def beats(self) -> int:
        """Number of heartbeats so far. The number does not grow while the event
        loop of the child is blocked."""
        beats: int = _BEATS.unpack_from(self._memory, 0)[0]
        return beats

    @property
    def marks(self) -> NodeMarks:
        """The marks that the node has reported."""
        return NodeMarks(*_MARKS.unpack_from(self._memory, _MARKS_AT))

    def text(self, failed: bool) -> str:
        """Return the text that the child has reported.

        With ``failed`` this is the reason why it ended, otherwise its notes for
        the banner. The result is ``""`` if the child has reported no such text.
        """
        has_failed, length = _HEADER.unpack_from(self._memory, _HEADER_AT)
        if has_failed != failed:
            return ""
        return self._memory[_TEXT_AT : _TEXT_AT + length].decode("utf-8", "replace")


class SlotState(Enum):
    """State of a slot's child."""

    DOWN, STARTING, SERVING, DRAINING = range(4)


class Slot:
    """The place of one child process, which stays when the child is replaced.

    ``number`` counts from 0, and decides the ports of the child. ``name`` is
    the id of its node. ``pid`` is 0 if the slot has no child. Owner: the
    supervisor.
    """

    def __init__(self, number: int, name: str, listeners: Listeners) -> None:
        """Make a slot without a child. The first child is due at once."""
        self.number = number
        self.name = name
        self.listeners = listeners
        self.status = StatusPage()
        self.state = SlotState.DOWN
        self.pid = 0
        self.generation = 0
        """How many rolling restarts had begun when the child was forked."""
        self.since = 0.0
        """When the current child was forked, or when the last child ended."""
        self.due = 0.0
        """When the next child starts, while the slot has no child."""
        self.deadline = math.inf
        """When the child is killed if it still runs."""
        self.hangs = False
        """Whether the child hangs, and is about to be killed."""
        self.failures = 0
        """Consecutive children that ended unexpectedly and early."""
        self.waiting_signals: list[int] = []
        """Signals to forward to the child once it serves. If they were sent
        earlier, they would end the child or get lost."""
        self._beats = 0
        """The number of heartbeats at the last check."""
        self._beat_at = 0.0
        """When a check last found that the number of heartbeats has grown."""

    def forked(self, pid: int, now: float, generation: int) -> None:
        """Record that a child was started, as the process ``pid``.

        ``generation`` says how many rolling restarts have begun until now. The
        number shows later whether this child has the newest settings.
        """
        self.pid = pid
        self.since = now
        self.generation = generation
        self.state = SlotState.STARTING
        self.deadline = math.inf
        self.hangs = False
        self._beats = 0
        self._beat_at = now

    def observe(self, now: float, missed: float) -> bool:
        """Read the status page. Returns whether the child has just begun to
        serve.

        ``missed`` has the seconds in which the supervisor itself could not
        read. These seconds do not count as silence of the child.
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
        """Seconds since the last heartbeat of the child."""
        return now - self._beat_at

    def accepts_clients(self, now: float) -> bool:
        """Whether new clients should be sent to this child: it serves, is
        ready, has room for them, and its loop is not blocked."""
        marks = self.status.marks
        if self.state is not SlotState.SERVING or not marks.ready or marks.room <= 0:
            return False
        return self.silent_seconds(now) < _SILENT_SECONDS

    def ended(self, now: float, planned: bool) -> float:
        """Record that the child has ended. Returns the seconds until the next
        one starts.

        After a ``planned`` end the next child starts at once. Otherwise the
        pause is random, below a limit that doubles with each failure. So
        children with the same fault do not restart together. If the child has
        lived for a minute, its failure counts as the first one.
        """
        if planned or now - self.since >= _LONG_LIFE_SECONDS:
            self.failures = 0
        pause = 0.0
        if not planned:
            # The longest pause is 1, 2, 4, … seconds.
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
"""How many RPC ports a node has. The first port is in the id of the node."""
LAST_PORT: Final = 65535
# Settings that need a full restart, by section: the supervisor has already
# applied them, or all processes must agree on them.
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
    """Raise StartError if the RPC ports of all nodes collide with other ports.

    Nodes call each other at their RPC ports. The nodes of one machine take
    consecutive ports, from ``app.rpc_port`` on. Port 0 means any free port,
    which only a single node can use.
    """
    first = config.app.rpc_port
    count = config.server.processes
    # Without a cluster, no node has an RPC port.
    if not config.clustered or (count == 1 and first == 0):
        return
    if first == 0:
        raise StartError(
            f"app.rpc_port 0: {count} nodes need fixed ports, because the port "
            "identifies a node"
        )

    _refuse_taken_ports(config, first, first + PORTS_PER_NODE * count - 1)


def _refuse_taken_ports(config: Config, first: int, last: int) -> None:
    """Raise StartError if nodes cannot have the ports from ``first`` to
    ``last``."""
    count = config.server.processes
    nodes = f"{count} nodes need" if count > 1 else "a node needs"
    need = f"app.rpc_port {first}: {nodes} the ports up to {last}"
    if last > LAST_PORT:
        raise StartError(need)
    for name, port in _client_ports(config).items():
        if first <= port <= last:
            raise StartError(f"{need}, and {name} is {port}")


def _client_ports(config: Config) -> dict[str, int]:
    """Return the ports at which clients connect, by the names of their settings."""
    ports = {
        "app.http_port": config.app.http_port,
        "app.websocket_port": config.app.websocket_port,
    }
    for number, row in enumerate(config.server.extra_listen):
        ports[f"server.extra_listen[{number}]"] = row.port
    return ports


def resolve_addresses(config: Config) -> Config:
    """Return the settings with IP addresses in place of host names.

    So names are resolved once, for all nodes. The result also has the address
    that nodes advertise to each other. This address stays empty if only the
    database tells whether a node is in demo mode. Then each node finds its
    address by itself. Raises StartError if a host has no address.
    """
    extra = []
    for row in config.server.extra_listen:
        if row.host:
            row = msgspec.structs.replace(row, host=resolve(row.host))
        extra.append(row)
    host = resolve(config.server.host)
    advertise = _advertised_address(config)
    return _replaced(
        config,
        server={"host": host, "extra_listen": tuple(extra)},
        cluster={"advertise": advertise},
    )


def _advertised_address(config: Config) -> str:
    """Return the address that nodes advertise to each other.

    The result is ``""`` if only the database tells whether a node is in demo
    mode. A stored key would end demo mode, and nobody has read the database
    yet.
    """
    is_undecided = config.demo and not config.server.insecure
    if config.cluster.advertise or is_undecided:
        return config.cluster.advertise
    return own_address()


def for_child(config: Config, number: int) -> Config:
    """Return the settings of child ``number``, which has RPC ports of its own."""
    rpc_port = config.app.rpc_port + PORTS_PER_NODE * number
    settings = _replaced(config, app={"rpc_port": rpc_port})
    # The supervisor has logged the warnings already.
    return msgspec.structs.replace(settings, warnings=())


def name_of(config: Config) -> str:
    """The node id for these settings."""
    return node_name(config.cluster.advertise, config.app.rpc_port)


def apply_reload(
    config: Config, given: Config, used: Config
) -> tuple[Config, list[str]]:
    """Apply reloaded settings, except settings that need a full restart.

    ``config`` has the reloaded settings, and ``given`` the settings as they
    were read at the start. ``used`` has the settings in use, after
    :func:`resolve_addresses`. Returns the settings to use from now on, and the
    names of changed settings that keep their old values until a full restart.
    """
    changed: list[str] = []
    unchanged_sections: dict[str, dict[str, Any]] = {}
    for section, keys in _FIXED.items():
        in_use = getattr(used, section)
        unchanged_sections[section] = {key: getattr(in_use, key) for key in keys}
        changed += _changed_keys(given, config, section, keys)
    return _replaced(config, **unchanged_sections), changed


def _changed_keys(
    given: Config, config: Config, section: str, keys: Iterable[str]
) -> list[str]:
    """List the settings of a section that a reload would change.

    This compares the new settings with the settings as they were written. The
    settings in use have addresses in place of host names.
    """
    old = getattr(given, section)
    new = getattr(config, section)
    return [
        f"{section}.{key}" for key in keys if getattr(old, key) != getattr(new, key)
    ]


def _replaced(config: Config, **sections: dict[str, Any]) -> Config:
    """Return the settings with other values in some sections.

    ``sections`` maps a section to its new values, for example
    ``app={"rpc_port": 7000}``.
    """
    parts = {
        name: msgspec.structs.replace(getattr(config, name), **keys)
        for name, keys in sections.items()
    }
    return msgspec.structs.replace(config, **parts)
