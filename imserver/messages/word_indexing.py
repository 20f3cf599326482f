"""Fills the index of words, after the commits of messages.

Every node looks; the position of an index, in its own transaction, says which segment comes next, and a lease
beside it which node adds it.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

import gevent

from imserver.clock import until_beat
from imserver.errors import StorageUnavailable
from imserver.messages.log.message_log import MessageLog
from imserver.storage.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0


class WordIndexing:
    """Owner of what this node knows of the indexes. A message costs nothing before its segment is whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: dict[str, int] = {}
        """App → the last id of the segment that comes next."""
        self._has_begun = False

    def run(self) -> None:
        """Greenlet: add whole segments, until it is killed."""
        while True:
            gevent.sleep(until_beat(LOOK_SECONDS))
            try:
                self.look()
            except StorageUnavailable as error:
                log.debug("words could not be added to the index: %s", error)
            except Exception:
                log.exception("words could not be added to the index")

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

    def _add(self, stored: MessageLog, app: str) -> None:
        count, began = 0, monotonic()
        while stored.words.fill(app):
            count += 1
            gevent.sleep(monotonic() - began)  # half of the time is for others
            began = monotonic()
        if count > 1:
            log.info("the words of %d segments of app %s were added to the index", count, app)
        self._ends[app] = stored.words.next_end(app)
