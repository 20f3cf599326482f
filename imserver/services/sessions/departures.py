"""Departures: the registry is told, by greenlets of its own, that sessions are over."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event as Signal

from imserver.cluster.registry import Session

if TYPE_CHECKING:
    from imserver.cluster.redis.registry import RedisRegistry

log = logging.getLogger(__name__)

WORKERS = 64
"""Sessions whose end is told at once; they share the registry's pipelines."""
_LOOK_SECONDS = 0.01


class Departures:
    """Owner of the queue and of the greenlets that empty it.

    ``on_exit`` is called with the session whose end took its user offline.
    """

    def __init__(self, registry: RedisRegistry, on_exit: Callable[[Session], None]) -> None:
        self._registry = registry
        self._on_exit = on_exit
        self._waiting: deque[tuple[Session, bool]] = deque()
        self._wake = Signal()
        self._telling = 0
        self._workers: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Begin to tell."""
        self._workers = [gevent.spawn(self._run) for _ in range(WORKERS)]

    def stop(self) -> None:
        """End the greenlets; what has not been told is not."""
        gevent.killall(self._workers)

    def add(self, session: Session, last_here: bool) -> None:
        """A session is over. Never switches.

        ``last_here``: nobody addressed is left of its user on this node. That decides where the registry does
        not answer.
        """
        self._waiting.append((session, last_here))
        self._wake.set()

    def pending(self) -> bool:
        """Whether anything is still to be told, or being told."""
        return bool(self._waiting or self._telling)

    def flush(self, seconds: float) -> bool:
        """Wait until everything is told, for at most ``seconds``; whether it is."""
        deadline = monotonic() + seconds
        while self.pending() and monotonic() < deadline:
            gevent.sleep(_LOOK_SECONDS)
        return not self.pending()

    def _run(self) -> None:
        """Greenlet: tell of one departure after the other."""
        while True:
            self._wake.wait()
            if not self._waiting:
                self._wake.clear()
                continue
            session, last_here = self._waiting.popleft()
            self._telling += 1
            try:
                gone = self._registry.unregister(session)
                if gone or (gone is None and last_here):
                    self._on_exit(session)
            except Exception:
                log.exception("the end of a session of %s in %s failed", session.user, session.app)
            finally:
                self._telling -= 1
