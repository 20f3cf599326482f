"""Listeners for proxies: that name each client in a PROXY header, and Unix sockets on the same machine."""

import re
import signal
import stat
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.deploy.proxy import HAPROXY, HaProxy
from tests.integration.cmd import cmd_client, fresh, json_request, logged_in
from tests.integration.raw import Address, Ended, Raw, ask, handshake, request
from tests.ports import free_ports
from tests.support import HTTP_SERVERS, Server, eventually, run_cli

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, CLIENT_6, FORGED = "203.0.113.9", "2001:db8::9", "198.51.100.1"


def binary(host: str, extra: bytes = b"", command: int = 0x21, family: int = 0) -> bytes:
    """A header of version 2 of this client."""
    address = ip_address(host)
    family = family or (0x11 if address.version == 4 else 0x21)
    body = address.packed * 2 + struct.pack("!HH", 40_000, 443) + extra
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


LINE = f"PROXY TCP4 {CLIENT} 192.0.2.1 40000 443\r\n".encode()
TLV = b"\x04\x01\x00" + bytes(256)
GOOD = {
    "line": (LINE, CLIENT),
    "line of IPv6": (f"PROXY TCP6 {CLIENT_6} ::1 40000 443\r\n".encode(), CLIENT_6),
    "unknown": (b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n", "127.0.0.1"),
    "binary": (binary(CLIENT), CLIENT),
    "binary of IPv6": (binary(CLIENT_6), CLIENT_6),
    "extensions": (binary(CLIENT, TLV), CLIENT),
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
def server(start_shared_server: StartServer) -> Server:
    rows = [{"port": free_ports(2), "proxy_protocol": True}]
    server = {"extra_listen": rows, "trusted_proxies": ["127.0.0.1/32"]}
    return start_shared_server(config={"server": server, "limits": {"handshake_seconds": 1}})


@pytest.fixture(scope="module")
def proxied(server: Server) -> Address:
    """The listener whose clients are proxies."""
    found = re.search(r"extra 1 +http://127\.0\.0\.1:(\d+)", server.output)
    assert found, server.output
    return ("127.0.0.1", int(found[1]))


def lines_with(server: Server, path: str) -> list[str]:
    """The lines of the request log about a path."""
    return [line for line in server.log_with_requests().splitlines() if path in line]


@pytest.mark.parametrize("name", GOOD)
def test_the_header_names_the_client(server: Server, proxied: Address, name: str) -> None:
    header, client = GOOD[name]
    for size in (1, 1000):
        path = f"/nowhere/{fresh()}"
        with Raw(proxied) as raw:
            raw.dribble(header + request(path), size)
            assert raw.response().status == 404
            raw.ask(request(path, headers=[("X-Forwarded-For", FORGED)]))
        first, second = eventually(lambda path=path: (got := lines_with(server, path))[1:] and got)
        assert client in first
        assert (FORGED in second) == (client == "127.0.0.1"), "the client is no trusted proxy"


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_header_ends_the_connection_without_an_answer(proxied: Address, name: str) -> None:
    with Raw(proxied) as raw:
        raw.send(BAD[name])
        with pytest.raises(Ended, match=r"b''"):
            raw.response()


def test_a_websocket_begins_behind_a_header_of_a_trusted_proxy_only(proxied: Address) -> None:
    with Raw(proxied) as raw:
        raw.send(binary(CLIENT) + handshake("/acc"))
        assert raw.response().status == 101
    with Raw(proxied, source="127.0.0.7") as raw, pytest.raises((Ended, ConnectionError)):
        raw.ask(LINE + request("/health"))


@pytest.mark.full("programs")
@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_haproxy_passes_clients_on(server: Server, proxied: Address, tmp_path: Path, version: str) -> None:
    text = HAPROXY.read_text(encoding="utf-8").replace("send-proxy-v2", version)
    with HaProxy(tmp_path, text, {"127.0.0.1:8088": f"127.0.0.1:{proxied[1]}"}) as haproxy:
        with logged_in(haproxy.address, fresh(), 101) as one:
            assert one.ask_cmd("heartbeat", {})[0] == 200
        path = f"/nowhere/{fresh()}"
        with Raw(haproxy.address, source="127.0.0.9") as raw:
            assert raw.ask(request(path)).status == 404
        eventually(lambda: lines_with(server, path), what="the log")
        assert "127.0.0.9" in lines_with(server, path)[0], "the client's own address"


def listening(path: Path, **more: object) -> dict[str, object]:
    return {"server": {"extra_listen": [{"socket": str(path), **more}]}}


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_everything_is_served_at_a_unix_socket(
    start_server: StartServer, tmp_path: Path, http_server: str
) -> None:
    path = tmp_path / "im.sock"
    first = start_server(http_server=http_server, config=listening(path))
    first.stop(signal.SIGKILL)
    assert path.exists(), "the next server replaces it"
    server = start_server(http_server=http_server, config=listening(path, mode="600"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    address = str(path)
    user = fresh()
    with cmd_client(address) as one:
        one.login(user, 101)
        push = json_request("/api/v1/push", {"app": "101", "user": user, "text": "m"})
        assert ask(address, push).json["sent"] == 1
        assert one.push("msg").json["response"]["data"]["msg"] == "m"
    ask(address, request("/health?1", headers=[("X-Forwarded-For", "203.0.113.9")]))
    eventually(lambda: "203.0.113.9" in server.log_with_requests(), what="the client's own address")
    assert run_cli("status", f"unix:{path}").stdout.startswith("health  ok")


def test_what_another_server_or_file_has_is_left_alone(start_server: StartServer, tmp_path: Path) -> None:
    path, file = tmp_path / "im.sock", tmp_path / "file"
    start_server(config=listening(path))
    file.write_text("text", encoding="utf-8")
    for taken, reason in ((path, "another process listens there"), (file, "the file is no socket")):
        config = tmp_path / "other.yaml"
        ports = "app: {http_port: 0, websocket_port: 0}\n"
        config.write_text(f"{ports}server: {{extra_listen: [{{socket: {taken}}}]}}\n", encoding="utf-8")
        done = run_cli("serve", "--config", str(config), folder=tmp_path)
        assert done.returncode == 1
        assert f"cannot listen on {taken}: {reason}" in done.stderr
    assert file.read_text(encoding="utf-8") == "text"
    assert ask(str(path), request("/health")).status == 200
