"""Acknowledged deliveries to clients, and the timer wheel that checks them.

Deliveries to a connection have growing numbers. An acknowledgement names a
number, and covers all deliveries up to it.

- A client with a cursor acknowledges positions in the log
  (:class:`AckingLogSubscription`). Entries that it does not acknowledge in time
  are read from the log and sent again.
- A client without a cursor answers a ping with its payload. Every WebSocket
  client does so. After a delivery, the server pings the client with the last
  position (:class:`PongLogSubscription`). The pong proves a position, which is
  stored. Later entries are sent again at the next login.
- A client of the action dialect can ask to acknowledge numbers of its
  connection (:class:`Unacked`). The frames stay in memory until they are
  acknowledged, because not all of these messages are stored.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Final

from imserver.gateway.errors import CloseCode
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Event, LogSubscription
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import Transitions
from imserver.messenger.log.model import Message

ACK_SECONDS: Final = 10
"""The time that a client has for an acknowledgement. For :class:`Unacked`, each
resend doubles the time."""
TRIES: Final = 3
"""How often deliveries are sent again before the connection is closed. Each
resend has a state of its own."""
PINGS: Final = 2000
"""The most connections that are pinged in a second. There is a limit because
each pong is a position to store."""
MAX_MESSAGES: Final = 1000
"""The most messages in one :class:`Unacked`. If there are more, the connection
is closed."""
MAX_BYTES: Final = 524_288
"""The most bytes of the frames of one :class:`Unacked`. If there are more
bytes, the connection is closed. But a single frame may be larger."""
_SLOTS: Final = ACK_SECONDS + 1
_PING: Final = struct.Struct("!QQ")
"""The payload of a ping: the number of the log subscription, and the id of the
last delivered entry."""


class AckState(IntEnum):
    """The state of the deliveries to one connection. The values of the first
    four states are the number of resends since the last acknowledgement."""

    ON_TIME = 0
    """No time limit has passed since the last acknowledgement."""
    RESENT_ONCE = 1
    RESENT_TWICE = 2
    RESENT_THRICE = 3
    FULL = 4
    """There was no space for a message. The connection is closed at the end of
    the second."""
    EXPIRED = 5
    """The client has used all its time. The connection is closed."""


class AckEvent(IntEnum):
    """An event that changes the state of the deliveries to one connection."""

    ACK = 0
    """The client acknowledges."""
    LATE = 1
    """A time limit has passed, and deliveries before it are not
    acknowledged."""
    UNREAD = 2
    """Late entries could not be read from the log, so they were not sent
    again."""
    OVERFLOW = 3
    """There is no space for the next message."""
    CLEAR = 4
    """The session ends. Unacknowledged deliveries are forgotten."""


ON_TIME, RESENT_ONCE, RESENT_TWICE, RESENT_THRICE, FULL, EXPIRED = AckState
ACK, LATE, UNREAD, OVERFLOW, CLEAR = AckEvent

_ROWS: Final[Mapping[AckState, Mapping[AckEvent, AckState]]] = {
    # UNREAD can happen in this state if the client has acknowledged while the
    # log was read.
    ON_TIME: {
        ACK: ON_TIME,
        LATE: RESENT_ONCE,
        UNREAD: ON_TIME,
        OVERFLOW: FULL,
        CLEAR: ON_TIME,
    },
    RESENT_ONCE: {
        ACK: ON_TIME,
        LATE: RESENT_TWICE,
        UNREAD: ON_TIME,
        OVERFLOW: FULL,
        CLEAR: ON_TIME,
    },
    RESENT_TWICE: {
        ACK: ON_TIME,
        LATE: RESENT_THRICE,
        UNREAD: RESENT_ONCE,
        OVERFLOW: FULL,
        CLEAR: ON_TIME,
    },
    RESENT_THRICE: {
        ACK: ON_TIME,
        LATE: EXPIRED,
        UNREAD: RESENT_TWICE,
        OVERFLOW: FULL,
        CLEAR: ON_TIME,
    },
    FULL: {ACK: FULL, LATE: FULL, OVERFLOW: FULL, CLEAR: ON_TIME},
    # Events while the connection closes change nothing.
    EXPIRED: {ACK: EXPIRED, UNREAD: EXPIRED, OVERFLOW: EXPIRED, CLEAR: EXPIRED},
}
ACK_TRANSITIONS: Final = {
    state: Transitions(state, row) for state, row in _ROWS.items()
}
"""State → event → the next state. States are only changed by this table:
``acks.state = ACK_TRANSITIONS[acks.state][event]``. The state does not include
whether a time limit runs: see ``due`` of :data:`Acks`."""


class AckingLogSubscription(LogSubscription, gc=False):
    """A log subscription whose client acknowledges entries. The numbers of the
    deliveries are ids of entries. For the fields see :data:`Acks`."""

    delivered: int = 0
    acked: int = 0
    state: AckState = ON_TIME
    due: int = 0


class PongLogSubscription(AckingLogSubscription, gc=False):
    """A log subscription whose client acknowledges by pongs. Each ping contains
    the id of an entry. The messages of the live rooms of this session are
    delivered from the log."""

    number: int = 0
    """A number that is unique on this node. By it, a pong that was under way
    while the connection logged in again is recognized as old."""
    positions: Mapping[str, int] = {}
    """Room → the position of the user in it at the login. The keys are the
    rooms of this session."""
    pinged: bool = True
    """Whether the server pings the client. If not, the client acknowledges
    without pings."""
    has_cursor: ClassVar[bool] = False

    def ping(self) -> bytes:
        """Return the payload of a ping after the last delivery.

        The payload has the number of this subscription, and the id of the last
        delivery.
        """
        return _PING.pack(self.number, self.delivered)

    def proof(self, data: bytes) -> int:
        """Return the id up to which a pong proves that everything has arrived.

        A pong returns the payload of its ping, so everything that was sent
        before the ping has arrived. Returns 0 if the payload does not belong to
        a ping of this subscription. The id is at most the last id that was sent
        to the client.
        """
        if len(data) != _PING.size:
            return 0
        number: int
        id: int
        number, id = _PING.unpack(data)
        if number == self.number and id <= self.delivered:
            return id
        return 0


class Unacked:
    """The unacknowledged messages of one connection, whose client counts
    messages.

    The numbers count the messages of the connection, across all its logins.
    ``waiting`` are the messages after the number ``acked``, in order. Each item
    is the event, or the id of the stored message, and its frame. ``bytes`` is
    the size of these frames. For the other fields see :data:`Acks`. Never
    switches greenlets.
    """

    __slots__ = ("_tracker", "acked", "bytes", "delivered", "due", "state", "waiting")

    def __init__(self, tracker: AckTracker) -> None:
        """Begin without messages."""
        self._tracker = tracker
        self.delivered = 0
        self.acked = 0
        self.state = ON_TIME
        self.due = 0
        self.waiting: list[tuple[Event | int, bytes]] = []
        self.bytes = 0

    def add(
        self, connection: Connection, message: Event | Message, frame: bytes
    ) -> None:
        """Add the next message that is sent to the connection.

        If there is no space for the message, the connection is marked as full,
        and is closed at the end of the second.
        """
        self.delivered += 1
        if not self.waiting:
            self._tracker.wait_whole(connection, self)
        elif len(self.waiting) == MAX_MESSAGES or self.bytes + len(frame) > MAX_BYTES:
            if self.state is not FULL:
                self._tracker.full.append((connection, self))
            self.state = ACK_TRANSITIONS[self.state][OVERFLOW]
        if self.state is FULL:
            return
        if isinstance(message, Message):
            # For a stored message the id is enough, because the log has the
            # rest.
            self.waiting.append((message.id, frame))
        else:
            self.waiting.append((message, frame))
        self._count(len(frame))

    def ack(self, connection: Connection, number: int) -> int:
        """Note that the client has the messages up to a number.

        Returns the id of the last stored message that is acknowledged now for
        the first time, or 0 if none of these messages was stored.
        """
        acked = self.waiting[: max(number - self.acked, 0)]
        if not acked:
            return 0

        del self.waiting[: len(acked)]
        self._count(-sum([len(frame) for _, frame in acked]))
        self.acked += len(acked)
        self.state = ACK_TRANSITIONS[self.state][ACK]
        # The client has shown that it is alive, so its time begins anew.
        if self.waiting:
            self._tracker.wait_whole(connection, self)

        for message, _ in reversed(acked):
            if isinstance(message, int):
                return message
        return 0

    def clear(self) -> list[Event]:
        """Forget all messages, because the session ends.

        Returns the messages that are not stored, because nobody can read them
        from the log.
        """
        unstored = [
            message for message, _ in self.waiting if isinstance(message, Event)
        ]
        self.waiting = []
        # The tracker counts the bytes of all connections together.
        self._count(-self.bytes)
        self.acked = self.delivered
        self.state = ACK_TRANSITIONS[self.state][CLEAR]
        return unstored

    def _count(self, size: int) -> None:
        """Add a size to the bytes of this connection and to the total of all
        connections. The size may be negative."""
        self.bytes += size
        self._tracker.bytes += size


Acks = AckingLogSubscription | Unacked
"""The deliveries to one connection that its client acknowledges. ``delivered``:
the number of the last delivery. ``acked``: the last number that the client has
acknowledged. ``state``: the state, which only :data:`ACK_TRANSITIONS` changes.
``due``: the second of the wheel in which the client's time ends (0: no time
limit runs)."""


class AckTracker:
    """Sends again what clients do not acknowledge in time.

    It is a timer wheel that turns each second. A connection with unacknowledged
    deliveries is in one of the wheel's slots. So idle connections cost nothing,
    and no connection needs a timer. Never switches greenlets.

    ``limit_bytes`` is the limit for the frames of all unacknowledged messages.
    Above it, the connections with the most bytes are closed.
    """

    def __init__(self, metrics: Metrics, limit_bytes: int) -> None:
        """Make a wheel with empty slots."""
        self._metrics = metrics
        self._limit_bytes = limit_bytes
        self._slots: list[list[tuple[Connection, Acks, int]]] = [
            [] for _ in range(_SLOTS)
        ]
        """The slots: second → the connections whose time ends in it. The last
        item of each tuple is the number up to which the client must acknowledge
        in time."""
        self._now = 0
        self.bytes = 0
        """Bytes of the frames of all unacknowledged messages."""
        self.full: list[tuple[Connection, Unacked]] = []
        """Connections without space for their next message in this second."""

    def unacked(self) -> Unacked:
        """Begin the deliveries to a connection that acknowledges numbers."""
        return Unacked(self)

    def delivered(
        self, connection: Connection, log_subscription: AckingLogSubscription, id: int
    ) -> None:
        """Note that an entry was sent to a connection whose client
        acknowledges."""
        log_subscription.delivered = id
        if log_subscription.due:
            return
        if not isinstance(log_subscription, PongLogSubscription):
            self.wait(connection, log_subscription, ACK_SECONDS)
        # Pongs prove the arrival, so the client is pinged within a second.
        elif log_subscription.pinged:
            self.wait(connection, log_subscription, 1)

    def acked(self, connection: Connection, id: int, position: int) -> None:
        """Process the acknowledgement of everything up to an id.

        The entries were pushed, or were in a page that the client has
        requested. A client cannot acknowledge entries that it cannot have. So
        the id is limited to the last delivery or to ``position``, if that is
        larger. ``position`` is the id up to which the log of the app was
        delivered.
        """
        log_subscription = connection.log_subscription
        if not isinstance(log_subscription, AckingLogSubscription):
            return
        if log_subscription.acked >= id:
            return
        # The client may lie. Or it may have got entries in a page, which are
        # not counted as deliveries.
        sent = max(log_subscription.delivered, log_subscription.acked, position)
        log_subscription.acked = min(id, sent)
        log_subscription.state = ACK_TRANSITIONS[log_subscription.state][ACK]

    def wait(self, connection: Connection, acks: Acks, seconds: int) -> None:
        """Give a client ``seconds`` for all deliveries until now.

        The current second counts as the first second. A client that is already
        in the wheel stays in its slot, and is moved when the slot's turn comes.
        """
        if not acks.due:
            self._enter(connection, acks, seconds)
        acks.due = self._now + seconds

    def wait_whole(self, connection: Connection, acks: Acks) -> None:
        """Give a client :data:`ACK_SECONDS` from now on.

        The second that has already begun does not count.
        """
        self.wait(connection, acks, ACK_SECONDS + 1)

    def _enter(self, connection: Connection, acks: Acks, seconds: int) -> None:
        """Put a connection into the slot of the second in which its time ends.

        If the time is longer than the wheel, put the connection into the last
        slot. :meth:`turn` later puts it into another slot.
        """
        slot = (self._now + min(seconds, ACK_SECONDS)) % _SLOTS
        self._slots[slot].append((connection, acks, acks.delivered))

    def turn(self) -> list[Connection]:
        """Process the connections whose time limit ends. Called each second.

        This pings clients, sends frames again, and closes connections that do
        not acknowledge. Returns the connections to which entries of the log
        have to be sent again.
        """
        self._now += 1
        due = self._slots[self._now % _SLOTS]
        # The slot is emptied first, because the loop may fill it again.
        self._slots[self._now % _SLOTS] = []

        late: list[Connection] = []
        unpinged: list[tuple[Connection, Acks, int]] = []
        pings = 0
        for connection, acks, number in due:
            if not connection.is_open:
                continue
            if (
                not isinstance(acks, Unacked)
                and connection.log_subscription is not acks
            ):
                # The session has ended, or the connection has logged in again.
                continue
            if acks.due > self._now:  # the client's time has begun anew
                self._enter(connection, acks, acks.due - self._now)
                continue
            acks.due = 0

            # A pong stores a position, so only some clients are pinged at once.
            if isinstance(acks, PongLogSubscription):
                if pings == PINGS:
                    # There are too many pings in this second, so this client is
                    # pinged in the next second.
                    acks.due = self._now + 1
                    unpinged.append((connection, acks, number))
                else:
                    pings += 1
                    connection.probe(acks.ping())
                continue
            if acks.acked >= number:
                # The client has acknowledged in time. Later deliveries get a
                # new time limit.
                if acks.acked < acks.delivered:
                    self.wait(connection, acks, ACK_SECONDS)
                continue

            acks.state = ACK_TRANSITIONS[acks.state][LATE]
            if acks.state is EXPIRED:
                connection.close(CloseCode.ACK_TIMEOUT)
            elif isinstance(acks, Unacked):
                self._resend(connection, acks)
            else:
                late.append(connection)

        # The clients that were not pinged come before the connections of the
        # next second, so that no connection waits for its ping forever.
        self._slots[(self._now + 1) % _SLOTS][:0] = unpinged
        self._close_full()
        return late

    def _resend(self, connection: Connection, unacked: Unacked) -> None:
        """Send all unacknowledged frames again.

        The client gets twice as much time as for the previous resend.
        """
        # The state is the number of resends.
        self.wait(connection, unacked, ACK_SECONDS << unacked.state)
        if connection.outbox is not None:
            return  # the client does not read, so more frames would only wait
        self._metrics.resent_entries += len(unacked.waiting)
        for _, frame in unacked.waiting:
            connection.send_frame(frame)

    def _close_full(self) -> None:
        """Close the connections without space for their messages.

        Then close the connections with the most bytes, until the total is
        within the limit.
        """
        full = self.full
        self.full = []
        for connection, unacked in full:
            # The session may have ended meanwhile.
            if unacked.state is FULL:
                connection.close(CloseCode.ACK_TIMEOUT)
        if self.bytes > self._limit_bytes:
            self._close_largest()

    def _close_largest(self) -> None:
        """Close the connections with the most unacknowledged bytes.

        Connections are closed until the total is within the limit.
        """
        # Connections without unacknowledged frames are in no slot.
        sizes: dict[Connection, int] = {}
        for slot in self._slots:
            for connection, acks, _ in slot:
                if isinstance(acks, Unacked):
                    sizes[connection] = acks.bytes
        largest_first = sorted(sizes, key=lambda each: sizes[each], reverse=True)
        for connection in largest_first:
            connection.close(CloseCode.ACK_TIMEOUT)
            if self.bytes <= self._limit_bytes:
                break
