"""Request heads, read strictly or not at all, those that have come before as if
they had not; and bodies."""

import io
import json
from http.client import parse_headers

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway import errors
from imserver.gateway.transport.http1 import (
    BODY_BYTES_PER_SECOND,
    BODY_SECONDS,
    BODY_SILENCE_SECONDS,
    MAX_BYTES,
    MAX_HEADS,
    MAX_LINES,
    BadHead,
    Body,
    KnownHeads,
    ParsedHead,
    end_of_head,
    parse_head,
    plain_head,
    plain_request,
    problem_body,
    problem_response,
    response_head,
    streams,
)
from tests.gateway.transport.test_frames import pieces
from tests.rows import PROBLEMS

GOOD = b"GET /user/list?appID=101 HTTP/1.1\r\nHost: chat.example\r\n\r\n"


def head(*lines: bytes, first: bytes = b"POST /user/sendMessage HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"Host: chat.example", *lines, b"", b""))


NO_HOSTS = (b"x y", b"x/y", b"x\\y", b"x@y", b"x#", b"\xe9", b"x?", b"<x>", b"x\ty")
"""RFC 9112 section 3.2."""
NO_TARGETS = (
    b"  /",
    b" / ",
    b" /a b",
    b" /\xc3\xa4\x01",
    b" /\xc3\xa4\x7f",
    b" /\xc3\xa4 b",
)


def status_of(data: bytes) -> int:
    """The status with which a head is refused, 0 if it is not."""
    try:
        parse_head(data)
    except BadHead as bad:
        return bad.problem.status
    return 0


def test_a_head_of_up_to_99_lines_ends_at_its_empty_line_and_is_read_unchanged() -> (
    None
):
    assert end_of_head(GOOD, 1000) == len(GOOD)
    assert end_of_head(GOOD + b"body\r\n\r\n", 1000) == len(GOOD)
    assert end_of_head(GOOD, len(GOOD)) == len(GOOD)
    for size in range(len(GOOD)):
        assert end_of_head(GOOD[:size].removesuffix(b"\r"), 1000) == 0
    parsed = parse_head(
        head(b"Content-Length: 12", b"X-Two: a", b"x-two:  b ", b"X-Latin: \xe9")
    )
    assert (parsed.method, parsed.url, parsed.version) == (
        "POST",
        b"/user/sendMessage",
        "1.1",
    )
    assert parsed.headers["host"] == "chat.example"
    assert parsed.headers["x-two"] == "a,b"
    assert parsed.headers["x-latin"] == "é"
    assert (parsed.length, parsed.chunked, parsed.keep_alive) == (12, False, True)
    lines = [b"X%d: y" % number for number in range(98)]
    raw = head(*lines)
    parse_head(raw)
    parse_headers(io.BytesIO(raw.partition(b"\r\n")[2]))
    assert status_of(head(*lines, b"X: y")) == 431


@pytest.mark.parametrize(
    ("data", "limit", "status"),
    [
        (GOOD, len(GOOD) - 1, 431),
        (b"x" * len(GOOD), len(GOOD) - 1, 431),
        (b"GET / HTTP/1.1\nHost: x\n", 1000, 400),
    ],
)
def test_a_head_that_is_bad_is_refused_before_it_ends(
    data: bytes, limit: int, status: int
) -> None:
    with pytest.raises(BadHead) as caught:
        end_of_head(data, limit)
    assert caught.value.problem.status == status


@pytest.mark.parametrize(
    ("host", "under"),
    [
        ("ntfy.example", "/ntfy"),
        ("NTFY.example.:80", "/ntfy"),
        ("chat.example", ""),
        ("[::1]", ""),
    ],
)
def test_a_host_may_be_served_under_a_path(host: str, under: str) -> None:
    raw = f"PUT /topic/a?b=c HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    mounts = {"ntfy.example": "/ntfy"}
    parsed = parse_head(raw, mounts)
    assert (parsed.path, parsed.query) == (f"{under}/topic/a", b"b=c")
    assert parse_head(plain_request(raw, parsed, b"")).path == parsed.path
    assert KnownHeads(mounts).read(raw).path == parsed.path
    assert parse_head(raw, {"": "/all"}).path == "/all/topic/a"


# --- what it says -------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [b"", b"x_y:80", b"[2001:db8::7]:80", b"CHAT.example.", b"192.0.2.7", b"%41"],
)
def test_a_host_may_be_any_that_a_url_can_name(host: bytes) -> None:
    assert (
        parse_head(GOOD.replace(b"chat.example", host)).headers["host"] == host.decode()
    )


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        *((b"1.1", wish, True) for wish in (None, b"keep-alive")),
        *((b"1.1", wish, False) for wish in (b"close", b"Close", b"x, close")),
        *((b"1.0", wish, True) for wish in (b"keep-alive", b"Keep-Alive, x")),
        *((b"1.0", wish, False) for wish in (None, b"keep-alive, close")),
    ],
)
@pytest.mark.parametrize(
    "body", [(), (b"Content-Length: 5",), (b"Transfer-Encoding: Chunked",)]
)
def test_a_connection_is_kept_as_the_client_wishes(
    version: bytes, connection: bytes | None, keep_alive: bool, body: tuple[bytes, ...]
) -> None:
    """RFC 9112 section 6.1: a server in between may not know chunks, if it is
    of HTTP/1.0."""
    lines = (() if connection is None else (b"Connection: " + connection,)) + body
    parsed = parse_head(head(*lines, first=b"POST / HTTP/" + version))
    chunked = b"Chunked" in b"".join(body)
    assert (parsed.length, parsed.chunked) == (
        5 if body and not chunked else None,
        chunked,
    )
    assert parsed.keep_alive is (keep_alive and not (chunked and version == b"1.0"))


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/user/list?appID=101", b"/user/list?appID=101"),
        ("/user/online?userID=马远", b"/user/online?userID=%E9%A9%AC%E8%BF%9C"),
        ("/文/é?ü=%C3%BC", b"/%E6%96%87/%C3%A9?%C3%BC=%C3%BC"),
        ("http://localhost/user/list?a=/b", b"/user/list?a=/b"),
        ("http://localhost", b"/"),
        ("http://localhost?x=/health", b"/?x=/health"),
        ("http://商店.example/ws?systemId=商店", b"/ws?systemId=%E5%95%86%E5%BA%97"),
    ],
)
def test_a_target_is_read_as_a_path_in_ascii(target: str, url: bytes) -> None:
    """Without its host; raw bytes above 0x7F are percent-encoded, as Go's
    net/http takes them."""
    raw = head(first=f"GET {target} HTTP/1.1".encode())
    parsed = parse_head(raw)
    assert parsed.url == url
    assert (parsed.path.encode(), parsed.query) == (
        url.partition(b"?")[0],
        url.partition(b"?")[2],
    )
    plain = head(first=b"GET " + url + b" HTTP/1.1")
    assert plain_request(raw, parsed, b"") == plain_head(raw, parsed) == plain


@pytest.mark.parametrize(
    "data",
    [
        *(b"GET" + target + b" HTTP/1.1\r\nHost: x\r\n\r\n" for target in NO_TARGETS),
        b"NONSENSE / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        *(GOOD.replace(b"chat.example", host) for host in NO_HOSTS),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    assert 400 <= status_of(data) < 600


# --- heads that have come before ----------------------------------------------

USUAL = (b"Content-Type: application/json", b"Content-Length: 12")
KEY = b"Authorization: Bearer abc.DEF-123_~+/="
HANDSHAKE = b"GET /acc HTTP/1.1"
HANDSHAKE_LINES = (
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
)
HANDSHAKE_KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
OTHER_HANDSHAKE_KEY = b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw=="


def fields_of(parsed: ParsedHead) -> dict[str, object]:
    return {name: getattr(parsed, name) for name in ParsedHead.__slots__}


@pytest.mark.parametrize(
    "data",
    [
        head(*HANDSHAKE_LINES, first=HANDSHAKE),
        *(
            head(*HANDSHAKE_LINES, HANDSHAKE_KEY, secret, first=HANDSHAKE)
            for secret in (
                b"Cookie: c",
                KEY,
                b"Sec-WebSocket-Protocol: token",
                HANDSHAKE_KEY,
            )
        ),
        head(*HANDSHAKE_LINES, HANDSHAKE_KEY, first=b"GET /acc?token=1 HTTP/1.1"),
        head(*USUAL, b"Cookie: session=1"),
        head(*USUAL, b"X-Request-Id: 7"),
        head(*USUAL, b"Authorization: Basic YTpi"),
        head(*USUAL, b"Authorization: Bearer a b"),
        head(*USUAL, b"Authorization: Bearer a", b"Authorization: Bearer a"),
        head(*USUAL, first=b"POST /user/sendMessage?token=1 HTTP/1.1"),
        head(*USUAL, first=b"GET /uploads/secret HTTP/1.1"),
        head(*USUAL, b"User-Agent: " + b"x" * MAX_BYTES),
        head(*USUAL, *[b"Accept: x"] * MAX_LINES),
    ],
)
def test_what_may_be_secret_or_is_large_or_comes_once_is_not_remembered(
    data: bytes,
) -> None:
    known = KnownHeads()
    assert fields_of(known.read(data)) == fields_of(parse_head(data))
    assert not known.heads


@pytest.mark.parametrize(
    ("first", "usual", "secrets"),
    [
        (
            b"POST /user/sendMessage HTTP/1.1",
            USUAL,
            (b"Authorization: Bearer one", b"authorization: Bearer two", KEY),
        ),
        (HANDSHAKE, HANDSHAKE_LINES, (HANDSHAKE_KEY, OTHER_HANDSHAKE_KEY)),
    ],
)
def test_a_key_is_of_its_own_request_only_and_is_not_remembered(
    first: bytes, usual: tuple[bytes, ...], secrets: tuple[bytes, ...]
) -> None:
    known = KnownHeads()
    for secret in (*secrets, secrets[0]):
        data = head(*usual, secret, first=first)
        assert fields_of(known.read(data)) == fields_of(parse_head(data))
    assert list(known.heads) == [head(*usual, first=first)]
    assert (
        not {"authorization", "sec-websocket-key"}
        & known.heads[head(*usual, first=first)].headers.keys()
    )
    assert known.read(head(*USUAL)) is known.read(head(*USUAL)), "it is not read again"
    assert known.read(head(*USUAL)) is not known.read(head(*USUAL, b"Accept: x"))


def test_no_more_than_so_many_are_remembered() -> None:
    known = KnownHeads()
    for number in range(3 * MAX_HEADS):
        known.read(head(USUAL[0], b"Content-Length: %d" % number))
        assert len(known.heads) <= MAX_HEADS


def parts(response: bytes) -> tuple[str, list[str], bytes]:
    head, body = response.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    return first, lines, body


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda problem: problem.code)
def test_every_problem_is_a_whole_response_that_ends_its_connection(
    problem: errors.HttpProblem,
) -> None:
    first, lines, body = parts(problem_response(problem, (("X-More", "13"),)))
    assert "X-More: 13" in lines
    assert first.startswith(f"HTTP/1.1 {problem.status} ")
    assert f"Content-Length: {len(body)}" in lines
    assert "Connection: close" in lines
    assert "Content-Type: application/json; charset=utf-8" in lines
    found = json.loads(body)
    assert (found["code"], found["message"], found["temporary"]) == (
        problem.code,
        problem.message,
        problem.temporary,
    )
    again = json.loads(problem_body(problem))
    assert again["request_id"] != found["request_id"], "the log knows each"


@pytest.mark.parametrize(
    ("keep_alive", "version", "connection"),
    [
        (True, "1.1", []),
        (False, "1.1", ["Connection: close"]),
        (True, "1.0", ["Connection: keep-alive"]),
        (False, "1.0", ["Connection: close"]),
    ],
)
def test_a_head_shows_whether_the_connection_is_kept_where_the_version_does_not(
    keep_alive: bool, version: str, connection: list[str]
) -> None:
    first, lines, rest = parts(response_head(200, b"X: y\r\n", 7, keep_alive, version))
    assert (first, rest) == ("HTTP/1.1 200 OK", b"")
    assert sorted(lines) == sorted(["X: y", "Content-Length: 7", *connection])


# --- bodies, by length or in chunks -------------------------------------------


LIMIT = 1000
relaxed = settings(deadline=None)

CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n"
)


def head_of(length: int | None) -> ParsedHead:
    """A parsed head with this length; None: chunked."""
    return parse_head(
        CHUNKED
        if length is None
        else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
    )


def read(
    length: int | None, parts: list[bytes], limit: int = LIMIT
) -> tuple[bytes, bytes | None, bool]:
    """Content, what stood behind the body (None: not whole), and whether it is
    too large."""
    body = Body(head_of(length), limit)
    for index, part in enumerate(parts):
        rest = body.feed(part)
        if rest is not None:
            return (
                bytes(body.content),
                rest + b"".join(parts[index + 1 :]),
                body.too_large,
            )
    return bytes(body.content), None, body.too_large


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


@relaxed
@given(content=st.binary(max_size=60), rest=st.binary(max_size=20), data=st.data())
def test_a_body_of_known_length_ends_where_it_says(
    content: bytes, rest: bytes, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(content + rest)), max_size=5))
    assert read(len(content), pieces(content + rest, cuts)) == (content, rest, False)


@pytest.mark.parametrize(
    "stream",
    [
        b"zz\r\n",
        b"1" * 17 + b"\r\n",
        b"5;" + b"x" * 300 + b"\r\n",
        b"0\r\nX: 1\n\r\n\r\n",
        b"0\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * 5000,
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_broken_or_endless_chunk_is_refused(stream: bytes, bytewise: bool) -> None:
    """More that are broken: tests/fuzz/smuggling.txt."""
    with pytest.raises(BadHead) as caught:
        read(None, [bytes([byte]) for byte in stream] if bytewise else [stream])
    assert caught.value.problem.status == 400


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1])
def test_a_body_may_be_as_large_as_the_limit_and_no_byte_larger(size: int) -> None:
    content = b"x" * size
    assert read(size, [content])[2] is (size > LIMIT)
    stream = (
        b"".join(chunk(content[start : start + 300]) for start in range(0, size, 300))
        + b"0\r\n\r\n"
    )
    found = read(None, [stream])
    assert found[2] is (size > LIMIT)
    assert size > LIMIT or found == (content, b"", False)


def test_what_is_too_large_is_not_buffered() -> None:
    body = Body(head_of(1 << 40), LIMIT)
    assert body.too_large
    assert body.feed(b"x" * 5000) == b""
    assert body.held_bytes == 0
    body = Body(head_of(None), LIMIT)
    assert body.feed(b"ffffffff\r\n" + b"x" * 50) == b""
    assert body.too_large
    assert body.held_bytes < 100
    body = Body(head_of(500), LIMIT)
    body.feed(b"x" * 100)
    assert body.held_bytes == 100, "what has come"


# --- for readers less strict --------------------------------------------------

HOST = b"Host: x"
LENGTH = b"Content-Length: 2"
EXPECT = b"Expect: 100-continue"
UPGRADE = b"Upgrade: websocket"
CODED = b"Transfer-Encoding: chunked"


def lines(*rows: bytes) -> bytes:
    return b"\r\n".join((*rows, b"", b""))


@pytest.mark.parametrize(
    ("first", "given", "content", "plain"),
    [
        (b"GET / HTTP/1.1", (HOST, b"X: 1"), b"", (HOST, b"X: 1")),
        (b"POST / HTTP/1.1", (HOST, LENGTH), b"ab", (HOST, LENGTH)),
        (b"POST / HTTP/1.1", (HOST, CODED), b"ab", (HOST, LENGTH)),
        (b"POST / HTTP/1.1", (CODED, HOST), b"", (HOST, b"Content-Length: 0")),
        (b"POST / HTTP/1.1", (HOST, LENGTH, EXPECT), b"ab", (HOST, LENGTH)),
        (b"HEAD / HTTP/1.1", (HOST, LENGTH), b"ab", (HOST,)),
        (
            b"POST / HTTP/1.0",
            (b"Connection: keep-alive", CODED),
            b"ab",
            (LENGTH, b"Connection: close"),
        ),
        *(
            (
                b"GET / HTTP/1.1",
                (b"Connection: " + wish, HOST),
                b"",
                (HOST, b"Connection: close"),
            )
            # pywsgi knows nothing but "close"
            for wish in (b"close, foo", b"Foo , Close", b"close,upgrade")
        ),
        (
            b"GET / HTTP/1.1",
            (HOST, UPGRADE, b"Connection: Upgrade, close"),
            b"",
            (HOST, UPGRADE, b"Connection: Upgrade, close"),
        ),
    ],
)
def test_a_request_goes_on_in_its_plain_form(
    first: bytes, given: tuple[bytes, ...], content: bytes, plain: tuple[bytes, ...]
) -> None:
    raw = lines(first, *given)
    rest = b"" if first.startswith(b"HEAD") else content
    assert plain_request(raw, parse_head(raw), content) == lines(first, *plain) + rest


@pytest.mark.parametrize(
    ("first", "given", "plain"),
    [
        (
            b"POST http://x/files?a HTTP/1.1",
            (EXPECT, LENGTH),
            (b"POST /files?a HTTP/1.1", EXPECT, LENGTH),
        ),
        (b"POST /files HTTP/1.0", (EXPECT, LENGTH), (b"POST /files HTTP/1.0", LENGTH)),
        (b"POST /files HTTP/1.1", (LENGTH,), (b"POST /files HTTP/1.1", LENGTH)),
    ],
)
def test_a_head_before_a_stream_is_plain(
    first: bytes, given: tuple[bytes, ...], plain: tuple[bytes, ...]
) -> None:
    """It still says what it expects: who reads the body answers that, to a
    client that knows the answer."""
    raw = lines(first, HOST, *given)
    assert plain_head(raw, parse_head(raw)) == lines(plain[0], HOST, *plain[1:])


def wanted(method: str, path: str) -> bool:
    return (method, path) == ("POST", "/files")


@pytest.mark.parametrize(
    ("request_line", "given", "is_streamed"),
    [
        *(
            (line, LENGTH, True)
            for line in ("POST /files", "POST /files?a=/b", "POST http://x/files?a=b")
        ),
        *(
            (line, LENGTH, False)
            for line in ("POST /files/", "POST //files", "POST /%66iles", "PUT /files")
        ),
        *(
            ("POST /files", row, False)
            for row in (b"Content-Length: 0", b"X: y", CODED)
        ),
        (
            "POST /files",
            b"Content-Length: 2\r\nUpgrade: websocket\r\nConnection: upgrade",
            False,
        ),
    ],
)
def test_a_body_with_a_length_is_streamed_on_its_path(
    request_line: str, given: bytes, is_streamed: bool
) -> None:
    parsed = parse_head(lines(f"{request_line} HTTP/1.1".encode(), HOST, given))
    assert streams(parsed, wanted) is is_streamed
    assert not streams(parsed, None)


def test_a_body_has_to_arrive_at_the_minimum_rate() -> None:
    body = Body(head_of(1_000_000), 1_000_000, begun=100.0)
    assert body.deadline(100.0) == 100 + BODY_SILENCE_SECONDS
    body.feed(b"x")
    drips = body.deadline(112.0)
    assert 100 + BODY_SILENCE_SECONDS < drips < 101 + BODY_SILENCE_SECONDS
    body.feed(b"x" * 20 * BODY_BYTES_PER_SECOND)
    assert body.deadline(112.0) == 112 + BODY_SILENCE_SECONDS
    assert body.deadline(130.0) == drips + 20
    body.feed(b"x" * 60 * BODY_BYTES_PER_SECOND)
    assert body.deadline(159.0) == 100 + BODY_SECONDS
    body = Body(head_of(None), LIMIT, begun=100.0)
    body.feed(chunk(b"x", b";" + b"e" * 200) * 10)
    assert (
        body.deadline(105.0) == 100 + BODY_SILENCE_SECONDS + 10 / BODY_BYTES_PER_SECOND
    )
