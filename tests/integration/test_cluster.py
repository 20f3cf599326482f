"""Nodes that act as one: two and three server processes with a real Redis, seen
from outside."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway.cluster.registry import own_address
from imserver.gateway.errors import CloseCode
from tests.support import Server, eventually, run_cli, with_constants

from .clusters import Launch, Nodes, app_with, leases, name_of, nodes_of
from .cmd import (
    GONE,
    HELLO,
    CmdClient,
    cmd_client,
    form_request,
    fresh,
    get,
    good,
    is_online,
    logged_in,
    pairs,
    post,
    push,
    send_message,
    send_to_all,
    users,
)
from .raw import (
    CLOSE,
    PING,
    PONG,
    Address,
    Ended,
    Raw,
    ask,
    frame,
    request,
    select_readable,
)
from .sse import ask_for, end_of, listening
from .v1 import call, sessions_of
from .v1 import good as v1

HERE = 0
THERE = 1


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes that most tests share. A connection has time to show that it
    lives."""
    patient = with_constants({"imserver.gateway.sessions.sessions.ALIVE_SECONDS": 30})
    with nodes_of(tmp_path_factory.mktemp("cluster"), 0) as three:
        three.start_many(3, command=patient)
        yield three


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """``cluster(number, section={…}, …)``: a cluster for this test alone."""
    with ExitStack() as stack:

        def start(number: int = 2, **config: Any) -> Nodes:
            return stack.enter_context(
                nodes_of(tmp_path_factory.mktemp("cluster"), number, **config)
            )

        yield start


@pytest.fixture
def app() -> int:
    """An app of this test alone, with the policy of the original."""
    return app_with("newest")


@pytest.fixture
def multi() -> int:
    """An app of this test alone, in which all connections of a user get what is
    sent to the user."""
    return app_with("multi")


@pytest.fixture(params=[0, 1], ids=["front", "wsgi"])
def via(request: pytest.FixtureRequest, nodes: Nodes) -> Server:
    """The node that is asked: one of each HTTP server in turn."""
    server: Server = nodes.servers[request.param]
    return server


def texts(one: CmdClient, count: int) -> list[str]:
    """The words of the next messages that a client was pushed."""
    return [one.push("msg").json["response"]["data"]["msg"] for _ in range(count)]


def statuses(answer: Any) -> list[str]:
    return [result["status"] for result in answer["results"]]


@pytest.mark.parametrize("insecure", [False, True])
def test_in_demo_mode_other_machines_reach_no_port_for_nodes(
    cluster: Launch, insecure: bool
) -> None:
    nodes = cluster(2, cluster={"advertise": ""}, server={"insecure": insecure})
    hosts = {name.rpartition(":")[0] for name in leases(nodes.servers[0])}
    assert hosts == {own_address() if insecure else "127.0.0.1"}


# --- who is there -------------------------------------------------------------


@pytest.mark.parametrize(("there", "here"), [(0, 1), (1, 0)])
def test_notices_and_messages_cross_the_nodes(
    nodes: Nodes, app: int, there: int, here: int
) -> None:
    with (
        logged_in(nodes.ws[here], "黄帝", app) as watcher,
        logged_in(nodes.ws[there], "stranger", app_with("newest")) as stranger,
        cmd_client(nodes.ws[here]) as anonymous,
    ):
        with logged_in(nodes.ws[there], "马远", app) as other:
            found = watcher.push()
            assert pairs(found.payload) == push(
                "enter", HELLO, "马远", found.json["seq"]
            )
            assert found.json["seq"].isdigit()
            # The notice of the watcher's own login may still be under way to
            # that node.
            other.no_push("msg", "exit")
            first = fresh("7-")
            second = fresh("7-")
            sent = send_message(nodes.http[here], app, "马远", "你好\n\"'<b>", first)
            assert sent == {"sendResults": True}
            assert pairs(other.push("msg").payload) == push(
                "msg", "你好\n\"'<b>", "马远", first
            )
            for sender, one in (("马远", watcher), ("黄帝", other)):
                assert (
                    send_to_all(nodes.http[2], app, sender, "hello", second + sender)
                    == sent
                )
                assert pairs(one.push("msg").payload) == push(
                    "msg", "hello", sender, second + sender
                )
            other.no_push("msg")
        found = watcher.push()
        assert pairs(found.payload) == push("exit", GONE, "马远", found.json["seq"])
        for one in (watcher, stranger, anonymous):
            one.no_push()


def test_presence_names_sessions_of_both_and_a_connection_is_closed_by_its_id(
    nodes: Nodes, via: Server, multi: int
) -> None:
    user = fresh()
    before = time.time()
    first, second = nodes.servers[:2]
    with (
        logged_in(first.ws, user, multi, device="one") as phone,
        logged_in(second.ws, user, multi, device="two") as desk,
    ):
        found = eventually(
            lambda: len(them := sessions_of(via.http, multi, user)) == 2 and them,
            what="both are known",
        )
        where = {"one": name_of(first), "two": name_of(second)}
        assert {each["device"]: each["node"] for each in found} == where
        for session in found:
            assert list(session) == ["connection", "device", "dialect", "since", "node"]
            assert session["dialect"] == "cmd"
            assert before - 60 <= session["since"] <= time.time(), (
                "of a clock that is read now and then"
            )
            id = session["connection"]
            shown = v1(via.http, "connections/show", app=multi, connection=id)
            wanted = {
                "user": user,
                "device": session["device"],
                "node": session["node"],
            }
            assert wanted.items() <= shown.items()
            assert shown["peer"].startswith("127.0.0.1:")
        assert sessions_of(via.http, multi, user) == found, (
            "an id holds as long as its connection"
        )
        assert v1(via.http, "counts", app=multi)["apps"][0]["sessions"] == 2
        question = {"app": str(multi), "users": [user, "nobody", user]}
        assert v1(via.http, "presence", question) == {
            "online_count": 2,
            "users": [
                {"user": name, "online": name == user} for name in question["users"]
            ],
            "missing_nodes": [],
        }
        (id,) = (each["connection"] for each in found if each["device"] == "one")
        v1(via.http, "push", {"app": str(multi), "connection": id, "text": "hello"})
        v1(via.http, "disconnect", {"app": str(multi), "connections": [id]})
        assert texts(phone, 1) == ["hello"]
        phone.closed(CloseCode.KICKED)
        desk.no_push("msg")
    eventually(lambda: sessions_of(via.http, multi, user) == [], what="the end")
    assert call(via.http, "connections/show", app=multi, connection=id).status == 404


def test_an_app_that_is_created_on_one_is_there_on_the_other(nodes: Nodes) -> None:
    first, second = nodes.http[:2]
    v1(first, "apps/create", {"app": "777", "settings": {"max_channels": 3}})
    assert v1(second, "apps/show", app="777")["max_channels"] == 3, "who is asked looks"
    v1(second, "apps/set", {"app": "777", "settings": {"max_channels": 4}})
    eventually(
        lambda: v1(first, "apps/show", app="777")["max_channels"] == 4,
        what="the change has come round",
    )
    with logged_in(nodes.ws[1], "ann", 777):
        assert v1(first, "presence", app="777", user="ann")["online_count"] == 1


# --- pushes -------------------------------------------------------------------


def test_what_is_pending_on_one_node_is_delivered_at_a_login_on_another(
    nodes: Nodes, multi: int
) -> None:
    body = {"app": str(multi)}
    user = fresh()
    for number in range(3):
        pending = {**body, "user": user, "text": str(number), "ttl_seconds": 60}
        assert statuses(v1(nodes.http[HERE], "push", pending)) == ["held"]
    with logged_in(nodes.ws[THERE], user, multi) as one:
        assert texts(one, 3) == ["0", "1", "2"]
        v1(nodes.http[HERE], "push", {**body, "user": user, "text": "3"})
        assert texts(one, 1) == ["3"]
        one.no_push("msg")


@pytest.mark.full("processes")
def test_pushes_of_every_kind_reach_streams_of_other_nodes_in_their_order(
    nodes: Nodes, multi: int
) -> None:
    with (
        listening(nodes.http[0], multi, "ann", channels="tea") as ann,
        listening(nodes.http[1], multi, "bob", channels="tea") as bob,
    ):
        assert (
            users(nodes.http[0], multi) == users(nodes.http[1], multi) == ["ann", "bob"]
        )
        for number in range(10):
            assert send_message(nodes.http[1], multi, "ann", f"one {number}") == {
                "sendResults": True
            }
            send_to_all(nodes.http[1], multi, "x", f"all {number}")
            body = {"app": str(multi), "channel": "tea", "text": f"channel {number}"}
            assert v1(nodes.http[1], "push", body)["sent"] == 1
        wanted = [
            f"{what} {number}"
            for number in range(10)
            for what in ("one", "all", "channel")
        ]
        assert [ann.message()["text"] for _ in range(30)] == wanted
        assert [bob.message()["text"] for _ in range(20)] == [
            w for w in wanted if "one" not in w
        ]


def test_policies_kicks_and_bans_of_one_node_hold_for_streams_of_the_other(
    nodes: Nodes,
) -> None:
    single, refuse, multi = map(app_with, ("single", "refuse", "multi"))
    with (
        listening(nodes.http[HERE], single, "ann") as older,
        logged_in(nodes.ws[THERE], "bob", single),
    ):
        assert older.event().data == {
            "event": "enter",
            "app": str(single),
            "user": "bob",
        }
        with logged_in(nodes.ws[THERE], "ann", single):
            assert end_of(older)["code"] == CloseCode.REPLACED
    with listening(nodes.http[HERE], refuse, "ann"):
        answer = ask_for(nodes.http[THERE], app=str(refuse), user="ann")
        assert (answer.status, answer.json["code"]) == (409, "already_online")
    with listening(nodes.http[HERE], multi, "bad") as bad:
        good(post(nodes.http[THERE], "/user/kick", appID=multi, userID="bad"))
        assert end_of(bad) == {
            "code": CloseCode.KICKED,
            "reason": "kicked",
            "reconnect": False,
        }
    good(
        post(nodes.http[THERE], "/user/kick", appID=multi, userID="bad", banSeconds=60)
    )
    answer = ask_for(nodes.http[HERE], app=str(multi), user="bad")
    assert (answer.status, answer.json["code"]) == (403, "banned")


def unreached(nodes: Nodes) -> int:
    """Pushes that the nodes accepted and that reached nobody, as they say
    themselves."""
    metrics = [ask(http, request("/metrics")).body.decode() for http in nodes.http]
    found = [
        re.search(
            r"^imserver_pushes_unreached_total\{[^}]*\} (\d+)", text, re.MULTILINE
        )
        for text in metrics
    ]
    return sum(int(one[1]) for one in found if one)


def test_a_user_who_moves_between_nodes_gets_every_message_once(
    nodes: Nodes, app: int
) -> None:
    """Every push that was answered true arrives at one connection, whichever
    was the newest just then.

    Where the machine is too slow for a push to follow in time it is dropped, as
    a later one has overtaken it; that is counted.
    """
    accepted: list[str] = []
    lost_before = unreached(nodes)
    clients = [CmdClient(nodes.ws[0]).upgrade().login("ann", app)]
    with ThreadPoolExecutor(3) as pool:
        moving = threading.Event()

        def push_on(address: Address) -> None:
            with Raw(address) as http:
                while not moving.is_set():
                    msg_id = fresh("m")
                    form = {
                        "appID": app,
                        "userID": "ann",
                        "msgID": msg_id,
                        "message": "x",
                    }
                    if good(http.ask(form_request("/user/sendMessage", form)))[
                        "sendResults"
                    ]:
                        accepted.append(msg_id)

        jobs = [pool.submit(push_on, http) for http in nodes.http]
        for number in range(150):
            clients.append(
                CmdClient(nodes.ws[(number + 1) % 3]).upgrade().login("ann", app)
            )
            time.sleep(0.01 * (number % 4))
        moving.set()
        for job in jobs:
            job.result()
    got: Counter[str] = Counter()

    def all_arrived() -> bool:
        got.clear()
        for client in clients:
            take(client)
            got.update(
                each.json["seq"] for each in client.pushed if each.json["cmd"] == "msg"
            )
        return len(set(accepted) - got.keys()) <= unreached(nodes) - lost_before

    eventually(
        all_arrived, what="every message that was accepted, but what is counted as lost"
    )
    assert set(got.values()) == {1}
    assert len(accepted) > 10
    assert len(got) > len(accepted) / 2
    for client in clients:
        client.leave()


def take(client: CmdClient) -> None:
    """Keep the pushes that have come, and answer pings."""
    while client.waiting or select_readable(client.sock, 0):
        try:
            found = client.frame()
        except Ended:
            return
        if found.opcode == PING:
            client.send(frame(PONG, found.payload))
        elif b'"Ok"' in found.payload:
            client.pushed.append(found)


# --- joining and leaving ------------------------------------------------------


@pytest.mark.full("faults")
def test_a_stopping_node_reports_all_exits_and_leaves_at_once(
    cluster: Launch, app: int
) -> None:
    nodes = cluster(2)
    with ExitStack() as stack:
        watcher = stack.enter_context(logged_in(nodes.ws[0], "watcher", app))
        leaving = [
            stack.enter_context(logged_in(nodes.ws[1], f"u{number}", app))
            for number in range(30)
        ]
        assert len(users(nodes.http[0], app)) == 31
        assert nodes.servers[1].stop() == 0
        for client in leaving:
            while (found := client.frame()).opcode != CLOSE:
                pass
            assert found.close_code == 1001
        exits = {watcher.push("exit").json["response"]["data"]["from"] for _ in leaving}
        assert exits == {f"u{number}" for number in range(30)}
        data = good(get(nodes.http[0], "/user/list", appID=app))
        assert (data["userCount"], data["userList"]) == (1, ["watcher"])
        eventually(
            lambda: (
                "missingNodes" not in good(get(nodes.http[0], "/user/list", appID=app))
            )
        )
        assert len(leases(nodes.servers[0])) == 1
        assert send_message(nodes.http[0], app, "u1", "hello") == {"sendResults": False}
        with nodes.redis.client() as redis:
            assert json.loads(redis.get(f"acc:user:online:{app}_u1"))["isLogoff"]
            assert len(redis.hgetall("acc:hash:servers")) == 1


@pytest.mark.full("faults")
def test_a_dead_node_is_named_by_the_others(cluster: Launch, multi: int) -> None:
    nodes = cluster(2, cluster={"lease_seconds": 60, "rpc_seconds": 1})
    here = nodes.http[HERE]
    name = name_of(nodes.servers[THERE])
    nodes.servers[THERE].process.kill()
    nodes.servers[THERE].process.wait()
    answers = [
        v1(here, route, app=multi) for route in ("users", "counts", "channels/list")
    ]
    answers.append(v1(here, "disconnect", {"app": str(multi), "users": ["ann"]}))
    assert [answer["missing_nodes"] for answer in answers] == [[name]] * 4


@pytest.mark.full("waits")
def test_without_a_redis_at_the_start_a_node_works_alone_and_joins_later(
    cluster: Launch, app: int
) -> None:
    nodes = cluster(1)
    nodes.servers[0].stop()
    nodes.redis.kill()
    alone = nodes.start()
    assert get(alone.http, "/ready").status == 503
    with logged_in(alone.ws, "ann", app) as client:
        assert users(alone.http, app) == ["ann"]
        assert send_message(alone.http, app, "ann", "hello") == {"sendResults": True}
        client.push("msg")
        nodes.redis.start()
        eventually(lambda: get(alone.http, "/ready").status == 200)
        other = nodes.start()
        eventually(lambda: users(other.http, app) == ["ann"])
        eventually(lambda: is_online(other.http, "ann", app))
        assert send_message(other.http, app, "ann", "from the other") == {
            "sendResults": True
        }
        client.push("msg")


def test_while_redis_is_away_nobody_who_may_be_on_another_node_is_called_absent(
    cluster: Launch, multi: int
) -> None:
    nodes = cluster(1)
    (one,) = nodes.servers
    body = {"app": str(multi), "user": "bob", "text": "one"}
    assert statuses(v1(one.http, "push", body)) == ["absent"]
    nodes.redis.kill()
    eventually(
        lambda: call(one.http, "push", body).status == 503,
        what="it knows that Redis is away",
    )
    two = nodes.start()
    with logged_in(two.ws, "bob", multi):
        assert call(one.http, "push", body).json["code"] == "not_accepted"
        assert send_message(one.http, multi, "bob", "one") == {"sendResults": False}
    why = json.loads(one.get("/ready")[1])
    assert (why["status"], why["dependency"]) == ("not ready", "redis")
    assert 0 < why["since"] <= time.time()
    shown = run_cli("status", one.http_url)
    assert "ready   no: Redis is away, or the lease is lost, since " in shown.stdout
