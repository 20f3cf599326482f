"""pywsgi's handler for one request of the WSGI application, on a socket of either server."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from typing import Any

from gevent.pywsgi import WSGIHandler, WSGIServer

from imserver.transport.reader import WRITE_SECONDS, Reader

log = logging.getLogger(__name__)


def make_server(application: Callable[..., Any], environ: Mapping[str, Any]) -> WSGIServer:
    """The part of a server that a handler needs. It never listens."""
    server = WSGIServer(("127.0.0.1", 0), application, log=None, error_log=log, environ=dict(environ))
    server.environ.update(environ)
    return server


class OneRequestHandler(WSGIHandler):
    """pywsgi's handler for one request. Head and body of the answer are sent in one write.

    If the application did not read a streamed body to its end, the connection ends with the answer: the rest
    of the body could not be distinguished from a next request.
    """

    _parts: list[bytes] | None = None
    cut_short = False
    """True if the answer was sent before the body had arrived."""

    def _lacks_body(self) -> bool:
        """Whether a part of the request's body is neither read nor received."""
        body: Any = self.wsgi_input
        if body is None or not isinstance(self.rfile, Reader):
            return False
        missing: int = (body.content_length or 0) - body.position
        return missing > len(self.rfile.unread)

    def _is_last(self) -> bool:
        """Whether the connection ends with this answer although its client would go on."""
        return self._lacks_body()

    def finalize_headers(self) -> None:
        """Add Connection: close if needed, just before the headers are sent."""
        if not self.close_connection and self._is_last():
            self.close_connection = True
            headers: Any = self.response_headers
            headers[:] = [row for row in headers if row[0] != b"Connection"]  # HTTP/1.0 has keep-alive there
            headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def run_application(self) -> None:
        """Run the application, then handle an unread rest of the body."""
        try:
            super().run_application()
        finally:
            if self._lacks_body():
                self.cut_short = self.close_connection = True
                body: Any = self.wsgi_input
                body.content_length = body.position  # otherwise pywsgi reads and drops all of it

    def log_request(self) -> None:
        """Disabled: the application has its own request log."""

    def _write_with_headers(self, data: bytes) -> None:
        # Nagle's algorithm would delay the second of two writes, and they cost twice the system calls.
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
        except TimeoutError:  # the client does not read: not an error of the server
            raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from None
