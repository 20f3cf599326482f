"""pywsgi's handler for one request of the WSGI application, and the reader of
this handler. Both HTTP servers use them."""

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
"""The smallest time-out of a socket. With 0, the socket would not wait, but
raise BlockingIOError."""


class Reader:
    """The file from which pywsgi reads a request.

    The file has the bytes that were read before, then the bytes of the socket.
    ``unread`` are the bytes that were received, but not read by pywsgi yet.
    """

    closed = False

    def __init__(self, sock: gevent_socket.socket, data: bytes) -> None:
        """Begin with ``data``, which was read from the socket before."""
        self._sock = sock
        self.unread = bytearray(data)

    def _receive(self) -> bool:
        """Receive more bytes. Returns False at the end of the stream."""
        data = self._sock.recv(RECEIVE_BYTES)
        self.unread += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        """Remove the first ``size`` bytes from ``unread``, and return them."""
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def await_head(self, limit: int, patience: float, seconds: float) -> bytes:
        """Wait for the head of a request.

        The first byte may take ``patience`` seconds, and the rest of the head
        ``seconds``. Returns the head, whose bytes stay in ``unread``. Returns
        ``b""`` if no request has come. Raises
        :class:`imserver.gateway.transport.http1.BadHead` if the head is larger
        than ``limit`` bytes or too slow, and OSError of the socket.
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

            has_begun = bool(self.unread)
            remaining = deadline - monotonic()
            self._sock.settimeout(max(remaining, _LEAST_SECONDS))
            try:
                if remaining <= 0:
                    raise TimeoutError
                if not self._receive():
                    return b""
            except TimeoutError:
                if has_begun:
                    raise BadHead(
                        Problems.TIMEOUT, "the request took too long to arrive"
                    ) from None
                return b""

            self._skip_line_ends()
            # The head and its time limit begin with these bytes.
            if not has_begun and self.unread:
                deadline = monotonic() + seconds

    def _skip_line_ends(self) -> None:
        """Drop line ends before a request (RFC 9112 section 2.2)."""
        if self.unread.startswith((b"\r", b"\n")):
            self.unread[:] = self.unread.lstrip(b"\r\n")

    def await_body(self, raw: bytes, head: ParsedHead, body: Body) -> bool:
        """Wait for the whole body after the head ``raw``.

        Then the request in ``unread`` is replaced by its plain form
        (:func:`imserver.gateway.transport.http1.plain_request`), which pywsgi
        reads. Returns False if the client ends the connection before that.
        Raises :class:`imserver.gateway.transport.http1.BadHead` for invalid
        chunks and for a slow body, and OSError of the socket.
        """
        del self.unread[: len(raw)]
        # None means that the body is incomplete.
        rest = body.feed(bytes(self.unread))
        while rest is None:
            self.unread.clear()
            now = monotonic()
            remaining = body.deadline(now) - now
            self._sock.settimeout(max(remaining, _LEAST_SECONDS))
            try:
                if not self._receive():
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
        """Read ``size`` bytes, or fewer if the stream ends before.

        A negative size reads to the end. Raises TimeoutError after a long
        silence.
        """
        if size < 0 or len(self.unread) < size:
            self._sock.settimeout(BODY_SILENCE_SECONDS)
        while (size < 0 or len(self.unread) < size) and self._receive():
            pass
        if size < 0:
            size = len(self.unread)
        return self._take(size)

    def readline(self, limit: int = -1) -> bytes:
        """Read one line with its LF, but at most ``limit`` bytes.

        A negative limit means no limit. At the end of the stream the line may
        have no LF.
        """
        start = 0
        while True:
            # 0 means that no line end was found yet. The search begins where
            # the last search has ended.
            end = self.unread.find(b"\n", start) + 1
            if end or 0 <= limit <= len(self.unread):
                size = end or limit
                if limit >= 0:
                    size = min(size, limit)
                return self._take(size)
            start = len(self.unread)
            if not self._receive():
                return self._take(start)

    def close(self) -> None:
        """Do nothing: the socket belongs to the caller."""


def make_server(
    application: Callable[..., Any], environ: Mapping[str, Any]
) -> WSGIServer:
    """Make a server of pywsgi that never listens.

    A handler needs it for the application and its environment.
    """
    server = WSGIServer(
        ("127.0.0.1", 0), application, log=None, error_log=log, environ=dict(environ)
    )
    server.environ.update(environ)
    return server


class OneRequestHandler(WSGIHandler):
    """pywsgi's handler for one request.

    Head and body of the answer are sent in one write. If the application did
    not read a streamed body to its end, the connection ends with the answer.
    Otherwise the rest of the body would look like a next request.
    """

    _parts: list[bytes] | None = None
    """The parts of an answer that are collected for one write. None means that
    each part is written at once."""
    cut_short = False
    """True if the answer was sent before the whole body of the request had
    arrived."""

    def handle_one_request(self) -> Any:
        """Serve a request.

        Returns True if the connection stays open, or a tuple (status, whole
        response) if pywsgi refuses the request.
        """
        result = super().handle_one_request()
        # pywsgi answers 414 if a line has over 8 KiB. This server answers as
        # for any head that is too large.
        is_too_long = isinstance(result, tuple) and result[0] == "414"
        if is_too_long:
            return ("431", problem_response(Problems.HEADERS_TOO_LARGE))
        return result

    def _lacks_body(self) -> bool:
        """Tell whether a part of the request's body is neither read nor
        received."""
        body: Any = self.wsgi_input
        if body is None or not isinstance(self.rfile, Reader):
            return False
        missing: int = (body.content_length or 0) - body.position
        return missing > len(self.rfile.unread)

    def _is_last(self) -> bool:
        """Tell whether the connection ends with this answer.

        Otherwise the client would expect to send more requests. So the answer
        has to say that the connection ends.
        """
        return self._lacks_body()

    def finalize_headers(self) -> None:
        """Add ``Connection: close`` if the connection ends with this answer.

        pywsgi calls it just before the headers are sent.
        """
        if not self.close_connection and self._is_last():
            self.close_connection = True
            headers: Any = self.response_headers
            # An answer over HTTP/1.0 may already have "keep-alive" there.
            headers[:] = [row for row in headers if row[0] != b"Connection"]
            headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def run_application(self) -> None:
        """Run the application.

        If it has not read the whole body, the connection ends.
        """
        try:
            super().run_application()
        finally:
            if self._lacks_body():
                self.cut_short = True
                self.close_connection = True
                body: Any = self.wsgi_input
                # With this length, pywsgi takes the body as read. Otherwise
                # pywsgi would read and drop the rest.
                body.content_length = body.position

    def log_request(self) -> None:
        """Do nothing: the application has its own request log."""

    def _write_with_headers(self, data: bytes) -> None:
        """Write the headers and the first part of the body in one write.

        Nagle's algorithm would delay the second of two writes, and they would
        take twice as many system calls.
        """
        self._parts = []
        try:
            super()._write_with_headers(data)  # type: ignore[misc]
        finally:
            parts = self._parts
            self._parts = None
        self._sendall(b"".join(parts or ()))

    def _sendall(self, data: bytes | bytearray) -> None:
        """Send data, or collect it while headers and body are written
        together."""
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
