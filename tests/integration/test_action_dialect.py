"""The action dialect over three nodes: talks of two, rooms, logging in again,
and what stands in Redis."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import eventually

from .action import (
    LEFT,
    ActionClient,
    action_client,
    action_session,
    command,
    login_data,
)
from .clusters import Nodes, nodes_of
from .cmd import fresh, get
from .raw import TEXT

ROOMS = {"club": ["ann", "bob"], "1": ["1", "2"]}
APPS = {"101": {}, "action:1": {"room_members": ROOMS}, "action:2": {}}
KEYS = [
    "accIp",
    "accPort",
    "appId",
    "userId",
    "clientIp",
    "clientPort",
    "loginTime",
    "heartbeatTime",
    "logOutTime",
    "qua",
    "deviceInfo",
    "isLogoff",
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("cluster"), 3, apps=APPS) as three:
        yield three


@pytest.fixture
def room() -> str:
    """A room that no other test has."""
    return fresh("room")


# --- one to one ---------------------------------------------------------------


def test_the_server_speaks_first_and_only_the_receiver_gets_a_message(
    nodes: Nodes,
) -> None:
    began = int(time.time())
    for address in (*nodes.ws[:2], *nodes.http[:2]):
        with action_client(address, path="/ws?uid=1&groups_id=1&appname=1") as one:
            assert one.welcome.opcode == TEXT
            assert one.welcome.json["data"]["content"] == "连接成功"
            one.nothing()
    with (
        action_session(nodes.ws[0], "a", to="b") as a,
        action_session(nodes.ws[1], "b", to="a") as b,
        action_session(nodes.ws[1], "c", to="a") as c,
        action_session(nodes.ws[0], "b", app=2, to="a") as elsewhere,
    ):
        a.say("你好", seq="1605-3")
        found = b.receives("a", "你好", "b")
        assert list(found) == [
            "action",
            "msgId",
            "msgType",
            "content",
            "from",
            "to",
            "msgTimestamp",
        ]
        assert (found["msgId"], found["msgType"]) == ("1605-3", "text")
        assert began <= int(found["msgTimestamp"]) <= time.time()
        for one in (a, c, elsewhere):
            one.nothing()


def online(nodes: Nodes, user: str) -> bool:
    """Whether the API of another node says that a user is online."""
    query = {"app": "action:1", "user": user}
    answer = get(nodes.http[1], "/api/v1/presence", **query).json
    return bool(answer["users"][0]["online"])


def test_a_later_login_is_known_to_the_other_nodes(nodes: Nodes, room: str) -> None:
    a = fresh("a")
    b = fresh("b")
    mover = fresh("m")
    moved = fresh("n")
    with (
        action_session(nodes.ws[0], a, to=mover) as to_mover,
        action_session(nodes.ws[1], b, to=moved) as to_moved,
        action_session(nodes.ws[2], mover, room=room) as one,
        action_session(nodes.ws[0], "w", room=room) as witness,
    ):
        to_mover.say("1")
        one.receives(a, "1", mover)
        one.login(moved, to=b)
        to_moved.say("2")
        one.receives(b, "2", moved)
        one.say("3")
        to_moved.receives(moved, "3", b)
        to_mover.say("lost")
        witness.say("the mover has left the room")
        witness.receives("w", "the mover has left the room", "w")
        one.nothing()
        eventually(lambda: not online(nodes, mover), what="the former is gone")
        assert online(nodes, moved)
        one.leave()
        eventually(lambda: not online(nodes, moved), what="who has moved has gone")
        witness.nothing()


def acked_login(one: ActionClient, user: str, room: str = "0") -> ActionClient:
    """Log in as a client that acknowledges."""
    one.send(command("login", {**login_data(user, room=room), "acks": True}))
    assert one.answer().json["response"]["data"] == {"acks": True}
    return one


def test_what_a_client_did_not_acknowledge_follows_it_to_another_node(
    nodes: Nodes, room: str
) -> None:
    me = fresh("me")
    peer = fresh("peer")
    with (
        action_session(nodes.ws[0], peer, to=me) as sender,
        action_session(nodes.ws[0], "w", room=room) as witness,
    ):
        with ActionClient(nodes.ws[1]) as one:
            acked_login(one.begin(), me, room)
            for number in (1, 2, 3):
                sender.say(str(number))
                assert one.receives(peer, str(number), me)["ackId"] == number
            assert one.ask_action("ack", {"ackId": 1}) == (200, "Success")
        found = witness.received()  # the node of the sender knows that they have gone
        assert (found["action"], found["from"]) == ("exit", me)
        sender.say("4")
        with ActionClient(nodes.ws[2]) as one:
            acked_login(one.begin(), me)
            missed = [one.received() for _ in range(3)]
            assert sorted(each["content"] for each in missed) == ["2", "3", "4"]
            assert [each["ackId"] for each in missed] == [1, 2, 3]
            assert one.ask_action("ack", {"ackId": 3}) == (200, "Success")
            sender.say("5")
            one.receives(peer, "5", me)


# --- rooms --------------------------------------------------------------------


def test_a_room_hears_messages_and_one_exit_notice_and_nobody_else_does(
    nodes: Nodes, room: str
) -> None:
    def members(address: tuple[str, int]) -> list[str]:
        listed = get(address, "/user/list", groupsId=room).json["data"]["userList"]
        return sorted(each["ID"] for each in listed)

    with ExitStack() as stack:
        names = ("a", "b", "c", "群")
        users = {
            name: stack.enter_context(
                action_session(nodes.ws[number % 3], name, room=room)
            )
            for number, name in enumerate(names)
        }
        others = [
            stack.enter_context(
                action_session(nodes.ws[0], "elsewhere", room=fresh("room"))
            ),
            stack.enter_context(action_session(nodes.ws[0], "a-two", app=2, room=room)),
            stack.enter_context(action_session(nodes.ws[0], "single", to="a")),
            stack.enter_context(action_client(nodes.ws[0])),
        ]
        assert members(nodes.http[0]) == members(nodes.ws[1]) == sorted(names)
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
            assert found == {
                "action": "exit",
                "msgType": "text",
                "content": LEFT,
                "from": "群",
                "to": name,
            }
        gone.leave()
        for one in (*users.values(), *others):
            one.nothing()
    eventually(lambda: members(nodes.http[0]) == [], what="the room is empty")


def test_stored_members_are_a_setting(nodes: Nodes) -> None:
    with (
        action_session(nodes.ws[0], "ann", to="9") as ann,
        action_session(nodes.ws[1], "bob", room="club") as bob,
        action_session(nodes.ws[0], "7", room="1") as one,
        action_session(nodes.ws[0], "guest", app=2, room="club") as guest,
        action_session(nodes.ws[0], "cid", room="club") as cid,
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
        found = get(nodes.http[0], "/user/list", groupsId=1).json["data"]["userList"]
        assert found == [{"ID": 1}, {"ID": 2}, {"ID": 7}]
        assert get(nodes.http[0], "/user/list", groupsid="club", appId=2).json["data"][
            "userList"
        ] == [{"ID": "guest"}]
    for query, code, data in (
        ({"appId": 1}, 200, [{"ID": "club"}, {"ID": 1}]),
        ({"APPID": 2}, 200, []),
        ({}, 1011, None),
        ({"appId": "null"}, 1011, None),
        ({"appId": 3}, 1011, None),
        ({"appId": 101}, 1011, None),
    ):
        answer = get(nodes.http[0], "/user/groupslist", **query)
        text = "Success" if code == 200 else "appid不存在"
        assert (answer.status, answer.json) == (
            200,
            {"code": code, "msg": text, "data": data},
        )
        assert answer.header("content-type") == "application/json; charset=utf-8"


# --- Redis --------------------------------------------------------------------


def test_users_and_servers_stand_where_the_original_has_them(nodes: Nodes) -> None:
    me = fresh("me")
    you = fresh("you")
    with nodes.redis.client() as redis:

        def record(user: str) -> dict[str, object]:
            found: dict[str, object] = json.loads(redis.get(f"user:online:2_{user}"))
            return found

        with action_session(nodes.ws[1], me, app=2, to=you) as one:
            host, port = one.sock.getsockname()
            first = record(me)
            assert list(first) == KEYS
            assert (first["appId"], first["userId"], first["isLogoff"]) == (
                2,
                me,
                False,
            )
            assert first["clientIp"] == f"{host}:{port}"
            assert 86400 - 60 <= redis.ttl(f"user:online:2_{me}") <= 86400
            one.login(you, app=2)
            eventually(lambda: record(me)["isLogoff"], what="the first is off")
            assert not record(you)["isLogoff"]
        eventually(lambda: record(you)["isLogoff"], what="the second is off")
        assert redis.keys("acc:user:online:action*") == []
        servers = redis.hgetall("ws:hash:allservers")
        assert servers.keys() == {
            f"127.0.0.1:{server.http.port}" for server in nodes.servers
        }
        assert all(
            time.time() - 180 < int(seen) <= time.time() for seen in servers.values()
        )
        assert 7200 - 180 < redis.ttl("ws:hash:allservers") <= 7200
