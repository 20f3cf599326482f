"""Request bodies: by length or in chunks, read the same however their bytes arrive."""

import contextlib

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

GET = b"GET / HTTP/1.1\r\nHost: x\r\nX-Kept: 1\r\n\r\n"
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


chunks = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from([b"", b";a", b";a=b", b"; x"])), max_size=6
)
trailers = st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: 1\r\nB: 2\r\n"])


@relaxed
@given(content=st.binary(max_size=60), rest=st.binary(max_size=20), data=st.data())
def test_a_body_of_known_length_ends_where_it_says(content: bytes, rest: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(content + rest)), max_size=5))
    assert read(len(content), pieces(content + rest, cuts)) == (content, rest, False)


@relaxed
@given(rows=chunks, trailer=trailers, rest=st.binary(max_size=20), data=st.data())
def test_chunks_are_joined_however_they_are_cut(
    rows: list[tuple[bytes, bytes]], trailer: bytes, rest: bytes, data: st.DataObject
) -> None:
    stream = b"".join(chunk(*row) for row in rows) + b"0\r\n" + trailer + b"\r\n" + rest
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    content = b"".join(row[0] for row in rows)
    assert read(None, pieces(stream, cuts)) == (content, rest, False)
    assert read(None, [bytes([byte]) for byte in stream]) == (content, rest, False)


@pytest.mark.parametrize(
    "stream",
    [
        b"zz\r\n",
        b"0x5\r\nhello\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n\n",
        b"\r\n",
        b";a\r\n",
        b"5;\x00\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"1" * 17 + b"\r\n",
        b"5;" + b"x" * 300 + b"\r\n",
        b"0\r\nX: 1\n\r\n\r\n",
        b"0\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * 5000,
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_broken_chunk_is_refused(stream: bytes, bytewise: bool) -> None:
    with pytest.raises(BadHead) as caught:
        read(None, [bytes([byte]) for byte in stream] if bytewise else [stream])
    assert caught.value.problem.status == 400


@relaxed
@given(noise=st.binary(max_size=60))
def test_noise_raises_nothing_but_bad_head(noise: bytes) -> None:
    with contextlib.suppress(BadHead):
        content, _, too_large = read(None, [noise])
        assert too_large or len(content) <= len(noise)


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


def test_what_is_held_is_what_has_come() -> None:
    body = Body(head(500), LIMIT)
    body.feed(b"x" * 100)
    assert body.held_bytes == 100


# --- for readers less strict --------------------------------------------------------------------------------


def test_a_plain_request_goes_on_as_it_came() -> None:
    assert plain_request(GET, parse_head(GET), b"") == GET
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    assert plain_request(raw, parse_head(raw), b"ab") == raw + b"ab"


def test_a_chunked_request_goes_on_with_a_length() -> None:
    plain = plain_request(CHUNKED, parse_head(CHUNKED), b"hello")
    parsed = parse_head(plain[: plain.index(b"\r\n\r\n") + 4])
    assert plain.endswith(b"\r\n\r\nhello")
    assert (parsed.length, parsed.chunked, parsed.headers["x-kept"]) == (5, False, "1")
    empty = plain_request(CHUNKED, parse_head(CHUNKED), b"")
    assert parse_head(empty).length == 0


def test_an_expectation_that_was_met_is_not_handed_on() -> None:
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    parsed = parse_head(plain_request(raw, parse_head(raw), b"ab").removesuffix(b"ab"))
    assert "expect" not in parsed.headers
    assert parsed.length == 2


def test_an_absolute_target_goes_on_as_a_path() -> None:
    raw = b"GET http://chat.example/user/list?appID=101 HTTP/1.1\r\nHost: chat.example\r\n\r\n"
    plain = plain_request(raw, parse_head(raw), b"")
    assert plain.startswith(b"GET /user/list?appID=101 HTTP/1.1\r\n")


@pytest.mark.parametrize("connection", [b"close, foo", b"Foo , Close", b"close,upgrade"])
def test_an_end_that_is_wished_among_others_goes_on_alone(connection: bytes) -> None:
    """pywsgi knows nothing but "close"."""
    raw = b"GET / HTTP/1.1\r\nConnection: " + connection + b"\r\nHost: x\r\n\r\n"
    plain = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert plain_request(raw, parse_head(raw), b"") == plain_head(raw, parse_head(raw)) == plain


def test_an_upgrade_that_also_wishes_an_end_stays_an_upgrade() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n"
    assert plain_request(raw, parse_head(raw), b"") == raw


def test_a_chunked_request_of_http_1_0_ends_its_connection() -> None:
    raw = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    plain = plain_request(raw, parse_head(raw), b"ab")
    assert plain == b"POST / HTTP/1.0\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab"


def test_the_body_of_a_head_request_is_dropped() -> None:
    raw = b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    assert plain_request(raw, parse_head(raw), b"ab") == b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"


def wanted(method: str, path: str) -> bool:
    return (method, path) == ("POST", "/files")


@pytest.mark.parametrize(
    ("raw", "is_streamed"),
    [
        (b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", True),
        (b"POST /files?a=/b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", True),
        (b"POST http://x/files?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", True),
        (b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", False),
        (b"POST /files HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (b"POST /files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", False),
        (b"POST //files HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", False),
        (b"POST /%66iles HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", False),
        (b"PUT /files HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", False),
        (
            b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nUpgrade: websocket\r\n"
            b"Connection: upgrade\r\n\r\n",
            False,
        ),
    ],
)
def test_a_body_is_streamed_on_its_own_path_only_and_with_a_length_only(
    raw: bytes, is_streamed: bool
) -> None:
    assert streams(parse_head(raw), wanted) is is_streamed
    assert not streams(parse_head(raw), None)


def test_the_head_before_a_streamed_body_is_plain() -> None:
    raw = b"POST http://evil/files?a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    received = plain_head(raw, parse_head(raw))
    assert (
        received == b"POST /files?a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    old = b"POST /files HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert plain_head(old, parse_head(old)) == b"POST /files HTTP/1.0\r\nContent-Length: 5\r\n\r\n"
    usual = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    assert plain_head(usual, parse_head(usual)) is usual


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


def test_bytes_around_chunks_do_not_count_for_the_minimum_rate() -> None:
    body = Body(head(None), LIMIT, begun=100.0)
    body.feed(chunk(b"x", b";" + b"e" * 200) * 10)
    assert body.deadline(105.0) == 100 + BODY_SILENCE_SECONDS + 10 / BODY_BYTES_PER_SECOND
