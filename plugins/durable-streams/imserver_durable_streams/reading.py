"""Reads streams: finds the channels and the entries of a stream, and how much
of each entry belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from imserver.plugin.messages import Entry
from imserver.plugin.runtime import Service

from . import protocol
from .protocol import END, Offset, refusal
from .rows import DELETED, GONE, MOST_FORKS, StreamRow, StreamRows

PAGE = 500
"""The number of entries that one read fetches."""
MOST_BYTES = 1 << 20
"""The most bytes of an append. An answer ends with the entry that reaches this
number."""


class Segment(Struct, frozen=True):
    """A part of a channel: the entries with ids above ``low``, up to
    ``high``."""

    channel: str
    low: int
    high: int
    most: int = 0
    """How many bytes (in JSON: values) of the entry ``high`` belong to the
    segment; 0 means all."""

    def until(self, end: Offset) -> Segment | None:
        """The part of the segment before an offset. None if it is empty."""
        entry_id, part = end
        high = entry_id
        if part:
            high += 1  # a part of the next entry is before the offset, too
        if high > self.high:
            return self
        if high <= self.low:
            return None

        if high < self.high or not self.most:
            most = part
        else:
            # Both the segment and the offset end within this entry.
            most = min(self.most, part or self.most)
        return Segment(self.channel, self.low, high, most)


class Chunk(Struct, frozen=True):
    """The bytes of one entry that a reader gets."""

    entry: Entry
    data: bytes
    end: Offset
    """The offset after them."""
    whole: int
    """The length of the entry in bytes (in JSON: values)."""


class Page(Struct, frozen=True):
    """The result of a read."""

    chunks: list[Chunk]
    next: Offset
    """The offset at which the next read begins."""
    is_last: bool
    """Whether the stream has no more entries for now."""


class StreamReader(Service):
    """Reads the streams of a store.

    A stream is a channel whose entries the log keeps. A *fork* is a stream that
    begins with the entries of another one, its parent, without a copy of them.
    Methods may switch greenlets, and raise StorageUnavailable.
    """

    _rows: StreamRows

    def find(self, app: str, name: str) -> StreamRow:
        """Return a stream that can be read. Raises ApiProblem if it does not
        exist.

        A stored channel that was never created as a stream counts as a stream
        of JSON.
        """
        row = self._rows.get(app, name)
        if row is None:
            if self._rows.log.channel_page(app, name, None, 0).last:
                return StreamRow(app=app, name=name)
            raise refusal(404, "there is no such stream")

        state = self._rows.state(row)
        if state == GONE:
            raise refusal(404, "there is no such stream")
        if state == DELETED:
            raise refusal(410, "the stream is gone")
        return row

    def segments(self, row: StreamRow) -> list[Segment]:
        """Return the segments with the entries of a stream, in their order.

        Segments that it shares with the streams from which it was forked come
        first, then its own. Raises ApiProblem if the chain of forks is too
        long.
        """
        segments: list[Segment] = [Segment(row.name, row.begins, row.end)]
        limit = row.empty
        for _ in range(MOST_FORKS):
            if not row.parent:
                return segments
            parent = self._rows.get(row.app, row.parent)
            if parent is None:
                return segments
            shared = Segment(parent.name, parent.begins, parent.end).until(limit)
            if shared is not None:
                segments.insert(0, shared)
            row = parent
            # A fork of a fork sees no more of its grandparent than its parent
            # does.
            limit = min(limit, parent.empty)
        raise refusal(400, f"a chain has at most {MOST_FORKS} streams")

    def tail(self, row: StreamRow) -> Offset:
        """Return the offset at the end of a stream."""
        if row.is_closed:
            # Find the last entry that may belong to it, backwards from its end.
            before = row.closed_at + 1
            page = self._rows.log.channel_page(row.app, row.name, before, 1, True)
        else:
            page = self._rows.log.channel_page(row.app, row.name, None, 0, True)
        return _end_of(row, page)

    def read(self, row: StreamRow, offset: Offset, most: int = MOST_BYTES) -> Page:
        """Read a stream from an offset on, about ``most`` bytes.

        Raises ApiProblem if entries after the offset may have expired. The log
        knows only up to which id entries of the app have expired. They may have
        belonged to other channels.
        """
        as_json = protocol.is_json(row.content_type)
        chunks = list[Chunk]()
        end = offset
        size = 0
        for segment, page in self._pages(row, offset):
            for entry in page.entries:
                is_end = entry.type == END and not entry.body
                if entry.id > segment.high or is_end:
                    continue
                chunk = _chunk_of(entry, offset, segment, as_json)
                if chunk:
                    chunks.append(chunk)
                    end = chunk.end
                    size += len(chunk.data)
                if size >= most:
                    return Page(chunks, next=end, is_last=False)

        # An entry may have been stored since the last page was read. The end is
        # the end at that time.
        if row.is_closed:
            tail = self.tail(row)
        else:
            tail = _end_of(row, page)
        return Page(chunks, next=max(end, tail), is_last=True)

    def _pages(self, row: StreamRow, offset: Offset) -> Iterator[tuple[Segment, Any]]:
        """Yield the pages of the log with the entries after an offset.

        Each comes with its segment. The last page of a segment may also have
        entries behind the segment. Raises ApiProblem as :meth:`read` does.
        """
        for segment in self.segments(row):
            has_more = True
            after = max(offset[0], segment.low)
            while has_more and after < segment.high:
                page = self._rows.log.channel_page(
                    row.app, segment.channel, after, PAGE
                )
                readable_from = min(page.extent.floor, page.last, segment.high)
                # A reader at the beginning gets what is left of the stream.
                if offset[0] >= 0 and after < readable_from:
                    raise refusal(410, "what follows the offset has expired")
                yield segment, page
                has_more = page.more and page.entries[-1].id < segment.high
                if has_more:
                    after = page.entries[-1].id

    def inside(self, source: StreamRow, at: Offset, sub: int) -> Offset:
        """Return the offset that is ``sub`` bytes after another one.

        In a stream of JSON, ``sub`` counts values. Both offsets must be in one
        entry. Raises ApiProblem.
        """
        chunks = self.read(source, at, 1).chunks
        if not chunks:
            raise refusal(400, "Stream-Fork-Sub-Offset: nothing follows the offset")

        chunk = chunks[0]
        id = chunk.entry.id
        before_id, part = at
        inner = sub
        if before_id == id - 1:
            inner += part  # the offset is inside this entry itself
        if inner > chunk.whole:
            raise refusal(
                400,
                "Stream-Fork-Sub-Offset: it is behind the end of what follows the offset",
            )
        # The end of an entry has another form than a position inside of it.
        if chunk.end == (id, 0) and inner == chunk.whole:
            return (id, 0)
        return (id - 1, inner)


def _end_of(row: StreamRow, page: Any) -> Offset:
    """Return the end of a stream at the time when a page was read.

    The page of a closed stream has the last entry that may belong to it. If all
    entries have expired, the end moves on with the log. Therefore a reader at
    the end is never before an expired entry.
    """
    if not row.is_closed:
        last = page.last
        end = page.extent.head
    elif page.entries:
        last = page.entries[0].id
        end = row.closed_at
    else:
        last = 0
        end = row.closed_at
    if last > row.begins:
        tail = (last, 0)
    else:
        tail = row.empty
    # Up to the floor, entries of the log have expired.
    if tail[0] >= page.extent.floor:
        return tail
    return max(tail, (end, 0))


def _chunk_of(
    entry: Entry, offset: Offset, segment: Segment, as_json: bool
) -> Chunk | None:
    """Return the part of an entry that a reader at an offset gets.

    None if the offset or the segment leaves nothing of it.
    """
    parts = protocol.parts_of(entry, as_json)
    whole = len(parts)
    first = 0
    before_id, part = offset
    if entry.id == before_id + 1:
        first = part  # the reader has the beginning of the entry
    last = whole
    if entry.id == segment.high and 0 < segment.most < whole:
        last = segment.most
    if first >= last:
        return None

    wanted = parts[first:last]
    if isinstance(wanted, bytes):
        data = wanted
    else:
        data = b",".join(wanted)
    if last == whole:
        end = (entry.id, 0)
    else:
        end = (entry.id - 1, last)
    return Chunk(entry, data, end, whole)
