"""ISO media files lose places and devices, and nothing else, wherever these
stand."""

import random
from pathlib import Path
from struct import pack

import pytest

from imserver.media.uploads.boxes import MAX_BOXES, clear_metadata
from imserver.media.uploads.media import UNKNOWN, MediaType, type_of

SPOT = b"GPS 52.5200 +13.4050"
XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


def box(kind: bytes, *content: bytes) -> bytes:
    joined = b"".join(content)
    return pack(">I4s", len(joined) + 8, kind) + joined


def handler(kind: bytes) -> bytes:
    return box(b"hdlr", bytes(8), kind, bytes(13))


def heic(brand: bytes, item: bytes, in_idat: bool = False, version: int = 2) -> bytes:
    """A picture whose second item is metadata."""
    infos = [
        box(b"infe", b"\x02\0\0\0", pack(">HH4s", number, 0, kind), b"\0")
        for number, kind in ((1, b"hvc1"), (2, item))
    ]
    iinf = box(b"iinf", bytes(4), pack(">H", 2), *infos)

    def meta(at: int) -> bytes:
        wide = ">I" if version == 2 else ">H"
        method = pack(">H", int(in_idat)) if version else b""
        where = 0 if in_idat else at + len(b"pixels")
        extents = [
            pack(wide, number)
            + (method if number == 2 else method and bytes(2))
            + pack(">HH", 0, 1)
            + pack(">II", start, size)
            for number, start, size in ((1, at, 6), (2, where, len(SPOT)))
        ]
        iloc = box(b"iloc", bytes((version, 0, 0, 0, 0x44, 0)), pack(wide, 2), *extents)
        idat = box(b"idat", SPOT) if in_idat else b""
        return box(b"meta", bytes(4), handler(b"pict"), iinf, iloc, idat)

    head = box(b"ftyp", brand, bytes(4))
    return (
        head
        + meta(len(head) + len(meta(0)) + 8)
        + box(b"mdat", b"pixels", b"" if in_idat else SPOT)
    )


def quicktime(*content: bytes) -> bytes:
    return (
        box(b"ftyp", b"qt  ", bytes(4))
        + box(b"mdat", b"pixels")
        + box(b"moov", *content)
    )


FILES = {
    "heic": heic(b"heic", b"Exif"),
    "heic with xmp": heic(b"mif1", b"mime"),
    "avif, in idat": heic(b"avif", b"Exif", in_idat=True),
    "version 0": heic(b"heic", b"Exif", version=0),
    "version 1": heic(b"heic", b"Exif", version=1),
    "video of Android": quicktime(box(b"udta", box(b"\xa9xyz", SPOT))),
    "3gpp": quicktime(box(b"trak", box(b"udta", box(b"loci", SPOT)))),
    "video of iPhone": quicktime(
        box(b"meta", handler(b"mdta"), box(b"keys", bytes(8)), box(b"ilst", SPOT))
    ),
    "keys of MP4": quicktime(
        box(b"udta", box(b"meta", bytes(4), handler(b"mdta"), box(b"ilst", SPOT)))
    ),
    "xmp": box(b"ftyp", b"isom") + box(b"uuid", XMP, SPOT),
}


@pytest.mark.parametrize("name", FILES)
def test_places_are_overwritten_and_all_else_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    content = FILES[name]
    path.write_bytes(content)
    assert clear_metadata(path)
    cleaned = path.read_bytes()
    assert (b"GPS" not in cleaned and b"pixels" in cleaned) or name == "xmp"
    blank = content.replace(SPOT, bytes(len(SPOT))).replace(XMP, bytes(16))
    assert cleaned == blank
    assert not clear_metadata(path)


def test_titles_of_music_and_other_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    song = quicktime(
        box(
            b"udta",
            box(b"meta", bytes(4), handler(b"mdir"), box(b"ilst", b"the title")),
        )
    )
    for content in (song, b"no boxes", b"\0\0\0\x08ftyp"):
        path.write_bytes(content)
        assert not clear_metadata(path)
        assert path.read_bytes() == content


def test_broken_boxes_raise_nothing_and_many_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seeded = random.Random(7)
    for _ in range(500):
        content = bytearray(seeded.choice(list(FILES.values())))
        for _ in range(3):
            content[seeded.randrange(8, len(content))] = seeded.randrange(256)
        path.write_bytes(content[: seeded.randrange(9, len(content))])
        clear_metadata(path)
    path.write_bytes(
        quicktime(*[box(b"udta")] * (2 * MAX_BOXES), box(b"\xa9xyz", SPOT))
    )
    assert not clear_metadata(path)
    nested = box(b"moov")
    for _ in range(2000):
        nested = box(b"moov", nested)
    path.write_bytes(quicktime(nested))
    assert not clear_metadata(path)


def test_items_without_pieces_count_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = heic(b"heic", b"Exif")
    iloc = content[content.index(b"iloc") - 4 : content.index(b"mdat") - 4]
    empty = pack(">IHHH", 9, 0, 0, 0) * MAX_BOXES
    many = (
        pack(">I", len(iloc) + len(empty))
        + iloc[4:14]
        + pack(">I", MAX_BOXES + 2)
        + empty
        + iloc[18:]
    )
    changed = content.replace(iloc, many)
    meta = content.index(b"meta") - 4
    size = int.from_bytes(content[meta : meta + 4], "big") + len(empty)
    path.write_bytes(changed[:meta] + pack(">I", size) + changed[meta + 4 :])
    assert not clear_metadata(path)


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
        (OGG + b"OpusHead\x01", "voice", "audio/ogg"),
        (OGG + b"\x80theora", "video", "video/ogg"),
        (b"ID3\x03\x00", "voice", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "voice", "audio/mpeg"),
        (b"\xff\xf1\x50\x80", "voice", "audio/aac"),
        (WEBM + bytes(40) + b"V_VP8 A_OPUS", "video", "video/webm"),
        (WEBM + bytes(40) + b"A_OPUS", "voice", "audio/webm"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00", "video", "video/mp4"),
        (b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00", "voice", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypqt  \x00\x00\x02\x00", "video", "video/quicktime"),
        (b"%PDF-1.7", "file", "application/pdf"),
        (b"PK\x03\x04", "file", "application/zip"),
        *(
            (head, UNKNOWN.kind, UNKNOWN.type)  # a file that no browser shows
            for head in (
                b"",
                b"\x00",
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
def test_a_format_is_recognised_by_its_first_bytes(
    head: bytes, kind: str, name: str
) -> None:
    assert type_of(head) == MediaType(kind, name)
