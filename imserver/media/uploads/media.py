"""Media types, read from the first bytes of a file, and the process that reads
pictures.

The name of the file and the type given by the sender are ignored. Only formats
that browsers and phones play are recognised. Every other file, including HTML
and SVG with their scripts, has the type ``file``, which no browser shows as a
page.

Pictures are untrusted. So a process of its own decodes them, one at a time, with limits of memory and time:
:mod:`imserver.media.uploads.pictures`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from imserver.media.uploads.worker import Worker

if TYPE_CHECKING:
    from imserver.media.uploads.pictures import Picture

HEAD_BYTES: Final = 4096
"""The number of bytes of a file that are examined."""


class MediaType(Struct, frozen=True):
    """A format: its kind (``picture``, ``voice``, ``video``, ``file``) and
    media type."""

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
        (
            rb"OggS.{24,280}\x01vorbis|OggS.{24,280}OpusHead|OggS.{24,280}Speex",
            "voice",
            "audio/ogg",
        ),
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
        (
            rb"....ftyp(isom|iso[2-9]|mp4[12]|avc1|M4V |dash|mmp4|MSNV|f4v )",
            "video",
            "video/mp4",
        ),
        (rb"%PDF-", "file", "application/pdf"),
        (rb"PK\x03\x04|PK\x05\x06", "file", "application/zip"),
    )
)


def type_of(head: bytes) -> MediaType:
    """The format of a file, by its first :data:`HEAD_BYTES`.

    A file of an unknown format has :data:`UNKNOWN`. The name of the file does
    not matter.
    """
    for pattern, media in _BEGINNINGS:
        if pattern.match(head):
            # Browsers record voice as WebM that names an audio codec and no
            # video codec.
            has_sound = media.type == "video/webm" and re.search(
                rb"A_(OPUS|VORBIS)", head
            )
            if has_sound and b"V_" not in head:
                return MediaType("voice", "audio/webm")
            return media
    return UNKNOWN


_ANSWER_BYTES: Final = 4096
"""Longest answer of the process."""
WORK_SECONDS: Final = 60.0
"""Time limit for one picture, which may have ``pictures.CPU_SECONDS`` of CPU
time."""


class PictureWorker(Worker):
    """The process that reads pictures, and makes thumbnails of them.

    ``pixels``: the longer side of a thumbnail; 0: no thumbnails.
    """

    def __init__(self, pixels: int) -> None:
        program = str(Path(__file__).with_name("pictures.py"))
        super().__init__(program, _ANSWER_BYTES)
        self.pixels = pixels

    def process(
        self,
        path: Path,
        kind: str,
        target: Path,
        cleaned: Path,
        app: str = "",
        user: str = "",
    ) -> Picture | None:
        """Measure the picture at ``path``, of media type ``kind``, and write
        its thumbnail to ``target``.

        If the picture must be turned or has metadata, the upright picture
        without metadata is written to ``cleaned``. ``app``, ``user``: the
        owner; the pictures of several users are read in turn. Returns None if
        the file is not a readable picture. Raises TooCostly. Switches
        greenlets.
        """
        # Loaded with the first picture, to save the memory of the module of the
        # process.
        from imserver.media.uploads.pictures import Picture, PictureTask

        task = msgspec.json.encode(
            PictureTask(str(path), kind, str(target), str(cleaned), self.pixels)
        )
        answer = self.run(task, app, user, WORK_SECONDS)
        if answer:
            return msgspec.json.decode(answer, type=Picture | None)
        return None
