"""What was delivered to connections whose clients acknowledge it, until they do.

Acknowledgements are cumulative: everything up to an id.

- A client that said at login that it acknowledges receives again what it does not acknowledge in time
  (:class:`AckTracker`).
- Clients of the action dialect that do not acknowledge messages still answer a ping with its payload, as
  every WebSocket client does. After a delivery they are pinged with the last id; the pong proves that
  everything up to it has arrived, and is stored (:class:`PongTracker`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import count
from typing import ClassVar, Final

import gevent

from imserver.clock import until_beat
from imserver.model import DialectState, Event, LogSubscription, Message
from imserver.storage.action_positions import ActionPositions
from imserver.transport.connection import OPEN, Connection, app_and_user

ACK_SECONDS: Final = 10
"""Time for an acknowledgement."""
TRIES: Final = 3
"""How often entries are sent again before the connection is closed."""
PINGS: Final = 2000
"""Most connections that are pinged in a second: each pong is a position to be stored."""
_SLOTS: Final = ACK_SECONDS + 1
_PROBE: Final = struct.Struct("!QQ")
"""The payload of a ping: the number of the log subscription, and the id of the last delivered entry."""
MAX_MESSAGES: Final = 1000
"""Unacknowledged messages of one connection. Beyond it the connection is closed."""
MAX_BYTES: Final = 524_288
"""The same for the bytes of their frames; a single frame may be larger."""


class AckingLogSubscription(LogSubscription, gc=False):
    """A log subscription whose client acknowledges entries."""

    acked: int = 0
    """The greatest id that the client has acknowledged."""
    delivered: int = 0
    """The greatest id that was sent to it."""
    tries: int = 0
    tracked: bool = False
    """An ack tracker waits for its acknowledgement."""


class PongLogSubscription(AckingLogSubscription, gc=False):
    """A log subscription whose client acknowledges by the pongs to pings that carry an id. The messages of
    its live rooms are delivered from the log."""

    number: int = 0
    """Unique on this node: a connection may log in again while a pong is under way."""
    positions: Mapping[str, int] = {}
    """The user's positions at the login; its keys are the rooms of this session."""
    pinged: bool = True
    """False: the client acknowledges by itself."""
    has_cursor: ClassVar[bool] = False


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


class PongTracker:
    """Owner of the connections that are to be pinged."""

    def __init__(self, positions: ActionPositions) -> None:
        self._positions = positions
        self._unpinged: list[Connection] = []
        """Connections with deliveries since their last ping."""
        self._running = False
        self.numbers = count()
        """Of log subscriptions."""

    def delivered(self, connection: Connection) -> None:
        """Something was delivered to a connection that was not waiting for its ping. Never switches."""
        self._unpinged.append(connection)
        self._start()

    def ponged(self, connection: Connection, data: bytes) -> None:
        """A client has answered a ping. It can have no more than was sent to it. Never switches."""
        log_subscription = connection.log_subscription
        if not isinstance(log_subscription, PongLogSubscription) or len(data) != _PROBE.size:
            return
        number, id = _PROBE.unpack(data)
        if number == log_subscription.number and id <= log_subscription.delivered:
            self.proved(connection, id)

    def proved(self, connection: Connection, id: int) -> None:
        """Everything up to an id has arrived at a client. Never switches."""
        log_subscription = connection.log_subscription
        if not isinstance(log_subscription, PongLogSubscription) or id <= log_subscription.acked:
            return
        log_subscription.acked = id
        app, user = app_and_user(connection)
        present = {"", *[room.name for room in connection.channels]}
        rooms = [room for room in log_subscription.positions if room in present]
        self._positions.prove(app, user, rooms, id)

    def _start(self) -> None:
        if not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """Greenlet: work once a second, as long as there is anything to do."""
        try:
            while self._unpinged:
                gevent.sleep(until_beat())
                self.work()
        finally:
            self._running = False

    def work(self) -> None:
        """Ping connections with deliveries. Never switches."""
        now, self._unpinged = self._unpinged[:PINGS], self._unpinged[PINGS:]
        for connection in now:
            log_subscription = connection.log_subscription
            if isinstance(log_subscription, PongLogSubscription):
                log_subscription.tracked = False
                connection.probe(_PROBE.pack(log_subscription.number, log_subscription.delivered))


class AckTracker:
    """Owner of a timer wheel that turns each second: a connection with unacknowledged entries is in one of
    its slots, so idle connections cost nothing, and none has a timer. Never switches."""

    def __init__(self, pongs: PongTracker) -> None:
        self._pongs = pongs
        self._slots: list[list[tuple[Connection, int]]] = [[] for _ in range(_SLOTS)]
        self._now = 0

    def delivered(self, connection: Connection, log_subscription: AckingLogSubscription, id: int) -> None:
        """An entry was sent to a connection whose client acknowledges."""
        log_subscription.delivered = id
        if log_subscription.tracked:
            return
        if isinstance(log_subscription, PongLogSubscription):
            if log_subscription.pinged:
                log_subscription.tracked = True
                self._pongs.delivered(connection)
        else:
            self.wait(connection, log_subscription)

    def acked(self, connection: Connection, id: int, position: int) -> None:
        """A client acknowledges everything up to an id: pushed, or in a page that it asked for. It can have
        nothing behind ``position``, up to which the log of its app was delivered."""
        log_subscription = connection.log_subscription
        if isinstance(log_subscription, AckingLogSubscription) and log_subscription.acked < id:
            log_subscription.acked = min(
                id, max(log_subscription.delivered, log_subscription.acked, position)
            )
            log_subscription.tries = 0

    def wait(self, connection: Connection, log_subscription: AckingLogSubscription) -> None:
        """Give a client its time from now on."""
        log_subscription.tracked = True
        self._slots[(self._now + ACK_SECONDS) % _SLOTS].append((connection, log_subscription.delivered))

    def turn(self) -> list[Connection]:
        """A second has passed. The connections whose clients are late."""
        self._now += 1
        slot = self._now % _SLOTS
        due, self._slots[slot] = self._slots[slot], []
        late = []
        for connection, delivered in due:
            log_subscription = connection.log_subscription
            if connection.state != OPEN or not isinstance(log_subscription, AckingLogSubscription):
                continue
            log_subscription.tracked = False
            if log_subscription.acked < delivered:
                late.append(connection)
            elif log_subscription.acked < log_subscription.delivered:
                self.wait(connection, log_subscription)
        return late
