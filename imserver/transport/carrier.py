"""What connections share: how their frames are read and made, and what polls, writes and ends them."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from websockets.frames import Opcode

from imserver.transport import frames

if TYPE_CHECKING:
    from imserver.protocol.dialect import Dialect
    from imserver.transport.connection import Connection
    from imserver.transport.outbox import Flusher
    from imserver.transport.poller import Poller

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


class Carrier:
    """What all connections of a node share: how they are polled, written, and counted out.

    ``ended(connection, close_code)`` is told once when a connection takes no more part; it must not block.
    """

    __slots__ = ("close_seconds", "closing", "connections", "ended", "flusher", "pinged", "poller", "ponged")

    def __init__(
        self,
        poller: Poller,
        flusher: Flusher,
        ended: Callable[[Connection, int], None],
        close_seconds: float,
    ) -> None:
        self.poller = poller
        self.flusher = flusher
        self.ended = ended
        self.close_seconds = close_seconds
        self.ponged: Callable[[Connection, bytes], None] = lambda connection, data: None
        """Told what came with a pong that is not empty. Must not block."""
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
