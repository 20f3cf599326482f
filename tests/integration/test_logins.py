"""Sessions of every dialect, by both HTTP servers: their tokens, new keys, and tokens of accounts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest

from tests.conftest import StartServer
from tests.support import Server

from . import client, sse
from .action import action_client, login_data
from .cmd import fresh, logged_in

SECRET = "a secret that is long enough to be one"
KEY = "the key of the back end"


def settings(**more: Any) -> dict[str, Any]:
    """Four apps, one a dialect, that want tokens, and some without."""
    wanting = {"jwt": [{"algorithm": "HS256", "key": SECRET}]}
    return {
        "api": {"keys": [{"key": KEY, "scopes": ["push", "read", "admin"]}]},
        "apps": {"101": wanting, "102": {"open": True}, "action:1": wanting, "system:shop": wanting, **more},
        "websocket": {"close_seconds": 1},
    }


@pytest.fixture(scope="module")
def own_server(http_server: str, start_shared_server: StartServer) -> Server:
    return start_shared_server(config=settings(), http_server=http_server)


def token(user: str, app: str = "101", seconds: float = 60, key: Any = SECRET, **headers: Any) -> str:
    algorithm = "HS256" if isinstance(key, str) else "EdDSA"
    claims = {"sub": user, "app": app, "exp": time.time() + seconds}
    return jwt.encode(claims, key, algorithm, headers=headers or None)


DIALECTS = ("cmd", "action", "client", "sse")


@contextmanager
def session(server: Server, dialect: str, user: str, seconds: float = 60) -> Iterator[Any]:
    """Log in with a token that ends after so many seconds."""
    proof = token(user, {"action": "action:1", "client": "system:shop"}.get(dialect, "101"), seconds)
    if dialect == "cmd":
        with logged_in(server.ws, user, 101, serviceToken=proof) as one:
            yield one
    elif dialect == "action":
        with action_client(server.ws) as other:
            assert other.ask_action("login", {**login_data(user), "token": proof})[0] == 200
            yield other
    elif dialect == "client":
        with client.listening(server.ws, "shop", token=proof) as system:
            yield system
    else:
        with sse.listening(server.http, "101", user, token=proof) as stream:
            yield stream


def test_a_token_is_in_no_log(own_server: Server) -> None:
    for dialect in ("client", "sse"):
        with session(own_server, dialect, fresh()):
            pass
    text = own_server.log_with_requests()
    assert f"GET {sse.PATH} 200" in text
    assert "eyJ" not in text, "no token at all begins in the log"


# --- tokens of accounts -------------------------------------------------------------------------------------
