"""The client dialect: browsers that only receive. A back end addresses each of
them by its id.

A client is a session in the app of its system. The user of the session is the
id of the client, which is unique in the cluster. So an operation on this user
affects only this client. Groups are channels of that app. Clients are not in
the registry, because an id contains the node of its client.
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
from imserver.plugin.identity import LoginDecision
from imserver.plugin.services import Core, Joined, Left, Position
from imserver.plugin.settings import valid_name
from imserver.plugin.wire import Connection, DialectState, Event, Head

POLICY: Final = "multi"
"""Login policy of unregistered systems. Each client is its own user, so the
policy has no effect."""


class Label(Struct, frozen=True, array_like=True):
    """The data that a back end attaches to a client: an id and any text.

    Notices to the client's groups contain it.
    """

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
    """Starts the sessions of clients, and tells groups when members come and
    go.

    A client belongs to a *system*, which is an app, and may be in groups, which
    are channels of this app. Groups with more than ``notice_members`` members
    get no notices.
    """

    def __init__(self, core: Core) -> None:
        """Take the services of the core, and register for clients that join and
        leave groups."""
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
        # Another node may ask this one to take a client out of a group.
        core.queries.add("unbind", Unbind, self._unbind_here)

    # --- coming and going -----------------------------------------------------

    def opened(self, connection: Connection, head: Head) -> None:
        """Make a new connection a client of a system, and send its id.

        The query of its URL names the system: ``/ws?systemId=shop``. Messages
        reach the client as soon as it has received its id. In demo mode the
        system need not be registered. May switch greenlets. Raises
        StorageUnavailable.
        """
        params = head.params()
        system = params.get("systemId", "")
        if not self.is_name(system):
            self._refuse_name(connection, system)
            return

        app = self.app_of(system)
        if self._tenants.get(app) is None and self._logins.takes_unregistered:
            self._begin(app, connection, is_registered=False)
            return
        # This reads the database, because another node may have registered the
        # app.
        self._tenants.find(app)
        # The app is looked up now, because it may be deleted while the login is
        # checked.
        hub_app = self._hub.apps.get(app)
        decision = self._logins.check(
            app, "", params.get("token", ""), NAME, connection
        )
        if not connection.is_open:
            return
        if not decision.ok:
            self._refuse_login(connection, decision)
            return
        if self._hub.apps.get(app) is not hub_app:
            self._refuse_deleted(connection, app)
            return
        self._begin(app, connection, is_registered=True)
        if decision.user:
            # The hub knows the client by its own id, and not by this user.
            connection.dialect_state = ClientState(label=Label(decision.user))
        self._logins.began(connection, decision)

    def _refuse_login(self, connection: Connection, decision: LoginDecision) -> None:
        """Send the reason of a refused login, and close the connection."""
        answer = refusal(-decision.code, reply_text(decision.code))
        self._refuse(connection, answer, decision.close)

    def _refuse_name(self, connection: Connection, system: str) -> None:
        """Refuse a connection whose URL names no system, or one with an invalid
        name."""
        if system:
            named_app = self.app_of(system)
            answer = BAD_SYSTEM
        else:
            named_app = ""
            answer = NO_SYSTEM
        self._logins.refused("app", named_app, "", connection.peer)
        self._refuse(connection, answer, CloseCode.NOT_ALLOWED)

    def _refuse_deleted(self, connection: Connection, app: str) -> None:
        """Refuse a connection. Its app was deleted during the check of the
        login."""
        self._logins.refused("deleted", app, "", connection.peer)
        connection.close(CloseCode.APP_DELETED)

    def _refuse(self, connection: Connection, payload: bytes, code: int) -> None:
        """Send a last frame, and close the connection."""
        connection.send(payload)
        connection.close(code)

    def _begin(self, app: str, connection: Connection, is_registered: bool) -> None:
        """Begin the session of a new client, and send its id. The client is its
        own user."""
        client_id = self._ids.id_of(self._ids.next_number())
        hub_app = self._hub.open(app, POLICY, is_registered)
        # The empty text is the device, because these clients name none.
        self._hub.join(hub_app, connection, client_id, "")
        self._login_counts[app] += 1
        connection.send(welcome(client_id))

    def ended(self, connection: Connection, _code: int) -> None:
        """Handle the end of a connection, which has left the hub and its
        groups.

        An app that is not registered ends with its last client. Never switches
        greenlets.
        """
        if connection.app is not None:
            self._hub.close_unregistered(connection.app)

    def is_name(self, system: str) -> bool:
        """Whether a name is valid for a system. The name must fit into a header
        of HTTP, so it may not begin or end with a blank."""
        return (
            system != "" and system == system.strip() and valid_name(_app_named(system))
        )

    # --- systems --------------------------------------------------------------

    def register(self, system: str) -> bool:
        """Register a system permanently, for all nodes. Its name must be valid.

        Returns False if it is registered already. May switch greenlets. Raises
        StorageUnavailable and BadTenant. BadTenant is also raised if the system
        was deleted and some of its files still exist.
        """
        return self._tenants.register(_app_named(system))

    def app_of(self, system: str) -> str:
        """The app with the clients of a system, which need not be
        registered."""
        return self._tenants.resolve(_app_named(system))

    def is_registered(self, system: str) -> bool:
        """Whether a system is registered. May switch greenlets."""
        return self._tenants.find(_app_named(system)) is not None

    # --- groups ---------------------------------------------------------------

    def bind(self, app: str, client_id: str, group: str, label: Label) -> Joined:
        """Put a client into a group, and replace its label. The client may be
        on any node.

        May switch greenlets. Raises
        :class:`imserver.gateway.channels.members.ChannelRefused` for an invalid
        name.
        """
        return self._connections.join(
            app, client_id, group, msgspec.msgpack.encode(label)
        )

    def unbind(self, app: str, client_id: str, group: str) -> Left:
        """Take a client out of a group, and tell the other members. The client
        may be on any node. May switch greenlets."""
        if self._ids.read(client_id) is None:
            return Left.UNKNOWN
        query = Unbind(app, client_id, group)
        answer: Left | None = self._connections.query(client_id, "unbind", query, Left)
        # None means that the node did not answer. ``leave`` finds out whether
        # the node is dead. If it is, the client is no longer connected.
        if answer is None:
            return self._connections.leave(app, client_id, group)
        return answer

    def _unbind_here(self, query: Unbind) -> Left:
        """Take a client of this node out of a group, for a query of any node,
        and tell the group."""
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
        it again.

        ``about``: an encoded :class:`Label`; ``b""`` means that the client
        keeps its label. ``new``: whether the client was not in the channel
        before.
        """
        if connection.encoding.dialect.name != NAME:
            return
        if about:
            label = msgspec.msgpack.decode(about, type=Label)
            connection.dialect_state = ClientState(label=label)
        if new:
            self._notify(connection, channel, "online")

    def _left(self, connection: Connection, channels: tuple[str, ...]) -> None:
        """Tell these channels that a client of this node has gone.

        A user who was unbound from a group but is still connected is not
        offline.
        """
        if connection.encoding.dialect.name == NAME and not connection.is_open:
            for channel in channels:
                self._notify(connection, channel, "offline")

    def _notify(self, connection: Connection, group: str, kind: str) -> None:
        """Tell the members of a group that a client is ``online`` or
        ``offline``, with its label. May switch greenlets."""
        app = connection.app
        if app is None:
            return
        state = connection.dialect_state
        if isinstance(state, ClientState):
            label = state.label
        else:
            label = _NO_LABEL

        # The fields have the names and the spelling of the original server.
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
    """The name of the app of a system. The name of the system may be an alias,
    and the app need not exist."""
    return f"system:{system}"
