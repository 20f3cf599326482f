"""Requests to a server of theirs that is slow, strange or hostile."""

from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from imserver_arrivals.live import LiveError
from imserver_arrivals.web import Web


class Handler(BaseHTTPRequestHandler):
    """What each path answers."""

    protocol_version = "HTTP/1.1"
    tries = 0

    def do_GET(self) -> None:
        Handler.tries += 1
        status = {"/moved": 302, "/refused": 401, "/away": 502}.get(self.path, 200)
        status = 429 if self.path == "/many" and Handler.tries < 3 else status
        status = 429 if self.path == "/tomorrow" else status
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/good")
        if status == 429:
            self.send_header("Retry-After", "0" if self.path == "/many" else "86400")
        pieces: Any = {"/deep": [b"[" * 100_000], "/text": [b"<html>"]}.get(self.path, [b'{"is": "good"}'])
        if self.path in ("/endless", "/slow"):
            self.send_header("Transfer-Encoding", "chunked")
            pieces = (
                b"1\r\nx\r\n" if self.path == "/slow" else b"800\r\n%b\r\n" % bytes(2048) for _ in range(9999)
            )
        else:
            self.send_header("Content-Length", str(len(pieces[0])))
        self.end_headers()
        for piece in pieces:
            try:
                self.wfile.write(piece)
            except OSError:
                return
            sleep(0.05 if self.path == "/slow" else 0)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.tries = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "error", "is_final"),
    [
        ("/moved", "theirs: status 302", False),
        ("/refused", "theirs: status 401", True),
        ("/away", "theirs: status 502", False),
        ("/tomorrow", "theirs: status 429", False),
        ("/deep", "theirs: the answer cannot be read", False),
        ("/text", "theirs: the answer cannot be read", False),
        ("/endless", "theirs: more than 16777216 bytes", False),
        ("/slow", "theirs: more than 16777216 bytes, or 0.5 s", False),
    ],
)
def test_every_bad_answer_is_one_line_soon(
    address: str, path: str, error: str, is_final: bool, tmp_path: Path
) -> None:
    began, file = monotonic(), tmp_path / "file"
    with closing(Web()) as web:
        with pytest.raises(LiveError, match=error) as caught:
            web.ask("GET", address + path, "theirs", seconds=0.5)
        assert (caught.value.is_final, str(caught.value).count("\n")) == (is_final, 0)
        if path == "/endless":
            with pytest.raises(LiveError):
                web.save(address + path, file, 1000, "theirs")
            assert not file.exists()
        assert web.ask("GET", f"{address}/good", "theirs", kind=dict[str, str]) == {"is": "good"}
    assert monotonic() - began < 10


def test_a_server_may_let_it_wait(address: str) -> None:
    with closing(Web()) as web:
        assert web.ask("GET", f"{address}/many", "theirs") == {"is": "good"}
    assert Handler.tries == 3


@pytest.mark.parametrize(
    "other", ["http://example.org", "http://localhost.example.org", "ftp://x", "https:///x"]
)
def test_a_token_goes_to_no_address_where_others_read_it(other: str) -> None:
    with closing(Web()) as web, pytest.raises(LiveError, match="has to begin with https://"):
        web.ask("GET", other, "theirs")
