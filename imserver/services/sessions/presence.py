"""Presence: which users are online, where their sessions are, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from imserver.cluster.registry import Lease
from imserver.hub.hub import Hub
from imserver.model import SYSTEM_PREFIX
from imserver.services.nodes.queries import NamesAnswer, NamesQuery, NodeQueries, OtherNodes, read
from imserver.transport.connection import Connection

NAMED_ROOMS: Final = 10_000
"""Up to so many rooms of an app are counted exactly; more of them once for each node that has members."""


class SessionInfo(Struct, frozen=True, array_like=True):
    """One addressed session of a user: the id of its connection, and ``since`` when, in Unix seconds."""

    connection: str
    device: str
    dialect: str
    since: int
    node: str


class UserSessions(Struct, frozen=True):
    """The sessions of each user, in the order in which users were query for; none: offline.

    ``missing`` names nodes that did not answer.
    """

    sessions: list[list[SessionInfo]]
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


class SessionsQuery(Struct, frozen=True, array_like=True):
    """Which sessions of these users are on your node? Answered in their order."""

    app: str
    users: Sequence[str]


class NodeCounts(Struct, frozen=True, array_like=True):
    """What one node has of an app; ``names`` are those of its rooms, if they are not too many."""

    users: int
    sessions: int
    rooms: int
    names: list[str]


def add_up(counts: Sequence[NodeCounts]) -> AppCount:
    """What all nodes have of an app."""
    rooms = sum(each.rooms for each in counts)
    if all(len(each.names) == each.rooms for each in counts):
        rooms = len(set().union(*(each.names for each in counts)))
    return AppCount(sum(each.users for each in counts), sum(each.sessions for each in counts), rooms)


class UserPage(Struct, frozen=True):
    """Some users of an app. ``total`` counts all of them; ``missing`` names nodes that did not answer.

    ``more`` says that users follow those of this page in the order of names.
    """

    total: int
    users: list[str]
    more: bool = False
    missing: tuple[str, ...] = ()


def cut(names: list[str], after: str | None, limit: int, missing: tuple[str, ...] = ()) -> UserPage:
    """The page of ``names`` that :meth:`Presence.page` describes."""
    if after is None and len(names) <= limit:
        return UserPage(len(names), names, False, missing)
    rest = sorted(name for name in names if after is None or name > after)
    return UserPage(len(names), rest[:limit], len(rest) > limit, missing)


class Presence:
    """Which users are online on this node. Stateless; nothing switches.

    ``id_of`` gives connections their ids, ``node`` is the name of this node.
    """

    def __init__(self, hub: Hub, id_of: Callable[[Connection], str], node: Callable[[], str]) -> None:
        self._hub = hub
        self._id_of = id_of
        self._node = node

    def is_online(self, app: str, user: str) -> bool:
        """Whether a user has a session anywhere."""
        return self._hub.is_online(app, user)

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """The same for many users of one app."""
        return [self._hub.is_online(app, user) for user in users]

    def page(self, app: str, after: str | None, limit: int) -> UserPage:
        """Users of an app: all of them in no order if they are at most ``limit`` and ``after`` is None.

        Otherwise up to ``limit`` users in the order of names, beginning behind the name ``after``.
        """
        return cut(self._hub.user_names(app), after, limit)

    def sessions(self, app: str, users: Sequence[str]) -> UserSessions:
        """The addressed sessions of each user, on all nodes."""
        return UserSessions(self.sessions_here(SessionsQuery(app, users)))

    def counts(self, apps: Sequence[str]) -> Counts:
        """How many users, sessions and rooms each app has."""
        return Counts({app: add_up([here]) for app, here in zip(apps, self.counts_here(apps), strict=True)})

    # --- this node ------------------------------------------------------------------------------------------

    def sessions_here(self, query: SessionsQuery) -> list[list[SessionInfo]]:
        """The sessions of each user on this node."""
        app = self._hub.apps.get(query.app)
        if app is None:
            return [[] for _ in query.users]
        node = self._node()
        return [[self._info(session, node) for session in app.sessions_of(user)] for user in query.users]

    def _info(self, session: Connection, node: str) -> SessionInfo:
        dialect = session.encoding.dialect.name
        return SessionInfo(self._id_of(session), session.device, dialect, session.since, node)

    def counts_here(self, apps: Sequence[str]) -> list[NodeCounts]:
        """What each app has on this node."""
        return [self._counts(name) for name in apps]

    def _counts(self, name: str) -> NodeCounts:
        app = self._hub.apps.get(name)
        if app is None:
            return NodeCounts(0, 0, 0, [])
        users = len(app.users)
        sessions = sum(len(app.sessions_of(user)) for user in app.users) if app.several else users
        rooms = len(app.rooms)
        return NodeCounts(users, sessions, rooms, list(app.rooms) if rooms <= NAMED_ROOMS else [])


BATCH_USERS = 1000
"""Users whose sessions are query for together."""


def names_here(hub: Hub, query: NamesQuery) -> NamesAnswer:
    """This node's answer to :class:`imserver.services.nodes.queries.NamesQuery`."""
    names = hub.user_names(query.app)
    after = query.after
    rest = sorted(names if after is None else (name for name in names if name > after))
    return NamesAnswer(len(names), rest[: query.limit])


class ClusterPresence(Presence):
    """Presence in a cluster: the registry knows which users are online, the nodes know their names.

    While the registry is away only users here count.

    Users of the client dialect are connections, of which the registry knows nothing: ``node_of`` tells, by
    their ids, which other node has them.
    """

    def __init__(
        self,
        others: OtherNodes,
        hub: Hub,
        id_of: Callable[[Connection], str],
        node: Callable[[], str],
        node_of: Callable[[str], Lease | None],
    ) -> None:
        super().__init__(hub, id_of, node)
        self._others = others
        self._registry = others.registry
        self._node_messages = others.node_messages
        self._node_of = node_of

    def add_to(self, queries: NodeQueries) -> None:
        """Answer what other nodes ask."""
        queries.add("names", NamesQuery, lambda query: names_here(self._hub, query))
        queries.add("sessions", SessionsQuery, self.sessions_here)
        queries.add("tallies", list[str], self.counts_here)

    def is_online(self, app: str, user: str) -> bool:
        """See :class:`Presence`."""
        return self.are_online(app, [user])[0]

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """See :class:`Presence`."""
        here = [self._hub.is_online(app, user) for user in users]
        away = [user for user, known in zip(users, here, strict=True) if not known and user]
        if not away:
            return here
        if app.startswith(SYSTEM_PREFIX):
            found: Sequence[object] | None = self.sessions(app, away).sessions
        else:
            found = self._registry.find(app, away)
        elsewhere = {user for user, refs in zip(away, found or (), strict=False) if refs}
        return [known or user in elsewhere for user, known in zip(users, here, strict=True)]

    def page(self, app: str, after: str | None, limit: int) -> UserPage:
        """See :class:`Presence`."""
        query = NamesQuery(app, after, limit + 1)
        own = names_here(self._hub, query)
        answers, missing = self._others.query("names", query)
        heard: list[NamesAnswer] = [own, *read(answers, NamesAnswer).values()]
        names = sorted(set().union(*(answer.names for answer in heard)))
        more = len(names) > limit
        total = sum(answer.count for answer in heard)
        if after is None and not more:
            total = len(names)
        return UserPage(total, names[:limit], more, tuple(missing))

    def sessions(self, app: str, users: Sequence[str]) -> UserSessions:
        """See :class:`Presence`."""
        found: list[list[SessionInfo]] = []
        missing: dict[str, None] = {}
        for first in range(0, len(users), BATCH_USERS):
            query = SessionsQuery(app, users[first : first + BATCH_USERS])
            part = self.sessions_here(query)
            answers, silent = self._others.query("sessions", query, self._nodes_of(query))
            for answer in read(answers, list[list[SessionInfo]]).values():
                for here, there in zip(part, answer, strict=False):
                    here += there
            found += part
            missing |= dict.fromkeys(silent)
        return UserSessions(found, tuple(missing))

    def _nodes_of(self, query: SessionsQuery) -> Iterable[Lease]:
        """The other nodes that may have sessions of these users."""
        if query.app.startswith(SYSTEM_PREFIX):
            leases = [self._node_of(user) for user in query.users]
            return {lease.epoch: lease for lease in leases if lease is not None}.values()
        peers = self._node_messages.peers()
        named = [user for user in query.users if user]
        found = self._registry.find(query.app, named) if peers and named else []
        if found is None:
            return peers
        epochs = {ref.epoch for refs in found for ref in refs}
        return [lease for lease in peers if lease.epoch in epochs]

    def counts(self, apps: Sequence[str]) -> Counts:
        """See :class:`Presence`."""
        answers, missing = self._others.query("tallies", list(apps))
        heard = [self.counts_here(apps), *read(answers, list[NodeCounts]).values()]
        by_app = zip(apps, zip(*heard, strict=True), strict=True)
        return Counts({app: add_up(counts) for app, counts in by_app}, tuple(missing))
