"""One place for a child: who is in it, since when, and when the next one is due."""

import math
import random
from enum import Enum
from typing import Final

from imserver.parent.listening import Listeners
from imserver.parent.page import Page

_SHORTEST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
_GOOD_LIFE_SECONDS: Final = 60.0
"""A child that lived for so long was no failure."""
_MOST_DOUBLINGS: Final = 16
_LATE_SECONDS: Final = 5.0
"""A child whose loop stands still for so long gets no new clients."""


class State(Enum):
    """What a slot's child does."""

    DOWN = "down"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Slot:
    """Owned by the parent. ``number`` counts from 0 and gives the ports; ``name`` is the node's id."""

    def __init__(self, number: int, name: str, listeners: Listeners) -> None:
        self.number = number
        self.name = name
        self.listeners = listeners
        self.page = Page()
        self.state = State.DOWN
        self.pid = 0
        self.generation = 0
        """How many rolling restarts had begun when its child was forked."""
        self.since = 0.0
        """When its child was forked, or ended."""
        self.due = 0.0
        """When the next child is to start, while there is none."""
        self.deadline = math.inf
        """When its child is killed, should it still live."""
        self.hangs = False
        self.failures = 0
        """Children in a row that ended by themselves before long."""
        self.waiting_signals: list[int] = []
        """Passed on when the child serves: before, they would end it or be lost."""
        self._beats = 0
        self._beat_at = 0.0

    def forked(self, pid: int, now: float, generation: int) -> None:
        """A child begins."""
        self.pid, self.since, self.generation = pid, now, generation
        self.state, self.deadline, self.hangs = State.STARTING, math.inf, False
        self._beats, self._beat_at = 0, now

    def look(self, now: float, missed: float) -> bool:
        """Read what the child tells; whether it has just begun to serve.

        ``missed`` are seconds in which nobody looked; they do not count as its silence.
        """
        beats = self.page.beats
        if beats != self._beats:
            self._beats, self._beat_at = beats, now
        else:
            self._beat_at += missed
        if self.state is State.STARTING and self.page.started:
            self.state = State.SERVING
            return True
        return False

    def silence(self, now: float) -> float:
        """For how many seconds the child's loop has not turned."""
        return now - self._beat_at

    def takes_clients(self, now: float) -> bool:
        """Whether new clients are well served here."""
        page = self.page
        return (
            self.state is State.SERVING and page.ready and not page.full and self.silence(now) < _LATE_SECONDS
        )

    def ended(self, now: float, planned: bool) -> float:
        """The child is gone: the seconds until the next one is due.

        None if it was planned; else anywhere below a bound that doubles with each failure, so that children
        that fail for the same reason do not all come back at once.
        """
        if planned or now - self.since >= _GOOD_LIFE_SECONDS:
            self.failures = 0
        bound = min(_SHORTEST_PAUSE_SECONDS * 2**self.failures, _LONGEST_PAUSE_SECONDS)
        pause = 0.0 if planned else random.uniform(0.0, bound)
        self.failures = 0 if planned else min(self.failures + 1, _MOST_DOUBLINGS)
        self.state, self.pid, self.since, self.due = State.DOWN, 0, now, now + pause
        self.waiting_signals.clear()
        return pause
