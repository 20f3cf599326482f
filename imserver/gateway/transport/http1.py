"""HTTP/1.1 for both servers: requests and responses, and errors that are
answered before the application.

One strict parser reads heads and bodies, so that the servers cannot disagree.

A back end repeats the same head with each request, and clients of one kind send
the same head of a handshake. So :class:`KnownHeads` caches parsed heads. It
caches only public heads: of a POST or a handshake to a path without a query,
with header lines from :data:`CACHED` or :data:`CACHED_OF_HANDSHAKES` only. The
cache never has keys: it removes the key of an ``Authorization: Bearer …`` or a
``Sec-WebSocket-Key`` from a head before it looks it up or stores it.

A body is read completely before the request is served: by length or in chunks
(RFC 9112 section 7). Chunks are parsed as strictly as heads: a hexadecimal
size, optional extensions (ignored), CRLF, data, CRLF.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from random import getrandbits
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.errors import HttpProblem, Problems
from imserver.gateway.logging import request_id

log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 65536
"""Bytes per read of a body."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD_END: Final = b"\r\n\r\n"
"""The end of the last header line, and the empty line that ends a head."""
HEAD_END_BYTES: Final = 4
_MOST_LINE_ENDS: Final = 101
"""The most line ends of a head: the request line, 99 header lines and the empty
line. ``http.client``, which pywsgi uses, counts the empty line as the hundredth
header line."""
_MOST_TRAILER_BYTES: Final = 8192
_CARRIAGE_RETURN: Final = 0x0D

_NAMES: Final = (
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "upgrade",
    "user-agent",
    "x-forwarded-for",
    "x-request-id",
)
_USUAL_NAMES = {name.encode(): name for name in _NAMES} | {
    name.title().encode(): name for name in _NAMES
}
"""Common spellings of header names. A lookup is cheaper than decoding."""


class BadHead(Exception):
    """The head or the body of a request is invalid.

    ``problem`` is the answer for the client. The text of the error is for the
    log.
    """

    def __init__(self, problem: HttpProblem, detail: str) -> None:
        """Take the answer for the client, and the text for the log."""
        super().__init__(detail)
        self.problem = problem


class ParsedHead(Struct):
    """A request head. Header names are in lower case; repeated headers are
    joined by a comma.

    ``url``: the target without scheme and host (RFC 9112 section 3.2.2), with
    bytes above 0x7F percent-encoded. ``path`` and ``query``: its parts before
    and after the question mark. ``length``: the Content-Length; None if there
    is no such header. ``chunked``: the body comes in chunks. ``upgrade``: the
    request asks for a WebSocket. ``altered``: another server would read the
    target or the header Connection differently, so the head must be rewritten
    before it is passed on, see :func:`plain_head`.
    """

    url: bytes = b""
    path: str = ""
    query: bytes = b""
    headers: dict[str, str] = {}
    method: str = ""
    version: str = ""
    keep_alive: bool = False
    length: int | None = None
    chunked: bool = False
    altered: bool = False
    upgrade: bool = False
    accepted: object = None
    """The mark that demo mode sets on a head that it has accepted, see
    :attr:`imserver.gateway.transport.gate.Origins.accepted`. None means that
    demo mode has not accepted the head."""

    def on_url(self, url: bytes) -> None:
        """Add a part of the target. The parser calls it."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. The parser calls it.

        A header that comes twice is a list (RFC 9110 section 5.3). Raises
        ValueError if the request has two headers Host.
        """
        key = _USUAL_NAMES.get(name) or name.decode("latin-1").lower()
        # Other white space belongs to the value (RFC 9110 section 5.5).
        text = value.decode("latin-1").strip(" \t")
        before = self.headers.get(key)
        if before is not None and key == "host":
            raise ValueError("more than one Host")
        if before is not None:
            text = f"{before},{text}"
        self.headers[key] = text


def wants_upgrade(headers: Mapping[str, str]) -> bool:
    """Tell whether a request asks for an upgrade to a WebSocket."""
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        return False
    return "upgrade" in _tokens(headers.get("connection", ""))


def _tokens(value: str) -> list[str]:
    """Split a header value that is a list, in lower case.

    For example, ``Keep-Alive, Upgrade`` gives ``["keep-alive", "upgrade"]``.
    """
    return [token.strip(" \t") for token in value.lower().split(",")]


def end_of_head(data: bytes | bytearray, limit: int) -> int:
    """Return the size of the head at the start of ``data``.

    The size is also the index of the body. Returns 0 while the head is
    incomplete.
    Raises :class:`BadHead` as soon as ``data`` cannot become a valid head of at
    most ``limit`` bytes.
    """
    end = data.find(HEAD_END)
    is_complete = end >= 0
    if is_complete:
        size = end + HEAD_END_BYTES
    else:
        size = len(data)
    if size > limit:
        raise BadHead(Problems.HEADERS_TOO_LARGE, "request head too large")
    if is_complete:
        return size
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadHead(Problems.BAD_REQUEST, "bare LF in the request head")
    return 0


Mounts = Mapping[str, str]
"""Host name → the path under which requests for this host are served. The key
``""`` stands for all other hosts."""
NO_MOUNTS: Final[Mounts] = {}


def parse_head(data: bytes, mounts: Mounts = NO_MOUNTS) -> ParsedHead:
    """Parse one whole request head.

    ``mounts`` are the paths below which the listener serves some hosts. Raises
    :class:`BadHead` for malformed or ambiguous heads. Bare LF, folded headers,
    repeated lengths, and a length together with chunks are refused (RFC 9112
    sections 2.2, 5.2 and 6.3). The caller has to remove line ends before the
    request. A target may have raw UTF-8, as with Go's ``net/http``.
    """
    parsed = ParsedHead()
    if data.count(b"\r\n") > _MOST_LINE_ENDS:
        raise BadHead(Problems.HEADERS_TOO_LARGE, "too many headers")
    if data[:1] in b"\r\n":
        raise BadHead(Problems.BAD_REQUEST, "no request line")
    request_line, line_end, header_lines = data.partition(b"\r\n")
    # A request line has exactly two blanks (RFC 9112 section 3), but the parser
    # accepts more.
    if request_line.count(b" ") != 2:
        raise BadHead(Problems.BAD_REQUEST, "no request line")
    if not request_line.isascii():
        parsed.altered = True
        request_line = _NOT_ASCII.sub(_percent_encoded, request_line)
        data = request_line + line_end + header_lines

    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        # The head is valid, and the parser has stopped after it.
        log.debug("a request asks for an upgrade")
    except (HttpParserError, ValueError) as exc:
        raise BadHead(Problems.BAD_REQUEST, str(exc)) from exc
    parsed.method = parser.get_method().decode("latin-1")
    parsed.version = parser.get_http_version()
    if parsed.version not in ("1.1", "1.0"):
        raise BadHead(Problems.VERSION_NOT_SUPPORTED, f"HTTP/{parsed.version}")
    if parsed.version == "1.1" and "host" not in parsed.headers:
        raise BadHead(Problems.BAD_REQUEST, "no Host")
    if _HOST.fullmatch(parsed.headers.get("host", "")) is None:
        raise BadHead(Problems.BAD_REQUEST, "an invalid Host")

    _read_target(parsed, mounts)
    _read_framing(parsed)
    return parsed


def _percent_encoded(byte: re.Match[bytes]) -> bytes:
    """Encode a byte as in a URL, for example ``%C3``."""
    return b"%%%02X" % byte[0][0]


def _read_target(parsed: ParsedHead, mounts: Mounts) -> None:
    """Set the target, the path and the query of a head.

    Scheme and host are removed from the target. If its host is mounted below a
    path, this path is added.
    """
    if parsed.url[:1] != b"/":
        _, separator, host_and_target = parsed.url.partition(b"://")
        if separator:
            parsed.altered = True
            host_and_path, mark, query = host_and_target.partition(b"?")
            _host, _, path = host_and_path.partition(b"/")
            parsed.url = b"/" + path + mark + query

    if mounts:
        host_and_port = parsed.headers.get("host", "")
        host = host_and_port.partition(":")[0].lower().removesuffix(".")
        mount = mounts.get(host) or mounts.get("")  # "": all other hosts
        if mount and parsed.url[:1] == b"/":
            parsed.url = mount.encode() + parsed.url
            parsed.altered = True

    path, _, parsed.query = parsed.url.partition(b"?")
    parsed.path = path.decode("latin-1")


def _read_framing(parsed: ParsedHead) -> None:
    """Find out where the body of a request ends.

    Sets the length of the body, or that the body comes in chunks. Also sets
    whether the connection stays open afterwards. Raises :class:`BadHead`.
    """
    headers = parsed.headers
    # The header Connection is read here, because the parser drops its result
    # when a message without a body is complete.
    if "connection" in headers:
        options = _tokens(headers["connection"])
        parsed.keep_alive = "close" not in options and (
            parsed.version == "1.1" or "keep-alive" in options
        )
    else:
        parsed.keep_alive = parsed.version == "1.1"
    parsed.upgrade = wants_upgrade(headers)

    if "content-length" in headers:
        parsed.length = int(headers["content-length"])
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked":
            raise BadHead(Problems.NOT_IMPLEMENTED, "unknown transfer encoding")
        parsed.chunked = True
        # A server of HTTP/1.0 between the client and this server may not know
        # chunks. It would find another end of the request (RFC 9112 section
        # 6.1).
        if parsed.version == "1.0":
            parsed.keep_alive = False

    # The connection ends, but its header is not exactly "close".
    if not parsed.keep_alive and headers.get("connection", "close").lower() != "close":
        parsed.altered = True


_HOST: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""The characters of a host with a port (RFC 3986 section 3.2)."""
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")

CACHED: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "host",
        "sec-fetch-mode",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-proto",
    }
)
"""Header names that a cached head of a POST may have."""
CACHED_OF_HANDSHAKES: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "host",
        "origin",
        "pragma",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "sec-websocket-extensions",
        "sec-websocket-version",
        "upgrade",
        "user-agent",
    }
)
"""Header names that a cached head of a handshake may have, besides its key."""
MAX_HEADS: Final = 256
"""Limit of cached heads. If the cache is full, it is cleared."""
MAX_BYTES: Final = 1024
"""Largest cached head in bytes."""
MAX_LINES: Final = 30
"""The most lines of a cached head. A head with so many lines and its key is far
below the limit of any head."""

_NAME: Final = b"uthorization: "
"""The name of the header without its first letter, which may be upper or lower
case."""
_LINE_STARTS: Final = (b"\r\nA", b"\r\na")
"""The bytes before :data:`_NAME`: a line end and the first letter."""
_LINE_START_BYTES: Final = 3
_KEY: Final = _NAME + b"Bearer "
_HANDSHAKE_KEY: Final = b"\r\nSec-WebSocket-Key: "
_usual_key = re.compile(rb"Bearer [A-Za-z0-9._~+/=-]{1,512}").fullmatch
_usual_handshake_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch


class KnownHeads(Struct, eq=False):
    """Parses heads, and remembers the heads that clients repeat.

    The docstring of the module says which heads are remembered. Callers must
    not change a result, because it is shared.
    """

    _mounts: Mounts = NO_MOUNTS
    heads: dict[bytes, ParsedHead] = field(default_factory=dict)
    """Cached heads by their bytes without the key. Read-only for others."""

    def read(self, data: bytes) -> ParsedHead:
        """Parse one whole request head, as :func:`parse_head` does.

        The cache has the head without the line of its ``Authorization`` or
        ``Sec-WebSocket-Key``. So the cache never has a secret.
        """
        if data.startswith(b"GET "):
            return self._read_handshake(data)
        name_at = data.find(_KEY)
        if name_at < 0:
            head = self.heads.get(data)
            if head is None:
                head = parse_head(data, self._mounts)
                self._cache(data, head)
            return head

        # If a bare CR ends the key too early, the remaining bytes match no
        # cached head.
        end = data.find(b"\r", name_at)
        start = name_at - _LINE_START_BYTES
        key = data[name_at + len(_NAME) : end]
        if data[start:name_at] not in _LINE_STARTS or _usual_key(key) is None:
            return parse_head(data, self._mounts)
        without_key = data[:start] + data[end:]
        return self._read_without_key(data, without_key, "authorization", key.decode())

    def _read_handshake(self, data: bytes) -> ParsedHead:
        """Parse the head of a GET.

        The head is cached only if it has a valid ``Sec-WebSocket-Key``.
        """
        start = data.find(_HANDSHAKE_KEY)
        # The line of the header begins with a line end itself, which is skipped
        # here.
        end = data.find(b"\r", start + 2)
        key = data[start + len(_HANDSHAKE_KEY) : end]
        if start < 0 or _usual_handshake_key(key) is None:
            return parse_head(data, self._mounts)
        without_key = data[:start] + data[end:]
        return self._read_without_key(
            data, without_key, "sec-websocket-key", key.decode()
        )

    def _read_without_key(
        self, data: bytes, without_key: bytes, name: str, value: str
    ) -> ParsedHead:
        """Parse a head, or take it from the cache and add its secret header.

        ``data`` is the head, and ``without_key`` the head without the line of
        the header ``name``, whose value is ``value``.
        """
        cached = self.heads.get(without_key)
        if cached is not None:
            return replace(cached, headers={**cached.headers, name: value})
        parsed = parse_head(data, self._mounts)
        if parsed.headers[name] == value:  # the header occurs once
            others = parsed.headers.copy()
            del others[name]
            self._cache(without_key, replace(parsed, headers=others))
        return parsed

    def _cache(self, data: bytes, head: ParsedHead) -> None:
        """Cache a head, if it is one of the public heads that the module
        describes.

        ``data`` are the bytes of the head without the key.
        """
        if head.method == "GET":
            names = CACHED_OF_HANDSHAKES
        elif head.method == "POST":
            names = CACHED
        else:
            return
        if head.query or not head.headers.keys() <= names:
            return
        if len(data) > MAX_BYTES or data.count(b"\r\n") > MAX_LINES:
            return

        # Usual clients have a few heads. If somebody sends many different
        # heads, other clients are only slower for a moment.
        if len(self.heads) >= MAX_HEADS:
            self.heads.clear()
        self.heads[data] = head


MAX_LINE_BYTES = 256
"""Longest line with the size of a chunk, with its CRLF."""
MAX_PUBLIC_BODY_BYTES = 65536
"""Bodies up to this size are read from everybody. The API decides whether a
larger body is read."""

BODY_SECONDS: Final = 60
"""Time limit for a request's body."""
BODY_SILENCE_SECONDS: Final = 13
"""Longest silence while a body arrives. Connections are checked once per
second, so 408 comes within 15 s."""
BODY_BYTES_PER_SECOND: Final = 1024
"""Minimum average rate of a body that is older than
:data:`BODY_SILENCE_SECONDS`."""


def body_deadline(begun: float, received: int, now: float) -> float:
    """Return the monotonic time until which more bytes of a body must arrive.

    ``begun`` is the time at which the head was complete. ``received`` is how
    many bytes have arrived, and ``now`` the time at which the last byte
    arrived. The deadline stops clients that send very slowly on purpose.
    """
    by_silence = now + BODY_SILENCE_SECONDS
    by_rate = begun + BODY_SILENCE_SECONDS + received / BODY_BYTES_PER_SECOND
    return min(begun + BODY_SECONDS, by_silence, by_rate)


Streamed = Callable[[str, str], bool]
"""(method, path) → whether the body of such a request may be too large for
memory."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e]*)?")
"""A line with the size of a chunk, such as ``1f4;name=value``."""
_TRAILER = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)+")


class Body:
    """A body while it is read. The connection that reads it owns it.

    ``content`` are the decoded bytes so far. ``too_large`` says that the body
    will exceed ``limit`` bytes. Then the body is not read further, and the
    connection cannot be used afterwards.
    """

    __slots__ = ("_limit", "_raw", "_size", "begun", "content", "too_large")

    def __init__(self, head: ParsedHead, limit: int, begun: float = 0.0) -> None:
        """Begin to read the body of a request with this head.

        ``limit`` is the largest accepted size in bytes. ``begun`` is the
        monotonic time at which the head was complete.
        """
        self._limit = limit
        self.begun = begun
        """Monotonic time at which the head was complete."""
        if head.chunked:
            self._size = -1
        else:
            self._size = head.length or 0
        """Bytes of the whole body. -1 means that the size is not known, because
        the body comes in chunks."""
        self._raw = bytearray()
        """Bytes of chunks that are not decoded yet."""
        self.content = bytearray()
        self.too_large = self._size > limit

    @property
    def held_bytes(self) -> int:
        """The number of bytes in memory."""
        return len(self._raw) + len(self.content)

    def deadline(self, now: float) -> float:
        """Return the monotonic time until which more bytes must arrive.

        If the bytes come later, the connection refuses the request.
        """
        return body_deadline(self.begun, self.held_bytes, now)

    def feed(self, data: bytes) -> bytes | None:
        """Add bytes that have arrived.

        Returns None while the body is incomplete. When the body is complete,
        the result is the bytes after the body. If the body is too large, the
        result is ``b""``. Raises :class:`BadHead` for invalid chunks.
        """
        if self.too_large:
            return b""
        if self._size < 0:
            self._raw += data
            return self._read_chunks()
        missing = self._size - len(self.content)
        self.content += data[:missing]
        if len(data) >= missing:
            return data[missing:]
        return None

    def _read_chunks(self) -> bytes | None:
        """Decode the whole chunks, such as ``5\\r\\nhello\\r\\n``, into the
        content.

        Returns the same values as :meth:`feed`.
        """
        raw = self._raw
        while True:
            size_end = raw.find(b"\r\n", 0, MAX_LINE_BYTES)
            if size_end < 0:
                self._check_partial_size()
                return None
            match = _SIZE.fullmatch(raw, 0, size_end)
            if match is None:
                raise BadHead(Problems.BAD_REQUEST, "broken chunk size")
            size = int(match[1], 16)
            begin = size_end + 2
            if size == 0:  # the last chunk
                return self._read_trailer(begin)
            if len(self.content) + size > self._limit:
                self.too_large = True
                return b""

            # A chunk ends with CRLF.
            stop = begin + size
            next_begin = stop + 2
            # The chunk is incomplete. But data that are longer than the chunk
            # are an error already.
            if len(raw) < next_begin:
                if len(raw) > stop and raw[stop] != _CARRIAGE_RETURN:
                    raise BadHead(Problems.BAD_REQUEST, "chunk longer than it says")
                return None
            if raw[stop:next_begin] != b"\r\n":
                raise BadHead(Problems.BAD_REQUEST, "chunk longer than it says")
            self.content += raw[begin:stop]
            del raw[:next_begin]

    def _check_partial_size(self) -> None:
        """Raise :class:`BadHead` if a line with a size can no longer become
        valid.

        So the server does not wait for a client that sends invalid data.
        """
        raw = self._raw
        may_become_size = (
            not raw or _SIZE.fullmatch(raw.removesuffix(b"\r")) is not None
        )
        if len(raw) >= MAX_LINE_BYTES or not may_become_size:
            raise BadHead(Problems.BAD_REQUEST, "broken chunk size")

    def _read_trailer(self, start: int) -> bytes | None:
        """Read the end of a chunked body, which begins at index ``start``.

        The end is an empty line. Header lines may come before it, and are
        dropped. Returns the same values as :meth:`feed`.
        """
        raw = self._raw
        first_line = start + 2
        if raw[start:first_line] == b"\r\n":
            return bytes(raw[first_line:])
        return self._drop_trailer_lines(start)

    def _drop_trailer_lines(self, start: int) -> bytes | None:
        """Drop the header lines that end a chunked body, from index ``start``.

        Returns the same values as :meth:`feed`.
        """
        raw = self._raw
        end = raw.find(HEAD_END, start)
        if end < 0:
            trailer = raw[start:]
        else:
            trailer = raw[start : end + 2]
        has_bare_line_ends = trailer.count(b"\n") != trailer.count(b"\r\n")
        if len(trailer) > _MOST_TRAILER_BYTES or has_bare_line_ends:
            raise BadHead(Problems.BAD_REQUEST, "broken trailer")
        if end < 0:
            return None
        if _TRAILER.fullmatch(trailer) is None:
            raise BadHead(Problems.BAD_REQUEST, "broken trailer")
        return bytes(raw[end + HEAD_END_BYTES :])


def streams(parsed: ParsedHead, wanted: Streamed | None) -> bool:
    """Tell whether the application reads the body of a request in pieces.

    ``wanted`` says for which routes the application does so. None means that
    the application does so for no route. A chunked body is always read
    completely, up to the usual limit, because only :class:`Body` parses chunks
    strictly enough.
    """
    if (
        wanted is None
        or not parsed.length
        or parsed.chunked
        or "upgrade" in parsed.headers
    ):
        return False
    return wanted(parsed.method, parsed.path)


def plain_head(raw: bytes, head: ParsedHead) -> bytes:
    """Make a head that servers with a less strict parser read in the same way.

    ``raw`` is the received head of a request with a streamed body. In the
    result the target is a path in ASCII, and the header Connection is just
    ``close``. ``Expect`` stays, because the reader of the body answers it. But
    a request of HTTP/1.0 loses ``Expect``, because that version does not have
    this header.
    """
    is_old = head.version == "1.0"
    if not head.altered and not (is_old and "expect" in head.headers):
        return raw
    if is_old:
        return _rewrite_head(raw, head, dropped=(b"expect",))
    return _rewrite_head(raw, head, dropped=())


def plain_request(raw: bytes, head: ParsedHead, content: bytes | bytearray) -> bytes:
    """Make a whole request that less strict servers read in the same way.

    The request has the body ``content`` with its length, and a head as
    :func:`plain_head` makes it. ``raw`` is the received head. The body of a
    HEAD request has no meaning, and is dropped.
    """
    if content and head.method == "HEAD":
        content = b""  # the head is rewritten, too
    elif not head.chunked and not head.altered and "expect" not in head.headers:
        return raw + content
    # A body without a length gets one, because its chunks are decoded.
    if content or head.chunked:
        length = [b"Content-Length: %d" % len(content)]
    else:
        length = []
    replaced = (b"content-length", b"transfer-encoding", b"expect")
    return _rewrite_head(raw, head, dropped=replaced, added=length) + content


def _rewrite_head(
    raw: bytes,
    head: ParsedHead,
    dropped: tuple[bytes, ...],
    added: Iterable[bytes] = (),
) -> bytes:
    """Rewrite a head: without some headers, and with some added header lines.

    ``raw`` is the received head. The names of ``dropped`` are in lower case.
    """
    if "connection" in head.headers and not head.keep_alive and not head.upgrade:
        dropped = (*dropped, b"connection")
        added = (*added, b"Connection: close")
    request_line = b"%b %b HTTP/%b" % (
        head.method.encode(),
        head.url,
        head.version.encode(),
    )
    remaining = []
    # The slice leaves out the request line, and the two empty texts after the
    # last line.
    for line in raw.split(b"\r\n")[1:-2]:
        name = line.partition(b":")[0].strip().lower()
        if name not in dropped:
            remaining.append(line)
    return b"\r\n".join([request_line, *remaining, *added, b"", b""])


# --- requests and responses ---------------------------------------------------

Headers = tuple[tuple[str, str], ...]

CORS: Headers = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE,UPDATE"),
    (
        "Access-Control-Allow-Headers",
        "Authorization, Content-Type, Content-Length, X-CSRF-Token, Token, session, Accept, Origin, Host, "
        "Connection, Accept-Encoding, Accept-Language, DNT, X-CustomHeader, Keep-Alive, User-Agent, "
        "X-Requested-With, X_Requested_With, If-Modified-Since, Cache-Control, Pragma, Idempotency-Key, "
        "X-Request-Id, "
        "Last-Event-ID",
    ),
    (
        "Access-Control-Expose-Headers",
        "Content-Length, Content-Type, Cache-Control, Content-Language, Expires, Last-Modified, Pragma, "
        "Idempotent-Replayed, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, "
        "X-Request-Id",
    ),
    ("Access-Control-Max-Age", "172800"),
)
"""CORS headers that let pages of other origins read answers of the API."""


def challenged(problem: HttpProblem, headers: Headers = ()) -> Headers:
    """Return the headers of an error response.

    For a 401 they also name the accepted scheme.
    """
    if problem.status == 401:
        return (*headers, ("WWW-Authenticate", "Bearer"))
    return headers


_CHECKSUM_MISMATCH: Final = 460
"""A status of tus, which Python does not know."""
_REMEMBERED_LENGTHS: Final = 1024
"""For how many lengths of bodies the header line is cached."""


def phrase_of(status: int) -> str:
    """Return the reason phrase of a status, such as ``Not Found``."""
    if status == _CHECKSUM_MISMATCH:
        return "Checksum Mismatch"
    return HTTPStatus(status).phrase


@lru_cache(256)
def status_line(status: int) -> bytes:
    """Return the first line of a response, with its CRLF."""
    return f"HTTP/1.1 {status} {phrase_of(status)}\r\n".encode()


def response_head(
    status: int, lines: bytes, length: int, keep_alive: bool, version: str = "1.1"
) -> bytes:
    """Make a whole response head.

    ``lines`` are header lines, each ended by CRLF.
    """
    # HTTP/1.1 keeps a connection by default, and HTTP/1.0 does not.
    end = b"Connection: close\r\n"
    if keep_alive:
        if version == "1.0":
            end = b"Connection: keep-alive\r\n"
        else:
            end = b""
    return b"%b%bContent-Length: %d\r\n%b\r\n" % (
        status_line(status),
        lines,
        length,
        end,
    )


def problem_body(problem: HttpProblem, id: str = "", detail: str = "") -> bytes:
    """Make the JSON body of an error.

    ``id`` is the id of the request; ``""`` makes a new id. ``detail`` is the
    message; ``""`` stands for the usual message of the problem.
    """
    return msgspec.json.encode(
        {
            "code": problem.code,
            "message": detail or problem.message,
            "temporary": problem.temporary,
            "request_id": id or request_id(""),
        }
    )


def problem_response(problem: HttpProblem, headers: Headers = ()) -> bytes:
    """Make a whole error response, after which the connection ends.

    It is for errors before a route is known. Its request id is a new one.
    """
    content = problem_body(problem)
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in challenged(problem, headers)
    )
    lines += "Content-Type: application/json; charset=utf-8\r\n"
    head = response_head(
        problem.status, lines.encode("latin-1"), len(content), keep_alive=False
    )
    return head + content


_ID_BITS: Final = 64


class HttpRequest(Struct, gc=False):
    """A request, from either server. ``query`` and ``body`` are raw bytes;
    header names are in lower case.

    ``host``: address of the client, as trusted proxies report it.
    ``too_large``: the body exceeds its limit and was not read.
    """

    method: str
    path: str
    query: bytes
    body: bytes
    headers: Mapping[str, str]
    host: str
    too_large: bool = False
    given_id: str = ""
    """The value of :attr:`id`, if it was read before; else ``""``."""
    by: str = ""
    """The label of its principal, for the log; ``""``: not known."""

    @property
    def id(self) -> str:
        """The id of this request in the log and in answers.

        It is the id that the client has given, else a new one.
        """
        if not self.given_id:
            header = self.headers.get("x-request-id", "")
            if header:
                self.given_id = request_id(header)
            else:
                self.given_id = f"{getrandbits(_ID_BITS):016x}"
        return self.given_id


HEADER_LIST: Final = (
    ("Content-Type", "application/json; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
    *CORS,
)
"""Headers of every API response except Content-Length."""

HEADERS: Final = b"".join(
    b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in HEADER_LIST
)
"""The headers of every API response as one block, each line ended by CRLF."""
_OTHER_HEADERS: Final = HEADERS.partition(b"\r\n")[2]
"""The lines of :data:`HEADERS` without the first one, Content-Type."""


SHOWN_TYPES: Final = frozenset(
    {
        "text/plain",
        "application/json",
        "application/x-ndjson",
        "text/event-stream",
        "image/jpeg",
        "image/png",
        "image/gif",
        "image/webp",
        "audio/aac",
        "audio/amr",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "video/3gpp",
        "video/mp4",
        "video/ogg",
        "video/quicktime",
        "video/webm",
        "video/x-matroska",
    }
)
"""Types that browsers only show or play. Any other type is a download, because
it may be a page, or a picture with scripts."""
DOWNLOADED_TYPES: Final = frozenset({"application/pdf", "application/zip"})
"""Types of downloads that keep their type."""
BINARY: Final = "application/octet-stream"
SANDBOX: Final = ("Content-Security-Policy", "default-src 'none'; sandbox")
"""With this header a page runs no script and has no origin, if a browser shows
an answer as a page."""


def content_headers(
    content_type: str, name: str = "", *, keeps_type: bool = False
) -> Headers:
    """Make the headers of an answer whose type or bytes a user has chosen.

    A browser never runs such an answer as one of our pages. A type that is
    neither in :data:`SHOWN_TYPES` nor in :data:`DOWNLOADED_TYPES` becomes
    :data:`BINARY`. With ``keeps_type``, it stays as it is, for clients that
    need the type that they gave; the answer is still a download. ``name`` is
    the name of the file; ``""``: the answer names none.
    """
    plain_type = content_type.partition(";")[0].strip().lower()
    is_shown = plain_type in SHOWN_TYPES
    if not (is_shown or keeps_type or plain_type in DOWNLOADED_TYPES):
        content_type = BINARY
    disposition = "inline" if is_shown else "attachment"
    # The name may have any characters, so it is encoded (RFC 8187).
    if name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return (
        ("Content-Type", content_type),
        ("X-Content-Type-Options", "nosniff"),
        SANDBOX,
        ("Content-Disposition", disposition),
    )


def typed_headers(content_type: str) -> Headers:
    """Return the headers of an answer that is neither JSON nor one of our
    pages.

    They come besides :data:`HEADER_LIST`.
    """
    *_, disposition = content_headers(content_type, keeps_type=True)
    _, how = disposition
    if how == "inline":
        return (SANDBOX,)
    return (SANDBOX, disposition)


@lru_cache(256)
def _typed_block(content_type: str) -> bytes:
    """Make all headers of an answer that is neither JSON nor one of our pages.

    They are lines that end with CRLF, without Content-Length.
    """
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in typed_headers(content_type)
    )
    return b"Content-Type: %b\r\n%b%b" % (
        content_type.encode("latin-1"),
        _OTHER_HEADERS,
        lines.encode(),
    )


class HttpResponse(Struct, frozen=True):
    """A finished response with :data:`HEADERS` and its own ``headers``.

    ``content_type``: set if the body is not JSON. A browser that shows such a
    body as a page runs no script of it. A body that is no text, picture, sound
    or video is a download (:func:`content_headers`). ``page``: one of our
    pages. It has only its own headers, so pages of other origins cannot read
    it. ``whole``: see :func:`constant`. ``refuses``: it refuses the request,
    although its status means success.
    """

    status: int
    body: bytes
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    page: bool = False
    whole: bytes = b""
    refuses: bool = False

    @staticmethod
    def content_headers(content_type: str, name: str = "") -> Headers:
        """Make the headers of a response that a view streams itself.

        Its bytes are from a user, and ``name`` is the name of the file. A
        browser never runs it as one of our pages.
        """
        return content_headers(content_type, name)

    def with_headers(self, headers: tuple[tuple[str, str], ...]) -> HttpResponse:
        """Return this response with more headers."""
        return replace(self, headers=self.headers + headers, whole=b"")


def header_block(response: HttpResponse) -> bytes:
    """Make the header lines of a response, each ended by CRLF.

    Content-Length is not among them.
    """
    if not response.content_type and not response.headers:
        return HEADERS
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers).encode(
        "latin-1"
    )
    if not response.content_type:
        return HEADERS + lines
    # A page has no headers of the API.
    if response.page:
        return b"Content-Type: %b\r\n%b" % (
            response.content_type.encode("latin-1"),
            lines,
        )
    return _typed_block(response.content_type) + lines


@lru_cache(_REMEMBERED_LENGTHS)
def _length_line(length: int) -> bytes:
    """Make the line with the length of a body, which ends the head."""
    return b"Content-Length: %d\r\n\r\n" % length


def keep_alive_response(response: HttpResponse) -> bytes:
    """Make a whole HTTP/1.1 response that keeps the connection open.

    Each answer of the front server to a usual request is made here.
    """
    body = response.body
    # The usual answer to a push has one header. This
    # repeats the code of header_block(), to save a call.
    if len(response.headers) == 1 and not response.content_type:
        ((name, value),) = response.headers
        lines = HEADERS + f"{name}: {value}\r\n".encode("latin-1")
    else:
        lines = header_block(response)
    return b"".join(
        (status_line(response.status), lines, _length_line(len(body)), body)
    )


def constant(response: HttpResponse) -> HttpResponse:
    """Return a response that has all its bytes already.

    It is for answers that are sent often, over connections that stay open.
    """
    return replace(response, whole=keep_alive_response(response))


HttpRoutes = Mapping[tuple[str, str], Callable[[HttpRequest], HttpResponse]]
"""(method, path) → the function that answers. It may switch greenlets."""
_Found = TypeVar("_Found")


def pattern_of(path: str) -> str:
    """Replace each second segment of a path by ``*``, after the first.

    For example, ``/app/1f2e`` gives ``/app/*``, and
    ``/apps/7/channels/news/users`` gives ``/apps/*/channels/*/users``: segments
    with a fixed text and segments with a name alternate.
    """
    segments = path.split("/")
    # The first segment is the empty text before the first slash.
    segments[2::2] = ["*" if segment else "" for segment in segments[2::2]]
    return "/".join(segments)


_FIRST_SEGMENTS: Final = 3
"""The empty segment before the first slash, and two with a text."""


def patterns_of(path: str) -> tuple[str, str]:
    """Return the two patterns that a path may match.

    The first is :func:`pattern_of`, and the second has one ``*`` for all
    segments after the second one. ``/hooks/in/7/news`` gives ``/hooks/*/7/*``
    and ``/hooks/in/*``.
    """
    first_segments = path.split("/", _FIRST_SEGMENTS)[:_FIRST_SEGMENTS]
    return pattern_of(path), "/".join((*first_segments, "*"))


def row_of(
    rows: Mapping[tuple[str, str], _Found], method: str, path: str
) -> _Found | None:
    """Find the row of a path, or of one of its patterns.

    Returns None if no row matches.
    """
    return rows.get((method, route_of(rows, method, path)))


def route_of(rows: Mapping[tuple[str, str], object], method: str, path: str) -> str:
    """Return the path, or the first of its patterns, that has a row.

    Returns ``""`` if none has a row.
    """
    for route in (path, *patterns_of(path)):
        if (method, route) in rows:
            return route
    return ""
