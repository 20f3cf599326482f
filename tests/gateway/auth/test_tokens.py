"""Session tokens: which are taken, for whom, until when; which keys are. Also
of Centrifugo."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from imserver.gateway.auth.channel_tokens import read_channel_token
from imserver.gateway.auth.json_web_tokens import MAX_TOKEN_CHARACTERS, BadToken
from imserver.gateway.auth.tokens import (
    MAX_EXPIRES_AT,
    SKEW_SECONDS,
    BadKey,
    Claims,
    TokenExpired,
    derived_secret,
    load_keys,
    read_bare_token,
    read_token,
)
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.process import Secret
from tests.support import run_python

SECRET = "a secret that is long enough to be one"
OTHER = "another secret, which is as long as that"
NOW = 1_800_000_000
CLAIMS = {"sub": "ann", "app": "101", "exp": NOW + 60}


def pem(key: Any) -> tuple[str, str]:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


def make(algorithm: str) -> tuple[str, str]:
    """What signs by an algorithm, and what verifies."""
    if algorithm.startswith("HS"):
        secret = f"{algorithm}: {SECRET * 2}"
        return secret, secret
    if algorithm.startswith("ES"):
        return pem(ec.generate_private_key(CURVES[algorithm]))
    is_rsa = algorithm.startswith("RS")
    return pem(
        rsa.generate_private_key(65537, 2048)
        if is_rsa
        else ed25519.Ed25519PrivateKey.generate()
    )


CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", *CURVES, "EdDSA")
RSA = make("RS256")
ED = make("EdDSA")


def keys(*rows: JwtSettings) -> Any:
    return load_keys(rows or (JwtSettings("HS256", SECRET),), Secret(b"server"), "101")


def signed(
    claims: Any = None, key: str = SECRET, algorithm: str = "HS256", **headers: Any
) -> str:
    claims = CLAIMS if claims is None else claims
    return jwt.encode(claims, key, algorithm, headers=headers or None)


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    """A token made by hand, of whatever its parts are."""
    parts = [
        json.dumps(part).encode() if not isinstance(part, bytes) else part
        for part in (header, payload)
    ]
    return ".".join(
        urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature)
    )


SHOP = load_keys((JwtSettings("HS256", SECRET),), Secret(b"server"), "shop")


def bare(claims: Any) -> str:
    """A token of claims that PyJWT might not sign."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.api_jws.PyJWS().encode(body, SECRET, "HS256")


def facts_of(claims: Claims) -> tuple[str, str, int]:
    return claims.user, claims.app, claims.expires_at


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_proves_user_app_and_end_by_its_key_alone(algorithm: Any) -> None:
    (signer, verifier), (stranger, _) = make(algorithm), make(algorithm)
    token = signed(key=signer, algorithm=algorithm)
    for key in {signer, verifier}:  # a private key verifies, too
        known = keys(JwtSettings(algorithm, key))
        for found in (
            read_token(token, known, NOW),
            read_bare_token(token, known, NOW, "shop"),
        ):
            assert (found.user, found.app, found.expires_at) == ("ann", "101", NOW + 60)
    wrong = [
        signed(key=OTHER * 2 if signer == stranger else stranger, algorithm=algorithm)
    ]
    if algorithm in ("HS384", "HS512"):
        wrong.append(signed(key=signer, algorithm="HS256"))
    for token in wrong:
        with pytest.raises(BadToken):
            read_token(token, known, NOW)


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"app": 101}, ("101", NOW + 60)),
        ({"exp": NOW + 0.5}, ("101", NOW)),
        ({"exp": 1e300}, ("101", 2**40)),
        # a clock that is a little ahead
        ({"nbf": NOW + SKEW_SECONDS}, ("101", NOW + 60)),
        (
            {"aud": ["x"], "iss": "us", "iat": NOW + 10**6, "jti": {}, "name": "Ann"},
            ("101", NOW + 60),
        ),
    ],
)
def test_claims_of_other_forms_are_taken(
    claims: dict[str, Any], found: tuple[str, int]
) -> None:
    read = read_token(signed({**CLAIMS, **claims}), keys(), NOW)
    assert (read.user, read.app, read.expires_at) == ("ann", *found)


# --- what is not --------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        *(({"exp": end}, "expired") for end in (NOW, -1)),
        ({"nbf": NOW + SKEW_SECONDS + 1}, "not valid yet"),
        *(({name: ...}, name) for name in ("exp", "app", "sub")),
        *(({"channel": name}, "subscription") for name in ("news", "")),
        *(
            ({name: wrong}, name)
            for name, wrong in (("sub", 7), ("app", ["101"]), ("nbf", {}))
        ),
        *(({"exp": wrong}, "exp") for wrong in (True, "1900000000", None)),
        *((text, "invalid") for text in (["ann"], b"not json", b"[" * 5000)),
        (b'{"sub":"ann","app":"101","exp":NaN}', "invalid"),
    ],
)
def test_a_token_without_what_it_needs_or_out_of_its_time_is_refused(
    claims: Any, why: str
) -> None:
    if isinstance(claims, dict):
        claims = {
            name: value
            for name, value in {**CLAIMS, **claims}.items()
            if value is not ...
        }
    with pytest.raises(BadToken, match=why):
        read_token(bare(claims), keys(), NOW)
    if not isinstance(claims, dict) or (
        claims.keys() >= CLAIMS.keys() and claims["exp"] is not None
    ):
        with pytest.raises(BadToken):  # clients of Centrifugo need neither app nor end
            read_bare_token(bare(claims), keys(), NOW, "shop")


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
        # what decodes alike is another token
        f"{header}.{payload}.{signature}=",
        f"{header}.{payload}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}",
        f"{header}=.{payload}.{signature}",
    ]


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
        *(raw({"alg": name}, CLAIMS) for name in ("none", "None")),
        *(
            raw(head, CLAIMS, b"x" * 32)
            for head in ({"alg": ["HS256"]}, {"alg": "HS256", "kid": 7}, [])
        ),
        raw({"alg": "HS256", "crit": ["b64"], "b64": False}, CLAIMS, b"x" * 32),
        raw(b"[" * 5000, CLAIMS, b"x"),
        "x" * (MAX_TOKEN_CHARACTERS + 1),
        *tampered(),
    ],
)
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        read_token(token, keys(), NOW)


def test_the_key_decides_on_the_algorithm_not_the_token() -> None:
    """The public key is no secret: a token that uses it as one proves
    nothing."""
    known = keys(JwtSettings("RS256", RSA[1]))
    header = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    payload = urlsafe_b64encode(json.dumps(CLAIMS).encode()).rstrip(b"=")
    for secret in (RSA[1].encode(), RSA[1].strip().encode()):
        mac = hmac.digest(secret, header + b"." + payload, hashlib.sha256)
        token = b".".join(
            (header, payload, urlsafe_b64encode(mac).rstrip(b"="))
        ).decode()
        with pytest.raises(BadToken):
            read_token(token, known, NOW)


def test_a_token_is_held_against_the_key_that_it_names_or_against_all() -> None:
    known = keys(
        JwtSettings("HS256", SECRET, kid="old"), JwtSettings("HS256", OTHER, kid="new")
    )
    assert read_token(signed(key=SECRET, kid="old"), known, NOW).user == "ann"
    assert read_token(signed(key=OTHER, kid="new"), known, NOW).user == "ann"
    with pytest.raises(BadToken):
        read_token(signed(key=OTHER, kid="old"), known, NOW)
    with pytest.raises(BadToken, match="'older'"):
        read_token(signed(key=SECRET, kid="older"), known, NOW)
    known = keys(
        JwtSettings("RS256", RSA[1], kid="a"), JwtSettings("HS256", OTHER, kid="b")
    )
    assert read_token(signed(key=OTHER), known, NOW).user == "ann"
    assert read_token(signed(key=RSA[0], algorithm="RS256"), known, NOW).user == "ann"
    with pytest.raises(BadToken):
        read_token(signed(key=SECRET), known, NOW)
    assert read_token(signed(kid="whatever"), keys(), NOW).user == "ann", (
        "nor does the key have a name"
    )


# --- keys ---------------------------------------------------------------------


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(f"\n{RSA[1]}\n")
    known = keys(JwtSettings("RS256", key_file=str(file)))
    assert read_token(signed(key=RSA[0], algorithm="RS256"), known, NOW).user == "ann"


def test_without_a_key_the_secret_is_the_server_s_own_and_each_app_s() -> None:
    for secret, strangers in (
        (Secret(b"server"), [b"other", b"new"]),
        (Secret(b"new", b"server"), [b"other"]),
    ):
        known = load_keys((JwtSettings(),), secret, "101")
        for accepted in filter(None, (secret.first, secret.second)):
            assert (
                read_token(signed(key=derived_secret(accepted, "101")), known, NOW).user
                == "ann"
            )
        wrong = [
            derived_secret(b"server", "102"),
            *(derived_secret(each, "101") for each in strangers),
        ]
        for stranger in wrong:
            with pytest.raises(BadToken):
                read_token(signed(key=stranger), known, NOW)
    own = load_keys((JwtSettings("HS256", SECRET),), Secret(b"new", b"server"), "101")
    with pytest.raises(BadToken):
        read_token(signed(key=derived_secret(b"server", "101")), own, NOW)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        *(
            (JwtSettings(name, "x" * 31), "32 bytes, this one has 31")
            for name in ("HS256", "HS384", "HS512")
        ),
        *((JwtSettings(name, RSA[1]), "PEM") for name in ("HS256", "HS384", "HS512")),
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


def test_a_usual_token_needs_no_library() -> None:
    code = (
        "import sys; from imserver.gateway.auth.tokens import load_keys, read_token; "
        "from imserver.gateway.config.settings import JwtSettings; "
        "from imserver.gateway.process import Secret; token, secret, now = sys.argv[1:]; "
        "keys = load_keys((JwtSettings('HS256', secret),), Secret(b'server'), '101'); "
        "print(read_token(token, keys, float(now)).user, 'jwt' in sys.modules)"
    )
    assert run_python(code, signed(), SECRET, str(NOW)) == "ann False\n"


def test_a_token_without_app_and_end_is_for_the_app_that_is_asked() -> None:
    assert facts_of(read_bare_token(bare({"sub": "ann"}), SHOP, NOW, "shop")) == (
        "ann",
        "shop",
        0,
    )
    written = bare({"sub": "ann", "app": "bank", "exp": NOW + 5})
    assert facts_of(read_bare_token(written, SHOP, NOW, "shop")) == (
        "ann",
        "bank",
        NOW + 5,
    )
    claims = {
        "sub": "ann",
        "exp": None,
        "nbf": None,
        "channel": None,
        "app": None,
        "subs": None,
    }
    assert facts_of(read_bare_token(bare(claims), SHOP, NOW, "shop")) == (
        "ann",
        "shop",
        0,
    )
    found_there = read_channel_token(
        bare({**claims, "channel": "news", "client": None}), SHOP, NOW
    )
    assert (found_there.channel, found_there.client, found_there.expires_at) == (
        "news",
        "",
        0,
    )


@pytest.mark.parametrize(
    ("expire_at", "end"),
    [(None, NOW + 5), (0, 0), (-1, 0), (NOW + 900, NOW + 900), (2**70, MAX_EXPIRES_AT)],
)
def test_expire_at_replaces_the_end_of_the_token(
    expire_at: int | None, end: int
) -> None:
    claims = {"sub": "ann", "channel": "news", "exp": NOW + 5, "expire_at": expire_at}
    assert read_channel_token(bare(claims), SHOP, NOW).expires_at == end
    with pytest.raises(TokenExpired):
        read_channel_token(bare(claims), SHOP, NOW + 5)
    del claims["channel"]
    assert read_bare_token(bare(claims), SHOP, NOW, "shop").expires_at == end
    with pytest.raises(BadToken):
        read_bare_token(bare(claims), SHOP, NOW + 5, "shop")


# --- clients of Centrifugo: subscriptions -------------------------------------


def test_a_subscription_token_names_user_and_channel() -> None:
    claims = read_channel_token(
        bare({"sub": "ann", "channel": "news", "exp": NOW + 9, "info": [1]}), SHOP, NOW
    )
    assert (claims.sub, claims.channel, claims.expires_at) == ("ann", "news", NOW + 9)
    assert bytes(claims.info) == b"[1]"  # type: ignore[arg-type]
    assert read_channel_token(bare({"channel": "news"}), SHOP, NOW).expires_at == 0


@pytest.mark.parametrize(
    "times",
    [
        {"exp": NOW - 1},
        {"nbf": NOW + SKEW_SECONDS + 1},
        {"expire_at": NOW},
        {"exp": NOW + 9, "expire_at": 1},
    ],
)
def test_a_token_of_another_time_may_be_replaced(times: dict[str, int]) -> None:
    with pytest.raises(TokenExpired):
        read_channel_token(bare({"sub": "ann", "channel": "news", **times}), SHOP, NOW)
    with pytest.raises(TokenExpired):
        read_bare_token(bare({"sub": "ann", **times}), SHOP, NOW, "shop")


@pytest.mark.parametrize(
    "written",
    [signed({"sub": "ann", "channel": "news"}, SECRET * 2), bare({"channel": 5}), ""],
)
def test_a_wrong_subscription_token_is_refused(written: str) -> None:
    with pytest.raises(BadToken) as bad:
        read_channel_token(written, SHOP, NOW)
    assert not isinstance(bad.value, TokenExpired)
