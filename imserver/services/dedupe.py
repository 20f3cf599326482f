"""Remembers message ids, so that a repeated push is delivered once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

from gevent.event import Event

UNTRACKED = 0
"""The key of an empty id: always yours, never remembered."""

_MASK = 2**60 - 1


class Dedupe:
    """first working version"""

    def __init__(
        self, limit: int, seconds: float, *, shared: bool = True, clock: Callable[[], float] = monotonic
    ) -> None:
        self.limit = limit
        self.seconds = seconds
        self.shared = shared
        self.repeats = 0
        self.evicted = 0
        self._clock = clock
        self._accepted: dict[int, float] = {}
        self._order: deque[int] = deque()
        self._pending: dict[int, Event | None] = {}

    def __len__(self) -> int:
        return len(self._order)

    def claim(self, app: str, msg_id: str) -> int | None:
        """Claim an id before delivery. Returns the key to settle, or None if the id was accepted before."""
        if not msg_id:
            return UNTRACKED
        key = (hash(msg_id) if self.shared else hash((app, msg_id))) & _MASK
        while True:
            if key in self._accepted:
                self.repeats += 1
                return None
            if key not in self._pending:
                self._pending[key] = None
                return key
            outcome = self._pending[key]
            if outcome is None:
                outcome = self._pending[key] = Event()
            outcome.wait()

    def settle(self, key: int, accepted: bool) -> None:
        """End a claim: remember the id, or release it."""
        if not key:
            return
        outcome = self._pending.pop(key)
        if accepted:
            self._accepted[key] = self._clock()
            self._order.append(key)
            while len(self._order) > self.limit:
                del self._accepted[self._order.popleft()]
                self.evicted += 1
        if outcome is not None:
            outcome.set()
