"""The process that reads pictures: measures them, and makes thumbnails and
upright pictures without metadata.

It is a program. It reads one :class:`PictureTask` per line from its standard input and answers each with a
:class:`Picture` or ``null``. It imports nothing of the server, and ends with its input. A picture that takes
:data:`CPU_SECONDS` ends it by SIGPROF.

Metadata is removed without decoding. Only the parts of the file that a browser
needs for the pixels and their colours are copied. Only a picture that must be
turned is encoded again. Pillow decodes. Only known formats are read. The size
and the number of parts are checked before decoding. A picture that needs too
much memory gets no thumbnail.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from io import SEEK_CUR, BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY_BYTES: Final = 1 << 30
"""Limit of the memory of the process."""
CPU_SECONDS: Final = 3.0
"""CPU time for one picture."""
MAX_SEGMENTS: Final = 1000
"""Limit of the segments and fill bytes in front of the first scan of a JPEG.
Cameras write a few dozen."""
MAX_CHUNKS: Final = 10_000
"""Limit of the chunks of a PNG. Encoders write one for each 8 KB of pixels, or
larger ones."""
MAX_PIXELS: Final = 16_000_000
"""Pixel limit of a picture that must be decoded whole: 64 MB, and as much again
while it is scaled down."""
MAX_JPEG_PIXELS: Final = 64_000_000
"""Pixel limit of a JPEG that can be decoded at an eighth of its size.
Progressive JPEGs are decoded whole."""
MAX_WEBP_PIXELS: Final = 6_000_000
"""Pixel limit of a WebP. Its decoder holds five copies."""
MAX_FILTERED_PIXELS: Final = 8_000_000
"""Pixel limit of a picture with a transparent colour, which is first converted
to transparent pixels."""
MAX_SCANS: Final = 100
"""Limit of the scans of a JPEG. Each scan of perhaps only 35 bytes processes
the whole picture once more."""
_FORMATS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
}
_ORIENTATION: Final = 0x0112
"""The tag of EXIF for the orientation of a picture."""
_UPRIGHT: Final = 1
_TURNED: Final = range(2, 9)
"""The orientations of pictures that must be turned or mirrored."""
_SIDES_SWAPPED: Final = range(5, 9)
"""The orientations that exchange width and height."""
_THUMBNAIL_QUALITY: Final = 80
_TURNED_QUALITY: Final = 90
"""Quality of a picture that is encoded again because it must be turned."""
_PRIVATE_FILE: Final = 0o600
_FIRST_OWN_DESCRIPTOR: Final = 3
"""Descriptors below are standard input, output and error."""
_MAX_DESCRIPTORS: Final = 1 << 16
"""Limit of the descriptors that are closed one by one. Some systems allow a
billion."""


class PictureTask(Struct, frozen=True):
    """A picture to read.

    ``path``, ``type``: its file and its media type. ``thumbnail``, ``cleaned``:
    the paths for its thumbnail, and for the picture without metadata.
    ``pixels``: the longer side of the thumbnail; 0: no thumbnail.
    """

    path: str
    type: str
    thumbnail: str
    cleaned: str
    pixels: int


class Picture(Struct, frozen=True):
    """The result of a task.

    ``width``, ``height``: the size of the picture as it is displayed, in
    pixels. ``thumbnail``: the media type of the thumbnail; ``""``: none was
    made. ``cleaned``: the picture without metadata was written, because the
    original file has metadata or is not upright.
    """

    width: int
    height: int
    thumbnail: str = ""
    cleaned: bool = False


def process(task: PictureTask) -> Picture:
    """Carry out a task: measure the picture, and write its thumbnail. If the
    picture has metadata, also write the picture without metadata.

    Raises any exception if the file is not a readable picture.
    """
    path = Path(task.path)
    form = _FORMATS[task.type]
    _check_parts(path, form)

    with _opened(path, form) as image:
        orientation = _orientation_of(image, form)
        width, height = _shown_size(image, orientation)
        thumbnail = _thumbnail(image, form, orientation, task)

    cleaned = _cleaned(path, form, orientation)
    if cleaned is None:
        return Picture(width, height, thumbnail)
    with _created(task.cleaned) as file:
        file.write(cleaned)
    return Picture(width, height, thumbnail, cleaned=True)


def _shown_size(image: Any, orientation: int) -> tuple[int, int]:
    """The width and the height of a picture as it is shown."""
    width, height = image.size
    # A camera that was held upright stores a picture that lies on its side.
    if orientation in _SIDES_SWAPPED:
        return height, width
    return width, height


def _orientation_of(image: Image, form: str) -> int:
    """The orientation of a picture in its EXIF. The result is 1 (upright) if
    the picture has no EXIF, or if the number in EXIF is unknown."""
    # If a PNG has no EXIF before the pixels, Pillow would decode all pixels to
    # look for EXIF after them.
    if form != "JPEG" and "exif" not in image.info:
        return _UPRIGHT
    orientation: int = image.getexif().get(_ORIENTATION, _UPRIGHT)
    if orientation in _TURNED:
        return orientation
    return _UPRIGHT


def _check_parts(path: Path, form: str) -> None:
    """Raise ValueError if a file has too many parts. Pillow processes each part
    before it reads pixels, so a forged file could cause endless work."""
    if form not in _COUNTED:
        return
    most, parts_of = _COUNTED[form]
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        for number, _ in enumerate(parts_of(content)):
            if number >= most:
                raise ValueError(f"more than {most} parts")


def _jpeg_segments(data: mmap) -> Iterator[int]:
    """Yield the positions of the segments and fill bytes in front of the first
    scan of a JPEG (ITU T.81 annex B)."""
    position = _MARKER_BYTES
    while position + _SEGMENT_HEAD_BYTES <= len(data) and data[position] == _MARKER:
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            return
        yield position
        if marker == _MARKER:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += _MARKER_BYTES
        else:
            # All other segments have their length behind the marker.
            length = data[position + _MARKER_BYTES : position + _SEGMENT_HEAD_BYTES]
            position += _MARKER_BYTES + int.from_bytes(length)


def _png_chunks(data: mmap) -> Iterator[int]:
    """Yield the positions of the chunks of a PNG."""
    position = _PNG_SIGNATURE_BYTES
    while position + _CHUNK_HEAD_BYTES <= len(data):
        yield position
        position += _PNG_CHUNK_BYTES + int.from_bytes(
            data[position : position + _CHUNK_LENGTH_BYTES]
        )


def _created(path: str) -> IO[bytes]:
    """Open a new file that only this user may read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return open(os.open(path, flags, _PRIVATE_FILE), "wb")


def _turned(image: Image, orientation: int) -> Image:
    """The picture as it is displayed. ``orientation`` is the orientation in
    EXIF; 1 means upright."""
    from PIL.Image import Transpose

    methods = (  # in the order of the orientations of EXIF
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    if orientation in _TURNED:
        return image.transpose(methods[_TURNED.index(orientation)])
    return image


def _thumbnail(image: Image, form: str, orientation: int, task: PictureTask) -> str:
    """Write the thumbnail of a picture, and return its media type.

    Returns ``""`` if there is no thumbnail: none is wanted, or the picture is
    too large or broken.
    """
    pixels = task.pixels
    if not pixels or image.width * image.height > _most_pixels(image, form):
        return ""
    # This lets the decoder of JPEG make a smaller picture, of at least this
    # size.
    image.draft("RGB", (pixels * 2, pixels * 2))
    # A very long and low picture cannot be made much smaller while it is
    # decoded.
    if image.width * image.height > MAX_PIXELS:
        return ""
    try:
        return _write(image, pixels, orientation, task.thumbnail)
    except Exception:
        # The picture is truncated, or broken after its header. It is stored
        # without a thumbnail.
        Path(task.thumbnail).unlink(missing_ok=True)
        return ""


def _opened(path: Path, form: str) -> Image:
    """Open a picture of a known format. Only its header is read now."""
    if form == "JPEG":
        # The picture is opened by the class of its format, because
        # ``Image.open`` would try other formats, too.
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(path)
    from PIL.Image import open as open_image

    return open_image(path, formats=(form,))


def _most_pixels(image: Image, form: str) -> int:
    """The most pixels that a picture may have to be decoded; 0: it must not be
    decoded.

    The limit depends on the memory that the decoder needs for each pixel.
    """
    if form == "JPEG":
        if _is_one_scan(image):
            return MAX_JPEG_PIXELS
        if _has_many_scans(image):
            return 0
        return MAX_PIXELS
    if form == "WEBP":
        return MAX_WEBP_PIXELS
    if "transparency" in image.info:
        return MAX_FILTERED_PIXELS
    return MAX_PIXELS


def _is_one_scan(image: Any) -> bool:
    """Whether the first scan of a JPEG has all components.

    Then the decoder can work line by line (ITU T.81 section B.2.3), and needs
    little memory.
    """
    size = _SCAN_HEAD_BYTES + _SCAN_COMPONENT_BYTES * image.layers
    # Pillow has read up to the end of the header of that scan.
    image.fp.seek(-size, SEEK_CUR)
    header: bytes = image.fp.read(size)
    # The header has its length in two bytes, then the number of its components.
    expected = bytes((0, size, image.layers))
    return "progressive" not in image.info and header.startswith(expected)


def _has_many_scans(image: Any) -> bool:
    """Whether a JPEG has too many scans. Each scan processes the whole
    picture."""
    # The data of a scan never contain these bytes. A thumbnail in the metadata
    # may contain them. Then its scans are counted, too.
    start_of_scan = bytes((_MARKER, _START_OF_SCAN))
    with mmap(image.fp.fileno(), 0, access=ACCESS_READ) as content:
        position = -1
        for _ in range(MAX_SCANS + 1):
            position = content.find(start_of_scan, position + 1)
            if position < 0:
                return False
    return True


def _write(image: Image, pixels: int, orientation: int, target: str) -> str:
    """Write a thumbnail that contains only pixels, and return its media type:
    PNG if it is transparent, and else JPEG."""
    is_transparent = image.has_transparency_data
    wanted_mode = "RGBA" if is_transparent else "RGB"

    # The picture is scaled down first, so that at most two large copies of it
    # exist.
    if image.mode in ("L", wanted_mode):
        small = image
    else:
        small = image.convert(wanted_mode)
    small.thumbnail((pixels, pixels))
    small = _turned(small, orientation).convert(wanted_mode)
    small.info.clear()

    with _created(target) as file:
        if is_transparent:
            small.save(file, "PNG", optimize=True)
            return "image/png"
        small.save(file, "JPEG", quality=_THUMBNAIL_QUALITY)
        return "image/jpeg"


# --- without metadata ---------------------------------------------------------


def _cleaned(path: Path, form: str, orientation: int) -> bytes | None:
    """The content of the upright picture without metadata.

    Returns None if the file is upright and has no metadata, so that it can be
    stored as it is.
    """
    content = path.read_bytes()
    if orientation != _UPRIGHT:
        turned = _turned_content(path, form, orientation)
        if turned is not None:
            return b"".join(_CLEANERS[form](turned))

    cleaned = b"".join(_CLEANERS[form](content))
    if orientation != _UPRIGHT and form == "JPEG":
        # The picture could not be turned, for example because that needs too
        # much memory.
        cleaned = _with_orientation(cleaned, orientation)
    if cleaned == content:
        return None
    return cleaned


def _with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG without metadata, to which the orientation is added as its only
    metadata, so that browsers turn it."""
    first_marker = jpeg[:_MARKER_BYTES]
    segments = jpeg[_MARKER_BYTES:]
    return first_marker + _orientation_segment(orientation) + segments


def _orientation_segment(orientation: int) -> bytes:
    """A segment of EXIF with one entry: the orientation, by which browsers turn
    the picture."""
    count = 1
    entry = struct.pack(
        "<HHIHH", _ORIENTATION, _EXIF_SHORT, count, orientation, _EXIF_PADDING
    )
    directory = struct.pack("<H", count) + entry + struct.pack("<I", _NO_DIRECTORY)
    # The head of TIFF: little-endian, and the directory begins at 8.
    exif = b"Exif\0\0II*\0\x08\0\0\0" + directory
    size = len(exif) + _SEGMENT_LENGTH_BYTES
    return struct.pack("!BBH", _MARKER, _APP1, size) + exif


def _turned_content(path: Path, form: str, orientation: int) -> bytes | None:
    """The content of the turned picture, encoded again.

    Returns None if the picture cannot be turned, because it is too large,
    animated, or broken.
    """
    with _opened(path, form) as image:
        is_large = image.width * image.height > min(
            MAX_PIXELS, _most_pixels(image, form)
        )
        if is_large or getattr(image, "n_frames", 1) > 1:
            return None
        # The profile says which colours the numbers of the pixels mean.
        colour_profile = image.info.get("icc_profile")
        try:
            turned = _turned(image, orientation)
        except Exception:
            return None
        return _encoded(turned, form, colour_profile)


def _encoded(image: Image, form: str, colour_profile: bytes | None) -> bytes:
    """The content of a picture that has only pixels and a profile of
    colours."""
    image.info.clear()
    options: dict[str, Any] = {}
    if form != "PNG":
        options["quality"] = _TURNED_QUALITY
    if colour_profile:
        options["icc_profile"] = colour_profile
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


# A JPEG is a row of segments (ITU T.81 annex B). A segment is the byte 0xFF,
# the byte of the marker, the length in two bytes, and the content. The length
# counts its own two bytes and the content.
_MARKER: Final = 0xFF
_MARKER_BYTES: Final = 2
_SEGMENT_LENGTH_BYTES: Final = 2
_SEGMENT_HEAD_BYTES: Final = 4
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The marker after the data of a scan."""
_START_OF_SCAN: Final = 0xDA
_SCAN_HEAD_BYTES: Final = 6
"""The header of a scan without its components."""
_SCAN_COMPONENT_BYTES: Final = 2
_WITHOUT_LENGTH: Final = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
"""Markers that begin no segment."""
_END_OF_IMAGE: Final = b"\xff\xd9"
_FIRST_MARKER: Final = 0xC0
"""Markers below begin no segment of a picture."""
_APP0: Final = 0xE0
"""The marker of the segment of JFIF. It is the lowest marker of segments for
applications. Segments with lower markers are needed for the pixels."""
_APP1: Final = 0xE1
"""The segment of EXIF."""
_APP2: Final = 0xE2
"""The segment of a colour profile."""
_APP14: Final = 0xEE
"""The segment of Adobe with the encoding of the colours."""
_JFIF_BYTES: Final = 18
_JFIF_HEAD: Final = b"\xff\xe0\0\x10"
_JFIF_THUMBNAIL_SIZE_BYTES: Final = 2
_EXIF_SHORT: Final = 3
"""The type of an entry of EXIF with a number of two bytes."""
_EXIF_PADDING: Final = 0
_NO_DIRECTORY: Final = 0
"""This value in place of the position of the next directory of EXIF means that
no directory follows."""


def _cleaned_jpeg(data: bytes) -> Iterator[bytes]:
    """Yield the parts of a JPEG that make its pixels and colours, up to its
    end.

    Segments with metadata are left out (ITU T.81 annex B). Raises ValueError if
    the file is broken.
    """
    yield data[:_MARKER_BYTES]
    position = _MARKER_BYTES
    while position < len(data):
        if data[position] != _MARKER:
            raise ValueError("no marker")
        marker = data[position + 1]
        if marker == _MARKER:  # a fill byte
            position += 1
            continue
        if marker == _END_OF_IMAGE[1]:
            yield _END_OF_IMAGE
            return

        end = _end_of_segment(data, position)
        yield _cleaned_segment(marker, data[position:end])
        position = end

        if marker == _START_OF_SCAN:
            end = _end_of_scan(data, position)
            yield data[position:end]
            position = end


def _end_of_segment(data: bytes, position: int) -> int:
    """The index behind the segment of a JPEG that begins at ``position``.

    Raises ValueError if the segment has no valid marker or length.
    """
    length_start = position + _MARKER_BYTES
    head_end = position + _SEGMENT_HEAD_BYTES
    end = length_start + int.from_bytes(data[length_start:head_end])
    if data[position + 1] < _FIRST_MARKER or end < head_end:
        raise ValueError("no segment")
    return end


def _end_of_scan(data: bytes, position: int) -> int:
    """The index of the first byte after the data of a scan. The data begin at
    ``position``, after the segment of the scan, and have no length in front."""
    match = _AFTER_SCAN.search(data, position)
    return match.start() if match else len(data)


def _cleaned_segment(marker: int, segment: bytes) -> bytes:
    """The bytes of a segment of a JPEG that are copied; ``b""`` if it has
    metadata."""
    content = segment[_SEGMENT_HEAD_BYTES:]
    if marker < _APP0:
        return segment
    if marker == _APP0 and content.startswith(b"JFIF\0"):
        if len(segment) < _JFIF_BYTES:
            return b""
        # The segment is copied without its thumbnail.
        fields_end = _JFIF_BYTES - _JFIF_THUMBNAIL_SIZE_BYTES
        no_thumbnail = bytes(_JFIF_THUMBNAIL_SIZE_BYTES)
        return _JFIF_HEAD + segment[_SEGMENT_HEAD_BYTES:fields_end] + no_thumbnail
    if marker == _APP2 and content.startswith(b"ICC_PROFILE\0"):
        return segment
    if marker == _APP14 and content.startswith(b"Adobe"):
        return segment
    return b""


# A PNG and a WebP are sequences of chunks. A chunk of a PNG has the length of
# the content, the name, the content and a checksum; a chunk of a WebP has the
# name, the length and the content.
_CHUNK_LENGTH_BYTES: Final = 4
_CHUNK_HEAD_BYTES: Final = 8
"""Length and name."""
_PNG_CHUNK_BYTES: Final = 12
"""Length, name and checksum: a chunk without its content."""
_PNG_SIGNATURE_BYTES: Final = 8
_PNG_CHUNKS: Final = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI sBIT bKGD hIST pHYs sPLT acTL fcTL "
    b"fdAT".split()
)


def _cleaned_png(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG that make its pixels and colours (PNG third
    edition, section 11)."""
    yield data[:_PNG_SIGNATURE_BYTES]
    position = _PNG_SIGNATURE_BYTES
    while position < len(data):
        name_start = position + _CHUNK_LENGTH_BYTES
        name = data[name_start : position + _CHUNK_HEAD_BYTES]
        # The length counts only the content.
        end = position + _PNG_CHUNK_BYTES + int.from_bytes(data[position:name_start])
        if name in _PNG_CHUNKS:
            yield data[position:end]
        if name == b"IEND":
            return
        position = end


_GIF_HEAD_BYTES: Final = 13
_GIF_FLAGS_AT: Final = 10
"""The position of the flags of the colour table in the head."""
_GIF_IMAGE: Final = 0x2C
_GIF_IMAGE_HEAD_BYTES: Final = 11
"""The head of an image, with the first byte of its data."""
_GIF_IMAGE_FLAGS_AT: Final = 9
_GIF_EXTENSION: Final = 0x21
_GIF_EXTENSION_HEAD_BYTES: Final = 2
_GIF_GRAPHIC_CONTROL: Final = 0xF9
_GIF_PLAIN_TEXT: Final = 0x01
_GIF_APPLICATION: Final = 0xFF
_GIF_APPLICATION_HEAD_BYTES: Final = 3
"""The head of an extension of an application, with the length of its name."""
_GIF_APPLICATION_NAME_BYTES: Final = 11
_GIF_EXTENSIONS: Final = frozenset({b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"})
"""Applications whose extensions stay: repetition and colours."""
_GIF_HAS_TABLE: Final = 0x80
_GIF_TABLE_SIZE: Final = 7
"""The bits of the size of a colour table, which has 2 ** (size + 1) colours."""
_COLOUR_BYTES: Final = 3


def _cleaned_gif(data: bytes) -> Iterator[bytes]:
    """Yield the blocks of a GIF that make its pixels, colours and animation
    (GIF89a, appendix A)."""
    position = _GIF_HEAD_BYTES + _table_bytes(data[_GIF_FLAGS_AT])
    yield data[:position]
    while position < len(data):
        kind = data[position]
        if kind == _GIF_EXTENSION:
            end = _end_of_blocks(data, position + _GIF_EXTENSION_HEAD_BYTES)
            if _is_needed_extension(data, position):
                yield data[position:end]
        elif kind == _GIF_IMAGE:
            end = _end_of_gif_image(data, position)
            yield data[position:end]
        else:
            # The end of the file, or bytes that no decoder would read.
            yield b";"
            return
        position = end


def _end_of_gif_image(data: bytes, position: int) -> int:
    """The index behind an image of a GIF, which may have its own table of
    colours."""
    table = _table_bytes(data[position + _GIF_IMAGE_FLAGS_AT])
    return _end_of_blocks(data, position + _GIF_IMAGE_HEAD_BYTES + table)


def _is_needed_extension(data: bytes, position: int) -> bool:
    """Whether the extension at this position of a GIF is copied.

    An extension is copied if it controls how an image is shown, or if it is one
    of :data:`_GIF_EXTENSIONS`.
    """
    label = data[position + 1]
    if label == _GIF_APPLICATION:
        name_start = position + _GIF_APPLICATION_HEAD_BYTES
        name = data[name_start : name_start + _GIF_APPLICATION_NAME_BYTES]
        return name in _GIF_EXTENSIONS
    return label in (_GIF_GRAPHIC_CONTROL, _GIF_PLAIN_TEXT)


def _table_bytes(flags: int) -> int:
    """The bytes of a colour table of a GIF; 0 if the GIF has no such table.
    ``flags`` say how many colours it has."""
    if not flags & _GIF_HAS_TABLE:
        return 0
    return _COLOUR_BYTES << ((flags & _GIF_TABLE_SIZE) + 1)


def _end_of_blocks(data: bytes, start: int) -> int:
    """The end of a row of blocks of a GIF. Each block has its length in front,
    and the last one is empty."""
    position = start
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return position + 1


_WEBP_CHUNKS: Final = frozenset(
    (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
)
_ANMF_BYTES: Final = 16
"""The head of a frame, in front of its own chunks."""
_WEBP_HEAD_BYTES: Final = 12
"""``RIFF``, the length of the rest, ``WEBP``."""
_WEBP_NAME_BYTES: Final = 4
_WEBP_METADATA_FLAGS: Final = 0x0C
"""The bits of VP8X that announce EXIF and XMP."""


def _cleaned_webp(data: bytes) -> Iterator[bytes]:
    """Yield a WebP with only the chunks that make its pixels, colours and
    animation (RFC 9649 section 2). The head of the result has the new
    length."""
    length = data[_WEBP_NAME_BYTES:_CHUNK_HEAD_BYTES]
    end = _CHUNK_HEAD_BYTES + int.from_bytes(length, "little")
    content = b"".join(_webp_chunks(data[_WEBP_HEAD_BYTES:end]))
    size = len(content) + _WEBP_NAME_BYTES
    yield struct.pack("<4sI4s", b"RIFF", size, b"WEBP") + content


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a WebP, or of one of its frames, that are copied."""
    position = 0
    while position + _CHUNK_HEAD_BYTES <= len(data):
        length_start = position + _WEBP_NAME_BYTES
        content_start = position + _CHUNK_HEAD_BYTES
        name = data[position:length_start]
        size = int.from_bytes(data[length_start:content_start], "little")
        end = content_start + size
        content = data[content_start:end]
        # A chunk that is left out is skipped with its padding.
        position = end + size % 2  # padded to an even length
        if name not in _WEBP_CHUNKS:
            continue

        yield _written_chunk(name, _cleaned_chunk(name, content))


def _written_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a WebP: its name, its length, and its content, padded to an
    even length."""
    padding = bytes(len(content) % 2)
    return struct.pack("<4sI", name, len(content)) + content + padding


def _cleaned_chunk(name: bytes, content: bytes) -> bytes:
    """The content of a chunk of a WebP without metadata."""
    if name == b"VP8X":
        # The head of the file must not announce metadata any more.
        flags = content[0] & ~_WEBP_METADATA_FLAGS
        return bytes((flags,)) + content[1:]
    if name == b"ANMF":
        # A frame has chunks of its own.
        chunks = b"".join(_webp_chunks(content[_ANMF_BYTES:]))
        return content[:_ANMF_BYTES] + chunks
    return content


_COUNTED: Final = {
    "JPEG": (MAX_SEGMENTS, _jpeg_segments),
    "PNG": (MAX_CHUNKS, _png_chunks),
}
"""Format → the limit of its parts (in front of the pixels, or in the whole
file), and the function that finds them."""
_CLEANERS: Final[dict[str, Callable[[bytes], Iterator[bytes]]]] = {
    "JPEG": _cleaned_jpeg,
    "PNG": _cleaned_png,
    "GIF": _cleaned_gif,
    "WEBP": _cleaned_webp,
}


# --- the process --------------------------------------------------------------


def prepare() -> None:
    """Load Pillow with the decoders of the known formats, before the first
    task."""
    for name in (
        "PIL.Image",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
        "PIL.GifImagePlugin",
        "PIL.WebPImagePlugin",
    ):
        import_module(name)
    images: Any = import_module("PIL.Image")
    images.MAX_IMAGE_PIXELS = None  # this module has its own limits


def main() -> None:
    """Carry out the tasks of standard input, one a line, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    _limit_process()
    prepare()
    decoder = msgspec.json.Decoder(PictureTask)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            picture: Picture | None = process(decoder.decode(line))
        except Exception:  # a broken picture may raise anything in Pillow
            picture = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(msgspec.json.encode(picture))
        sys.stdout.buffer.flush()


def _limit_process() -> None:
    """Close the files of the server, and limit the memory of this process.

    A broken decoder must reach nothing of the server, and not take all memory
    of the machine.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(_FIRST_OWN_DESCRIPTOR, min(limit, _MAX_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
