"""From the front to the application: pywsgi serves one request on a connection and gives it back."""

from __future__ import annotations

import _socket
import errno
import logging
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import gevent
from gevent import socket as gevent_socket
from gevent.pywsgi import WSGIHandler, WSGIServer

from imserver.errors import HTTP_TIMEOUT
from imserver.transport.body import Body, plain_request
from imserver.transport.head import BadHead, ParsedHead, end_of_head

log = logging.getLogger(__name__)

BODY_SECONDS = 60
"""Time for a request's body to arrive."""
BODY_SILENCE_SECONDS = 13
"""Longest silence while a body arrives. Connections are looked at once a second, so 408 comes within 15 s."""
LINGER_SECONDS = 2
"""How long the end of a refused request is read and dropped."""
WRITE_SECONDS = 30
"""Longest time for which a client may take nothing of its answer."""
WAITING_PER_RUNNING = 16
"""Requests that may wait for their turn, per request that may run."""
WAITING_BYTES = 64 << 20
"""Bytes of requests that may wait for their turn."""
RECEIVE_BYTES = 65536


GiveBack = Callable[[_socket.socket, bytes | None], None]
"""Takes the socket back after the answer, with the bytes read beyond it (None: end the connection)."""


class Reader:
    """A file-like reader for pywsgi: first the bytes already read, then the socket's.

    What it has read beyond the request is in ``unread``.
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
        """Wait ``patience`` seconds for the first byte of a request and ``seconds`` more for its whole head.

        Returns the head, which stays unread, or ``b""`` when none came. Raises
        :class:`imserver.transport.head.BadHead` when it is too large or too slow, OSError from the socket.
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
        """Drop what may stand before a request; it is the beginning of none."""
        if self.unread.startswith((b"\r", b"\n")):
            self.unread[:] = self.unread.lstrip(b"\r\n")

    def await_body(self, raw: bytes, head: ParsedHead, body: Body, seconds: float) -> bool:
        """Wait for the body behind the head ``raw``; the request is then unread in its plainest form.

        False if the client ends before that. Raises :class:`imserver.transport.head.BadHead` for broken
        chunks, after ``seconds`` and after :data:`BODY_SILENCE_SECONDS` of silence, OSError from the socket.
        """
        deadline = monotonic() + seconds
        del self.unread[: len(raw)]
        rest = body.feed(bytes(self.unread))
        while rest is None:
            self.unread.clear()
            left = deadline - monotonic()
            if left <= 0:
                raise BadHead(HTTP_TIMEOUT, "the body took too long to arrive")
            self._sock.settimeout(min(left, BODY_SILENCE_SECONDS))
            try:
                if not self._more():
                    return False
            except TimeoutError:
                raise BadHead(HTTP_TIMEOUT, "the body stopped arriving") from None
            rest = body.feed(bytes(self.unread))
        self.unread[:] = plain_request(raw, head, body.content) + rest
        return True

    def put_back(self, data: bytes) -> None:
        """Have ``data`` read next."""
        self.unread[:0] = data

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer only at the end of the stream. Raises TimeoutError after a long silence."""
        if size < 0 or len(self.unread) < size:
            self._sock.settimeout(BODY_SILENCE_SECONDS)
        while (size < 0 or len(self.unread) < size) and self._more():
            pass
        return self._take(len(self.unread) if size < 0 else size)

    def readline(self, limit: int = -1) -> bytes:
        """One line with its LF, at most ``limit`` bytes of it."""
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
        """Nothing to do: the socket is not ours."""


class OneRequestHandler(WSGIHandler):
    """pywsgi's handler for one request; head and body of the answer leave in one write.

    A streamed body that the application did not read to its end is not waited for: what would follow it on
    the connection could not be told from it, so the connection ends with the answer.
    """

    _parts: list[bytes] | None = None
    cut_short = False
    """The answer left before the body had arrived."""

    def _lacks_body(self) -> bool:
        """Whether some of the request's body is neither read nor here."""
        body: Any = self.wsgi_input
        if body is None or not isinstance(self.rfile, Reader):
            return False
        missing: int = (body.content_length or 0) - body.position
        return missing > len(self.rfile.unread)

    def finalize_headers(self) -> None:
        """The last moment at which the answer can say that the connection ends."""
        if self._lacks_body() and not self.close_connection:
            self.close_connection = True
            headers: Any = self.response_headers
            headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def run_application(self) -> None:
        """Have the request answered; see to what is left of its body."""
        try:
            super().run_application()
        finally:
            if self._lacks_body():
                self.cut_short = self.close_connection = True
                body: Any = self.wsgi_input
                body.content_length = body.position  # pywsgi would read, and drop, all of it

    def log_request(self) -> None:
        """The application has a request log of its own."""

    def _write_with_headers(self, data: bytes) -> None:
        # Two writes would wait for each other under Nagle's algorithm and cost twice the system calls.
        self._parts = []
        try:
            super()._write_with_headers(data)  # type: ignore[misc]
        finally:
            parts, self._parts = self._parts, None
        self._sendall(b"".join(parts or ()))

    def _sendall(self, data: bytes | bytearray) -> None:
        if self._parts is not None:
            self._parts.append(bytes(data))
            return
        self.socket.settimeout(WRITE_SECONDS)
        try:
            super()._sendall(data)  # type: ignore[misc]
        except TimeoutError:  # it takes nothing any more: nobody's fault here, and no matter for the log
            raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from None


class HandOver:
    """Runs requests in the WSGI application, a bounded number at once. Owner of those greenlets."""

    def __init__(
        self, application: Callable[..., Any], limit: int, port: int, environ: Mapping[str, Any]
    ) -> None:
        self._server = WSGIServer(
            ("127.0.0.1", port), application, log=None, error_log=log, environ=dict(environ)
        )
        self._server.environ.update(SERVER_NAME="localhost", SERVER_PORT=str(port))
        self.limit = limit
        self.running: set[gevent.Greenlet[..., None]] = set()
        self._waiting_bytes = 0
        self._waiting: deque[tuple[Any, _socket.socket, bytes, bytes, GiveBack]] = deque()

    @property
    def full(self) -> bool:
        """True when so many requests, or bytes of them, wait for their turn that one more is refused."""
        return len(self._waiting) >= WAITING_PER_RUNNING * self.limit or self._waiting_bytes > WAITING_BYTES

    @property
    def busy(self) -> bool:
        """True while a request runs or waits."""
        return bool(self.running or self._waiting)

    def serve(
        self, address: Any, sock: _socket.socket, waiting: bytes, data: bytes, give_back: GiveBack
    ) -> None:
        """Write ``waiting``, then have the application answer the request that begins with ``data``.

        ``address`` is the client's. Above the limit of requests that run at once it waits for its turn.
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
            greenlet.rawlink(self._done)
            greenlet.start()

    def _done(self, greenlet: gevent.Greenlet[..., None]) -> None:
        self.running.discard(greenlet)
        self._next()

    def _serve(
        self, address: Any, plain: _socket.socket, waiting: bytes, data: bytes, give_back: GiveBack
    ) -> None:
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
    """The same socket as gevent's: waiting on it lets others run."""
    family, kind, proto = sock.family, sock.type, sock.proto
    wrapped = gevent_socket.socket(family, kind, proto, fileno=sock.detach())
    wrapped.settimeout(WRITE_SECONDS)
    return wrapped
