"""Connections by their ids: push to one, close it, let it join a room, on whichever node it is.

:class:`Connections` serves a node without a cluster; :mod:`imserver.services.rooms.cluster_connections`
extends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from imserver import errors
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Event, Outcome
from imserver.services.nodes.queries import NodeQueries, encode
from imserver.services.rooms.rooms import RoomRefused, Rooms, check_name
from imserver.services.sessions.connection_ids import ConnectionTable
from imserver.transport.connection import Connection

OnJoin = Callable[[Connection, str, bytes, bool], None]


class Joined(StrEnum):
    """What became of a connection that was to join a room."""

    JOINED = "joined"
    MEMBER = "member"
    """It was in there already."""
    UNKNOWN = "unknown"
    """There is no such connection in this app."""
    FULL = "full"
    """There are too many rooms."""
    FAILED = "failed"
    """Its node did not answer: it may have joined."""


class Left(StrEnum):
    """What became of a connection that was to leave a room."""

    LEFT = "left"
    ABSENT = "absent"
    """It was not in there."""
    UNKNOWN = "unknown"
    FAILED = "failed"


class ConnectionInfo(Struct, frozen=True, array_like=True):
    """A connection as others see it; ``since`` is when it logged in, in Unix seconds."""

    connection: str
    user: str
    device: str
    dialect: str
    since: int
    peer: str
    node: str
    rooms: tuple[str, ...] = ()


class Connections:
    """Connections of a node without a cluster, and this node's part of those of a cluster.

    Calls may switch. An id that is none, of another app, or whose connection has ended, is no error: no
    connection is found. ``node``: the name of this node.
    """

    def __init__(
        self,
        table: ConnectionTable,
        rooms: Rooms,
        hub: Hub,
        fanout: Fanout,
        queries: NodeQueries,
        node: Callable[[], str],
    ) -> None:
        self.ids = table.ids
        self.id_of = table.id_of
        """See :meth:`ConnectionTable.id_of`."""
        self.find = table.find
        """See :meth:`ConnectionTable.find`."""
        self.rooms = rooms
        self.on_join: list[OnJoin] = []
        """Called with (connection, room, the ``about`` of the call, whether it is new there) on the
        connection's node when it has joined by :meth:`join`, before that returns. May switch. Append."""
        self._hub = hub
        self._fanout = fanout
        self._queries = queries
        self._node = node

    # --- telling --------------------------------------------------------------------------------------------

    def push(self, app: str, connection_id: str, event: Event) -> Outcome:
        """Tell one connection. SENT: it was told, or its node, which lives, will tell it."""
        return self.push_each(app, (connection_id,), event)[0]

    def push_each(self, app: str, connection_ids: Sequence[str], event: Event) -> list[Outcome]:
        """Tell several connections the same."""
        return [
            Outcome.SENT if self.tell(app, connection_id, event) else Outcome.NOT_SENT
            for connection_id in connection_ids
        ]

    def tell(self, app: str, connection_id: str, event: Event) -> bool:
        """Tell a connection, if it is on this node. Never switches."""
        connection = self.find(app, connection_id)
        if connection is None:
            return False
        self._fanout.to_connection(self._hub.apps[app], connection, event)
        return True

    def close(self, app: str, connection_id: str, code: int) -> Outcome:
        """Close one, behind all that was pushed to it, with one of the codes in ``errors.CLOSE``."""
        return Outcome.SENT if self.close_here(app, connection_id, code) else Outcome.NOT_SENT

    def close_here(self, app: str, connection_id: str, code: int) -> bool:
        """Close a connection, if it is on this node. Never switches."""
        connection = self.find(app, connection_id)
        if connection is None:
            return False
        connection.close(code, errors.CLOSE[code].name)
        return True

    # --- rooms ----------------------------------------------------------------------------------------------

    def join(self, app: str, connection_id: str, room: str, about: bytes = b"") -> Joined:
        """See :meth:`imserver.services.rooms.rooms.Rooms.join`. Raises RoomRefused for a bad name only."""
        return self.join_each(app, (connection_id,), room, about)[0]

    def join_each(
        self, app: str, connection_ids: Sequence[str], room: str, about: bytes = b""
    ) -> list[Joined]:
        """The same for many, in their order, with one question to each node."""
        check_name(room)
        return [self.join_here(app, connection_id, room, about) for connection_id in connection_ids]

    def join_here(self, app: str, connection_id: str, room: str, about: bytes) -> Joined:
        """Let a connection join, if it is on this node."""
        connection = self.find(app, connection_id)
        if connection is None:
            return Joined.UNKNOWN
        try:
            new = self.rooms.join(app, room, connection)
        except RoomRefused:
            # Its name is in order: there are too many rooms.
            return Joined.FULL
        if room not in self.rooms.rooms_of(connection):
            return Joined.UNKNOWN
        for tell in self.on_join:
            tell(connection, room, about, new)
        return Joined.JOINED if new else Joined.MEMBER

    def leave(self, app: str, connection_id: str, room: str) -> Left:
        """Take it out of a room."""
        return self.leave_each(app, (connection_id,), room)[0]

    def leave_each(self, app: str, connection_ids: Sequence[str], room: str) -> list[Left]:
        """The same for many, in their order, with one question to each node."""
        return [self.leave_here(app, connection_id, room) for connection_id in connection_ids]

    def leave_here(self, app: str, connection_id: str, room: str) -> Left:
        """Let a connection leave, if it is on this node. Never switches."""
        connection = self.find(app, connection_id)
        if connection is None:
            return Left.UNKNOWN
        return Left.LEFT if self.rooms.leave(app, room, connection) else Left.ABSENT

    def rooms_of(self, app: str, connection_id: str) -> list[str] | None:
        """The names of its rooms in the order of joining; None: it is not there, or its node is silent."""
        info = self.about(app, (connection_id,))[0]
        return None if info is None else list(info.rooms)

    # --- being asked ----------------------------------------------------------------------------------------

    def about(self, app: str, connection_ids: Sequence[str]) -> list[ConnectionInfo | None]:
        """What is known of each; None: it is not connected, or its node does not answer."""
        return [self.about_here(app, connection_id) for connection_id in connection_ids]

    def about_here(self, app: str, connection_id: str) -> ConnectionInfo | None:
        """What is known of a connection, if it is on this node."""
        connection = self.find(app, connection_id)
        if connection is None:
            return None
        return ConnectionInfo(
            connection_id,
            connection.user or "",
            connection.device,
            connection.encoding.dialect.name,
            connection.since,
            connection.peer,
            self._node(),
            self.rooms.rooms_of(connection),
        )

    def ask(self, connection_id: str, kind: str, asked: Any, answer: Any) -> Any:
        """Put a question (a row of ``questions``) to the node of a connection, this one included.

        Returns what the row answers, as the type ``answer``; None: there is no such node, or it is silent.
        """
        address = self.ids.read(connection_id)
        if address is None or address.birth != self.ids.birth:
            return None
        return msgspec.msgpack.decode(self._queries.answer(kind, encode(asked)), type=answer)
