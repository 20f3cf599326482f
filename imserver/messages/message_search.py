"""Searches in stored messages, which take turns."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from gevent.lock import BoundedSemaphore

from imserver.auth.rates import Buckets, Rate
from imserver.errors import StorageUnavailable
from imserver.messages.commands import NO_FILTER, SearchFilter
from imserver.messages.declared import SEARCH_MILLISECONDS, SEARCH_TIME
from imserver.messages.deliverer import newest_page
from imserver.messages.log.contract import Entry
from imserver.messages.log.message_log import MessageLog
from imserver.storage.store import Store

SEARCHES_AT_ONCE: Final = 2
SEARCH_SECONDS: Final = 10.0
"""How long a search waits for its turn; then it is refused, as while the database does not answer."""
SEARCHES_WAITING: Final = 40
"""How many wait; further ones are refused at once. A search may take half a second, so more would wait in
vain, and over HTTP each of them takes one of ``limits.http_requests``."""


class MessageSearch:
    """Searches of messages. Owner of the turns: few searches run at a time, so that the database has time for
    everything else. Each user pays for the time that their searches take."""

    def __init__(self, store: Store, buckets: Callable[[Rate, float, float], Buckets] = Buckets) -> None:
        self._log = store.part(MessageLog)
        self._turns = BoundedSemaphore(SEARCHES_AT_ONCE)
        self._waiting = 0
        self._time = buckets(SEARCH_TIME, SEARCH_MILLISECONDS, 60.0)

    def search(
        self,
        app: str,
        user: str,
        text: str,
        conversation: int,
        before: int,
        limit: int,
        filter: SearchFilter = NO_FILTER,
    ) -> tuple[list[Entry], int]:
        """As many of the newest results as fit on a page; see
        :meth:`imserver.messages.log.search.EntrySearch.find`. Raises StorageUnavailable, and TooManyRequests
        if the user has used up their time.
        """
        self._time.require((app, user))
        self._take_turn()
        began = monotonic()
        try:
            page, upto = self._log.search.find(app, user, text, conversation, before, limit, filter)
        finally:
            self._turns.release()
            self._time.charge((app, user), int((monotonic() - began) * 1000))
        entries, is_cut = newest_page(page, False)
        return entries, entries[0].id if is_cut else upto

    def _take_turn(self) -> None:
        has_turn = self._turns.acquire(blocking=False)
        if not has_turn and self._waiting < SEARCHES_WAITING:
            self._waiting += 1
            try:
                has_turn = self._turns.acquire(timeout=SEARCH_SECONDS)
            finally:
                self._waiting -= 1
        if not has_turn:
            raise StorageUnavailable("too many searches at a time")
