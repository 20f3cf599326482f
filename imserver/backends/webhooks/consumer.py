"""The consumer: delivers the items of a source to one receiver, in order and at
least once.

Its owner brings four functions: they read the next item, deliver it, store the
position, and tell when there is something to do that no news announces. The
consumer has the rest: the lease, repeats with pauses, and when to store.
Each receiver has a consumer, so one that hangs or fails holds up nobody else.
What one node does for all receivers is :class:`LeasedWork`: it renews a lease,
and looks for work when there is news.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, Final, Generic, TypeVar

import gevent
from gevent.event import Event as Flag
from msgspec import Struct

from imserver.plugin.errors import ImserverError, StorageUnavailable
from imserver.plugin.runtime import RateLimitedLog, Service, retry_pause, until_beat

log = logging.getLogger(__name__)

CLOCK_SECONDS: Final = 1
"""How much earlier a lease may end: the clock of the database has whole
seconds."""
SAVE_SECONDS: Final = 1.0
"""How often a position is stored while the receiver takes everything. After a
node was killed, the items that it delivered in this time are delivered
again."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 1.0
"""Pause while the database does not answer, or this node does not hold the
lease."""
LOOK_SECONDS: Final = 0.2
"""Least time between two looks for work, so that a busy app costs few."""

Batch = TypeVar("Batch")
_trouble: Final = RateLimitedLog(log, "%s waits: %s")


def _is_never_due() -> None:
    """The news announce everything that there is to read."""


class NotOwner(ImserverError):
    """Another node has the lease."""


class DeliveryLease(Service):
    """The right to deliver, as far as this node knows: the database has the
    lease itself."""

    SECONDS = 10
    """How long the database grants it."""
    RENEW_SECONDS = 3.0
    """How often it is renewed."""

    until: float = 0.0
    """Until when this node has it (monotonic)."""

    @property
    def is_owned(self) -> bool:
        """Whether this node may deliver."""
        return monotonic() < self.until

    def renew(self, since: float, is_granted: bool) -> bool:
        """Note the answer to a request that was made at ``since`` (monotonic).

        Whether this node has had the lease without a break. If not, another
        node may have delivered meanwhile: consumers begin anew at the positions
        that are stored.
        """
        is_unbroken = is_granted and since < self.until
        if is_granted:
            self.until = since + self.SECONDS - CLOCK_SECONDS
        else:
            self.until = 0.0
        return is_unbroken


class Failure(Struct, frozen=True):
    """Why a receiver has not taken a batch.

    ``longest_pause``: the limit of the pause before the next attempt, in
    seconds; None: the usual one. ``is_dead``: there is no other attempt. The
    batch was dropped, or stored among dead events.
    """

    text: str
    longest_pause: float | None = None
    is_dead: bool = False


class Consumer(Generic[Batch]):
    """Delivers to one receiver while this node has the lease. It has a greenlet
    while there is work.

    - ``read``: the next batch, behind the last one that was delivered; None:
      there is none. Nothing else of it waits in memory here.
    - ``deliver``: tries to deliver a batch. None: done, also if parts are to be
      tried later. It is called again with the same batch after a failure.
    - ``save``: stores the position; None: it is in memory only.
    - ``until_due``: seconds until there is something to read that :meth:`wake`
      does not announce; None: there is nothing.

    The functions may switch, and raise StorageUnavailable and
    :class:`NotOwner`; ``until_due`` may not. ``name`` is for log lines.
    """

    def __init__(
        self,
        name: str,
        lease: DeliveryLease,
        read: Callable[[], Batch | None],
        deliver: Callable[[Batch], Failure | None],
        save: Callable[[], None] | None = None,
        until_due: Callable[[], float | None] = _is_never_due,
    ) -> None:
        self._name = name
        self._lease = lease
        self._read = read
        self._deliver = deliver
        self._save = save
        self._until_due = until_due
        self.failures = 0
        """Attempts that have failed one after the other."""
        self.since = 0.0
        """When the batch was tried first (monotonic)."""
        self.is_unsaved = False
        """Whether the position has moved since it was stored."""
        self._saved_at = monotonic()
        self._batch: Batch | None = None
        self._news = Flag()
        self._retry = Flag()
        """Set when the next attempt shall not wait."""
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._has_ended = False

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do, as far as it is known."""
        return self._greenlet is not None

    def wake(self) -> None:
        """There may be something to read. Never switches."""
        self._news.set()
        if self._greenlet is None and not self._has_ended:
            self._greenlet = gevent.spawn(self._run)

    def retry(self) -> None:
        """The receiver was changed: try again at once. Never switches."""
        self._retry.set()
        self.wake()

    def save(self) -> None:
        """Store the position, if it has moved. Switches. Raises
        StorageUnavailable."""
        self._saved_at = monotonic()
        if not self.is_unsaved or self._save is None:
            return
        # A position that is reached meanwhile is stored the next time.
        self.is_unsaved = False
        try:
            self._save()
        except BaseException:
            self.is_unsaved = True
            raise

    def stop(self) -> None:
        """Deliver nothing more. Never switches."""
        self._has_ended = True
        greenlet = self._greenlet
        self._greenlet = None
        if greenlet is not None:
            greenlet.kill(block=False)

    @staticmethod
    def stop_all(consumers: Collection[Consumer[Any]], seconds: float = 1.0) -> None:
        """Stop consumers, wait at most ``seconds`` for their greenlets, and store
        the positions. Switches.

        Raises StorageUnavailable.
        """
        running = [
            consumer._greenlet
            for consumer in consumers
            if consumer._greenlet is not None
        ]
        for consumer in consumers:
            consumer.stop()
        gevent.joinall(running, timeout=seconds)
        for consumer in consumers:
            consumer.save()

    def _run(self) -> None:
        """Greenlet: deliver until there is nothing to do."""
        try:
            while self._step():
                pass
        finally:
            self._greenlet = None

    def _step(self) -> bool:
        """Try to deliver a batch, or wait for one; False: there is nothing to
        do. Switches."""
        try:
            if not self._lease.is_owned:
                gevent.sleep(WAIT_SECONDS)
                return True
            self._news.clear()
            if self._batch is None:
                self._batch = self._read()
                self.since = monotonic()
            batch = self._batch
            if batch is not None and self._lease.is_owned:
                self._try(batch)
            if self._has_ended:
                return False
            if monotonic() - self._saved_at > SAVE_SECONDS:
                self.save()
            return batch is not None or self._wait()
        except NotOwner:
            self._lease.until = 0.0
        except StorageUnavailable as error:
            _trouble(self._name, error)
            gevent.sleep(WAIT_SECONDS)
        except Exception:
            if self._has_ended:
                return False
            log.exception("%s failed", self._name)
            gevent.sleep(WAIT_SECONDS)
        return True

    def _try(self, batch: Batch) -> None:
        self._retry.clear()
        failure = self._deliver(batch)
        if failure is None:
            self.failures = 0
        else:
            self.failures += 1
            if not failure.is_dead:
                longest = failure.longest_pause
                if longest is None:
                    longest = LONGEST_PAUSE_SECONDS
                pause = retry_pause(self.failures, FIRST_PAUSE_SECONDS, longest)
                self._retry.wait(pause)
                return

        # Delivered, or never tried again: the next one may be read.
        self._batch = None
        self.is_unsaved = self._save is not None

    def _wait(self) -> bool:
        """Wait for news; False: nothing else has to be done."""
        pause = self._until_due()
        if self.is_unsaved and (pause is None or pause > SAVE_SECONDS):
            pause = SAVE_SECONDS
        if pause is None and not self._news.is_set():
            return False
        self._news.wait(pause)
        return True


class LeasedWork:
    """Owner of the signal that there is news.

    ``renew`` takes or renews the lease, and learns its work. ``look`` looks for
    new work, also after each renewal: it finds the entries of nodes whose
    messages to this one were lost. Both may switch, and raise
    StorageUnavailable. ``name``, in the plural, is for log lines.
    """

    def __init__(
        self, name: str, renew: Callable[[], object], look: Callable[[], object]
    ) -> None:
        self._name = name
        self._renew = renew
        self._look = look
        self.news = Flag()
        """Set when there may be work: ``LogFollower.watch`` of the messenger
        does so."""
        self._trouble = RateLimitedLog(log, f"{name} wait: %s")
        self._has_changed = False
        self.has_ended = False

    def changed(self) -> None:
        """The work was changed on this node: renew at once. Never switches."""
        self._has_changed = True
        self.news.set()

    def end(self) -> None:
        """Do nothing more. Never switches."""
        self.has_ended = True
        self.news.set()

    def run(self) -> None:
        """Greenlet: renew the lease, and look when there is news, until
        :meth:`end`."""
        renew_at = 0.0
        while not self.has_ended:
            began = monotonic()
            try:
                if self._has_changed or began >= renew_at:
                    self._has_changed = False
                    renew_at = began + until_beat(DeliveryLease.RENEW_SECONDS)
                    self._renew()
                self._look()
            except StorageUnavailable as error:
                self._trouble(error)
            except Exception:
                log.exception("%s failed", self._name)

            until_renewal = renew_at - monotonic()
            if self.news.wait(max(until_renewal, 0.0)):
                until_look = began + LOOK_SECONDS - monotonic()
                gevent.sleep(max(until_look, 0.0))
                self.news.clear()
