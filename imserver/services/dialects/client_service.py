"""The client dialect: browsers that listen, each with an id by which a back end addresses it.

A client is a session in the app of its system, and its user is its own id: unique in the cluster, so that
what is done to a user can only be done to this client. Groups are rooms of that app. Clients are not in the
registry: an id tells where its client is.
"""

from __future__ import annotations

from time import time
from typing import Final

import msgspec
from msgspec import Struct

from imserver import errors
from imserver.auth.login import Logins
from imserver.auth.tenants import Tenants, valid_name
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.model import SYSTEM_PREFIX, DialectState, Event
from imserver.protocol.client import BAD_SYSTEM, NO_SYSTEM, message_id, refusal, welcome
from imserver.services.nodes.queries import NodeQueries
from imserver.services.rooms.connections import Connections, Joined, Left
from imserver.services.rooms.rooms import Rooms
from imserver.services.sessions.connection_ids import NAMED_BY_ID, ConnectionIds
from imserver.services.sessions.sessions import say
from imserver.transport.connection import OPEN, Connection
from imserver.transport.gate import Head

POLICY: Final = "multi"
"""Login policy of systems that nobody has registered. No two clients are one user, so it never decides."""
_UNBIND: Final = "unbind"

_pack = msgspec.msgpack.Encoder().encode
_to_json = msgspec.json.Encoder().encode


class BadSystem(errors.ImserverError):
    """No system can have this name."""


class Label(Struct, frozen=True, array_like=True):
    """What a back end says about a client; it is part of the notices to its groups."""

    user_id: str = ""
    extend: str = ""


_unpack_label = msgspec.msgpack.Decoder(Label).decode
_NO_LABEL: Final = Label()


class Unbind(Struct, frozen=True, array_like=True):
    """Take a client of yours out of a group; answered with a :class:`Left`."""

    app: str
    client_id: str
    group: str


def _is_name(system: str) -> bool:
    """Whether a system may be called so: a header has to carry it, which loses blanks at its ends."""
    return system != "" and system == system.strip() and valid_name(SYSTEM_PREFIX + system)


class ClientState(DialectState, gc=False):
    """The label of a client."""

    label: Label = _NO_LABEL


class ClientService:
    """Begins clients, and notifies groups when members come and go. Owner of :class:`ClientState`.

    Groups with more than ``notice_members`` members get no notices.
    """

    def __init__(
        self,
        hub: Hub,
        ids: ConnectionIds,
        rooms: Rooms,
        connections: Connections,
        queries: NodeQueries,
        tenants: Tenants,
        logins: Logins,
        metrics: Metrics,
        notice_members: int,
    ) -> None:
        self._hub = hub
        self._ids = ids
        self._rooms = rooms
        self._connections = connections
        self._tenants = tenants
        self._logins = logins
        self._metrics = metrics
        self._notice_members = notice_members
        rooms.on_left.append(self._left)
        connections.on_join.append(self._joined)
        queries.add(_UNBIND, Unbind, self._unbind_here)

    # --- coming and going -----------------------------------------------------------------------------------

    def opened(self, connection: Connection, head: Head) -> None:
        """A connection has begun: make it a client of the system that its query names, and tell it its id.

        When it knows its id it can be reached by it. In demo mode the system need not be registered. May
        switch, and raise StorageUnavailable.
        """
        params = head.params()
        system = params.get("systemId", "")
        if not system:
            self._refuse(connection, NO_SYSTEM, errors.CLOSE_NOT_ALLOWED)
            return
        if not _is_name(system):
            self._refuse(connection, BAD_SYSTEM, errors.CLOSE_NOT_ALLOWED)
            return
        app = self.app_of(system)
        if self._tenants.get(app) is None and self._logins.takes_unregistered:
            self._begin(app, connection, guest=True)
            return
        self._tenants.find(app)  # it may have been registered on another node a moment ago
        decision = self._logins.check(app, "", params.get("token", ""), NAMED_BY_ID, connection)
        if connection.state != OPEN:
            return
        if not decision.ok:
            text = errors.reply_text(decision.code)
            self._refuse(connection, refusal(-decision.code, text), decision.close)
            return
        self._begin(app, connection, guest=False)
        if decision.user:
            connection.dialect_state = ClientState(label=Label(decision.user))
        self._logins.began(connection, decision)

    def _refuse(self, connection: Connection, payload: bytes, code: int) -> None:
        self._metrics.logins_refused += 1
        connection.send(payload)
        say(connection, code)

    def _begin(self, app: str, connection: Connection, guest: bool) -> None:
        client_id = self._ids.id_of(self._ids.next_number())
        self._hub.join(self._hub.open(app, POLICY, guest), connection, client_id, "")
        self._metrics.logins += 1
        connection.send(welcome(client_id))

    def ended(self, connection: Connection) -> None:
        """A connection is over, and has left the hub and its groups. Never switches."""
        if connection.app is not None and connection.encoding.dialect.name == NAMED_BY_ID:
            self._hub.close_guest(connection.app)

    # --- systems --------------------------------------------------------------------------------------------

    def register(self, system: str) -> bool:
        """Register a system, for all nodes and for good. False: it is registered already.

        Raises :class:`BadSystem` for what cannot be its name. May switch.
        """
        if not _is_name(system):
            raise BadSystem(system)
        return self._tenants.register(SYSTEM_PREFIX + system)

    def app_of(self, system: str) -> str:
        """The app in which the clients of a system are, registered or not."""
        return self._tenants.resolve(SYSTEM_PREFIX + system)

    def is_registered(self, system: str) -> bool:
        """Whether somebody has registered a system. May switch."""
        return self._tenants.find(SYSTEM_PREFIX + system) is not None

    # --- groups ---------------------------------------------------------------------------------------------

    def bind(self, app: str, client_id: str, group: str, label: Label) -> Joined:
        """Put a client into a group, wherever it is; its label is replaced.

        Raises :class:`imserver.services.rooms.rooms.RoomRefused` for a name that no group can have.
        """
        return self._connections.join(app, client_id, group, _pack(label))

    def unbind(self, app: str, client_id: str, group: str) -> Left:
        """Take a client out of a group, wherever it is; the others are told that it is gone."""
        if self._ids.read(client_id) is None:
            return Left.UNKNOWN
        answer: Left | None = self._connections.ask(client_id, _UNBIND, Unbind(app, client_id, group), Left)
        # No answer: its node has gone, or is silent, which this tells apart.
        return self._connections.leave(app, client_id, group) if answer is None else answer

    def _unbind_here(self, asked: Unbind) -> Left:
        connection = self._connections.find(asked.app, asked.client_id)
        if connection is None:
            return Left.UNKNOWN
        if not self._rooms.leave(asked.app, asked.group, connection):
            return Left.ABSENT
        self._notify(connection, asked.group, "offline")
        return Left.LEFT

    def _joined(self, connection: Connection, room: str, about: bytes, new: bool) -> None:
        """A connection of this node has joined a room, or was asked to once more."""
        if connection.encoding.dialect.name != NAMED_BY_ID:
            return
        if about:
            connection.dialect_state = ClientState(label=_unpack_label(about))
        if new:
            self._notify(connection, room, "online")

    def _left(self, connection: Connection, rooms: tuple[str, ...]) -> None:
        """A connection of this node has ended that was in these rooms."""
        if connection.encoding.dialect.name == NAMED_BY_ID:
            for room in rooms:
                self._notify(connection, room, "offline")

    def _notify(self, connection: Connection, group: str, kind: str) -> None:
        app = connection.app
        if app is None:
            return
        state = connection.dialect_state
        label = state.label if isinstance(state, ClientState) else _NO_LABEL
        member = {"clientId": connection.user, "extend": label.extend, "userId": label.user_id}
        event = Event(kind, "", "", message_id(), data=_to_json(member), time=int(time()))
        self._rooms.publish(app, group, event, at_most=self._notice_members)
