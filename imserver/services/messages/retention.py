"""Retention: what is older than an app keeps it, or more than it keeps, is deleted from the log.

A client whose cursor lies before what is left is told so at its next login or sync, and begins anew. Every
node looks by itself; what one has done the next finds done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent

from imserver.errors import StorageUnavailable
from imserver.metrics import Metrics
from imserver.settings import StorageSettings, TenantSettings
from imserver.storage.talk_positions import TalkPositions

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

log = logging.getLogger(__name__)


class Retention:
    """Looks every ``storage.expire_seconds``. ``settings_of`` gives what is set for an app, ``kept`` the log,
    or None while nothing was ever stored. Positions of the action dialect (``positions``) expire with the
    entries."""

    def __init__(
        self,
        settings: StorageSettings,
        settings_of: Callable[[str], TenantSettings | None],
        kept: Callable[[], MessageLog | None],
        metrics: Metrics,
        positions: TalkPositions | None = None,
    ) -> None:
        self._settings = settings
        self._settings_of = settings_of
        self._kept = kept
        self._metrics = metrics
        self._positions = positions

    def run(self) -> None:
        """Greenlet: look, until it is killed."""
        while True:
            gevent.sleep(self._settings.expire_seconds)
            try:
                self.look()
            except StorageUnavailable as error:
                log.debug("nothing could be let expire: %s", error)
            except Exception:
                log.exception("nothing could be let expire")

    def look(self) -> int:
        """Delete what need not be kept; how many entries. Switches. Raises StorageUnavailable."""
        stored = self._kept()
        if stored is None:
            return 0
        deleted = 0
        for app in stored.apps():
            seconds, most = self.limits_of(app)
            if seconds or most:
                some = stored.expire(app, older_than_seconds=seconds, more_than=most)
                if some:
                    log.info("%d entries of app %s have expired", some, app)
                self._metrics.expired += some
                deleted += some
        if self._positions is not None:
            for app in sorted(self._positions.written):
                self._positions.expire(app, stored.floor(app))
        return deleted

    def limits_of(self, app: str) -> tuple[float, int]:
        """For how many seconds, and how many of its newest entries, an app keeps; 0: for ever, all."""
        own = self._settings_of(app)
        if own is None:
            return self._settings.keep_seconds, self._settings.keep_messages
        return (
            own.keep_seconds or self._settings.keep_seconds,
            own.keep_messages or self._settings.keep_messages,
        )
