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
messages. A single publication or message may be longer. A page is one frame.
The limit is half of the default limit of an outbox, so that other events fit
beside a page that is being sent."""
EPOCH_BYTES: Final = 4
"""How many random bytes the name of a channel's life has."""
_PAIRS: Final = b'"\\\b\f\n\r\t'
"""The characters that JSON writes as two characters."""
_PLAIN: Final = bytes(sign for sign in range(0x20, 0x100) if sign not in _PAIRS)
"""The bytes that JSON writes unchanged."""
_CONTROL_BYTES: Final = 6
"""The bytes that any other control character takes in JSON."""
_ENTRY_BYTES: Final = 400
"""The approximate memory of a publication without its text and data."""
_STREAM_BYTES: Final = 1200
"""The approximate memory of a channel without its publications."""
_MOST_PASSED_OVER: Final = 10
"""How many channels with subscribers are passed over, to find one that can be
forgotten."""
_ERASURE_STEP: Final = 10_000
"""How many publications an erasure reads before it lets other greenlets run."""


class Position(Struct, frozen=True):
    """A position in the history of a channel.

    ``epoch`` names a life of the channel, and ``offset`` counts its
    publications from 1.
    """

    epoch: str
    offset: int


class HistoryPage(Struct, frozen=True):
    """Some publications of a channel, and the position of its newest
    publication.

    ``whole`` means that the page has all publications after the requested
    position. Only the message log sets it.
    """

    publications: list[Event]
    position: Position
    whole: bool = False

    @staticmethod
    def size_of(text: bytes) -> int:
        """Return how many bytes a text takes on a page.

        JSON writes some characters as two bytes, and control characters as six.
        """
        escaped = text.translate(None, _PLAIN)
        control = escaped.translate(None, _PAIRS)
        # Each escaped character takes at least two bytes, one more than in the
        # text. A control character takes six bytes, so four more.
        return len(text) + len(escaped) + (_CONTROL_BYTES - 2) * len(control)


class Retained(Struct, frozen=True):
    """A publication to be stored in the history of a channel.

    The channel then retains at most ``size`` publications, for ``seconds``
    after this one. A history in Redis stores each ``id`` only once; ``""``
    means that the publication has no id.
    """

    channel: str
    event: Event
    size: int
    seconds: float
    id: str = ""


def count_fitting(sizes: Iterable[int]) -> int:
    """Return how many bodies of these sizes fit on a page, counted from the
    first.

    The first body always fits.
    """
    fitting = 0
    for sum_of_sizes in accumulate(sizes):
        if fitting and sum_of_sizes > PAGE_BYTES:
            break
        fitting += 1
    return fitting


def numbered(event: Event, epoch: str, offset: int) -> Event:
    """Return a copy of the publication ``event`` with its position in the
    history."""
    assert event.channel is not None
    return replace(event, channel=replace(event.channel, epoch=epoch, offset=offset))


def erased(event: Event, name: str) -> Event:
    """Return the publication that replaces a publication of an erased user.

    It has only the position in the history, and the ``name`` of a deleted user.
    """
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
    """Return the part of the ``publications`` that a reader asks for.

    ``publications`` has all publications in the history, and the last of them
    has the offset ``top``. See :meth:`LocalHistory.read` for the other
    arguments.
    """
    # Offsets have no gaps, so the difference of two offsets is a number of
    # publications.
    first = top - len(publications) + 1  # the offset of the oldest one
    if reverse:
        events = _newest_first(publications, first, since)
    else:
        events = _oldest_first(publications, first, since)

    if limit < 0:  # no limit
        return events
    return events[:limit]


def _newest_first(
    publications: Sequence[Event], first: int, since: Position | None
) -> list[Event]:
    """Return the publications before a position. The newest comes first.

    ``first`` is the offset of the oldest publication. ``since`` None: all.
    """
    stop = len(publications)
    if since is not None:
        stop = max(0, min(since.offset - first, stop))
    return list(islice(publications, stop))[::-1]


def _oldest_first(
    publications: Sequence[Event], first: int, since: Position | None
) -> list[Event]:
    """Return the publications after a position. The oldest comes first.

    ``first`` is the offset of the oldest publication. ``since`` None: all.
    """
    start = 0
    if since is not None:
        start = max(0, since.offset - first + 1)
    return list(islice(publications, start, None))


def _new_epoch() -> str:
    """Return a name for a new life of a channel."""
    return secrets.token_urlsafe(EPOCH_BYTES)


class _Stream(Struct, eq=False):
    """The history of one channel.

    ``offset`` is the offset of its newest publication. ``until`` is the
    monotonic time at which its publications expire. ``bytes`` is its
    approximate memory.
    """

    epoch: str = field(default_factory=_new_epoch)
    offset: int = 0
    publications: deque[Event] = field(default_factory=deque)
    until: float = 0.0
    bytes: int = _STREAM_BYTES


class LocalHistory:
    """The last publications of channels, in the memory of this node.

    Owner of all streams, one for each channel, which take at most
    ``limit_bytes`` together. ``subscribers(app, channel)`` returns the number
    of subscribers. A channel with subscribers is not forgotten by age.

    If the limit is reached, channels are forgotten in this order:

    - channels without publications and subscribers,
    - other channels without publications, while they take more than half of the
      limit,
    - the channel whose last publication is the oldest, and so on.

    If only one channel is left, it loses its oldest publications. A channel
    that was forgotten begins again with another epoch.
    """

    def __init__(
        self,
        limit_bytes: int,
        subscribers: Callable[[str, str], int],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start without channels.

        All publications together take at most ``limit_bytes``.
        ``subscribers(app, channel)`` returns how many subscribers a channel
        has. ``clock`` gives seconds.
        """
        self.bytes = 0
        """Approximate memory of all streams."""
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._subscribers = subscribers
        self._streams: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        """Channels that had a publication, in the order of their last
        publications."""
        self._unused: OrderedDict[tuple[str, str], _Stream] = OrderedDict()
        """Channels without a publication. They are kept because their position
        was requested."""

    def append_each(self, app: str, publications: Sequence[Retained]) -> list[Event]:
        """Store publications, in this order, and return them with their
        offsets.

        Never switches greenlets.
        """
        return [self._append(app, publication) for publication in publications]

    def _append(self, app: str, publication: Retained) -> Event:
        """Store one publication, and return it with its offset.

        Older publications are forgotten if there are too many or if memory is
        short.
        """
        stream = self._open(app, publication.channel)
        stream.offset += 1
        event = numbered(publication.event, stream.epoch, stream.offset)
        stream.publications.append(event)
        self._grow(stream, _size(event))
        while len(stream.publications) > publication.size:
            self._grow(stream, -_size(stream.publications.popleft()))
        stream.until = self._clock() + publication.seconds

        # The channel is moved to the end first, because _make_room() spares the
        # channel with the newest publication.
        key = (app, publication.channel)
        self._unused.pop(key, None)
        self._streams[key] = stream
        self._streams.move_to_end(key)
        self._make_room(0)
        while self.bytes > self._limit_bytes and stream.publications:
            self._grow(stream, -_size(stream.publications.popleft()))
        return event

    def _open(self, app: str, channel: str) -> _Stream:
        """Return the stream of a channel, without expired publications.

        A missing stream is created.
        """
        stream = self._find(app, channel)
        if stream is None:
            # Old channels are forgotten only when a new one needs memory.
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
        """Return the stream of a channel, or None if it has no history."""
        return self._streams.get((app, channel)) or self._unused.get((app, channel))

    def _make_room(self, size: int) -> None:
        """Forget channels until there is room for ``size`` more bytes.

        The channel with the newest publication is never forgotten.
        """
        most_bytes = self._limit_bytes - size
        # Channels without publications and subscribers are forgotten first.
        # Only a few channels with subscribers are passed over to find them.
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

        # Then channels with subscribers are forgotten, too, while the channels
        # without publications take more than half of the room.
        most_unused = self._limit_bytes // 2 // _STREAM_BYTES
        while self.bytes > most_bytes and len(self._unused) > most_unused:
            _, stream = self._unused.popitem(last=False)
            self.bytes -= stream.bytes

        # Then channels with publications are forgotten. The last channel has
        # the newest publication.
        while self.bytes > most_bytes and len(self._streams) > 1:
            _, stream = self._streams.popitem(last=False)
            self.bytes -= stream.bytes

    def _drop_old(self, streams: OrderedDict[tuple[str, str], _Stream]) -> None:
        """Forget channels that had neither publications nor subscribers for a
        day.

        The first of ``streams`` is the oldest.
        """
        while streams:
            key, oldest = next(iter(streams.items()))
            now = self._clock()
            if now < oldest.until + EPOCH_SECONDS:
                return
            if self._subscribers(*key):
                # The channel keeps its position, and counts as used just now.
                self._clear(oldest)
                oldest.until = now
                streams.move_to_end(key)
                continue
            del streams[key]
            self.bytes -= oldest.bytes

    def _clear(self, stream: _Stream) -> None:
        """Remove all publications of a channel. The channel keeps its
        position."""
        self._grow(stream, _STREAM_BYTES - stream.bytes)
        stream.publications.clear()

    def _grow(self, stream: _Stream, size: int) -> None:
        """Add ``size`` to the bytes of a stream. A negative size subtracts
        bytes."""
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
        """Read at most ``limit`` publications of a channel; -1: all of them.

        Returns the publications after ``since``, the oldest first. With
        ``reverse`` returns the publications before ``since``, the newest first.
        If ``since`` is None, the page begins with the oldest publication, or in
        reverse with the newest. The page also has the position of the newest
        publication, even if ``limit`` is 0.

        A channel without history gets a position at its beginning. Never
        switches greenlets.
        """
        stream = self._open(app, channel)
        events = select(stream.publications, stream.offset, since, limit, reverse)
        return HistoryPage(events, Position(stream.epoch, stream.offset))

    def positions(self, app: str, channels: Sequence[str]) -> list[Position]:
        """Return the position of the newest publication of each channel.

        Never switches greenlets.
        """
        return [self.read(app, channel).position for channel in channels]

    def remove(self, app: str, channel: str) -> bool:
        """Remove all publications of a channel. Its numbers continue.

        Never switches greenlets.
        """
        stream = self._find(app, channel)
        if stream is not None:
            self._clear(stream)
        return True

    def erase_user(
        self, app: str, user: str, name: str, is_own: Callable[[str], bool]
    ) -> bool:
        """Remove a user from the histories of an app. Always returns True.

        The publications of the user are :func:`erased`. If ``is_own(channel)``
        says that a channel belongs only to the user, the channel is removed
        with its position. This may be called again if it was interrupted.
        Switches greenlets.
        """
        for streams in (self._streams, self._unused):
            read_in_step = 0
            # The keys are copied, because channels may change while other
            # greenlets are served.
            for key in [key for key in streams if key[0] == app]:
                stream = streams.get(key)
                if stream is None:  # the channel was forgotten meanwhile
                    continue
                _, channel = key
                if is_own(channel):
                    self.bytes -= streams.pop(key).bytes
                    continue
                self._erase(stream, user, name)
                read_in_step += len(stream.publications) + 1
                if read_in_step >= _ERASURE_STEP:
                    read_in_step = 0
                    serve_others()
        return True

    def _erase(self, stream: _Stream, user: str, name: str) -> None:
        """Erase the publications of a user in one channel."""
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
    """The approximate memory of a publication."""
    return _ENTRY_BYTES + len(event.text) + len(event.data)
