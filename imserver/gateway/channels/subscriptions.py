"""Subscriptions to channels, with recovery, and the services that channels
consist of.

A channel with history numbers its publications. Each node delivers publications
in the order of their numbers, and reads missed publications from the history.
So a member that comes back with a position receives exactly the publications
after the position, or learns that it must reload.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

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
"""The limit of a page that has all publications."""
CHECK_SECONDS: Final = 5.0
"""Seconds between two checks for missed publications. If a node dies before it
has sent a publication to the other nodes, these receive it after at most twice
this time."""


class Subscribed(Struct, frozen=True):
    """A new subscription: its channel on this node, and the settings of the
    channel.

    - ``position``: the position of the last publication before the
      subscription; None if the channel has no history.
    - ``publications``: the publications after the position of the client.
    - ``recovered``: whether ``publications`` has all of them.
    - ``delta``: whether the subscriber receives publications as deltas
      (:class:`Compressed`).
    """

    local: LocalChannel
    options: ChannelSettings
    position: Position | None = None
    publications: Sequence[Event] = ()
    recovered: bool = False
    delta: bool = False

    def misses_publications(self, since: Position | None) -> bool:
        """Whether a client that comes back with the position ``since`` has lost
        some of the publications after it."""
        return self.position is not None and since is not None and not self.recovered

    def events(self) -> Sequence[Event]:
        """Return the publications as the subscriber receives them."""
        events = self.publications
        if not self.delta:
            return events
        # Each publication is the difference to the publication before. The
        # first publication is whole.
        previous = (None, *events)
        return [
            compressed(event, before)
            for before, event in zip(previous, events, strict=False)
        ]


class _JoinRequest(Struct, frozen=True, gc=False):
    """A connection that is to join a channel.

    ``options`` are the options of the channel. ``since`` is the position of a
    client that comes back; None: the client is new. ``delta`` means that the
    client reads deltas.
    """

    app: str
    connection: Connection
    channel: str
    options: ChannelSettings
    since: Position | None = None
    delta: bool = False

    @property
    def recovers_newest(self) -> bool:
        """Whether the client recovers only the newest publication of the
        channel."""
        return self.options.recovery_mode == "cache" and self.since is not None


def _require_members(connection: Connection, joined: Iterable[Subscribed]) -> None:
    """Raise :class:`ChannelRefused` unless a connection is still in these
    channels. The connection may have ended while it joined a later channel."""
    for subscription in joined:
        if connection not in subscription.local.members:
            raise ChannelRefused("ended")


def _recovery(request: _JoinRequest, page: HistoryPage) -> tuple[bool, Sequence[Event]]:
    """Decide whether a client recovers all publications that it has missed.

    ``page`` is the result of :meth:`ChannelSubscriptions._read_missed` for this
    client. Returns this decision, and the publications that the client
    receives.
    """
    since = request.since
    newest = page.position
    missed = page.publications
    if request.recovers_newest:
        return _recovery_of_newest(since, page)

    if request.options.history:
        return (
            page.whole,
            missed,
        )  # the message log tells whether publications are missing
    if len(fitting(missed)) < len(missed):
        # There are too many publications for one answer. The client has to read
        # the history page by page.
        return False, missed[-1:]
    if since is None or since.epoch not in ("", newest.epoch):
        return False, missed
    # Offsets have no gaps, so their difference is the number of publications.
    return newest.offset - since.offset == len(missed), missed


def _recovery_of_newest(
    since: Position | None, page: HistoryPage
) -> tuple[bool, Sequence[Event]]:
    """Decide whether a client recovers the newest publication of a channel.

    See :func:`_recovery` for the arguments and the result.
    """
    newest = page.position
    if since == newest and newest.offset > 0:
        return True, []  # the client already has the newest publication
    missed = page.publications
    offsets = [event.channel.offset for event in missed if event.channel is not None]
    if offsets == [newest.offset]:
        return True, missed
    # The history does not retain the newest publication any more.
    return False, []


class ChannelSubscriptions(Service, dict=True):
    """Subscribes connections of this node to channels, and lets clients
    recover.

    To recover is to get the publications that a client has missed while it was
    away.
    """

    here: NodeParts
    members: ChannelMembers
    options: ChannelOptions
    histories: ChannelHistories
    ordered: OrderedDelivery
    notices: ChannelNotices

    def __post_init__(self) -> None:
        self.members.report_to(parted=self._parted)

    def join(self, app: str, channel: str, connection: Connection) -> bool:
        """Put a connection into a channel.

        When this method returns, publications from all nodes and stored
        messages reach the connection. Returns True if the connection is a new
        member. Returns False if it was a member before, or has no open session
        in this app. Raises :class:`ChannelRefused`, with a text for the caller.
        """
        request = _JoinRequest(app, connection, channel, self.options.of(app, channel))
        return self._join_without_history(request) is not None

    def _join_without_history(self, request: _JoinRequest) -> LocalChannel | None:
        """Join as :meth:`join` does.

        Returns the channel if the connection is a new member; otherwise None.
        """
        local = self._enter(request)
        if local is not None:
            self.members.report_join(local, request.connection)
        else:
            self.members.await_report(request.connection, request.channel)
        return local

    def _enter(self, request: _JoinRequest) -> LocalChannel | None:
        """Make the connection a member, before other nodes know that this node
        has members.

        The result is as for :meth:`ChannelMembers.enter`.
        """
        app = request.app
        channel = request.channel
        stored = self.histories.stored
        # This is called before the connection enters, because the channel
        # delivers from then on.
        stored.follow_channel(app, channel, request.options, (request.connection,))
        local = None
        try:
            check_known(request.options)
            local = self.members.enter(app, channel, request.connection)
        finally:
            # The channel has no other members here, so it need not follow the
            # log.
            if local is None and self.here.hub.channel(app, channel) is None:
                stored.forget_channel(app, channel)
        return local

    def _parted(self, connection: Connection, channel: str, was_last: bool) -> None:
        """Handle the end of a subscription (``ChannelMembers.report_to``)."""
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
        calls :meth:`answered`.

        Later publications follow the answer. ``since`` is the position of a
        client that comes back; None: the client is new. ``delta`` means that
        the client reads deltas. ``reject_unrecovered`` means that a client
        which cannot recover from the history of the channel is refused
        (``unrecoverable``). May switch greenlets. Raises
        :class:`ChannelRefused`.
        """
        app = connection.app or ""
        is_new = not self.members.has(connection, channel)
        if options.join_leave and is_new and self.notices.is_announced(app, channel):
            self.notices.charge(connection, channel)

        request = _JoinRequest(app, connection, channel, options, since, delta)
        try:
            subscription = self._join(request)
            # The connection may have ended while the history was read.
            if connection not in subscription.local.members:
                raise ChannelRefused("ended")
            if reject_unrecovered and subscription.misses_publications(since):
                self.members.leave(app, channel, connection)
                raise ChannelRefused("unrecoverable")
        except ChannelRefused:
            self._stop_waiting(app, channel)
            raise
        return subscription

    def subscribe_each(
        self, connection: Connection, wanted: Mapping[str, Position | None]
    ) -> dict[str, Subscribed]:
        """Subscribe a connection to several channels. The caller calls
        :meth:`answered` for each.

        ``wanted`` maps a channel to the position of a client that comes back,
        or to None if the client is new. If one subscription is refused, all of
        them end. For the errors see :meth:`subscribe`.
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
                request = _JoinRequest(app, connection, channel, options, since)
                subscriptions[channel] = self._join(request)
            _require_members(connection, subscriptions.values())
        except BaseException:
            self._undo(connection, subscriptions, wanted)
            raise
        return subscriptions

    def _undo(
        self, connection: Connection, joined: Iterable[str], wanted: Iterable[str]
    ) -> None:
        """End all subscriptions of a connection, because one was refused.

        ``joined`` are the channels that the connection has already joined.
        """
        app = connection.app or ""
        for channel in joined:
            self.members.leave(app, channel, connection)
        for channel in wanted:
            self._stop_waiting(app, channel)

    def answered(
        self, connection: Connection, channel: str, subscription: Subscribed
    ) -> None:
        """Deliver the publications that follow the answer to a subscription.

        Also announces the new member. Never switches greenlets.
        """
        position = subscription.position
        if position is not None:
            # The next publication may be a delta to this one.
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

    def _join(self, request: _JoinRequest) -> Subscribed:
        """Make the connection a member of a channel.

        If the channel has a history, the history is read. Then the member
        receives nothing before :meth:`answered`. Raises
        :class:`ChannelRefused`.
        """
        limit = request.options.max_subscribers
        members = self.members
        is_full = limit > 0 and members.count(request.app, request.channel) >= limit
        if is_full and not members.has(request.connection, request.channel):
            raise ChannelRefused("full", f"the channel has {limit} subscribers")
        # With a history, publications wait until the client has its answer.
        if request.options.has_history:
            return self._join_with_history(request)
        local = self._join_without_history(request)
        if local is None:
            raise self._not_joined(request)
        return Subscribed(local, request.options)

    def _not_joined(self, request: _JoinRequest) -> ChannelRefused:
        """Return the refusal for a connection that has not become a member."""
        is_member = self.members.has(request.connection, request.channel)
        return ChannelRefused("exists" if is_member else "ended")

    def _join_with_history(self, request: _JoinRequest) -> Subscribed:
        """Make the connection a member. Its publications wait until the client
        has its answer.

        This also reads the publications that the client has missed.
        """
        options = request.options
        delta = request.delta and options.delta
        local = self._enter(request)
        if local is None:
            raise self._not_joined(request)
        # From now on, publications for the connection are collected until it
        # has its answer. So no publication is lost while the history is read.
        self.ordered.wait(local, request.connection, delta)
        self.members.report_join(local, request.connection)
        page, delivered = self._read_or_leave(request)
        if local.position is None:
            # All members have left meanwhile.
            raise ChannelRefused("ended")
        local.position.offset = max(local.position.offset, delivered)
        recovered, publications = _recovery(request, page)
        return Subscribed(local, options, page.position, publications, recovered, delta)

    def _read_or_leave(self, request: _JoinRequest) -> tuple[HistoryPage, int]:
        """Read the publications that a new member has missed. If that fails,
        the member leaves.

        The second result is the offset of the last publication that the message
        log has delivered here. It is -1 if the channel is not stored; then the
        position of the page applies.
        """
        try:
            page = self._read_missed(request)
            if request.options.history:
                return page, self.histories.stored.follow(request.app)
            return page, -1
        except BaseException:
            self.members.leave(request.app, request.channel, request.connection)
            raise

    def _read_missed(self, request: _JoinRequest) -> HistoryPage:
        """Read the newest position of a channel with history, and what the
        client has missed.

        A new client gets no publications. If only the newest publication
        counts, the page has only this publication.
        """
        read: Callable[[str, str, Position | None, int, bool], HistoryPage]
        if request.options.history:
            read = self.histories.stored.read
        else:
            read = self.histories.read_retained
        # For a new client, 0 publications are read, and so only the position.
        since = request.since
        limit = _ALL
        reverse = False
        if request.recovers_newest:
            since = None
            limit = 1
            reverse = True
        elif since is None:
            limit = 0
        return read(request.app, request.channel, since, limit, reverse)

    def join_with_position(
        self,
        connection: Connection,
        channel: str,
        answer: Callable[[Position], object],
        since: Position | None = None,
    ) -> bool:
        """Subscribe a connection on behalf of the back end, with a position in
        the history.

        ``answer`` gets the position after which the connection receives
        publications. This position is ``since`` if the history has all later
        publications. Otherwise it is the position of the newest publication.

        Returns False, and changes nothing, in these cases:

        - The channel has no history, or the history does not answer.
        - The client cannot use a position.
        - The connection is a member already, or has ended.

        May switch greenlets. Raises :class:`ChannelRefused`: ``unavailable``,
        if the log of a stored channel does not answer.
        """
        app = connection.app or ""
        options = self.options.of(app, channel)
        if not self._can_get_position(connection, channel, options):
            return False

        # If this is not possible, the caller subscribes the connection without
        # a position.
        request = _JoinRequest(app, connection, channel, options, since)
        subscription = self._join_if_history_answers(request)
        if subscription is None:
            return False
        local = subscription.local
        position = subscription.position
        if position is None or connection not in local.members:
            self._stop_waiting(app, channel)
            return False

        self._answer_with_position(connection, subscription, position, since, answer)
        self.ordered.release(local, connection, position, options.history != "")
        return True

    def _join_if_history_answers(self, request: _JoinRequest) -> Subscribed | None:
        """Subscribe a connection. The result is None if the subscription was
        refused.

        Raises :class:`ChannelRefused` if the log of a stored channel does not
        answer.
        """
        try:
            return self._join_with_history(request)
        except ChannelRefused as refused:
            self._stop_waiting(request.app, request.channel)
            if request.options.history and refused.reason == "unavailable":
                raise
            return None

    def _can_get_position(
        self, connection: Connection, channel: str, options: ChannelSettings
    ) -> bool:
        """Whether a connection may join a channel with a position in its
        history."""
        state = connection.dialect_state
        can_recover = state is not None and state.resubscribes(channel)
        if not can_recover or not options.has_history:
            return False
        return not self.members.has(connection, channel)

    def _answer_with_position(
        self,
        connection: Connection,
        subscription: Subscribed,
        position: Position,
        since: Position | None,
        answer: Callable[[Position], object],
    ) -> None:
        """Answer a subscription that the back end has made, and send missed
        publications.

        ``position`` is the position of the subscription, and ``since`` is the
        position that the back end has named.
        """
        # The answer comes first, then the publications that the connection has
        # missed. Publications that have come meanwhile follow later.
        if since is None or not subscription.recovered:
            answer(position)
            return
        answer(Position(position.epoch, since.offset))
        for event in subscription.publications:
            self.here.fanout.to_connection(connection, event)

    def _stop_waiting(self, app: str, channel: str) -> None:
        """Clean up after a refused subscription.

        It delivers publications that were collected only for this subscription.
        Never switches greenlets.
        """
        local = self.here.hub.channel(app, channel)
        if local is not None:
            self.ordered.abandon(local)

    def unsubscribe(self, connection: Connection, channel: str) -> bool:
        """End a subscription. Returns whether the connection was subscribed.

        Never switches greenlets.
        """
        app = connection.app or ""
        was_member = self.members.leave(app, channel, connection)
        if was_member:
            self.notices.announce("leave", connection, channel)
        return was_member

    def run(self) -> None:
        """Greenlet: find publications that have not reached this node.

        The node of such a publication may have died before it sent the
        publication.
        """
        while True:
            gevent.sleep(until_beat(CHECK_SECONDS))
            try:
                self.check_positions()
            except Exception:
                log.exception("the positions of channels could not be compared")

    def check_positions(self) -> None:
        """Compare the positions of this node with the newest positions in the
        shared history.

        May switch greenlets.
        """
        # Copies are used, because apps and channels may come and go meanwhile.
        for app in tuple(self.here.hub.apps.values()):
            retained = []
            for local in tuple(app.channels.values()):
                options = self.options.of(app.name, local.name)
                self.histories.stored.check_channel(local, options)
                if options.history_size and local.position is not None:
                    retained.append(local)
            self.ordered.check(app.name, retained)


class Channels(Struct, frozen=True):
    """The services of channels on all nodes.

    The services are: subscribers, options, retained publications, delivery in
    order on this node, publications, notices, and subscriptions of connections
    of this node.
    """

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
    """Build the services of channels.

    ``history`` is the history of this node, or the one that all nodes share.
    ``nodes`` sends to the other nodes; None without a cluster.
    """
    options = ChannelOptions(here.settings, here.history_apps)
    histories = ChannelHistories(options, history)
    ordered = OrderedDelivery(
        here.fanout, history, partial(members.expel, code=INSUFFICIENT_STATE)
    )
    publishing = ChannelPublishing(
        here=here, options=options, histories=histories, ordered=ordered, nodes=nodes
    )
    notices = ChannelNotices(here, options, publishing)
    # Members are told about a subscriber who leaves without a request.
    members.report_to(left=notices.announce_leaves)
    subscriptions = ChannelSubscriptions(
        here=here,
        members=members,
        options=options,
        histories=histories,
        ordered=ordered,
        notices=notices,
    )
    return Channels(
        members=members,
        options=options,
        histories=histories,
        ordered=ordered,
        publishing=publishing,
        notices=notices,
        subscriptions=subscriptions,
    )
