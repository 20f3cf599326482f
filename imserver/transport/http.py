"""The front server: its HTTP connections, each parked until it is readable, and what they share.

An upgrade becomes a parked WebSocket; a request for one of the fast routes is answered right in the reader
greenlet; everything else is handed, with the bytes already read, to pywsgi's handler (``transport.handover``)
and comes back when it is answered.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter
from typing import Any

from imserver import errors
from imserver.metrics import Metrics
from imserver.transport import problems
from imserver.transport.body import (
    MAX_PUBLIC_BODY_BYTES,
    Body,
    BodyLimit,
    Streamed,
    plain_head,
    plain_request,
    streams,
)
from imserver.transport.connection import CLOSED, CLOSING, DRAINING, OPEN, ConnectionContext
from imserver.transport.exchange import HttpRequest, HttpRoutes, header_block, refuse_too_large
from imserver.transport.gate import Admission, Gate, Head, Refusal, wants_upgrade
from imserver.transport.handover import (
    BODY_SECONDS,
    BODY_SILENCE_SECONDS,
    LINGER_SECONDS,
    RECEIVE_BYTES,
    HandOver,
)
from imserver.transport.head import BadHead, KnownHeads, ParsedHead, end_of_head
from imserver.transport.outbox import Backlog, Writer
from imserver.transport.poller import NO_SOCKET
from imserver.transport.stream import Streams

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


class FrontServer:
    """What all HTTP connections of the front share. Owner of the set of parked ones.

    ``fast`` are the routes that are answered here, ``routes`` all those that refuse in a style of their own.
    """

    def __init__(
        self,
        context: ConnectionContext,
        gate: Gate,
        routes: HttpRoutes,
        fast: HttpRoutes,
        body_limit: BodyLimit,
        hand_over: HandOver,
        metrics: Metrics,
        header_bytes: int,
        body_bytes: int,
        handshake_seconds: float,
        keepalive_seconds: float,
        request_log: Callable[..., None] | None,
        admitted: Callable[[_socket.socket, Admission, bytes], None],
        ws_dialect: str = "",
        streams: Streams | None = None,
        streamed: Streamed = frozenset(),
    ) -> None:
        self.streamed = streamed
        self.context = context
        self.gate = gate
        self.origins = gate.origins
        self.routes = routes
        self.fast = fast
        self.body_limit = body_limit
        self.hand_over = hand_over
        self.metrics = metrics
        self.header_bytes = header_bytes
        self.body_bytes = body_bytes
        self.handshake_seconds = handshake_seconds
        self.keepalive_seconds = keepalive_seconds
        self.request_log = request_log
        self.admitted = admitted
        self.ws_dialect = ws_dialect
        self.streams = streams
        self.heads = KnownHeads()
        self.parked: set[HttpConnection] = set()
        self.draining = False

    def accept(self, sock: _socket.socket, address: Any) -> None:
        """Park a new connection (a listener's ``accepted``)."""
        self.park(HttpConnection(self, sock, address))

    def park(self, connection: HttpConnection) -> None:
        """Wait for the next request on ``connection``."""
        self.parked.add(connection)
        self.context.poller.take(connection)

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


class HttpConnection(Writer):
    """One parked HTTP connection: it reads whole requests and has each answered.

    Owner of its socket, its outbox, and the bytes of an unfinished request.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_front",
        "_parsed",
        "address",
        "deadline",
        "fresh",
    )

    def __init__(self, front: FrontServer, sock: _socket.socket, address: Any) -> None:
        super().__init__(sock)
        self._front = front
        self.address = address
        self.fresh = True
        """No request has come yet."""
        self._buffer = b""
        self._body: Body | None = None
        self._parsed: ParsedHead | None = None
        self.outbox = None
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
            self.reading  # it may wait for other nodes
            or self.fresh
            or self._buffer
            or self._body is not None
            or self.outbox is not None
        )

    # --- requests -------------------------------------------------------------------------------------------

    def look_once_more(self) -> None:
        """The server drains: serve what the kernel holds; then end a connection that only waits."""
        if not self.reading:
            self.reading = True
            try:
                self.on_readable()
            finally:
                self.reading = False
                if self.masked:
                    self._front.context.poller.unmask(self)
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
            self._feed_body(data)

    def _feed_body(self, data: bytes) -> None:
        """More of the body that is under way."""
        parsed, body = self._parsed, self._body
        assert parsed is not None
        assert body is not None
        try:
            rest = body.feed(data)
        except BadHead as bad:
            self._count(0)
            self.refuse(bad.problem)
            return
        if rest is None:
            self.deadline = min(body.deadline, monotonic() + BODY_SILENCE_SECONDS)
            self._count(body.held_bytes)
            return
        self._count(0)
        raw, self._buffer = self._buffer, b""
        self._body = self._parsed = None
        left = self._request(parsed, raw, body.content, rest, body.too_large)
        if left is not None:
            self.serve(left)

    def _count(self, size: int) -> None:
        """Count the bytes of an unfinished body against the node's budget."""
        flusher = self._front.context.flusher
        flusher.budget.set(self, size)
        if flusher.budget.total > flusher.budget.limit:
            flusher.schedule()

    def serve(self, data: bytes) -> None:
        """Serve the requests in ``data``, which begins where a request begins."""
        front = self._front
        if data and data[:1] in b"\r\n":
            data = data.lstrip(b"\r\n")
            if not data:  # no request begins with that, so it gives the connection no more time
                self._buffer = b""
                return
        while data:
            try:
                end = end_of_head(data, front.header_bytes)
                if not end:
                    if not self._buffer:
                        self.deadline = monotonic() + front.handshake_seconds
                    self._buffer = data
                    return
                raw = data[:end]
                parsed = front.heads.read(raw)
            except BadHead as bad:
                self.refuse(bad.problem)
                return
            if (
                front.origins.demo
                and (objection := front.origins.objection(parsed.headers, parsed.path)) is not None
            ):
                self.refuse(objection, problems.CORS)
                return
            length = parsed.length or 0
            if len(data) - end < length and streams(parsed, front.streamed):
                self.fresh = False
                self._hand_over(plain_head(raw, parsed) + data[end:])
                return
            if parsed.chunked or len(data) - end < length or length > MAX_PUBLIC_BODY_BYTES:
                self._begin_body(parsed, raw, data[end:])
                return
            stop = end + length
            rest = self._request(parsed, raw, data[end:stop], data[stop:])
            if rest is None:
                return
            data = rest
        self._buffer = b""
        self.deadline = monotonic() + front.keepalive_seconds

    def _begin_body(self, parsed: ParsedHead, raw: bytes, data: bytes) -> None:
        """The body is not whole yet, or comes in chunks, or is too large."""
        self._buffer, self._parsed = raw, parsed
        limit = self._front.body_bytes
        if parsed.chunked or (parsed.length or 0) > MAX_PUBLIC_BODY_BYTES:
            client = self._client(parsed.headers)
            limit = self._front.body_limit(parsed.method, parsed.path, parsed.headers, client)
        self._body = Body(parsed, limit, monotonic() + BODY_SECONDS)
        if "expect" in parsed.headers and parsed.version == "1.1" and not self._body.too_large:
            self._front.context.flusher.enqueue(self, _CONTINUE)
        self._feed_body(data)

    def _request(
        self,
        parsed: ParsedHead,
        raw: bytes,
        body: bytes | bytearray,
        rest: bytes,
        too_large: bool = False,
    ) -> bytes | None:
        """Serve one whole request: its head (``raw`` as it came), its body; ``rest`` came behind it.

        Returns ``rest``, or None when this object has nothing more to do for now.
        """
        front = self._front
        self.fresh = False
        headers = parsed.headers
        path = parsed.path
        if too_large:
            self._answer(refuse_too_large(front.routes, parsed, self._client(headers)), False)
            return None
        if "upgrade" in headers and wants_upgrade(headers):
            self._upgrade(parsed, path, rest)
            return None
        fast = front.fast.get((parsed.method, path))
        if fast is None:
            if front.streams is not None and front.streams.serves(parsed.method, path):
                self._stream(front.streams, parsed, path)
                return None
            self._hand_over(plain_request(raw, parsed, body) + rest)
            return None
        began = perf_counter()
        host = self._client(headers) if "x-forwarded-for" in headers else self.address[0]
        asked = body if type(body) is bytes else bytes(body)
        request = HttpRequest(parsed.method, path, parsed.query, asked, headers, host)
        response = fast(request)
        front.metrics.http_fast += 1
        keep = parsed.keep_alive and not front.draining
        lines, content = header_block(response), response.body
        if keep and parsed.version == "1.1":
            whole = problems.kept_alive(response.status, lines, content)
        else:
            whole = problems.head(response.status, lines, len(content), keep, parsed.version) + content
        if front.request_log is not None:
            seconds = perf_counter() - began
            given = request.id if "x-request-id" in headers else request.given_id
            front.request_log(parsed.method, path, response.status, seconds, host, len(content), given)
        self._answer(whole, keep)
        return rest if keep else None

    def _client(self, headers: Mapping[str, str]) -> str:
        """Address of the client, as the trusted proxies tell it."""
        host: str = self.address[0]
        if "x-forwarded-for" in headers:
            return self._front.gate.proxies.client(host, headers["x-forwarded-for"])
        return host

    def _upgrade(self, parsed: ParsedHead, path: str, rest: bytes) -> None:
        """Decide on an upgrade request and carry it out; what follows the head are frames already."""
        front = self._front
        decision = front.gate.decide(self._head(parsed, path))
        if isinstance(decision, Refusal):
            front.metrics.handshakes_refused += 1
            self.refuse(decision.problem, decision.headers)
            return
        answer = f"{_SWITCHING}{decision.accept}\r\n"
        if decision.extension:
            answer += f"Sec-WebSocket-Extensions: {decision.extension}\r\n"
        opening = self.take_outbox() + f"{answer}\r\n".encode("latin-1")
        try:
            # The kernel takes a few hundred bytes whole, but for a peer that does not read earlier answers.
            sent = self.sock.send(opening)
        except OSError:
            sent = -1
        if sent != len(opening):
            self.lost()
            return
        front.admitted(self._give_socket(), decision, rest)

    def _head(self, parsed: ParsedHead, path: str) -> Head:
        """The request as the gate knows requests."""
        host, port = self.address[0], self.address[1]
        query = parsed.query.decode("latin-1")
        bare = self._front.ws_dialect
        return Head(parsed.method, path, parsed.version, host, port, parsed.headers, query, bare)

    def _stream(self, streams: Streams, parsed: ParsedHead, path: str) -> None:
        """Let a stream have the socket."""
        before = self.take_outbox()
        streams.adopt(self._give_socket(), self._head(parsed, path), before)

    def _hand_over(self, data: bytes) -> None:
        """Let the application answer; the connection comes back afterwards."""
        if self._front.hand_over.full:
            self.refuse(errors.HTTP_BUSY)
        else:
            self._leave()
            self._front.metrics.http_handed_over += 1
            hand_over = self._front.hand_over
            hand_over.serve(self.address, self._give_socket(), self.take_outbox(), data, self.come_back)

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
                    self._front.context.poller.unmask(self)

    # --- being written to -----------------------------------------------------------------------------------

    def on_writable(self) -> None:
        """The kernel takes bytes again."""
        self._front.context.flusher.resume(self)

    def watch_writable(self, wanted: bool) -> None:
        """Have :meth:`on_writable` called when the kernel takes bytes, or no more."""
        self._front.context.poller.watch_writable(self, wanted)

    @property
    def outbox_bytes(self) -> int:
        """Bound of this connection's outbox; 0: the node's."""
        return 0

    def held_bytes(self) -> int:
        """Bytes of answers that wait for the peer to read, and of an unfinished request."""
        waiting = self.outbox.size if type(self.outbox) is Backlog else 0
        return waiting + len(self._buffer) + (0 if self._body is None else self._body.held_bytes)

    def flushed(self) -> None:
        """The last answer is written."""
        if self.state == CLOSING:
            self.finish()

    def abandon(self, code: int) -> None:
        """The peer does not read its answers, or holds more than its share."""
        self.lost()

    def _answer(self, data: bytes, keep: bool) -> None:
        self._front.context.flusher.enqueue(self, data)
        if not keep:
            self.state = CLOSING

    def refuse(self, problem: errors.HttpProblem, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a problem body and end the connection."""
        self._front.metrics.http_refused += 1
        self._buffer, self._body = b"", None
        self.deadline = monotonic() + self._front.handshake_seconds
        self._answer(problems.response(problem, headers), False)

    # --- the end, or the socket's next owner ----------------------------------------------------------------

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
        """It took too long: a silent connection is closed, an unfinished request is told so.

        While answers wait to be read, the bounds of an outbox hold instead.
        """
        if self.state == OPEN and self.outbox is not None:
            return
        if self.state == OPEN and (self._buffer or self._body is not None):
            self.refuse(errors.HTTP_TIMEOUT)
        else:
            self.lost()

    def lost(self) -> None:
        """End TCP now."""
        self.state = CLOSED
        self._leave()
        if self.outbox is not None:
            self.outbox = None
        self._front.context.flusher.forget(self)
        self.sock.close()

    def _leave(self) -> None:
        self._buffer = b""
        self._front.parked.discard(self)
        self._front.context.poller.remove(self)

    def take_outbox(self) -> bytes:
        """Answers that are not written yet, for whoever takes the socket over."""
        outbox, self.outbox = self.outbox, None
        if isinstance(outbox, Backlog):
            return outbox.take()
        return b"".join(outbox) if outbox else b""

    def _give_socket(self) -> _socket.socket:
        """The socket, for whoever takes it over: it is none of ours any more."""
        self._front.parked.discard(self)
        sock, self.sock = self.sock, NO_SOCKET
        return sock
