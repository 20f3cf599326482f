"""deploy/nginx.conf and nginx-go-websocket.conf, read and run by nginx in front
of two real nodes.

The file that was published for the original, and nodes that conf/app.ini
starts, are in ``test_recipes.py``.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from imserver.gateway import assets
from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.client import api, api_request, done, listening, refused
from tests.integration.clusters import nodes_of
from tests.integration.cmd import get, json_request, post
from tests.integration.pusher import Client as PusherClient
from tests.integration.raw import Raw, ask, bearer, request
from tests.integration.sse import listening as stream
from tests.ports import free_ports
from tests.support import ROOT, Server, eventually
from tests.tools import require

from .proxy import CONFIG, NODES, Nginx, without_address

pytestmark = pytest.mark.full("programs")

GUIDE = ROOT / "docs" / "guides" / "deploy.md"
GO_WEBSOCKET = ROOT / "deploy" / "nginx-go-websocket.conf"
NODES_GO = ("127.0.0.1:7800", "127.0.0.1:7801")
FILES = sorted(CONFIG.parent.glob("nginx*.conf"))
CLIENT = "127.0.0.7"
"""A client that is no proxy, once only 127.0.0.1 is one."""
SETTINGS = {
    "server": {"trusted_proxies": ["127.0.0.1/32"]},
    "drain": {"close_seconds": 0.2},
}
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


@pytest.fixture
def servers(start_server: StartServer) -> list[Server]:
    require("nginx")
    return [start_server(config=SETTINGS) for _ in range(2)]


@pytest.fixture
def nginx(tmp_path: Path, servers: list[Server]) -> Iterator[Nginx]:
    with Nginx(tmp_path, servers) as nginx:
        yield nginx


# --- what it says -------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nginx_takes_it_unchanged_with_bodies_and_files_as_large_as_a_node_does(
    file: Path,
) -> None:
    tried = subprocess.run(
        [require("nginx"), "-t", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    complaints = [
        line for line in tried.stderr.splitlines() if "Permission denied" not in line
    ]
    assert tried.returncode == 0 or not any("[emerg]" in line for line in complaints), (
        tried.stderr
    )
    assert not any("[warn]" in line and "user" not in line for line in complaints), (
        tried.stderr
    )
    sizes = re.findall(
        r"client_max_body_size +(\d+)m;", file.read_text(encoding="utf-8")
    )
    limits = DEFAULTS["limits"]["body_bytes"], DEFAULTS["uploads"]["max_bytes"]
    assert tuple(int(size) * 1024 * 1024 for size in sizes) == limits


def test_its_times_fit_those_of_a_node() -> None:
    text = CONFIG.read_text(encoding="utf-8")
    found = {
        name: [int(value) for value in re.findall(rf"{name} +(\d+)s;", text)]
        for name in ("proxy_read_timeout", "proxy_send_timeout", "keepalive_timeout")
    }
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert min(found[name]) > DEFAULTS["websocket"]["heartbeat_seconds"]
    (idle,) = found["keepalive_timeout"]
    assert idle < DEFAULTS["limits"]["keepalive_seconds"], (
        "it ends idle connections before a node does"
    )


# --- what goes through it -----------------------------------------------------


def test_the_recipe_of_the_guide_serves_below_a_path(
    tmp_path: Path, start_server: StartServer
) -> None:
    require("nginx")
    port = free_ports()
    server = start_server(
        config={**SETTINGS, "app": {"http_url": f"http://127.0.0.1:{port}/im"}}
    )
    (recipe,) = [
        block for block in blocks(GUIDE, "sh") if block.text.startswith("sed ")
    ]
    config_path = tmp_path / "nginx-im.conf"
    assert recipe.text.rstrip().endswith(f" > {config_path.name}")
    command = recipe.text.replace("deploy/nginx.conf", str(CONFIG)).replace(
        config_path.name, str(config_path)
    )
    subprocess.run(["sh", "-c", command], check=True)
    # One node twice: two share no files here.
    with Nginx(
        tmp_path, [server] * 2, config_path.read_text(encoding="utf-8"), port=port
    ) as nginx:
        for path in ("/im/acc", "/im/ws", "/im/connection/websocket", "/im/app/key"):
            with Raw(nginx.address) as client:
                client.upgrade(path)
        push = json_request(
            "/im/api/v1/push", {"app": "101", "user": "ann", "text": "m"}
        )
        assert ask(nginx.address, push).json["sent"] == 0
        assert (
            get(nginx.address, "/im/user/list", appID=101, token="secret-token").json[
                "code"
            ]
            == 200
        )
        upload = "/im/api/v1/uploads?app=default&user=u1"
        size = DEFAULTS["limits"]["body_bytes"] + 1
        stored = ask(nginx.address, request(upload, method="POST", body=bytes(size)))
        assert (stored.status, stored.json["bytes"]) == (201, size)
        assert ask(nginx.address, request(f"/im{stored.json['url']}")).body == bytes(
            size
        )
        rows = [
            ("Tus-Resumable", "1.0.0"),
            ("Upload-Length", "8"),
            ("Content-Length", "0"),
        ]
        parts = request(
            "/im/api/v1/uploads/tus?app=default&user=u1", method="POST", headers=rows
        )
        location = ask(nginx.address, parts).header("Location")
        assert location
        assert location.startswith("/im/api/v1/uploads/tus/")
        assert ask(nginx.address, request("/im")).header("Location") == "/im/"
        gateway = request("/im/gateway", host=f"127.0.0.1:{port}")
        assert ask(nginx.address, gateway).json == {
            "url": f"ws://127.0.0.1:{port}/im/acc"
        }
        assert post(nginx.address, "/im/hooks/secret-token").status == 404
        assert get(nginx.address, "/im/metrics").status == 404
        eventually(
            lambda: "POST /hooks/* HTTP/1.1" in nginx.access_log,
            what="nginx has logged",
        )
        assert "secret-token" not in nginx.access_log + nginx.error_log


def test_the_client_is_who_nginx_saw_and_no_log_has_a_token(
    nginx: Nginx, servers: list[Server]
) -> None:
    with Raw(nginx.address, source=CLIENT) as client:
        client.upgrade(more=[("X-Forwarded-For", "203.0.113.9")])
        states = [
            get(server.http, "/system/state", isDebug="true").json["data"]
            for server in servers
        ]
        (peer,) = [peer for state in states for peer in state["managerInfo"]["clients"]]
    assert peer.rpartition(":")[0] == CLIENT, "and nobody whom it names"
    with PusherClient(nginx.address) as one:
        # The answer of a node without an app of this key; with one it would not
        # be in demo mode.
        assert one.refusal["data"]["code"] == 4001
    post(nginx.address, "/hooks/secret-token")
    servers[0].stop()
    for _ in range(4):
        get(nginx.address, "/user/list", appID=101, token="secret-token")
    eventually(
        lambda: nginx.access_log.count("GET /user/list HTTP/1.1") == 4,
        what="nginx has logged",
    )
    assert "POST /hooks/* HTTP/1.1" in nginx.access_log
    assert "secret-token" not in nginx.access_log + nginx.error_log


@pytest.mark.needs("nginx")
@pytest.mark.parametrize(("file", "nodes"), [(CONFIG, NODES), (GO_WEBSOCKET, NODES_GO)])
def test_no_log_has_a_token_if_nginx_itself_fails(
    tmp_path: Path, file: Path, nodes: Sequence[str]
) -> None:
    text = without_address(file.read_text(encoding="utf-8"))
    with Nginx(tmp_path, (), text, nodes, range(1, len(nodes) + 1)) as nginx:
        assert (
            get(nginx.address, "/api/v1/events", app="101", token="secret-token").status
            == 500
        )
        eventually(
            lambda: "GET /api/v1/events HTTP/1.1" in nginx.access_log,
            what="nginx has logged",
        )
        assert "secret-token" not in nginx.access_log + nginx.error_log


KEY = "secret-key-of-the-tests"


def connections(server: Server) -> int:
    answer = ask(server.http, bearer(request("/system/state"), KEY))
    return int(answer.json["data"]["managerInfo"]["clientsLen"])


@pytest.mark.needs("nginx")
def test_clients_back_ends_and_streams_reach_either_node(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    listed = {"open": True, "api_allow_from": [f"{CLIENT}/32"]}
    config = {
        "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
        "apps": {"system:listed": listed, "101": {"open": True}},
    }
    with ExitStack() as stack:
        servers = stack.enter_context(
            nodes_of(tmp_path, 2, redis_server, **SETTINGS, **config)
        ).servers
        ports = [server.http.port for server in servers]
        text = GO_WEBSOCKET.read_text(encoding="utf-8")
        nginx = stack.enter_context(Nginx(tmp_path, servers, text, NODES_GO, ports))
        clients = [
            stack.enter_context(listening(nginx.address, "listed")) for _ in range(8)
        ]
        assert [connections(server) for server in servers] == [4, 4], (
            "nginx has dealt them out to both"
        )
        fields = {"clientId": clients[0].id, "data": "hello"}
        assert (
            refused(api(nginx.address, "send_to_client", fields, "listed")) == "未授权"
        )
        assert done(nginx.address, "send_to_client", "listed", key=KEY, **fields)
        assert clients[0].received()["data"] == "hello"
        # A back end is known by the address that nginx saw.
        for number, client in enumerate(clients):
            given = {"clientId": client.id, "data": str(number)}
            with Raw(nginx.address, source=CLIENT) as listed:
                assert (
                    listed.ask(api_request("send_to_client", given, "listed")).json[
                        "code"
                    ]
                    == 0
                )
            assert client.received()["data"] == str(number)
        with stream(nginx.address, "101", "ann") as ann:
            for number in range(3):  # nothing is held back
                body = {"app": "101", "user": "ann", "text": str(number)}
                push = bearer(json_request("/api/v1/push", body), KEY)
                eventually(lambda push=push: ask(nginx.address, push).json["sent"] == 1)
                assert ann.message()["text"] == str(number)
        servers[0].stop()
        for _ in range(4):
            get(nginx.address, "/api/v1/events", app="101", token="secret-token")
        eventually(
            lambda: nginx.access_log.count("/api/v1/events HTTP/1.1") == 5,
            what="it logs",
        )
        assert "secret-token" not in nginx.access_log + nginx.error_log
