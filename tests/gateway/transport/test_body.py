"""Request bodies: by length or in chunks, read the same however their bytes arrive."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.transport.http1 import (
    BODY_BYTES_PER_SECOND,
    BODY_SECONDS,
    BODY_SILENCE_SECONDS,
    BadHead,
    Body,
    ParsedHead,
    parse_head,
    plain_head,
    plain_request,
    streams,
)
from tests.gateway.transport.test_frames import pieces

LIMIT = 1000
relaxed = settings(deadline=None)

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n"


def head(length: int | None) -> ParsedHead:
    """A parsed head with this length; None: chunked."""
    return parse_head(
        CHUNKED if length is None else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
    )


def read(length: int | None, parts: list[bytes], limit: int = LIMIT) -> tuple[bytes, bytes | None, bool]:
    """Content, what stood behind the body (None: not whole), and whether it is too large."""
    body = Body(head(length), limit)
    for index, part in enumerate(parts):
        rest = body.feed(part)
        if rest is not None:
            return bytes(body.content), rest + b"".join(parts[index + 1 :]), body.too_large
    return bytes(body.content), None, body.too_large


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


@relaxed
@given(content=st.binary(max_size=60), rest=st.binary(max_size=20), data=st.data())
def test_a_body_of_known_length_ends_where_it_says(content: bytes, rest: bytes, data: st.DataObject) -> None:
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
    stream = b"".join(chunk(content[start : start + 300]) for start in range(0, size, 300)) + b"0\r\n\r\n"
    found = read(None, [stream])
    assert found[2] is (size > LIMIT)
    assert size > LIMIT or found == (content, b"", False)


def test_what_is_too_large_is_not_buffered() -> None:
    body = Body(head(1 << 40), LIMIT)
    assert body.too_large
    assert body.feed(b"x" * 5000) == b""
    assert body.held_bytes == 0
    body = Body(head(None), LIMIT)
    assert body.feed(b"ffffffff\r\n" + b"x" * 50) == b""
    assert body.too_large
    assert body.held_bytes < 100
    body = Body(head(500), LIMIT)
    body.feed(b"x" * 100)
    assert body.held_bytes == 100, "what has come"


# --- for readers less strict --------------------------------------------------------------------------------

HOST, LENGTH, EXPECT = b"Host: x", b"Content-Length: 2", b"Expect: 100-continue"
UPGRADE = b"Upgrade: websocket"


def lines(*rows: bytes) -> bytes:
    return b"\r\n".join((*rows, b"", b""))


@pytest.mark.parametrize(
    ("first", "given", "content", "plain"),
    [
        (b"GET / HTTP/1.1", (HOST, b"X: 1"), b"", (HOST, b"X: 1")),
        (b"POST / HTTP/1.1", (HOST, LENGTH), b"ab", (HOST, LENGTH)),
        (b"POST / HTTP/1.1", (HOST, b"Transfer-Encoding: chunked"), b"ab", (HOST, LENGTH)),
        (b"POST / HTTP/1.1", (b"Transfer-Encoding: chunked", HOST), b"", (HOST, b"Content-Length: 0")),
        (b"POST / HTTP/1.1", (HOST, LENGTH, EXPECT), b"ab", (HOST, LENGTH)),
        (b"HEAD / HTTP/1.1", (HOST, LENGTH), b"ab", (HOST,)),
        (
            b"POST / HTTP/1.0",
            (b"Connection: keep-alive", b"Transfer-Encoding: chunked"),
            b"ab",
            (LENGTH, b"Connection: close"),
        ),
        *(
            (b"GET / HTTP/1.1", (b"Connection: " + wish, HOST), b"", (HOST, b"Connection: close"))
            for wish in (b"close, foo", b"Foo , Close", b"close,upgrade")  # pywsgi knows nothing but "close"
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
        (b"POST http://x/files?a HTTP/1.1", (EXPECT, LENGTH), (b"POST /files?a HTTP/1.1", EXPECT, LENGTH)),
        (b"POST /files HTTP/1.0", (EXPECT, LENGTH), (b"POST /files HTTP/1.0", LENGTH)),
        (b"POST /files HTTP/1.1", (LENGTH,), (b"POST /files HTTP/1.1", LENGTH)),
    ],
)
def test_a_head_before_a_stream_is_plain(
    first: bytes, given: tuple[bytes, ...], plain: tuple[bytes, ...]
) -> None:
    """It still says what it expects: who reads the body answers that, to a client that knows the answer."""
    raw = lines(first, HOST, *given)
    assert plain_head(raw, parse_head(raw)) == lines(plain[0], HOST, *plain[1:])


def wanted(method: str, path: str) -> bool:
    return (method, path) == ("POST", "/files")


@pytest.mark.parametrize(
    ("request_line", "given", "is_streamed"),
    [
        ("POST /files", LENGTH, True),
        ("POST /files?a=/b", LENGTH, True),
        ("POST http://x/files?a=b", LENGTH, True),
        ("POST /files", b"Content-Length: 0", False),
        ("POST /files", b"X: y", False),
        ("POST /files", b"Transfer-Encoding: chunked", False),
        ("POST /files/", LENGTH, False),
        ("POST //files", LENGTH, False),
        ("POST /%66iles", LENGTH, False),
        ("PUT /files", LENGTH, False),
        ("POST /files", b"Content-Length: 2\r\nUpgrade: websocket\r\nConnection: upgrade", False),
    ],
)
def test_a_body_is_streamed_on_its_own_path_only_and_with_a_length_only(
    request_line: str, given: bytes, is_streamed: bool
) -> None:
    parsed = parse_head(lines(f"{request_line} HTTP/1.1".encode(), HOST, given))
    assert streams(parsed, wanted) is is_streamed
    assert not streams(parsed, None)


def test_a_body_has_to_arrive_at_the_minimum_rate() -> None:
    body = Body(head(1_000_000), 1_000_000, begun=100.0)
    assert body.deadline(100.0) == 100 + BODY_SILENCE_SECONDS
    body.feed(b"x")
    drips = body.deadline(112.0)
    assert 100 + BODY_SILENCE_SECONDS < drips < 101 + BODY_SILENCE_SECONDS
    body.feed(b"x" * 20 * BODY_BYTES_PER_SECOND)
    assert body.deadline(112.0) == 112 + BODY_SILENCE_SECONDS
    assert body.deadline(130.0) == drips + 20
    body.feed(b"x" * 60 * BODY_BYTES_PER_SECOND)
    assert body.deadline(159.0) == 100 + BODY_SECONDS
    body = Body(head(None), LIMIT, begun=100.0)
    body.feed(chunk(b"x", b";" + b"e" * 200) * 10)
    assert body.deadline(105.0) == 100 + BODY_SILENCE_SECONDS + 10 / BODY_BYTES_PER_SECOND
