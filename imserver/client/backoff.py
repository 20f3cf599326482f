"""When to come back: pauses that are random and grow ("full jitter"), so that crowds do not come at once."""

from __future__ import annotations

from random import uniform

from imserver.errors import CLOSE

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
LASTED_SECONDS = 60.0
"""A connection that stood for so long was a success: the next pause is short again."""


class Backoff:
    """Owner of the count of failures in a row."""

    def __init__(
        self, first_seconds: float = FIRST_SECONDS, longest_seconds: float = LONGEST_SECONDS
    ) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self.failures = 0

    def pause(self, stood_seconds: float = 0.0) -> float:
        """Seconds to wait before the next try; the last connection stood for ``stood_seconds``."""
        if stood_seconds >= LASTED_SECONDS:
            self.failures = 0
        self.failures += 1
        return uniform(0.0, min(self._longest, self._first * 2.0 ** min(self.failures - 1, 16)))


def may_return(code: int) -> bool:
    """Whether a client may reconnect after this close code: 4000 to 4499 (docs/reference/close-codes.md)."""
    row = CLOSE.get(code)
    return row.reconnect if row is not None else not 4500 <= code <= 4999
