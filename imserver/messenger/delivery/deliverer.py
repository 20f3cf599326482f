"""In-order delivery: sends entries of the log to the connections of this node
that may read them, and results to the senders of the drafts. The log follower
keeps the position up to which this node has delivered the log of an app.

A connection receives stored entries, and the acknowledgements of its own
messages, in the order of ids. A client's cursor is the greatest id that it has
seen, so it must have received everything before that.

Batches come from this node's own writer and from other nodes, in any order,
late, or never. If a batch begins after the entry that follows the position, the
batch waits. If the gap is not filled within :data:`GAP_SECONDS`, the missing
entries are read from the log. Each second, the node compares the positions of
apps without news with the ends of their logs.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count, takewhile
from time import monotonic, time
from typing import Final

import gevent
from gevent.event import Event as Flag
from msgspec import Struct, field

from imserver.gateway.clock import until_beat
from imserver.gateway.errors import CloseCode, StorageUnavailable
from imserver.gateway.hub.fanout import (
    Fanout,
    FrameSource,
    Part,
    frame_for,
    framed,
    named,
)
from imserver.gateway.hub.hub import Hub
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Service
from imserver.gateway.transport.connection import Connection, Encoding
from imserver.messenger.channels.stored_channels import ChannelLog
from imserver.messenger.delivery.acks import (
    AckingLogSubscription,
    AckTracker,
    PongLogSubscription,
)
from imserver.messenger.delivery.log_subscriptions import LogSubscriptions, hold_ack
from imserver.messenger.delivery.open_streams import OpenStream, OpenStreams
from imserver.messenger.log.contract import (
    Appended,
    AppendRequest,
    Commit,
    Entry,
    Stored,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.model import Message
from imserver.messenger.log.rows import users_of

log = logging.getLogger(__name__)

MAX_RUN: Final = 50
"""The most messages in one frame, if the dialect can batch."""
MAX_RUN_BYTES: Final = 65_536
"""The most bytes of the bodies of several messages in one frame."""
GAP_SECONDS: Final = 0.02
"""How long a gap waits for a batch from another node before the log is read."""
QUIET_SECONDS: Final = 1.0
"""After this time without news, the position of an app is compared with the end
of its log."""
RETRY_SECONDS: Final = 0.5
"""Pause after a query of the log that failed."""
PAGE: Final = 500
"""The most entries that are read together."""
MAX_WAITING: Final = 256
"""The most batches of an app that wait for a gap to be filled. Further batches
are dropped, and their entries are read from the log later."""
_CLOSED_AT_ONCE: Final = 1000
"""The most connections that are closed in one turn of the loop."""
_MAX_WAITING_ACKS: Final = 1000
"""The most acknowledgements that wait until a connection has caught up. A
client with more of them does not read, so its connection is closed."""
_MAX_WINDOW: Final = 250
"""The most entries that are delivered together."""
_IMPORTED_SECONDS: Final = 3600
"""Entries that are older count as imported. Their age is not counted as the
time that the delivery took."""
_OF_MEMBERS: Final = ("join", "leave", "group")
"""The kinds of entries that change who receives the next entries."""


Receivers = dict[int, Collection[Connection]]
"""Conversation → the connections of this node that receive it."""


class MessageRun(Service):
    """Messages that are delivered together, in order.

    Each message is encoded once for each encoding, however many connections
    receive it.
    """

    messages: Sequence[Message]
    _encoded: dict[Encoding, list[FrameSource | None]] = field(default_factory=dict)
    """Encoding → the encoded messages, by index. None means that a message is
    not encoded yet. The encoded messages are payloads if the dialect puts
    several messages into one frame. Otherwise they are frames."""

    def pick(self, encoding: Encoding, indexes: Sequence[int]) -> FrameSource:
        """Return the messages at these indexes, encoded.

        The messages are one frame if the dialect can batch, which means that it
        puts several messages into one frame. Otherwise each message is a frame.
        The result is bytes, or a function that makes the bytes for a
        connection.
        """
        batches = encoding.dialect.batches
        encoded = self._encoded.get(encoding)
        if encoded is None:
            encoded = [None] * len(self.messages)
            self._encoded[encoding] = encoded

        # Each message is encoded when it is first needed, and remembered.
        sources: list[FrameSource] = []
        for index in indexes:
            source = encoded[index]
            if source is None:
                source = self._encode(encoding, self.messages[index], batches)
                encoded[index] = source
            sources.append(source)

        if batches or all(type(source) is bytes for source in sources):
            joined = b"".join(sources)  # type: ignore[arg-type]
            if batches and joined:
                return encoding.frame(joined)
            return joined

        # Some frames name their receiver, so they are joined per connection.
        def frames_for(connection: Connection) -> bytes:
            return b"".join([frame_for(source, connection) for source in sources])

        return frames_for

    def _encode(
        self, encoding: Encoding, message: Message, batches: bool
    ) -> FrameSource:
        """Encode one message.

        If ``batches``, the result is a payload, which becomes a part of a
        frame. Otherwise the result is a frame.
        """
        if batches:
            return encoding.dialect.encode_message(message) or b""  # type: ignore[return-value]  # bytes
        if encoding.dialect.personal:
            return _for_each(encoding, message)
        return framed(encoding, encoding.dialect.encode_message(message))


def _for_each(encoding: Encoding, message: Message) -> FrameSource:
    """Encode a message for a dialect whose frames contain the receiver.

    The result is a function that makes the frame for a connection. The result
    is ``b""`` if the dialect does not show this message. Other connections of
    the sender receive the message only in rooms.
    """
    halves = encoding.dialect.encode_message_for(message)
    if halves is None:
        return b""
    named_frame = named(encoding, message, *halves)
    if message.room:
        return named_frame
    sender = message.sender

    def frame_for_others(connection: Connection) -> bytes:
        if connection.user == sender:
            return b""
        return named_frame(connection)

    return frame_for_others


class Deliverer(Service):
    """Delivers entries of the log to connections, and results to senders.

    The deliverer owns the results that wait until the entries before them are
    delivered. A client's cursor is the greatest id that it has seen, so a
    result must not overtake an entry. Never switches greenlets.
    """

    hub: Hub
    fanout: Fanout
    log_subscriptions: LogSubscriptions
    ack_tracker: AckTracker
    channel_log: ChannelLog
    streams: OpenStreams
    widest: dict[str, int] = field(default_factory=dict)
    """App → the largest number of connections that received one message since
    the last batch."""
    results: dict[str, dict[int, list[AppendRequest]]] = field(default_factory=dict)
    """App → id of an entry → the drafts whose results wait for it."""

    def settle_in_order(self, request: AppendRequest, result: Appended) -> None:
        """Pass on the result of a draft later, when its entry is delivered."""
        request.outcome = result
        results = self.results.setdefault(request.app, {})
        results.setdefault(result.entry.id, []).append(request)

    def is_wanted(self, app: str) -> bool:
        """Tell whether entries of an app must be delivered on this node.

        This is so if connections follow the log, if stored channels have
        subscribers, or if results wait for their entries.
        """
        return (
            app in self.log_subscriptions.by_app
            or app in self.results
            or self.channel_log.follows(app)
        )

    def settle(self, request: AppendRequest, result: Stored) -> None:
        """Pass on the result of a draft to its sender.

        The sender gets the result at once, or when its client has received all
        earlier entries.
        """
        connection = request.connection
        done = request.done
        if done is None:
            return
        if connection is None:
            log_subscription = None
        else:
            log_subscription = connection.log_subscription

        if (
            log_subscription is not None
            and log_subscription.backlog is not None
            and log_subscription.has_cursor
            and isinstance(result, Appended)
        ):
            # The client has not caught up. Its cursor would skip entries if it
            # got the id of its own message before them.
            assert connection is not None
            backlog = hold_ack(log_subscription.backlog, partial(done, result))
            log_subscription.backlog = backlog
            if type(backlog) is tuple and len(backlog) > _MAX_WAITING_ACKS:
                connection.abandon(CloseCode.SLOW_READER)
            return

        # A fault of one sender must not stop the delivery to others.
        try:
            done(result)
        except Exception:
            log.exception("the result of a draft could not be passed on")

    def deliver(self, app: str, entries: list[Entry], position: int) -> None:
        """Deliver entries to their receivers here, and results to their
        senders.

        ``entries`` are all entries up to ``position`` that this node has to
        deliver, and has not delivered yet. They are delivered in windows. A
        *window* is a range of entries between which no membership changes.
        """
        begin = 0
        results = self.results.get(app, {})
        subscribed = app in self.log_subscriptions.by_app
        if app in self.channel_log.channels:
            self._deliver_to_channels(app, entries)

        while begin < len(entries):
            end = _end_of_window(entries, begin)
            window = entries[begin:end]
            begin = end
            requests: list[Sequence[AppendRequest]]
            if results:
                requests = [results.pop(entry.id, ()) for entry in window]
            else:
                requests = [()] * len(window)
            if subscribed:
                self._deliver_window(app, window, requests)
            else:
                self._settle_all(requests)

        if results:
            # Results may also wait for entries that this node does not deliver.
            ids = [id for id in sorted(results) if id <= position]
            self._settle_all([results.pop(id) for id in ids])
        if not results:
            self.results.pop(app, None)

        # Some clients had already received entries from another node. They are
        # no longer ahead of this node.
        ahead = self.log_subscriptions.ahead.get(app)
        if ahead:
            for connection in [each for each, id in ahead.items() if id <= position]:
                self.log_subscriptions.has_caught_up(app, connection)

    def owes(self, app: str, connection: Connection) -> bool:
        """Tell whether this connection still has to get the result of a draft.

        A result waits until the entries before it are delivered.
        """
        for requests in self.results.get(app, {}).values():
            if any(request.connection is connection for request in requests):
                return True
        return False

    def _deliver_to_channels(self, app: str, entries: Iterable[Entry]) -> None:
        """Deliver entries to the subscribers of stored channels.

        A message of a room goes to the channel with the name of the room. When
        members leave a group, their subscriptions to its channels end.
        """
        for entry in entries:
            try:
                if entry.room:
                    reached = self.channel_log.deliver(app, entry)
                    self.widest[app] = max(self.widest.get(app, 0), reached)
                elif entry.kind == "leave":
                    self.channel_log.members_left(
                        app, entry.conversation, users_of(entry)
                    )
            except Exception:  # one entry that fails must not hide the others
                log.exception(
                    "entry %d of %s could not be delivered to channels", entry.id, app
                )

    def _settle_all(self, requests: Iterable[Sequence[AppendRequest]]) -> None:
        """Pass on the results of these drafts, in order."""
        for requests_of_entry in requests:
            for request in requests_of_entry:
                self._settle(request)

    def _settle(self, request: AppendRequest) -> None:
        """Pass on the result of a draft. The result is known."""
        assert request.outcome is not None
        self.settle(request, request.outcome)

    def _deliver_window(
        self,
        app: str,
        entries: list[Entry],
        requests: Sequence[Sequence[AppendRequest]],
    ) -> None:
        """Deliver entries between which no membership changes.

        The receivers of a conversation get its entries together. Some receivers
        are *special*: senders of these entries, bots, receivers of several of
        these conversations, and clients that already have some of these
        entries. They get the entries one by one, in the order of the log.

        ``requests`` has, for each entry, the drafts whose results wait for it.
        """
        first = entries[0]
        if first.kind in ("join", "group"):
            self._add_followers(app, first)

        # Collect the receivers of each conversation, and its messages.
        receivers: Receivers = {}
        indexes: dict[int, list[int]] = {}
        messages: list[Message] = []
        for entry in entries:
            number = entry.conversation
            connections = receivers.get(number)
            if connections is None:
                connections = self._receivers(app, entry)
                receivers[number] = connections
            if connections:
                indexes.setdefault(number, []).append(len(messages))
                messages.append(entry)

        if messages:
            # Find the connections for which the order matters.
            special: set[Connection] = set()
            for requests_of_entry in requests:
                for request in requests_of_entry:
                    if request.connection is not None:
                        special.add(request.connection)
            bots = self.log_subscriptions.followers.bots
            if bots:
                for number in indexes:
                    special.update(bots.get((app, number), ()))
            if len(indexes) > 1:
                special |= _receivers_of_several(
                    [receivers[number] for number in indexes]
                )
            special.update(self.log_subscriptions.ahead.get(app, ()))

            # Most receivers are not special, and share each encoded frame.
            run = MessageRun(messages)
            for number, run_indexes in indexes.items():
                self._deliver_to_others(
                    app, receivers[number], special, run, run_indexes
                )
            in_order = _only(special, receivers)
            self._deliver_in_order(app, entries, requests, in_order, run)
        else:
            self._settle_all(requests)

        # A user who leaves still receives the entry about that.
        if first.kind == "leave":
            for user in users_of(first):
                self.log_subscriptions.memberships_changed(app, user)
                for each in self._subscribed(app, user):
                    self.log_subscriptions.followers.leave(
                        app, each, first.conversation
                    )

    def _receivers(self, app: str, entry: Entry) -> Collection[Connection]:
        """Return the connections of this node that receive an entry.

        These are only connections that follow the log. An entry belongs to a
        conversation of two members, to a room or to a group. If the entry has
        no members and no room, it belongs to a group.
        """
        if not (entry.members or entry.room):
            return self.log_subscriptions.followers.members(app, entry.conversation)
        hub_app = self.hub.apps.get(app)
        if hub_app is None:
            return []

        if entry.members:
            connections: list[Connection] = []
            # The hub stores one session of a user without a list, and several
            # in a list. App.sessions_of() would hide this, but would cost a
            # call and a tuple for each user.
            for user in set(entry.members):
                sessions = hub_app.users.get(user)
                if type(sessions) is list:
                    connections += [
                        each for each in sessions if each.log_subscription is not None
                    ]
                elif sessions is not None and sessions.log_subscription is not None:  # type: ignore[union-attr]
                    connections.append(sessions)  # type: ignore[arg-type]
            return connections

        # Clients without a cursor get the messages of a room by their log
        # subscription. All other subscribers get them in _deliver_to_channels.
        # The keys of the dict are a set with an order.
        room = hub_app.channels.get(entry.room)
        if room is None:
            return []
        return {
            each: None
            for each in room.members
            if isinstance(each.log_subscription, PongLogSubscription)
        }

    def _deliver_to_others(
        self,
        app: str,
        receivers: Collection[Connection],
        special: Collection[Connection],
        run: MessageRun,
        indexes: Sequence[int],
    ) -> None:
        """Deliver the messages at these indexes to ordinary receivers.

        The ordinary receivers are all receivers of the conversation, except
        ``special``. Connections that are catching up get the messages in their
        *backlog*, the list of what is sent after the missed entries.
        """
        live = []
        for each in receivers:
            if each in special:
                continue
            backlog = each.log_subscription.backlog  # type: ignore[union-attr]  # they are subscribed; a hot loop
            if backlog is None:
                live.append(each)
            # A list collects messages. In a tuple only acknowledgements wait,
            # because the client asks for these messages later.
            elif type(backlog) is list:
                backlog.extend([run.messages[index] for index in indexes])
        if live:
            self._push(app, live, run, indexes)
        if len(live) > self.widest.get(app, 0):
            self.widest[app] = len(live)

    def _deliver_in_order(
        self,
        app: str,
        entries: Sequence[Entry],
        requests: Sequence[Sequence[AppendRequest]],
        receivers: Receivers,
        run: MessageRun,
    ) -> None:
        """Deliver the entries to each of these receivers in the order of the
        log.

        A sender gets the result of its draft in the place of the entry.
        ``requests`` has, for each entry, the drafts whose results wait for it.
        """
        waiting: dict[Connection, list[int]] = {}
        """Connection → the indexes in ``run`` of messages to send to it."""
        bots_of_groups = self.log_subscriptions.followers.bots
        # The index in ``run``, which has only the entries with receivers.
        index = 0
        for entry, requests_of_entry in zip(entries, requests, strict=True):
            special = receivers.get(entry.conversation)
            if special is not None:
                # In a room the sender receives its own message.
                senders: Sequence[Connection | None] = ()
                if not entry.room:
                    senders = [request.connection for request in requests_of_entry]
                bots: Collection[Connection] = ()
                if bots_of_groups:
                    bots = bots_of_groups.get((app, entry.conversation), ())
                for each in special:
                    if each in senders:
                        continue
                    if each not in bots or each.user in entry.bots:
                        waiting.setdefault(each, []).append(index)
                index += 1

            # A client's cursor is the greatest id that it has seen, so earlier
            # entries are sent before the result.
            for request in requests_of_entry:
                connection = request.connection
                if connection in waiting:
                    self._deliver_to(app, connection, run, waiting.pop(connection))
                self._settle(request)
        for connection, indexes in waiting.items():
            self._deliver_to(app, connection, run, indexes)

    def _deliver_to(
        self, app: str, connection: Connection, run: MessageRun, indexes: Sequence[int]
    ) -> None:
        """Deliver the messages at these indexes to one connection.

        Messages that the client already has are left out.
        """
        log_subscription = connection.log_subscription
        if log_subscription is None:
            return
        received = self.log_subscriptions.ahead.get(app, {}).get(connection)
        if received:
            indexes = [index for index in indexes if run.messages[index].id > received]
            if not indexes:
                return
        # If the backlog is a list, it collects messages while the client syncs.
        # If it is a tuple, the client will ask for the messages.
        if log_subscription.backlog is None:
            self._push(app, (connection,), run, indexes)
        elif type(log_subscription.backlog) is list:
            log_subscription.backlog.extend([run.messages[index] for index in indexes])

    def _add_followers(self, app: str, entry: Entry) -> None:
        """Let the users who join by this entry receive the messages of its
        group."""
        bots = entry.bots
        for user in users_of(entry):
            self.log_subscriptions.memberships_changed(app, user)
            for each in self._subscribed(app, user):
                self.log_subscriptions.followers.enter(
                    app, each, entry.conversation, user in bots
                )

    def lose(self, app: str) -> None:
        """Disconnect clients, because the database has lost delivered entries.

        Subscriptions to stored channels end, too. When a client comes back, its
        cursor decides whether the client must start again. May switch
        greenlets.
        """
        self.channel_log.lose(app)
        hub_app = self.hub.apps.get(app)
        if hub_app is None:
            return
        # A list, because closing changes the users of the app.
        sessions: list[Connection] = []
        for user in hub_app.users:
            sessions += hub_app.sessions_of(user)
        for index, connection in enumerate(sessions):
            if index % _CLOSED_AT_ONCE == _CLOSED_AT_ONCE - 1:
                gevent.sleep(0)
            if connection.log_subscription is not None:
                connection.close(CloseCode.GOING_AWAY)

    def _subscribed(self, app: str, user: str) -> list[Connection]:
        """Return the connections of a user that follow the log."""
        return [
            each
            for each in self.hub.sessions_of(app, user)
            if each.log_subscription is not None
        ]

    def send(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Send stored messages to one connection."""
        if messages:
            self._push(
                connection.app or "",
                (connection,),
                MessageRun(messages),
                range(len(messages)),
            )

    def send_streams(self, connection: Connection) -> None:
        """Send a connection the text so far of streamed messages.

        A *streamed message* is delivered piece by piece while its sender writes
        it. The connection has just caught up. When its outbox becomes empty, it
        gets the streamed messages of its conversations.
        """
        if not self.streams.by_channel:
            return
        app = connection.app or ""
        user = connection.user or ""
        log_subscription = connection.log_subscription
        # First come streams of the user, then streams to the user, then streams
        # in groups of the user.
        streams = dict(self.streams.of_sender(app, user))
        streams.update(self.streams.of(app, f"user:{user}"))
        if log_subscription is not None:
            bots_of_groups = self.log_subscriptions.followers.bots
            for group in log_subscription.groups:
                if connection not in bots_of_groups.get((app, group), ()):
                    streams.update(self.streams.of(app, f"group:{group}"))
        for stream in streams.values():
            self.send_stream(stream, (connection,))

    def send_stream(
        self, stream: OpenStream, connections: Collection[Connection]
    ) -> None:
        """Send connections the text so far of a streamed message.

        Each connection gets the text when its outbox is empty.
        """
        self.streams.late.add(
            connections, stream, partial(self._send_so_far, stream.app, stream.channel)
        )

    def _send_so_far(
        self, app: str, channel: str, id: str, connections: list[Connection]
    ) -> None:
        """Send the text so far of a streamed message to these connections.

        Only connections that still receive the messages of the conversation get
        the text. ``channel`` is ``user:`` and the receiver, or ``group:`` and
        its number.
        """
        stream = self.streams.of(app, channel).get(id)
        hub_app = self.hub.apps.get(app)
        if stream is None or hub_app is None:
            return
        # Meanwhile a session may have ended, or the user may have left the
        # group.
        receivers = [each for each in connections if _still_receives(each, stream)]
        self.fanout.to_some(hub_app, receivers, stream.so_far())

    def _push(
        self,
        app: str,
        connections: Collection[Connection],
        run: MessageRun,
        indexes: Sequence[int],
    ) -> None:
        """Send the messages at these indexes to connections that have caught
        up.

        This also starts the time limits for the acknowledgements of these
        messages.
        """
        parts: Iterable[Sequence[int]] = (indexes,)
        if len(indexes) > 1:
            parts = _frames(run.messages, indexes)
        # Many or large messages need several frames.
        for part_indexes in parts:
            self.fanout.messages(
                self.hub.apps[app], connections, Part(run, part_indexes)
            )
        if self.log_subscriptions.acking:
            for each in connections:
                log_subscription = each.log_subscription
                if isinstance(log_subscription, AckingLogSubscription):
                    self.ack_tracker.delivered(
                        each, log_subscription, run.messages[indexes[-1]].id
                    )


def _still_receives(connection: Connection, stream: OpenStream) -> bool:
    """Tell whether a connection receives the conversation of a stream now.

    The connection must also have caught up with the log of its user.
    """
    log_subscription = connection.log_subscription
    if connection.app != stream.app:
        return False
    if log_subscription is None or not log_subscription.live:
        return False
    # For example ``user:ann`` or ``group:7``.
    kind, _, name = stream.channel.partition(":")
    if kind == "group":
        return int(name) in log_subscription.groups
    return connection.user in (stream.head.sender, name)


def _end_of_window(entries: Sequence[Entry], begin: int) -> int:
    """Return the end of the window that begins at ``begin``.

    A window ends where the receivers change, or when it is full. An entry that
    changes members is a window of its own.
    """
    end = begin + 1
    if entries[begin].kind in _OF_MEMBERS:
        return end
    most = min(len(entries), begin + _MAX_WINDOW)
    while end < most and entries[end].kind not in _OF_MEMBERS:
        end += 1
    return end


def _receivers_of_several(groups: Iterable[Collection[Connection]]) -> set[Connection]:
    """Return the connections in more than one of these collections.

    The largest collection is only searched, not iterated, because it may have
    very many connections.
    """
    *smaller, largest = sorted(groups, key=len)
    seen: set[Connection] = set()
    several: set[Connection] = set()
    for group in smaller:
        for each in group:
            if each in seen:
                several.add(each)
            else:
                seen.add(each)
    # The largest collection only answers whether a connection is in it.
    several.update([each for each in seen if each in largest])
    return several


def _only(special: Collection[Connection], receivers: Receivers) -> Receivers:
    """Return the receivers of each conversation who are in ``special``.

    Conversations without receivers are left out.
    """
    selected: Receivers = {}
    for number, connections in receivers.items():
        if not connections:
            continue
        # Only the shorter collection is iterated.
        if len(special) < len(connections):
            selected[number] = [each for each in special if each in connections]
        else:
            selected[number] = [each for each in connections if each in special]
    return selected


def _frames(
    messages: Sequence[Message], indexes: Sequence[int]
) -> Iterable[Sequence[int]]:
    """Divide the indexes of messages into parts for one frame each.

    A frame has a limited number of messages and bytes.
    """
    begin = 0
    while begin < len(indexes):
        end = begin + 1
        size = len(messages[indexes[begin]].body)
        while end < len(indexes) and end - begin < MAX_RUN:
            # The first message of a frame may be larger than the limit.
            size += len(messages[indexes[end]].body)
            if size > MAX_RUN_BYTES:
                break
            end += 1
        yield indexes[begin:end]
        begin = end


# --- positions ----------------------------------------------------------------


class _Followed(Struct, eq=False):
    """An app whose log this node follows."""

    position: int = 0
    """Every entry up to this id was delivered, or is not for this node."""
    known: Flag | None = field(default_factory=Flag)
    """Set when the position is known. From then on the attribute is None."""
    waiting: list[tuple[int, int, Commit]] = field(default_factory=list)
    """The batches that wait for a gap to be filled: a heap of (first id, unique
    number, commit). The numbers make the tuples comparable."""
    expected: int = 0
    """The greatest id that is known to be stored."""
    filling: bool = False
    """Whether a greenlet reads missing entries."""
    heard_at: float = field(default_factory=monotonic)
    """When the last news of the app came (time of the monotonic clock)."""


class LogFollower:
    """Delivers the log of each followed app without gaps.

    Nodes send each other the entries that they store, in batches. A batch may
    be late or lost; then the missing entries are read from the log. The
    *position* of an app is the id up to which this node has delivered.
    """

    def __init__(self, log: MessageLog, deliverer: Deliverer, metrics: Metrics) -> None:
        """Follow no app yet."""
        self._log = log
        self._deliverer = deliverer
        self.apps: dict[str, _Followed] = {}
        """The apps that are followed, by name. Read-only outside this class."""
        self.follows_any = Flag()
        """Set while apps are followed."""
        self._numbers = count()
        self._metrics = metrics
        self._watched: dict[str, set[Flag]] = {}
        """App → flags that are set when a node has stored entries of the app,
        followed or not."""

    def follow(self, app: str) -> int:
        """Deliver the entries of an app from now on, and return its position.

        May switch greenlets. If it raises StorageUnavailable, the app is not
        followed.
        """
        followed = self.apps.get(app)
        if followed is None:
            followed = _Followed()
            self.apps[app] = followed
            self.follows_any.set()
            # Callers that come during the query wait for ``known``.
            try:
                followed.position = self._log.entries.head(app)
                self._log.writer.learn(app, followed.position)
            except BaseException:
                del self.apps[app]
                raise
            finally:
                # Also after an error: the waiting callers then find that the
                # app is not followed.
                known = followed.known
                followed.known = None
                assert known is not None
                known.set()
            followed.heard_at = monotonic()
            self._advance(app, followed)
        elif followed.known is not None:
            followed.known.wait()
            if self.apps.get(app) is not followed:
                raise StorageUnavailable("the log could not be read")
        return followed.position

    def watch(self, news: Flag, apps: Collection[str]) -> None:
        """Set ``news`` from now on when a node has stored entries of these
        apps.

        The apps replace the earlier apps of this flag. They need not be
        followed. Never switches greenlets.
        """
        # Forget the apps that this flag no longer watches.
        for app in self._watched.keys() - apps:
            self._watched[app].discard(news)
            if not self._watched[app]:
                del self._watched[app]
        for app in apps:
            self._watched.setdefault(app, set()).add(news)

    def position(self, app: str) -> int:
        """Return the position of an app, or 0 if the app is not followed.

        Never switches greenlets.
        """
        followed = self.apps.get(app)
        return 0 if followed is None else followed.position

    def is_behind(self, app: str, id: int) -> bool:
        """Tell whether entries before this id are still to be delivered.

        Returns False if the app is not followed, or its position is not known
        yet. Never switches greenlets.
        """
        followed = self.apps.get(app)
        return (
            followed is not None and followed.position < id and followed.known is None
        )

    def forget_unwanted(self, app: str) -> None:
        """Stop following an app if nothing here needs its position.

        Never switches greenlets.
        """
        if self._deliverer.is_wanted(app) or self._log.writer.is_busy(app):
            return
        followed = self.apps.get(app)
        if followed is not None and followed.known is None and not followed.filling:
            del self.apps[app]

    def committed(self, commit: Commit) -> None:
        """Process entries that a transaction of this node or another one has
        stored.

        Never switches greenlets.
        """
        app = commit.app
        for news in self._watched.get(app, ()):
            news.set()
        self._log.writer.learn(app, commit.last)
        followed = self.apps.get(app)
        if followed is None:
            return
        # The entries of a late batch were delivered already, so the batch says
        # nothing about the end of the log.
        if commit.last <= followed.position:
            return
        followed.heard_at = monotonic()
        # A dropped batch is read from the log later.
        if len(followed.waiting) < MAX_WAITING:
            heappush(followed.waiting, (commit.first, next(self._numbers), commit))
        if followed.known is None:
            self._advance(app, followed)

    def expect(self, app: str, id: int) -> None:
        """Note that an id is stored, and read the log until the position
        reaches it.

        Never switches greenlets.
        """
        followed = self.apps.get(app)
        if followed is not None and id > max(followed.position, followed.expected):
            followed.expected = id
            if not followed.filling:
                self._fill(app, followed, GAP_SECONDS)

    def _advance(self, app: str, followed: _Followed) -> None:
        """Deliver the batches that continue at the position.

        If other batches wait, start to fill the gap before them.
        """
        waiting = followed.waiting
        # The first batch of the heap has the smallest first id.
        while waiting and waiting[0][0] <= followed.position + 1:
            _, _, commit = heappop(waiting)
            last = commit.last
            entries = commit.entries
            position = followed.position
            if last <= position:
                continue
            # Set before the delivery: an entry that fails is not delivered
            # again.
            followed.position = last

            # A batch may begin with entries that were delivered already.
            new = entries
            if entries and entries[0].id <= position:
                new = [entry for entry in entries if entry.id > position]
            try:
                self._deliverer.deliver(app, new, last)
            except Exception:
                log.exception("entries of %s could not be delivered", app)
            if new:
                seconds = time() - new[0].time_ms / 1000
                if seconds < _IMPORTED_SECONDS:
                    self._metrics.delivery_seconds.observe(max(0.0, seconds))
        if waiting and not followed.filling:
            self._fill(app, followed, GAP_SECONDS)

    # --- missing entries ------------------------------------------------------

    def _fill(self, app: str, followed: _Followed, seconds: float) -> None:
        """Start a greenlet that reads missing entries, after ``seconds``.

        ``seconds`` is 0 if the log is known to have more entries, so that there
        is no need to wait for batches.
        """
        followed.filling = True
        gevent.spawn(self._fill_gaps, app, followed, seconds)

    def _fill_gaps(self, app: str, followed: _Followed, seconds: float) -> None:
        """Wait ``seconds``, then read the log until no entry is missing.

        Runs in a greenlet of its own. If the batches of the gap have come
        meanwhile, nothing is read.
        """
        gevent.sleep(seconds)
        try:
            if followed.waiting or not seconds or followed.expected > followed.position:
                self._metrics.log_gaps += 1
                while self._deliver_page(app, followed):
                    pass
        finally:
            followed.filling = False
        if followed.waiting:
            self._advance(app, followed)

    def _deliver_page(self, app: str, followed: _Followed) -> bool:
        """Read a page of the log after the position, and deliver it.

        Returns whether to call the method again, because there may be more
        entries, or the database did not answer. Switches greenlets.
        """
        after = followed.position
        expected = followed.expected
        page = self._read_page(app, after)
        if page is None:
            gevent.sleep(RETRY_SECONDS)
            return True
        head, entries = page
        if head < after:
            # The database has lost entries. check() finds out later. The
            # entries of the waiting batches are lost, too, or are read later.
            followed.waiting.clear()
            return False
        self._log.writer.learn(app, head)

        # Entries of senders whose drafts are being stored here are not
        # delivered yet, because results may belong to them.
        senders = self._log.writer.senders(app)
        ready = list(takewhile(lambda entry: entry.sender not in senders, entries))
        is_last_page = len(entries) < PAGE and len(ready) == len(entries)

        last = after
        if ready:
            last = ready[-1].id
        if is_last_page:
            # No entries may be left between the position and the end of the
            # log, because they have expired. So this node has read up to the
            # end.
            last = max(head, last)

        first = last
        if ready:
            first = ready[0].id
        # Ids are missing: they have expired, or the database has lost entries.
        if first > after + 1 and not self._check_loss(app, after):
            return True

        # The page is delivered like a batch from another node.
        commit = Commit(app, after + 1, last, ready)
        heappush(followed.waiting, (after + 1, next(self._numbers), commit))
        self._advance(app, followed)
        if len(ready) < len(entries):
            gevent.sleep(GAP_SECONDS)
            return True
        # The page may lack entries that were announced during the query.
        return (
            not is_last_page
            or bool(followed.waiting)
            or followed.expected > max(expected, last)
        )

    def _read_page(self, app: str, after: int) -> tuple[int, list[Entry]] | None:
        """Read the last id of a log, and a page of its entries after an id.

        Returns None if the log could not be read. Switches greenlets.
        """
        try:
            head = self._log.entries.head(app)
            return head, self._log.entries.read(app, after, PAGE)
        except StorageUnavailable:
            return None
        except Exception:
            log.exception("reading the log of %s failed", app)
            return None

    def _check_loss(self, app: str, position: int) -> bool:
        """Check whether the database has lost the entry at the position.

        If so, disconnect clients before anything is delivered to them. Returns
        False if the database did not answer. May switch greenlets.
        """
        try:
            is_lost = self._log.entries.extent(app).is_lost(position)
        except StorageUnavailable:
            gevent.sleep(RETRY_SECONDS)
            return False
        if is_lost:
            self._deliverer.lose(app)
        return True

    def _heads_of(self, apps: Sequence[str]) -> dict[str, int]:
        """Return app → the last id of its log. Switches greenlets.

        If a log ends before the position of this node, the database has lost
        entries. The writer then gives new entries ids after the position.
        Raises StorageUnavailable.
        """
        positions = {app: self.apps[app].position for app in apps}
        heads = self._log.entries.heads(apps)
        for app, position in positions.items():
            if heads.get(app, 0) < position:
                # The writer learns the position, so that no id is given again.
                self._log.writer.learn(app, position)
                heads[app] = self._log.writer.check(app)
        return heads

    def run(self) -> None:
        """Compare positions with the ends of the logs once a second.

        Runs in a greenlet of its own, forever. It waits while no app is
        followed.
        """
        while True:
            self.follows_any.wait()
            gevent.sleep(until_beat(QUIET_SECONDS))
            self.check()
            if not self.apps:
                self.follows_any.clear()

    def check(self) -> None:
        """Look for missing entries of the apps that have had no news.

        If the log of an app has grown, or has lost entries, its entries are
        read. Apps without subscriptions are forgotten. May switch greenlets.
        """
        before = monotonic() - QUIET_SECONDS
        quiet = self._quiet_apps(before)
        if not quiet:
            return

        try:
            heads = self._heads_of(quiet)
        except StorageUnavailable:
            return
        except Exception:
            log.exception("the ends of the logs could not be read")
            return

        for app, head in heads.items():
            # The queries switch greenlets, so the app may have had news
            # meanwhile.
            followed = self.apps.get(app)
            if (
                followed is not None
                and head > followed.position
                and _is_quiet(followed, before)
            ):
                self._fill(app, followed, seconds=0.0)

    def _quiet_apps(self, before: float) -> list[str]:
        """Return the apps that have had no news since ``before``.

        Apps without subscriptions are forgotten.
        """
        quiet = [
            app for app, followed in self.apps.items() if _is_quiet(followed, before)
        ]
        for app in quiet:
            self.forget_unwanted(app)
        return [app for app in quiet if app in self.apps]


def _is_quiet(followed: _Followed, before: float) -> bool:
    """Tell whether an app has had no news since ``before``.

    An app whose gap is being filled is not quiet.
    """
    return (
        followed.known is None and not followed.filling and followed.heard_at <= before
    )
