"""Nodes that act as one: two and three server processes with a real Redis, seen from outside."""

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
from tests.support import eventually, with_constants

from .clusters import Launch, Nodes, app_with, leases, nodes_of
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


# --- who is there -------------------------------------------------------------------------------------------


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


# --- message ids --------------------------------------------------------------------------------------------


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


# --- joining and leaving ------------------------------------------------------------------------------------


@pytest.mark.full("faults")
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


@pytest.mark.full("waits")
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
