"""Presence: which users are online, where their sessions are, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from imserver.cluster.registry import Lease
from imserver.hub.hub import Hub
from imserver.model import SYSTEM_PREFIX
from imserver.services.nodes.queries import NamesAnswer, NamesQuery, NodeQueries, OtherNodes, read
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


class Page(Struct, frozen=True):
    """Some users of an app. ``total`` counts all of them; ``missing`` names nodes that did not answer.

    ``more`` says that users follow those of this page in the order of names.
    """

    total: int
    users: list[str]
    more: bool = False
    missing: tuple[str, ...] = ()


class Presence(Protocol):
    """What the API asks. Every call may switch to other greenlets."""

    def is_online(self, app: str, user: str) -> bool:
        """Whether a session of ``user`` lives anywhere."""

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """The same for many users of one app."""

    def page(self, app: str, after: str | None, limit: int) -> Page:
        """Users of an app: all of them in no order if they are at most ``limit`` and ``after`` is None.

        Else up to ``limit`` users in the order of names, beginning behind the name ``after``.
        """

    def sessions(self, app: str, users: Sequence[str]) -> Whereabouts:
        """The addressed sessions of each user, wherever they are."""

    def counts(self, apps: Sequence[str]) -> Counts:
        """How many users, sessions and rooms there are of each app."""


class Known(Protocol):
    """Who is online on this node; the hub answers."""

    def user_names(self, app: str) -> list[str]:
        """The users of an app; none of an unknown one."""

    def is_online(self, app: str, user: str) -> bool:
        """Whether a session of the user lives."""


def cut(names: list[str], after: str | None, limit: int, missing: tuple[str, ...] = ()) -> Page:
    """The page of ``names`` that :meth:`Presence.page` describes."""
    if after is None and len(names) <= limit:
        return Page(len(names), names, False, missing)
    rest = sorted(name for name in names if after is None or name > after)
    return Page(len(names), rest[:limit], len(rest) > limit, missing)


class LocalPresence:
    """Presence of a node that is alone."""

    def __init__(self, hub: Known, attendance: Attendance) -> None:
        self._hub = hub
        self._attendance = attendance
        self.is_online = hub.is_online
        """See :meth:`Presence.is_online`."""

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """See :class:`Presence`."""
        return [self.is_online(app, user) for user in users]

    def page(self, app: str, after: str | None, limit: int) -> Page:
        """See :class:`Presence`."""
        return cut(self._hub.user_names(app), after, limit)

    def sessions(self, app: str, users: Sequence[str]) -> Whereabouts:
        """See :class:`Presence`."""
        return Whereabouts(self._attendance.sessions(Sought(app, users)))

    def counts(self, apps: Sequence[str]) -> Counts:
        """See :class:`Presence`."""
        tallies = self._attendance.tallies(apps)
        return Counts({app: count_up([tally]) for app, tally in zip(apps, tallies, strict=True)})


BATCH_USERS = 1000
"""Users whose sessions are asked for together."""


def names_here(hub: Hub, asked: NamesQuery) -> NamesAnswer:
    """This node's answer to :class:`imserver.services.nodes.queries.NamesQuery`."""
    names = hub.user_names(asked.app)
    after = asked.after
    rest = sorted(names if after is None else (name for name in names if name > after))
    return NamesAnswer(len(names), rest[: asked.limit])


class ClusterPresence:
    """See :class:`imserver.services.sessions.presence.Presence`.

    While the registry is away only users here count.

    Users of the client dialect are connections, of which the registry knows nothing: ``node_of`` tells, by
    their ids, which other node has them.
    """

    def __init__(
        self,
        others: OtherNodes,
        hub: Hub,
        attendance: Attendance,
        node_of: Callable[[str], Lease | None],
    ) -> None:
        self._others = others
        self._registry = others.registry
        self._node_messages = others.node_messages
        self._hub = hub
        self._attendance = attendance
        self._node_of = node_of

    def add_to(self, queries: NodeQueries) -> None:
        """Answer what other nodes ask."""
        queries.add("names", NamesQuery, lambda asked: names_here(self._hub, asked))
        queries.add("sessions", Sought, self._attendance.sessions)
        queries.add("tallies", list[str], self._attendance.tallies)

    def is_online(self, app: str, user: str) -> bool:
        """See :class:`imserver.services.sessions.presence.Presence`."""
        return self.are_online(app, [user])[0]

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """See :class:`imserver.services.sessions.presence.Presence`."""
        here = [self._hub.is_online(app, user) for user in users]
        away = [user for user, known in zip(users, here, strict=True) if not known and user]
        if not away:
            return here
        if app.startswith(SYSTEM_PREFIX):
            found: Sequence[object] | None = self.sessions(app, away).sessions
        else:
            found = self._registry.find(app, away)
        elsewhere = {user for user, places in zip(away, found or (), strict=False) if places}
        return [known or user in elsewhere for user, known in zip(users, here, strict=True)]

    def page(self, app: str, after: str | None, limit: int) -> Page:
        """See :class:`imserver.services.sessions.presence.Presence`."""
        asked = NamesQuery(app, after, limit + 1)
        own = names_here(self._hub, asked)
        answers, missing = self._others.query("names", asked)
        heard: list[NamesAnswer] = [own, *read(answers, NamesAnswer).values()]
        names = sorted(set().union(*(answer.names for answer in heard)))
        more = len(names) > limit
        total = sum(answer.count for answer in heard)
        if after is None and not more:
            total = len(names)
        return Page(total, names[:limit], more, tuple(missing))

    def sessions(self, app: str, users: Sequence[str]) -> Whereabouts:
        """See :class:`imserver.services.sessions.presence.Presence`."""
        found: list[list[Where]] = []
        missing: dict[str, None] = {}
        for first in range(0, len(users), BATCH_USERS):
            asked = Sought(app, users[first : first + BATCH_USERS])
            part = self._attendance.sessions(asked)
            answers, silent = self._others.query("sessions", asked, self._nodes_of(asked))
            for answer in read(answers, list[list[Where]]).values():
                for here, there in zip(part, answer, strict=False):
                    here += there
            found += part
            missing |= dict.fromkeys(silent)
        return Whereabouts(found, tuple(missing))

    def _nodes_of(self, asked: Sought) -> Iterable[Lease]:
        """The other nodes that may have sessions of these users."""
        if asked.app.startswith(SYSTEM_PREFIX):
            leases = [self._node_of(user) for user in asked.users]
            return {lease.epoch: lease for lease in leases if lease is not None}.values()
        peers = self._node_messages.peers()
        named = [user for user in asked.users if user]
        found = self._registry.find(asked.app, named) if peers and named else []
        if found is None:
            return peers
        epochs = {place.epoch for places in found for place in places}
        return [lease for lease in peers if lease.epoch in epochs]

    def counts(self, apps: Sequence[str]) -> Counts:
        """See :class:`imserver.services.sessions.presence.Presence`."""
        answers, missing = self._others.query("tallies", list(apps))
        heard = [self._attendance.tallies(apps), *read(answers, list[Tally]).values()]
        by_app = zip(apps, zip(*heard, strict=True), strict=True)
        return Counts({app: count_up(tallies) for app, tallies in by_app}, tuple(missing))
