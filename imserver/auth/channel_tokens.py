"""Tokens of clients of Centrifugo: what a connection token says beyond its user, and tokens of subscriptions.

They are JSON Web Tokens that a key of the app has signed, like session tokens. They need no ``app``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from imserver.auth.tokens import (
    MAX_TOKEN_CHARACTERS,
    SKEW_SECONDS,
    BadToken,
    Key,
    TokenExpired,
    bytes_of,
    decode_claims,
    end_of,
    issued_payload,
    verified_payload,
)
from imserver.config.settings import JwtSettings


class SubscriptionClaims(Struct):
    """What a connection token says about a channel in which the server subscribes the client.

    ``info``: JSON about the client for others in the channel. ``data``: JSON for the client.
    """

    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET


class _Claims(Struct):
    """What both kinds of tokens say. ``info``: JSON about the client for others. ``data``: JSON for the
    client. ``expire_at``: see :func:`end_of`."""

    sub: str = ""
    exp: int | float = 0
    nbf: int | float = 0
    expire_at: int | float | None = None
    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET

    @property
    def expires_at(self) -> int:
        """The second at which the session or subscription ends; 0: never."""
        return end_of(self.exp, self.expire_at)

    def check_times(self, now: float) -> None:
        """Raise TokenExpired if the client needs another token at Unix time ``now``."""
        if (self.exp and not self.exp > now) or 0 < (self.expire_at or 0) <= now:
            raise TokenExpired("the token has expired")
        if self.nbf > now + SKEW_SECONDS:
            raise TokenExpired("the token is not valid yet")


class ConnectionClaims(_Claims):
    """What a connection token says beyond its user and its end.

    ``channels``, ``subs``: the channels in which the server subscribes the client. ``meta``: JSON about it
    for the back end only.
    """

    channels: tuple[str, ...] = ()
    subs: dict[str, SubscriptionClaims] = {}
    meta: Raw | UnsetType = UNSET

    @property
    def subscriptions(self) -> dict[str, SubscriptionClaims]:
        """Channel → what the token says about it."""
        return {channel: SubscriptionClaims() for channel in self.channels} | self.subs


class ChannelClaims(_Claims):
    """The verified content of a subscription token, or the consent of a back end. ``client``: the only
    connection that may use the token (``""``: any of the user)."""

    channel: str = ""
    app: str | int = ""
    client: str = ""


_decode_connection = msgspec.json.Decoder(ConnectionClaims).decode
_decode_channel = msgspec.json.Decoder(ChannelClaims).decode


def connection_claims(token: str) -> ConnectionClaims:
    """Read a connection token without verifying it. Raises BadToken."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise BadToken("this is no token")
    try:
        payload = bytes_of(parts[1])
    except ValueError as error:
        raise BadToken(f"this is no token: {error}") from None
    return decode_claims(_decode_connection, payload)


def read_channel_token(token: str, keys: Sequence[Key], now: float) -> ChannelClaims:
    """Verify a subscription token at Unix time ``now``. Raises BadToken and TokenExpired."""
    return _read(verified_payload(token, keys), now)


def read_issued_channel_token(token: str, keys: Sequence[Key], row: JwtSettings, now: float) -> ChannelClaims:
    """Verify a subscription token of the issuer in ``row``. Raises BadToken and TokenExpired."""
    payload, user = issued_payload(token, keys, row)
    claims = _read(payload, now)
    claims.sub = user
    return claims


def _read(payload: bytes, now: float) -> ChannelClaims:
    claims = decode_claims(_decode_channel, payload)
    claims.check_times(now)
    return claims
