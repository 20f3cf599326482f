"""Acknowledgements of clients, cumulative: everything up to an id.

- A client that said at login that it acknowledges receives again what it does not acknowledge in time
  (:class:`AckTracker`).
- Clients of the action dialect have no such command, but every WebSocket client answers a ping with its
  payload. After a delivery they are pinged with the last id; the pong proves that everything up to it has
  arrived, and is stored (:class:`PongTracker`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from itertools import count
from typing import Final

import gevent

from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.hub.hub import rooms_of
from imserver.services.messages.subscriptions import AckingSubscription, PongSubscription, Positions
from imserver.storage.talk_positions import TalkPositions
from imserver.transport.connection import OPEN, Connection

ACK_SECONDS: Final = 10
"""Time for an acknowledgement."""
TRIES: Final = 3
"""How often entries are sent again before the connection is closed."""
RESEND_LIMIT: Final = 200
"""Most entries that are sent again; a client that lacks more has to reconnect with its cursor."""
PINGS: Final = 2000
"""Most connections that are pinged in a second: each pong is a position to be stored."""
_SLOTS: Final = ACK_SECONDS + 1
_PROBE: Final = struct.Struct("!QQ")
"""The payload of a ping: the number of the subscription, and the id of the last delivered entry."""


class PongTracker:
    """Owner of the connections that are to be pinged, and of the positions that are not stored yet."""

    def __init__(self, positions: TalkPositions) -> None:
        self._positions = positions
        self._unpinged: list[Connection] = []
        """Connections with deliveries since their last ping."""
        self._proved: dict[tuple[str, str, str], int] = {}
        """(app, user, room) → the position that a pong has proved."""
        self._running = False
        self.numbers = count()
        """Of subscriptions."""

    def get(self, app: str, user: str, rooms: Collection[str]) -> Positions:
        """A user's positions: outside rooms, and in these rooms as far as they have one there. It switches,
        and raises StorageUnavailable."""
        positions = self._positions.get(app, user, rooms)
        for room in ("", *rooms):
            proved = self._proved.get((app, user, room), -1)
            if proved > positions.get(room, -1):
                positions[room] = proved
        return positions

    def begin(self, app: str, user: str, room: str, id: int) -> None:
        """Store the first position of a user in a room. It switches, and raises StorageUnavailable."""
        self._positions.begin(app, user, room, id)

    def forget(self, app: str, user: str) -> None:
        """Delete a user's positions. It switches, and raises StorageUnavailable."""
        for key in [key for key in self._proved if key[:2] == (app, user)]:
            del self._proved[key]
        self._positions.forget(app, user)

    def delivered(self, connection: Connection) -> None:
        """Something was delivered to a connection that was not waiting for its ping. Never switches."""
        self._unpinged.append(connection)
        self._start()

    def ponged(self, connection: Connection, data: bytes) -> None:
        """A client has answered a ping. It can have no more than was sent to it. Never switches."""
        subscription, app, user = connection.subscription, connection.app, connection.user
        if not isinstance(subscription, PongSubscription) or len(data) != _PROBE.size:
            return
        if app is None or user is None:
            return
        number, id = _PROBE.unpack(data)
        if number == subscription.number and subscription.acked < id <= subscription.delivered:
            subscription.acked = id
            present = {room.name for room in rooms_of(connection)}
            for room in subscription.positions:
                if not room or room in present:
                    key = app, user, room
                    self._proved[key] = max(id, self._proved.get(key, 0))
            self._start()

    def _start(self) -> None:
        if not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """Greenlet: work once a second, as long as there is anything to do."""
        try:
            while self._unpinged or self._proved:
                gevent.sleep(until_beat())
                self.work()
        finally:
            self._running = False

    def work(self) -> None:
        """Ping connections with deliveries; store the proved positions. It switches."""
        now, self._unpinged = self._unpinged[:PINGS], self._unpinged[PINGS:]
        for connection in now:
            subscription = connection.subscription
            if isinstance(subscription, PongSubscription):
                subscription.tracked = False
                connection.probe(_PROBE.pack(subscription.number, subscription.delivered))
        # Positions stay in sight of new logins while they are being stored.
        rows = [(*key, id) for key, id in self._proved.items()]
        if not rows:
            return
        try:
            self._positions.raise_to(rows)
        except StorageUnavailable:
            return  # tried again in a second
        for app, user, room, id in rows:
            if self._proved.get((app, user, room)) == id:
                del self._proved[app, user, room]


class AckTracker:
    """Owner of a timer wheel that turns each second: a connection with unacknowledged entries is in one of
    its slots, so idle connections cost nothing, and none has a timer. Never switches."""

    def __init__(self, pongs: PongTracker) -> None:
        self._pongs = pongs
        self._slots: list[list[tuple[Connection, int]]] = [[] for _ in range(_SLOTS)]
        self._now = 0

    def delivered(self, connection: Connection, subscription: AckingSubscription, id: int) -> None:
        """An entry was sent to a connection whose client acknowledges."""
        subscription.delivered = id
        if subscription.tracked:
            return
        if isinstance(subscription, PongSubscription):
            subscription.tracked = True
            self._pongs.delivered(connection)
        else:
            self.wait(connection, subscription)

    def acked(self, connection: Connection, id: int, position: int) -> None:
        """A client acknowledges everything up to an id: pushed, or in a page that it asked for. It can have
        nothing behind ``position``, up to which the log of its app was delivered."""
        subscription = connection.subscription
        if isinstance(subscription, AckingSubscription) and subscription.acked < id:
            subscription.acked = min(id, max(subscription.delivered, subscription.acked, position))
            subscription.tries = 0

    def wait(self, connection: Connection, subscription: AckingSubscription) -> None:
        """Give a client its time from now on."""
        subscription.tracked = True
        self._slots[(self._now + ACK_SECONDS) % _SLOTS].append((connection, subscription.delivered))

    def turn(self) -> list[Connection]:
        """A second has passed. The connections whose clients are late."""
        self._now += 1
        slot = self._now % _SLOTS
        due, self._slots[slot] = self._slots[slot], []
        late = []
        for connection, delivered in due:
            subscription = connection.subscription
            if connection.state != OPEN or not isinstance(subscription, AckingSubscription):
                continue
            subscription.tracked = False
            if subscription.acked < delivered:
                late.append(connection)
            elif subscription.acked < subscription.delivered:
                self.wait(connection, subscription)
        return late
