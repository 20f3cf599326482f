"""Code shared by both HTTP servers, and the hand-over: pywsgi serves one request of a front connection."""

from __future__ import annotations

import _socket
import logging
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket as gevent_socket
from msgspec import Struct

from imserver.config.settings import LimitSettings
from imserver.errors import HTTP_BODY_TOO_LARGE, HTTP_TIMEOUT
from imserver.metrics import Metrics
from imserver.transport.exchange import (
    HttpRequest,
    HttpRoutes,
    header_block,
    problem_response,
    response_head,
    row_of,
)
from imserver.transport.gate import Admission, Gate
from imserver.transport.http1 import (
    BODY_SILENCE_SECONDS,
    MAX_PUBLIC_BODY_BYTES,
    BadHead,
    Body,
    BodyLimit,
    ParsedHead,
    Streamed,
    end_of_head,
    plain_request,
)
from imserver.transport.stream import Streams

if TYPE_CHECKING:
    from gevent.pywsgi import WSGIServer

log = logging.getLogger(__name__)

LINGER_SECONDS = 2
"""Time for reading and dropping the rest of a refused request."""
WRITE_SECONDS = 30
"""Time after which a client that does not read its answer is dropped."""
WAITING_PER_RUNNING = 16
"""Number of waiting requests per request that may run."""
WAITING_BYTES = 64 << 20
"""Limit of the bytes of waiting requests."""
RECEIVE_BYTES = 65536


Admitted = Callable[[_socket.socket, Admission, bytes], None]
"""Puts an upgraded socket into service: (non-blocking socket, decision of the gate, bytes after the head)."""

GiveBack = Callable[[_socket.socket, bytes | None], None]
"""Takes the socket back after the answer, with bytes read beyond the request (None: end the connection)."""


class ListenerContext(Struct, frozen=True):
    """Shared by the HTTP connections of one listener, for both servers.

    ``routes``: their own forms of a refusal. ``admitted``: puts an upgraded socket into service.
    ``ws_dialect``: for clients whose query names no dialect. ``streams``: event streams, if the listener
    serves any.
    """

    gate: Gate
    routes: HttpRoutes
    body_limit: BodyLimit
    limits: LimitSettings
    admitted: Admitted
    ws_dialect: str = ""
    streams: Streams | None = None
    streamed: Streamed | None = None

    def client(self, address: Any, headers: Mapping[str, str]) -> str:
        """The client's address, evaluated with trusted proxies. ``address``: the peer's own."""
        host: str = address[0]
        if "x-forwarded-for" in headers:
            return self.gate.proxies.client(host, headers["x-forwarded-for"])
        return host

    def begin_body(self, head: ParsedHead, address: Any) -> Body:
        """Start reading the body after this head, with the limit of its request."""
        limit = self.limits.body_bytes
        if head.chunked or (head.length or 0) > MAX_PUBLIC_BODY_BYTES:
            client = self.client(address, head.headers)
            limit = self.body_limit(head.method, head.path, head.headers, client)
        return Body(head, limit, monotonic())

    def refuse_too_large(self, head: ParsedHead, address: Any) -> bytes:
        """The whole response to a request with too large a body: in the form of its route, else 413."""
        route = row_of(self.routes, head.method, head.path)
        if route is None:
            return problem_response(HTTP_BODY_TOO_LARGE)
        client = self.client(address, head.headers)
        response = route(
            HttpRequest(head.method, head.path, head.query, b"", head.headers, client, too_large=True)
        )
        lines = header_block(response)
        return response_head(response.status, lines, len(response.body), False) + response.body


class Reader:
    """A file-like reader for pywsgi: first the bytes read before, then the socket.

    ``unread`` holds bytes read beyond the request.
    """

    closed = False

    def __init__(self, sock: gevent_socket.socket, data: bytes) -> None:
        self._sock = sock
        self.unread = bytearray(data)

    def _more(self) -> bool:
        data = self._sock.recv(RECEIVE_BYTES)
        self.unread += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def await_head(self, limit: int, patience: float, seconds: float) -> bytes:
        """Wait ``patience`` seconds for the first byte of a request, then ``seconds`` for the rest of its
        head.

        Returns the head without consuming it, ``b""`` if no request came. Raises
        :class:`imserver.transport.http1.BadHead` if it is too large or too slow, OSError from the socket.
        """
        deadline = monotonic() + (patience if not self.unread else seconds)
        while True:
            self._skip_line_ends()
            end = end_of_head(self.unread, limit)
            if end:
                return bytes(self.unread[:end])
            started = bool(self.unread)
            left = deadline - monotonic()
            self._sock.settimeout(max(left, 0.001))
            try:
                if left <= 0:
                    raise TimeoutError
                if not self._more():
                    return b""
            except TimeoutError:
                if started:
                    raise BadHead(HTTP_TIMEOUT, "the request took too long to arrive") from None
                return b""
            self._skip_line_ends()
            if not started and self.unread:
                deadline = monotonic() + seconds

    def _skip_line_ends(self) -> None:
        """Drop line ends before a request."""
        if self.unread.startswith((b"\r", b"\n")):
            self.unread[:] = self.unread.lstrip(b"\r\n")

    def await_body(self, raw: bytes, head: ParsedHead, body: Body) -> bool:
        """Wait for the body after the head ``raw``. Then the reader holds the request with a plain head and
        body.

        False if the client ends before that. Raises :class:`imserver.transport.http1.BadHead` for invalid
        chunks and for a slow body, OSError from the socket.
        """
        del self.unread[: len(raw)]
        rest = body.feed(bytes(self.unread))
        while rest is None:
            self.unread.clear()
            now = monotonic()
            self._sock.settimeout(max(body.deadline(now) - now, 0.001))
            try:
                if not self._more():
                    return False
            except TimeoutError:
                raise BadHead(HTTP_TIMEOUT, "the body arrives too slowly") from None
            rest = body.feed(bytes(self.unread))
        self.unread[:] = plain_request(raw, head, body.content) + rest
        return True

    def put_back(self, data: bytes) -> None:
        """Make ``data`` the next bytes to read."""
        self.unread[:0] = data

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end of the stream. Raises TimeoutError after a long
        silence."""
        if size < 0 or len(self.unread) < size:
            self._sock.settimeout(BODY_SILENCE_SECONDS)
        while (size < 0 or len(self.unread) < size) and self._more():
            pass
        return self._take(len(self.unread) if size < 0 else size)

    def readline(self, limit: int = -1) -> bytes:
        """Read one line with its LF, at most ``limit`` bytes."""
        start = 0
        while True:
            end = self.unread.find(b"\n", start) + 1
            if end or 0 <= limit <= len(self.unread):
                size = end or limit
                return self._take(size if limit < 0 else min(size, limit))
            start = len(self.unread)
            if not self._more():
                return self._take(start)

    def close(self) -> None:
        """The socket belongs to the caller."""


class HandOver:
    """Runs requests in the WSGI application with limited concurrency. Owner of the greenlets."""

    def __init__(
        self,
        application: Callable[..., Any],
        limit: int,
        port: int,
        environ: Mapping[str, Any],
        metrics: Metrics,
    ) -> None:
        self._application = application
        self._metrics = metrics
        self._environ = {**environ, "SERVER_NAME": "localhost", "SERVER_PORT": str(port)}
        self._server: WSGIServer | None = None
        self.limit = limit
        self.running: set[gevent.Greenlet[..., None]] = set()
        self._waiting_bytes = 0
        self._waiting: deque[tuple[Any, _socket.socket, bytes, bytes, GiveBack]] = deque()

    @property
    def full(self) -> bool:
        """True if the queue of waiting requests has reached its limit of number or bytes."""
        return len(self._waiting) >= WAITING_PER_RUNNING * self.limit or self._waiting_bytes > WAITING_BYTES

    @property
    def busy(self) -> bool:
        """True while a request runs or waits."""
        return bool(self.running or self._waiting)

    def serve(
        self, address: Any, sock: _socket.socket, waiting: bytes, data: bytes, give_back: GiveBack
    ) -> None:
        """Write ``waiting``, then let the application answer the request that begins with ``data``.

        ``address``: of the client. The request waits while the limit of running requests is reached.
        """
        self._waiting.append((address, sock, waiting, data, give_back))
        self._waiting_bytes += len(data)
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self.running) < self.limit:
            request = self._waiting.popleft()
            self._waiting_bytes -= len(request[3])
            greenlet = gevent.Greenlet(self._serve, *request)
            self.running.add(greenlet)
            self._metrics.http_running += 1
            greenlet.rawlink(self._done)
            # In the next turn of the loop. gevent would begin up to 50 requests that wait already, such as
            # pipelined ones, without a look at the sockets.
            greenlet.start_later(0)

    def _done(self, greenlet: gevent.Greenlet[..., None]) -> None:
        self.running.discard(greenlet)
        self._metrics.http_running -= 1
        self._next()

    def _serve(
        self, address: Any, plain: _socket.socket, waiting: bytes, data: bytes, give_back: GiveBack
    ) -> None:
        # Imported here: pywsgi takes 1.5 MB, which a node without such requests saves.
        from imserver.transport.one_request import OneRequestHandler, make_server

        if self._server is None:
            self._server = make_server(self._application, self._environ)
        sock = _cooperative(plain)
        reader = Reader(sock, data)
        handler = OneRequestHandler(sock, address, self._server, reader)  # type: ignore[call-arg]
        keep = False
        try:
            if waiting:
                sock.sendall(waiting)
            result = handler.handle_one_request()
            if isinstance(result, tuple):
                sock.sendall(result[1])
            keep = result is True
        except OSError as exc:
            log.debug("%s", exc, extra={"connection": f"{address[0]}:{address[1]}"})
        except Exception:
            log.exception("serving failed", extra={"connection": f"{address[0]}:{address[1]}"})
        raw = _socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        raw.setblocking(False)
        give_back(raw, bytes(reader.unread) if keep else None)


def _cooperative(sock: _socket.socket) -> gevent_socket.socket:
    """The same socket as a gevent socket."""
    family, kind, proto = sock.family, sock.type, sock.proto
    wrapped = gevent_socket.socket(family, kind, proto, fileno=sock.detach())
    wrapped.settimeout(WRITE_SECONDS)
    return wrapped
