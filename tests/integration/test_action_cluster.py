"""The action dialect across nodes: talks of two, rooms, logging in again, and what stands in Redis."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.support import eventually

from .action import ActionClient, action_session, command, login_data
from .clusters import Nodes, nodes_of
from .cmd import fresh, get

APPS = {"101": {}, "action:1": {}, "action:2": {}}
KEYS = [
    *("accIp", "accPort", "appId", "userId", "clientIp", "clientPort", "loginTime"),
    *("heartbeatTime", "logOutTime", "qua", "deviceInfo", "isLogoff"),
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes that most tests share; the second has the WSGI server."""
    with nodes_of(tmp_path_factory.mktemp("cluster"), 3, apps=APPS) as three:
        yield three


@pytest.fixture
def room() -> str:
    """A room that no other test has."""
    return fresh("room")


def is_exit_of(found: dict[str, str], user: str) -> bool:
    return (found["action"], found["from"]) == ("exit", user)


def test_a_later_login_is_known_to_the_other_nodes(nodes: Nodes, room: str) -> None:
    a, b, mover, moved = fresh("a"), fresh("b"), fresh("m"), fresh("n")
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


def online(nodes: Nodes, user: str) -> bool:
    """Whether the API of another node says that a user is online."""
    query = {"app": "action:1", "user": user}
    answer = get(nodes.http[1], "/api/v1/presence", **query).json
    return bool(answer["users"][0]["online"])


# --- acknowledged delivery ----------------------------------------------------------------------------------


def acked_login(one: ActionClient, user: str, room: str = "0") -> ActionClient:
    """Log in as a client that acknowledges."""
    one.send(command("login", {**login_data(user, room=room), "acks": True}))
    assert one.answer().json["response"]["data"] == {"acks": True}
    return one


def test_what_a_client_did_not_acknowledge_follows_it_to_another_node(nodes: Nodes, room: str) -> None:
    me, peer = fresh("me"), fresh("peer")
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
        assert is_exit_of(witness.received(), me)  # the node of the sender knows that they have gone
        sender.say("4")
        with ActionClient(nodes.ws[2]) as one:
            acked_login(one.begin(), me)
            found = [one.received() for _ in range(3)]
            assert sorted(each["content"] for each in found) == ["2", "3", "4"]
            assert [each["ackId"] for each in found] == [1, 2, 3]
            assert one.ask_action("ack", {"ackId": 3}) == (200, "Success")
            sender.say("5")
            one.receives(peer, "5", me)


# --- Redis --------------------------------------------------------------------------------------------------


def test_the_record_of_a_user_is_where_the_original_has_it(nodes: Nodes) -> None:
    me, you = fresh("me"), fresh("you")
    with nodes.redis.client() as redis:

        def record(user: str) -> dict[str, object]:
            found: dict[str, object] = json.loads(redis.get(f"user:online:2_{user}"))
            return found

        with action_session(nodes.ws[1], me, app=2, to=you) as one:
            host, port = one.sock.getsockname()
            first = record(me)
            assert list(first) == KEYS
            assert (first["appId"], first["userId"], first["isLogoff"]) == (2, me, False)
            assert first["clientIp"] == f"{host}:{port}"
            assert 86400 - 60 <= redis.ttl(f"user:online:2_{me}") <= 86400
            one.login(you, app=2)
            eventually(lambda: record(me)["isLogoff"], what="the first is off")
            assert not record(you)["isLogoff"]
        eventually(lambda: record(you)["isLogoff"], what="the second is off")
        assert redis.keys("acc:user:online:action*") == []


def test_the_servers_are_where_the_original_has_them(nodes: Nodes) -> None:
    with nodes.redis.client() as redis:
        servers = redis.hgetall("ws:hash:allservers")
        assert servers.keys() == {f"127.0.0.1:{server.http.port}" for server in nodes.servers}
        assert all(time.time() - 180 < int(seen) <= time.time() for seen in servers.values())
        assert 7200 - 180 < redis.ttl("ws:hash:allservers") <= 7200
