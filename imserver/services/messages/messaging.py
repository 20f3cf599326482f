"""Sending of messages that are stored: drafts go to the log, results and entries come back in its order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.services.messages.acks import AckTracker, PongTracker
from imserver.services.messages.catch_up import CatchUp
from imserver.services.messages.deliverer import Deliverer, Done
from imserver.services.messages.log_follower import LogFollower
from imserver.services.messages.subscriptions import Subscriptions
from imserver.services.nodes.messages import NodeMessages
from imserver.storage.log.contract import Appended, Draft, Entry, StorageUnsure, Stored
from imserver.storage.store import Store
from imserver.storage.talk_positions import TalkPositions
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.storage.log.message_log import MessageLog

log = logging.getLogger(__name__)

WIDE: Final = 50
"""After a message to so many connections the app pauses, so that more messages gather: a write to a socket
costs as much as twenty frames that share it."""
_GATHER_SECONDS: Final = 0.000_1
"""The pause, for each of the connections."""
_MAX_GATHER_SECONDS: Final = 0.1

Sent = Callable[[str, Entry], None]
"""(app, an entry that a client has sent); must not switch."""


class Messaging:
    """Sends drafts, and listens to the log. Owner of the parts that deliver entries.

    ``node_messages`` reaches the other nodes; None on a node that is alone. ``on_sent`` are called once for
    each entry that a client has sent.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        store: Store,
        positions: TalkPositions,
        node_messages: NodeMessages | None = None,
        on_sent: Iterable[Sent] = (),
    ) -> None:
        self._store = store
        self._log: MessageLog | None = None
        """Set by the first draft."""
        self._metrics = metrics
        self._node_messages = node_messages
        self._on_sent = tuple(on_sent)
        self.subscriptions = Subscriptions()
        self.pongs = PongTracker(positions)
        self.ack_tracker = AckTracker(self.pongs)
        self.deliverer = Deliverer(hub, fanout, self.subscriptions, self.ack_tracker)
        self.follower = LogFollower(store, self.deliverer, metrics)
        self.catch_up = CatchUp(
            hub, metrics, store, self.subscriptions, self.ack_tracker, self.follower, self.deliverer
        )

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, app: str, draft: Draft, done: Done, connection: Connection | None = None) -> None:
        """Store a draft. Never switches.

        ``done`` gets the result, after every earlier entry that its sender is to receive on ``connection``.
        Everybody else who may read it receives it, the sender's other connections too. If the result is not
        known in time, ``done`` gets a StorageUnsure.
        """
        if self._log is None:
            self._log = self._store.log()
        self._log.send(app, draft, partial(self._stored, app, connection, done))

    def _stored(self, app: str, connection: Connection | None, done: Done, result: Stored) -> None:
        if isinstance(result, StorageUnsure):
            self.deliverer.settle(connection, done, result)
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
                self.sent(app, result.entry)
        if done is None:
            return
        if (
            isinstance(result, Appended)
            and self.follower.is_known(app)
            and result.entry.id > self.follower.position(app)
        ):
            self.deliverer.settle_in_order(app, connection, done, result)
            if result.repeated:
                self.follower.expect(app, result.entry.id)
        else:
            self.deliverer.settle(connection, done, result)

    def sent(self, app: str, entry: Entry) -> None:
        """A client has sent an entry: call the listeners. Never switches."""
        for listener in self._on_sent:
            try:
                listener(app, entry)
            except Exception:
                log.exception("a listener of sent messages failed")

    # --- the listener of the log ----------------------------------------------------------------------------

    def committed(self, app: str, first: int, last: int, entries: list[Entry]) -> None:
        """See :class:`imserver.storage.log.writer.LogListener`."""
        if self._node_messages is not None:
            self._node_messages.broadcast_entries(app, first, last, entries)
        self.deliverer.widest.pop(app, None)
        self.follower.committed(app, first, last, entries)

    def batch_stored(self, app: str, drafts: int, seconds: float) -> float:
        """See :class:`imserver.storage.log.writer.LogListener`."""
        self._metrics.batched(drafts, seconds)
        widest = self.deliverer.widest.get(app, 0)
        return min(widest * _GATHER_SECONDS, _MAX_GATHER_SECONDS) if widest >= WIDE else 0.0
