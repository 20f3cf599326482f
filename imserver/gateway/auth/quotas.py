"""Session limits: connections per app and node, messages per connection and
second, session lifetime."""

from __future__ import annotations

from contextlib import suppress
from weakref import ref

from msgspec import field

from imserver.gateway.auth.rates import MESSAGES, Buckets
from imserver.gateway.errors import CloseCode
from imserver.gateway.model import BadFrame, Service
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.transport.connection import Connection, Encoding, Serve


class ConnectionQuota(Service):
    """Owner of the connection counts. Apps without a limit are not counted."""

    taken: dict[Connection, str] = field(default_factory=dict)
    """Connection → the app for which it counts. Read-only for others."""
    _counts: dict[str, int] = field(default_factory=dict)

    def full(self, app: str, limit: int, request: object) -> bool:
        """Whether the app has reached its ``limit`` of connections; 0 means
        that there is no limit.

        ``request`` is the connection or HTTP request that asks for a login. For
        a connection that is already counted, the result is False, so that it
        may log in again.
        """
        if limit <= 0 or self._counts.get(app, 0) < limit:
            return False
        is_counted = isinstance(request, Connection) and self.taken.get(request) == app
        return not is_counted

    def take(self, app: str, limit: int, connection: Connection) -> None:
        """Count a connection for an app, and no longer for an earlier app. The
        connection is counted before its login is complete, so that simultaneous
        logins cannot exceed the limit."""
        if self.taken:
            self.leave(connection)
        if limit:
            self.taken[connection] = app
            self._counts[app] = self._counts.get(app, 0) + 1

    def leave(self, connection: Connection) -> None:
        """Stop counting a connection that has closed or changed its app."""
        app = self.taken.pop(connection, None)
        if app is not None:
            self._counts[app] -= 1
            if not self._counts[app]:
                del self._counts[app]


def limited(serve: Serve, per_second: float) -> Serve:
    """Wrap ``serve`` to close a connection above ``per_second`` messages
    (burst: the same number).

    A frame with several requests counts as that many messages.
    """
    buckets = Buckets(MESSAGES, per_second)

    def serve_within_limit(connection: Connection, payload: bytes, text: bool) -> None:
        """Serve a frame, or close the connection that has sent too many."""
        # A frame that cannot be split counts once. ``serve`` refuses it.
        requests = 1
        with suppress(BadFrame):
            requests = max(1, len(connection.encoding.dialect.split(payload)))
        if buckets.take(ref(connection), requests):
            serve(connection, payload, text)
        else:
            connection.close(CloseCode.RATE_LIMIT)

    return serve_within_limit


class LimitedEncoding(Encoding):
    """An encoding with a message rate, shared by the connections of one app.

    An encoding reads and writes the frames of a connection. Connections without
    a limit use the plain encoding, so they have no extra cost.
    """

    __slots__ = ("_per_second", "plain")

    def __init__(self, plain: Encoding, per_second: float) -> None:
        """Make an encoding that works like ``plain``, but accepts at most
        ``per_second`` messages from each connection."""
        self.plain = plain
        """The encoding without the limit."""
        serve = limited(plain.serve, per_second)
        super().__init__(
            plain.dialect,
            serve,
            plain.limit_bytes,
            plain.deflate_bits,
            plain.outbox_bytes,
        )
        self._per_second = per_second

    def frame(self, payload: bytes, opcode: int = 0) -> bytes:
        """Return the frame of a payload. A stream has frames of its own."""
        return self.plain.frame(payload, opcode)

    def close_frames(
        self, code: int, reason: str = "", as_given: bool = False
    ) -> bytes:
        return self.plain.close_frames(code, reason, as_given)

    def _make(self, dialect: Dialect) -> LimitedEncoding:
        return LimitedEncoding(self.plain.with_dialect(dialect), self._per_second)


class Ending(Service):
    """The sessions that end at the Unix second ``second``.

    ``count`` is the number of these sessions. ``listed`` may also contain
    sessions that are over, or that end at another time now. The list is
    compacted when fewer than half of its sessions count. A set would take 24
    more bytes per session.
    """

    second: int
    listed: list[Connection] = field(default_factory=list)
    count: int = 0


class Expiry:
    """The times at which sessions end. Sessions without an end cost nothing.

    Times are whole Unix seconds, of the clock by which tokens are checked.
    Sessions that end in the same second share an entry, so a check costs one
    dictionary access per second. Owner of these times.
    """

    def __init__(self, now: float) -> None:
        """Start with no session. ``now`` is the current time in Unix seconds;
        sessions can end from then on."""
        self._checked_until = int(now)
        self.ends: dict[Connection, Ending] = {}
        """Connection → the entry of its end. Read-only for others. (One object
        per session would take 32 bytes more.)"""
        self._due: dict[int, Ending] = {}
        """Unix second → the sessions that end then."""

    def __len__(self) -> int:
        return len(self.ends)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self.ends

    def end_at(self, connection: Connection, expires_at: int) -> None:
        """Let a session end at a Unix second. An earlier end of the session is
        cancelled.

        0 means that the session has no end.
        """
        if self.ends:
            self.forget(connection)
        if expires_at:
            # A time in the past takes effect at the next check.
            second = max(expires_at, self._checked_until + 1)
            ending = self._due.get(second)
            if ending is None:
                ending = Ending(second)
                self._due[second] = ending
            ending.listed.append(connection)
            ending.count += 1
            self.ends[connection] = ending

    def forget(self, connection: Connection) -> None:
        """Cancel the end of a session."""
        ending = self.ends.pop(connection, None)
        if ending is None:
            return

        # The session stays in the list, where it counts no longer.
        ending.count -= 1
        if not ending.count:
            del self._due[ending.second]
        elif len(ending.listed) > 2 * ending.count:
            # A session that was renewed for the same second is listed twice.
            distinct = dict.fromkeys(ending.listed)
            ending.listed = [each for each in distinct if self.ends.get(each) is ending]

    def expire(self, now: float) -> int:
        """Close the sessions that have expired, with 4504, and return their number.

        Called once per second; never switches greenlets.
        """
        closed = 0
        for second in self._take_due_seconds(int(now)):
            ending = self._due.pop(second)
            for connection in ending.listed:
                if self.ends.get(connection) is not ending:
                    continue  # this session has ended before, or was renewed
                del self.ends[connection]
                if connection.is_open:
                    connection.close(CloseCode.TOKEN_INVALID)
                    closed += 1
        return closed

    def _take_due_seconds(self, second: int) -> list[int]:
        """Return the seconds up to this one at which sessions end, in order.

        Seconds that an earlier call has checked are not looked at again.
        """
        if second - self._checked_until > len(self._due):
            # The clock has jumped: checking each entry is cheaper than checking
            # each second.
            due_seconds = sorted(each for each in self._due if each <= second)
        else:
            unchecked = range(self._checked_until + 1, second + 1)
            due_seconds = [each for each in unchecked if each in self._due]
        self._checked_until = max(self._checked_until, second)
        return due_seconds
