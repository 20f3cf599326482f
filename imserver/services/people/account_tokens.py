"""Tokens of accounts: JSON Web Tokens as GoChat makes them, HS256 with the claims ``user_id`` and ``exp``.

Ours have two claims more: ``version``, that of the account when the token was made, and ``device``, which
of its logins it belongs to. One of GoChat's own counts as the first version, so it is good with the same key
until the account ends all its sessions.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from typing import Final

import msgspec
from msgspec import Struct

from imserver.services.logins.tokens import MAX_EXPIRES_AT, MAX_TOKEN_CHARACTERS, BadToken, bytes_of
from imserver.storage.account_contract import MAX_ID


class Claims(Struct):
    """What a token says: whose it is, until when (Unix seconds), of which version of the account, and of
    which of its logins (0: it does not say)."""

    user_id: int
    exp: int | float
    version: int = 0
    nbf: int | float = 0
    device: int = 0


class _Header(Struct):
    alg: str


_HEADER: Final = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claims).decode
_decode_header = msgspec.json.Decoder(_Header).decode


def make(id: int, version: int, expires_at: int, key: bytes, device: int = 0) -> str:
    """A token for an account, and a login of it."""
    claims = {"user_id": id, "version": version, "exp": expires_at}
    signed = _HEADER + b"." + _text(_encode({**claims, "device": device} if device else claims))
    return (signed + b"." + _signature(signed, key)).decode()


def read(token: str, key: bytes, now: float) -> Claims:
    """What ``token`` proves at Unix time ``now``. Raises BadToken.

    Whatever its header says, it has to be signed with HMAC-SHA256.
    """
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise BadToken("this is no token")
    signed = f"{parts[0]}.{parts[1]}".encode()
    if not hmac.compare_digest(_signature(signed, key), parts[2].encode()):
        raise BadToken("the token was signed with another key")
    try:
        algorithm = _decode_header(bytes_of(parts[0])).alg
        claims = _decode(bytes_of(parts[1]))
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims are not what they should be: {error}") from None
    if algorithm != "HS256":
        raise BadToken("the token is not HS256")
    if not claims.exp > now or claims.nbf > now:
        raise BadToken("the token has expired, or is not valid yet")
    if not 0 < claims.user_id <= MAX_ID:
        raise BadToken("the token names no account")
    claims.exp = int(min(claims.exp, MAX_EXPIRES_AT))
    return claims


def _signature(signed: bytes, key: bytes) -> bytes:
    return _text(hmac.new(key, signed, hashlib.sha256).digest())


def _text(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")
