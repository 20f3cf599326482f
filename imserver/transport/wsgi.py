"""The WSGI server: pywsgi with gevent-websocket's handler does the upgrade, then we adopt its socket.

The only module that knows gevent-websocket, whose frame layer is not used (docs/decisions). The handler keeps
an environ, a stream and buffers alive for each connection and closes the socket when it ends; so the file
descriptor is taken away from it, with the bytes it has read too far, and it ends with nothing to close.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from imserver import errors
from imserver.transport import frames, problems
from imserver.transport.body import (
    MAX_PUBLIC_BODY_BYTES,
    Body,
    BodyLimit,
    Streamed,
    plain_head,
    plain_request,
    streams,
)
from imserver.transport.exchange import HttpRoutes, refuse_too_large
from imserver.transport.gate import Admission, Gate, Head, Refusal, wants_upgrade
from imserver.transport.handover import (
    BODY_SECONDS,
    LINGER_SECONDS,
    RECEIVE_BYTES,
    WRITE_SECONDS,
    OneRequestHandler,
    Reader,
)
from imserver.transport.head import BadHead, ParsedHead, parse_head
from imserver.transport.stream import Streams

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

WS_DIALECT_KEY = "imserver.ws_dialect"
"""Key of the WSGI environment: the dialect that a listener speaks with clients whose query names none."""

Admitted = Callable[[_socket.socket, Admission, bytes], None]
"""What becomes of an upgraded socket: (non-blocking, the gate's decision, bytes read behind the head)."""


def head_of(environ: Mapping[str, Any]) -> Head:
    """What the gate needs of a WSGI request."""
    headers = {
        key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")
    }
    return Head(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"],
        environ.get("SERVER_PROTOCOL", "").rpartition("/")[2],
        environ.get("REMOTE_ADDR", ""),
        int(environ.get("REMOTE_PORT", 0) or 0),
        headers,
        environ.get("QUERY_STRING", ""),
        environ.get(WS_DIALECT_KEY, ""),
    )


def _detached(old: Any) -> _socket.socket:
    """The socket behind gevent's, which has none from now on."""
    sock = _socket.socket(old.family, old.type, old.proto, old.detach())
    sock.setblocking(False)
    return sock


def take_socket(handler: Any) -> tuple[_socket.socket, bytes]:
    """Take the socket of an upgraded connection away from its handler: (socket, bytes read too far)."""
    rest = bytes(handler.rfile.unread) if isinstance(handler.rfile, Reader) else _buffered(handler)
    sock = _detached(handler.socket)
    handler.websocket.closed = True
    handler.websocket.stream = None
    return sock, rest


def objection_to(environ: Mapping[str, Any], gate: Gate) -> errors.HttpProblem | None:
    """Why demo mode refuses a request that another server has read; see :meth:`Origins.objection`."""
    if not gate.origins.demo:
        return None
    head = head_of(environ)
    return gate.origins.objection(head.headers, head.path)


def adopt_from_environ(environ: Mapping[str, Any], gate: Gate, admitted: Admitted) -> bool:
    """Adopt a WebSocket that any server's gevent-websocket handler has upgraded (gunicorn's worker).

    False if the request is none. The handshake is done by then, so a refusal is a close code.
    """
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        return False
    objection = objection_to(environ, gate)
    code = errors.CLOSE_POLICY if objection is None else errors.CLOSE_NOT_ALLOWED
    decision = gate.decide(head_of(environ), upgraded=True) if objection is None else Refusal(objection)
    sock, rest = take_socket(websocket.handler)
    if isinstance(decision, Refusal):
        try:
            sock.send(frames.encode_close(code, decision.problem.message))
        except OSError as exc:
            log.debug("%s went before it was refused: %s", environ.get("REMOTE_ADDR"), exc)
        sock.close()
        return True
    admitted(sock, decision, rest)
    return True


def _buffered(handler: Any) -> bytes:
    """What another server's handler has read beyond the head into its buffered reader."""
    handler.socket.settimeout(0)
    try:
        rest = handler.rfile.peek()
    except (BlockingIOError, TimeoutError):
        return b""
    return bytes(rest)


class WsgiHandler(WebSocketHandler, OneRequestHandler):  # type: ignore[misc]
    """gevent-websocket's handler behind our gate, for :class:`WsgiServer`."""

    server: WsgiServer

    websocket: Any

    def __init__(self, sock: Any, address: Any, server: WsgiServer) -> None:
        self._reader = Reader(sock, b"")
        super().__init__(sock, address, server, self._reader)  # type: ignore[call-arg]
        self._patience = server.handshake_seconds

    def handle_one_request(self) -> Any:
        """Wait for a whole head, read it as strictly as the front does, and let pywsgi go on with it."""
        server = self.server
        sock: Any = self.socket
        try:
            if not self._read_whole(sock):
                return None
        except BadHead as bad:
            self._end(problems.response(bad.problem))
            return None
        except OSError:
            return None
        self._patience = server.keepalive_seconds
        sock.settimeout(WRITE_SECONDS)
        result = super().handle_one_request()
        if self.cut_short:
            self._linger(sock)
        return result

    def _read_whole(self, sock: Any) -> bool:
        """Have a whole request in the reader, told as plainly as can be. False if there is none to serve."""
        server, reader = self.server, self._reader
        raw = reader.await_head(server.header_bytes, self._patience, server.handshake_seconds)
        if not raw:
            return False
        head = parse_head(raw)
        origins = server.gate.origins
        if origins.demo and (objection := origins.objection(head.headers, head.path)) is not None:
            self._end(problems.response(objection, problems.CORS))
            return False
        if self._streamed(head):
            return False
        if streams(head, server.streamed):
            reader.put_back(plain_head(reader.read(len(raw)), head))
            return True
        limit = server.body_bytes
        if head.chunked or (head.length or 0) > MAX_PUBLIC_BODY_BYTES:
            forwarded = head.headers.get("x-forwarded-for", "")
            client = server.gate.proxies.client(self.client_address[0], forwarded)
            limit = server.body_limit(head.method, head.path, head.headers, client)
        body = Body(head, limit)
        if head.chunked or head.length:
            if "expect" in head.headers and not body.too_large:
                sock.sendall(_CONTINUE)
            if not reader.await_body(raw, head, body, BODY_SECONDS):
                return False
            if body.too_large:
                self._end(refuse_too_large(server.routes, head, self.client_address[0]))
                return False
        elif head.absolute:
            reader.put_back(plain_request(reader.read(len(raw)), head, b""))
        return True

    def _streamed(self, head: ParsedHead) -> bool:
        """Let a stream have the socket, if one is asked for."""
        server = self.server
        path, _, query = head.url.decode("latin-1").partition("?")
        if server.streams is None or head.chunked or head.length or "upgrade" in head.headers:
            return False
        if not server.streams.serves(head.method, path):
            return False
        address: Any = self.client_address
        host, port = address[0], address[1]
        asked = Head(head.method, path, head.version, host, port, head.headers, query)
        server.streams.adopt(_detached(self.socket), asked)
        return True

    def _end(self, data: bytes) -> None:
        """Write a last answer. The client may have gone by now."""
        sock: Any = self.socket
        try:
            sock.settimeout(LINGER_SECONDS)
            sock.sendall(data)
        except OSError as exc:
            log.debug("%s went before it was answered: %s", self.client_address, exc)
        else:
            self._linger(sock)

    def _linger(self, sock: Any) -> None:
        """Read what the client still sends, for a while.

        Unread bytes would end the connection by a reset, and that might overtake the answer.
        """
        try:
            sock.settimeout(LINGER_SECONDS)
            sock.shutdown(_socket.SHUT_WR)
            deadline = monotonic() + LINGER_SECONDS
            while monotonic() < deadline and sock.recv(RECEIVE_BYTES):
                pass
        except OSError as exc:
            log.debug("%s went while its answer left: %s", self.client_address, exc)

    def upgrade_websocket(self) -> Any:
        assert self.environ is not None
        head = head_of(self.environ)
        if not wants_upgrade(head.headers):
            return None
        decision = self.server.gate.decide(head)
        if isinstance(decision, Refusal):
            self.server.refused()
            return self._refuse(decision)
        self.admission = decision
        # The gate has checked more than the library does; its own checks now pass.
        return super().upgrade_websocket()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if status.startswith("101") and self.admission.extension:
            headers.append(("Sec-WebSocket-Extensions", self.admission.extension))
        return super().start_response(status, headers, exc_info)

    def run_websocket(self) -> None:
        assert self.environ is not None
        sock, rest = take_socket(self)
        # The library leaves a ring of handler, websocket and environ, which only a collection would free.
        websocket: Any = self.websocket
        self.websocket = websocket.handler = websocket.environ = None
        self.environ.clear()
        self.server.admitted(sock, self.admission, rest)

    def _refuse(self, refusal: Refusal) -> list[bytes]:
        content = problems.body(refusal.problem)
        status_line = problems.status_line(refusal.problem.status).decode()[9:-2]
        self.close_connection = True
        self.start_response(
            status_line,
            [
                *problems.challenged(refusal.problem, refusal.headers),
                ("Content-Type", "application/json; charset=utf-8"),
                ("Content-Length", str(len(content))),
                ("Connection", "close"),
            ],
        )
        return [content]

    def log_request(self) -> None:
        """The application has a request log of its own."""


class WsgiServer(WSGIServer):
    """One listener of the WSGI server."""

    handler_class = WsgiHandler

    def __init__(
        self,
        listener: Any,
        application: Callable[..., Any],
        environ: Mapping[str, Any],
        gate: Gate,
        admitted: Admitted,
        refused: Callable[[], None],
        routes: HttpRoutes,
        body_limit: BodyLimit,
        header_bytes: int,
        body_bytes: int,
        handshake_seconds: float,
        keepalive_seconds: float,
        streams: Streams | None = None,
        streamed: Streamed = frozenset(),
    ) -> None:
        super().__init__(listener, application, log=None, error_log=log, environ=dict(environ))
        self.streams = streams
        self.streamed = streamed
        self.routes = routes
        self.body_limit = body_limit
        self.header_bytes = header_bytes
        self.body_bytes = body_bytes
        self.handshake_seconds = handshake_seconds
        self.keepalive_seconds = keepalive_seconds
        self.gate = gate
        self.admitted = admitted
        self.refused = refused
        self.port: int = listener.getsockname()[1]

    def update_environ(self) -> None:
        """Name the server without asking the resolver."""
        self.environ.update(SERVER_NAME="localhost", SERVER_PORT=str(self.port))
