"""Seats: how many connections an app has on this node, where ``max_connections`` bounds them."""

from __future__ import annotations

from imserver.services.logins.rules import Rule
from imserver.services.logins.verdict import Comer
from imserver.transport.connection import Connection


class Seats:
    """Owner of the counts. Apps without a limit are not counted."""

    def __init__(self) -> None:
        self.taken: dict[Connection, str] = {}
        """Connection → the app in which it has a seat; look, do not touch."""
        self._counts: dict[str, int] = {}

    def full(self, rule: Rule, comer: Comer) -> bool:
        """Whether there is no seat for ``comer``, who may have one already."""
        limit = rule.tenant.max_connections
        return (
            limit > 0
            and self._counts.get(rule.name, 0) >= limit
            and not (isinstance(comer, Connection) and self.taken.get(comer) == rule.name)
        )

    def take(self, rule: Rule, connection: Connection) -> None:
        """Give a connection a seat, from the moment it may log in, so that no crowd slips through."""
        if self.taken:
            self.leave(connection)
        if rule.tenant.max_connections:
            self.taken[connection] = rule.name
            self._counts[rule.name] = self._counts.get(rule.name, 0) + 1

    def leave(self, connection: Connection) -> None:
        """A connection is over, or goes to another app."""
        app = self.taken.pop(connection, None)
        if app is not None:
            self._counts[app] -= 1
            if not self._counts[app]:
                del self._counts[app]
