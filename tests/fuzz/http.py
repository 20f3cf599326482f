"""HTTP: heads, bodies, forms, and the answers of servers that users name;
frames of WebSocket."""

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
from imserver.gateway.transport.frames import (
    Violation,
    begins_small,
    deflate,
    is_control,
    read_close,
)
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
from imserver.gateway.transport.parser import MessageParser
from imserver.gateway.transport.proxies import TrustedProxies, read_proxy_header
from tests.integration.raw import BINARY, CLOSE, CONTINUATION, TEXT, frame

from .smuggling import PARTS, STREAMS
from .target import Target

LIMIT = 8192
FRAME_LIMIT = 4096
HEADS = KnownHeads()
PROXIES = TrustedProxies(("127.0.0.0/8",))


def pieces(data: bytes, count: int = 4) -> list[bytes]:
    """The bytes in a few parts, the same for the same bytes."""
    chance = random.Random(data)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(count - 1))
    return [
        data[start:end]
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)
    ]


def _fields(head: ParsedHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in ParsedHead.__slots__}


def _read_head(read: Callable[[bytes], ParsedHead], data: bytes) -> object:
    """What a head says, or why it is refused."""
    try:
        return _fields(read(data))
    except BadHead as bad:
        return bad.problem, bad.args


MORE_LINES = (
    b"Authorization: Bearer a.b",
    b"authorization: Bearer c",
    b"Authorization: Basic YTpi",
    b" folded",
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
    b"Sec-WebSocket-Key: AAECAw==\rX",
    b"Cookie: c",
    b"Authorization: Bearer a b",
    b"Authorization: Bearer a\r\n folded",
)


def check_head(data: bytes) -> None:
    """A head is refused with BadHead, or it means the same to the cache, to h11
    and in its plain form."""
    try:
        end = end_of_head(data, LIMIT)
        if not end:
            return
        raw = data[:end]
        parsed = parse_head(raw)
    except BadHead:
        return
    for other in (
        raw,
        raw,
        *(raw[:-2] + line + b"\r\n\r\n" for line in MORE_LINES),
        raw,
    ):
        assert _read_head(HEADS.read, other) == _read_head(parse_head, other), (
            "the cache reads it differently"
        )
    plain = parse_head(plain_head(raw, parsed))
    assert (plain.method, plain.url, plain.length, plain.chunked) == (
        parsed.method,
        parsed.url,
        parsed.length,
        parsed.chunked,
    )
    content = b"x" * min(parsed.length or 0, 100)
    if len(content) == (parsed.length or 0):
        whole = plain_request(raw, parsed, content)
        again = parse_head(whole[: end_of_head(whole, 2 * LIMIT)])
        assert (again.method, again.url, again.chunked) == (
            parsed.method,
            parsed.url,
            False,
        )
        assert again.length in (None, len(content))
    compare(raw, parsed)


def by_h11(raw: bytes) -> h11.Request | None:
    """The head as h11 reads it; None: it refuses it. Raises AssertionError if
    it does not end there."""
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * LIMIT)
    peer.receive_data(raw)
    try:
        event = peer.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(event, h11.Request), f"h11 expects more: {event}"
    return event


def compare(raw: bytes, parsed: ParsedHead) -> None:
    """What we accept, h11 accepts and reads alike. Raw UTF-8 in a target, which
    h11 refuses and Go's ``net/http`` accepts, is first replaced."""
    if parsed.length is not None and len(parsed.headers["content-length"]) > 20:
        return  # of which h11 reads no more
    first, end, rest = raw.partition(b"\r\n")
    request = by_h11(re.sub(rb"[\x80-\xff]", b"x", first) + end + rest)
    assert request is not None, "h11 refuses it"
    headers = request.headers
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    hosts = [value for name, value in headers if name == b"host"]
    assert request.method.decode() == parsed.method
    assert (int(lengths[0]) if lengths else None) == parsed.length, "another length"
    assert (encodings == [b"chunked"]) is parsed.chunked, "another encoding"
    assert (
        hosts == [parsed.headers["host"].encode("latin-1")]
        if "host" in parsed.headers
        else not hosts
    )


_CHUNKED = parse_head(
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
)


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
        assert (kind, content, rest) == _read_body(
            [data[at : at + 1] for at in range(len(data))]
        )
    if kind != "whole":
        return
    whole = b"".join(
        b"%x\r\n%b\r\n" % (len(each), each) for each in pieces(content) if each
    )
    assert _read_body([whole + b"0\r\n\r\n" + rest]) == (kind, content, rest), (
        "no round trip"
    )
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + data
    )
    peer.next_event()
    found = b""
    try:
        while isinstance(event := peer.next_event(), h11.Data):
            found += event.data
    except h11.RemoteProtocolError:
        # of its extensions and trailers, which we pass over and drop, it reads
        # more strictly
        return
    assert isinstance(event, h11.EndOfMessage), f"h11 expects more: {event}"
    assert (found, peer.trailing_data[0]) == (content, rest), "h11 reads another body"


_KINDS = (
    "application/x-www-form-urlencoded",
    "application/json",
    "multipart/form-data; boundary=x",
)


def check_form(data: bytes) -> None:
    """A body is read or refused with BadBody. The first byte chooses its
    type."""
    kind = _KINDS[data[0] % 3 if data else 0]
    body = data[1:]
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
    """A PROXY header is read or refused with ValueError, whatever follows it
    and in any pieces."""
    with suppress(ValueError):
        found = read_proxy_header(data)
        if found is not None:
            size, peer = found
            assert size <= len(data)
            assert read_proxy_header(data[:size]) == found, "what follows changes it"
            assert all(
                read_proxy_header(data[:at]) is None
                for at in range(0, size, 1 + size // 50)
            )
            if peer is not None:
                host, port = peer
                kind = "TCP6" if ":" in host else "TCP4"
                line = f"PROXY {kind} {host} {host} {port} {port}\r\n".encode()
                assert read_proxy_header(line) == (len(line), peer), "no round trip"
    text = data.decode("latin-1")
    assert isinstance(PROXIES.client("127.0.0.1", text), str)
    PROXIES.trusts(text)


def _parse(parts: list[bytes], deflated: bool) -> tuple[list[tuple[int, bytes]], int]:
    """The messages, and the code with which the connection ends (0: it goes
    on)."""
    parser = MessageParser(FRAME_LIMIT, deflated)
    found: list[tuple[int, bytes]] = []
    try:
        for part in parts:
            for message in parser.feed(part):
                assert len(message.data) <= FRAME_LIMIT
                found.append((message.opcode, message.data))
            assert parser.held_bytes <= 2 * FRAME_LIMIT + len(part)
    except Violation as violation:
        return found, violation.code
    finally:
        parser.close()
    return found, 0


def _code(payload: bytes) -> int:
    """What a frame that closes says, or with what it is answered."""
    try:
        return read_close(payload)
    except Violation as violation:
        return violation.code


def check_frames(data: bytes) -> None:
    """A stream means the same in any pieces, and its messages do when they are
    sent again. The first byte says whether it is compressed."""
    deflated = data[:1] == b"\1"
    stream = data[1:]
    found, code = _parse([stream], deflated)
    assert (found, code) == _parse(pieces(stream), deflated), "it depends on the pieces"
    assert code in (0, 1002, 1007, 1009)
    if len(stream) < 200:
        assert (found, code) == _parse(
            [stream[at : at + 1] for at in range(len(stream))], deflated
        )
    assert _parse([frame(opcode, payload) for opcode, payload in found], False) == (
        found,
        0,
    ), "no round trip"
    packed = [
        frame(opcode, deflate(payload, 15), rsv=4)
        for opcode, payload in found
        if opcode <= BINARY
    ]
    assert _parse(packed, True)[0] == [each for each in found if each[0] <= BINARY], (
        "no round trip deflated"
    )
    for opcode, payload in found:
        if opcode == CLOSE:
            assert 1000 <= _code(payload) < 5000
    if stream:
        is_control(stream)
        begins_small(stream, FRAME_LIMIT)


def _frames() -> list[bytes]:
    packed = deflate(b"hello" * 30, 15)
    return [
        b"\0" + frame(TEXT, "hello 马") + frame(9, b"p") + frame(CLOSE, b"\x03\xe8bye"),
        b"\0"
        + frame(TEXT, b"\xe5", fin=False)
        + frame(10, b"")
        + frame(CONTINUATION, b"\x93\x88"),
        b"\0" + frame(BINARY, b"z" * 200) + frame(BINARY, b"y", form=64),
        b"\1" + frame(TEXT, packed, rsv=4) + frame(BINARY, b"plain"),
        b"\1"
        + frame(TEXT, packed[:5], fin=False, rsv=4)
        + frame(CONTINUATION, packed[5:]),
    ]


TARGETS = (
    Target("heads", check_head, STREAMS.values, LIMIT),
    Target("chunks", check_chunks, lambda: PARTS["chunks"]),
    Target("forms", check_form, longest=16384),
    Target(
        "gzip",
        check_gzip,
        lambda: (
            zlib.compress(b"hello" * 9, 6, GZIP),
            zlib.compress(bytes(1 << 20), 9, GZIP),
        ),
    ),
    Target("answers", check_answer, longest=16384),
    Target("proxy", check_proxy, longest=16384),
    Target("frames", check_frames, _frames, 16384),
)
