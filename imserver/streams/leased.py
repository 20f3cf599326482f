"""What one node does for all: it renews a lease, and looks for work when there is news."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event as Signal

from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.logging import RateLimitedLog
from imserver.streams.consumer import DeliveryLease

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2
"""Least time between two looks, so that a busy app costs few."""


class LeasedWork:
    """Owner of the signal that there is news.

    ``renew`` takes or renews the lease, and learns what there is to do. ``look`` looks for new work, also
    after each renewal: it finds what nodes have stored whose messages to this one were lost. Both may switch,
    and raise StorageUnavailable. ``name``, in the plural, is for log lines.
    """

    def __init__(self, name: str, renew: Callable[[], object], look: Callable[[], object]) -> None:
        self._name = name
        self._renew = renew
        self._look = look
        self.news = Signal()
        """Set when there may be work: ``LogFollower.watch`` of the messenger does so."""
        self._trouble = RateLimitedLog(log, f"{name} wait: %s")
        self._has_changed = False
        self.has_ended = False

    def changed(self) -> None:
        """What there is to do was changed on this node: renew at once. Never switches."""
        self._has_changed = True
        self.news.set()

    def end(self) -> None:
        """Do nothing more. Never switches."""
        self.has_ended = True
        self.news.set()

    def run(self) -> None:
        """Greenlet: renew the lease, and look when there is news, until :meth:`end`."""
        renew_at = 0.0
        while not self.has_ended:
            looked = monotonic()
            try:
                if self._has_changed or looked >= renew_at:
                    self._has_changed = False
                    renew_at = looked + until_beat(DeliveryLease.RENEW_SECONDS)
                    self._renew()
                self._look()
            except StorageUnavailable as error:
                self._trouble(error)
            except Exception:
                log.exception("%s failed", self._name)
            if self.news.wait(max(renew_at - monotonic(), 0.0)):
                gevent.sleep(max(looked + LOOK_SECONDS - monotonic(), 0.0))
                self.news.clear()
