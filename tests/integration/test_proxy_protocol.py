"""Listeners whose clients are proxies that name each client in a PROXY header."""

import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.deploy.proxy import HAPROXY, HaProxy
from tests.integration.cmd import fresh, logged_in
from tests.integration.raw import Address, Ended, Raw, handshake, request
from tests.ports import free_ports
from tests.support import Server, eventually

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
def ports() -> int:
    return free_ports(2)


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer, ports: int) -> Server:
    rows = [{"port": ports, "proxy_protocol": True}]
    trusted = ["127.0.0.1/32"]
    limits = {"handshake_seconds": 1}
    return start_shared_server(
        config={"server": {"extra_listen": rows, "trusted_proxies": trusted}, "limits": limits}
    )


@pytest.fixture
def proxied(server: Server, ports: int) -> Address:
    return ("127.0.0.1", ports)


def lines_with(server: Server, path: str) -> list[str]:
    """The lines of the request log about a path."""
    return [line for line in server.log_with_requests().splitlines() if path in line]


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in GOOD for size in (1, 1000)])
def test_the_header_names_the_client(server: Server, proxied: Address, name: str, size: int) -> None:
    header, client = GOOD[name]
    path = f"/nowhere/{fresh()}"
    with Raw(proxied) as raw:
        raw.dribble(header + request(path), size)
        assert raw.response().status == 404
        raw.ask(request(path, headers=[("X-Forwarded-For", FORGED)]))
    first, second = eventually(lambda: (lines := lines_with(server, path))[1:] and lines, what="the log")
    assert client in first
    assert (FORGED in second) == (client == "127.0.0.1"), "the client is no trusted proxy"


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_header_ends_the_connection_without_an_answer(proxied: Address, name: str) -> None:
    with Raw(proxied) as raw:
        raw.send(BAD[name])
        with pytest.raises(Ended, match=r"b''"):
            raw.response()


def test_others_than_trusted_proxies_are_closed(proxied: Address) -> None:
    with Raw(proxied, source="127.0.0.7") as raw, pytest.raises((Ended, ConnectionError)):
        raw.ask(LINE + request("/health"))


def test_a_websocket_begins_behind_a_header(proxied: Address) -> None:
    with Raw(proxied) as raw:
        raw.send(binary(CLIENT) + handshake("/acc"))
        assert raw.response().status == 101


@pytest.mark.full
@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_haproxy_passes_clients_on(server: Server, ports: int, tmp_path: Path, version: str) -> None:
    text = HAPROXY.read_text(encoding="utf-8").replace("send-proxy-v2", version)
    with HaProxy(tmp_path, text, {"127.0.0.1:8088": f"127.0.0.1:{ports}"}) as haproxy:
        with logged_in(haproxy.address, fresh(), 101) as one:
            assert one.ask_cmd("heartbeat", {})[0] == 200
        path = f"/nowhere/{fresh()}"
        with Raw(haproxy.address, source="127.0.0.9") as raw:
            assert raw.ask(request(path)).status == 404
        eventually(lambda: lines_with(server, path), what="the log")
        assert "127.0.0.9" in lines_with(server, path)[0], "the client's own address"
