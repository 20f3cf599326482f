"""What a file is, by how it begins. Its name, and what its sender says, count for nothing.

Only formats that browsers and phones play are told apart; everything else is a ``file``, which nobody's
browser is to show as a page. Formats that can carry scripts (HTML, SVG) are among those.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

HEAD_BYTES: Final = 4096
"""As much of a file as is looked at."""


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
    """Whether a WebM file, as browsers record voice, names a codec of sound and none of pictures."""
    return bool(re.search(rb"A_(OPUS|VORBIS)", head)) and b"V_" not in head
