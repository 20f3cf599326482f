"""Send queues, item numbers and counters of the RPC. No I/O.

Items are opaque bytes. The items queued in one loop iteration leave in one *batch*:

RPC version, sender's epoch, destination's epoch, number of the first item, items

Numbers count the items from one sender's epoch to one destination's epoch, from 1. So a receiver drops what
was meant for an earlier epoch of itself, and knows how many items of a lost batch are missing. The channel is
one-way: the sender does not learn that a batch was lost.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct, field

from imserver.errors import ImserverError
from imserver.metrics import Histogram

ITEM_BYTES: Final = 1024 * 1024
"""Largest item. With its batch it must stay below the receiver's limit (2 MB)."""
BATCH_BYTES: Final = 128 * 1024
BATCH_ITEMS: Final = 256
"""Also the number of items a receiver handles before it yields."""
LIVES: Final = 4096
"""Epochs whose numbers are remembered."""


class PeerUnavailable(ImserverError):
    """A node did not answer a query: it is unreachable, too slow, or failed. ``node``: its id."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node
        self.reason = reason


class UnknownQuery(ImserverError):
    """This node does not answer queries of this kind: it is of another version."""


class PeerBusy(PeerUnavailable):
    """A node could not be asked, because too many queries to it are waiting."""


class RpcCounters(Struct, gc=False):
    """Counters since the start: items (data channel) and queries (control channel)."""

    sent: int = 0
    received: int = 0
    batches_sent: int = 0
    batches_received: int = 0
    bytes_sent: int = 0
    """Of the items, like :attr:`bytes_received`, without framing and encryption."""
    bytes_received: int = 0
    dropped: int = 0
    """Items accepted by ``send`` whose peer's lease ended, or left when this node stopped."""
    overflows: int = 0
    """Items refused because the send queue was full, or one item was too large."""
    refused: int = 0
    """Items refused because the peer's circuit is open."""
    stale: int = 0
    """Items received for an earlier epoch of this node."""
    gaps: int = 0
    """How often numbers were missing."""
    lost: int = 0
    """How many numbers were missing: items sent to this node that never arrived."""
    late: int = 0
    """Items dropped because later ones arrived before them."""
    malformed: int = 0
    """Messages dropped because of their shape or version."""
    refused_peers: int = 0
    """Connections to the RPC ports that ended before authentication."""
    call_failures: int = 0
    """Queries of this node that ended in :class:`PeerUnavailable`."""
    call_seconds: Histogram = field(default_factory=Histogram)
    """Duration of the answered queries, including answers with an error code."""
    answered: int = 0
    """Queries of other nodes that this node answered."""
    busy: int = 0
    """Queries of other nodes refused because too many were in work."""
    breaker_opens: int = 0
    restarts: int = 0
    """Number of restarts of a receiver. Above 0: a defect."""


class SendQueue:
    """The items queued for one peer, bounded in number and bytes. Owner: the peer; never switches."""

    def __init__(self, limit_items: int, limit_bytes: int) -> None:
        self.items: deque[bytes] = deque()
        self.bytes = 0
        self._limit_items = limit_items
        self._limit_bytes = limit_bytes

    def add(self, item: bytes) -> bool:
        """Append an item. False: the queue is full."""
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
        """Drop all items; returns their number."""
        count = len(self.items)
        self.items.clear()
        self.bytes = 0
        return count


class SequenceTracker:
    """The next expected number of each sender. Owner: the RPC; never switches."""

    def __init__(self, counters: RpcCounters) -> None:
        self._counters = counters
        self._next: dict[int, int] = {}
        """By the sender's epoch; the most recent sender is last."""

    def accept(self, sender: int, first: int, count: int) -> bool:
        """Whether to deliver ``count`` items from number ``first`` on.

        A new sender starts with 1, so items lost before its first batch count as lost. Late batches (after a
        reconnect) are dropped, to keep the order.
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
        if len(self._next) > LIVES:
            del self._next[next(iter(self._next))]
        return True

    def forget(self) -> None:
        """Expect 1 from everybody: this node has a new epoch."""
        self._next.clear()
