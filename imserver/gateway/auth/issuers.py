"""OpenID Connect issuers: their keys (JWKS, RFC 7517), fetched and cached, and
the tokens they sign.

An entry of an app's ``jwt`` names an issuer. Its keys come from ``jwks_url``,
or from the address in its discovery document. Each issuer has its own cache. An
issuer that does not answer delays only logins with its own tokens, and only
until the first time-out.
"""

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import monotonic
from typing import Any, Final

import gevent
import msgspec
from gevent.event import Event as Flag
from msgspec import Struct, field

from imserver.gateway.auth.channel_tokens import (
    ChannelClaims,
    read_issued_channel_token,
)
from imserver.gateway.auth.json_web_tokens import BadToken, Key
from imserver.gateway.auth.tokens import (
    Claims,
    T,
    header_and_claims,
    key_of_jwk,
    read_issued,
    unverified,
)
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.config.values import ISSUER_URL
from imserver.gateway.errors import IssuerUnavailable
from imserver.gateway.model import Service
from imserver.gateway.transport.outgoing import Outgoing, Unreachable

FETCH_SECONDS: Final = 2.0
"""Time limit of one fetch. A login waits at most this long."""
REFRESH_SECONDS: Final = 600.0
"""Age at which keys are fetched again, in the background."""
RETRY_SECONDS: Final = 10.0
"""Least time between two fetches from one issuer."""
MAX_AGE_SECONDS: Final = 86400.0
"""Keys of this age are no longer used, because the issuer could not be reached
since they were fetched."""
_MAX_KEYS: Final = 100
"""Limit of the keys of an issuer. Further keys are ignored."""
_MAX_UNKNOWN: Final = 1000
"""How many unknown ids of keys are remembered for an issuer."""
_LEAST_SECONDS: Final = 0.001
"""Time limit of a fetch when no time is left. A time limit must not be 0."""


class _Discovery(Struct):
    """The part of an issuer's discovery document that is needed."""

    issuer: str
    jwks_uri: str


class _KeySet(Struct):
    """A JSON Web Key Set: the public keys of an issuer."""

    keys: list[dict[str, Any]]


class Issuer(Service, dict=True):
    """The cached keys of one OpenID Connect issuer, with which it signs tokens.

    ``seconds`` is the time limit of one fetch of its keys. Only
    :meth:`keys_for` and :meth:`read` switch greenlets.
    """

    url: str
    jwks_url: str
    outgoing: Outgoing
    clock: Callable[[], float] = monotonic
    seconds: float = FETCH_SECONDS

    def __post_init__(self) -> None:
        """Start without keys. The first token makes the first fetch."""
        self._keys: tuple[Key, ...] = ()
        self._fetched_at = float("-inf")
        """When the last successful fetch was made, by ``clock``."""
        self._next_fetch = float("-inf")
        """When the next fetch may begin, by ``clock``."""
        self._problem = "its keys were not fetched yet"
        """The reason why there are no keys, for the text of errors."""
        self._fetching: Flag | None = None
        """A flag that is set when the running fetch ends; None if no fetch
        runs."""
        self._unknown: dict[str, None] = {}
        """Key ids that the issuer does not have. Emptied by the next successful
        fetch."""

    @staticmethod
    def accepts(url: str) -> bool:
        """Whether an issuer may have this address: https, or http on this
        machine."""
        return ISSUER_URL.match(url) is not None

    def keys_for(self, kid: str) -> tuple[Key, ...]:
        """Return the keys that may have signed a token with this key id.

        ``kid`` is ``""`` for a token that names no key. Waits at most ``seconds``
        if no keys are cached or the ``kid`` is new. Raises IssuerUnavailable if no
        keys are cached, and BadToken if the issuer has no such key.
        """
        age = self.clock() - self._fetched_at
        if age > REFRESH_SECONDS:
            self._renew_keys(age)

        keys = self._keys_named(kid)
        if not keys and kid not in self._unknown:
            keys = self._fetch_key(kid)
        if not keys:
            raise BadToken(f"the issuer {self.url} has no key {kid!r}")
        return keys

    def _renew_keys(self, age: float) -> None:
        """Fetch keys that were fetched ``age`` seconds ago.

        Waits for the new keys if the cached keys are too old to be used. Raises
        IssuerUnavailable if no new keys could be fetched.
        """
        if age > MAX_AGE_SECONDS:
            self._fetch()
            if self.clock() - self._fetched_at > MAX_AGE_SECONDS:
                raise IssuerUnavailable(f"issuer {self.url}: {self._problem}")
        elif self._may_fetch():
            # The cached keys are used meanwhile.
            gevent.spawn(self._fetch)

    def _fetch_key(self, kid: str) -> tuple[Key, ...]:
        """Fetch the keys again, and return the key with the id ``kid``, which
        is not cached.

        The result is empty if the issuer has no such key. The id is then
        remembered as unknown, so that invented ids do not cause a fetch each.
        """
        fetched_before = self._fetched_at
        self._fetch()
        keys = self._keys_named(kid)
        # Only a fetch that succeeded shows that the issuer does not have the key.
        has_fetched = self._fetched_at > fetched_before
        if has_fetched and not keys and len(self._unknown) < _MAX_UNKNOWN:
            self._unknown[kid] = None
        return keys

    def read(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the header and the claims of a token that a key of this issuer
        has signed.

        Nothing else is checked. Raises IssuerUnavailable and BadToken.
        """
        return header_and_claims(token, self.keys_for(unverified(token).kid))

    def _keys_named(self, kid: str) -> tuple[Key, ...]:
        """Return the cached keys with this id; all keys if ``kid`` is ``""``."""
        return tuple(key for key in self._keys if not kid or key.kid == kid)

    def _may_fetch(self) -> bool:
        """Whether a fetch may begin: no fetch runs, and the last fetch was long
        enough ago."""
        return self._fetching is None and self.clock() >= self._next_fetch

    def _fetch(self) -> None:
        """Fetch the keys, at most once per :data:`RETRY_SECONDS`.

        Callers share one fetch. A failure is logged, and the cached keys stay.
        Switches greenlets.
        """
        if self._fetching is not None:
            self._fetching.wait(self.seconds)
            return
        if not self._may_fetch():
            return
        # The flag is set before the first wait, so that other greenlets find
        # it.
        self._fetching = Flag()
        self._next_fetch = self.clock() + RETRY_SECONDS
        try:
            self._replace_keys()
        finally:
            self._fetching.set()
            self._fetching = None

    def _replace_keys(self) -> None:
        """Read the keys of the issuer in place of the cached ones.

        A failure is logged. Its text is also kept for the errors of logins that
        need a key.
        """
        try:
            self._keys = self._read_keys()
        except Unreachable as error:
            self._problem = str(error)
            logging.getLogger(__name__).warning(
                "issuer %s: its keys cannot be fetched: %s", self.url, error
            )
        else:
            self._fetched_at = self.clock()
            self._unknown.clear()

    def _read_keys(self) -> tuple[Key, ...]:
        """Request the keys from the issuer. Raises Unreachable."""
        deadline = self.clock() + self.seconds
        url = self.jwks_url or self._discover_keys(deadline)
        key_set = self._get(url, _KeySet, deadline)
        # Keys of unknown kinds are left out.
        loaded = map(key_of_jwk, key_set.keys[:_MAX_KEYS])
        keys = tuple(key for key in loaded if key is not None)
        if not keys:
            raise Unreachable(f"{url} contains no usable key")
        return keys

    def _discover_keys(self, deadline: float) -> str:
        """Return the address of the keys, which the issuer's discovery document
        names. Raises Unreachable."""
        document_url = self.url.rstrip("/") + "/.well-known/openid-configuration"
        discovery = self._get(document_url, _Discovery, deadline)
        if discovery.issuer != self.url:
            raise Unreachable(
                f"{document_url} is the document of another issuer, {discovery.issuer}"
            )
        # If the keys came over plain http, somebody in the network could
        # replace them.
        if not Issuer.accepts(discovery.jwks_uri):
            raise Unreachable(
                f"{document_url} names keys without https, {discovery.jwks_uri}"
            )
        return discovery.jwks_uri

    def _get(self, url: str, shape: type[T], deadline: float) -> T:
        """Fetch a JSON document, and decode it as a ``shape``. Raises
        Unreachable."""
        seconds = max(deadline - self.clock(), _LEAST_SECONDS)
        status, body = self.outgoing.get(url, seconds)
        # Redirects are not followed: they could lead into the private network.
        if status != HTTPStatus.OK:
            raise Unreachable(f"{url} answered with the status {status}")
        try:
            return msgspec.json.decode(body, type=shape)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"{url} is not a valid document: {error}") from None


class Issuers(Service):
    """The OpenID Connect issuers of all apps.

    Apps with the same issuer share its keys. The audience of a token says for
    which app the token is. Owner of the issuers.
    """

    outgoing: Outgoing
    _issuers: dict[tuple[str, str], Issuer] = field(default_factory=dict)

    def claims(
        self,
        app: str,
        rows: Sequence[JwtSettings],
        token: str,
        now: float,
        bare: bool = False,
    ) -> Claims | None:
        """Verify a token of an issuer, and return its content.

        ``rows`` are the entries of ``jwt`` of the app. The result is None if no
        entry has the issuer of the token. If several entries name the issuer,
        the entry with the token's audience counts. ``now`` is the time in Unix
        seconds. ``bare`` means that the token is from a client of Centrifugo,
        see :func:`read_issued`.

        Waits at most :data:`FETCH_SECONDS` for keys. Raises BadToken and
        IssuerUnavailable.
        """
        choice = self._choose_entry(rows, token)
        if choice is None:
            return None
        keys, row = choice
        return read_issued(token, keys, row, now, app, bare)

    def channel_claims(
        self, rows: Sequence[JwtSettings], token: str, now: float
    ) -> ChannelClaims | None:
        """Verify the token of a subscription, as :meth:`claims` verifies the
        token of a login."""
        choice = self._choose_entry(rows, token)
        if choice is None:
            return None
        keys, row = choice
        return read_issued_channel_token(token, keys, row, now)

    def _choose_entry(
        self, rows: Sequence[JwtSettings], token: str
    ) -> tuple[tuple[Key, ...], JwtSettings] | None:
        """Return the keys that may have signed a token, and the entry that
        verifies it.

        The result is None if no entry has the issuer of the token. Raises
        BadToken and IssuerUnavailable.
        """
        head = unverified(token)
        of_issuer = [row for row in rows if row.issuer and row.issuer == head.issuer]
        if not of_issuer:
            return None

        # If no entry has an audience of the token, the first entry refuses it
        # with the reason.
        of_audience = (row for row in of_issuer if row.audience in head.audiences)
        row = next(of_audience, of_issuer[0])
        issuer = self._issuers.get((row.issuer, row.jwks_url))
        if issuer is None:
            issuer = self._add_issuer(row)
        return issuer.keys_for(head.kid), row

    def _add_issuer(self, row: JwtSettings) -> Issuer:
        """Make the cache for the keys of an issuer, for this login and later
        logins."""
        issuer = Issuer(row.issuer, row.jwks_url, self.outgoing)
        self._issuers[row.issuer, row.jwks_url] = issuer
        return issuer
