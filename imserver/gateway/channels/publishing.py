"""Publishing to channels, on this node and on other nodes. Also the notices to
members about a subscriber who comes or leaves."""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Final, Literal

import gevent
import msgspec
from msgspec import Raw, field
from msgspec.structs import replace

from imserver.gateway.auth.rates import NOTICES, PUBLICATIONS, Buckets
from imserver.gateway.channels.histories import ChannelHistories, Published
from imserver.gateway.channels.members import (
    ChannelRefused,
    NodeParts,
    Publication,
    infos_of,
)
from imserver.gateway.channels.options import ChannelOptions, check_known
from imserver.gateway.channels.positions import OrderedDelivery
from imserver.gateway.channels.registrar import Registrar
from imserver.gateway.clock import serve_others
from imserver.gateway.cluster.history import Position
from imserver.gateway.cluster.nodes import OtherNodes, ToChannel
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.errors import QuotaSpent
from imserver.gateway.model import YIELD_TARGETS, ChannelPart, Event, Outcome, Service
from imserver.gateway.transport.connection import Connection

MembersOfNodes = Mapping[int, int]
"""Epoch of a node → how many members of a channel it has."""
_NOWHERE: Final[MembersOfNodes] = {}
"""The members of other nodes, on a node without a cluster."""
_NO_NODES: Final[Mapping[str, MembersOfNodes | None]] = {}
"""Channel → the nodes that have members of it. It is empty, for a node without
a cluster."""
_TURN_LOOK_SECONDS: Final = 0.001
"""Seconds between two checks of a publisher whether it has its turn."""
_UNSETTLED_SECONDS: Final = 10.0
"""For this time, a node gets every publication after it could not report a
channel."""


class ChannelNodes(Service):
    """Sends publications to the other nodes that have subscribers.

    The registry knows these nodes. While it does not answer, and for a while
    after, publications go to all nodes. Owner of the publishing turns, by which
    publications keep their order.
    """

    others: OtherNodes
    registrar: Registrar
    _turns: dict[tuple[str, str], deque[object]] = field(default_factory=dict)
    """App and channel → the publishers that have asked the registry for the
    nodes of the channel, in the order of their calls."""
    _unsettled: dict[int, float] = field(default_factory=dict)
    """Epoch of a node that could not report a channel to the registry → the
    time until which the node gets every publication."""

    @contextmanager
    def turn(
        self, app: str, channels: Sequence[str]
    ) -> Iterator[Mapping[str, MembersOfNodes | None]]:
        """Wait until all earlier publishers to these channels have ended their
        turns.

        A context manager, by which publications keep their order. It yields the
        nodes that have members of each channel; None means that the registry
        does not answer. May switch greenlets before the turn.
        """
        names = dict.fromkeys(channels)  # each name only once, in this order
        is_alone = len(self.others.registry.reachable()) <= 1
        # Without other nodes, the registry need not be asked. But publishers
        # that have already asked it go first.
        if is_alone and not any((app, name) in self._turns for name in names):
            yield dict.fromkeys(names, _NOWHERE)
            return

        # In each queue, the publisher with the first ticket has its turn.
        ticket = object()
        for channel in names:
            self._turns.setdefault((app, channel), deque()).append(ticket)
        try:
            rows = self.others.registry.find_channels(app, list(names))
            nodes: dict[str, MembersOfNodes | None] = dict.fromkeys(names)
            # If ``rows`` is None, the value of each channel stays None.
            nodes.update(zip(names, rows or (), strict=False))
            for channel in names:
                while self._turns[app, channel][0] is not ticket:
                    gevent.sleep(_TURN_LOOK_SECONDS)
            yield nodes
        finally:
            for channel in names:
                turns = self._turns[app, channel]
                turns.remove(ticket)
                if not turns:
                    del self._turns[app, channel]

    def send(
        self,
        app: str,
        publication: Publication,
        nodes: MembersOfNodes | None,
        reached: bool,
    ) -> tuple[int, int]:
        """Send a publication to the other nodes with members of its channel.

        ``nodes`` has these nodes; None means all other nodes. ``reached`` means
        that the publication has reached members of this node. Returns two
        numbers: the nodes to which it was sent, and the nodes that do not
        receive it. Never switches greenlets.
        """
        leases = self.others.registry.reachable()
        own_epoch = self.others.node_messages.own_epoch
        # If the registry does not know the members of this node any more, it
        # may have lost the members of other nodes, too.
        registry_has_lost_members = (
            nodes is not None
            and own_epoch not in nodes
            and reached
            and self.registrar.is_reported(app, publication.channel)
        )
        if nodes is None or registry_has_lost_members:
            receivers = {epoch for epoch, lease in leases.items() if lease.birth}
        else:
            receivers = set(nodes)
            if self._unsettled:
                receivers = self._with_unsettled(receivers) & leases.keys()
        receivers.discard(own_epoch)
        if not receivers:
            return 0, 0

        skipped = publication.except_connection
        if skipped is None or isinstance(skipped, Connection):
            skipped = ""  # a connection of this node is not on other nodes
        item = ToChannel(
            app,
            publication.channel,
            publication.event,
            publication.except_users,
            skipped,
        )
        sent = self.others.node_messages.send_each(receivers, item)
        return sent, len(receivers) - sent

    def _with_unsettled(self, receivers: set[int]) -> set[int]:
        """Return the epochs ``receivers`` and the epochs of all unsettled
        nodes, whose members the registry may not know."""
        self._forget_settled()
        return receivers | self._unsettled.keys()

    def peer_unsettled(self, epoch: int) -> None:
        """Send every publication to a node for ten seconds.

        This node could not report a channel to the registry. Never switches
        greenlets.
        """
        self._unsettled[epoch] = monotonic() + _UNSETTLED_SECONDS

    def _forget_settled(self) -> None:
        """Forget the nodes that no longer need to get every publication."""
        now = monotonic()
        self._unsettled = {
            epoch: until for epoch, until in self._unsettled.items() if until > now
        }


_WITH_HISTORY: Final = {
    Outcome.NOT_SENT: Outcome.SENT,
    Outcome.FAILED: Outcome.PARTLY,
}
"""Outcome of sending a publication → its outcome if the history has it."""


class ChannelPublishing(Service):
    """Publishes to channels on all nodes.

    ``nodes`` sends to the other nodes; None without a cluster.
    """

    here: NodeParts
    options: ChannelOptions
    histories: ChannelHistories
    ordered: OrderedDelivery
    nodes: ChannelNodes | None
    _publications: Buckets = field(default_factory=lambda: Buckets(PUBLICATIONS))

    def count_publication(
        self, payer: Hashable, app: str, channel: str, limit: int
    ) -> bool:
        """Count a publication of a client to the namespace of a channel.

        Returns False if ``payer`` has published more than ``limit`` times in a
        second. Never switches greenlets.
        """
        namespace = self.options.namespace(app, channel)
        return self._publications.take((payer, namespace), number=limit)

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
        """Publish to a channel (:class:`Publication`), without a limit of the
        payload.

        Publications of one node to a channel arrive in the order of the calls.
        A stored channel has one publication for each ``key``; ``""`` means for
        each id of an event. May switch greenlets. Returns one of these
        outcomes:

        - NOT_SENT: the channel has no members.
        - SENT: all nodes with members get the publication.
        - PARTLY: at least one node with members does not receive the
          publication.
        - FAILED: no node receives the publication, or the history does not
          answer.
        - REFUSED: the log cannot store the publication.
        """
        if event.channel is None:
            event = replace(event, channel=ChannelPart(channel))
        publication = Publication(
            channel, event, except_users, except_connection, at_most
        )
        # The event names its channel, which its receivers need.
        options = self.options.of(app, channel)
        try:
            return self._publish(app, publication, options, key).outcome
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
        """Publish to a channel, and to its history unless ``with_history`` is
        False.

        A stored channel has one publication for each ``key``, or for each id of
        an event if the key is ``""``. A history in Redis recognises a repeated
        publication for a minute. May switch greenlets.

        Raises :class:`ChannelRefused`: ``limit`` (the payload is too long), or
        ``unavailable`` (the history or the nodes of all subscribers do not
        answer; nobody receives it). If only the answer of the history was lost,
        the publication is in the history.
        """
        options = self.options.of(app, channel)
        limit = options.max_bytes
        if limit and len(event.data or event.text.encode()) > limit:
            raise ChannelRefused(
                "limit", f"a publication to the channel has at most {limit} bytes"
            )
        # The event names its channel, which its receivers need.
        if event.channel is None:
            event = replace(event, channel=ChannelPart(channel))
        publication = Publication(channel, event, except_users, except_connection)
        return self._publish(app, publication, options, key, with_history)

    def require_quota(self, app: str) -> None:
        """Refuse a client if the app has used up its quota of pushes.

        Raises :class:`ChannelRefused`.
        """
        try:
            self.here.metrics.pushes.require(app)
        except QuotaSpent as spent:
            raise ChannelRefused("rate", str(spent)) from None

    def _publish(
        self,
        app: str,
        publication: Publication,
        options: ChannelSettings,
        key: str,
        with_history: bool = True,
    ) -> Published:
        """Store a publication, if its channel has a history, and send it.

        See :meth:`publish_event` for the arguments and errors.
        """
        check_known(options)
        # The message log stores only messages. The other history retains
        # everything but the pieces of streamed messages.
        if with_history and options.history and publication.event.kind == "msg":
            return self._store(app, publication, key)
        if with_history and options.history_size and publication.event.kind != "stream":
            publication = self.histories.retain(app, publication, options, key)

        if self.nodes is None:
            outcome = self._send(app, publication)
        else:
            (outcome,) = self.publish_each(app, (publication,))

        channel_part = publication.event.channel
        if channel_part is None or not channel_part.offset:
            if outcome is Outcome.FAILED:
                raise ChannelRefused(
                    "unavailable", "the nodes of the subscribers do not answer"
                )
            return Published(outcome)

        # The history has the publication. A node that does not answer now will
        # read it from the history.
        outcome = _WITH_HISTORY.get(outcome, outcome)
        return Published(outcome, Position(channel_part.epoch, channel_part.offset))

    def _store(self, app: str, publication: Publication, key: str) -> Published:
        """Store a publication in the message log, from which each node delivers
        it."""
        if isinstance(publication.except_connection, Connection):
            connection_id = self.here.table.id_of(publication.except_connection)
            publication = replace(publication, except_connection=connection_id)
        # Other nodes deliver the publication, too. So the connection to leave
        # out is named by its id.
        (published,) = self.histories.stored.append_each(app, (publication,), key)
        self.here.metrics.pushes[app] += 1
        return published

    def publish_each(
        self, app: str, publications: Sequence[Publication]
    ) -> list[Outcome]:
        """Send many publications, in their order, without storing them in a
        history.

        The registry is queried once. Returns the outcome of each publication;
        see :meth:`publish`.
        """
        names = [publication.channel for publication in publications]
        turn: AbstractContextManager[Mapping[str, MembersOfNodes | None]]
        if self.nodes is None:
            turn = nullcontext(_NO_NODES)
        else:
            turn = self.nodes.turn(app, names)
        # Everything is sent within one turn, so the order is kept.
        outcomes = []
        with turn as nodes_of:
            for number, publication in enumerate(publications, 1):
                nodes = nodes_of.get(publication.channel)
                outcomes.append(self._send(app, publication, nodes))
                if not number % YIELD_TARGETS:
                    serve_others()
        return outcomes

    def publish_soon(self, app: str, publication: Publication) -> None:
        """Send a publication without storing it in a history.

        In a cluster, a new greenlet sends it. Never switches greenlets.
        """
        if self.nodes is None:
            self._send(app, publication)
        else:
            gevent.spawn(self.publish_each, app, (publication,))

    def _send(
        self,
        app: str,
        publication: Publication,
        members_of: MembersOfNodes | None = None,
    ) -> Outcome:
        """Deliver a publication here, and send it to the other nodes with
        members.

        ``members_of`` has the nodes with members. None means that the registry
        does not answer, or that there is no cluster. Never switches greenlets.
        """
        limit = publication.at_most
        if (
            limit is not None
            and self._count(app, publication.channel, members_of) > limit
        ):
            return Outcome.NOT_SENT

        reached = self.deliver(app, publication)
        sent = 0
        missed = 0
        if self.nodes is not None:
            sent, missed = self.nodes.send(app, publication, members_of, reached > 0)
        if not (reached or sent):
            if missed:
                return Outcome.FAILED
            return Outcome.NOT_SENT
        # Notices of the server do not count as pushes.
        if publication.event.kind in ("msg", "stream"):
            self.here.metrics.pushes[app] += 1
        return Outcome.PARTLY if missed else Outcome.SENT

    def _count(self, app: str, channel: str, members_of: MembersOfNodes | None) -> int:
        """Return the number of members of a channel on this node and on the
        nodes of ``members_of``."""
        count = self.here.hub.member_count(app, channel)
        if self.nodes is None or not members_of:
            return count
        # The registry also has a number for this node, but it may be out of
        # date.
        own_epoch = self.nodes.others.node_messages.own_epoch
        for epoch, members in members_of.items():
            if epoch != own_epoch:
                count += members
        return count

    def received(self, item: ToChannel) -> None:
        """Deliver a publication of another node. Never switches greenlets."""
        skipped = item.except_connection or None
        publication = Publication(item.channel, item.event, item.except_users, skipped)
        self.deliver(item.app, publication)

    def deliver(self, app: str, publication: Publication) -> int:
        """Deliver a publication to the members on this node.

        Publications with an offset are delivered in the order of their offsets.
        Returns the number of members reached. Never switches greenlets.
        """
        hub_app = self.here.hub.apps.get(app)
        if hub_app is None:
            return 0
        local = hub_app.channels.get(publication.channel)
        if local is None:
            return 0
        # A piece of a streamed message is delivered only if it fits to the
        # pieces before it.
        part = publication.event.channel
        if (
            part is not None
            and part.stream
            and not self.ordered.accept_stream(app, publication.event)
        ):
            return 0

        skipped = publication.except_connection
        if isinstance(skipped, str):
            skipped = self.here.table.find(app, skipped)
            publication = replace(publication, except_connection=skipped)
        if local.position is None:
            return self.here.fanout.to_channel(
                local, publication.event, publication.except_users, skipped
            )
        self.ordered.deliver(local, local.position, publication)
        return len(local.members)


class ChannelNotices(Service):
    """Tells the members of a channel who subscribes and who leaves.

    The notices are counted for the client that causes them.
    """

    here: NodeParts
    options: ChannelOptions
    publishing: ChannelPublishing
    _notices: Buckets = field(default_factory=lambda: Buckets(NOTICES))

    def charge(self, connection: Connection, *channels: str) -> None:
        """Count the notices that the other members of these channels get.

        Other members get a notice when a client subscribes, and another when it
        leaves. The end of a subscription cannot be refused, so its notice is
        counted at the beginning. Raises :class:`ChannelRefused`: ``rate``.
        Never switches greenlets.
        """
        # Two notices for each channel: one at the beginning, one at the end.
        size = sum(2 * len(self.info_of(connection, channel)) for channel in channels)
        if not size:
            return
        user = connection.user or self.here.table.id_of(connection)
        payer = (connection.app or "", user)
        limit = self.here.fanout.notice_bytes
        # A size above the limit counts as the limit. Otherwise no bucket would
        # ever have enough tokens for it.
        if not self._notices.take(payer, min(size, limit), limit):
            raise ChannelRefused(
                "rate", "the user subscribes too often; try again in a second"
            )

    def is_announced(self, app: str, channel: str) -> bool:
        """Whether the other members of a channel get a notice when somebody
        subscribes or leaves."""
        members = self.here.hub.member_count(app, channel)
        if members > self.here.fanout.notice_members:
            return False
        return self.options.of(app, channel).join_leave

    def info_of(self, connection: Connection, channel: str) -> bytes:
        """Return JSON about a connection, for other members of a channel.

        For example
        ``{"user":"ada","client":"mX0v…","conn_info":{"name":"Ada"}}``.
        ``chan_info`` follows if the connection has one. Never switches
        greenlets.
        """
        info, channel_info = infos_of(connection, channel)
        client = self.here.table.id_of(connection)
        about: dict[str, str | Raw] = {"user": connection.user or "", "client": client}
        # The infos are already JSON.
        if info:
            about["conn_info"] = Raw(info)
        if channel_info:
            about["chan_info"] = Raw(channel_info)
        return msgspec.json.encode(about)

    def announce(
        self, kind: Literal["join", "leave"], connection: Connection, channel: str
    ) -> None:
        """Send a notice about a subscriber to the other members of a channel
        with ``join_leave``.

        The subscriber gets it, too, if its dialect wants its own joins. A
        channel with more than ``hub.notice_members`` subscribers on this node
        sends no notices. Never switches greenlets.
        """
        app = connection.app or ""
        if not self.is_announced(app, channel):
            return

        part = ChannelPart(channel, info=self.info_of(connection, channel))
        event = Event(kind, connection.user or "", "", channel=part)
        state = connection.dialect_state
        # A subscriber need not be told about itself, except in some dialects.
        skipped: Connection | None = connection
        if kind == "join" and state is not None and state.receives_own_joins():
            skipped = None
        notice = Publication(channel, event, except_connection=skipped)
        self.publishing.publish_soon(app, notice)

    def announce_leaves(
        self, connection: Connection, channels: tuple[str, ...]
    ) -> None:
        """Send notices about a subscriber who has left these channels without a
        request.

        Never switches greenlets.
        """
        for channel in channels:
            self.announce("leave", connection, channel)
