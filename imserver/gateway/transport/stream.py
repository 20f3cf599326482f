"""Streams: HTTP connections on which the server sends, parked like WebSockets.

The response has no length and ends with its connection, which works with every
proxy and HTTP version. Except for its bytes, a stream is a connection like a
WebSocket: it has a session, an outbox with the same limits, and the same cost
while idle. Clients of event streams only receive. Clients of other dialects
send their commands in the request of the stream and in further requests.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Final

from msgspec import Struct

from imserver.gateway.errors import CloseCode
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import DialectState, Service
from imserver.gateway.protocol.dialect import Dialect
from imserver.gateway.transport.connection import (
    SMALL_RECEIVE_BYTES,
    Connection,
    ConnectionContext,
    Encoding,
    Serve,
)
from imserver.gateway.transport.gate import Gate, Head, host_of
from imserver.gateway.transport.http1 import pattern_of

log = logging.getLogger(__name__)

_LONGEST_SILENCE_SECONDS: Final = 86_400.0
_SECOND_MS: Final = 1000


class StreamEncoding(Encoding):
    """How the payloads of a stream are written.

    The dialect encodes each payload. The bytes ``before`` come before it, and
    the bytes ``behind`` after it. ``serve`` serves the commands that the client
    sends in requests, at most ``limit_bytes`` at once. If ``limit_bytes`` is 0,
    the client only receives.
    """

    __slots__ = ("_before", "_behind")

    def __init__(
        self,
        dialect: Dialect,
        serve: Serve = lambda _connection, _payload, _text: None,
        limit_bytes: int = 0,
        before: bytes = b"",
        behind: bytes = b"",
    ) -> None:
        """Set the bytes before and behind each payload. The class explains the
        arguments."""
        self._before = before
        self._behind = behind
        super().__init__(dialect, serve, limit_bytes, 0)

    def _make(self, dialect: Dialect) -> StreamEncoding:
        """Make the encoding that differs from this one only in its dialect."""
        return StreamEncoding(
            dialect, self.serve, self.limit_bytes, self._before, self._behind
        )

    def frame(self, payload: bytes, _opcode: int = 0) -> bytes:
        """Make the bytes of a payload in the stream."""
        if self._behind:
            return b"%b%b%b" % (self._before, payload, self._behind)
        return payload

    def close_frames(
        self, code: int, reason: str = "", as_given: bool = False
    ) -> bytes:
        """Make the last payload, which has one of our close codes.

        The code is translated into a code of the dialect, unless ``as_given``
        is set. Returns ``b""`` if the dialect has no such payload.
        """
        if not as_given:
            code, reason = self.translate_close(code, reason)
        payload = self.dialect.encode_close(code, reason)
        if payload is None:
            return b""
        return self.frame(payload)


class UnbegunStream(DialectState, kw_only=True):
    """The state of a stream before its response.

    ``refuse`` makes the HTTP response that refuses the request for a close
    code.
    """

    refuse: Callable[[int], bytes]


class Stream(Connection):
    """One event stream.

    Before :meth:`begin` its state is an :class:`UnbegunStream`, and closing it
    refuses the request.
    """

    __slots__ = ()

    def begin(self, encoding: StreamEncoding, head: bytes) -> None:
        """Send the head of the response.

        From now on events are sent in ``encoding``, and the client is pinged.
        """
        self.dialect_state = None
        self.encoding = encoding
        # 0 means that this time is not used, because the node pings the client.
        self.last_seen = 0.0
        self.send_frame(head)

    def on_readable(self) -> None:
        """Drop data from the client, and notice the end of the connection."""
        try:
            data = self.sock.recv(SMALL_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.lost()

    def ping(self) -> None:
        """Send a ping, so that proxies keep the stream open.

        Clients that send requests have to answer it.
        """
        dialect = self.encoding.dialect
        if self.encoding.limit_bytes:  # a client that sends requests
            super().ping()
            return
        if dialect.ping:
            self.send_frame(self.encoding.ping_frame)
            return
        payload = dialect.encode_ping(self.dialect_state)
        if payload:
            self.send(payload)

    def refuse(self, response: bytes, code: int) -> None:
        """Answer the request with a whole response instead of a stream.

        ``code`` is for the counters.
        """
        if self.is_open:
            self.dialect_state = None
            self._end(code)
            self.send_frame(response)

    def _last_frames(
        self, code: int, reason: str = "", as_given: bool = False
    ) -> bytes:
        """Make the last payload of the stream.

        If the stream has not begun, it is the whole response that refuses its
        request.
        """
        state = self.dialect_state
        if not isinstance(state, UnbegunStream):
            return self.encoding.close_frames(code, reason, as_given)
        self.dialect_state = None
        return state.refuse(code)


class StreamPath(Struct, frozen=True):
    """A path of streams.

    ``method`` is the method of its requests. ``open`` begins or closes a
    stream, and may switch greenlets. ``refuse(request, address of the client,
    close code)`` makes the response that refuses a request.
    """

    method: str
    open: Callable[[Stream, Head], None]
    refuse: Callable[[Head, str, int], bytes]


class Streams(Service):
    """Takes over the sockets of requests for streams, from both servers.

    ``paths`` is path, or its pattern (:func:`pattern_of`) → its row.
    ``silent_seconds`` is how long sent data may stay unacknowledged by TCP. The
    acknowledgement is the only sign of life of a client that only receives.
    """

    context: ConnectionContext
    gate: Gate
    metrics: Metrics
    paths: Mapping[str, StreamPath]
    silent_seconds: float
    waiting: StreamEncoding
    """The encoding of streams that have not begun."""

    def serves(self, method: str, path: str) -> bool:
        """Tell whether a request is for a stream."""
        row = self._row(path)
        return row is not None and row.method == method

    def _row(self, path: str) -> StreamPath | None:
        """Find the row of a path; None if it is no path of streams."""
        return self.paths.get(path) or self.paths.get(pattern_of(path))

    def _limit_silence(self, sock: _socket.socket) -> None:
        """Let Linux end a connection whose peer acknowledges nothing.

        It ends after ``silent_seconds``.
        """
        option = getattr(_socket, "TCP_USER_TIMEOUT", None)
        if option is None or sock.family == getattr(_socket, "AF_UNIX", None):
            return
        seconds = min(self.silent_seconds, _LONGEST_SILENCE_SECONDS)
        sock.setsockopt(_socket.IPPROTO_TCP, option, int(seconds * _SECOND_MS))

    def adopt(self, sock: _socket.socket, head: Head, before: bytes = b"") -> None:
        """Make a stream of the socket of a request, and open or refuse it.

        ``before`` are bytes to write first: earlier answers. May switch
        greenlets.
        """
        context = self.context
        dialect = self.waiting.dialect
        peer, origin, close_code = self.gate.check_client(head, dialect)
        stream = Stream(context, sock, peer, self.waiting, monotonic())
        # Until its head is sent, the stream is not pinged, but has a time limit
        # from now on.
        stream.last_seen = monotonic()
        stream.origin = origin
        row = self._row(head.path)
        assert row is not None, "the server has asked serves()"
        refuse = partial(row.refuse, head, host_of(peer))
        stream.dialect_state = UnbegunStream(refuse=refuse)

        self.gate.entered(peer)
        context.poller.take(stream)
        if before:
            stream.send_frame(before)
        if close_code:
            stream.close(close_code)
            return
        # With any other value, a page embeds the address, for example as a
        # picture. Six such streams would take all connections of a browser to
        # this server.
        if head.headers.get("sec-fetch-dest", "empty") not in ("empty", "document"):
            stream.close(CloseCode.NOT_ALLOWED)
            return

        self._limit_silence(sock)
        self.metrics.streams += 1
        # No reader may serve the stream meanwhile.
        stream.reading = True
        try:
            row.open(stream, head)
        except Exception:
            log.exception("opening a stream failed", extra={"connection": stream.peer})
            stream.close(CloseCode.INTERNAL_ERROR)
        finally:
            context.poller.release(stream)
