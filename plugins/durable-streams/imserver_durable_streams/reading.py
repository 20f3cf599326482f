"""Reads streams: finds the channels and the entries of a stream, and how much
of each entry belongs to it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from imserver.plugin.messages import Entry
from imserver.plugin.runtime import Service

from . import protocol
from .protocol import END, Offset, bad
from .rows import DELETED, GONE, MOST_FORKS, StreamRow, StreamRows

PAGE = 500
"""The number of entries that one read fetches."""
MOST_BYTES = 1 << 20
"""The most bytes of an append. An answer ends with the entry that reaches this
number."""


class Segment(Struct, frozen=True):
    """The entries of a channel with ids above ``low``, up to ``high``.
    ``most``: how many bytes (in JSON: values) of the last entry belong to the
    segment; 0 means all."""

    channel: str
    low: int
    high: int
    most: int = 0

    def until(self, end: Offset) -> Segment | None:
        """The part of the segment before an offset. None if it is empty."""
        high = end[0]
        if end[1]:
            high += 1
        if high > self.high:
            return self
        if high <= self.low:
            return None

        if high < self.high or not self.most:
            most = end[1]
        else:
            most = min(self.most, end[1] or self.most)
        return Segment(self.channel, self.low, high, most)


class Chunk(Struct, frozen=True):
    """The bytes of one entry that a reader gets. ``end``: the offset after
    them. ``whole``: the length of the entry in bytes (in JSON: values)."""

    entry: Entry
    data: bytes
    end: Offset
    whole: int


class Page(Struct, frozen=True):
    """The result of a read. ``next``: the offset at which the next read begins.
    ``is_last``: the stream has no more entries for now."""

    chunks: list[Chunk]
    next: Offset
    is_last: bool


class StreamReader(Service):
    """Reads the streams of a store. Methods may switch greenlets, and raise
    StorageUnavailable."""

    _rows: StreamRows

    def find(self, app: str, name: str) -> StreamRow:
        """A stream that can be read. A stored channel that was never created as
        a stream counts as a stream of JSON. Raises ApiProblem."""
        row = self._rows.get(app, name)
        if row is None:
            if self._rows.log.channel_page(app, name, None, 0).last:
                return StreamRow(app=app, name=name)
            raise bad(404, "there is no such stream")

        state = self._rows.state(row)
        if state == GONE:
            raise bad(404, "there is no such stream")
        if state == DELETED:
            raise bad(410, "the stream is gone")
        return row

    def segments(self, row: StreamRow) -> list[Segment]:
        """The segments with the entries of a stream, in their order: segments
        that it shares with the streams from which it was forked, then its own.
        Raises ApiProblem."""
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
            limit = min(limit, parent.empty)
        raise bad(400, f"a chain has at most {MOST_FORKS} streams")

    def tail(self, row: StreamRow) -> Offset:
        """The offset at the end of a stream."""
        if row.is_closed:
            # Find the last entry that may belong to it, backwards from its end.
            before = row.closed_at + 1
            page = self._rows.log.channel_page(row.app, row.name, before, 1, True)
        else:
            page = self._rows.log.channel_page(row.app, row.name, None, 0, True)
        return _end_of(row, page)

    def read(self, row: StreamRow, offset: Offset, most: int = MOST_BYTES) -> Page:
        """Read a stream from an offset, about ``most`` bytes.

        Raises ApiProblem if entries after the offset may have expired. The log
        knows only the id up to which entries of the app have expired; they may
        have belonged to other channels.
        """
        as_json = protocol.is_json(row.content_type)
        chunks = list[Chunk]()
        end = offset
        size = 0
        for segment in self.segments(row):
            more = True
            after = max(offset[0], segment.low)
            while more and after < segment.high:
                page = self._rows.log.channel_page(
                    row.app, segment.channel, after, PAGE
                )
                readable_from = min(page.extent.floor, page.last, segment.high)
                if offset[0] >= 0 and after < readable_from:
                    raise bad(410, "what follows the offset has expired")
                more = page.more and page.entries[-1].id < segment.high
                for entry in page.entries:
                    after = entry.id
                    is_end = entry.type == END and not entry.body
                    if entry.id > segment.high or is_end:
                        continue
                    chunk = _chunk_of(entry, offset, segment, as_json)
                    if chunk:
                        chunks.append(chunk)
                        end = chunk.end
                        size += len(chunk.data)
                    if size >= most:
                        return Page(chunks, end, False)

        # An entry may have been stored since, so the page decides about the
        # end.
        if row.is_closed:
            tail = self.tail(row)
        else:
            tail = _end_of(row, page)
        return Page(chunks, max(end, tail), True)

    def inside(self, source: StreamRow, at: Offset, sub: int) -> Offset:
        """The offset that is ``sub`` bytes (in JSON: values) after another one.
        Both must be in one entry. Raises ApiProblem."""
        chunks = self.read(source, at, 1).chunks
        if not chunks:
            raise bad(400, "Stream-Fork-Sub-Offset: nothing follows the offset")

        chunk = chunks[0]
        id = chunk.entry.id
        inner = sub
        if at[0] == id - 1:
            inner += at[1]
        if inner > chunk.whole:
            raise bad(
                400,
                "Stream-Fork-Sub-Offset: it is behind the end of what follows the offset",
            )
        if chunk.end == (id, 0) and inner == chunk.whole:
            return (id, 0)
        return (id - 1, inner)


def _end_of(row: StreamRow, page: Any) -> Offset:
    """The end of a stream when a page was read. The page of a closed stream has
    its last entry.

    If all entries have expired, the end moves on with the log. Therefore a
    reader at the end is never before an expired entry.
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
    if tail[0] >= page.extent.floor:
        return tail
    return max(tail, (end, 0))


def _chunk_of(
    entry: Entry, offset: Offset, segment: Segment, as_json: bool
) -> Chunk | None:
    """The part of an entry that a reader at an offset gets. None if it gets
    nothing."""
    parts = protocol.parts_of(entry, as_json)
    whole = len(parts)
    first = 0
    if entry.id == offset[0] + 1:
        first = offset[1]
    last = whole
    if entry.id == segment.high and 0 < segment.most < whole:
        last = segment.most
    if first >= last:
        return None

    rest = parts[first:last]
    if isinstance(rest, bytes):
        data = rest
    else:
        data = b",".join(rest)
    if last == whole:
        end = (entry.id, 0)
    else:
        end = (entry.id - 1, last)
    return Chunk(entry, data, end, whole)
