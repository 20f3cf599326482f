"""Outboxes: the bytes that wait to be written to one connection, and the flusher that writes them.

Everything that is enqueued for a connection in one turn of the loop leaves in one ``send``. In that turn the
outbox is a plain list of frames; when the kernel does not take them all it becomes a :class:`Backlog`, which
knows its size and age and is written on when the socket is writable again. An idle connection has neither.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from imserver import errors
from imserver.transport.poller import Parked

SEND_BYTES = 65536
"""Most bytes that one ``send`` carries."""


class Writer(Parked):
    """A connection with an outbox: a WebSocket, or an HTTP connection with its answers.

    ``state`` is 0 while in service; above it :meth:`flushed` is called when all is written.
    """

    __slots__ = ("outbox", "state")

    outbox: list[bytes] | Backlog | None
    state: int

    @property
    @abstractmethod
    def outbox_bytes(self) -> int:
        """Bound of its outbox in bytes; 0: the node's."""

    @abstractmethod
    def flushed(self) -> None:
        """Go on: all is written."""

    @abstractmethod
    def abandon(self, code: int) -> None:
        """End TCP now: a bound is passed; ``code`` is for the log and the counters."""

    @abstractmethod
    def watch_writable(self, wanted: bool) -> None:
        """Have ``Flusher.resume`` called when the kernel takes bytes, or no more."""

    @abstractmethod
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


CLOSED = 3
"""The last of a connection's states (``transport.connection``)."""
_filled_here: ContextVar[int] = ContextVar("filled_here", default=0)
"""``bulk_filled`` as of the last broadcast of a greenlet."""
BULK_CONNECTIONS = 1024
"""A broadcast to more connections than this is written piece by piece, beside everything else."""


class Flusher:
    """Writes outboxes: all that one turn of the loop has filled, a few hundred connections at a time.

    ``enqueue`` is called from anywhere; the flush runs in the hub's greenlet, never blocks and never
    switches. Between two batches the loop looks at its sockets; and what is sent to very many takes half of
    each batch while anything else waits. So a broadcast to everybody delays neither a heartbeat nor a push.
    """

    def __init__(
        self, loop: Any, batch: int, outbox_bytes: int, outbox_seconds: float, budget: Budget
    ) -> None:
        self._loop = loop
        self._batch = batch
        self._limit_bytes = outbox_bytes
        self._limit_seconds = outbox_seconds
        self.budget = budget
        self.stalled: set[Writer] = set()
        self.slow_readers = 0
        self.dirty: list[Writer] = []
        """Connections whose outbox was filled in this turn. Fan-out appends here itself."""
        self.bulk: list[Writer] = []
        """The same, filled by a broadcast to more than :data:`BULK_CONNECTIONS`."""
        self.bulk_filled = 0
        """How many have ever been put there."""
        self._begin = 0
        """Index of the first in bulk that is not written yet."""
        self._scheduled = False
        self._grown: set[Writer] = set()
        self._timer = loop.timer(0.0)
        self._before_flush: list[Callable[[], None]] = []

    def enqueue(self, connection: Writer, frame: bytes) -> None:
        """Put ``frame`` into the outbox of ``connection``; it leaves at the end of this turn."""
        outbox = connection.outbox
        if outbox is None:
            connection.outbox = [frame]
            self.dirty.append(connection)
            if not self._scheduled:
                self.schedule()
        else:
            outbox.append(frame)
            if self.bulk and not (self.dirty and self.dirty[-1] is connection):
                # A broadcast to many waits in this outbox, too: both leave now.
                self.dirty.append(connection)

    def call_before_flush(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when a turn ends, before its outboxes are written."""
        self._before_flush.append(call)

    def filled(self, connections: int) -> None:
        """So many were put into :attr:`bulk`, by the greenlet that is running."""
        self.bulk_filled += connections
        _filled_here.set(self.bulk_filled)

    def drained(self, since: int) -> bool:
        """Whether what this greenlet has filled by broadcasts, since ``bulk_filled`` was ``since``, is mostly
        written.

        Whoever sends to very many should wait for that before it sends more.
        """
        return _filled_here.get() <= since or len(self.bulk) - self._begin <= BULK_CONNECTIONS

    def schedule(self) -> None:
        """Have the dirty outboxes written at the end of this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.run_callback(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        try:
            if self._grown or self.budget.total > self.budget.limit:
                self._hold_to_bounds()
            for call in self._before_flush:
                call()
        finally:
            self._write_batch()

    def _write_batch(self) -> None:
        batch = self._next_batch()
        if self.dirty or self.bulk:
            # A callback would run again before the loop looks at its sockets; a timer runs after.
            self._scheduled = True
            self._timer.start(self._flush)
        same: list[bytes] = []
        joined = b""
        for connection in batch:
            chunks = connection.outbox
            if type(chunks) is not list:
                continue
            connection.outbox = None
            if len(chunks) == 1:
                data = chunks[0]
            else:
                if chunks != same:
                    same = chunks
                    joined = b"".join(chunks)
                data = joined
            size = len(data)
            try:
                if size > SEND_BYTES:
                    raise BlockingIOError
                sent = connection.sock.send(data)
            except BlockingIOError:
                self._stall(connection, chunks)
                continue
            except OSError:
                connection.lost()
                continue
            if sent != size:
                self._stall(connection, [data[sent:]], partial=True)
            elif connection.state > 0:
                connection.flushed()

    def _next_batch(self) -> list[Writer]:
        size, dirty, bulk = self._batch, self.dirty, self.bulk
        batch = dirty[:size]
        del dirty[:size]
        if bulk:
            end = self._begin + max(size - len(batch), size // 2)
            batch += bulk[self._begin : end]
            self._begin = end
            if end >= len(bulk):
                bulk.clear()
                self._begin = 0
        return batch

    def _stall(self, connection: Writer, chunks: list[bytes], partial: bool = False) -> None:
        """Write ``chunks`` piece by piece; what the kernel does not take becomes the backlog."""
        backlog = Backlog(self, connection, chunks, partial)
        try:
            done = backlog.write(connection.sock.send)
        except OSError:
            connection.lost()
            return
        if done:
            if connection.state > 0:
                connection.flushed()
            return
        connection.outbox = backlog
        self.stalled.add(connection)
        connection.watch_writable(True)
        self.grew(connection)

    def resume(self, connection: Writer) -> None:
        """Write on: the socket takes bytes again."""
        backlog = connection.outbox
        if type(backlog) is not Backlog:
            return
        try:
            done = backlog.write(connection.sock.send)
        except OSError:
            connection.lost()
            return
        if done:
            connection.outbox = None
            self.forget(connection)
            connection.watch_writable(False)
            if connection.state > 0:
                connection.flushed()
        else:
            self.budget.set(connection, connection.held_bytes())

    def grew(self, connection: Writer) -> None:
        """A backlog has grown: look at its bounds when the turn ends."""
        self._grown.add(connection)
        self.schedule()

    def _hold_to_bounds(self) -> None:
        grown, self._grown = self._grown, set()
        for connection in grown:
            backlog = connection.outbox
            if type(backlog) is Backlog:
                if backlog.size > (connection.outbox_bytes or self._limit_bytes) and connection.state == 0:
                    self._too_slow(connection)
                else:
                    self.budget.set(connection, connection.held_bytes())
        self.slow_readers += self.budget.shrink()

    def forget(self, connection: Writer) -> None:
        """The connection has no backlog any more."""
        self.stalled.discard(connection)
        self.budget.set(connection, 0 if connection.state == CLOSED else connection.held_bytes())

    def expire(self) -> None:
        """Close the connections whose backlog has not moved for too long. Called once a second."""
        deadline = monotonic() - self._limit_seconds
        for connection in tuple(self.stalled):
            backlog = connection.outbox
            if type(backlog) is Backlog and backlog.progress_at < deadline and connection.state == 0:
                self._too_slow(connection)

    def _too_slow(self, connection: Writer) -> None:
        self.slow_readers += 1
        connection.abandon(errors.CLOSE_SLOW_READER)
