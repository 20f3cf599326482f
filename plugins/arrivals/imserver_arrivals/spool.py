"""Sorts records on disk, by time or by another key, so that memory does not
grow with an archive."""

from collections.abc import Callable, Iterator
from heapq import merge
from operator import itemgetter
from os import pread
from struct import Struct as Layout
from tempfile import TemporaryFile
from typing import Any, Final

import msgspec
from msgspec import Struct

from .records import Change, Group, Message, Removal
from .source import write_all

RUN_BYTES: Final = 8 << 20
"""Encoded bytes that are sorted in memory."""
_PIECE_BYTES: Final = 1 << 16
"""Bytes that one read of a run fetches."""
_LENGTH: Final = Layout("<I")
_AFTER_ALL_TIMES: Final = 1 << 62
"""Is added to the time of a removal, so that removals come last."""


def moment(record: Group | Message | Change | Removal) -> int:
    """Return the sort key of a record, which is its time.

    A group has the time of its beginning. Removals come last, because the
    removed message or reaction must be there before.
    """
    if isinstance(record, Group):
        return record.created_ms
    if isinstance(record, Removal):
        return record.time_ms + _AFTER_ALL_TIMES
    return record.time_ms


class Spool:
    """Sorts records on disk.

    It writes sorted runs to a temporary file, and merges them when they are
    read. Records with equal keys keep their order. The file is in ``TMPDIR``,
    and disappears with the process.
    """

    def __init__(
        self,
        key: Callable[[Any], Any] = moment,
        kinds: Any = Message | Change | Removal,
    ) -> None:
        """Open an empty spool.

        ``key``: a record → the value by which records are sorted. ``kinds``:
        the kinds of records, which are structs with tags.
        """
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kinds).decode
        self._key = key
        self._unwritten: list[tuple[Any, bytes]] = []
        """The records of the next run, each with its key."""
        self._size = 0
        """The encoded bytes of these records."""
        self._ends = [0]
        """The index of the byte after each run in the file. A run begins where
        the run before it ends."""

    def add(self, record: Struct) -> None:
        """Add a record. Raises OSError if the disk is full."""
        content = self._encode(record)
        self._unwritten.append((self._key(record), content))
        self._size += len(content)
        if self._size >= RUN_BYTES:
            self._write_run()

    def read(self) -> Iterator[Any]:
        """Yield all records, in the order of their keys. It may be called
        several times."""
        self._write_run()
        bounds = zip(self._ends, self._ends[1:], strict=False)
        return merge(*(self._read_run(*each) for each in bounds), key=self._key)

    def close(self) -> None:
        """Free the space on the disk."""
        self._file.close()

    def _write_run(self) -> None:
        """Sort the unwritten records, and write them as a run.

        Each record has its length in four bytes before it.
        """
        self._unwritten.sort(key=itemgetter(0))
        pieces = []
        for _, record in self._unwritten:
            pieces.append(_LENGTH.pack(len(record)))
            pieces.append(record)
        if pieces:
            content = b"".join(pieces)
            self._file.seek(self._ends[-1])
            write_all(self._file, content)
            self._ends.append(self._ends[-1] + len(content))
        self._unwritten = []
        self._size = 0

    def _read_run(self, at: int, end: int) -> Iterator[Any]:
        """Yield the records of the run between two indexes of bytes.

        The run is read in pieces, so that many runs can be merged.
        """
        file = self._file.fileno()
        while at < end:
            piece = pread(file, min(_PIECE_BYTES, end - at), at)
            # The index of the next record in the piece.
            start = 0
            while True:
                content = start + _LENGTH.size
                if content > len(piece):
                    break
                (length,) = _LENGTH.unpack_from(piece, start)
                next_start = content + length
                if next_start > len(piece):
                    if start:
                        break  # the next piece begins with this record
                    # The first record is longer than a piece.
                    piece = pread(file, next_start, at)
                yield self._decode(memoryview(piece)[content:next_start])
                start = next_start
            at += start
