"""Positions: how far this node has followed the log of each app, so that all entries are told, in order.

Batches come from this node's own writer and from other nodes, in any order, late, or never. What does not
join on to the position waits; if what is missing does not come in a moment it is read from the log. A node
without news looks each second whether the log has grown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Final

import gevent
from gevent.event import Event as Signal

from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.metrics import Metrics
from imserver.storage.log.contract import Entry

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 0.02
"""How long a gap waits for the batch that another node has sent, before the log is read."""
QUIET_SECONDS: Final = 1.0
"""After so long without news an app's position is compared with the end of its log."""
RETRY_SECONDS: Final = 0.5
PAGE: Final = 500
MAX_WAITING: Final = 256
"""Batches of an app that wait for a gap to be filled; more are dropped, and read from the log later."""

Tell = Callable[[str, list[Entry], int], None]
"""(app, entries in order, the position that they lead to); must not switch."""


class _Followed:
    """One app. ``position``: every entry up to this id has been told, or is not for this node."""

    __slots__ = ("expected", "filling", "heard_at", "known", "position", "waiting")

    def __init__(self) -> None:
        self.position = 0
        self.known: Signal | None = Signal()
        """Set when the position is known; None from then on."""
        self.waiting: list[tuple[int, int, int, list[Entry]]] = []
        """A heap: first id, a number that tells equals apart, last id, entries."""
        self.expected = 0
        """An id that is known to be stored."""
        self.filling = False
        self.heard_at = monotonic()


class Follower:
    """Owner of the positions. ``reads`` gives the log, or None while there is none: then it is empty."""

    def __init__(self, reads: Callable[[], MessageLog | None], tell: Tell, metrics: Metrics) -> None:
        self._reads = reads
        self._tell = tell
        self._apps: dict[str, _Followed] = {}
        self._numbers = count()
        self._metrics = metrics
        self.storing: Callable[[str], Collection[str]] = lambda app: ()
        """The senders of what this node is storing in an app. Of theirs nothing is told as it is read: it is
        not known yet which of it is to be acknowledged. Must not switch."""
        self.wanted: Callable[[str], bool] = lambda app: True
        """Whether anybody here wants to know what is stored in an app. Must not switch."""

    def follow(self, app: str) -> int:
        """Tell what is stored in an app from now on; the position from which. It may switch.

        Raises StorageUnavailable; then it is not followed.
        """
        followed = self._apps.get(app)
        if followed is None:
            followed = self._apps[app] = _Followed()
            try:
                reads = self._reads()
                followed.position = 0 if reads is None else reads.head(app)
            except BaseException:
                del self._apps[app]
                raise
            finally:
                known, followed.known = followed.known, None
                assert known is not None
                known.set()
            followed.heard_at = monotonic()
            self._advance(app, followed)
        elif followed.known is not None:
            followed.known.wait()
            if self._apps.get(app) is not followed:
                raise StorageUnavailable("the log could not be read")
        return followed.position

    def position(self, app: str) -> int:
        """How far an app has been told; 0 if it is not followed. Never switches."""
        followed = self._apps.get(app)
        return 0 if followed is None else followed.position

    def follows(self, app: str) -> bool:
        """Whether entries of an app are told. Never switches."""
        return app in self._apps

    def is_known(self, app: str) -> bool:
        """Whether an app is followed, and its position known. Never switches."""
        followed = self._apps.get(app)
        return followed is not None and followed.known is None

    def forget(self, app: str) -> None:
        """Tell nothing more of an app; nobody here wants to know. Never switches."""
        followed = self._apps.get(app)
        if followed is not None and followed.known is None and not followed.filling:
            del self._apps[app]

    def heard(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """A transaction stored ``entries``: all ids from ``first`` to ``last``, or those that concern us.

        Never switches.
        """
        followed = self._apps.get(app)
        if followed is None:
            return
        followed.heard_at = monotonic()
        if last <= followed.position:
            return
        if len(followed.waiting) < MAX_WAITING:
            heappush(followed.waiting, (first, next(self._numbers), last, entries))
        if followed.known is None:
            self._advance(app, followed)

    def expect(self, app: str, id: int) -> None:
        """An id is known to be stored: see to it that the position gets there. Never switches."""
        followed = self._apps.get(app)
        if followed is not None and id > max(followed.position, followed.expected):
            followed.expected = id
            if not followed.filling:
                self._fill(app, followed, GRACE_SECONDS)

    def _advance(self, app: str, followed: _Followed) -> None:
        """Tell whatever joins on; see to the rest."""
        waiting = followed.waiting
        while waiting and waiting[0][0] <= followed.position + 1:
            _, _, last, entries = heappop(waiting)
            position = followed.position
            if last <= position:
                continue
            followed.position = last
            new = entries if not entries or entries[0].id > position else _behind(entries, position)
            try:
                self._tell(app, new, last)
            except Exception:
                log.exception("telling what was stored in %s failed", app)
        if waiting and not followed.filling:
            self._fill(app, followed, GRACE_SECONDS)

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
            reads = self._reads()
            if reads is None:
                return False
            head = reads.head(app)
            entries = reads.read(app, after, PAGE)
        except StorageUnavailable:
            gevent.sleep(RETRY_SECONDS)
            return True
        except Exception:
            log.exception("reading the log of %s failed", app)
            gevent.sleep(RETRY_SECONDS)
            return True
        told = entries[: _before_any_of(entries, self.storing(app))]
        whole = len(entries) < PAGE and len(told) == len(entries)
        # Expired entries leave holes at the beginning of the log, so its end is asked for.
        last = max(head, told[-1].id if told else 0) if whole else told[-1].id if told else after
        heappush(followed.waiting, (after + 1, next(self._numbers), last, told))
        self._advance(app, followed)
        if len(told) < len(entries):
            gevent.sleep(GRACE_SECONDS)
            return True
        # What came to be expected while this was read may not be in it.
        return not whole or bool(followed.waiting) or followed.expected > max(expected, last)

    def run(self) -> None:
        """Greenlet: once a second, compare positions with the ends of the logs."""
        while True:
            gevent.sleep(until_beat(QUIET_SECONDS))
            self.look()

    def look(self) -> None:
        """Read on in apps without news whose log has grown; forget those that nobody wants any more, as when
        something was stored for who is elsewhere. It may switch."""
        before = monotonic() - QUIET_SECONDS
        quiet = [app for app, followed in self._apps.items() if _is_quiet(followed, before)]
        for app in quiet:
            if not self.wanted(app):
                self.forget(app)
        quiet = [app for app in quiet if app in self._apps]
        if not quiet:
            return
        try:
            reads = self._reads()
            heads = {} if reads is None else reads.heads(quiet)
        except StorageUnavailable:
            return
        except Exception:
            log.exception("looking at the ends of the logs failed")
            return
        for app, head in heads.items():
            known = self._apps.get(app)
            if known is not None and head > known.position and _is_quiet(known, before):
                self._fill(app, known, 0.0)


def _is_quiet(followed: _Followed, before: float) -> bool:
    """Whether there was no news of an app since, and nobody reads on."""
    return followed.known is None and not followed.filling and followed.heard_at <= before


def _before_any_of(entries: list[Entry], senders: Collection[str]) -> int:
    """How many of these come before the first one of one of these senders."""
    if senders:
        for place, entry in enumerate(entries):
            if entry.sender in senders:
                return place
    return len(entries)


def _behind(entries: list[Entry], position: int) -> list[Entry]:
    return [entry for entry in entries if entry.id > position]
