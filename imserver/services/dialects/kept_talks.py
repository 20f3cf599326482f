"""Kept talks: what users of the action dialect say to one other user, or in a room, is stored, where their
app wants it, and told at the next login of whoever was away.

Who is in a room is told from the log what is said there, as it is stored: so one order holds for all that a
connection hears, and nothing is heard twice or not at all when it is said while somebody logs in. Who belongs
to a room has a place in it: its stored members have one from the first, everybody else from the first login
to it on.

Its clients keep no place in the log and acknowledge nothing, but whatever speaks WebSocket answers a ping
with what came in it. So whoever was told something is pinged with the id of the last of it; the pong proves
that all up to there has come, and is remembered. What was not proven is told again at the next login: once
more, rather than never.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from time import monotonic, time
from typing import ClassVar, Final, Protocol

import gevent
from msgspec import Struct

from imserver import errors
from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.hub.rooms import rooms_of
from imserver.model import Message, Reply, Say
from imserver.protocol.action import with_seq
from imserver.services.messages.acks import Acknowledger
from imserver.services.messages.messaging import Messaging, Result
from imserver.storage.log_contract import INVALID, Appended, Draft, Entry, Rejected
from imserver.transport.connection import OPEN, Connection

log = logging.getLogger(__name__)

PINGS: Final = 2000
"""Most connections that are pinged in a second: in a large room all would be, each second, and each of them
has a place that is written down."""
PAGE: Final = 200
"""Messages that are told at a time to whoever comes back; the next follow when these have left."""
RETRY_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05
_PROBE: Final = struct.Struct("!QQ")
"""What a ping carries: the number of the reader, and the id of the last that it was told."""

Answers = Callable[[Reply], None]
Places = dict[str, int]
"""Room → up to which id somebody has everything that was said there; ``""``: all else that they may read."""


class Newcomer(Struct, gc=False):
    """``Connection.about`` of a session whose talks are kept, until it is told. ``to``: whom it talks to, as
    else stands there."""

    to: object = None


class TalkReader(Acknowledger, gc=False):
    """``Connection.about`` of a session whose talks are kept. ``to``: whom it talks to, as else stands there.
    ``number``: no other reader here has it; a connection may log in anew while a pong is under way.
    ``places``: where its user stood at the login, in the rooms to which this session belongs, too."""

    newcomer: Newcomer | None = None
    to: object = None
    number: int = 0
    places: Mapping[str, int] = {}
    by_pong: ClassVar[bool] = True
    hears_rooms: ClassVar[bool] = True

    def may_take_over(self, about: object) -> bool:
        """A later login of the connection has a reader of its own."""
        return about is self.newcomer

    def take_over(self, about: object) -> None:
        """Whom it talks to stays."""
        assert isinstance(about, Newcomer)
        self.to, self.newcomer = about.to, None

    @property
    def rest(self) -> object:
        """Whom it talks to stays when it follows no longer."""
        return self.to


def hears_log(connection: Connection) -> bool:
    """Whether a session is told from the log what is said in its rooms and kept, or will be."""
    return isinstance(connection.about, TalkReader | Newcomer)


class _Stay(Struct, frozen=True):
    """A login: who, in which room (``""``: none), in which ``rooms`` as a stored member, and when, in Unix
    seconds."""

    app: str
    user: str
    room: str
    rooms: Collection[str]
    time: int


class Positions(Protocol):
    """Where users stand; :class:`imserver.storage.talk_positions.TalkPositions` knows. All of it may switch,
    and raises StorageUnavailable."""

    def get(self, app: str, user: str, rooms: Collection[str] = ()) -> Places:
        """Up to which ids a user has everything; rooms where they never were are missing."""

    def raise_to(self, rows: Sequence[tuple[str, str, str, int]]) -> None:
        """Remember (app, user, room, id) where that is more than was known."""

    def forget(self, app: str, user: str) -> None:
        """Know nothing of a user any more."""


class Stored(Protocol):
    """What of the log is needed here; :class:`imserver.storage.log_contract.MessageLog` has it."""

    def head(self, app: str) -> int:
        """The greatest id."""

    def stored_before(self, app: str, time: int) -> int:
        """The greatest id that was stored before this Unix second."""

    def catch_up(
        self, app: str, user: str, after: int, limit: int, places: Mapping[str, int]
    ) -> tuple[list[Entry], bool]:
        """What the user may read behind an id, and what was said in these rooms, each behind its place."""


class KeptTalks:
    """Owner of who is to be pinged, and of what has been delivered and is not remembered yet.

    ``keeps`` says whether an app wants it; ``stored`` gives the log, or None if nothing was ever stored.
    """

    def __init__(
        self,
        messaging: Messaging,
        positions: Positions,
        keeps: Callable[[str], bool],
        stored: Callable[[], Stored | None],
    ) -> None:
        self._messaging = messaging
        self._positions = positions
        self._stored = stored
        self.keeps = keeps
        self._owing: list[Connection] = []
        """Who was told something since they were pinged."""
        self._delivered: dict[tuple[str, str, str], int] = {}
        self._saying: dict[Connection, int] = {}
        """How much of what connections said is being stored."""
        self._running = False
        self._numbers = count()
        messaging.wheel.on_owing = self._owes

    # --- coming back ----------------------------------------------------------------------------------------

    def begin(self, connection: Connection, room: str, rooms: Collection[str]) -> None:
        """A session has begun, of a :class:`Newcomer` that is in ``room`` (``""``: none) and, as a stored
        member, in ``rooms``: tell it what was missed, behind the answer to its login.

        It switches where somebody logs in to a room: what is said there when it returns is told for sure.
        """
        newcomer, app, user = connection.about, connection.app or "", connection.user or ""
        stay = _Stay(app, user, room, rooms, int(time()))
        places: Places | None = None
        if room and room not in rooms:
            with suppress(StorageUnavailable):
                places = self._places(stay)
        if isinstance(newcomer, Newcomer) and connection.about is newcomer:
            gevent.spawn(self._catch_up, connection, newcomer, stay, places)

    def _catch_up(
        self, connection: Connection, newcomer: Newcomer, stay: _Stay, places: Places | None
    ) -> None:
        """Greenlet: tell a session all that its user has missed, and then what is new. As long as storage is
        away it tries again."""
        reader: TalkReader | None = None
        while connection.state == OPEN and connection.about is (reader or newcomer):
            try:
                if reader is None:
                    places = places or self._places(stay, late=True)
                    reader = self._follow(connection, newcomer, places)
                self._tell_missed(connection, reader)
                return
            except StorageUnavailable:
                gevent.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("telling what was missed failed", extra={"connection": connection.peer})
                code = errors.CLOSE_INTERNAL_ERROR
                connection.close(code, errors.CLOSE[code].name)

    def _follow(self, connection: Connection, newcomer: Newcomer, places: Places) -> TalkReader:
        reader = TalkReader(newcomer=newcomer, number=next(self._numbers), places=places)
        reader.acked = reader.told = min(places.values())
        self._messaging.follow(connection, reader, live=False)
        return reader

    def _places(self, stay: _Stay, late: bool = False) -> Places:
        """Where a user stands, in their rooms too. Who logs in to a room for the first time belongs to it
        from the login on; ``late``: that was a while ago, when storage was away."""
        app, user, room = stay.app, stay.user, stay.room
        names = dict.fromkeys([*stay.rooms, room] if room else stay.rooms)
        places = self._positions.get(app, user, names)
        if room and room not in places:
            places[room] = 0 if room in stay.rooms else self._now(stay, late)
            self._positions.raise_to([(app, user, room, places[room])])
        for name in ("", *names):
            places[name] = max(places.get(name, 0), self._delivered.get((app, user, name), 0))
        return places

    def _now(self, stay: _Stay, late: bool) -> int:
        """Up to which id the log went at a login."""
        stored = self._stored()
        if stored is None:
            return 0
        return stored.stored_before(stay.app, stay.time) if late else stored.head(stay.app)

    def _tell_missed(self, connection: Connection, reader: TalkReader) -> None:
        """Tell it page after page, unless it follows no longer: a later login sees to it."""
        after: int | None = reader.told

        def page(app: str, user: str, after: int, limit: int) -> tuple[list[Entry], bool]:
            stored = self._stored()
            return ([], False) if stored is None else stored.catch_up(app, user, after, limit, reader.places)

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal after
            self._messaging.give(connection, messages)
            after = messages[-1].id if more and messages else None
            return after is None

        while after is not None and connection.about is reader:
            self._messaging.sync(connection, after, PAGE, answer, page=page)
            while after is not None and connection.outbox is not None and connection.state == OPEN:
                gevent.sleep(_LOOK_SECONDS)

    def forget(self, app: str, user: str) -> None:
        """Know nothing of a user any more. It switches, and raises StorageUnavailable."""
        for key in [key for key in self._delivered if key[:2] == (app, user)]:
            del self._delivered[key]
        self._positions.forget(app, user)

    # --- what was delivered ---------------------------------------------------------------------------------

    def _owes(self, connection: Connection) -> None:
        """A session was told something (the wheel's ``on_owing``)."""
        self._owing.append(connection)
        self._start()

    def ponged(self, connection: Connection, data: bytes) -> None:
        """A client has answered a ping (the carrier's ``ponged``). It can have no more than it was told.
        Never switches."""
        reader, app, user = connection.about, connection.app, connection.user
        if not isinstance(reader, TalkReader) or len(data) != _PROBE.size or app is None or user is None:
            return
        number, id = _PROBE.unpack(data)
        if number == reader.number and reader.acked < id <= reader.told:
            reader.acked = id
            present = {room.name for room in rooms_of(connection)}
            for room in reader.places:
                if not room or room in present:
                    key = app, user, room
                    self._delivered[key] = max(id, self._delivered.get(key, 0))
            self._start()

    def _start(self) -> None:
        if not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """Greenlet: look once a second, as long as there is anything to see to."""
        try:
            while self._owing or self._delivered:
                gevent.sleep(until_beat())
                self.look()
        finally:
            self._running = False

    def look(self) -> None:
        """Ping those who were told something; remember what was delivered. It switches."""
        owing, self._owing = self._owing[:PINGS], self._owing[PINGS:]
        for connection in owing:
            reader = connection.about
            if isinstance(reader, TalkReader):
                reader.turning = False
                connection.probe(_PROBE.pack(reader.number, reader.told))
        # What is being remembered stays in sight of those who log in meanwhile.
        rows = [(*key, id) for key, id in self._delivered.items()]
        if not rows:
            return
        try:
            self._positions.raise_to(rows)
        except StorageUnavailable:
            return  # the next look tries again
        for app, user, room, id in rows:
            if self._delivered.get((app, user, room)) == id:
                del self._delivered[app, user, room]

    # --- saying ---------------------------------------------------------------------------------------------

    def say(
        self, connection: Connection, command: Say, answer: Answers, *, to: str = "", room: str = ""
    ) -> None:
        """Store what is said to a user or in a room; answered behind the commit. Never switches."""
        draft = Draft(
            sender=connection.user or "",
            type=command.type,
            body=command.text.encode(),
            time_ms=int(time() * 1000),
            meta=with_seq(command.id),
            to_user=to,
            room=room,
        )
        self._saying[connection] = self._saying.get(connection, 0) + 1

        def done(result: Result) -> None:
            self._saying[connection] -= 1
            if not self._saying[connection]:
                del self._saying[connection]
            answer(_told(result))

        self._messaging.send(connection.app or "", draft, done, connection)

    def finish(self, connection: Connection) -> None:
        """Wait until what a connection has said was told, for at most a second: it has ended, and that is not
        to be heard before."""
        deadline = monotonic() + FINISH_SECONDS
        while connection in self._saying and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)


def _told(result: Result) -> Reply:
    if isinstance(result, Appended):
        return Reply(errors.REPLY_OK)
    if isinstance(result, Rejected):
        return Reply(errors.REPLY_BAD_PARAMETER if result.reason == INVALID else errors.REPLY_UNAUTHORIZED)
    return Reply(errors.REPLY_NOT_STORED)
