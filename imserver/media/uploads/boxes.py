"""Places and devices in the metadata of ISO media files: HEIC, HEIF, AVIF, MP4,
QuickTime, 3GPP.

Such a file is a tree of boxes (ISO/IEC 14496-12). Metadata is overwritten with
zeros where it stands, so that nothing moves and no picture is decoded: Pillow
does not read HEIC, and to decode it takes libraries of 27 MB.

========= ================================================================================================
pictures  the items of types ``Exif`` and ``mime`` (XMP) of the box ``meta`` (ISO/IEC 23008-12 annex A)
videos    in ``moov`` and its tracks: ``©xyz`` and ``loci`` (places), ``©mak`` and ``©mod`` (devices), and the
          box ``meta`` of QuickTime's keys
both      boxes with XMP
========= ================================================================================================

Titles and pictures of music stay. A file whose boxes are broken stays as it is
from there on. What ``mdat`` has beside the pixels, such as a track with places,
stays.
"""

from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from struct import error as TooShort
from struct import unpack_from
from typing import Final, NamedTuple

MAX_BOXES: Final = 10_000
"""Limit of the boxes and items that are looked at. Cameras write a few
hundred."""
_PIECE_BYTES: Final = 65536
_XMP: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


class _Box(NamedTuple):
    kind: bytes
    start: int
    """Where its content begins."""
    end: int


class _Broken(Exception):
    """A box ends outside the one that it is in, or there are too many."""


def clear_metadata(path: Path) -> bool:
    """Overwrite the metadata of a file. Returns whether it had any. Runs in a
    thread."""
    with path.open("r+b") as file, mmap(file.fileno(), 0) as data:
        if data[4:8] != b"ftyp":
            return False
        cleaner = _Cleaner(data)
        with suppress(_Broken, TooShort, IndexError, RecursionError):
            cleaner.clean(0, len(data))
        return cleaner.has_cleared


class _Cleaner:
    """Clears one file. Owner of what is left to do at most, in boxes and in
    bytes."""

    def __init__(self, data: mmap) -> None:
        self._data = data
        self._left = MAX_BOXES
        self._bytes_left = len(data)
        self.has_cleared = False

    def clean(self, start: int, end: int) -> None:
        """Clear the metadata among the boxes from ``start`` to ``end``."""
        data = self._data
        for box in self._boxes(start, end):
            if box.kind in {b"moov", b"trak", b"udta"}:
                self.clean(box.start, box.end)
            elif box.kind in (b"\xa9xyz", b"\xa9mak", b"\xa9mod", b"loci") or (
                box.kind == b"uuid"
                and data[box.start : min(box.start + 16, box.end)] == _XMP
            ):
                self._zero(box.start, box.end)
            elif box.kind == b"meta":
                self._clean_meta(box)

    def _clean_meta(self, meta: _Box) -> None:
        # The box of QuickTime has no version in front of its children.
        if self._data[meta.start + 4 : meta.start + 8] == b"hdlr":
            first = meta.start
        else:
            first = meta.start + 4
        boxes = {box.kind: box for box in self._boxes(first, meta.end)}
        handler = boxes.get(b"hdlr")
        if handler is None:
            kind = b""
        else:
            kind = self._data[handler.start + 8 : handler.start + 12]
        if kind == b"mdta" and b"ilst" in boxes:
            self._zero(boxes[b"ilst"].start, boxes[b"ilst"].end)
        elif kind == b"pict" and b"iinf" in boxes and b"iloc" in boxes:
            items = set(self._metadata_items(boxes[b"iinf"]))
            for item, start, end in self._extents(boxes[b"iloc"], boxes.get(b"idat")):
                if item in items:
                    self._zero(start, end)

    def _metadata_items(self, iinf: _Box) -> Iterator[int]:
        first = iinf.start + (6 if self._data[iinf.start] == 0 else 8)
        for box in self._boxes(first, iinf.end):
            version = self._data[box.start]
            if box.kind == b"infe" and version >= 2:
                form = ">HH4s" if version == 2 else ">IH4s"
                item, _, kind = unpack_from(form, self._data, box.start + 4)
                if kind in {b"Exif", b"mime"}:
                    yield item

    def _extents(self, iloc: _Box, idat: _Box | None) -> Iterator[tuple[int, int, int]]:
        """Item, start and end of each piece of an item."""
        data = self._data
        at = iloc.start + 6
        version = data[iloc.start]
        sizes = data[iloc.start + 4] >> 4, data[iloc.start + 4] & 15
        base_size = data[iloc.start + 5] >> 4
        if version:
            index_size = data[iloc.start + 5] & 15
        else:
            index_size = 0

        def number(size: int) -> int:
            nonlocal at
            if at + size > iloc.end:
                raise _Broken
            at += size
            return int.from_bytes(data[at - size : at], "big")

        wide = 2 if version < 2 else 4
        for _ in range(number(wide)):
            self._count()  # an item without pieces, too
            item = number(wide)
            in_idat = bool(version) and number(2) & 15 == 1
            number(2)
            base = number(base_size) + (
                idat.start if in_idat and idat is not None else 0
            )
            if in_idat and idat is not None:
                limit = idat.end
            else:
                limit = len(data)
            for _ in range(number(2)):
                self._count()
                number(index_size)
                start = base + number(sizes[0])
                length = number(sizes[1])
                yield item, min(start, limit), min(start + length, limit)

    def _boxes(self, at: int, end: int) -> Iterator[_Box]:
        while at + 8 <= end:
            self._count()
            size, kind = unpack_from(">I4s", self._data, at)
            start = at + 8
            if size == 1:
                (size,) = unpack_from(">Q", self._data, start)
                start += 8
            elif size == 0:
                size = end - at
            if not start <= at + size <= end:
                raise _Broken
            yield _Box(kind, start, at + size)
            at += size

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Broken

    def _zero(self, start: int, end: int) -> None:
        data = self._data
        self._bytes_left -= max(end - start, 0)
        if self._bytes_left < 0:  # pieces that overlap
            raise _Broken
        for at in range(start, end, _PIECE_BYTES):
            most = min(end - at, _PIECE_BYTES)
            if data[at : at + most] != bytes(most):
                self.has_cleared = True
                data[at : at + most] = bytes(most)
