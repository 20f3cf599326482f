"""The last publications of channels, in the memory of this node. Nodes with a
Redis share those in it."""

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, islice
from time import monotonic
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.gateway.clock import serve_others
from imserver.gateway.model import Event

EPOCH_SECONDS: Final = 86400.0
"""How long a channel without publications and subscribers keeps its position,
so that its numbers go on."""
PAGE_BYTES: Final = 1 << 19
"""Most bytes of bodies and reactions on a page of publications or stored
messages, unless it is a single one. A page is one frame: this is half of the
default bound of an outbox, so that other events fit beside a page that is on
its way."""
_PAIRS: Final = b'"\\\b\f\n\r\t'
_PLAIN: Final = bytes(each for each in range(0x20, 0x100) if each not in _PAIRS)
_ENTRY_BYTES: Final = 400
_STREAM_BYTES: Final = 1200


class Position(Struct, frozen=True):
    """A place in the history of a channel: the last ``offset`` in the life
    ``epoch``. Offsets begin at 1."""

    epoch: str
    offset: int


class HistoryPage(Struct, frozen=True):
    """Some publications of a channel, and its newest position. ``whole`` (only
    the message log says so): they are all after the position that was asked
    for."""

    publications: list[Event]
    position: Position
    whole: bool = False

    @staticmethod
    def size_of(text: bytes) -> int:
        """The bytes of a text on a page: JSON has two for some characters, six
        for control characters."""
        longer = text.translate(None, _PLAIN)
        return len(text) + len(longer) + 4 * len(longer.translate(None, _PAIRS))


class Retained(Struct, frozen=True):
    """A publication for the history: at most ``size`` of the channel stay, for
    ``seconds`` after the last. A history in Redis stores an ``id`` once
    (``""``: it has none)."""

    channel: str
    event: Event
    size: int
    seconds: float
    id: str = ""


def count_fitting(sizes: Iterable[int]) -> int:
    """How many bodies of these sizes fit on a page; at least one."""
    return sum(
        1
        for index, size in enumerate(accumulate(sizes))
        if not index or size <= PAGE_BYTES
    )


def numbered(event: Event, epoch: str, offset: int) -> Event:
    """The publication ``event`` with its place in the history."""
    assert event.channel is not None
    return replace(event, channel=replace(event.channel, epoch=epoch, offset=offset))


def erased(event: Event, name: str) -> Event:
    """A publication of an erased user: its place in the history, under the
    ``name`` of a deleted user."""
    assert event.channel is not None
    return Event(
        event.kind,
        name,
        "",
        time=event.time,
        channel=replace(event.channel, info=b"", tags=b""),
    )


def select(
    publications: Sequence[Event],
    top: int,
    since: Position | None,
    limit: int,
    reverse: bool,
) -> list[Event]:
    """The part of the ``publications`` that a reader asks for. The last one has
    the offset ``top``."""
    first = top - len(publications) + 1
    if reverse:
        if since is None:
            last = len(publications)
        else:
            last = max(0, min(since.offset - first, len(publications)))
        events = list(islice(publications, last))[::-1]
    else:
        if since is None:
            start = 0
        else:
            start = max(0, since.offset - first + 1)
        events = list(islice(publications, start, None))
    return events if limit < 0 else events[:limit]


class _Stream(Struct, eq=False):
    """The history of one channel. ``until``: monotonic time at which its
    publications expire."""

    epoch: str = field(default_factory=lambda: secrets.token_urlsafe(4))
    offset: int = 0
    publications: deque[Event] = field(default_factory=deque)
    until: float = 0.0
    bytes: int = _STREAM_BYTES


class LocalHistory:
    """The history of channels. Owner of all streams: together at most
    ``limit_bytes``.

    If the limit is reached, channels without publications and subscribers are
    forgotten first. Then other channels without publications are forgotten,
    while they take more than half of the limit. Then the channel that has
    waited longest for a publication loses its history. The next life of these
    channels has another epoch. The last channel loses its oldest publications.
    ``subscribers``: the number of subscribers of a channel of an app. A channel
    that has some is not forgotten by age.
    """

    def __init__(
        self,
        limit_bytes: int,
        subscribers: Callable[[str, str], int],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.bytes = 0
        """Approximate memory of all streams."""
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._subscribers = subscribers
        self._streams: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        """Channels that had a publication, in the order of the last one."""
        self._unused: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        """Channels without a publication, whose position was requested."""

    def append_each(self, app: str, publications: Sequence[Retained]) -> list[Event]:
        """Store publications, in this order. Returns them with their offsets.
        Never switches."""
        return [self._append(app, each) for each in publications]

    def _append(self, app: str, what: Retained) -> Event:
        stream = self._open(app, what.channel)
        stream.offset += 1
        event = numbered(what.event, stream.epoch, stream.offset)
        stream.publications.append(event)
        self._grow(stream, _size(event))
        while len(stream.publications) > what.size:
            self._grow(stream, -_size(stream.publications.popleft()))
        stream.until = self._clock() + what.seconds
        self._unused.pop((app, what.channel), None)
        self._streams[app, what.channel] = stream
        self._streams.move_to_end((app, what.channel))
        self._make_room(0)
        while self.bytes > self._limit_bytes and stream.publications:
            self._grow(stream, -_size(stream.publications.popleft()))
        return event

    def _open(self, app: str, channel: str) -> _Stream:
        stream = self._find(app, channel)
        if stream is None:
            self._drop_old(self._streams)
            self._drop_old(self._unused)
            self._make_room(_STREAM_BYTES)
            stream = _Stream()
            self._unused[app, channel] = stream
            stream.until = self._clock()
            self.bytes += stream.bytes
        elif stream.publications and self._clock() >= stream.until:
            self._clear(stream)
        return stream

    def _find(self, app: str, channel: str) -> _Stream | None:
        return self._streams.get((app, channel)) or self._unused.get((app, channel))

    def _make_room(self, size: int) -> None:
        """Forget channels until ``size`` bytes have room, not the one with the
        last publication. Ten with subscribers are passed over."""
        looked_at = 0
        while self._unused and self.bytes + size > self._limit_bytes and looked_at < 10:
            key, stream = self._unused.popitem(last=False)
            if self._subscribers(*key):
                self._unused[key] = stream
                looked_at += 1
            else:
                self.bytes -= stream.bytes
        most = self._limit_bytes // 2 // _STREAM_BYTES
        while self.bytes + size > self._limit_bytes and len(self._unused) > most:
            self.bytes -= self._unused.popitem(last=False)[1].bytes
        while self.bytes + size > self._limit_bytes and len(self._streams) > 1:
            self.bytes -= self._streams.popitem(last=False)[1].bytes

    def _drop_old(self, streams: OrderedDict[tuple[str, str], _Stream]) -> None:
        """Forget channels that nobody has used for long."""
        while streams:
            key, oldest = next(iter(streams.items()))
            now = self._clock()
            if now < oldest.until + EPOCH_SECONDS:
                return
            if self._subscribers(*key):
                self._clear(oldest)
                oldest.until = now
                streams.move_to_end(key)
                continue
            del streams[key]
            self.bytes -= oldest.bytes

    def _clear(self, stream: _Stream) -> None:
        self._grow(stream, _STREAM_BYTES - stream.bytes)
        stream.publications.clear()

    def _grow(self, stream: _Stream, size: int) -> None:
        stream.bytes += size
        self.bytes += size

    def read(
        self,
        app: str,
        channel: str,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> HistoryPage:
        """The publications after ``since`` (None: from the oldest), at most
        ``limit`` (-1: all).

        ``reverse``: the newest first, and those before ``since``. A channel
        without history gets a position at its beginning. Never switches.
        """
        stream = self._open(app, channel)
        events = select(stream.publications, stream.offset, since, limit, reverse)
        return HistoryPage(events, Position(stream.epoch, stream.offset))

    def positions(self, app: str, channels: Sequence[str]) -> list[Position]:
        """The position of the newest publication of each channel. Never
        switches."""
        return [self.read(app, channel).position for channel in channels]

    def remove(self, app: str, channel: str) -> bool:
        """Remove all publications of a channel. Its numbers go on. Never
        switches."""
        stream = self._find(app, channel)
        if stream is not None:
            self._clear(stream)
        return True

    def erase_user(
        self, app: str, user: str, name: str, is_own: Callable[[str], bool]
    ) -> bool:
        """Take a user out of the histories of an app: their publications are
        :func:`erased`, and the channels that are their own go with their
        positions. Switches. May be called again."""
        for streams in (self._streams, self._unused):
            looked_at = 0
            for key in [key for key in streams if key[0] == app]:
                stream = streams.get(key)
                if stream is None:  # forgotten meanwhile
                    continue
                if is_own(key[1]):
                    self.bytes -= streams.pop(key).bytes
                    continue
                publications = stream.publications
                for index, event in enumerate(publications):
                    if event.sender == user:
                        publications[index] = erased(event, name)
                        self._grow(stream, _size(publications[index]) - _size(event))
                looked_at += len(publications) + 1
                if looked_at >= 10_000:
                    looked_at = 0
                    serve_others()
        return True

    def forget(self, app: str) -> None:
        """Remove everything of a deleted app. Never switches."""
        for streams in (self._streams, self._unused):
            for key in [key for key in streams if key[0] == app]:
                self.bytes -= streams.pop(key).bytes


def _size(event: Event) -> int:
    return _ENTRY_BYTES + len(event.text) + len(event.data)
