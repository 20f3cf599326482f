"""Media types, read from the first bytes of a file, and thumbnails.

The name of the file and the type given by the sender are ignored. Only formats that browsers and phones play
are recognised. Every other file, also HTML and SVG with their scripts, has the type ``file``, which no
browser shows as a page.

Pillow makes thumbnails in one native thread, one at a time. Pictures are untrusted: only known formats are
read, the size is checked before anything is decoded, and a picture that needs too much memory gets no
thumbnail.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from io import SEEK_CUR
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gevent
from msgspec import Struct

from imserver.storage.media import open_private

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool
    from PIL.Image import Image


HEAD_BYTES: Final = 4096
"""Number of bytes of a file that are examined."""


class MediaType(Struct, frozen=True):
    """A format: its kind (``picture``, ``voice``, ``video``, ``file``) and media type."""

    kind: str
    type: str


UNKNOWN: Final = MediaType("file", "application/octet-stream")

_BEGINNINGS: Final = tuple(
    (re.compile(pattern, re.DOTALL), MediaType(kind, name))
    for pattern, kind, name in (
        (rb"\xff\xd8\xff", "picture", "image/jpeg"),
        (rb"\x89PNG\r\n\x1a\n", "picture", "image/png"),
        (rb"GIF8[79]a", "picture", "image/gif"),
        (rb"RIFF....WEBPVP8[ LX]", "picture", "image/webp"),
        (rb"RIFF....WAVE", "voice", "audio/wav"),
        (rb"#!AMR(-WB)?\n", "voice", "audio/amr"),
        (rb"OggS.{24,280}\x01vorbis|OggS.{24,280}OpusHead|OggS.{24,280}Speex", "voice", "audio/ogg"),
        (rb"OggS.{24,280}\x80theora", "video", "video/ogg"),
        (rb"fLaC", "voice", "audio/flac"),
        (rb"ID3[\x02-\x04]", "voice", "audio/mpeg"),
        (rb"\xff[\xf2\xf3\xfa\xfb][^\x00-\x0f\xf0-\xff]", "voice", "audio/mpeg"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "voice", "audio/aac"),
        (rb"\x1a\x45\xdf\xa3.{0,64}\x42\x82.webm", "video", "video/webm"),
        (rb"\x1a\x45\xdf\xa3.{0,64}\x42\x82.matroska", "video", "video/x-matroska"),
        (rb"....ftyp(M4A |M4B )", "voice", "audio/mp4"),
        (rb"....ftyp(qt  )", "video", "video/quicktime"),
        (rb"....ftyp(3g[eghp2])", "video", "video/3gpp"),
        (rb"....ftyp(isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4|MSNV|f4v )", "video", "video/mp4"),
        (rb"%PDF-", "file", "application/pdf"),
        (rb"PK\x03\x04|PK\x05\x06", "file", "application/zip"),
    )
)


def type_of(head: bytes) -> MediaType:
    """The format of a file that begins with ``head``, its first :data:`HEAD_BYTES`."""
    for pattern, found in _BEGINNINGS:
        if pattern.match(head):
            if found.type == "video/webm" and _has_only_sound(head):
                return MediaType("voice", "audio/webm")
            return found
    return UNKNOWN


def _has_only_sound(head: bytes) -> bool:
    """Whether a WebM file, as browsers record voice, names an audio codec and no video codec."""
    return bool(re.search(rb"A_(OPUS|VORBIS)", head)) and b"V_" not in head


MAX_PIXELS: Final = 16_000_000
"""Pixel limit of a picture that must be decoded whole: 64 MB, and as much again while it is scaled down."""
MAX_JPEG_PIXELS: Final = 64_000_000
"""Pixel limit of a JPEG that can be decoded at an eighth of its size. Progressive JPEGs are decoded whole."""
MAX_WEBP_PIXELS: Final = 6_000_000
"""Pixel limit of a WebP. Its decoder holds five copies."""
MAX_FILTERED_PIXELS: Final = 8_000_000
"""Pixel limit of a picture with a transparent colour, which is first converted to transparent pixels."""
MAX_SCANS: Final = 100
"""Limit of the scans of a JPEG: each processes the whole picture once more, and may have only 35 bytes."""
_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF", "image/webp": "WEBP"}
_MODULES: Final = (
    "PIL.ImageOps",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.WebPImagePlugin",
)
_ORIENTATION: Final = 0x0112
_TURNED: Final = range(5, 9)
_QUALITY: Final = 80
_CLOSE_SECONDS: Final = 1.0


class Picture(Struct, frozen=True):
    """Width and height of a picture as displayed. ``thumbnail``: the media type of its thumbnail."""

    width: int
    height: int
    thumbnail: str = ""


class Thumbnails:
    """Owner of the thread. ``pixels``: the longer side of a thumbnail; 0: none are made."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._pool: ThreadPool | None = None

    def look(self, path: Path, kind: str, target: Path) -> Picture | None:
        """Measure the picture at ``path``, of media type ``kind``, and write its thumbnail to ``target``.

        Returns None if the file is not a readable picture. Switches.
        """
        if self._pool is None:
            # Imported on first use, because it costs 5 MB. All of it is imported in the thread of the loop,
            # because threads that import may wait for each other.
            for name in _MODULES:
                import_module(name)
            images: Any = import_module("PIL.Image")
            images.MAX_IMAGE_PIXELS = None  # this module has its own limits
            from gevent.threadpool import ThreadPool

            self._pool = ThreadPool(1)

        def work() -> Picture | None:
            try:
                return _look(path, _FORMATS[kind], target, self._pixels)
            except Exception:  # a broken picture may raise anything in Pillow
                return None

        return self._pool.spawn(work).get()

    def close(self) -> None:
        """Stop the thread. A thread at work ends with the process."""
        if self._pool is not None:
            with suppress(TimeoutError), gevent.Timeout(_CLOSE_SECONDS, TimeoutError):
                self._pool.kill()


def _look(path: Path, form: str, target: Path, pixels: int) -> Picture | None:
    with _opened(path, form) as image:
        width, height = image.size
        turned = form == "JPEG" and image.getexif().get(_ORIENTATION, 1) in _TURNED
        shown = (height, width) if turned else (width, height)
        if not pixels or width * height > _most_pixels(image, form):
            return Picture(*shown)
        image.draft("RGB", (pixels * 2, pixels * 2))
        if image.width * image.height > MAX_PIXELS:  # long and low: it cannot be decoded any smaller
            return Picture(*shown)
        try:
            return Picture(*shown, _write(image, pixels, target))
        except Exception:  # truncated, or broken after its header: the decoded part is used
            target.unlink(missing_ok=True)
            return Picture(*shown)


def _opened(path: Path, form: str) -> Image:
    if form == "JPEG":
        # Opened by its class: ``Image.open`` would try other formats too.
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(path)
    from PIL.Image import open as open_image

    return open_image(path, formats=(form,))


def _most_pixels(image: Image, form: str) -> int:
    """The pixel limit of a picture, by its format."""
    if form == "JPEG":
        if _is_one_scan(image):
            return MAX_JPEG_PIXELS
        return 0 if _has_many_scans(image) else MAX_PIXELS
    if form == "WEBP":
        return MAX_WEBP_PIXELS
    return MAX_FILTERED_PIXELS if "transparency" in image.info else MAX_PIXELS


def _is_one_scan(image: Any) -> bool:
    """Whether the first scan of a JPEG has all components, so that the decoder can work line by line (ITU
    T.81 section B.2.3). Pillow's position is after the header of that scan.
    """
    size = 6 + 2 * image.layers
    image.fp.seek(-size, SEEK_CUR)
    header: bytes = image.fp.read(size)
    return "progressive" not in image.info and header[:3] == bytes((0, size, image.layers))


def _has_many_scans(image: Any) -> bool:
    """Whether a JPEG has too many scans. The bytes of a scan's marker occur nowhere else."""
    with mmap(image.fp.fileno(), 0, access=ACCESS_READ) as content:
        at = -1
        for _ in range(MAX_SCANS + 1):
            at = content.find(b"\xff\xda", at + 1)
            if at < 0:
                return False
    return True


def _write(image: Image, pixels: int, target: Path) -> str:
    """Write a thumbnail that contains only pixels. Return its media type."""
    from PIL import ImageOps

    clear = image.has_transparency_data
    wanted = "RGBA" if clear else "RGB"
    # Scaled down first, so that at most two copies of the large picture exist.
    small = image if image.mode in ("L", wanted) else image.convert(wanted)
    small.thumbnail((pixels, pixels))
    small = ImageOps.exif_transpose(small).convert(wanted)
    small.info.clear()
    if clear:
        with open_private(target) as file:
            small.save(file, "PNG", optimize=True)
        return "image/png"
    with open_private(target) as file:
        small.save(file, "JPEG", quality=_QUALITY)
    return "image/jpeg"
