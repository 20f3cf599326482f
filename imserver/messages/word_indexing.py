"""Fills the index of words after the commits of messages, and brings it up to date after changes.

Every node looks; a claim in the position of an index says which node works on it.
"""

from __future__ import annotations

import logging
from math import inf
from time import monotonic
from typing import Final

import gevent

from imserver.clock import is_long_turn
from imserver.messages.log.message_log import MessageLog
from imserver.storage.store import Store

log = logging.getLogger(__name__)

MERGE_SECONDS: Final = 60.0
"""What was changed waits so long at most: one merge of a segment serves all changes of its messages."""
_SLICE_SECONDS: Final = 0.002
_REST_SECONDS: Final = 0.004
"""After a slice of work the messages of others come first."""


class WordIndexing:
    """Owner of what this node knows of the indexes. A message costs nothing before its segment is whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: dict[str, int] = {}
        """App → the last id of the segment that comes next."""
        self._has_begun = False
        self._merged_at = -inf

    def work(self) -> None:
        """Add the segments that are whole, and merge changes from time to time. Switches. Raises
        StorageUnavailable."""
        self.look()
        if monotonic() - self._merged_at >= MERGE_SECONDS:
            self._merged_at = monotonic()
            self.merge()

    def look(self) -> None:
        """Add the segments that are whole. Switches. Raises StorageUnavailable."""
        if not self._store.has_database:
            return
        stored = self._store.part(MessageLog)
        known = stored.writer.known
        if not self._has_begun:  # messages of a release before, or of another node
            self._ends = dict.fromkeys(stored.entries.apps(), 0)
            self._has_begun = True
        for app in {*self._ends, *known}:
            if known.get(app, 0) >= self._ends.get(app, 0):
                self._add(stored, app)

    def merge(self) -> None:
        """Bring the changes of messages into the indexes. Switches. Raises StorageUnavailable."""
        words = self._store.part(MessageLog).words
        for app in words.changed():
            while words.merge(app, _rest):
                pass

    def _add(self, stored: MessageLog, app: str) -> None:
        count = 0
        end, is_whole = stored.words.next_end(app)
        while is_whole and stored.words.fill(app, _rest):
            count += 1
            end, is_whole = stored.words.next_end(app)
        if count > 1:
            log.info("the words of %d segments of app %s were added to the index", count, app)
        self._ends[app] = end


def _rest() -> None:
    if is_long_turn(_SLICE_SECONDS):
        gevent.sleep(_REST_SECONDS)
