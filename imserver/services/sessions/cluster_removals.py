"""Ending sessions and bans of a node among others: every node does its share, the registry keeps the bans."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from imserver.services.nodes.queries import NodeQueries, OtherNodes, read
from imserver.services.sessions.removals import LocalRemovals, Pardon, Removal, Removed

log = logging.getLogger(__name__)


class ClusterRemovals:
    """See :class:`imserver.services.sessions.removals.Removals`. Stateless."""

    def __init__(self, local: LocalRemovals, others: OtherNodes) -> None:
        self._local = local
        self._registry = others.registry
        self._others = others

    def add_to(self, queries: NodeQueries) -> None:
        """Answer what other nodes ask."""
        queries.add("remove", Removal, self._local.remove_here)
        queries.add("pardon", Pardon, self._local.pardon_here)

    def remove(
        self, app: str, users: Sequence[str], device: str | None = None, ban_seconds: float = 0
    ) -> Removed:
        """See :class:`imserver.services.sessions.removals.Removals`.

        Bans are kept by every node, and by the registry for those that start later.
        """
        lasting = True
        if ban_seconds > 0:
            kept = [self._registry.ban(app, user, ban_seconds) for user in users]
            lasting = all(kept)
        found = self._registry.find(app, users) if users else []
        online = [user for user, places in zip(users, found or [()] * len(users), strict=True) if places]
        asked = Removal(app, users, device, ban_seconds, online)
        closed = self._local.remove_here(asked)
        answers, missing = self._ask("remove", asked)
        for counted in read(answers, list[int]).values():
            closed = [here + there for here, there in zip(closed, counted, strict=False)]
        return Removed(closed, tuple(missing), lasting)

    def pardon(self, app: str, users: Sequence[str]) -> tuple[str, ...] | None:
        """See :class:`imserver.services.sessions.removals.Removals`."""
        lifted = [self._registry.ban(app, user, 0) for user in users]
        if not all(lifted):
            return None
        asked = Pardon(app, users)
        self._local.pardon_here(asked)
        _, missing = self._ask("pardon", asked)
        return tuple(missing)

    def _ask(self, kind: str, asked: Removal | Pardon) -> tuple[dict[str, bytes], list[str]]:
        answers, missing = self._others.query(kind, asked)
        if missing:
            log.warning("a question %r was not answered by %s", kind, ", ".join(missing))
        return answers, missing
