"""The process that reads pictures: measures, thumbnails, and pictures that are
upright and without metadata.

It is a program. It reads one :class:`PictureTask` per line from its standard input and answers each with a
:class:`Picture` or ``null``. It imports nothing of the server, and ends with its input. A picture that takes
:data:`CPU_SECONDS` ends it by SIGPROF.

Metadata is removed without decoding: the parts of the file that a browser needs
for the pixels and their colours are copied, everything else is left out. Only a
picture that must be turned is encoded again. Pillow decodes. Only known formats
are read. The size and the number of parts are checked before anything is
decoded, and a picture that needs too much memory gets no thumbnail.
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
"""Limit of the chunks of a PNG: encoders write one for each 8 KB of pixels, or
longer ones."""
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
"""Limit of the scans of a JPEG: each processes the whole picture once more, and
may have only 35 bytes."""
_FORMATS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
}
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = 1


class PictureTask(Struct, frozen=True):
    """A picture to read: its path and media type, where its thumbnail (with a
    longer side of ``pixels``; 0: none) and the picture without metadata go."""

    path: str
    type: str
    thumbnail: str
    cleaned: str
    pixels: int


class Picture(Struct, frozen=True):
    """A picture as displayed. ``thumbnail``: its media type. ``cleaned``:
    metadata was left out."""

    width: int
    height: int
    thumbnail: str = ""
    cleaned: bool = False


def look(task: PictureTask) -> Picture:
    """Carry out an order. Raises any exception if the file is not a readable
    picture."""
    path = Path(task.path)
    form = _FORMATS[task.type]
    _check_parts(path, form)
    with _opened(path, form) as image:
        orientation = _UPRIGHT
        # Of a PNG without EXIF in front of the pixels, Pillow would decode all
        # of them.
        if form == "JPEG" or "exif" in image.info:
            orientation = image.getexif().get(_ORIENTATION, _UPRIGHT)
            if orientation in range(2, 9):
                orientation = orientation
            else:
                orientation = _UPRIGHT
        width, height = image.size
        if orientation in range(5, 9):  # width and height change places
            width, height = height, width
        thumbnail = _thumbnail(image, form, orientation, task)
    cleaned = _cleaned(path, form, orientation)
    if cleaned is None:
        return Picture(width, height, thumbnail)
    with _created(task.cleaned) as file:
        file.write(cleaned)
    return Picture(width, height, thumbnail, True)


def _check_parts(path: Path, form: str) -> None:
    """Raise ValueError if a file has too many parts: Pillow does work for each
    before it looks at pixels."""
    if form not in _COUNTED:
        return
    most, sizes_of = _COUNTED[form]
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        for number, _ in enumerate(sizes_of(content)):
            if number >= most:
                raise ValueError(f"more than {most} parts")


def _jpeg_segments(data: mmap) -> Iterator[int]:
    """The positions of the segments and fill bytes in front of the first scan
    (ITU T.81 annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _START_OF_SCAN:
        yield at
        is_alone = data[at + 1] in _WITHOUT_LENGTH
        at += (
            1
            if data[at + 1] == 0xFF
            else 2
            if is_alone
            else 2 + int.from_bytes(data[at + 2 : at + 4])
        )


def _png_chunks(data: mmap) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4])


def _created(path: str) -> IO[bytes]:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _turned(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if orientation in methods:
        return image.transpose(methods[orientation])
    return image


def _thumbnail(image: Image, form: str, orientation: int, task: PictureTask) -> str:
    """Write the thumbnail. Return its media type; ``""`` if there is none."""
    pixels = task.pixels
    if not pixels or image.width * image.height > _most_pixels(image, form):
        return ""
    image.draft("RGB", (pixels * 2, pixels * 2))
    # long and low: it cannot be decoded any smaller
    if image.width * image.height > MAX_PIXELS:
        return ""
    try:
        return _write(image, pixels, orientation, task.thumbnail)
    except Exception:  # truncated, or broken after its header: the decoded part is used
        Path(task.thumbnail).unlink(missing_ok=True)
        return ""


def _opened(path: Path, form: str) -> Image:
    if form == "JPEG":
        # Opened by its class: ``Image.open`` would try other formats too.
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(path)
    from PIL.Image import open as open_image

    return open_image(path, formats=(form,))


def _most_pixels(image: Image, form: str) -> int:
    if form == "JPEG":
        if _is_one_scan(image):
            return MAX_JPEG_PIXELS
        return 0 if _has_many_scans(image) else MAX_PIXELS
    if form == "WEBP":
        return MAX_WEBP_PIXELS
    if "transparency" in image.info:
        return MAX_FILTERED_PIXELS
    return MAX_PIXELS


def _is_one_scan(image: Any) -> bool:
    """Whether the first scan of a JPEG has all components, so that the decoder
    can work line by line (ITU T.81 section B.2.3). Pillow's position is after
    the header of that scan."""
    size = 6 + 2 * image.layers
    image.fp.seek(-size, SEEK_CUR)
    header: bytes = image.fp.read(size)
    return "progressive" not in image.info and header[:3] == bytes(
        (0, size, image.layers)
    )


def _has_many_scans(image: Any) -> bool:
    """Whether a JPEG has too many scans. The bytes of a scan's marker occur
    nowhere else."""
    with mmap(image.fp.fileno(), 0, access=ACCESS_READ) as content:
        at = -1
        for _ in range(MAX_SCANS + 1):
            at = content.find(b"\xff\xda", at + 1)
            if at < 0:
                return False
    return True


def _write(image: Image, pixels: int, orientation: int, target: str) -> str:
    """Write a thumbnail that contains only pixels. Return its media type."""
    clear = image.has_transparency_data
    wanted = "RGBA" if clear else "RGB"
    # Scaled down first, so that at most two copies of the large picture exist.
    if image.mode in ("L", wanted):
        small = image
    else:
        small = image.convert(wanted)
    small.thumbnail((pixels, pixels))
    small = _turned(small, orientation).convert(wanted)
    small.info.clear()
    with _created(target) as file:
        if clear:
            small.save(file, "PNG", optimize=True)
        else:
            small.save(file, "JPEG", quality=80)
    return "image/png" if clear else "image/jpeg"


# --- without metadata ---------------------------------------------------------


def _cleaned(path: Path, form: str, orientation: int) -> bytes | None:
    """A picture that is upright and has no metadata; None if it is so
    already."""
    content = path.read_bytes()
    if orientation != _UPRIGHT:
        turned = _turned_content(path, form, orientation)
        if turned is not None:
            return b"".join(_CLEANERS[form](turned))
    cleaned = b"".join(_CLEANERS[form](content))
    if orientation != _UPRIGHT and form == "JPEG":
        # It needs too much memory to be turned: browsers turn it, as its only
        # metadata says.
        exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack(
            "<HHHIHHI", 1, _ORIENTATION, 3, 1, orientation, 0, 0
        )
        cleaned = (
            cleaned[:2]
            + struct.pack("!BBH", 0xFF, 0xE1, len(exif) + 2)
            + exif
            + cleaned[2:]
        )
    return None if cleaned == content else cleaned


def _turned_content(path: Path, form: str, orientation: int) -> bytes | None:
    """The picture turned and encoded again; None if it is too large, moves, or
    is broken."""
    with _opened(path, form) as image:
        is_large = image.width * image.height > min(
            MAX_PIXELS, _most_pixels(image, form)
        )
        if is_large or getattr(image, "n_frames", 1) > 1:
            return None
        colours = image.info.get("icc_profile")
        try:
            turned = _turned(image, orientation)
        except Exception:
            return None
        turned.info.clear()
        how: dict[str, Any] = {} if form == "PNG" else {"quality": 90}
        if colours:
            how["icc_profile"] = colours
        out = BytesIO()
        turned.save(out, form, **how)
        return out.getvalue()


_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The marker after the data of a scan."""
_START_OF_SCAN: Final = 0xDA
_WITHOUT_LENGTH: Final = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
"""Markers that begin no segment."""
_END_OF_IMAGE: Final = b"\xff\xd9"
_JFIF_BYTES: Final = 18


def _cleaned_jpeg(data: bytes) -> Iterator[bytes]:
    """The parts of a JPEG that make its pixels and colours (ITU T.81 annex B),
    up to its end."""
    yield data[:2]
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            raise ValueError("no marker")
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        marker = data[at + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == _END_OF_IMAGE[1]:
            yield _END_OF_IMAGE
            return
        if marker < 0xC0 or end < at + 4:
            raise ValueError("no segment")
        yield _cleaned_segment(marker, data[at:end])
        at = end
        if marker == _START_OF_SCAN:
            match = _AFTER_SCAN.search(data, at)
            end = match.start() if match else len(data)
            yield data[at:end]
            at = end


def _cleaned_segment(marker: int, segment: bytes) -> bytes:
    name = segment[4:]
    if marker == 0xE0 and name.startswith(b"JFIF\0") and len(segment) >= _JFIF_BYTES:
        # without its thumbnail
        return b"\xff\xe0\0\x10" + segment[4 : _JFIF_BYTES - 2] + b"\0\0"
    needed = marker < 0xE0 or (marker == 0xE2 and name.startswith(b"ICC_PROFILE\0"))
    if needed or (marker == 0xEE and name.startswith(b"Adobe")):
        return segment
    return b""


_PNG_CHUNKS: Final = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI sBIT bKGD hIST pHYs sPLT acTL fcTL "
    b"fdAT".split()
)


def _cleaned_png(data: bytes) -> Iterator[bytes]:
    """The chunks of a PNG that make its pixels and colours (PNG third edition,
    section 11)."""
    yield data[:8]
    at = 8
    while at < len(data):
        name = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if name in _PNG_CHUNKS:
            yield data[at:end]
        if name == b"IEND":
            return
        at = end


_GIF_EXTENSIONS: Final = frozenset({b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"})


def _cleaned_gif(data: bytes) -> Iterator[bytes]:
    """The blocks of a GIF that make its pixels, colours and movement (GIF89a,
    appendix A)."""
    at = 13 + _table_bytes(data[10])
    yield data[:at]
    while at < len(data):
        kind = data[at]
        needed = True
        if kind == 0x21:
            label = data[at + 1]
            end = _end_of_blocks(data, at + 2)
            needed = label in (0xF9, 0x01) or (
                label == 0xFF and data[at + 3 : at + 14] in _GIF_EXTENSIONS
            )
        elif kind == 0x2C:
            end = _end_of_blocks(data, at + 11 + _table_bytes(data[at + 9]))
        else:
            yield b";"
            return
        if needed:
            yield data[at:end]
        at = end


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


_WEBP_CHUNKS: Final = frozenset(
    (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
)
_ANMF_BYTES: Final = 16


def _cleaned_webp(data: bytes) -> Iterator[bytes]:
    """The chunks of a WebP that make its pixels, colours and movement (RFC 9649
    section 2)."""
    content = b"".join(_webp_chunks(data[12 : 8 + int.from_bytes(data[4:8], "little")]))
    yield struct.pack("<4sI4s", b"RIFF", len(content) + 4, b"WEBP") + content


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(data):
        name = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size
        content = data[at + 8 : end]
        at = end + size % 2
        if name not in _WEBP_CHUNKS:
            continue
        if name == b"VP8X":
            # The bits of VP8X that announce EXIF and XMP.
            content = bytes((content[0] & ~0x0C,)) + content[1:]
        elif name == b"ANMF":
            content = content[:_ANMF_BYTES] + b"".join(
                _webp_chunks(content[_ANMF_BYTES:])
            )
        yield (
            struct.pack("<4sI", name, len(content))
            + content
            + b"\0" * (len(content) % 2)
        )


_COUNTED: Final = {
    "JPEG": (MAX_SEGMENTS, _jpeg_segments),
    "PNG": (MAX_CHUNKS, _png_chunks),
}
"""Format → the most parts in front of the pixels, or of a whole file; where
they are."""
_CLEANERS: Final[dict[str, Callable[[bytes], Iterator[bytes]]]] = {
    "JPEG": _cleaned_jpeg,
    "PNG": _cleaned_png,
    "GIF": _cleaned_gif,
    "WEBP": _cleaned_webp,
}


# --- the process --------------------------------------------------------------


def prepare() -> None:
    """Load Pillow."""
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
    """Carry out the orders of standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    os.closerange(3, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prepare()
    decoder = msgspec.json.Decoder(PictureTask)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            picture: Picture | None = look(decoder.decode(line))
        except Exception:  # a broken picture may raise anything in Pillow
            picture = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(msgspec.json.encode(picture))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
