"""HTTP/1.1 framing (RFC 9112): what two parsers could read in two ways is refused before anything acts on it.

Each request here would push a message if it were taken, so a test sees that nothing was delivered.
The routes are one that the front answers itself and one that it hands on to the application.
"""

from collections.abc import Iterator

import pytest

from tests.support import Server

from .cmd import CmdClient, form_request, fresh, get, good, logged_in
from .raw import Ended, Raw, Response, ask, request

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


@pytest.mark.parametrize("path", [HOT, COLD])
@pytest.mark.parametrize("order", [1, -1])
def test_both_a_length_and_chunks_get_400(
    server: Server, victim: CmdClient, app: int, path: str, order: int
) -> None:
    inner = form_request(HOT, {"appID": app, "userID": "s", "msgID": fresh("m"), "message": "smuggled"})
    chunked = b"0\r\n\r\n" + inner
    lines = [f"Content-Length: {len(chunked)}", "Transfer-Encoding: chunked"][::order]
    refused(server, head(*lines, path=path) + chunked)
    victim.no_push()


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: {n}", "Content-Length: {n}"],
        ["Content-Length: {n}", "Content-Length: 0"],
        ["Content-Length: {n}, {n}"],
        ["Content-Length: {n}, 0"],
        ["Content-Length: -1"],
        ["Content-Length: +{n}"],
        ["Content-Length: 0x10"],
        ["Content-Length: {n} 5"],
        ["Content-Length: 1_0"],
        ["Content-Length: "],
        ["Content-Length: 99999999999999999999999999"],
        ["Content-Length : {n}"],
        [" Content-Length: {n}"],
        ["X: y", " Content-Length: {n}"],
        ["X: y", "\tfolded", "Content-Length: {n}"],
        ["X : y", "Content-Length: {n}"],
        ["X", "Content-Length: {n}"],
        [": y", "Content-Length: {n}"],
        ["X\x00: y", "Content-Length: {n}"],
        ["X: a\x00b", "Content-Length: {n}"],
        ["X: a\rb", "Content-Length: {n}"],
        ["X: a\nContent-Length: {n}"],
        ["Transfer-Encoding : chunked", "Content-Length: {n}"],
        ["Transfer-Encoding: chunked", "Content-Length: {n}"],
        ["Transfer-Encoding: identity, chunked", "Content-Length: {n}"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: \x0bchunked"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", [HOT, COLD])
def test_a_head_that_can_be_read_in_two_ways_is_refused(
    server: Server, victim: CmdClient, app: int, lines: list[str], path: str
) -> None:
    body = form(app)
    refused(server, head(*(line.format(n=len(body)) for line in lines), path=path) + body, 400, 413, 501)
    victim.no_push()


@pytest.mark.parametrize("path", [HOT, COLD])
def test_bare_line_feeds_get_400(server: Server, victim: CmdClient, app: int, path: str) -> None:
    body = form(app)
    refused(server, head(f"Content-Length: {len(body)}", path=path).replace(b"\r\n", b"\n") + body)
    victim.no_push()


@pytest.mark.parametrize(
    "line",
    [
        " POST /user/sendMessageAll HTTP/1.1",
        "POST\t/user/sendMessageAll HTTP/1.1",
        "POST /user/sendMessageAll",
        "POST /user/sendMessageAll HTTP/9.9",
        "POST /user/sendMessageAll http/1.1",
        "POST /user/sendMessageAll HTTP/1.1 x",
        "PO ST /user/sendMessageAll HTTP/1.1",
        "P\x00ST /user/sendMessageAll HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=repr,
)
def test_a_request_line_that_is_none_is_refused(
    server: Server, victim: CmdClient, app: int, line: str
) -> None:
    body = form(app)
    lines = [line, "Host: localhost", ": ".join(FORM), f"Content-Length: {len(body)}", "", ""]
    with Raw(server.http) as raw:
        raw.send("\r\n".join(lines).encode("latin-1") + body)
        try:
            assert raw.response().status in (400, 404, 405, 414, 501, 505)
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


def test_a_repeated_host_gets_400(server: Server) -> None:
    assert ask(server.http, request("/user/list", headers=[("Host", "y")])).status == 400


# What is honest works.


@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_a_chunked_body_is_read(server: Server, victim: CmdClient, app: int, cut: int) -> None:
    body, message = form(app).replace(b"smuggled", b"honest"), "honest"
    chunks = [body[at : at + cut] for at in range(0, len(body), cut)]
    data = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    answer = ask(server.http, head("Transfer-Encoding: chunked") + data + b"0\r\nTrailer: x\r\n\r\n")
    assert good(answer) == {"sendResults": True}
    assert victim.push("msg").json["response"]["data"]["msg"] == message


def test_a_chunked_body_that_comes_byte_by_byte_is_read(server: Server, victim: CmdClient, app: int) -> None:
    body = form(app)
    with Raw(server.http) as raw:
        raw.dribble(head("Transfer-Encoding: CHUNKED") + b"%X\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert good(raw.response()) == {"sendResults": True}
        assert raw.ask(request("/health")).status == 200
    victim.push("msg")


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


def test_a_client_that_expects_100_and_does_not_wait_is_served(server: Server, app: int) -> None:
    body = form(app)
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {len(body)}", "Expect: 100-continue"), body)
        answer = raw.response()
        if answer.status == 100:
            answer = raw.response()
        assert good(answer) == {"sendResults": True}
        assert raw.ask(request("/health")).status == 200


def test_requests_in_one_packet_are_answered_in_order(server: Server, victim: CmdClient, app: int) -> None:
    """Hot and handed-over ones in turn, with a body between them."""
    paths = ["/user/list", "/system/state", "/nosuch", "/health", "/user/online"] * 20
    data = b""
    for number, path in enumerate(paths):
        data += request(f"{path}?appID={app}&userID=u{number}")
        data += form_request(HOT, {"appID": app, "userID": "x", "msgID": fresh("m"), "message": f"{number}"})
    with Raw(server.http) as raw:
        raw.send(data)
        for number, path in enumerate(paths):
            answer = raw.response()
            assert answer.status == (404 if path == "/nosuch" else 200)
            if path == "/user/online":
                assert good(answer)["userID"] == f"u{number}"
            assert good(raw.response()) == {"sendResults": True}
    for number in range(len(paths)):
        assert victim.push("msg").json["response"]["data"]["msg"] == f"{number}"


def test_a_pipeline_cut_at_every_byte_is_answered_in_order(server: Server) -> None:
    one = request("/user/online?userID=a") + form_request("/user/sendMessage", {"userID": "", "message": "x"})
    data = one + request("/system/state") + request("/nosuch")
    with Raw(server.http) as raw:
        for cut in range(1, len(data), 5):
            raw.send(data[:cut])
            raw.send(data[cut:])
            assert [raw.response().status for _ in range(4)] == [200, 200, 200, 404]


def test_empty_lines_between_requests_are_skipped(server: Server) -> None:
    """RFC 9112 section 2.2."""
    with Raw(server.http) as raw:
        raw.send(b"\r\n\r\n", request("/health"), b"\r\n", request("/health"))
        assert [raw.response().status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("line", ["Transfer-Encoding: chunked", "Expect: 100-continue"])
def test_an_empty_line_before_a_request_does_not_hide_its_body(
    server: Server, victim: CmdClient, app: int, line: str
) -> None:
    """An inner request that is a body is not served, whoever answers the outer one."""
    inner = form_request(HOT, {"appID": app, "userID": "s", "msgID": fresh("m"), "message": "smuggled"})
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    if not line.endswith("chunked"):
        line, body = f"{line}\r\nContent-Length: {len(inner)}", inner
    with Raw(server.http) as raw:
        raw.send(request("/health"), b"\r\n", head(line, path="/nosuch"), body, request("/ready"))
        statuses = [raw.response().status for _ in range(3)]
        if statuses[1] == 100:
            statuses = [statuses[0], statuses[2], raw.response().status]
        assert statuses == [200, 404, 200]
    victim.no_push()


def test_a_connection_is_kept_alive_and_ends_when_asked_to(server: Server) -> None:
    for path in ("/health", "/system/state"):
        with Raw(server.http) as raw:
            for _ in range(3):
                answer = raw.ask(request(path))
                assert (answer.header("connection") or "keep-alive").lower() == "keep-alive"
            answer = raw.ask(request(path, headers=[("Connection", "close")]))
            assert (answer.header("connection") or "close").lower() == "close"
            raw.ended()
        with Raw(server.http) as raw:
            assert raw.ask(request(path, headers=[("Connection", "close, foo")])).status == 200
            raw.ended()


@pytest.mark.parametrize("path", [HOT, COLD])
def test_chunks_in_http_1_0_end_the_connection(server: Server, path: str) -> None:
    """RFC 9112 section 6.1: a server in between may have seen no chunks."""
    rows = [("Connection", "keep-alive"), ("Transfer-Encoding", "chunked"), FORM]
    old = request(path, method="POST", protocol="HTTP/1.0", headers=rows)
    with Raw(server.http) as raw:
        raw.send(old, b"0\r\n\r\n", request("/health"))
        assert raw.response().status == 200
        raw.ended()


def test_http_1_0_ends_after_one_answer_unless_it_asks_to_go_on(server: Server) -> None:
    for path in ("/user/list", "/system/state"):
        with Raw(server.http) as raw:
            assert raw.ask(request(path, protocol="HTTP/1.0")).status == 200
            raw.ended()
        with Raw(server.http) as raw:
            rows = [("Connection", "keep-alive")]
            for _ in range(2):
                answer = raw.ask(request(path, protocol="HTTP/1.0", headers=rows))
                assert (answer.header("connection") or "").lower() == "keep-alive"


@pytest.mark.parametrize("path", ["/health", "/user/list?appID=101", "/system/state", "/nosuch"])
def test_head_gets_the_head_of_get_without_a_body(server: Server, path: str) -> None:
    with Raw(server.http) as raw:
        got = raw.ask(request(path))
        head_only = raw.ask(request(path, method="HEAD"))
        assert head_only.status == got.status
        assert head_only.header("content-type") == got.header("content-type")
        if path != "/nosuch" and path != "/system/state":
            assert head_only.header("content-length") == got.header("content-length")
        assert raw.ask(request("/health")).status == 200


@pytest.mark.parametrize("path", [HOT, COLD, "/user/list", "/system/state"])
def test_a_preflight_is_allowed(server: Server, path: str) -> None:
    rows = [("Origin", "http://localhost:3000"), ("Access-Control-Request-Method", "POST")]
    rows.append(("Access-Control-Request-Headers", "authorization, content-type"))
    with Raw(server.http) as raw:
        answer: Response = raw.ask(request(path, method="OPTIONS", headers=rows))
        assert answer.status in (200, 204)
        assert answer.header("access-control-allow-origin") == "*"
        assert "POST" in (answer.header("access-control-allow-methods") or "")
        allowed = (answer.header("access-control-allow-headers") or "").lower()
        assert "authorization" in allowed
        assert "content-type" in allowed
        assert raw.ask(request("/health")).status == 200


# Bodies.


@pytest.mark.parametrize("path", [HOT, "/user/sendMessage", COLD])
def test_a_body_above_the_limit_is_answered_1001_and_not_taken(
    server: Server, victim: CmdClient, path: str
) -> None:
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {5 << 20}", path=path))
        answer = raw.response()
        assert (answer.status, answer.json["code"]) == (200, 1001)
    victim.no_push()


def test_a_body_above_the_limit_that_keeps_coming_still_gets_its_answer(server: Server) -> None:
    body = b"message=" + b"x" * (5 << 20)
    with Raw(server.http) as raw:
        try:
            raw.send(head(f"Content-Length: {len(body)}"), body)
        except ConnectionError:
            assert raw.waiting or raw.sock.recv(1)
            return
        answer = raw.response()
        assert (answer.status, answer.json["code"]) == (200, 1001)


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


def test_a_body_of_4_mib_is_taken(server: Server) -> None:
    body = b"userID=&message=x&filler="
    body += b"y" * ((4 << 20) - len(body))
    with Raw(server.http) as raw:
        raw.send(head(f"Content-Length: {len(body)}"), body)
        assert good(raw.response()) == {"sendResults": False}
        assert raw.ask(request("/health")).status == 200


def test_a_body_that_comes_byte_by_byte_is_read(server: Server, victim: CmdClient, app: int) -> None:
    body = form(app)
    with Raw(server.http) as raw:
        raw.dribble(head(f"Content-Length: {len(body)}") + body)
        assert good(raw.response()) == {"sendResults": True}
    victim.push("msg")


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
