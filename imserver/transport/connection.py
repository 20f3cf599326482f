"""A parked connection: one object with slots, its socket, and nothing else while it is idle.

The read path is written out in one function on purpose: a small whole masked frame, which nearly every
client frame is, costs no object but the payload. All other frames go through ``frames.MessageParser``.
"""

from __future__ import annotations

import _socket
from time import monotonic
from typing import Any

from websockets.frames import Opcode
from websockets.speedups import apply_mask

from imserver import errors
from imserver.model import DialectState, Subscription
from imserver.transport import frames
from imserver.transport.backlog import Backlog
from imserver.transport.carrier import Carrier, Encoding

OPEN, CLOSING, DRAINING, CLOSED = range(4)
"""States: in service; our close frame waits to be written; it is written and our half of TCP ended, the peer
has still to end its own; over. They only ever grow."""

RECEIVE_BYTES = 65536
"""Read at once while a large message arrives."""
SMALL_RECEIVE_BYTES = 4096
"""Read at once otherwise: a flood of tiny frames must not keep the loop from the others."""
_TEXT = int(Opcode.TEXT)
_PING = int(Opcode.PING)
_PONG = int(Opcode.PONG)
_CLOSE = int(Opcode.CLOSE)


class Connection:
    """One WebSocket. Owner of the socket, the outbox and the parser; session fields belong to the hub.

    ``peer`` is ``"address:port"`` of the client; ``last_seen`` the monotonic time of its last sign of life in
    the sense of its dialect (0: its clients are pinged, which is all that is asked of them); ``pinged_at``
    the time of an unanswered ping (0: none), which whatever is read answers.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "carrier",
        "device",
        "dialect_state",
        "encoding",
        "fd",
        "interest",
        "last_seen",
        "masked",
        "origin",
        "outbox",
        "parser",
        "peer",
        "pinged_at",
        "reading",
        "rooms",
        "session",
        "since",
        "sock",
        "state",
        "subscription",
        "user",
    )

    def __init__(
        self, carrier: Carrier, sock: _socket.socket, peer: str, encoding: Encoding, now: float
    ) -> None:
        self.carrier = carrier
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.encoding = encoding
        pinged = encoding.dialect.pinged
        # Nobody asks when a pinged client was last seen: no object of its own for each of many thousands.
        self.last_seen = 0.0 if pinged else now
        self.state = OPEN
        self.outbox: list[bytes] | Backlog | None = None
        self.parser: frames.MessageParser | frames.Rest | None = None
        self.reading = False
        self.masked = False
        self.interest = 0
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
        carrier.connections.add(self)
        carrier.pinged += pinged

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
            self.carrier.flusher.budget.set(self, self.held_bytes())
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
                self.carrier.ponged(self, apply_mask(data[frames.EMPTY_BYTES :], data[2:6]))
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
        if self.parser is not None or self in self.carrier.flusher.budget.held:
            self._hold()

    def _hold(self) -> None:
        """Count what is held of something unfinished against the node's budget."""
        budget = self.carrier.flusher.budget
        budget.set(self, self.held_bytes())
        if budget.total > budget.limit:
            self.carrier.flusher.schedule()

    def _take(self, message: frames.Message) -> None:
        opcode = message.opcode
        if opcode <= Opcode.BINARY:
            self.encoding.serve(self, message.data, opcode == _TEXT)
        elif opcode == _CLOSE:
            self._closed_by_peer(frames.read_close(message.data))
        elif opcode == _PING:
            self.send_frame(frames.encode(message.data, Opcode.PONG))
        elif opcode == _PONG and message.data:
            self.carrier.ponged(self, message.data)

    # --- writing --------------------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Enqueue one message in this connection's encoding."""
        if self.state == OPEN:
            self.send_frame(self.encoding.frame(payload))

    def send_frame(self, frame: bytes) -> None:
        """Enqueue one frame as it is."""
        self.carrier.flusher.enqueue(self, frame)

    def ping(self) -> None:
        """Ask for a sign of life; ``pinged_at`` is 0 again as soon as something is read."""
        self.pinged_at = monotonic()
        self.send_frame(b"\x89\x00")

    def probe(self, data: bytes) -> None:
        """Ask for a pong with at most 125 bytes (the carrier's ``ponged``). Nobody is closed for its want."""
        if self.state == OPEN:
            self.send_frame(frames.encode(data, Opcode.PING))

    def on_writable(self) -> None:
        """The kernel takes bytes again."""
        self.carrier.flusher.resume(self)

    def watch_writable(self, wanted: bool) -> None:
        """Have :meth:`on_writable` called when the kernel takes bytes, or no more."""
        self.carrier.poller.watch_writable(self, wanted)

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
        self.carrier.closing[self] = monotonic() + self.carrier.close_seconds
        self.carrier.ended(self, code)

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
            self.carrier.flusher.budget.set(self, self.held_bytes())
        else:
            self._kill(code)

    def _kill(self, code: int) -> None:
        if self.state == CLOSED:
            return
        was = self.state
        self._free()
        if was == OPEN:
            self.carrier.ended(self, code)

    def lost(self) -> None:
        """TCP has ended, by the peer or by an error."""
        self._kill(errors.CLOSE_LOST)

    def _free(self) -> None:
        self.state = CLOSED
        carrier = self.carrier
        carrier.connections.discard(self)
        carrier.pinged -= self.encoding.dialect.pinged
        carrier.closing.pop(self, None)
        carrier.poller.remove(self)
        if type(self.outbox) is Backlog or self.parser is not None:
            carrier.flusher.forget(self)
        parser = self.parser
        self.outbox = self.parser = None
        if parser is not None:
            parser.close()
        self.sock.close()
