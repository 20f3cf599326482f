"""Forwarding without sockets: what waits for a peer, how it is numbered, what a receiver makes of that.

Items are bytes that services make and read; nothing here looks into them. They travel in batches: what is
queued in one turn of the loop leaves together. A *batch* carries

    RPC version, sender's epoch, destination's epoch, number of the first item, items

Numbers count the items from one sender's life to one destination's life, from 1. So a receiver drops what was
meant for an earlier life of itself, and knows how many items a lost batch had. The channel is one-way: nobody
tells the sender that a batch was lost with a peer or a connection.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct, field

from imserver.errors import ImserverError
from imserver.metrics import Histogram

ITEM_BYTES: Final = 1024 * 1024
"""Largest item. With its batch it must stay below what a receiver takes (2 MB)."""
BATCH_BYTES: Final = 128 * 1024
BATCH_ITEMS: Final = 256
"""Also how many a receiver hands on before others have their turn."""
_LIVES: Final = 4096


class PeerUnavailable(ImserverError):
    """A node did not answer a question: it is away, too slow, or could not. ``node`` names it."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node
        self.reason = reason


class RpcCounters(Struct, gc=False):
    """What went between this node and others, since the start: items (data channel) and calls (control)."""

    sent: int = 0
    received: int = 0
    batches_sent: int = 0
    batches_received: int = 0
    bytes_sent: int = 0
    """Of the items, as :attr:`bytes_received`; framing and encryption come on top."""
    bytes_received: int = 0
    dropped: int = 0
    """Items accepted by ``send`` that left with a peer: its lease went, or this node stopped."""
    overflows: int = 0
    """Items refused because the peer's queue was full, or because one alone was too large."""
    refused: int = 0
    """Items refused because the peer is known to be away (its circuit is open)."""
    stale: int = 0
    """Items received that were meant for an earlier life of this node."""
    gaps: int = 0
    """How often numbers were missing."""
    lost: int = 0
    """How many numbers were missing: items sent to this node that never came."""
    late: int = 0
    """Items dropped because later ones had come before them."""
    malformed: int = 0
    """Messages dropped because of their shape, or their version."""
    refused_peers: int = 0
    """Connections to the RPC ports that ended before they had proved to belong to the cluster."""
    call_failures: int = 0
    """Questions of this node that ended in :class:`PeerUnavailable`."""
    call_seconds: Histogram = field(default_factory=Histogram)
    """Questions of this node that were answered, if only by a code."""
    answered: int = 0
    """Questions of others that this node answered."""
    busy: int = 0
    """Questions of others refused because too many were being answered."""
    breaker_opens: int = 0
    restarts: int = 0
    """How often a receiver had to be started again. Above 0: a defect."""


class SendQueue:
    """The items that wait for one peer, bounded in number and bytes. Owner: the peer; never switches."""

    __slots__ = ("_limit_bytes", "_limit_items", "bytes", "items")

    def __init__(self, limit_items: int, limit_bytes: int) -> None:
        self.items: deque[bytes] = deque()
        self.bytes = 0
        self._limit_items = limit_items
        self._limit_bytes = limit_bytes

    def add(self, item: bytes) -> bool:
        """Take an item as the last one. False: there is no room for it."""
        size = self.bytes + len(item)
        if size > self._limit_bytes or len(self.items) >= self._limit_items or len(item) > ITEM_BYTES:
            return False
        self.items.append(item)
        self.bytes = size
        return True

    def take(self) -> list[bytes]:
        """Remove and return the items of the next batch, in order; at least one, unless none waits."""
        items = self.items
        if self.bytes <= BATCH_BYTES and len(items) <= BATCH_ITEMS:
            batch = list(items)
            items.clear()
            self.bytes = 0
            return batch
        batch = [items.popleft()]
        size = len(batch[0])
        while items and len(batch) < BATCH_ITEMS and size + len(items[0]) <= BATCH_BYTES:
            item = items.popleft()
            size += len(item)
            batch.append(item)
        self.bytes -= size
        return batch

    def put_back(self, batch: list[bytes]) -> None:
        """Undo :meth:`take`."""
        self.items.extendleft(reversed(batch))
        self.bytes += sum(map(len, batch))

    def clear(self) -> int:
        """Drop everything; returns how many items that were."""
        count = len(self.items)
        self.items.clear()
        self.bytes = 0
        return count


class SequenceTracker:
    """Which number comes next from each sender. Owner: the RPC; never switches."""

    __slots__ = ("_counters", "_next")

    def __init__(self, counters: RpcCounters) -> None:
        self._counters = counters
        self._next: dict[int, int] = {}
        """By the sender's epoch; who was heard last stands last."""

    def accept(self, sender: int, first: int, count: int) -> bool:
        """Whether to deliver ``count`` items from number ``first`` on.

        A sender not heard before starts with 1: what was lost before its first batch counts as lost, too.
        Late batches (a connection broke, the next one was faster) are not delivered: order goes first.
        """
        expected = self._next.pop(sender, 1)
        if first < expected:
            self._next[sender] = expected
            self._counters.late += count
            return False
        if first > expected:
            self._counters.gaps += 1
            self._counters.lost += first - expected
        self._next[sender] = first + count
        if len(self._next) > _LIVES:
            del self._next[next(iter(self._next))]
        return True

    def forget(self) -> None:
        """Expect 1 from everybody: this node has a new epoch, so everybody counts anew."""
        self._next.clear()


class SequenceNumbers:
    """The last number given to each destination's life while it has no peer, so that numbering can go on.

    Owner: the RPC; never switches.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def resume(self, destination: int) -> int:
        """The number of the last item sent there; 0 if there was none."""
        return self._last.pop(destination, 0)

    def keep(self, destination: int, last: int) -> None:
        """Remember the number of the last item sent."""
        if last:
            self._last[destination] = last
        if len(self._last) > _LIVES:
            del self._last[next(iter(self._last))]

    def forget(self) -> None:
        """Begin with 1 everywhere: this node has a new epoch."""
        self._last.clear()
