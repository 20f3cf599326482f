"""The parts of questions on one node: waits for answers, and the task that
closes questions at their deadlines.

Each wait has a greenlet. While there are waits, one more greenlet reads the new
entries of the apps with waits, from all nodes. If an entry is about a message,
the greenlet wakes the waits for this message.

Every node looks for deadlines, and for votes to count. No lease is needed,
because the log closes a question only once, for the first node. The node that
has stored a question with a deadline, or a vote, looks exactly when it is due.
If this node has ended, the other nodes find the question a little later.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from time import monotonic
from typing import ClassVar, Final

import gevent
from gevent.event import Event as Flag
from msgspec import Struct

from imserver.messenger.ask.declared import ASK_REMINDERS, REMINDER_SECONDS
from imserver.plugin import Parts
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.identity import Buckets
from imserver.plugin.messages import Entry, MessageLog, MessageServices
from imserver.plugin.services import Core
from imserver.plugin.storage import Store

log = logging.getLogger(__name__)

MOST_WAITS: Final = 10_000
"""The most requests that wait on a node. Further requests get the question as
it is."""
MOST_OF_ONE: Final = 200
"""The most requests of one principal that wait on a node."""
_RETRY_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 1.0
"""The pause between two reads of the log while there are waits. Another node
may have stored an answer."""

Watch = Callable[[Flag, Collection[str]], None]
"""A function that registers a signal, which is then set whenever a node has
stored entries of one of these apps."""


class _Wait(Flag):
    """The signal that tells one wait to look again. ``is_over``: whether the
    app was deleted."""

    is_over = False


class Waits:
    """Lets requests wait until a question is answered.

    Each wait has a greenlet and a signal. One more greenlet reads the new
    entries of the apps with waits, and sets the signals. ``is_draining`` tells
    whether the node drains. In this case no request waits here any more.
    """

    def __init__(
        self, store: Store, watch: Watch, is_draining: Callable[[], bool]
    ) -> None:
        """Begin without waits. Nothing is read."""
        self._log = store.part(MessageLog)
        self._watch = watch
        self._is_draining = is_draining
        self._news = Flag()
        self._signals: dict[tuple[str, int], list[_Wait]] = {}
        """(app, question) → the waits for this question."""
        self._positions: dict[str, int] = {}
        """App with a wait → the id up to which its log was read."""
        self._apps: Counter[str] = Counter()
        """App → the number of its waits."""
        self._payers: Counter[str] = Counter()
        """Principal → the number of its waits."""
        self.count = 0
        """The number of waits."""

    def wait(
        self, app: str, user: str, message: int, seen: int, seconds: float, payer: str
    ) -> Entry | None:
        """Wait until a question is closed or has new answers, and return it.

        The wait ends when the question has more than ``seen`` answers, or after
        ``seconds``. ``payer`` is the principal of the request. The number of
        waits of a principal is limited. Returns None if there is no such
        question that the user can read, or if the app was deleted. Switches
        greenlets. Raises StorageUnavailable.
        """
        deadline = monotonic() + seconds
        is_full = self.count >= MOST_WAITS or self._payers[payer] >= MOST_OF_ONE
        if seconds <= 0 or is_full:
            return self._log.asks.get(app, user, message)

        # The wait is registered before the first query, so that no answer is
        # missed.
        signal = self._add(app, message, payer)
        try:
            if app not in self._positions:
                # The query switches greenlets, so another request may have set
                # the position meanwhile.
                head = self._log.entries.head(app)
                self._positions.setdefault(app, head)
            read = partial(self._log.asks.get, app, user, message)
            return self._wait_for_answers(signal, read, seen, deadline)
        finally:
            self._remove(app, message, payer, signal)

    def _wait_for_answers(
        self,
        signal: _Wait,
        read: Callable[[], Entry | None],
        seen: int,
        deadline: float,
    ) -> Entry | None:
        """Read a question again after each signal, until it has new answers.

        The wait also ends at the ``deadline`` (of the monotonic clock), or when
        the node drains. Returns the question as it is at the end, or None in
        the same cases as :meth:`wait`. Switches greenlets.
        """
        while True:
            # The signal is cleared before the query, so that an answer during
            # the query sets it again.
            signal.clear()
            entry = read()
            remaining = deadline - monotonic()
            if signal.is_over or entry is None or entry.ask is None:
                return None
            has_changed = entry.ask.state or entry.ask.count > seen
            if has_changed or remaining <= 0 or self._is_draining():
                return entry
            signal.wait(remaining)

    def forget(self, app: str) -> None:
        """End all waits of an app, which was deleted. Never switches
        greenlets."""
        for (app_of_wait, _), signals in self._signals.items():
            if app_of_wait != app:
                continue
            for signal in signals:
                signal.is_over = True
                signal.set()

    def _add(self, app: str, message: int, payer: str) -> _Wait:
        """Register a wait for a question, and return its signal."""
        signal = _Wait()
        self._signals.setdefault((app, message), []).append(signal)
        self.count += 1
        self._payers[payer] += 1
        self._apps[app] += 1
        # From now on, the log follower also sets `_news` for entries of this
        # app.
        if self._apps[app] == 1:
            self._watch(self._news, self._apps.keys())
        self._news.set()
        return signal

    def _remove(self, app: str, message: int, payer: str, signal: _Wait) -> None:
        """Remove a wait that has ended."""
        signals = self._signals[app, message]
        signals.remove(signal)
        if not signals:
            del self._signals[app, message]
        self.count -= 1
        _count_down(self._payers, payer)
        _count_down(self._apps, app)
        if app not in self._apps:
            self._positions.pop(app, None)
            self._watch(self._news, self._apps.keys())

    def run(self) -> None:
        """Wake the waits whose questions have changed.

        Runs in a greenlet of its own, until it is killed.
        """
        while True:
            # If there are no waits, nothing is read.
            if self.count:
                self._news.wait(_LOOK_SECONDS)
            else:
                self._news.wait()
            self._news.clear()
            try:
                self._wake_changed()
            except StorageUnavailable as error:
                log.debug("answers could not be read: %s", error)
                gevent.sleep(_RETRY_SECONDS)
            except Exception:
                log.exception("answers could not be read")
                gevent.sleep(_RETRY_SECONDS)

    def _wake_changed(self) -> None:
        """Read the new entries of apps with waits, and wake the waits for the
        questions that have changed.

        If the node drains, all waits are woken, and end. Switches greenlets.
        Raises StorageUnavailable.
        """
        if self._is_draining():
            for signals in self._signals.values():
                for signal in signals:
                    signal.set()
            return
        for app, position in tuple(self._positions.items()):
            messages, last = self._log.asks.changes(app, position)
            # The query switches greenlets. Meanwhile the last wait of the app
            # may have ended, and a new wait may have set another position.
            if self._positions.get(app) == position:
                self._positions[app] = last
            for message in messages:
                for signal in self._signals.get((app, message), ()):
                    signal.set()


_DEADLINE_SECONDS: Final = 10.0
"""How often a node looks for deadlines of questions that other nodes have
stored."""
_GATHER_SECONDS: Final = 0.2
"""The pause after news, so that one count covers many votes."""


class Deadlines:
    """Closes questions, and counts votes, when they are due."""

    def __init__(self, store: Store) -> None:
        """Take the log of the store. Nothing is read."""
        self._store = store
        self._log = store.part(MessageLog)

    def run(self) -> None:
        """Close questions and count votes that are due.

        Runs in a greenlet of its own, until it is killed.
        """
        news = self._log.asks.news
        while True:
            news.clear()
            until_due: float | None = None
            try:
                until_due = self.settle_due()
            except StorageUnavailable as error:
                log.debug("questions could not be closed: %s", error)
            except Exception:
                log.exception("questions could not be closed")
            seconds = _DEADLINE_SECONDS
            if until_due is not None:
                seconds = min(until_due, seconds)
            # News means that this node has stored a deadline or a vote that
            # will be due.
            if news.wait(seconds):
                gevent.sleep(_GATHER_SECONDS)

    def settle_due(self) -> float | None:
        """Close the questions and count the votes that are due.

        Returns the seconds until the next deadline or count is due, or None if
        no other is known. Switches greenlets. Raises StorageUnavailable.
        """
        if not self._store.has_database:
            return None
        asks = self._log.asks
        first: float | None = None
        # Deadlines and counts are in two tables.
        for table in asks.DUE:
            due, until_next = asks.due(table)
            if until_next is not None and (first is None or until_next < first):
                first = until_next
            for app, message in due:
                asks.settle(table, app, message)
        return first


class AskParts(Struct, frozen=True):
    """The services for routes and other features."""

    page_folder: ClassVar = Path(__file__).parent / "page"
    waits: Waits
    deadlines: Deadlines
    reminders: Buckets


def build(core: Core) -> Parts:
    """Build the parts of questions on one node.

    Two greenlets run. The first wakes requests that wait for answers, and the
    second closes questions at their deadlines.
    """

    def is_draining() -> bool:
        """Tell whether the node no longer takes requests."""
        return core.node.draining

    follower = core.service(MessageServices).messaging.follower
    waits = Waits(core.store, follower.watch, is_draining)
    # A deleted app ends its waits.
    core.tenants.report_to(waits.forget)
    deadlines = Deadlines(core.store)
    # All nodes together send one reminder for each question in this time.
    reminders = core.buckets.make(
        ASK_REMINDERS, 1, seconds=REMINDER_SECONDS, shared=core.attempt
    )
    asks = AskParts(waits=waits, deadlines=deadlines, reminders=reminders)
    return Parts((asks,), run=(waits.run, deadlines.run))


def _count_down(counter: Counter[str], key: str) -> None:
    """Lower a count by 1. If the count is 0, the key is removed, so that keys
    do not pile up."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
