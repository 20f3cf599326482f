"""Tokens of clients of Centrifugo: what a connection token says beyond its user, and tokens of subscriptions.

They are JSON Web Tokens that a key of the app has signed, like session tokens. They need no ``app``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from imserver.auth.tokens import (
    MAX_EXPIRES_AT,
    MAX_TOKEN_CHARACTERS,
    SKEW_SECONDS,
    BadToken,
    Key,
    TokenExpired,
    bytes_of,
    verified_payload,
)


class SubscriptionClaims(Struct):
    """What a connection token says about a channel in which the server subscribes the client.

    ``info``: JSON about the client for others in the channel. ``data``: JSON for the client.
    """

    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET


class ConnectionClaims(Struct):
    """What a connection token says beyond its user and its end. ``info``: JSON about the client for others.

    ``channels``, ``subs``: the channels in which the server subscribes the client. ``meta``: JSON about it
    for the back end only. ``data``: JSON for the client.
    """

    sub: str = ""
    exp: int | float = 0
    info: Raw | UnsetType = UNSET
    channels: tuple[str, ...] = ()
    subs: dict[str, SubscriptionClaims] = {}
    meta: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET

    @property
    def subscriptions(self) -> dict[str, SubscriptionClaims]:
        """Channel → what the token says about it."""
        return {channel: SubscriptionClaims() for channel in self.channels} | self.subs


class ChannelClaims(Struct):
    """The verified content of a subscription token, or the consent of a back end, which may have ``data`` for
    the client. ``expires_at`` in Unix seconds; 0: never."""

    sub: str = ""
    channel: str = ""
    exp: int | float = 0
    nbf: int | float = 0
    app: str | int = ""
    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET

    @property
    def expires_at(self) -> int:
        """The second at which the subscription ends; 0: never."""
        return int(min(self.exp, MAX_EXPIRES_AT))


_decode_connection = msgspec.json.Decoder(ConnectionClaims).decode
_decode_channel = msgspec.json.Decoder(ChannelClaims).decode


def connection_claims(token: str) -> ConnectionClaims:
    """Read a connection token without verifying it. Raises BadToken."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise BadToken("this is no token")
    try:
        return _decode_connection(bytes_of(parts[1]))
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims have the wrong types: {error}") from None


def read_channel_token(token: str, keys: Sequence[Key], now: float) -> ChannelClaims:
    """Verify a subscription token at Unix time ``now``. Raises BadToken and TokenExpired."""
    try:
        claims = _decode_channel(verified_payload(token, keys))
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims have the wrong types: {error}") from None
    if claims.exp and not claims.exp > now:
        raise TokenExpired("the token has expired")
    if claims.nbf > now + SKEW_SECONDS:
        raise BadToken("the token is not valid yet")
    return claims
