"""nginx with our file for go-websocket before two nodes that conf/app.ini has started.

The file that was published for the original has its test in ``test_recipes.py``.
"""

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.client import api, api_request, done, listening, refused
from tests.integration.cmd import get, json_request
from tests.integration.raw import Raw, ask, bearer, request
from tests.integration.sse import listening as stream
from tests.support import ROOT, Server, eventually
from tests.tools import require

from .proxy import Nginx, without_address

pytestmark = pytest.mark.full

FILE = ROOT / "deploy" / "nginx-go-websocket.conf"
NODES = ("127.0.0.1:7800", "127.0.0.1:7801")
INI = """\
[common]
HttpPort = 0
RPCPort = 0
Cluster = true
CryptoKey = 0123456789abcdef
[etcd]
Endpoints = 127.0.0.1:2379
"""
BACK_END, KEY = "127.0.0.7", "secret-key-of-the-tests"


def start(folder: Path, number: int, redis: RedisServer, stack: ExitStack) -> Server:
    """A node whose settings are those of the original, but for addresses, and who may push."""
    ini = folder / f"app{number}.ini"
    ini.write_text(INI, encoding="utf-8")
    apps = f'"system:listed": {{open: true, api_allow_from: ["{BACK_END}/32"]}}, "101": {{open: true}}'
    environment = {
        "IMSERVER_APP_HTTP_PORT": "0",
        "IMSERVER_APP_WEBSOCKET_PORT": "0",
        "IMSERVER_APP_LOG_FILE": str(folder / f"node{number}" / "server.log"),
        "IMSERVER_SERVER_DATA_DIR": str(folder / "data"),
        "IMSERVER_REDIS_URL": redis.url,
        "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
        "IMSERVER_WEBSOCKET_CLOSE_SECONDS": "1",
        "IMSERVER_DRAIN_CLOSE_SECONDS": "0",
        "IMSERVER_API_KEYS": f"[{{key: {KEY}, scopes: [admin]}}]",
        "IMSERVER_APPS": f"{{{apps}}}",
        "IMSERVER_SERVER_TRUSTED_PROXIES": '["127.0.0.1/32"]',
        "IMSERVER_SERVER_HTTP": ("front", "wsgi")[number],
    }
    server = Server(
        folder / f"node{number}",
        "-c",
        str(ini),
        http_server=("front", "wsgi")[number],
        environment=environment,
    )
    stack.callback(server.check)
    stack.callback(server.stop)
    return server


def extra_port(server: Server) -> int:
    found = re.search(r"extra 1 +http://127\.0\.0\.1:(\d+), ws://127\.0\.0\.1:\1/ws", server.output)
    assert found, server.output
    return int(found[1])


def connections(server: Server) -> int:
    answer = ask(server.http, bearer(request("/system/state"), KEY))
    return int(answer.json["data"]["managerInfo"]["clientsLen"])


def test_nginx_takes_our_file_unchanged() -> None:
    command = [require("nginx"), "-t", "-c", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    complaints = [line for line in done.stderr.splitlines() if "Permission denied" not in line]
    assert done.returncode == 0 or not any("[emerg]" in line for line in complaints), done.stderr


@pytest.mark.needs("nginx")
def test_clients_back_ends_and_streams_reach_either_node(tmp_path: Path, redis_server: RedisServer) -> None:
    text = FILE.read_text(encoding="utf-8")
    with ExitStack() as stack:
        servers = [start(tmp_path, number, redis_server, stack) for number in (0, 1)]
        ports = [extra_port(server) for server in servers]
        nginx = stack.enter_context(Nginx(tmp_path, servers, text, NODES, ports))
        clients = [stack.enter_context(listening(nginx.address, "listed")) for _ in range(8)]
        assert [connections(server) for server in servers] == [4, 4], "nginx has dealt them out to both"
        fields = {"clientId": clients[0].id, "data": "hello"}
        assert refused(api(nginx.address, "send_to_client", fields, "listed")) == "未授权"
        assert done(nginx.address, "send_to_client", "listed", key=KEY, **fields)
        assert clients[0].received()["data"] == "hello"
        # A back end is known by the address that nginx saw.
        for number, client in enumerate(clients):
            given = {"clientId": client.id, "data": str(number)}
            with Raw(nginx.address, source=BACK_END) as listed:
                assert listed.ask(api_request("send_to_client", given, "listed")).json["code"] == 0
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
        eventually(lambda: nginx.access_log.count("/api/v1/events HTTP/1.1") == 5, what="it logs")
        assert "secret-token" not in nginx.access_log + nginx.error_log


@pytest.mark.needs("nginx")
def test_no_log_has_a_token_if_nginx_itself_fails(tmp_path: Path) -> None:
    text = without_address(FILE.read_text(encoding="utf-8"))
    with Nginx(tmp_path, [], text, NODES, (1, 2)) as nginx:
        assert get(nginx.address, "/api/v1/events", app="101", token="secret-token").status == 500
        eventually(lambda: "GET /api/v1/events HTTP/1.1" in nginx.access_log, what="it logs")
        assert "secret-token" not in nginx.access_log + nginx.error_log
