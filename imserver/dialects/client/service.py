"""The client dialect: browsers that only receive. A back end addresses each of
them by its id.

A client is a session in the app of its system. Its user is its own id, which is
unique in the cluster, so an operation on this user affects only this client.
Groups are channels of that app. Clients are not in the registry, because an id
contains the node of its client.
"""

from time import time
from typing import Final

import msgspec
from msgspec import Struct

from imserver.dialects.client.wire import (
    BAD_SYSTEM,
    NAME,
    NO_SYSTEM,
    message_id,
    refusal,
    welcome,
)
from imserver.plugin.errors import CloseCode, reply_text
from imserver.plugin.services import Core, Joined, Left, Position
from imserver.plugin.settings import valid_name
from imserver.plugin.wire import Connection, DialectState, Event, Head

POLICY: Final = "multi"
"""Login policy of unregistered systems. Each client is its own user, so the
policy has no effect."""


class Label(Struct, frozen=True, array_like=True):
    """The label that a back end gives a client. Notices to the client's groups
    contain it."""

    user_id: str = ""
    extend: str = ""


_NO_LABEL: Final = Label()


class Unbind(Struct, frozen=True, array_like=True):
    """Take a client of the queried node out of a group. The answer is a
    :class:`Left`."""

    app: str
    client_id: str
    group: str


class ClientState(DialectState, gc=False):
    """The label of a client."""

    label: Label = _NO_LABEL


class ClientService:
    """Starts the sessions of clients, and notifies groups when members join and
    leave. Owner of :class:`ClientState`.

    Groups with more than ``notice_members`` members get no notices.
    """

    def __init__(self, core: Core) -> None:
        self._hub = core.hub
        self._ids = core.connection_ids
        self._channels = core.channels
        self._connections = core.connections
        self._tenants = core.tenants
        self._logins = core.logins
        self._login_counts = core.metrics.logins
        self._notice_members = core.fanout.notice_members
        self._channels.members.report_to(left=self._left)
        self._connections.report_to(self._joined)
        core.queries.add("unbind", Unbind, self._unbind_here)

    # --- coming and going -----------------------------------------------------

    def opened(self, connection: Connection, head: Head) -> None:
        """Make a new connection a client of the system in its query string, and
        send its id.

        The client can be reached when it receives its id. In demo mode the
        system need not be registered. May switch greenlets. Raises
        StorageUnavailable.
        """
        params = head.params()
        system = params.get("systemId", "")
        if not self.is_name(system):
            if system:
                named = self.app_of(system)
                answer = BAD_SYSTEM
            else:
                named = ""
                answer = NO_SYSTEM
            self._logins.refused("app", named, "", connection.peer)
            self._refuse(connection, answer, CloseCode.NOT_ALLOWED)
            return

        app = self.app_of(system)
        if self._tenants.get(app) is None and self._logins.takes_unregistered:
            self._begin(app, connection, is_registered=False)
            return
        # reads the database, because another node may have registered it
        self._tenants.find(app)
        # Remembered, because the app may be deleted while the login is checked.
        hub_app = self._hub.apps.get(app)
        decision = self._logins.check(
            app, "", params.get("token", ""), NAME, connection
        )
        if not connection.is_open:
            return
        if not decision.ok:
            answer = refusal(-decision.code, reply_text(decision.code))
            self._refuse(connection, answer, decision.close)
            return
        if self._hub.apps.get(app) is not hub_app:
            self._logins.refused("deleted", app, "", connection.peer)
            connection.close(CloseCode.APP_DELETED)
            return
        self._begin(app, connection, is_registered=True)
        if decision.user:
            connection.dialect_state = ClientState(label=Label(decision.user))
        self._logins.began(connection, decision)

    def _refuse(self, connection: Connection, payload: bytes, code: int) -> None:
        connection.send(payload)
        connection.close(code)

    def _begin(self, app: str, connection: Connection, is_registered: bool) -> None:
        """Begin a session of a new client, and send its id. The client is its
        own user."""
        client_id = self._ids.id_of(self._ids.next_number())
        hub_app = self._hub.open(app, POLICY, is_registered)
        self._hub.join(hub_app, connection, client_id, "")
        self._login_counts[app] += 1
        connection.send(welcome(client_id))

    def ended(self, connection: Connection, _code: int) -> None:
        """Handle the end of a connection that has left the hub and its groups.
        Never switches greenlets."""
        if connection.app is not None:
            self._hub.close_unregistered(connection.app)

    def is_name(self, system: str) -> bool:
        """Whether a name is valid for a system. It must fit into a header,
        which loses blanks at both ends."""
        return (
            system != "" and system == system.strip() and valid_name(_app_named(system))
        )

    # --- systems --------------------------------------------------------------

    def register(self, system: str) -> bool:
        """Register a system with a valid name permanently, for all nodes. False
        if it is registered already.

        Raises StorageUnavailable and BadTenant, the latter also if the system
        was deleted and some of its files are left. May switch greenlets.
        """
        return self._tenants.register(_app_named(system))

    def app_of(self, system: str) -> str:
        """The app with the clients of a system, registered or not."""
        return self._tenants.resolve(_app_named(system))

    def is_registered(self, system: str) -> bool:
        """Whether a system is registered. May switch greenlets."""
        return self._tenants.find(_app_named(system)) is not None

    # --- groups ---------------------------------------------------------------

    def bind(self, app: str, client_id: str, group: str, label: Label) -> Joined:
        """Put a client into a group, on any node, and replace its label.

        Raises :class:`imserver.gateway.channels.members.ChannelRefused` for an
        invalid name.
        """
        return self._connections.join(
            app, client_id, group, msgspec.msgpack.encode(label)
        )

    def unbind(self, app: str, client_id: str, group: str) -> Left:
        """Take a client out of a group, on any node; the other members get a
        notice."""
        if self._ids.read(client_id) is None:
            return Left.UNKNOWN
        query = Unbind(app, client_id, group)
        answer: Left | None = self._connections.query(client_id, "unbind", query, Left)
        # No answer: ``leave`` tells a dead node from a node that does not
        # answer.
        if answer is None:
            return self._connections.leave(app, client_id, group)
        return answer

    def _unbind_here(self, query: Unbind) -> Left:
        """Answer a query: take a client of this node out of a group, and notify
        the group."""
        connection = self._connections.find(query.app, query.client_id)
        if connection is None:
            return Left.UNKNOWN
        if not self._channels.members.leave(query.app, query.group, connection):
            return Left.ABSENT
        self._notify(connection, query.group, "offline")
        return Left.LEFT

    def _joined(
        self,
        connection: Connection,
        channel: str,
        about: bytes,
        new: bool,
        _position: Position | None,
    ) -> None:
        """Handle a connection of this node that has joined a channel, or joined
        it again. ``about``: an encoded :class:`Label`, or ``b""`` if its label
        stays. ``new``: it was not in the channel before."""
        if connection.encoding.dialect.name != NAME:
            return
        if about:
            label = msgspec.msgpack.decode(about, type=Label)
            connection.dialect_state = ClientState(label=label)
        if new:
            self._notify(connection, channel, "online")

    def _left(self, connection: Connection, channels: tuple[str, ...]) -> None:
        """Handle the end of a connection of this node that was in these
        channels. A user who was unbound from a group but is still connected is
        not offline."""
        if connection.encoding.dialect.name == NAME and not connection.is_open:
            for channel in channels:
                self._notify(connection, channel, "offline")

    def _notify(self, connection: Connection, group: str, kind: str) -> None:
        """Send the members of a group a notice about a client: ``online`` or
        ``offline``. May switch greenlets."""
        app = connection.app
        if app is None:
            return
        state = connection.dialect_state
        if isinstance(state, ClientState):
            label = state.label
        else:
            label = _NO_LABEL

        member = {
            "clientId": connection.user,
            "extend": label.extend,
            "userId": label.user_id,
        }
        data = msgspec.json.encode(member)
        event = Event(kind, "", "", message_id(), data=data, time=int(time()))
        self._channels.publishing.publish(
            app, group, event, at_most=self._notice_members
        )


def _app_named(system: str) -> str:
    """The name of the app of a system. It may be an alias, and the app need not
    exist."""
    return f"system:{system}"
