"""The front door: reads a request's head, and decides at once where it goes.

An upgrade becomes a parked WebSocket; a request for one of the fast routes is answered right in the reader
greenlet; everything else is handed, with the bytes already read, to pywsgi's handler (``transport.handover``)
and comes back when it is answered. A kept-alive connection waits parked, like a WebSocket.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct

from imserver import errors
from imserver.metrics import Metrics
from imserver.transport import problems
from imserver.transport.connection import Carrier, Connection
from imserver.transport.gate import Admission, Gate, Head, Refusal, wants_upgrade
from imserver.transport.handover import HandOver

log = logging.getLogger(__name__)

RECEIVE_BYTES = 65536
BODY_SECONDS = 60
"""Time for a request's body to arrive."""
LINGER_SECONDS = 2
"""How long the end of a refused request is read and dropped."""
_SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


class FastRequest(Struct):
    """What a fast route gets. ``query`` and ``body`` are raw bytes; ``headers`` have lower-case names."""

    method: str
    path: str
    query: bytes
    body: bytes
    headers: Mapping[str, str]
    host: str
    """Address of the client, as the trusted proxies tell it."""


class FastResponse(Struct):
    """What a fast route answers; ``head`` holds whole header lines, each ended by CRLF."""

    status: int
    head: bytes
    body: bytes


FastRoutes = Mapping[tuple[str, str], Callable[[FastRequest], FastResponse | None]]
"""(method, path) → the function that answers; None sends the request to the application instead."""


class _Parsed:
    """Target of httptools' callbacks: one request head."""

    __slots__ = ("headers", "keep_alive", "method", "url", "version")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.method = ""
        self.version = ""
        self.keep_alive = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known},{text}"


def parse_head(data: bytes) -> _Parsed:
    """Read one whole request head.

    Raises HttpParserError for whatever is malformed or ambiguous: the parser is strict, so bare LF, folded
    headers, repeated lengths, and a length beside chunks are refused (RFC 9112 sections 2.2, 5.2 and 6.3).
    """
    parsed = _Parsed()
    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        log.debug("a request asks for an upgrade")
    parsed.method = parser.get_method().decode("latin-1")
    parsed.version = parser.get_http_version()
    parsed.keep_alive = parser.should_keep_alive()
    return parsed


class Front:
    """What all HTTP connections of the front share. Owner of the set of parked ones."""

    def __init__(
        self,
        carrier: Carrier,
        gate: Gate,
        fast: FastRoutes,
        hand_over: HandOver,
        metrics: Metrics,
        header_bytes: int,
        body_bytes: int,
        handshake_seconds: float,
        keepalive_seconds: float,
        request_log: Callable[..., None] | None,
        admitted: Callable[[_socket.socket, Admission, bytes], None],
    ) -> None:
        self.carrier = carrier
        self.gate = gate
        self.fast = fast
        self.hand_over = hand_over
        self.metrics = metrics
        self.header_bytes = header_bytes
        self.body_bytes = body_bytes
        self.handshake_seconds = handshake_seconds
        self.keepalive_seconds = keepalive_seconds
        self.request_log = request_log
        self.admitted = admitted
        self.parked: set[HttpConnection] = set()
        self.draining = False

    def accept(self, sock: _socket.socket, address: Any) -> None:
        """Park a new connection (a listener's ``accepted``)."""
        self.park(HttpConnection(self, sock, address))

    def park(self, connection: HttpConnection) -> None:
        """Wait for the next request on ``connection``."""
        self.parked.add(connection)
        self.carrier.poller.take(connection)

    def expire(self) -> None:
        """Close what has waited too long: unfinished heads, unfinished bodies, silent kept-alive ones."""
        now = monotonic()
        for connection in tuple(self.parked):
            if now > connection.deadline and not connection.reading:
                connection.expire()

    def close_idle(self) -> None:
        """The server drains: end the connections that wait for a request."""
        self.draining = True
        for connection in tuple(self.parked):
            if not connection.unfinished:
                connection.lost()


class HttpConnection:
    """One parked HTTP connection. Owner of its socket and of the bytes of an unfinished request."""

    __slots__ = (
        "_body",
        "_buffer",
        "_front",
        "_lingering",
        "_parsed",
        "_start",
        "address",
        "deadline",
        "fd",
        "masked",
        "reading",
        "sock",
    )

    def __init__(self, front: Front, sock: _socket.socket, address: Any) -> None:
        self._front = front
        self.sock = sock
        self.fd = sock.fileno()
        self.address = address
        self.reading = False
        self.masked = False
        self._buffer = b""
        self._body: bytearray | None = None
        self._parsed: _Parsed | None = None
        self._start = 0
        self._lingering = False
        self.deadline = monotonic() + front.handshake_seconds

    @property
    def peer(self) -> str:
        """Address of the peer, for the log."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def unfinished(self) -> bool:
        """True while a request has begun to arrive."""
        return bool(self._buffer) or self._body is not None

    def on_readable(self) -> None:
        """Read once and serve the requests that are whole."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.lost()
            return
        if not data:
            self.lost()
        elif self._lingering:
            return
        elif self._body is None:
            self.serve(self._buffer + data if self._buffer else data)
        else:
            self._body += data
            parsed = self._parsed
            assert parsed is not None
            if len(self._body) >= int(parsed.headers["content-length"]) + self._start:
                whole = bytes(self._body)
                self._body = self._parsed = None
                rest = self._request(parsed, whole, self._start)
                if rest is not None:
                    self.serve(rest)

    def on_writable(self) -> None:
        """Never asked for: an answer that the kernel does not take whole is written by the hand-over."""

    def serve(self, data: bytes) -> None:
        """Serve the requests in ``data``, which begins where a request begins."""
        while data:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > self._front.header_bytes:
                self._incomplete(data, end)
                return
            try:
                parsed = parse_head(data[:end])
            except HttpParserError as exc:
                self.refuse(400, str(exc))
                return
            length = parsed.headers.get("content-length")
            if length is not None and len(data) - end < int(length) <= self._front.body_bytes:
                if parsed.headers.get("expect"):
                    self._hand_over(data, end)
                    return
                self._buffer = b""
                self._body, self._parsed, self._start = bytearray(data), parsed, end
                self.deadline = monotonic() + BODY_SECONDS
                return
            rest = self._request(parsed, data, end)
            if rest is None:
                return
            data = rest
        self._buffer = b""
        self.deadline = monotonic() + self._front.keepalive_seconds

    def _incomplete(self, data: bytes, end: int) -> None:
        """No whole head yet: refuse what can never become one, else wait for more."""
        stray = data.lstrip(b"\r\n")
        if len(data) > self._front.header_bytes or end >= 4:
            self.refuse(431, "request head too large")
        elif data.count(b"\n") != data.count(b"\r\n"):
            self.refuse(400, "bare LF in the request head")
        else:
            if not self._buffer:
                self.deadline = monotonic() + self._front.handshake_seconds
            self._buffer = stray

    def _request(self, parsed: _Parsed, data: bytes, end: int) -> bytes | None:
        """Serve one whole request that stands at the begin of ``data``, its head ending at ``end``.

        Returns the bytes after it, or None when this object has nothing more to do for now.
        """
        front = self._front
        headers = parsed.headers
        path, _, query = parsed.url.partition(b"?")
        if "upgrade" in headers and wants_upgrade(headers):
            return self._upgrade(parsed, path.decode("latin-1"), data, end)
        encoding = headers.get("transfer-encoding")
        if encoding is not None and encoding.lower() != "chunked":
            self.refuse(501, "only chunked transfer encoding is known")
            return None
        target = path.decode("latin-1")
        fast = front.fast.get((parsed.method, target))
        if fast is None or encoding is not None or "expect" in headers:
            self._hand_over(data, end)
            return None
        began = perf_counter()
        length = int(headers.get("content-length", 0))
        if length > front.body_bytes:
            self._hand_over(data, end)
            return None
        host = self.address[0]
        if "x-forwarded-for" in headers:
            host = front.gate.proxies.client(host, headers["x-forwarded-for"])
        request = FastRequest(parsed.method, target, query, data[end : end + length], headers, host)
        response = fast(request)
        if response is None:
            self._hand_over(data, end)
            return None
        front.metrics.http_fast += 1
        keep = parsed.keep_alive and not front.draining
        body = b"" if parsed.method == "HEAD" else response.body
        head = problems.head(response.status, response.head, len(response.body), keep, parsed.version)
        if front.request_log is not None:
            front.request_log(
                parsed.method, target, response.status, perf_counter() - began, host, len(response.body), ""
            )
        rest = data[end + length :]
        return rest if self._answer(head + body, keep, rest) else None

    def _answer(self, data: bytes, keep: bool, rest: bytes) -> bool:
        """Write an answer; False when this object has nothing more to do for now."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.lost()
            return False
        if sent < len(data):
            self._leave()
            self._front.hand_over.write(self, data[sent:], rest if keep else None)
            return False
        if not keep:
            self.finish()
            return False
        return True

    def _upgrade(self, parsed: _Parsed, path: str, data: bytes, end: int) -> bytes | None:
        """Decide on an upgrade request and carry it out; what follows the head are frames already."""
        front = self._front
        host, port = self.address[0], self.address[1]
        decision = front.gate.decide(Head(parsed.method, path, host, port, parsed.headers))
        if isinstance(decision, Refusal):
            front.metrics.handshakes_refused += 1
            self.refuse(decision.status, decision.message, decision.headers)
            return None
        answer = f"{_SWITCHING}{decision.accept}\r\n"
        if decision.extension:
            answer += f"Sec-WebSocket-Extensions: {decision.extension}\r\n"
        try:
            # A fresh socket's buffer is empty: the kernel takes a few hundred bytes whole or is broken.
            self.sock.send(f"{answer}\r\n".encode("latin-1"))
        except OSError:
            self.lost()
            return None
        front.parked.discard(self)
        front.admitted(self.sock, decision, data[end:])
        return None

    def refuse(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a problem body and end the connection."""
        self._front.metrics.http_refused += 1
        try:
            self.sock.send(problems.response(status, message, headers))
        except OSError:
            log.debug("%s went before it was refused", self.peer)
        self.finish()

    def finish(self) -> None:
        """End TCP after the answer.

        Bytes of the peer that are still on their way must not destroy the answer by a reset: they are read
        and dropped until the peer ends its half or :data:`LINGER_SECONDS` have passed.
        """
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.lost()
            return
        self._lingering = True
        self._buffer, self._body = b"", None
        self.deadline = monotonic() + LINGER_SECONDS
        self._front.park(self)

    def expire(self) -> None:
        """It took too long: a silent connection is closed, an unfinished request is told so."""
        if self.unfinished:
            self.refuse(408, "the request took too long to arrive")
        else:
            self.lost()

    def lost(self) -> None:
        """End TCP now."""
        self._leave()
        self.sock.close()

    def _leave(self) -> None:
        self._buffer = b""
        self._front.parked.discard(self)
        self._front.carrier.poller.remove(self)

    def _hand_over(self, data: bytes, end: int) -> None:
        """Let the application answer; the connection comes back afterwards."""
        self._leave()
        self._front.metrics.http_handed_over += 1
        if self._front.hand_over.full:
            self.refuse(503, "too many requests at once")
        else:
            self._front.hand_over.serve(self, data)

    def come_back(self, sock: _socket.socket, rest: bytes) -> None:
        """The hand-over is done: go on with the bytes that were read beyond it."""
        self.sock = sock
        self.fd = sock.fileno()
        if self._front.draining:
            self.finish()
            return
        self._front.park(self)
        self.deadline = monotonic() + self._front.keepalive_seconds
        if rest:
            self.reading = True
            try:
                self.serve(rest)
            finally:
                self.reading = False
                if self.masked:
                    self._front.carrier.poller.unmask(self)


def adopt(
    carrier: Carrier, gate: Gate, sock: _socket.socket, admission: Admission, rest: bytes
) -> Connection:
    """Make a parked WebSocket of a socket whose 101 is on its way, and serve what was read behind it.

    Used by both doors. The socket must be non-blocking; the poller may know it already.
    """
    connection = Connection(carrier, sock, admission.peer, admission.encoding, monotonic())
    gate.entered(admission.peer.rpartition(":")[0])
    carrier.poller.take(connection)
    if admission.close_code:
        connection.close(admission.close_code, errors.CLOSE[admission.close_code].name)
    elif rest:
        connection.reading = True
        try:
            connection.feed(rest)
        finally:
            connection.reading = False
            if connection.masked:
                carrier.poller.unmask(connection)
    return connection


__all__ = ["FastRequest", "FastResponse", "FastRoutes", "Front", "HttpConnection", "adopt"]
