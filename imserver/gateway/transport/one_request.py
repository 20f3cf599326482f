"""pywsgi's handler for one request of the WSGI application, on a socket of
either server, and its reader."""

import errno
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from gevent import socket as gevent_socket
from gevent.pywsgi import WSGIHandler, WSGIServer

from imserver.gateway.errors import Problems
from imserver.gateway.transport.http1 import (
    BODY_SILENCE_SECONDS,
    RECEIVE_BYTES,
    BadHead,
    Body,
    ParsedHead,
    end_of_head,
    plain_request,
    problem_response,
)

log = logging.getLogger(__name__)

WRITE_SECONDS: Final = 30
"""Time after which a client that does not read its answer is dropped."""
_LEAST_SECONDS: Final = 0.001
"""Least time-out of a socket. With 0 it would not wait, but raise
BlockingIOError."""


class Reader:
    """A file for pywsgi: the bytes read before, then the socket. ``unread``:
    the bytes after the request."""

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
        """Wait ``patience`` seconds for the first byte of a request, then
        ``seconds`` for the rest of its head.

        Returns the head without consuming it, ``b""`` if no request came. Raises
        :class:`imserver.gateway.transport.http1.BadHead` if it is too large or too slow, OSError from the
        socket.
        """
        if self.unread:
            deadline = monotonic() + seconds
        else:
            deadline = monotonic() + patience
        while True:
            self._skip_line_ends()
            end = end_of_head(self.unread, limit)
            if end:
                return bytes(self.unread[:end])

            started = bool(self.unread)
            left = deadline - monotonic()
            self._sock.settimeout(max(left, _LEAST_SECONDS))
            try:
                if left <= 0:
                    raise TimeoutError
                if not self._more():
                    return b""
            except TimeoutError:
                if started:
                    raise BadHead(
                        Problems.TIMEOUT, "the request took too long to arrive"
                    ) from None
                return b""

            self._skip_line_ends()
            if not started and self.unread:
                deadline = monotonic() + seconds

    def _skip_line_ends(self) -> None:
        if self.unread.startswith((b"\r", b"\n")):
            self.unread[:] = self.unread.lstrip(b"\r\n")

    def await_body(self, raw: bytes, head: ParsedHead, body: Body) -> bool:
        """Wait for the body after the head ``raw``. Then the reader holds the
        request with a plain head and body.

        False if the client ends before that. Raises
        :class:`imserver.gateway.transport.http1.BadHead` for invalid chunks and
        for a slow body, OSError from the socket.
        """
        del self.unread[: len(raw)]
        rest = body.feed(bytes(self.unread))
        while rest is None:
            self.unread.clear()
            now = monotonic()
            left = body.deadline(now) - now
            self._sock.settimeout(max(left, _LEAST_SECONDS))
            try:
                if not self._more():
                    return False
            except TimeoutError:
                raise BadHead(Problems.TIMEOUT, "the body arrives too slowly") from None
            rest = body.feed(bytes(self.unread))
        self.unread[:] = plain_request(raw, head, body.content) + rest
        return True

    def put_back(self, data: bytes) -> None:
        """Make ``data`` the next bytes to read."""
        self.unread[:0] = data

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end. Raises TimeoutError after
        a long silence."""
        if size < 0 or len(self.unread) < size:
            self._sock.settimeout(BODY_SILENCE_SECONDS)
        while (size < 0 or len(self.unread) < size) and self._more():
            pass
        if size < 0:
            size = len(self.unread)
        return self._take(size)

    def readline(self, limit: int = -1) -> bytes:
        """Read one line with its LF, at most ``limit`` bytes."""
        start = 0
        while True:
            end = self.unread.find(b"\n", start) + 1
            if end or 0 <= limit <= len(self.unread):
                size = end or limit
                if limit >= 0:
                    size = min(size, limit)
                return self._take(size)
            start = len(self.unread)
            if not self._more():
                return self._take(start)

    def close(self) -> None:
        """The socket belongs to the caller."""


def make_server(
    application: Callable[..., Any], environ: Mapping[str, Any]
) -> WSGIServer:
    """The part of a server that a handler needs. It never listens."""
    server = WSGIServer(
        ("127.0.0.1", 0), application, log=None, error_log=log, environ=dict(environ)
    )
    server.environ.update(environ)
    return server


class OneRequestHandler(WSGIHandler):
    """pywsgi's handler for one request. Head and body of the answer are sent in
    one write.

    If the application did not read a streamed body to its end, the connection
    ends with the answer. Otherwise the rest of the body would look like a next
    request.
    """

    _parts: list[bytes] | None = None
    cut_short = False
    """True if the answer was sent before the body had arrived."""

    def handle_one_request(self) -> Any:
        """Serve a request. If pywsgi refuses it with 414, a line over 8 KiB, its
        head is too large."""
        result = super().handle_one_request()
        is_too_long = isinstance(result, tuple) and result[0] == "414"
        if is_too_long:
            return ("431", problem_response(Problems.HEADERS_TOO_LARGE))
        return result

    def _lacks_body(self) -> bool:
        """Whether a part of the request's body is neither read nor received."""
        body: Any = self.wsgi_input
        if body is None or not isinstance(self.rfile, Reader):
            return False
        missing: int = (body.content_length or 0) - body.position
        return missing > len(self.rfile.unread)

    def _is_last(self) -> bool:
        """Whether the connection ends with this answer although its client
        expects to send more requests."""
        return self._lacks_body()

    def finalize_headers(self) -> None:
        """Add Connection: close if needed, just before the headers are sent."""
        if not self.close_connection and self._is_last():
            self.close_connection = True
            headers: Any = self.response_headers
            # HTTP/1.0 has keep-alive there
            headers[:] = [row for row in headers if row[0] != b"Connection"]
            headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def run_application(self) -> None:
        """Run the application, then handle an unread rest of the body."""
        try:
            super().run_application()
        finally:
            if self._lacks_body():
                self.cut_short = True
                self.close_connection = True
                body: Any = self.wsgi_input
                # otherwise pywsgi reads and drops all of it
                body.content_length = body.position

    def log_request(self) -> None:
        """Disabled: the application has its own request log."""

    def _write_with_headers(self, data: bytes) -> None:
        # Nagle's algorithm would delay the second of two writes, and they cost
        # twice the system calls.
        self._parts = []
        try:
            super()._write_with_headers(data)  # type: ignore[misc]
        finally:
            parts = self._parts
            self._parts = None
        self._sendall(b"".join(parts or ()))

    def _sendall(self, data: bytes | bytearray) -> None:
        if self._parts is not None:
            self._parts.append(bytes(data))
            return
        self.socket.settimeout(WRITE_SECONDS)
        try:
            super()._sendall(data)  # type: ignore[misc]
        except TimeoutError:  # the client does not read: not an error of the server
            raise BrokenPipeError(
                errno.EPIPE, "the client does not read its answer"
            ) from None
