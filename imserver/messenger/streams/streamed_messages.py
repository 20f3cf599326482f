"""Streamed messages. A back end opens a message in a channel, appends pieces to
it, and closes it. Bots do the same in conversations, by a feature.

Subscribers receive the pieces. The end is an ordinary publication with the
whole text, which goes to the history of the channel, too. The node that opened
a message owns it. The id of the message names this node. Other nodes with
subscribers have a copy of the text for late subscribers. If the publisher or
the owner dies, the message is closed as incomplete.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from time import monotonic
from typing import Final, Literal, NamedTuple
from weakref import WeakValueDictionary

import gevent
import msgspec
from msgspec import Struct

from imserver.gateway.auth.rates import Buckets
from imserver.gateway.channels.connections import Connections
from imserver.gateway.channels.members import ChannelRefused, Publication, check_name
from imserver.gateway.channels.options import check_known
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.clock import is_long_turn, serve_others, until_beat
from imserver.gateway.cluster.history import Position
from imserver.gateway.cluster.nodes import NodeQueries, OtherNodes
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.hub.hub import Hub
from imserver.gateway.model import YIELD_TARGETS, Event
from imserver.gateway.sessions.connection_ids import ConnectionTable
from imserver.gateway.transport.connection import Connection
from imserver.messenger.channels.stored_channels import draft_of
from imserver.messenger.delivery.open_streams import OpenStream, OpenStreams, parts_of
from imserver.messenger.log.contract import Draft, Rejected
from imserver.messenger.log.rows import objection
from imserver.messenger.streams.limits import PIECES, StreamLimits

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""The time between two checks of the streams. If a stream has no new piece, its
owner then sends a sign of life: a piece without text."""
CHECK_SECONDS: Final = 5.0
"""The time between two checks of the sender of a stream. If the sender was
removed or blocked, the stream ends."""
SILENT_SECONDS: Final = 10.0
"""If a stream has no sign of life for this time, a node asks its owner."""
CLOSE_ALL_SECONDS: Final = 3.0
"""How long a node that stops may take to close its streams."""
MOST_OWNER_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of the open streams of one owner in conversations."""
MOST_APP_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of the open streams of an app on one node."""
JSON_GROWTH: Final = 8
"""How many times larger than its text an event may be. In JSON, a byte of text
may take six bytes, and there are other fields."""
CLOSED_SECONDS: Final = 60.0
"""The time for which a node answers repeated requests for a stream that is
closed."""
MOST_CLOSED: Final = 20_000
"""The most closed streams that a node remembers."""
CHECKS_AT_ONCE: Final = 100
"""The most senders that are checked at a time, each with a query of the
database."""
MOST_BYTES: Final = 512 * 1024
"""The most bytes of the text of any message, and of the pieces in a query. Both
must fit into messages between nodes."""


class AppendStatus(StrEnum):
    """The result for one piece."""

    APPENDED = "appended"
    REPEATED = "repeated"
    """The stream already has a piece with this number."""
    GAP = "gap"
    """Pieces before this piece are missing."""
    TOO_LONG = "too_long"
    """The message would be too long."""
    CLOSED = "closed"
    """The stream is closed."""
    UNKNOWN = "unknown"
    """There is no such stream."""
    FAILED = "failed"
    """The node of the stream, or its history, did not answer."""


Piece = tuple[str, int, str]
"""A piece of a stream: the id of the stream, the number of the piece (the first
piece has the number 1), and its text."""


class AppendPieces(Struct, frozen=True, array_like=True):
    """Append pieces to streams of the queried node. The answer has an
    :class:`AppendedPiece` for each piece.

    ``sender``, here and in the other queries: only streams of this sender are
    used. ``""`` means streams of any sender.
    """

    app: str
    pieces: Sequence[Piece]
    sender: str = ""


class AppendedPiece(NamedTuple):
    """The result of appending a piece. ``piece``: the number of the last piece
    of the stream (0: unknown)."""

    status: AppendStatus
    piece: int = 0


_UNKNOWN: Final = AppendedPiece(AppendStatus.UNKNOWN)


class CloseStream(Struct, frozen=True, array_like=True):
    """Close a stream of the queried node. The answer is a
    :class:`ClosedStream`."""

    app: str
    stream: str
    incomplete: bool
    sender: str = ""


class ClosedStream(Struct, frozen=True, array_like=True):
    """The result of closing a stream. ``epoch``, ``offset``: the position of
    the message in the history (0: no history).

    ``rejected``: set if the log has refused the message.
    """

    status: Literal["closed", "repeated", "unknown", "failed", "not_allowed"]
    channel: str = ""
    epoch: str = ""
    offset: int = 0
    rejected: Rejected | None = None


class StopStream(Struct, frozen=True, array_like=True):
    """Close a stream of the queried node for a reader. The answer is a
    :class:`ClosedStream`."""

    app: str
    stream: str
    user: str


class StreamQuery(Struct, frozen=True, array_like=True):
    """Ask for the state of a stream of the queried node."""

    app: str
    stream: str


class StreamState(Struct, frozen=True, array_like=True):
    """The state of a stream."""

    so_far: Event | None = None
    """The event with the whole text so far. None means that the stream takes no
    more pieces."""
    over: bool = False
    """Whether the node does not have the stream, because it has ended.
    If False, and ``so_far`` is None, its end is being published."""


class _Size(Struct, weakref=True):
    """The bytes of the texts of some open streams, and their limit."""

    most: int
    size: int = 0


class _OwnStream(Struct):
    """A stream that this node owns."""

    stream: OpenStream
    sizes: Sequence[_Size]
    """The sizes of the app and of the owner, which count the bytes of this
    stream, too."""
    limit: int
    """The most bytes of the stream's text and tags."""
    left: int
    """How many more bytes the text may have."""
    touched: float
    """When the last piece came (time of the monotonic clock)."""
    checked: float
    """When the sender was last checked (time of the monotonic clock)."""
    piece: int = 0
    """The number that the publisher has given the last piece. Events have
    numbers of their own, because the pieces of one request are one event."""
    ended: bool = False
    """Whether the stream takes no more pieces."""
    closing: bool = False
    """Whether a greenlet publishes the end of the stream."""
    incomplete: bool = False
    """Whether the stream has ended before it was finished."""


class StreamTarget(ABC):
    """The place to which streamed messages go: channels, or conversations.

    A *streamed message* is sent piece by piece, and is stored when it is
    complete. In the methods, ``channel`` is the name of a channel or of a
    conversation.
    """

    name: str
    """The prefix of the names of this target's queries between nodes."""
    together: int
    """How many events are published together. Between two such groups, other
    greenlets may run."""
    of_users: bool
    """Whether senders are users, who may lose the right to write."""
    streams: OpenStreams
    """The open streams with their texts so far."""

    @abstractmethod
    def limit(self, app: str, channel: str) -> int:
        """Return the most bytes of a message. 0 means the usual limit."""

    @abstractmethod
    def check(self, stream: OpenStream) -> None:
        """Raise :class:`ChannelRefused` if the end of a stream could not be
        stored.

        Never switches greenlets.
        """

    def may_continue(self, stream: OpenStream) -> bool:
        """Tell whether the sender of a stream may still write to its channel or
        conversation.

        May switch greenlets.
        """
        return True

    def may_stop(self, stream: OpenStream, user: str) -> bool:
        """Tell whether a user may stop a stream. May switch greenlets.

        Raises StorageUnavailable.
        """
        return False

    @abstractmethod
    def publish(self, app: str, events: Sequence[Event]) -> None:
        """Send pieces to the receivers on all nodes. May switch greenlets."""

    @abstractmethod
    def publish_end(
        self, app: str, channel: str, event: Event
    ) -> Position | Rejected | None:
        """Send the whole message, and store it if the target stores messages.

        May switch greenlets. Returns the position of the stored message, or
        None if it is not stored. Returns Rejected if the log has refused it.
        Raises :class:`ChannelRefused`. The caller should try again only if the
        reason is ``unavailable``.
        """

    @abstractmethod
    def deliver(self, app: str, event: Event) -> None:
        """Send a piece to the receivers of this node. Never switches
        greenlets."""

    @abstractmethod
    def deliver_so_far(self, app: str, event: Event) -> None:
        """Take the text so far of a stream of another node.

        The text is sent to the receivers of this node as their outboxes become
        empty. Never switches greenlets.
        """

    @abstractmethod
    def has_receivers(self, stream: OpenStream) -> bool:
        """Tell whether a stream has receivers on this node. Never switches
        greenlets."""

    @abstractmethod
    def history(self, app: str, channel: str) -> str:
        """Return the name of the history that stores messages.

        The name is ``log``, ``recent`` (a number of publications), or ``""``
        (no history). If the node of a message has died, all other nodes publish
        its end, but a history stores the message only once.
        """


class ChannelStreams(StreamTarget):
    """The target of streamed messages in channels.

    Make this object after the services of dialects, so that a connection gets
    the answer to its subscription before it receives a stream.
    """

    name = ""
    together = YIELD_TARGETS
    of_users = False

    def __init__(self, channels: Channels, hub: Hub, connections: Connections) -> None:
        """Register for new subscriptions and for pieces from other nodes."""
        self._channels = channels
        self._hub = hub
        self.streams = OpenStreams()
        channels.ordered.report_to(self.streams.accept, self.subscribed)
        connections.report_to(self._joined)

    def _joined(
        self,
        connection: Connection,
        channel: str,
        _about: bytes,
        new: bool,
        _position: Position | None,
    ) -> None:
        """Process a subscription that the back end has made for a connection.

        Never switches greenlets.
        """
        if new:
            self.subscribed(connection, channel)

    def subscribed(self, connection: Connection, channel: str) -> None:
        """Send a new subscriber the text so far of each open streamed message.

        Each text is sent when the outbox of the connection is empty. If another
        node owns the message, the first subscriber on this node waits for the
        next piece. Never switches greenlets.
        """
        if not self.streams.by_channel:
            return
        app = connection.app or ""
        if not self.streams.of(app, channel):
            return
        local = self._hub.channel(app, channel)
        if local is None or connection not in local.members:
            return
        if len(local.members) == 1:
            # The copies may lack pieces that came while this node had no
            # subscriber.
            self.streams.drop_copies(app, channel)
        send_so_far = partial(self._send_so_far, app, channel)
        for stream in self.streams.of(app, channel).values():
            self.streams.late.add((connection,), stream, send_so_far)

    def limit(self, app: str, channel: str) -> int:
        """Return the most bytes of a publication in the channel."""
        return self._channels.options.of(app, channel).max_bytes

    def check(self, stream: OpenStream) -> None:
        """Raise :class:`ChannelRefused` if the end of a stream could not be
        stored."""
        check_name(stream.channel)
        self._channels.publishing.here.metrics.pushes.require(stream.app)
        options = self._channels.options.of(stream.app, stream.channel)
        check_known(options)
        # A message in the log has further limits.
        if options.history:
            end = Publication(stream.channel, stream.end(incomplete=True))
            check_draft(draft_of(end))

    def publish(self, app: str, events: Sequence[Event]) -> None:
        """Send pieces to the subscribers on all nodes. May switch greenlets."""
        publications = [
            Publication(event.channel.name, event)
            for event in events
            if event.channel is not None
        ]
        self._channels.publishing.publish_each(app, publications)

    def publish_end(self, app: str, channel: str, event: Event) -> Position | None:
        """Publish the whole message, and return its position in the history."""
        return self._channels.publishing.publish_event(app, channel, event).position

    def deliver(self, app: str, event: Event) -> None:
        """Send a piece to the subscribers of this node."""
        assert event.channel is not None
        self._channels.publishing.deliver(app, Publication(event.channel.name, event))

    def deliver_so_far(self, app: str, event: Event) -> None:
        """Take the text so far of a stream, and send it to the subscribers of
        this node."""
        part, stream = parts_of(event)
        local = self._hub.channel(app, part.name)
        if local is not None and self.streams.accept(app, event):
            open_stream = self.streams.of(app, part.name)[stream.id]
            send_so_far = partial(self._send_so_far, app, part.name)
            self.streams.late.add(local.members, open_stream, send_so_far)

    def _send_so_far(
        self, app: str, channel: str, id: str, connections: list[Connection]
    ) -> None:
        """Send the text so far of the stream ``id`` to these connections.

        Connections that have left the channel meanwhile get nothing.
        """
        local = self._hub.channel(app, channel)
        stream = self.streams.of(app, channel).get(id)
        if local is None or stream is None:
            return
        members = [one for one in connections if one in local.members]
        if members:
            self._channels.ordered.send(local, members, stream.so_far())

    def has_receivers(self, stream: OpenStream) -> bool:
        """Tell whether the channel has subscribers on this node."""
        return self._hub.member_count(stream.app, stream.channel) > 0

    def history(self, app: str, channel: str) -> str:
        """Return the name of the history of the channel, or ``""`` if it has no
        history."""
        options = self._channels.options.of(app, channel)
        if options.history:
            return options.history
        return "recent" if options.has_history else ""


def check_draft(draft: Draft) -> None:
    """Raise :class:`ChannelRefused` (``limit``) if the log cannot store a
    draft."""
    reason = objection(draft)
    if reason:
        raise ChannelRefused("limit", reason)


class StreamedMessages:
    """Streamed messages of all nodes.

    The node on which a stream was opened owns the stream. The other nodes pass
    pieces on to this node. ``others`` is None without a cluster.
    """

    def __init__(
        self,
        target: StreamTarget,
        table: ConnectionTable,
        queries: NodeQueries,
        limits: StreamLimits,
        outbox_bytes: int,
        others: OtherNodes | None,
    ) -> None:
        """Begin without streams, and answer the queries of other nodes."""
        self._target = target
        self._streams = target.streams
        self._table = table
        self._max_streams = limits.open_streams
        self._max_bytes = min(
            limits.stream_bytes, outbox_bytes // JSON_GROWTH, MOST_BYTES
        )
        self._idle_seconds = limits.stream_seconds
        self._rate = Buckets(PIECES, limits.pieces_per_second)
        self._others = others
        self._own: dict[str, _OwnStream] = {}
        self._counts: dict[str, int] = {}
        """App → the number of its streams in ``_own``."""
        self._sizes = WeakValueDictionary[tuple[str, str], _Size]()
        """(app, owner) → the size of the open streams of this owner. The owner
        ``""`` stands for all owners of the app. The streams in ``_own`` keep
        their sizes alive."""
        self._closed: dict[str, tuple[float, str, str, ClosedStream]] = {}
        """Id of a stream that was closed lately → the time of its end (of the
        monotonic clock), app, sender and result. The streams are in the order
        of this time."""

        # Both kinds of streams have the same queries, but with different names.
        self._append_query = f"{target.name}append pieces"
        self._close_query = f"{target.name}close stream"
        self._stop_query = f"{target.name}stop stream"
        self._state_query = f"{target.name}stream"
        queries.add(self._append_query, AppendPieces, self._append_here)
        queries.add(self._close_query, CloseStream, self._close_here)
        queries.add(self._stop_query, StopStream, self._stop_here)
        queries.add(self._state_query, StreamQuery, self._state_here)

    # --- publishers -----------------------------------------------------------

    def open(
        self,
        app: str,
        head: Event,
        text: str,
        owner: str = "",
        stoppers: Iterable[str] | None = None,
    ) -> str:
        """Open a stream, and return its id. May switch greenlets.

        - ``head``: an event with the sender, type and time of the message. Its
          ``channel`` names the channel.
        - ``text``: the beginning of the message.
        - ``owner``: the user who is charged for the bytes, in addition to the
          app. ``""`` means that only the app is charged.
        - ``stoppers``: the readers who may stop the stream. None means all
          readers.

        Raises :class:`ChannelRefused` with the reason ``name``, ``unknown``,
        ``full`` (the app or the owner has too many streams) or ``limit``.
        """
        part = head.channel
        assert part is not None
        count = self._counts.get(app, 0)
        if count >= self._max_streams:
            raise ChannelRefused(
                "full",
                f"the app has {count} open streams on this node, which is its limit",
            )

        # The text and the tags must fit into the message at the end.
        limit = self._max_bytes
        target_limit = self._target.limit(app, part.name)
        if target_limit:
            limit = min(limit, target_limit)
        beginning = bytearray(text.encode())
        size = len(beginning) + len(part.tags)
        if size > limit:
            raise ChannelRefused(
                "limit", f"a message of the channel has at most {limit} bytes"
            )

        # All open streams of an app share a limit, and so do all open streams
        # of an owner.
        sizes = self._sizes_of(app, owner)
        if any(total.size + len(beginning) > total.most for total in sizes):
            raise ChannelRefused(
                "full", "the open streams on this node have too many bytes"
            )

        id = self._table.ids.id_of(self._table.ids.next_number())
        now = monotonic()
        stream = OpenStream(id, app, part.name, head, beginning, 0, now, owned=True)
        if stoppers is not None:
            stream.stoppers = frozenset(stoppers)
        self._target.check(stream)

        # All checks have passed.
        self._own[id] = _OwnStream(
            stream, sizes, limit, left=limit - size, touched=now, checked=now
        )
        self._counts[app] = count + 1
        for total in sizes:
            total.size += len(beginning)
        self._streams.add(stream)
        self._target.publish(app, [stream.so_far()])
        return id

    def _sizes_of(self, app: str, owner: str) -> list[_Size]:
        """Return the sizes that count the bytes of a new stream.

        These are the size of the app, and of the owner, if there is one. The
        stream keeps the sizes alive. A size ends with the last of its streams.
        """
        sizes = [self._sizes.setdefault((app, ""), _Size(MOST_APP_BYTES))]
        if owner:
            sizes.append(self._sizes.setdefault((app, owner), _Size(MOST_OWNER_BYTES)))
        return sizes

    def count_of(self, app: str, sender: str) -> int:
        """Return the number of open streams of a sender that this node knows.

        Never switches greenlets.
        """
        return len(self._streams.of_sender(app, sender))

    def append(
        self, app: str, pieces: Sequence[Piece], sender: str = ""
    ) -> list[AppendedPiece]:
        """Append pieces to streams of any nodes, and return a result for each
        piece.

        Only streams of this ``sender`` are extended. ``""`` means any sender.
        May switch greenlets. Raises TooManyRequests, and
        :class:`ChannelRefused` (``unavailable``) if none of their nodes
        answers.
        """
        self._rate.require_one(app, len(pieces))
        here: list[int] = []
        """The indexes of the pieces of streams that this node owns."""
        elsewhere: dict[int, list[int]] = {}
        """Epoch of another node → the indexes of the pieces of its streams."""
        leases: dict[int, Lease] = {}
        # A result stays `failed` until the node of the stream answers.
        results = [AppendedPiece(AppendStatus.FAILED)] * len(pieces)
        for index, (stream, _, text) in enumerate(pieces):
            if stream in self._own:
                lease = None
            else:
                lease = self._table.node_of(stream, self._others)
            if lease is None:
                here.append(index)
            elif len(text.encode()) > self._max_bytes:
                results[index] = AppendedPiece(AppendStatus.TOO_LONG)
            else:
                leases[lease.epoch] = lease
                elsewhere.setdefault(lease.epoch, []).append(index)

        def append_elsewhere(node_epoch: int, indexes: list[int]) -> None:
            """Let another node append pieces. Runs in a greenlet of its own."""
            assert self._others is not None
            for part in _in_parts(indexes, pieces):
                query = AppendPieces(app, [pieces[index] for index in part], sender)
                answers = self._others.query_behind(
                    leases[node_epoch], self._append_query, query, list[AppendedPiece]
                )
                # If there is no answer, the results stay `failed`.
                for index, answer in zip(part, answers or (), strict=False):
                    results[index] = answer

        # The other nodes append their pieces while this node does.
        greenlets = [
            gevent.spawn(append_elsewhere, node_epoch, indexes)
            for node_epoch, indexes in elsewhere.items()
        ]
        if here:
            query = AppendPieces(app, [pieces[index] for index in here], sender)
            answers = self._append_here(query)
            for index, answer in zip(here, answers, strict=True):
                results[index] = answer
        gevent.joinall(greenlets)
        if pieces and all(one.status is AppendStatus.FAILED for one in results):
            raise ChannelRefused("unavailable")
        return results

    def _append_here(self, query: AppendPieces) -> list[AppendedPiece]:
        """Append pieces to streams of this node, and return a result for each
        piece.

        The senders of the streams are checked first. May switch greenlets.
        """
        results = [_UNKNOWN] * len(query.pieces)
        indexes: dict[str, list[int]] = {}
        """Id of a stream → the indexes of its pieces."""
        for index, (stream, _, _) in enumerate(query.pieces):
            indexes.setdefault(stream, []).append(index)
        ids = list(indexes)
        if self._target.of_users:
            self._check_senders(query.app, ids, query.sender)
        for first in range(0, len(ids), self._target.together):
            # From here on, greenlets do not switch before the pieces have their
            # place among the publications. So pieces of another query cannot
            # overtake them.
            events = []
            now = monotonic()
            for id in ids[first : first + self._target.together]:
                record = self._find(query.app, id, query.sender)
                if record is None:
                    self._answer_if_closed(query, id, indexes[id], results)
                    continue

                # The pieces of one request are one event.
                text = ""
                for index in indexes[id]:
                    _, number, piece = query.pieces[index]
                    status = self._add_piece(record, number, piece, now)
                    results[index] = AppendedPiece(status, record.piece)
                    if status is AppendStatus.APPENDED:
                        text += piece
                if text:
                    record.stream.piece += 1
                    events.append(record.stream.event(text))
            if events:
                self._target.publish(query.app, events)
            if is_long_turn():
                serve_others()
        return results

    def _answer_if_closed(
        self,
        query: AppendPieces,
        id: str,
        indexes: Iterable[int],
        results: list[AppendedPiece],
    ) -> None:
        """Set the results of pieces of a stream that was closed lately.

        ``indexes`` are the places of these pieces in ``results``. Other results
        stay as they are.
        """
        if self._find_closed(query.app, id, query.sender) is not None:
            for index in indexes:
                results[index] = AppendedPiece(AppendStatus.CLOSED)

    def _check_senders(self, app: str, ids: Iterable[str], sender: str) -> None:
        """End the streams whose senders may no longer write.

        Senders that were checked lately are not checked again. May switch
        greenlets.
        """
        now = monotonic()
        for id in ids:
            record = self._find(app, id, sender)
            if record is None or record.ended or record.checked + CHECK_SECONDS > now:
                continue
            # The time is set first, because the check may switch greenlets.
            record.checked = now
            if not self._target.may_continue(record.stream):
                self._end(id, record, incomplete=True)

    def _find(self, app: str, id: str, sender: str = "") -> _OwnStream | None:
        """Return a stream of this node, or None if there is no such stream.

        It must be a stream of this app and of this ``sender``. ``""`` means any
        sender.
        """
        record = self._own.get(id)
        if record is None or record.stream.app != app:
            return None
        if sender and record.stream.head.sender != sender:
            return None
        return record

    def _find_closed(self, app: str, id: str, sender: str) -> ClosedStream | None:
        """Return the result of a stream that was closed lately, or None.

        It must be a stream of this app and of this ``sender``. ``""`` means any
        sender.
        """
        if id not in self._closed:
            return None
        _, stream_app, stream_sender, closed = self._closed[id]
        if stream_app == app and (not sender or stream_sender == sender):
            return closed
        return None

    def _add_piece(
        self, record: _OwnStream, number: int, piece: str, now: float
    ) -> AppendStatus:
        """Add a piece to the text of a stream, and return the result for the
        piece.

        The piece is added if it is the next piece, and if there is space for
        it. ``now`` is the time of the monotonic clock.
        """
        stream = record.stream
        if record.ended:
            return AppendStatus.CLOSED
        if number <= record.piece:
            return AppendStatus.REPEATED
        if number > record.piece + 1:
            return AppendStatus.GAP
        text = piece.encode()
        size = len(text)
        if size > record.left:
            return AppendStatus.TOO_LONG
        # All limits are checked before the bytes are counted.
        for total in record.sizes:
            if total.size + size > total.most:
                return AppendStatus.TOO_LONG

        for total in record.sizes:
            total.size += size
        record.left -= size
        record.touched = now
        stream.heard = now
        record.piece = number
        stream.text += text
        return AppendStatus.APPENDED

    def close(
        self, app: str, stream: str, incomplete: bool = False, sender: str = ""
    ) -> ClosedStream:
        """Close a stream of any node. May switch greenlets.

        ``incomplete``: whether the publisher could not finish the message.
        ``sender``: only a stream of this sender is closed; ``""`` means any
        sender. Raises :class:`ChannelRefused` (``unavailable``) if the node of
        the stream or the history does not answer.
        """
        query = CloseStream(app, stream, incomplete, sender)
        close_here = partial(self._close_here, query)
        return self._query_owner(stream, self._close_query, query, close_here)

    def stop(self, app: str, stream: str, user: str) -> ClosedStream:
        """Close a stream of any node for a reader, as incomplete.

        The publisher learns this from the stored message, and from the answer
        to the next piece. The result is ``not_allowed`` if the reader may not
        stop the stream. May switch greenlets. Raises :class:`ChannelRefused`
        (``unavailable``) if the node of the stream or the history does not
        answer.
        """
        query = StopStream(app, stream, user)
        stop_here = partial(self._stop_here, query)
        return self._query_owner(stream, self._stop_query, query, stop_here)

    def _query_owner(
        self,
        stream: str,
        name: str,
        query: Struct,
        close_here: Callable[[], ClosedStream],
    ) -> ClosedStream:
        """Let the node that owns a stream close it, and return the result.

        ``name`` is the name of the query to another node. ``close_here`` is
        called if this node owns the stream, or if no node owns it. May switch
        greenlets. Raises :class:`ChannelRefused` (``unavailable``).
        """
        lease = self._table.node_of(stream, self._others)
        closed: ClosedStream | None
        # No node owns a stream that has ended, or whose node is dead.
        if lease is None or self._others is None:
            closed = close_here()
        else:
            closed = self._others.query_behind(lease, name, query, ClosedStream)
        if closed is None or closed.status == "failed":
            raise ChannelRefused("unavailable")
        return closed

    def _stop_here(self, query: StopStream) -> ClosedStream:
        """Close a stream of this node for a reader. May switch greenlets."""
        record = self._find(query.app, query.stream)
        if record is None:
            if self._find_closed(query.app, query.stream, "") is not None:
                return ClosedStream("repeated")
            return ClosedStream("unknown")
        try:
            if not self._target.may_stop(record.stream, query.user):
                return ClosedStream("not_allowed")
        except StorageUnavailable:
            return ClosedStream("failed")

        # The stored message names the reader.
        if not record.ended:
            record.stream.stopped = query.user
        closed = self._end(query.stream, record, incomplete=True)
        return closed or ClosedStream("failed")

    def _close_here(self, query: CloseStream) -> ClosedStream:
        """Close a stream of this node. May switch greenlets.

        A repeated request gets the result of the first request.
        """
        record = self._find(query.app, query.stream, query.sender)
        if record is not None:
            closed = self._end(query.stream, record, query.incomplete)
            return closed or ClosedStream("failed")
        former = self._find_closed(query.app, query.stream, query.sender)
        if former is None:
            return ClosedStream("unknown")
        return msgspec.structs.replace(former, status="repeated")

    def _end(
        self, id: str, record: _OwnStream, incomplete: bool
    ) -> ClosedStream | None:
        """End a stream: publish its end, and forget it. May switch greenlets.

        Returns None if the history does not answer. The caller must then try
        again. Also returns None if another greenlet publishes the end or has
        published it.
        """
        if record.closing or id not in self._own:
            return None
        stream = record.stream
        if not record.ended:
            record.ended = True
            record.incomplete = incomplete
            # New subscribers receive the end, live or from the history.
            self._streams.remove(stream.app, stream.channel, id)

        record.closing = True
        try:
            position = self._publish_end(stream, record.incomplete)
        except ChannelRefused:
            return None
        finally:
            record.closing = False
        # If the app was deleted meanwhile, forget() has already removed the
        # stream.
        if self._own.pop(id, None) is not None:
            self._counts[stream.app] -= 1
            for total in record.sizes:
                total.size -= len(stream.text)

        closed = _closed_at(stream.channel, position)
        self._remember_closed(stream, closed)
        return closed

    def _remember_closed(self, stream: OpenStream, closed: ClosedStream) -> None:
        """Remember the result of closing a stream, for repeated requests.

        If there are too many results, the oldest are forgotten.
        """
        sender = stream.head.sender
        self._closed[stream.id] = monotonic(), stream.app, sender, closed
        while len(self._closed) > MOST_CLOSED:
            oldest = next(iter(self._closed))
            del self._closed[oldest]

    def _publish_end(
        self, stream: OpenStream, incomplete: bool
    ) -> Position | Rejected | None:
        """Publish the end of a stream, also to the history. May switch
        greenlets.

        Returns the result of :meth:`StreamTarget.publish_end`. Raises
        ChannelRefused if the history does not answer.
        """
        event = stream.end(incomplete)
        if event.kind == "msg":
            try:
                return self._target.publish_end(stream.app, stream.channel, event)
            except ChannelRefused as refused:
                if refused.reason == "unavailable":
                    raise
        # An end without text is not a message, and the target may refuse an
        # end. In both cases, the end is sent as a last piece.
        end_piece = msgspec.structs.replace(event, kind=stream.head.kind)
        self._target.publish(stream.app, [end_piece])
        return None

    def close_all(self) -> None:
        """Close the streams of this node before it stops. May switch greenlets.

        If this fails or takes too long, streams are lost. The connections of
        clients are closed afterwards.
        """
        deadline = monotonic() + CLOSE_ALL_SECONDS
        failed: set[str] = set()
        for id, record in tuple(self._own.items()):
            # Another greenlet publishes the end, or has published it.
            if record.closing or id not in self._own:
                continue
            if monotonic() > deadline:
                break
            self._end_incomplete(id, record, failed)
        lost = sum(not record.closing for record in self._own.values())
        if lost:
            log.warning(
                "%d open streams are lost: the history does not answer in time", lost
            )

    def _end_incomplete(self, id: str, record: _OwnStream, failed: set[str]) -> None:
        """End a stream as incomplete. May switch greenlets.

        If the history does not answer, it is added to ``failed``. Other streams
        with this history are not ended, so that this node waits only once.
        """
        history = self._target.history(record.stream.app, record.stream.channel)
        if history in failed:
            return
        if self._end(id, record, incomplete=True) is None:
            failed.add(history)

    def forget(self, app: str) -> None:
        """Remove all streams of a deleted app. Never switches greenlets."""
        for stream in self._streams.all():
            if stream.app == app:
                self._streams.remove(app, stream.channel, stream.id)
        for id in [id for id, record in self._own.items() if record.stream.app == app]:
            del self._own[id]
        self._counts.pop(app, None)

    # --- time-outs and gaps ---------------------------------------------------

    def run(self) -> None:
        """Close streams without publishers or owners, and fill gaps of copies.

        Runs in a greenlet of its own, forever. A *copy* is the text so far of a
        stream that another node owns.
        """
        check_at = 0.0
        while True:
            # If there are no streams, wait for the first stream.
            is_idle = not (self._own or self._closed or self._streams.by_channel)
            seconds = None if is_idle else max(0.0, check_at - monotonic())
            self._streams.news.wait(seconds)
            self._streams.news.clear()
            self._fill_gaps()
            if monotonic() >= check_at:
                try:
                    self.look(monotonic())
                except Exception:
                    log.exception("the open streams could not be checked")
                check_at = monotonic() + until_beat(LOOK_SECONDS)

    def _fill_gaps(self) -> None:
        """Begin to read the copies that lack pieces, each in a greenlet."""
        gaps = self._streams.gaps
        self._streams.gaps = {}
        for id, (app, channel) in gaps.items():
            gevent.spawn(self._read_copy, app, channel, id)

    def look(self, now: float) -> None:
        """Check all streams for time-outs. May switch greenlets.

        This also sends signs of life, and drops copies that nobody needs. A
        *sign of life* tells the other nodes that a stream without new pieces
        still exists. ``now`` is the time of the monotonic clock.
        """
        self._forget_closed(now)
        signs_of_life = self._check_own(now)
        if self._others is not None:
            for app, events in signs_of_life.items():
                self._target.publish(app, events)
            self._check_copies(now)
        # This comes last, because it waits for the database.
        if self._target.of_users:
            self._check_silent_senders(now)

    def _forget_closed(self, now: float) -> None:
        """Forget the streams whose end is long ago."""
        # The streams are in the order in which they were closed.
        for id, (closed_at, *_) in tuple(self._closed.items()):
            if closed_at + CLOSED_SECONDS > now:
                break
            del self._closed[id]

    def _check_own(self, now: float) -> dict[str, list[Event]]:
        """End the streams of this node that get no more pieces.

        Returns app → the signs of life of its streams that have no new piece.
        May switch greenlets.
        """
        signs_of_life: dict[str, list[Event]] = {}
        failed: set[str] = set()
        for id, record in tuple(self._own.items()):
            # Another greenlet publishes the end, or has published it.
            if record.closing or id not in self._own:
                continue
            if record.ended or record.touched + self._idle_seconds <= now:
                self._end_incomplete(id, record, failed)
            elif record.stream.heard + LOOK_SECONDS <= now:
                sign_of_life = record.stream.event("")
                signs_of_life.setdefault(record.stream.app, []).append(sign_of_life)
        return signs_of_life

    def _check_copies(self, now: float) -> None:
        """Drop copies that nobody needs, and ask the owners of silent
        streams."""
        for copy in [stream for stream in self._streams.all() if not stream.owned]:
            if not self._target.has_receivers(copy):
                self._streams.remove(copy.app, copy.channel, copy.id)
            elif copy.heard + SILENT_SECONDS <= now:
                # The owner is asked again only after another silence of this
                # length.
                copy.heard = now
                gevent.spawn(self._read_copy, copy.app, copy.channel, copy.id)

    def _check_silent_senders(self, now: float) -> None:
        """End streams without new pieces whose senders may no longer write.

        Streams of one sender in one conversation share a check. If there are
        too many checks, the remaining checks are made the next time. May switch
        greenlets.
        """
        may_write: dict[tuple[str, str, str], bool] = {}
        """(app, sender, conversation) → the result of the check."""
        for id in self._streams_to_check(now):
            record = self._own.get(id)
            if record is None or record.ended:
                continue
            key = record.stream.app, record.stream.head.sender, record.stream.channel
            if key not in may_write:
                if len(may_write) >= CHECKS_AT_ONCE:
                    return
                may_write[key] = self._target.may_continue(record.stream)
            record.checked = now
            if not may_write[key]:
                self._end(id, record, incomplete=True)

    def _streams_to_check(self, now: float) -> list[str]:
        """Return the streams of this node whose senders must be checked.

        The streams that have waited longest come first.
        """
        due = [
            (record.checked, id)
            for id, record in self._own.items()
            if record.checked + CHECK_SECONDS <= now
        ]
        return [id for _, id in sorted(due)]

    def _state_here(self, query: StreamQuery) -> StreamState:
        """Answer another node with the state of a stream of this node."""
        record = self._find(query.app, query.stream)
        if record is None:
            return StreamState(over=True)
        if record.ended:
            return StreamState()
        return StreamState(record.stream.so_far())

    def _read_copy(self, app: str, channel: str, id: str) -> None:
        """Read the text of a stream from its owner, as the copy of this node.

        Runs in a greenlet of its own. If the owner no longer has the stream,
        the copy ends.
        """
        assert self._others is not None
        lease = self._table.node_of(id, self._others)
        # If the stream has no owner, it is over.
        state: StreamState | None = StreamState(over=True)
        if lease is not None:
            state = self._others.query_behind(
                lease, self._state_query, StreamQuery(app, id), StreamState
            )
        copy = self._streams.of(app, channel).get(id)
        # If the owner did not answer, it is asked again after the next sign of
        # life, or after the next silence.
        if state is None:
            return
        if state.so_far is not None:
            self._target.deliver_so_far(app, state.so_far)
            return
        if state.over and copy is not None:
            self._end_copy(copy, is_owner_dead=lease is None)

    def _end_copy(self, copy: OpenStream, is_owner_dead: bool) -> None:
        """End the copy of a stream that its owner no longer has.

        If the owner is dead, this node publishes the end. Other nodes do the
        same, but a history stores the id only once. May switch greenlets.
        """
        self._streams.remove(copy.app, copy.channel, copy.id)
        if not self._target.history(copy.app, copy.channel):
            self._target.deliver(copy.app, copy.end(incomplete=True))
        elif is_owner_dead:
            # If the owner lives, it has published the end itself.
            try:
                self._publish_end(copy, incomplete=True)
            except ChannelRefused:
                # The history does not answer, so this node tries again after
                # SILENT_SECONDS.
                self._streams.add(copy)


def _closed_at(channel: str, position: Position | Rejected | None) -> ClosedStream:
    """Return the result of closing a stream whose end has this position.

    None means that there is no history. Rejected means that the log has refused
    the message.
    """
    if isinstance(position, Rejected):
        return ClosedStream("closed", channel, rejected=position)
    if position is None:
        return ClosedStream("closed", channel)
    return ClosedStream("closed", channel, position.epoch, position.offset)


def _in_parts(indexes: Sequence[int], pieces: Sequence[Piece]) -> Iterator[list[int]]:
    """Divide the indexes of pieces into parts of limited size.

    The texts of a part have at most about :data:`MOST_BYTES`.
    """
    part: list[int] = []
    size = 0
    for index in indexes:
        _, _, text = pieces[index]
        piece_size = len(text.encode())
        if part and size + piece_size > MOST_BYTES:
            yield part
            part = []
            size = 0
        part.append(index)
        size += piece_size
    yield part
