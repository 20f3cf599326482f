"""One HTTP connection of the front: it waits parked, reads whole requests, and has each answered.

An upgrade becomes a parked WebSocket; a request for one of the fast routes is answered right in the reader
greenlet; everything else is handed, with the bytes already read, to pywsgi's handler (``transport.handover``)
and comes back when it is answered.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Mapping
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from imserver import errors
from imserver.transport import problems
from imserver.transport.body import MAX_PUBLIC_BODY_BYTES, Body, plain_head, plain_request, streams
from imserver.transport.connection import OPEN
from imserver.transport.exchange import HttpRequest, header_block, refuse_too_large
from imserver.transport.gate import Head, Refusal, wants_upgrade
from imserver.transport.handover import BODY_SECONDS, BODY_SILENCE_SECONDS, RECEIVE_BYTES
from imserver.transport.head import BadHead, ParsedHead, end_of_head
from imserver.transport.http_peer import HttpPeer

if TYPE_CHECKING:
    from imserver.transport.stream import Streams

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


class HttpConnection(HttpPeer):
    """One parked HTTP connection: its requests, as they are read."""

    __slots__ = ()

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
        flusher = self._front.carrier.flusher
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
            self._front.carrier.flusher.enqueue(self, _CONTINUE)
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
            self._front.hand_over.serve(self, self._give_socket(), self.take_outbox(), data)

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
