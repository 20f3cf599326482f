"""Signals for a process without a loop, and what a forked child does with those of its parent."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gevent import monkey

#: Replaces the children one after the other. Chosen because a process that does not know it ignores it.
ROLL: Final = signal.SIGURG
#: Ends all children in good order; a second one at once.
DRAIN: Final = (signal.SIGTERM, signal.SIGINT)
#: Passed on to all children.
PASSED_ON: Final = (signal.SIGUSR1, signal.SIGUSR2)

_HANDLED: Final = (*DRAIN, signal.SIGHUP, *PASSED_ON, ROLL, signal.SIGCHLD)

# The patched ones would make a loop.
_set_handler: Final = monkey.get_original("signal", "signal")
_select: Final = monkey.get_original("select", "select")


class Inbox:
    """The signals that came since the last look. Owned by the parent; one a process."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        for number in _HANDLED:
            _set_handler(number, _noted)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> list[int]:
        """Wait for signals, or for so long; those that came, in order."""
        if not _select([self._reading], [], [], seconds)[0]:
            return []
        return list(os.read(self._reading, 4096))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, signals wait. For the moment of a fork, in which a child would take its parent's."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def leave(self) -> None:
        """In a child: let go of the parent's signals. Only those that end it count until it has its own."""
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)
        for number in _HANDLED:
            ends = number in (*DRAIN, signal.SIGCHLD)
            _set_handler(number, signal.SIG_DFL if ends else signal.SIG_IGN)
        # The parent answers for the terminal: a child in the background may still write to it.
        _set_handler(signal.SIGTTOU, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def _noted(number: int, frame: Any) -> None:
    """The interpreter has written the number to the pipe already."""
