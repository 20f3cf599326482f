"""Connections by their ids, on any node: push to one, close it, let it join or
leave a channel."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Final

import gevent
import msgspec
from msgspec import Struct

from imserver.gateway.channels.members import ChannelRefused, check_name
from imserver.gateway.channels.options import check_known
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.cluster.history import Position
from imserver.gateway.cluster.nodes import (
    NodeQueries,
    OtherNodes,
    Registry,
    ToConnection,
    encode,
)
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.declared import about
from imserver.gateway.errors import DISCONNECTED
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import RESERVED
from imserver.gateway.model import SYSTEM_PREFIX, Event, Outcome, Service
from imserver.gateway.sessions.connection_ids import ConnectionTable
from imserver.gateway.sessions.presence import (
    ConnectionId,
    Device,
    Dialect,
    Node,
    Since,
)
from imserver.gateway.transport.connection import Connection

IDS_PER_QUERY: Final = 100
"""How many connections of one node are in one query."""


class Joined(StrEnum):
    """The result of joining a channel."""

    JOINED = "subscribed"
    """It is a member now."""
    MEMBER = "exists"
    """It was a member already."""
    UNKNOWN = "unknown"
    """The app has no such connection."""
    FULL = "full"
    """The app has too many channels."""
    FAILED = "failed"
    """Its node, or the log of a stored channel, did not answer. The connection
    may have joined."""


class Left(StrEnum):
    """The result of leaving a channel."""

    LEFT = "unsubscribed"
    """It is no member any more."""
    ABSENT = "absent"
    """It was not a member."""
    UNKNOWN = "unknown"
    """The app has no such connection."""
    FAILED = "failed"
    """Its node, or the log of a stored channel, did not answer. The connection
    may have left."""


class ConnectionInfo(Struct, frozen=True, array_like=True):
    """Public data of a connection."""

    connection: ConnectionId
    user: Annotated[str, about("The user of the connection; empty before the login.")]
    device: Device
    dialect: Dialect
    since: Since
    peer: Annotated[str, about("The remote address and port.")]
    node: Node
    channels: Annotated[
        tuple[str, ...],
        about("The channels of the connection, in the order of subscribing."),
    ]


class JoinChannel(Struct, frozen=True, array_like=True):
    """A query that asks a node to let connections join a channel.

    The answer has a :class:`Joined` for each connection. ``about`` is passed to
    the listeners of :meth:`Connections.report_to`. ``since`` is a position in
    the history: new members receive the publications after it.
    """

    app: str
    connections: Sequence[str]
    channel: str
    about: bytes = b""
    since: Position | None = None


class LeaveChannel(Struct, frozen=True, array_like=True):
    """A query that asks a node to take connections out of a channel.

    The answer has a :class:`Left` for each connection.
    """

    app: str
    connections: Sequence[str]
    channel: str


class ConnectionsQuery(Struct, frozen=True, array_like=True):
    """A query that asks a node for the data of these connections.

    The answers are in the order of the query.
    """

    app: str
    connections: Sequence[str]


class _QueryKind(Struct, frozen=True):
    """A kind of query about connections of one node.

    - ``query``: the type of the query.
    - ``answer``: the function that answers the query for one connection of this
      node.
    - ``answer_type``: the type of the list of answers.
    - ``no_answer``: the answer for a connection whose node does not answer.
    """

    query: type
    answer: Callable[[Any, str], Any]
    answer_type: Any
    no_answer: Any


class Connections(Service, dict=True):
    """The connections of all nodes, by their ids.

    No connection is found for an invalid id, an id of another app, or an ended
    connection. That is not an error. ``others`` is None without a cluster.
    Calls may switch greenlets, unless their docstring says otherwise.
    """

    table: ConnectionTable
    channels: Channels
    fanout: Fanout
    queries: NodeQueries
    registry: Registry
    others: OtherNodes | None = None

    def __post_init__(self) -> None:
        """Take over some methods of the table, and list the kinds of queries."""
        # As attributes of this object, these methods need no further call.
        self.ids = self.table.ids
        self.id_of = self.table.id_of
        self.secret_of = self.table.secret_of
        self.find = self.table.find
        """See :class:`ConnectionTable`."""
        self._on_join: list[
            Callable[[Connection, str, bytes, bool, Position | None], object]
        ] = []
        self.unreached = 0
        """The number of pushes from other nodes to connections that had already
        ended."""
        self._kinds = self._make_kinds()

    def _make_kinds(self) -> dict[str, _QueryKind]:
        """Return the kinds of queries to the nodes of connections, by name."""
        return {
            "join": _QueryKind(
                query=JoinChannel,
                answer=self._join_here,
                answer_type=list[Joined],
                no_answer=Joined.FAILED,
            ),
            "leave": _QueryKind(
                query=LeaveChannel,
                answer=self._leave_here,
                answer_type=list[Left],
                no_answer=Left.FAILED,
            ),
            "about": _QueryKind(
                query=ConnectionsQuery,
                answer=self._about_here,
                answer_type=list[ConnectionInfo | None],
                no_answer=None,
            ),
        }

    def report_to(
        self, joined: Callable[[Connection, str, bytes, bool, Position | None], object]
    ) -> None:
        """From now on call this function when a connection of this node has
        joined a channel by :meth:`join`.

        The function is called before :meth:`join` returns. Its arguments are
        the connection, the channel, and the ``about`` of the call. Then come a
        flag whether the connection is a new member, and the position after
        which it receives publications. If the position is None, the function
        may switch greenlets.
        """
        self._on_join.append(joined)

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        for name, kind in self._kinds.items():
            queries.add(name, kind.query, partial(self._answer, name))

    def _answer(self, kind: str, query: Any) -> list[Any]:
        """Answer a query about connections of this node."""
        answer = self._kinds[kind].answer
        return [answer(query, connection_id) for connection_id in query.connections]

    def received(self, item: ToConnection) -> None:
        """Handle a push or close from another node. Never switches greenlets."""
        if item.event is None:
            self._close_here(item)
        elif not self._push_here(item.app, item.connection, item.event):
            self.unreached += 1

    # --- pushing and closing --------------------------------------------------

    def push(self, app: str, connection_id: str, event: Event) -> Outcome:
        """Push an event to one connection, on any node.

        The outcome is SENT if the event was delivered here, or forwarded to the
        live node of the connection. Never switches greenlets.
        """
        item = ToConnection(app, connection_id, event)
        is_here = self._push_here(app, connection_id, event)
        if is_here:
            outcome = Outcome.SENT
        else:
            outcome = self._send(connection_id, item)
        # Notices of the server do not count as pushes.
        if outcome is Outcome.SENT and event.kind == "msg":
            self.channels.publishing.here.metrics.pushes[app] += 1
        return outcome

    def _push_here(self, app: str, connection_id: str, event: Event) -> bool:
        """Push to a connection of this node. Returns False if this node has no
        such connection."""
        connection = self.find(app, connection_id)
        if connection is None:
            return False
        self.fanout.to_connection(connection, event)
        return True

    def close(
        self,
        app: str,
        connection_id: str,
        code: int,
        reason: str = "",
        as_given: bool = False,
    ) -> Outcome:
        """Close a connection, after all earlier pushes to it, with a code of
        ``errors.CLOSE``.

        Without a ``reason``, the reason is the name of the code. ``as_given``
        means that a back end has chosen code and reason. SDKs may ignore such a
        code without a reason, so it gets one. Never switches greenlets.
        """
        if as_given:
            reason = reason or DISCONNECTED
        item = ToConnection(
            app,
            connection_id,
            event=None,
            code=code,
            reason=reason,
            as_given=as_given,
        )
        if self._close_here(item):
            return Outcome.SENT
        return self._send(connection_id, item)

    def _close_here(self, item: ToConnection) -> bool:
        """Close a connection of this node. Returns False if this node has no
        such connection."""
        connection = self.find(item.app, item.connection)
        if connection is None:
            return False
        connection.close(item.code, item.reason, item.as_given)
        return True

    def _send(self, connection_id: str, item: ToConnection) -> Outcome:
        """Send a push or close to the node of a connection.

        The outcome is NOT_SENT if no live node has the connection.
        """
        lease = self.table.node_of(connection_id, self.others)
        if self.others is None or lease is None:
            return Outcome.NOT_SENT
        if self.others.node_messages.send(lease.epoch, item):
            return Outcome.SENT
        return Outcome.FAILED

    # --- channels -------------------------------------------------------------

    def join(
        self, app: str, connection_id: str, channel: str, about: bytes = b""
    ) -> Joined:
        """Put a connection of any node into a channel.

        Publications reach it when this method returns. Raises ChannelRefused
        only for a name that no channel can have.
        """
        return self.join_each(app, (connection_id,), channel, about)[0]

    def join_each(
        self,
        app: str,
        connection_ids: Sequence[str],
        channel: str,
        about: bytes = b"",
        since: Position | None = None,
    ) -> list[Joined]:
        """Put many connections into a channel, as :meth:`join` does with one.

        New members with a position receive the publications after ``since``, if
        the history has all of them.
        """
        check_name(channel)
        if channel.startswith(RESERVED) and not app.startswith(SYSTEM_PREFIX):
            raise ChannelRefused(
                "name",
                "user:… and group:… reach users and members without subscriptions",
            )
        # The app may allow only channels that its settings name.
        check_known(self.channels.options.of(app, channel))

        def query_for(ids: Sequence[str]) -> JoinChannel:
            return JoinChannel(app, ids, channel, about, since)

        return self._of_each(connection_ids, "join", query_for)

    def _join_here(self, query: JoinChannel, connection_id: str) -> Joined:
        """Let one connection of this node join a channel.

        The connection gets a position in the history if the channel and the
        client allow it.
        """
        channel = query.channel
        connection = self.find(query.app, connection_id)
        if connection is None:
            return Joined.UNKNOWN

        subscriptions = self.channels.subscriptions
        try:
            report = partial(self._report_joined, connection, query, True)
            if subscriptions.join_with_position(
                connection, channel, report, query.since
            ):
                return Joined.JOINED
            is_new = subscriptions.join(query.app, channel, connection)
        except ChannelRefused as refused:
            if refused.reason == "unavailable":
                return Joined.FAILED
            return Joined.FULL

        # The connection may have ended meanwhile.
        if channel not in self.channels.members.channels_of(connection):
            return Joined.UNKNOWN
        self._report_joined(connection, query, is_new, position=None)
        if is_new:
            return Joined.JOINED
        return Joined.MEMBER

    def _report_joined(
        self,
        connection: Connection,
        query: JoinChannel,
        is_new: bool,
        position: Position | None,
    ) -> None:
        """Tell the listeners that the connection is in the channel."""
        for listener in self._on_join:
            listener(connection, query.channel, query.about, is_new, position)

    def leave(self, app: str, connection_id: str, channel: str) -> Left:
        """Take a connection out of a channel."""
        return self.leave_each(app, (connection_id,), channel)[0]

    def leave_each(
        self, app: str, connection_ids: Sequence[str], channel: str
    ) -> list[Left]:
        """Take many connections out of a channel. The results are in the order
        of the connections."""

        def query_for(ids: Sequence[str]) -> LeaveChannel:
            return LeaveChannel(app, ids, channel)

        return self._of_each(connection_ids, "leave", query_for)

    def _leave_here(self, query: LeaveChannel, connection_id: str) -> Left:
        """Take one connection of this node out of a channel."""
        connection = self.find(query.app, connection_id)
        if connection is None:
            return Left.UNKNOWN
        if self.channels.members.remove(connection, query.channel):
            return Left.LEFT
        return Left.ABSENT

    # --- queries --------------------------------------------------------------

    def about(
        self, app: str, connection_ids: Sequence[str]
    ) -> list[ConnectionInfo | None]:
        """Return the data of each connection.

        The data are None if the connection has ended, or if its node does not
        answer.
        """
        return self._of_each(connection_ids, "about", partial(ConnectionsQuery, app))

    def _about_here(
        self, query: ConnectionsQuery, connection_id: str
    ) -> ConnectionInfo | None:
        """Return the data of one connection of this node."""
        connection = self.find(query.app, connection_id)
        if connection is None:
            return None
        return ConnectionInfo(
            connection=connection_id,
            user=connection.user or "",
            device=connection.device,
            dialect=connection.encoding.dialect.name,
            since=connection.since,
            peer=connection.peer,
            node=self.registry.lease.node,
            channels=self.channels.members.channels_of(connection),
        )

    def _of_each(
        self,
        connection_ids: Sequence[str],
        kind: str,
        query_for: Callable[[Sequence[str]], Any],
    ) -> list[Any]:
        """Query the nodes of these connections, all at the same time.

        Returns the answer for each connection, in the order of the connections.
        ``query_for`` makes the query for some ids. A query to another node has
        at most :data:`IDS_PER_QUERY` ids.
        """
        ids_here, ids_elsewhere = self._divide(connection_ids)
        # The other nodes answer at the same time as this one.
        greenlets = [
            gevent.spawn(self._ask_node, lease, ids, kind, query_for)
            for lease, ids in ids_elsewhere
        ]
        rows_here = self._answer(kind, query_for(ids_here))
        answers: dict[str, Any] = dict(zip(ids_here, rows_here, strict=True))
        for greenlet in gevent.joinall(greenlets):
            answers.update(greenlet.value or {})
        no_answer = self._kinds[kind].no_answer
        return [
            answers.get(connection_id, no_answer) for connection_id in connection_ids
        ]

    def _divide(
        self, connection_ids: Sequence[str]
    ) -> tuple[list[str], list[tuple[Lease, list[str]]]]:
        """Divide connections by their nodes, each connection once.

        Returns the ids that this node answers for, and the ids of each other node.
        """
        ids_here: list[str] = []
        leases: dict[int, Lease] = {}
        ids_of: dict[int, list[str]] = {}
        for connection_id in dict.fromkeys(connection_ids):
            lease = self.table.node_of(connection_id, self.others)
            # This node has the connection, or no live node has it. In both
            # cases this node answers.
            if lease is None:
                ids_here.append(connection_id)
            else:
                leases[lease.epoch] = lease
                ids_of.setdefault(lease.epoch, []).append(connection_id)
        return ids_here, [(leases[epoch], ids) for epoch, ids in ids_of.items()]

    def _ask_node(
        self,
        lease: Lease,
        ids: Sequence[str],
        kind: str,
        query_for: Callable[[Sequence[str]], Any],
    ) -> dict[str, Any]:
        """Query another node about these connections. Returns its answers by id.

        If the node does not answer about a connection, the result lacks this
        connection.
        """
        assert self.others is not None
        answer_type = self._kinds[kind].answer_type
        answers: dict[str, Any] = {}
        for first in range(0, len(ids), IDS_PER_QUERY):
            batch = ids[first : first + IDS_PER_QUERY]
            rows = self.others.query_behind(lease, kind, query_for(batch), answer_type)
            # If ``rows`` is None, these connections later get the answer for a
            # node that does not answer.
            answers.update(zip(batch, rows or (), strict=False))
        return answers

    def query(self, connection_id: str, kind: str, query: Any, answer: Any) -> Any:
        """Query the node of a connection, which may be this one.

        ``kind`` names a row of :class:`NodeQueries`. ``answer`` is the type of
        the answer. Returns None if no such node exists, or if it does not
        answer.
        """
        lease = self.table.node_of(connection_id, self.others)
        if self.others is not None and lease is not None:
            return self.others.query_behind(lease, kind, query, answer)
        # No other node has the connection, so only this node can have it.
        address = self.ids.read(connection_id)
        if address is None or address.birth != self.ids.birth:
            return None
        encoded = self.queries.answer(kind, encode(query))
        return msgspec.msgpack.decode(encoded, type=answer)
