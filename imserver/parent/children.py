"""The children: forked, looked after, drained, reaped, and forked again."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from gevent import monkey

from imserver.config import Config
from imserver.errors import StartError
from imserver.parent import child, provision
from imserver.parent.inbox import Inbox
from imserver.parent.listening import close
from imserver.parent.slot import Slot, State

_LOOK_SECONDS: Final = 1.0
_STACK_SECONDS: Final = 1.0
"""Between the order to write the stack and the kill."""
_DRAIN_SECONDS: Final = 30.0
"""A drain may take so much longer than its settings say."""
_AT_ONCE_SECONDS: Final = 5.0

# The patched ones would make a loop.
_fork: Final = monkey.get_original("os", "fork")
_waitpid: Final = monkey.get_original("os", "waitpid")


class Children:
    """Owner of what is in the slots.

    ``say`` tells people what is done. ``let_go`` is called in each child, to close what is the parent's own.
    """

    def __init__(
        self,
        config: Config,
        read_config: Callable[[], Config],
        slots: Sequence[Slot],
        inbox: Inbox,
        say: Callable[[int, str], None],
        let_go: Callable[[], None],
    ) -> None:
        self.config = config
        """For those that are started from now on."""
        self.generation = 0
        self.settled = False
        """All have served once: from now on one that fails is started again."""
        self.ending = False
        self.failure: StartError | None = None
        """Why the start has failed."""
        self.bad_ends = 0
        """Children that did not end in good order when they should."""
        self._read_config = read_config
        self._slots = slots
        self._inbox = inbox
        self._say = say
        self._let_go = let_go
        self._lifeline = os.pipe()
        self._starting_at_once = max(os.cpu_count() or 1, 2)
        self._looked_at = time.monotonic()

    @property
    def any(self) -> bool:
        """Whether one is left."""
        return any(slot.pid for slot in self._slots)

    @property
    def starting(self) -> int:
        """How many are on their way."""
        return sum(slot.state is State.STARTING for slot in self._slots)

    def turn(self, now: float) -> None:
        """Bury, look after, and start those that are due."""
        self._reap(now)
        self._look(now)
        for slot in self._slots:
            # Not all at once: each would take so long that it looks as if it hung.
            if self.ending or self.starting >= self._starting_at_once:
                break
            if slot.state is State.DOWN and slot.due <= now:
                self._start(slot, now)
        if not self.settled and not self.ending:
            self.settled = all(slot.state is State.SERVING for slot in self._slots)

    def next_turn(self, now: float) -> float:
        """Seconds until there is something to do, if nothing happens before."""
        times = [
            slot.deadline if slot.pid else slot.due for slot in self._slots if slot.pid or not self.ending
        ]
        return max(min([*times, now + self._look_seconds]) - now, 0.0)

    @property
    def _look_seconds(self) -> float:
        """Between two looks at the children, at most; and between two beats of theirs."""
        return min(_LOOK_SECONDS, self.config.server.hang_seconds / 4)

    # --- life -----------------------------------------------------------------------------------------------

    def _start(self, slot: Slot, now: float) -> None:
        slot.page.clear()
        inheritance = self._inheritance(slot)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()  # or the child would have a copy of what waits
        with self._inbox.held():
            try:
                pid = _fork()
            except OSError as error:
                slot.since = now
                self._failed(slot, now, f"cannot be forked: {error.strerror}")
                return
            if pid == 0:
                child.live(inheritance)
        slot.forked(pid, now, self.generation)

    def _inheritance(self, slot: Slot) -> child.Inheritance:
        reading, writing = self._lifeline
        foreign = [other.listeners for other in self._slots if other is not slot]

        def let_go() -> None:
            self._inbox.leave()
            os.close(writing)
            for listeners in foreign:
                close(listeners)
            self._let_go()

        return child.Inheritance(
            slot,
            provision.of_slot(self.config, slot.number),
            lambda: provision.of_slot(self._read_config(), slot.number),
            reading,
            let_go,
            self._look_seconds,
        )

    def _reap(self, now: float) -> None:
        while True:
            try:
                pid, status = _waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for slot in self._slots:
                if slot.pid == pid:
                    self._ended(slot, os.waitstatus_to_exitcode(status), now)

    def _ended(self, slot: Slot, code: int, now: float) -> None:
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        how += f": {slot.page.text}" if slot.page.text else ""
        if slot.state is not State.DRAINING:
            self._failed(slot, now, how)
            return
        if code and slot.page.started:
            self.bad_ends += self.ending
            self._say(logging.WARNING, f"node {slot.name} (pid {slot.pid}): its drain {how}")
        slot.ended(now, planned=True)

    def _failed(self, slot: Slot, now: float, how: str) -> None:
        """A child has ended by itself, or has never begun."""
        if not self.settled:
            # A start succeeds as a whole or not at all: what one lacks, the others most probably lack too.
            self.failure = StartError(f"node {slot.name}: {slot.page.text or how}")
            slot.ended(now, planned=True)
            self.drain_all()
            return
        who, lived = f"node {slot.name} (pid {slot.pid})", now - slot.since
        pause = slot.ended(now, planned=False)
        self._say(logging.ERROR, f"{who} {how}, after {lived:.1f} s; starts again in {pause:.1f} s")

    # --- looking after them ---------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        # After a pause of our own the silence of the children says nothing.
        missed = max(now - self._looked_at - 2 * self._look_seconds, 0.0)
        self._looked_at = now
        for slot in self._slots:
            if not slot.pid:
                continue
            if slot.look(now, missed):
                self._say(logging.INFO, f"node {slot.name} (pid {slot.pid}) serves")
                for number in slot.waiting_signals:
                    os.kill(slot.pid, number)
                slot.waiting_signals.clear()
            if not slot.hangs and slot.silence(now) >= self.config.server.hang_seconds:
                self._hangs(slot, now)
            if now >= slot.deadline:
                os.kill(slot.pid, signal.SIGKILL)
                slot.deadline = now + _LOOK_SECONDS

    def _hangs(self, slot: Slot, now: float) -> None:
        slot.hangs = True
        self._say(
            logging.ERROR,
            f"node {slot.name} (pid {slot.pid}): its loop stands still for {slot.silence(now):.0f} s, killing"
            " it; its stack is on standard error, unless it cannot even write that",
        )
        os.kill(slot.pid, child.STACK)
        slot.deadline = min(slot.deadline, now + _STACK_SECONDS)

    # --- orders ---------------------------------------------------------------------------------------------

    def pass_on(self, number: int) -> None:
        """Send a signal to all; to those that do not serve yet as soon as they do."""
        for slot in self._slots:
            if slot.state is State.STARTING:
                slot.waiting_signals.append(number)
            elif slot.pid:
                os.kill(slot.pid, number)

    def drain(self, slot: Slot) -> None:
        """End a child in good order."""
        slot.state = State.DRAINING
        drain, websocket = self.config.drain, self.config.websocket
        seconds = drain.delay_seconds + drain.close_seconds + websocket.close_seconds + _DRAIN_SECONDS
        slot.deadline = min(slot.deadline, time.monotonic() + seconds)
        os.kill(slot.pid, signal.SIGTERM)

    def drain_all(self) -> None:
        """End all in good order and start none again; give up their listeners."""
        self.ending = True
        for slot in self._slots:
            close(slot.listeners)
        for slot in self._slots:
            if slot.pid and slot.state is not State.DRAINING:
                self.drain(slot)

    def end_at_once(self) -> None:
        """Hurry those that drain."""
        for slot in self._slots:
            if slot.pid:
                slot.deadline = min(slot.deadline, time.monotonic() + _AT_ONCE_SECONDS)
                os.kill(slot.pid, signal.SIGTERM)
