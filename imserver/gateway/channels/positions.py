"""Channels with a history on this node: their publications in the order of
their offsets.

A publication that comes early waits for the publications before it. If an
earlier publication does not come, it is read from the history. For a new
member, publications wait until the answer to its subscription is sent.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import gevent

from imserver.gateway.channels.histories import ChannelHistory
from imserver.gateway.channels.members import Publication
from imserver.gateway.cluster.history import HistoryPage, Position
from imserver.gateway.hub.fanout import Fanout
from imserver.gateway.hub.hub import ChannelPosition, LocalChannel
from imserver.gateway.model import Event
from imserver.gateway.protocol.publications import compressed, payload_of
from imserver.gateway.transport.connection import Connection

log = logging.getLogger(__name__)

_LATE_SECONDS: Final = 0.02
"""How long a missing publication may still come before the history is read."""
_AGAIN_SECONDS: Final = 1.0
"""Seconds until the next attempt, if the history has not answered."""
_CHECKED_TOGETHER: Final = 200
"""Limit of the channels whose newest positions are read together."""


def _has_no_streams(_connection: Connection, _channel: str) -> None:
    """Do nothing: without the messenger there are no open messages."""


class OrderedDelivery:
    """Delivers publications to members on this node. Owner of the positions of
    this node's channels.

    ``expel`` ends the subscription of a client that must subscribe again. Never
    switches greenlets, unless a docstring says otherwise.
    """

    def __init__(
        self,
        fanout: Fanout,
        history: ChannelHistory,
        expel: Callable[[Connection, str], object],
    ) -> None:
        """``history`` is the history of channels: of this node, or shared by
        all nodes."""
        self._fanout = fanout
        self._history = history
        self._expel = expel
        self.accept_stream: Callable[[str, Event], bool] = _is_end
        """Called with a publication that is a piece or the end of a streamed
        message of an app. It returns whether subscribers receive it. Never
        switches greenlets. Without the messenger, they receive the ends that
        other nodes publish, because an end has the whole text."""
        self.subscribed: Callable[[Connection, str], None] = _has_no_streams
        """Called when a new subscriber of a channel has its answer, to send it
        the texts so far of open messages. Never switches greenlets."""

    def report_to(
        self,
        accept_stream: Callable[[str, Event], bool],
        subscribed: Callable[[Connection, str], None],
    ) -> None:
        """From now on call these functions in place of the former ones.

        See :attr:`accept_stream` and :attr:`subscribed`.
        """
        self.accept_stream = accept_stream
        self.subscribed = subscribed

    # --- new members ----------------------------------------------------------

    def wait(self, local: LocalChannel, connection: Connection, delta: bool) -> None:
        """From now on collect the publications for a new member, until
        :meth:`release`.

        ``delta`` means that the member reads deltas. A delta is a publication
        as the difference to the publication before.
        """
        if local.position is None:
            local.position = ChannelPosition()
        local.position.waiting[connection] = []
        if delta:
            local.position.deltas = local.position.deltas or {}
            local.position.deltas[connection] = 0  # the member has no publication yet

    def release(
        self,
        local: LocalChannel,
        connection: Connection,
        position: Position,
        is_stored: bool,
        newest: Event | None = None,
    ) -> None:
        """Deliver to a new member the publications that came while it waited.

        - ``position``: the answer to the member had the publications up to this
          position.
        - ``is_stored``: the history is the message log.
        - ``newest``: the last publication that the answer had, if the member
          reads deltas; otherwise None.

        If this node has delivered publications that the member has not
        received, its subscription ends.
        """
        state = local.position
        if state is None:
            return
        if newest is not None:
            self._set_delta_basis(state, connection, newest)
        if is_stored:
            self._release_stored(local, state, connection, position)
            return

        if state.offset < 0:
            # The position of the channel was not read from the history yet.
            self._begin(local, state, position)
        elif state.epoch != position.epoch:
            self._change_epoch(local, state, position.epoch)
        reached = self._send_delayed(local, state, connection, position)
        if reached < state.offset:
            # The member has missed publications that this node has delivered.
            self._expel_if_resubscribes(local, connection)
        elif reached > state.offset:
            # The member is ahead of this node, and must not receive the
            # publications up to this offset again.
            state.waiting[connection] = reached

    def _set_delta_basis(
        self, state: ChannelPosition, connection: Connection, newest: Event
    ) -> None:
        """Remember that a new member has received this publication.

        So the next publication can be a delta to this one.
        """
        if newest.channel is None or state.deltas is None:
            return
        state.last = state.last or newest
        # An erasure may have changed the content after the other members have
        # received it.
        if payload_of(state.last) == payload_of(newest):
            state.deltas[connection] = newest.channel.offset

    def _send_delayed(
        self,
        local: LocalChannel,
        state: ChannelPosition,
        connection: Connection,
        position: Position,
    ) -> int:
        """Deliver to a new member the publications that it has waited for.

        Publications up to ``position`` are left out, because the answer to the
        member had them. Returns the offset up to which the member has all
        publications.
        """
        reached = position.offset
        for event in _take_delayed(state, connection):
            channel_part = event.channel
            if channel_part is not None and channel_part.offset:
                is_new = channel_part.offset > position.offset
                if channel_part.epoch != position.epoch or not is_new:
                    continue
                # The publications are counted. After a gap, the sum is less
                # than the offset of the channel. So release() notices that the
                # member has missed publications.
                reached += 1
            self.send(local, [connection], event)
        return reached

    def _release_stored(
        self,
        local: LocalChannel,
        state: ChannelPosition,
        connection: Connection,
        position: Position,
    ) -> None:
        """Deliver to a new member of a stored channel the publications that it
        has waited for.

        Publications up to ``position`` are left out. The log has no gaps, so
        the member misses no publication.
        """
        for event in _take_delayed(state, connection):
            channel_part = event.channel
            if channel_part is None or not 0 < channel_part.offset <= position.offset:
                self.send(local, [connection], event)
        if position.offset > state.offset:
            # The member has read publications from the log that this node has
            # not delivered yet. It must not receive them again.
            state.waiting[connection] = position.offset

    def abandon(self, local: LocalChannel) -> None:
        """Deliver the publications that came while a new member read the
        history.

        Called after a subscription has failed. Does nothing if another member
        waits. The position of the channel stays unknown.
        """
        state = local.position
        if state is None or state.offset >= 0 or state.waiting:
            return
        local.position = None
        for offset in sorted(state.early):
            self._to_all(local, state.early[offset])

    # --- publications ---------------------------------------------------------

    def deliver(
        self, local: LocalChannel, state: ChannelPosition, publication: Publication
    ) -> None:
        """Deliver a publication to the members on this node.

        An offset is the number of a publication in the history. A publication
        with an offset waits until all earlier publications are delivered.
        """
        channel_part = publication.event.channel
        if channel_part is None or not channel_part.offset:
            self.to_ready(local, publication)
            return
        if state.offset < 0:
            # The first subscriber still reads the history.
            state.early[channel_part.offset] = publication
            return
        if channel_part.epoch != state.epoch:
            self._change_epoch(local, state, channel_part.epoch)
        if channel_part.offset == state.offset + 1:
            state.offset += 1
            self.to_ready(local, publication)
            self._deliver_early(local, state)
        elif channel_part.offset > state.offset:
            # Earlier publications are missing: they are late, or lost.
            state.early[channel_part.offset] = publication
            self._fill_soon(local, state)

    def to_ready(
        self,
        local: LocalChannel,
        publication: Publication,
        some: Sequence[Connection] | None = None,
    ) -> None:
        """Deliver a publication to the members that do not wait.

        For a member that waits for its answer, the publication is collected.
        ``some`` has the only members that get it; None means all members.
        """
        state = local.position
        waiting = {} if state is None else state.waiting
        members: Iterable[Connection] = local.members
        if some is not None:
            members = some
        elif state is None or not (waiting or state.deltas):
            # This is the usual case: no member waits or needs to be treated
            # separately.
            self._to_all(local, publication)
            return

        ready = _ready_members(members, publication, waiting)
        self.send(local, ready, publication.event)
        if waiting:
            self._end_waits(local)

    def _end_waits(self, local: LocalChannel) -> None:
        """Let members that were ahead of this node receive all publications
        again.

        This begins when the channel has reached the offset that such a member
        already has.
        """
        state = local.position
        if state is None:
            return
        for connection, waits in tuple(state.waiting.items()):
            if isinstance(waits, int) and waits <= state.offset:
                del state.waiting[connection]

    def _to_all(self, local: LocalChannel, publication: Publication) -> None:
        """Deliver a publication to all members on this node."""
        skipped = publication.except_connection
        assert not isinstance(skipped, str)
        self._fanout.to_channel(
            local, publication.event, publication.except_users, skipped
        )

    def send(
        self, local: LocalChannel, members: list[Connection], event: Event
    ) -> None:
        """Send a publication to members.

        Members that read deltas, and have the publication before it, get only
        the difference.
        """
        state = local.position
        # This is the usual case: no member reads deltas. A notice is never a
        # delta.
        if state is None or not state.deltas or event.kind in ("join", "leave"):
            self._fanout.to_some(local.app, members, event)
            return

        deltas = state.deltas
        last = state.last
        offset = 0 if event.channel is None else event.channel.offset
        basis = _basis_of(event, last)
        without_deltas: list[Connection] = []
        with_whole: list[Connection] = []
        with_delta: list[Connection] = []
        for connection in members:
            # The offset of the publication that the member has received last.
            received = deltas.get(connection)
            if received is None:
                without_deltas.append(connection)
                continue
            if basis and received == basis:
                with_delta.append(connection)
            else:
                with_whole.append(connection)
            deltas[connection] = offset

        if without_deltas:
            self._fanout.to_some(local.app, without_deltas, event)
        if with_whole:
            self._fanout.to_some(local.app, with_whole, compressed(event, None))
        if with_delta:
            self._fanout.to_some(local.app, with_delta, compressed(event, last))
        if offset:
            state.last = event

    def _deliver_early(self, local: LocalChannel, state: ChannelPosition) -> None:
        """Deliver the early publications that follow the last delivered one
        without a gap.

        If other early publications remain, the missing publications are read
        from the history.
        """
        while True:
            publication = state.early.pop(state.offset + 1, None)
            if publication is None:
                break
            state.offset += 1
            self.to_ready(local, publication)
        if state.early:
            self._fill_soon(local, state)

    def _begin(
        self, local: LocalChannel, state: ChannelPosition, position: Position
    ) -> None:
        """Begin to deliver in order, from the position that the history has
        returned.

        Early publications after this position are delivered at once.
        """
        state.epoch = position.epoch
        state.offset = position.offset
        # The answers to the new members have the earlier publications.
        state.early = {
            offset: publication
            for offset, publication in state.early.items()
            if offset > position.offset
            and publication.event.channel.epoch == position.epoch
        }
        self._deliver_early(local, state)

    def _fill_soon(self, local: LocalChannel, state: ChannelPosition) -> None:
        """Read the missing publications of a channel from its history after a
        short time.

        Does nothing if a greenlet does so already.
        """
        if not state.filling:
            state.filling = True
            # The missing publications may still come from their nodes.
            gevent.spawn_later(_LATE_SECONDS, self._run_fill, local, state)

    def _run_fill(self, local: LocalChannel, state: ChannelPosition) -> None:
        """Greenlet: read the publications of other nodes that this node has not
        received.

        It tries until the history answers, or until the channel has no members
        here any more. Then it delivers the publications.
        """
        found = None
        try:
            found = self._read_missing(local, state)
        except Exception:
            log.exception("missing publications could not be read")

        state.filling = False
        if found is None:
            return
        since, page = found
        if state.epoch == since.epoch:
            self._deliver_page(local, state, since, page)
        else:
            # The epoch has changed while the history was read, so the page
            # does not fit to the position any more.
            self._fill_soon(local, state)

    def _read_missing(
        self, local: LocalChannel, state: ChannelPosition
    ) -> tuple[Position, HistoryPage] | None:
        """Read the publications after the position of this node, until the
        history answers.

        Returns this position and the page of publications. The result is None
        if the channel has no members here any more.
        """
        while local.members:
            since = Position(state.epoch, state.offset)
            page = self._history.read(local.app.name, local.name, since, -1)
            if page is not None:
                return since, page
            gevent.sleep(_AGAIN_SECONDS)
        return None

    def _deliver_page(
        self,
        local: LocalChannel,
        state: ChannelPosition,
        since: Position,
        page: HistoryPage,
    ) -> None:
        """Deliver the publications of a page of the history that this node has
        not received.

        ``since`` is the position after which the page was read.
        """
        if page.position.epoch != state.epoch:
            self._change_epoch(local, state, page.position.epoch)
            return
        if page.position.offset < since.offset:
            # The history has fewer publications than this node has delivered:
            # it has lost data.
            self._restart_members(local, state, page.position)
            return

        _collect_missed(local, state, page)
        self._deliver_early(local, state)
        if state.offset < page.position.offset:
            # The history does not retain all missing publications any more.
            self._skip_gap(local, state, page.position)

    def _skip_gap(
        self, local: LocalChannel, state: ChannelPosition, newest: Position
    ) -> None:
        """Continue after a gap, up to the position ``newest`` of the history.

        Members that can subscribe again do so. Other members receive the
        publications that this node has.
        """
        early = dict(state.early)
        self._restart_members(local, state, newest)
        for offset in sorted(early):
            if offset <= newest.offset:
                # Members that already have publications up to this offset do
                # not receive it again.
                state.offset = offset
                self.to_ready(local, early[offset])
            else:
                state.early[offset] = early[offset]
        state.offset = newest.offset
        self._deliver_early(local, state)

    def _change_epoch(
        self, local: LocalChannel, state: ChannelPosition, epoch: str
    ) -> None:
        """Continue in this epoch, another life of the channel.

        Reads its publications that this node has not delivered. Members that do
        not subscribe again receive all of them.
        """
        former_epoch, former_offset = state.before
        state.before = (state.epoch, state.offset)
        if epoch == former_epoch:
            # A late publication of the other epoch has changed the epoch
            # meanwhile.
            position = Position(epoch, former_offset)
        else:
            position = Position(epoch, 0)
        self._restart_members(local, state, position)
        self._fill_soon(local, state)

    def _restart_members(
        self, local: LocalChannel, state: ChannelPosition, position: Position
    ) -> None:
        """Set the position of a channel after a gap, because publications are
        lost.

        Its members subscribe again and reload, if their clients can.
        """
        log.warning(
            "the history of a channel of %s has a gap; its subscribers start again",
            local.app.name,
        )
        offsets_continue = (
            position.epoch == state.epoch and position.offset >= state.offset
        )
        state.epoch = position.epoch
        state.offset = position.offset
        state.early.clear()
        for connection in tuple(local.members):
            waits = state.waiting.get(connection)
            if isinstance(waits, list):
                continue  # this member still reads the history
            if not offsets_continue:
                # The offset of the member belongs to the former epoch.
                state.waiting.pop(connection, None)
            self._expel_if_resubscribes(local, connection)

    def _expel_if_resubscribes(
        self, local: LocalChannel, connection: Connection
    ) -> None:
        """End a subscription that has a gap, if its client can subscribe again."""
        dialect_state = connection.dialect_state
        if dialect_state is not None and dialect_state.resubscribes(local.name):
            self._expel(connection, local.name)

    def check(self, app: str, channels: Sequence[LocalChannel]) -> None:
        """Compare the positions of these channels with the newest ones of the
        shared history.

        Missing publications are read. May switch greenlets.
        """
        for first in range(0, len(channels), _CHECKED_TOGETHER):
            batch = channels[first : first + _CHECKED_TOGETHER]
            # All positions of the batch are read in one round trip.
            positions = self._history.positions(app, [local.name for local in batch])
            for local, newest in zip(batch, positions or (), strict=False):
                self._fill_if_behind(local, newest)

    def _fill_if_behind(self, local: LocalChannel, newest: Position) -> None:
        """Read missing publications of a channel if its position here is not the
        newest one."""
        state = local.position
        if state is None or state.offset < 0:
            return  # no position is known here
        if newest != Position(state.epoch, state.offset):
            self._fill_soon(local, state)


def _ready_members(
    members: Iterable[Connection],
    publication: Publication,
    waiting: Mapping[Connection, list[Event] | int | None],
) -> list[Connection]:
    """Return the members that receive a publication at once.

    For a member that waits for its answer, the publication is collected.
    """
    event = publication.event
    offset = 0
    if event.channel is not None:
        offset = event.channel.offset
    ready = []
    for connection in members:
        if (
            connection is publication.except_connection
            or connection.user in publication.except_users
        ):
            continue
        # A list of collected publications, the last offset that the member
        # has, or None; see `ChannelPosition.waiting`.
        waits = waiting.get(connection)
        if isinstance(waits, list):
            # After its answer, the member receives the texts so far of all
            # streamed messages. So pieces of streamed messages are not
            # collected.
            if event.kind != "stream":
                waits.append(event)
        elif waits is None or not 0 < offset <= waits:
            ready.append(connection)
    return ready


def _collect_missed(
    local: LocalChannel, state: ChannelPosition, page: HistoryPage
) -> None:
    """Add the publications of a page to the early publications, if this node
    has not delivered them."""
    for event in page.publications:
        channel_part = event.channel
        if channel_part is not None and channel_part.offset > state.offset:
            # A publication from a node names the connections that must not get
            # it. A publication from the history does not.
            publication = Publication(local.name, event)
            state.early.setdefault(channel_part.offset, publication)


def _take_delayed(state: ChannelPosition, connection: Connection) -> list[Event]:
    """Remove and return the publications that were collected for a new member.

    From now on the member waits no longer.
    """
    delayed = state.waiting.pop(connection, None)
    if isinstance(delayed, list):
        return delayed
    return []


def _basis_of(event: Event, last: Event | None) -> int:
    """Return the offset of the publication that a delta to ``event`` starts
    from.

    ``last`` is the publication that was sent before. The result is 0 if no
    delta is possible.
    """
    if last is None or last.channel is None or event.channel is None:
        return 0
    if event.channel.offset and event.channel.epoch == last.channel.epoch:
        return last.channel.offset
    return 0


def _is_end(_app: str, event: Event) -> bool:
    """Whether a publication is the end of a streamed message."""
    part = event.channel
    return part is not None and part.stream is not None and part.stream.done
