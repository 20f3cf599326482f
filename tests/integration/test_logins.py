"""Logins of every dialect, by both HTTP servers: session tokens, their end, whose pages, how many."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import User

from . import client, sse
from .action import action_client, login_data
from .cmd import CmdClient, cmd_client, fresh, logged_in
from .raw import text
from .setting import Launch
from .sse import Listener, ask_for
from .v1 import good, sessions_of

SECRET = "a secret that is long enough to be one"
NEW_SECRET = "the secret that comes after it, as long"
KEY = "the key of the back end"
ADMIN = [("Authorization", f"Bearer {KEY}")]
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
        "apps": {
            "101": wanting,
            "102": {"open": True},
            "103": {"open": True, "origins": ["https://shop.example"], "dialects": ["cmd"]},
            "105": {"open": True, "messages_per_second": 20},
            "action:1": wanting,
            "system:shop": wanting,
            **more,
        },
        "websocket": {"close_seconds": 1},
    }


@pytest.fixture(scope="module")
def own_server(http_server: str, start_shared_server: StartServer) -> Server:
    return start_shared_server(config=settings(), http_server=http_server)


def token(user: str, app: str = "101", seconds: float = 60, key: Any = SECRET, **headers: Any) -> str:
    algorithm = "HS256" if isinstance(key, str) else "EdDSA"
    claims = {"sub": user, "app": app, "exp": time.time() + seconds}
    return jwt.encode(claims, key, algorithm, headers=headers or None)


# --- in every dialect ---------------------------------------------------------------------------------------


@contextmanager
def by_cmd(server: Server, user: str, proof: str) -> Iterator[Any]:
    with cmd_client(server.ws) as one:
        code, _, _ = one.ask_cmd("login", {"userID": user, "appID": 101, "serviceToken": proof})
        yield one if code == 200 else code


@contextmanager
def by_action(server: Server, user: str, proof: str) -> Iterator[Any]:
    with action_client(server.ws) as one:
        code, _ = one.ask_action("login", {**login_data(user), "token": proof})
        yield one if code == 200 else code


@contextmanager
def by_client(server: Server, _user: str, proof: str) -> Iterator[Any]:
    with client.Listener(server.ws) as one:
        one.upgrade(client.ws_path("shop", token=proof))
        first = one.message()
        yield one if first.json["code"] == 0 else one.frame().close_code


@contextmanager
def by_stream(server: Server, user: str, proof: str) -> Iterator[Any]:
    try:
        with sse.Listener(server.http) as one:
            yield one.listen(app="101", user=user, token=proof)
    except AssertionError:
        answer = sse.ask_for(server.http, app="101", user=user, token=proof)
        assert answer.json["code"] == "token_invalid"
        yield answer.status


Way = Callable[[Server, str, str], AbstractContextManager[Any]]
DIALECTS: dict[str, tuple[Way, str, int]] = {
    "cmd": (by_cmd, "101", 1003),
    "action": (by_action, "action:1", 1003),
    "client": (by_client, "system:shop", 4504),
    "sse": (by_stream, "101", 401),
}
"""How one logs in, to which app, and what tells of a refusal."""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_token_is_what_a_login_needs(own_server: Server, dialect: str) -> None:
    way, app, refused = DIALECTS[dialect]
    user = fresh()
    with way(own_server, user, token(user, app)) as one:
        assert not isinstance(one, int), one
    for proof in (
        "",
        "nonsense",
        token(user, app, -1),
        token(user, app, key=NEW_SECRET),
        token(user, "102"),
        token("", app),
    ):
        with way(own_server, user, proof) as one:
            assert one == refused, proof


def test_a_token_is_in_no_log(own_server: Server) -> None:
    user = fresh()
    proof = token(user, "system:shop")
    with by_client(own_server, user, proof) as one:
        assert not isinstance(one, int)
    with by_stream(own_server, user, token(user)) as one:
        assert not isinstance(one, int)
    signature, text = proof.rpartition(".")[2], own_server.log_with_requests()
    assert f"GET {sse.PATH} 200" in text
    assert signature not in text
    assert "eyJ" not in text, "no token at all begins in the log"


# --- how long a session lives: seconds each, so they all live at once ---------------------------------------


def ends_with_its_token(own_server: Server, dialect: str) -> None:
    way, app, _ = DIALECTS[dialect]
    user = fresh()
    began = time.time()
    with way(own_server, user, token(user, app, 10)) as one:
        if dialect == "sse":
            assert sse.end_of(one)["code"] == 4504
        else:
            while (found := one.frame()).opcode != 8:
                pass
            assert (found.close_code, found.close_reason) == (4504, "token invalid")
        assert time.time() - began >= 1


def a_new_token_keeps_a_session_alive(own_server: Server) -> None:
    user = fresh()
    with cmd_client(own_server.ws) as one:
        login = {"userID": user, "appID": 101}
        assert one.ask_cmd("login", {**login, "serviceToken": token(user, seconds=10)})[0] == 200
        assert one.ask_cmd("login", {**login, "serviceToken": token(user, seconds=-1)})[0] == 1003
        assert one.ask_cmd("login", {**login, "serviceToken": token(user, seconds=60)})[0] == 200
        other = fresh()
        stranger = {"userID": other, "appID": 101, "serviceToken": token(other)}
        assert one.ask_cmd("login", stranger)[0] == 1009, "it may not become somebody else's"
        with logged_in(own_server.ws, user, 102) as clock:
            deadline = time.monotonic() + 11.2
            while time.monotonic() < deadline:
                clock.ask_cmd("ping")
                time.sleep(0.05)
        assert one.ask_cmd("heartbeat")[0] == 200


def an_action_session_lives_as_long_as_its_last_token(own_server: Server) -> None:
    user = fresh()
    with action_client(own_server.ws) as one:
        data = login_data(user)
        assert one.ask_action("login", {**data, "token": token(user, "action:1", 60)})[0] == 200
        assert one.ask_action("login", {**data, "token": token(user, "action:1", 10)})[0] == 200
        while (found := one.frame()).opcode != 8:
            pass
        assert found.close_code == 4504


LIVES: dict[str, Callable[[Server], None]] = {
    **{
        f"{dialect} ends with its token": partial(ends_with_its_token, dialect=dialect)
        for dialect in DIALECTS
    },
    "a new token keeps it alive": a_new_token_keeps_a_session_alive,
    "the last token of an action session counts": an_action_session_lives_as_long_as_its_last_token,
}


@pytest.fixture(scope="module")
def lives(own_server: Server) -> Iterator[dict[str, Future[None]]]:
    with ThreadPoolExecutor(len(LIVES)) as pool:
        yield {name: pool.submit(live, own_server) for name, live in LIVES.items()}


@pytest.mark.full
@pytest.mark.parametrize("life", LIVES)
def test_a_session_lives_as_long_as_its_token(lives: dict[str, Future[None]], life: str) -> None:
    lives[life].result()


# --- pages and keys -----------------------------------------------------------------------------------------


def test_keys_are_changed_while_everybody_stays(launch: Launch, http_server: str) -> None:
    one = launch(http_server, **settings())
    user = fresh()
    with logged_in(one.ws, user, 101, serviceToken=token(user)) as session:
        changed = settings(
            **{
                "101": {
                    "jwt": [
                        {"algorithm": "HS256", "key": NEW_SECRET, "kid": "new"},
                        {"algorithm": "EdDSA", "key": PUBLIC, "kid": "newest"},
                    ]
                }
            }
        )
        one.configure(changed)
        os.kill(one.pid, signal.SIGHUP)

        def works(proof: str) -> bool:
            with by_cmd(one, user, proof) as found:
                return isinstance(found, CmdClient)

        eventually(lambda: works(token(user, key=NEW_SECRET, kid="new")))
        assert works(token(user, key=PRIVATE, kid="newest"))
        assert not works(token(user))
        assert not works(token(user, key=NEW_SECRET, kid="newest"))
        assert session.ask_cmd("heartbeat")[0] == 200, "who is in stays"


# --- whose pages, how many ----------------------------------------------------------------------------------


def test_a_connection_above_the_rate_of_its_app_is_closed(own_server: Server) -> None:
    with logged_in(own_server.ws, fresh(), 105) as one:
        one.send(*[text('{"seq":"1","cmd":"ping"}')] * 100)
        while (found := one.frame()).opcode != 8:
            pass
        assert found.close_code == 4003


# --- tokens of accounts -------------------------------------------------------------------------------------


def test_in_an_app_of_accounts_each_dialect_takes_their_tokens_and_nothing_else(
    launch: Launch, http_server: str
) -> None:
    required = {"account_tokens": "required"}
    apps = {"101": required, "action:1": required, "gochat": {}, "105": {"same_as": "gochat"}}
    server = launch(http_server, apps=apps)

    def account(app: str, device: str = "") -> tuple[str, str]:
        answer = User.register(server, app, device=device)
        return answer.user, answer.token

    ann, bob = account("101", "phone"), account("101")
    for proof, code in (
        (ann[1], 200),
        (bob[1], 1003),
        ("", 1003),
        ("x.y.z", 1003),
        (account("gochat")[1], 1003),
    ):
        with cmd_client(server.ws) as one:
            data = {"userID": ann[0], "appID": 101, "serviceToken": proof}
            assert one.ask_cmd("login", data)[0] == code
            if code == 200:
                (session,) = sessions_of(server.http, 101, ann[0])
                assert session["device"] == "phone"
    guest, protobuf_client = account("action:1"), account("gochat")
    for proof, code in ((guest[1], 200), ("", 1003), (ann[1], 1003)):
        with action_client(server.ws) as one:
            data = {**login_data(guest[0]), "token": proof}
            assert one.ask_action("login", data)[0] == code
    with cmd_client(server.ws) as one:
        assert one.ask_cmd("login", {"userID": protobuf_client[0], "appID": 105})[0] == 1003
        data = {"userID": protobuf_client[0], "appID": 105, "serviceToken": protobuf_client[1], "cursor": 0}
        assert one.ask_cmd("login", data)[0] == 200
    with Listener(server.http) as stream:
        stream.listen(headers=[("Authorization", f"Bearer {protobuf_client[1]}")], app="gochat")
        assert stream.ready.data["user"] == protobuf_client[0]
    refused_stream = ask_for(server.http, app="gochat", user=protobuf_client[0])
    assert (refused_stream.status, refused_stream.json["code"]) == (401, "token_invalid")
    good(server.http, "accounts/logout", {"app": "101", "user": ann[0]})
    with cmd_client(server.ws) as one:
        assert one.ask_cmd("login", {"userID": ann[0], "appID": 101, "serviceToken": ann[1]})[0] == 1003
