"""Extra listeners: ports beside the usual two, listeners for proxies, and Unix
sockets."""

import re
import signal
import stat
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from imserver.plugin.testing import HostAndPort
from tests.conftest import StartServer
from tests.deploy.proxy import HAPROXY, HaProxy
from tests.ports import free_ports
from tests.support import HTTP_SERVERS, Server, eventually, run_cli

from .client import Listener, done, listening, new_system
from .cmd import (
    cmd_client,
    fresh,
    get,
    is_online,
    json_request,
    logged_in,
    send_message,
)
from .protobuf import visiting
from .raw import Address, Ended, Raw, ask, handshake, request
from .setting import Launch
from .sse import Listener as StreamListener
from .sse import listening as stream

EXTRA = re.compile(
    r"^  extra (\d+) +http://([0-9.]+):(\d+), ws://\2:\3/ws$", re.MULTILINE
)

ONLY = re.compile(r"^  extra 3 +http://([0-9.]+):(\d+), only /api$", re.MULTILINE)


def extra(server: Server) -> list[HostAndPort]:
    """The extra listeners that the banner names."""
    found = EXTRA.findall(server.output)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    return [HostAndPort(host, int(port)) for _, host, port in found]


@pytest.fixture(scope="module")
def server(launch: Launch, http_server: str) -> Server:
    """Three extra listeners: one for bare clients of the client dialect, one on
    another address, one for a path; and a host for that path."""
    rows = [
        {"port": 0, "ws_dialect": "client"},
        {"port": 0, "host": "127.0.0.2"},
        {"port": 0, "path": "/api"},
    ]
    hosts = [{"host": "api.example", "path": "/api"}]
    return launch(
        http_server,
        server={"http": http_server, "extra_listen": rows, "extra_hosts": hosts},
    )


def test_they_serve_all_that_the_usual_two_do(server: Server) -> None:
    for address in extra(server):
        assert ask(address, request("/health")).status == 200
        assert get(address, "/home/index", appID=101).status == 200
        assert ask(address, request("/metrics")).status == 200
        with logged_in(address, "ann", 101) as ann:
            assert send_message(address, 101, "ann", "hello") == {"sendResults": True}
            assert ann.push("msg").json["response"]["data"]["msg"] == "hello"
        with stream(address, 101, "eve"):
            assert is_online(server.http, "eve", 101)
        system = new_system(address)
        with listening(address, system) as client:  # the query names the dialect
            assert done(address, "is_online", system, clientId=client.id) == {
                "online": True
            }


def test_a_bare_ws_speaks_the_dialect_of_its_listener(server: Server) -> None:
    fixed, free = extra(server)
    with Listener(fixed) as one:
        first = one.upgrade("/ws").message().json
    assert (first["code"], first["msg"]) == (-1001, "系统ID不能为空")
    for address in (free, server.ws, server.http):
        with visiting(address) as stranger:
            stranger.send_payload(b"nonsense")
            stranger.quiet()


def test_a_listener_and_a_host_may_serve_one_path_only(server: Server) -> None:
    found = ONLY.search(server.output)
    assert found is not None
    own = HostAndPort(found[1], int(found[2]))
    for address, host in ((own, "127.0.0.1"), (server.http, "API.example:80")):
        assert ask(address, request("/v1/openapi.json", host=host)).status == 200
        assert ask(address, request("/health", host=host)).status == 404
        json = ("Content-Type", "application/json")
        body = b'{"app":"101","user":"ann","text":"hello"}'
        pushed = ask(
            address,
            request("/v1/push", method="POST", host=host, headers=[json], body=body),
        )
        assert pushed.status == 200
        chunked = [("Transfer-Encoding", "chunked"), json]
        pieces = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        head = request("/v1/push", method="POST", host=host, headers=chunked)
        assert ask(address, head + pieces).status == 200
        with StreamListener(address) as eve:
            eve.send(request("/v1/events?app=101&user=eve", host=host))
            eve.begun()
        with Raw(address) as one:
            one.upgrade("/v1/publisher", host=host)
    assert ask(server.http, request("/v1/openapi.json")).status == 404


@pytest.mark.full("processes")
def test_what_cannot_be_listened_on_ends_the_start(tmp_path: Path) -> None:
    own = "server.extra_listen[0]"
    host = "no.such.host.invalid"
    for rows, problem in (
        ("[{port: 8080}]", "port 8080 is given twice"),
        ("[{port: 7800}, {port: 7800}]", "port 7800 is given twice"),
        ("[{host: 127.0.0.1}]", own),
        ("[{port: 7800, ws_dialect: morse}]", "expected one of"),
        ("[{port: 7800, colour: red}]", "unknown key"),
        (
            "[{port: 7800, path: /a/b}]",
            f"{own}.path: expected a path of one name, as /chat",
        ),
        (
            "[{port: 7800, path: /nothing}]",
            f"{own}.path: no feature serves anything under /nothing",
        ),
        (
            "[{port: 7800, path: /api, ws_dialect: client}]",
            "there is no /ws under /api: no ws_dialect",
        ),
        ("[{port: 7800, host: 0.0.0.0}]", f"{own}.host 0.0.0.0 is not a loopback"),
        (f"[{{port: 7800, host: {host}}}]", f"{host} cannot be resolved"),
    ):
        settings = {
            "IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data"),
            "IMSERVER_SERVER_EXTRA_LISTEN": rows,
        }
        result = run_cli("serve", **settings)
        assert result.returncode == 1
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1


# --- proxies that name their clients, and Unix sockets ------------------------

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT = "203.0.113.9"
CLIENT_6 = "2001:db8::9"
FORGED = "198.51.100.1"


def binary(
    host: str, extra: bytes = b"", command: int = 0x21, family: int = 0
) -> bytes:
    """A header of version 2 of this client."""
    address = ip_address(host)
    family = family or (0x11 if address.version == 4 else 0x21)
    body = address.packed * 2 + struct.pack("!HH", 40_000, 443) + extra
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


LINE = f"PROXY TCP4 {CLIENT} 192.0.2.1 40000 443\r\n".encode()
GOOD = {
    "line": (LINE, CLIENT),
    "line of IPv6": (f"PROXY TCP6 {CLIENT_6} ::1 40000 443\r\n".encode(), CLIENT_6),
    "unknown": (b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n", "127.0.0.1"),
    "binary": (binary(CLIENT), CLIENT),
    "binary of IPv6": (binary(CLIENT_6), CLIENT_6),
    "extensions": (binary(CLIENT, b"\x04\x01\x00" + bytes(256)), CLIENT),
    "local": (SIGNATURE + b"\x20\x00\x00\x00", "127.0.0.1"),
    "unspecified": (binary(CLIENT, family=0x31), "127.0.0.1"),
}
BAD = {
    "none": request("/health"),
    "no address": b"PROXY TCP4 x 192.0.2.1 1 2\r\n",
    "mixed": b"PROXY TCP4 ::1 192.0.2.1 1 2\r\n",
    "port": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 65536\r\n",
    "too few": b"PROXY TCP4\r\n",
    "too long": b"PROXY UNKNOWN " + b"x" * 100,
    "no text": b"PROXY \xff\r\n",
    "command": binary(CLIENT, command=0x22),
    "UDP": binary(CLIENT, family=0x12),
    "short": SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    "large": SIGNATURE + b"\x21\x11\xff\xff",
}


@pytest.fixture(scope="module")
def proxying(start_shared_server: StartServer) -> Server:
    rows = [{"port": free_ports(2), "proxy_protocol": True}]
    server = {"extra_listen": rows, "trusted_proxies": ["127.0.0.1/32"]}
    return start_shared_server(
        config={"server": server, "limits": {"handshake_seconds": 1}}
    )


@pytest.fixture(scope="module")
def proxied(proxying: Server) -> Address:
    """The listener whose clients are proxies."""
    found = re.search(r"extra 1 +http://127\.0\.0\.1:(\d+)", proxying.output)
    assert found, proxying.output
    return ("127.0.0.1", int(found[1]))


def test_the_header_names_the_client(proxying: Server, proxied: Address) -> None:
    paths = {f"/nowhere/{fresh()}": (name, size) for name in GOOD for size in (1, 1000)}
    for path, (name, size) in paths.items():
        with Raw(proxied) as raw:
            raw.dribble(GOOD[name][0] + request(path), size)
            assert raw.response().status == 404, name
            raw.ask(request(path, headers=[("X-Forwarded-For", FORGED)]))
    log = proxying.log_with_requests().splitlines()
    for path, (name, _) in paths.items():
        first, second = [line for line in log if f"{path} " in line]
        assert (client := GOOD[name][1]) in first, name
        assert (FORGED in second) == (client == "127.0.0.1"), (
            f"{name}: the client is no trusted proxy"
        )


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_header_ends_the_connection_without_an_answer(
    proxied: Address, name: str
) -> None:
    with Raw(proxied) as raw:
        raw.send(BAD[name])
        with pytest.raises(Ended, match=r"b''"):
            raw.response()


def test_a_websocket_begins_behind_a_header_of_a_trusted_proxy_only(
    proxied: Address,
) -> None:
    with Raw(proxied) as raw:
        raw.send(binary(CLIENT) + handshake("/acc"))
        assert raw.response().status == 101
    with (
        Raw(proxied, source="127.0.0.7") as raw,
        pytest.raises((Ended, ConnectionError)),
    ):
        raw.ask(LINE + request("/health"))


@pytest.mark.full("programs")
@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_haproxy_passes_clients_on(
    proxying: Server, proxied: Address, tmp_path: Path, version: str
) -> None:
    text = HAPROXY.read_text(encoding="utf-8").replace("send-proxy-v2", version)
    with HaProxy(
        tmp_path, text, {"127.0.0.1:8088": f"127.0.0.1:{proxied[1]}"}
    ) as haproxy:
        with logged_in(haproxy.address, fresh(), 101) as one:
            assert one.ask_cmd("heartbeat", {})[0] == 200
        path = f"/nowhere/{fresh()}"
        with Raw(haproxy.address, source="127.0.0.9") as raw:
            assert raw.ask(request(path)).status == 404
        log = proxying.log_with_requests().splitlines()
        assert "127.0.0.9" in next(line for line in log if path in line), (
            "the client's own address"
        )


def socket_at(path: Path, **more: object) -> dict[str, object]:
    return {"server": {"extra_listen": [{"socket": str(path), **more}]}}


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_everything_is_served_at_a_unix_socket(
    start_server: StartServer, tmp_path: Path, http_server: str
) -> None:
    path = tmp_path / "im.sock"
    first = start_server(http_server=http_server, config=socket_at(path))
    first.stop(signal.SIGKILL)
    assert path.exists(), "the next server replaces it"
    server = start_server(http_server=http_server, config=socket_at(path, mode="600"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    address = str(path)
    user = fresh()
    with cmd_client(address) as one:
        one.login(user, 101)
        push = json_request("/api/v1/push", {"app": "101", "user": user, "text": "m"})
        assert ask(address, push).json["sent"] == 1
        assert one.push("msg").json["response"]["data"]["msg"] == "m"
    ask(address, request("/health?1", headers=[("X-Forwarded-For", "203.0.113.9")]))
    eventually(
        lambda: "203.0.113.9" in server.log_with_requests(),
        what="the client's own address",
    )
    assert run_cli("status", f"unix:{path}").stdout.startswith("health  ok")


def test_what_another_server_or_file_has_is_left_alone(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "im.sock"
    file = tmp_path / "file"
    start_server(config=socket_at(path))
    file.write_text("text", encoding="utf-8")
    for taken, reason in (
        (path, "another process listens there"),
        (file, "the file is no socket"),
    ):
        config = tmp_path / "other.yaml"
        ports = "app: {http_port: 0, websocket_port: 0}\n"
        config.write_text(
            f"{ports}server: {{extra_listen: [{{socket: {taken}}}]}}\n",
            encoding="utf-8",
        )
        done = run_cli("serve", "--config", str(config), folder=tmp_path)
        assert done.returncode == 1
        assert f"cannot listen on {taken}: {reason}" in done.stderr
    assert file.read_text(encoding="utf-8") == "text"
    assert ask(str(path), request("/health")).status == 200
