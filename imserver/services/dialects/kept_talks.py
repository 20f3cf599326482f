"""Kept talks: what users of the action dialect say to one other user, or in a room, is stored, where their
app wants it, and told at the next login of whoever was away.

Who is in a room is told from the log what is said there, as it is stored: so one order holds for all that a
connection hears, and nothing is heard twice or not at all when it is said while somebody logs in. Who belongs
to a room has a place in it: its stored members have one from the first, everybody else from the first login
to it on.

What was told and is not known to have come (:mod:`.talk_places`) is told again at the next login: once more,
rather than never.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import gevent
from msgspec import Struct

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import Message, Reply, Say
from imserver.protocol.action import with_seq
from imserver.services.dialects.talk_places import TalkPlaces
from imserver.services.dialects.talk_readers import Newcomer, Places, TalkReader
from imserver.services.messages import page_bounds
from imserver.services.messages.messaging import Messaging, Result
from imserver.storage.log.contract import INVALID, Appended, Draft, Entry, Rejected
from imserver.transport.connection import OPEN, Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

log = logging.getLogger(__name__)

PAGE: Final = 200
"""Messages that are told at a time to whoever comes back; the next follow when these have left."""
RETRY_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05

Answers = Callable[[Reply], None]


class _Stay(Struct, frozen=True):
    """A login: who, in which room (``""``: none), in which ``rooms`` as a stored member, and when, in Unix
    seconds."""

    app: str
    user: str
    room: str
    rooms: Collection[str]
    time: int


class KeptTalks:
    """Has sessions told what they missed, and stores what they say. Owner of who is saying something.

    ``keeps`` says whether an app wants it; ``stored`` gives the log, or None if nothing was ever stored.
    """

    def __init__(
        self,
        messaging: Messaging,
        places: TalkPlaces,
        keeps: Callable[[str], bool],
        stored: Callable[[], MessageLog | None],
    ) -> None:
        self._messaging = messaging
        self._places = places
        self._stored = stored
        self.keeps = keeps
        self._saying: dict[Connection, int] = {}
        """How much of what connections said is being stored."""
        messaging.wheel.on_owing = places.owes

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
                places = self._places_of(stay)
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
                    places = places or self._places_of(stay, late=True)
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
        reader = TalkReader(newcomer=newcomer, number=next(self._places.numbers), places=places)
        reader.acked = reader.told = min(places.values())
        self._messaging.follow(connection, reader, live=False)
        return reader

    def _places_of(self, stay: _Stay, late: bool = False) -> Places:
        """Where a user stands, in their rooms too. Who logs in to a room for the first time belongs to it
        from the login on; ``late``: that was a while ago, when storage was away."""
        app, user, room = stay.app, stay.user, stay.room
        names = dict.fromkeys([*stay.rooms, room] if room else stay.rooms)
        places = self._places.get(app, user, names)
        if room and room not in places:
            places[room] = 0 if room in stay.rooms else self._now(stay, late)
            self._places.begin(app, user, room, places[room])
        return dict.fromkeys(stay.rooms, 0) | places

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
            if after is not None:
                page_bounds.let_leave(connection)

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
