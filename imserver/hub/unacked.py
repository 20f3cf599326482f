"""Messages that were sent to connections whose clients acknowledge them, until they do."""

from __future__ import annotations

from typing import Final

from imserver.model import DialectState, Event, Message
from imserver.transport.connection import Connection

MAX_MESSAGES: Final = 1000
"""Unacknowledged messages of one connection. Beyond it the connection is closed."""
MAX_BYTES: Final = 524_288
"""The same for the bytes of their frames; a single frame may be larger."""


class UnackedMessages:
    """Owner of the connections with unacknowledged messages. ``bytes``: of the frames of all of these."""

    def __init__(self) -> None:
        self.connections: dict[Connection, Unacked] = {}
        self.bytes = 0


class Unacked:
    """The unacknowledged messages of one connection, the oldest first: (number, the event or the id of the
    stored message, frame). Never switches.

    Numbers count the messages of the connection, over all its logins. ``last``: the last number. ``full``: a
    message found no space, so the connection must end. ``tries``: how often the messages were sent again.
    ``due``: monotonic time of the next time (0: not set yet).
    """

    __slots__ = ("_all", "bytes", "due", "full", "last", "tries", "waiting")

    def __init__(self, all_messages: UnackedMessages) -> None:
        self._all = all_messages
        self.last = 0
        self.waiting: list[tuple[int, Event | int, bytes]] = []
        self.bytes = 0
        self.full = False
        self.tries = 0
        self.due = 0.0

    def add(self, connection: Connection, message: Event | Message, frame: bytes) -> None:
        """The next message goes to the connection."""
        self.last += 1
        if not self.waiting:
            self._all.connections[connection] = self
        elif len(self.waiting) == MAX_MESSAGES or self.bytes + len(frame) > MAX_BYTES:
            self.full = True
        if not self.full:
            self.waiting.append((self.last, message.id if isinstance(message, Message) else message, frame))
            self._count(len(frame))

    def ack(self, connection: Connection, number: int) -> int:
        """The client has the messages up to a number. Return the id of the last stored one of these (0: none
        was stored)."""
        id = count = 0
        for each, message, frame in self.waiting:
            if each > number:
                break
            count += 1
            self._count(-len(frame))
            if isinstance(message, int):
                id = message
        if count:
            self.tries, self.due = 0, 0.0
            del self.waiting[:count]
        if not self.waiting:
            self._all.connections.pop(connection, None)
        return id

    def clear(self, connection: Connection) -> list[Event]:
        """Forget all messages: the session ends. Return those that are not stored."""
        unstored = [message for _, message, _ in self.waiting if isinstance(message, Event)]
        self.ack(connection, self.last)
        self.full = False
        return unstored

    def _count(self, size: int) -> None:
        self.bytes += size
        self._all.bytes += size


class AckedState(DialectState, gc=False):
    """State of a connection whose client may acknowledge messages. ``unacked`` is None if it does not."""

    unacked: Unacked | None = None
