"""Request heads: one strict reader for both servers, so that they cannot disagree about a request.

A back end sends the same head with each request, so :class:`KnownHeads` parses it once. It remembers only
public heads: of a POST to a path without a query, whose header lines are all among :data:`KEPT`. A key
(``Authorization: Bearer …``) is cut out before a head is looked up or remembered.
"""

from __future__ import annotations

import logging
import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from imserver.errors import (
    HTTP_BAD_REQUEST,
    HTTP_HEADERS_TOO_LARGE,
    HTTP_NOT_IMPLEMENTED,
    HTTP_VERSION_NOT_SUPPORTED,
    HttpProblem,
)

log = logging.getLogger(__name__)


MAX_HEADERS = 100
"""Most header lines in a request."""


_USUAL_NAMES = {
    spelt.encode(): name
    for name in (
        *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type"),
        *("host", "idempotency-key", "upgrade", "user-agent", "x-forwarded-for", "x-request-id"),
    )
    for spelt in (name, name.title())
}
"""Names as clients spell them; to know them is cheaper than to decode them."""


class BadHead(Exception):
    """The head cannot be served; ``problem`` is what the client is told, ``args`` what the log is."""

    def __init__(self, problem: HttpProblem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


class ParsedHead:
    """One request head. Header names are in lower case; repeated ones are joined by a comma.

    ``length`` is the Content-Length, None without one; ``chunked`` whether the body comes in chunks;
    ``absolute`` whether the target named scheme and host, which ``url`` has lost (RFC 9112 section 3.2.2).
    ``path`` and ``query`` are what stands in ``url`` before and behind the question mark.
    """

    __slots__ = (
        "absolute",
        "chunked",
        "headers",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "url",
        "version",
    )

    def __init__(self) -> None:
        self.url = b""
        self.path = ""
        self.query = b""
        self.headers: dict[str, str] = {}
        self.method = ""
        self.version = ""
        self.keep_alive = False
        self.length: int | None = None
        self.chunked = False
        self.absolute = False

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        key = _USUAL_NAMES.get(name) or name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        known = self.headers.get(key)
        if known is not None and key == "host":
            raise ValueError("more than one Host")
        self.headers[key] = text if known is None else f"{known},{text}"

    def signed(self, authorization: str) -> ParsedHead:
        """The same head with this Authorization header, or (``""``) with none."""
        head = ParsedHead.__new__(ParsedHead)
        head.url, head.path, head.query = self.url, self.path, self.query
        head.method, head.version, head.keep_alive = self.method, self.version, self.keep_alive
        head.length, head.chunked, head.absolute = self.length, self.chunked, self.absolute
        head.headers = headers = self.headers.copy()
        if authorization:
            headers["authorization"] = authorization
        else:
            headers.pop("authorization", None)
        return head


def end_of_head(data: bytes | bytearray, limit: int) -> int:
    """Where the body begins in ``data``; 0 while the head is not whole.

    Raises :class:`BadHead` as soon as it can never become one of at most ``limit`` bytes.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end >= 4:
        if end > limit:
            raise BadHead(HTTP_HEADERS_TOO_LARGE, "request head too large")
        return end
    if len(data) > limit:
        raise BadHead(HTTP_HEADERS_TOO_LARGE, "request head too large")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise BadHead(HTTP_BAD_REQUEST, "bare LF in the request head")
    return 0


def parse_head(data: bytes) -> ParsedHead:
    """Read one whole request head.

    Raises :class:`BadHead` for whatever is malformed or ambiguous: the parser is strict, so bare LF, folded
    headers, repeated lengths, and a length beside chunks are refused (RFC 9112 sections 2.2, 5.2 and 6.3).
    """
    parsed = ParsedHead()
    if data.count(b"\r\n") > MAX_HEADERS + 2:
        raise BadHead(HTTP_HEADERS_TOO_LARGE, "too many headers")
    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        log.debug("a request asks for an upgrade")
    except (HttpParserError, ValueError) as exc:
        raise BadHead(HTTP_BAD_REQUEST, str(exc)) from exc
    parsed.method = parser.get_method().decode("latin-1")
    parsed.version = parser.get_http_version()
    headers = parsed.headers
    if parsed.version not in ("1.1", "1.0"):
        raise BadHead(HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{parsed.version}")
    if parsed.version == "1.1" and "host" not in headers:
        raise BadHead(HTTP_BAD_REQUEST, "no Host")
    if parsed.url[:1] != b"/":
        _, separator, rest = parsed.url.partition(b"://")
        if separator:
            parsed.absolute = True
            parsed.url = b"/" + rest.partition(b"/")[2]
    path, _, parsed.query = parsed.url.partition(b"?")
    parsed.path = path.decode("latin-1")
    # The parser's own answer is gone once a message without a body is complete.
    if "connection" in headers:
        wishes = [wish.strip() for wish in headers["connection"].lower().split(",")]
        parsed.keep_alive = "close" not in wishes and (parsed.version == "1.1" or "keep-alive" in wishes)
    else:
        parsed.keep_alive = parsed.version == "1.1"
    if "content-length" in headers:
        parsed.length = int(headers["content-length"])
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked":
            raise BadHead(HTTP_NOT_IMPLEMENTED, "unknown transfer encoding")
        parsed.chunked = True
    return parsed


KEPT: Final = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-length"),
        *("content-type", "host", "sec-fetch-mode", "user-agent", "x-forwarded-for", "x-forwarded-proto"),
    }
)
"""Names of the lines that a head may have to be kept."""
MAX_HEADS: Final = 256
"""Heads that are kept; with one more they are forgotten, all."""
MAX_BYTES: Final = 1024
"""Longest head that is kept."""
MAX_LINES: Final = 30
"""Most lines in it: with the key's it is far from what any head may have."""

_NAME: Final = b"uthorization: "
_KEY: Final = _NAME + b"Bearer "
_usual_key = re.compile(rb"Bearer [A-Za-z0-9._~+/=-]{1,512}").fullmatch


class KnownHeads:
    """Reads heads. Owner of those it remembers; what it gives is shared, and not to be changed."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, ParsedHead] = {}

    def read(self, data: bytes) -> ParsedHead:
        """Read one whole request head, as :func:`imserver.transport.head.parse_head` does."""
        at = data.find(_KEY)
        if at < 0:
            known = self._heads.get(data)
            if known is None:
                known = parse_head(data)
                self._keep(data, known)
            return known
        end = data.find(b"\r", at)  # a lone one stays in what is looked up, which is no head then
        key = data[at + len(_NAME) : end]
        if data[at - 3 : at] not in (b"\r\nA", b"\r\na") or _usual_key(key) is None:
            return parse_head(data)
        rest = data[: at - 3] + data[end:]
        authorization = key.decode()
        known = self._heads.get(rest)
        if known is not None:
            return known.signed(authorization)
        parsed = parse_head(data)
        if parsed.headers["authorization"] == authorization:  # there is no second one
            self._keep(rest, parsed.signed(""))
        return parsed

    def _keep(self, data: bytes, head: ParsedHead) -> None:
        """Remember a head, if it is one that may be; ``data`` is that head as it came, but for its key."""
        if len(data) > MAX_BYTES or head.method != "POST" or head.query or not head.headers.keys() <= KEPT:
            return
        if data.count(b"\r\n") > MAX_LINES:
            return
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[data] = head
