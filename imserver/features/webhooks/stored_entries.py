"""The entries of the message log, as feeds read them: on nodes that have stored messages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from imserver.plugin.messages import Entry, LogWindow, MessageLog
from imserver.plugin.storage import Store


class StoredEntries:
    """The entries of all apps."""

    def __init__(self, store: Store) -> None:
        self._log = store.part(MessageLog)

    def window(self, app: str, position: int) -> LogWindow:
        """The entries of an app after a position."""
        return LogWindow(partial(self.read, app), position)

    def read(self, app: str, after: int, limit: int) -> list[Entry]:
        """The first entries of an app after an id. Switches. Raises StorageUnavailable."""
        return self._log.entries.read(app, after, limit)

    def stored_at(self, app: str, ids: Sequence[int]) -> dict[int, int]:
        """Id → when the entry was stored, in Unix seconds. Switches. Raises StorageUnavailable."""
        return self._log.entries.stored_at(app, ids)
