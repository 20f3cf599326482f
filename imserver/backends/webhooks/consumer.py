"""The consumer: delivers the items of a source to one receiver, in order and at
least once.

Its owner passes four functions: read the next item, deliver it, store the
position, and tell when something will be due that nobody announces. The
consumer adds the rest: the lease, attempts with pauses, and when to store.

Each receiver has a consumer, so a receiver that hangs or fails delays nobody
else. The class :class:`LeasedWork` is the part that one node does for all
receivers: it renews a lease, and looks for work when there is news.
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
"""How much earlier than on the database a lease ends here: the clock of the
database has whole seconds."""
SAVE_SECONDS: Final = 1.0
"""How often a position is stored while the receiver takes everything. If a node
dies, the next node delivers the items of this time again."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 1.0
"""Pause while the database does not answer, or another node has the lease."""
LOOK_SECONDS: Final = 0.2
"""Least time between two calls of ``look``, so that a busy app causes few of
them."""

Batch = TypeVar("Batch")
_trouble: Final = RateLimitedLog(log, "%s waits: %s")


def _never_due() -> None:
    """The ``until_due`` of consumers without a timetable: nothing will be due.

    :meth:`Consumer.wake` announces everything that such a consumer has to read.
    """


class NotOwner(ImserverError):
    """This node does not have the lease: another node has taken it."""


class DeliveryLease(Service):
    """The right to deliver, as far as this node knows.

    One node at a time has it, so that nothing is delivered twice. The lease
    itself is in the database, and ends if it is not renewed.
    """

    SECONDS = 10
    """How long the database grants the lease."""
    RENEW_SECONDS = 3.0
    """How often this node renews the lease."""

    until: float = 0.0
    """The time until which this node has the lease (monotonic)."""

    @property
    def is_owned(self) -> bool:
        """Whether this node may deliver."""
        return monotonic() < self.until

    def renew(self, since: float, is_granted: bool) -> bool:
        """Note the answer to a request for the lease.

        ``since``: when the request was sent (monotonic). Returns whether this
        node has had the lease without a break. If not, another node may have
        delivered meanwhile: consumers must begin again at the stored positions.
        """
        is_unbroken = is_granted and since < self.until
        if is_granted:
            self.until = since + self.SECONDS - CLOCK_SECONDS
        else:
            self.until = 0.0
        return is_unbroken


class Failure(Struct, frozen=True):
    """The reason why a receiver has not taken a batch.

    ``longest_pause``: the limit of the pause before the next attempt, in
    seconds; None: :data:`LONGEST_PAUSE_SECONDS`. ``is_dead``: the batch is not
    tried again. It was dropped, or stored among dead events.
    """

    text: str
    longest_pause: float | None = None
    is_dead: bool = False


class Consumer(Generic[Batch]):
    """Delivers batches to one receiver, in order.

    A greenlet runs while there is work. The owner of a consumer passes these
    functions:

    - ``read``: returns the batch after the last one that was delivered, or None
      if nothing waits. It is called only when the batch before is done.
    - ``deliver``: tries to deliver a batch. Returns None if the batch is done,
      even if parts are to be tried later. After a failure it is called again
      with the same batch.
    - ``save``: stores the position, which is how far the receiver has
      everything. None if the position is in memory only.
    - ``until_due``: returns the seconds until something is due that
      :meth:`wake` does not announce, or None.

    The functions may switch greenlets, and raise StorageUnavailable and
    :class:`NotOwner`. Only ``until_due`` may do neither. ``name`` is for log
    lines.
    """

    def __init__(
        self,
        name: str,
        lease: DeliveryLease,
        read: Callable[[], Batch | None],
        deliver: Callable[[Batch], Failure | None],
        save: Callable[[], None] | None = None,
        until_due: Callable[[], float | None] = _never_due,
    ) -> None:
        """Make a consumer that sleeps until :meth:`wake`.

        The parameters are described at the class.
        """
        self._name = name
        self._lease = lease
        self._read = read
        self._deliver = deliver
        self._save = save
        self._until_due = until_due
        self.failures = 0
        """The number of failed attempts since the last success."""
        self.first_tried_at = 0.0
        """When the current batch was first tried (monotonic)."""
        self.is_unsaved = False
        """Whether the position has changed since it was stored."""
        self._saved_at = monotonic()
        self._batch: Batch | None = None
        """The batch that is not delivered yet."""
        self._news = Flag()
        """Set if there may be something to read. It ends :meth:`_wait`."""
        self._retry = Flag()
        """Set if the next attempt must not wait. It ends the pause after a
        failure."""
        self._greenlet: gevent.Greenlet[[], None] | None = None
        """Runs :meth:`_run`; None: nothing is left to do."""
        self._has_ended = False

    @property
    def is_busy(self) -> bool:
        """Whether the consumer has something to do, as far as is known."""
        return self._greenlet is not None

    def wake(self) -> None:
        """Begin to read, because there may be something new.

        Never switches greenlets.
        """
        self._news.set()
        if self._greenlet is None and not self._has_ended:
            self._greenlet = gevent.spawn(self._run)

    def retry(self) -> None:
        """Try again at once, because the receiver was changed.

        Never switches greenlets.
        """
        self._retry.set()
        self.wake()

    def save(self) -> None:
        """Store the position, if it has changed since it was stored.

        Switches greenlets. Raises StorageUnavailable.
        """
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
        """Deliver nothing more, and cancel what is under way.

        Never switches greenlets.
        """
        self._has_ended = True
        greenlet = self._greenlet
        self._greenlet = None
        if greenlet is not None:
            greenlet.kill(block=False)

    @staticmethod
    def stop_all(consumers: Collection[Consumer[Any]], seconds: float = 1.0) -> None:
        """Stop consumers, and store their positions.

        The method waits at most ``seconds`` for their greenlets. Switches
        greenlets. Raises StorageUnavailable.
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
        """Greenlet: deliver until nothing is left to do."""
        try:
            while self._step():
                pass
        finally:
            self._greenlet = None

    def _step(self) -> bool:
        """Try to deliver a batch, or wait for one.

        Returns False if nothing is left to do, so that the greenlet ends. An
        error never ends it: the next step tries again. Switches greenlets.
        """
        try:
            if not self._lease.is_owned:
                gevent.sleep(WAIT_SECONDS)
                return True
            # Cleared before the query: news during the query sets it again.
            self._news.clear()
            if self._batch is None:
                self._batch = self._read()
                self.first_tried_at = monotonic()
            batch = self._batch
            # The lease may have ended during the query.
            if batch is not None and self._lease.is_owned:
                self._try(batch)
            if self._has_ended:
                return False
            # A receiver that takes everything causes one write a second.
            if monotonic() - self._saved_at > SAVE_SECONDS:
                self.save()
            return batch is not None or self._wait()
        except NotOwner:
            # The database knows better: another node has the lease.
            self._lease.until = 0.0
        except StorageUnavailable as error:
            _trouble(self._name, error)
            gevent.sleep(WAIT_SECONDS)
        except Exception:
            # One batch that fails must not end the consumer.
            if self._has_ended:
                return False
            log.exception("%s failed", self._name)
            gevent.sleep(WAIT_SECONDS)
        return True

    def _try(self, batch: Batch) -> None:
        """Try to deliver a batch, and pause after a failure.

        A batch that was delivered, or that is never tried again, is forgotten.
        So the next step reads another one. Switches greenlets.
        """
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

        # The batch was delivered, or is never tried again: read the next one.
        self._batch = None
        self.is_unsaved = self._save is not None

    def _wait(self) -> bool:
        """Wait until there is something to do.

        That is news, something that is due, or a position to store. If none of
        them can come, returns False at once, so that the greenlet ends.
        Switches greenlets otherwise.
        """
        pause = self._until_due()
        if self.is_unsaved and (pause is None or pause > SAVE_SECONDS):
            pause = SAVE_SECONDS
        if pause is None and not self._news.is_set():
            return False
        self._news.wait(pause)
        return True


class LeasedWork:
    """Renews a lease, and looks for work while this node runs.

    ``renew`` takes or renews the lease, and learns which work there is.
    ``look`` looks for new work when there is news. It also runs after each
    renewal, to find entries of nodes whose messages to this one were lost. Both
    may switch greenlets, and raise StorageUnavailable. ``name``, a plural, is
    for log lines.
    """

    def __init__(
        self, name: str, renew: Callable[[], object], look: Callable[[], object]
    ) -> None:
        """``name``: what waits in log lines, for example ``notifications``."""
        self._name = name
        self._renew = renew
        self._look = look
        self.news = Flag()
        """Set when there may be work. ``LogFollower.watch`` of the messenger
        sets it."""
        self._trouble = RateLimitedLog(log, f"{name} wait: %s")
        self._has_changed = False
        """Whether the lease must be renewed at once."""
        self.has_ended = False

    def changed(self) -> None:
        """Renew at once, because the work was changed on this node.

        Never switches greenlets.
        """
        self._has_changed = True
        self.news.set()

    def end(self) -> None:
        """Stop :meth:`run`. Never switches greenlets."""
        self.has_ended = True
        self.news.set()

    def run(self) -> None:
        """Greenlet: renew the lease, and look for work when there is news.

        It ends after :meth:`end`. An error ends only the current round.
        """
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

            self._wait_for_news(renew_at, look_at=began + LOOK_SECONDS)

    def _wait_for_news(self, renew_at: float, look_at: float) -> None:
        """Wait for the next round: for news, but at most until ``renew_at``.

        Further news of the next moments needs no look of its own. So the round
        does not begin before ``look_at``. Both times are monotonic.
        """
        until_renewal = renew_at - monotonic()
        if self.news.wait(max(until_renewal, 0.0)):
            until_look = look_at - monotonic()
            gevent.sleep(max(until_look, 0.0))
            # Cleared only now: the next call of look covers news that came
            # during the pause.
            self.news.clear()
