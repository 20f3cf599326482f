"""Request bodies, read whole before anybody serves the request: by length or in chunks (RFC 9112 section 7).

Chunks are read as strictly as heads: a hexadecimal size, perhaps extensions (ignored), CRLF, data, CRLF.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set

from imserver.errors import HTTP_BAD_REQUEST
from imserver.transport.head import BadHead, ParsedHead

MAX_LINE_BYTES = 256
"""Longest line before a chunk, with its CRLF."""
MAX_TRAILER_BYTES = 8192
MAX_PUBLIC_BODY_BYTES = 65536
"""Bodies up to this size are read of everybody. Above it the API is asked how much it takes."""

BodyLimit = Callable[[str, str, Mapping[str, str], str], int]
"""(method, path, headers, client address) → the bytes that the body of such a request may have."""

Streamed = Set[tuple[str, str]]
"""(method, path) of the requests whose bodies are too large to be held in memory."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e]*)?")
_REPLACED = (b"content-length", b"transfer-encoding", b"expect")


class Body:
    """One body under way. Owner: the connection that reads it.

    ``content`` is what there is so far, decoded. ``too_large`` is True once it is sure to pass ``limit``
    bytes: it is not read any further then, and the connection is of no use afterwards.
    """

    __slots__ = ("_limit", "_need", "_raw", "content", "deadline", "too_large")

    def __init__(self, head: ParsedHead, limit: int, deadline: float = 0.0) -> None:
        self._limit = limit
        self.deadline = deadline
        """When it has to be whole, by the monotonic clock; its connection sees to that."""
        self._need = -1 if head.chunked else head.length or 0
        self._raw = bytearray()
        self.content = bytearray()
        self.too_large = self._need > limit

    @property
    def held_bytes(self) -> int:
        """Bytes kept."""
        return len(self._raw) + len(self.content)

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; return those behind the body once it is whole (or too large), None before.

        Raises :class:`imserver.transport.head.BadHead` for broken chunks.
        """
        if self.too_large:
            return b""
        if self._need < 0:
            self._raw += data
            return self._read_chunks()
        missing = self._need - len(self.content)
        self.content += data[:missing]
        return data[missing:] if len(data) >= missing else None

    def _read_chunks(self) -> bytes | None:
        raw = self._raw
        while True:
            end = raw.find(b"\r\n", 0, MAX_LINE_BYTES)
            if end < 0:
                if len(raw) >= MAX_LINE_BYTES or not _may_become_size(raw):
                    raise BadHead(HTTP_BAD_REQUEST, "broken chunk size")
                return None
            found = _SIZE.fullmatch(raw, 0, end)
            if found is None:
                raise BadHead(HTTP_BAD_REQUEST, "broken chunk size")
            size = int(found[1], 16)
            if size == 0:
                return self._read_trailer(end + 2)
            if len(self.content) + size > self._limit:
                self.too_large = True
                return b""
            stop = end + 2 + size
            if len(raw) < stop + 2:
                if len(raw) > stop and raw[stop] != 0x0D:
                    raise BadHead(HTTP_BAD_REQUEST, "chunk longer than it says")
                return None
            if raw[stop : stop + 2] != b"\r\n":
                raise BadHead(HTTP_BAD_REQUEST, "chunk longer than it says")
            self.content += raw[end + 2 : stop]
            del raw[: stop + 2]

    def _read_trailer(self, start: int) -> bytes | None:
        """What follows the last chunk: an empty line, or header lines (dropped) and an empty line."""
        raw = self._raw
        if raw[start : start + 2] == b"\r\n":
            return bytes(raw[start + 2 :])
        end = raw.find(b"\r\n\r\n", start)
        trailer = raw[start:] if end < 0 else raw[start : end + 4]
        if len(trailer) > MAX_TRAILER_BYTES or trailer.count(b"\n") != trailer.count(b"\r\n"):
            raise BadHead(HTTP_BAD_REQUEST, "broken trailer")
        return None if end < 0 else bytes(raw[end + 4 :])


def _may_become_size(raw: bytearray) -> bool:
    """Whether more bytes could make a size line of ``raw``."""
    return not raw or _SIZE.fullmatch(raw.removesuffix(b"\r")) is not None


def streams(parsed: ParsedHead, wanted: Streamed) -> bool:
    """Whether the body of this request is for the application to read, piece by piece.

    One in chunks is not: nobody reads chunks as strictly as :class:`Body` does, so such a body is read whole,
    up to the usual limit.
    """
    if not wanted or not parsed.length or parsed.chunked or "upgrade" in parsed.headers:
        return False
    return (parsed.method, parsed.url.partition(b"?")[0].decode("latin-1")) in wanted


def plain_head(raw: bytes, head: ParsedHead) -> bytes:
    """The head of a request whose body is streamed, with a path as its target.

    ``Expect`` stays: whoever reads the body asks for it. HTTP/1.0 does not know it.
    """
    if not head.absolute and (head.version == "1.1" or "expect" not in head.headers):
        return raw
    lines = raw.split(b"\r\n")[1:-2]
    dropped = () if head.version == "1.1" else (b"expect",)
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in dropped]
    first = b"%b %b HTTP/%b" % (head.method.encode(), head.url, head.version.encode())
    return b"\r\n".join([first, *kept, b"", b""])


def plain_request(raw: bytes, head: ParsedHead, content: bytes | bytearray) -> bytes:
    """The same request with a whole body of known length and a path as its target.

    ``raw`` is the head as it came. For whoever reads requests less well than we do.
    """
    if not head.chunked and not head.absolute and "expect" not in head.headers:
        return raw + content
    lines = raw.split(b"\r\n")[1:-2]
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _REPLACED]
    first = b"%b %b HTTP/%b" % (head.method.encode(), head.url, head.version.encode())
    length = [b"Content-Length: %d" % len(content)] if content or head.chunked else []
    return b"\r\n".join([first, *kept, *length, b"", b""]) + content
