"""Code shared by both HTTP servers, and the hand-over: pywsgi serves one
request of a front connection."""

from __future__ import annotations

import _socket
import logging
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import socket as gevent_socket
from msgspec import Struct

from imserver.gateway.config.settings import LimitSettings
from imserver.gateway.errors import Problems
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Service
from imserver.gateway.transport.gate import Admission, Gate
from imserver.gateway.transport.http1 import (
    MAX_PUBLIC_BODY_BYTES,
    Body,
    HttpRequest,
    HttpResponse,
    HttpRoutes,
    Mounts,
    ParsedHead,
    Streamed,
    header_block,
    problem_response,
    response_head,
    row_of,
)
from imserver.gateway.transport.stream import Streams

if TYPE_CHECKING:
    from gevent.pywsgi import WSGIServer

log = logging.getLogger(__name__)

LINGER_SECONDS = 2
"""Time for reading and dropping the rest of a refused request."""
_WAITING_PER_RUNNING: Final = 16
"""How many requests may wait, for each request that may run."""
_MOST_WAITING_BYTES: Final = 64 << 20
"""Limit of the bytes of all waiting requests."""

Admitted = Callable[[_socket.socket, Admission, bytes], None]
"""Puts an upgraded socket into service: (non-blocking socket, decision of the
gate, bytes after the head)."""

GiveBack = Callable[[_socket.socket, bytes | None], None]
"""Takes the socket back after the answer: (socket, bytes that were read beyond
the request). None in place of the bytes means that the connection ends."""


class ListenerContext(Struct, frozen=True):
    """The parts that the HTTP connections of one listener share, on both
    servers.

    ``routes`` are routes that have a form of their own for a refusal.
    ``admitted`` makes a connection of an upgraded socket. ``ws_dialect`` is the
    dialect of clients whose query names no dialect. ``""`` means that such
    clients have no dialect. ``streams`` are the event streams of the listener.
    None means that the listener serves no streams. ``streamed`` says which
    bodies the application reads in pieces
    (:func:`imserver.gateway.transport.http1.streams`). ``mounts`` are hosts
    whose requests are served under a path.
    """

    gate: Gate
    routes: HttpRoutes
    body_limit: Callable[[str, str, Mapping[str, str], str], int]
    """(method, path, headers, client address) → largest body of such a request
    in bytes."""
    limits: LimitSettings
    admitted: Admitted
    ws_dialect: str = ""
    streams: Streams | None = None
    streamed: Streamed | None = None
    mounts: Mounts = {}

    def client(self, address: Any, headers: Mapping[str, str]) -> str:
        """Return the address of the client, as trusted proxies report it.

        ``address`` is the address of the peer itself.
        """
        host: str = address[0]
        if "x-forwarded-for" in headers:
            return self.gate.proxies.client(host, headers["x-forwarded-for"])
        return host

    def begin_body(self, head: ParsedHead, address: Any) -> Body:
        """Start to read the body after this head.

        ``address`` is the address of the peer. The route and the client decide
        the limit of a chunked body, and of a body above
        :data:`MAX_PUBLIC_BODY_BYTES`.
        """
        limit = self.limits.body_bytes
        if head.chunked or (head.length or 0) > MAX_PUBLIC_BODY_BYTES:
            client = self.client(address, head.headers)
            limit = self.body_limit(head.method, head.path, head.headers, client)
        return Body(head, limit, monotonic())

    def refuse_too_large(self, head: ParsedHead, address: Any) -> bytes:
        """Make the whole response to a request whose body is too large.

        If its route has a form of its own for that, the route makes the
        response. Otherwise it is a 413.
        """
        route = row_of(self.routes, head.method, head.path)
        if route is None:
            return problem_response(Problems.BODY_TOO_LARGE)
        # The route sees that the body is missing, and makes a refusal in its
        # form.
        request = HttpRequest(
            head.method,
            head.path,
            head.query,
            b"",
            head.headers,
            self.client(address, head.headers),
            too_large=True,
        )
        return _last_response(route(request))


def _last_response(response: HttpResponse) -> bytes:
    """Make the bytes of a response, after which the connection is closed."""
    lines = header_block(response)
    size = len(response.body)
    head = response_head(response.status, lines, size, keep_alive=False)
    return head + response.body


class HandOver(Service, dict=True):
    """Runs requests in the WSGI application, a limited number at a time.

    It owns the greenlets of these requests. Other requests wait until a
    greenlet is free.
    """

    application: Callable[..., Any]
    limit: int
    port: int
    environ: Mapping[str, Any]
    metrics: Metrics

    def __post_init__(self) -> None:
        """Begin without requests. The server of pywsgi is made for the first
        request."""
        # The names are constants, so that no name is looked up.
        self._environ = {
            **self.environ,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": str(self.port),
        }
        self._server: WSGIServer | None = None
        self.running: set[gevent.Greenlet[..., None]] = set()
        self._waiting_bytes = 0
        self._waiting: deque[tuple[Any, _socket.socket, bytes, bytes, GiveBack]] = (
            deque()
        )
        """The arguments of :meth:`serve` of each waiting request."""

    @property
    def full(self) -> bool:
        """Whether no more requests may wait.

        That is so if 16 requests wait for each request that may run, or if all
        waiting requests have more than 64 MB together.
        """
        return (
            len(self._waiting) >= _WAITING_PER_RUNNING * self.limit
            or self._waiting_bytes > _MOST_WAITING_BYTES
        )

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return bool(self.running or self._waiting)

    def serve(
        self,
        address: Any,
        sock: _socket.socket,
        unwritten: bytes,
        data: bytes,
        give_back: GiveBack,
    ) -> None:
        """Let the application answer the request at the start of ``data``.

        The request begins as soon as fewer requests than the limit run.
        ``address`` is the address of the client. ``unwritten`` are earlier
        answers, which are written to the socket first. ``give_back`` is called
        after the answer.
        """
        self._waiting.append((address, sock, unwritten, data, give_back))
        self._waiting_bytes += len(data)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start waiting requests, as many as the limit allows.

        It is called when a request comes, and when one has ended.
        """
        while self._waiting and len(self.running) < self.limit:
            request = self._waiting.popleft()
            *_, data, _give_back = request
            self._waiting_bytes -= len(data)
            greenlet = gevent.Greenlet(self._serve, *request)
            self.running.add(greenlet)
            self.metrics.http_running += 1
            greenlet.rawlink(self._done)
            # The greenlet starts in the next turn of the loop. Otherwise gevent
            # would begin up to 50 waiting requests, such as pipelined requests,
            # before it serves its sockets.
            greenlet.start_later(0)

    def _done(self, greenlet: gevent.Greenlet[..., None]) -> None:
        """Callback: a request has ended, so another one may start."""
        self.running.discard(greenlet)
        self.metrics.http_running -= 1
        self._start_waiting()

    def _serve(
        self,
        address: Any,
        plain: _socket.socket,
        unwritten: bytes,
        data: bytes,
        give_back: GiveBack,
    ) -> None:
        """Greenlet: serve one request, then give its socket back.

        :meth:`serve` explains the arguments.
        """
        # Imported here: pywsgi takes 1.5 MB. A node without such requests saves
        # this memory.
        from imserver.gateway.transport.one_request import (
            WRITE_SECONDS,
            OneRequestHandler,
            Reader,
            make_server,
        )

        if self._server is None:
            self._server = make_server(self.application, self._environ)

        # The file descriptor moves to a socket of gevent for the handler, and
        # back to a raw one afterwards. No object may close it on its way.
        family = plain.family
        kind = plain.type
        proto = plain.proto
        sock = gevent_socket.socket(family, kind, proto, fileno=plain.detach())
        sock.settimeout(WRITE_SECONDS)
        reader = Reader(sock, data)
        handler = OneRequestHandler(sock, address, self._server, reader)  # type: ignore[call-arg]
        keep_alive = False
        try:
            if unwritten:
                sock.sendall(unwritten)
            # If the result is a tuple (status, response), pywsgi refuses the
            # request. If it is True, the connection stays open.
            result = handler.handle_one_request()
            if isinstance(result, tuple):
                _, refusal = result
                sock.sendall(refusal)
            keep_alive = result is True
        except OSError as exc:
            log.debug("%s", exc, extra={"connection": f"{address[0]}:{address[1]}"})
        except Exception:
            extra = {"connection": f"{address[0]}:{address[1]}"}
            log.exception("serving failed", extra=extra)

        raw = _socket.socket(family, kind, proto, sock.detach())
        raw.setblocking(False)
        if keep_alive:
            give_back(raw, bytes(reader.unread))
        else:
            give_back(raw, None)
