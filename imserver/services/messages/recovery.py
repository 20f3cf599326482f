"""Recovery: a client that comes back with a cursor is given what it missed, or told that it has to ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore as Lock

from imserver.errors import StorageUnavailable
from imserver.model import Message
from imserver.services.messages.acks import Acknowledger
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.readers import Reader
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

RECOVERED: Final = 200
"""Most entries that a login with a cursor is given by itself; whoever missed more has to sync."""

Told = Callable[[bool, bool], None]
"""(recovered, begin anew): says which it is, right before what was missed. Must not switch."""


class Recovery:
    """Has sessions resume where they were. ``kept`` gives the log, or None while nothing was ever stored."""

    def __init__(self, messaging: Messaging, kept: Callable[[], MessageLog | None]) -> None:
        self._messaging = messaging
        self._kept = kept
        self._asked: dict[str, AsyncResult[int]] = {}
        """Floors for which somebody is going to ask: those who want to know it meanwhile share the answer."""
        self._turns: dict[str, Lock] = {}

    def must_begin_anew(self, connection: Connection, cursor: int) -> bool:
        """Whether something behind the cursor has expired, or it is none of this log. Switches; raises
        StorageUnavailable."""
        log, app = self._kept(), connection.app
        assert app is not None
        if not cursor:
            return False
        if log is None or cursor < self._floor(log, app):
            return True
        return cursor > self._messaging.follower.position(app) and cursor > log.head(app)

    def _floor(self, log: MessageLog, app: str) -> int:
        """The floor as of now, or later. Many who come back at once share a question."""
        shared = self._asked.get(app)
        if shared is not None:
            floor = shared.get()
            assert floor is not None
            return floor
        shared = self._asked[app] = AsyncResult()
        try:
            with self._turns.setdefault(app, Lock()):
                # Whoever comes from here on needs an answer that is newer.
                del self._asked[app]
                floor = log.floor(app)
        except BaseException as error:
            if self._asked.get(app) is shared:
                del self._asked[app]
            # Who only shares the question must not die of what was meant for who asked it.
            ours = isinstance(error, Exception)
            shared.set_exception(error if ours else StorageUnavailable("the log was not read"))
            raise
        shared.set(floor)
        return floor

    def resume(self, connection: Connection, reader: Reader, cursor: int, told: Told) -> None:
        """Have a session that has just begun follow, from its cursor on: ``reader`` becomes its ``about``.

        ``told`` is called once. Recovered: what was missed comes right behind, and then what is new. Else the
        session is told nothing before it has asked for all of it. It may switch, and raises
        StorageUnavailable: then ``told`` was not called.
        """
        self._messaging.follow(connection, reader, live=False)
        if connection.about is not reader:
            told(False, False)
            return
        if isinstance(reader, Acknowledger):
            reader.acked = reader.told = cursor
        anew = self.must_begin_anew(connection, cursor)
        if anew or connection.about is not reader:  # it may have ended meanwhile
            told(False, anew and connection.about is reader)
            return

        def recover(messages: list[Message], more: bool) -> bool:
            whole = not more and connection.about is reader
            told(whole, False)
            if whole:
                self._messaging.give(connection, messages)
            return whole

        self._messaging.sync(connection, cursor, RECOVERED, recover)
