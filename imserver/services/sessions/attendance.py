"""Attendance: where the sessions of users on this node are, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from imserver.hub.hub import Hub
from imserver.transport.connection import Connection

NAMED_ROOMS: Final = 10_000
"""Up to so many rooms of an app are counted exactly; more of them once for each node that has members."""


class Where(Struct, frozen=True, array_like=True):
    """One addressed session of a user: the id of its connection, and ``since`` when, in Unix seconds."""

    connection: str
    device: str
    dialect: str
    since: int
    node: str


class Whereabouts(Struct, frozen=True):
    """The sessions of each user, in the order in which users were asked for; none: offline.

    ``missing`` names nodes that did not answer.
    """

    sessions: list[list[Where]]
    missing: tuple[str, ...] = ()


class AppCount(Struct, frozen=True):
    """How many there are of an app; a user with sessions on two nodes counts twice."""

    users: int
    sessions: int
    rooms: int


class Counts(Struct, frozen=True):
    """The counts of each app; ``missing`` names nodes that did not answer."""

    apps: dict[str, AppCount]
    missing: tuple[str, ...] = ()


class Sought(Struct, frozen=True, array_like=True):
    """Which sessions of these users are on your node? Answered in their order."""

    app: str
    users: Sequence[str]


class Tally(Struct, frozen=True, array_like=True):
    """What one node has of an app; ``names`` are those of its rooms, if they are not too many."""

    users: int
    sessions: int
    rooms: int
    names: list[str]


class NamesConnections(Protocol):
    """Who gives connections their ids; :class:`imserver.services.rooms.connections.Connections` does."""

    def id_of(self, connection: Connection) -> str:
        """The id of a connection of this node."""


class Attendance:
    """Answers for this node. Stateless; never switches. ``node`` tells its name."""

    def __init__(self, hub: Hub, connections: NamesConnections, node: Callable[[], str]) -> None:
        self._hub = hub
        self._connections = connections
        self._node = node

    def sessions(self, asked: Sought) -> list[list[Where]]:
        """The sessions here of each user."""
        app = self._hub.apps.get(asked.app)
        if app is None:
            return [[] for _ in asked.users]
        node = self._node()
        return [[self._router(session, node) for session in app.sessions_of(user)] for user in asked.users]

    def _router(self, session: Connection, node: str) -> Where:
        name = session.encoding.dialect.name
        return Where(self._connections.id_of(session), session.device, name, session.since, node)

    def tallies(self, apps: Sequence[str]) -> list[Tally]:
        """What there is of each app."""
        return [self._tally(name) for name in apps]

    def _tally(self, name: str) -> Tally:
        app = self._hub.apps.get(name)
        if app is None:
            return Tally(0, 0, 0, [])
        users = len(app.users)
        sessions = sum(len(app.sessions_of(user)) for user in app.users) if app.several else users
        rooms = len(app.rooms)
        return Tally(users, sessions, rooms, list(app.rooms) if rooms <= NAMED_ROOMS else [])


def count_up(tallies: Sequence[Tally]) -> AppCount:
    """What all nodes have of an app."""
    rooms = sum(tally.rooms for tally in tallies)
    if all(len(tally.names) == tally.rooms for tally in tallies):
        rooms = len(set().union(*(tally.names for tally in tallies)))
    return AppCount(sum(tally.users for tally in tallies), sum(tally.sessions for tally in tallies), rooms)
