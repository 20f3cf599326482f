"""Searches in stored messages, and fills their index of words. Searches take
turns.

Every node looks for messages that are not in the index. A claim in the position
of an index tells which node works on it.
"""

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from imserver.gateway.auth.rates import Buckets, Rate
from imserver.gateway.clock import is_long_turn
from imserver.gateway.cluster.history import count_fitting
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import SECOND_MS, Entry, page_size
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search.limits import SEARCH_MILLISECONDS, SEARCH_TIME
from imserver.messenger.search.search import EntrySearch
from imserver.messenger.search.word_index import WordIndex

log = logging.getLogger(__name__)

SEARCHES_AT_ONCE: Final = 2
SEARCH_SECONDS: Final = 10.0
"""How long a search waits for its turn. After that it is refused with the same
error as when the database does not answer."""
SEARCHES_WAITING: Final = 40
"""The most searches that wait. Further searches are refused at once. A search
may take half a second, so further searches would wait in vain. Over HTTP, each
search also counts against ``limits.http_requests``."""
_BUDGET_SECONDS: Final = 60.0
"""The period of the limit :data:`SEARCH_MILLISECONDS`."""
_MERGE_SECONDS: Final = 60.0
"""The time between two merges of changes into the indexes."""
_LONG_WORK_SECONDS: Final = 0.002
_REST_SECONDS: Final = 0.004
"""After this time, work on an index pauses for the same time."""


class MessageSearch:
    """Searches messages, with limits.

    Only a few searches run at a time, so that the database has time for other
    work. The time of a search is charged to its user.
    """

    def __init__(
        self, store: Store, buckets: Callable[[Rate, float, float], Buckets] = Buckets
    ) -> None:
        """Prepare the turns and the limits. ``buckets`` makes the limits of
        users."""
        self._search = store.part(EntrySearch)
        self._turns = BoundedSemaphore(SEARCHES_AT_ONCE)
        self._waiting = 0
        self._time = buckets(SEARCH_TIME, SEARCH_MILLISECONDS, _BUDGET_SECONDS)

    def search(self, app: str, user: str, wanted: Search) -> tuple[list[Entry], int]:
        """Return a page of the newest results of a search, ordered by id.

        The second value is the id from which the search can be continued, or 0
        if it is complete.
        :meth:`imserver.messenger.search.search.EntrySearch.find` describes the
        search. Raises StorageUnavailable, and TooManyRequests if the searches
        of the user took too long.
        """
        self._time.require((app, user))
        self._take_turn()
        began_at = monotonic()
        try:
            page, upto = self._search.find(app, user, wanted)
        finally:
            self._turns.release()
            seconds = monotonic() - began_at
            self._time.charge((app, user), int(seconds * SECOND_MS))

        count = count_fitting(map(page_size, reversed(page)))
        entries = page[len(page) - count :]
        if count < len(page):
            # The next page begins with the older entries that did not fit.
            upto = entries[0].id
        return entries, upto

    def _take_turn(self) -> None:
        """Wait for a turn, at most :data:`SEARCH_SECONDS`.

        Raises StorageUnavailable if no turn comes in this time, or if too many
        searches already wait.
        """
        has_turn = self._turns.acquire(blocking=False)
        if not has_turn and self._waiting < SEARCHES_WAITING:
            self._waiting += 1
            try:
                has_turn = self._turns.acquire(timeout=SEARCH_SECONDS)
            finally:
                self._waiting -= 1
        if not has_turn:
            raise StorageUnavailable("too many searches at a time")


class WordIndexing:
    """Fills the indexes of words of all apps, in the background.

    The object knows up to which id the index of each app is complete. A message
    costs nothing before its segment is complete.
    """

    def __init__(self, store: Store) -> None:
        """Begin without knowledge about the indexes. Nothing is read."""
        self._store = store
        self._words = store.part(WordIndex)
        self._ends: dict[str, int] = {}
        """App → the last id of the next segment to add. 0 means that it was not
        looked up yet."""
        self._has_begun = False
        self._merged_at = -inf

    def work(self) -> None:
        """Add complete segments, and merge changes from time to time.

        Switches greenlets. Raises StorageUnavailable.
        """
        self.look()
        # Merges are rare, because one merge of a segment covers all changes of
        # its messages.
        if monotonic() - self._merged_at >= _MERGE_SECONDS:
            self._merged_at = monotonic()
            self.merge()

    def look(self) -> None:
        """Add all complete segments to the indexes. Switches greenlets.

        A *segment* is a range of ids that are indexed together. Raises
        StorageUnavailable.
        """
        if not self._store.has_database:
            return
        stored = self._store.part(MessageLog)
        known_ids = stored.writer.known
        if not self._has_begun:
            # Another node, or an earlier release, may have stored messages of
            # these apps.
            self._ends = dict.fromkeys(stored.entries.apps(), 0)
            self._has_begun = True

        for app in {*self._ends, *known_ids}:
            if known_ids.get(app, 0) < self._ends.get(app, 0):
                continue  # the segment is not complete yet
            self._ends[app] = self._add_segments(app)

    def _add_segments(self, app: str) -> int:
        """Add all complete segments of an app to its index.

        Returns the last id of the next segment, which is not complete yet.
        """
        count = 0
        end, is_complete = self._words.next_end(app)
        while is_complete and self._words.fill(app, _rest):
            count += 1
            end, is_complete = self._words.next_end(app)
        # One segment is the ordinary case, so it is not logged.
        if count > 1:
            log.info(
                "the words of %d segments of app %s were added to the index",
                count,
                app,
            )
        return end

    def merge(self) -> None:
        """Merge the changes of messages into the indexes. Switches greenlets.

        Raises StorageUnavailable.
        """
        for app in self._words.changed():
            while self._words.merge(app, _rest):
                pass


def _rest() -> None:
    """Pause the work on an index if it has run for some time.

    The pause lets messages be sent first.
    """
    if is_long_turn(_LONG_WORK_SECONDS):
        gevent.sleep(_REST_SECONDS)
