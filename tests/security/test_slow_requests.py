"""Nobody keeps a connection open by sending next to nothing."""

import contextlib
import time

import pytest

from tests.conftest import StartServer
from tests.integration.raw import Raw
from tests.support import DOORS

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


@pytest.mark.parametrize("door", DOORS)
def test_line_ends_are_no_sign_of_life(start_server: StartServer, door: str) -> None:
    server = start_server(door=door, config={"limits": {"handshake_seconds": 1}})
    for port in (server.http, server.ws):
        with Raw(port) as raw:
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - began < 8 and not closed(raw):
                    raw.send(b"\r\n")
                    time.sleep(0.05)
            assert time.monotonic() - began < 5


def closed(raw: Raw) -> bool:
    """Whether the server has ended the connection; it never answers line ends."""
    raw.sock.setblocking(False)
    try:
        return raw.sock.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        raw.sock.settimeout(10)


@pytest.mark.slow
def test_a_body_that_does_not_come_is_given_up(start_server: StartServer) -> None:
    with contextlib.ExitStack() as stack:
        waiting = []
        for door in DOORS:
            server = start_server(door=door)
            for name, head in {**HEADS, "first bytes": HEADS["/login"] + b"a", "chunks": CHUNKED}.items():
                raw = stack.enter_context(Raw(server.http))
                raw.send(head)
                waiting.append((f"{door} {name}", raw))
        began = time.monotonic()
        for name, raw in waiting:
            left = SILENCE_SECONDS + 2 - (time.monotonic() - began)
            answer = raw.response(max(left, 0.1))
            assert answer.status == 408, name
            assert answer.header("Connection") == "close", name
            raw.ended(5)
        assert time.monotonic() - began < SILENCE_SECONDS + 2
