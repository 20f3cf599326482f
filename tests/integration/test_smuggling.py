"""HTTP/1.1 framing (RFC 9112): what two parsers could read in two ways is
refused before anything acts on it.

Here is what only a socket shows, through both HTTP servers. How heads and
bodies are read is proved in ``tests/gateway/transport/test_head.py`` and
against other parsers in ``tests/fuzz``. Each request here would push a message
if it were taken. The routes are one that the front answers itself and one that
it hands on to the application.
"""

from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import CmdClient, form_request, good, logged_in
from .raw import Raw, ask, request

HOT = "/user/sendMessageAll"
COLD = "/user/kick"


@pytest.fixture
def victim(server: Server, app: int) -> Iterator[CmdClient]:
    """Who would get what is smuggled."""
    with logged_in(server.ws, "victim", app) as one:
        yield one


def form(app: int, message: str = "smuggled") -> bytes:
    """A push that must not happen."""
    return f"appID={app}&userID=smuggler&msgID=&message={message}".encode()


def head(*lines: str, path: str = HOT) -> bytes:
    """A POST head of these lines behind Host and the type of a form."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: localhost", kind, *lines, "", ""]
    ).encode()


@pytest.mark.parametrize("path", [HOT, COLD])
def test_a_head_that_can_be_read_in_two_ways_is_refused(
    server: Server, victim: CmdClient, app: int, path: str
) -> None:
    """The connection ends: whatever follows is not read as a request."""
    chunks = b"0\r\n\r\n" + form_request(
        HOT, {"appID": app, "userID": "s", "message": "smuggled"}
    )
    requests = [
        head(*(line.format(n=len(content)) for line in lines), path=path) + content
        for content in (form(app), chunks)
        for lines in (
            ["Content-Length: {n}", "Content-Length: 0"],
            ["Content-Length: +{n}"],
            ["Content-Length : {n}"],
            ["X: y", " Content-Length: {n}"],
            ["X: a\nContent-Length: {n}"],
            ["Content-Length: {n}", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: chunked", "Content-Length: {n}"],
            ["Transfer-Encoding: chunked, chunked"],
            ["Transfer-Encoding: \x0bchunked"],
        )
    ]
    bare = (
        head(f"Content-Length: {len(chunks)}", path=path).replace(b"\r\n", b"\n")
        + chunks
    )
    no_line = [
        head(f"Content-Length: {len(form(app))}", path=path).replace(b"POST ", wrong, 1)
        + form(app)
        for wrong in (b" POST ", b"POST\t", b"PO ST ")
    ]
    for data in [*requests, bare, *no_line]:
        with Raw(server.http) as raw:
            raw.send(data)
            answer = raw.response()
            assert answer.status in (400, 404, 405, 413, 501), (data, answer)
            raw.ended()
    victim.no_push()


@pytest.mark.parametrize("path", [HOT, COLD])
def test_a_body_is_asked_for_and_one_that_is_too_large_or_never_ends_is_not_taken(
    server: Server, victim: CmdClient, app: int, path: str
) -> None:
    body = form(app)
    with Raw(server.http) as raw:
        raw.send(
            head(f"Content-Length: {len(body)}", "Expect: 100-continue", path=path)
        )
        assert raw.response().status == 100
        raw.send(body)
        assert raw.response().status == 200
        assert raw.ask(request("/health")).status == 200
    if path == HOT:
        victim.push("msg")
    else:
        assert good(
            ask(server.http, request(f"/user/online?appID={app}&userID=victim"))
        )["online"]
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {5 << 20}", path=path))
        assert (answer := raw.response()).json["code"] == 1001, answer
    with Raw(server.http) as raw:
        raw.send(
            head("Transfer-Encoding: chunked", path=path),
            b"%x\r\n%b\r\n" % (len(body), body),
        )
        try:
            for _ in range(80):
                raw.send(b"%x\r\n%b\r\n" % (65536, b"x" * 65536))
            raw.send(b"0\r\n\r\n")
        except ConnectionError:
            pass
        assert raw.response().json["code"] == 1001
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {len(body) + 1}", path=path), body)
        raw.sock.shutdown(1)
        left = raw.rest()
        assert b'"sendResults":true' not in left
        assert b" 500 " not in left
    victim.no_push()
