"""Presence of a node among others: the registry knows who is online, the nodes know the names."""

from __future__ import annotations

from collections.abc import Sequence

from imserver.cluster.contract import Registry
from imserver.cluster.rpc import Rpc
from imserver.hub.hub import Hub
from imserver.services.courier import Courier
from imserver.services.presence import Page
from imserver.services.questions import Names, NamesAnswer, encode, read


def names_here(hub: Hub, asked: Names) -> NamesAnswer:
    """This node's answer to :class:`imserver.services.questions.Names`."""
    names = hub.user_names(asked.app)
    after = asked.after
    rest = sorted(names if after is None else (name for name in names if name > after))
    return NamesAnswer(len(names), rest[: asked.limit])


class ClusterPresence:
    """See :class:`imserver.services.presence.Presence`. While the registry is away only users here count."""

    def __init__(self, registry: Registry, courier: Courier, rpc: Rpc, hub: Hub, seconds: float) -> None:
        self._registry = registry
        self._courier = courier
        self._rpc = rpc
        self._hub = hub
        self._seconds = seconds

    def is_online(self, app: str, user: str) -> bool:
        """See :class:`imserver.services.presence.Presence`."""
        return self.are_online(app, [user])[0]

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """See :class:`imserver.services.presence.Presence`."""
        here = [self._hub.is_online(app, user) for user in users]
        away = [user for user, known in zip(users, here, strict=True) if not known and user]
        found = self._registry.find(app, away) if away else []
        if not found:
            return here
        elsewhere = {user for user, places in zip(away, found, strict=True) if places}
        return [known or user in elsewhere for user, known in zip(users, here, strict=True)]

    def page(self, app: str, after: str | None, limit: int) -> Page:
        """See :class:`imserver.services.presence.Presence`."""
        asked = Names(app, after, limit + 1)
        own = names_here(self._hub, asked)
        answers, missing = self._rpc.ask_all(self._courier.peers(), "names", encode(asked), self._seconds)
        heard: list[NamesAnswer] = [own, *read(answers, NamesAnswer).values()]
        names = sorted(set().union(*(answer.names for answer in heard)))
        more = len(names) > limit
        total = sum(answer.count for answer in heard)
        if after is None and not more:
            total = len(names)
        return Page(total, names[:limit], more, tuple(missing))
