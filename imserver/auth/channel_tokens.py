"""Tokens of clients of Centrifugo: what a connection token says beyond its user, and tokens of subscriptions.

They are JSON Web Tokens that a key of the app has signed, like session tokens. They need no ``app``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from imserver.auth.tokens import (
    SKEW_SECONDS,
    Key,
    TokenExpired,
    UnverifiedClaims,
    VerifiedPayload,
    decode_claims,
    decode_unverified,
    end_of,
    issued_payload,
    verified_payload,
)
from imserver.config.settings import JwtSettings


class SubscriptionClaims(Struct, frozen=True):
    """What a connection token says about a channel in which the server subscribes the client.

    ``info``: JSON about the client for others in the channel. ``data``: JSON for the client.
    """

    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET


class ConnectionClaims(Struct, frozen=True):
    """What a verified connection token, or a back end, says of a client beyond its user and its end.

    ``info``: JSON about the client for others. ``data``: JSON for the client. ``channels``, ``subs``: the
    channels in which the server subscribes the client. ``meta``: JSON about it for the back end only.
    """

    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    channels: tuple[str, ...] = ()
    subs: dict[str, SubscriptionClaims] = {}
    meta: Raw | UnsetType = UNSET

    @property
    def subscriptions(self) -> dict[str, SubscriptionClaims]:
        """Channel → what the token says about it."""
        return {channel: SubscriptionClaims() for channel in self.channels} | self.subs


class ConnectionRequest(UnverifiedClaims, frozen=True):
    """What a connection token asks for in an open app, where nobody verifies it: the name that the client
    gives itself, and channels to which it subscribes by its own right."""

    sub: str = ""
    channels: tuple[str, ...] = ()
    subs: Mapping[str, Raw] = {}

    @property
    def names(self) -> frozenset[str]:
        """The channels."""
        return frozenset((*self.channels, *self.subs))


class ChannelClaims(Struct, frozen=True):
    """The verified content of a subscription token, or the consent of a back end.

    ``info``: JSON about the client for others. ``data``: JSON for the client. ``expire_at``: see
    :func:`end_of`. ``client``: the only connection that may use the token (``""``: any of the user).
    """

    sub: str = ""
    exp: int | float = 0
    nbf: int | float = 0
    expire_at: int | float | None = None
    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    channel: str = ""
    app: str | int = ""
    client: str = ""

    @property
    def expires_at(self) -> int:
        """The second at which the subscription ends; 0: never."""
        return end_of(self.exp, self.expire_at)

    def check_times(self, now: float) -> None:
        """Raise TokenExpired if the client needs another token at Unix time ``now``."""
        if (self.exp and not self.exp > now) or 0 < (self.expire_at or 0) <= now:
            raise TokenExpired("the token has expired")
        if self.nbf > now + SKEW_SECONDS:
            raise TokenExpired("the token is not valid yet")


_decode_connection = msgspec.json.Decoder(ConnectionClaims).decode
_decode_request = msgspec.json.Decoder(ConnectionRequest).decode
_decode_channel = msgspec.json.Decoder(ChannelClaims).decode


def connection_claims(payload: VerifiedPayload) -> ConnectionClaims:
    """What a connection token says beyond its user and its end. Raises BadToken."""
    return decode_claims(_decode_connection, payload)


def connection_request(token: str) -> ConnectionRequest:
    """Read a connection token for an open app, without verifying it. Raises BadToken."""
    return decode_unverified(_decode_request, token)


def read_channel_token(token: str, keys: Sequence[Key], now: float) -> ChannelClaims:
    """Verify a subscription token at Unix time ``now``. Raises BadToken and TokenExpired."""
    return _read(verified_payload(token, keys), now)


def read_issued_channel_token(token: str, keys: Sequence[Key], row: JwtSettings, now: float) -> ChannelClaims:
    """Verify a subscription token of the issuer in ``row``. Raises BadToken and TokenExpired."""
    payload, user = issued_payload(token, keys, row)
    return replace(_read(payload, now), sub=user)


def _read(payload: VerifiedPayload, now: float) -> ChannelClaims:
    claims = decode_claims(_decode_channel, payload)
    claims.check_times(now)
    return claims
