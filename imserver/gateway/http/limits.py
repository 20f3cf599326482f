"""Limits of requests over HTTP: sizes, which the settings name, and rates, with
their headers.

Each key has a bucket of ``api.requests_per_second`` tokens. Each user with a
token has such a bucket. Other requests share a bucket for each client address,
or for each network of IPv6. A request takes one token. A batch takes one token
for each command.
"""

import math
from collections.abc import Callable
from time import time
from typing import Final

from imserver.gateway.auth.principal import Principal
from imserver.gateway.auth.rates import (
    HTTP_MESSAGES,
    REQUESTS,
    BucketList,
    Buckets,
    TooManyRequests,
)
from imserver.gateway.auth.tenants import Tenants
from imserver.gateway.config.settings import LimitSettings
from imserver.gateway.errors import Problems, StorageUnavailable
from imserver.gateway.http.form import MAX_VALUES
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.metrics import Metrics
from imserver.gateway.transport.http1 import MAX_PUBLIC_BODY_BYTES
from imserver.gateway.transport.proxies import network_of

MOST_ONE_BODY_BYTES: Final = 1 << 20
"""Longest body of a route that takes one message, or a few fields, with the
default settings."""
VALUES_PER_TARGET: Final = 10
"""Limit of the JSON values that name one target. A user, a device and the
object around them have five."""
_JSON_GROWTH: Final = 8
"""How many times longer a message may be as JSON with its other fields than the
message alone."""
_BYTES_PER_VALUE: Final = 8
"""A body above the usual limit may have one more value for each of this many
bytes."""


def _longest_message(settings: LimitSettings) -> int:
    """Compute how many bytes of a body one message may take."""
    # A push has an eighth of `outbox_bytes`, and JSON takes up to six bytes for
    # a character.
    return max(
        MOST_ONE_BODY_BYTES,
        settings.outbox_bytes,
        _JSON_GROWTH * settings.message_bytes,
    )


class Limits:
    """The limits of requests of a node.

    :class:`imserver.gateway.http.call.Api` owns them, and sets them again when
    the configuration is read again.
    """

    def __init__(self, settings: LimitSettings, tenants: Tenants) -> None:
        """Compute the limits. Apps may have stricter ones."""
        self._tenants = tenants
        self.set(settings)

    def set(self, settings: LimitSettings) -> None:
        """Compute the limits from the settings.

        This method is called again when the configuration was read again. Some
        limits follow from others: a long message needs a long body, which has
        more values.
        """
        self.batch_targets = settings.batch_targets
        self.body_bytes = settings.body_bytes
        """Longest body that is read from a known principal."""
        self.public_body_bytes = min(MAX_PUBLIC_BODY_BYTES, self.body_bytes)
        """Longest body that is read from anybody."""
        longest_message = _longest_message(settings)
        self.one_body_bytes = min(longest_message, self.body_bytes)
        """Longest body of a route that takes one message, or a few fields."""
        self.push_characters = settings.push_characters
        self.message_bytes = settings.message_bytes
        """Longest message of a user, over HTTP as over a connection."""
        self._messages_per_second = settings.messages_per_second
        more_bytes = max(0, longest_message - MOST_ONE_BODY_BYTES)
        self.one_body_values = MAX_VALUES + more_bytes // _BYTES_PER_VALUE
        """The most values of a body with one message, see
        :func:`imserver.gateway.protocol.forgiving.values_in`."""
        self.many_values = self.one_body_values + VALUES_PER_TARGET * self.batch_targets
        """The most values of a body with many targets."""

    def messages_per_second(self, app: str) -> float:
        """Return how many messages a connection to an app may send in a second.

        The server and the app have limits, and the stricter limit counts. The
        result is 0 if there is no limit.
        """
        limits = [self._messages_per_second]
        tenant = self._tenants.get(app)
        if tenant is not None:
            limits.append(tenant.messages_per_second)
        # 0 means no limit, so it does not count as the smallest limit.
        return min(filter(None, limits), default=0.0)


def too_many(error: TooManyRequests) -> ApiProblem:
    """Refuse a request because of a rate.

    The refusal says when the next attempt is allowed.
    """
    headers = (("Retry-After", str(error.seconds)),)
    return ApiProblem(Problems.TOO_MANY_REQUESTS, headers=headers, rate=error)


def spent(error: StorageUnavailable) -> ApiProblem:
    """Refuse a request because the quota of an app is used up.

    The refusal says when the quota begins anew.
    """
    seconds = max(math.ceil(error.until - time()), 1)
    headers = (("Retry-After", str(seconds)),)
    return ApiProblem(error.problem, error.detail.format(error), headers)


class Rates:
    """The limits of requests per second on one node.

    Each payer (see :func:`_payer`) has a bucket of tokens, and a request takes
    one token. ``per_second`` is the limit of requests. 0 means that there is no
    limit, and that answers have no headers about it.
    ``messages_per_second`` returns the limit of messages of an app.
    """

    def __init__(
        self,
        per_second: float,
        messages_per_second: Callable[[str], float],
        metrics: Metrics,
        buckets: BucketList,
    ) -> None:
        """Make the buckets. The arguments are explained at the class."""
        self._messages_per_second = messages_per_second
        self._metrics = metrics
        self._requests = buckets.make(REQUESTS, per_second)
        self.per_second = per_second
        """The limit of requests."""
        self._messages = buckets.make(HTTP_MESSAGES)

    def set(self, per_second: float) -> None:
        """Change the limit of requests, and fill all buckets."""
        self.per_second = per_second
        self._requests.set(per_second)

    def require(self, principal: Principal, host: str) -> None:
        """Count a request. Raises :class:`ApiProblem` if the request exceeds
        the limit."""
        self._require(self._requests, _payer(principal, host))

    def require_message(self, app: str, user: str) -> None:
        """Count a message that a user sends over HTTP.

        The limit is the same as on one connection. So users cannot avoid the
        limit by HTTP. Raises :class:`ApiProblem`.
        """
        limit = self._messages_per_second(app)
        self._require(self._messages, (app, user), limit)

    def _require(
        self, buckets: Buckets, payer: str | tuple[str, str], number: float = 0
    ) -> None:
        """Take a token from a bucket. Raises :class:`ApiProblem` if it is
        empty.

        ``number`` is the limit of this bucket. 0 means the limit that all
        buckets share.
        """
        try:
            buckets.require(payer, number=number)
        except TooManyRequests as error:
            self._metrics.http_over_rate += 1
            raise too_many(error) from None

    def charge(self, principal: Principal, host: str, tokens: int) -> None:
        """Count more requests afterwards, for a request that did the work of
        many requests.

        This method never refuses. If the bucket has too few tokens, the server
        refuses the next requests until the missing tokens have come back.
        """
        if self.per_second and tokens:
            self._requests.charge(_payer(principal, host), tokens)

    def headers(self, principal: Principal, host: str) -> tuple[tuple[str, str], ...]:
        """Make the headers that say how many requests are left.

        Without a limit of requests, the result is empty.
        """
        if not self.per_second:
            return ()
        tokens, seconds = self._requests.left(_payer(principal, host))
        limit = int(max(self.per_second, 1))
        return (
            ("RateLimit-Limit", str(limit)),
            ("RateLimit-Remaining", str(tokens)),
            ("RateLimit-Reset", str(seconds)),
        )


def _payer(principal: Principal, host: str) -> str | tuple[str, str]:
    """Return who pays for a request: the owner of the bucket of tokens.

    The payer is a user (app and id), an API key, or the network of an address.
    """
    # Anybody can get a page token. So the requests of a visitor of a page count
    # for the address of the visitor.
    if principal.user and principal.kind != "page":
        return principal.app, principal.user
    if principal.staff:
        return principal.app, principal.staff
    return principal.key or network_of(host)
