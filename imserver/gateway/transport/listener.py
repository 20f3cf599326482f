"""Listening sockets: bound once, accepted from by a reader, paused when files
run out."""

import _socket
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Final

from imserver.gateway.errors import StartError
from imserver.gateway.metrics import Metrics
from imserver.gateway.process import cannot_listen
from imserver.gateway.transport.poller import Parked, Poller

log = logging.getLogger(__name__)

_ACCEPTED_PER_TURN: Final = 64
"""How many connections a listener accepts before others are served."""
_OCTAL: Final = 8
LOCAL_PEER: Final = ("127.0.0.1", 0)
"""The address that stands for every peer of a Unix socket. Such a peer has no
address, and is a program of this machine."""


def bind(host: str, port: int, backlog: int, reuse_port: bool) -> socket.socket:
    """Make a TCP socket that listens.

    Port 0 takes any free port. ``backlog`` is how many connections may wait in
    the queue of the socket. With ``reuse_port``, other processes may listen at
    the same port.
    Raises :class:`StartError`.
    """
    try:
        raw = bind_raw(host, port, reuse_port)
        raw.listen(backlog)
    except OSError as exc:
        raise cannot_listen(host, port, exc) from exc
    return wrapped(raw)


def wrapped(raw: _socket.socket) -> socket.socket:
    """Convert a socket to a socket of gevent.

    Without gevent, the result is a socket of the standard library.
    """
    sock = socket.socket(raw.family, raw.type, raw.proto, raw.detach())
    sock.setblocking(False)
    return sock


def bind_raw(host: str, port: int, reuse_port: bool) -> _socket.socket:
    """Make a bound TCP socket that does not listen yet. Raises OSError.

    The socket and the look-up of the name are without gevent. The look-up may
    block, which does not matter at the start. With gevent, the look-up would
    start a thread and a loop. The supervisor must not have them.
    """
    # If the name were a text, Python would load `encodings.idna`, which takes
    # 0.3 MB. Bytes are used unchanged.
    name = host.encode() if host.isascii() else host
    family, kind, proto, _, address = _socket.getaddrinfo(
        name, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_PASSIVE
    )[0]
    sock = _socket.socket(family, kind, proto)
    try:
        _set_options(sock, reuse_port)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _set_options(sock: _socket.socket, reuse_port: bool) -> None:
    """Set the options of a TCP socket that will listen.

    With ``reuse_port``, other processes may listen on its port, too.
    """
    # A server that starts again must not wait until old connections are
    # forgotten.
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    if reuse_port:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)


def bind_unix(path: str, mode: str, backlog: int) -> _socket.socket:
    """Make a Unix socket that listens, without gevent.

    If an ended server has left a socket at this path, the new socket replaces
    it. ``mode`` are the permissions of the socket in octal, such as ``660``.
    Raises :class:`StartError`.
    """
    refuse_taken(path)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        sock.bind(path)
        # This comes before listen(), so that nobody can connect with other
        # permissions.
        os.chmod(path, int(mode, _OCTAL))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _no_unix(path, error.strerror) from None
    sock.setblocking(False)
    return sock


def refuse_taken(path: str) -> None:
    """Raise :class:`StartError` if the path of a Unix socket is taken.

    The path is taken if another server listens there, or if the file at the
    path is no socket.
    """
    with closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise _no_unix(path, "the file is no socket")
            probe.connect(path)
        except BlockingIOError:
            pass  # a server listens, and its queue is full
        except (FileNotFoundError, ConnectionRefusedError):
            return  # nobody listens
        except OSError as error:
            raise _no_unix(path, error.strerror) from None
    raise _no_unix(path, "another process listens there")


def _no_unix(path: str, reason: str | None) -> StartError:
    """Make the error about a Unix socket."""
    return StartError(f"cannot listen on {path}: {reason}")


def port_of(sock: Any) -> int:
    """Return the port of a listening socket, or 0 for a Unix socket."""
    if sock.family == _socket.AF_UNIX:
        return 0
    return int(sock.getsockname()[1])


def text_of(address: Any) -> str:
    """Format a socket address as ``host:port`` or ``unix:path``.

    IPv6 hosts are in brackets.
    """
    if isinstance(address, str):
        return f"unix:{address}"
    host, port, *_ = address
    if ":" in host:
        return f"[{host}]:{port}"
    return f"{host}:{port}"


class Reserve:
    """A spare file descriptor, for a process that has no free descriptor.

    With the spare descriptor, a listener can still accept a connection and
    answer 503. The descriptor belongs to a socket without gevent, because
    ``os.close`` of gevent might not close it at once.
    """

    def __init__(self) -> None:
        """Open the spare descriptor."""
        self._spare: _socket.socket | None = _socket.socket()

    def turn_away(self, listening: _socket.socket) -> None:
        """Accept one connection, answer 503 and close it.

        The method uses the spare descriptor, and then opens another one.
        """
        self.close()  # now one descriptor is free
        try:
            fd, _ = listening._accept()  # type: ignore[attr-defined]
            sock = _socket.socket(listening.family, _socket.SOCK_STREAM, 0, fd)
            with closing(sock):
                sock.setblocking(False)
                sock.send(
                    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
        except OSError as exc:
            log.debug("no connection to refuse: %s", exc)

        try:
            self._spare = _socket.socket()
        except OSError as exc:
            log.debug("the spare file descriptor could not be reopened: %s", exc)

    def close(self) -> None:
        """Release the descriptor."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None


_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""The errors of ``accept`` that mean that descriptors or memory ran out."""


class Listener(Parked):
    """A parked socket that listens.

    ``accepted`` gets each new non-blocking socket and its peer's address.
    """

    PAUSE_SECONDS = 0.5
    """How long the listener accepts nothing after an error."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        loop: Any,
        metrics: Metrics,
        accepted: Callable[[_socket.socket, Any], None],
    ) -> None:
        """Begin to accept connections from a socket that listens.

        The file descriptor moves to a plain socket, which the poller watches.
        """
        self.port = port_of(sock)
        self.address = text_of(sock.getsockname())
        self._family = sock.family
        super().__init__(
            _socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        )
        self._poller = poller
        self._metrics = metrics
        self._accepted = accepted
        self._reserve = Reserve()
        # The timer repeats, because a one-shot timer that has fired would fire
        # at once when it is restarted.
        self._pause = loop.timer(0.0, self.PAUSE_SECONDS)
        poller.add(self)

    def on_readable(self) -> None:
        """Accept the connections that wait, up to a limit per turn.

        Because of the limit, a flood of connections does not stop other work.
        If the process has no file descriptor left, one client gets 503, and the
        listener pauses.
        """
        if self.sock.fileno() < 0:  # the socket is closed
            return
        for _ in range(_ACCEPTED_PER_TURN):
            try:
                fd, address = self.sock._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno not in _EXHAUSTED:
                    raise
                self._refuse_one(exc)
                return

            sock = _socket.socket(self._family, _socket.SOCK_STREAM, 0, fd)
            sock.setblocking(False)
            # Linux passes TCP_NODELAY of a listener to its connections.
            if sys.platform != "linux" and self._family != _socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._metrics.accepted += 1
            self._accepted(sock, address or LOCAL_PEER)

    def _refuse_one(self, exc: OSError) -> None:
        """Refuse one connection and pause, because no file descriptors are
        left."""
        # The first time is logged. Later ones are only counted.
        if self._metrics.files_exhausted == 0:
            text = "no file descriptors left to accept connections (%s); see limits.max_connections"
            log.error(text, exc)
        self._metrics.files_exhausted += 1
        self._reserve.turn_away(self.sock)
        self.lost()

    def on_writable(self) -> None:
        """Do nothing: a listener never waits to write."""

    def lost(self) -> None:
        """Accept nothing for a while, after an unexpected error that was
        logged."""
        self._poller.pause(self, paused=True)
        self._pause.again(self._resume)

    def close(self) -> None:
        """Stop listening, after the connections that wait in the queue were
        accepted.

        Their clients have connected already, and would get an error otherwise.
        """
        self._pause.stop()
        if self.sock.fileno() < 0:
            return
        self._poller.remove(self)
        # Each call accepts a limited number. The queue is empty when a call has
        # accepted nothing.
        accepted = -1
        while accepted != self._metrics.accepted:
            accepted = self._metrics.accepted
            self.on_readable()
        self.sock.close()
        self._reserve.close()

    def _resume(self) -> None:
        """Callback of the timer: accept connections again after a pause."""
        self._pause.stop()
        if self.sock.fileno() >= 0:
            self._poller.pause(self, paused=False)
