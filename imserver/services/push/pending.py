"""Pending pushes: pushes for absent users, in the memory of this node until a login or until they expire.

A user who logs in, on any node, receives them within about a second, in the order of the pushes; a later push
to the same user goes behind them. Nothing survives the end of the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.clock import until_beat
from imserver.model import Event, Outcome
from imserver.services.push.push import Pushes
from imserver.services.sessions.presence import Presence

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
LOOK_USERS: Final = 1000
"""Users that are asked for together."""
APP_SHARE: Final = 0.75
"""Of the room that other apps leave, the part that one app may use."""
_ENTRY_BYTES: Final = 400


class PendingPush(Struct, gc=False):
    """One push, for ``device`` (None: for all), until the monotonic time ``until``."""

    event: Event
    device: str | None
    until: float

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return _ENTRY_BYTES + len(self.event.text) + len(self.event.data)


class _Queue:
    """The pushes of one user by number, the oldest first. ``turn`` is held while they are delivered."""

    __slots__ = ("pushes", "turn")

    def __init__(self) -> None:
        self.pushes: dict[int, PendingPush] = {}
        self.turn = BoundedSemaphore(1)


class PendingPushes:
    """Owner of all pending pushes of this node: at most ``limit_pushes``, and ``limit_bytes`` of them.

    One app takes at most :data:`APP_SHARE` of what the others leave, so that none can lock the others out.
    """

    def __init__(
        self,
        pushes: Pushes,
        presence: Presence,
        limit_pushes: int,
        limit_bytes: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.limit_pushes = limit_pushes
        self.limit_bytes = limit_bytes
        self.count = 0
        self.bytes = 0
        self.expired = 0
        """Pushes that expired before their user came."""
        self._pushes = pushes
        self._presence = presence
        self._clock = clock
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._used: dict[str, tuple[int, int]] = {}
        """App → its pushes, and their bytes."""
        self._numbers = count()
        self._next_expiry = float("inf")

    def add(self, app: str, user: str, event: Event, seconds: float, device: str | None = None) -> bool:
        """Store a push for ``seconds``; False if there is no room for it. Never switches."""
        push = PendingPush(event, device, self._clock() + seconds)
        if not self._has_room(app, push.size):
            return False
        queue = self._queues.get((app, user))
        if queue is None:
            queue = self._queues[app, user] = _Queue()
        queue.pushes[next(self._numbers)] = push
        self._account(app, 1, push.size)
        self._next_expiry = min(self._next_expiry, push.until)
        return True

    def _has_room(self, app: str, size: int) -> bool:
        pushes, used = self._used.get(app, (0, 0))
        return pushes + 1 <= APP_SHARE * (
            self.limit_pushes - self.count + pushes
        ) and used + size <= APP_SHARE * (self.limit_bytes - self.bytes + used)

    def _account(self, app: str, pushes: int, size: int) -> None:
        self.count += pushes
        self.bytes += size
        before = self._used.get(app, (0, 0))
        self._used[app] = before[0] + pushes, before[1] + size
        if not self._used[app][0]:
            del self._used[app]

    def waits_for(self, app: str, user: str) -> bool:
        """Whether a user has pending pushes. Never switches."""
        return (app, user) in self._queues

    def deliver(self, app: str, user: str) -> None:
        """Deliver the pending pushes of a user, if they are online. Switches."""
        queue = self._queues.get((app, user))
        if queue is None:
            return
        with queue.turn:
            for number, push in tuple(queue.pushes.items()):
                if push.until <= self._clock():
                    continue  # the next look counts it
                if self._pushes.reach(app, [user], push.event, push.device)[0] is Outcome.SENT:
                    self._drop(app, queue, number)
                elif push.device is None:
                    break
            if not queue.pushes and self._queues.get((app, user)) is queue:
                del self._queues[app, user]

    def run(self) -> None:
        """Greenlet: look once per second for users who have come."""
        while True:
            gevent.sleep(until_beat(LOOK_SECONDS))
            if self._queues:
                try:
                    self.look()
                except Exception:
                    log.exception("looking for users with pending pushes failed")

    def look(self) -> None:
        """Drop what has expired, and deliver to users who are online now."""
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
        for (app, user), queue in tuple(self._queues.items()):
            for number, push in tuple(queue.pushes.items()):
                if push.until <= now:
                    self._drop(app, queue, number)
                    self.expired += 1
                else:
                    soonest = min(soonest, push.until)
            if not queue.pushes:
                del self._queues[app, user]
        self._next_expiry = soonest

    def _drop(self, app: str, queue: _Queue, number: int) -> None:
        """Remove one push, unless somebody else has meanwhile."""
        push = queue.pushes.pop(number, None)
        if push is not None:
            self._account(app, -1, -push.size)
