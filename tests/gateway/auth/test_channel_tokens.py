"""Tokens of clients of Centrifugo: of connections, which need neither app nor end, and of subscriptions."""

from typing import Any

import jwt
import pytest
from msgspec import json

from imserver.gateway.auth.channel_tokens import read_channel_token
from imserver.gateway.auth.tokens import (
    MAX_EXPIRES_AT,
    SKEW_SECONDS,
    BadToken,
    Claims,
    TokenExpired,
    load_keys,
    read_bare_token,
)
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.process import Secret
from tests.gateway.auth.test_tokens import SECRET

NOW = 1_800_000_000
KEYS = load_keys((JwtSettings("HS256", SECRET),), Secret(b"server"), "shop")


def facts_of(claims: Claims) -> tuple[str, str, int]:
    return claims.user, claims.app, claims.expires_at


def signed(key: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode(claims, key, algorithm)


# --- connections --------------------------------------------------------------------------------------------


def test_a_token_without_app_and_end_is_for_the_app_that_is_asked() -> None:
    assert facts_of(read_bare_token(signed(sub="ann"), KEYS, NOW, "shop")) == ("ann", "shop", 0)
    written = signed(sub="ann", app="bank", exp=NOW + 5)
    assert facts_of(read_bare_token(written, KEYS, NOW, "shop")) == ("ann", "bank", NOW + 5)


@pytest.mark.parametrize(
    ("expire_at", "end"), [(None, NOW + 5), (0, 0), (-1, 0), (NOW + 900, NOW + 900), (2**70, MAX_EXPIRES_AT)]
)
def test_expire_at_replaces_the_end_of_the_token(expire_at: int | None, end: int) -> None:
    claims = {"sub": "ann", "channel": "news", "exp": NOW + 5, "expire_at": expire_at}
    assert read_channel_token(raw(claims), KEYS, NOW).expires_at == end
    with pytest.raises(TokenExpired):
        read_channel_token(raw(claims), KEYS, NOW + 5)
    del claims["channel"]
    assert read_bare_token(raw(claims), KEYS, NOW, "shop").expires_at == end
    with pytest.raises(BadToken):
        read_bare_token(raw(claims), KEYS, NOW + 5, "shop")


def test_a_claim_that_is_null_is_missing() -> None:
    claims = {"sub": "ann", "exp": None, "nbf": None, "channel": None, "app": None, "subs": None}
    assert facts_of(read_bare_token(raw(claims), KEYS, NOW, "shop")) == ("ann", "shop", 0)
    found_there = read_channel_token(raw({**claims, "channel": "news", "client": None}), KEYS, NOW)
    assert (found_there.channel, found_there.client, found_there.expires_at) == ("news", "", 0)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW},
        {"exp": -1},
        {"nbf": NOW + SKEW_SECONDS + 1},
        {"channel": "news"},
        {"exp": "soon"},
        {"sub": 5},
        {"app": []},
    ],
)
def test_a_token_of_another_time_or_kind_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        read_bare_token(raw({"sub": "ann", **claims}), KEYS, NOW, "shop")


def raw(claims: dict[str, Any]) -> str:
    """A token whose claims PyJWT would not sign."""
    from jwt.api_jws import PyJWS

    return PyJWS().encode(json.encode(claims), SECRET, "HS256")


# --- subscriptions ------------------------------------------------------------------------------------------


def test_a_subscription_token_names_user_and_channel() -> None:
    claims = read_channel_token(signed(sub="ann", channel="news", exp=NOW + 9, info=[1]), KEYS, NOW)
    assert (claims.sub, claims.channel, claims.expires_at) == ("ann", "news", NOW + 9)
    assert bytes(claims.info) == b"[1]"  # type: ignore[arg-type]
    assert read_channel_token(signed(channel="news"), KEYS, NOW).expires_at == 0


@pytest.mark.parametrize(
    "times",
    [{"exp": NOW - 1}, {"nbf": NOW + SKEW_SECONDS + 1}, {"expire_at": NOW}, {"exp": NOW + 9, "expire_at": 1}],
)
def test_a_token_of_another_time_may_be_replaced(times: dict[str, int]) -> None:
    with pytest.raises(TokenExpired):
        read_channel_token(signed(sub="ann", channel="news", **times), KEYS, NOW)
    with pytest.raises(TokenExpired):
        read_bare_token(signed(sub="ann", **times), KEYS, NOW, "shop")


@pytest.mark.parametrize("written", [signed(SECRET * 2, sub="ann", channel="news"), signed(channel=5), ""])
def test_a_wrong_subscription_token_is_refused(written: str) -> None:
    with pytest.raises(BadToken) as bad:
        read_channel_token(written, KEYS, NOW)
    assert not isinstance(bad.value, TokenExpired)
