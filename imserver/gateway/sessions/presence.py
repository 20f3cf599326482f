"""Presence: the users who are online, the nodes and devices of their sessions,
and counts."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Annotated, Final

from msgspec import Struct

from imserver.gateway.cluster.nodes import NodeQueries, OtherNodes, Registry, read
from imserver.gateway.cluster.registry import Lease, SessionRef, is_found
from imserver.gateway.config.declared import about
from imserver.gateway.hub.hub import App, Hub
from imserver.gateway.model import SYSTEM_PREFIX, Service, is_of_device
from imserver.gateway.sessions.connection_ids import ConnectionTable
from imserver.gateway.transport.connection import Connection

NAMED_CHANNELS: Final = 10_000
"""If an app has at most this number of channels on a node, its channels are
counted exactly. Otherwise a channel counts once for each node with members."""
BATCH_USERS: Final = 1000
"""How many users are queried together."""

ConnectionId = Annotated[
    str,
    about("The id of a connection, as shown by presence or channels.", min_length=1),
]
Device = Annotated[
    str, about("The name that the client gave its device; empty: no name.")
]
Dialect = Annotated[str, about("The dialect of the connection: `cmd`, `client`, …")]
Since = Annotated[int, about("The start of the session, in Unix seconds.")]
Node = Annotated[str, about("The node to which the client is connected.")]


class SessionInfo(Struct, frozen=True, array_like=True):
    """One addressed session of a user."""

    connection: ConnectionId
    device: Device
    dialect: Dialect
    since: Since
    node: Node

    def is_on(self, device: str) -> bool:
        """Whether the device of the session has this name, or is a part of the
        device of this name."""
        return is_of_device(self.device, device)


class UserSessions(Struct, frozen=True):
    """The sessions of each user, in the order of the query.

    ``missing`` has the nodes that did not answer.
    """

    sessions: list[list[SessionInfo]]
    missing: tuple[str, ...] = ()


class Online(Struct, frozen=True):
    """Whether each of many users is online. ``missing`` names the nodes that
    did not answer. Users who seem to be offline may be online there."""

    users: list[bool]
    missing: tuple[str, ...] = ()


class AppCount(Struct, frozen=True, array_like=True):
    """The counts of an app. A user with sessions on two nodes counts twice.

    ``names`` has its channels on one node, if there are at most
    :data:`NAMED_CHANNELS`. With these names a channel with members on two nodes
    is counted only once.
    """

    users: int
    sessions: int
    channels: int
    names: list[str]
    subscriptions: int = 0


class Counts(Struct, frozen=True):
    """The counts of each app; ``missing`` names nodes that did not answer."""

    apps: dict[str, AppCount]
    missing: tuple[str, ...] = ()


class NamesQuery(Struct, frozen=True, array_like=True):
    """A query to a node that asks which users of an app are online there.

    The answer has at most ``limit`` users, in the order of names after
    ``after``. None means from the beginning.
    """

    app: str
    after: str | None
    limit: int


class NamesAnswer(Struct, frozen=True, array_like=True):
    """The answer to :class:`NamesQuery`.

    ``count`` is the number of users of the app on the node. ``names`` has the
    requested users. They are sorted, unless they are all users of the app.
    """

    count: int
    names: list[str]


class SessionsQuery(Struct, frozen=True, array_like=True):
    """A query to a node that asks which sessions these users have there.

    The answer has a list for each user, in the order of ``users``.
    """

    app: str
    users: Sequence[str]


def add_up(counts: Sequence[AppCount]) -> AppCount:
    """Add up the counts of an app on all nodes."""
    return AppCount(
        users=sum(count.users for count in counts),
        sessions=sum(count.sessions for count in counts),
        channels=_count_channels(counts),
        names=[],
        subscriptions=sum(count.subscriptions for count in counts),
    )


def _count_channels(counts: Sequence[AppCount]) -> int:
    """Return the number of channels of an app on all nodes.

    If the nodes have named all channels, a channel with members on two nodes
    counts once.
    """
    if all(len(count.names) == count.channels for count in counts):
        names: set[str] = set()
        for count in counts:
            names.update(count.names)
        return len(names)
    return sum(count.channels for count in counts)


class UserPage(Struct, frozen=True):
    """Some users of an app, which has ``total`` users.

    ``more`` means that other users follow. ``missing`` has the nodes without an
    answer.
    """

    total: int
    users: list[str]
    more: bool = False
    missing: tuple[str, ...] = ()


class Presence(Service):
    """Finds the users who are online, on all nodes. Stateless.

    The registry knows which users are online, and the nodes know their names.
    While the registry does not answer, or does not know all sessions of some
    nodes, these nodes are queried. The registry does not know the users of the
    client dialect. The id of each such user tells the node. ``others`` is None
    without a cluster; then nothing switches greenlets.
    """

    hub: Hub
    table: ConnectionTable
    registry: Registry
    others: OtherNodes | None = None

    def add_to(self, queries: NodeQueries) -> None:
        """Answer the queries of other nodes."""
        queries.add("names", NamesQuery, self._names_here)
        queries.add("sessions", SessionsQuery, self._sessions_here)
        queries.add("counts", list[str], self._counts_here)

    def _query(
        self, kind: str, query: object, leases: Iterable[Lease] | None = None
    ) -> tuple[dict[str, bytes], list[str]]:
        """Query the other nodes, or only the nodes of ``leases``.

        Returns their answers by node, and the nodes that did not answer.
        """
        if self.others is None:
            return ({}, [])
        return self.others.query(kind, query, leases)

    def is_online(self, apps: Sequence[str], user: str) -> bool:
        """Whether a user has a session in one of these apps, on any node.

        One query asks about all apps. While the registry does not answer, and
        there are several apps, only sessions on this node count.
        """
        if len(apps) == 1:
            return self._is_online_in(apps[0], user)
        if any(self.hub.is_online(app, user) for app in apps):
            return True
        if self.others is None or not user or not apps:
            return False

        return self._is_online_elsewhere(self.others, apps, user)

    def _is_online_elsewhere(
        self, others: OtherNodes, apps: Sequence[str], user: str
    ) -> bool:
        """Whether a user has a session in one of these apps on another node."""
        rows = others.registry.find_in_apps(apps, user) or ()
        refs_of = dict(zip(apps, rows, strict=False))
        if any(map(is_found, refs_of.values())):
            return True
        # The remaining references stand for nodes that may have a session of
        # the user. These nodes are asked.
        unsure_apps = [app for app, refs in refs_of.items() if refs]
        return any(self._is_online_in(app, user) for app in unsure_apps)

    def _is_online_in(self, app: str, user: str) -> bool:
        """Whether a user has a session in this app, on any node."""
        (is_online,) = self.online(app, [user]).users
        return is_online

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """Whether each of many users of one app has a session on any node.

        Nodes that do not answer count as nodes without sessions.
        """
        return self.online(app, users).users

    def online(self, app: str, users: Sequence[str]) -> Online:
        """Find out which of many users of one app have a session on any node.

        The result also has the nodes that did not answer.
        """
        are_here = [self.hub.is_online(app, user) for user in users]
        not_here = [
            user
            for user, is_here in zip(users, are_here, strict=True)
            if user and not is_here
        ]
        if self.others is None or not not_here:
            return Online(are_here)

        # Only users without a session here are looked up.
        elsewhere, missing = self._find_online(self.others, app, not_here)
        are_online = [
            is_here or user in elsewhere
            for user, is_here in zip(users, are_here, strict=True)
        ]
        return Online(are_online, missing)

    def _find_online(
        self, others: OtherNodes, app: str, users: list[str]
    ) -> tuple[set[str], tuple[str, ...]]:
        """Find which of these users have a session on another node.

        The registry is asked first. If it is not sure about some users, their
        nodes are asked. Returns the users, and the nodes that did not answer.
        """
        online: set[str] = set()
        unsure = users
        rows = _find_registered(others, app, users)
        if rows is not None:
            online, unsure = _divide_by_certainty(users, rows)
        if not unsure:
            return online, ()

        answer = self.sessions(app, unsure)
        for user, sessions in zip(unsure, answer.sessions, strict=False):
            if sessions:
                online.add(user)
        return online, answer.missing

    def page(self, app: str, after: str | None, limit: int) -> UserPage:
        """Return a page of the online users of an app.

        If ``after`` is None and the app has at most ``limit`` users, the page
        has all of them, unsorted. Otherwise it has up to ``limit`` users in the
        order of names, after the name ``after``.
        """
        # One more user than the page has is requested, to see whether other
        # users follow.
        query = NamesQuery(app, after, limit + 1)
        here = self._names_here(query)
        answers, missing = self._query("names", query)
        shares = [here, *read(answers, NamesAnswer).values()]
        names = here.names
        if answers:
            names = sorted(set().union(*(share.names for share in shares)))
        has_more = len(names) > limit
        total = sum(share.count for share in shares)
        if after is None and not has_more:
            # The page has all users, so a user of two nodes counts once.
            total = len(names)
        return UserPage(total, names[:limit], has_more, tuple(missing))

    def sessions(self, app: str, users: Sequence[str]) -> UserSessions:
        """Return the addressed sessions of each user, on all nodes.

        A session is addressed if pushes reach it.
        """
        sessions: list[list[SessionInfo]] = []
        missing: dict[str, None] = {}  # an ordered set
        # The users are queried in batches, so that no query or answer gets too
        # long.
        for first in range(0, len(users), BATCH_USERS):
            query = SessionsQuery(app, users[first : first + BATCH_USERS])
            part = self._sessions_here(query)
            answers, silent = self._query("sessions", query, self._nodes_of(query))
            _add_sessions(part, read(answers, list[list[SessionInfo]]).values())
            sessions += part
            missing |= dict.fromkeys(silent)
        return UserSessions(sessions, tuple(missing))

    def _nodes_of(self, query: SessionsQuery) -> Iterable[Lease]:
        """Return the other nodes that may have sessions of these users."""
        others = self.others
        if others is None:
            return ()
        # In these apps each user is a connection, and the id of a connection
        # tells its node.
        if query.app.startswith(SYSTEM_PREFIX):
            return self._nodes_of_connections(query.users, others)

        peers = others.node_messages.peers()
        named = [user for user in query.users if user]
        if not peers or not named:
            return ()
        rows = others.registry.find(query.app, named)
        if rows is None:
            # Without the registry, any node may have sessions of them.
            return peers
        epochs = {ref.epoch for ref in chain.from_iterable(rows)}
        return [lease for lease in peers if lease.epoch in epochs]

    def _nodes_of_connections(
        self, connection_ids: Iterable[str], others: OtherNodes
    ) -> Iterable[Lease]:
        """Return the other nodes with these connections, each once."""
        leases: dict[int, Lease] = {}
        for connection_id in connection_ids:
            lease = self.table.node_of(connection_id, others)
            if lease is not None:
                leases[lease.epoch] = lease
        return leases.values()

    def counts(self, apps: Sequence[str]) -> Counts:
        """Return how many users, sessions and channels each app has on all
        nodes."""
        answers, missing = self._query("counts", list(apps))
        parts = [self._counts_here(apps), *read(answers, list[AppCount]).values()]
        # Each node has answered with a row for each app.
        rows_of_apps = zip(*parts, strict=True)
        counts = {
            app: add_up(rows) for app, rows in zip(apps, rows_of_apps, strict=True)
        }
        return Counts(counts, tuple(missing))

    # --- this node ------------------------------------------------------------

    def _names_here(self, query: NamesQuery) -> NamesAnswer:
        """Answer a query about users who are online on this node."""
        names = self.hub.user_names(query.app)
        after = query.after
        if after is None and len(names) < query.limit:
            return NamesAnswer(len(names), names)
        # Sorted, so that the next page can begin after the last name.
        following = sorted(name for name in names if after is None or name > after)
        return NamesAnswer(len(names), following[: query.limit])

    def _sessions_here(self, query: SessionsQuery) -> list[list[SessionInfo]]:
        """Answer a query about sessions of this node, with a list for each
        user."""
        app = self.hub.apps.get(query.app)
        if app is None:
            return [[] for _ in query.users]
        return [
            [self._info_of(session) for session in app.sessions_of(user)]
            for user in query.users
        ]

    def _info_of(self, session: Connection) -> SessionInfo:
        """Describe one session of this node."""
        return SessionInfo(
            self.table.id_of(session),
            session.device,
            session.encoding.dialect.name,
            session.since,
            self.registry.lease.node,
        )

    def _counts_here(self, apps: Sequence[str]) -> list[AppCount]:
        """Count the users, sessions and channels of each of these apps on this
        node."""
        return [self._counts(name) for name in apps]

    def _counts(self, name: str) -> AppCount:
        """Count the users, sessions and channels of an app on this node."""
        app = self.hub.apps.get(name)
        if app is None:
            return AppCount(0, 0, 0, [])
        users = len(app.users)
        channels = len(app.channels)
        # Too many names would make the answer too long. Then only the number of
        # channels is told.
        names = list(app.channels) if channels <= NAMED_CHANNELS else []
        return AppCount(users, _count_sessions(app), channels, names, app.memberships)


def _count_sessions(app: App) -> int:
    """Count the addressed sessions of an app on this node."""
    if app.several:  # a user has several sessions
        return sum(len(app.sessions_of(user)) for user in app.users)
    return len(app.users)


def _find_registered(
    others: OtherNodes, app: str, users: list[str]
) -> Sequence[tuple[SessionRef, ...]] | None:
    """Return the sessions that the registry knows of each user.

    The result is None if the registry does not answer, or if it does not keep
    users of this app. It does not keep users of the server's own apps, such as
    visitors of its pages.
    """
    if app.startswith(SYSTEM_PREFIX):
        return None
    return others.registry.find(app, users)


def _add_sessions(
    part: Sequence[list[SessionInfo]], answers: Iterable[list[list[SessionInfo]]]
) -> None:
    """Add the sessions on other nodes to the sessions of each user in
    ``part``."""
    for answer in answers:
        for user_sessions, sessions_there in zip(part, answer, strict=False):
            user_sessions += sessions_there  # changes the list in `part`


def _divide_by_certainty(
    users: Sequence[str], rows: Sequence[tuple[SessionRef, ...]]
) -> tuple[set[str], list[str]]:
    """Return the users who are online for sure, and the users who may be
    online.

    ``rows`` has what the registry has found for each user. Users for whom it
    has found nothing are in neither part.
    """
    online: set[str] = set()
    unsure: list[str] = []
    for user, refs in zip(users, rows, strict=True):
        if is_found(refs):
            online.add(user)
        elif refs:
            # The registry has found only nodes whose sessions it may have lost.
            unsure.append(user)
    return online, unsure
