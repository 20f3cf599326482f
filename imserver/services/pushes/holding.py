"""Holding: pushes for absent users, kept in this node's memory until a login or until their time is over.

Nothing of it outlives the node. Whoever logs in, on whatever node, is told within about a second, in the
order of the pushes; a later push to the same user goes behind what is held for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic
from typing import Final, Protocol

import gevent
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.clock import until_beat
from imserver.model import Event
from imserver.services.pushes.pushing import Outcome

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
LOOK_USERS: Final = 1000
"""Users that are asked for together."""
_ENTRY_BYTES: Final = 400


class Reaches(Protocol):
    """What tells users; :class:`imserver.services.pushes.pushing.Pushes` does it."""

    def reach(self, app: str, users: Sequence[str], event: Event, device: str | None = None) -> list[Outcome]:
        """Tell many users the same."""


class Present(Protocol):
    """What knows who is online; :class:`imserver.services.sessions.presence.Presence` does."""

    def are_online(self, app: str, users: Sequence[str]) -> list[bool]:
        """Whether a session of each user lives anywhere."""


class Held(Struct, gc=False):
    """One push, on ``device`` (None: on all), until the monotonic time ``until``."""

    event: Event
    device: str | None
    until: float

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return _ENTRY_BYTES + len(self.event.text) + len(self.event.data)


class _Queue:
    """What is held for one user by number, the oldest first. Whoever delivers of it has ``turn``."""

    __slots__ = ("pushes", "turn")

    def __init__(self) -> None:
        self.pushes: dict[int, Held] = {}
        self.turn = BoundedSemaphore(1)


class Holding:
    """Owner of all that is held: at most ``limit_pushes`` and ``limit_bytes``. More is not taken."""

    def __init__(
        self,
        pushes: Reaches,
        presence: Present,
        limit_pushes: int,
        limit_bytes: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.limit_pushes = limit_pushes
        self.limit_bytes = limit_bytes
        self.count = 0
        self.bytes = 0
        self.expired = 0
        """Pushes whose user did not come in time."""
        self._pushes = pushes
        self._presence = presence
        self._clock = clock
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._numbers = count()
        self._next_expiry = float("inf")

    def hold(self, app: str, user: str, event: Event, seconds: float, device: str | None = None) -> bool:
        """Keep a push for ``seconds``; False if there is no room for it. Never switches."""
        held = Held(event, device, self._clock() + seconds)
        if self.count >= self.limit_pushes or self.bytes + held.size > self.limit_bytes:
            return False
        queue = self._queues.get((app, user))
        if queue is None:
            queue = self._queues[app, user] = _Queue()
        queue.pushes[next(self._numbers)] = held
        self.count += 1
        self.bytes += held.size
        self._next_expiry = min(self._next_expiry, held.until)
        return True

    def waits_for(self, app: str, user: str) -> bool:
        """Whether anything is held for a user. Never switches."""
        return (app, user) in self._queues

    def deliver(self, app: str, user: str) -> None:
        """Tell a user what is held for them, if they are there now."""
        queue = self._queues.get((app, user))
        if queue is None:
            return
        with queue.turn:
            for number, held in tuple(queue.pushes.items()):
                if held.until <= self._clock():
                    continue  # the next look counts it
                if self._pushes.reach(app, [user], held.event, held.device)[0] is Outcome.SENT:
                    self._drop(queue, number)
                elif held.device is None:
                    break
            if not queue.pushes and self._queues.get((app, user)) is queue:
                del self._queues[app, user]

    def run(self) -> None:
        """Greenlet: look each second for those who have come."""
        while True:
            gevent.sleep(until_beat(LOOK_SECONDS))
            if self._queues:
                try:
                    self.look()
                except Exception:
                    log.exception("looking for users with held pushes failed")

    def look(self) -> None:
        """Forget what is over, and deliver to whoever is there now."""
        if self._clock() >= self._next_expiry:
            self._expire()
        users: dict[str, list[str]] = {}
        for app, user in self._queues:
            users.setdefault(app, []).append(user)
        for app, names in users.items():
            for start in range(0, len(names), LOOK_USERS):
                some = names[start : start + LOOK_USERS]
                for user, online in zip(some, self._presence.are_online(app, some), strict=True):
                    if online:
                        self.deliver(app, user)

    def _expire(self) -> None:
        now = self._clock()
        soonest = float("inf")
        for who, queue in tuple(self._queues.items()):
            for number, held in tuple(queue.pushes.items()):
                if held.until <= now:
                    self._drop(queue, number)
                    self.expired += 1
                else:
                    soonest = min(soonest, held.until)
            if not queue.pushes:
                del self._queues[who]
        self._next_expiry = soonest

    def _drop(self, queue: _Queue, number: int) -> None:
        """Forget one push, unless somebody else has meanwhile."""
        held = queue.pushes.pop(number, None)
        if held is not None:
            self.count -= 1
            self.bytes -= held.size
