"""Nodes that act as one: two and three server processes with a real Redis, seen from outside."""

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from imserver.gateway.cluster.registry import own_address
from tests.support import Server, eventually, run_cli, with_constants

from .clusters import Launch, Nodes, app_with, leases, name_of, nodes_of, states
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

PAIRS_OF_NODES = [(0, 1), (1, 0), (0, 2)]
"""Where somebody is, and where it is asked."""


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


@pytest.mark.parametrize(("there", "here"), PAIRS_OF_NODES)
def test_enter_and_exit_notices_reach_the_other_nodes(nodes: Nodes, app: int, there: int, here: int) -> None:
    with logged_in(nodes.ws[here], "黄帝", app) as watcher:
        with logged_in(nodes.ws[there], "马远", app) as other:
            found = watcher.push()
            assert pairs(found.payload) == push("enter", HELLO, "马远", found.json["seq"])
            assert found.json["seq"].isdigit()
            # The notice of the watcher's own login may still be under way to that node.
            other.no_push("msg", "exit")
        found = watcher.push()
        assert pairs(found.payload) == push("exit", GONE, "马远", found.json["seq"])
        watcher.no_push()


def test_a_connection_that_vanishes_is_an_exit_on_all_nodes(nodes: Nodes, app: int) -> None:
    with logged_in(nodes.ws[0], "ann", app) as watcher:
        other = CmdClient(nodes.ws[1]).upgrade().login("bob", app)
        assert watcher.push().json["cmd"] == "enter"
        other.reset()
        assert watcher.push().json["cmd"] == "exit"
    everywhere(nodes, lambda server: users(server.http, app) == [])


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there", "via"), PAIRS_OF_NODES)
def test_a_message_reaches_its_user_on_any_node(nodes: Nodes, app: int, there: int, via: int) -> None:
    with logged_in(nodes.ws[there], "马远", app) as client, logged_in(nodes.ws[there], "黄帝", app) as other:
        msg_id = fresh("7-")
        assert send_message(nodes.http[via], app, "马远", "你好\n\"'<b>", msg_id) == {"sendResults": True}
        assert pairs(client.push("msg").payload) == push("msg", "你好\n\"'<b>", "马远", msg_id)
        other.no_push("msg")


@pytest.mark.parametrize("via", [0, 1, 2])
def test_a_message_to_all_spares_its_sender_wherever_they_are(nodes: Nodes, app: int, via: int) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(logged_in(ws, f"u{n}", app)) for n, ws in enumerate(nodes.ws)]
        for sender in ("u0", "u2", "nobody"):
            msg_id = fresh("m")
            assert send_to_all(nodes.http[via], app, sender, "hello", msg_id) == {"sendResults": True}
            for number, client in enumerate(clients):
                if sender == f"u{number}":
                    continue
                assert pairs(client.push("msg").payload) == push("msg", "hello", sender, msg_id)
        for client in clients:
            client.no_push("msg")


def texts(client: CmdClient, count: int) -> list[str]:
    """The next ``count`` messages; there are no more."""
    found = [client.push("msg").json["response"]["data"]["msg"] for _ in range(count)]
    client.no_push("msg")
    return found


# --- message ids --------------------------------------------------------------------------------------------


def test_a_message_id_is_accepted_once_in_the_whole_cluster(nodes: Nodes, app: int) -> None:
    with logged_in(nodes.ws[0], "ann", app) as client:
        first, second = fresh("m"), fresh("m")
        assert send_message(nodes.http[0], app, "ann", "1", first) == {"sendResults": True}
        assert send_to_all(nodes.http[1], app, "bob", "2", second) == {"sendResults": True}
        for http in nodes.http:
            for msg_id in (first, second):
                assert send_message(http, app, "ann", "again", msg_id) == {}
                assert send_to_all(http, app, "bob", "again", msg_id) == {}
        for http in nodes.http:
            assert send_message(http, app, "ann", "without an id", "") in ({"sendResults": True},)
        assert texts(client, 5) == ["1", "2"] + ["without an id"] * 3


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


def no_exit(watcher: CmdClient, http: Address, app: int) -> None:
    """Bob receives no exit before a message from the node at ``http``, where everybody has left."""
    eventually(lambda: good(get(http, "/system/state"))["managerInfo"]["clientsLen"] == 0)
    marker = fresh("marker")
    send_message(http, app, "bob", marker)
    while (body := watcher.push().json)["response"]["data"]["msg"] != marker:
        assert body["cmd"] != "exit", body


def test_newest_across_nodes(nodes: Nodes, app: int) -> None:
    with logged_in(nodes.ws[2], "bob", app) as watcher, logged_in(nodes.ws[0], "ann", app) as older:
        assert watcher.push().json["cmd"] == "enter"
        newer = CmdClient(nodes.ws[1]).upgrade().login("ann", app)
        assert watcher.push().json["cmd"] == "enter", "the second login is told, too"
        for http in nodes.http:
            assert users(http, app) == ["ann", "bob"]
            send_message(http, app, "ann", "hello")
        send_to_all(nodes.http[0], app, "bob", "hello")
        assert len([newer.push("msg") for _ in range(4)]) == 4
        assert older.ask_cmd("heartbeat") == (200, "Success", None)
        older.no_push("msg")
        assert older.ask_cmd("login", {"userID": "ann", "appID": app})[0] == 1009
        newer.leave()
        assert watcher.push("exit").json["response"]["data"]["from"] == "ann"
        everywhere(nodes, lambda server: users(server.http, app) == ["bob"])
        assert older.ask_cmd("heartbeat")[0] == 200
        older.leave()
        no_exit(watcher, nodes.http[0], app)


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


def test_single_across_nodes(nodes: Nodes) -> None:
    app = app_with("single")
    with logged_in(nodes.ws[2], "bob", app) as watcher, logged_in(nodes.ws[0], "ann", app) as older:
        older.ask_cmd("ping")
        with logged_in(nodes.ws[1], "ann", app) as newer:
            closed = _close_of(older)
            assert (closed.close_code, closed.close_reason) == (4500, "replaced")
            older.leave()
            for http in nodes.http:
                assert send_message(http, app, "ann", "hello") == {"sendResults": True}
                newer.push("msg")
            no_exit(watcher, nodes.http[0], app)


def _close_of(client: Raw) -> Any:
    while True:
        found = client.frame()
        if found.opcode == CLOSE:
            return found


def test_refuse_across_nodes(nodes: Nodes) -> None:
    app = app_with("refuse")
    with logged_in(nodes.ws[0], "ann", app) as older, cmd_client(nodes.ws[1]) as newer:
        newer.send(_login("ann", app))
        found = older.frame()
        assert found.opcode == PING
        older.send(frame(PONG, found.payload))
        assert newer.closed(4501).close_reason == "refused"
        assert send_message(nodes.http[2], app, "ann", "hello") == {"sendResults": True}
        older.push("msg")


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


# --- presence -----------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_large_app_is_listed_in_pages_from_any_node(cluster: Launch, app: int) -> None:
    nodes = cluster(1)
    nodes.start_many(2, command=with_constants({"imserver.gateway.dialects.cmd.api.LIST_PAGE": 7}))
    names = sorted(f"u{number}{'é' * (number % 3)}" for number in range(30))
    with ExitStack() as stack:
        for number, name in enumerate(names):
            stack.enter_context(logged_in(nodes.ws[number % 3], name, app))
        for http in nodes.http[1:]:
            found: list[str] = []
            cursor = ""
            for page in range(5):
                data = good(get(http, "/user/list", appID=app, **({"cursor": cursor} if cursor else {})))
                assert data["userCount"] == 30
                assert len(data["userList"]) == (7 if page < 4 else 2)
                assert "missingNodes" not in data
                found += data["userList"]
                cursor = data.get("next", "")
            assert not cursor
            assert found == names


# --- operators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", [0, 1, 2])
def test_a_kick_on_any_node_ends_sessions_on_all(nodes: Nodes, via: int) -> None:
    app = app_with("multi")
    with ExitStack() as stack:
        clients = [stack.enter_context(logged_in(ws, "ann", app)) for ws in nodes.ws]
        bystander = stack.enter_context(logged_in(nodes.ws[0], "bob", app))
        data = good(post(nodes.http[via], "/user/kick", appID=app, userID="ann"))
        assert data == {"kickResults": True, "kickCount": 3}
        for client in clients:
            assert _close_of(client).close_code == 4502
            client.leave()
        assert bystander.push("exit").json["response"]["data"]["from"] == "ann"
        everywhere(nodes, lambda server: users(server.http, app) == ["bob"])
        data = good(post(nodes.http[via], "/user/kick", appID=app, userID="ann"))
        assert data == {"kickResults": False, "kickCount": 0}
        stack.enter_context(logged_in(nodes.ws[via], "ann", app))


@pytest.mark.parametrize("via", [0, 1])
def test_a_ban_on_any_node_holds_on_all(nodes: Nodes, app: int, via: int) -> None:
    with logged_in(nodes.ws[1], "ann", app) as client:
        data = good(post(nodes.http[via], "/user/kick", appID=app, userID="ann", banSeconds="3600"))
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
    good(post(nodes.http[via], "/user/kick", appID=app, userID="ann", banSeconds="1"))
    for ws in nodes.ws:
        eventually(lambda ws=ws: back(ws))


# --- what operators of the original find in Redis -----------------------------------------------------------


def test_the_record_of_a_user_is_as_the_original_writes_it(nodes: Nodes, app: int) -> None:
    key = f"acc:user:online:{app}_马远"
    with nodes.redis.client() as redis:
        began = int(time.time())
        with logged_in(nodes.ws[1], "马远", app) as client:
            host, port = client.sock.getsockname()
            record = json.loads(redis.get(key))
            node = name_of(nodes.servers[1])
            assert list(record) == [
                "accIp", "accPort", "appID", "userID", "clientIp", "clientPort", "loginTime",
                "heartbeatTime", "logOutTime", "qua", "deviceInfo", "isLogoff",
            ]  # fmt: skip
            assert f"{record['accIp']}:{record['accPort']}" == node
            assert (record["appID"], record["userID"]) == (app, "马远")
            assert (record["clientIp"], record["clientPort"]) == (f"{host}:{port}", "")
            assert began <= record["loginTime"] <= record["heartbeatTime"] <= time.time()
            assert (record["logOutTime"], record["qua"], record["isLogoff"]) == (0, "", False)
            assert 86400 - 60 <= redis.ttl(key) <= 86400
            client.ask_cmd("heartbeat")
            assert json.loads(redis.get(key)) == record, "a heartbeat costs no write"
        eventually(lambda: json.loads(redis.get(key))["isLogoff"])
        record = json.loads(redis.get(key))
        assert began <= record["loginTime"] <= record["heartbeatTime"] <= record["logOutTime"] <= time.time()
        assert 86400 - 60 <= redis.ttl(key) <= 86400


def test_servers_and_message_ids_are_where_the_original_has_them(nodes: Nodes, app: int) -> None:
    msg_id = fresh("m")
    with nodes.redis.client() as redis, logged_in(nodes.ws[0], "ann", app):
        servers = redis.hgetall("acc:hash:servers")
        assert servers.keys() == leases(nodes.servers[0]).keys()
        assert all(time.time() - 180 < int(seen) <= time.time() for seen in servers.values())
        assert 7200 - 180 < redis.ttl("acc:hash:servers") <= 7200
        send_message(nodes.http[1], app, "ann", "hello", msg_id)
        key = f"acc:submit:again:seq:{msg_id}"
        eventually(lambda: redis.get(key) == "1")
        assert 43200 - 60 < redis.ttl(key) <= 43200
        send_message(nodes.http[1], app, "nobody", "hello", other := fresh("m"))
        eventually(lambda: redis.get(f"acc:submit:again:seq:{other}") is None)


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
def test_a_node_with_another_secret_does_not_start(cluster: Launch) -> None:
    nodes = cluster(1)
    folder = nodes.folder / "stranger"
    folder.mkdir()
    settings = {
        "IMSERVER_APP_HTTP_PORT": "0",
        "IMSERVER_APP_WEBSOCKET_PORT": "0",
        "IMSERVER_APP_RPC_PORT": "0",
        "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
        "IMSERVER_REDIS_ADDR": f"127.0.0.1:{nodes.redis.port}",
        "IMSERVER_SERVER_DATA_DIR": str(folder / "data"),
    }
    ended = run_cli("serve", **settings)
    output = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert "another secret" in output
    assert "Traceback" not in output
    assert len(leases(nodes.servers[0])) == 1


def test_nodes_of_one_machine_with_databases_apart_say_so_at_the_start(cluster: Launch) -> None:
    nodes = cluster(0)
    secret = nodes.folder / "secret"
    secret.write_text("5" * 64)
    first, second = (
        nodes.start({"server": {"data_dir": str(nodes.folder / name), "secret_file": str(secret)}})
        for name in ("a", "b")
    )
    [line] = [line for line in second.log_text.splitlines() if "storage.url" in line]
    assert f"makes its database in {nodes.folder}/a/imserver.db, this node in {nodes.folder}/b" in line
    assert "same server.data_dir" in line
    assert "storage.url" not in first.log_text


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


ALL, ONE = "k" * 32, "a" * 32
KEYS = [
    {"key": ALL, "scopes": ["push", "read", "admin"]},
    {"key": ONE, "scopes": ["push", "read"], "apps": [101]},
]


@pytest.mark.full
def test_two_nodes_on_one_machine_cannot_have_the_same_ports(cluster: Launch) -> None:
    nodes = cluster(1)
    _, _, port = name_of(nodes.servers[0]).rpartition(":")
    with pytest.raises(AssertionError, match=r"the RPC cannot listen on 127\.0\.0\.1"):
        nodes.start({"app": {"rpc_port": int(port)}})
    with socket.create_connection(("127.0.0.1", int(port)), 1):
        pass
    assert len(leases(nodes.servers[0])) == 1
