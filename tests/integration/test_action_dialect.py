"""The action dialect on a real server, through both HTTP servers: one to one, and rooms.

Users 1 and 2 belong to room 1 by default; tests that do not want them take other names.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from tests.support import Server, eventually

from .action import LEFT, action_client, action_session
from .cmd import fresh, get
from .raw import TEXT
from .setting import Launch, stop


@pytest.fixture(scope="module")
def server(http_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the apps that there are by default."""
    one = Server(
        tmp_path_factory.mktemp(f"action-{http_server}"),
        config={"websocket": {"close_seconds": 1}},
        http_server=http_server,
    )
    yield one
    stop(one)


@pytest.fixture
def room() -> str:
    """A room that no other test has."""
    return fresh("room")


# --- one connection -----------------------------------------------------------------------------------------


@pytest.mark.both_servers
def test_the_server_speaks_first(server: Server) -> None:
    queries = ("uid=1&to_uid=2&appname=1", "uid=1&groups_id=1&appname=1", "uid=")
    for address, path in product((server.ws, server.http), (f"/ws?{query}" for query in queries)):
        began = int(time.time())
        with action_client(address, path=path) as one:
            assert one.welcome.opcode == TEXT
            assert one.welcome.json["data"]["content"] == "连接成功"
            assert began <= int(one.welcome.json["data"]["msgTimestamp"]) <= time.time()
            one.nothing()


# --- one to one ---------------------------------------------------------------------------------------------


@pytest.mark.both_servers
def test_only_the_receiver_gets_a_message(server: Server) -> None:
    with (
        action_session(server.ws, "a", to="b") as a,
        action_session(server.ws, "b", to="a") as b,
        action_session(server.ws, "c", to="a") as c,
        action_session(server.ws, "b", app=2, to="a") as elsewhere,
    ):
        began = int(time.time())
        a.say("你好", seq="1605-3")
        found = b.received()
        assert found == {
            "action": "sendmsg",
            "msgId": "1605-3",
            "msgType": "text",
            "content": "你好",
            "from": "a",
            "to": "b",
            "msgTimestamp": found["msgTimestamp"],
        }
        assert list(found) == ["action", "msgId", "msgType", "content", "from", "to", "msgTimestamp"]
        assert began <= int(found["msgTimestamp"]) <= time.time()
        for one in (a, c, elsewhere):
            one.nothing()
        b.say("也好")
        a.receives("b", "也好", "a")


# --- rooms --------------------------------------------------------------------------------------------------


def test_a_room_hears_messages_and_one_exit_notice_and_nobody_else_does(server: Server, room: str) -> None:
    with ExitStack() as stack:
        names = ("a", "b", "c", "群")
        users = {name: stack.enter_context(action_session(server.ws, name, room=room)) for name in names}
        others = [
            stack.enter_context(action_session(server.ws, "elsewhere", room=fresh("room"))),
            stack.enter_context(action_session(server.ws, "a-two", app=2, room=room)),
            stack.enter_context(action_session(server.ws, "single", to="a")),
            stack.enter_context(action_client(server.ws)),
        ]
        users["a"].say("大家好", seq="r-1")
        for name, one in users.items():
            assert one.receives("a", "大家好", name)["msgId"] == "r-1"
        gone = users.pop("群")
        began = int(time.time())
        gone.reset()
        for name, one in users.items():
            found = one.received()
            assert found.pop("msgId").isdigit()
            assert began <= int(found.pop("msgTimestamp")) <= time.time()
            assert found == {"action": "exit", "msgType": "text", "content": LEFT, "from": "群", "to": name}
        gone.leave()
        for one in (*users.values(), *others):
            one.nothing()


def test_stored_members_are_a_setting(launch: Launch, http_server: str) -> None:
    apps = {"action:1": {"room_members": {"club": ["ann", "bob"]}}, "action:7": {}}
    server = launch(http_server, apps=apps)
    with (
        action_session(server.ws, "ann", to="9") as ann,
        action_session(server.ws, "bob", room="club") as bob,
        action_session(server.ws, "1", room="1") as one,
        action_session(server.ws, "guest", app=7, room="club") as guest,
        action_session(server.ws, "cid", room="club") as cid,
    ):
        cid.say("x")
        for name, member in (("ann", ann), ("bob", bob), ("cid", cid)):
            member.receives("cid", "x", name)
        ann.leave()  # a talk of two ends: nobody is told
        bob.leave()
        found = cid.received()
        assert (found["action"], found["from"]) == ("exit", "bob")
        for each in (cid, guest, one):
            each.nothing()
    assert get(server.http, "/user/groupslist", appId=1).json["data"] == [{"ID": "club"}]
    assert get(server.http, "/user/groupslist", appId=7).json["data"] == []
    assert get(server.http, "/user/list", groupsId="club").json["data"] == {
        "userList": [{"ID": "ann"}, {"ID": "bob"}]
    }


# --- HTTP ---------------------------------------------------------------------------------------------------


def test_the_users_of_a_room_are_its_stored_and_its_current_members(server: Server, room: str) -> None:
    assert get(server.http, "/user/list", groupsId=1).body.decode() == (
        '{"code":200,"msg":"Success","data":{"userList":[{"ID":1},{"ID":2}]}}'
    )
    assert get(server.http, "/user/list", groupsId=room).json["data"] == {"userList": []}
    with (
        action_session(server.ws, "7", room="1"),
        action_session(server.ws, "2", room="1"),
        action_session(server.ws, "ann", room=room),
    ):
        found = get(server.ws, "/user/list", groupsId=1).json["data"]["userList"]
        assert found == [{"ID": 1}, {"ID": 2}, {"ID": 7}]
        assert get(server.http, "/user/list", groupsid=room).json["data"] == {"userList": [{"ID": "ann"}]}
        assert get(server.http, "/user/list", groupsId=room, appId=2).json["data"] == {"userList": []}
    eventually(
        lambda: get(server.http, "/user/list", groupsId=room).json["data"] == {"userList": []},
        what="the room is empty",
    )


def test_the_rooms_of_an_app(server: Server) -> None:
    for query, code, data in (
        ({"appId": 1}, 200, [{"ID": 1}]),
        ({"APPID": 1}, 200, [{"ID": 1}]),
        ({}, 1011, None),
        ({"appId": "null"}, 1011, None),
        ({"appId": ""}, 1011, None),
        ({"appId": 3}, 1011, None),
        ({"appId": 101}, 1011, None),
    ):
        answer = get(server.http, "/user/groupslist", **query)
        text = "Success" if code == 200 else "appid不存在"
        assert (answer.status, answer.json) == (200, {"code": code, "msg": text, "data": data})
        assert answer.header("content-type") == "application/json; charset=utf-8"
