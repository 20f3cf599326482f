"""What channels ask of the messenger, with an implementation for a node without it: the history of stored
channels (``history: log``), streamed messages, and members of groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from msgspec import Struct

from imserver.channels.members import ChannelRefused, Publication
from imserver.cluster.history import HistoryPage, Position
from imserver.config.settings import ChannelSettings
from imserver.hub.hub import LocalChannel
from imserver.model import ChannelPart, Event, Outcome, StreamPart
from imserver.transport.connection import Connection


class Published(Struct, frozen=True):
    """The result of a publication. ``position``: its position in the history (None: it has none)."""

    outcome: Outcome
    position: Position | None = None


class StoredHistory(Protocol):
    """The history of stored channels. It delivers their publications, and what else it has for members of
    channels, on each node. Calls may switch, and raise :class:`ChannelRefused`: ``unavailable``, or
    ``not_available`` (this node has no such history)."""

    def follow(self, app: str) -> int:
        """Deliver to the channels of an app from now on. Returns the offset of the last delivered
        publication. Does not switch if it does so already."""

    def follow_channel(
        self, app: str, channel: str, options: ChannelSettings, members: Collection[Connection]
    ) -> None:
        """Deliver to a channel from now on, if there may be something for these members, who enter it."""

    def check_channel(self, local: LocalChannel, options: ChannelSettings) -> None:
        """Do the same for its members on this node: its options may be others than when they entered."""

    def forget_channel(self, app: str, channel: str) -> None:
        """Forget a channel without members on this node. Never switches."""

    def append_each(self, app: str, publications: Sequence[Publication], key: str = "") -> list[Published]:
        """Store publications, in this order.

        A publication whose ``key``, or without one its id, was stored before in its channel, by the same
        sender, is ``REPEATED`` and keeps its position. Raises :class:`ChannelRefused`, also ``limit``
        (invalid); then some may be stored.
        """

    def read(
        self, app: str, channel: str, since: Position | None = None, limit: int = 0, reverse: bool = False
    ) -> HistoryPage:
        """See :class:`imserver.cluster.history.ChannelHistory`. The page has at most as many publications as
        a client receives when it comes back, and as many as fit."""


_ABSENT: Final = "the channel is stored in the message log, which this node does not have"


class NoStoredHistory:
    """Without the messenger there are no stored channels."""

    def follow(self, _app: str) -> int:
        raise ChannelRefused("not_available", _ABSENT)

    def follow_channel(
        self, _app: str, _channel: str, options: ChannelSettings, _members: Collection[Connection]
    ) -> None:
        if options.history:
            raise ChannelRefused("not_available", _ABSENT)

    def check_channel(self, local: LocalChannel, options: ChannelSettings) -> None:
        """Nothing is delivered."""

    def forget_channel(self, app: str, channel: str) -> None:
        """No channel is known."""

    def append_each(self, _app: str, _publications: Sequence[Publication], _key: str = "") -> list[Published]:
        raise ChannelRefused("not_available", _ABSENT)

    def read(
        self,
        _app: str,
        _channel: str,
        _since: Position | None = None,
        _limit: int = 0,
        _reverse: bool = False,
    ) -> HistoryPage:
        raise ChannelRefused("not_available", _ABSENT)


class StreamedPublications(Protocol):
    """Streamed messages in channels: their pieces and their ends are publications. Calls never switch."""

    def accept(self, app: str, part: ChannelPart, stream: StreamPart, event: Event, /) -> bool:
        """Take an event of a stream, and return whether subscribers receive it."""

    def subscribed(self, connection: Connection, channel: str, /) -> None:
        """A new subscriber has its answer: send it the open messages of the channel so far."""


class NoStreamedPublications:
    """Without the messenger, subscribers receive the ends that other nodes publish: these are whole."""

    def accept(self, _app: str, _part: ChannelPart, stream: StreamPart, _event: Event, /) -> bool:
        return stream.done

    def subscribed(self, _connection: Connection, _channel: str, /) -> None:
        """No message is open."""


class MembersOfGroups(Protocol):
    """The members of groups: they receive pushes to their group, and may subscribe to channels whose names
    have its id. Both methods may switch, and raise StorageUnavailable."""

    def is_member(self, app: str, group: int, user: str) -> bool:
        """Whether a user is a member of a group."""

    def members(self, app: str, group: int, after: str, limit: int) -> Sequence[str]:
        """The first ``limit`` members of a group after this one, in the order of their ids."""


class NoMembersOfGroups:
    """Without the messenger there are no groups."""

    def is_member(self, _app: str, _group: int, _user: str) -> bool:
        return False

    def members(self, _app: str, _group: int, _after: str, _limit: int) -> Sequence[str]:
        return ()
