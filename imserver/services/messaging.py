"""Messaging: what clients send is stored, told in the order of the log, and acknowledged behind the commit.

To one connection everything stored leaves in the order of ids, acknowledgements of its own messages included:
a client's cursor is the greatest id that it saw, and must mean that it saw everything before.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final, Protocol

import gevent

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.model import Message
from imserver.services.acks import Acknowledger, AckWheel
from imserver.services.follower import Follower
from imserver.services.readers import GroupRooms, Reader, concerned, groups_at, message_of
from imserver.storage.log_contract import Appended, Draft, Entry, Membership, Rejected
from imserver.transport.connection import OPEN, Connection

log = logging.getLogger(__name__)

MAX_WAITING: Final = 50_000
"""Messages of an app that wait to be stored; more are refused for the moment."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of their bodies."""
MAX_HELD: Final = 1000
"""Acknowledgements that wait for a connection to ask for what it missed; beyond, it is a slow reader."""
WIDE: Final = 50
"""A message to so many connections is followed by a pause in which others gather: a write to a socket costs
as much as twenty frames that share it."""
_GATHER_SECONDS: Final = 0.000_1
"""The pause, for each of the connections."""
_MAX_GATHER_SECONDS: Final = 0.1
BATCH_DRAFTS: Final = 2000
"""Most drafts that are handed to the log at once."""

Result = Appended | Rejected | StorageUnavailable
Done = Callable[[Result], None]
"""What became of a draft; called once, and must not switch."""
Answer = Callable[[list[Message], bool], bool]
"""A page of what was missed, and whether there is more → whether the client has all of it now, so that it is
told what is new; must not switch."""
Forward = Callable[[str, int, int, list[Entry]], None]


class Log(Protocol):
    """What of the log is needed here; :class:`imserver.storage.log_contract.MessageLog` has it."""

    def append(self, app: str, drafts: Sequence[Draft]) -> list[Appended | Rejected]:
        """Store drafts; returns after the commit."""

    def head(self, app: str) -> int:
        """The greatest id."""

    def floor(self, app: str) -> int:
        """What has an id up to this one has expired."""

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        """The whole log behind an id."""

    def sync(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        """What the user may read behind an id."""

    def memberships(self, app: str, user: str) -> list[Membership]:
        """All of a user's memberships, those that have ended too."""


class _Line:
    """The drafts of one app that wait, and what is known of the transaction that is under way."""

    __slots__ = ("bytes", "own", "running", "storing", "waiting", "widest")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Draft, Connection | None, Done]] = deque()
        self.bytes = 0
        """Of the bodies that wait."""
        self.running = False
        self.storing = False
        self.widest = 0
        """Connections that the message to the most of them was told, of the batch that was told last."""
        self.own: list[tuple[int, int, list[Entry]]] = []
        """Batches that were stored, but told to nobody until it is known whose acknowledgements belong to
        them."""


class Messaging:
    """Owner of what waits to be stored and to be acknowledged, of the local rooms and of the positions.

    ``logs`` gives the log for writing, and opens it if need be (raises StorageUnavailable); ``kept`` gives
    it, or None if nothing was ever stored.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        logs: Callable[[], Log],
        kept: Callable[[], Log | None],
    ) -> None:
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._logs = logs
        self._kept = kept
        self.follower = Follower(kept, self._tell, metrics)
        self.rooms = GroupRooms()
        self.wheel = AckWheel(self)
        self._acknowledging = 0
        """Connections in service whose clients acknowledge."""
        self.forward: Forward = lambda app, first, last, entries: None
        """Tells the other nodes what was stored here. Must not switch."""
        self._lines: dict[str, _Line] = {}
        self._acks: dict[str, dict[int, list[tuple[Connection | None, Done, Appended]]]] = {}
        self._loading: dict[tuple[str, str], list[list[int]]] = {}
        """Users whose memberships are being read; each reading counts the changes that are told meanwhile."""
        self._followers: dict[str, int] = {}
        """Connections that follow, or are about to, by app."""

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, app: str, draft: Draft, done: Done, connection: Connection | None = None) -> None:
        """Store a draft. Never switches.

        ``done`` is told what became of it: that it was stored behind everything that its sender, on
        ``connection``, has to be told before. Everybody else who may read it is told, the sender's other
        connections too.
        """
        line = self._lines.get(app)
        if line is None:
            line = self._lines[app] = _Line()
        size = len(draft.body) + len(draft.meta)
        if len(line.waiting) >= MAX_WAITING or line.bytes + size > MAX_WAITING_BYTES:
            done(StorageUnavailable("too much waits to be stored"))
            return
        line.bytes += size
        line.waiting.append((draft, connection, done))
        if not line.running:
            line.running = True
            gevent.spawn(self._pump, app, line)

    def _pump(self, app: str, line: _Line) -> None:
        """Greenlet: store what waits, a batch at a time, until nothing does."""
        try:
            while line.waiting:
                batch = list(islice(line.waiting, BATCH_DRAFTS))
                for draft, _, _ in batch:
                    line.waiting.popleft()
                    line.bytes -= len(draft.body) + len(draft.meta)
                line.widest = 0
                self._store(app, line, batch)
                if line.widest >= WIDE:
                    gevent.sleep(min(line.widest * _GATHER_SECONDS, _MAX_GATHER_SECONDS))
        finally:
            line.running = False

    def _store(self, app: str, line: _Line, batch: list[tuple[Draft, Connection | None, Done]]) -> None:
        results: Sequence[Result]
        line.storing = True
        try:
            stored = self._logs()
            self.follower.follow(app)
            results = stored.append(app, [draft for draft, _, _ in batch])
        except StorageUnavailable as unavailable:
            results = [unavailable] * len(batch)
        except Exception:
            log.exception("storing in %s failed", app)
            results = [StorageUnavailable("storing failed")] * len(batch)
        line.storing = False
        for (_, connection, done), result in zip(batch, results, strict=True):
            self._count(result)
            if isinstance(result, Appended) and result.entry.id > self.follower.position(app):
                acks = self._acks.setdefault(app, {})
                acks.setdefault(result.entry.id, []).append((connection, done, result))
                if result.repeated:
                    self.follower.expect(app, result.entry.id)
            else:
                self._settle(connection, done, result)
        own, line.own = line.own, []
        for first, last, entries in own:
            self.follower.heard(app, first, last, entries)

    def _count(self, result: Result) -> None:
        if not isinstance(result, Appended):
            self._metrics.not_stored += 1
        elif result.repeated:
            self._metrics.stored_repeats += 1
        else:
            self._metrics.stored += 1

    def committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """A transaction of this node is stored (the log's ``on_committed``). Never switches."""
        self.forward(app, first, last, entries)
        line = self._lines.get(app)
        if line is not None and line.storing:
            line.own.append((first, last, entries))
        else:
            self.follower.heard(app, first, last, entries)

    def heard(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """Another node has stored something. Never switches."""
        self.follower.heard(app, first, last, entries)

    def _settle(self, connection: Connection | None, done: Done, result: Result) -> None:
        """Say what became of a draft, behind what its sender has still to ask for."""
        reader = None if connection is None else connection.about
        if isinstance(reader, Reader) and isinstance(result, Appended) and not reader.live:
            assert connection is not None
            reader.held = _with(reader.held, lambda: done(result))
            if type(reader.held) is tuple and len(reader.held) > MAX_HELD:
                connection.abandon(errors.CLOSE_SLOW_READER)
            return
        try:
            done(result)
        except Exception:
            log.exception("a sender could not be told")

    # --- telling --------------------------------------------------------------------------------------------

    def _tell(self, app: str, entries: list[Entry], position: int) -> None:
        """Tell entries to those who read them here, and senders that theirs are stored. Never switches."""
        acks = self._acks.get(app)
        for entry in entries:
            mine = acks.pop(entry.id, ()) if acks else ()
            if app in self._followers:
                self._tell_one(app, entry, [connection for connection, _, _ in mine if connection])
            for connection, done, result in mine:
                self._settle(connection, done, result)
        for each in [each for each in acks or () if each <= position]:
            assert acks is not None
            for connection, done, result in acks.pop(each):
                self._settle(connection, done, result)
        if acks is not None and not acks:
            del self._acks[app]

    def _tell_one(self, app: str, entry: Entry, senders: list[Connection]) -> None:
        if entry.kind in ("join", "group"):
            self._joined(app, entry)
        if entry.members:
            readers: Collection[Connection] = [
                each for user in set(entry.members) for each in self._following(app, user)
            ]
        else:
            readers = self.rooms.members(app, entry.conversation)
        if readers:
            message = message_of(entry)
            live = []
            for each in readers:
                if each in senders:
                    continue
                held = each.about.held
                if held is None:
                    live.append(each)
                elif type(held) is list:
                    held.append(message)
            self._push(app, live, message)
            line = self._lines.get(app)
            if line is not None and len(live) > line.widest:
                line.widest = len(live)
        if entry.kind == "leave":
            for user in concerned(entry):
                self._note_change(app, user)
                for each in self._following(app, user):
                    self.rooms.leave(app, each, entry.conversation)

    def _joined(self, app: str, entry: Entry) -> None:
        for user in concerned(entry):
            self._note_change(app, user)
            for each in self._following(app, user):
                self.rooms.enter(app, each, entry.conversation)

    def _note_change(self, app: str, user: str) -> None:
        for changes in self._loading.get((app, user), ()):
            changes[0] += 1

    def _following(self, app: str, user: str) -> list[Connection]:
        known = self._hub.apps.get(app)
        if known is None:
            return []
        return [each for each in known.sessions_of(user) if isinstance(each.about, Reader)]

    # --- following ------------------------------------------------------------------------------------------

    def follow(self, connection: Connection, reader: Reader, live: bool = True) -> int:
        """Tell a session what is stored from now on; the position from which. It may switch.

        ``live`` False: not before it has asked for all that it missed (:meth:`sync`). ``reader`` becomes its
        ``about``. Raises StorageUnavailable; then it does not follow.
        """
        app, user = connection.app, connection.user
        assert app is not None
        assert user is not None
        self._followers[app] = self._followers.get(app, 0) + 1
        try:
            self.follower.follow(app)
            rows = self._memberships(app, user)
        except BaseException:
            self._uncount(app)
            raise
        position = self.follower.position(app)
        addressed = connection.user == user and connection in self._hub.apps[app].sessions_of(user)
        if connection.state != OPEN or not addressed or isinstance(connection.about, Reader):
            self._uncount(app)
            return position
        connection.about = reader
        self._acknowledging += isinstance(reader, Acknowledger)
        if live:
            reader.held = None
        for conversation in groups_at(rows, position):
            self.rooms.enter(app, connection, conversation)
        return position

    def _memberships(self, app: str, user: str) -> list[Membership]:
        """As of the position: read again when one was told to have changed meanwhile."""
        kept = self._kept()
        if kept is None:
            return []
        changes = [0]
        reading = self._loading.setdefault((app, user), [])
        reading.append(changes)
        try:
            while True:
                before = changes[0]
                rows = kept.memberships(app, user)
                if changes[0] == before:
                    return rows
        finally:
            reading.remove(changes)
            if not reading:
                del self._loading[app, user]

    def ended(self, connection: Connection) -> None:
        """A connection is over, or its session is. Never switches."""
        reader, app = connection.about, connection.app
        if isinstance(reader, Reader) and app is not None:
            self.rooms.leave_all(app, connection)
            connection.about = None
            self._acknowledging -= isinstance(reader, Acknowledger)
            self._uncount(app)

    def _uncount(self, app: str) -> None:
        left = self._followers[app] - 1
        if left:
            self._followers[app] = left
        else:
            del self._followers[app]
            if app not in self._acks and not (app in self._lines and self._lines[app].running):
                self.follower.forget(app)

    # --- catching up ----------------------------------------------------------------------------------------

    def sync(self, connection: Connection, after: int, limit: int, answer: Answer) -> None:
        """Give a following connection a page of what it missed behind ``after``. It switches.

        While there is more it is told nothing else; with the last page it is live. ``answer`` is called where
        the page belongs among the rest. Raises StorageUnavailable.
        """
        app, user, reader = connection.app, connection.user, connection.about
        assert app is not None
        assert user is not None
        assert isinstance(reader, Reader)
        was_live = reader.live
        held = reader.held = list(reader.held or ())
        try:
            entries, more = self.page(app, user, after, limit)
        except BaseException:
            if was_live:
                self.release(connection)
            else:
                reader.held = _acknowledgements(held)
            raise
        if connection.about is not reader:
            answer([], False)
            return
        if not more:
            # What this node has not been told yet it will be told, live.
            position = self.follower.position(app)
            entries = [entry for entry in entries if entry.id <= position]
        if not answer([message_of(entry) for entry in entries], more):
            # Pages to come have these; acknowledgements wait for the last.
            reader.held = _acknowledgements(held)
            return
        self._go_live(connection, reader, entries[-1].id if entries else after)

    def release(self, connection: Connection) -> None:
        """Tell a following connection what was held back for it, and what is stored from now on."""
        reader = connection.about
        if isinstance(reader, Reader) and not reader.live:
            self._go_live(connection, reader, 0)

    def _go_live(self, connection: Connection, reader: Reader, covered: int) -> None:
        """Tell what was held; of entries those behind ``covered``."""
        held, reader.held = reader.held or (), None
        for each in held:
            if not isinstance(each, Message):
                each()
            elif each.id > covered:
                self.give(connection, [each])

    def give(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Tell one connection what it missed. Never switches."""
        for message in messages:
            self._push(connection.app or "", [connection], message)

    def _push(self, app: str, connections: Collection[Connection], message: Message) -> None:
        self._fanout.message(self._hub.apps[app], connections, message)
        if self._acknowledging:
            for each in connections:
                if isinstance(each.about, Acknowledger):
                    self.wheel.told(each, each.about, message.id)

    def tell_again(self, connection: Connection, after: int, limit: int) -> bool:
        """Tell a live connection again what its user may read behind an id; False if that is more than
        ``limit``. It switches. Raises StorageUnavailable.
        """
        reader = connection.about
        if not isinstance(reader, Reader) or not reader.live:
            return True  # it is asking itself
        whole = True

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal whole
            whole = not more
            if whole:
                self._metrics.told_again += 1
                self.give(connection, messages)
            return True

        self.sync(connection, after, limit, answer)
        return whole

    def page(self, app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
        """What a user may read behind an id, in order, and whether there is more. It switches.

        Raises StorageUnavailable.
        """
        kept = self._kept()
        if kept is None:
            return [], False
        entries, more = kept.sync(app, user, after, limit)
        return entries, more


Held = list[Message | Callable[[], None]] | tuple[Callable[[], None], ...]


def _with(held: Held | None, acknowledgement: Callable[[], None]) -> Held:
    """What is held, and one acknowledgement more."""
    if isinstance(held, list):
        held.append(acknowledgement)
        return held
    return (*(held or ()), acknowledgement)


def _acknowledgements(held: Held) -> tuple[Callable[[], None], ...]:
    return tuple([each for each in held if not isinstance(each, Message)])
