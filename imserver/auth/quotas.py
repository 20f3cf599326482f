"""Limits of an app: its connections on this node, and the messages of each connection in a second."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from imserver import errors
from imserver.transport.connection import Connection, Encoding, Serve

if TYPE_CHECKING:
    from imserver.auth.rules import LoginRequest, Rule


class ConnectionQuota:
    """Owner of the counts. Apps without a limit are not counted."""

    def __init__(self) -> None:
        self.taken: dict[Connection, str] = {}
        """Connection → the app for which it counts; look, do not touch."""
        self._counts: dict[str, int] = {}

    def full(self, rule: Rule, request: LoginRequest) -> bool:
        """Whether an app takes no further connection. One that counts already may log in again."""
        limit = rule.tenant.max_connections
        return (
            limit > 0
            and self._counts.get(rule.name, 0) >= limit
            and not (isinstance(request, Connection) and self.taken.get(request) == rule.name)
        )

    def take(self, rule: Rule, connection: Connection) -> None:
        """Count a connection from the moment it may log in, so that a crowd cannot slip through."""
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


def limited(serve: Serve, per_second: float) -> Serve:
    """``serve``, but a connection above ``per_second`` messages (with a burst of as many) is closed."""
    burst = max(per_second, 1.0)
    tokens: WeakKeyDictionary[Connection, tuple[float, float]] = WeakKeyDictionary()

    def serve_within_limit(connection: Connection, payload: bytes, text: bool) -> None:
        now = monotonic()
        left, since = tokens.get(connection, (burst, now))
        left = min(burst, left + (now - since) * per_second) - 1
        if left < 0:
            connection.close(errors.CLOSE_RATE_LIMIT, errors.CLOSE[errors.CLOSE_RATE_LIMIT].name)
            return
        tokens[connection] = (left, now)
        serve(connection, payload, text)

    return serve_within_limit


class LimitedEncoding(Encoding):
    """An encoding whose messages are served up to a rate: what the connections of one app share.

    So whoever has no such limit pays nothing for those who have.
    """

    __slots__ = ("plain",)

    def __init__(self, plain: Encoding, per_second: float) -> None:
        super().__init__(
            plain.dialect,
            limited(plain.serve, per_second),
            plain.limit_bytes,
            plain.deflate_bits,
            plain.outbox_bytes,
        )
        self.plain = plain
        """The encoding without the limit."""
