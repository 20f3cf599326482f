"""Tokens of accounts: GoChat's are good, ours are GoChat's with one claim more, and nothing else is."""

import hmac
import json
from base64 import urlsafe_b64encode

import jwt
import pytest

from imserver.gateway import errors
from imserver.gateway.auth.tokens import BadToken
from imserver.gateway.http.openapi import problems_of
from imserver.people.accounts import tokens as account_tokens
from tests.rows import DOCUMENTED

KEY = b"a key of some length, longer than its hash"
NOW = 1_800_000_000.0


def encoded(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def theirs(claims: dict[str, object], key: bytes = KEY, algorithm: str = "HS256") -> str:
    """A token as another library makes it."""
    return jwt.encode(claims, key, algorithm)


def test_ours_is_read_by_others_and_by_us() -> None:
    token = account_tokens.make(267, 3, int(NOW) + 60, KEY)
    assert jwt.decode(token, KEY, ["HS256"], options={"verify_exp": False}) == {
        "user_id": 267,
        "version": 3,
        "exp": int(NOW) + 60,
    }
    claims = account_tokens.read(token, (KEY,), NOW)
    assert (claims.user_id, claims.version, claims.exp) == (267, 3, NOW + 60)


def test_one_of_gochat_is_of_the_first_version() -> None:
    claims = account_tokens.read(theirs({"user_id": 266, "exp": NOW + 1}), (KEY,), NOW)
    assert (claims.user_id, claims.version) == (266, 0)


def forged(head: dict[str, object]) -> str:
    """One with a right signature, whose header is another."""
    signed = encoded(head) + "." + encoded({"user_id": 1, "exp": NOW + 60})
    signature = hmac.digest(KEY, signed.encode(), "sha256")
    return f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "é.é.é",
        "." * 10_000,
        theirs({"user_id": 1, "exp": NOW}),
        theirs({"user_id": 1, "exp": NOW - 1}),
        theirs({"user_id": 1}),
        theirs({"exp": NOW + 60}),
        theirs({"user_id": "1", "exp": NOW + 60}),
        theirs({"user_id": 0, "exp": NOW + 60}),
        theirs({"user_id": -1, "exp": NOW + 60}),
        theirs({"user_id": 2**63, "exp": NOW + 60}),
        theirs({"user_id": 1, "exp": NOW + 60, "nbf": NOW + 30}),
        theirs({"user_id": 1, "exp": NOW + 60}, b"another key, which is long enough, too"),
        theirs({"user_id": 1, "exp": NOW + 60}, b"k" * 64, "HS512"),
        forged({"alg": "HS384"}),
        encoded({"alg": "none"}) + "." + encoded({"user_id": 1, "exp": NOW + 60}) + ".",
    ],
)
def test_an_invalid_proof_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        account_tokens.read(token, (KEY,), NOW)


def test_every_bit_of_a_token_counts() -> None:
    token = account_tokens.make(267, 0, int(NOW) + 60, KEY)
    for index in range(0, len(token), 7):
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        with pytest.raises(BadToken):
            account_tokens.read(changed, (KEY,), NOW)


@pytest.mark.parametrize(
    ("method", "path", "reads"),
    [
        ("GET", "/api/v1/friends", True),
        ("GET", "/api/v1/conversations", True),
        ("POST", "/api/v1/messages/stream/open", True),
        ("POST", "/api/v1/accounts/login", False),
        ("GET", "/api/v1/apps", False),
    ],
)
def test_a_request_that_reads_session_tokens_may_find_their_issuer_away(
    method: str, path: str, reads: bool
) -> None:
    [row] = [row for row in DOCUMENTED if (row.method, row.path) == (method, path)]
    assert (errors.Problems.ISSUER_UNAVAILABLE in problems_of(row)) is reads
