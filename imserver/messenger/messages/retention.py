"""Retention: deletes entries from the log that are older than an app retains
them, or exceed the number that it retains.

If the cursor of a client is before the first remaining entry, the client learns
this at its next login or sync, and starts again. Each node deletes entries
independently, because deleting twice does no harm.
"""

import logging
from collections.abc import Callable, Sequence

from msgspec import Struct

from imserver.gateway.config.settings import TenantSettings, app_settings_of
from imserver.gateway.metrics import Metrics
from imserver.gateway.storage.store import Store
from imserver.messenger.delivery.action_positions import ActionPositions
from imserver.messenger.log.contract import LogObserver
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.messages.declared import AppRetention, RetentionSettings
from imserver.messenger.search.word_index import WordIndex

log = logging.getLogger(__name__)


class Retention(Struct, frozen=True):
    """Deletes expired entries of all apps.

    ``settings_of`` returns the settings of an app. Positions of the action
    dialect expire with the entries. An *observer* is a feature that reads the
    stored entries. Entries that an observer still needs are not deleted.
    """

    settings: RetentionSettings
    settings_of: Callable[[str], TenantSettings | None]
    store: Store
    metrics: Metrics
    positions: ActionPositions
    observers: Sequence[LogObserver]

    def expire(self) -> int:
        """Delete expired entries and positions, and return the number of
        entries.

        Switches greenlets. Raises StorageUnavailable.
        """
        if not self.store.has_database:
            return 0
        stored = self.store.part(MessageLog)
        words = self.store.part(WordIndex)
        deleted = 0
        for app in stored.entries.apps():
            deleted += self._expire_entries(stored, words, app)

        for app in sorted(self.positions.written):
            self.positions.expire(app, stored.entries.extent(app).floor)
        return deleted

    def _expire_entries(self, stored: MessageLog, words: WordIndex, app: str) -> int:
        """Delete the expired entries of an app, and return their number."""
        seconds, most = self.limits_of(app)
        if not (seconds or most):
            return 0
        count = stored.expire(
            app,
            older_than_seconds=seconds,
            more_than=most,
            upto=self._needed_after(app),
        )
        if count:
            log.info("%d entries of app %s have expired", count, app)
            self.metrics.expired += count
            # The index must not have words of deleted entries.
            words.settle(app)
        return count

    def _needed_after(self, app: str) -> int | None:
        """Return the id after which entries must stay, or None if all entries
        may expire.

        Observers have not delivered the later entries yet.
        """
        # None means that the observer needs no entries.
        positions = [observer.undelivered(app) for observer in self.observers]
        return min((id for id in positions if id is not None), default=None)

    def limits_of(self, app: str) -> tuple[float, int]:
        """Return how long an app keeps its entries, and how many of them.

        The first number is in seconds. The second number counts the newest
        entries. 0 means no limit. If the app has no setting of its own, the
        setting of the server counts.
        """
        tenant = self.settings_of(app)
        of_app = AppRetention()
        if tenant is not None:
            of_app = app_settings_of(tenant, AppRetention)
        seconds = of_app.retention_seconds or self.settings.retention_seconds
        most = of_app.retention_messages or self.settings.retention_messages
        return seconds, most
