"""Expiry: sessions that live no longer than the token they began with."""

from __future__ import annotations

from typing import Final

from imserver import errors
from imserver.transport.connection import OPEN, Connection

_OVER: Final = errors.CLOSE[errors.CLOSE_TOKEN_INVALID]


class Expiry:
    """Owner of the times at which sessions end. Costs nothing for a session without one.

    Times are whole Unix seconds, by the clock that tokens are compared with. Sessions that end in the same
    second stand together, so a look costs one dictionary access a second.
    """

    def __init__(self, now: float) -> None:
        self._looked = int(now)
        self.ends: dict[Connection, int] = {}
        """When each session ends that does; look, do not touch."""
        self._due: dict[int, set[Connection]] = {}

    def __len__(self) -> int:
        return len(self.ends)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self.ends

    def keep(self, connection: Connection, expires_at: int) -> None:
        """End the session of ``connection`` at ``expires_at`` and at no other time; 0: never."""
        if self.ends:
            self.forget(connection)
        if expires_at:
            # What is over already is noticed at the next look.
            second = max(expires_at, self._looked + 1)
            self.ends[connection] = second
            self._due.setdefault(second, set()).add(connection)

    def forget(self, connection: Connection) -> None:
        """The session is over, or ends by itself no more."""
        second = self.ends.pop(connection, None)
        if second is not None:
            due = self._due[second]
            due.discard(connection)
            if not due:
                del self._due[second]

    def expire(self, now: float) -> int:
        """Close, with 4504, whose time has come; how many. Called once a second; never switches."""
        second = int(now)
        if second - self._looked > len(self._due):
            # The clock has leapt: fewer sessions' times are looked at than seconds have passed.
            due = sorted(each for each in self._due if each <= second)
        else:
            due = [each for each in range(self._looked + 1, second + 1) if each in self._due]
        self._looked = max(self._looked, second)
        closed = 0
        for each in due:
            for connection in self._due.pop(each):
                del self.ends[connection]
                if connection.state == OPEN:
                    connection.close(_OVER.code, _OVER.name)
                    closed += 1
        return closed
