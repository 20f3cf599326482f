"""nginx before two nodes that conf/app.ini has started: what go-websocket published, and our own file."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from imserver.dialects.client.settings_file import PUBLIC_KEY
from tests.gateway.cluster.redis_server import RedisServer
from tests.integration.client import (
    ONLINE,
    Listener,
    api,
    api_request,
    bind,
    done,
    listening,
    new_system,
    online_list,
    refused,
    send_to_client,
    send_to_group,
)
from tests.integration.cmd import get, json_request
from tests.integration.raw import Address, Raw, ask
from tests.integration.sse import listening as stream
from tests.support import ROOT, Server, eventually
from tests.tools import require

from .proxy import Nginx, without_address

pytestmark = pytest.mark.full

OURS = ROOT / "deploy" / "nginx-go-websocket.conf"
OUR_NODES = ("127.0.0.1:7800", "127.0.0.1:7801")

# As published for the original, with a name for each log; ports are set as they are for our own file.
PUBLISHED = """
pid /run/nginx.pid;
events { worker_connections 512; }
http {
upstream ws_cluster {
    server 127.0.0.1:666 ;
    server 127.0.0.1:667 ;
}

server {
    listen      80;
    server_name ws.example.com;

    access_log /var/log/nginx/im.log;
    error_log /var/log/nginx/error.log;

    location /ws {
        proxy_pass http://ws_cluster;
        proxy_http_version 1.1;
        proxy_read_timeout 60s;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }

    location /api {
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header Host $http_host;
        proxy_pass http://ws_cluster;
    }
}
}
"""
PUBLISHED_NODES = ("127.0.0.1:666", "127.0.0.1:667")

INI = """\
[common]
HttpPort = 0
RPCPort = 0
Cluster = true
CryptoKey = {key}
[etcd]
Endpoints = 127.0.0.1:2379
"""
BACK_END = "127.0.0.7"


class Front(NamedTuple):
    """Two nodes, and nginx before them."""

    servers: list[Server]
    ports: list[int]
    """Of the extra listeners."""
    nginx: Nginx

    @property
    def address(self) -> Address:
        return self.nginx.address


Start = Callable[..., Front]


@pytest.fixture
def start(tmp_path: Path, redis_server: RedisServer) -> Iterator[Start]:
    """``start(text, nodes, **environment)``: nginx with this configuration before two nodes."""
    require("nginx")
    with ExitStack() as stack:

        def run(text: str, nodes: tuple[str, str], **environment: str) -> Front:
            servers = [_node(tmp_path, number, redis_server.url, {**environment}) for number in (1, 2)]
            for server in servers:
                stack.callback(server.check)
                stack.callback(server.stop)
            ports = [_extra_port(server) for server in servers]
            return Front(servers, ports, stack.enter_context(Nginx(tmp_path, servers, text, nodes, ports)))

        yield run


def _node(folder: Path, number: int, redis_url: str, environment: dict[str, str]) -> Server:
    ini = folder / f"app{number}.ini"
    ini.write_text(INI.format(key=environment.pop("CryptoKey", PUBLIC_KEY)), encoding="utf-8")
    return Server(
        folder / f"node{number}",
        "-c",
        str(ini),
        http_server="front" if number == 1 else "wsgi",
        environment={
            # The published file sends the name of its upstream as Host.
            "IMSERVER_SERVER_ORIGINS": "[ws_cluster]",
            "IMSERVER_APP_HTTP_PORT": "0",
            "IMSERVER_APP_WEBSOCKET_PORT": "0",
            "IMSERVER_APP_LOG_FILE": str(folder / f"node{number}" / "server.log"),
            "IMSERVER_SERVER_DATA_DIR": str(folder / "data"),
            "IMSERVER_SERVER_HTTP": "front" if number == 1 else "wsgi",
            "IMSERVER_REDIS_URL": redis_url,
            "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
            "IMSERVER_WEBSOCKET_CLOSE_SECONDS": "1",
            "IMSERVER_DRAIN_CLOSE_SECONDS": "0",
            **environment,
        },
    )


def _extra_port(server: Server) -> int:
    found = re.search(r"extra 1 +http://127\.0\.0\.1:(\d+), ws://127\.0\.0\.1:\1/ws", server.output)
    assert found, server.output
    return int(found[1])


BOTH = pytest.mark.parametrize(
    ("text", "nodes"),
    [(PUBLISHED, PUBLISHED_NODES), (OURS.read_text(encoding="utf-8"), OUR_NODES)],
    ids=["published", "ours"],
)


def test_nginx_takes_our_file_unchanged() -> None:
    done = subprocess.run(
        [require("nginx"), "-t", "-c", str(OURS)], capture_output=True, text=True, timeout=100, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if not re.search("Permission denied", line)]
    assert done.returncode == 0 or not any("[emerg]" in line for line in complaints), done.stderr


@BOTH
def test_clients_and_back_end_may_reach_either_node(start: Start, text: str, nodes: tuple[str, str]) -> None:
    front = start(text, nodes)
    system = new_system(front.address)
    with ExitStack() as stack:
        clients = [stack.enter_context(listening(front.address, system)) for _ in range(8)]
        for number, client in enumerate(clients):
            bind(front.address, system, client, "g", user=str(number))
            for other in clients[: number + 1]:
                assert other.notice()[:3] == (ONLINE, client.id, str(number))
        for port in front.ports:
            address = ("127.0.0.1", port)
            assert online_list(address, system, "g") == [client.id for client in clients]
            for number, client in enumerate(clients):
                send_to_client(address, system, client.id, data=f"{port} {number}")
                assert client.received()["data"] == f"{port} {number}"
        for number in range(4):
            send_to_group(front.address, system, "g", data=str(number))
        for client in clients:
            # In any order: calls that went to two nodes have none.
            assert {client.received()["data"] for _ in range(4)} == {"0", "1", "2", "3"}
        for number in range(4):
            send_to_group(("127.0.0.1", front.ports[0]), system, "g", data=str(number))
        for client in clients:
            assert [client.received()["data"] for _ in range(4)] == ["0", "1", "2", "3"]
        counts = [_connections(server) for server in front.servers]
    assert sorted(counts) == [4, 4], "nginx has dealt them out to both"


def _connections(server: Server) -> int:
    status, body = server.get("/system/state")
    assert status == 200
    found = re.search(rb'"clientsLen":(\d+)', body)
    assert found
    return int(found[1])


@BOTH
def test_a_bare_ws_on_this_port_is_refused_as_the_original_did(
    start: Start, text: str, nodes: tuple[str, str]
) -> None:
    front = start(text, nodes)
    with Listener(front.address) as one:
        first = one.upgrade("/ws").message().json
    assert (first["code"], first["msg"], first["data"]) == (-1001, "系统ID不能为空", [])


@BOTH
def test_a_back_end_is_known_by_the_address_that_nginx_saw(
    start: Start, text: str, nodes: tuple[str, str]
) -> None:
    front = start(
        text,
        nodes,
        CryptoKey="0123456789abcdef",
        IMSERVER_API_KEYS="[{key: secret-key-of-the-tests, scopes: [admin]}]",
        IMSERVER_APPS=f'{{"system:listed": {{open: true, api_allow_from: ["{BACK_END}/32"]}}}}',
        IMSERVER_SERVER_TRUSTED_PROXIES='["127.0.0.1/32"]',
    )
    with listening(front.address, "listed") as client:
        fields = {"clientId": client.id, "data": "hello"}
        assert refused(api(front.address, "send_to_client", fields, "listed")) == "未授权"
        assert done(front.address, "send_to_client", "listed", key="secret-key-of-the-tests", **fields)
        assert client.received()["data"] == "hello"
        with Raw(front.address, source=BACK_END) as listed:
            answer = listed.ask(api_request("send_to_client", fields, "listed"))
        assert answer.json["code"] == 0, answer
        assert client.received()["data"] == "hello"


def test_no_log_of_our_file_has_a_token(start: Start) -> None:
    front = start(OURS.read_text(encoding="utf-8"), OUR_NODES)
    front.servers[0].stop()
    for _ in range(4):
        get(front.address, "/api/v1/events", app="101", token="secret-token")
    eventually(lambda: front.nginx.access_log.count("GET /api/v1/events HTTP/1.1") == 4, what="it logs")
    assert "secret-token" not in front.nginx.access_log + front.nginx.error_log


def test_no_log_of_our_file_has_a_token_if_nginx_itself_fails(start: Start) -> None:
    front = start(without_address(OURS.read_text(encoding="utf-8")), OUR_NODES)
    assert get(front.address, "/api/v1/events", app="101", token="secret-token").status == 500
    eventually(lambda: "GET /api/v1/events HTTP/1.1" in front.nginx.access_log, what="it logs")
    assert "secret-token" not in front.nginx.access_log + front.nginx.error_log


@BOTH
def test_event_streams_pass_without_being_held_back(start: Start, text: str, nodes: tuple[str, str]) -> None:
    front = start(text, nodes)
    with stream(front.address, "101", "ann") as ann:
        for number in range(3):
            push = json_request("/api/v1/push", {"app": "101", "user": "ann", "text": str(number)})
            eventually(lambda push=push: ask(front.address, push).json["sent"] == 1)
            assert ann.message()["text"] == str(number)
