"""The WSGI server: pywsgi with gevent-websocket's handler performs the upgrade,
then this module adopts the socket.

Only this module uses gevent-websocket. Its frame layer is not used
(docs/decisions). The handler of the library would keep an environ, a stream and
buffers for each connection, and close the socket at its end. So this module
takes the file descriptor, and the bytes that were read too far, from the
handler. The handler then ends, and has nothing to close.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import gevent
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from imserver.gateway.errors import CloseCode, HttpProblem, Problems
from imserver.gateway.metrics import Metrics
from imserver.gateway.transport import frames
from imserver.gateway.transport.gate import Admission, Gate, Head, Refusal
from imserver.gateway.transport.handover import (
    LINGER_SECONDS,
    Admitted,
    ListenerContext,
)
from imserver.gateway.transport.http1 import (
    CONTINUE,
    CORS,
    RECEIVE_BYTES,
    BadHead,
    ParsedHead,
    challenged,
    parse_head,
    phrase_of,
    plain_head,
    plain_request,
    problem_body,
    problem_response,
    streams,
    wants_upgrade,
)
from imserver.gateway.transport.listener import LOCAL_PEER, port_of
from imserver.gateway.transport.one_request import (
    WRITE_SECONDS,
    OneRequestHandler,
    Reader,
)

log = logging.getLogger(__name__)

_HEADER_PREFIX: Final = "HTTP_"
"""The beginning of the keys of request headers in a WSGI environment."""
WS_DIALECT_KEY = "imserver.ws_dialect"
"""The key of the WSGI environment for the dialect that the listener has for
clients whose query names no dialect."""


def head_of(environ: Mapping[str, Any]) -> Head:
    """Convert the request in a WSGI environment to the form that the gate
    needs.

    For example, ``HTTP_USER_AGENT`` becomes the header ``user-agent``.
    """
    headers = {}
    for key, value in environ.items():
        if key.startswith(_HEADER_PREFIX):
            name = key.removeprefix(_HEADER_PREFIX).replace("_", "-").lower()
            headers[name] = value
    # WSGI has this header under a name without the prefix.
    if environ.get("CONTENT_LENGTH"):
        headers["content-length"] = environ["CONTENT_LENGTH"]
    return Head(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"],
        version=environ.get("SERVER_PROTOCOL", "").rpartition("/")[2],
        host=environ.get("REMOTE_ADDR", ""),
        port=int(environ.get("REMOTE_PORT", 0) or 0),
        headers=headers,
        query=environ.get("QUERY_STRING", ""),
        bare=environ.get(WS_DIALECT_KEY, ""),
    )


def _detached(gevent_socket: Any) -> _socket.socket:
    """Make a plain non-blocking socket of a socket of gevent.

    The socket of gevent cannot be used afterwards.
    """
    descriptor = gevent_socket.detach()
    sock = _socket.socket(
        gevent_socket.family, gevent_socket.type, gevent_socket.proto, descriptor
    )
    sock.setblocking(False)
    return sock


def take_socket(handler: Any) -> tuple[_socket.socket, bytes]:
    """Take the socket of an upgraded connection from its handler.

    Returns the socket, and the bytes that the handler has read beyond the head.
    """
    if isinstance(handler.rfile, Reader):
        rest = bytes(handler.rfile.unread)
    else:  # another server's handler has a buffered reader
        handler.socket.settimeout(0)
        try:
            rest = bytes(handler.rfile.peek())
        except (BlockingIOError, TimeoutError):
            rest = b""
    sock = _detached(handler.socket)
    # With this mark, the library closes nothing when the handler ends.
    handler.websocket.closed = True
    handler.websocket.stream = None
    return sock, rest


def objection_to(environ: Mapping[str, Any], gate: Gate) -> HttpProblem | None:
    """Return the error with which demo mode refuses a request, or None.

    Callers use it for requests that another server has read.
    :meth:`Origins.objection` has the rules.
    """
    if not gate.origins.demo:
        return None
    head = head_of(environ)
    return gate.origins.objection(head.headers, head.path)


def adopt_from_environ(
    environ: Mapping[str, Any], gate: Gate, admitted: Admitted
) -> bool:
    """Adopt a WebSocket that another server has upgraded.

    The other server is a worker of gunicorn, with the handler of
    gevent-websocket. Returns False if the request is no such WebSocket. The
    handshake is complete, so a client is refused by a close code.
    """
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        return False

    objection = objection_to(environ, gate)
    decision: Admission | Refusal
    if objection is None:
        code = CloseCode.POLICY
        decision = gate.decide(head_of(environ), upgraded=True)
    else:
        code = CloseCode.NOT_ALLOWED
        decision = Refusal(objection)

    # The handler must not use the socket any more.
    sock, rest = take_socket(websocket.handler)
    if not isinstance(decision, Refusal):
        admitted(sock, decision, rest)
        return True
    close_frame = frames.encode_close(code, decision.problem.message)
    _refuse(sock, close_frame, environ.get("REMOTE_ADDR"))
    return True


def _refuse(sock: _socket.socket, close_frame: bytes, address: str | None) -> None:
    """Send a close frame to a client, and close its socket.

    ``address`` is the address of the client, for the log.
    """
    try:
        sock.send(close_frame)
    except OSError as exc:
        log.debug("%s disconnected before it was refused: %s", address, exc)
    sock.close()


class WsgiHandler(WebSocketHandler, OneRequestHandler):  # type: ignore[misc]
    """gevent-websocket's handler with our gate, for :class:`WsgiServer`."""

    server: WsgiServer

    websocket: Any

    def __init__(self, sock: Any, address: Any, server: WsgiServer) -> None:
        """Let pywsgi read from our reader, whose parser is strict."""
        self._reader = Reader(sock, b"")
        super().__init__(sock, address, server, self._reader)  # type: ignore[call-arg]

    def handle_one_request(self) -> Any:
        """Wait for a whole request, and pass it to pywsgi.

        The request is parsed as strictly as in the front server. Returns None
        if the connection ends.
        """
        sock: Any = self.socket
        if self._reader.unread:
            # A pipelined request is served in the next turn of the loop, so
            # that others have their turn.
            hub = gevent.get_hub()
            hub.wait(hub.loop.timer(0))
        try:
            if not self._read_whole(sock):
                return None
        except BadHead as bad:
            self._end(problem_response(bad.problem))
            return None
        except OSError:
            return None
        sock.settimeout(WRITE_SECONDS)
        result = super().handle_one_request()
        if self.cut_short:
            self._linger(sock)
        return result

    def _read_whole(self, sock: Any) -> bool:
        """Read a whole request, and put it into the reader for pywsgi.

        The request gets a form that pywsgi reads in the same way. Returns False
        if pywsgi has nothing to serve: there is no request, or the request is
        answered here, or a stream has taken it. Raises BadHead and OSError.
        """
        listener = self.server.listener_context
        reader = self._reader
        raw = self._await_head()
        if not raw:
            return False
        head = parse_head(raw, listener.mounts)
        origins = listener.gate.origins
        if origins.demo:
            objection = origins.objection(head.headers, head.path)
            if objection is not None:
                self._end(problem_response(objection, CORS))
                return False

        has_body = head.chunked or bool(head.length)
        if not has_body and self._streamed(head):
            return False
        # The application reads this body itself, in pieces.
        if streams(head, listener.streamed):
            reader.put_back(plain_head(reader.read(len(raw)), head))
            return True
        if has_body:
            return self._read_body(sock, raw, head)
        if head.altered:
            reader.put_back(plain_request(reader.read(len(raw)), head, b""))
        return True

    def _read_body(self, sock: Any, raw: bytes, head: ParsedHead) -> bool:
        """Read the whole body of a request with this head.

        ``raw`` is the head as it came. Returns and raises like
        :meth:`_read_whole`.
        """
        listener = self.server.listener_context
        body = listener.begin_body(head, self.client_address)
        awaits_continue = "expect" in head.headers and head.version == "1.1"
        if awaits_continue and not body.too_large:
            sock.sendall(CONTINUE)
        if not self._reader.await_body(raw, head, body):
            return False
        # The gate refuses an upgrade with a body. But the gate would not see an
        # empty body that came in chunks, so it is refused here.
        if head.upgrade and head.chunked:
            raise BadHead(Problems.BAD_REQUEST, "an upgrade with a body")
        if body.too_large:
            self._end(listener.refuse_too_large(head, self.client_address))
            return False
        return not self._streamed(head, bytes(body.content))

    def _await_head(self) -> bytes:
        """Wait for the head of a request (:meth:`Reader.await_head`).

        Returns ``b""`` if no head comes.
        """
        server = self.server
        limits = self.server.listener_context.limits
        seconds = limits.handshake_seconds
        # A new connection may send its first request even during a drain.
        if self.requestline is None:
            return self._reader.await_head(limits.header_bytes, seconds, seconds)
        server.waiting.add(self)
        try:
            if server.ended:
                self.end_wait()
            return self._reader.await_head(
                limits.header_bytes, limits.keepalive_seconds, seconds
            )
        finally:
            server.waiting.discard(self)

    @property
    def idle(self) -> bool:
        """Whether no byte of a next request was read."""
        return not self._reader.unread

    def end_wait(self) -> None:
        """End the connection if it is idle, because the server drains.

        If bytes of a request have arrived, the handler serves the request.
        """
        sock: Any = self.socket
        with suppress(OSError):  # an ended connection wakes its handler by itself
            try:
                if self.idle:
                    sock._sock.recv(1, _socket.MSG_PEEK)
            except BlockingIOError:
                # Nothing has arrived. The handler now reads the end of the
                # stream.
                sock.shutdown(_socket.SHUT_RD)

    def _is_last(self) -> bool:
        """Tell whether the connection ends with this answer."""
        return self.server.draining or super()._is_last()

    def _streamed(self, head: ParsedHead, body: bytes = b"") -> bool:
        """Pass the socket to a stream if the request is for a stream.

        Returns whether the socket was passed.
        """
        streams = self.server.listener_context.streams
        if streams is None or "upgrade" in head.headers:
            return False
        if not streams.serves(head.method, head.path):
            return False
        # From here on the stream owns the connection.
        address: Any = self.client_address
        request = Head(
            head.method,
            head.path,
            head.version,
            host=address[0],
            port=address[1],
            headers=head.headers,
            query=head.query.decode("latin-1"),
            body=body,
        )
        streams.adopt(_detached(self.socket), request)
        return True

    def _end(self, data: bytes) -> None:
        """Write a last answer, then wait for the client to end the connection.

        The client may have disconnected.
        """
        sock: Any = self.socket
        try:
            sock.settimeout(LINGER_SECONDS)
            sock.sendall(data)
        except OSError as exc:
            log.debug(
                "%s disconnected before it was answered: %s", self.client_address, exc
            )
        else:
            self._linger(sock)

    def _linger(self, sock: Any) -> None:
        """End this half of TCP, and drop the bytes that the client still sends.

        The wait has a time limit. Unread bytes would cause a reset, which might
        overtake the answer.
        """
        try:
            sock.settimeout(LINGER_SECONDS)
            sock.shutdown(_socket.SHUT_WR)
            deadline = monotonic() + LINGER_SECONDS
            while monotonic() < deadline and sock.recv(RECEIVE_BYTES):
                pass
        except OSError as exc:
            log.debug(
                "%s disconnected while its answer was sent: %s",
                self.client_address,
                exc,
            )

    def upgrade_websocket(self) -> Any:
        """Decide whether a request is upgraded to a WebSocket.

        Returns None if the request asks for no upgrade, and the body of the
        answer if the upgrade is refused.
        """
        assert self.environ is not None
        head = head_of(self.environ)
        if not wants_upgrade(head.headers):
            return None
        decision = self.server.listener_context.gate.decide(head)
        if isinstance(decision, Refusal):
            self.server.metrics.handshakes_refused += 1
            return self._refuse(decision)
        self.admission = decision
        # The gate has checked more than the library does. But the library
        # accepts no list of protocols.
        self.environ["HTTP_UPGRADE"] = "websocket"
        return super().upgrade_websocket()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Any:
        """Begin an answer. A 101 response gets the headers of our gate."""
        if status.startswith("101"):
            if self.admission.extension:
                headers.append(("Sec-WebSocket-Extensions", self.admission.extension))
            if self.admission.subprotocol:
                headers.append(("Sec-WebSocket-Protocol", self.admission.subprotocol))
        return super().start_response(status, headers, exc_info)

    def run_websocket(self) -> None:
        """Adopt the socket after the handshake.

        Then the handler ends, and its objects are freed.
        """
        assert self.environ is not None
        sock, rest = take_socket(self)
        # Breaks the reference cycle of handler, websocket and environ, which
        # the library leaves for the garbage collector.
        websocket: Any = self.websocket
        websocket.handler = None
        websocket.environ = None
        self.websocket = None
        self.environ.clear()
        self.server.listener_context.admitted(sock, self.admission, rest)

    def _refuse(self, refusal: Refusal) -> list[bytes]:
        """Begin the answer that refuses an upgrade. Returns its body.

        The body is a problem as JSON. The connection ends after the answer.
        """
        content = problem_body(refusal.problem)
        # The connection ends, because the client may send frames next, which
        # are no requests.
        self.close_connection = True
        headers = [
            *challenged(refusal.problem, refusal.headers),
            ("Content-Type", "application/json; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        status = refusal.problem.status
        self.start_response(f"{status} {phrase_of(status)}", headers)
        return [content]

    def log_request(self) -> None:
        """Do nothing: the application has its own request log."""


class WsgiServer(WSGIServer):
    """A listener with the server of pywsgi, in place of :class:`FrontServer`.

    It owns the handlers that wait for a next request.
    """

    handler_class = WsgiHandler
    pool: Pool

    def __init__(
        self,
        listener: Any,
        application: Callable[..., Any],
        environ: Mapping[str, Any],
        context: ListenerContext,
        metrics: Metrics,
    ) -> None:
        """Make a server that accepts connections once it is started.

        ``listener`` is a socket that listens. ``environ`` is for the WSGI
        application.
        """
        environ = {**environ, WS_DIALECT_KEY: context.ws_dialect}
        super().__init__(
            listener,
            application,
            spawn=Pool(),
            log=None,
            error_log=log,
            environ=environ,
        )
        self.waiting: set[WsgiHandler] = set()
        """The handlers that wait for a next request."""
        self.draining = False
        """Whether answers announce the end of their connection."""
        self.ended = False
        """Whether connections end after each answer, without waiting for a next
        request."""
        self.listener_context = context
        self.metrics = metrics
        self.port = port_of(listener)

    def handle(self, client_socket: Any, address: Any) -> None:
        """Serve one connection.

        A peer of a Unix socket has no address, so :data:`LOCAL_PEER` stands for
        it.
        """
        super().handle(client_socket, address or LOCAL_PEER)  # type: ignore[arg-type]

    def update_environ(self) -> None:
        """Set the server name without a DNS lookup."""
        self.environ.update(SERVER_NAME="localhost", SERVER_PORT=str(self.port))

    def expire(self) -> None:
        """Do nothing: each handler has its own time limits."""

    def drain(self) -> None:
        """Accept the connections that wait in the queue, then stop listening.

        From now on each answer ends its connection.
        """
        self.draining = True
        with suppress(OSError):  # the process has no file descriptor left
            accepted = self.do_read()
            while accepted:
                self.do_handle(*accepted)
                accepted = self.do_read()
        self.close()

    def end_idle(self) -> None:
        """End connections that wait for a next request."""
        self.ended = True
        for handler in self.waiting:
            handler.end_wait()

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished."""
        return len(self.pool) > sum(handler.idle for handler in self.waiting)

    @property
    def connected(self) -> bool:
        """Whether a client has a connection."""
        return bool(self.pool)
