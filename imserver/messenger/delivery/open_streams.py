"""Open streamed messages on this node, with their texts so far."""

import logging
from collections.abc import Callable, Collection, Mapping
from time import monotonic, time
from typing import Final

import gevent
from gevent.event import Event as Flag
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.clock import is_long_turn, serve_others
from imserver.gateway.model import ChannelPart, Event, StreamPart
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.outbox import Backlog
from imserver.plugin.runtime import Service

_PAUSE_SECONDS: Final = 0.05
"""Pause before outboxes that were not empty are checked again."""
_FEW_FRAMES: Final = 32
"""An outbox with more frames never counts as small, so that its sizes need not
be added up."""
_MOST_ENDED: Final = 10_000
"""The most ended streams that are remembered. If there are more, the oldest are
forgotten."""


def _now_ms() -> int:
    """Return the current time in Unix milliseconds."""
    return int(time() * 1000)


class OpenStream(Struct):
    """A streamed message whose sender has not finished it.

    Receivers get the message piece by piece while it grows. For example, a
    language model writes it.
    """

    id: str
    app: str
    channel: str
    """The channel. For a message in a conversation, this is ``user:`` and the
    receiver, or ``group:`` and the number of the group."""
    head: Event
    """An event with the sender, type, time and tags of the message."""
    text: bytearray
    """The text so far. It is stored in UTF-8, because a string of Python may
    need four bytes for each letter."""
    piece: int
    """The number of the last event with text."""
    heard: float
    """When the last piece or sign of life came (time of the monotonic clock). A
    *sign of life* is a piece without text."""
    owned: bool = False
    """Whether this node publishes the message. Otherwise the text is a copy for
    late subscribers."""
    stopped: str = ""
    """The reader who has stopped the message, or ``""`` if nobody has."""
    stoppers: frozenset[str] | None = None
    """The readers who may stop the message, if this node owns it. None means
    that all readers may stop it."""
    begun: int = field(default_factory=_now_ms)
    """When this node first knew the message, in Unix milliseconds."""

    def event(
        self,
        text: str,
        *,
        whole: bool = False,
        done: bool = False,
        incomplete: bool = False,
    ) -> Event:
        """Make an event of the message, with its current piece number.

        ``text`` is a piece, or the text so far if ``whole``. ``done``: whether
        the event ends the message. ``incomplete``: whether the publisher could
        not finish the message.
        """
        part = self.head.channel
        assert part is not None
        stream = StreamPart(self.id, self.piece, whole, done, incomplete, self.stopped)
        return replace(self.head, text=text, channel=replace(part, stream=stream))

    def so_far(self) -> Event:
        """Return the whole message so far, for receivers that come late."""
        return self.event(self.text.decode(), whole=True)

    def end(self, incomplete: bool) -> Event:
        """Return the end of the message: an ordinary message with the whole
        text.

        If the text is empty, the end is a last piece. ``incomplete``: whether
        the publisher could not finish the message.
        """
        event = self.event(
            self.text.decode(), whole=True, done=True, incomplete=incomplete
        )
        if event.text:
            return replace(event, kind="msg", id=self.id)
        return event


def parts_of(event: Event) -> tuple[ChannelPart, StreamPart]:
    """Return the parts of an event of a streamed message.

    The first part is about the channel of the event, the second part about the
    message.
    """
    part = event.channel
    assert part is not None
    assert part.stream is not None
    return part, part.stream


SendSoFar = Callable[[str, list[Connection]], object]
"""A function that sends the stream with an id to connections. It sends nothing
if the stream is no longer open, and leaves out connections that no longer
receive it. It must not switch greenlets."""
SOON_BYTES: Final = 65_536
"""A text so far is sent at once if the outbox then has at most this number of
bytes."""


class LateReceivers(Service):
    """Sends the texts so far of open streams to connections that have come
    late.

    Texts are sent at once while the outbox of a connection is small. Later, one
    text is sent each time the outbox is empty. So even many streams never fill
    an outbox. Clients ignore the pieces of a stream that come before its text
    so far.
    """

    _waiting: dict[Connection, dict[str, SendSoFar]] = field(default_factory=dict)
    _running: bool = False

    def add(
        self, connections: Collection[Connection], stream: OpenStream, send: SendSoFar
    ) -> None:
        """Send a stream to these connections, now or later.

        ``send`` sends the text so far. Never switches greenlets.
        """
        ready = []
        size = len(stream.text)
        for connection in connections:
            # A connection that already waits gets one stream after another.
            if connection not in self._waiting and _has_space(connection.outbox, size):
                ready.append(connection)
            else:
                self._waiting.setdefault(connection, {})[stream.id] = send
        if ready:
            send(stream.id, ready)
        if self._waiting and not self._running:
            self._running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        """Send texts until no connection waits for one. Runs in a greenlet of
        its own."""
        was_sent = True
        while self._waiting:
            if was_sent:
                serve_others()  # the loop writes the outboxes
            else:
                gevent.sleep(_PAUSE_SECONDS)
            was_sent = self._send_to_ready()
        self._running = False

    def _send_to_ready(self) -> bool:
        """Send one stream to each waiting connection with an empty outbox.

        Returns False if no outbox is empty. Connections that wait for the same
        stream share its encoding. May switch greenlets.
        """
        ready = self._take_ready()
        for id, (send, connections) in ready.items():
            # One stream that cannot be sent must not stop the others.
            try:
                send(id, connections)
            except Exception:
                logging.getLogger(__name__).exception(
                    "an open stream could not be sent"
                )
            if is_long_turn():
                serve_others()
        return bool(ready)

    def _take_ready(self) -> dict[str, tuple[SendSoFar, list[Connection]]]:
        """Take one stream of each waiting connection with an empty outbox.

        Returns stream → how to send it, and the connections that get it. Closed
        connections are forgotten.
        """
        ready: dict[str, tuple[SendSoFar, list[Connection]]] = {}
        for connection, streams in tuple(self._waiting.items()):
            if not connection.is_open:
                del self._waiting[connection]
                continue
            if connection.outbox is not None:
                continue
            # This stream has waited longest.
            id = next(iter(streams))
            send = streams.pop(id)
            _, connections = ready.setdefault(id, (send, []))
            connections.append(connection)
            if not streams:
                del self._waiting[connection]
        return ready


def _has_space(outbox: list[bytes] | Backlog | None, size: int) -> bool:
    """Tell whether an outbox is still small with ``size`` more bytes.

    None means an empty outbox.
    """
    if outbox is None:
        return size <= SOON_BYTES
    if type(outbox) is not list or len(outbox) > _FEW_FRAMES:
        return False
    return sum(map(len, outbox)) + size <= SOON_BYTES


_NONE: Final[Mapping[str, OpenStream]] = {}


class OpenStreams(Service):
    """The open streamed messages that this node knows.

    These are the streams of this node, and copies of streams of other nodes
    whose channels have subscribers here. A copy lets a late subscriber get the
    text so far. Never switches greenlets.
    """

    late: LateReceivers = field(default_factory=LateReceivers)
    gaps: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Id of a stream with missing pieces → its app and channel."""
    news: Flag = field(default_factory=Flag)
    """Set when there is a gap, or the first stream."""
    _over: dict[str, None] = field(default_factory=dict)
    """Streams that ended lately, the oldest first. Late events of these streams
    are ignored."""
    by_channel: dict[tuple[str, str], dict[str, OpenStream]] = field(
        default_factory=dict
    )
    """(app, channel) → its open streams by their ids. Read-only outside this
    class."""
    _senders: dict[tuple[str, str], dict[str, OpenStream]] = field(default_factory=dict)
    """(app, sender) → its open streams by their ids."""

    def all(self) -> list[OpenStream]:
        """Return all open streams on this node."""
        all_streams: list[OpenStream] = []
        for streams in self.by_channel.values():
            all_streams += streams.values()
        return all_streams

    def of(self, app: str, channel: str) -> Mapping[str, OpenStream]:
        """Return the open streams of a channel by their ids, the oldest
        first."""
        return self.by_channel.get((app, channel), _NONE)

    def of_sender(self, app: str, sender: str) -> Mapping[str, OpenStream]:
        """Return the open streams of a sender by their ids, the oldest
        first."""
        return self._senders.get((app, sender), _NONE)

    def add(self, stream: OpenStream) -> None:
        """Add a stream, or replace a copy of it."""
        # The greenlet that ends silent streams waits for the first stream.
        if not self.by_channel:
            self.news.set()
        of_sender = self._senders.setdefault((stream.app, stream.head.sender), {})
        of_sender[stream.id] = stream
        of_channel = self.by_channel.setdefault((stream.app, stream.channel), {})
        of_channel[stream.id] = stream

    def remove(self, app: str, channel: str, id: str) -> None:
        """Forget a stream, if this node knows it."""
        of_channel = self.by_channel.get((app, channel))
        if of_channel is None:
            return
        stream = of_channel.pop(id, None)
        if stream is None:
            return
        if not of_channel:
            del self.by_channel[app, channel]
        # The stream is in two tables: by channel, and by sender.
        sender = (app, stream.head.sender)
        of_sender = self._senders[sender]
        del of_sender[id]
        if not of_sender:
            del self._senders[sender]

    def drop_copies(self, app: str, channel: str) -> None:
        """Forget the streams of a channel that other nodes own."""
        for stream in tuple(self.of(app, channel).values()):
            if not stream.owned:
                self.remove(app, channel, stream.id)

    def accept(self, app: str, event: Event) -> bool:
        """Process an event of a stream, and tell whether subscribers receive
        it.

        The event extends the text of a copy. If pieces are missing, the stream
        is noted in :attr:`gaps`. Subscribers receive no repeated pieces, no
        signs of life (pieces without text), and no pieces after a gap.
        """
        part, stream = parts_of(event)
        known = self.of(app, part.name).get(stream.id)
        if stream.done:
            # Remember the end, because pieces may come late.
            self.remove(app, part.name, stream.id)
            self._over[stream.id] = None
            if len(self._over) > _MOST_ENDED:
                del self._over[next(iter(self._over))]
            return True
        if stream.id in self._over:
            return False
        # The node of the stream has changed it already.
        if known is not None and known.owned:
            return stream.whole or event.text != ""

        if stream.whole:
            if known is not None and known.piece >= stream.piece:
                return False
            # A text so far begins the copy, or fills its gap.
            head = replace(event, text="", channel=replace(part, stream=None))
            text = bytearray(event.text.encode())
            copy = OpenStream(
                stream.id, app, part.name, head, text, stream.piece, monotonic()
            )
            self.add(copy)
            return True

        # A sign of life has the number of the last piece. A piece has the next
        # number.
        if known is None or stream.piece > known.piece + bool(event.text):
            self.gaps[stream.id] = app, part.name
            self.news.set()
            return False
        known.heard = monotonic()
        if stream.piece <= known.piece:
            return False
        known.text += event.text.encode()
        known.piece = stream.piece
        return True
