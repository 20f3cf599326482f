"""The rate limit of requests, and its headers.

Each key has a bucket of ``api.requests_per_second`` tokens that fills up again at that rate. So has each user
who proves who they are by a token, and each client address of other requests. A request takes one token, a
batch takes one for each command.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from imserver.auth.attempts import TooManyFailures
from imserver.auth.principal import NOBODY, Principal
from imserver.auth.quotas import TokenBucket
from imserver.errors import HTTP_TOO_MANY_REQUESTS
from imserver.http.reply import ApiProblem
from imserver.metrics import Metrics

MAX_BUCKETS: Final = 10_000
"""Limit of the number of buckets. Beyond it, the bucket that was not used for the longest time is dropped."""


def too_many(error: TooManyFailures) -> ApiProblem:
    """The refusal that says when the next attempt is allowed."""
    return ApiProblem(HTTP_TOO_MANY_REQUESTS, headers=(("Retry-After", str(error.seconds)),))


class Rates:
    """Owner of the buckets of one node. ``per_second`` 0: no limit, and no headers."""

    def __init__(self, per_second: float, metrics: Metrics) -> None:
        self._metrics = metrics
        self.set(per_second)

    def set(self, per_second: float) -> None:
        """Change the limit, and fill all buckets."""
        self.per_second = per_second
        self._most = max(per_second, 1.0)
        self._buckets: OrderedDict[str | tuple[str, str], TokenBucket] = OrderedDict()

    def _bucket(self, principal: Principal, host: str) -> TokenBucket:
        """The bucket of a request, filled up to now."""
        name: str | tuple[str, str] = principal.key or host
        if principal.user and principal.kind != "page":  # anybody gets a page token
            name = principal.app, principal.user
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._most, self.per_second)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        bucket.take(0)
        return bucket

    def require(self, principal: Principal, host: str) -> None:
        """Take a token. Raises :class:`ApiProblem` if there is none. Without a limit there always is one."""
        if self.per_second:
            bucket = self._bucket(principal, host)
            if bucket.left < 1:
                self._metrics.http_over_rate += 1
                seconds = math.ceil((1.0 - bucket.left) / self.per_second)
                raise ApiProblem(HTTP_TOO_MANY_REQUESTS, headers=(("Retry-After", str(seconds)),))
            bucket.left -= 1

    def charge(self, principal: Principal, host: str, tokens: int) -> None:
        """Take tokens even if there are too few. The missing ones are paid before the next request."""
        if self.per_second and tokens:
            self._bucket(principal, host).left -= tokens

    def headers(self, principal: Principal, host: str) -> tuple[tuple[str, str], ...]:
        """The headers with the number of requests left."""
        if not self.per_second:
            return ()
        left = self._bucket(principal, host).left
        return (
            ("RateLimit-Limit", str(int(self._most))),
            ("RateLimit-Remaining", str(max(int(left), 0))),
            ("RateLimit-Reset", str(math.ceil((self._most - left) / self.per_second))),
        )


class MessageRates:
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
