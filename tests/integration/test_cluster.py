"""Nodes that act as one: two and three server processes with a real Redis, seen from outside."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway.cluster.registry import own_address
from tests.support import Server, eventually, with_constants

from .clusters import Launch, Nodes, app_with, leases, nodes_of, states
from .cmd import (
    GONE,
    HELLO,
    CmdClient,
    cmd_client,
    command,
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
from .raw import CLOSE, PING, PONG, Address, Ended, Raw, ask, frame, request, select_readable


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes that most tests share. A connection has time to show that it lives."""
    patient = with_constants({"imserver.gateway.sessions.sessions.ALIVE_SECONDS": 30})
    with nodes_of(tmp_path_factory.mktemp("cluster"), 0) as three:
        three.start_many(3, command=patient)
        yield three


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """``cluster(number, section={…}, …)``: a cluster for this test alone."""
    with ExitStack() as stack:

        def start(number: int = 2, **config: Any) -> Nodes:
            return stack.enter_context(nodes_of(tmp_path_factory.mktemp("cluster"), number, **config))

        yield start


@pytest.fixture
def app() -> int:
    """An app of this test alone, with the policy of the original."""
    return app_with("newest")


def everywhere(nodes: Nodes, condition: Callable[[Server], bool], seconds: float = 60.0) -> None:
    """Wait until it is true on each node."""
    for server in nodes.running:
        eventually(lambda server=server: condition(server), seconds)


# --- who is there -------------------------------------------------------------------------------------------


def test_every_node_knows_all(nodes: Nodes) -> None:
    found = [leases(server) for server in nodes.servers]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    epochs = {lease["epoch"] for lease in found[0].values()}
    assert len(epochs) == 3
    assert 0 not in epochs
    for server in nodes.servers:
        data = states(server)
        assert data["missingNodes"] == []
        assert all("managerInfo" in state for state in data["nodes"].values())
        assert get(server.http, "/ready").status == 200


@pytest.mark.parametrize("insecure", [False, True])
def test_in_demo_mode_other_machines_reach_no_port_for_nodes(cluster: Launch, insecure: bool) -> None:
    nodes = cluster(2, cluster={"advertise": ""}, server={"insecure": insecure})
    hosts = {name.rpartition(":")[0] for name in leases(nodes.servers[0])}
    assert hosts == {own_address() if insecure else "127.0.0.1"}


# --- notices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "here"), [(0, 1), (1, 0)])
def test_notices_and_messages_cross_the_nodes(nodes: Nodes, app: int, there: int, here: int) -> None:
    with (
        logged_in(nodes.ws[here], "黄帝", app) as watcher,
        logged_in(nodes.ws[there], "stranger", app_with("newest")) as stranger,
        cmd_client(nodes.ws[here]) as anonymous,
    ):
        with logged_in(nodes.ws[there], "马远", app) as other:
            found = watcher.push()
            assert pairs(found.payload) == push("enter", HELLO, "马远", found.json["seq"])
            assert found.json["seq"].isdigit()
            # The notice of the watcher's own login may still be under way to that node.
            other.no_push("msg", "exit")
            first, second = fresh("7-"), fresh("7-")
            sent = send_message(nodes.http[here], app, "马远", "你好\n\"'<b>", first)
            assert sent == {"sendResults": True}
            assert pairs(other.push("msg").payload) == push("msg", "你好\n\"'<b>", "马远", first)
            for sender, one in (("马远", watcher), ("黄帝", other)):
                assert send_to_all(nodes.http[2], app, sender, "hello", second + sender) == sent
                assert pairs(one.push("msg").payload) == push("msg", "hello", sender, second + sender)
            other.no_push("msg")
        found = watcher.push()
        assert pairs(found.payload) == push("exit", GONE, "马远", found.json["seq"])
        for one in (watcher, stranger, anonymous):
            one.no_push()


def texts(client: CmdClient, count: int) -> list[str]:
    """The next ``count`` messages; there are no more."""
    found = [client.push("msg").json["response"]["data"]["msg"] for _ in range(count)]
    client.no_push("msg")
    return found


# --- message ids --------------------------------------------------------------------------------------------


@pytest.mark.full
def test_of_repeats_at_the_same_moment_on_all_nodes_one_is_delivered(nodes: Nodes, app: int) -> None:
    with logged_in(nodes.ws[0], "ann", app) as client, ThreadPoolExecutor(9) as pool:
        for number in range(10):
            msg_id = fresh("m")
            send = send_message if number % 2 else send_to_all
            user = "ann" if number % 2 else "bob"
            jobs = [
                pool.submit(send, http, app, user, str(number), msg_id)
                for http in nodes.http
                for _ in range(3)
            ]
            answers = Counter(json.dumps(job.result()) for job in jobs)
            assert answers == {'{"sendResults": true}': 1, "{}": 8}
        assert texts(client, 10) == [str(number) for number in range(10)]


# --- policies -----------------------------------------------------------------------------------------------


def unreached(nodes: Nodes) -> int:
    """Pushes that the nodes accepted and that reached nobody, as they say themselves."""
    texts = [ask(http, request("/metrics")).body.decode() for http in nodes.http]
    found = [
        re.search(r"^imserver_pushes_unreached_total\{[^}]*\} (\d+)", text, re.MULTILINE) for text in texts
    ]
    return sum(int(one[1]) for one in found if one)


def test_a_user_who_moves_between_nodes_gets_every_message_once(nodes: Nodes, app: int) -> None:
    """Every push that was answered true arrives at one connection, whichever was the newest just then.

    Where the machine is too slow for a push to follow in time it is dropped, as a later one has overtaken it;
    that is counted.
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
                    form = {"appID": app, "userID": "ann", "msgID": msg_id, "message": "x"}
                    if good(http.ask(form_request("/user/sendMessage", form)))["sendResults"]:
                        accepted.append(msg_id)

        jobs = [pool.submit(push_on, http) for http in nodes.http]
        for number in range(150):
            clients.append(CmdClient(nodes.ws[(number + 1) % 3]).upgrade().login("ann", app))
            time.sleep(0.01 * (number % 4))
        moving.set()
        for job in jobs:
            job.result()
    codes: dict[CmdClient, int] = {}
    got: Counter[str] = Counter()

    def all_arrived() -> bool:
        _take(clients, codes)
        got.clear()
        got.update(json.loads(text)["seq"] for text in _messages(clients))
        return len(set(accepted) - got.keys()) <= unreached(nodes) - lost_before

    eventually(all_arrived, what="every message that was accepted, but what is counted as lost")
    assert set(got.values()) == {1}
    assert len(accepted) > 10
    assert len(got) > len(accepted) / 2
    for client in clients:
        client.leave()


def _close_of(client: Raw) -> Any:
    while True:
        found = client.frame()
        if found.opcode == CLOSE:
            return found


@pytest.mark.parametrize("policy", ["newest", "single", "refuse"])
def test_logins_of_one_user_at_the_same_moment_on_all_nodes(nodes: Nodes, policy: str) -> None:
    """Whoever wins: one session is addressed, the same for every node, and nobody is shown twice."""
    app = app_with(policy)
    clients = [CmdClient(ws).upgrade() for ws in nodes.ws * 3]
    for client in clients:
        client.send(_login("ann", app))
    codes: dict[CmdClient, int] = {}
    eventually(lambda: len(_take(clients, codes)) == 9)
    answers = sorted(codes.values())
    if policy == "refuse":
        assert answers == [200] + [4501] * 8
    else:
        assert set(answers) <= ({200} if policy == "newest" else {200, 4500})
    for http in nodes.http:
        eventually(lambda http=http: users(http, app) == ["ann"])
        send_message(http, app, "ann", "hello")
    eventually(lambda: _take(clients, codes) and len(_messages(clients)) == 3)
    for client in clients:
        client.leave()
    everywhere(nodes, lambda server: users(server.http, app) == [])


def _login(user: str, app: int) -> bytes:
    return command("login", {"userID": user, "appID": app})


def _take(clients: list[CmdClient], codes: dict[CmdClient, int]) -> dict[CmdClient, int]:
    """Read what has come: pings are answered, pushes kept; the code of each login, or that of its close."""
    for client in clients:
        while client.waiting or select_readable(client.sock, 0):
            try:
                found = client.frame()
            except Ended:
                break
            if found.opcode == PING:
                client.send(frame(PONG, found.payload))
            elif found.opcode == CLOSE:
                codes.setdefault(client, int(found.close_code or 0))
                break
            elif b'"Ok"' in found.payload:
                client.pushed.append(found)
            else:
                codes[client] = int(found.json["response"]["code"])
    return codes


def _messages(clients: list[CmdClient]) -> list[str]:
    return [item.text for client in clients for item in client.pushed if item.json["cmd"] == "msg"]


# --- operators ----------------------------------------------------------------------------------------------


def test_a_ban_on_any_node_holds_on_all(nodes: Nodes, app: int) -> None:
    with logged_in(nodes.ws[1], "ann", app) as client:
        data = good(post(nodes.http[0], "/user/kick", appID=app, userID="ann", banSeconds="3600"))
        assert data == {"kickResults": True, "kickCount": 1}
        assert _close_of(client).close_code == 4503
    for ws in nodes.ws:
        with cmd_client(ws) as refused:
            refused.send(_login("ann", app))
            refused.closed(4503)
        with logged_in(ws, "bob", app):
            pass

    def back(ws: Any) -> bool:
        with cmd_client(ws) as again:
            again.send(_login("ann", app))
            return again.frame().opcode != CLOSE

    # A later ban replaces the first.
    good(post(nodes.http[0], "/user/kick", appID=app, userID="ann", banSeconds="1"))
    for ws in nodes.ws:
        eventually(lambda ws=ws: back(ws))


@pytest.mark.full
def test_a_heartbeat_costs_redis_nothing_and_a_push_one_round_trip(cluster: Launch, app: int) -> None:
    nodes = cluster(2)

    def round_trips() -> int:
        with nodes.redis.client() as redis:
            return int(redis.info("stats")["total_reads_processed"])

    def cost(act: Callable[[], Any], times: int = 100) -> float:
        """Round trips an act, less what passes by itself."""
        before, began = round_trips(), time.monotonic()
        for _ in range(times):
            act()
        spent, took = round_trips() - before, time.monotonic() - began
        by_itself = 2 * 2 * (took + 1) + 8
        return (spent - by_itself) / times

    with logged_in(nodes.ws[0], "ann", app) as client, ExitStack() as stack:
        assert cost(lambda: client.ask_cmd("heartbeat")) <= 0
        assert cost(lambda: send_message(nodes.http[1], app, "ann", "hello")) <= 1.1
        assert cost(lambda: stack.enter_context(logged_in(nodes.ws[1], fresh(), app))) <= 1.1


# --- joining and leaving ------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_stopping_node_reports_all_exits_and_leaves_at_once(cluster: Launch, app: int) -> None:
    nodes = cluster(2)
    with ExitStack() as stack:
        watcher = stack.enter_context(logged_in(nodes.ws[0], "watcher", app))
        leaving = [stack.enter_context(logged_in(nodes.ws[1], f"u{number}", app)) for number in range(30)]
        assert len(users(nodes.http[0], app)) == 31
        assert nodes.servers[1].stop() == 0
        assert all(_close_of(client).close_code == 1001 for client in leaving)
        exits = {watcher.push("exit").json["response"]["data"]["from"] for _ in leaving}
        assert exits == {f"u{number}" for number in range(30)}
        data = good(get(nodes.http[0], "/user/list", appID=app))
        assert (data["userCount"], data["userList"]) == (1, ["watcher"])
        eventually(lambda: "missingNodes" not in good(get(nodes.http[0], "/user/list", appID=app)))
        assert len(leases(nodes.servers[0])) == 1
        assert send_message(nodes.http[0], app, "u1", "hello") == {"sendResults": False}
        with nodes.redis.client() as redis:
            assert json.loads(redis.get(f"acc:user:online:{app}_u1"))["isLogoff"]
            assert len(redis.hgetall("acc:hash:servers")) == 1


@pytest.mark.full
def test_without_a_redis_at_the_start_a_node_works_alone_and_joins_later(cluster: Launch, app: int) -> None:
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
        assert send_message(other.http, app, "ann", "from the other") == {"sendResults": True}
        client.push("msg")


# --- keys ---------------------------------------------------------------------------------------------------
