"""The link to a Redis Cluster: a connection to each master, and which of them
serves a command."""

import logging
import re
from binascii import crc_hqx
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Final

import gevent
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.cluster.redis.connection import (
    ErrorReply,
    RedisAddress,
    RedisUnavailable,
    TrackedKeys,
)
from imserver.gateway.cluster.redis.link import (
    Command,
    Done,
    RedisLink,
    ServerLink,
    ask_first,
)
from imserver.gateway.cluster.redis.scripts import MARKS, MARKS_IN_CLUSTER
from imserver.gateway.cluster.registry import RegistryCounters

log = logging.getLogger(__name__)

_SLOTS: Final = 16_384
_SLOT_BITS: Final = _SLOTS - 1
_MARKS_SLOTS: Final = 256
"""How far apart the slots of the marks are: a master with twice as many in a
row has marks."""
_ROUND_SECONDS: Final = 0.01
"""Time between two rounds of an exchange, while slots are being moved."""
_NO_SLOT: Final = -1
"""The slot of a command without a slot: it goes to all masters (the probe), or
to one after the other."""
_LINES_BEFORE_KEY: Final = 4
"""The lines of a packed command before its key: the number of words, the size
and text of the name, and the size of the key."""
_SCRIPT_KEY: Final = 3
"""The index of the first key among the words of EVALSHA, after the name, the
hash of the script, and the number of keys."""
_MOST_SHARES: Final = 3
"""Into how many shares the time of a question to several masters is divided."""
_REDIRECT: Final = re.compile(
    r"(?P<kind>MOVED|ASK|TRYAGAIN)\b(?: (?P<slot>\d+) (?P<host>.*):(?P<port>\d+))?"
)
Server = tuple[str, int]
"""Host and port of a master."""


def open_link(
    address: RedisAddress,
    seconds: float,
    counters: RegistryCounters,
    tracked: TrackedKeys | None = None,
) -> RedisLink:
    """A link whose exchanges take at most ``seconds``; it reports changes of
    ``tracked`` keys if it can."""
    if address.kind == "cluster":
        return ClusterLink(address, seconds, counters, tracked is not None)
    marks = () if tracked is None else (MARKS,)
    return ServerLink(address, seconds, counters, tracked, lambda: marks)


def slot_of_key(key: bytes) -> int:
    """The slot of a key in a Redis Cluster."""
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) & _SLOT_BITS


def _keys_of_marks() -> list[str]:
    """Keys of marks whose slots are spread over all slots."""
    keys: dict[int, str] = {}
    for number in count():
        if len(keys) * _MARKS_SLOTS == _SLOTS:
            break
        key = MARKS_IN_CLUSTER % number
        keys.setdefault(slot_of_key(key.encode()) // _MARKS_SLOTS, key)
    return list(keys.values())


def slot_of(command: Command) -> int:
    """The slot of a command, which is the slot of its first key."""
    if isinstance(command, bytes):
        _, _, _, size, rest = command.split(b"\r\n", _LINES_BEFORE_KEY)
        return slot_of_key(rest[: int(size[1:])])
    name = command[0]
    if name == "EXISTS" or name == "SCAN":
        return _NO_SLOT
    key = command[_SCRIPT_KEY] if name == "EVALSHA" else command[1]
    if isinstance(key, str):
        key = key.encode()
    return slot_of_key(key)


def _probe_key(slots: Sequence[Server | None], server: Server) -> bytes:
    """A key in a slot of a server."""
    keys = (b"imserver:probe:%d" % number for number in count())
    return next(key for key in keys if slots[slot_of_key(key)] == server)


def _redirect(reply: object) -> re.Match[str] | None:
    """The place where a command must be repeated, if the reply says so; else
    None."""
    if isinstance(reply, ErrorReply):
        return _REDIRECT.match(str(reply))
    return None


def _next_scan(command: Command, reply: list[Any], masters: int) -> list[Any]:
    """The reply to a step of a SCAN, with a cursor that also says which of the
    masters comes next."""
    position = int(reply[0])
    index = int(command[1]) % masters
    if position == 0:  # this master has no more keys
        index = (index + 1) % masters
    return [b"%d" % (position * masters + index), reply[1]]


class _Redirects(Struct):
    """The news about slots in the replies of a round.

    ``importing``: slot → the master that is taking it over, and has the keys of
    the command already (``ASK``). ``moved``: slot → its new master. ``sources``:
    the masters that know a newer map, and None for any of them, after a
    failure.
    """

    importing: dict[int, Server] = field(default_factory=dict)
    moved: dict[int, Server] = field(default_factory=dict)
    sources: set[Server | None] = field(default_factory=set)

    def note(self, server: Server, redirect: re.Match[str]) -> None:
        """``server`` has replied that a command must be repeated elsewhere."""
        kind = redirect["kind"]
        if kind == "TRYAGAIN":
            return
        slot = int(redirect["slot"])
        host, _ = server
        target = (redirect["host"] or host, int(redirect["port"]))
        if kind == "ASK":
            self.importing[slot] = target
        else:
            self.moved[slot] = target
            self.sources.add(server)


class _Exchange(Struct):
    """The commands of one exchange, which are sent in rounds until each has its
    reply.

    ``left``: the indexes of commands that the next round sends. ``failed``: the
    masters that do not answer, and why.
    """

    replies: list[Any]
    left: Sequence[int]
    failed: dict[Server, RedisUnavailable]

    def refuse(self, indexes: Iterable[int], why: str) -> None:
        """Reply to commands with an error of their own."""
        for index in indexes:
            self.replies[index] = RedisUnavailable(why)

    def take(
        self,
        parts: Mapping[Server, Sequence[int]],
        results: Mapping[Server, list[Any] | RedisUnavailable],
    ) -> _Redirects:
        """Take the replies of masters to their parts of the commands, and
        decide which commands are left."""
        redirects = _Redirects()
        left: set[int] = set()

        for server, part in parts.items():
            result = results[server]
            if isinstance(result, RedisUnavailable):
                self.failed[server] = result
                left.update(part)
                redirects.sources.add(None)
                continue
            for index, reply in zip(part, result, strict=True):
                redirect = _redirect(reply)
                if redirect is None:
                    self.replies[index] = reply
                else:
                    left.add(index)
                    redirects.note(server, redirect)
        self.left = sorted(left)
        return redirects


class ClusterLink(RedisLink):
    """See :class:`RedisLink`. Owner of the connections to the masters, and of
    the map of slots.

    Commands go to the masters of their slots, to all masters at once. An
    exchange ends when all masters have replied, so commands of one slot keep
    their order. They keep it also while a slot moves: a command that a master
    refers to another one (``MOVED``, ``ASK``) is repeated there before the next
    exchange.

    ``shared``: many callers share it. So a master that does not answer is left
    out until :meth:`restore` reaches it or a replica that has taken over. Until
    then its commands have an error at once.
    """

    is_cluster = True

    def __init__(
        self,
        address: RedisAddress,
        seconds: float,
        counters: RegistryCounters,
        shared: bool,
    ) -> None:
        self.seconds = seconds
        self.counters = counters
        self._address = address
        self._shared = shared

        self._links: dict[Server, ServerLink] = {}
        self._gone: list[ServerLink] = []
        """Links to servers without slots, to be closed before the next
        exchange."""
        self._masters: dict[Server, Command] = {}
        """The masters of slots, with a probe: a command with a key in one of
        them."""
        self._slots: list[Server | None] = []
        """The master of each slot, and None at the end for commands without a
        slot; empty: not known."""
        self._absent: dict[Server, RedisUnavailable] = {}
        """The masters that are left out, and why."""
        self._closed_connects = 0
        self.marks = _keys_of_marks() if shared else ()
        self._marks_at: dict[Server, list[str]] = {}
        """The keys of the marks on each master."""
        # The exchange that was begun.
        self._replies: list[Any] = []
        self._parts = 0
        self._again = False

    @property
    def connects(self) -> int:  # type: ignore[override]
        links = (*self._links.values(), *self._gone)
        return self._closed_connects + sum(link.connects for link in links)

    @property
    def life(self) -> bytes:  # type: ignore[override]
        lives = [self._links[server].life for server in self._masters]
        if all(lives):
            return b",".join(sorted(lives))
        return b""

    @property
    def whole(self) -> bool:  # type: ignore[override]
        return not self._absent

    @property
    def first_marks(self) -> list[str]:  # type: ignore[override]
        return [keys[0] for keys in self._marks_at.values()]

    def mark_of(self, command: Command) -> str:
        if not self._slots:
            return ""
        server = self._slots[slot_of(command)]
        if server is None or server not in self._marks_at:
            return ""
        return self._marks_at[server][0]

    def _map_marks(self) -> None:
        """Note which marks each master has, by the map of slots."""
        self._marks_at = {}
        for key in self.marks:
            server = self._slots[slot_of_key(key.encode())]
            if server is not None:
                self._marks_at.setdefault(server, []).append(key)

    # --- without waiting ------------------------------------------------------

    def begin(self, commands: Sequence[Command], done: Done) -> bool:
        # Local names: the loop runs for each command of a push.
        slots = self._slots
        links = self._links
        absent = self._absent
        if not slots or self._gone:
            return False

        parts: dict[Server, list[int]] = {}
        for index, command in enumerate(commands):
            server = slots[slot_of(command)]
            if server is None:
                return False
            if server in parts:
                parts[server].append(index)
            else:
                parts[server] = [index]
        for server in parts:
            if not links[server].is_open and server not in absent:
                return False

        # From here on the exchange has begun: each part is answered once.
        self._replies = [None] * len(commands)
        self._parts = len(parts)
        self._again = False
        for server, part in parts.items():
            received = partial(self._received, server, part, done)
            if server in absent:
                received(absent[server])
            else:
                links[server].begin([commands[index] for index in part], received)
        return True

    def _received(
        self,
        server: Server,
        part: Sequence[int],
        done: Done,
        result: list[Any] | RedisUnavailable | None,
    ) -> None:
        """Take the replies of a master. Callback: never switches greenlets."""
        if result is None:
            self._again = True
        elif isinstance(result, RedisUnavailable):
            self._leave_out(server, result)
            for index in part:
                self._replies[index] = result
        else:
            for index, reply in zip(part, result, strict=True):
                self._replies[index] = reply
                if isinstance(reply, ErrorReply) and _redirect(reply):
                    self._again = True
        self._parts -= 1
        if self._parts:
            return

        if self._masters.keys() <= self._absent.keys():
            done(next(iter(self._absent.values())))
        elif self._again:
            done(None)
        else:
            done(self._replies)

    # --- waiting --------------------------------------------------------------

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        end = monotonic() + self.seconds
        self._close_gone()
        if not self._slots or None in self._slots[:_SLOTS]:
            self._load(self._absent)

        exchange = _Exchange(
            replies=[None] * len(commands),
            left=range(len(commands)),
            failed=dict(self._absent),
        )
        redirects = _Redirects()
        is_first_round = True
        while exchange.left:
            masters = sorted(self._masters)
            parts = self._parts_of(exchange, commands, masters, redirects.importing)
            results = self._exchange_parts(
                commands, parts, len(masters), redirects.importing
            )
            redirects = exchange.take(parts, results)
            self._learn(redirects, exchange.failed)
            if not exchange.left:
                break
            if monotonic() > end:
                exchange.refuse(
                    exchange.left, "slots of the Redis Cluster are being moved"
                )
                break
            # One redirect is usual and is followed at once.
            if not is_first_round:
                gevent.sleep(_ROUND_SECONDS)
            is_first_round = False

        failed = exchange.failed
        if self._masters.keys() <= failed.keys():
            self.close()
            raise next(iter(failed.values()))
        if self._shared:
            for server, error in failed.items():
                self._leave_out(server, error)
        return exchange.replies

    def _parts_of(
        self,
        exchange: _Exchange,
        commands: Sequence[Command],
        masters: list[Server],
        importing: Mapping[int, Server],
    ) -> dict[Server, list[int]]:
        """The remaining commands by master, as indexes. If no master answers
        for a command, its reply is an error."""
        parts: dict[Server, list[int]] = {}
        for index in exchange.left:
            servers = self._servers_of(commands[index], masters, importing)
            if not servers:
                exchange.refuse(
                    [index], "no master of the Redis Cluster serves the slot"
                )
            for server in servers:
                if server not in exchange.failed:
                    parts.setdefault(server, []).append(index)
                elif exchange.replies[index] is None:
                    exchange.replies[index] = exchange.failed[server]
        return parts

    def _servers_of(
        self, command: Command, masters: list[Server], importing: Mapping[int, Server]
    ) -> list[Server]:
        """The masters that get a command. All masters get a probe. A SCAN goes
        to one master at a time, which its cursor names."""
        slot = slot_of(command)
        if slot != _NO_SLOT:
            server = importing.get(slot, self._slots[slot])
            if server is None:
                return []
            return [server]
        if command[0] == "EXISTS":
            return masters
        return [masters[int(command[1]) % len(masters)]]

    def _exchange_parts(
        self,
        commands: Sequence[Command],
        parts: Mapping[Server, Sequence[int]],
        masters: int,
        importing: Mapping[int, Server],
    ) -> dict[Server, list[Any] | RedisUnavailable]:
        """The replies of these masters to their parts of the commands, all at
        once. Switches greenlets."""

        def exchange(
            server: Server, part: Sequence[int]
        ) -> list[Any] | RedisUnavailable:
            sent: list[Command] = []
            positions = []
            for index in part:
                command = commands[index]
                if command[0] == "SCAN":
                    command = ("SCAN", int(command[1]) // masters, *command[2:])
                elif command[0] == "EXISTS":
                    command = self._masters[server]
                elif slot_of(command) in importing:
                    sent.append(("ASKING",))
                positions.append(len(sent))
                sent.append(command)
            try:
                replies = self._link(server).exchange(sent)
            except RedisUnavailable as error:
                return error
            return [replies[position] for position in positions]

        jobs = {
            server: gevent.spawn(exchange, server, part)
            for server, part in parts.items()
        }
        try:
            results = {server: job.get() for server, job in jobs.items()}
        finally:
            gevent.killall(list(jobs.values()), block=False)

        for server, part in parts.items():
            result = results[server]
            if isinstance(result, RedisUnavailable):
                continue
            for position, index in enumerate(part):
                command = commands[index]
                reply = result[position]
                if command[0] == "SCAN" and isinstance(reply, list):
                    result[position] = _next_scan(command, reply, masters)
        return results

    def _learn(self, redirects: _Redirects, failed: Collection[Server]) -> None:
        """Read the map again, from the sources of these redirects. Their news
        about moved slots may be newer than the maps of other masters.
        Switches greenlets."""
        for source in redirects.sources:
            with suppress(RedisUnavailable):
                self._load(failed, source)
        for slot, server in redirects.moved.items():
            self._link(server)
            self._slots[slot] = server
        if redirects.moved:
            self._map_marks()

    def restore(self) -> None:
        try:
            self._load(self._absent)
        except RedisUnavailable:
            return

        for server in list(self._absent):
            if server not in self._links:
                self._absent.pop(server, None)
                continue
            try:
                replies = self._link(server).exchange([self._masters[server]])
            except RedisUnavailable:
                continue
            if not isinstance(replies[0], ErrorReply):
                self._absent.pop(server, None)
                log.info("the Redis master at %s:%d answers again", *server)

    def _leave_out(self, server: Server, error: RedisUnavailable) -> None:
        if server in self._masters and server not in self._absent:
            log.warning("the Redis master at %s:%d is left out: %s", *server, error)
            self._absent[server] = error

    def close(self) -> None:
        self._gone += self._links.values()
        self._links = {}
        self._masters = {}
        self._slots = []
        self._marks_at = {}
        self._absent.clear()
        self._close_gone()

    def _close_gone(self) -> None:
        for link in self._gone:
            self._closed_connects += link.connects
            link.close()
        self._gone.clear()

    # --- the map --------------------------------------------------------------

    def _load(self, failed: Collection[Server], source: Server | None = None) -> None:
        """Ask ``source``, or the first server that answers (``failed`` ones
        last), for the masters of all slots. Switches greenlets. Raises
        RedisUnavailable."""
        host, reply = self._ask_for_slots(failed, source)
        if isinstance(reply, ErrorReply) or not reply:
            raise RedisUnavailable(
                str(reply or "no slot of the Redis Cluster has a master")
            )

        slots: list[Server | None] = [None] * (_SLOTS + 1)
        for first, last, (name, port, *_), *_ in reply:
            # Without a name, the server means the address where it was asked.
            server = (name.decode() if name else host, int(port))
            slots[first : last + 1] = [server] * (last + 1 - first)
        without_slots = self._links.keys() - set(slots)
        self._gone += [self._links.pop(server) for server in without_slots]

        masters: dict[Server, Command] = {}
        for master in dict.fromkeys(slots):
            if master is not None:
                self._link(master)
                masters[master] = ("EXISTS", _probe_key(slots, master))
        self._slots = slots
        self._masters = masters
        self._map_marks()

    def _ask_for_slots(
        self, failed: Collection[Server], source: Server | None
    ) -> tuple[str, Any]:
        """The host of the server that replies, and its reply. Switches
        greenlets. Raises RedisUnavailable."""
        if source is not None:
            (reply,) = self._links[source].exchange([("CLUSTER", "SLOTS")])
            return source[0], reply
        servers = list(dict.fromkeys([*self._masters, *self._address.hosts]))
        servers.sort(key=lambda server: server in failed)
        addresses = [self._at(server) for server in servers]
        seconds = self.seconds / min(len(addresses), _MOST_SHARES)
        return ask_first(addresses, seconds, "CLUSTER", "SLOTS")

    def _link(self, server: Server) -> ServerLink:
        if server not in self._links:
            marks_here = partial(self._marks_of, server)
            self._links[server] = ServerLink(
                self._at(server), self.seconds, self.counters, None, marks_here
            )
        return self._links[server]

    def _marks_of(self, server: Server) -> Collection[str]:
        return self._marks_at.get(server, ())

    def _at(self, server: Server) -> RedisAddress:
        return replace(self._address, hosts=(server,))
