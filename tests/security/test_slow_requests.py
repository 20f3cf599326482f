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
