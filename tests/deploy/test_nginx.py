"""deploy/nginx.conf, read and run by nginx in front of two real nodes."""

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from imserver.gateway import assets
from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.integration.action import action_session
from tests.integration.cmd import cmd_client, form_request, fresh, get, json_request, logged_in, post
from tests.integration.pusher import Client as PusherClient
from tests.integration.raw import Address, Ended, Raw, ask, request
from tests.ports import free_ports
from tests.support import ROOT, Server, eventually
from tests.tools import require

from .proxy import CONFIG, Nginx, without_address

pytestmark = pytest.mark.full

GUIDE = ROOT / "docs" / "guides" / "deploy.md"
CLIENT = "127.0.0.7"
"""A client that is no proxy, once only 127.0.0.1 is one."""
SETTINGS = {"server": {"trusted_proxies": ["127.0.0.1/32"]}, "drain": {"close_seconds": 0.2}}
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


@pytest.fixture
def servers(start_server: StartServer) -> list[Server]:
    require("nginx")
    return [start_server(config=SETTINGS) for _ in range(2)]


@pytest.fixture
def nginx(tmp_path: Path, servers: list[Server]) -> Iterator[Nginx]:
    with Nginx(tmp_path, servers) as nginx:
        yield nginx


def seconds(name: str) -> list[int]:
    found = re.findall(rf"{name} +(\d+)s;", CONFIG.read_text(encoding="utf-8"))
    return [int(value) for value in found]


# --- what it says -------------------------------------------------------------------------------------------


def test_nginx_takes_it_unchanged() -> None:
    done = subprocess.run(
        [require("nginx"), "-t", "-c", str(CONFIG)], capture_output=True, text=True, timeout=100, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if not re.search("Permission denied", line)]
    assert done.returncode == 0 or not any("[emerg]" in line for line in complaints), done.stderr
    assert not any("[warn]" in line and "user" not in line for line in complaints), done.stderr


def test_it_waits_longer_than_the_longest_heartbeat() -> None:
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(name)
        assert min(seconds(name)) > DEFAULTS["websocket"]["heartbeat_seconds"]


def test_it_ends_idle_connections_before_a_node_does() -> None:
    (idle,) = seconds("keepalive_timeout")
    assert idle < DEFAULTS["limits"]["keepalive_seconds"]


@pytest.mark.parametrize("file", sorted(CONFIG.parent.glob("nginx*.conf")), ids=lambda file: file.stem)
def test_it_takes_bodies_and_files_as_large_as_a_node_does(file: Path) -> None:
    sizes = re.findall(r"client_max_body_size +(\d+)m;", file.read_text(encoding="utf-8"))
    limits = DEFAULTS["limits"]["body_bytes"], DEFAULTS["uploads"]["max_bytes"]
    assert tuple(int(size) * 1024 * 1024 for size in sizes) == limits


# --- what goes through it -----------------------------------------------------------------------------------


def test_clients_and_back_ends_of_both_nodes_are_served(nginx: Nginx, servers: list[Server]) -> None:
    with ExitStack() as stack:
        users = [fresh() for _ in range(6)]
        clients = [stack.enter_context(logged_in(nginx.address, user, 101)) for user in users]
        listed = [get(server.http, "/user/list", appID=101).json["data"]["userList"] for server in servers]
        assert sorted(map(len, listed)) == [3, 3]  # least_conn
        for server, names in zip(servers, listed, strict=True):
            sent = post(
                server.http, "/user/sendMessageAll", appID=101, userID="x", msgID=fresh(), message="m"
            )
            assert sent.json["data"] == {"sendResults": True}
            for user, client in zip(users, clients, strict=True):
                if user in names:
                    assert client.push("msg").json["response"]["data"]["msg"] == "m"
    pages = [get(nginx.address, "/home/index", appID=101).status for _ in range(4)]
    assert pages == [200] * 4


def test_a_client_learns_where_it_came_from_when_it_asks_for_a_gateway(nginx: Nginx) -> None:
    with Raw(nginx.address) as client:
        answer = client.ask(request("/gateway", host=f"127.0.0.1:{nginx.address[1]}"))
    assert answer.json == {"url": f"ws://127.0.0.1:{nginx.address[1]}/acc"}


def test_every_dialect_reaches_a_node(nginx: Nginx) -> None:
    with logged_in(nginx.address, fresh("u"), 101) as one:
        assert one.ask_cmd("heartbeat", {})[0] == 200
    with action_session(nginx.address, fresh("u"), room="r") as one:
        one.say("hello")
        assert one.received()["content"] == "hello"
    with PusherClient(nginx.address) as one:
        # The answer of a node without an app of this key; with one it would not be in demo mode.
        assert one.refusal["data"]["code"] == 4001


def test_the_largest_file_passes(nginx: Nginx) -> None:
    path, size = "/api/v1/uploads?app=default&user=u1", DEFAULTS["uploads"]["max_bytes"]
    with Raw(nginx.address) as client:
        answer = client.ask(request(path, method="POST", body=bytes(size)))
    assert (answer.status, answer.json["bytes"]) == (201, size)
    more = [("Content-Length", str(size + 1))]
    assert ask(nginx.address, request(path, method="POST", headers=more)).status == 413


def test_the_recipe_of_the_guide_serves_below_a_path(tmp_path: Path, start_server: StartServer) -> None:
    require("nginx")
    port = free_ports()
    server = start_server(config={**SETTINGS, "app": {"http_url": f"http://127.0.0.1:{port}/im"}})
    (recipe,) = [block for block in blocks(GUIDE, "sh") if block.text.startswith("sed ")]
    config_path = tmp_path / "nginx-im.conf"
    assert recipe.text.rstrip().endswith(f" > {config_path.name}")
    command = recipe.text.replace("deploy/nginx.conf", str(CONFIG)).replace(
        config_path.name, str(config_path)
    )
    subprocess.run(["sh", "-c", command], check=True)
    # One node twice: two share no files here.
    with Nginx(tmp_path, [server] * 2, config_path.read_text(encoding="utf-8"), port=port) as nginx:
        for path in ("/im/acc", "/im/ws", "/im/connection/websocket", "/im/app/key"):
            with Raw(nginx.address) as client:
                client.upgrade(path)
        push = json_request("/im/api/v1/push", {"app": "101", "user": "ann", "text": "m"})
        assert ask(nginx.address, push).json["sent"] == 0
        assert get(nginx.address, "/im/user/list", appID=101, token="secret-token").json["code"] == 200
        upload = "/im/api/v1/uploads?app=default&user=u1"
        size = DEFAULTS["limits"]["body_bytes"] + 1
        stored = ask(nginx.address, request(upload, method="POST", body=bytes(size)))
        assert (stored.status, stored.json["bytes"]) == (201, size)
        assert ask(nginx.address, request(f"/im{stored.json['url']}")).body == bytes(size)
        rows = [("Tus-Resumable", "1.0.0"), ("Upload-Length", "8"), ("Content-Length", "0")]
        parts = request("/im/api/v1/uploads/tus?app=default&user=u1", method="POST", headers=rows)
        location = ask(nginx.address, parts).header("Location")
        assert location
        assert location.startswith("/im/api/v1/uploads/tus/")
        assert ask(nginx.address, request("/im")).header("Location") == "/im/"
        assert get(nginx.address, "/im/gateway").json == {"url": f"ws://127.0.0.1:{port}/im/acc"}
        assert post(nginx.address, "/im/hooks/secret-token").status == 404
        assert get(nginx.address, "/im/metrics").status == 404
        eventually(lambda: "POST /hooks/* HTTP/1.1" in nginx.access_log, what="nginx has logged")
        assert "secret-token" not in nginx.access_log + nginx.error_log


def test_metrics_are_not_public(nginx: Nginx, servers: list[Server]) -> None:
    assert get(nginx.address, "/metrics").status == 404
    assert get(servers[0].http, "/metrics").status == 200


def test_the_client_is_who_nginx_saw_and_nobody_whom_it_names(nginx: Nginx, servers: list[Server]) -> None:
    with Raw(nginx.address, source=CLIENT) as client:
        client.upgrade(more=[("X-Forwarded-For", "203.0.113.9")])
        peers = [
            peer
            for server in servers
            for peer in get(server.http, "/system/state", isDebug="true").json["data"]["managerInfo"][
                "clients"
            ]
        ]
    assert [peer.rpartition(":")[0] for peer in peers] == [CLIENT]


def test_a_stranger_who_comes_without_nginx_is_believed_nothing(servers: list[Server]) -> None:
    with Raw(servers[0].ws, source=CLIENT) as client:
        client.upgrade(more=[("X-Forwarded-For", "203.0.113.9")])
        state = get(servers[0].http, "/system/state", isDebug="true").json["data"]
    assert [peer.rpartition(":")[0] for peer in state["managerInfo"]["clients"]] == [CLIENT]


def test_no_log_has_a_token(nginx: Nginx, servers: list[Server]) -> None:
    post(nginx.address, "/hooks/secret-token")
    servers[0].stop()
    for _ in range(4):
        get(nginx.address, "/user/list", appID=101, token="secret-token")
    eventually(lambda: nginx.access_log.count("GET /user/list HTTP/1.1") == 4, what="nginx has logged")
    assert "POST /hooks/* HTTP/1.1" in nginx.access_log
    assert "secret-token" not in nginx.access_log + nginx.error_log


def test_no_log_has_a_token_if_nginx_itself_fails(tmp_path: Path, servers: list[Server]) -> None:
    with Nginx(tmp_path, servers, without_address(CONFIG.read_text(encoding="utf-8"))) as nginx:
        assert get(nginx.address, "/user/list", appID=101, token="secret-token").status == 500
        eventually(lambda: "GET /user/list HTTP/1.1" in nginx.access_log, what="nginx has logged")
        assert "secret-token" not in nginx.access_log + nginx.error_log


# --- a node is drained --------------------------------------------------------------------------------------


class Callers:
    """Threads that ask without a pause, on connections that are kept, GET and POST in turn."""

    def __init__(self, address: Address, count: int) -> None:
        self.answers: Counter[str] = Counter()
        self._address = address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        push = form_request("/user/sendMessage", {"appID": 101, "userID": "nobody", "message": "m"})
        while not self._over.is_set():
            with Raw(self._address) as connection:
                try:
                    for turn in range(50):
                        answer = connection.ask(push if turn % 2 else request("/user/list?appID=101"))
                        self.answers[f"{answer.status} {answer.body[:12].decode()}"] += 1
                except Ended:
                    self.answers["no answer"] += 1


def test_while_a_node_is_drained_no_request_is_lost(nginx: Nginx, servers: list[Server]) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(cmd_client(nginx.address)) for _ in range(4)]
        callers = stack.enter_context(Callers(nginx.address, 6))
        eventually(lambda: callers.answers.total() > 200, what="the callers are at work")
        assert servers[0].stop() == 0
        before = callers.answers.total()
        eventually(lambda: callers.answers.total() > before + 300, what="the other node goes on")
        states = [closed_with(client) for client in clients]
        assert sorted(states) == [0, 0, 1001, 1001]
        # Whoever was sent away is welcome at once.
        with cmd_client(nginx.address) as again:
            assert again.ask_cmd("ping")[2] == "pong"
    assert set(callers.answers) == {'200 {"code":200,'}


def closed_with(client: Raw) -> int | None:
    """The code with which a connection was closed; 0 if it is open."""
    try:
        return client.frame(0.2).close_code
    except TimeoutError:
        return 0
