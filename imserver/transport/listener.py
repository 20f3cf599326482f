"""Listening sockets: bound once, accepted from by a reader, paused when files run out."""

from __future__ import annotations

import _socket
import errno
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

from imserver.errors import StartError
from imserver.metrics import Metrics
from imserver.transport.poller import Parked, Poller

log = logging.getLogger(__name__)

_ACCEPTS_PER_TURN = 64
_PAUSE_SECONDS = 0.5
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_INHERITED = sys.platform == "linux"
"""Linux hands a listener's TCP_NODELAY and non-blocking accepts on; elsewhere each socket is told."""


def bind(host: str, port: int, backlog: int, reuse_port: bool) -> socket.socket:
    """A listening non-blocking TCP socket. Port 0 takes any free one.

    Raises :class:`StartError` with one clear line if the address cannot be had.
    """
    try:
        # The plain call: at the start it may block, and a patched one would start a thread for it.
        family, kind, proto, _, address = _socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise StartError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise StartError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    sock.setblocking(False)
    return sock


def text_of(address: Any) -> str:
    """``"host:port"`` of a socket address, IPv6 hosts in brackets."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Reserve:
    """One spare file, given up for a moment when files run out so that a client can be told.

    It is a raw socket: closing that takes effect at once, which a patched ``os.close`` does not promise.
    """

    def __init__(self) -> None:
        self._spare: _socket.socket | None = _socket.socket()

    def turn_away(self, listening: _socket.socket) -> None:
        """Accept one connection with the spare file, answer 503 and close it."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        try:
            fd, _ = listening._accept()  # type: ignore[attr-defined]
            sock = _socket.socket(listening.family, _socket.SOCK_STREAM, 0, fd)
            try:
                sock.setblocking(False)
                sock.send(_FULL)
            finally:
                sock.close()
        except OSError as exc:
            log.debug("nobody to turn away: %s", exc)
        try:
            self._spare = _socket.socket()
        except OSError as exc:
            log.debug("the spare file is gone until the next time: %s", exc)

    def close(self) -> None:
        """Give the file back."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None


class Listener(Parked):
    """A parked listening socket; ``accepted`` gets each new non-blocking socket and its peer's address."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        loop: Any,
        metrics: Metrics,
        accepted: Callable[[_socket.socket, Any], None],
    ) -> None:
        self.port: int = sock.getsockname()[1]
        self.address = text_of(sock.getsockname())
        self._family = sock.family
        super().__init__(_socket.socket(sock.family, sock.type, sock.proto, sock.detach()))
        self._poller = poller
        self._metrics = metrics
        self._accepted = accepted
        self._reserve = Reserve()
        # A repeating timer: one that has fired would fire at once when it is started again.
        self._pause = loop.timer(0.0, _PAUSE_SECONDS)
        poller.add(self)

    def on_readable(self) -> None:
        """Accept what waits, a bounded number at a time."""
        if self.sock.fileno() < 0:
            return
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                fd, address = self.sock._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno not in _NO_FILES:
                    raise
                self._out_of_files(exc)
                return
            sock = _socket.socket(self._family, _socket.SOCK_STREAM, 0, fd)
            sock.setblocking(False)
            if not _INHERITED:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._metrics.accepted += 1
            self._accepted(sock, address)

    def on_writable(self) -> None:
        """Never asked for."""

    def lost(self) -> None:
        """Accepting raised something unforeseen: it is in the log; try again after a pause."""
        self._poller.pause(self, True)
        self._pause.again(self._resume)

    def close(self) -> None:
        """Accept what waits in the queue, then listen no more."""
        self._pause.stop()
        if self.sock.fileno() >= 0:
            self._poller.remove(self)
            accepted = -1
            while accepted != self._metrics.accepted:
                accepted = self._metrics.accepted
                self.on_readable()
            self.sock.close()
            self._reserve.close()

    def _out_of_files(self, exc: OSError) -> None:
        if self._metrics.files_exhausted == 0:
            log.error("no files left to accept connections with (%s); see limits.max_connections", exc)
        self._metrics.files_exhausted += 1
        self._reserve.turn_away(self.sock)
        self.lost()

    def _resume(self) -> None:
        self._pause.stop()
        if self.sock.fileno() >= 0:
            self._poller.pause(self, False)
