"""Session tokens: JSON Web Tokens (RFC 7519) that a back end signs for its users.

The key decides on the algorithm, never the token's header: one key, one algorithm (RFC 8725, section 3.1).
PyJWT, and the cryptography behind it, is loaded when the first app has keys.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from imserver.config.checks import MAKE_SECRET, is_placeholder
from imserver.config.settings import JwtSettings
from imserver.errors import ImserverError
from imserver.lifecycle import derive_key

if TYPE_CHECKING:
    from jwt.api_jws import PyJWS

MAX_TOKEN_CHARACTERS: Final = 8192
"""A longer token is not looked at."""
MIN_RSA_BITS: Final = 2048
MIN_SECRET_BYTES: Final = 32
"""Whoever has a token can guess a shorter secret of HS256 (RFC 7518, section 3.2)."""
SKEW_SECONDS: Final = 30
"""How far the back end's clock may be ahead of ours in ``nbf``."""
MAX_EXPIRES_AT: Final = 2**40
"""The latest time that is told apart; later ones count as this, in some 30,000 years."""


class BadKey(ImserverError):
    """A key of ``jwt`` cannot be used; the text says why, for the operator."""


class BadToken(ImserverError):
    """A token is no proof of what it is shown for; the text says why, for the log."""


class Claims(Struct, frozen=True):
    """What a token proves: ``user`` of ``app``, until ``expires_at`` (Unix seconds).

    ``device``: what the device called itself when it logged in to its account; ``""`` if that is not known.
    """

    user: str
    app: str
    expires_at: int
    device: str = ""


class _Payload(Struct):
    sub: str
    app: str | int
    exp: int | float
    nbf: int | float = 0


class Key(Struct, frozen=True):
    """A key that tokens may be signed with; ``verifier`` is what PyJWT made of it."""

    algorithm: str
    kid: str
    verifier: Any


_USUAL_HEADERS: Final = frozenset(
    urlsafe_b64encode(header).rstrip(b"=").decode()
    for header in (b'{"alg":"HS256","typ":"JWT"}', b'{"typ":"JWT","alg":"HS256"}')
)
"""What nearly all tokens of HS256 begin with, those of PyJWT and of golang-jwt among them."""
_SECRETS: Final = 1024
"""Secrets of HS256 that are known to be fit."""

_decode = msgspec.json.Decoder(_Payload).decode
_jws: PyJWS | None = None


def _library() -> PyJWS:
    global _jws
    if _jws is None:
        # Loaded here because it costs 6 MB that a node without tokens need not pay.
        from jwt.algorithms import HMACAlgorithm
        from jwt.api_jws import PyJWS

        signer = HMACAlgorithm(HMACAlgorithm.SHA256)
        # Whether a secret is none but a public key in disguise is looked for once, not at each login.
        signer.prepare_key = lru_cache(_SECRETS)(signer.prepare_key)  # type: ignore[method-assign]
        _jws = PyJWS(algorithms=["RS256", "EdDSA"])
        _jws.register_algorithm("HS256", signer)
    return _jws


def derived_secret(secret: bytes, app: str) -> str:
    """The secret of HS256 for an app whose ``jwt`` names none: the server's own, as text."""
    return derive_key(secret, f"session tokens of {app}").hex()


def read_key_file(path: str) -> str:
    """The text of a file that holds a key, without blanks around it. Raises :class:`BadKey`."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadKey(f"{path} is not UTF-8 text") from None
    if not text:
        raise BadKey(f"{path} is empty")
    return text


def text_of_key(row: JwtSettings, secret: bytes, app: str) -> str:
    """What a row of ``jwt`` gives as its key: the value, the file's content, or one derived from the secret.

    Raises :class:`BadKey`.
    """
    if row.key and row.key_file:
        raise BadKey("key and key_file are both given")
    if row.key_file:
        return read_key_file(row.key_file)
    if row.key:
        return row.key
    if row.algorithm != "HS256":
        raise BadKey(f"{row.algorithm} needs a public key: give key or key_file")
    return derived_secret(secret, app)


def load_keys(rows: Sequence[JwtSettings], secret: bytes, app: str) -> tuple[Key, ...]:
    """The keys of an app, ready for use. Raises :class:`BadKey`; reads files, so it may block shortly."""
    return tuple(_load_key(row, text_of_key(row, secret, app)) for row in rows)


def _load_key(row: JwtSettings, text: str) -> Key:
    if row.algorithm == "HS256":
        if "-----BEGIN" in text:
            raise BadKey("HS256 needs a secret, and this is a PEM key: name its own algorithm")
        if is_placeholder(text):
            raise BadKey(f"this secret is a placeholder of the documentation; make one with '{MAKE_SECRET}'")
        encoded = text.encode()
        if len(encoded) < MIN_SECRET_BYTES:
            raise BadKey(
                f"a secret of HS256 needs at least {MIN_SECRET_BYTES} bytes, this one has {len(encoded)}"
            )
        return Key(row.algorithm, row.kid, encoded)
    try:
        verifier: Any = _library().get_algorithm_by_name(row.algorithm).prepare_key(text)
    except Exception as error:  # whatever the cryptography behind it raises of text that is no key
        raise BadKey(f"no key for {row.algorithm}: {error}") from None
    if hasattr(verifier, "public_key"):
        verifier = verifier.public_key()
    if row.algorithm == "RS256" and verifier.key_size < MIN_RSA_BITS:
        raise BadKey(f"a key of RS256 needs at least {MIN_RSA_BITS} bits, this one has {verifier.key_size}")
    return Key(row.algorithm, row.kid, verifier)


def read_token(token: str, keys: Sequence[Key], now: float) -> Claims:
    """What ``token`` proves at Unix time ``now``. Raises :class:`BadToken`.

    A token with a ``kid`` is held against the keys of that name, and against those without a name; one
    without is held against all.
    """
    if not token:
        raise BadToken("there is no token")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise BadToken("the token is too long")
    claims = _decode_payload(_signed_payload(token, keys))
    expires_at = claims.exp
    if not expires_at > now:
        raise BadToken("the token has expired")
    if claims.nbf > now + SKEW_SECONDS:
        raise BadToken("the token is not valid yet")
    return Claims(claims.sub, str(claims.app), int(min(expires_at, MAX_EXPIRES_AT)))


def make_token(user: str, app: str, expires_at: int, row: JwtSettings, key: str) -> str:
    """A token as a back end makes it. ``key``: the secret of HS256, else the private key as PEM.

    Raises :class:`BadKey`.
    """
    jws = _library()
    headers = {"typ": "JWT", **({"kid": row.kid} if row.kid else {})}
    payload = msgspec.json.encode({"sub": user, "app": app, "exp": expires_at})
    try:
        return jws.encode(payload, key, row.algorithm, headers)
    except Exception as error:  # whatever the cryptography behind it raises of what cannot sign
        raise BadKey(f"no key that signs {row.algorithm}: {error}") from None


def app_named_by(token: str) -> str:
    """The app that ``token`` says it is for, which is to be proved yet; ``""`` if this is no token."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        return ""
    try:
        return str(_decode_payload(bytes_of(parts[1])).app)
    except (BadToken, ValueError):
        return ""


def _decode_payload(payload: bytes) -> _Payload:
    try:
        return _decode(payload)
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims are not what they should be: {error}") from None


def _usual_payload(token: str, secret: bytes) -> bytes | None:
    """The payload of a usual token of HS256, if this secret has signed it. It needs no library: that costs
    6 MB, and several times as long. None: a library has to look at it, and to say what is wrong."""
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    if header not in _USUAL_HEADERS or "." in payload or not token.isascii():
        return None
    try:
        given, content = bytes_of(signature), bytes_of(payload)
    except ValueError:
        return None
    return content if hmac.compare_digest(hmac.digest(secret, signed.encode(), "sha256"), given) else None


def bytes_of(text: str) -> bytes:
    """What a part of a token stands for. Raises ValueError."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signed_payload(token: str, keys: Sequence[Key]) -> bytes:
    """The token's payload, if one of ``keys`` has signed it."""
    for key in keys:
        # A usual token names no key, so it is held against all.
        if key.algorithm == "HS256" and (usual := _usual_payload(token, key.verifier)) is not None:
            return usual
    jws = _library()
    try:
        kid = jws.get_unverified_header(token).get("kid")
    except Exception as error:
        raise BadToken(f"this is no token: {error}") from None
    reason = f"no key is named {kid!r}"
    for key in keys:
        if kid is None or not key.kid or key.kid == kid:
            try:
                payload: bytes = jws.decode(token, key.verifier, algorithms=[key.algorithm])
            except Exception as error:  # PyJWT's own, and what its cryptography raises of hostile input
                reason = str(error) or type(error).__name__
            else:
                return payload
    raise BadToken(reason)
