"""A parked connection: one object with slots, its socket, and nothing else while it is idle.

The read path is written out in one function on purpose: a small whole masked frame, which nearly every
client frame is, costs no object but the payload. All other frames go through ``frames.MessageParser``.
"""

from __future__ import annotations

import _socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import Opcode
from websockets.speedups import apply_mask

from imserver import errors
from imserver.model import DialectState, Subscription
from imserver.transport import frames
from imserver.transport.outbox import Backlog, Flusher, Writer
from imserver.transport.poller import Poller

if TYPE_CHECKING:
    from imserver.protocol.dialect import Dialect

OPEN, CLOSING, DRAINING, CLOSED = range(4)
"""States: in service; our close frame waits to be written; it is written and our half of TCP ended, the peer
has still to end its own; over. They only ever grow."""

_last_data: Final = struct.Struct("=44xI4xI").unpack
"""``tcpi_last_data_sent`` and ``tcpi_last_data_recv`` of ``struct tcp_info``: milliseconds ago."""
_INFO_BYTES: Final = 56
FOREVER: Final = float("inf")


def quiet_seconds(sock: _socket.socket) -> float:
    """For how long no data has passed, either way; :data:`FOREVER` where the kernel does not say."""
    try:
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return FOREVER
    return FOREVER if len(info) < _INFO_BYTES else min(_last_data(info)) / 1000


_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_HEADS = {opcode: frames.heads(opcode) for opcode in (_TEXT, _BINARY)}

Serve = Callable[["Connection", bytes, bool], None]
"""What is done with a whole message: (connection, payload, whether it came as text). It may block; the next
message of this connection waits for it."""


class Encoding:
    """How frames from and to a connection are read and made: its dialect, what serves its messages, the
    greatest message in bytes, and the deflate window its client offered (0: none).

    One instance is shared by all connections alike, so a broadcast is encoded once per encoding.
    """

    __slots__ = ("_heads", "deflate_bits", "dialect", "limit_bytes", "opcode", "outbox_bytes", "serve")

    def __init__(
        self, dialect: Dialect, serve: Serve, limit_bytes: int, deflate_bits: int, outbox_bytes: int = 0
    ) -> None:
        self.outbox_bytes = outbox_bytes
        """Bound of an outbox where it is not the node's (0)."""
        self.dialect = dialect
        self.serve = serve
        self.deflate_bits = deflate_bits
        self.limit_bytes = limit_bytes
        self.opcode = _TEXT if dialect.text else _BINARY
        self._heads = _HEADS[self.opcode]

    def frame(self, payload: bytes, opcode: int = 0) -> bytes:
        """The frame that carries ``payload`` to a client of this encoding."""
        if not opcode and not self.deflate_bits and len(payload) < frames.HEADS:
            return self._heads[len(payload)] + payload
        opcode = opcode or self.opcode
        if self.deflate_bits:
            return frames.encode(frames.deflate(payload, self.deflate_bits), opcode, rsv1=True)
        return frames.encode(payload, opcode)


class ConnectionContext:
    """What all connections of a node share: poller, flusher, and who is told when one ends.

    ``ended(connection, close_code)`` is called once when a connection leaves service, ``ponged(connection,
    data)`` for each pong that is not empty. Neither may block.
    """

    __slots__ = ("close_seconds", "closing", "connections", "ended", "flusher", "pinged", "poller", "ponged")

    def __init__(
        self,
        poller: Poller,
        flusher: Flusher,
        ended: Callable[[Connection, int], None],
        close_seconds: float,
        ponged: Callable[[Connection, bytes], None],
    ) -> None:
        self.poller = poller
        self.flusher = flusher
        self.ended = ended
        self.close_seconds = close_seconds
        self.ponged = ponged
        self.connections: set[Connection] = set()
        """Every connection whose TCP has not ended."""
        self.pinged = 0
        """Those of them whose clients are pinged (:attr:`Dialect.pinged`)."""
        self.closing: dict[Connection, float] = {}
        """Connections under a close handshake, with the monotonic time at which TCP ends anyway."""

    def expire(self) -> None:
        """End the TCP of those whose close handshake has taken too long. Called once a second."""
        now = monotonic()
        for connection, deadline in tuple(self.closing.items()):
            if now > deadline:
                connection.lost()


RECEIVE_BYTES = 65536
"""Read at once while a large message arrives."""
SMALL_RECEIVE_BYTES = 4096
"""Read at once otherwise: a flood of tiny frames must not keep the loop from the others."""
_PING = int(Opcode.PING)
_PONG = int(Opcode.PONG)
_CLOSE = int(Opcode.CLOSE)


class Connection(Writer):
    """One WebSocket. Owner of the socket, the outbox and the parser; session fields belong to the hub.

    ``peer`` is ``"address:port"`` of the client; ``last_seen`` the monotonic time of its last sign of life in
    the sense of its dialect (0: its clients are pinged, which is all that is asked of them); ``pinged_at``
    the time of an unanswered ping (0: none), which whatever is read answers.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "context",
        "device",
        "dialect_state",
        "encoding",
        "last_seen",
        "origin",
        "parser",
        "peer",
        "pinged_at",
        "rooms",
        "session",
        "since",
        "subscription",
        "user",
    )

    def __init__(
        self, context: ConnectionContext, sock: _socket.socket, peer: str, encoding: Encoding, now: float
    ) -> None:
        super().__init__(sock)
        self.context = context
        self.peer = peer
        self.encoding = encoding
        pinged = encoding.dialect.pinged
        # Nobody asks when a pinged client was last seen: no object of its own for each of many thousands.
        self.last_seen = 0.0 if pinged else now
        self.state = OPEN
        self.outbox = None
        self.parser: frames.MessageParser | frames.Rest | None = None
        self.pinged_at = 0.0
        self.app: str | None = None
        self.user: str | None = None
        self.device = ""
        self.session: Any = None
        """What the registry of a cluster knows of this session; None on a node that is alone."""
        self.dialect_state: DialectState | None = None
        """Owned by the service of its dialect."""
        self.subscription: Subscription | None = None
        """Owned by :class:`imserver.services.messages.catch_up.CatchUp`."""
        self.rooms: Any = None
        """The rooms it is in; the hub's (:mod:`imserver.hub.hub`)."""
        self.origin = ""
        """The host of the page that the client is; ``""``: one of our own, or none."""
        self.since = 0
        """When it logged in, in Unix seconds; 0: not yet."""
        context.connections.add(self)
        context.pinged += pinged

    # --- reading (reader greenlets) -------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Read once and serve what is whole. Called by a reader; may switch if a command blocks."""
        try:
            data = self.sock.recv(
                RECEIVE_BYTES if type(self.parser) is frames.MessageParser else SMALL_RECEIVE_BYTES
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.lost()
            return
        if not data:
            self.lost()
            return
        self.pinged_at = 0.0
        if self.state == OPEN:
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """Serve bytes that have been read from the client."""
        parser = self.parser
        if parser is not None:
            if type(parser) is not frames.Rest:
                self._parse(data)
                return
            data = parser.data + data
            self.parser = None
            self.context.flusher.budget.set(self, self.held_bytes())
        size = len(data)
        start = 0
        serve = self.encoding.serve
        limit = self.encoding.limit_bytes
        while size - start >= 6:
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
            if text and not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    self.close(errors.CLOSE_BAD_PAYLOAD, "invalid UTF-8")
                    return
            serve(self, payload, text)
            if self.state != OPEN:
                return
            start = end
        if start < size:
            self._keep(data[start:] if start else data)

    def _keep(self, data: bytes) -> None:
        """What is left is no whole small frame."""
        if frames.is_pong(data):
            if len(data) > frames.EMPTY_BYTES:
                self.context.ponged(self, apply_mask(data[frames.EMPTY_BYTES :], data[2:6]))
            return
        encoding = self.encoding
        if frames.begins_small(data, encoding.limit_bytes):
            self.parser = frames.Rest(data)
            self._hold()
            return
        self.parser = frames.MessageParser(encoding.limit_bytes, bool(encoding.deflate_bits))
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        parser = self.parser
        assert isinstance(parser, frames.MessageParser)
        try:
            for message in parser.feed(data):
                self._take(message)
                if self.state != OPEN:
                    break
        except frames.Violation as violation:
            self.close(violation.code, violation.reason)
        if self.state != OPEN or parser.idle:
            self.parser = None
            parser.close()
        if self.parser is not None or self in self.context.flusher.budget.held:
            self._hold()

    def _hold(self) -> None:
        """Count what is held of something unfinished against the node's budget."""
        budget = self.context.flusher.budget
        budget.set(self, self.held_bytes())
        if budget.total > budget.limit:
            self.context.flusher.schedule()

    def _take(self, message: frames.FrameMessage) -> None:
        opcode = message.opcode
        if opcode <= Opcode.BINARY:
            self.encoding.serve(self, message.data, opcode == _TEXT)
        elif opcode == _CLOSE:
            self._closed_by_peer(frames.read_close(message.data))
        elif opcode == _PING:
            self.send_frame(frames.encode(message.data, Opcode.PONG))
        elif opcode == _PONG and message.data:
            self.context.ponged(self, message.data)

    # --- writing --------------------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Enqueue one message in this connection's encoding."""
        if self.state == OPEN:
            self.send_frame(self.encoding.frame(payload))

    def send_frame(self, frame: bytes) -> None:
        """Enqueue one frame as it is."""
        self.context.flusher.enqueue(self, frame)

    def ping(self) -> None:
        """Ask for a sign of life; ``pinged_at`` is 0 again as soon as something is read."""
        self.pinged_at = monotonic()
        self.send_frame(b"\x89\x00")

    def probe(self, data: bytes) -> None:
        """Ask for a pong with at most 125 bytes, which :attr:`ConnectionContext.ponged` gets."""
        if self.state == OPEN:
            self.send_frame(frames.encode(data, Opcode.PING))

    def on_writable(self) -> None:
        """The kernel takes bytes again."""
        self.context.flusher.resume(self)

    def watch_writable(self, wanted: bool) -> None:
        """Have :meth:`on_writable` called when the kernel takes bytes, or no more."""
        self.context.poller.watch_writable(self, wanted)

    @property
    def outbox_bytes(self) -> int:
        """Bound of this connection's outbox; 0: the node's."""
        return self.encoding.outbox_bytes

    def held_bytes(self) -> int:
        """Bytes that the backlog and an unfinished frame hold."""
        backlog = self.outbox.size if type(self.outbox) is Backlog else 0
        return backlog + (0 if self.parser is None else self.parser.held_bytes)

    # --- closing --------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """Start the close handshake (RFC 6455 section 7): what is in the outbox still leaves first.

        TCP ends when the peer ends it or after ``websocket.close_seconds``.
        """
        if self.state == OPEN:
            self._end(code)
            self.send_frame(frames.encode_close(code, reason))

    def _closed_by_peer(self, code: int) -> None:
        self._end(code)
        self.send_frame(frames.encode_close(code))

    def _end(self, code: int) -> None:
        """Leave service: no more messages are taken or given."""
        self.state = CLOSING
        self.context.closing[self] = monotonic() + self.context.close_seconds
        self.context.ended(self, code)

    def flushed(self) -> None:
        """All is written, the close frame too: end our half and let the peer end the other.

        Ending TCP at once could destroy the close frame with a reset if bytes of the peer are still unread.
        """
        if self.state == CLOSING:
            self.state = DRAINING
            try:
                self.sock.shutdown(_socket.SHUT_WR)
            except OSError:
                self.lost()

    def abandon(self, code: int) -> None:
        """Drop what waits and close. The peer has ``websocket.close_seconds`` to read the close frame."""
        backlog = self.outbox
        if self.state == OPEN and type(backlog) is Backlog:
            self._end(code)
            backlog.cut(frames.encode_close(code))
            self.context.flusher.budget.set(self, self.held_bytes())
        else:
            self._kill(code)

    def _kill(self, code: int) -> None:
        if self.state == CLOSED:
            return
        was = self.state
        self._free()
        if was == OPEN:
            self.context.ended(self, code)

    def lost(self) -> None:
        """TCP has ended, by the peer or by an error."""
        self._kill(errors.CLOSE_LOST)

    def _free(self) -> None:
        self.state = CLOSED
        context = self.context
        context.connections.discard(self)
        context.pinged -= self.encoding.dialect.pinged
        context.closing.pop(self, None)
        context.poller.remove(self)
        if type(self.outbox) is Backlog or self.parser is not None:
            context.flusher.forget(self)
        parser = self.parser
        self.outbox = self.parser = None
        if parser is not None:
            parser.close()
        self.sock.close()
