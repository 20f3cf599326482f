"""A file-like reader of requests on a socket, for pywsgi's handlers."""

from __future__ import annotations

from time import monotonic

from gevent import socket as gevent_socket

from imserver.errors import (
    Problems,
)
from imserver.transport.http1 import (
    BODY_SILENCE_SECONDS,
    BadHead,
    Body,
    ParsedHead,
    end_of_head,
    plain_request,
)

RECEIVE_BYTES = 65536
WRITE_SECONDS = 30
"""Time after which a client that does not read its answer is dropped."""


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
                    raise BadHead(Problems.TIMEOUT, "the request took too long to arrive") from None
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
                raise BadHead(Problems.TIMEOUT, "the body arrives too slowly") from None
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
