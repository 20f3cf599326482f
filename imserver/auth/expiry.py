"""Expiry: sessions that live no longer than the token they began with."""

from __future__ import annotations

from typing import Final

from imserver import errors
from imserver.transport.connection import OPEN, Connection

_OVER: Final = errors.CLOSE[errors.CLOSE_TOKEN_INVALID]


class Ending:
    """The sessions that end at a ``second``: ``count`` of ``listed``, where those that are over stay until
    they are half of it. (A set would be 24 bytes more for each.)"""

    __slots__ = ("count", "listed", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.listed: list[Connection] = []
        self.count = 0


class Expiry:
    """Owner of the times at which sessions end. Costs nothing for a session without one.

    Times are whole Unix seconds, by the clock that tokens are compared with. Sessions that end in the same
    second stand together, so a look costs one dictionary access a second.
    """

    def __init__(self, now: float) -> None:
        self._looked = int(now)
        self.ends: dict[Connection, Ending] = {}
        """With whom each session ends that does; look, do not touch. (A second of its own for each would be
        32 bytes more.)"""
        self._due: dict[int, Ending] = {}

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
            ending = self._due.get(second)
            if ending is None:
                ending = self._due[second] = Ending(second)
            ending.listed.append(connection)
            ending.count += 1
            self.ends[connection] = ending

    def forget(self, connection: Connection) -> None:
        """The session is over, or ends by itself no more."""
        ending = self.ends.pop(connection, None)
        if ending is not None:
            ending.count -= 1
            if not ending.count:
                del self._due[ending.second]
            elif len(ending.listed) > 2 * ending.count:
                left = dict.fromkeys(ending.listed)  # who was renewed for the same second stands there twice
                ending.listed = [each for each in left if self.ends.get(each) is ending]

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
            ending = self._due.pop(each)
            for connection in ending.listed:
                if self.ends.get(connection) is not ending:
                    continue  # it was over before
                del self.ends[connection]
                if connection.state == OPEN:
                    connection.close(_OVER.code, _OVER.name)
                    closed += 1
        return closed
