"""What event streams deliver of stored messages: what their clients have missed, then what is new."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from imserver import errors
from imserver.errors import StorageUnavailable
from imserver.messages.catch_up import PAGE, CatchUp
from imserver.messages.deliverer import Deliverer
from imserver.messages.log.contract import Entry, oldest_page
from imserver.messages.log.message_log import MessageLog
from imserver.model import LogSubscription
from imserver.storage.store import Store
from imserver.transport.stream import Stream

log = logging.getLogger(__name__)

RESUMED: Final = 1000
"""Limit of the missed entries that a stream delivers after a reconnect. A client that missed more must query
them.
"""


class StreamStart(Struct, frozen=True):
    """The id after which a stream delivers stored messages (None: it delivers none), and whether that is
    complete. ``first``: the first missed entries.
    """

    cursor: int | None
    resumed: bool
    first: Sequence[Entry] = ()


class StreamStarts:
    """Begins streams at a cursor, or at the end of the log. Stateless."""

    def __init__(self, catch_up: CatchUp, deliverer: Deliverer, store: Store) -> None:
        self._catch_up = catch_up
        self._deliverer = deliverer
        self._store = store

    def start(self, app: str, user: str, cursor: int | None) -> StreamStart:
        """The position at which a stream begins. Read before the stream begins, so that ``ready`` is its
        first event.

        Raises StorageUnavailable if the client sent a cursor. Other clients are served without stored
        messages.
        """
        stored = self._store.part(MessageLog)
        try:
            extent = stored.entries.extent(app)
            if cursor is None:
                return StreamStart(extent.head, False)
            if extent.continues(cursor):
                first, more = oldest_page(*self._catch_up.page(app, user, cursor, PAGE))
                is_all = not more or self._is_all(app, user, first)
                # The pages may lack what expires while they are read, so the extent is read again.
                if is_all and stored.entries.extent(app).continues(cursor):
                    return StreamStart(cursor, True, first)
            return StreamStart(extent.head, False)
        except StorageUnavailable:
            if cursor is not None:
                raise
            log.warning("a stream of %s begins without stored messages: the database does not answer", app)
            return StreamStart(None, False)

    def _is_all(self, app: str, user: str, first: Sequence[Entry]) -> bool:
        """Whether a stream may deliver all that a user has missed. ``first``: the first missed entries."""
        count, more = len(first), True
        after = first[-1].id
        while more and count < RESUMED:
            some, more = self._catch_up.page(app, user, after, min(PAGE, RESUMED - count))
            count += len(some)
            after = some[-1].id if some else after
        return not more

    def send(self, stream: Stream, start: StreamStart) -> None:
        """Deliver what is stored, from ``start`` on. May switch."""
        cursor, first = start.cursor, start.first
        if cursor is None:
            return
        if first:
            self._deliverer.send(stream, first)
        try:
            self._catch_up.subscribe(stream, LogSubscription())
            if first:
                stream.wait_until_sent()
            self._catch_up.send_missed(stream, first[-1].id if first else cursor)
        except StorageUnavailable:
            # The client reconnects with the last id that it has.
            stream.close(errors.CloseCode.INTERNAL_ERROR)
