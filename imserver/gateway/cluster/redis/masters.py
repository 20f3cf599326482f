"""The link to a Redis Cluster: a connection to each master, and which of them
serves a command."""

import logging
import re
from binascii import crc_hqx
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
"""In each range of this many slots, one slot has marks. So a master that has
twice as many slots in a row certainly has a slot with marks."""
_ROUND_SECONDS: Final = 0.01
"""Time between two rounds of an exchange, while slots are being moved."""
_NO_SLOT: Final = -1
"""Stands for the slot of a command that has no slot: a probe, which goes to all
masters, or a SCAN, which goes to one master after the other. It is an index of
the last item in the map of slots, which is None."""
_LINES_BEFORE_KEY: Final = 4
"""The lines of a packed command before its key: the number of words, the size
and text of the name, and the size of the key."""
_SCRIPT_KEY: Final = 3
"""The index of the first key among the words of EVALSHA, after the name, the
hash of the script, and the number of keys."""
_MOST_SHARES: Final = 3
"""The time of a question to several masters is divided into at most this many
shares."""
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
    """Return a link to Redis, whose exchanges take at most ``seconds``.

    It connects at the first exchange. ``tracked`` gets the changes of keys that
    Redis reports, and belongs to the link for the data, which many callers
    share. None means that the link is for the lease.
    """
    is_for_data = tracked is not None
    if address.kind == "cluster":
        return ClusterLink(address, seconds, counters, shared=is_for_data)
    # Marks, by which nodes prove that they have registered all their sessions,
    # lie beside the data. One server has them under one key.
    marks = (MARKS,) if is_for_data else ()
    return ServerLink(address, seconds, counters, tracked, marks_here=lambda: marks)


def slot_of_key(key: bytes) -> int:
    """Return the slot of a key in a Redis Cluster.

    Each of the 16384 slots belongs to one master. If the key has text in
    braces, only this text counts, so ``a{7}`` and ``b{7}`` have the same slot.
    """
    start = key.find(b"{") + 1
    if start:  # there is a brace
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) & _SLOT_BITS


def _keys_of_marks() -> list[str]:
    """Return keys of marks whose slots are spread over all slots.

    There is one key for each :data:`_MARKS_SLOTS` slots in a row.

    A mark says that a node has registered all its sessions on a server. So each
    server needs a key that belongs to it.
    """
    key_by_range: dict[int, str] = {}
    for number in count():
        if len(key_by_range) * _MARKS_SLOTS == _SLOTS:
            break
        # The slot of a key cannot be chosen, so numbers are tried in turn.
        key = MARKS_IN_CLUSTER % number
        slot_range = slot_of_key(key.encode()) // _MARKS_SLOTS
        key_by_range.setdefault(slot_range, key)
    return list(key_by_range.values())


def slot_of(command: Command) -> int:
    """Return the slot of a command, which is the slot of its first key.

    The result is :data:`_NO_SLOT` for a probe (``EXISTS``) or a ``SCAN``, which
    go to all masters.
    """
    if isinstance(command, bytes):
        # The line before the key has its size: "$5".
        _, _, _, size, rest = command.split(b"\r\n", _LINES_BEFORE_KEY)
        return slot_of_key(rest[: int(size[1:])])
    name = command[0]
    if name == "EXISTS" or name == "SCAN":
        return _NO_SLOT
    key = command[_SCRIPT_KEY] if name == "EVALSHA" else command[1]
    if isinstance(key, str):
        key = key.encode()
    return slot_of_key(key)


def _read_slots(reply: Sequence[Any], host: str) -> list[Server | None]:
    """Return the master of each slot, from a reply to ``CLUSTER SLOTS``.

    None stands for a slot without a master. ``host`` is the server that has
    replied. The list has one item more, which is None, for :data:`_NO_SLOT`.
    """
    slots: list[Server | None] = [None] * (_SLOTS + 1)
    # Each row has the first and the last slot of a range, its master and then
    # its replicas.
    for first, last, (name, port, *_), *_ in reply:
        # If the name is empty, the server means the address at which it was
        # asked.
        server = (name.decode() if name else host, int(port))
        slots[first : last + 1] = [server] * (last + 1 - first)
    return slots


def _probe_key(slots: Sequence[Server | None], server: Server) -> bytes:
    """Return a key whose slot belongs to ``server``. The server must have a
    slot."""
    # The slot of a key cannot be chosen, so numbers are tried in turn.
    keys = (b"imserver:probe:%d" % number for number in count())
    return next(key for key in keys if slots[slot_of_key(key)] == server)


def _redirect(reply: object) -> re.Match[str] | None:
    """Return the redirect in a reply, as a match of :data:`_REDIRECT`.

    The result is None if the command need not be repeated elsewhere.
    """
    if isinstance(reply, ErrorReply):
        return _REDIRECT.match(str(reply))
    return None


def _next_scan(command: Command, reply: list[Any], masters: int) -> list[Any]:
    """Return the reply to a step of a SCAN, as if all ``masters`` were one
    server.

    SCAN visits all keys, and returns a cursor with which the next step
    continues. The cursor of the caller combines the cursor of a master with the
    index of that master: cursor of the master · number of masters + index. It
    is 0 again when the last master has no more keys.
    """
    next_cursor = int(reply[0])
    index = int(command[1]) % masters
    if next_cursor == 0:  # this master has no more keys
        index = (index + 1) % masters
    return [b"%d" % (next_cursor * masters + index), reply[1]]


def _join_scans(replies: list[Any], commands: Sequence[Command], masters: int) -> None:
    """Replace the replies of one master to SCANs, as :func:`_next_scan` does.

    ``replies`` are the replies to the ``commands``.
    """
    for position, command in enumerate(commands):
        reply = replies[position]
        # The cursor in the reply is the cursor of one master.
        if command[0] == "SCAN" and isinstance(reply, list):
            replies[position] = _next_scan(command, reply, masters)


class _Redirects(Struct):
    """The facts about slots that the replies of one round contain.

    - ``importing``: slot → the master that is taking it over, and already has
      the keys of a command (``ASK``).
    - ``moved``: slot → its new master (``MOVED``).
    - ``sources``: the masters from which to read the map of slots again,
      because their map is newer. None in the set stands for any master that
      answers, after another master has failed.
    """

    importing: dict[int, Server] = field(default_factory=dict)
    moved: dict[int, Server] = field(default_factory=dict)
    sources: set[Server | None] = field(default_factory=set)

    def note(self, server: Server, redirect: re.Match[str]) -> None:
        """Note that ``server`` has refused a command, which must be repeated
        elsewhere.

        The redirect is its reply, such as ``MOVED 3999 127.0.0.1:6381``.
        """
        kind = redirect["kind"]
        if kind == "TRYAGAIN":  # repeat it later, at the same server
            return
        slot = int(redirect["slot"])
        host, _ = server
        # Without a host, the server means its own host.
        target = (redirect["host"] or host, int(redirect["port"]))
        if kind == "ASK":
            self.importing[slot] = target
        else:
            self.moved[slot] = target
            self.sources.add(server)


class _Exchange(Struct):
    """The commands of one exchange, which are sent in rounds until each has its
    reply.

    - ``replies``: the reply to each command; None until it has one.
    - ``unanswered``: the indexes of the commands that the next round sends.
    - ``failed``: the masters that do not answer, and why.
    """

    replies: list[Any]
    unanswered: Sequence[int]
    failed: dict[Server, RedisUnavailable]

    def refuse(self, indexes: Iterable[int], why: str) -> None:
        """Make an error the reply to these commands."""
        for index in indexes:
            self.replies[index] = RedisUnavailable(why)

    def take_results(
        self,
        parts: Mapping[Server, Sequence[int]],
        results: Mapping[Server, list[Any] | RedisUnavailable],
    ) -> _Redirects:
        """Store the replies of a round, and decide which commands the next
        round sends.

        ``parts`` maps a master to the indexes of the commands that it got.
        ``results`` maps it to its replies, or to the reason why it did not
        answer. Returns the news about slots in the replies.
        """
        redirects = _Redirects()
        unanswered: set[int] = set()

        for server, part in parts.items():
            result = results[server]
            if isinstance(result, RedisUnavailable):
                # A replica may have taken over. If so, the map of another
                # server shows it.
                self.failed[server] = result
                unanswered.update(part)
                redirects.sources.add(None)
                continue
            unanswered.update(self._take_replies(server, part, result, redirects))
        self.unanswered = sorted(unanswered)
        return redirects

    def _take_replies(
        self,
        server: Server,
        part: Sequence[int],
        result: list[Any],
        redirects: _Redirects,
    ) -> Iterator[int]:
        """Store the replies of a master, and note its redirects.

        Yields the indexes of the commands that it has redirected.
        """
        for index, reply in zip(part, result, strict=True):
            redirect = _redirect(reply)
            if redirect is None:
                self.replies[index] = reply
            else:
                redirects.note(server, redirect)
                yield index


def _results_of(
    jobs: Mapping[Server, "gevent.Greenlet[..., list[Any] | RedisUnavailable]"],
) -> dict[Server, list[Any] | RedisUnavailable]:
    """Wait for the exchanges with all masters, and return their results.

    If the caller is killed meanwhile, the exchanges end, too.
    """
    try:
        return {server: job.get() for server, job in jobs.items()}
    finally:
        gevent.killall(list(jobs.values()), block=False)


class ClusterLink(RedisLink):
    """A link to a Redis Cluster, see :class:`RedisLink`.

    The keys of a Redis Cluster are in slots. Each slot belongs to one master.
    Commands go to the masters of their slots, to all masters at once. An
    exchange ends when all masters have replied, so commands of one slot keep
    their order. They keep it also while a slot moves: a command that a master
    refers to another master (``MOVED``, ``ASK``) is repeated there before the
    next exchange.

    ``shared`` means that many callers share the link. Then a master that does
    not answer is left out until :meth:`restore` reaches it or a replica that
    has taken over. Until then the reply to its commands is an error at once.

    Owner of the connections to the masters, and of the map of slots.
    """

    is_cluster = True

    def __init__(
        self,
        address: RedisAddress,
        seconds: float,
        counters: RegistryCounters,
        shared: bool,
    ) -> None:
        """Prepare a link without a connection. The first exchange reads the map
        of slots."""
        self.seconds = seconds
        self.counters = counters
        self._address = address
        self._shared = shared

        self._links: dict[Server, ServerLink] = {}
        self._unused_links: list[ServerLink] = []
        """Links to servers without slots, to be closed before the next
        exchange."""
        self._masters: dict[Server, Command] = {}
        """Each master with slots → a probe: a command with a key in one of its
        slots."""
        self._slots: list[Server | None] = []
        """The map of slots: the master of each slot (None: no master is known),
        and at the end None for commands without a slot. The list is empty while
        the map is not known."""
        self._absent: dict[Server, RedisUnavailable] = {}
        """The masters that are left out, each with the error that is the
        reason."""
        self._closed_connects = 0
        """Number of connections made by links that are closed."""
        self.marks = _keys_of_marks() if shared else ()
        self._marks_at: dict[Server, list[str]] = {}
        """The keys of the marks on each master."""
        # The exchange that begin() has begun.
        self._replies: list[Any] = []
        self._missing_parts = 0
        """How many masters have not replied yet."""
        self._must_repeat = False
        """Whether the exchange has to be repeated by :meth:`exchange`."""

    @property
    def connects(self) -> int:  # type: ignore[override]
        """How many connections to masters were made, including closed ones."""
        links = [*self._links.values(), *self._unused_links]
        return self._closed_connects + sum(link.connects for link in links)

    @property
    def life(self) -> bytes:  # type: ignore[override]
        """The lives of the data on all masters, in one text; ``b""``: one of
        them is not known.

        A life is a name that changes when a server may have lost data.
        """
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
        """Return the key of the marks on the master of a command's slot; ``""``
        if none are known there.

        A node leaves a mark on a server that has all sessions of the node.
        """
        if not self._slots:
            return ""
        server = self._slots[slot_of(command)]
        if server is None or server not in self._marks_at:
            return ""
        return self._marks_at[server][0]

    def _map_marks(self) -> None:
        """Find out which marks each master has, by the map of slots."""
        self._marks_at = {}
        for key in self.marks:
            server = self._slots[slot_of_key(key.encode())]
            if server is not None:
                self._marks_at.setdefault(server, []).append(key)

    # --- without waiting ------------------------------------------------------

    def begin(self, commands: Sequence[Command], done: Done) -> bool:
        """Send commands to their masters without waiting. The hub calls
        ``done`` with all replies.

        Returns False if a command has to go to several masters, if no master of
        its slot is known, or if there is no connection to the master. Then
        :meth:`exchange` must be used.
        """
        # Local names: the loop runs for each command of a push.
        slots = self._slots
        links = self._links
        absent = self._absent
        if not slots or self._unused_links:
            return False

        parts: dict[Server, list[int]] = {}
        for index, command in enumerate(commands):
            server = slots[slot_of(command)]
            if server is None:  # no slot, or no master of the slot
                return False
            if server in parts:
                parts[server].append(index)
            else:
                parts[server] = [index]
        for server in parts:
            if not links[server].is_open and server not in absent:
                return False

        # From here on the exchange has begun, and each part is answered once.
        self._replies = [None] * len(commands)
        self._missing_parts = len(parts)
        self._must_repeat = False
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
        """Store the result of one master. Callback: never switches greenlets.

        ``part`` has the indexes of the commands that the master got. After the
        last master, this calls ``done`` with all replies, or with None if the
        exchange has to be repeated.
        """
        if result is None:
            self._must_repeat = True
        elif isinstance(result, RedisUnavailable):
            self._leave_out(server, result)
            for index in part:
                self._replies[index] = result
        else:
            for index, reply in zip(part, result, strict=True):
                self._replies[index] = reply
                if isinstance(reply, ErrorReply) and _redirect(reply):
                    self._must_repeat = True
        self._missing_parts -= 1
        if self._missing_parts:
            return

        # If no master is left, all commands get one error.
        if self._masters.keys() <= self._absent.keys():
            done(next(iter(self._absent.values())))
        elif self._must_repeat:
            done(None)
        else:
            done(self._replies)

    # --- waiting --------------------------------------------------------------

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands to their masters and wait for their replies.

        Commands are sent in rounds, until each has its reply or the time is
        over. After a round, commands that a master has redirected, or whose
        master has failed, are sent again. Switches greenlets. Raises
        RedisUnavailable only if no master answers.
        """
        end = monotonic() + self.seconds
        self._close_unused_links()
        if not self._slots or None in self._slots[:_SLOTS]:
            self._load(self._absent)

        exchange = _Exchange(
            replies=[None] * len(commands),
            unanswered=range(len(commands)),
            failed=dict(self._absent),
        )
        self._exchange_rounds(exchange, commands, end)
        self._note_failed(exchange.failed)
        return exchange.replies

    def _exchange_rounds(
        self, exchange: _Exchange, commands: Sequence[Command], end: float
    ) -> None:
        """Send commands until each has its reply, or until the time ``end``."""
        redirects = _Redirects()
        is_first_round = True
        while exchange.unanswered:
            redirects = self._exchange_round(exchange, commands, redirects)
            if not exchange.unanswered:
                return
            if monotonic() > end:
                exchange.refuse(
                    exchange.unanswered, "slots of the Redis Cluster are being moved"
                )
                return
            # One redirect is usual and is followed at once.
            if not is_first_round:
                gevent.sleep(_ROUND_SECONDS)
            is_first_round = False

    def _note_failed(self, failed: Mapping[Server, RedisUnavailable]) -> None:
        """Leave out the masters that have failed in an exchange.

        One master that answers is enough for a result. Raises RedisUnavailable
        if no master has answered.
        """
        if self._masters.keys() <= failed.keys():
            self.close()
            raise next(iter(failed.values()))
        if self._shared:
            for server, error in failed.items():
                self._leave_out(server, error)

    def _exchange_round(
        self, exchange: _Exchange, commands: Sequence[Command], redirects: _Redirects
    ) -> _Redirects:
        """Send the unanswered commands to their masters, and store the replies.

        ``redirects`` is the news about slots of the round before. Returns the
        news of this round. Switches greenlets.
        """
        # The masters are in the same order each time, because the cursors of
        # SCAN contain their indexes.
        masters = sorted(self._masters)
        importing = redirects.importing
        parts = self._parts_of(exchange, commands, masters, importing)
        results = self._exchange_parts(commands, parts, len(masters), importing)
        news = exchange.take_results(parts, results)
        self._update_map(news, exchange.failed)
        return news

    def _parts_of(
        self,
        exchange: _Exchange,
        commands: Sequence[Command],
        masters: list[Server],
        importing: Mapping[int, Server],
    ) -> dict[Server, list[int]]:
        """Divide the unanswered commands among the masters.

        Returns master → the indexes of its commands. If a master of a command
        does not answer, or none serves its slot, the command gets an error as
        its reply.
        """
        parts: dict[Server, list[int]] = {}
        for index in exchange.unanswered:
            servers = self._servers_of(commands[index], masters, importing)
            if not servers:
                exchange.refuse(
                    [index], "no master of the Redis Cluster serves the slot"
                )
            for server in servers:
                if server not in exchange.failed:
                    parts.setdefault(server, []).append(index)
                # A probe goes to several masters. Its reply is the first error.
                elif exchange.replies[index] is None:
                    exchange.replies[index] = exchange.failed[server]
        return parts

    def _servers_of(
        self, command: Command, masters: list[Server], importing: Mapping[int, Server]
    ) -> list[Server]:
        """Return the masters that get a command; empty if no master serves its
        slot.

        A probe goes to all masters. A SCAN goes to one master at a time, whose
        index is in its cursor. ``importing`` maps slots that move to the
        masters that take them over.
        """
        slot = slot_of(command)
        if slot != _NO_SLOT:
            server = importing.get(slot, self._slots[slot])
            if server is None:
                return []
            return [server]
        # The command is a probe.
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
        """Send each master its part of the commands, all at once.

        Returns master → its replies, in the order of its part, or why it did not
        answer. ``masters`` is the number of all masters. Switches greenlets.
        """
        jobs = {
            server: gevent.spawn(
                self._exchange_part, server, commands, part, masters, importing
            )
            for server, part in parts.items()
        }
        results = _results_of(jobs)

        for server, part in parts.items():
            result = results[server]
            if not isinstance(result, RedisUnavailable):
                _join_scans(result, [commands[index] for index in part], masters)
        return results

    def _exchange_part(
        self,
        server: Server,
        commands: Sequence[Command],
        part: Sequence[int],
        masters: int,
        importing: Mapping[int, Server],
    ) -> list[Any] | RedisUnavailable:
        """Exchange the commands at the indexes ``part`` with one master.

        Each command gets the form that this master needs. Returns the replies, or
        why the master did not answer.
        """
        sent: list[Command] = []
        positions = []
        for index in part:
            command = commands[index]
            if slot_of(command) in importing:
                # Without ASKING, a master refuses commands for a slot that it
                # is still taking over.
                sent.append(("ASKING",))
            positions.append(len(sent))
            sent.append(self._form_for(server, command, masters))
        try:
            replies = self._link(server).exchange(sent)
        except RedisUnavailable as error:
            return error
        # The replies to ASKING are of no use.
        return [replies[position] for position in positions]

    def _form_for(self, server: Server, command: Command, masters: int) -> Command:
        """Return a command in the form that this master needs."""
        if command[0] == "SCAN":
            # The cursor of this master, see _next_scan().
            return ("SCAN", int(command[1]) // masters, *command[2:])
        if command[0] == "EXISTS":
            return self._masters[server]
        return command

    def _update_map(self, redirects: _Redirects, failed: Collection[Server]) -> None:
        """Read the map of slots again, after the news in ``redirects``.

        ``failed`` servers are asked last. Switches greenlets.
        """
        for source in redirects.sources:
            with suppress(RedisUnavailable):
                self._load(failed, source)
        # Redirects are applied last, because they may be newer than the map of
        # another master.
        for slot, server in redirects.moved.items():
            self._link(server)
            self._slots[slot] = server
        if redirects.moved:
            self._map_marks()

    def restore(self) -> None:
        """Reach the masters that are left out because they did not answer.

        Masters that answer a probe are no longer left out. Switches greenlets.
        """
        try:
            self._load(self._absent)
        except RedisUnavailable:
            return

        for server in list(self._absent):
            if server not in self._links:  # this server is no longer a master
                self._absent.pop(server, None)
            elif self._is_answering(server):
                self._absent.pop(server, None)
                log.info("the Redis master at %s:%d answers again", *server)

    def _is_answering(self, server: Server) -> bool:
        """Whether a master answers a probe. Switches greenlets."""
        try:
            replies = self._link(server).exchange([self._masters[server]])
        except RedisUnavailable:
            return False
        return not isinstance(replies[0], ErrorReply)

    def _leave_out(self, server: Server, error: RedisUnavailable) -> None:
        """Send no more commands to a master, until :meth:`restore` reaches it."""
        if server in self._masters and server not in self._absent:
            log.warning("the Redis master at %s:%d is left out: %s", *server, error)
            self._absent[server] = error

    def close(self) -> None:
        """Close the links to all masters, and forget which slots they have."""
        self._unused_links += self._links.values()
        self._links = {}
        self._masters = {}
        self._slots = []
        self._marks_at = {}
        self._absent.clear()
        self._close_unused_links()

    def _close_unused_links(self) -> None:
        """Close the links to servers that have no slots any more."""
        for link in self._unused_links:
            self._closed_connects += link.connects
            link.close()
        self._unused_links.clear()

    # --- the map --------------------------------------------------------------

    def _load(self, failed: Collection[Server], source: Server | None = None) -> None:
        """Read the map of slots from the server ``source``.

        If ``source`` is None, read it from the first server that answers; ``failed``
        servers are asked last. Switches greenlets. Raises RedisUnavailable.
        """
        host, reply = self._ask_for_slots(failed, source)
        if isinstance(reply, ErrorReply) or not reply:
            raise RedisUnavailable(
                str(reply or "no slot of the Redis Cluster has a master")
            )

        slots = _read_slots(reply, host)
        self._drop_links(set(slots))
        masters = [master for master in dict.fromkeys(slots) if master is not None]
        for master in masters:
            self._link(master)
        self._slots = slots
        # A probe needs a key of its own for each master.
        self._masters = {
            master: ("EXISTS", _probe_key(slots, master)) for master in masters
        }
        self._map_marks()

    def _drop_links(self, with_slots: set[Server | None]) -> None:
        """Put the links to all other servers aside, to be closed later."""
        for server in self._links.keys() - with_slots:
            self._unused_links.append(self._links.pop(server))

    def _ask_for_slots(
        self, failed: Collection[Server], source: Server | None
    ) -> tuple[str, Any]:
        """Ask a server for the map of slots: ``source``, or the first one that
        answers.

        ``failed`` servers are asked last. Returns the host of the server that
        replies, and its reply. Switches greenlets. Raises RedisUnavailable.
        """
        if source is not None:
            (reply,) = self._links[source].exchange([("CLUSTER", "SLOTS")])
            host, _ = source
            return host, reply
        addresses = self._addresses_to_ask(failed)
        seconds = self.seconds / min(len(addresses), _MOST_SHARES)
        return ask_first(addresses, seconds, "CLUSTER", "SLOTS")

    def _addresses_to_ask(self, failed: Collection[Server]) -> list[RedisAddress]:
        """Return the addresses of all known servers, ``failed`` ones last."""
        servers = list(dict.fromkeys([*self._masters, *self._address.hosts]))
        servers.sort(key=lambda server: server in failed)
        return [self._at(server) for server in servers]

    def _link(self, server: Server) -> ServerLink:
        """Return the link to a master, which is made at the first call."""
        if server not in self._links:
            marks_here = partial(self._marks_of, server)
            self._links[server] = ServerLink(
                self._at(server), self.seconds, self.counters, None, marks_here
            )
        return self._links[server]

    def _marks_of(self, server: Server) -> Collection[str]:
        """Return the keys of the marks that a master has now."""
        return self._marks_at.get(server, ())

    def _at(self, server: Server) -> RedisAddress:
        """Return the address of one server, with the options of the Redis
        Cluster."""
        return replace(self._address, hosts=(server,))
