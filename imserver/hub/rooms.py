"""Rooms of this node: live sets of connections, by app. A room is there while it has members."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Final

from imserver.hub.hub import App
from imserver.transport.connection import OPEN, Connection

_TICK_SECONDS: Final = 0.000_002
"""Two joins of a node are told apart by at least so much."""


class Room:
    """The members on this node. Owner: :class:`Membership`.

    ``members`` maps a connection to the Unix time at which it joined; they stand in that order, and no two of
    a node joined at the same time.
    """

    __slots__ = ("app", "members", "name")

    def __init__(self, app: App, name: str) -> None:
        self.app = app
        self.name = name
        self.members: dict[Connection, float] = {}


class Membership:
    """Who is in which room. Owner of ``App.rooms`` and ``Connection.rooms``; never switches.

    Nearly all connections are in no room or in one, so a connection holds nothing, its room, or a dict of its
    rooms by name.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self.rooms = 0
        """How many there are, over all apps."""
        self.members = 0
        """How many memberships there are."""
        self._clock = clock
        self._last = 0.0

    def join(self, app: App, name: str, connection: Connection) -> bool:
        """Put a connection into a room. False: it is in there already, or not in service in the app."""
        if connection.state != OPEN or connection.app != app.name:
            return False
        room = app.rooms.get(name)
        if room is None:
            room = app.rooms[name] = Room(app, name)
            self.rooms += 1
        elif connection in room.members:
            return False
        self._last = room.members[connection] = max(self._clock(), self._last + _TICK_SECONDS)
        self.members += 1
        held: Room | dict[str, Room] | None = connection.rooms
        if held is None:
            connection.rooms = room
        elif isinstance(held, Room):
            connection.rooms = {held.name: held, name: room}
        else:
            held[name] = room
        return True

    def leave(self, app: App, name: str, connection: Connection) -> bool:
        """Take a connection out of a room. False: it was not in there."""
        room = app.rooms.get(name)
        if room is None or connection not in room.members:
            return False
        held: Room | dict[str, Room] | None = connection.rooms
        if held is room:
            connection.rooms = None
        else:
            assert isinstance(held, dict)
            del held[name]
            if not held:
                connection.rooms = None
        self._take_out(room, connection)
        return True

    def leave_all(self, connection: Connection) -> tuple[Room, ...]:
        """Take a connection out of all its rooms, which are returned in the order of joining."""
        rooms = rooms_of(connection)
        connection.rooms = None
        for room in rooms:
            self._take_out(room, connection)
        return rooms

    def _take_out(self, room: Room, connection: Connection) -> None:
        del room.members[connection]
        self.members -= 1
        if not room.members:
            del room.app.rooms[room.name]
            self.rooms -= 1


def rooms_of(connection: Connection) -> tuple[Room, ...]:
    """The rooms of a connection in the order of joining."""
    held: Room | dict[str, Room] | None = connection.rooms
    if held is None:
        return ()
    return (held,) if isinstance(held, Room) else tuple(held.values())
