"""The peer of an HTTP connection of the front: what waits to be written to it, and how TCP with it ends."""

from __future__ import annotations

import _socket
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Any

from imserver import errors
from imserver.transport import problems
from imserver.transport.backlog import Backlog
from imserver.transport.body import Body
from imserver.transport.connection import CLOSED, CLOSING, DRAINING, OPEN
from imserver.transport.handover import LINGER_SECONDS
from imserver.transport.head import ParsedHead
from imserver.transport.poller import NO_SOCKET

if TYPE_CHECKING:
    from imserver.transport.front import Front


class HttpPeer(ABC):
    """Who speaks HTTP with us. Owner of its socket, its outbox, and the bytes of an unfinished request.

    What it asks is for a subclass to read and to have answered.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_front",
        "_parsed",
        "address",
        "deadline",
        "fd",
        "fresh",
        "interest",
        "masked",
        "outbox",
        "reading",
        "sock",
        "state",
    )

    def __init__(self, front: Front, sock: _socket.socket, address: Any) -> None:
        self._front = front
        self.sock = sock
        self.fd = sock.fileno()
        self.address = address
        self.reading = False
        self.masked = False
        self.interest = 0
        self.fresh = True
        """No request has come yet."""
        self._buffer = b""
        self._body: Body | None = None
        self._parsed: ParsedHead | None = None
        self.outbox: list[bytes] | Backlog | None = None
        self.state = OPEN
        self.deadline = monotonic() + front.handshake_seconds

    @property
    def peer(self) -> str:
        """Address of the peer, for the log."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def unfinished(self) -> bool:
        """True while a request, its answer, or the first request of all is on its way."""
        return self.state < DRAINING and bool(
            self.reading  # it may wait for other nodes
            or self.fresh
            or self._buffer
            or self._body is not None
            or self.outbox is not None
        )

    @abstractmethod
    def on_readable(self) -> None:
        """The socket has something to read, or its peer has gone."""

    @abstractmethod
    def look_once_more(self) -> None:
        """The server drains: serve what the kernel holds; then end a connection that only waits."""

    # --- being written to -----------------------------------------------------------------------------------

    def on_writable(self) -> None:
        """The kernel takes bytes again."""
        self._front.carrier.flusher.resume(self)

    def watch_writable(self, wanted: bool) -> None:
        """Have :meth:`on_writable` called when the kernel takes bytes, or no more."""
        self._front.carrier.poller.watch_writable(self, wanted)

    @property
    def outbox_bytes(self) -> int:
        """Bound of this connection's outbox; 0: the node's."""
        return 0

    def held_bytes(self) -> int:
        """Bytes of answers that wait for the peer to read, and of an unfinished request."""
        waiting = self.outbox.size if type(self.outbox) is Backlog else 0
        return waiting + len(self._buffer) + (0 if self._body is None else self._body.held_bytes)

    def flushed(self) -> None:
        """The last answer is written."""
        if self.state == CLOSING:
            self.finish()

    def abandon(self, _code: int) -> None:
        """The peer does not read its answers, or holds more than its share."""
        self.lost()

    def _answer(self, data: bytes, keep: bool) -> None:
        self._front.carrier.flusher.enqueue(self, data)
        if not keep:
            self.state = CLOSING

    def refuse(self, problem: errors.HttpProblem, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a problem body and end the connection."""
        self._front.metrics.http_refused += 1
        self._buffer, self._body = b"", None
        self.deadline = monotonic() + self._front.handshake_seconds
        self._answer(problems.response(problem, headers), False)

    # --- the end, or the socket's next owner ----------------------------------------------------------------

    def finish(self) -> None:
        """End TCP after the answer.

        Bytes of the peer that are still on their way must not destroy the answer by a reset: they are read
        and dropped until the peer ends its half or :data:`LINGER_SECONDS` have passed.
        """
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.lost()
            return
        self.state = DRAINING
        self._buffer, self._body = b"", None
        self.deadline = monotonic() + LINGER_SECONDS
        self._front.park(self)

    def expire(self) -> None:
        """It took too long: a silent connection is closed, an unfinished request is told so.

        While answers wait to be read, the bounds of an outbox hold instead.
        """
        if self.state == OPEN and self.outbox is not None:
            return
        if self.state == OPEN and (self._buffer or self._body is not None):
            self.refuse(errors.HTTP_TIMEOUT)
        else:
            self.lost()

    def lost(self) -> None:
        """End TCP now."""
        self.state = CLOSED
        self._leave()
        if self.outbox is not None:
            self.outbox = None
        self._front.carrier.flusher.forget(self)
        self.sock.close()

    def _leave(self) -> None:
        self._buffer = b""
        self._front.parked.discard(self)
        self._front.carrier.poller.remove(self)

    def take_outbox(self) -> bytes:
        """Answers that are not written yet, for whoever takes the socket over."""
        outbox, self.outbox = self.outbox, None
        if isinstance(outbox, Backlog):
            return outbox.take()
        return b"".join(outbox) if outbox else b""

    def _give_socket(self) -> _socket.socket:
        """The socket, for whoever takes it over: it is none of ours any more."""
        self._front.parked.discard(self)
        sock, self.sock = self.sock, NO_SOCKET
        return sock
