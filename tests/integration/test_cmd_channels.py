"""Channels of the cmd dialect: clients that subscribe by themselves."""

import time
from typing import Any

import jwt
import pytest

from tests.conftest import StartServer
from tests.support import Server

from .cmd import CmdClient, cmd_client, fresh

SECRET = "the-secret-of-the-shop-that-nobody-guesses-because-it-is-so-very-long"
CONFIG: dict[str, Any] = {
    "apps": {
        "shop": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "channels": {
                "talk": {"publish": "subscribers", "presence": True, "join_leave": True},
                "past": {"subscribe": "anybody", "publish": "subscribers"},
                "open": {"subscribe": "anybody"},
                "shut": {"subscribe": "nobody"},
            },
        },
        "hall": {"open": True, "channels": {"shut": {"subscribe": "nobody"}, "talk": {"subscribe": "token"}}},
    },
    "api": {"keys": [{"key": "key-of-all-apps-0123456789", "scopes": ["admin"]}]},
}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(config=CONFIG)


def token(user: str, **claims: Any) -> str:
    return jwt.encode({"sub": user, "app": "shop", "exp": int(time.time()) + 60, **claims}, SECRET, "HS256")


def log_in(client: CmdClient, user: str, app: str = "shop") -> CmdClient:
    return client.login(user, app, serviceToken=token(user) if app == "shop" else "")


def ask(client: CmdClient, cmd: str, channel: str, **data: Any) -> tuple[int, Any]:
    """The code and the data of the answer to a command on a channel."""
    code, _, answer = client.ask_cmd(cmd, {"channel": channel, **data})
    return code, answer


def pushed(client: CmdClient, cmd: str) -> Any:
    """The data of the next push, which must be this one."""
    while True:
        found = client.push().json
        if found["cmd"] in ("enter", "exit"):
            continue
        assert found["cmd"] == cmd, found
        return found["response"]["data"]


@pytest.mark.parametrize(
    ("app", "channel", "claims", "code", "refused"),
    [
        ("shop", "open:1", None, 200, None),
        ("shop", "shut:1", None, 1003, "denied"),
        ("shop", "shut:1", {"channel": "shut:1"}, 1003, "denied"),
        ("shop", "other", None, 1003, "denied"),
        ("shop", "other", {"channel": "other"}, 200, None),
        ("shop", "other", {"channel": "another"}, 1003, "denied"),
        ("shop", "other", {"channel": "other", "sub": "eve"}, 1003, "denied"),
        ("shop", "other", {"channel": "other", "app": "hall"}, 1003, "denied"),
        ("shop", "other", {"channel": "other", "exp": 1}, 1003, "expired"),
        ("shop", "$open:1", None, 1003, "denied"),
        ("shop", "$open:1", {"channel": "$open:1"}, 200, None),
        ("shop", "open:1#ann", None, 1003, "denied"),
        ("hall", "$anything", None, 1003, "denied"),
        ("hall", "anything#1,2", None, 1003, "denied"),
        ("shop", "user:ann", {"channel": "user:ann"}, 1003, "denied"),
        ("shop", "group:1", {"channel": "group:1"}, 1003, "denied"),
        ("hall", "anything", None, 200, None),
        ("hall", "shut:1", None, 1003, "denied"),
        ("hall", "talk:1", None, 1003, "denied"),
    ],
)
def test_the_settings_of_a_channel_and_a_token_decide_who_subscribes(
    server: Server, app: str, channel: str, claims: dict[str, Any] | None, code: int, refused: str | None
) -> None:
    user = fresh()
    with cmd_client(server.ws) as client:
        log_in(client, user, app)
        fields = {} if claims is None else {"token": token(user, **claims)}
        found, data = ask(client, "subscribe", channel, **fields)
        assert (found, (data or {}).get("refused")) == (code, refused)


def test_a_login_and_fields_that_can_be_read_are_needed(server: Server) -> None:
    with cmd_client(server.ws) as client:
        for cmd in ("subscribe", "unsubscribe", "channelPresence", "channelHistory", "publish"):
            assert ask(client, cmd, "past:1", text="x")[0] == 1000
        log_in(client, fresh())
        past = {"channel": "past:1"}
        wrong: tuple[tuple[str, dict[str, Any]], ...] = (
            ("subscribe", {}),
            *(("subscribe", {"channel": channel}) for channel in ("", 7, "x" * 256, "a\0b")),
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


def test_subscribers_see_each_other_come_and_go(server: Server) -> None:
    ann, bob, channel = fresh("ann"), fresh("bob"), fresh("talk:")
    with cmd_client(server.ws) as one:
        log_in(one, ann)
        claims = {"channel": channel, "info": {"role": "host"}}
        assert ask(one, "subscribe", channel, token=token(ann, **claims))[0] == 200
        with cmd_client(server.ws) as two:
            log_in(two, bob)
            assert ask(two, "subscribe", channel, token=token(bob, channel=channel))[0] == 200
            joined = pushed(one, "join")
            assert (joined["channel"], joined["info"]["user"]) == (channel, bob)
            _, page = ask(two, "channelPresence", channel)
            assert page["total"] == 2
            assert [(each["user"], each.get("channelInfo")) for each in page["subscribers"]] == [
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
