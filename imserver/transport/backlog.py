"""What the kernel did not take: the frames that wait for one connection, and how much a node may hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from imserver import errors

if TYPE_CHECKING:
    import _socket

    from imserver.transport.outbox import Flusher

SEND_BYTES = 65536
"""Most bytes that one ``send`` carries."""


class Writer(Protocol):
    """Whoever has an outbox: a WebSocket, or an HTTP connection with its answers.

    ``state`` is 0 while in service; above it :meth:`flushed` is called when all is written.
    """

    outbox: list[bytes] | Backlog | None
    sock: _socket.socket
    state: int

    @property
    def outbox_bytes(self) -> int:
        """Bound of its outbox in bytes; 0: the node's."""

    def flushed(self) -> None:
        """All is written."""

    def lost(self) -> None:
        """TCP has ended."""

    def abandon(self, code: int) -> None:
        """End TCP now: a bound is passed; ``code`` is for the log and the counters."""

    def watch_writable(self, wanted: bool) -> None:
        """Have ``Flusher.resume`` called when the kernel takes bytes, or no more."""

    def held_bytes(self) -> int:
        """What it holds, in bytes: its backlog and what it has read of something unfinished."""


class Backlog:
    """Frames that the kernel did not take yet. Owner: the connection in whose outbox slot it stands.

    ``size`` is in bytes; ``progress_at`` the monotonic time at which bytes last left.
    """

    __slots__ = ("_chunks", "_connection", "_flusher", "_partial", "progress_at", "size")

    def __init__(self, flusher: Flusher, connection: Writer, chunks: list[bytes], partial: bool) -> None:
        self._flusher = flusher
        self._connection = connection
        self._chunks: deque[bytes | memoryview] = deque(chunks)
        self._partial = partial
        """Whether a part of the first chunk has left already."""
        self.size = sum(map(len, chunks))
        self.progress_at = monotonic()

    def append(self, frame: bytes) -> None:
        """Queue one more frame. The bounds are looked at when the turn ends: nobody may be closed while a
        fan-out walks over the connections."""
        self._chunks.append(frame)
        self.size += len(frame)
        self._flusher.grew(self._connection)

    def cut(self, frame: bytes) -> None:
        """Drop all but ``frame`` and the rest of what is half written."""
        rest = [self._chunks[0]] if self._partial and self._chunks else []
        self._chunks = deque([*rest, frame])
        self.size = sum(map(len, self._chunks))
        # A new deadline: the close frame has its own time to be read.
        self.progress_at = monotonic()

    def take(self) -> bytes:
        """All that waits, for whoever writes it instead; this backlog is of no use afterwards."""
        self._flusher.stalled.discard(self._connection)
        self.size = 0
        return b"".join(self._chunks)

    def write(self, send: Callable[[bytes | memoryview], int]) -> bool:
        """Send until nothing is left (True) or the kernel takes no more (False).

        Raises OSError when the connection is broken.
        """
        chunks = self._chunks
        while chunks:
            data = chunks[0]
            if len(chunks) > 1 and len(data) < SEND_BYTES:
                data = self._gather()
            try:
                sent = send(data)
            except BlockingIOError:
                return False
            self.size -= sent
            self.progress_at = monotonic()
            self._partial = sent < len(data)
            if self._partial:
                # A view: of a large message only what is sent is copied.
                chunks[0] = memoryview(data)[sent:]
                return False
            chunks.popleft()
        return True

    def _gather(self) -> bytes:
        """Join small chunks at the head to one of at most :data:`SEND_BYTES`."""
        chunks = self._chunks
        size, parts = 0, []
        while chunks and size + len(chunks[0]) <= SEND_BYTES:
            parts.append(chunks.popleft())
            size += len(parts[-1])
        joined = b"".join(parts)
        chunks.appendleft(joined)
        return joined


class Budget:
    """What all outboxes and unfinished frames of a node may hold together, in bytes.

    Owner: the node's transport. Past the limit the largest holder is closed first, at the end of the turn.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: dict[Writer, int] = {}
        self.total = 0

    def set(self, connection: Writer, size: int) -> None:
        """Say that ``connection`` holds ``size`` bytes now."""
        self.total += size - self.held.get(connection, 0)
        if size:
            self.held[connection] = size
        else:
            self.held.pop(connection, None)

    def shrink(self) -> int:
        """Close the largest holders until the rest fits; returns how many were closed."""
        closed = 0
        while self.total > self.limit and self.held:
            max(self.held, key=self.held.__getitem__).abandon(errors.CLOSE_SLOW_READER)
            closed += 1
        return closed
