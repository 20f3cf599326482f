"""Event streams: connections by HTTP that only receive, parked like a WebSocket.

The answer to the request has no length and ends with its connection, so no proxy and no version of HTTP
stands in its way. In all but its bytes a stream is a connection as a WebSocket is: it has a session and an
outbox with the same bounds, and costs the same while it is idle.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final

from imserver import errors
from imserver.metrics import Metrics
from imserver.model import DialectState
from imserver.protocol import sse
from imserver.protocol.sse import SseDialect
from imserver.transport.connection import OPEN, Connection, ConnectionContext, Encoding
from imserver.transport.gate import Gate, Head, host_of
from imserver.transport.outbox import Backlog

if TYPE_CHECKING:
    from imserver.protocol.dialect import Dialect

log = logging.getLogger(__name__)

_RECEIVE_BYTES: Final = 4096
_LONGEST_SECONDS: Final = 86400.0

Refuse = Callable[[int], bytes]
"""A close code → the whole HTTP response that says so."""


class StreamEncoding(Encoding):
    """Events leave as their dialect writes them: nothing is framed, nothing is read."""

    __slots__ = ()

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect, _ignore, 0, 0)

    def frame(self, payload: bytes, _opcode: int = 0) -> bytes:
        """The payload as it is."""
        return payload


def _ignore(_connection: Connection, _payload: bytes, _text: bool) -> None:
    """Nothing is served."""


class UnbegunStream(DialectState, kw_only=True):
    """State of a stream that was not answered yet: makes an HTTP response of a close code."""

    refuse: Refuse


class Stream(Connection):
    """One event stream. Until :meth:`begin` its state is an :class:`UnbegunStream`."""

    __slots__ = ()

    def begin(self, encoding: StreamEncoding, head: bytes) -> None:
        """Answer the request: what is sent from now on are events in ``encoding``."""
        self.dialect_state = None
        self.encoding = encoding
        self.send_frame(head)

    def on_readable(self) -> None:
        """Drop whatever the client sends; notice that it has gone."""
        try:
            data = self.sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.lost()

    def ping(self) -> None:
        """Keep proxies from taking the stream for dead. There is no answer to wait for."""
        self.send_frame(sse.COMMENT)

    def close(self, code: int, reason: str = "") -> None:
        """End the stream: what is in the outbox still leaves first, then the reason.

        Before :meth:`begin` the request is refused.
        """
        if self.state == OPEN:
            last = self._last(code, reason)
            self._end(code)
            self.send_frame(last)

    def refuse(self, response: bytes, code: int) -> None:
        """Answer the request with a whole response instead of a stream; ``code`` is for the counters."""
        if self.state == OPEN:
            self.dialect_state = None
            self._end(code)
            self.send_frame(response)

    def abandon(self, code: int) -> None:
        """Drop what waits and end the stream. The peer has ``websocket.close_seconds`` to read why."""
        backlog = self.outbox
        if self.state == OPEN and type(backlog) is Backlog:
            last = self._last(code, errors.CLOSE[code].name)
            self._end(code)
            backlog.cut(last)
            self.context.flusher.budget.set(self, self.held_bytes())
        else:
            self._kill(code)

    def _last(self, code: int, reason: str) -> bytes:
        state = self.dialect_state
        if not isinstance(state, UnbegunStream):
            return sse.end(code, reason)
        self.dialect_state = None
        return state.refuse(code)


Open = Callable[[Stream, Head], None]
"""Begins a stream or closes it; may switch to other greenlets."""


class Streams:
    """Takes over the sockets of requests for streams, from both servers.

    ``paths`` maps a path to what opens a stream there, ``refuse`` makes a response of (request, close code).
    ``silent_seconds``: how long the peer's kernel may leave what was sent unacknowledged, for a stream has no
    other sign of life.
    """

    def __init__(
        self,
        context: ConnectionContext,
        gate: Gate,
        metrics: Metrics,
        paths: Mapping[str, Open],
        refuse: Callable[[Head, int], bytes],
        silent_seconds: float,
    ) -> None:
        self._context = context
        self._gate = gate
        self._metrics = metrics
        self.paths = paths
        self._refuse = refuse
        self._silent_milliseconds = int(min(silent_seconds, _LONGEST_SECONDS) * 1000)
        self._waiting = StreamEncoding(SseDialect(""))
        """Of streams that have not begun."""

    def serves(self, method: str, path: str) -> bool:
        """Whether a request is for a stream."""
        return path in self.paths and method == "GET"

    def adopt(self, sock: _socket.socket, head: Head, before: bytes = b"") -> None:
        """Make a stream of the non-blocking socket of a request; ``before`` is still to be written to it.

        May switch to other greenlets.
        """
        context = self._context
        dialect = self._waiting.dialect
        guest = self._gate.look_at(head, dialect)
        stream = Stream(context, sock, guest.peer, self._waiting, monotonic())
        stream.origin = guest.origin
        stream.dialect_state = UnbegunStream(refuse=lambda code: self._refuse(head, code))
        self._gate.entered(host_of(guest.peer))
        context.poller.take(stream)
        if before:
            stream.send_frame(before)
        if guest.close_code:
            stream.close(guest.close_code)
            return
        _notice_silence(sock, self._silent_milliseconds)
        self._metrics.streams += 1
        stream.reading = True
        try:
            self.paths[head.path](stream, head)
        except Exception:
            log.exception("opening a stream failed", extra={"connection": stream.peer})
            stream.close(errors.CLOSE_INTERNAL_ERROR, errors.CLOSE[errors.CLOSE_INTERNAL_ERROR].name)
        finally:
            stream.reading = False
            if stream.masked:
                context.poller.unmask(stream)


def _notice_silence(sock: _socket.socket, milliseconds: int) -> None:
    """Have the kernel end a connection whose peer has silently gone, where it can (Linux)."""
    option = getattr(_socket, "TCP_USER_TIMEOUT", None)
    if option is not None and sock.family != getattr(_socket, "AF_UNIX", None):
        sock.setsockopt(_socket.IPPROTO_TCP, option, milliseconds)
