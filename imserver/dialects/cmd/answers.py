"""The cmd dialect's answers to commands on channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, UnsetType

from imserver import errors
from imserver.channels.client_commands import ChannelAnswers
from imserver.channels.members import ChannelMember, ChannelRefused, Reason
from imserver.channels.subscriptions import Subscribed
from imserver.cluster.history import Position
from imserver.dialects.cmd.wire import ChannelCmdDialect, CmdPublicationView, publication_view
from imserver.message_view import raw_or_none
from imserver.model import AskHistory, AskPresence, DialectState, Event, Reply, Subscribe
from imserver.protocol.dialect import Dialect
from imserver.transport.connection import Connection

CODE_OF: Final[dict[Reason, int]] = {
    "name": errors.ReplyCode.BAD_PARAMETER,
    "limit": errors.ReplyCode.BAD_PARAMETER,
    "denied": errors.ReplyCode.UNAUTHORIZED,
    "expired": errors.ReplyCode.UNAUTHORIZED,
    "unknown": errors.ReplyCode.NO_DATA,
    "unrecoverable": errors.ReplyCode.NO_DATA,
    "unavailable": errors.ReplyCode.NOT_STORED,
    "rate": errors.ReplyCode.NOT_STORED,
    "full": errors.ReplyCode.FAILED,
    "exists": errors.ReplyCode.FAILED,
    "ended": errors.ReplyCode.FAILED,
    "not_available": errors.ReplyCode.FAILED,
}
"""Reason of a refusal → reply code."""


class CmdState(DialectState, gc=False):
    """State of a connection that has subscribed to ``channels`` itself."""

    channels: tuple[str, ...] = ()

    def resubscribes(self, channel: str) -> bool:
        """Its client subscribes again to what it has subscribed to, not to what a back end has."""
        return channel in self.channels


class SubscribedView(Struct, omit_defaults=True):
    """The answer to ``subscribe``. ``recovered``: only if the client has named a position."""

    channel: str
    epoch: str = ""
    offset: int | None = None
    recovered: bool | None = None
    publications: list[CmdPublicationView] = []


class SubscriberView(Struct, omit_defaults=True):
    """A subscriber of a channel."""

    connection: str
    user: str
    info: Raw | None = None
    channel_info: Raw | None = msgspec.field(default=None, name="channelInfo")


class PresenceView(Struct, omit_defaults=True):
    """The answer to ``channelPresence``. ``next``: the ``after`` of the next page."""

    channel: str
    total: int = -1
    subscribers: list[SubscriberView] | None = None
    next: str = ""


class CmdAnswers(ChannelAnswers):
    """See :class:`ChannelAnswers`. Owner of :class:`CmdState`. ``codec``: of connections that subscribe."""

    def __init__(self, codec: ChannelCmdDialect) -> None:
        self._codec = codec

    def state_of(self, connection: Connection) -> CmdState:
        """The state of the connection. It is made when the connection first subscribes."""
        state = connection.dialect_state
        if not isinstance(state, CmdState):
            state = connection.dialect_state = CmdState()
        return state

    def refused(self, refused: ChannelRefused) -> Reply:
        """A reply code, the reason in words for programmers, and what the back end says."""
        data: dict[str, Any] = {"refused": refused.reason}
        if refused.error is not None:
            data["error"] = {"code": refused.error.code, "message": refused.error.message}
        return Reply(CODE_OF[refused.reason], data, refused.reason)

    def subscribed(
        self, connection: Connection, command: Subscribe, found: Subscribed, _data: Raw | UnsetType, _end: int
    ) -> Reply:
        """From now on the connection receives publications with the names of their channels."""
        state = self.state_of(connection)
        if command.channel not in state.channels:
            state.channels += (found.local.name,)
        connection.encoding = connection.encoding.with_dialect(self._codec)
        view = SubscribedView(command.channel)
        if found.position is not None:
            view.epoch, view.offset = found.position.epoch, found.position.offset
        if command.recover:
            view.recovered = found.recovered
            if found.recovered:
                view.publications = [publication_view(event) for event in found.publications]
        return Reply(errors.ReplyCode.OK, view)

    def unsubscribed(self, connection: Connection, channel: str) -> None:
        """The client does not subscribe again by itself."""
        state = connection.dialect_state
        if isinstance(state, CmdState):
            state.channels = tuple([each for each in state.channels if each != channel])

    def presence(
        self,
        _dialect: Dialect,
        command: AskPresence,
        members: Sequence[ChannelMember],
        total: int,
        after: str,
    ) -> Reply:
        """A page of subscribers, and the number of all."""
        subscribers = [
            SubscriberView(
                member.connection,
                member.user,
                raw_or_none(member.info.encode()),
                raw_or_none(member.channel_info.encode()),
            )
            for member in members
        ]
        return Reply(errors.ReplyCode.OK, PresenceView(command.channel, total, subscribers, after))

    def history(
        self, _dialect: Dialect, command: AskHistory, publications: Sequence[Event], position: Position
    ) -> Raw:
        """Publications, and the position of the newest one."""
        page = {"channel": command.channel, "epoch": position.epoch, "offset": position.offset}
        views = [publication_view(event) for event in publications]
        return Raw(msgspec.json.encode({**page, "publications": views}))
