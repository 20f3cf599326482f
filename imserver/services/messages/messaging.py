"""Sending of messages that are stored: drafts go into the log, results and entries come out in its order.

The :mod:`.follower` keeps the positions and puts what was stored in order, :mod:`.telling` delivers it,
:mod:`.following` keeps the connections that follow and lets them catch up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Final

from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.services.messages.acks import AckWheel
from imserver.services.messages.follower import Follower
from imserver.services.messages.following import Following
from imserver.services.messages.telling import Done, Result, Telling
from imserver.storage.log.contract import Appended, Draft, Entry, StorageUnsure, Stored
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

__all__ = ["Messaging", "Result"]

log = logging.getLogger(__name__)

WIDE: Final = 50
"""After a message to so many connections the app pauses, so that more messages gather: a write to a socket
costs as much as twenty frames that share it."""
_GATHER_SECONDS: Final = 0.000_1
"""The pause, for each of the connections."""
_MAX_GATHER_SECONDS: Final = 0.1

Forward = Callable[[str, int, int, list[Entry]], None]


class Messaging:
    """Owner of the parts that deliver what is stored. It is the log's listener.

    ``logs`` gives the log for writing; ``kept`` gives it, or None if nothing was ever stored.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        logs: Callable[[], MessageLog],
        kept: Callable[[], MessageLog | None],
    ) -> None:
        self._logs = logs
        self._log: MessageLog | None = None
        """Set by the first draft."""
        self._metrics = metrics
        self.wheel = AckWheel(self)
        self._telling = self.telling = telling = Telling(hub, fanout, self.wheel)
        self._follower = self.follower = follower = Follower(kept, telling.tell, metrics)
        self.rooms = telling.rooms
        self.heard = follower.heard
        self.position = follower.position
        self.give = telling.give
        follower.storing = self._senders
        follower.wanted = lambda app: app in telling.followers or telling.owes(app) or self.is_storing(app)
        following = Following(hub, metrics, kept, follower, telling, self.is_storing)
        self.follow = following.follow
        self.put_off = following.put_off
        self.ended = following.ended
        self.sync = following.sync
        self.release = following.release
        self.page = following.page
        self._tell_again = following.tell_again
        self.forward: Forward = lambda app, first, last, entries: None
        """Sends what was stored here to the other nodes. Must not switch."""
        self.on_sent: Callable[[str, Entry], None] = lambda app, entry: None
        """Called once for each entry that a client has sent. Must not switch."""

    def tell_again(self, connection: Connection, after: int, limit: int) -> bool:
        """See :meth:`.following.Following.tell_again`."""
        return self._tell_again(connection, after, limit)

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, app: str, draft: Draft, done: Done, connection: Connection | None = None) -> None:
        """Store a draft. Never switches.

        ``done`` gets the result, after every earlier entry that its sender is to receive on ``connection``.
        Everybody else who may read it receives it, the sender's other connections too. If the result is not
        known in time, ``done`` gets a StorageUnsure.
        """
        if self._log is None:
            self._log = self._logs()
        self._log.send(app, draft, partial(self._stored, app, connection, done))

    def is_storing(self, app: str) -> bool:
        """Whether drafts of an app wait or are being stored. Never switches."""
        return self._log is not None and self._log.is_busy(app)

    def _senders(self, app: str) -> Collection[str]:
        return () if self._log is None else self._log.senders(app)

    def _stored(self, app: str, connection: Connection | None, done: Done, result: Stored) -> None:
        if isinstance(result, StorageUnsure):
            self._telling.settle(connection, done, result)
            result.on_known = partial(self._known, app, connection, result.on_known)
        else:
            self._known(app, connection, done, result)

    def _known(self, app: str, connection: Connection | None, done: Done | None, result: Stored) -> None:
        if not isinstance(result, Appended):
            self._metrics.not_stored += 1
        elif result.repeated:
            self._metrics.stored_repeats += 1
        else:
            self._metrics.stored += 1
            if connection is not None:
                try:
                    self.on_sent(app, result.entry)
                except Exception:
                    log.exception("what was sent could not be passed on")
        if done is None:
            return
        if (
            isinstance(result, Appended)
            and self._follower.is_known(app)
            and result.entry.id > self._follower.position(app)
        ):
            self._telling.acknowledge(app, connection, done, result)
            if result.repeated:
                self._follower.expect(app, result.entry.id)
        else:
            self._telling.settle(connection, done, result)

    # --- what the log tells its listener --------------------------------------------------------------------

    def committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """See :class:`imserver.storage.log.writer.LogListener`."""
        self.forward(app, first, last, entries)
        self._telling.widest.pop(app, None)
        self._follower.heard(app, first, last, entries)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        """See :class:`imserver.storage.log.writer.LogListener`."""
        self._metrics.batched(drafts, seconds)
        widest = self._telling.widest.get(app, 0)
        return min(widest * _GATHER_SECONDS, _MAX_GATHER_SECONDS) if widest >= WIDE else 0.0
