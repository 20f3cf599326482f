"""The texts so far of open streamed messages, on this node."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Final

from gevent.event import Event as Signal
from msgspec import Struct
from msgspec.structs import replace

from imserver.model import ChannelPart, Event, StreamPart


class OpenStream(Struct):
    """A streamed message that is open. ``head``: an event with its sender, type, time and tags.

    ``pieces``: its text so far, up to the piece number ``piece``. ``heard``: monotonic time of the last piece
    or sign of life. ``owned``: this node publishes it; otherwise the text is a copy for late subscribers.
    """

    id: str
    app: str
    channel: str
    head: Event
    pieces: list[str]
    piece: int
    heard: float
    owned: bool = False

    def event(self, text: str, *, whole: bool = False, done: bool = False, incomplete: bool = False) -> Event:
        """An event of the message, with its current piece number."""
        part = self.head.channel
        assert part is not None
        stream = StreamPart(self.id, self.piece, whole, done, incomplete)
        return replace(self.head, text=text, channel=replace(part, stream=stream))

    def so_far(self) -> Event:
        """The whole message so far."""
        return self.event("".join(self.pieces), whole=True)

    def end(self, incomplete: bool) -> Event:
        """The end: an ordinary message with the whole text. A message without text is no message."""
        event = self.event("".join(self.pieces), whole=True, done=True, incomplete=incomplete)
        return replace(event, kind="msg", id=self.id) if event.text else event


MOST_OVER: Final = 10_000
_NONE: Final[Mapping[str, OpenStream]] = {}


class OpenStreams:
    """Open streamed messages: those that this node owns, and copies of others whose channel has subscribers
    here. Owner of the table and the copies. Never switches.
    """

    def __init__(self) -> None:
        self.gaps: dict[str, tuple[str, str]] = {}
        """Streams of which this node lacks pieces, with their app and channel."""
        self.news = Signal()
        """Set when there is a gap, or the first stream."""
        self._over: dict[str, None] = {}
        """Streams that ended lately, the oldest first. What comes of them late is ignored."""
        self.by_channel: dict[tuple[str, str], dict[str, OpenStream]] = {}
        """(app, channel) → its open streams by their ids. Read-only for others."""
        self._senders: dict[tuple[str, str], dict[str, OpenStream]] = {}

    def all(self) -> list[OpenStream]:
        """All of them."""
        return [stream for streams in self.by_channel.values() for stream in streams.values()]

    def of(self, app: str, channel: str) -> Mapping[str, OpenStream]:
        """The open streams of a channel by their ids, the oldest first."""
        return self.by_channel.get((app, channel), _NONE)

    def of_sender(self, app: str, sender: str) -> Mapping[str, OpenStream]:
        """The open streams of a sender by their ids, the oldest first."""
        return self._senders.get((app, sender), _NONE)

    def add(self, stream: OpenStream) -> None:
        """Add a stream, or replace a copy of it."""
        if not self.by_channel:
            self.news.set()
        self._senders.setdefault((stream.app, stream.head.sender), {})[stream.id] = stream
        self.by_channel.setdefault((stream.app, stream.channel), {})[stream.id] = stream

    def remove(self, app: str, channel: str, id: str) -> None:
        """Forget a stream, if it is here."""
        streams = self.by_channel.get((app, channel))
        stream = None if streams is None else streams.pop(id, None)
        if streams is None or stream is None:
            return
        if not streams:
            del self.by_channel[app, channel]
        sender = app, stream.head.sender
        own = self._senders[sender]
        del own[id]
        if not own:
            del self._senders[sender]

    def drop_copies(self, app: str, channel: str) -> None:
        """Forget the streams of a channel that other nodes own."""
        for stream in tuple(self.of(app, channel).values()):
            if not stream.owned:
                self.remove(app, channel, stream.id)

    def accept(self, app: str, part: ChannelPart, stream: StreamPart, event: Event) -> bool:
        """Take an event of a stream, and return whether subscribers receive it.

        They do not receive repeated pieces, signs of life (pieces without text), and pieces behind a gap.
        """
        known = self.of(app, part.name).get(stream.id)
        if stream.done:
            self.remove(app, part.name, stream.id)
            self._over[stream.id] = None
            if len(self._over) > MOST_OVER:
                del self._over[next(iter(self._over))]
            return True
        if stream.id in self._over:
            return False
        if known is not None and known.owned:
            return stream.whole or event.text != ""
        if stream.whole:
            if known is None or known.piece < stream.piece:
                head = replace(event, text="", channel=replace(part, stream=None))
                copy = OpenStream(stream.id, app, part.name, head, [event.text], stream.piece, monotonic())
                self.add(copy)
                return True
            return False
        if known is None or stream.piece > known.piece + 1:
            self.gaps[stream.id] = app, part.name
            self.news.set()
            return False
        known.heard = monotonic()
        if stream.piece <= known.piece:
            return False
        known.pieces.append(event.text)
        known.piece = stream.piece
        return True
