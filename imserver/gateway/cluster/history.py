"""The last publications of channels, in the memory of this node. Nodes with a
Redis share one history there."""

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
so that its numbers continue."""
PAGE_BYTES: Final = 1 << 19
"""Most bytes of bodies and reactions on a page of publications or stored
messages. A single one may be longer. A page is one frame: this is half of the
default bound of an outbox, so that other events fit beside a page that is on
its way."""
EPOCH_BYTES: Final = 4
"""How many random bytes the name of a channel's life has."""
_PAIRS: Final = b'"\\\b\f\n\r\t'
"""The characters that JSON writes as two characters."""
_PLAIN: Final = bytes(sign for sign in range(0x20, 0x100) if sign not in _PAIRS)
"""The bytes that are the same in JSON."""
_CONTROL_BYTES: Final = 6
"""The bytes that any other control character takes in JSON."""
_ENTRY_BYTES: Final = 400
_STREAM_BYTES: Final = 1200
_MOST_PASSED_OVER: Final = 10
"""How many channels with subscribers are passed over, to find one that can be
forgotten."""
_ERASURE_STEP: Final = 10_000
"""How many publications an erasure reads before it lets others run."""


class Position(Struct, frozen=True):
    """A position in the history of a channel: an ``offset`` in the life
    ``epoch`` of the channel. Offsets begin at 1."""

    epoch: str
    offset: int


class HistoryPage(Struct, frozen=True):
    """Some publications of a channel, and its newest position. ``whole`` (only
    the message log sets it): the page has all publications after the requested
    position."""

    publications: list[Event]
    position: Position
    whole: bool = False

    @staticmethod
    def size_of(text: bytes) -> int:
        """The bytes that a text takes on a page. JSON writes some characters as
        two bytes, and control characters as six."""
        longer = text.translate(None, _PLAIN)
        control = longer.translate(None, _PAIRS)
        # A pair takes one byte more than its character. All that are longer
        # are counted as pairs first.
        return len(text) + len(longer) + (_CONTROL_BYTES - 2) * len(control)


class Retained(Struct, frozen=True):
    """A publication for the history. The channel retains at most ``size``
    publications, for ``seconds`` after the last one. A history in Redis stores
    each ``id`` only once (``""``: no id)."""

    channel: str
    event: Event
    size: int
    seconds: float
    id: str = ""


def count_fitting(sizes: Iterable[int]) -> int:
    """How many bodies of these sizes fit on a page; at least one."""
    fitting = 0
    for sum_of_sizes in accumulate(sizes):
        if fitting and sum_of_sizes > PAGE_BYTES:
            break
        fitting += 1
    return fitting


def numbered(event: Event, epoch: str, offset: int) -> Event:
    """The publication ``event`` with its position in the history."""
    assert event.channel is not None
    return replace(event, channel=replace(event.channel, epoch=epoch, offset=offset))


def erased(event: Event, name: str) -> Event:
    """A publication in place of one by an erased user: it has only the position
    in the history, and the ``name`` of a deleted user."""
    assert event.channel is not None
    channel = replace(event.channel, info=b"", tags=b"")
    return Event(event.kind, name, "", time=event.time, channel=channel)


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
        stop = len(publications)
        if since is not None:
            stop = max(0, min(since.offset - first, stop))
        events = list(islice(publications, stop))[::-1]
    else:
        start = 0
        if since is not None:
            start = max(0, since.offset - first + 1)
        events = list(islice(publications, start, None))

    if limit < 0:
        return events
    return events[:limit]


def _new_epoch() -> str:
    return secrets.token_urlsafe(EPOCH_BYTES)


class _Stream(Struct, eq=False):
    """The history of one channel. ``until``: monotonic time at which its
    publications expire."""

    epoch: str = field(default_factory=_new_epoch)
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
        Never switches greenlets."""
        return [self._append(app, publication) for publication in publications]

    def _append(self, app: str, publication: Retained) -> Event:
        stream = self._open(app, publication.channel)
        stream.offset += 1
        event = numbered(publication.event, stream.epoch, stream.offset)
        stream.publications.append(event)
        self._grow(stream, _size(event))
        while len(stream.publications) > publication.size:
            self._grow(stream, -_size(stream.publications.popleft()))
        stream.until = self._clock() + publication.seconds

        # The channel is now the one with the last publication, which the
        # search for room spares.
        key = (app, publication.channel)
        self._unused.pop(key, None)
        self._streams[key] = stream
        self._streams.move_to_end(key)
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
        """Forget channels until ``size`` bytes have room, but not the channel
        with the newest publication. Up to ten channels with subscribers are
        passed over."""
        most_bytes = self._limit_bytes - size
        passed_over = 0
        while (
            self._unused and self.bytes > most_bytes and passed_over < _MOST_PASSED_OVER
        ):
            key, stream = self._unused.popitem(last=False)
            if self._subscribers(*key):
                self._unused[key] = stream
                passed_over += 1
            else:
                self.bytes -= stream.bytes

        # Now also channels with subscribers, but not more than half of the
        # room for them.
        most_unused = self._limit_bytes // 2 // _STREAM_BYTES
        while self.bytes > most_bytes and len(self._unused) > most_unused:
            _, stream = self._unused.popitem(last=False)
            self.bytes -= stream.bytes

        while self.bytes > most_bytes and len(self._streams) > 1:
            _, stream = self._streams.popitem(last=False)
            self.bytes -= stream.bytes

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

        ``reverse``: the publications before ``since``, the newest first. A
        channel without history gets a position at its beginning. Never
        switches greenlets.
        """
        stream = self._open(app, channel)
        events = select(stream.publications, stream.offset, since, limit, reverse)
        return HistoryPage(events, Position(stream.epoch, stream.offset))

    def positions(self, app: str, channels: Sequence[str]) -> list[Position]:
        """The position of the newest publication of each channel. Never
        switches greenlets."""
        return [self.read(app, channel).position for channel in channels]

    def remove(self, app: str, channel: str) -> bool:
        """Remove all publications of a channel. Its numbers continue. Never
        switches greenlets."""
        stream = self._find(app, channel)
        if stream is not None:
            self._clear(stream)
        return True

    def erase_user(
        self, app: str, user: str, name: str, is_own: Callable[[str], bool]
    ) -> bool:
        """Remove a user from the histories of an app. Their publications are
        :func:`erased`. The user's own channels are removed with their
        positions. Switches greenlets. May be called again."""
        for streams in (self._streams, self._unused):
            read_in_step = 0
            for key in [key for key in streams if key[0] == app]:
                stream = streams.get(key)
                if stream is None:  # forgotten meanwhile
                    continue
                if is_own(key[1]):
                    self.bytes -= streams.pop(key).bytes
                    continue
                self._erase(stream, user, name)
                read_in_step += len(stream.publications) + 1
                if read_in_step >= _ERASURE_STEP:
                    read_in_step = 0
                    serve_others()
        return True

    def _erase(self, stream: _Stream, user: str, name: str) -> None:
        publications = stream.publications
        for index, event in enumerate(publications):
            if event.sender == user:
                publication = erased(event, name)
                publications[index] = publication
                self._grow(stream, _size(publication) - _size(event))

    def forget(self, app: str) -> None:
        """Remove everything of a deleted app. Never switches greenlets."""
        for streams in (self._streams, self._unused):
            for key in [key for key in streams if key[0] == app]:
                self.bytes -= streams.pop(key).bytes


def _size(event: Event) -> int:
    return _ENTRY_BYTES + len(event.text) + len(event.data)
