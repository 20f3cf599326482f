"""Finding what was said, for those who may read it. Owner of the turns: few look at a time, so that the
database has time for all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.model import Reply, Search
from imserver.protocol.cmd_stored import Shown, shown
from imserver.services.messages import page_bounds
from imserver.services.sessions.dispatch import Dispatcher, Rule, who
from imserver.storage.log.contract import Entry, message_of
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

MOST_AT_ONCE: Final = 2
TURN_SECONDS: Final = 10.0
"""How long a search waits for its turn; it is refused then, as while the database does not answer."""


class Found(Struct, rename="camel"):
    """Entries in the order of their ids. ``has_more``: there may be others before ``before``."""

    messages: list[Shown]
    has_more: bool
    before: int


class Finding:
    """Looks for texts. ``kept`` gives the log, or None while nothing was ever stored."""

    def __init__(self, kept: Callable[[], MessageLog | None]) -> None:
        self._kept = kept
        self._turns = BoundedSemaphore(MOST_AT_ONCE)

    def add_to(self, dispatcher: Dispatcher) -> None:
        """Have the command served."""
        dispatcher.rules[Search] = Rule(self._serve, needs_session=True)

    def search(
        self, app: str, user: str, text: str, conversation: int, before: int, limit: int
    ) -> tuple[list[Entry], int]:
        """See :meth:`imserver.storage.log.message_log.MessageLog.search`. Raises StorageUnavailable."""
        log = self._kept()
        if log is None:
            return [], 0
        if not self._turns.acquire(timeout=TURN_SECONDS):
            raise StorageUnavailable("too many searches at a time")
        try:
            return log.search(app, user, text, conversation, before, limit)
        finally:
            self._turns.release()

    def _serve(self, connection: Connection, command: Search) -> Reply:
        entries, before = self.search(
            *who(connection), command.text, command.conversation, command.before, command.limit
        )
        entries, cut = page_bounds.newest(entries, False)
        if cut:
            before = entries[0].id
        messages = [shown(message_of(entry)) for entry in entries]
        return Reply(errors.REPLY_OK, Found(messages, before > 0, before))
