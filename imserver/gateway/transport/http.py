"""The front server: parked HTTP connections, and their shared parts.

An upgrade becomes a parked WebSocket. A request for a fast route is answered in
the reader greenlet. Any other request is passed on to pywsgi's handler
(``transport.handover``), with the bytes that were read already. The connection
comes back after the answer.
"""

from __future__ import annotations

import _socket
import logging
import sys
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, Final

import gevent
from gevent.event import Event as Flag
from msgspec import field

from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.errors import HttpProblem, Problems
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Service
from imserver.gateway.transport.connection import ConnectionContext
from imserver.gateway.transport.gate import Head, Refusal
from imserver.gateway.transport.handover import (
    LINGER_SECONDS,
    HandOver,
    ListenerContext,
)
from imserver.gateway.transport.http1 import (
    CONTINUE,
    CORS,
    HEAD_END,
    HEAD_END_BYTES,
    MAX_PUBLIC_BODY_BYTES,
    RECEIVE_BYTES,
    BadHead,
    Body,
    HttpRequest,
    HttpRoutes,
    KnownHeads,
    ParsedHead,
    end_of_head,
    header_block,
    keep_alive_response,
    plain_head,
    plain_request,
    problem_response,
    response_head,
    route_of,
    streams,
)
from imserver.gateway.transport.outbox import MANY_CONNECTIONS, Backlog, Writer
from imserver.gateway.transport.poller import NO_SOCKET
from imserver.gateway.transport.proxies import PROXY_HEADER_BYTES, read_proxy_header
from imserver.gateway.transport.states import (
    CLOSE,
    CLOSED,
    CLOSING,
    CONNECTED,
    CONNECTION_TRANSITIONS,
    DRAINING,
    END,
    FLUSH,
)

log = logging.getLogger(__name__)

LARGE_BYTES = 4096
"""After a larger answer, the next pipelined request waits until the client has
taken it."""

_HEAD_RECEIVE_BYTES: Final = 16384
"""Bytes per read while no body arrives. Many small requests in one read must
not delay other connections."""

PIPELINED_SECONDS = 0.025
"""After this time in one turn, other connections are served before the next of
several requests that came together. With 5 ms, publications to 500 connections
shared no ``send``: each delivery cost 1.4 times as much."""


class FrontServer(Service):
    """The state that the HTTP connections of the front server share.

    It owns the *parked* connections, which wait for a request without a
    greenlet. ``fast`` are the routes that are answered in the reader greenlet.
    Requests for all other routes are handed over to the application.
    """

    context: ConnectionContext
    listener: ListenerContext
    fast: HttpRoutes
    hand_over: HandOver
    metrics: Metrics
    request_log: Callable[..., None]
    heads: KnownHeads
    parked: set[HttpConnection] = field(default_factory=set)
    draining: bool = False
    """Whether answers announce the end of their connection."""
    ended: bool = False
    """Whether connections end after each answer, without waiting for a next
    request."""

    def accept(self, sock: _socket.socket, address: Any) -> None:
        """Park a new connection of a listener."""
        self.park(HttpConnection(self, sock, address))

    def accept_proxied(self, sock: _socket.socket, address: Any) -> None:
        """Park a new connection of a listener for proxies with the PROXY
        protocol.

        If the peer is not a trusted proxy, the connection is closed, because
        its header could lie about the client.
        """
        if self.listener.gate.proxies.trusts(address[0]):
            self.park(ProxiedConnection(self, sock, address))
        else:
            sock.close()

    def park(self, connection: HttpConnection) -> None:
        """Wait for the next request on ``connection``."""
        self.parked.add(connection)
        self.context.poller.take(connection)

    def expire(self) -> None:
        """Close the parked connections whose time limit has passed.

        Such a connection has an unfinished head or body, or has been idle for
        too long.
        """
        now = monotonic()
        for connection in tuple(self.parked):
            if now > connection.deadline and not connection.reading:
                connection.expire()

    def drain(self) -> None:
        """Announce with each answer from now on that its connection ends."""
        self.draining = True

    def end_idle(self) -> None:
        """Serve requests that have arrived, and end connections that wait for
        a request.

        A connection that was not served yet may still send a request. Until
        then, :attr:`busy` is True.
        """
        self.ended = True
        for connection in tuple(self.parked):
            connection.end_if_idle()

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished, or a new connection may still send
        one."""
        return self.hand_over.busy or any(
            connection.unfinished for connection in self.parked
        )

    @property
    def connected(self) -> bool:
        """Whether a client has a connection for requests."""
        return bool(self.hand_over.busy or self.parked)

    def close(self) -> None:
        """Close the remaining connections."""
        for connection in tuple(self.parked):
            connection.lost()


class HttpConnection(Writer):
    """A parked HTTP connection.

    It owns its socket, its outbox, and the bytes of an unfinished request.
    """

    __slots__ = (
        "_answers_read",
        "_body",
        "_buffer",
        "_front",
        "_parsed",
        "address",
        "deadline",
        "fresh",
    )

    def __init__(self, front: FrontServer, sock: _socket.socket, address: Any) -> None:
        """Begin to wait for the first request.

        ``address`` is the host and port of the peer. The time limit of the head
        begins now.
        """
        super().__init__(sock)
        self._front = front
        self.address = address
        self.fresh = True
        """True until the first request."""
        self._buffer = b""
        """The bytes of an unfinished head, or the head of a request whose body
        is unfinished."""
        self._body: Body | None = None
        """The unfinished body; None while no body is read."""
        self._parsed: ParsedHead | None = None
        """The head of the unfinished body."""
        self._answers_read: Flag | None = None
        """Wakes the greenlet that waits until the client has taken its answers.
        None means that no greenlet waits."""
        self.outbox = None
        self.state = CONNECTED
        self.deadline = monotonic() + front.listener.limits.handshake_seconds

    @property
    def peer(self) -> str:
        """The address of the peer, for the log."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def unfinished(self) -> bool:
        """Whether a request, its answer or the first request is pending."""
        return self.state < DRAINING and bool(
            self.reading  # the request may wait for other nodes
            or self.fresh
            or self._buffer
            or self._body is not None
            or self.outbox is not None
        )

    # --- requests -------------------------------------------------------------

    def end_if_idle(self) -> None:
        """Serve the bytes that have arrived, then end the connection if it is
        idle.

        It is called when the server drains. If answers are unread, nothing is
        served, because that could block.
        """
        if not self.reading and self.outbox is None:
            self.reading = True
            try:
                self.on_readable()
            finally:
                self._front.context.poller.release(self)
        # The application gives the socket back later. A stream or a WebSocket
        # keeps it.
        is_passed_on = self.sock is NO_SOCKET
        if not is_passed_on and not self.unfinished and self.is_open:
            self.lost()

    def on_readable(self) -> None:
        """Read once, and serve the whole requests that have arrived.

        While the client does not take its answers, nothing is read. May switch
        greenlets.
        """
        if self.outbox is not None and type(self.outbox) is Backlog:
            wait_began_at = monotonic()
            if not self._await_client():
                return
            if self._body is not None:
                # The time of the wait does not count for the body, because
                # nothing was read meanwhile.
                self._body.begun += monotonic() - wait_began_at
                self.deadline = self._body.deadline(monotonic())

        try:
            if self._body is None:
                data = self.sock.recv(_HEAD_RECEIVE_BYTES)
            else:
                data = self.sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.lost()
            return

        if not data:
            # The client may have ended only its half, and still read its
            # answers.
            if self.outbox is None or self._await_client():
                self.lost()
        elif self.state >= CLOSING:
            return
        elif self._body is None:
            if self._buffer:
                data = self._buffer + data
            self.serve(data)
        else:
            rest = self._feed_body(data)
            if rest is not None:
                self.serve(rest.lstrip(b"\r\n"))

    def _await_client(self) -> bool:
        """Wait until the client has taken its answers.

        Returns False if the connection has ended meanwhile. Nothing is served
        during the wait. So an outbox has at most one answer of any size, and
        answers of at most :data:`LARGE_BYTES` to the requests of one read. The
        limits of time and of the node apply. Switches greenlets.
        """
        poller = self._front.context.poller
        while self.outbox is not None:
            if type(self.outbox) is not Backlog:
                serve_others()  # the flusher writes it at the end of this turn
                continue
            # The poller has removed the socket if the client has ended its
            # half.
            if poller.at(self.fd) is not self:
                poller.take(self)
            poller.watch_writable(self, wanted=True)
            self._answers_read = Flag()
            self._answers_read.wait()
            self._answers_read = None
        return self.state is not CLOSED

    def _feed_body(self, data: bytes) -> bytes | None:
        """Add bytes to the current body, and serve its request when it is
        complete.

        Returns None while the body is incomplete, or if the connection ends.
        Otherwise the method returns the bytes after the request. The caller
        serves these bytes next.
        """
        parsed = self._parsed
        body = self._body
        assert parsed is not None
        assert body is not None
        try:
            rest = body.feed(data)
        except BadHead as bad:
            self._count_bytes(0)
            self.refuse(bad.problem)
            return None
        if rest is None:
            self.deadline = body.deadline(monotonic())
            self._count_bytes(body.held_bytes)
            return None

        self._count_bytes(0)
        # The fields are cleared first, because serving may switch greenlets.
        raw = self._buffer
        self._buffer = b""
        self._body = None
        self._parsed = None
        return self._serve_request(parsed, raw, body.content, rest, body.too_large)

    def _count_bytes(self, size: int) -> None:
        """Count the bytes of an unfinished body against the node's budget.

        If the budget is exceeded, the flusher ends the connections with the
        most bytes.
        """
        flusher = self._front.context.flusher
        flusher.budget.set(self, size)
        if flusher.budget.total > flusher.budget.limit:
            flusher.schedule()

    def serve(self, data: bytes) -> None:
        """Serve the requests in ``data``, which starts at the beginning of a
        request.

        An incomplete request stays in the buffer. May switch greenlets.
        """
        front = self._front
        limits = front.listener.limits
        # Line ends before a request are ignored (RFC 9112 section 2.2).
        if data and data[0] in b"\r\n":
            data = data.lstrip(b"\r\n")
            if not data:
                # No request has begun, so the time limit stays.
                self._buffer = b""
                return

        while data:
            try:
                end = data.find(HEAD_END) + HEAD_END_BYTES
                if not HEAD_END_BYTES <= end <= limits.header_bytes:
                    # Raises BadHead, unless the head is incomplete.
                    end_of_head(data, limits.header_bytes)
                    if not self._buffer:
                        # The head and its time limit begin now.
                        self.deadline = monotonic() + limits.handshake_seconds
                    self._buffer = data
                    return
                raw = data[:end]
                self._buffer = b""
                parsed = front.heads.read(raw)
            except BadHead as bad:
                self.refuse(bad.problem)
                return

            # In demo mode everybody may do everything, so pages of other sites
            # are refused.
            origins = front.listener.gate.origins
            if origins.demo and parsed.accepted is not origins.accepted:
                objection = origins.objection(parsed.headers, parsed.path)
                if objection is not None:
                    self.refuse(objection, CORS)
                    return
                # A cached head is one object, so it is checked only once.
                parsed.accepted = origins.accepted

            # `rest` are the bytes after this request, or None if nothing
            # remains to be served.
            length = parsed.length or 0
            if len(data) - end < length and streams(parsed, front.listener.streamed):
                self.fresh = False
                self._hand_over(plain_head(raw, parsed) + data[end:])
                return
            if (
                parsed.chunked
                or len(data) - end < length
                or length > MAX_PUBLIC_BODY_BYTES
            ):
                rest = self._begin_body(parsed, raw, data[end:])
            else:
                stop = end + length
                rest = self._serve_request(parsed, raw, data[end:stop], data[stop:])
            if rest is None:
                return

            data = rest
            if data and data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")
            if data and not self._may_continue():
                return

        self.deadline = monotonic() + limits.keepalive_seconds

    def _may_continue(self) -> bool:
        """Tell whether the next of several requests that came together may be
        served.

        In a long turn of the loop, others are served first. May switch
        greenlets.
        """
        if is_long_turn(PIPELINED_SECONDS):
            serve_others()
        return self.state < CLOSING

    def _begin_body(self, parsed: ParsedHead, raw: bytes, data: bytes) -> bytes | None:
        """Start to read a body that is incomplete, chunked or too large.

        ``data`` are the bytes of the body that have arrived. Returns the same
        values as :meth:`_feed_body`.
        """
        self._buffer = raw
        self._parsed = parsed
        self._body = self._front.listener.begin_body(parsed, self.address)
        # The client waits for this answer before it sends the body.
        if (
            "expect" in parsed.headers
            and parsed.version == "1.1"
            and not self._body.too_large
        ):
            self._front.context.flusher.enqueue(self, CONTINUE)
        return self._feed_body(data)

    def _serve_request(
        self,
        parsed: ParsedHead,
        raw: bytes,
        body: bytes | bytearray,
        rest: bytes,
        too_large: bool = False,
    ) -> bytes | None:
        """Serve one whole request.

        ``raw`` are the bytes of its head, and ``rest`` the bytes that came
        after it. Returns ``rest`` if it is to be served next. Returns None if
        the connection ends, or if another object has its socket now. May switch
        greenlets.
        """
        front = self._front
        self.fresh = False
        headers = parsed.headers
        path = parsed.path
        if too_large:
            refusal = front.listener.refuse_too_large(parsed, self.address)
            self._answer(refusal, keep_alive=False)
            return None
        if parsed.upgrade:
            self._upgrade(parsed, path, rest)
            return None

        route = path
        fast = front.fast.get((parsed.method, path))
        if fast is None:
            route = route_of(front.fast, parsed.method, path)
            if not route:
                self._pass_on(parsed, path, raw, body, rest)
                return None
            fast = front.fast[parsed.method, route]

        started_at = perf_counter()
        host = self.address[0]
        if "x-forwarded-for" in headers:
            # The header counts only if a trusted proxy has written it.
            host = front.listener.client(self.address, headers)
        if type(body) is not bytes:
            body = bytes(body)
        request = HttpRequest(parsed.method, path, parsed.query, body, headers, host)
        response = fast(request)

        front.metrics.http_fast += 1
        keep_alive = parsed.keep_alive and not front.draining
        size = len(response.body)
        # Answers that are sent often have all their bytes already.
        if keep_alive and parsed.version == "1.1":
            whole = response.whole or keep_alive_response(response)
        else:
            head = response_head(
                response.status,
                header_block(response),
                size,
                keep_alive,
                parsed.version,
            )
            whole = head + response.body

        # If the request has no header with an id, it gets an id only when
        # somebody asks for the id.
        seconds = perf_counter() - started_at
        if "x-request-id" in headers:
            request_id = request.id
        else:
            request_id = request.given_id
        front.request_log(
            parsed.method,
            path,
            response.status,
            seconds,
            host,
            size,
            request_id,
            request.by,
            route,
        )

        self._answer(whole, keep_alive)
        # The client takes a large answer before it gets the next one.
        if size > LARGE_BYTES and rest and keep_alive:
            # The rest is put into the buffer, so that its bytes count while
            # they wait.
            self._buffer = rest
            if not self._await_client():
                return None
            self._buffer = b""
            front.context.flusher.budget.set(self, self.held_bytes())
        return rest if keep_alive else None

    def _pass_on(
        self,
        parsed: ParsedHead,
        path: str,
        raw: bytes,
        body: bytes | bytearray,
        rest: bytes,
    ) -> None:
        """Pass a request without a fast route on, together with the socket.

        The receiver is an event stream, or otherwise the application.
        """
        event_streams = self._front.listener.streams
        if event_streams is None or not event_streams.serves(parsed.method, path):
            self._hand_over(plain_request(raw, parsed, body) + rest)
            return

        unwritten = self.take_outbox()
        head = self._gate_head(parsed, path, bytes(body))
        event_streams.adopt(self._give_socket(), head, unwritten)

    def _upgrade(self, parsed: ParsedHead, path: str, rest: bytes) -> None:
        """Decide on a request for a WebSocket, and perform the upgrade or
        refuse it.

        ``rest`` are the frames that came after the head.
        """
        front = self._front
        decision = front.listener.gate.decide(self._gate_head(parsed, path))
        if isinstance(decision, Refusal):
            front.metrics.handshakes_refused += 1
            self.refuse(decision.problem, decision.headers)
            return
        answer = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {decision.accept}\r\n"
        )
        if decision.extension:
            answer += f"Sec-WebSocket-Extensions: {decision.extension}\r\n"
        if decision.subprotocol:
            answer += f"Sec-WebSocket-Protocol: {decision.subprotocol}\r\n"
        opening = self.take_outbox() + f"{answer}\r\n".encode("latin-1")
        try:
            # The kernel accepts a few hundred bytes at once, unless the peer
            # does not read earlier answers.
            sent = self.sock.send(opening)
        except OSError:
            sent = -1
        if sent != len(opening):
            self.lost()
            return
        front.listener.admitted(self._give_socket(), decision, rest)

    def _gate_head(self, parsed: ParsedHead, path: str, body: bytes = b"") -> Head:
        """Convert a request to the form of the gate, which decides who may
        connect.

        ``body`` is the body of a request for a stream. Other requests need none
        here.
        """
        return Head(
            parsed.method,
            path,
            parsed.version,
            host=self.address[0],
            port=self.address[1],
            headers=parsed.headers,
            query=parsed.query.decode("latin-1"),
            bare=self._front.listener.ws_dialect,
            body=body,
        )

    def _hand_over(self, data: bytes) -> None:
        """Let the application answer the request in ``data``.

        The application gives the socket back by :meth:`take_back`.
        """
        hand_over = self._front.hand_over
        # Each request takes a greenlet until it is answered.
        if hand_over.full:
            self.refuse(Problems.BUSY)
            return

        self._unpark()
        self._front.metrics.http_handed_over += 1
        sock = self._give_socket()
        unwritten = self.take_outbox()
        hand_over.serve(self.address, sock, unwritten, data, self.take_back)

    def take_back(self, sock: _socket.socket, rest: bytes | None) -> None:
        """Take the socket back after the application has answered.

        ``rest`` are the bytes that were read beyond the request. If it is None,
        the connection ends.
        """
        self.sock = sock
        self.fd = sock.fileno()
        if rest is None or self._front.ended:
            self.state = CONNECTION_TRANSITIONS[self.state][CLOSE]
            self.finish()
            return
        self._front.park(self)
        self.deadline = monotonic() + self._front.listener.limits.keepalive_seconds
        if rest:
            self.reading = True
            # Another greenlet serves the rest, because the next request may
            # wait for its client. Until then, the greenlet of the caller would
            # count as a running request.
            gevent.spawn_raw(self._serve_rest, rest)

    def _serve_rest(self, rest: bytes) -> None:
        """Serve the bytes that were read beyond a request of the
        application."""
        try:
            if self._may_continue():
                self.serve(rest)
        except Exception:
            log.exception("serving failed", extra={"connection": self.peer})
            self.lost()
        self._front.context.poller.release(self)

    # --- writing --------------------------------------------------------------

    def on_writable(self) -> None:
        """Continue writing, and wake the greenlet that waits for the client."""
        self._front.context.flusher.resume(self)
        if self.outbox is None and self._answers_read is not None:
            self._answers_read.set()

    @property
    def outbox_bytes(self) -> int:
        """The limit of the outbox in bytes: a number that no outbox reaches.

        An answer may have any size. :meth:`_await_client` limits how many
        answers wait.
        """
        return sys.maxsize

    def held_bytes(self) -> int:
        """Return the bytes of unread answers and of an unfinished request."""
        size = len(self._buffer)
        if type(self.outbox) is Backlog:
            size += self.outbox.size
        if self._body is not None:
            size += self._body.held_bytes
        return size

    def flushed(self) -> None:
        """Note that everything is written. If the connection is closing, its
        last answer is then complete."""
        if self.state is CLOSING:
            self.finish()

    def abandon(self, code: int) -> None:
        """End TCP, because the peer does not read its answers, or because the
        server keeps too many bytes for it."""
        self.lost()

    def _answer(self, data: bytes, keep_alive: bool) -> None:
        """Queue a whole answer.

        Without ``keep_alive`` the connection ends when the answer is written.
        """
        flusher = self._front.context.flusher
        # During a large broadcast, an answer must not wait behind all its
        # frames.
        if len(flusher.dirty) < MANY_CONNECTIONS:
            flusher.enqueue(self, data)
        else:
            flusher.enqueue_first(self, data)
        if not keep_alive and self.is_open:
            self.state = CONNECTION_TRANSITIONS[self.state][CLOSE]

    def refuse(
        self, problem: HttpProblem, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Answer with an error body, and end the connection."""
        self._front.metrics.http_refused += 1
        self._buffer = b""
        self._body = None
        self.deadline = monotonic() + self._front.listener.limits.handshake_seconds
        self._answer(problem_response(problem, headers), keep_alive=False)

    # --- closing and passing on the socket ------------------------------------

    def finish(self) -> None:
        """End this half of TCP after the last answer, and wait for the peer.

        Bytes of the peer are dropped until it ends its half or
        :data:`LINGER_SECONDS` have passed. Unread bytes would cause a reset
        that destroys the answer.
        """
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.lost()
            return
        self.state = CONNECTION_TRANSITIONS[self.state][FLUSH]
        self._buffer = b""
        self._body = None
        self.deadline = monotonic() + LINGER_SECONDS
        self._front.park(self)

    def expire(self) -> None:
        """Handle the end of the time limit.

        An idle connection is closed, and an unfinished request is answered with
        an error. Unread answers have the limits of the outbox instead.
        """
        if self.outbox is not None:
            return
        if self.is_open and (self._buffer or self._body is not None):
            self.refuse(Problems.TIMEOUT)
        else:
            self.lost()

    def lost(self) -> None:
        """End TCP now, and wake the greenlet that waits for the client."""
        self.state = CONNECTION_TRANSITIONS[self.state][END]
        self._unpark()
        self.outbox = None
        self._front.context.flusher.forget(self)
        self.sock.close()
        if self._answers_read is not None:
            self._answers_read.set()

    def _unpark(self) -> None:
        """Stop waiting for requests."""
        self._buffer = b""
        self._front.parked.discard(self)
        self._front.context.poller.remove(self)

    def take_outbox(self) -> bytes:
        """Empty the outbox, and return its bytes for the new owner of the
        socket."""
        outbox = self.outbox
        self.outbox = None
        if isinstance(outbox, Backlog):
            return outbox.take()
        return b"".join(outbox or ())

    def _give_socket(self) -> _socket.socket:
        """Release the socket, and return it for its new owner."""
        self._front.parked.discard(self)
        self._front.context.flusher.budget.set(self, 0)
        sock = self.sock
        self.sock = NO_SOCKET
        return sock


class ProxiedConnection(HttpConnection):
    """A connection that begins with a header of the PROXY protocol.

    In this header a proxy names the client. If the header is wrong, or does not
    come in time, the connection ends without an answer. Only the bytes of the
    header are read before the first request. After that, this is a connection
    like any other.
    """

    __slots__ = ("_header",)

    def __init__(self, front: FrontServer, sock: _socket.socket, address: Any) -> None:
        """Begin to wait for the header."""
        super().__init__(front, sock, address)
        self._header: bytes | None = b""
        """The part of the header that has arrived. None means that the whole
        header was read."""

    def on_readable(self) -> None:
        """Read the header first, and then requests."""
        if self._header is None or self._read_header(self._header):
            super().on_readable()

    def expire(self) -> None:
        """Handle the end of the time limit. An unfinished header gets no
        answer."""
        if self._header is None:
            super().expire()
        else:
            self.lost()

    def _read_header(self, first_part: bytes) -> bool:
        """Read more of the header. ``first_part`` has arrived before.

        Returns whether the header is complete. A wrong header ends the
        connection.
        """
        try:
            # The bytes after the header belong to a request. So this looks at
            # the bytes first, and then takes only the header.
            data = self.sock.recv(PROXY_HEADER_BYTES, _socket.MSG_PEEK)
            if not data:
                raise ValueError("the connection ended before the PROXY header")
            header = read_proxy_header(first_part + data)
            if header is None:
                self._header = first_part + self.sock.recv(len(data))
                return False
        except (BlockingIOError, InterruptedError):
            return False
        except (OSError, ValueError) as error:
            log.debug("refused: %s", error, extra={"connection": self.peer})
            self.lost()
            return False

        size, client = header
        self.sock.recv(size - len(first_part))
        self.address = client or self.address
        self._header = None
        return True
