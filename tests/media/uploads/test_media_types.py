"""What a file is, by how it begins."""

import pytest

from imserver.media.uploads.media import UNKNOWN, MediaType, type_of

OGG = b"OggS\x00\x02" + bytes(20) + b"\x01\x13"
WEBM = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm"


@pytest.mark.parametrize(
    ("head", "kind", "name"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "picture", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "picture", "image/png"),
        (b"GIF89a", "picture", "image/gif"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "picture", "image/webp"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "voice", "audio/wav"),
        (b"#!AMR\n\x3c", "voice", "audio/amr"),
        (b"#!AMR-WB\n", "voice", "audio/amr"),
        (OGG + b"OpusHead\x01", "voice", "audio/ogg"),
        (OGG + b"\x01vorbis", "voice", "audio/ogg"),
        (OGG + b"\x80theora", "video", "video/ogg"),
        (b"fLaC\x00", "voice", "audio/flac"),
        (b"ID3\x03\x00", "voice", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "voice", "audio/mpeg"),
        (b"\xff\xf1\x50\x80", "voice", "audio/aac"),
        (WEBM + bytes(40) + b"V_VP8 A_OPUS", "video", "video/webm"),
        (WEBM + bytes(40) + b"A_OPUS", "voice", "audio/webm"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00", "video", "video/mp4"),
        (b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00", "voice", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypqt  \x00\x00\x02\x00", "video", "video/quicktime"),
        (b"\x00\x00\x00\x20ftyp3gp4\x00\x00\x02\x00", "video", "video/3gpp"),
        (b"%PDF-1.7", "file", "application/pdf"),
        (b"PK\x03\x04", "file", "application/zip"),
        *(
            (head, UNKNOWN.kind, UNKNOWN.type)  # a file that no browser shows
            for head in (
                b"",
                b"\x00",
                b"hello",
                b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
                b"<!DOCTYPE html><script>alert(1)</script>",
                b" GIF89a",
                b"\x89PNG\n\x1a\n",
                b"RIFF\x24\x00\x00\x00XXXX",
                b"\xff\xfe<\x00h\x00t\x00m\x00l\x00",
                b"\x00\x00\x00\x20ftypheic",
            )
        ),
    ],
)
def test_a_format_is_recognised_by_its_first_bytes(head: bytes, kind: str, name: str) -> None:
    assert type_of(head) == MediaType(kind, name)
