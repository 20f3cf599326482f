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

from msgspec import Struct

from imserver import errors
from imserver.metrics import Metrics
from imserver.transport import problems
from imserver.transport.connection import CLOSED, CLOSING, DRAINING, OPEN, Carrier, Connection
from imserver.transport.gate import Admission, Gate, Head, Refusal, wants_upgrade
from imserver.transport.handover import HandOver
from imserver.transport.head import BadHead, ParsedHead, end_of_head, parse_head
from imserver.transport.outbox import Backlog
from imserver.transport.poller import NO_SOCKET

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

    def drain(self) -> None:
        """Serve what has arrived already, end the connections that wait for a next request.

        Those that have just been accepted and not served yet may still bring one; :attr:`busy` counts them.
        """
        self.draining = True
        for connection in tuple(self.parked):
            connection.look_once_more()

    @property
    def busy(self) -> bool:
        """True while a request is unfinished, or may be on its way on a connection without one so far."""
        return self.hand_over.busy or any(connection.unfinished for connection in self.parked)


class HttpConnection:
    """One parked HTTP connection. Owner of its socket and of the bytes of an unfinished request."""

    __slots__ = (
        "_body",
        "_buffer",
        "_front",
        "_parsed",
        "_start",
        "address",
        "deadline",
        "fd",
        "fresh",
        "interest",
        "masked",
        "outbox",
        "reading",
        "sock",
        "state",
    )

    def __init__(self, front: Front, sock: _socket.socket, address: Any) -> None:
        self._front = front
        self.sock = sock
        self.fd = sock.fileno()
        self.address = address
        self.reading = False
        self.masked = False
        self.interest = 0
        self.fresh = True
        """No request has come yet."""
        self._buffer = b""
        self._body: bytearray | None = None
        self._parsed: ParsedHead | None = None
        self._start = 0
        self.outbox: list[bytes] | Backlog | None = None
        self.state = OPEN
        self.deadline = monotonic() + front.handshake_seconds

    @property
    def peer(self) -> str:
        """Address of the peer, for the log."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def unfinished(self) -> bool:
        """True while a request, its answer, or the first request of all is on its way."""
        return self.state < DRAINING and bool(
            self.fresh or self._buffer or self._body is not None or self.outbox is not None
        )

    def look_once_more(self) -> None:
        """The server drains: serve what the kernel holds; then end a connection that only waits."""
        if not self.reading:
            self.reading = True
            try:
                self.on_readable()
            finally:
                self.reading = False
                if self.masked:
                    self._front.carrier.poller.unmask(self)
        if not self.unfinished and self.state == OPEN:
            self.lost()

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
        elif self.state != OPEN:
            return
        elif self._body is None:
            self.serve(self._buffer + data if self._buffer else data)
        else:
            self._body += data
            parsed = self._parsed
            assert parsed is not None
            whole = len(self._body) >= (parsed.length or 0) + self._start
            self._count(0 if whole else len(self._body))
            if whole:
                request = bytes(self._body)
                self._body = self._parsed = None
                rest = self._request(parsed, request, self._start)
                if rest is not None:
                    self.serve(rest)

    def _count(self, size: int) -> None:
        """Count the bytes of an unfinished body against the node's budget."""
        flusher = self._front.carrier.flusher
        flusher.budget.set(self, size)
        if flusher.budget.total > flusher.budget.limit:
            flusher.schedule()

    def on_writable(self) -> None:
        """The kernel takes bytes again."""
        self._front.carrier.flusher.resume(self)

    def watch_writable(self, wanted: bool) -> None:
        """Have :meth:`on_writable` called when the kernel takes bytes, or no more."""
        self._front.carrier.poller.watch_writable(self, wanted)

    def held_bytes(self) -> int:
        """Bytes of answers that wait for the peer to read, and of an unfinished request."""
        waiting = self.outbox.size if type(self.outbox) is Backlog else 0
        return waiting + len(self._buffer) + (0 if self._body is None else len(self._body))

    def flushed(self) -> None:
        """The last answer is written."""
        if self.state == CLOSING:
            self.finish()

    def abandon(self, _code: int) -> None:
        """The peer does not read its answers, or holds more than its share."""
        self.lost()

    def take_outbox(self) -> bytes | None:
        """Answers that are not written yet, for whoever takes the socket over; None if the peer stalls."""
        outbox, self.outbox = self.outbox, None
        if isinstance(outbox, Backlog):
            self.outbox = outbox
            return None
        return b"".join(outbox) if outbox else b""

    def serve(self, data: bytes) -> None:
        """Serve the requests in ``data``, which begins where a request begins."""
        front = self._front
        data = data.lstrip(b"\r\n") if data[:1] in b"\r\n" else data
        while data:
            try:
                end = end_of_head(data, front.header_bytes)
                if not end:
                    if not self._buffer:
                        self.deadline = monotonic() + front.handshake_seconds
                    self._buffer = data
                    return
                parsed = parse_head(data[:end])
            except BadHead as bad:
                self.refuse(bad.problem)
                return
            if parsed.length is not None and len(data) - end < parsed.length <= front.body_bytes:
                if "expect" in parsed.headers:
                    self._hand_over(data)
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
        self.deadline = monotonic() + front.keepalive_seconds

    def _request(self, parsed: ParsedHead, data: bytes, end: int) -> bytes | None:
        """Serve one whole request that stands at the begin of ``data``, its head ending at ``end``.

        Returns the bytes after it, or None when this object has nothing more to do for now.
        """
        front = self._front
        self.fresh = False
        headers = parsed.headers
        path, _, query = parsed.url.partition(b"?")
        if "upgrade" in headers and wants_upgrade(headers):
            return self._upgrade(parsed, path.decode("latin-1"), data, end)
        target = path.decode("latin-1")
        fast = front.fast.get((parsed.method, target))
        length = parsed.length or 0
        if fast is None or parsed.chunked or "expect" in headers or length > front.body_bytes:
            self._hand_over(data)
            return None
        began = perf_counter()
        host = self.address[0]
        if "x-forwarded-for" in headers:
            host = front.gate.proxies.client(host, headers["x-forwarded-for"])
        request = FastRequest(parsed.method, target, query, data[end : end + length], headers, host)
        response = fast(request)
        if response is None:
            self._hand_over(data)
            return None
        front.metrics.http_fast += 1
        keep = parsed.keep_alive and not front.draining
        body = b"" if parsed.method == "HEAD" else response.body
        head = problems.head(response.status, response.head, len(response.body), keep, parsed.version)
        if front.request_log is not None:
            front.request_log(
                parsed.method, target, response.status, perf_counter() - began, host, len(response.body), ""
            )
        front.carrier.flusher.enqueue(self, head + body)
        if not keep:
            self.state = CLOSING
            return None
        return data[end + length :]

    def _upgrade(self, parsed: ParsedHead, path: str, data: bytes, end: int) -> bytes | None:
        """Decide on an upgrade request and carry it out; what follows the head are frames already."""
        front = self._front
        host, port = self.address[0], self.address[1]
        decision = front.gate.decide(Head(parsed.method, path, parsed.version, host, port, parsed.headers))
        if isinstance(decision, Refusal):
            front.metrics.handshakes_refused += 1
            self.refuse(decision.problem, decision.headers)
            return None
        answer = f"{_SWITCHING}{decision.accept}\r\n"
        if decision.extension:
            answer += f"Sec-WebSocket-Extensions: {decision.extension}\r\n"
        waiting = self.take_outbox()
        if waiting is None:
            self.lost()
            return None
        try:
            # A fresh socket's buffer is empty: the kernel takes a few hundred bytes whole or is broken.
            self.sock.send(waiting + f"{answer}\r\n".encode("latin-1"))
        except OSError:
            self.lost()
            return None
        front.parked.discard(self)
        sock, self.sock = self.sock, NO_SOCKET
        front.admitted(sock, decision, data[end:])
        return None

    def refuse(self, problem: errors.HttpProblem, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a problem body and end the connection."""
        self._front.metrics.http_refused += 1
        self._buffer, self._body = b"", None
        self._front.carrier.flusher.enqueue(self, problems.response(problem, headers))
        self.state = CLOSING

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
        self.state = DRAINING
        self._buffer, self._body = b"", None
        self.deadline = monotonic() + LINGER_SECONDS
        self._front.park(self)

    def expire(self) -> None:
        """It took too long: a silent connection is closed, an unfinished request is told so."""
        if self.unfinished:
            self.refuse(errors.HTTP_TIMEOUT)
        else:
            self.lost()

    def lost(self) -> None:
        """End TCP now."""
        self.state = CLOSED
        self._leave()
        if self.outbox is not None:
            self.outbox = None
        self._front.carrier.flusher.forget(self)
        self.sock.close()

    def _leave(self) -> None:
        self._buffer = b""
        self._front.parked.discard(self)
        self._front.carrier.poller.remove(self)

    def _hand_over(self, data: bytes) -> None:
        """Let the application answer; the connection comes back afterwards."""
        waiting = self.take_outbox()
        if waiting is None:
            self.lost()
        elif self._front.hand_over.full:
            self.outbox = [waiting] if waiting else None
            self.refuse(errors.HTTP_BUSY)
        else:
            self._leave()
            self._front.metrics.http_handed_over += 1
            sock, self.sock = self.sock, NO_SOCKET
            self._front.hand_over.serve(self, sock, waiting, data)

    def come_back(self, sock: _socket.socket, rest: bytes | None) -> None:
        """The hand-over is done: go on with the bytes that were read beyond it (None: end the connection)."""
        self.sock = sock
        self.fd = sock.fileno()
        if rest is None or self._front.draining:
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
