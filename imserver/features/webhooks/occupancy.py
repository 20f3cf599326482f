"""Webhooks of channels: which have subscribers (``occupied``, ``vacated``), who comes and goes.

The registry says whether a subscriber is the first one on all nodes, and whether the last one has gone.
Events are sent as those of connections are: at most once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import gevent

from imserver.features.webhooks.webhooks import Webhooks
from imserver.plugin.services import ChannelServices
from imserver.plugin.wire import Connection

VACATED_SECONDS: Final = 3.0
"""A channel without subscribers for this long is reported as vacated: clients reconnect."""
_OCCUPANCY: Final = frozenset({"occupied", "vacated"})
_MEMBERSHIP: Final = frozenset({"joined", "left"})


class Occupancy:
    """Notifies the back ends of apps about channels. Owner of the channels whose last subscriber has gone.

    An app without webhooks costs one look-up. ``on_empty``: called with (app, channel) when no node of a
    cluster has a subscriber any more; None on a node alone.
    """

    def __init__(
        self,
        channels: ChannelServices,
        connection_id: Callable[[Connection], str],
        webhooks: Webhooks,
        on_empty: list[Callable[[str, str], object]] | None,
    ) -> None:
        self._channels = channels.channels
        self._connection_id = connection_id
        self._webhooks = webhooks
        self._empty: dict[tuple[str, str], gevent.Greenlet[..., None]] = {}
        """Channels without subscribers → the greenlet that will notify the back end."""
        self._is_alone = on_empty is None
        self._channels.members.on_joined.append(self._joined)
        self._channels.members.on_parted.append(self._parted)
        if on_empty is not None:
            on_empty.append(self._emptied)

    def _joined(self, connection: Connection, channel: str, is_first: bool) -> None:
        app = connection.app or ""
        if not self._webhooks.has_receiver(app):
            return
        waiting = self._empty.pop((app, channel), None)
        if waiting is not None:
            waiting.kill(block=False)
        elif is_first:
            self._report(app, "occupied", channel)
        self._report_member("joined", connection, channel)

    def _parted(self, connection: Connection, channel: str, is_last_here: bool) -> None:
        self._report_member("left", connection, channel)
        if is_last_here and self._is_alone:
            self._emptied(connection.app or "", channel)

    def _emptied(self, app: str, channel: str) -> None:
        """No node has a subscriber of a channel any more."""
        wanted = self._webhooks.wants_any(app, _OCCUPANCY)
        if wanted and (app, channel) not in self._empty:
            self._empty[app, channel] = gevent.spawn_later(VACATED_SECONDS, self._vacate, app, channel)

    def _vacate(self, app: str, channel: str) -> None:
        """Greenlet: nobody on this node has subscribed since."""
        del self._empty[app, channel]
        if not self._channels.members.count(app, channel):
            self._report(app, "vacated", channel)

    def _report(self, app: str, event: Literal["occupied", "vacated"], channel: str) -> None:
        self._webhooks.channel(app, event, channel, {})

    def _report_member(self, event: Literal["joined", "left"], connection: Connection, channel: str) -> None:
        app = connection.app or ""
        if self._webhooks.wants_any(app, _MEMBERSHIP):
            facts = {
                "user": connection.user or "",
                "device": connection.device,
                "dialect": connection.encoding.dialect.name,
                "connection": self._connection_id(connection),
            }
            self._webhooks.channel(app, event, channel, facts)
