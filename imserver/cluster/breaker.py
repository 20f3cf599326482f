"""The circuit breaker: who keeps failing is left alone for a while, then tried with one probe."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import Final

BASE_SECONDS: Final = 0.2
CAP_SECONDS: Final = 5.0


class Breaker:
    """Closed until ``threshold`` failures in a row open it; half open while one probe is under way.

    After the n-th vain probe the next one waits a random time between 0 and ``base_seconds`` · 2ⁿ, at most
    ``cap_seconds`` ("full jitter": nodes that lost the same peer do not all come back at the same moment).
    Owner: whoever calls; never switches.
    """

    __slots__ = (
        "_base",
        "_cap",
        "_clock",
        "_failures",
        "_probes",
        "_probing",
        "_random",
        "_retry_at",
        "_threshold",
        "closed",
        "opens",
    )

    def __init__(
        self,
        threshold: int,
        *,
        base_seconds: float = BASE_SECONDS,
        cap_seconds: float = CAP_SECONDS,
        clock: Callable[[], float] = monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.closed = True
        """Whether calls may pass. For hot paths; :meth:`allows` is for calls that may serve as the probe."""
        self.opens = 0
        """How often it opened, vain probes not counted."""
        self._threshold = threshold
        self._base = base_seconds
        self._cap = cap_seconds
        self._clock = clock
        self._random = uniform
        self._failures = 0
        self._probes = 0
        self._probing = False
        self._retry_at = 0.0

    def allows(self) -> bool:
        """Whether the caller may go on.

        While the breaker is not closed, the one caller that may is the probe: it must report by
        :meth:`succeeded` or :meth:`failed`, whatever happens.
        """
        if self.closed:
            return True
        if self._probing or self._clock() < self._retry_at:
            return False
        self._probing = True
        return True

    @property
    def wait_seconds(self) -> float:
        """How long until the next probe may start; 0 if it may now, or if the breaker is closed."""
        return 0.0 if self.closed else max(0.0, self._retry_at - self._clock())

    def succeeded(self) -> None:
        """A call, or the probe, was answered."""
        self.closed = True
        self._failures = self._probes = 0
        self._probing = False

    def failed(self) -> None:
        """A call, or the probe, was not answered. Stragglers from before it opened change nothing."""
        if self.closed:
            self._failures += 1
            if self._failures >= self._threshold:
                self.trip()
        elif self._probing:
            self._probing = False
            self._wait()

    def trip(self) -> None:
        """Open at once, however few failures there were."""
        if self.closed:
            self.closed = False
            self.opens += 1
            self._wait()

    def _wait(self) -> None:
        limit = min(self._cap, self._base * 2 ** min(self._probes, 30))
        self._probes += 1
        self._retry_at = self._clock() + self._random(0.0, limit)
