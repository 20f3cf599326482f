"""Tokens of subscriptions to channels.

They are JSON Web Tokens that a key of the app has signed, like session tokens.
Unlike session tokens, they need no claim ``app``.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from imserver.gateway.auth.json_web_tokens import (
    Key,
    VerifiedPayload,
    verified_payload,
)
from imserver.gateway.auth.tokens import (
    SKEW_SECONDS,
    TokenExpired,
    decode_claims,
    issued_payload,
    token_end,
)
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.protocol.forgiving import Partial


class ChannelClaims(Partial, frozen=True):
    """The verified content of a subscription token, or the consent of a back
    end.

    - ``sub``: the user.
    - ``channel``: the channel; ``""`` if the token names no channel.
    - ``info``: JSON about the client, which other subscribers receive.
    - ``data``: JSON for the client itself.
    - ``exp``, ``expire_at``: the end of the token and of the subscription, see
      :func:`token_end`.
    - ``nbf``: the Unix second from which the token is valid.
    - ``client``: the id of the only connection that may use the token; ``""``:
      any connection of the user may use it.
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
    b64info: str = ""
    override: Raw | UnsetType = UNSET
    allow: Raw | UnsetType = UNSET
    server_tags_filter: Raw | UnsetType = UNSET

    not_supported: ClassVar[tuple[str, ...]] = (
        "override",
        "allow",
        "server_tags_filter",
    )
    in_base64: ClassVar[tuple[str, ...]] = ("info",)

    @property
    def expires_at(self) -> int:
        """The Unix second at which the subscription ends; 0: it never ends."""
        return token_end(self.exp, self.expire_at)


_decode_channel = msgspec.json.Decoder(ChannelClaims).decode


def read_channel_token(token: str, keys: Sequence[Key], now: float) -> ChannelClaims:
    """Verify a subscription token at the Unix time ``now``.

    Raises BadToken and TokenExpired.
    """
    return _read(verified_payload(token, keys), now)


def read_issued_channel_token(
    token: str, keys: Sequence[Key], row: JwtSettings, now: float
) -> ChannelClaims:
    """Verify a subscription token of the issuer in ``row``.

    Raises BadToken and TokenExpired.
    """
    payload, user = issued_payload(token, keys, row)
    return replace(_read(payload, now), sub=user)


def _read(payload: VerifiedPayload, now: float) -> ChannelClaims:
    """Decode verified claims, and check their times. Raises TokenExpired and
    BadToken."""
    claims = decode_claims(_decode_channel, payload)
    # The comparison is written with ``not``, so that a NaN counts as expired.
    has_expired = bool(claims.exp) and not claims.exp > now
    if has_expired or 0 < (claims.expire_at or 0) <= now:
        raise TokenExpired("the token has expired")
    if claims.nbf > now + SKEW_SECONDS:
        raise TokenExpired("the token is not valid yet")
    return claims
