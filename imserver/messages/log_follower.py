"""The log follower: the position up to which this node has delivered the log of each app.

Batches come from this node's own writer and from other nodes, in any order, late, or never. A batch that does
not continue at the position waits. If the gap is not filled in a moment, the missing entries are read from
the log. Each second the positions of apps without news are compared with the ends of their logs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from heapq import heappop, heappush
from itertools import count, takewhile
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event as Signal
from msgspec import Struct, field

from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.messages.deliverer import Deliverer
from imserver.messages.log.contract import Commit
from imserver.messages.log.message_log import MessageLog
from imserver.metrics import Metrics

log = logging.getLogger(__name__)

GAP_SECONDS: Final = 0.02
"""How long a gap waits for a batch from another node before the log is read."""
QUIET_SECONDS: Final = 1.0
"""After so long without news an app's position is compared with the end of its log."""
RETRY_SECONDS: Final = 0.5
PAGE: Final = 500
MAX_WAITING: Final = 256
"""Batches of an app that wait for a gap to be filled; more are dropped, and read from the log later."""


class _Followed(Struct, eq=False):
    """One app. ``position``: every entry up to this id was delivered, or is not for this node."""

    position: int = 0
    known: Signal | None = field(default_factory=Signal)
    """Set when the position is known; None from then on."""
    waiting: list[tuple[int, int, Commit]] = field(default_factory=list)
    """A heap: the first id, and a unique number."""
    expected: int = 0
    """The id of an entry that is known to be stored."""
    filling: bool = False
    heard_at: float = field(default_factory=monotonic)


class LogFollower:
    """Owner of the positions."""

    def __init__(self, log: MessageLog, deliverer: Deliverer, metrics: Metrics) -> None:
        self._log = log
        self._deliverer = deliverer
        self.apps: dict[str, _Followed] = {}
        """Those that are followed. Read-only for others."""
        self._follows_any = Signal()
        self._numbers = count()
        self._metrics = metrics
        self._watched: dict[str, list[Signal]] = {}
        """App → events that are set when a node has stored entries of the app, followed or not."""

    def follow(self, app: str) -> int:
        """Deliver the entries of an app from now on. Returns the position. It may switch.

        Raises StorageUnavailable; then the app is not followed.
        """
        followed = self.apps.get(app)
        if followed is None:
            followed = self.apps[app] = _Followed()
            self._follows_any.set()
            try:
                followed.position = self._log.entries.head(app)
                self._log.writer.learn(app, followed.position)
            except BaseException:
                del self.apps[app]
                raise
            finally:
                known, followed.known = followed.known, None
                assert known is not None
                known.set()
            followed.heard_at = monotonic()
            self._advance(app, followed)
        elif followed.known is not None:
            followed.known.wait()
            if self.apps.get(app) is not followed:
                raise StorageUnavailable("the log could not be read")
        return followed.position

    def watch(self, news: Signal, apps: Collection[str]) -> None:
        """Set ``news`` when a node has stored entries of one of these apps, followed or not, and of no others
        any more. Never switches."""
        for app, signals in tuple(self._watched.items()):
            if news in signals and app not in apps:
                signals.remove(news)
                if not signals:
                    del self._watched[app]
        for app in apps:
            signals = self._watched.setdefault(app, [])
            if news not in signals:
                signals.append(news)

    def position(self, app: str) -> int:
        """The position of an app; 0 if it is not followed. Never switches."""
        followed = self.apps.get(app)
        return 0 if followed is None else followed.position

    def is_behind(self, app: str, id: int) -> bool:
        """Whether an app is followed, and its position known and before this id. Never switches."""
        followed = self.apps.get(app)
        return followed is not None and followed.position < id and followed.known is None

    def forget_unwanted(self, app: str) -> None:
        """Follow an app no longer if nothing here needs its position. Never switches."""
        if self._deliverer.is_wanted(app) or self._log.writer.is_busy(app):
            return
        followed = self.apps.get(app)
        if followed is not None and followed.known is None and not followed.filling:
            del self.apps[app]

    def committed(self, commit: Commit) -> None:
        """A transaction of this node or another one stored entries. Never switches."""
        app = commit.app
        for news in self._watched.get(app, ()):
            news.set()
        self._log.writer.learn(app, commit.last)
        followed = self.apps.get(app)
        if followed is None:
            return
        if commit.last <= followed.position:
            return  # nothing is known by it of the end of the log
        followed.heard_at = monotonic()
        if len(followed.waiting) < MAX_WAITING:
            heappush(followed.waiting, (commit.first, next(self._numbers), commit))
        if followed.known is None:
            self._advance(app, followed)

    def expect(self, app: str, id: int) -> None:
        """An id is known to be stored: read on until the position reaches it. Never switches."""
        followed = self.apps.get(app)
        if followed is not None and id > max(followed.position, followed.expected):
            followed.expected = id
            if not followed.filling:
                self._fill(app, followed, GAP_SECONDS)

    def _advance(self, app: str, followed: _Followed) -> None:
        """Deliver the batches that continue at the position; have gaps filled."""
        waiting = followed.waiting
        while waiting and waiting[0][0] <= followed.position + 1:
            commit = heappop(waiting)[2]
            last, entries, position = commit.last, commit.entries, followed.position
            if last <= position:
                continue
            followed.position = last
            new = entries
            if entries and entries[0].id <= position:
                new = [entry for entry in entries if entry.id > position]
            try:
                self._deliverer.deliver(app, new, last)
            except Exception:
                log.exception("entries of %s could not be delivered", app)
        if waiting and not followed.filling:
            self._fill(app, followed, GAP_SECONDS)

    # --- reading what is missing ----------------------------------------------------------------------------

    def _fill(self, app: str, followed: _Followed, seconds: float) -> None:
        followed.filling = True
        gevent.spawn(self._run_filling, app, followed, seconds)

    def _run_filling(self, app: str, followed: _Followed, seconds: float) -> None:
        """Greenlet: read on until nothing is missing."""
        gevent.sleep(seconds)
        try:
            if followed.waiting or not seconds or followed.expected > followed.position:
                self._metrics.log_gaps += 1
                while self._read_on(app, followed):
                    pass
        finally:
            followed.filling = False
        if followed.waiting:
            self._advance(app, followed)

    def _read_on(self, app: str, followed: _Followed) -> bool:
        """Read a page; whether there may be more to read."""
        after, expected = followed.position, followed.expected
        try:
            head = self._log.entries.head(app)
            entries = self._log.entries.read(app, after, PAGE)
        except StorageUnavailable:
            gevent.sleep(RETRY_SECONDS)
            return True
        except Exception:
            log.exception("reading the log of %s failed", app)
            gevent.sleep(RETRY_SECONDS)
            return True
        if head < after:
            followed.waiting.clear()  # lost, or read later
            return False  # the database has lost entries: check() finds it
        self._log.writer.learn(app, head)
        # Of senders whose drafts are being stored here nothing is delivered yet: results may belong to it.
        senders = self._log.writer.senders(app)
        ready = list(takewhile(lambda entry: entry.sender not in senders, entries))
        whole = len(entries) < PAGE and len(ready) == len(entries)
        # Expired entries leave holes at the beginning of the log, so its end is asked for.
        last = max(head, ready[-1].id if ready else 0) if whole else ready[-1].id if ready else after
        if (ready[0].id if ready else last) > after + 1 and not self._continues(app, after):
            return True
        heappush(followed.waiting, (after + 1, next(self._numbers), Commit(app, after + 1, last, ready)))
        self._advance(app, followed)
        if len(ready) < len(entries):
            gevent.sleep(GAP_SECONDS)
            return True
        # Entries that were announced during the read may be missing in it.
        return not whole or bool(followed.waiting) or followed.expected > max(expected, last)

    def _continues(self, app: str, position: int) -> bool:
        """If the database has lost the entry at the position, let clients come back, before anything is
        delivered to them. False: it is not known. May switch."""
        try:
            is_lost = self._log.entries.extent(app).is_lost(position)
        except StorageUnavailable:
            gevent.sleep(RETRY_SECONDS)
            return False
        if is_lost:
            self._deliverer.lose(app)
        return True

    def run(self) -> None:
        """Greenlet: while apps are followed, compare their positions with the ends of the logs once a
        second."""
        while True:
            self._follows_any.wait()
            gevent.sleep(until_beat(QUIET_SECONDS))
            self.check()
            if not self.apps:
                self._follows_any.clear()

    def check(self) -> None:
        """Read on in apps without news whose log has grown, or has lost entries; forget apps without
        subscriptions. It may switch."""
        before = monotonic() - QUIET_SECONDS
        quiet = [app for app, followed in self.apps.items() if _is_quiet(followed, before)]
        for app in quiet:
            self.forget_unwanted(app)
        quiet = [app for app in quiet if app in self.apps]
        if not quiet:
            return
        positions = {app: self.apps[app].position for app in quiet}
        try:
            heads = self._log.entries.heads(quiet)
            for app, position in positions.items():
                if heads.get(app, 0) < position:
                    self._log.writer.learn(app, position)
                    heads[app] = self._log.writer.check(app)
        except StorageUnavailable:
            return
        except Exception:
            log.exception("the ends of the logs could not be read")
            return
        for app, head in heads.items():
            known = self.apps.get(app)
            if known is not None and head > known.position and _is_quiet(known, before):
                self._fill(app, known, 0.0)


def _is_quiet(followed: _Followed, before: float) -> bool:
    """Whether an app has had no news since then, and no gap is being filled."""
    return followed.known is None and not followed.filling and followed.heard_at <= before
