"""HTTP/1.1 framing (RFC 9112): what two parsers could read in two ways is refused before anything acts on it.

Each request here would push a message if it were taken, so a test sees that nothing was delivered.
The routes are one that the front answers itself and one that it hands on to the application.
"""

from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import CmdClient, form_request, fresh, get, good, logged_in
from .raw import Ended, Raw, ask, request

HOT, COLD = "/user/sendMessageAll", "/user/kick"
FORM = ("Content-Type", "application/x-www-form-urlencoded")


@pytest.fixture
def victim(server: Server, app: int) -> Iterator[CmdClient]:
    """Who would get what is smuggled."""
    with logged_in(server.ws, "victim", app) as one:
        yield one


def form(app: int) -> bytes:
    """A push that must not happen."""
    return f"appID={app}&userID=smuggler&msgID={fresh('m')}&message=smuggled".encode()


def refused(server: Server, data: bytes, *statuses: int) -> None:
    """The first answer refuses and the connection ends: whatever follows is not read as a request."""
    with Raw(server.http) as raw:
        raw.send(data)
        answer = raw.response()
        assert answer.status in (statuses or (400,)), answer
        raw.ended()


def head(*lines: str, path: str = HOT) -> bytes:
    """A POST head of these lines behind Host and the type of a form."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", ": ".join(FORM), *lines, "", ""]).encode()


TWO_WAYS = [
    ["Content-Length: {n}", "Content-Length: {n}"],
    ["Content-Length: {n}", "Content-Length: 0"],
    ["Content-Length: {n}, {n}"],
    ["Content-Length: -1"],
    ["Content-Length: +{n}"],
    ["Content-Length: 1_0"],
    ["Content-Length: "],
    ["Content-Length: 99999999999999999999999999"],
    ["Content-Length : {n}"],
    ["X: y", " Content-Length: {n}"],
    ["X: y", "\tfolded", "Content-Length: {n}"],
    [": y", "Content-Length: {n}"],
    ["X\x00: y", "Content-Length: {n}"],
    ["X: a\rb", "Content-Length: {n}"],
    ["X: a\nContent-Length: {n}"],
    ["Content-Length: {n}", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: {n}"],
    ["Transfer-Encoding: identity, chunked", "Content-Length: {n}"],
    ["Transfer-Encoding: chunked, chunked"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    ["Transfer-Encoding: \x0bchunked"],
]


@pytest.mark.parametrize("path", [HOT, COLD])
def test_a_head_that_can_be_read_in_two_ways_is_refused(
    server: Server, victim: CmdClient, app: int, path: str
) -> None:
    body = b"0\r\n\r\n" + form_request(HOT, {"appID": app, "userID": "s", "msgID": "", "message": "smuggled"})
    for lines in TWO_WAYS:
        for content in (form(app), body):
            data = head(*(line.format(n=len(content)) for line in lines), path=path) + content
            refused(server, data, 400, 413, 501)
    refused(server, head(f"Content-Length: {len(body)}", path=path).replace(b"\r\n", b"\n") + body)
    victim.no_push()


def test_a_request_line_that_is_none_is_refused(server: Server, victim: CmdClient, app: int) -> None:
    body = form(app)
    for line in (
        " POST /user/sendMessageAll HTTP/1.1",
        "POST\t/user/sendMessageAll HTTP/1.1",
        "POST /user/sendMessageAll",
        "POST /user/sendMessageAll HTTP/9.9",
        "POST /user/sendMessageAll http/1.1",
        "POST /user/sendMessageAll HTTP/1.1 x",
        "PO ST /user/sendMessageAll HTTP/1.1",
        "P\x00ST /user/sendMessageAll HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        lines = [line, "Host: localhost", ": ".join(FORM), f"Content-Length: {len(body)}", "", ""]
        with Raw(server.http) as raw:
            raw.send("\r\n".join(lines).encode("latin-1") + body)
            try:
                assert raw.response().status in (400, 404, 405, 414, 501, 505), line
            except Ended:
                assert not raw.waiting, "a refusal without a head"
            raw.rest()
    victim.no_push()


@pytest.mark.parametrize(
    "body",
    [
        "5\r\nhello\r\n0\r\n\r\nX",
        "-1\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "5;a=b\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
    ],
    ids=repr,
)
def test_broken_chunks_push_nothing_and_raise_nothing(server: Server, victim: CmdClient, body: str) -> None:
    """Whether the first request is taken or refused, what follows broken chunks is not a request."""
    data = head("Transfer-Encoding: chunked") + body.encode()
    smuggled = f"POST {HOT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
    with Raw(server.http) as raw:
        raw.send(data + smuggled)
        raw.sock.shutdown(1)
        left = raw.rest()
    assert b" 500 " not in left
    if not body.endswith("X"):
        assert left.count(b"HTTP/1.1 ") <= 1, left
    victim.no_push()


def test_a_request_without_host_gets_400(server: Server) -> None:
    """RFC 9112 section 3.2; HTTP/1.0 had none."""
    assert ask(server.http, request("/user/list", host=None)).status == 400
    assert ask(server.http, request("/user/list", host=None, protocol="HTTP/1.0")).status == 200


@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_a_chunked_body_is_read(server: Server, victim: CmdClient, app: int, cut: int) -> None:
    body, message = form(app).replace(b"smuggled", b"honest"), "honest"
    chunks = [body[at : at + cut] for at in range(0, len(body), cut)]
    data = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    answer = ask(server.http, head("Transfer-Encoding: chunked") + data + b"0\r\nTrailer: x\r\n\r\n")
    assert good(answer) == {"sendResults": True}
    assert victim.push("msg").json["response"]["data"]["msg"] == message


@pytest.mark.parametrize("path", [HOT, COLD])
def test_a_client_that_expects_100_gets_it_before_it_sends_its_body(
    server: Server, app: int, path: str
) -> None:
    body = form(app)
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {len(body)}", "Expect: 100-continue", path=path))
        interim = raw.response()
        assert interim.status == 100
        raw.send(body)
        assert raw.response().status == 200
        assert raw.ask(request("/health")).status == 200


@pytest.mark.parametrize("path", [HOT, "/user/sendMessage", COLD])
def test_a_body_above_the_limit_is_answered_1001_and_not_taken(
    server: Server, victim: CmdClient, path: str
) -> None:
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {5 << 20}", path=path))
        answer = raw.response()
        assert (answer.status, answer.json["code"]) == (200, 1001)
    victim.no_push()


def test_a_chunked_body_above_the_limit_is_answered_1001_and_not_taken(
    server: Server, victim: CmdClient, app: int
) -> None:
    with Raw(server.http) as raw:
        piece = b"x" * 65536
        raw.send(head("Transfer-Encoding: chunked"), b"%x\r\n%b\r\n" % (len(form(app)), form(app)))
        try:
            for _ in range(80):
                raw.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            raw.send(b"0\r\n\r\n")
        except ConnectionError:
            pass
        answer = raw.response()
        assert (answer.status, answer.json["code"]) == (200, 1001)
    victim.no_push()


def test_a_body_that_never_ends_pushes_nothing(server: Server, victim: CmdClient, app: int) -> None:
    body = form(app)
    for path in (HOT, COLD):
        with Raw(server.http) as raw:
            raw.send(head(f"Content-Length: {len(body) + 1}", path=path), body)
            raw.sock.shutdown(1)
            left = raw.rest()
            assert b'"sendResults":true' not in left
            assert b" 500 " not in left
    victim.no_push()
    assert good(get(server.http, "/user/online", appID=app, userID="victim"))["online"]
