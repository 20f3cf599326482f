"""Members of channels, on all nodes; names of channels, and why a call is
refused."""

import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from math import isfinite
from typing import Final, Literal, Protocol

import gevent
import msgspec
from msgspec import Struct, field

from imserver.gateway.channels.registrar import Registrar
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.cluster.history import PAGE_BYTES, HistoryPage, count_fitting
from imserver.gateway.cluster.nodes import NodeQueries, OtherNodes, read
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.config.settings import ChannelSettings, TenantSettings
from imserver.gateway.errors import ClientError, ImserverError
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import ChannelMembership, Hub, LocalChannel
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import ChannelPart, Event, Limit, Outcome, Service
from imserver.gateway.sessions.connection_ids import ConnectionTable
from imserver.gateway.transport.connection import Connection

PRIVATE_PREFIX: Final = "$"
"""Beginning of the names of Centrifugo's private channels. The prefix is not
part of the namespace."""
_USER_BOUNDARY: Final = "#"
"""In ``news#1,2``, the ids after ``#`` are the users who may subscribe."""
GROUP_ID: Final = re.compile("[1-9][0-9]{0,17}")
MAX_CHANNELS_OF_A_CONNECTION: Final = 1000
PAGE_ENTRIES: Final = 1000
"""The number of members or channels on a page, if the reader names no limit."""
_MEMBERS_PER_TURN: Final = 64
"""Number of members that are handled between two looks at the clock."""
_MAX_DEPARTURE_GREENLETS: Final = 16
"""Limit of the greenlets that call listeners for ended connections."""
_HEXADECIMAL: Final = 16
MAX_TAGS: Final = 16
"""The most tags of a publication."""
MAX_TAG_BYTES: Final = 4096
"""The most bytes of the tags of a publication, as JSON."""
SERVER_UNSUBSCRIBE: Final = 2000
"""Code of ``unsubscribed``: the client does not subscribe again."""
INSUFFICIENT_STATE: Final = 2500
"""Code of ``unsubscribed``: publications are missing. The client subscribes
again, and then reloads."""
CLOSE_INSUFFICIENT_STATE: Final = 3010
"""Close code for missing publications, for a client that the server has
subscribed. The client connects again, and recovers."""
INSUFFICIENT: Final = "insufficient state"
_MEMBER_BYTES: Final = 150
"""Bytes that count for each member of a page, besides names and infos."""


class ChannelNames(Protocol):
    """The meaning of the names of an app's channels, besides its settings.

    For example, a dialect may give names with a prefix options of their own.
    Its calls never switch greenlets.
    """

    def options(self, channel: str, options: ChannelSettings) -> ChannelSettings:
        """Return the settings of a channel. ``options`` are its settings in the
        app."""

    def needs_token(self, channel: str) -> bool:
        """Whether a subscription needs a token even in an open app."""


OnMember = Callable[[Connection, str, bool], object]

Reason = Literal[
    "name",
    "unknown",
    "denied",
    "expired",
    "full",
    "limit",
    "rate",
    "exists",
    "ended",
    "unavailable",
    "not_available",
    "unrecoverable",
]


class ChannelRefused(ImserverError):
    """A subscription or publication was refused.

    The ``reason`` is one of these:

    - ``name``: the name of the channel is invalid.
    - ``unknown``: the app has no such channel.
    - ``denied``: the subscription or publication is not permitted.
    - ``expired``: the token has expired.
    - ``full``: there are too many channels or subscribers.
    - ``limit``: something is too long.
    - ``rate``: there were too many publications per second.
    - ``exists``: the client is subscribed already.
    - ``ended``: the connection or the subscription has ended.
    - ``unavailable``: the history or the back end does not answer; try again.
    - ``not_available``: the channel has no history or presence.
    - ``unrecoverable``: the history has another epoch, or lacks missed
      publications.

    ``error`` is the error of the back end for the client; None if the back end
    has sent no error.
    """

    def __init__(
        self, reason: Reason, text: str = "", error: ClientError | None = None
    ) -> None:
        super().__init__(text or reason)
        self.reason = reason
        self.error = error

    @property
    def outcome(self) -> Outcome:
        """The outcome of a publication that was refused."""
        if self.reason == "unavailable":
            return Outcome.FAILED
        return Outcome.REFUSED


def check_name(channel: str) -> None:
    """Raise :class:`ChannelRefused` if no channel can have this name."""
    size = len(channel.encode("utf-8", "surrogatepass"))
    if not 0 < size <= Limit.CHANNEL_BYTES:
        raise ChannelRefused(
            "name",
            f"the name of a channel has 1 to {Limit.CHANNEL_BYTES} bytes, this one has {size}",
        )


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Encode the tags of a publication for :class:`ChannelPart`.

    Raises :class:`ChannelRefused` (``limit``) if there are too many.
    """
    if not tags:
        return b""
    encoded = msgspec.json.encode(tags)
    if len(tags) > MAX_TAGS or len(encoded) > MAX_TAG_BYTES:
        # The error names the actual sizes, for the back end that reads it.
        text = f"{len(tags)} tags with {len(encoded)} bytes of JSON"
        raise ChannelRefused(
            "limit",
            f"`tags`: at most {MAX_TAGS}, with {MAX_TAG_BYTES} bytes; not {text}",
        )
    return encoded


def needs_token(channel: str) -> bool:
    """Whether the name is one of Centrifugo's private (``$…``) or user-limited
    (``news#1,2``) channels.

    Clients of all dialects need a token for them, even if anybody may subscribe
    to the other channels of the namespace. For user-limited channels, see also
    :func:`is_limited_to`.
    """
    return channel.startswith(PRIVATE_PREFIX) or _USER_BOUNDARY in channel


def is_limited_to(channel: str, user: str) -> bool:
    """Whether the name of a channel that is not private lists this user."""
    _, boundary, users = channel.rpartition(_USER_BOUNDARY)
    return (
        boundary != ""
        and user in users.split(",")
        and not channel.startswith(PRIVATE_PREFIX)
    )


def group_in(channel: str) -> int:
    """Return the group that a channel belongs to; 0 if it belongs to no group.

    The id of the group is the part of the name after the first colon, as in
    ``group:17``.
    """
    namespace, _, id = channel.partition(":")
    if namespace != "user" and GROUP_ID.fullmatch(id):
        return int(id)
    return 0


class Publication(Struct, frozen=True, gc=False):
    """An event for all members of a channel, except some.

    - ``except_users``: users whose connections do not get the event.
    - ``except_connection``: a connection that does not get the event: an object
      of this node, or an id on any node.
    - ``at_most``: if the channel has more members, the event is not delivered;
      None means no limit. Numbers of other nodes are about a second old.
    """

    channel: str
    event: Event
    except_users: tuple[str, ...] = ()
    except_connection: Connection | str | None = None
    at_most: int | None = None


class ChannelMember(Struct, frozen=True, array_like=True):
    """A connection in a channel.

    ``joined`` is the time at which the connection has joined, in Unix seconds.
    ``info`` is JSON about the connection in all its channels, and
    ``channel_info`` is JSON about it in this channel. ``""`` means that there
    is no such JSON.
    """

    connection: str
    user: str
    device: str
    dialect: str
    joined: float
    info: str = ""
    channel_info: str = ""


class MemberPage(Struct, frozen=True):
    """Some members of a channel, in the order of joining.

    ``total`` counts all members. ``next`` is the cursor ``after`` for the next
    page; ``""`` on the last page. ``missing`` has the names of the nodes that
    did not answer.
    """

    total: int
    members: list[ChannelMember]
    next: str = ""
    missing: tuple[str, ...] = ()


class ChannelCount(Struct, frozen=True, array_like=True):
    """A channel and the number of its connections."""

    channel: str
    members: int


class ChannelPage(Struct, frozen=True):
    """Some channels of an app in the order of names.

    ``more`` means that further channels follow. ``total`` counts all channels.
    If the channels take more than one page, a channel with members on several
    nodes may be counted several times. ``missing`` has the nodes that did not
    answer.
    """

    total: int
    channels: list[ChannelCount]
    more: bool = False
    missing: tuple[str, ...] = ()


log = logging.getLogger(__name__)


class MembersHere(Struct, frozen=True, array_like=True):
    """The part of one node in a page of members.

    ``total`` is the number of all members on the node, and ``members`` has some
    of them.
    """

    total: int
    members: list[ChannelMember]
    birth: int
    """The birth of the node's process, a random number. Members of all nodes
    are sorted by ``joined``, then by ``birth``."""


class ChannelMembersQuery(Struct, frozen=True, array_like=True):
    """A query that asks a node for the members of a channel there.

    The answer has at most ``limit`` members, after the cursor ``after``.
    """

    app: str
    channel: str
    after: str
    limit: int


class ChannelUsersQuery(Struct, frozen=True, array_like=True):
    """A query that asks a node for the users in a channel there."""

    app: str
    channel: str


class UsersHere(Struct, frozen=True, array_like=True):
    """The part of one node in a count of users.

    ``total`` is the number of all members on the node. ``users`` has the users
    of these members, each only once.
    """

    total: int
    users: list[str]


class ChannelNamesQuery(Struct, frozen=True, array_like=True):
    """A query that asks a node for the channels of an app with members there.

    The answer has at most ``limit`` channels, after the name ``after``.
    """

    app: str
    after: str
    limit: int


class ChannelNamesAnswer(Struct, frozen=True, array_like=True):
    """The answer to :class:`ChannelNamesQuery`.

    ``total`` is the number of channels with members on the node, and
    ``channels`` has the requested channels.
    """

    total: int
    channels: list[ChannelCount]


class NodeParts(Struct, frozen=True):
    """The parts of a node that its channels use.

    ``table`` finds connections by their ids. ``settings`` returns the settings
    of an app. ``history_apps`` has the apps in which pushes to users are
    publications to channels with a history.
    """

    hub: Hub
    fanout: Fanout
    metrics: Metrics
    table: ConnectionTable
    settings: Callable[[str], TenantSettings | None]
    history_apps: Collection[str] = ()


class ChannelMembers(Service):
    """The subscribers of channels.

    This class knows the members on this node, and asks the other nodes for
    lists and numbers of their members. All connections are connections of this
    node. For connections of other nodes, see
    :class:`imserver.gateway.channels.connections.Connections`. ``others`` and
    ``registrar`` are None without a cluster. The registrar reports to the
    registry which channels have members here.

    Calls may switch greenlets, unless their docstring says otherwise. Owner of
    the queue of ended connections.
    """

    here: NodeParts
    others: OtherNodes | None = None
    registrar: Registrar | None = None
    membership: ChannelMembership = field(default_factory=ChannelMembership)
    on_left: list[Callable[[Connection, tuple[str, ...]], object]] = field(
        default_factory=list
    )
    """See :meth:`report_to`."""
    _on_joined: list[OnMember] = field(default_factory=list)
    _on_parted: list[OnMember] = field(default_factory=list)
    _departures: deque[tuple[Connection, tuple[str, ...]]] = field(
        default_factory=deque
    )
    """Connections that have left channels without a request, with the names of
    these channels. The listeners of ``on_left`` must still be called for
    them."""
    _departure_greenlets: int = 0
    """The number of greenlets that call the listeners of ``on_left``."""

    # --- on this node ---------------------------------------------------------

    def enter(
        self, app: str, channel: str, connection: Connection
    ) -> LocalChannel | None:
        """Put a connection into a channel, and return the channel.

        Returns None if the connection was a member before, or has no open
        session in this app. Afterwards the caller must call
        :meth:`report_join`, which calls the listeners. Never switches
        greenlets.

        Raises :class:`ChannelRefused`, with a text for the caller, if the name
        is invalid, or if the connection or the app has too many channels.
        """
        hub_app = self.here.hub.apps.get(app)
        if hub_app is None:
            return None
        is_full = len(connection.channels) >= MAX_CHANNELS_OF_A_CONNECTION
        if is_full and not self.has(connection, channel):
            raise ChannelRefused(
                "full",
                f"the connection is subscribed to {MAX_CHANNELS_OF_A_CONNECTION} channels already",
            )

        # A channel exists on this node as long as it has members here.
        if channel not in hub_app.channels:
            self._check_new_channel(app, channel, channel_count=len(hub_app.channels))
        return self.membership.join(hub_app, channel, connection)

    def _check_new_channel(self, app: str, channel: str, channel_count: int) -> None:
        """Raise :class:`ChannelRefused` if this node cannot have one more
        channel.

        ``channel_count`` is the number of channels of the app on this node.
        """
        check_name(channel)
        settings = self.here.settings(app)
        limit = 0 if settings is None else settings.max_channels
        if limit and channel_count >= limit:
            raise ChannelRefused(
                "full",
                f"the app has {limit} channels on this node, which is its limit",
            )

    def report_to(
        self,
        joined: OnMember | None = None,
        parted: OnMember | None = None,
        emptied: Callable[[str, str], object] | None = None,
        left: Callable[[Connection, tuple[str, ...]], object] | None = None,
    ) -> None:
        """From now on call these functions. The first three must not switch
        greenlets.

        - ``joined(connection, channel, is_first)`` is called for each new
          member. ``is_first`` means that it is the only member on all nodes.
        - ``parted(connection, channel, is_last)`` is called for each connection
          that is no longer a member. ``is_last`` means that it was the last
          member on this node.
        - ``emptied(app, channel)`` is called when no node has a member any
          more. It is called on the node that had the last members.
        - ``left(connection, channels)`` is called for a connection that has
          ended, or that the server has unsubscribed and that is still open. It
          is called in a greenlet of its own, and may switch greenlets. The
          connection is no longer a member; its ``app``, ``user`` and
          ``dialect_state`` are still the same.
        """
        if joined is not None:
            self._on_joined.append(joined)
        if parted is not None:
            self._on_parted.append(parted)
        if emptied is not None:
            self._report_empty_to(emptied)
        if left is not None:
            self.on_left.append(left)

    def _report_empty_to(self, emptied: Callable[[str, str], object]) -> None:
        """Call this function, from now on, when no node has members of a
        channel any more.

        The arguments of ``emptied`` are the app and the channel.
        """
        # In a cluster only the registry knows whether other nodes have members.
        if self.registrar is not None:
            self.registrar.on_empty.append(emptied)
            return

        def report_last(connection: Connection, channel: str, is_last: bool) -> None:
            """Report a channel that has lost its last member here."""
            if is_last:
                emptied(connection.app or "", channel)

        self._on_parted.append(report_last)

    def report_join(self, channel: LocalChannel, connection: Connection) -> None:
        """Report a new member to the registry and to the listeners.

        When this method returns, publications from all nodes reach the member.
        May switch greenlets.
        """
        # The members are counted before the report, because other connections
        # may join meanwhile.
        is_first = len(channel.members) == 1
        if self.registrar is not None:
            has_no_members_elsewhere = self.registrar.report_join(
                channel.app.name, channel.name, is_new_member=True
            )
            is_first = is_first and has_no_members_elsewhere
        for listener in self._on_joined:
            listener(connection, channel.name, is_first)

    def await_report(self, connection: Connection, channel: str) -> None:
        """Return when the registry knows the channel of a connection that was a
        member before.

        May switch greenlets.
        """
        if self.registrar is not None and self.has(connection, channel):
            app = connection.app or ""
            self.registrar.report_join(app, channel, is_new_member=False)

    def leave(self, app: str, channel: str, connection: Connection) -> bool:
        """Take a connection out of a channel. Returns whether it was a member.

        Never switches greenlets.
        """
        local = self.here.hub.channel(app, channel)
        if local is None or not self.membership.leave(local.app, channel, connection):
            return False
        self._report_parted(connection, local)
        return True

    def _report_parted(self, connection: Connection, channel: LocalChannel) -> None:
        """Tell the registry and the listeners that a connection is no longer a
        member."""
        if self.registrar is not None:
            self.registrar.changed(channel.app.name, channel.name)
        for listener in self._on_parted:
            listener(connection, channel.name, not channel.members)

    def leave_all(self, connection: Connection) -> tuple[str, ...]:
        """Take a connection out of all its channels, without a notice to other
        members.

        Returns the names of the channels. Never switches greenlets.
        """
        channels = self.membership.leave_all(connection)
        for channel in channels:
            self._report_parted(connection, channel)
        return tuple([channel.name for channel in channels])

    def channels_of(self, connection: Connection) -> tuple[str, ...]:
        """Return the names of a connection's channels, in the order of joining.

        Never switches greenlets.
        """
        return tuple([channel.name for channel in connection.channels])

    def has(self, connection: Connection, channel: str) -> bool:
        """Whether a connection is a member of a channel. Never switches
        greenlets."""
        local = self.here.hub.channel(connection.app or "", channel)
        return local is not None and connection in local.members

    def ended(self, connection: Connection, _code: int) -> None:
        """Handle the end of a connection (``ConnectionContext.ended``). Never
        switches greenlets."""
        if connection.channels:
            self.report_left(connection, self.leave_all(connection))

    def report_left(self, connection: Connection, channels: tuple[str, ...]) -> None:
        """Tell the listeners about a connection that has left without a
        request.

        The listeners run in another greenlet. Never switches greenlets.
        """
        if not self.on_left:
            return
        self._departures.append((connection, channels))
        if self._departure_greenlets < _MAX_DEPARTURE_GREENLETS:
            self._departure_greenlets += 1
            gevent.spawn(self._run_departures)

    def _run_departures(self) -> None:
        """Greenlet: call the listeners for ended connections, until no
        connection is left in the queue."""
        try:
            while self._departures:
                connection, channels = self._departures.popleft()
                for listener in self.on_left:
                    try:
                        listener(connection, channels)
                    except Exception:
                        # A listener that fails must not keep the others from
                        # the news.
                        extra = {"connection": connection.peer}
                        log.exception(
                            "a listener of ended channel members failed", extra=extra
                        )
        finally:
            self._departure_greenlets -= 1

    def remove(self, connection: Connection, channel: str) -> bool:
        """End a subscription that its client has not ended, and tell the
        listeners.

        Returns whether the connection was subscribed. Never switches greenlets.
        """
        was_member = self.leave(connection.app or "", channel, connection)
        if was_member:
            self.report_left(connection, (channel,))
        return was_member

    def expel(
        self, connection: Connection, channel: str, code: int = SERVER_UNSUBSCRIBE
    ) -> None:
        """End a subscription, and send the event ``unsubscribed`` with this
        code to the client.

        The code :data:`INSUFFICIENT_STATE` means that publications are missing,
        so that the client has to subscribe again and reload. Some clients can
        subscribe again only on a new connection: the connection of such a
        client is closed instead. Never switches greenlets.
        """
        state = connection.dialect_state
        reason = "server unsubscribe"
        if code == INSUFFICIENT_STATE:
            reason = INSUFFICIENT
            must_reconnect = state is not None and state.reconnects(channel)
            if must_reconnect and self.has(connection, channel):
                connection.close(CLOSE_INSUFFICIENT_STATE, INSUFFICIENT)
                return

        # Other clients can subscribe again on the same connection. The code
        # tells them to do so.
        if self.remove(connection, channel):
            event = Event(
                "unsubscribed", "", reason, code=code, channel=ChannelPart(channel)
            )
            self.here.fanout.to_connection(connection, event)

    # --- on all nodes ---------------------------------------------------------

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        queries.add("channel_members", ChannelMembersQuery, self._members_here)
        queries.add("channel_users", ChannelUsersQuery, self._users_here)
        queries.add("channel_names", ChannelNamesQuery, self._page_here)

    def _counts_by_node(self, app: str, channel: str) -> dict[int, int] | None:
        """Return the number of members of a channel on each node, by its epoch.

        The numbers come from the registry. The result is empty without a
        cluster, and None if the registry does not answer.

        An epoch is the number of one life of a node.
        """
        if self.others is None or not self.others.node_messages.peers():
            return {}
        channels = self.others.registry.find_channels(app, [channel])
        if channels is None:
            return None
        return channels[0]

    def page(
        self, app: str, channel: str, after: str = "", limit: int = PAGE_ENTRIES
    ) -> MemberPage:
        """Return a page of the members on all nodes, in the order of joining.

        ``after`` is the cursor of the last member of the page before; ``""``
        means the first page. The page has at most ``limit`` members, and as
        many as fit into its bytes.
        """
        limit = min(limit, PAGE_BYTES // _MEMBER_BYTES)
        # One more member than the page has is requested, to see whether other
        # members follow.
        query = ChannelMembersQuery(app, channel, after, limit + 1)
        shares = [self._members_here(query)]
        missing = list[str]()
        if self.others is not None:
            nodes = self._nodes_in(self._counts_by_node(app, channel))
            answers, missing = self.others.query("channel_members", query, nodes)
            shares += read(answers, MembersHere).values()
        return page_of(shares, limit, tuple(missing))

    def _nodes_in(self, counts: dict[int, int] | None) -> list[Lease]:
        """Return the other live nodes that may have members.

        ``counts`` is the result of :meth:`_counts_by_node`. If ``counts`` is
        None, all other live nodes may have members.
        """
        if self.others is None:
            peers = []
        else:
            peers = self.others.node_messages.peers()
        if counts is None:
            return peers
        return [lease for lease in peers if lease.epoch in counts]

    def _members_here(self, query: ChannelMembersQuery) -> MembersHere:
        """Answer a query about the members on this node, in the order of joining.

        Serves other greenlets meanwhile.
        """
        birth = self.here.table.ids.birth
        local = self.here.hub.channel(query.app, query.channel)
        if local is None:
            return MembersHere(0, [], birth)

        after = read_cursor(query.after)
        total = len(local.members)
        # The members are copied into a list, because they may change while
        # other greenlets are served.
        rows = list(islice(_members_after(local, after, birth), query.limit))

        return MembersHere(total, self._describe_each(rows, query.channel), birth)

    def _describe_each(
        self, rows: Sequence[tuple[Connection, float]], channel: str
    ) -> list[ChannelMember]:
        """Describe members of a channel, and serve other greenlets meanwhile.

        A row has a member, and the time at which it has joined.
        """
        members = []
        for number, (connection, joined) in enumerate(rows, 1):
            members.append(self._describe(connection, channel, joined))
            if not number % _MEMBERS_PER_TURN and is_long_turn():
                serve_others()
        return members

    def _describe(
        self, connection: Connection, channel: str, joined: float
    ) -> ChannelMember:
        """Describe a member of a channel, who has ``joined`` at a Unix time."""
        info, channel_info = infos_of(connection, channel)
        return ChannelMember(
            connection=self.here.table.id_of(connection),
            user=connection.user or "",
            device=connection.device,
            dialect=connection.encoding.dialect.name,
            joined=joined,
            info=info.decode(),
            channel_info=channel_info.decode(),
        )

    def count_users(self, app: str, channel: str, most: int) -> tuple[int, int]:
        """Return the number of connections in a channel, and the number of
        their users.

        All connections without a user count as one user. In a channel with more
        than ``most`` connections, each connection counts as a user, and no node
        is asked for its users.
        """
        counts = self._counts_by_node(app, channel)
        nodes = self._nodes_in(counts)
        local = self.here.hub.channel(app, channel)
        count_here = self.here.hub.member_count(app, channel)
        count = count_here + _add_up_members(counts, nodes)
        if count > most:
            return count, count
        # No other node has members.
        if self.others is None or not nodes:
            return count_here, self._users_in(local)

        query = ChannelUsersQuery(app, channel)
        elsewhere = self._query_users(self.others, nodes, query, most)
        return _add_up_users([self._users_here(query), *elsewhere])

    def _users_in(self, local: LocalChannel | None) -> int:
        """Count the users in a channel on this node. ``local`` is None if the
        channel has no members here."""
        if local is None:
            return 0
        return self.membership.users_of(local)

    def _query_users(
        self,
        others: OtherNodes,
        nodes: list[Lease],
        query: ChannelUsersQuery,
        most: int,
    ) -> list[UsersHere]:
        """Ask these nodes for the users in a channel.

        The result has the answers of the nodes that have answered. ``most`` is
        the greatest number of members that an older node is asked for.
        """
        # Older nodes do not name their features in the lease, and do not know
        # the query for users.
        newer = [lease for lease in nodes if lease.feature_names]
        older = [lease for lease in nodes if not lease.feature_names]
        answers, _ = others.query("channel_users", query, newer)
        members_query = ChannelMembersQuery(
            query.app, query.channel, after="", limit=most
        )
        pages, _ = others.query("channel_members", members_query, older)

        shares = list(read(answers, UsersHere).values())
        return shares + _users_of_pages(read(pages, MembersHere).values())

    def _users_here(self, query: ChannelUsersQuery) -> UsersHere:
        """Answer a query about the users in a channel on this node."""
        local = self.here.hub.channel(query.app, query.channel)
        if local is None:
            return UsersHere(0, [])
        # "" stands for all connections without a user.
        users = {connection.user or "" for connection in local.members}
        return UsersHere(len(local.members), list(users))

    def count(self, app: str, channel: str) -> int:
        """Return the number of connections in a channel, on all nodes.

        Numbers of other nodes are about a second old.
        """
        count_here = self.here.hub.member_count(app, channel)
        if self.others is None:
            return count_here
        own_epoch = self.others.node_messages.own_epoch
        # If the registry does not answer, only this node counts.
        counts = self._counts_by_node(app, channel) or {}
        elsewhere = sum(
            members for epoch, members in counts.items() if epoch != own_epoch
        )
        return count_here + elsewhere

    def channels(
        self, app: str, after: str = "", limit: int = PAGE_ENTRIES
    ) -> ChannelPage:
        """Return a page of the channels of an app that have members.

        The channels are in the order of names. ``after`` is the last name of
        the page before; ``""`` means the first page.
        """
        # One more channel than the page has is requested, to see whether other
        # channels follow.
        query = ChannelNamesQuery(app, after, limit + 1)
        parts = [self._page_here(query)]
        missing: list[str] = []
        if self.others is not None:
            answers, missing = self.others.query("channel_names", query)
            parts += read(answers, ChannelNamesAnswer).values()

        return _channel_page(parts, after, limit, missing)

    def _page_here(self, query: ChannelNamesQuery) -> ChannelNamesAnswer:
        """Answer a query about the channels with members on this node."""
        hub_app = self.here.hub.apps.get(query.app)
        if hub_app is None:
            return ChannelNamesAnswer(0, [])
        channels = hub_app.channels
        following = (name for name in channels if name > query.after)
        # nsmallest() is faster than sorting all names for one page.
        rows = [
            ChannelCount(name, len(channels[name].members))
            for name in nsmallest(query.limit, following)
        ]
        return ChannelNamesAnswer(len(channels), rows)


def infos_of(connection: Connection, channel: str) -> tuple[bytes, bytes]:
    """Return JSON about a connection, for other subscribers.

    The first result applies to all channels of the connection, the second
    result to this channel. ``b""`` means that there is no such JSON.
    """
    state = connection.dialect_state
    if state is None:
        return b"", b""
    return state.info, (state.channel_infos or {}).get(channel, b"")


def _add_up_members(counts: Mapping[int, int] | None, nodes: Iterable[Lease]) -> int:
    """Add up the members on these nodes. ``counts`` has the number of members
    by the epoch of a node."""
    return sum((counts or {}).get(lease.epoch, 0) for lease in nodes)


def _add_up_users(shares: Iterable[UsersHere]) -> tuple[int, int]:
    """Return the number of connections on all nodes, and the number of their
    users.

    A user may have connections on several nodes, and counts once.
    """
    total = 0
    users: set[str] = set()
    for share in shares:
        total += share.total
        users.update(share.users)
    return total, len(users)


def _members_by_channel(answers: Iterable[ChannelNamesAnswer]) -> dict[str, int]:
    """Add up the members of each channel on all nodes."""
    members: dict[str, int] = {}
    for answer in answers:
        for row in answer.channels:
            members[row.channel] = members.get(row.channel, 0) + row.members
    return members


def _channel_page(
    parts: Sequence[ChannelNamesAnswer], after: str, limit: int, missing: Sequence[str]
) -> ChannelPage:
    """Merge the channels of all nodes into one page.

    ``after`` is the last name of the page before. ``missing`` has the nodes
    that did not answer.
    """
    members = _members_by_channel(parts)
    total = sum(part.total for part in parts)
    channels = sorted(members)
    has_more = len(channels) > limit
    if not after and not has_more:
        # The page has all channels, so each channel can be counted once.
        total = len(channels)
    counts = [ChannelCount(channel, members[channel]) for channel in channels[:limit]]
    return ChannelPage(total, counts, has_more, tuple(missing))


def _users_of_pages(pages: Iterable[MembersHere]) -> list[UsersHere]:
    """Return the users in pages of members, for nodes that do not know the
    query for users."""
    return [
        UsersHere(page.total, [each.user for each in page.members]) for page in pages
    ]


def _members_after(
    local: LocalChannel, after: tuple[float, int], birth: int
) -> Iterator[tuple[Connection, float]]:
    """Find the members of a channel on this node after a cursor, each with the
    time at which it has joined.

    ``birth`` identifies this node in cursors.
    """
    for connection, joined in local.members.items():
        if (joined, birth) > after:
            yield connection, joined


def page_of(
    shares: Iterable[MembersHere], limit: int, missing: tuple[str, ...] = ()
) -> MemberPage:
    """Merge the pages of all nodes into one page.

    The page of a node has at most ``limit`` + 1 members. The result has at most
    ``limit`` members, and as many as fit into its bytes. ``missing`` has the
    nodes that did not answer.
    """
    shares = list(shares)
    rows = _by_joining(shares)
    sizes = (_size_of(member) for _, _, member in rows)
    page = rows[: min(limit, count_fitting(sizes))]
    next_cursor = ""
    if page and len(rows) > len(page):
        joined, birth, _ = page[-1]
        next_cursor = cursor(joined, birth)
    return MemberPage(
        total=sum(share.total for share in shares),
        members=[member for _, _, member in page],
        next=next_cursor,
        missing=missing,
    )


def _by_joining(
    shares: Iterable[MembersHere],
) -> list[tuple[float, int, ChannelMember]]:
    """Sort the members of all nodes by the time of joining, and then by node."""
    rows: list[tuple[float, int, ChannelMember]] = []
    for share in shares:
        rows += [(member.joined, share.birth, member) for member in share.members]
    rows.sort(key=lambda row: row[:2])
    return rows


def _size_of(member: ChannelMember) -> int:
    """Return how many bytes of a page a member takes."""
    names = member.user + member.device
    return (
        _MEMBER_BYTES
        + HistoryPage.size_of(names.encode())
        + len(member.info)
        + len(member.channel_info)
    )


def cursor(joined: float, birth: int) -> str:
    """Return the cursor after a member, in the order of joining.

    It has the time at which the member has joined, and the birth of its node's
    process, for example ``1790000000.25-3fa0c1``.
    """
    return f"{joined!r}-{birth:x}"


def read_cursor(text: str) -> tuple[float, int]:
    """Decode a :func:`cursor`: when a member has joined, and the birth of its
    node.

    A client may send any text. For an invalid text, the result stands before
    all members.
    """
    joined_text, _, birth_text = text.partition("-")
    try:
        joined = float(joined_text)
        birth = int(birth_text, _HEXADECIMAL)
    except ValueError:
        return 0.0, 0
    # float() also accepts "nan" and "inf".
    if not isfinite(joined):
        return 0.0, 0
    return joined, birth
