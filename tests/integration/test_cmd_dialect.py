"""The cmd dialect on both HTTP servers: what it refuses, notices of every end,
and channels of clients."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest

from tests.support import Server

from .cmd import (
    GONE,
    HELLO,
    CmdClient,
    cmd_client,
    fresh,
    logged_in,
    pairs,
    push,
    users,
)
from .raw import TEXT, close, frame
from .setting import Launch

SECRET = "the-secret-of-the-shop-that-nobody-guesses-because-it-is-so-very-long"
CHANNELS = {
    "talk": {"publish": "subscribers", "presence": True, "join_leave": True},
    "past": {"subscribe": "anybody", "publish": "subscribers"},
    "shut": {"subscribe": "nobody"},
}
APPS: dict[str, Any] = {
    "shop": {"jwt": [{"algorithm": "HS256", "key": SECRET}], "channels": CHANNELS},
    **{name: {"open": True} for name in ("101", "default", "7")},
    "8": {"open": True, "max_user_bytes": 4},
}


@pytest.fixture(scope="module")
def shop(launch: Launch, http_server: str) -> Server:
    return launch(http_server, apps=APPS)


def token(user: str, **claims: Any) -> str:
    return jwt.encode(
        {"sub": user, "app": "shop", "exp": int(time.time()) + 60, **claims},
        SECRET,
        "HS256",
    )


def test_an_app_limits_the_bytes_of_user_ids_before_anything_else_is_checked(
    shop: Server,
) -> None:
    """The limit of the originals counts for 101 and for unknown numbers;
    ``max_user_bytes`` sets another."""
    uuid = str(uuid4())
    for app, user, code in (
        ({"appID": 101}, "u" * 20, 1002),
        ({"appID": 999}, "u" * 20, 1002),
        ({"appID": 999}, "u" * 19, 1003),
        ({"app": "nowhere"}, uuid, 1003),
        ({"appID": 7}, "u" * 256, 1002),
        ({"appID": 7}, "u" * 255, 200),
        ({"appID": 8}, "uuuuu", 1002),
        ({"appID": 8}, "uuuu", 200),
        ({"app": "default"}, uuid, 200),
    ):
        with cmd_client(shop.ws) as one:
            assert one.ask_cmd("login", {"userID": user, **app})[0] == code, (app, user)
            if code == 200:
                assert one.ask_cmd("login", {"userID": "u" * 256, **app})[0] == 1002, (
                    "before 1009"
                )


def test_a_notice_is_sent_at_once_for_every_kind_of_end(
    server: Server, app: int
) -> None:
    ends: tuple[Callable[[CmdClient], None], ...] = (
        lambda one: one.send(close()),
        CmdClient.leave,
        CmdClient.reset,
        lambda one: one.send(frame(3, b"")),
        lambda one: one.send(frame(TEXT, b"", declared=1 << 20)),
    )
    with logged_in(server.ws, "witness", app) as witness:
        for end in ends:
            one = CmdClient(server.ws).upgrade().login("goner", app)
            for cmd, words in (("enter", HELLO), ("exit", GONE)):
                found = witness.push()
                assert found.json["seq"].isdigit()
                assert pairs(found.payload) == push(
                    cmd, words, "goner", found.json["seq"]
                )
                if cmd == "enter":
                    end(one)
            witness.no_push()
            assert users(server.http, app) == ["witness"]
            one.leave()


# --- channels -----------------------------------------------------------------


def log_in(client: CmdClient, user: str) -> CmdClient:
    return client.login(user, "shop", serviceToken=token(user))


def ask(client: CmdClient, cmd: str, channel: str, **data: Any) -> tuple[int, Any]:
    """The code and the data of the answer to a command on a channel."""
    code, _, answer = client.ask_cmd(cmd, {"channel": channel, **data})
    return code, answer


def pushed(client: CmdClient, cmd: str) -> Any:
    """The data of the next push, which must be this one."""
    while (found := client.push().json)["cmd"] in ("enter", "exit"):
        pass
    assert found["cmd"] == cmd, found
    return found["response"]["data"]


def test_a_login_a_token_and_fields_that_can_be_read_are_needed(shop: Server) -> None:
    user = fresh()
    past = {"channel": "past:1"}
    with cmd_client(shop.ws) as client:
        for cmd in (
            "subscribe",
            "unsubscribe",
            "channelPresence",
            "channelHistory",
            "publish",
        ):
            assert ask(client, cmd, "past:1", text="x")[0] == 1000
        log_in(client, user)
        for channel, claims, refused in (
            ("past:1", None, None),
            ("shut:1", {"channel": "shut:1"}, "denied"),
            ("other", None, "denied"),
            ("other", {"channel": "another"}, "denied"),
            ("other", {"channel": "other", "sub": "eve"}, "denied"),
            ("other", {"channel": "other", "app": "hall"}, "denied"),
            ("other", {"channel": "other", "exp": 1}, "expired"),
            ("other", {"channel": "other"}, None),
            ("$past:1", None, "denied"),
            ("past:1#ann", None, "denied"),
            ("group:1", {"channel": "group:1"}, "denied"),
        ):
            fields = (
                {} if claims is None else {"token": token(**{"user": user, **claims})}
            )
            code, data = ask(client, "subscribe", channel, **fields)
            assert (code, (data or {}).get("refused")) == (
                1003 if refused else 200,
                refused,
            ), channel
        wrong: tuple[tuple[str, dict[str, Any]], ...] = (
            ("subscribe", {}),
            *(
                ("subscribe", {"channel": channel})
                for channel in ("", 7, "x" * 256, "a\0b")
            ),
            ("subscribe", {**past, "epoch": 7}),
            ("subscribe", {**past, "epoch": "e", "offset": -1}),
            ("subscribe", {**past, "token": "x" * 9000}),
            ("publish", past),
            ("publish", {**past, "text": "a", "data": 1}),
            ("publish", {**past, "text": 1}),
            ("channelHistory", {**past, "reverse": "yes"}),
            ("channelHistory", {**past, "limit": -1}),
            ("channelPresence", {**past, "after": 7}),
        )
        for cmd, data in wrong:
            assert client.ask_cmd(cmd, data)[0] == 1001, (cmd, data)


def test_subscribers_see_each_other_come_and_go(shop: Server) -> None:
    ann = fresh("ann")
    bob = fresh("bob")
    channel = fresh("talk:")
    with cmd_client(shop.ws) as one, cmd_client(shop.ws) as two:
        log_in(one, ann)
        claims = {"channel": channel, "info": {"role": "host"}}
        assert ask(one, "subscribe", channel, token=token(ann, **claims))[0] == 200
        log_in(two, bob)
        assert (
            ask(two, "subscribe", channel, token=token(bob, channel=channel))[0] == 200
        )
        joined = pushed(one, "join")
        assert (joined["channel"], joined["info"]["user"]) == (channel, bob)
        _, page = ask(two, "channelPresence", channel)
        assert page["total"] == 2
        assert [
            (each["user"], each.get("channelInfo")) for each in page["subscribers"]
        ] == [
            (ann, {"role": "host"}),
            (bob, None),
        ]
        _, page = ask(two, "channelPresence", channel, limit=1)
        _, rest = ask(two, "channelPresence", channel, limit=1, after=page["next"])
        assert [each["user"] for each in rest["subscribers"]] == [bob]
        assert "next" not in rest
        assert ask(two, "unsubscribe", channel) == (200, None)
        assert pushed(one, "leave")["info"]["user"] == bob
        assert ask(two, "channelPresence", channel)[0] == 1003
