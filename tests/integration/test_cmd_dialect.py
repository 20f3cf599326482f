"""The cmd dialect on both HTTP servers: what needs several connections."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.support import Server

from .cmd import GONE, HELLO, CmdClient, cmd_client, is_online, logged_in, pairs, push, users
from .raw import TEXT, Frame, close, frame
from .setting import Launch


def pushed(found: Frame, cmd: str, msg: str, sender: str) -> str:
    """Check a pushed frame whole; gives its seq."""
    seq = found.json["seq"]
    assert found.opcode == TEXT
    assert pairs(found.payload) == push(cmd, msg, sender, seq)
    return str(seq)


def entered(found: Frame, user: str) -> None:
    """The frame says that the user came."""
    assert pushed(found, "enter", HELLO, user).isdigit()


def left(found: Frame, user: str) -> None:
    """The frame says that the user went."""
    assert pushed(found, "exit", GONE, user).isdigit()


def test_a_refused_login_may_be_tried_again_and_a_granted_one_stays(server: Server, app: int) -> None:
    with cmd_client(server.ws) as one:
        assert one.ask_cmd("login", {"userID": "", "appID": app})[0] == 1002
        assert one.ask_cmd("login", {"userID": "u", "appID": 999})[0] == 1003
        assert one.ask_cmd("login", {"userID": 5})[0] == 1001
        assert one.ask_cmd("heartbeat", {})[:2] == (1000, "未登录")
        assert users(server.http, app) == []
        one.login("u", app)
        assert one.ask_cmd("login", {"userID": "other", "appID": 101})[:2] == (1009, "操作失败")
        assert one.ask_cmd("heartbeat", {})[:2] == (200, "Success")
        assert users(server.http, app) == ["u"]


def test_an_app_limits_the_bytes_of_user_ids_before_anything_else_is_checked(
    launch: Launch, http_server: str
) -> None:
    """The limit of the originals counts for 101 and for unknown numbers; ``max_user_bytes`` sets another."""
    limited = launch(http_server, apps={"101": {}, "default": {}, "7": {}, "8": {"max_user_bytes": 4}})
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
        with cmd_client(limited.ws) as one:
            assert one.ask_cmd("login", {"userID": user, **app})[0] == code, (app, user)
            if code == 200:
                assert one.ask_cmd("login", {"userID": "u" * 256, **app})[0] == 1002, "before 1009"


def test_an_exit_notice_is_sent_at_once_for_every_kind_of_end(server: Server, app: int) -> None:
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
            entered(witness.push(), "goner")
            end(one)
            left(witness.push(), "goner")
            witness.no_push()
            assert users(server.http, app) == ["witness"]
            one.leave()


@pytest.mark.full
def test_a_session_without_heartbeats_is_closed_and_its_user_goes_offline(
    launch: Launch, http_server: str
) -> None:
    soon = {"heartbeat_seconds": 8, "sweep_seconds": 0.1, "close_seconds": 1}
    hasty = launch(http_server, websocket=soon)
    with logged_in(hasty.ws, "silent", 101) as one:
        one.closed(None, 4001)
        one.ended()
        assert not is_online(hasty.http, "silent", 101)
