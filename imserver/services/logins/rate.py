"""Rates: how many messages a connection may send in a second."""

from __future__ import annotations

from time import monotonic
from weakref import WeakKeyDictionary

from imserver import errors
from imserver.transport.carrier import Encoding, Serve
from imserver.transport.connection import Connection


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
