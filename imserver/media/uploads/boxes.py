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
from there on. Data in ``mdat`` other than pixels, such as a track with places,
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
"""The user type of a box with XMP."""
_HEAD_BYTES: Final = 8
"""Size and kind, in front of the content of a box."""
_KIND: Final = slice(4, 8)
"""The kind in the head of a box."""
_LARGE_SIZE_BYTES: Final = 8
"""A size that does not fit into the head follows it."""
_VERSION_BYTES: Final = 4
"""Version and flags, in front of the content of many boxes."""
_HANDLER: Final = slice(8, 12)
"""The kind of the metadata beside a box ``hdlr``, in its content."""
_FIRST_ITEM: Final = 6
_FIRST_ITEM_OF_LATER_VERSIONS: Final = 8
"""The position of the first item in a box ``iinf``, behind the number of
items."""
_FIRST_LOCATION: Final = 6
"""The position of the first item in a box ``iloc``, behind the sizes of its
numbers."""
_LOW_BITS: Final = 15
"""The second of two numbers in one byte."""
_HIGH_BITS_AT: Final = 4
_WIDE_NUMBER_BYTES: Final = 4
_ORIGIN_BOXES: Final = frozenset((b"\xa9xyz", b"\xa9mak", b"\xa9mod", b"loci"))
"""Boxes in videos that say where, and by what, they were made."""


class _Box(NamedTuple):
    """A box of a file: a kind such as ``moov``, and its content."""

    kind: bytes
    start: int
    """Where its content begins."""
    end: int


class _Broken(Exception):
    """A box ends outside its parent, or there are too many boxes."""


def clear_metadata(path: Path) -> bool:
    """Overwrite the metadata of a file with zeros.

    Returns whether it had any. A file of another format is left as it is. Runs
    in a thread.
    """
    with path.open("r+b") as file, mmap(file.fileno(), 0) as data:
        if data[_KIND] != b"ftyp":
            return False
        cleaner = _Cleaner(data)
        # A broken file is cleaned up to where it breaks.
        with suppress(_Broken, TooShort, IndexError, RecursionError):
            cleaner.clean(0, len(data))
        return cleaner.has_cleared


class _Numbers:
    """Reads the numbers of a box one after the other, from ``position`` to
    ``end``."""

    def __init__(self, data: mmap, position: int, end: int) -> None:
        self._data = data
        self._position = position
        self._end = end

    def read(self, size: int) -> int:
        """The next number, which has this many bytes. Raises _Broken at the
        end."""
        start = self._position
        if start + size > self._end:
            raise _Broken
        self._position = start + size
        return int.from_bytes(self._data[start : start + size], "big")


class _NumberSizes(NamedTuple):
    """The sizes, in bytes, of the numbers in a box ``iloc``."""

    start: int
    length: int
    base: int
    extent_index: int

    @staticmethod
    def read(data: mmap, iloc_start: int, version: int) -> "_NumberSizes":
        """Read the two bytes that have the four sizes."""
        position = iloc_start + _VERSION_BYTES
        return _NumberSizes(
            start=data[position] >> _HIGH_BITS_AT,
            length=data[position] & _LOW_BITS,
            base=data[position + 1] >> _HIGH_BITS_AT,
            extent_index=data[position + 1] & _LOW_BITS if version else 0,
        )


class _Cleaner:
    """Clears the metadata of one file.

    A file whose boxes are broken, or whose parts overlap, could demand endless
    work. So the number of boxes, and of bytes that are cleared, is limited.
    """

    def __init__(self, data: mmap) -> None:
        self._data = data
        self._boxes_left = MAX_BOXES
        """How many more boxes and items may be looked at."""
        self._bytes_left = len(data)
        """How many more bytes may be cleared."""
        self.has_cleared = False
        """Whether a byte was changed."""

    def clean(self, start: int, end: int) -> None:
        """Clear the metadata among the boxes from ``start`` to ``end``. Raises
        _Broken and the errors of reading behind the end."""
        for box in self._boxes(start, end):
            if box.kind in {b"moov", b"trak", b"udta"}:
                # These boxes only contain other boxes.
                self.clean(box.start, box.end)
            elif box.kind in _ORIGIN_BOXES or self._has_xmp(box):
                self._zero(box.start, box.end)
            elif box.kind == b"meta":
                self._clean_meta(box)

    def _has_xmp(self, box: _Box) -> bool:
        """Whether a box is a ``uuid`` with XMP. The first bytes of such a box
        say what it has."""
        if box.kind != b"uuid":
            return False
        user_type_end = min(box.start + len(_XMP), box.end)
        return self._data[box.start : user_type_end] == _XMP

    def _clean_meta(self, meta: _Box) -> None:
        """Clear the metadata in a box ``meta``.

        In a video they are QuickTime's keys, and in a picture the items of EXIF
        and XMP.
        """
        boxes = self._boxes_of_meta(meta)
        if b"hdlr" not in boxes:
            return

        # The box "hdlr" says what kind of metadata stands beside it.
        handler = self._bytes_at(boxes[b"hdlr"].start, _HANDLER)
        if handler == b"mdta" and b"ilst" in boxes:
            self._zero(boxes[b"ilst"].start, boxes[b"ilst"].end)
        elif handler == b"pict" and b"iinf" in boxes and b"iloc" in boxes:
            self._clean_items(boxes)

    def _boxes_of_meta(self, meta: _Box) -> dict[bytes, _Box]:
        """The boxes in a box ``meta``, by their kinds."""
        # The box of QuickTime has no version in front of its children.
        if self._bytes_at(meta.start, _KIND) == b"hdlr":
            first = meta.start
        else:
            first = meta.start + _VERSION_BYTES
        return {box.kind: box for box in self._boxes(first, meta.end)}

    def _clean_items(self, boxes: dict[bytes, _Box]) -> None:
        """Clear the pieces of the items with EXIF and XMP.

        ``boxes``: kind → the box, among them ``iinf`` and ``iloc``.
        """
        items = set(self._metadata_items(boxes[b"iinf"]))
        for item, start, end in self._extents(boxes[b"iloc"], boxes.get(b"idat")):
            if item in items:
                self._zero(start, end)

    def _bytes_at(self, start: int, part: slice) -> bytes:
        """Some bytes behind ``start``. ``part`` counts from there."""
        return self._data[start + part.start : start + part.stop]

    def _metadata_items(self, iinf: _Box) -> Iterator[int]:
        """Yield the ids of the items with EXIF and XMP, from the box ``iinf``,
        which lists all items of a picture."""
        if self._data[iinf.start] == 0:
            first = iinf.start + _FIRST_ITEM
        else:
            first = iinf.start + _FIRST_ITEM_OF_LATER_VERSIONS

        for box in self._boxes(first, iinf.end):
            version = self._data[box.start]
            if box.kind != b"infe" or version < 2:
                continue
            item, kind = self._item_in(box, version)
            if kind in {b"Exif", b"mime"}:
                yield item

    def _item_in(self, infe: _Box, version: int) -> tuple[int, bytes]:
        """The id and the type of an item, from its box ``infe``."""
        # The fields are the id of the item, its protection and its type.
        layout = ">HH4s" if version == 2 else ">IH4s"
        fields_start = infe.start + _VERSION_BYTES
        item, _protection, kind = unpack_from(layout, self._data, fields_start)
        return item, kind

    def _extents(self, iloc: _Box, idat: _Box | None) -> Iterator[tuple[int, int, int]]:
        """Yield the pieces of the file that belong to items, from the box
        ``iloc``.

        Each is the id of the item, and the start and end of the piece. ``idat``
        is the box with the content of some items; None if there is no such box.
        """
        data = self._data
        version = data[iloc.start]
        sizes = _NumberSizes.read(data, iloc.start, version)
        read_number = _Numbers(data, iloc.start + _FIRST_LOCATION, iloc.end).read
        item_size = 2 if version < 2 else _WIDE_NUMBER_BYTES
        for _ in range(read_number(item_size)):
            self._count_box()  # an item without pieces, too
            item = read_number(item_size)
            # 1 means that the positions count from the box ``idat``.
            is_in_idat = bool(version) and read_number(2) & _LOW_BITS == 1
            read_number(2)  # the file that has the item
            base = read_number(sizes.base)
            limit = len(data)
            if is_in_idat and idat is not None:
                base += idat.start
                limit = idat.end
            for _ in range(read_number(2)):
                self._count_box()
                read_number(sizes.extent_index)
                start = base + read_number(sizes.start)
                length = read_number(sizes.length)
                yield item, min(start, limit), min(start + length, limit)

    def _boxes(self, start: int, end: int) -> Iterator[_Box]:
        """Yield the boxes from ``start`` to ``end``, without the boxes in them.

        A box begins with its size and its kind. Raises _Broken if it ends
        outside.
        """
        box_start = start
        while box_start + _HEAD_BYTES <= end:
            # Boxes may be nested without end in a forged file.
            self._count_box()
            size, kind = unpack_from(">I4s", self._data, box_start)
            content_start = box_start + _HEAD_BYTES
            if size == 1:  # the size does not fit into the head
                (size,) = unpack_from(">Q", self._data, content_start)
                content_start += _LARGE_SIZE_BYTES
            elif size == 0:  # up to the end
                size = end - box_start
            box_end = box_start + size
            if not content_start <= box_end <= end:
                raise _Broken
            yield _Box(kind, content_start, box_end)
            box_start = box_end

    def _count_box(self) -> None:
        """Count a box or an item against the limit. Raises _Broken above it."""
        self._boxes_left -= 1
        if self._boxes_left < 0:
            raise _Broken

    def _zero(self, start: int, end: int) -> None:
        """Overwrite bytes with zeros, piece by piece.

        Bytes that are zeros already are not written again. Raises _Broken if
        more bytes are to be cleared than the file has.
        """
        data = self._data
        self._bytes_left -= max(end - start, 0)
        if self._bytes_left < 0:
            # Only pieces that overlap can be so many.
            raise _Broken
        for piece_start in range(start, end, _PIECE_BYTES):
            piece = slice(piece_start, min(piece_start + _PIECE_BYTES, end))
            zeros = bytes(piece.stop - piece.start)
            if data[piece] != zeros:
                self.has_cleared = True
                data[piece] = zeros
