"""Connections by their ids: push to one, close it, let it join a room, wherever in the cluster it is.

:class:`LocalConnections` serves a node that is alone; ``services.cluster_connections`` does so for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from imserver import errors
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import Event
from imserver.services.connection_ids import ConnectionIds
from imserver.services.pushing import Outcome
from imserver.services.questions import Questions, encode
from imserver.services.rooms import Rooms
from imserver.transport.connection import OPEN, Connection

NUMBERED: Final = "client"
"""The dialect whose users are connections: their number, as text, is the name of their user."""


class Joined(IntEnum):
    """What became of a connection that was to join a room."""

    GONE = 0
    """There is no such connection in this app."""
    NEW = 1
    ALREADY = 2
    UNREACHABLE = 3
    """Its node did not answer: it may have joined."""


class ConnectionInfo(Struct, frozen=True, array_like=True):
    """A connection as others see it; ``since`` is when it logged in, in Unix seconds."""

    connection_id: str
    user: str
    device: str
    dialect: str
    since: int
    peer: str
    node: str
    rooms: tuple[str, ...] = ()


class Connections(Protocol):
    """What dialects and the API ask. Calls may switch, but :meth:`id_of` and :meth:`find`.

    An id that is none, of another app, or whose connection has ended, is no error: nothing is there.
    """

    def id_of(self, connection: Connection) -> str:
        """The id of a connection of this node: always the same one."""

    def find(self, app: str, connection_id: str) -> Connection | None:
        """The connection with this id, if it is on this node and in service in this app."""

    def push(self, app: str, connection_id: str, event: Event) -> Outcome:
        """Tell one connection. SENT: it was told, or its node, which lives, will tell it."""

    def push_each(self, app: str, connection_ids: Sequence[str], event: Event) -> list[Outcome]:
        """Tell several connections the same."""

    def close(self, app: str, connection_id: str, code: int) -> Outcome:
        """Close one, behind all that was pushed to it, with one of the codes in ``errors.CLOSE``."""

    def join(self, app: str, connection_id: str, room: str) -> Joined:
        """See :meth:`imserver.services.rooms.Rooms.join`. Raises RoomRefused."""

    def leave(self, app: str, connection_id: str, room: str) -> bool:
        """Take it out of a room; whether it was in there, as far as its node answers."""

    def about(self, app: str, connection_ids: Sequence[str]) -> list[ConnectionInfo | None]:
        """What is known of each; None: it is not connected, or its node does not answer."""

    def ask(self, connection_id: str, kind: str, asked: Any, answer: Any) -> Any:
        """Put a question (a row of ``questions``) to the node of a connection, this one included.

        Returns what the row answers, as the type ``answer``; None: there is no such node, or it is silent.
        """

    def ended(self, connection: Connection) -> None:
        """A connection is over (the carrier's ``ended``). Never switches."""


class LocalConnections:
    """Connections of a node that is alone, and this node's share of the cluster's.

    Owner of the numbers that were given to connections whose id was asked for; most have none. ``rooms`` is
    set by whoever builds both.
    """

    rooms: Rooms

    def __init__(self, hub: Hub, fanout: Fanout, ids: ConnectionIds, questions: Questions) -> None:
        self.ids = ids
        self.node = ""
        """The name of this node, for people."""
        self._hub = hub
        self._fanout = fanout
        self._questions = questions
        self._by_number: dict[int, Connection] = {}
        self._numbers: dict[Connection, int] = {}

    def id_of(self, connection: Connection) -> str:
        """See :class:`Connections`."""
        if connection.encoding.dialect.name == NUMBERED and connection.user:
            return self.ids.id_of(int(connection.user))
        number = self._numbers.get(connection)
        if number is None:
            number = self.ids.next_number()
            if connection.state == OPEN:
                self._numbers[connection] = number
                self._by_number[number] = connection
        return self.ids.id_of(number)

    def find(self, app: str, connection_id: str) -> Connection | None:
        """See :class:`Connections`."""
        address = self.ids.read(connection_id)
        if address is None or address.birth != self.ids.birth:
            return None
        return self.numbered(app, address.number)

    def numbered(self, app: str, number: int) -> Connection | None:
        """The connection of this number, if it is in service in this app."""
        connection = self._by_number.get(number)
        if connection is not None:
            return connection if connection.state == OPEN and connection.app == app else None
        known = self._hub.apps.get(app)
        for session in known.sessions_of(str(number)) if known is not None else ():
            if session.encoding.dialect.name == NUMBERED:
                return session
        return None

    def push(self, app: str, connection_id: str, event: Event) -> Outcome:
        """See :class:`Connections`."""
        return self.push_each(app, (connection_id,), event)[0]

    def push_each(self, app: str, connection_ids: Sequence[str], event: Event) -> list[Outcome]:
        """See :class:`Connections`."""
        outcomes = []
        for connection_id in connection_ids:
            connection = self.find(app, connection_id)
            outcomes.append(Outcome.NOT_SENT if connection is None else Outcome.SENT)
            if connection is not None:
                self.tell(connection, event)
        return outcomes

    def tell(self, connection: Connection, event: Event) -> None:
        """Tell a connection of this node. Never switches."""
        self._fanout.to_connection(self._hub.apps[connection.app or ""], connection, event)

    def close(self, app: str, connection_id: str, code: int) -> Outcome:
        """See :class:`Connections`."""
        connection = self.find(app, connection_id)
        if connection is None:
            return Outcome.NOT_SENT
        connection.close(code, errors.CLOSE[code].name)
        return Outcome.SENT

    def join(self, app: str, connection_id: str, room: str) -> Joined:
        """See :class:`Connections`."""
        return self.join_here(app, self.find(app, connection_id), room)

    def join_here(self, app: str, connection: Connection | None, room: str) -> Joined:
        """Let a connection of this node join."""
        if connection is None:
            return Joined.GONE
        if self.rooms.join(app, room, connection):
            return Joined.NEW
        return Joined.ALREADY if connection.state == OPEN else Joined.GONE

    def leave(self, app: str, connection_id: str, room: str) -> bool:
        """See :class:`Connections`."""
        connection = self.find(app, connection_id)
        return connection is not None and self.rooms.leave(app, room, connection)

    def about(self, app: str, connection_ids: Sequence[str]) -> list[ConnectionInfo | None]:
        """See :class:`Connections`."""
        return [self.about_here(self.find(app, each)) for each in connection_ids]

    def about_here(self, connection: Connection | None) -> ConnectionInfo | None:
        """What is known of a connection of this node."""
        if connection is None:
            return None
        return ConnectionInfo(
            self.id_of(connection),
            connection.user or "",
            connection.device,
            connection.encoding.dialect.name,
            connection.since,
            connection.peer,
            self.node,
            self.rooms.rooms_of(connection),
        )

    def ask(self, connection_id: str, kind: str, asked: Any, answer: Any) -> Any:
        """See :class:`Connections`."""
        address = self.ids.read(connection_id)
        if address is None or address.birth != self.ids.birth:
            return None
        return msgspec.msgpack.decode(self._questions.answer(kind, encode(asked)), type=answer)

    def ended(self, connection: Connection) -> None:
        """See :class:`Connections`."""
        number = self._numbers.pop(connection, None)
        if number is not None:
            del self._by_number[number]
