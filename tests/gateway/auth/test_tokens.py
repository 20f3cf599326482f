"""Session tokens: which are taken, for whom, until when; which keys are."""

import hashlib
import hmac
import json
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from statistics import median
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from imserver.gateway.auth.tokens import (
    MAX_TOKEN_CHARACTERS,
    SKEW_SECONDS,
    BadKey,
    BadToken,
    derived_secret,
    load_keys,
    read_token,
)
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.process import Secret

SECRET = "a secret that is long enough to be one"
OTHER = "another secret, which is as long as that"
NOW = 1_800_000_000
CLAIMS = {"sub": "ann", "app": "101", "exp": NOW + 60}


def pem(key: Any) -> tuple[str, str]:
    """The private and the public key as text."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


RSA = pem(rsa.generate_private_key(65537, 2048))
OTHER_RSA = pem(rsa.generate_private_key(65537, 2048))
ED = pem(ed25519.Ed25519PrivateKey.generate())
OTHER_ED = pem(ed25519.Ed25519PrivateKey.generate())
SIGNERS = {"HS256": SECRET, "RS256": RSA[0], "EdDSA": ED[0]}
VERIFIERS = {"HS256": SECRET, "RS256": RSA[1], "EdDSA": ED[1]}
STRANGERS = {"HS256": OTHER, "RS256": OTHER_RSA[0], "EdDSA": OTHER_ED[0]}


def keys(*rows: JwtSettings) -> Any:
    return load_keys(rows or (JwtSettings("HS256", SECRET),), Secret(b"server"), "101")


def signed(claims: Any = None, key: str = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    claims = CLAIMS if claims is None else claims
    return jwt.encode(claims, key, algorithm, headers=headers or None)


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    """A token made by hand, of whatever its parts are."""
    parts = [json.dumps(part).encode() if not isinstance(part, bytes) else part for part in (header, payload)]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


# --- what is taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_token_proves_user_app_and_end(algorithm: Any) -> None:
    known = keys(JwtSettings(algorithm, VERIFIERS[algorithm]))
    token = signed(key=SIGNERS[algorithm], algorithm=algorithm)
    found = read_token(token, known, NOW)
    assert (found.user, found.app, found.expires_at) == ("ann", "101", NOW + 60)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_token_of_another_key_is_refused(algorithm: Any) -> None:
    known = keys(JwtSettings(algorithm, VERIFIERS[algorithm]))
    with pytest.raises(BadToken):
        read_token(signed(key=STRANGERS[algorithm], algorithm=algorithm), known, NOW)


def test_an_app_may_be_given_as_the_number_that_it_is() -> None:
    assert read_token(signed({**CLAIMS, "app": 101}), keys(), NOW).app == "101"


def test_an_end_may_have_a_fraction() -> None:
    assert read_token(signed({**CLAIMS, "exp": NOW + 0.5}), keys(), NOW).expires_at == NOW


def test_an_end_beyond_all_years_is_taken_as_a_late_one() -> None:
    assert read_token(signed({**CLAIMS, "exp": 1e300}), keys(), NOW).expires_at == 2**40


def test_unknown_claims_are_ignored() -> None:
    claims = {**CLAIMS, "aud": ["x"], "iss": "us", "iat": NOW + 10**6, "jti": {}, "name": "Ann"}
    assert read_token(signed(claims), keys(), NOW).user == "ann"


# --- what is not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({**CLAIMS, "exp": NOW}, "expired"),
        ({**CLAIMS, "exp": NOW - 1}, "expired"),
        ({**CLAIMS, "nbf": NOW + SKEW_SECONDS + 1}, "not valid yet"),
        ({"sub": "ann", "app": "101"}, "exp"),
        ({"sub": "ann", "exp": NOW + 60}, "app"),
        ({"app": "101", "exp": NOW + 60}, "sub"),
        ({**CLAIMS, "channel": "news"}, "subscription"),
        ({**CLAIMS, "channel": ""}, "subscription"),
    ],
)
def test_a_token_without_what_it_needs_or_out_of_its_time_is_refused(claims: Any, why: str) -> None:
    with pytest.raises(BadToken, match=why):
        read_token(signed(claims), keys(), NOW)


@pytest.mark.parametrize(
    "payload",
    [
        {**CLAIMS, "sub": 7},
        {**CLAIMS, "app": ["101"]},
        {**CLAIMS, "exp": True},
        {**CLAIMS, "exp": "1900000000"},
        {**CLAIMS, "exp": None},
        {**CLAIMS, "nbf": {}},
        ["ann"],
        b"not json",
        b"[" * 5000,
        b'{"sub":"ann","app":"101","exp":NaN}',
    ],
)
def test_a_signed_payload_of_another_shape_is_refused(payload: Any) -> None:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    token = jwt.api_jws.PyJWS().encode(body, SECRET, "HS256")
    with pytest.raises(BadToken):
        read_token(token, keys(), NOW)


def test_a_clock_that_is_a_little_ahead_is_forgiven() -> None:
    assert read_token(signed({**CLAIMS, "nbf": NOW + SKEW_SECONDS}), keys(), NOW).user == "ann"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "page.whatever",
        "a.b",
        "a.b.c",
        "....",
        "\x00\x00.\x00.\x00",
        "ü.ü.ü",
        "e30.e30.e30",
        raw({"alg": "none"}, CLAIMS),
        raw({"alg": "None"}, CLAIMS),
        raw({"alg": ["HS256"]}, CLAIMS, b"x" * 32),
        raw({"alg": "HS256", "kid": 7}, CLAIMS, b"x" * 32),
        raw({"alg": "HS256", "crit": ["b64"], "b64": False}, CLAIMS, b"x" * 32),
        raw([], CLAIMS, b"x" * 32),
        raw(b"[" * 5000, CLAIMS, b"x"),
        "x" * (MAX_TOKEN_CHARACTERS + 1),
    ],
)
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        read_token(token, keys(), NOW)


def test_the_key_decides_on_the_algorithm_not_the_token() -> None:
    """The public key is no secret: a token that uses it as one proves nothing."""
    known = keys(JwtSettings("RS256", RSA[1]))
    header = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    payload = urlsafe_b64encode(json.dumps(CLAIMS).encode()).rstrip(b"=")
    for secret in (RSA[1].encode(), RSA[1].strip().encode()):
        mac = hmac.digest(secret, header + b"." + payload, hashlib.sha256)
        token = b".".join((header, payload, urlsafe_b64encode(mac).rstrip(b"="))).decode()
        with pytest.raises(BadToken):
            read_token(token, known, NOW)


# --- several keys -------------------------------------------------------------------------------------------


def test_a_token_is_held_against_the_key_that_it_names() -> None:
    known = keys(JwtSettings("HS256", SECRET, kid="old"), JwtSettings("HS256", OTHER, kid="new"))
    assert read_token(signed(key=SECRET, kid="old"), known, NOW).user == "ann"
    assert read_token(signed(key=OTHER, kid="new"), known, NOW).user == "ann"
    with pytest.raises(BadToken):
        read_token(signed(key=OTHER, kid="old"), known, NOW)
    with pytest.raises(BadToken, match="'older'"):
        read_token(signed(key=SECRET, kid="older"), known, NOW)


def test_a_token_that_names_no_key_is_held_against_all() -> None:
    known = keys(JwtSettings("RS256", RSA[1], kid="a"), JwtSettings("HS256", OTHER, kid="b"))
    assert read_token(signed(key=OTHER), known, NOW).user == "ann"
    assert read_token(signed(key=RSA[0], algorithm="RS256"), known, NOW).user == "ann"
    with pytest.raises(BadToken):
        read_token(signed(key=SECRET), known, NOW)


def test_a_key_without_a_name_is_tried_for_every_name() -> None:
    assert read_token(signed(kid="whatever"), keys(), NOW).user == "ann"


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(f"\n{RSA[1]}\n")
    known = keys(JwtSettings("RS256", key_file=str(file)))
    assert read_token(signed(key=RSA[0], algorithm="RS256"), known, NOW).user == "ann"


def test_a_private_key_verifies_as_its_public_key_does() -> None:
    for algorithm, private in (("RS256", RSA[0]), ("EdDSA", ED[0])):
        known = keys(JwtSettings(algorithm, private))  # type: ignore[arg-type]
        assert read_token(signed(key=private, algorithm=algorithm), known, NOW).user == "ann"


def test_a_token_of_the_second_secret_is_accepted() -> None:
    keys = load_keys((JwtSettings(),), Secret(b"new", b"server"), "101")
    for secret in (b"new", b"server"):
        assert read_token(signed(key=derived_secret(secret, "101")), keys, NOW).user == "ann"
    own = load_keys((JwtSettings("HS256", SECRET),), Secret(b"new", b"server"), "101")
    with pytest.raises(BadToken):
        read_token(signed(key=derived_secret(b"server", "101")), own, NOW)


def test_without_a_key_the_secret_is_the_server_s_own_and_each_app_s() -> None:
    known = keys(JwtSettings())
    assert read_token(signed(key=derived_secret(b"server", "101")), known, NOW).user == "ann"
    for stranger in (derived_secret(b"server", "102"), derived_secret(b"other", "101")):
        with pytest.raises(BadToken):
            read_token(signed(key=stranger), known, NOW)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (JwtSettings("HS256", "short"), "32 bytes"),
        (JwtSettings("HS256", "x" * 31), "31"),
        (JwtSettings("HS256", RSA[1]), "PEM"),
        (JwtSettings("RS256"), "public key"),
        (JwtSettings("RS256", "x" * 40), "RS256"),
        (JwtSettings("RS256", ED[1]), "RS256"),
        (JwtSettings("EdDSA", RSA[1]), "EdDSA"),
        (JwtSettings("RS256", pem(rsa.generate_private_key(65537, 1024))[1]), "2048"),
        (JwtSettings("HS256", SECRET, key_file="x"), "both"),
        (JwtSettings("HS256", key_file="/does/not/exist"), "cannot be read"),
        (JwtSettings("HS256", key_file="/dev/null"), "empty"),
    ],
)
def test_a_key_that_is_none_says_so(row: JwtSettings, why: str) -> None:
    with pytest.raises(BadKey, match=why):
        keys(row)


def test_reading_a_token_takes_less_than_a_millisecond() -> None:
    """Every login pays for it, and nobody else is served meanwhile."""
    for algorithm in SIGNERS:
        known = keys(JwtSettings(algorithm, VERIFIERS[algorithm]))  # type: ignore[arg-type]
        token = signed(key=SIGNERS[algorithm], algorithm=algorithm)
        read_token(token, known, NOW)
        took = []
        for _ in range(50):
            began = time.process_time()
            read_token(token, known, NOW)
            took.append(time.process_time() - began)
        assert median(took) < 0.001


USUAL = """
import sys
from imserver.gateway.auth.tokens import BadToken, load_keys, read_token
from imserver.gateway.config.settings import JwtSettings
token, secret, now = sys.argv[1], sys.argv[2], float(sys.argv[3])
from imserver.gateway.process import Secret

keys = load_keys((JwtSettings("HS256", secret),), Secret(b"server"), "101")
print(read_token(token, keys, now).user, "jwt" in sys.modules)
"""


def test_a_usual_token_needs_no_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", USUAL, signed(), SECRET, str(NOW)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "ann False\n"


def tampered() -> list[str]:
    header, payload, signature = signed().split(".")
    another = signed({**CLAIMS, "sub": "eve"}).split(".")
    return [
        f"{header}.{another[1]}.{signature}",
        f"{header}.{payload}.{another[2]}",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[:-4]}",
        f"{header}.{payload}.{'!' * 43}",
        f"{header}.{payload}.x.{signature}",
        f"{header}..{signature}",
        f"{header}.{payload}.{signature}\u00e9",
        signed(key=OTHER),
    ]


@pytest.mark.parametrize("token", tampered())
def test_a_usual_token_that_was_tampered_with_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        read_token(token, keys(), NOW)
