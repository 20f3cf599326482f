"""Notices to the members of a channel: who subscribes and who leaves."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

from imserver.auth.rates import NOTICES, Buckets
from imserver.channels.members import ChannelMembers, ChannelRefused, Publication, infos_of
from imserver.channels.options import ChannelOptions
from imserver.channels.publishing import ChannelPublishing
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.model import ChannelPart, Event
from imserver.sessions.connection_ids import ConnectionTable
from imserver.transport.connection import Connection

_encode = msgspec.json.Encoder().encode


class ChannelNotices:
    """Sends notices, and counts them for those who cause them."""

    def __init__(
        self,
        members: ChannelMembers,
        options: ChannelOptions,
        publishing: ChannelPublishing,
        hub: Hub,
        fanout: Fanout,
        table: ConnectionTable,
    ) -> None:
        self._options = options
        self._publishing = publishing
        self._hub = hub
        self._fanout = fanout
        self._connections = table
        self._notices = Buckets(NOTICES)
        members.on_left.append(self._announce_leaves)

    def charge(self, connection: Connection, *channels: str) -> None:
        """Count the notices that the others of these channels get when a client subscribes, and later leaves.

        Raises :class:`ChannelRefused`: ``rate``. An end cannot be refused, so it is paid at the beginning.
        Never switches.
        """
        size = sum(2 * len(self.info_of(connection, channel)) for channel in channels)
        payer = connection.user or self._connections.id_of(connection)
        limit = self._fanout.notice_bytes  # a larger size counts as that
        if size and not self._notices.take((connection.app or "", payer), min(size, limit), limit):
            raise ChannelRefused("rate", "the user subscribes too often; try again in a second")

    def is_announced(self, app: str, channel: str) -> bool:
        """Whether the others of a channel get a notice when somebody subscribes or leaves."""
        members = self._hub.member_count(app, channel)
        return members <= self._fanout.notice_members and self._options.of(app, channel).join_leave

    def info_of(self, connection: Connection, channel: str) -> bytes:
        """JSON about a connection for others in a channel. Never switches.

        ``user``, ``client`` (the id of the connection), ``conn_info`` and ``chan_info`` (if it has them).
        """
        info, channel_info = infos_of(connection, channel)
        client = self._connections.id_of(connection)
        about: dict[str, str | Raw] = {"user": connection.user or "", "client": client}
        if info:
            about["conn_info"] = Raw(info)
        if channel_info:
            about["chan_info"] = Raw(channel_info)
        return _encode(about)

    def announce(self, kind: Literal["join", "leave"], connection: Connection, channel: str) -> None:
        """Send a notice about a subscriber to the others of a channel with ``join_leave``, and to itself if
        its dialect wants its joins. Never switches.

        A channel with more than ``hub.notice_members`` subscribers on this node gets none.
        """
        app = connection.app or ""
        if not self.is_announced(app, channel):
            return
        part = ChannelPart(channel, info=self.info_of(connection, channel))
        event = Event(kind, connection.user or "", "", channel=part)
        state = connection.dialect_state
        to_itself = kind == "join" and state is not None and state.receives_own_joins()
        notice = Publication(channel, event, except_connection=None if to_itself else connection)
        self._publishing.publish_soon(app, notice)

    def _announce_leaves(self, connection: Connection, channels: tuple[str, ...]) -> None:
        for channel in channels:
            self.announce("leave", connection, channel)
