"""Session tokens: JSON Web Tokens that a back end signs for its users, with
their claims, their times and the keys of an app."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from imserver.gateway.auth.json_web_tokens import (
    EDWARDS_NAMES,
    NO_CLAIMS,
    PUBLIC_KEY_ALGORITHMS,
    BadToken,
    JsonWebToken,
    Key,
    VerifiedPayload,
    library,
    verified_payload,
)
from imserver.gateway.auth.principal import Kind
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.config.values import MAKE_SECRET, is_placeholder
from imserver.gateway.errors import ImserverError
from imserver.gateway.process import Secret, derive_key
from imserver.gateway.protocol.forgiving import without_nulls

T = TypeVar("T")
_UnverifiedT = TypeVar("_UnverifiedT", bound="UnverifiedClaims")

MIN_RSA_BITS: Final = 2048
MIN_SECRET_BYTES: Final = 32
"""The least length of a secret. With one token, its holder could guess a
shorter secret (RFC 7518, section 3.2)."""
SKEW_SECONDS: Final = 30
"""How far the clock of a back end may be ahead of the clock of this node. It
matters for the claim ``nbf``."""
MAX_EXPIRES_AT: Final = 2**40
"""The latest representable end of a token, in about 30,000 years. A later end
is cut to it."""


class BadKey(ImserverError):
    """A key of ``jwt`` cannot be used. The text of the exception is the reason,
    for the operator."""


class TokenExpired(BadToken):
    """A valid token has expired, or is not valid yet. Its client has to get a
    new token."""


class Claims(Struct, frozen=True):
    """The verified content of a token, which proves the user ``user`` of
    ``app`` until ``expires_at`` (Unix seconds).

    - ``device``: the name of the device that logged in; ``""`` if unknown.
    - ``payload``: all claims of a session token of a back end; empty for a
      token of this server.
    - ``kind``: the kind of the principal that the token proves.
    """

    user: str
    app: str
    expires_at: int
    device: str = ""
    payload: VerifiedPayload = NO_CLAIMS
    kind: Kind = "session"

    def read(self, decode: Callable[[bytes], T]) -> T:
        """Return all claims of a session token, as ``decode`` decodes them from
        JSON. Null counts as missing. Raises BadToken."""
        return decode_claims(decode, self.payload)


class _Claims(Struct, kw_only=True):
    """Claims that any session token may have. Only tokens of subscriptions have
    ``channel``; they are refused as session tokens."""

    nbf: int | float = 0
    channel: str | UnsetType = UNSET


class _Payload(_Claims):
    """Claims of a session token that a key of the app has signed."""

    sub: str
    app: str | int
    exp: int | float


class UnverifiedClaims(Struct, frozen=True):
    """Base class of claims that are read without a check of the signature.
    Anybody can write such claims, so they must not decide anything. Functions
    that decide take :class:`Claims`, or the claims of a dialect, which are not
    of this type."""

    @staticmethod
    def read(decode: Callable[[bytes], _UnverifiedT], token: str) -> _UnverifiedT:
        """Return the claims of a token, as ``decode`` decodes them from JSON.
        Null counts as missing. Raises BadToken."""
        payload = JsonWebToken.read(token).unverified_payload
        return _decode_forgiving(decode, payload)


class Unverified(Struct, frozen=True):
    """Content of a token whose signature was not checked: issuer, audiences and
    key id. It selects the keys that verify the token, and decides nothing."""

    issuer: str
    audiences: tuple[str, ...]
    kid: str


class _Named(UnverifiedClaims, frozen=True):
    """The app whose keys verify a token."""

    app: str | int


class _BarePayload(_Claims):
    """Claims of a token that may name no app, and that may never expire
    (``exp`` is 0).

    ``expire_at`` is the end of the session, in place of ``exp``.
    """

    sub: str = ""
    app: str | int = ""
    exp: int | float = 0
    expire_at: int | float | None = None


class _Origin(UnverifiedClaims, frozen=True):
    """Issuer and audience of a token."""

    iss: str = ""
    aud: str | tuple[str, ...] = ()


class _IssuedPayload(Struct):
    """Claims of a session token that an issuer has signed."""

    exp: int | float
    nbf: int | float = 0
    channel: Any = None


class _BareIssuedPayload(_IssuedPayload):
    """Claims of a session token of an issuer for a client of Centrifugo.

    ``expire_at`` is the end of the session, in place of ``exp``.
    """

    expire_at: int | float | None = None


_USUAL_ALGORITHMS: Final = {
    "RSA": "RS256",
    "P-256": "ES256",
    "P-384": "ES384",
    "P-521": "ES512",
    "OKP": "EdDSA",
}
"""Curve or type of a key → the algorithm of such a key if it names no
algorithm. The curve comes first."""
_DEEPER: Final = 100
"""Claims are refused if they cannot be decoded inside this many more levels of
lists. The claim ``info`` is decoded again later, where the stack is deeper. A
RecursionError there would affect other clients. The check takes 2 µs."""

_decode = msgspec.json.Decoder(_Payload).decode
_decode_bare = msgspec.json.Decoder(_BarePayload).decode
_decode_issued = msgspec.json.Decoder(_IssuedPayload).decode
_decode_bare_issued = msgspec.json.Decoder(_BareIssuedPayload).decode
_decode_origin = msgspec.json.Decoder(_Origin).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def derived_secret(secret: bytes, app: str) -> str:
    """Derive the secret of an app from the secret of the server.

    It is the secret for HS256 of an app whose ``jwt`` names no key.
    """
    return derive_key(secret, f"session tokens of {app}").hex()


def read_key_file(path: str) -> str:
    """Return the text of a key file, without the blanks around the key.

    Raises :class:`BadKey` with a text that names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadKey(f"{path} is not UTF-8 text") from None
    if not text:
        raise BadKey(f"{path} is empty")
    return text


def text_of_key(row: JwtSettings, secret: Secret, app: str) -> str:
    """Return the text of the key that a row of ``jwt`` gives.

    The key is in the row itself, or in a file that the row names. Otherwise it
    is derived from the secret of the server. Raises :class:`BadKey`.
    """
    if row.key and row.key_file:
        raise BadKey("key and key_file are both given")
    if row.key_file:
        return read_key_file(row.key_file)
    if row.key:
        return row.key
    if row.algorithm != "HS256":
        raise BadKey(f"{row.algorithm} needs a public key: give key or key_file")
    return derived_secret(secret.first, app)


def load_keys(rows: Sequence[JwtSettings], secret: Secret, app: str) -> tuple[Key, ...]:
    """Load the keys of an app, from the entries of its ``jwt`` without an
    issuer.

    A key that is derived from the server's secret comes twice while the server
    accepts a second secret. Reads files, so it may block briefly. Raises
    :class:`BadKey`.
    """
    keys = []
    for row in rows:
        if not row.issuer:
            keys.append(_load_key(row, text_of_key(row, secret, app)))
            # Tokens that were signed before the secret changes stay valid
            # meanwhile.
            is_derived = not (row.key or row.key_file)
            if secret.second and is_derived:
                keys.append(_load_key(row, derived_secret(secret.second, app)))
    return tuple(keys)


def key_of_jwk(row: Mapping[str, Any]) -> Key | None:
    """Load an entry of a JSON Web Key Set. The result is None if the entry
    cannot verify tokens.

    An entry is, for example, ``{"kty": "EC", "crv": "P-256", "kid": "1", "x":
    …, "y": …}``.
    """
    if row.get("use", "sig") != "sig":
        return None  # it is a key for encryption
    algorithm = _algorithm_of_jwk(row)
    if algorithm not in PUBLIC_KEY_ALGORITHMS:
        return None

    verifier = _public_verifier(algorithm, row)
    if verifier is None:
        return None
    # Shorter keys can be broken.
    if row.get("kty") == "RSA" and verifier.key_size < MIN_RSA_BITS:
        return None
    kid = row.get("kid", "")
    if not isinstance(kid, str):
        kid = ""
    return Key(algorithm, kid, verifier)


def _public_verifier(algorithm: str, row: Mapping[str, Any]) -> Any:
    """Load the public key of an entry of a JSON Web Key Set.

    The result is None if the entry is not a valid key, or if the issuer has
    published a private key.
    """
    try:
        verifier = library().get_algorithm_by_name(algorithm).from_jwk(dict(row))
    except Exception:  # PyJWT and its cryptography raise many types for invalid keys
        return None
    if hasattr(verifier, "public_key"):  # it is a private key
        return None
    return verifier


def _algorithm_of_jwk(row: Mapping[str, Any]) -> str:
    """Return the algorithm of an entry of a JSON Web Key Set.

    If the entry names no algorithm, the result is the usual algorithm of its
    curve or type.
    """
    usual_of_type = _USUAL_ALGORITHMS.get(str(row.get("kty")), "")
    usual = _USUAL_ALGORITHMS.get(str(row.get("crv")), usual_of_type)
    algorithm = str(row.get("alg") or usual)
    # The curve has a name of its own since RFC 9864.
    if algorithm in EDWARDS_NAMES:
        return "EdDSA"
    return algorithm


def _load_secret(row: JwtSettings, text: str) -> Key:
    """Return the key of an HMAC secret, which is ``text``.

    Raises BadKey if the text is too short, or is no secret.
    """
    if "-----BEGIN" in text:
        raise BadKey(
            f"{row.algorithm} needs a secret, and this is a PEM key: name its own "
            "algorithm"
        )
    if is_placeholder(text):
        raise BadKey(
            "this secret is a placeholder of the documentation; make one with "
            f"'{MAKE_SECRET}'"
        )
    # A short secret could be guessed from one token.
    encoded = text.encode()
    if len(encoded) < MIN_SECRET_BYTES:
        raise BadKey(
            f"a secret of {row.algorithm} needs at least {MIN_SECRET_BYTES} bytes, "
            f"this one has {len(encoded)}"
        )
    return Key(row.algorithm, row.kid, encoded)


def _load_key(row: JwtSettings, text: str) -> Key:
    """Return the key of an entry of ``jwt``, whose key text is ``text``.

    Raises BadKey.
    """
    if row.algorithm.startswith("HS"):
        return _load_secret(row, text)

    verifier = _load_verifier(row.algorithm, text)
    if row.algorithm.startswith("RS") and verifier.key_size < MIN_RSA_BITS:
        raise BadKey(
            f"a key of {row.algorithm} needs at least {MIN_RSA_BITS} bits, this "
            f"one has {verifier.key_size}"
        )
    return Key(row.algorithm, row.kid, verifier)


def _load_verifier(algorithm: str, text: str) -> Any:
    """Return the public key in a text that verifies tokens. Raises BadKey."""
    try:
        verifier = library().get_algorithm_by_name(algorithm).prepare_key(text)
    except Exception as error:  # the cryptography raises many types for invalid keys
        raise BadKey(f"no key for {algorithm}: {error}") from None
    if hasattr(verifier, "public_key"):
        # The text is a private key. Its public half verifies tokens.
        verifier = verifier.public_key()
    return verifier


def read_token(token: str, keys: Sequence[Key], now: float) -> Claims:
    """Verify ``token`` at the Unix time ``now``, and return its claims.

    A token with a ``kid`` is checked against the keys with that ``kid`` and the
    keys without a ``kid``. A token without a ``kid`` is checked against all
    keys. Raises :class:`BadToken`.
    """
    payload = verified_payload(token, keys)
    try:
        claims = _decode(payload)
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims are invalid: {error}") from None
    # Such a token permits only a subscription. Accepted here, it would be a login.
    if claims.channel is not UNSET:
        raise BadToken("this is the token of a subscription")
    _check_times(claims, now)
    expires_at = int(min(claims.exp, MAX_EXPIRES_AT))
    return Claims(claims.sub, str(claims.app), expires_at, payload=payload)


def read_bare_token(token: str, keys: Sequence[Key], now: float, app: str) -> Claims:
    """Verify a token in which the claims ``app`` and ``exp`` may be missing.

    Without the claim ``app``, the token is for the app ``app``. Without the
    claim ``exp``, the session has no end, and ``expires_at`` of the result is
    0. The claim ``expire_at`` can set an end (:func:`token_end`). The rest is
    as in :func:`read_token`.
    """
    payload = verified_payload(token, keys)
    claims = decode_claims(_decode_bare, payload)
    # Such a token permits only a subscription. Accepted here, it would be a login.
    if claims.channel is not UNSET:
        raise BadToken("this is the token of a subscription")
    expires_at = token_end(claims.exp, claims.expire_at)
    claims.exp = claims.exp or MAX_EXPIRES_AT  # 0: the token does not expire
    _check_times(claims, now, expires_at)
    return Claims(claims.sub, str(claims.app) or app, expires_at, payload=payload)


def token_end(exp: float, expire_at: float | None = None) -> int:
    """Return the end of the session or subscription that a token proves.

    The result is a Unix second; 0 means that it never ends. Tokens of
    Centrifugo may have the claim ``expire_at``. It replaces ``exp`` as the end
    of the session, and then ``exp`` is only the time until which the token can
    be used.
    """
    end = exp
    if expire_at is not None:
        end = max(expire_at, 0)
    return int(min(end, MAX_EXPIRES_AT))


def decode_claims(decode: Callable[[bytes], T], payload: VerifiedPayload) -> T:
    """Decode the claims of a verified token. Null counts as missing.

    Raises BadToken.
    """
    return _decode_forgiving(decode, payload)


def _decode_forgiving(decode: Callable[[bytes], T], payload: bytes) -> T:
    """Decode claims, where null counts as missing. Raises BadToken."""
    try:
        _decode_raw(b"[" * _DEEPER + payload + b"]" * _DEEPER)
        # Nulls are rare, so they are removed only after a failure.
        try:
            return decode(payload)
        except msgspec.ValidationError:
            return decode(without_nulls(payload, 1))
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims have the wrong types: {error}") from None


def header_and_claims(
    token: str, keys: Sequence[Key]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of ``token``, if one of ``keys`` has
    signed it.

    Raises BadToken.
    """
    payload = verified_payload(token, keys)
    header = JsonWebToken.read(token).header
    try:
        return _decode_fields(header), _decode_fields(payload)
    except (ValueError, RecursionError) as error:
        raise BadToken(f"the token's claims are invalid: {error}") from None


def unverified(token: str) -> Unverified:
    """Read issuer, audiences and key id of a token without verifying it.

    The result only helps to choose the keys that verify the token. Raises
    BadToken.
    """
    parts = JsonWebToken.read(token)
    issued = _decode_forgiving(_decode_origin, parts.unverified_payload)
    return Unverified(issued.iss, _audiences(issued), parts.key_id())


def read_issued(
    token: str, keys: Sequence[Key], row: JwtSettings, now: float, app: str, bare: bool
) -> Claims:
    """Verify a token of the issuer in ``row``, for ``app``, at the Unix time
    ``now``.

    Requires the claims ``iss``, ``aud`` and ``exp``. ``bare`` means that it is
    the token of a client of Centrifugo, which may have the claim ``expire_at``
    (:func:`token_end`). Raises BadToken.
    """
    payload, user = issued_payload(token, keys, row)
    issued: _IssuedPayload
    if bare:
        bare_issued = decode_claims(_decode_bare_issued, payload)
        expires_at = token_end(bare_issued.exp, bare_issued.expire_at)
        issued = bare_issued
    else:
        issued = decode_claims(_decode_issued, payload)
        expires_at = token_end(issued.exp)
    # Such a token permits only a subscription. Accepted here, it would be a login.
    if issued.channel is not None:
        raise BadToken("this is the token of a subscription")
    _check_times(issued, now, expires_at)
    return Claims(user, app, expires_at, payload=payload)


def issued_payload(
    token: str, keys: Sequence[Key], row: JwtSettings
) -> tuple[VerifiedPayload, str]:
    """Return the claims of a token of the issuer in ``row`` as JSON, and its
    user.

    Requires the claims ``iss`` and ``aud``. ``row.user_claim`` names the claim
    with the user. Raises BadToken.
    """
    payload = verified_payload(token, keys)
    origin = decode_claims(_decode_origin, payload)
    if origin.iss != row.issuer:
        raise BadToken(f"the token is from another issuer, {origin.iss!r}")
    if row.audience not in _audiences(origin):
        raise BadToken(f"the token is for another audience, {origin.aud!r}")

    return payload, _user_in(payload, row.user_claim)


def _user_in(payload: VerifiedPayload, claim: str) -> str:
    """Return the user that a claim of a token names. Raises BadToken."""
    user = decode_claims(_decode_fields, payload).get(claim)
    # Some issuers number their users.
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if not isinstance(user, str) or not user:
        raise BadToken(f"the token names no user in the claim {claim!r}")
    return user


def _audiences(issued: _Origin) -> tuple[str, ...]:
    """Return the audiences of a token, which may have one as a text."""
    if isinstance(issued.aud, str):
        return (issued.aud,)
    return issued.aud


def _check_times(
    payload: _Payload | _BarePayload | _IssuedPayload, now: float, expires_at: int = 0
) -> None:
    """Raise TokenExpired unless the token is valid at ``now``, and its session
    has not ended.

    ``expires_at`` is the end of the session that the token proves; 0: never.
    """
    # The comparison is written with ``not``, so that NaN counts as expired.
    if not payload.exp > now or 0 < expires_at <= now:
        raise TokenExpired("the token has expired")
    if payload.nbf > now + SKEW_SECONDS:
        raise TokenExpired("the token is not valid yet")


def make_token(
    user: str, app: str, expires_at: int, row: JwtSettings, key: str, channel: str = ""
) -> str:
    """Make a token as a back end does.

    ``row`` names the algorithm. ``key`` is the secret for HS256, otherwise the
    private key as PEM. With ``channel`` the token permits the user to subscribe
    to this channel. Raises :class:`BadKey`.
    """
    header: dict[str, str] = {"alg": row.algorithm}
    if row.kid:
        header["kid"] = row.kid
    header["typ"] = "JWT"

    claims: dict[str, str | int] = {"sub": user, "app": app, "exp": expires_at}
    # A token with this claim is the token of a subscription.
    if channel:
        claims["channel"] = channel

    try:
        return _sign(row.algorithm, key, header, claims)
    # the cryptography raises many types for keys that cannot sign
    except Exception as error:
        raise BadKey(f"no key that signs {row.algorithm}: {error}") from None


def _sign(
    algorithm_name: str,
    key: str,
    header: dict[str, str],
    claims: dict[str, str | int],
) -> str:
    """Make a token that ``key`` signs, for example by HS256."""
    algorithm = library().get_algorithm_by_name(algorithm_name)
    signing_key = algorithm.prepare_key(key)
    return JsonWebToken.make(
        header, claims, lambda content: algorithm.sign(content, signing_key)
    )


def app_named_by(token: str) -> str:
    """Return the app that an unverified ``token`` names; ``""`` if it is not a
    token."""
    try:
        payload = JsonWebToken.read(token).unverified_payload
        return str(msgspec.json.decode(payload, type=_Named).app)
    except (BadToken, ValueError, RecursionError):
        return ""
