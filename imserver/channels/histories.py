"""The histories of channels: in memory or in Redis, and that of stored channels."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from imserver.channels.contract import NoStoredHistory, StoredHistory
from imserver.channels.members import ChannelRefused, Publication, is_limited_to
from imserver.channels.options import ChannelOptions
from imserver.cluster.history import (
    PAGE_BYTES,
    ChannelHistory,
    HistoryPage,
    Position,
    Retained,
    count_fitting,
)
from imserver.config.settings import ChannelSettings
from imserver.errors import StorageUnavailable
from imserver.hub.hub import USER_CHANNEL
from imserver.model import Event

PUBLICATION_BYTES: Final = 100
"""Counted for each publication of a page, besides its payload."""


class ChannelHistories:
    """The publications that channels retain. ``history`` is that of this node, or the one that all nodes
    share; the messenger attaches that of stored channels."""

    def __init__(self, options: ChannelOptions, history: ChannelHistory) -> None:
        self._options = options
        self._history = history
        self.stored: StoredHistory = NoStoredHistory()

    def attach_log(self, stored: StoredHistory) -> None:
        """Set the history of stored channels. Never switches."""
        self.stored = stored

    def retain(self, app: str, what: Publication, options: ChannelSettings, key: str) -> Publication:
        """Store a publication to a channel with a history. On a lone node this never switches, so numbers
        have the order of delivery."""
        retained = Retained(
            what.channel, what.event, options.history_size, options.history_seconds, key or what.event.id
        )
        events = self._history.append_each(app, (retained,))
        if events is None:
            raise ChannelRefused("unavailable", "the history of the channel does not answer")
        return replace(what, event=events[0])

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage:
        """Publications of a channel (:meth:`ChannelHistory.read`), as many as fit into a page. A reader goes
        on after (with ``reverse``: before) the last one. May switch.

        Raises :class:`ChannelRefused`.
        """
        if self._options.is_stored(app, channel):
            return self.stored.read(app, channel, since, limit, reverse)
        most = PAGE_BYTES // PUBLICATION_BYTES
        page = self.read_retained(app, channel, since, most if limit < 0 else min(limit, most), reverse)
        return replace(page, publications=fitting(page.publications))

    def read_since(
        self, app: str, channel: str, since: tuple[str, int] | None, limit: int, reverse: bool
    ) -> HistoryPage:
        """Publications of a channel, as :meth:`read` returns them. ``since``: an epoch and an offset.

        Raises :class:`ChannelRefused`: ``unavailable``, or ``unrecoverable`` (the history has another epoch).
        """
        position = None if since is None else Position(*since)
        page = self.read(app, channel, position, limit, reverse)
        if position is not None and position.epoch and position.epoch != page.position.epoch:
            raise ChannelRefused("unrecoverable")
        return page

    def read_retained(
        self, app: str, channel: str, since: Position | None, limit: int, reverse: bool = False
    ) -> HistoryPage:
        """The same of a channel that is not stored, of any size. ``limit``: -1 for all."""
        page = self._history.read(app, channel, since, limit, reverse)
        if page is None:
            raise ChannelRefused("unavailable")
        return page

    def remove(self, app: str, channel: str) -> None:
        """Remove the publications of a channel. May switch. Raises :class:`ChannelRefused`: the log removes
        entries only by age or number."""
        if self._options.is_stored(app, channel):
            raise ChannelRefused("not_available", "the log removes publications, by age")
        if self._history.remove(app, channel) is None:
            raise ChannelRefused("unavailable")

    def erase_user(self, app: str, user: str, name: str) -> None:
        """Erase what a user has published; ``name`` stands in their place. Their channel, and those that are
        limited to them and others by name, lose their histories. What is in the log is erased there.
        Switches. Raises StorageUnavailable."""
        own = f"{USER_CHANNEL}{user}"

        def is_own(channel: str) -> bool:
            return channel == own or (
                is_limited_to(channel, user) and self._options.of(app, channel).user_limited
            )

        if self._history.erase_user(app, user, name, is_own) is None:
            raise StorageUnavailable("the histories of channels do not answer")


def fitting(publications: list[Event]) -> list[Event]:
    """The first of some publications that fit into a page."""
    sizes = (
        HistoryPage.size_of(each.data)
        + HistoryPage.size_of(each.text.encode())
        + (len(each.channel.tags) + len(each.channel.info) if each.channel else 0)
        + PUBLICATION_BYTES
        for each in publications
    )
    return publications[: count_fitting(sizes)]
