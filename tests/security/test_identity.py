"""Nobody acts as somebody else: attacks on logins, in every dialect, and on tokens."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from tests.integration import gochat
from tests.integration.cmd import get
from tests.integration.raw import ask, bearer, request
from tests.integration.v1 import call
from tests.security.attack_setting import (
    ADMIN,
    AUTHORISED,
    EDDSA,
    GOOD,
    OTHER_SECRET,
    OTHER_TOKENS,
    PRIVATE,
    PUBLIC_PEM,
    REFUSED,
    SECRET,
    TOKENS,
    action_login,
    client_enters,
    login,
    protobuf_enters,
    session_token,
    stream_opens,
)
from tests.support import Server


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def forged(head: dict[str, Any], claims: dict[str, Any], key: bytes | None) -> str:
    """A token made by hand, since libraries refuse to make it; no ``key``: no signature."""
    signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(claims).encode())}"
    signature = b"" if key is None else hmac.digest(key, signed.encode(), hashlib.sha256)
    return f"{signed}.{encoded(signature)}"


def claims(app: str = TOKENS, user: str = "7") -> dict[str, Any]:
    return {"sub": user, "app": app, "exp": int(time.time()) + 600}


def changed(token: str) -> str:
    """The token with another user in it and the signature that it had."""
    head, _, signature = token.split(".")
    return f"{head}.{encoded(json.dumps(claims()).encode())}.{signature}"


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "none": lambda: "",
    "nonsense": lambda: "nonsense",
    "api key": lambda: ADMIN,
    "no signature": lambda: forged({"alg": "none"}, claims(), None),
    "NONE": lambda: forged({"alg": "NoNe", "typ": "JWT"}, claims(), None),
    "empty signature": lambda: forged({"alg": "HS256", "typ": "JWT"}, claims(), None),
    "signed by nothing": lambda: forged({"alg": "HS256", "typ": "JWT"}, claims(), b""),
    "signed by the secret of another app": lambda: session_token(TOKENS, "7", OTHER_SECRET),
    "of another app": lambda: session_token(OTHER_TOKENS, "7"),
    "of another user": lambda: session_token(TOKENS, "8"),
    "over": lambda: session_token(TOKENS, "7", seconds=-1),
    "not begun": lambda: session_token(TOKENS, "7", nbf=time.time() + 300),
    "without an end": lambda: session_token(TOKENS, "7", exp=None),
    "without a user": lambda: session_token(TOKENS, "7", sub=None),
    "without an app": lambda: jwt.encode({**claims(), "app": None}, SECRET, "HS256"),
    "changed": lambda: changed(session_token(TOKENS, "8")),
    "another algorithm": lambda: jwt.encode(claims(), "x" * 64, "HS512"),
    "a path as its key": lambda: forged({"alg": "HS256", "kid": "../../dev/null"}, claims(), b""),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_no_bad_token_logs_in(guarded: Server, kind: str) -> None:
    token = BAD_TOKENS[kind]()
    assert login(guarded.ws, TOKENS, "7", token) in REFUSED
    assert not stream_opens(guarded.http, TOKENS, "7", token)
    listed = request(f"/user/list?appID={TOKENS}")
    if kind not in ("api key", "of another user"):
        assert get(guarded.http, "/user/list", appID=TOKENS).json["code"] == 1003
        assert ask(guarded.http, bearer(listed, token or "x")).json["code"] == 1003


def test_a_good_token_logs_in(guarded: Server) -> None:
    """What the tests above would otherwise not show."""
    token = session_token(TOKENS, "7")
    assert login(guarded.ws, TOKENS, "7", token) == GOOD
    assert stream_opens(guarded.http, TOKENS, "7", token)
    assert action_login(guarded.ws, "7", session_token("action:1", "7")) == GOOD
    assert client_enters(guarded.ws, "shop", token=session_token("system:shop", "7"))


def test_a_public_key_is_no_secret(guarded: Server) -> None:
    assert login(guarded.ws, EDDSA, "7", jwt.encode(claims(EDDSA), PRIVATE, "EdDSA")) == GOOD
    confused = forged({"alg": "HS256", "typ": "JWT"}, claims(EDDSA), PUBLIC_PEM.encode())
    assert login(guarded.ws, EDDSA, "7", confused) in REFUSED
    assert login(guarded.ws, EDDSA, "7", session_token(EDDSA, "7", SECRET)) in REFUSED


def test_protobuf_takes_tokens_of_accounts_only(guarded: Server) -> None:
    user, token = gochat.register(guarded.http)
    assert protobuf_enters(guarded.ws, token)
    head, body, signature = token.split(".")
    stolen = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = encoded(json.dumps({**stolen, "user_id": int(user) + 1}).encode())
    for bad in (
        "nonsense",
        f"{head}.{other}.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        session_token(TOKENS, user),
        session_token("gochat", user),
        forged({"alg": "none"}, stolen, None),
        forged({"alg": "HS256", "typ": "JWT"}, stolen, b"gooooIM"),
    ):
        assert not protobuf_enters(guarded.ws, bad), bad


def test_a_back_end_that_does_not_answer_refuses_logins(guarded: Server) -> None:
    assert login(guarded.ws, AUTHORISED, "7") in REFUSED
    assert not stream_opens(guarded.http, AUTHORISED, "7")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("messages/send", {"to": "8", "text": "I am 7"}),
        ("messages/sync?after=0", None),
        ("messages/hide", {"ids": [1]}),
        ("accounts/show", None),
        ("accounts/password", {"old_password": "x", "password": "a new password"}),
        ("friends", None),
        ("groups/create", {"name": "tea"}),
        ("accounts/devices", None),
        ("uploads?app=301&user=7", None),
    ],
)
def test_a_user_s_routes_take_no_bad_token(guarded: Server, route: str, body: Any) -> None:
    for token in (
        "",
        "nonsense",
        changed(session_token(TOKENS, "8")),
        forged({"alg": "none"}, claims(), None),
    ):
        answer = call(guarded.http, route, body, key=token)
        assert answer.status in (401, 403), answer
