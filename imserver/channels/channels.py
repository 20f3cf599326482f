"""Channels that clients subscribe to by themselves, with history, recovery, and notices.

A channel with history numbers its publications. Each node delivers them in the order of their numbers, and
reads from the history what it has missed. So a member that comes back with a position receives exactly what
came after it, or learns that it must reload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NoReturn

import gevent
import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from imserver.auth.rates import NOTICES, PUBLICATIONS, Buckets
from imserver.channels.contract import (
    NoStoredHistory,
    NoStreamedPublications,
    Published,
    StoredHistory,
    StreamedPublications,
)
from imserver.channels.members import (
    PRIVATE_PREFIX,
    ChannelMembers,
    ChannelNames,
    ChannelRefused,
    Publication,
    infos_of,
    needs_token,
)
from imserver.channels.positions import OrderedDelivery
from imserver.clock import serve_others, until_beat
from imserver.cluster.history import (
    PAGE_BYTES,
    ChannelHistory,
    HistoryPage,
    Position,
    Retained,
    count_fitting,
)
from imserver.cluster.nodes import ToChannel
from imserver.config.settings import ChannelSettings, TenantSettings
from imserver.errors import StorageUnavailable
from imserver.hub.fanout import Fanout
from imserver.hub.hub import RESERVED, USER_CHANNEL, Hub, LocalChannel
from imserver.metrics import Metrics
from imserver.model import (
    SYSTEM_PREFIX,
    YIELD_TARGETS,
    ChannelPart,
    Event,
    Limit,
    Outcome,
)
from imserver.protocol.fossil import compressed
from imserver.sessions.connection_ids import ConnectionTable
from imserver.transport.connection import Connection

if TYPE_CHECKING:
    from imserver.channels.nodes import ChannelNodes, MembersOfNodes

log = logging.getLogger(__name__)

ANY_NAMESPACE: Final = "*"
"""The row of ``channels`` in the settings of an app for all channels without a row of their own."""
SERVER_UNSUBSCRIBE: Final = 2000
"""Code of ``unsubscribed``: the client does not subscribe again."""
INSUFFICIENT_STATE: Final = 2500
"""Code of ``unsubscribed``: publications are missing. The client subscribes again, and then reloads."""
CLOSE_INSUFFICIENT_STATE: Final = 3010
"""Close code of the same, for a client that the server has subscribed. It connects again, and recovers."""
CHECK_SECONDS: Final = 5.0
"""A publication whose node died before it was sent out reaches other nodes after at most twice this time."""
PUBLICATION_BYTES: Final = 100
"""Counted for each publication of a page, besides its payload."""
INSUFFICIENT: Final = "insufficient state"
UNKNOWN: Final = ChannelSettings(subscribe="nobody")
"""Of channels that an app does not have, because it says that it has only those with settings."""
_DEFAULTS: Final = ChannelSettings()
_OWN: Final = ChannelSettings(subscribe="members")
"""Of ``group:`` channels, and of ``user:`` channels without a row."""
_USER: Final = USER_CHANNEL.removesuffix(":")
_encode = msgspec.json.Encoder().encode


def _namespace(rows: Mapping[str, ChannelSettings], channel: str) -> str:
    namespace, colon, _ = channel.removeprefix(PRIVATE_PREFIX).partition(":")
    if not colon:
        namespace = ""
    return namespace if namespace in rows else ANY_NAMESPACE


def has_channel(user: str) -> bool:
    """Whether the id of a user is short enough for the name of a channel."""
    return len(user.encode("utf-8", "surrogatepass")) <= Limit.CHANNEL_BYTES - len(USER_CHANNEL)


def check_known(options: ChannelSettings) -> None:
    """Raise :class:`ChannelRefused` (``unknown``) for a channel of :data:`UNKNOWN` options."""
    if options is UNKNOWN:
        raise ChannelRefused("unknown", "the app has no channels of this namespace")


class Subscribed(Struct, frozen=True):
    """A new subscription: its channel on this node, and the settings of that.

    ``position``: of the last publication before it (None: the channel has no history). ``publications``: what
    came after the position of the client. ``recovered``: they are all of it. ``delta``: the subscriber
    receives publications that are :class:`Compressed`.
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
        return [compressed(event, before) for before, event in zip((None, *events), events, strict=False)]


class Channels:
    """Channels on all nodes: subscriptions, publications and notices.

    ``members``: who is subscribed. ``settings``: app → its settings. ``history`` is that of this node, or the
    one that all nodes share; the messenger attaches that of stored channels. ``nodes``: the other nodes; None
    without a cluster.
    """

    def __init__(
        self,
        members: ChannelMembers,
        hub: Hub,
        fanout: Fanout,
        metrics: Metrics,
        table: ConnectionTable,
        settings: Callable[[str], TenantSettings | None],
        history: ChannelHistory,
        nodes: ChannelNodes | None = None,
    ) -> None:
        self.members = members
        self._hub = hub
        self._fanout = fanout
        self._metrics = metrics
        self._connections = table
        self._settings = settings
        self._history = history
        self._nodes = nodes
        self._stored: StoredHistory = NoStoredHistory()
        self.ordered = OrderedDelivery(fanout, history, partial(self.expel, code=INSUFFICIENT_STATE))
        self.streams: StreamedPublications = NoStreamedPublications()
        self._notices = Buckets(NOTICES)
        self._publications = Buckets(PUBLICATIONS)
        self.names: dict[str, ChannelNames] = {}
        """App → meaning of the names of its channels, besides its settings. Others call :meth:`set_names`."""
        members.on_parted.append(self._parted)
        members.on_left.append(self._announce_leaves)

    def attach_log(self, stored: StoredHistory) -> None:
        """Set the history of stored channels. Never switches."""
        self._stored = stored

    def attach_streams(self, streams: StreamedPublications) -> None:
        """Set what knows the open streamed messages. Never switches."""
        self.streams = streams

    def set_names(self, app: str, names: ChannelNames | None) -> None:
        """Set what the names of the channels of an app mean; None: nothing besides its settings. Never
        switches."""
        if names is None:
            self.names.pop(app, None)
        else:
            self.names[app] = names

    def is_reserved(self, channel: str) -> bool:
        """Whether a channel belongs to a user or to a group. Never switches."""
        return channel.startswith(RESERVED)

    def is_private(self, app: str, channel: str) -> bool:
        """Whether clients need a token for a channel because of its name, even in an open app. Never
        switches."""
        names = self.names.get(app)
        return needs_token(channel) or (names is not None and names.needs_token(channel))

    def check_user(self, user: str | None, options: ChannelSettings) -> None:
        """Refuse (:class:`ChannelRefused`) a client without a user if the channel is for users.
        Never switches."""
        if not (options.anonymous or user):
            raise ChannelRefused("denied", "the channel is for users")

    def known_options(self, app: str, channel: str) -> ChannelSettings:
        """The settings of a channel. Raises :class:`ChannelRefused` (``unknown``) if the app has no such
        channel. Never switches."""
        options = self.options(app, channel)
        check_known(options)
        return options

    def options(self, app: str, channel: str) -> ChannelSettings:
        """The settings of a channel. Never switches."""
        if channel.startswith(RESERVED) and not app.startswith(SYSTEM_PREFIX):
            row = self.user_row(app) if channel.startswith(USER_CHANNEL) else None
            return _OWN if row is None else replace(row, subscribe="members")
        tenant = self._settings(app)
        if tenant is None:
            return _DEFAULTS
        rows, found = tenant.channels, _DEFAULTS
        if rows or tenant.known_channels_only:
            without = UNKNOWN if tenant.known_channels_only else _DEFAULTS
            found = rows.get(_namespace(rows, channel), without)
            if found is UNKNOWN:
                return found
        names = self.names.get(app) if self.names else None
        return found if names is None else names.options(channel, found)

    def user_row(self, app: str) -> ChannelSettings | None:
        """The options of the channels of users (``user:<id>``) that an app has set. Never switches."""
        tenant = self._settings(app)
        return None if tenant is None else tenant.channels.get(_USER)

    def has_user_channel(self, app: str, user: str) -> bool:
        """Whether the channel of a user has options that the app has set. Never switches."""
        return self.user_row(app) is not None and has_channel(user)

    def stores_pushes(self, app: str) -> bool:
        """Whether pushes to users are publications to channels with a history. Never switches."""
        row = self.user_row(app)
        return row is not None and row.has_history and not app.startswith(SYSTEM_PREFIX)

    def namespace(self, app: str, channel: str) -> str:
        """The name of a channel's row of settings; ``*`` without one of its own. Never switches."""
        tenant = self._settings(app)
        return ANY_NAMESPACE if tenant is None else _namespace(tenant.channels, channel)

    def count_publication(self, payer: Hashable, app: str, channel: str, limit: int) -> bool:
        """Count a publication of a client. False: there were more than ``limit`` in a second. Never
        switches."""
        return self._publications.take((payer, self.namespace(app, channel)), number=limit)

    def is_stored(self, app: str, channel: str) -> bool:
        """Whether the history of a channel is the message log. Never switches."""
        return self.options(app, channel).history != ""

    def stores_conversations(self, app: str) -> bool:
        """Whether the messages that users of the action dialect send are stored. Never switches."""
        tenant = self._settings(app)
        return tenant is not None and tenant.store_conversations

    # --- subscriptions --------------------------------------------------------------------------------------

    def join(self, app: str, channel: str, connection: Connection) -> bool:
        """Put a connection into a channel. Publications that begin after the return reach it, from any node.
        So do the stored messages of the log.

        Returns True if it is a new member. False: it was a member before, or is not in service in this app.
        Raises :class:`ChannelRefused`, with a text for the caller.
        """
        return self._join_live(app, channel, connection, self.options(app, channel)) is not None

    def _join_live(
        self, app: str, channel: str, connection: Connection, options: ChannelSettings
    ) -> LocalChannel | None:
        """Do what :meth:`join` does, and return the channel of a new member."""
        self._stored.follow_channel(app, channel, options, (connection,))
        local = self._enter(app, channel, connection, options)
        if local is not None:
            self.members.report_join(local, connection)
        else:
            self.members.await_report(connection, channel)
        return local

    def _enter(
        self, app: str, channel: str, connection: Connection, options: ChannelSettings
    ) -> LocalChannel | None:
        local = None
        try:
            check_known(options)
            local = self.members.enter(app, channel, connection)
        finally:
            if local is None and self._hub.channel(app, channel) is None:
                self._stored.forget_channel(app, channel)
        return local

    def _parted(self, connection: Connection, channel: str, was_last: bool) -> None:
        if was_last:
            self._stored.forget_channel(connection.app or "", channel)

    def subscribe(
        self,
        connection: Connection,
        channel: str,
        options: ChannelSettings,
        since: Position | None = None,
        delta: bool = False,
        reject_unrecovered: bool = False,
    ) -> Subscribed:
        """Subscribe a connection. The caller answers its client at once, and then calls :meth:`answered`.
        Everything published afterwards follows the answer.

        ``options``: of the channel. ``since``: the position of a client that comes back. ``delta``: the
        client reads deltas. ``reject_unrecovered``: refuse it (``unrecoverable``) if the channel has a
        history from which it does not recover. May switch. Raises :class:`ChannelRefused`.
        """
        app = connection.app or ""
        is_new = not self.members.has(connection, channel)
        if options.join_leave and is_new and self._is_announced(app, channel):
            self.charge_notices(connection, channel)
        try:
            found = self._join(app, channel, connection, options, since, delta)
            if connection not in found.local.members:
                raise ChannelRefused("ended")
            lost = found.position is not None and since is not None and not found.recovered
            if reject_unrecovered and lost:
                self.members.leave(app, channel, connection)
                raise ChannelRefused("unrecoverable")
        except ChannelRefused:
            self._abandon(app, channel)
            raise
        return found

    def subscribe_each(
        self, connection: Connection, wanted: Mapping[str, Position | None]
    ) -> dict[str, Subscribed]:
        """Subscribe a connection to several channels. The caller calls :meth:`answered` for each.

        ``wanted``: channel → the position of a client that comes back. See :meth:`subscribe`. If a
        subscription is refused, none of them stays.
        """
        app = connection.app or ""
        found: dict[str, Subscribed] = {}
        self.charge_notices(connection, *[each for each in wanted if self._is_announced(app, each)])
        try:
            for channel, since in wanted.items():
                options = self.options(app, channel)
                found[channel] = self._join(app, channel, connection, options, since, delta=False)
            for each in found.values():
                if connection not in each.local.members:
                    raise ChannelRefused("ended")
        except BaseException:
            for channel in found:
                self.members.leave(app, channel, connection)
            for channel in wanted:
                self._abandon(app, channel)
            raise
        return found

    def answered(self, connection: Connection, channel: str, found: Subscribed) -> None:
        """Deliver what follows the answer to a subscription. Never switches."""
        if found.position is not None:
            newest = (
                found.publications[-1] if found.delta and found.recovered and found.publications else None
            )
            is_stored = found.options.history != ""
            self.ordered.release(found.local, connection, found.position, is_stored, newest)
        self.streams.subscribed(connection, channel)
        if found.options.join_leave:
            self.announce("join", connection, channel)

    def _join(
        self,
        app: str,
        channel: str,
        connection: Connection,
        options: ChannelSettings,
        since: Position | None,
        delta: bool,
    ) -> Subscribed:
        """Make the connection a member that receives nothing yet, and read its channel's history, if any."""
        limit = options.max_subscribers
        if limit and self.members.count(app, channel) >= limit and not self.members.has(connection, channel):
            raise ChannelRefused("full", f"the channel has {limit} subscribers")
        if options.has_history:
            return self._join_with_history(app, channel, connection, options, since, delta)
        found = self._join_live(app, channel, connection, options)
        return Subscribed(found or self._not_joined(connection, channel), options)

    def _not_joined(self, connection: Connection, channel: str) -> NoReturn:
        """Raise :class:`ChannelRefused` for a connection that is no new member."""
        raise ChannelRefused("exists" if self.members.has(connection, channel) else "ended")

    def _join_with_history(
        self,
        app: str,
        channel: str,
        connection: Connection,
        options: ChannelSettings,
        since: Position | None,
        delta: bool = False,
    ) -> Subscribed:
        delta = delta and options.delta
        found = self._join_waiting(app, channel, connection, options, delta)
        local = found or self._not_joined(connection, channel)
        try:
            limit, delivered = 0 if since is None else -1, -1
            newest_only = options.recovery_mode == "cache" and since is not None
            what = (None, 1, True) if newest_only else (since, limit, False)
            if options.history:
                page = self._stored.read(app, channel, *what)
                delivered = self._stored.follow(app)
            else:
                page = self._retained_page(app, channel, *what)
        except BaseException:
            self.members.leave(app, channel, connection)
            raise
        if local.position is None:
            raise ChannelRefused("ended")
        local.position.offset = max(local.position.offset, delivered)
        recovered, missed = page.whole, page.publications
        if newest_only:
            recovered, missed = _newest(page, since)
        elif not options.history:
            recovered = _is_recovered(page, since)
            if len(_fitting(missed)) < len(missed):
                recovered, missed = False, missed[-1:]  # the client reads the history, page by page
        return Subscribed(local, options, page.position, missed, recovered, delta)

    def join_with_position(
        self,
        connection: Connection,
        channel: str,
        answer: Callable[[Position], object],
        since: Position | None = None,
    ) -> bool:
        """Subscribe a connection for the back end, and call ``answer`` with the position after which it
        receives publications: that of the newest one, or ``since`` if the history has all after that.

        False: the channel has no history, or it does not answer, or the client cannot use a position, or it
        is a member already or has ended. Then nothing has changed. May switch. Raises
        :class:`ChannelRefused`: ``unavailable``, if the log of a stored channel does not answer.
        """
        app, state = connection.app or "", connection.dialect_state
        options = self.options(app, channel)
        can_recover = state is not None and state.resubscribes(channel)
        if not (can_recover and options.has_history) or self.members.has(connection, channel):
            return False
        try:
            found = self._join_with_history(app, channel, connection, options, since)
        except ChannelRefused as refused:
            self._abandon(app, channel)
            if options.history and refused.reason == "unavailable":
                raise
            return False
        local, position = found.local, found.position
        if position is None or connection not in local.members:
            self._abandon(app, channel)
            return False
        if since is None or not found.recovered:
            answer(position)
        else:
            answer(Position(position.epoch, since.offset))
            for event in found.publications:
                self._fanout.to_connection(connection, event)
        self.ordered.release(local, connection, position, options.history != "")
        return True

    def _join_waiting(
        self, app: str, channel: str, connection: Connection, options: ChannelSettings, delta: bool
    ) -> LocalChannel | None:
        self._stored.follow_channel(app, channel, options, (connection,))
        local = self._enter(app, channel, connection, options)
        if local is None:
            return None
        self.ordered.wait(local, connection, delta)
        self.members.report_join(local, connection)
        return local

    def _abandon(self, app: str, channel: str) -> None:
        """A subscription was refused: nobody may wait for the position of its channel. Never switches."""
        local = self._hub.channel(app, channel)
        if local is not None:
            self.ordered.abandon(local)

    def unsubscribe(self, connection: Connection, channel: str) -> bool:
        """End a subscription. Returns whether there was one. Never switches."""
        app = connection.app or ""
        left = self.members.leave(app, channel, connection)
        if left:
            self.announce("leave", connection, channel)
        return left

    def remove(self, connection: Connection, channel: str) -> bool:
        """End a subscription that its client has not ended. The others learn of it. Returns whether there was
        one. Never switches."""
        left = self.members.leave(connection.app or "", channel, connection)
        if left:
            self.members.report_left(connection, (channel,))
        return left

    def expel(self, connection: Connection, channel: str, code: int = SERVER_UNSUBSCRIBE) -> None:
        """End a subscription, and send ``unsubscribed`` with this code. Never switches.

        :data:`INSUFFICIENT_STATE` closes the connection of a client that begins again only with a new one.
        """
        state, has = connection.dialect_state, self.members.has
        begins_again = code == INSUFFICIENT_STATE
        if begins_again and state is not None and state.reconnects(channel) and has(connection, channel):
            connection.close(CLOSE_INSUFFICIENT_STATE, INSUFFICIENT)
        elif self.remove(connection, channel):
            reason = INSUFFICIENT if begins_again else "server unsubscribe"
            event = Event("unsubscribed", "", reason, code=code, channel=ChannelPart(channel))
            self._fanout.to_connection(connection, event)

    # --- notices --------------------------------------------------------------------------------------------

    def charge_notices(self, connection: Connection, *channels: str) -> None:
        """Count the notices that the others of these channels get when a client subscribes, and later leaves.

        Raises :class:`ChannelRefused`: ``rate``. An end cannot be refused, so it is paid at the beginning.
        Never switches.
        """
        size = sum(2 * len(self.info_of(connection, channel)) for channel in channels)
        payer = connection.user or self._connections.id_of(connection)
        limit = self._fanout.notice_bytes  # a larger size counts as that
        if size and not self._notices.take((connection.app or "", payer), min(size, limit), limit):
            raise ChannelRefused("rate", "the user subscribes too often; try again in a second")

    def _is_announced(self, app: str, channel: str) -> bool:
        """Whether the others of a channel get a notice when somebody subscribes or leaves."""
        members = self._hub.member_count(app, channel)
        return members <= self._fanout.notice_members and self.options(app, channel).join_leave

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
        if not self._is_announced(app, channel):
            return
        part = ChannelPart(channel, info=self.info_of(connection, channel))
        event = Event(kind, connection.user or "", "", channel=part)
        state = connection.dialect_state
        to_itself = kind == "join" and state is not None and state.receives_own_joins()
        notice = Publication(channel, event, except_connection=None if to_itself else connection)
        if self._nodes is None:
            self._send_here(app, notice)
        else:
            gevent.spawn(self.publish_each, app, (notice,))

    def _announce_leaves(self, connection: Connection, channels: tuple[str, ...]) -> None:
        for channel in channels:
            self.announce("leave", connection, channel)

    # --- publishing -----------------------------------------------------------------------------------------

    def publish(
        self,
        app: str,
        channel: str,
        event: Event,
        except_users: tuple[str, ...] = (),
        except_connection: Connection | str | None = None,
        at_most: int | None = None,
        key: str = "",
    ) -> Outcome:
        """Publish to a channel (:class:`Publication`), without a limit of the payload. May switch.
        Publications of one node to a channel arrive in the order of the calls. ``key``: see
        :meth:`publish_event`.

        NOT_SENT: the channel has no members. PARTLY: a node with members is known not to receive it. FAILED:
        no node receives it, or the history does not answer. REFUSED: the log cannot store it.
        """
        if event.channel is None:
            event = replace(event, channel=ChannelPart(channel))
        what = Publication(channel, event, except_users, except_connection, at_most)
        try:
            return self._publish(app, what, self.options(app, channel), key).outcome
        except ChannelRefused as refused:
            return refused.outcome

    def publish_event(
        self,
        app: str,
        channel: str,
        event: Event,
        *,
        except_users: tuple[str, ...] = (),
        except_connection: Connection | str | None = None,
        with_history: bool = True,
        key: str = "",
    ) -> Published:
        """Publish to a channel, and to its history unless ``with_history`` is False. May switch.

        A stored channel has one publication for each ``key``, or without one for each id of an event. A
        history in Redis recognises them for a minute. Raises :class:`ChannelRefused`: ``limit`` (the payload
        is too long), or ``unavailable`` (the history or the nodes of all subscribers do not answer; nobody
        receives it, unless it is in the history although the answer was lost).
        """
        options = self.options(app, channel)
        limit = options.max_bytes
        if limit and len(event.data or event.text.encode()) > limit:
            raise ChannelRefused("limit", f"a publication to the channel has at most {limit} bytes")
        if event.channel is None:
            event = replace(event, channel=ChannelPart(channel))
        what = Publication(channel, event, except_users, except_connection)
        return self._publish(app, what, options, key, with_history)

    def _publish(
        self, app: str, what: Publication, options: ChannelSettings, key: str, with_history: bool = True
    ) -> Published:
        """Store a publication, if its channel has a history, and send it. May switch. Raises
        :class:`ChannelRefused`."""
        check_known(options)
        if with_history and options.history and what.event.kind == "msg":
            return self._append(app, what, key)
        if with_history and options.history_size and what.event.kind != "stream":
            what = self._retained(app, what, options, key)
        outcome = self._send_here(app, what) if self._nodes is None else self.publish_each(app, (what,))[0]
        channel_part = what.event.channel
        if channel_part is None or not channel_part.offset:
            if outcome is Outcome.FAILED:
                raise ChannelRefused("unavailable", "the nodes of the subscribers do not answer")
            return Published(outcome)
        # The history has it. A node that does not answer now reads it from there.
        reached = {Outcome.NOT_SENT: Outcome.SENT, Outcome.FAILED: Outcome.PARTLY}.get(outcome, outcome)
        return Published(reached, Position(channel_part.epoch, channel_part.offset))

    def _append(self, app: str, what: Publication, key: str) -> Published:
        """Store a publication in the log, from where it is delivered. Switches."""
        if isinstance(what.except_connection, Connection):
            what = replace(what, except_connection=self._connections.id_of(what.except_connection))
        (published,) = self._stored.append_each(app, (what,), key)
        self._metrics.pushes += 1
        return published

    def _retained(self, app: str, what: Publication, options: ChannelSettings, key: str) -> Publication:
        """Store a publication to a channel with a history. On a lone node this never switches, so numbers
        have the order of delivery."""
        retained = Retained(
            what.channel, what.event, options.history_size, options.history_seconds, key or what.event.id
        )
        events = self._history.append_each(app, (retained,))
        if events is None:
            raise ChannelRefused("unavailable", "the history of the channel does not answer")
        return replace(what, event=events[0])

    def publish_each(self, app: str, publications: Sequence[Publication]) -> list[Outcome]:
        """Send many publications, in their order, with one query to the registry, past the history; see
        :meth:`publish`."""
        nodes = self._nodes
        outcomes = []
        if nodes is None:
            for number, each in enumerate(publications, 1):
                outcomes.append(self._send_here(app, each))
                if not number % YIELD_TARGETS:
                    serve_others()
            return outcomes
        with nodes.turn(app, [each.channel for each in publications]) as found:
            for number, each in enumerate(publications, 1):
                outcomes.append(self._send_to(nodes, app, each, found[each.channel]))
                if not number % YIELD_TARGETS:
                    serve_others()
        return outcomes

    def _send_here(self, app: str, what: Publication) -> Outcome:
        """Deliver a publication on a node alone. Never switches."""
        if what.at_most is not None and self._hub.member_count(app, what.channel) > what.at_most:
            return Outcome.NOT_SENT
        if not self.deliver(app, what):
            return Outcome.NOT_SENT
        self._metrics.pushes += 1
        return Outcome.SENT

    def _send_to(
        self, nodes: ChannelNodes, app: str, what: Publication, found: MembersOfNodes | None
    ) -> Outcome:
        """Deliver a publication here, and send it to the others of the nodes ``found``. Never switches."""
        if what.at_most is not None:
            members = self._hub.member_count(app, what.channel) + nodes.members_elsewhere(found)
            if members > what.at_most:
                return Outcome.NOT_SENT
        reached = self.deliver(app, what)
        sent, missed = nodes.send(app, what, found, reached > 0)
        if not (reached or sent):
            return Outcome.FAILED if missed else Outcome.NOT_SENT
        self._metrics.pushes += 1
        return Outcome.PARTLY if missed else Outcome.SENT

    # --- delivery on this node ------------------------------------------------------------------------------

    def received(self, item: ToChannel) -> None:
        """Deliver a publication of another node. Never switches."""
        skipped = item.except_connection or None
        self.deliver(item.app, Publication(item.channel, item.event, item.except_users, skipped))

    def deliver(self, app: str, what: Publication) -> int:
        """Deliver to the members on this node: publications with an offset in its order. Returns the number
        of members reached. Never switches."""
        known = self._hub.apps.get(app)
        local = None if known is None else known.channels.get(what.channel)
        if local is None:
            return 0
        part = what.event.channel
        if part is not None and part.stream and not self.streams.accept(app, part, part.stream, what.event):
            return 0
        skipped = what.except_connection
        if isinstance(skipped, str):
            skipped = self._connections.find(app, skipped)
            what = replace(what, except_connection=skipped)
        if local.position is None:
            return self._fanout.to_channel(local, what.event, what.except_users, skipped)
        self.ordered.deliver(local, local.position, what)
        return len(local.members)

    def run(self) -> None:
        """Greenlet: find publications whose node died before it sent them to this one."""
        while True:
            gevent.sleep(until_beat(CHECK_SECONDS))
            try:
                self._check_positions()
            except Exception:
                log.exception("the positions of channels could not be compared")

    def _check_positions(self) -> None:
        """Compare the positions of this node with the newest ones of the shared history."""
        for app in tuple(self._hub.apps.values()):
            here = []
            for local in tuple(app.channels.values()):
                options = self.options(app.name, local.name)
                self._stored.check_channel(local, options)
                if options.history_size and local.position is not None:
                    here.append(local)
            self.ordered.check(app.name, here)

    # --- history --------------------------------------------------------------------------------------------

    def history(
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
        if self.is_stored(app, channel):
            return self._stored.read(app, channel, since, limit, reverse)
        most = PAGE_BYTES // PUBLICATION_BYTES
        page = self._retained_page(app, channel, since, most if limit < 0 else min(limit, most), reverse)
        return replace(page, publications=_fitting(page.publications))

    def history_since(
        self, app: str, channel: str, since: tuple[str, int] | None, limit: int, reverse: bool
    ) -> HistoryPage:
        """Publications of a channel, as :meth:`history` returns them. ``since``: an epoch and an offset.

        Raises :class:`ChannelRefused`: ``unavailable``, or ``unrecoverable`` (the history has another epoch).
        """
        position = None if since is None else Position(*since)
        page = self.history(app, channel, position, limit, reverse)
        if position is not None and position.epoch and position.epoch != page.position.epoch:
            raise ChannelRefused("unrecoverable")
        return page

    def _retained_page(
        self, app: str, channel: str, since: Position | None, limit: int, reverse: bool = False
    ) -> HistoryPage:
        page = self._history.read(app, channel, since, limit, reverse)
        if page is None:
            raise ChannelRefused("unavailable")
        return page

    def remove_history(self, app: str, channel: str) -> None:
        """Remove the publications of a channel. May switch. Raises :class:`ChannelRefused`: the log removes
        entries only by age or number."""
        if self.is_stored(app, channel):
            raise ChannelRefused("not_available", "the log removes publications, by age")
        if self._history.remove(app, channel) is None:
            raise ChannelRefused("unavailable")

    def erase_user(self, app: str, user: str) -> None:
        """Remove the publications of the channel of a deleted user; those in the log stay, as messages do.
        May switch. Raises StorageUnavailable."""
        row = self.user_row(app)
        if row is None or not row.history_size:
            return
        if self._history.remove(app, f"{USER_CHANNEL}{user}") is None:
            raise StorageUnavailable("the histories of channels do not answer")


def _fitting(publications: list[Event]) -> list[Event]:
    """The first of some publications that fit into a page."""
    sizes = (len(each.data) + len(each.text) + PUBLICATION_BYTES for each in publications)
    return publications[: count_fitting(sizes)]


def _is_recovered(page: HistoryPage, since: Position | None) -> bool:
    if since is None or (since.epoch and since.epoch != page.position.epoch):
        return False
    return page.position.offset - since.offset == len(page.publications)


def _newest(page: HistoryPage, since: Position | None) -> tuple[bool, list[Event]]:
    """Whether a subscriber has the newest publication of a channel after the answer, and that publication,
    unless the subscriber has it already. ``page``: only that publication."""
    if since is not None and since.offset > 0 and since == page.position:
        return True, []
    offsets = [each.channel.offset for each in page.publications if each.channel is not None]
    return (True, page.publications) if offsets == [page.position.offset] else (False, [])
