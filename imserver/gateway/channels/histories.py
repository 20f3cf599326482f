"""The histories of channels, in memory or in Redis. The messenger has the
history of stored channels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.channels.members import ChannelRefused, Publication, is_limited_to
from imserver.gateway.channels.options import ChannelOptions
from imserver.gateway.cluster.history import (
    PAGE_BYTES,
    HistoryPage,
    Position,
    Retained,
    count_fitting,
)
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.errors import ImserverError, StorageUnavailable
from imserver.gateway.hub.hub import USER_CHANNEL, LocalChannel
from imserver.gateway.model import Event, Outcome, Service
from imserver.gateway.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.gateway.cluster.history import LocalHistory
    from imserver.gateway.cluster.redis.history import RedisHistory

ChannelHistory: TypeAlias = "LocalHistory | RedisHistory"
PUBLICATION_BYTES: Final = 100
"""Bytes that count for each publication of a page, besides its payload."""


class Published(Struct, frozen=True):
    """The result of a publication.

    ``position`` is the position of the publication in the history; None if it
    is not in the history. ``refusal`` is the error if this is one of several
    publications and it was refused or has failed. None means no error. The
    error of a single publication is raised instead.
    """

    outcome: Outcome
    position: Position | None = None
    refusal: ImserverError | None = None


class StoredHistory:
    """The history of stored channels, and the members of groups. This base
    class has neither.

    A stored channel has its publications in the message log, from which each
    node delivers them. Calls may switch greenlets, and raise
    :class:`ChannelRefused`: ``unavailable``, or ``not_available`` (this node
    has no such history).

    Members of a group receive pushes to it, and may subscribe to channels whose
    names have its id. Questions about groups and members may switch greenlets,
    and raise StorageUnavailable. Without the messenger there are no stored
    channels and no groups.
    """

    def is_member(self, app: str, group: int, user: str) -> bool:
        """Whether a user is a member of a group."""
        return False

    def members(self, app: str, group: int, after: str, limit: int) -> Sequence[str]:
        """Return the first ``limit`` members of a group after the user
        ``after``.

        They are in the order of their ids.
        """
        return ()

    def follow(self, app: str) -> int:
        """Begin to deliver the publications of the stored channels of an app.

        Returns the offset of the last delivered publication. Does not switch
        greenlets if the delivery has already begun.
        """
        raise _absent()

    def follow_channel(
        self,
        app: str,
        channel: str,
        options: ChannelSettings,
        members: Collection[Connection],
    ) -> None:
        """Begin to deliver the publications of a channel, if the log may have
        events for these new members."""
        if options.history:
            raise _absent()

    def check_channel(self, local: LocalChannel, options: ChannelSettings) -> None:
        """Call :meth:`follow_channel` for the members of a channel on this
        node.

        The options of the channel may have changed since the members have
        entered.
        """
        return

    def forget_channel(self, app: str, channel: str) -> None:
        """Forget a channel without members on this node. Never switches
        greenlets."""
        return

    def append_each(
        self, app: str, publications: Sequence[Publication], key: str = ""
    ) -> list[Published]:
        """Store publications, in this order.

        ``key`` identifies a publication of a sender in a channel; ``""`` means
        that the id of the event identifies it. The outcome is ``REPEATED`` if
        the publication was stored before; then it keeps its position. Raises
        :class:`ChannelRefused`, also with the reason ``limit`` if a publication
        is invalid. Then some of the publications may be stored.
        """
        raise _absent()

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read a page of publications, as ``LocalHistory.read`` does.

        The page is limited to the publications that fit on it, and to the
        number that a client receives when it comes back.
        """
        raise _absent()


def _absent() -> ChannelRefused:
    """Return the refusal for a stored channel on a node without the message
    log."""
    return ChannelRefused(
        "not_available",
        "the channel is stored in the message log, which this node does not have",
    )


class ChannelHistories(Service):
    """The publications that channels retain.

    ``history`` is the history of this node, or the one that all nodes share.
    ``stored`` is the history of stored channels, which is the message log.
    """

    options: ChannelOptions
    history: ChannelHistory
    stored: StoredHistory = field(default_factory=StoredHistory)

    def ask(self, stored: StoredHistory) -> None:
        """Ask only this object from now on about stored channels and members of
        groups."""
        self.stored = stored

    def retain(
        self, app: str, publication: Publication, options: ChannelSettings, key: str
    ) -> Publication:
        """Store a publication in the history of its channel, and return it with
        its position.

        ``key`` identifies the publication; ``""`` means that the id of its
        event identifies it. On a node without a cluster this never switches
        greenlets. So publications are delivered in the order of their offsets.
        Raises :class:`ChannelRefused`.
        """
        retained = Retained(
            channel=publication.channel,
            event=publication.event,
            size=options.history_size,
            seconds=options.history_seconds,
            id=key or publication.event.id,
        )
        events = self.history.append_each(app, (retained,))
        # It is unknown whether the publication is stored, so it must not be
        # delivered.
        if events is None:
            raise ChannelRefused(
                "unavailable", "the history of the channel does not answer"
            )
        return replace(publication, event=events[0])

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read publications of a channel (:meth:`LocalHistory.read`), as many
        as fit into a page.

        To read the next page, a reader continues after the last publication, or
        before it with ``reverse``. May switch greenlets. Raises
        :class:`ChannelRefused`.
        """
        if self.options.is_stored(app, channel):
            return self.stored.read(app, channel, since, limit, reverse)
        # A page never has more publications than this.
        most = PAGE_BYTES // PUBLICATION_BYTES
        if limit < 0 or limit > most:
            limit = most
        page = self.read_retained(app, channel, since, limit, reverse)
        return replace(page, publications=fitting(page.publications))

    def read_since(
        self,
        app: str,
        channel: str,
        since: tuple[str, int] | None,
        limit: int,
        reverse: bool,
    ) -> HistoryPage:
        """Read as :meth:`read` does, from a position that a client has sent.

        ``since`` has its epoch and offset. None means the beginning, and an
        empty epoch fits each history. Raises :class:`ChannelRefused`, also
        ``unrecoverable``: the history has another epoch than ``since``.

        An epoch names one life of a history. Offsets of another epoch mean
        nothing in this one.
        """
        if since is None:
            return self.read(app, channel, limit=limit, reverse=reverse)
        position = Position(*since)
        page = self.read(app, channel, position, limit, reverse)
        # The offsets of another epoch belong to another life of the channel.
        if position.epoch and position.epoch != page.position.epoch:
            raise ChannelRefused("unrecoverable")
        return page

    def read_retained(
        self,
        app: str,
        channel: str,
        since: Position | None,
        limit: int,
        reverse: bool = False,
    ) -> HistoryPage:
        """Read the history of a channel that is not stored.

        The page has at most ``limit`` publications (-1: all), of any size.
        Raises :class:`ChannelRefused`.
        """
        page = self.history.read(app, channel, since, limit, reverse)
        if page is None:
            raise ChannelRefused("unavailable")
        return page

    def remove(self, app: str, channel: str) -> None:
        """Remove the publications of a channel. May switch greenlets.

        Raises :class:`ChannelRefused`. It is also raised for a stored channel,
        because the log removes entries only by age or number.
        """
        if self.options.is_stored(app, channel):
            raise ChannelRefused(
                "not_available", "the log removes publications, by age"
            )
        if self.history.remove(app, channel) is None:
            raise ChannelRefused("unavailable")

    def erase_user(self, app: str, user: str, name: str) -> None:
        """Erase the publications of a user. ``name`` replaces the id of the
        user.

        The user's own channel loses its history, and so does each channel whose
        name lists the user. The log erases its own entries. Switches greenlets.
        Raises StorageUnavailable.
        """
        # The name of a channel may reveal the user.
        user_channel = f"{USER_CHANNEL}{user}"

        def is_of_user(channel: str) -> bool:
            """Whether a channel belongs to the user alone, or names the user."""
            if channel == user_channel:
                return True
            if not is_limited_to(channel, user):
                return False
            return self.options.of(app, channel).user_limited

        if self.history.erase_user(app, user, name, is_of_user) is None:
            raise StorageUnavailable("the histories of channels do not answer")


def fitting(publications: list[Event]) -> list[Event]:
    """Return the longest beginning of a list of publications that fits into a
    page."""
    return publications[: count_fitting(map(_size_of, publications))]


def _size_of(publication: Event) -> int:
    """Return how many bytes of a page a publication takes.

    Its data and text count with the size that they have in the page. The rest
    is an estimate.
    """
    size = (
        HistoryPage.size_of(publication.data)
        + HistoryPage.size_of(publication.text.encode())
        + PUBLICATION_BYTES
    )
    part = publication.channel
    if part is not None:
        size += len(part.tags) + len(part.info)
    return size
