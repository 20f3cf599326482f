"""Thumbnails: small, turned the right way up, without what the camera wrote; and no bomb goes off."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from imserver.services.files.media import MAX_PIXELS, MAX_SCANS, Picture, Thumbnails


@pytest.fixture
def thumbnails() -> Iterator[Thumbnails]:
    one = Thumbnails(100)
    yield one
    one.close()


def saved(path: Path, mode: str, size: tuple[int, int], form: str, **options: object) -> Path:
    Image.new(mode, size, 128 if mode in ("L", "P") else None).save(path, form, **options)
    return path


def test_a_thumbnail_keeps_the_shape_and_its_longer_side_is_the_limit(
    thumbnails: Thumbnails, tmp_path: Path
) -> None:
    for mode, form, kind in (
        ("RGB", "JPEG", "image/jpeg"),
        ("CMYK", "JPEG", "image/jpeg"),
        ("L", "PNG", "image/png"),
        ("P", "GIF", "image/gif"),
        ("RGB", "WEBP", "image/webp"),
    ):
        path = saved(tmp_path / form, mode, (400, 200), form)
        assert thumbnails.look(path, kind, tmp_path / "small") == Picture(400, 200, "image/jpeg")
        with Image.open(tmp_path / "small") as small:
            assert (small.format, small.size) == ("JPEG", (100, 50))


def test_transparent_pixels_stay_transparent(thumbnails: Thumbnails, tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "RGBA", (300, 300), "PNG")
    assert thumbnails.look(path, "image/png", tmp_path / "small") == Picture(300, 300, "image/png")
    with Image.open(tmp_path / "small") as small:
        assert small.convert("RGBA").getpixel((5, 5)) == (0, 0, 0, 0)


def test_a_photograph_that_lies_on_its_side_is_turned_and_reveals_nothing_of_the_camera(
    thumbnails: Thumbnails, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif[0x010F] = "a camera"
    path = saved(tmp_path / "a", "RGB", (400, 200), "JPEG", exif=exif)
    assert thumbnails.look(path, "image/jpeg", tmp_path / "small") == Picture(200, 400, "image/jpeg")
    with Image.open(tmp_path / "small") as small:
        assert small.size == (50, 100)
        assert not small.getexif()
    assert b"a camera" not in (tmp_path / "small").read_bytes()


def test_a_picture_that_would_fill_the_memory_is_measured_only(
    thumbnails: Thumbnails, tmp_path: Path
) -> None:
    def piece(name: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))

    side = 50_000
    assert side * side > MAX_PIXELS
    header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1_000_000))
    path = tmp_path / "bomb"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", content) + piece(b"IEND", b"")
    )
    assert thumbnails.look(path, "image/png", tmp_path / "small") == Picture(side, side)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("kind", "size", "options", "is_made"),
    [
        ("image/jpeg", (200, 190), {}, True),
        ("image/jpeg", (210, 200), {}, False),
        ("image/jpeg", (90, 100), {"progressive": True}, True),
        ("image/jpeg", (200, 190), {"progressive": True}, False),
        ("image/jpeg", (4000, 9), {}, False),  # a line of it is no shorter at an eighth
        ("image/png", (100, 100), {}, True),
        ("image/png", (100, 101), {}, False),
        ("image/png", (50, 100), {"transparency": 0}, True),
        ("image/png", (50, 101), {"transparency": 0}, False),
        ("image/webp", (40, 100), {}, True),
        ("image/webp", (41, 100), {}, False),
    ],
)
def test_formats_that_need_more_memory_have_smaller_limits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    size: tuple[int, int],
    options: dict[str, object],
    is_made: bool,
) -> None:
    for name, pixels in (("", 10_000), ("JPEG_", 40_000), ("WEBP_", 4000), ("FILTERED_", 5000)):
        monkeypatch.setattr(f"imserver.services.files.media.MAX_{name}PIXELS", pixels)
    small, form = Thumbnails(10), kind.removeprefix("image/").upper()
    path = saved(tmp_path / "a", "P" if "transparency" in options else "RGB", size, form, **options)
    found = small.look(path, kind, tmp_path / "small")
    small.close()
    assert found is not None
    assert (found.width, found.height, bool(found.thumbnail)) == (*size, is_made)


def test_a_jpeg_with_a_scan_per_colour_is_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imserver.services.files.media.MAX_PIXELS", 10_000)
    path = saved(tmp_path / "a", "RGB", (200, 190), "JPEG")
    content = path.read_bytes()
    at = content.index(b"\xff\xda\x00\x0c\x03")
    # A scan of the brightness only; those of the colours would follow.
    path.write_bytes(content[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00?\x00" + content[at + 14 :])
    small = Thumbnails(10)
    assert small.look(path, "image/jpeg", tmp_path / "small") == Picture(200, 190)
    small.close()


def test_a_jpeg_that_goes_over_itself_very_often_is_measured_only(
    thumbnails: Thumbnails, tmp_path: Path
) -> None:
    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack("!BBH", 0xFF, marker, len(data) + 2) + data

    side = 1000
    head = b"\xff\xd8" + segment(0xDB, bytes(1) + b"\1" * 64)
    head += segment(0xC2, struct.pack("!BHHB", 8, side, side, 1) + b"\1\x11\0")
    # One code each: no difference of brightness, and nothing in the next 32,767 blocks.
    head += b"".join(
        segment(0xC4, kind + b"\1" + bytes(15) + code) for kind, code in ((b"\0", b"\0"), (b"\x10", b"\xe0"))
    )
    scan = segment(0xDA, b"\1\1\0\1?\0") + b"\x7f\xff\0\x7f\xff\0"
    path = tmp_path / "a"
    for scans, kind in ((MAX_SCANS, "image/jpeg"), (MAX_SCANS + 1, "")):
        path.write_bytes(head + scan * scans + b"\xff\xd9")
        assert thumbnails.look(path, "image/jpeg", tmp_path / "small") == Picture(side, side, kind)


def test_of_a_jpeg_with_several_pictures_the_first_is_shown(thumbnails: Thumbnails, tmp_path: Path) -> None:
    first, second = Image.new("RGB", (400, 200)), Image.new("RGB", (100, 100))
    first.save(tmp_path / "a", "MPO", save_all=True, append_images=[second])
    found = thumbnails.look(tmp_path / "a", "image/jpeg", tmp_path / "small")
    assert found == Picture(400, 200, "image/jpeg")


def test_a_large_picture_takes_no_more_memory_than_twice_its_pixels(tmp_path: Path) -> None:
    Image.new("RGBA", (4000, 4000), (9, 99, 9, 99)).save(tmp_path / "a", "PNG", compress_level=1)
    run = subprocess.run(
        [sys.executable, "-c", WEIGHED, str(tmp_path / "a"), str(tmp_path / "small")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 150_000, "KiB"


WEIGHED = """
import sys
from pathlib import Path
from imserver.services.files.media import Thumbnails

def highest():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

path, small = map(Path, sys.argv[1:])
one = Thumbnails(100)
one.look(Path(sys.executable), "image/png", small)
before = highest()
assert one.look(path, "image/png", small).thumbnail
print(highest() - before)
"""


def test_a_file_that_only_begins_like_a_picture_is_none(thumbnails: Thumbnails, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for kind, head in (("image/png", b"\x89PNG\r\n\x1a\n"), ("image/jpeg", b"\xff\xd8\xff")):
        path.write_bytes(head + b"<html><script>alert(1)</script></html>")
        assert thumbnails.look(path, kind, tmp_path / "small") is None
    saved(path, "RGB", (10, 10), "PNG")
    assert thumbnails.look(path, "image/jpeg", tmp_path / "small") is None  # only what it was taken for


def test_a_picture_that_is_cut_off_has_its_measures_and_no_thumbnail(
    thumbnails: Thumbnails, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    Image.effect_noise((200, 200), 80).convert("RGB").save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-5000])
    assert thumbnails.look(path, "image/png", tmp_path / "small") == Picture(200, 200)
    assert not (tmp_path / "small").exists()


def test_without_a_size_none_is_made(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "RGB", (40, 20), "PNG")
    plain = Thumbnails(0)
    assert plain.look(path, "image/png", tmp_path / "small") == Picture(40, 20)
    plain.close()
