"""Acknowledgements of clients: who said at login that it acknowledges is told again what it does not.

A client acknowledges cumulatively: everything up to an id. A connection that owes an acknowledgement stands
in one slot of a wheel that turns each second; so those that owe none cost nothing, and nobody has a timer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import gevent

from imserver import errors
from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.services.messages.readers import Reader
from imserver.transport.connection import OPEN, Connection

log = logging.getLogger(__name__)

ACK_SECONDS: Final = 10
"""Time for an acknowledgement."""
TRIES: Final = 3
"""How often a client is told again, before its connection is closed."""
AGAIN: Final = 200
"""Most entries that a client is told again; who owes more comes back and resumes."""
_SLOTS: Final = ACK_SECONDS + 1


class Acknowledger(Reader, gc=False):
    """A reader that acknowledges: ``acked`` and ``told`` are the greatest ids of either kind."""

    acked: int = 0
    told: int = 0
    tries: int = 0
    turning: bool = False
    """It stands in the wheel; or, :attr:`by_pong`, with whoever pings it."""
    by_pong: ClassVar[bool] = False
    """Whether its client acknowledges by a pong, for which it has to be asked, and not by itself."""


class Resyncs(Protocol):
    """What tells again; :class:`imserver.services.messages.messaging.Messaging` does."""

    def tell_again(self, connection: Connection, after: int, limit: int) -> bool:
        """Tell what a connection's user may read behind an id; False if that is more than ``limit``."""

    def position(self, app: str) -> int:
        """How far an app has been told."""


class AckWheel:
    """Owner of the wheel. Nothing here switches but :meth:`run`."""

    def __init__(self, messaging: Resyncs) -> None:
        self._messaging = messaging
        self._slots: list[list[tuple[Connection, int]]] = [[] for _ in range(_SLOTS)]
        self._now = 0
        self.on_owing: Callable[[Connection], None] = lambda connection: None
        """Told of a connection that is to be pinged. Must not switch."""

    def told(self, connection: Connection, reader: Acknowledger, id: int) -> None:
        """An acknowledging connection was told an entry."""
        reader.told = id
        if reader.turning:
            return
        if reader.by_pong:
            reader.turning = True
            self.on_owing(connection)
        else:
            self._put(connection, reader)

    def acked(self, connection: Connection, id: int) -> None:
        """A client has everything up to an id: pushed, or in a page that it asked for. What nobody was told
        yet it cannot have."""
        reader = connection.about
        if isinstance(reader, Acknowledger) and reader.acked < id:
            position = self._messaging.position(connection.app or "")
            reader.acked = min(id, max(reader.told, reader.acked, position))
            reader.tries = 0

    def _put(self, connection: Connection, reader: Acknowledger) -> None:
        reader.turning = True
        self._slots[(self._now + ACK_SECONDS) % _SLOTS].append((connection, reader.told))

    def run(self) -> None:
        """Greenlet: turn, once a second."""
        while True:
            gevent.sleep(until_beat())
            self.turn()

    def turn(self) -> None:
        """See to those whose time is over. Starts a greenlet if there are any."""
        self._now += 1
        slot = self._now % _SLOTS
        due, self._slots[slot] = self._slots[slot], []
        late = []
        for connection, told in due:
            reader = connection.about
            if connection.state != OPEN or not isinstance(reader, Acknowledger):
                continue
            reader.turning = False
            if reader.acked < told:
                late.append(connection)
            elif reader.acked < reader.told:
                self._put(connection, reader)
        if late:
            gevent.spawn(self._tell_again, late)

    def _tell_again(self, late: list[Connection]) -> None:
        """Greenlet: tell those who are late again, or let them go."""
        for connection in late:
            reader = connection.about
            if connection.state != OPEN or not isinstance(reader, Acknowledger):
                continue
            reader.tries += 1
            try:
                if reader.tries <= TRIES and self._messaging.tell_again(connection, reader.acked, AGAIN):
                    continue
            except StorageUnavailable:
                reader.tries -= 1
                if not reader.turning:
                    self._put(connection, reader)
                continue
            except Exception:
                log.exception("telling again failed", extra={"connection": connection.peer})
            connection.close(errors.CLOSE_ACK_TIMEOUT, errors.CLOSE[errors.CLOSE_ACK_TIMEOUT].name)
