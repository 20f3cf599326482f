"""Presence of a node among others: the registry knows who is online, the nodes know the names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from imserver.cluster.registry import Lease
from imserver.hub.hub import Hub
from imserver.model import SYSTEM_PREFIX
from imserver.services.nodes.queries import NamesAnswer, NamesQuery, NodeQueries, OtherNodes, read
from imserver.services.sessions.attendance import (
    Attendance,
    Counts,
    Sought,
    Tally,
    Where,
    Whereabouts,
    count_up,
)
from imserver.services.sessions.presence import Page

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
