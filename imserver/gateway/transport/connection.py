"""A parked WebSocket connection: one object with slots and its socket, without
a greenlet while idle.

The read path is one written-out function: a small whole masked frame, as nearly
every client frame is, creates no object except the payload. All other frames go
through ``frames.MessageParser``.
"""

from __future__ import annotations

import _socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
from websockets.speedups import apply_mask

from imserver.gateway import errors
from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.model import DialectState, LogSubscription
from imserver.gateway.transport import frames
from imserver.gateway.transport.frames import HEADS, Opcode
from imserver.gateway.transport.outbox import Backlog, Flusher, Writer
from imserver.gateway.transport.poller import Poller
from imserver.gateway.transport.states import (
    ADDRESSED,
    CLOSE,
    CLOSED,
    CLOSING,
    CONNECTED,
    CONNECTION_TRANSITIONS,
    END,
    FLUSH,
)

if TYPE_CHECKING:
    from imserver.gateway.protocol.dialect import Dialect
    from imserver.gateway.transport.parser import MessageParser

_last_data: Final = struct.Struct("=44xI4xI").unpack
"""``tcpi_last_data_sent`` and ``tcpi_last_data_recv`` of ``struct tcp_info``,
in milliseconds."""
_INFO_BYTES: Final = 56
_SECOND_MS: Final = 1000
FOREVER: Final = float("inf")


def quiet_seconds(sock: _socket.socket) -> float:
    """Return for how many seconds no data has passed over a connection.

    Returns :data:`FOREVER` if the kernel cannot tell, and 0 on a Unix socket,
    where the kernel never can tell. Such a connection counts as active, because
    the proxy at its other end has its own time limit.
    """
    if sock.family == _socket.AF_UNIX:
        return 0.0
    try:
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return FOREVER
    if len(info) < _INFO_BYTES:
        return FOREVER
    milliseconds: int = min(_last_data(info))
    return milliseconds / _SECOND_MS


def _drop_pong(_connection: Connection, _data: bytes) -> None:
    """Ignore a pong."""


_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_HEADS = {opcode: frames.heads(opcode) for opcode in (_TEXT, _BINARY)}

Serve = Callable[["Connection", bytes, bool], None]
"""Serves a whole message: (connection, payload, whether it is text). It may
block; the next message of the connection then waits."""


class Encoding:
    """How the frames of a connection are read and made.

    ``dialect`` is the dialect of the connection, and ``serve`` the function
    that serves its messages. ``limit_bytes`` is the size of the largest
    message. ``deflate_bits`` is the deflate window of the client; 0: messages
    are not compressed. Connections with equal properties share one instance, so
    a broadcast is encoded once per encoding.
    """

    __slots__ = (
        "_heads",
        "_variants",
        "deflate_bits",
        "dialect",
        "limit_bytes",
        "opcode",
        "outbox_bytes",
        "ping_frame",
        "serve",
    )

    def __init__(
        self,
        dialect: Dialect,
        serve: Serve,
        limit_bytes: int,
        deflate_bits: int,
        outbox_bytes: int = 0,
    ) -> None:
        """Prepare the parts that all frames share.

        The class explains the arguments. ``outbox_bytes`` is the limit of an
        outbox; 0: the limit of the node.
        """
        self.outbox_bytes = outbox_bytes
        """Limit of an outbox. 0 means the limit of the node."""
        self.dialect = dialect
        self.serve = serve
        self.deflate_bits = deflate_bits
        self.limit_bytes = limit_bytes
        self.opcode = _TEXT if dialect.text else _BINARY
        # The frames are text or binary frames, as the dialect says.
        self._heads = _HEADS[self.opcode]
        if dialect.ping:
            self.ping_frame = self.frame(dialect.ping)
        else:
            self.ping_frame = frames.encode(b"", Opcode.PING)
        """The frame with which the server pings a client."""
        self._variants: dict[Dialect, Encoding] = {dialect: self}
        """Dialect → the encoding that differs from this one only in its
        dialect. All these encodings share the table."""

    def with_dialect(self, dialect: Dialect) -> Encoding:
        """Return the encoding that differs from this one only in its dialect.

        A connection changes its dialect when it subscribes to a channel, for
        example. All connections with that dialect share one instance.
        """
        variant = self._variants.get(dialect)
        if variant is None:
            variant = self._make(dialect)
            self._variants[dialect] = variant
            variant._variants = self._variants
        return variant

    def _make(self, dialect: Dialect) -> Encoding:
        """Make the encoding that differs from this one only in its dialect."""
        return Encoding(
            dialect, self.serve, self.limit_bytes, self.deflate_bits, self.outbox_bytes
        )

    def frame(self, payload: bytes, opcode: int = 0) -> bytes:
        """Make the frame with a payload for a client of this encoding.

        ``opcode`` 0 stands for the opcode of its dialect: text or binary.
        """
        size = len(payload)
        # The heads of small frames are made in advance.
        if size < HEADS and not opcode and not self.deflate_bits:
            return self._heads[size] + payload
        opcode = opcode or self.opcode
        if self.deflate_bits:
            compressed = frames.deflate(payload, self.deflate_bits)
            return frames.encode(compressed, opcode, rsv1=True)
        return frames.encode(payload, opcode)

    def translate_close(self, code: int, reason: str) -> tuple[int, str]:
        """Translate one of our close codes into the code and reason of the
        dialect.

        If ``reason`` is empty, the result has the dialect's own text for the
        code, or otherwise the name of the code.
        """
        dialect = self.dialect
        name = errors.close_reason(code)
        reason = reason or name
        # If the reason is not the name of the code, it is about this case, so
        # it stays.
        if name and reason == name:
            reason = dialect.close_reasons.get(code, reason)
        return dialect.close_codes.get(code, code), reason

    def close_frames(
        self, code: int, reason: str = "", as_given: bool = False
    ) -> bytes:
        """Make the close frame for one of our close codes.

        The code and the reason are translated for the dialect, unless
        ``as_given`` is set. In some dialects a last message with the code comes
        before the close frame.
        """
        if not as_given:
            code, reason = self.translate_close(code, reason)
        last_message = self.dialect.encode_close(code, reason)
        close_frame = frames.encode_close(code, reason)
        if last_message is None:
            return close_frame
        return self.frame(last_message) + close_frame


class ConnectionContext:
    """The parts that all connections of a node share: poller, flusher,
    callbacks.

    ``ended(connection, close_code)`` is called once when a connection leaves
    service: it serves no messages any more. ``ponged(connection, data)`` is
    called for each pong with data. Neither function may block.
    """

    __slots__ = (
        "close_seconds",
        "closing",
        "connections",
        "ended",
        "flusher",
        "pinged",
        "poller",
        "ponged",
    )

    def __init__(
        self,
        poller: Poller,
        flusher: Flusher,
        ended: Callable[[Connection, int], None],
        close_seconds: float,
    ) -> None:
        """Begin without connections.

        ``ended`` is called with each connection that leaves service.
        ``close_seconds`` is the time that a client has to answer a close frame.
        """
        self.poller = poller
        self.flusher = flusher
        self.ended = ended
        self.close_seconds = close_seconds
        self.ponged: Callable[[Connection, bytes], object] = _drop_pong
        self.connections: set[Connection] = set()
        """All connections whose TCP has not ended."""
        self.pinged = 0
        """Number of connections that need pings (:attr:`Dialect.pinged`)."""
        self.closing: dict[Connection, float] = {}
        """Connections in a close handshake → monotonic time at which TCP is
        ended."""

    def expire(self) -> None:
        """End TCP of connections whose close handshake has timed out.

        It is called once per second.
        """
        now = monotonic()
        # lost() removes the connection from the mapping.
        for connection, deadline in tuple(self.closing.items()):
            if now > deadline:
                connection.lost()


RECEIVE_BYTES = 16384
"""Bytes per read while a large message arrives."""
SMALL_RECEIVE_BYTES = 4096
"""Bytes per read while no large message arrives. A flood of tiny frames must
not delay other connections."""
_LARGE_ANSWER_BYTES: Final = 4096
"""An answer above this size is written before the next of several commands."""
_SENT_LOOK_SECONDS: Final = 0.05
"""Time between two checks whether an outbox is empty."""


class Connection(Writer):
    """A WebSocket. It owns the socket, the outbox and the parser.

    The session fields belong to the hub. ``is_open`` says whether the
    connection is in service: whether its messages are served. ``peer`` is
    ``"address:port"`` of the client. ``last_seen`` is the monotonic time of the
    last sign of life, as the dialect defines it. If the node pings the client
    instead, ``last_seen`` is 0. ``pinged_at`` is the time of the first
    unanswered ping. If all pings are answered, ``pinged_at`` is 0. Any received
    data answers a ping. ``parser`` has an unfinished frame or message. It is
    None between messages.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "channels",
        "context",
        "device",
        "dialect_state",
        "encoding",
        "kind",
        "last_seen",
        "log_subscription",
        "number",
        "origin",
        "parser",
        "peer",
        "pinged_at",
        "session",
        "since",
        "user",
    )

    has_close_deadline = True

    def __init__(
        self,
        context: ConnectionContext,
        sock: _socket.socket,
        peer: str,
        encoding: Encoding,
        now: float,
    ) -> None:
        """Begin service. No session exists before the login.

        ``now`` is the monotonic time, which the caller has read already.
        """
        super().__init__(sock)
        self.context = context
        self.peer = peer
        self.encoding = encoding
        is_pinged = encoding.dialect.pinged
        # The constant saves one object per connection.
        self.last_seen = 0.0 if is_pinged else now
        self.state = CONNECTED
        self.outbox = None
        self.parser: MessageParser | frames.Rest | None = None
        self.pinged_at = 0.0
        self.app: str | None = None
        self.user: str | None = None
        self.device = ""
        self.kind = "session"
        """The kind of the principal that has logged in.
        :class:`imserver.gateway.auth.login.Logins` owns this value."""
        self.session: Any = None
        """The session in the registry of a cluster; None on a single node."""
        self.dialect_state: DialectState | None = None
        """The state that belongs to the service of the dialect."""
        self.log_subscription: LogSubscription | None = None
        """The state that belongs to the messenger."""
        self.channels: tuple[Any, ...] = ()
        """The channels of the connection, in the order of joining. Owned by
        :mod:`imserver.gateway.hub.hub`."""
        self.origin = ""
        """Host of the page that opened the connection. ``""`` means a page of
        this server, or no page."""
        self.since = 0
        """Unix second of the login. 0 means that no user is logged in."""
        self.number = 0
        """Number in the id of the connection; 0 if nobody has asked for its id.
        :class:`imserver.gateway.sessions.connection_ids.ConnectionTable` owns
        this value."""
        context.connections.add(self)
        context.pinged += is_pinged

    @property
    def is_addressed(self) -> bool:
        """Whether the connection has a session that receives messages to its
        user."""
        return self.state is ADDRESSED

    # --- reading (reader greenlets) -------------------------------------------

    def on_readable(self) -> None:
        """Read once, and serve the whole messages that have arrived.

        A reader calls it when the socket has data. It may switch greenlets if a
        command blocks.
        """
        # A parser expects much data, unless it is the rest of a small frame.
        try:
            if self.parser is None or type(self.parser) is frames.Rest:
                data = self.sock.recv(SMALL_RECEIVE_BYTES)
            else:
                data = self.sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.lost()
            return
        if not data:
            self.lost()
            return
        self.pinged_at = 0.0
        if self.state < CLOSING:
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """Serve bytes that were read from the client.

        Whole small frames, which are nearly all, are served here. May switch
        greenlets.
        """
        parser = self.parser
        if parser is not None:
            if type(parser) is not frames.Rest:
                self._parse(data)
                return
            # The parser has the beginning of a small frame. More bytes of the
            # frame have arrived now.
            data = parser.data + data
            self.parser = None
            self.context.flusher.budget.set(self, self.held_bytes())

        # Each frame of a client passes here, so its format (RFC 6455 section
        # 5.2) stays in numbers, which Python reads faster than names:
        #   byte 0       0x81 text, 0x82 binary: final, no reserved bits
        #   byte 1       128 (masked) + the length, or 126 before a long one
        #   bytes 2, 3   the long length, up to 65,535
        #   four bytes   the mask; then the payload
        size = len(data)
        start = 0
        serve = self.encoding.serve
        limit = self.encoding.limit_bytes
        while size - start >= 6:
            # If the length is negative, the frame is not masked. That is a
            # violation of the protocol.
            length = data[start + 1] - 128
            body = start + 6
            if length == 126 and size - start >= 8:
                length = data[start + 2] << 8 | data[start + 3]
                body = start + 8
            elif length > frames.SMALL_BYTES:
                break
            end = body + length
            head = data[start]
            if not 0x81 <= head <= 0x82 or length < 0 or end > size or length > limit:
                break

            payload = apply_mask(data[body:end], data[body - 4 : body])
            text = head == 0x81
            # Text that is not UTF-8 ends the connection (RFC 6455 section 8.1).
            if text and not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    self.close(errors.CloseCode.BAD_PAYLOAD, "invalid UTF-8")
                    return

            serve(self, payload, text)
            start = end
            # Serving the message may have closed the connection.
            if self.state >= CLOSING or (start < size and not self.may_continue()):
                return

        if start < size:
            if start:
                data = data[start:]
            self._feed_rest(data)

    def _feed_rest(self, data: bytes) -> None:
        """Handle data that does not begin with a whole small message.

        The data are a control frame, a part of a frame, or a large frame.
        """
        if frames.is_control(data):
            # Most control frames are pongs without data. They need no action.
            if len(data) > frames.EMPTY_BYTES or data[0] != frames.FINAL_PONG:
                mask = data[frames.HEAD_BYTES : frames.EMPTY_BYTES]
                payload = apply_mask(data[frames.EMPTY_BYTES :], mask)
                try:
                    self._serve_frame(data[0] & frames.OPCODE_BITS, payload)
                except frames.Violation as violation:
                    self.close(violation.code, violation.reason)
            return

        encoding = self.encoding
        if frames.begins_small(data, encoding.limit_bytes):
            # The beginning of the frame is kept unparsed until the next read,
            # which nearly always completes the frame.
            self.parser = frames.Rest(data)
            self._count_bytes()
            return

        # Imported here because the module takes 1.5 MB, and few nodes need it.
        from imserver.gateway.transport.parser import MessageParser

        self.parser = MessageParser(encoding.limit_bytes, bool(encoding.deflate_bits))
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Serve the messages that the parser finds in ``data``.

        The parser stays only while a frame or a message is unfinished.
        """
        parser = self.parser
        assert parser is not None
        assert not isinstance(parser, frames.Rest)
        try:
            # The bytes may complete several messages.
            for message in parser.feed(data):
                self._serve_frame(*message)
                if self.state >= CLOSING or not (parser.between or self.may_continue()):
                    break
        except frames.Violation as violation:
            self.close(violation.code, violation.reason)
        if self.state >= CLOSING or parser.idle:
            self.parser = None
            parser.close()
        if self.parser is not None or self in self.context.flusher.budget.sizes:
            self._count_bytes()

    def wait_until_sent(self) -> None:
        """Wait until the outbox is empty or the connection has ended.

        A caller that sends large pages waits before each page. So the outbox
        never has two large pages. Switches greenlets.
        """
        while self.outbox is not None and self.is_open:
            gevent.sleep(_SENT_LOOK_SECONDS)

    def may_continue(self) -> bool:
        """Tell whether the next of several commands that came together may be
        served.

        If this turn of the loop is long, others are served first. The outbox is
        written first if the last answer in it is large, or if the client does
        not read. So the limit of the outbox is checked before the outbox grows.
        May switch greenlets.
        """
        outbox = self.outbox
        needs_writing = outbox is not None and (
            isinstance(outbox, Backlog) or len(outbox[-1]) > _LARGE_ANSWER_BYTES
        )
        if needs_writing or is_long_turn():
            serve_others()
        # The connection may have ended while others were served.
        return self.state < CLOSING

    def _count_bytes(self) -> None:
        """Count the bytes of unfinished frames against the node's budget.

        If the budget is exceeded, the flusher ends the connections with the
        most bytes.
        """
        budget = self.context.flusher.budget
        budget.set(self, self.held_bytes())
        if budget.total > budget.limit:
            self.context.flusher.schedule()

    def _serve_frame(self, opcode: int, data: bytes) -> None:
        """Serve a whole message or a control frame with this payload.

        Raises :class:`frames.Violation`.
        """
        if opcode <= Opcode.BINARY:
            self.encoding.serve(self, data, opcode == _TEXT)
        elif opcode == Opcode.CLOSE:
            code = frames.read_close(data)
            self._end(code)
            # The client gets its own code back (RFC 6455 section 5.5.1).
            self.send_frame(frames.encode_close(code))
        elif opcode == Opcode.PING:
            self.send_frame(frames.encode(data, Opcode.PONG))
        elif opcode == Opcode.PONG and data:
            self.context.ponged(self, data)

    # --- writing --------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Queue one message in this connection's encoding."""
        if self.state < CLOSING:
            self.context.flusher.enqueue(self, self.encoding.frame(payload))

    def send_frame(self, frame: bytes) -> None:
        """Queue one encoded frame, also while the connection closes."""
        self.context.flusher.enqueue(self, frame)

    def ping(self) -> None:
        """Send a ping. Any received data answers it."""
        if not self.pinged_at:
            self.pinged_at = monotonic()
        self.send_frame(self.encoding.ping_frame)

    def probe(self, data: bytes) -> None:
        """Send a ping with at most 125 bytes of data.

        The client repeats the data in its pong, which
        :attr:`ConnectionContext.ponged` gets.
        """
        if self.is_open:
            self.send_frame(frames.encode(data, Opcode.PING))

    def on_writable(self) -> None:
        """Continue writing, because the socket accepts bytes again."""
        self.context.flusher.resume(self)

    @property
    def outbox_bytes(self) -> int:
        """The limit of this connection's outbox in bytes. 0 means the limit of
        the node."""
        return self.encoding.outbox_bytes

    def held_bytes(self) -> int:
        """Return the bytes in the backlog and in an unfinished frame.

        A *backlog* is an outbox that the kernel has not accepted, because the
        client reads slowly.
        """
        size = 0
        if type(self.outbox) is Backlog:
            size += self.outbox.size
        if self.parser is not None:
            size += self.parser.held_bytes
        return size

    # --- closing --------------------------------------------------------------

    def close(self, code: int, reason: str = "", as_given: bool = False) -> None:
        """Start the close handshake (RFC 6455 section 7). The outbox is written
        first.

        If ``reason`` is empty, the reason is the name of the code in
        ``errors.CLOSE``. Clients of a foreign protocol receive the code of that
        protocol (:attr:`Dialect.close_codes`). With ``as_given``, ``code`` is
        already a code of that protocol. TCP ends when the peer ends it, or
        after ``websocket.close_seconds``.
        """
        if self.is_open:
            last_frames = self._last_frames(code, reason, as_given)
            self._end(code)
            self.send_frame(last_frames)

    def _last_frames(
        self, code: int, reason: str = "", as_given: bool = False
    ) -> bytes:
        """Make the bytes that end the connection for its client."""
        return self.encoding.close_frames(code, reason, as_given)

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection, because a back end of its app has requested it.

        If the dialect passes on the codes of back ends, the client gets this
        code and reason. Otherwise the client gets our code 4502.
        """
        if self.encoding.dialect.close_codes_of_back_ends:
            self.close(code, reason or errors.DISCONNECTED, as_given=True)
        else:
            self.close(errors.CloseCode.KICKED)

    def _end(self, code: int) -> None:
        """Leave service: no further messages are received or sent.

        The time limit of the close handshake begins. ``code`` is for the log
        and the counters.
        """
        self.state = CONNECTION_TRANSITIONS[self.state][CLOSE]
        self.context.closing[self] = monotonic() + self.context.close_seconds
        self.context.ended(self, code)

    def flushed(self) -> None:
        """Note that everything is written.

        If the close frame is written, our half of TCP ends, and the peer has to
        end its half. Ending TCP at once could send a reset that destroys the
        close frame.
        """
        if self.state is CLOSING:
            self.state = CONNECTION_TRANSITIONS[self.state][FLUSH]
            try:
                self.sock.shutdown(_socket.SHUT_WR)
            except OSError:
                self.lost()

    def abandon(self, code: int) -> None:
        """Drop the outbox and close, because the client does not read.

        The client has ``websocket.close_seconds`` to read the close code. A
        connection that is closing already, or that has no backlog, ends at
        once.
        """
        backlog = self.outbox
        if self.is_open and type(backlog) is Backlog:
            last_frames = self._last_frames(code)
            self._end(code)
            # If a part of a frame is written, the rest of the frame must
            # follow. Otherwise the client would read the close frame as that
            # rest.
            backlog.cut(last_frames)
            self.context.flusher.budget.set(self, self.held_bytes())
        else:
            self._kill(code)

    def _kill(self, code: int) -> None:
        """End TCP now, and forget the connection.

        If the connection was in service, ``code`` is for the log and the
        counters.
        """
        if self.state is CLOSED:
            return
        was_open = self.is_open
        self.state = CONNECTION_TRANSITIONS[self.state][END]

        context = self.context
        context.connections.discard(self)
        context.pinged -= self.encoding.dialect.pinged
        context.closing.pop(self, None)
        context.poller.remove(self)
        if type(self.outbox) is Backlog or self.parser is not None:
            context.flusher.forget(self)

        # The fields are cleared first: nothing may use them while the parser
        # closes.
        parser = self.parser
        self.outbox = None
        self.parser = None
        if parser is not None:
            parser.close()
        self.sock.close()
        if was_open:
            context.ended(self, code)

    def lost(self) -> None:
        """End the connection, because the peer or an error has ended TCP."""
        self._kill(errors.CloseCode.LOST)


def app_and_user(connection: Connection) -> tuple[str, str]:
    """Return the app and the user of a connection that has logged in."""
    app = connection.app
    user = connection.user
    assert app is not None
    assert user is not None
    return app, user
