"""HTTP: heads, bodies, forms, and the answers of servers that users name."""

from __future__ import annotations

import random
import re
import socket
import zlib
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlencode

import h11

from imserver.gateway.http.form import BadBody, parse_body, parse_pairs, read_cursor
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.http.wire import GZIP, inflate, takes_gzip
from imserver.gateway.transport.http1 import (
    BadHead,
    Body,
    KnownHeads,
    ParsedHead,
    end_of_head,
    parse_head,
    plain_head,
    plain_request,
)
from imserver.gateway.transport.outgoing import AnswerReader, Unreachable, read_answer
from imserver.gateway.transport.proxies import TrustedProxies, read_proxy_header

from .smuggling import PARTS, STREAMS
from .target import Target

LIMIT = 8192
HEADS = KnownHeads()
PROXIES = TrustedProxies(("127.0.0.0/8",))


def pieces(data: bytes, count: int = 4) -> list[bytes]:
    """The bytes in a few parts, the same for the same bytes."""
    chance = random.Random(data)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(count - 1))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _fields(head: ParsedHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in ParsedHead.__slots__}


def _read_head(read: Callable[[bytes], ParsedHead], data: bytes) -> object:
    """What a head says, or why it is refused."""
    try:
        return _fields(read(data))
    except BadHead as bad:
        return bad.problem, bad.args


MORE_LINES = (
    *(b"Authorization: Bearer a.b", b"authorization: Bearer c", b"Authorization: Basic YTpi", b" folded"),
    *(b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==", b"Sec-WebSocket-Key: AAECAw==\rX", b"Cookie: c"),
    *(b"Authorization: Bearer a b", b"Authorization: Bearer a\r\n folded"),
)


# --- heads --------------------------------------------------------------------------------------------------


def check_head(data: bytes) -> None:
    """A head is refused with BadHead, or it means the same to the cache, to h11 and in its plain form."""
    try:
        end = end_of_head(data, LIMIT)
        if not end:
            return
        raw = data[:end]
        parsed = parse_head(raw)
    except BadHead:
        return
    for other in (raw, raw, *(raw[:-2] + line + b"\r\n\r\n" for line in MORE_LINES), raw):
        assert _read_head(HEADS.read, other) == _read_head(parse_head, other), (
            "the cache reads it differently"
        )
    plain = parse_head(plain_head(raw, parsed))
    assert (plain.method, plain.url, plain.length, plain.chunked) == (
        *(parsed.method, parsed.url),
        *(parsed.length, parsed.chunked),
    )
    content = b"x" * min(parsed.length or 0, 100)
    if len(content) == (parsed.length or 0):
        whole = plain_request(raw, parsed, content)
        again = parse_head(whole[: end_of_head(whole, 2 * LIMIT)])
        assert (again.method, again.url, again.chunked) == (parsed.method, parsed.url, False)
        assert again.length in (None, len(content))
    compare(raw, parsed)


def by_h11(raw: bytes) -> h11.Request | None:
    """The head as h11 reads it; None: it refuses it. Raises AssertionError if it does not end there."""
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * LIMIT)
    peer.receive_data(raw)
    try:
        event = peer.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(event, h11.Request), f"h11 expects more: {event}"
    return event


def compare(raw: bytes, parsed: ParsedHead) -> None:
    """What we accept, h11 accepts and reads alike. Raw UTF-8 in a target, which h11 refuses and Go's
    ``net/http`` accepts, is first replaced."""
    if parsed.length is not None and len(parsed.headers["content-length"]) > _DIGITS:
        return  # of which h11 reads no more
    first, end, rest = raw.partition(b"\r\n")
    request = by_h11(_HIGH.sub(b"x", first) + end + rest)
    assert request is not None, "h11 refuses it"
    headers = request.headers
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    hosts = [value for name, value in headers if name == b"host"]
    assert request.method.decode() == parsed.method
    assert (int(lengths[0]) if lengths else None) == parsed.length, "another length"
    assert (encodings == [b"chunked"]) is parsed.chunked, "another encoding"
    assert hosts == [parsed.headers["host"].encode("latin-1")] if "host" in parsed.headers else not hosts


_DIGITS = 20
_HIGH = re.compile(rb"[\x80-\xff]")


# --- bodies -------------------------------------------------------------------------------------------------

_CHUNKED = parse_head(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")


def _read_body(parts: list[bytes]) -> tuple[str, bytes, bytes]:
    body = Body(_CHUNKED, LIMIT)
    for index, part in enumerate(parts):
        try:
            rest = body.feed(part)
        except BadHead:
            return "refused", b"", b""
        assert body.held_bytes <= LIMIT + sum(map(len, parts))
        if body.too_large:
            return "too large", b"", b""
        if rest is not None:
            return "whole", bytes(body.content), rest + b"".join(parts[index + 1 :])
    return "incomplete", b"", b""


def check_chunks(data: bytes) -> None:
    """A chunked body means the same in any pieces, and to h11."""
    kind, content, rest = _read_body([data])
    assert (kind, content, rest) == _read_body(pieces(data)), "it depends on the pieces"
    if len(data) < 200:
        assert (kind, content, rest) == _read_body([data[at : at + 1] for at in range(len(data))])
    if kind != "whole":
        return
    whole = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces(content) if each)
    assert _read_body([whole + b"0\r\n\r\n" + rest]) == (kind, content, rest), "no round trip"
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    peer.next_event()
    found = b""
    try:
        while isinstance(event := peer.next_event(), h11.Data):
            found += event.data
    except h11.RemoteProtocolError:
        return  # of its extensions and trailers, which we pass over and drop, it reads more strictly
    assert isinstance(event, h11.EndOfMessage), f"h11 expects more: {event}"
    assert (found, peer.trailing_data[0]) == (content, rest), "h11 reads another body"


# --- forms, and what else stands in requests ----------------------------------------------------------------

_KINDS = ("application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x")


def check_form(data: bytes) -> None:
    """A body is read or refused with BadBody. The first byte chooses its type."""
    kind, body = _KINDS[data[0] % 3 if data else 0], data[1:]
    with suppress(BadBody):
        parse_body(kind, body)
    with suppress(BadBody):
        pairs = parse_pairs(body)
        assert parse_pairs(urlencode(pairs).encode()) == pairs, "no round trip"
    text = data.decode("latin-1")
    with suppress(ValueError):
        read_cursor(text)
    takes_gzip(text)


def check_gzip(data: bytes) -> None:
    """A compressed body never becomes more than its limit."""
    with suppress(ApiProblem):
        assert len(inflate(data, LIMIT)) <= LIMIT


def check_answer(data: bytes) -> None:
    """The answer of a server that a user names is read or Unreachable."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data[:60_000])
        far.shutdown(socket.SHUT_WR)
        answer = AnswerReader(LIMIT)
        with suppress(Unreachable, ConnectionError):
            read_answer(near, answer, 2 * LIMIT)
        assert len(answer.body) <= 2 * LIMIT


def check_proxy(data: bytes) -> None:
    """A PROXY header is read or refused with ValueError, whatever follows it and in any pieces."""
    with suppress(ValueError):
        found = read_proxy_header(data)
        if found is not None:
            size, peer = found
            assert size <= len(data)
            assert read_proxy_header(data[:size]) == found, "what follows changes it"
            assert all(read_proxy_header(data[:at]) is None for at in range(0, size, 1 + size // 50))
            if peer is not None:
                host, port = peer
                kind = "TCP6" if ":" in host else "TCP4"
                line = f"PROXY {kind} {host} {host} {port} {port}\r\n".encode()
                assert read_proxy_header(line) == (len(line), peer), "no round trip"
    text = data.decode("latin-1")
    assert isinstance(PROXIES.client("127.0.0.1", text), str)
    PROXIES.trusts(text)


HEAD_SEEDS = (
    b"GET /user/list?appID=101 HTTP/1.1\r\nHost: chat.example\r\n\r\n",
    b"POST /user/sendMessage HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nAuthorization: Bearer a.b\r\n\r\n",
    b"GET /acc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n",
    b"GET http://x/acc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"POST /\xe9\xa9\xac HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close, x\r\n\r\n",
)
CHUNK_SEEDS = (b"5\r\nhello\r\n0\r\n\r\nGET", b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n")
FORM_SEEDS = (
    b"\0appID=101&message=%E4%BD%A0+a&x=%2B",
    b'\1{"userID":"ann","appID":101,"banSeconds":1.5,"message":"\\ud800"}',
    b'\2--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x\r\nContent-Disposition: form-data; '
    b'name="f"; filename="g"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n2\r\n--x--\r\n',
)
PROXY_SEEDS = (
    b"PROXY TCP4 192.0.2.7 127.0.0.1 51234 80\r\nGET",
    b"PROXY TCP6 2001:db8::7 ::1 51234 80\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\1\xc8\x22\0\x50",
    b"203.0.113.9:4711, 10.1.2.3, [2001:db8::9]:1",
)
ANSWER_SEEDS = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\nLocation: /x\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nno",
)
TARGETS = (
    Target("heads", check_head, lambda: (*HEAD_SEEDS, *STREAMS.values()), LIMIT),
    Target("chunks", check_chunks, lambda: (*CHUNK_SEEDS, *PARTS["chunks"])),
    Target("forms", check_form, lambda: FORM_SEEDS, 16384),
    Target(
        "gzip",
        check_gzip,
        lambda: (zlib.compress(b"hello" * 9, 6, GZIP), zlib.compress(bytes(1 << 20), 9, GZIP)),
    ),
    Target("answers", check_answer, lambda: ANSWER_SEEDS, 16384),
    Target("proxy", check_proxy, lambda: PROXY_SEEDS, 16384),
)
