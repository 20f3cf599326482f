"""Subscriptions to channels, with recovery, and the services that channels
consist of.

A channel with history numbers its publications. Each node delivers them in the
order of their numbers, and reads the missed ones from the history. So a member
that comes back with a position receives exactly the publications after it, or
learns that it must reload.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NoReturn

import gevent
from msgspec import Struct

from imserver.gateway.channels.histories import (
    ChannelHistories,
    ChannelHistory,
    fitting,
)
from imserver.gateway.channels.members import (
    INSUFFICIENT_STATE,
    ChannelMembers,
    ChannelRefused,
    NodeParts,
)
from imserver.gateway.channels.options import ChannelOptions, check_known
from imserver.gateway.channels.positions import OrderedDelivery
from imserver.gateway.channels.publishing import (
    ChannelNodes,
    ChannelNotices,
    ChannelPublishing,
)
from imserver.gateway.clock import until_beat
from imserver.gateway.cluster.history import HistoryPage, Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.hub.hub import LocalChannel
from imserver.gateway.model import Event, Service
from imserver.gateway.protocol.publications import compressed
from imserver.gateway.transport.connection import Connection

log = logging.getLogger(__name__)

_ALL: Final = -1
"""Limit of a page that has no limit."""
CHECK_SECONDS: Final = 5.0
"""A publication whose node died before it was sent out reaches other nodes
after at most twice this time."""


class Subscribed(Struct, frozen=True):
    """A new subscription: its channel on this node, and the settings of the
    channel.

    ``position``: the position of the last publication before it (None: the
    channel has no history). ``publications``: the publications after the
    position of the client. ``recovered``: none of them is missing. ``delta``:
    the subscriber receives publications that are :class:`Compressed`.
    """

    local: LocalChannel
    options: ChannelSettings
    position: Position | None = None
    publications: Sequence[Event] = ()
    recovered: bool = False
    delta: bool = False

    def events(self) -> Sequence[Event]:
        """The publications as the subscriber receives them."""
        events = self.publications
        if not self.delta:
            return events
        previous = (None, *events)
        return [
            compressed(event, before)
            for before, event in zip(previous, events, strict=False)
        ]


class _Wish(Struct, frozen=True, gc=False):
    """A connection that wants to enter a channel with these options. ``since``:
    the position of a client that comes back. ``delta``: the client reads
    deltas."""

    app: str
    connection: Connection
    channel: str
    options: ChannelSettings
    since: Position | None = None
    delta: bool = False

    @property
    def recovers_newest(self) -> bool:
        """Whether the newest publication of the channel is all that the client
        recovers."""
        return self.options.recovery_mode == "cache" and self.since is not None


def _recovery(wish: _Wish, page: HistoryPage) -> tuple[bool, Sequence[Event]]:
    """Whether a client recovers all that it has missed, and the publications
    that it receives. ``page``: of its channel."""
    since = wish.since
    newest = page.position
    missed = page.publications
    if wish.recovers_newest:
        if since == newest and newest.offset > 0:
            return True, []  # the client has it already
        offsets = [
            event.channel.offset for event in missed if event.channel is not None
        ]
        if offsets == [newest.offset]:
            return True, missed
        return False, []

    if wish.options.history:
        return page.whole, missed
    if len(fitting(missed)) < len(missed):
        # the client reads the history, page by page
        return False, missed[-1:]
    if since is None or since.epoch not in ("", newest.epoch):
        return False, missed
    return newest.offset - since.offset == len(missed), missed


class ChannelSubscriptions(Service, dict=True):
    """Subscribes connections of this node to channels."""

    here: NodeParts
    members: ChannelMembers
    options: ChannelOptions
    histories: ChannelHistories
    ordered: OrderedDelivery
    notices: ChannelNotices

    def __post_init__(self) -> None:
        self.members.report_to(parted=self._parted)

    def join(self, app: str, channel: str, connection: Connection) -> bool:
        """Put a connection into a channel. Publications that begin after the
        return reach it, from any node. The stored messages of the log reach it,
        too.

        Returns True if it is a new member. False: it was a member before, or is
        not in service in this app. Raises :class:`ChannelRefused`, with a text
        for the caller.
        """
        wish = _Wish(app, connection, channel, self.options.of(app, channel))
        return self._join_live(wish) is not None

    def _join_live(self, wish: _Wish) -> LocalChannel | None:
        """Join as :meth:`join` does, and return the channel of a new member."""
        local = self._enter(wish)
        if local is not None:
            self.members.report_join(local, wish.connection)
        else:
            self.members.await_report(wish.connection, wish.channel)
        return local

    def _enter(self, wish: _Wish) -> LocalChannel | None:
        """Make the connection a member. The other nodes do not know it yet."""
        app = wish.app
        channel = wish.channel
        stored = self.histories.stored
        # Before the connection enters: from then on the channel delivers.
        stored.follow_channel(app, channel, wish.options, (wish.connection,))
        local = None
        try:
            check_known(wish.options)
            local = self.members.enter(app, channel, wish.connection)
        finally:
            if local is None and self.here.hub.channel(app, channel) is None:
                stored.forget_channel(app, channel)
        return local

    def _parted(self, connection: Connection, channel: str, was_last: bool) -> None:
        if was_last:
            self.histories.stored.forget_channel(connection.app or "", channel)

    def subscribe(
        self,
        connection: Connection,
        channel: str,
        options: ChannelSettings,
        since: Position | None = None,
        delta: bool = False,
        reject_unrecovered: bool = False,
    ) -> Subscribed:
        """Subscribe a connection. The caller answers its client at once, and
        then calls :meth:`answered`. Everything published afterwards follows the
        answer.

        ``options``: of the channel. ``since``: the position of a client that
        comes back. ``delta``: the client reads deltas. ``reject_unrecovered``:
        refuse it (``unrecoverable``) if the channel has a history from which it
        does not recover. May switch greenlets. Raises :class:`ChannelRefused`.
        """
        app = connection.app or ""
        is_new = not self.members.has(connection, channel)
        if options.join_leave and is_new and self.notices.is_announced(app, channel):
            self.notices.charge(connection, channel)

        wish = _Wish(app, connection, channel, options, since, delta)
        try:
            subscription = self._join(wish)
            if connection not in subscription.local.members:
                raise ChannelRefused("ended")
            has_lost = (
                subscription.position is not None
                and since is not None
                and not subscription.recovered
            )
            if reject_unrecovered and has_lost:
                self.members.leave(app, channel, connection)
                raise ChannelRefused("unrecoverable")
        except ChannelRefused:
            self._abandon(app, channel)
            raise
        return subscription

    def subscribe_each(
        self, connection: Connection, wanted: Mapping[str, Position | None]
    ) -> dict[str, Subscribed]:
        """Subscribe a connection to several channels. The caller calls
        :meth:`answered` for each.

        ``wanted``: channel → the position of a client that comes back. See
        :meth:`subscribe`. If a subscription is refused, none of them stays.
        """
        app = connection.app or ""
        announced = [
            channel for channel in wanted if self.notices.is_announced(app, channel)
        ]
        self.notices.charge(connection, *announced)

        subscriptions: dict[str, Subscribed] = {}
        try:
            for channel, since in wanted.items():
                options = self.options.of(app, channel)
                wish = _Wish(app, connection, channel, options, since)
                subscriptions[channel] = self._join(wish)
            # It may have ended while a later channel was joined.
            for subscription in subscriptions.values():
                if connection not in subscription.local.members:
                    raise ChannelRefused("ended")
        except BaseException:
            for channel in subscriptions:
                self.members.leave(app, channel, connection)
            for channel in wanted:
                self._abandon(app, channel)
            raise
        return subscriptions

    def answered(
        self, connection: Connection, channel: str, subscription: Subscribed
    ) -> None:
        """Deliver the publications that follow the answer to a subscription.
        Never switches greenlets."""
        position = subscription.position
        if position is not None:
            newest = None
            can_use_deltas = subscription.delta and subscription.recovered
            if can_use_deltas and subscription.publications:
                newest = subscription.publications[-1]
            is_stored = subscription.options.history != ""
            self.ordered.release(
                subscription.local, connection, position, is_stored, newest
            )
        self.ordered.subscribed(connection, channel)
        if subscription.options.join_leave:
            self.notices.announce("join", connection, channel)

    def _join(self, wish: _Wish) -> Subscribed:
        """Make the connection a member that receives nothing yet, and read its
        channel's history, if any."""
        limit = wish.options.max_subscribers
        members = self.members
        is_full = limit > 0 and members.count(wish.app, wish.channel) >= limit
        if is_full and not members.has(wish.connection, wish.channel):
            raise ChannelRefused("full", f"the channel has {limit} subscribers")
        if wish.options.has_history:
            return self._join_with_history(wish)
        local = self._join_live(wish) or self._not_joined(wish)
        return Subscribed(local, wish.options)

    def _not_joined(self, wish: _Wish) -> NoReturn:
        """Raise :class:`ChannelRefused` for a connection that is no new
        member."""
        is_member = self.members.has(wish.connection, wish.channel)
        raise ChannelRefused("exists" if is_member else "ended")

    def _join_with_history(self, wish: _Wish) -> Subscribed:
        options = wish.options
        delta = wish.delta and options.delta
        local = self._enter(wish) or self._not_joined(wish)
        # From now on its publications wait, until it has its answer. So
        # publications that come while the history is read are not lost.
        self.ordered.wait(local, wish.connection, delta)
        self.members.report_join(local, wish.connection)
        delivered = -1
        try:
            page = self._read_missed(wish)
            if options.history:
                delivered = self.histories.stored.follow(wish.app)
        except BaseException:
            self.members.leave(wish.app, wish.channel, wish.connection)
            raise

        if local.position is None:
            raise ChannelRefused("ended")
        local.position.offset = max(local.position.offset, delivered)
        recovered, publications = _recovery(wish, page)
        return Subscribed(local, options, page.position, publications, recovered, delta)

    def _read_missed(self, wish: _Wish) -> HistoryPage:
        """The position of a channel with history, and the publications after
        the position of the client. If the newest publication recovers the
        client, it is the only one."""
        read: Callable[[str, str, Position | None, int, bool], HistoryPage]
        if wish.options.history:
            read = self.histories.stored.read
        else:
            read = self.histories.read_retained
        if wish.recovers_newest:
            return read(wish.app, wish.channel, None, 1, True)
        if wish.since is None:
            return read(wish.app, wish.channel, None, 0, False)
        return read(wish.app, wish.channel, wish.since, _ALL, False)

    def join_with_position(
        self,
        connection: Connection,
        channel: str,
        answer: Callable[[Position], object],
        since: Position | None = None,
    ) -> bool:
        """Subscribe a connection for the back end, and call ``answer`` with the
        position after which it receives publications. That is ``since`` if the
        history has all later publications, else the position of the newest
        publication.

        False: the channel has no history, or it does not answer, or the client
        cannot use a position, or it is a member already or has ended. Then
        nothing has changed. May switch greenlets. Raises
        :class:`ChannelRefused`: ``unavailable``, if the log of a stored channel
        does not answer.
        """
        app = connection.app or ""
        state = connection.dialect_state
        options = self.options.of(app, channel)
        can_recover = state is not None and state.resubscribes(channel)
        if not can_recover or not options.has_history:
            return False
        if self.members.has(connection, channel):
            return False

        wish = _Wish(app, connection, channel, options, since)
        try:
            subscription = self._join_with_history(wish)
        except ChannelRefused as refused:
            self._abandon(app, channel)
            if options.history and refused.reason == "unavailable":
                raise
            return False
        local = subscription.local
        position = subscription.position
        if position is None or connection not in local.members:
            self._abandon(app, channel)
            return False

        if since is None or not subscription.recovered:
            answer(position)
        else:
            answer(Position(position.epoch, since.offset))
            for event in subscription.publications:
                self.here.fanout.to_connection(connection, event)
        self.ordered.release(local, connection, position, options.history != "")
        return True

    def _abandon(self, app: str, channel: str) -> None:
        """Clean up after a refused subscription: nobody may wait for the
        position of its channel. Never switches greenlets."""
        local = self.here.hub.channel(app, channel)
        if local is not None:
            self.ordered.abandon(local)

    def unsubscribe(self, connection: Connection, channel: str) -> bool:
        """End a subscription. Returns whether the connection was subscribed.
        Never switches greenlets."""
        app = connection.app or ""
        was_member = self.members.leave(app, channel, connection)
        if was_member:
            self.notices.announce("leave", connection, channel)
        return was_member

    def run(self) -> None:
        """Greenlet: find publications whose node died before it sent them to
        this node."""
        while True:
            gevent.sleep(until_beat(CHECK_SECONDS))
            try:
                self.check_positions()
            except Exception:
                log.exception("the positions of channels could not be compared")

    def check_positions(self) -> None:
        """Compare the positions of this node with the newest ones of the shared
        history. May switch greenlets."""
        for app in tuple(self.here.hub.apps.values()):
            retained = []
            for local in tuple(app.channels.values()):
                options = self.options.of(app.name, local.name)
                self.histories.stored.check_channel(local, options)
                if options.history_size and local.position is not None:
                    retained.append(local)
            self.ordered.check(app.name, retained)


class Channels(Struct, frozen=True):
    """Channels on all nodes: subscribers, options, retained publications,
    delivery in order on this node, publications, notices, and subscriptions of
    connections of this node."""

    members: ChannelMembers
    options: ChannelOptions
    histories: ChannelHistories
    ordered: OrderedDelivery
    publishing: ChannelPublishing
    notices: ChannelNotices
    subscriptions: ChannelSubscriptions


def build_channels(
    here: NodeParts,
    members: ChannelMembers,
    history: ChannelHistory,
    nodes: ChannelNodes | None = None,
) -> Channels:
    """Build the services of channels. ``history`` is the history of this node,
    or the one that all nodes share. ``nodes``: the other nodes; None without a
    cluster."""
    options = ChannelOptions(here.settings, here.history_apps)
    histories = ChannelHistories(options, history)
    ordered = OrderedDelivery(
        here.fanout, history, partial(members.expel, code=INSUFFICIENT_STATE)
    )
    publishing = ChannelPublishing(here, options, histories, ordered, nodes)
    notices = ChannelNotices(here, options, publishing)
    members.report_to(left=notices.announce_leaves)
    subscriptions = ChannelSubscriptions(
        here, members, options, histories, ordered, notices
    )
    return Channels(
        members, options, histories, ordered, publishing, notices, subscriptions
    )
