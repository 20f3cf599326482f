"""The rate limit of requests per key, and its headers.

Each key has a bucket of ``api.requests_per_second`` tokens that fills up again at that rate. In demo mode
each client address has one. A request takes one token, a batch takes one for each command.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final

from imserver.api.reply import ApiProblem
from imserver.auth.principal import NOBODY, Principal
from imserver.errors import HTTP_TOO_MANY_REQUESTS
from imserver.metrics import Metrics

MAX_BUCKETS: Final = 10_000
"""Limit of the number of buckets. Beyond it, the bucket that was not used for the longest time is dropped."""


class Rates:
    """Owner of the buckets of one node. ``per_second`` 0: no limit, and no headers."""

    def __init__(self, per_second: float, metrics: Metrics, clock: Callable[[], float] = monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self.set(per_second)

    def set(self, per_second: float) -> None:
        """Change the limit, and fill all buckets."""
        self.per_second = per_second
        self._most = max(per_second, 1.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, principal: Principal, host: str) -> bool:
        """Take a token. Return False if there is none. Without a limit there always is one."""
        if not self.per_second:
            return True
        now = self._clock()
        name = principal.key or host
        left = self._left(name, now)
        taken = left >= 1.0
        self._put(name, left - taken, now)
        self._metrics.http_over_rate += not taken
        return taken

    def _put(self, name: str, left: float, now: float) -> None:
        self._buckets[name] = (left, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)

    def require(self, principal: Principal, host: str) -> None:
        """Take a token. Raises :class:`ApiProblem` if there is none."""
        if not self.take(principal, host):
            missing = 1.0 - self._left(principal.key or host, self._clock())
            seconds = math.ceil(max(missing, 0.0) / self.per_second)
            raise ApiProblem(HTTP_TOO_MANY_REQUESTS, headers=(("Retry-After", str(max(seconds, 1))),))

    def charge(self, principal: Principal, host: str, tokens: int) -> None:
        """Take tokens even if there are too few. The missing ones are paid before the next request."""
        if self.per_second and tokens:
            now = self._clock()
            self._put(principal.key or host, self._left(principal.key or host, now) - tokens, now)

    def headers(self, principal: Principal, host: str) -> tuple[tuple[str, str], ...]:
        """The headers with the number of requests left."""
        if not self.per_second:
            return ()
        left = self._left(principal.key or host, self._clock())
        return (
            ("RateLimit-Limit", str(int(self._most))),
            ("RateLimit-Remaining", str(max(int(left), 0))),
            ("RateLimit-Reset", str(math.ceil((self._most - left) / self.per_second))),
        )

    def _left(self, name: str, now: float) -> float:
        left, since = self._buckets.get(name, (self._most, now))
        return min(self._most, left + (now - since) * self.per_second)


class TalkRates:
    """The rate limit of messages that an account sends over HTTP: the same as over one connection.

    ``per_second`` returns the limit of an app; 0: none. Owner of the buckets, one for each account.
    """

    def __init__(self, per_second: Callable[[str], float], metrics: Metrics) -> None:
        self._per_second = per_second
        self._metrics = metrics
        self._apps: dict[str, Rates] = {}

    def require(self, app: str, user: str) -> None:
        """Count one message. Raises :class:`ApiProblem` if it is over the limit."""
        per_second = self._per_second(app)
        if not per_second:
            return
        rates = self._apps.get(app)
        if rates is None or rates.per_second != per_second:
            rates = self._apps[app] = Rates(per_second, self._metrics)
        rates.require(NOBODY, user)
