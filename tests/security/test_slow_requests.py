"""Nobody keeps a connection open by sending next to nothing."""

import contextlib
import time

import pytest

from tests.conftest import StartServer
from tests.integration.raw import Raw
from tests.support import HTTP_SERVERS

SILENCE_SECONDS = 15.0
HEADS = {
    path: f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    for path, size in (
        ("/user/sendMessage", 1000),
        ("/login", 1000),
        ("/home/token", 1000),
        ("/api/v1/uploads?app=101&user=a&name=f", 200_000),
    )
}
CHUNKED = b"POST /user/sendMessage HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"


@pytest.mark.full
@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_line_ends_are_no_sign_of_life(start_server: StartServer, http_server: str) -> None:
    server = start_server(http_server=http_server, config={"limits": {"handshake_seconds": 2}})
    for port in (server.http, server.ws):
        with Raw(port) as raw:
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - began < 60 and not closed(raw):
                    raw.send(b"\r\n")
                    time.sleep(0.05)
            assert time.monotonic() - began < 60


def closed(raw: Raw) -> bool:
    """Whether the server has ended the connection; it never answers line ends."""
    raw.sock.setblocking(False)
    try:
        return raw.sock.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        raw.sock.settimeout(10)


@pytest.mark.full
@pytest.mark.slow
def test_a_body_that_does_not_come_is_given_up(start_server: StartServer) -> None:
    with contextlib.ExitStack() as stack:
        waiting = []
        for http_server in HTTP_SERVERS:
            server = start_server(http_server=http_server)
            for name, head in {**HEADS, "first bytes": HEADS["/login"] + b"a", "chunks": CHUNKED}.items():
                raw = stack.enter_context(Raw(server.http))
                raw.send(head)
                waiting.append((f"{http_server} {name}", raw))
        began = time.monotonic()
        for name, raw in waiting:
            left = SILENCE_SECONDS + 60 - (time.monotonic() - began)
            answer = raw.response(max(left, 0.1))
            assert answer.status == 408, name
            assert answer.header("Connection") == "close", name
            raw.ended()


@pytest.mark.full
@pytest.mark.slow
def test_a_body_that_drips_is_given_up(start_server: StartServer) -> None:
    """Each byte comes before the silence is too long, and together they are too few."""
    with contextlib.ExitStack() as stack:
        waiting = {}
        for http_server in HTTP_SERVERS:
            server = start_server(http_server=http_server)
            for name, head in {**HEADS, "chunks": CHUNKED.replace(b"\r\n5\r\n", b"\r\n500\r\n")}.items():
                if "uploads" not in name:  # these have a minimum rate of their own
                    raw = waiting[f"{http_server} {name}"] = stack.enter_context(Raw(server.http))
                    raw.send(head)
        began = time.monotonic()
        while time.monotonic() - began < SILENCE_SECONDS - 5:
            for raw in waiting.values():
                raw.send(b"a")
            time.sleep(2)
        for name, raw in waiting.items():
            left = SILENCE_SECONDS + 60 - (time.monotonic() - began)
            assert raw.response(max(left, 0.1)).status == 408, name
