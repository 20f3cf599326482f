"""deploy/nginx.conf, read and run by nginx in front of two real nodes."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from imserver.gateway import assets
from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.integration.action import action_session
from tests.integration.cmd import fresh, get, json_request, logged_in, post
from tests.integration.pusher import Client as PusherClient
from tests.integration.raw import Raw, ask, request
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


# --- what it says -------------------------------------------------------------------------------------------


def test_nginx_takes_it_unchanged() -> None:
    done = subprocess.run(
        [require("nginx"), "-t", "-c", str(CONFIG)], capture_output=True, text=True, timeout=100, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if not re.search("Permission denied", line)]
    assert done.returncode == 0 or not any("[emerg]" in line for line in complaints), done.stderr
    assert not any("[warn]" in line and "user" not in line for line in complaints), done.stderr


def test_its_times_fit_those_of_a_node() -> None:
    text = CONFIG.read_text(encoding="utf-8")
    found = {
        name: [int(value) for value in re.findall(rf"{name} +(\d+)s;", text)]
        for name in ("proxy_read_timeout", "proxy_send_timeout", "keepalive_timeout")
    }
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert min(found[name]) > DEFAULTS["websocket"]["heartbeat_seconds"]
    (idle,) = found["keepalive_timeout"]
    assert idle < DEFAULTS["limits"]["keepalive_seconds"], "it ends idle connections before a node does"


@pytest.mark.parametrize("file", sorted(CONFIG.parent.glob("nginx*.conf")), ids=lambda file: file.stem)
def test_it_takes_bodies_and_files_as_large_as_a_node_does(file: Path) -> None:
    sizes = re.findall(r"client_max_body_size +(\d+)m;", file.read_text(encoding="utf-8"))
    limits = DEFAULTS["limits"]["body_bytes"], DEFAULTS["uploads"]["max_bytes"]
    assert tuple(int(size) * 1024 * 1024 for size in sizes) == limits


# --- what goes through it -----------------------------------------------------------------------------------


def test_every_dialect_reaches_a_node(nginx: Nginx) -> None:
    with logged_in(nginx.address, fresh("u"), 101) as one:
        assert one.ask_cmd("heartbeat", {})[0] == 200
    with action_session(nginx.address, fresh("u"), room="r") as one:
        one.say("hello")
        assert one.received()["content"] == "hello"
    with PusherClient(nginx.address) as one:
        # The answer of a node without an app of this key; with one it would not be in demo mode.
        assert one.refusal["data"]["code"] == 4001


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
        gateway = request("/im/gateway", host=f"127.0.0.1:{port}")
        assert ask(nginx.address, gateway).json == {"url": f"ws://127.0.0.1:{port}/im/acc"}
        assert post(nginx.address, "/im/hooks/secret-token").status == 404
        assert get(nginx.address, "/im/metrics").status == 404
        eventually(lambda: "POST /hooks/* HTTP/1.1" in nginx.access_log, what="nginx has logged")
        assert "secret-token" not in nginx.access_log + nginx.error_log


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
