"""The rolling restart: one child after the other is drained and replaced, when the one before is ready."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from imserver.parent.slot import Slot, State

_READY_SECONDS: Final = 60.0


class Rolling:
    """Owner of the order in which children are replaced. ``drain`` ends one child in good order."""

    def __init__(
        self, slots: Sequence[Slot], drain: Callable[[Slot], None], say: Callable[[int, str], None]
    ) -> None:
        self._slots = slots
        self._drain = drain
        self._say = say
        self._current: Slot | None = None
        self.active = False
        self.generation = 0

    def begin(self) -> None:
        """Replace all children that run now, from the next turn on."""
        if self.active:
            self._say(logging.WARNING, "a rolling restart is under way already")
            return
        self.active = True
        self.generation += 1
        self._say(logging.INFO, f"rolling restart of {len(self._slots)} nodes")

    def turn(self, now: float) -> None:
        """Go on, if it is time to."""
        if not self.active:
            return
        slot = self._current
        if slot is None:
            self._next()
        elif slot.state is State.DRAINING:
            return
        elif slot.failures:
            self._stop(f"node {slot.name} did not start")
        elif slot.generation == self.generation:
            if slot.state is State.SERVING and slot.page.ready:
                self._next()
            elif now - slot.since > _READY_SECONDS:
                self._stop(f"node {slot.name} is not ready after {_READY_SECONDS:.0f} s")

    def _next(self) -> None:
        # Those that are down, or have failed meanwhile, come back new anyway.
        old = [slot for slot in self._slots if slot.pid and slot.generation < self.generation]
        if old:
            self._current = old[0]
            self._say(logging.INFO, f"node {old[0].name} (pid {old[0].pid}): draining; {len(old)} to restart")
            self._drain(old[0])
        else:
            self._end(logging.INFO, "rolling restart: done")

    def _stop(self, why: str) -> None:
        self._end(logging.ERROR, f"rolling restart stopped: {why}; the other nodes go on as they were")

    def _end(self, level: int, text: str) -> None:
        self.active, self._current = False, None
        self._say(level, text)
