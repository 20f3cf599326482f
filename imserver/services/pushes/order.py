"""Order: what one node pushes to a user arrives in the order in which it was sent, wherever the user goes.

What one node sends to another keeps its order by itself. A user who moves breaks that: a push on its way to
the node that they have left has to follow them (:mod:`imserver.services.pushes.strays`), and one that was
sent later goes straight to the new node. So each push has a number of its sender's. Where somebody has come
a moment ago, a follower that was overtaken is dropped; and a sender that finds a user elsewhere than a
moment ago waits a little before it goes on, so that nothing is overtaken unless something is broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

from imserver.services.sessions.presence import Known

FOLLOW_SECONDS = 0.05
"""Time for what is on its way to a node to follow its user to another one."""
MOMENT_SECONDS = 1.0
"""A push that was sent longer ago has arrived."""
MAX_ROUTES = 10_000
ARRIVAL_SECONDS = 10.0
"""For so long followers may come behind somebody who has come."""


class Routes:
    """Which node this one pushed to last, for the users it pushed to last. Owner of that memory."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._routes: dict[tuple[str, str], tuple[int, float, float]] = {}
        """User → (epoch, when a push went there, until when pushes wait); who was pushed to last is last."""

    def wait_seconds(self, app: str, user: str, epoch: int) -> float:
        """How long a push that is to go to ``epoch`` has to wait. Never switches."""
        now = self._clock()
        before = self._routes.pop((app, user), None)
        until = 0.0
        if before is not None:
            last, sent_at, until = before
            if last != epoch and now < max(sent_at, until) + MOMENT_SECONDS:
                until = now + FOLLOW_SECONDS
        elif len(self._routes) >= MAX_ROUTES:
            del self._routes[next(iter(self._routes))]
        self._routes[app, user] = (epoch, now, until)
        return max(until - now, 0.0)


class Arrivals:
    """Who has come to this node a moment ago, and which pushes have reached them. Owner of that memory.

    Never switches. ``origin`` names the sender of a push, ``number`` counts its pushes.
    """

    def __init__(self, hub: Known, clock: Callable[[], float] = monotonic) -> None:
        self._hub = hub
        self._clock = clock
        self._reached: dict[tuple[str, str], dict[int, int]] = {}
        """User → the last number of each origin."""
        self._ends: deque[tuple[float, tuple[str, str]]] = deque()
        """When each of them has been here for long enough."""
        self._until: dict[tuple[str, str], float] = {}

    def came(self, app: str, user: str) -> None:
        """A session of the user has begun here."""
        now, who = self._clock(), (app, user)
        while self._ends and self._ends[0][0] <= now:
            _, old = self._ends.popleft()
            if self._until.get(old, now + 1) <= now:
                del self._until[old]
                self._reached.pop(old, None)
        self._ends.append((now + ARRIVAL_SECONDS, who))
        self._until[who] = now + ARRIVAL_SECONDS

    def reached(self, app: str, user: str, origin: int, number: int) -> None:
        """A push has reached the user here."""
        who = app, user
        if who in self._until:
            self._reached.setdefault(who, {})[origin] = number

    def is_overtaken(self, app: str, user: str, origin: int, number: int) -> bool:
        """Whether a later push of the same origin has reached the user here, or may have: too long ago."""
        if not self._hub.is_online(app, user):
            return False
        who = app, user
        if self._until.get(who, 0.0) < self._clock():
            return True
        return self._reached.get(who, {}).get(origin, 0) >= number
