"""``/api/v1`` on two nodes that share a Redis: what is asked of one holds for both."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server, eventually, run_cli

from .clusters import Nodes, app_with, name_of, nodes_of
from .cmd import CmdClient, fresh, logged_in, send_message
from .raw import CLOSE, Raw
from .v1 import call, good, refused, sessions_of


def close_code(client: Raw) -> int | None:
    """The code of the close frame that comes next, notices of others left out."""
    while (found := client.frame()).opcode != CLOSE:
        pass
    return found.close_code


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("v1"), 2) as two:
        yield two


@pytest.fixture(params=[0, 1], ids=["front", "wsgi"])
def via(request: pytest.FixtureRequest, nodes: Nodes) -> Server:
    """The node that is asked: each in turn."""
    server: Server = nodes.servers[request.param]
    return server


def test_presence_names_sessions_of_both_and_since_when(nodes: Nodes, via: Server) -> None:
    app, user, before = app_with("multi"), fresh(), time.time()
    first, second = nodes.servers
    with logged_in(first.ws, user, app, device="one"), logged_in(second.ws, user, app, device="two"):
        found = eventually(
            lambda: len(them := sessions_of(via.http, app, user)) == 2 and them, what="both are known"
        )
        where = {"one": name_of(first), "two": name_of(second)}
        assert {each["device"]: each["node"] for each in found} == where
        for session in found:
            assert list(session) == ["connection", "device", "dialect", "since", "node"]
            assert session["dialect"] == "cmd"
            assert before - 60 <= session["since"] <= time.time(), "of a clock that is read now and then"
            shown = good(via.http, "connections/show", app=app, connection=session["connection"])
            assert (shown["user"], shown["device"], shown["node"]) == (
                user,
                session["device"],
                session["node"],
            )
            assert shown["peer"].startswith("127.0.0.1:")
        assert sessions_of(via.http, app, user) == found, "an id holds as long as its connection"
        assert good(via.http, "users", app=app)["users"] == [user]
        assert good(via.http, "counts", app=app)["apps"][0]["sessions"] == 2
        question = {"app": str(app), "users": [user, "nobody", user]}
        assert good(via.http, "presence", question) == {
            "online_count": 2,
            "users": [{"user": name, "online": name == user} for name in question["users"]],
            "missing_nodes": [],
        }
    eventually(lambda: sessions_of(via.http, app, user) == [], what="the end")


def test_an_app_that_is_created_on_one_is_there_on_the_other(nodes: Nodes) -> None:
    first, second = nodes.servers
    good(first.http, "apps/create", {"app": "777", "settings": {"max_channels": 3}})
    assert good(second.http, "apps/show", app="777")["max_channels"] == 3, "who is asked looks"
    good(second.http, "apps/set", {"app": "777", "settings": {"max_channels": 4}})
    eventually(
        lambda: good(first.http, "apps/show", app="777")["max_channels"] == 4,
        what="the change has come round",
    )
    with logged_in(second.ws, "ann", 777):
        assert good(first.http, "presence", app="777", user="ann")["online_count"] == 1
    assert refused(second.http, "apps/create", {"app": "777"})[:2] == (409, "app_exists")


@pytest.mark.full("faults")
def test_a_dead_node_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with nodes_of(
        tmp_path_factory.mktemp("gone"), 2, cluster={"lease_seconds": 60, "rpc_seconds": 1}
    ) as nodes:
        first, second = nodes.servers
        app, user = app_with("multi"), fresh()
        with logged_in(first.ws, user, app):
            name = name_of(second)
            second.process.kill()
            second.process.wait()
            assert good(first.http, "users", app=app) == {
                "count": 1,
                "users": [user],
                "next": "",
                "missing_nodes": [name],
            }
            assert good(first.http, "counts", app=app)["missing_nodes"] == [name]
            assert good(first.http, "channels/list", app=app)["missing_nodes"] == [name]
            answer = good(first.http, "disconnect", {"app": str(app), "users": [user]})
            assert (answer["closed"], answer["missing_nodes"]) == (1, [name])


HERE, THERE = 0, 1


@pytest.fixture
def app() -> str:
    return str(app_with("multi"))


def texts(one: CmdClient, count: int) -> list[str]:
    """The words of the next messages that a client was pushed."""
    return [one.push("msg").json["response"]["data"]["msg"] for _ in range(count)]


def statuses(answer: Any) -> list[str]:
    return [result["status"] for result in answer["results"]]


def test_targets_of_all_kinds_are_reached_on_another_node(nodes: Nodes, app: str) -> None:
    ann, bob = fresh(), fresh()
    with (
        logged_in(nodes.ws[THERE], ann, int(app), device="phone") as phone,
        logged_in(nodes.ws[HERE], ann, int(app), device="pad") as pad,
        logged_in(nodes.ws[THERE], bob, int(app)) as other,
    ):
        eventually(lambda: len(sessions_of(nodes.http[HERE], int(app), ann)) == 2, what="both are known")
        (connection,) = (each["connection"] for each in sessions_of(nodes.http[HERE], int(app), bob))
        good(nodes.http[HERE], "channels/subscribe", {"app": app, "channel": "r", "users": [bob]})
        targets = [
            {"user": ann},
            {"user": ann, "device": "phone"},
            {"user": ann, "device": "pad"},
            {"user": ann, "device": "tv"},
            {"user": "nobody"},
            {"connection": "A" * 38},
            {"channel": "empty"},
            {"connection": connection},
            {"channel": "r"},
            {"all": True},
        ]
        for number, at in enumerate((HERE, THERE)):
            push = {"app": app, "targets": targets, "text": str(number), "except_users": ["nobody"]}
            answer = good(nodes.http[at], "push", push)
            assert [result["target"] for result in answer["results"]] == targets
            assert statuses(answer) == [*("sent", "sent", "sent", *["absent"] * 4), *("sent", "sent", "sent")]
            # To both devices, to this one, and to all; the other by connection, channel, and as one of all.
            assert texts(phone, 3) == texts(pad, 3) == texts(other, 3) == [str(number)] * 3
        spared = {"app": app, "all": True, "text": "-", "except_users": [ann, "nobody"]}
        good(nodes.http[HERE], "push", spared)
        assert texts(other, 1) == ["-"]
        for one in (phone, pad, other):
            one.no_push("msg")


def test_what_is_pending_on_one_node_is_delivered_at_a_login_on_another(nodes: Nodes, app: str) -> None:
    user = fresh()
    for number in range(3):
        push = {"app": app, "user": user, "text": str(number), "ttl_seconds": 60}
        assert statuses(good(nodes.http[HERE], "push", push)) == ["held"]
    with logged_in(nodes.ws[THERE], user, int(app)) as one:
        assert texts(one, 3) == ["0", "1", "2"]
        good(nodes.http[HERE], "push", {"app": app, "user": user, "text": "3"})
        assert texts(one, 1) == ["3"]
        one.no_push("msg")


def test_while_redis_is_away_nobody_who_may_be_on_another_node_is_called_absent(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    app = str(app_with("multi"))
    with nodes_of(tmp_path_factory.mktemp("unknown"), 1) as nodes:
        (one,) = nodes.servers
        push = {"app": app, "user": "bob", "text": "one"}
        assert statuses(good(one.http, "push", push)) == ["absent"]
        nodes.redis.kill()
        eventually(lambda: call(one.http, "push", push).status == 503, what="it knows that Redis is away")
        two = nodes.start()
        with logged_in(two.ws, "bob", int(app)):
            assert call(one.http, "push", push).json["code"] == "not_accepted"
            assert send_message(one.http, int(app), "bob", "one") == {"sendResults": False}
        why = json.loads(one.get("/ready")[1])
        assert (why["status"], why["dependency"]) == ("not ready", "redis")
        assert 0 < why["since"] <= time.time()
        shown = run_cli("status", one.http_url)
        assert "ready   no: Redis is away, or the lease is lost, since " in shown.stdout
