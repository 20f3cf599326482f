"""Kept talks: what users of the action dialect say to one other user is stored, where their app wants it, and
told at the next login of whoever was away.

Its clients keep no place in the log and acknowledge nothing, but whatever speaks WebSocket answers a ping
with what came in it. So whoever was told something is pinged with the id of the last of it; the pong proves
that all up to there has come, and is remembered. What was not proven is told again at the next login: once
more, rather than never.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from struct import Struct
from time import time
from typing import ClassVar, Final, Protocol

import gevent

from imserver import errors
from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.model import Message, Reply, Say
from imserver.services.messages.acks import Acknowledger
from imserver.services.messages.messaging import Messaging, Result
from imserver.storage.log_contract import INVALID, Appended, Draft, Rejected
from imserver.transport.connection import OPEN, Connection

log = logging.getLogger(__name__)

PAGE: Final = 200
"""Messages that are told at a time to whoever comes back; the next follow when these have left."""
RETRY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05
_PROBE: Final = Struct("!QQ")
"""What a ping carries: the number of the reader, and the id of the last that it was told."""

Answers = Callable[[Reply], None]


class TalkReader(Acknowledger, gc=False):
    """``Connection.about`` of a session whose talks are kept. ``to``: whom it talks to, as else stands there.
    ``number``: no other reader here has it; a connection may log in anew while a pong is under way."""

    to: object = None
    number: int = 0
    by_pong: ClassVar[bool] = True

    def take_over(self, about: object) -> None:
        """Whom it talks to stays."""
        self.to = about

    @property
    def rest(self) -> object:
        """Whom it talks to stays when it follows no longer."""
        return self.to


class Positions(Protocol):
    """Where users stand; :class:`imserver.storage.talk_positions.TalkPositions` knows. All of it may switch,
    and raises StorageUnavailable."""

    def get(self, app: str, user: str) -> int:
        """Up to which id a user has everything."""

    def raise_to(self, rows: Sequence[tuple[str, str, int]]) -> None:
        """Remember (app, user, id) where that is more than was known."""


class KeptTalks:
    """Owner of who is to be pinged, and of what has been delivered and is not remembered yet.

    ``keeps`` says whether an app wants it.
    """

    def __init__(self, messaging: Messaging, positions: Positions, keeps: Callable[[str], bool]) -> None:
        self._messaging = messaging
        self._positions = positions
        self.keeps = keeps
        self._owing: list[Connection] = []
        """Who was told something since they were pinged."""
        self._delivered: dict[tuple[str, str], int] = {}
        self._running = False
        self._numbers = count()
        messaging.wheel.on_owing = self._owes

    # --- coming back ----------------------------------------------------------------------------------------

    def begin(self, connection: Connection) -> None:
        """A session has begun: tell it what was missed, behind the answer to its login. Never switches."""
        gevent.spawn(self._catch_up, connection, connection.app or "", connection.user or "")

    def _catch_up(self, connection: Connection, app: str, user: str) -> None:
        """Greenlet: tell a session all that its user has missed, and then what is new. As long as storage is
        away it tries again."""
        reader = TalkReader(number=next(self._numbers))
        while connection.state == OPEN and (connection.app, connection.user) == (app, user):
            try:
                if connection.about is not reader:
                    reader.acked = reader.told = self._position(app, user)
                    self._messaging.follow(connection, reader, live=False)
                self._tell_missed(connection, reader)
                return
            except StorageUnavailable:
                gevent.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("telling what was missed failed", extra={"connection": connection.peer})
                code = errors.CLOSE_INTERNAL_ERROR
                connection.close(code, errors.CLOSE[code].name)

    def _position(self, app: str, user: str) -> int:
        stored = self._positions.get(app, user)
        return max(stored, self._delivered.get((app, user), 0))

    def _tell_missed(self, connection: Connection, reader: TalkReader) -> None:
        """Tell it page after page, unless it follows no longer: a later login sees to it."""
        after: int | None = reader.told

        def answer(messages: list[Message], more: bool) -> bool:
            nonlocal after
            self._messaging.give(connection, messages)
            after = messages[-1].id if more and messages else None
            return after is None

        while after is not None and connection.about is reader:
            self._messaging.sync(connection, after, PAGE, answer)
            while after is not None and connection.outbox is not None and connection.state == OPEN:
                gevent.sleep(_LOOK_SECONDS)

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
            self._delivered[app, user] = max(id, self._delivered.get((app, user), 0))
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
        owing, self._owing = self._owing, []
        for connection in owing:
            reader = connection.about
            if isinstance(reader, TalkReader):
                reader.turning = False
                connection.probe(_PROBE.pack(reader.number, reader.told))
        # What is being remembered stays in sight of those who log in meanwhile.
        rows = [(app, user, id) for (app, user), id in self._delivered.items()]
        if not rows:
            return
        try:
            self._positions.raise_to(rows)
        except StorageUnavailable:
            return  # the next look tries again
        for app, user, id in rows:
            if self._delivered[app, user] == id:
                del self._delivered[app, user]

    # --- saying ---------------------------------------------------------------------------------------------

    def say(self, connection: Connection, to: str, command: Say, answer: Answers) -> None:
        """Store what is said to a user; answered behind the commit. Never switches."""
        draft = Draft(
            sender=connection.user or "",
            type=command.type,
            body=command.text.encode(),
            time_ms=int(time() * 1000),
            to_user=to,
        )
        self._messaging.send(connection.app or "", draft, lambda result: answer(_told(result)), connection)


def _told(result: Result) -> Reply:
    if isinstance(result, Appended):
        return Reply(errors.REPLY_OK)
    if isinstance(result, Rejected):
        return Reply(errors.REPLY_BAD_PARAMETER if result.reason == INVALID else errors.REPLY_UNAUTHORIZED)
    return Reply(errors.REPLY_NOT_STORED)
