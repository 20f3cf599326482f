"""JSON Web Tokens (RFC 7519): one reader and one maker for all parts of the
server.

Each key has one algorithm. The key selects the algorithm, never the header of
the token (RFC 8725, section 3.1). Tokens of HMAC with SHA-256 need no library.
PyJWT and its cryptography are loaded when a token or key of another algorithm
is read: a node without such keys saves 6 MB.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NewType

import msgspec
from msgspec import Struct

from imserver.gateway import base64url
from imserver.gateway.errors import ImserverError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from jwt.api_jws import PyJWS

VerifiedPayload = NewType("VerifiedPayload", bytes)
"""The claims of a token as JSON, after a key has verified its signature. Only
this module makes a VerifiedPayload. ``decode_claims`` reads claims from nothing
else."""

NO_CLAIMS: Final = VerifiedPayload(b"")
MAX_TOKEN_CHARACTERS: Final = 8192
"""Longer tokens are refused without being read."""
PUBLIC_KEY_ALGORITHMS: Final = frozenset(
    {
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    }
)
"""Algorithms that verify a token with a public key."""
EDWARDS_NAMES: Final = ("EdDSA", "Ed25519", "Ed448")
"""``EdDSA``, and the names of RFC 9864 for the same algorithm. The key decides
on the curve."""
_USUAL_HEADERS: Final = frozenset(
    {b'{"alg":"HS256","typ":"JWT"}', b'{"typ":"JWT","alg":"HS256"}'}
)
"""Headers of nearly all HS256 tokens. PyJWT and golang-jwt write them, for
example."""
_P256_BYTES: Final = 32
_PARTS: Final = 3
"""The parts of a token: header, payload, signature."""
_SECRETS_CACHED: Final = 1024


class BadToken(ImserverError):
    """A token is invalid. The text of the exception is the reason, for the
    log."""


class Key(Struct, frozen=True):
    """A key that verifies tokens.

    ``verifier`` is the key object of PyJWT, or the bytes of a secret. ``kid``
    is the id of the key; ``""`` means that the key has no id. ``algorithm`` is
    for example ``HS256``.
    """

    algorithm: str
    kid: str
    verifier: Any


class _Head(Struct):
    """The part of a token's header that names its key."""

    kid: str = ""


class JsonWebToken(Struct, frozen=True):
    """The parts of a token: the header, the content and the signature.

    ``header`` and ``unverified_payload`` are JSON, as bytes. Anybody can write
    a token, so ``unverified_payload`` decides nothing before a key has verified
    it. ``signed`` is the part of the token that ``signature`` signs.
    """

    header: bytes
    unverified_payload: bytes
    signature: bytes
    signed: bytes

    @staticmethod
    def read(token: str) -> JsonWebToken:
        """Split a token into its parts, such as
        ``eyJhbGciOi….eyJzdWIiOi….c2lnbmF0…``.

        Raises BadToken unless the token has three parts in base64url, each in
        its only valid form (:mod:`imserver.gateway.base64url`).
        """
        parts = token.split(".")
        if len(parts) != _PARTS or len(token) > MAX_TOKEN_CHARACTERS:
            raise BadToken("this is not a token")

        # The signature is made of the base64url texts of the first two parts,
        # not of their decoded content.
        header, payload, signature = parts
        try:
            return JsonWebToken(
                header=base64url.decode(header),
                unverified_payload=base64url.decode(payload),
                signature=base64url.decode(signature),
                signed=f"{header}.{payload}".encode("ascii"),
            )
        except ValueError as error:
            raise BadToken(f"this is not a token: {error}") from None

    @staticmethod
    def make(
        header: Mapping[str, Any],
        claims: Mapping[str, Any],
        sign: Callable[[bytes], bytes],
    ) -> str:
        """Make a token.

        ``header`` names the algorithm of ``sign``, which gets the bytes to sign
        and returns the signature.
        """
        parts = [
            base64url.encode(msgspec.json.encode(part)) for part in (header, claims)
        ]
        signed = ".".join(parts)
        return f"{signed}.{base64url.encode(sign(signed.encode()))}"

    @staticmethod
    def hs256(secret: bytes) -> Callable[[bytes], bytes]:
        """Return a function that signs by HMAC with SHA-256."""

        def sign(content: bytes) -> bytes:
            return hmac.digest(secret, content, "sha256")

        return sign

    @staticmethod
    def es256(key: EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
        """Return a function that signs by ECDSA with SHA-256.

        ``key`` is a private key of the curve P-256.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            algorithm = ECDSA(SHA256(), deterministic_signing=True)
        except UnsupportedAlgorithm:  # OpenSSL before 3.2
            algorithm = ECDSA(SHA256())

        def sign(content: bytes) -> bytes:
            """Return the signature in the form in which tokens have it."""
            # In a token, the two numbers of the signature follow each other
            # (RFC 7518, section 3.4).
            numbers = decode_dss_signature(key.sign(content, algorithm))
            return b"".join(number.to_bytes(_P256_BYTES, "big") for number in numbers)

        return sign

    def verified_by(self, secrets: Sequence[bytes]) -> VerifiedPayload | None:
        """Return the payload if one of ``secrets`` has signed it by HMAC with
        SHA-256.

        The result is None if no secret has signed the payload. The header is
        not read.
        """
        for secret in secrets:
            expected = hmac.digest(secret, self.signed, "sha256")
            if hmac.compare_digest(expected, self.signature):
                return VerifiedPayload(self.unverified_payload)
        return None

    def key_id(self) -> str:
        """Return the id of the key that has signed the token, according to its
        header.

        The result is ``""`` if the header names no key. Raises BadToken.
        """
        # PyJWT is not used here, because it decodes and checks the whole token
        # to find the key id.
        try:
            return msgspec.json.decode(self.header, type=_Head).kid
        except (ValueError, RecursionError) as error:
            raise BadToken(f"this is not a token: {error}") from None


def verified_payload(token: str, keys: Sequence[Key]) -> VerifiedPayload:
    """Return the claims of ``token`` as JSON, if one of ``keys`` has signed it.

    A token with a ``kid`` is checked against the keys with that ``kid`` and the
    keys without a ``kid``. A token without a ``kid`` is checked against all
    keys. Raises :class:`BadToken`.
    """
    if not token:
        raise BadToken("there is no token")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise BadToken("the token is too long")

    parts = JsonWebToken.read(token)
    if parts.header in _USUAL_HEADERS:
        # This is several times as fast as PyJWT. A usual header has no kid, so
        # all secrets are tried.
        secrets = [key.verifier for key in keys if key.algorithm == "HS256"]
        payload = parts.verified_by(secrets)
        if payload is not None:
            return payload

    return _payload_by_library(token, parts.key_id(), keys)


def _payload_by_library(token: str, kid: str, keys: Sequence[Key]) -> VerifiedPayload:
    """Return the claims of a token, if PyJWT verifies it with one of ``keys``.

    ``kid`` is the key id in its header. Raises BadToken, with the error of the
    last key.
    """
    reason = f"no key is named {kid!r}"
    for key in keys:
        if kid and key.kid and key.kid != kid:
            continue
        # The key decides which algorithm the token may name.
        names: Sequence[str] = [key.algorithm]
        if key.algorithm == "EdDSA":
            names = EDWARDS_NAMES
        try:
            content = library().decode(token, key.verifier, algorithms=names)
            return VerifiedPayload(content)
        # PyJWT and its cryptography raise many types for hostile input
        except Exception as error:
            reason = str(error) or type(error).__name__
    raise BadToken(reason)


@lru_cache(1)
def library() -> PyJWS:
    """Return PyJWT, with the algorithms that keys may have. Loaded on first
    use."""
    from jwt.algorithms import HMACAlgorithm, OKPAlgorithm
    from jwt.api_jws import PyJWS

    signer = HMACAlgorithm(HMACAlgorithm.SHA256)
    # PyJWT checks in prepare_key() that a secret is not a public key. With a
    # cache it does so once per secret, not at each login.
    prepare = lru_cache(_SECRETS_CACHED)(signer.prepare_key)
    signer.prepare_key = prepare  # type: ignore[method-assign]
    jws = PyJWS(algorithms=[*PUBLIC_KEY_ALGORITHMS])
    jws.register_algorithm("HS256", signer)
    for name in EDWARDS_NAMES[1:]:
        jws.register_algorithm(name, OKPAlgorithm())
    jws.register_algorithm("HS384", HMACAlgorithm(HMACAlgorithm.SHA384))
    jws.register_algorithm("HS512", HMACAlgorithm(HMACAlgorithm.SHA512))
    return jws
