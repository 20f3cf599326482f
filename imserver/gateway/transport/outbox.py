"""Outboxes (the bytes that wait to be written to a connection) and the flusher
that writes them.

Everything queued for a connection in one turn of the loop is sent in one
``send``. During the turn the outbox is a list of frames. If the kernel does not
accept all frames, the outbox becomes a :class:`Backlog` with size and age. The
backlog is written when the socket is writable again. An idle connection has
neither a list nor a backlog.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from msgspec import Struct, field

from imserver.gateway.errors import CloseCode
from imserver.gateway.transport.bulk_permits import BulkPermit
from imserver.gateway.transport.poller import Parked, Poller
from imserver.gateway.transport.states import CLOSED, CLOSING, ConnectionState

SEND_BYTES = 65536
"""Limit of bytes in one ``send``."""


class Writer(Parked):
    """A connection with an outbox: a WebSocket, or an HTTP connection.

    ``outbox`` has the frames that were queued in this turn of the loop, or is a
    :class:`Backlog`, or None if nothing waits. After the connection has left
    service, the flusher calls :meth:`flushed` as soon as the outbox is empty.
    """

    __slots__ = ("outbox", "state")

    outbox: list[bytes] | Backlog | None
    state: ConnectionState
    """The state. Only :data:`CONNECTION_TRANSITIONS` say how it changes."""
    has_close_deadline = False
    """Whether the connection has a time limit of its own after it has left
    service. If not, the time limit of the outbox applies then, too."""

    @property
    def is_open(self) -> bool:
        """Whether the connection is in service: messages of both sides pass.

        Frequently called code compares the state itself, because the call of
        this property would take longer than the rest of that code.
        """
        return self.state < CLOSING

    @property
    @abstractmethod
    def outbox_bytes(self) -> int:
        """The limit of the outbox in bytes. 0 means the limit of the node."""

    @abstractmethod
    def flushed(self) -> None:
        """Note that everything is written. It is called after the connection
        has left service."""

    @abstractmethod
    def abandon(self, code: int) -> None:
        """End TCP because a limit is exceeded.

        ``code`` is for the log and the counters.
        """

    @abstractmethod
    def held_bytes(self) -> int:
        """Return the bytes of the backlog and of the unfinished input."""


class Backlog:
    """Frames that the kernel has not accepted, because the client reads slowly.

    The frames have ``size`` bytes together. ``progress_at`` is the monotonic
    time of the last successful write. The connection owns the backlog.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_flusher",
        "_partial",
        "progress_at",
        "size",
    )

    def __init__(
        self, flusher: Flusher, connection: Writer, chunks: list[bytes], partial: bool
    ) -> None:
        """Begin with these chunks. ``partial`` says whether a part of the first
        chunk is written already."""
        self._flusher = flusher
        self._connection = connection
        self._chunks: deque[bytes | memoryview] = deque(chunks)
        self._partial = partial
        """Whether a part of the first chunk is written."""
        self.size = sum(map(len, chunks))
        self.progress_at = monotonic()

    def append(self, frame: bytes) -> None:
        """Queue one more frame.

        The limits are checked at the end of the turn, because no connection may
        be closed while a fan-out iterates over the connections.
        """
        self._chunks.append(frame)
        self.size += len(frame)
        self._flusher.note_growth(self._connection)

    def cut(self, frame: bytes) -> None:
        """Drop everything except the rest of a half-written frame, and append a
        frame.

        Without that rest, the client could not read the new frame.
        """
        remaining: deque[bytes | memoryview] = deque()
        if self._partial and self._chunks:
            remaining.append(self._chunks[0])
        remaining.append(frame)
        self._chunks = remaining
        self.size = sum(map(len, remaining))
        # The peer gets the full time again, so that it can read the close
        # frame.
        self.progress_at = monotonic()

    def take(self) -> bytes:
        """Return all waiting bytes for another writer.

        The backlog cannot be used afterwards.
        """
        self._flusher.stalled.discard(self._connection)
        self.size = 0
        return b"".join(self._chunks)

    def write(self, send: Callable[[bytes | memoryview], int]) -> bool:
        """Send as much as the kernel accepts.

        Returns whether everything is written. Raises OSError.
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
                # A view of the rest avoids a copy of it.
                chunks[0] = memoryview(data)[sent:]
                return False
            chunks.popleft()
        return True

    def _gather(self) -> bytes:
        """Join small chunks at the start, and return the joined chunk.

        The joined chunk has at most :data:`SEND_BYTES`, and is the first chunk
        then. One ``send`` for many small frames is faster.
        """
        chunks = self._chunks
        size = 0
        parts = []
        while chunks and size + len(chunks[0]) <= SEND_BYTES:
            parts.append(chunks.popleft())
            size += len(parts[-1])
        joined = b"".join(parts)
        chunks.appendleft(joined)
        return joined


class Budget(Struct, eq=False):
    """The limit for the bytes in all outboxes and unfinished frames of a node.

    If the limit is exceeded, the connections with the most bytes are closed at
    the end of the turn. ``sizes`` has the bytes of each connection, and
    ``total`` is the sum of these bytes.
    """

    limit: int
    sizes: dict[Writer, int] = field(default_factory=dict)
    total: int = 0

    def set(self, connection: Writer, size: int) -> None:
        """Set the number of bytes in the buffers of a connection."""
        self.total += size - self.sizes.get(connection, 0)
        if size:
            self.sizes[connection] = size
        else:
            self.sizes.pop(connection, None)

    def shrink(self) -> int:
        """Close the connections with the most bytes until the limit is kept.

        Returns the number of closed connections.
        """
        closed = 0
        while self.total > self.limit and self.sizes:
            largest = max(self.sizes, key=self.sizes.__getitem__)
            # abandon() calls set() with fewer bytes.
            largest.abandon(CloseCode.SLOW_READER)
            closed += 1
        return closed


_filled_here: ContextVar[int] = ContextVar("filled_here", default=0)
"""The value of ``Flusher.bulk_filled`` after the last broadcast of the current
greenlet."""
MANY_CONNECTIONS = 64
"""If a turn has output for at least this many connections, the answer to a
request is written first. The other output takes 0.2 ms or more."""
BULK_CONNECTIONS = 1024
"""A broadcast to more connections than this is written in slices, together with
other output."""
SLICE_SECONDS = 0.002
"""Limit of the time for which output is written before the loop serves its
sockets."""
PIECE_CONNECTIONS = 32
"""The flusher checks the clock after so many connections."""


class Flusher:
    """Writes the outboxes that were filled in one turn of the loop, in slices
    of at most :data:`SLICE_SECONDS` and ``most`` connections.

    ``enqueue`` may be called from anywhere. The flush runs in the hub's
    greenlet and never blocks or switches greenlets. Between two slices the loop
    serves its sockets. Broadcasts to very many connections get half of each
    slice while other output waits, so they delay neither heartbeats nor pushes.
    """

    def __init__(
        self,
        loop: Any,
        poller: Poller,
        most: int,
        outbox_bytes: int,
        outbox_seconds: float,
        budget: Budget,
    ) -> None:
        """Begin with empty outboxes.

        ``most`` is how many connections one slice writes at most.
        ``outbox_bytes`` and ``outbox_seconds`` are the limits of a connection
        that reads slowly.
        """
        self._loop = loop
        self._poller = poller
        self._most = most
        self.limit_bytes = outbox_bytes
        """Limit of an outbox. Read-only for others."""
        self._limit_seconds = outbox_seconds
        self.budget = budget
        self.stalled: set[Writer] = set()
        """The connections with a backlog."""
        self.slow_readers = 0
        """How many connections were closed because they read too slowly."""
        self.dirty: list[Writer] = []
        """Connections whose outbox was filled in this turn. Fan-out appends
        directly."""
        self.bulk: list[Writer] = []
        """Connections whose outbox a broadcast to more than
        :data:`BULK_CONNECTIONS` has filled in this turn."""
        self.permit: BulkPermit | None = None
        """The permit to write ``bulk``, on a node among many."""
        self.bulk_filled = 0
        """Total number of connections that were ever added to ``bulk``."""
        self._begin = 0
        """Index of the first unwritten connection in bulk."""
        self._scheduled = False
        """Whether the flush will run at the end of this turn."""
        self._grown: set[Writer] = set()
        """Connections whose backlog has grown in this turn."""
        # A timer lets the loop serve its sockets before the next slice.
        self._timer = loop.timer(0.0)
        self._before_flush: list[Callable[[], None]] = []

    def enqueue(self, connection: Writer, frame: bytes) -> None:
        """Put a frame into the outbox of a connection.

        The frame is sent at the end of this turn.
        """
        outbox = connection.outbox
        if outbox is None:
            connection.outbox = [frame]
            self.dirty.append(connection)
            # This repeats the code of schedule(). Without the call, a push in
            # bulk takes 1.4 µs instead of 1.5 µs.
            if not self._scheduled:
                self._scheduled = True
                self._loop.run_callback(self._flush)
        else:
            outbox.append(frame)
            if self.bulk and not (self.dirty and self.dirty[-1] is connection):
                # The outbox may also have a broadcast to many connections,
                # which waits for a permit. Both are sent now.
                self.dirty.append(connection)
                self.schedule()

    def enqueue_first(self, connection: Writer, frame: bytes) -> None:
        """Put a frame into an outbox that is written before the other outboxes
        of this turn.

        So the answer to a push that fills many outboxes does not wait until
        these outboxes are written. Earlier output of ``connection`` still comes
        first.
        """
        if connection.outbox is None and self._scheduled:
            connection.outbox = [frame]
            self.dirty.insert(0, connection)
        else:
            self.enqueue(connection, frame)

    def call_before_flush(self, call: Callable[[], None]) -> None:
        """Call a function once, at the end of this turn, before outboxes are
        written."""
        self._before_flush.append(call)
        self.schedule()

    def filled(self, connections: int) -> None:
        """Count connections that the current greenlet has added to
        :attr:`bulk`."""
        self.bulk_filled += connections
        _filled_here.set(self.bulk_filled)
        if self.permit is not None:
            # The permit is requested before other nodes get the push, because
            # the answer to the push waits for this node.
            self.permit.request()

    def drained(self, since: int) -> bool:
        """Tell whether the broadcasts of this greenlet are mostly written.

        These are the broadcasts since ``bulk_filled`` had the value ``since``.
        A caller waits for this between two broadcasts to very many connections.
        """
        unwritten = len(self.bulk) - self._begin
        if _filled_here.get() <= since or unwritten <= BULK_CONNECTIONS:
            return True
        # Somebody waits for the writing, so the permit is kept a bit longer.
        if self.permit is not None:
            self.permit.extend()
        return False

    def schedule(self) -> None:
        """Write the filled outboxes at the end of this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.run_callback(self._flush)

    def _flush(self) -> None:
        """Callback at the end of a turn: enforce the limits, then write
        outboxes."""
        self._scheduled = False
        try:
            if self._grown or self.budget.total > self.budget.limit:
                self._enforce_limits()
            if self._before_flush:
                calls = self._before_flush
                self._before_flush = []
                for call in calls:
                    call()
        finally:
            self._write_slice()

    def _write_slice(self) -> None:
        """Write outboxes for at most :data:`SLICE_SECONDS`.

        If some outboxes remain, the next slice is scheduled.
        """
        bulk = self.bulk
        if bulk and self.permit is not None and not self.permit.request():
            bulk = []  # broadcasts wait until the node has the permit
        # Nearly always there is little to write.
        if not bulk and len(self.dirty) <= PIECE_CONNECTIONS:
            batch = self.dirty
            self.dirty = []
            self._write(batch)
            return

        end = monotonic() + SLICE_SECONDS
        remaining = self._most
        while True:
            batch = self._next_batch(min(remaining, PIECE_CONNECTIONS), bulk)
            remaining -= len(batch)
            is_over = remaining <= 0 or monotonic() > end
            if is_over and (self.dirty or bulk) and not self._scheduled:
                # A callback would run before the loop serves its sockets. A
                # timer runs after that.
                self._scheduled = True
                self._timer.start(self._flush)
            self._write(batch)
            if is_over or not (self.dirty or bulk):
                break

        if self.permit is not None and not self.bulk:
            self.permit.release()

    def _write(self, batch: list[Writer]) -> None:
        """Write the outboxes of these connections, each in one ``send``.

        Bytes that the kernel does not accept become a backlog.
        """
        # Broadcasts of one turn fill many outboxes with equal frames. Such
        # frames are joined only once.
        previous: list[bytes] = []
        joined = b""
        for connection in batch:
            chunks = connection.outbox
            if type(chunks) is not list:
                continue  # the outbox is written already, or is a backlog
            connection.outbox = None
            if len(chunks) == 1:
                data = chunks[0]
            else:
                if chunks != previous:
                    previous = chunks
                    joined = b"".join(chunks)
                data = joined

            size = len(data)
            try:
                if size > SEND_BYTES:
                    raise BlockingIOError  # _stall() writes it in pieces
                sent = connection.sock.send(data)
            except BlockingIOError:
                self._stall(connection, chunks)
                continue
            except OSError:
                connection.lost()
                continue

            if sent != size:
                self._stall(connection, [data[sent:]], partial=True)
            elif connection.state >= CLOSING:
                connection.flushed()

    def _next_batch(self, size: int, bulk: list[Writer]) -> list[Writer]:
        """Take the connections that are written next.

        The result has up to ``size`` connections from :attr:`dirty`, and some
        from ``bulk``.
        """
        batch = self.dirty
        if len(batch) <= size:
            self.dirty = []
        else:
            batch = batch[:size]
            del self.dirty[:size]

        if bulk:
            # Broadcasts get at least half of a batch, however much other output
            # waits.
            end = self._begin + max(size - len(batch), size // 2)
            batch += bulk[self._begin : end]
            self._begin = end
            if end >= len(bulk):
                bulk.clear()
                self._begin = 0
            elif end > len(bulk) // 2:
                # While broadcasts follow each other, the list may never become
                # empty. So its written part is removed now and then.
                del bulk[:end]
                self._begin = 0
        return batch

    def _stall(
        self, connection: Writer, chunks: list[bytes], partial: bool = False
    ) -> None:
        """Write chunks in pieces, and keep the rest as the backlog.

        The rest are the bytes that the kernel does not accept. ``partial`` says
        whether the beginning of the first chunk is written already.
        """
        backlog = Backlog(self, connection, chunks, partial)
        try:
            is_written = backlog.write(connection.sock.send)
        except OSError:
            connection.lost()
            return
        if is_written:
            if connection.state >= CLOSING:
                connection.flushed()
            return

        connection.outbox = backlog
        self.stalled.add(connection)
        self._poller.watch_writable(connection, wanted=True)
        self.note_growth(connection)

    def resume(self, connection: Writer) -> None:
        """Continue writing, because the socket accepts bytes again.

        When the backlog is empty, the socket is no longer watched for writing.
        """
        backlog = connection.outbox
        if type(backlog) is not Backlog:
            return
        try:
            is_written = backlog.write(connection.sock.send)
        except OSError:
            connection.lost()
            return

        if is_written:
            connection.outbox = None
            self.forget(connection)
            self._poller.watch_writable(connection, wanted=False)
            if connection.state >= CLOSING:
                connection.flushed()
        else:
            self.budget.set(connection, connection.held_bytes())

    def note_growth(self, connection: Writer) -> None:
        """Note that a backlog has grown.

        The limits of the backlog are checked at the end of the turn.
        """
        self._grown.add(connection)
        self.schedule()

    def _enforce_limits(self) -> None:
        """Close connections whose backlog has become too large.

        If the budget of the node is exceeded, also close the connections with
        the most bytes.
        """
        grown = self._grown
        self._grown = set()
        for connection in grown:
            backlog = connection.outbox
            if type(backlog) is not Backlog:
                continue
            # A listener may have another limit than the node.
            limit = connection.outbox_bytes or self.limit_bytes
            if backlog.size > limit and connection.is_open:
                self._close_slow_reader(connection)
            else:
                self.budget.set(connection, connection.held_bytes())
        self.slow_readers += self.budget.shrink()

    def forget(self, connection: Writer) -> None:
        """Stop tracking a connection that has no backlog any more."""
        self.stalled.discard(connection)
        # A living connection may still have unfinished input.
        if connection.state is CLOSED:
            self.budget.set(connection, 0)
        else:
            self.budget.set(connection, connection.held_bytes())

    def expire(self) -> None:
        """Close connections whose backlog has made no progress for too long.

        It is called once per second.
        """
        deadline = monotonic() - self._limit_seconds
        for connection in tuple(self.stalled):
            backlog = connection.outbox
            if type(backlog) is not Backlog:
                continue
            # The time limit of the close handshake ends this connection.
            if connection.has_close_deadline and not connection.is_open:
                continue
            if backlog.progress_at < deadline:
                self._close_slow_reader(connection)

    def _close_slow_reader(self, connection: Writer) -> None:
        """Close a connection that reads too slowly, and count it."""
        self.slow_readers += 1
        connection.abandon(CloseCode.SLOW_READER)
