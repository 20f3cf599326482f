"""Closes questions at their deadlines.

Every node looks. The log closes a question once, whoever is first, so no lease is needed. The node that has
stored a question with a deadline looks at that moment, the others find it a little later if that node has
ended.
"""

from __future__ import annotations

import logging
from typing import Final

from gevent.event import Event as Signal

from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.messages import MessageLog, Rejected
from imserver.plugin.storage import Store

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""How often it is looked for deadlines of questions that other nodes have stored."""


class Deadlines:
    """Owner of the moment of the next look."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log = store.part(MessageLog)
        self._news = Signal()

    def added(self) -> None:
        """A question with a deadline was stored here. Never switches."""
        self._news.set()

    def run(self) -> None:
        """Greenlet: close what is due, until it is killed."""
        while True:
            self._news.clear()
            left: float | None = None
            try:
                left = self.look()
            except StorageUnavailable as error:
                log.debug("questions could not be closed: %s", error)
            except Exception:
                log.exception("questions could not be closed")
            self._news.wait(LOOK_SECONDS if left is None else min(left, LOOK_SECONDS))

    def look(self) -> float | None:
        """Close what is due. Returns the seconds until the next deadline; None: there is none. Switches.
        Raises StorageUnavailable."""
        if not self._store.has_database:
            return None
        due, left = self._log.asks.due()
        for one in due:
            result = self._log.asks.expire(one.app, one.message)
            if isinstance(result, Rejected) or (result.entry is None and result.ask.state):
                self._log.asks.forget(one)
        return left
