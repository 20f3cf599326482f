"""Places: up to where users of the action dialect have what is kept.

Their clients acknowledge nothing, but whatever speaks WebSocket answers a ping with what came in it. So
whoever was told something is pinged with the id of the last of it; the pong proves that all up to there has
come, and is remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from itertools import count
from typing import Final, Protocol

import gevent

from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.hub.hub import rooms_of
from imserver.services.dialects.talk_readers import Places, TalkReader
from imserver.transport.connection import Connection

PINGS: Final = 2000
"""Most connections that are pinged in a second: in a large room all would be, each second, and each of them
has a place that is written down."""
_PROBE: Final = struct.Struct("!QQ")
"""What a ping carries: the number of the reader, and the id of the last that it was told."""


class Positions(Protocol):
    """Where users stand; :class:`imserver.storage.talk_positions.TalkPositions` knows. All of it may switch,
    and raises StorageUnavailable."""

    def get(self, app: str, user: str, rooms: Collection[str] = ()) -> Places:
        """Up to which ids a user has everything; rooms where they never were are missing."""

    def raise_to(self, rows: Sequence[tuple[str, str, str, int]]) -> None:
        """Remember (app, user, room, id) where that is more than was known."""

    def begin(self, app: str, user: str, room: str, id: int) -> None:
        """Store the first position of a user in a room."""

    def forget(self, app: str, user: str) -> None:
        """Know nothing of a user any more."""


class TalkPlaces:
    """Owner of who is to be pinged, and of what has been delivered and is not remembered yet."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._owing: list[Connection] = []
        """Who was told something since they were pinged."""
        self._delivered: dict[tuple[str, str, str], int] = {}
        self._running = False
        self.numbers = count()
        """Of readers."""

    def get(self, app: str, user: str, rooms: Collection[str]) -> Places:
        """Where a user stands: in what they may read, and in these rooms as far as they ever were there. It
        switches, and raises StorageUnavailable."""
        places = self._positions.get(app, user, rooms)
        for room in ("", *rooms):
            delivered = self._delivered.get((app, user, room), -1)
            if delivered > places.get(room, -1):
                places[room] = delivered
        return places

    def begin(self, app: str, user: str, room: str, id: int) -> None:
        """From now on the user belongs to the room. It switches, and raises StorageUnavailable."""
        self._positions.begin(app, user, room, id)

    def forget(self, app: str, user: str) -> None:
        """Know nothing of a user any more. It switches, and raises StorageUnavailable."""
        for key in [key for key in self._delivered if key[:2] == (app, user)]:
            del self._delivered[key]
        self._positions.forget(app, user)

    # --- what was delivered ---------------------------------------------------------------------------------

    def owes(self, connection: Connection) -> None:
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
            present = {room.name for room in rooms_of(connection)}
            for room in reader.places:
                if not room or room in present:
                    key = app, user, room
                    self._delivered[key] = max(id, self._delivered.get(key, 0))
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
        owing, self._owing = self._owing[:PINGS], self._owing[PINGS:]
        for connection in owing:
            reader = connection.about
            if isinstance(reader, TalkReader):
                reader.turning = False
                connection.probe(_PROBE.pack(reader.number, reader.told))
        # What is being remembered stays in sight of those who log in meanwhile.
        rows = [(*key, id) for key, id in self._delivered.items()]
        if not rows:
            return
        try:
            self._positions.raise_to(rows)
        except StorageUnavailable:
            return  # the next look tries again
        for app, user, room, id in rows:
            if self._delivered.get((app, user, room)) == id:
                del self._delivered[app, user, room]
