"""Thumbnails: small, turned the right way up, without what the camera wrote; and no bomb goes off."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from imserver.services.files.thumbnails import MAX_PIXELS, Picture, Thumbnails


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


def test_what_is_clear_stays_clear(thumbnails: Thumbnails, tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "RGBA", (300, 300), "PNG")
    assert thumbnails.look(path, "image/png", tmp_path / "small") == Picture(300, 300, "image/png")
    with Image.open(tmp_path / "small") as small:
        assert small.convert("RGBA").getpixel((5, 5)) == (0, 0, 0, 0)


def test_a_photograph_that_lies_on_its_side_is_turned_and_tells_nothing_of_the_camera(
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


def test_what_only_begins_like_a_picture_is_none(thumbnails: Thumbnails, tmp_path: Path) -> None:
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
