"""Sessions of every dialect, by both HTTP servers: their tokens, new keys, and tokens of accounts."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.conftest import StartServer
from tests.support import Server, eventually

from . import client, sse
from .action import action_client, login_data
from .cmd import fresh, logged_in, login_code
from .setting import Launch

SECRET = "a secret that is long enough to be one"
NEW_SECRET = "the secret that comes after it, as long"
KEY = "the key of the back end"
PRIVATE = ed25519.Ed25519PrivateKey.generate()
PUBLIC = (
    PRIVATE.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


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


@pytest.mark.full
def test_a_session_ends_with_its_token(own_server: Server) -> None:
    def ends(dialect: str) -> None:
        began = time.time()
        with session(own_server, dialect, fresh(), 10) as one:
            if dialect == "sse":
                assert sse.end_of(one)["code"] == 4504
            else:
                while (found := one.frame()).opcode != 8:
                    pass
                assert (found.close_code, found.close_reason) == (4504, "token invalid")
            assert time.time() - began >= 1

    with ThreadPoolExecutor(len(DIALECTS)) as pool:
        list(pool.map(ends, DIALECTS))


def test_keys_are_changed_while_everybody_stays(launch: Launch, http_server: str) -> None:
    one = launch(http_server, **settings())
    user = fresh()
    with logged_in(one.ws, user, 101, serviceToken=token(user)) as session:
        new = {"algorithm": "HS256", "key": NEW_SECRET, "kid": "new"}
        newest = {"algorithm": "EdDSA", "key": PUBLIC, "kid": "newest"}
        one.configure(settings(**{"101": {"jwt": [new, newest]}}))
        os.kill(one.pid, signal.SIGHUP)

        def works(proof: str) -> bool:
            return login_code(one.ws, user, 101, serviceToken=proof) == 200

        eventually(lambda: works(token(user, key=NEW_SECRET, kid="new")))
        assert works(token(user, key=PRIVATE, kid="newest"))
        assert not works(token(user))
        assert not works(token(user, key=NEW_SECRET, kid="newest"))
        assert session.ask_cmd("heartbeat")[0] == 200, "who is in stays"


# --- tokens of accounts -------------------------------------------------------------------------------------
