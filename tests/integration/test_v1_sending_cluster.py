"""What back ends send by ``/api/v1`` to one node reaches whoever is connected to another."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import eventually, run_cli

from .clusters import Nodes, app_with, nodes_of
from .cmd import CmdClient, fresh, logged_in, send_message
from .raw import open_socket, text
from .v1 import call, good, sessions_of

HERE, THERE = 0, 1


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, one on each HTTP server."""
    with nodes_of(tmp_path_factory.mktemp("sending"), 2) as two:
        yield two


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


def test_a_request_that_comes_again_through_another_node_is_repeated(nodes: Nodes, app: str) -> None:
    user = fresh()
    push = {"app": app, "users": [user, "nobody"], "text": "once", "id": fresh("request")}
    with logged_in(nodes.ws[HERE], user, int(app)) as one:
        assert statuses(good(nodes.http[HERE], "push", push)) == ["sent", "absent"]
        again = call(nodes.http[THERE], "push", push)
        assert again.json["sent"] == 0
        assert statuses(again.json) == ["repeated", "repeated"]
        assert again.header("Idempotent-Replayed") == "true"
        assert statuses(good(nodes.http[HERE], "push", push)) == ["sent", "absent"]
        assert texts(one, 1) == ["once"]
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


def test_a_publisher_connection_reaches_both_nodes_in_order(nodes: Nodes, app: str) -> None:
    here, there, count = fresh(), fresh(), 300
    with (
        logged_in(nodes.ws[HERE], here, int(app)) as one,
        logged_in(nodes.ws[THERE], there, int(app)) as two,
        open_socket(nodes.http[HERE], "/api/v1/publisher") as line,
    ):
        commands = []
        for number in range(count):
            push = {"app": app, "user": (here, there, "nobody")[number % 3], "text": str(number)}
            if number % 2:
                push["id"] = f"{app}-{number}"
            commands.append(text(json.dumps({"seq": number, "publish": push})))
        line.send(*commands)
        answers = [line.message().json for _ in range(count)]
        assert [(answer["seq"], answer["sent"]) for answer in answers] == [
            (number, int(number % 3 < 2)) for number in range(count)
        ]
        assert texts(one, 100) == [str(number) for number in range(0, count, 3)]
        assert texts(two, 100) == [str(number) for number in range(1, count, 3)]
        line.send(text(json.dumps({"seq": "again", "publish": {**push, "user": there}})))
        assert line.message().json["seq"] == "again"
        with open_socket(nodes.http[THERE], "/api/v1/publisher") as other:
            other.send(commands[3], commands[1])
            repeated = [other.message().json for _ in range(2)]
        assert [each.get("results", [{}])[0].get("status") for each in repeated] == ["repeated", "repeated"]


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
