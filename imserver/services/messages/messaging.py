"""Messaging: what clients send is stored, told in the order of the log, and acknowledged behind the commit.

Made of four owners: :mod:`.intake` stores drafts, :mod:`.follower` puts what was stored in order,
:mod:`.telling` tells it, :mod:`.following` keeps who is told, and has them catch up. This is their one door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.services.messages import intake
from imserver.services.messages.acks import AckWheel
from imserver.services.messages.follower import Follower, Reads
from imserver.services.messages.following import Following, Pages
from imserver.services.messages.intake import Appends, Intake
from imserver.services.messages.telling import Result, Telling
from imserver.storage.log.contract import Entry
from imserver.transport.connection import Connection

__all__ = ["Log", "Messaging", "Result"]


class Log(Appends, Reads, Pages, Protocol):
    """What of the log is needed here; :class:`imserver.storage.log.message_log.MessageLog` has it."""

    def floor(self, app: str) -> int:
        """What has an id up to this one has expired."""


class Messaging:
    """Owner of what waits to be stored and to be acknowledged, of the local rooms and of the positions.

    ``logs`` gives the log for writing, and opens it if need be (raises StorageUnavailable); ``kept`` gives
    it, or None if nothing was ever stored.
    """

    def __init__(
        self,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        logs: Callable[[], Log],
        kept: Callable[[], Log | None],
    ) -> None:
        self.wheel = AckWheel(self)
        self.telling = telling = Telling(hub, fanout, self.wheel)
        self.follower = follower = Follower(kept, telling.tell, metrics)
        self.rooms = telling.rooms
        self._intake = Intake(logs, follower, telling, metrics)
        self.send = self._intake.send
        self.committed = self._intake.committed
        self.heard = follower.heard
        self.position = follower.position
        self.give = telling.give
        follower.wanted = lambda app: (
            app in telling.followers or telling.owes(app) or self._intake.running(app)
        )
        following = Following(hub, metrics, kept, follower, telling, self._intake.running)
        self.follow = following.follow
        self.put_off = following.put_off
        self.ended = following.ended
        self.sync = following.sync
        self.release = following.release
        self.page = following.page
        self._tell_again = following.tell_again

    @property
    def forward(self) -> intake.Forward:
        """Tells the other nodes what was stored here. Must not switch."""
        return self._intake.forward

    @forward.setter
    def forward(self, forward: intake.Forward) -> None:
        self._intake.forward = forward

    @property
    def on_sent(self) -> Callable[[str, Entry], None]:
        """Told of each entry that a client has sent, once. Must not switch."""
        return self._intake.on_sent

    @on_sent.setter
    def on_sent(self, on_sent: Callable[[str, Entry], None]) -> None:
        self._intake.on_sent = on_sent

    def tell_again(self, connection: Connection, after: int, limit: int) -> bool:
        """See :meth:`.following.Following.tell_again`."""
        return self._tell_again(connection, after, limit)
