"""Pictures: upright, without what the camera wrote, with a thumbnail; and no
bomb goes off."""

import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import msgspec
import pytest
from gevent.event import Event as Flag
from PIL import Image, ImageChops, ImageOps, ImageStat
from PIL.PngImagePlugin import PngInfo

from imserver.media.uploads import pictures
from imserver.media.uploads.media import PictureWorker
from imserver.media.uploads.pictures import (
    MAX_CHUNKS,
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
    Picture,
    PictureTask,
)
from imserver.media.uploads.worker import TooCostly, Turns


def look(path: Path, kind: str, small: Path, pixels: int = 100) -> Picture | None:
    """What the process would answer."""
    pictures.prepare()
    try:
        return pictures.process(
            PictureTask(str(path), kind, str(small), f"{path}.cleaned", pixels)
        )
    except Exception:
        return None


def saved(
    path: Path, mode: str, size: tuple[int, int], form: str, **options: object
) -> Path:
    Image.new(mode, size, 128 if mode in ("L", "P") else None).save(
        path, form, **options
    )
    return path


def test_a_thumbnail_keeps_the_shape_and_its_longer_side_is_the_limit(
    tmp_path: Path,
) -> None:
    for mode, form, kind in (
        ("RGB", "JPEG", "image/jpeg"),
        ("CMYK", "JPEG", "image/jpeg"),
        ("L", "PNG", "image/png"),
        ("P", "GIF", "image/gif"),
        ("RGB", "WEBP", "image/webp"),
    ):
        path = saved(tmp_path / form, mode, (400, 200), form)
        assert look(path, kind, tmp_path / "small") == Picture(400, 200, "image/jpeg")
        with Image.open(tmp_path / "small") as small:
            assert (small.format, small.size) == ("JPEG", (100, 50))
        assert look(path, kind, tmp_path / "small", 0) == Picture(400, 200)
    # transparent pixels stay so
    path = saved(tmp_path / "a", "RGBA", (300, 300), "PNG")
    assert look(path, "image/png", tmp_path / "small") == Picture(300, 300, "image/png")
    with Image.open(tmp_path / "small") as small:
        assert small.convert("RGBA").getpixel((5, 5)) == (0, 0, 0, 0)
    # the first is shown
    first = Image.new("RGB", (400, 200))
    second = Image.new("RGB", (100, 100))
    first.save(tmp_path / "a", "MPO", save_all=True, append_images=[second])
    found = look(tmp_path / "a", "image/jpeg", tmp_path / "small")
    assert found == Picture(400, 200, "image/jpeg", cleaned=True), (
        "the second one is removed"
    )


def test_a_picture_that_would_fill_the_memory_is_measured_only(tmp_path: Path) -> None:
    def piece(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack("!I", len(data))
            + name
            + data
            + struct.pack("!I", zlib.crc32(name + data))
        )

    side = 50_000
    assert side * side > MAX_PIXELS
    header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1_000_000))
    path = tmp_path / "bomb"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + piece(b"IHDR", header)
        + piece(b"IDAT", content)
        + piece(b"IEND", b"")
    )
    assert look(path, "image/png", tmp_path / "small") == Picture(side, side)
    assert not (tmp_path / "small").exists()


@pytest.fixture
def low_limits(constants: Callable[..., None]) -> None:
    constants(
        pictures,
        MAX_PIXELS=10_000,
        MAX_JPEG_PIXELS=40_000,
        MAX_WEBP_PIXELS=4000,
        MAX_FILTERED_PIXELS=5000,
    )


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize(
    ("kind", "size", "options", "has_thumbnail"),
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
    kind: str,
    size: tuple[int, int],
    options: dict[str, object],
    has_thumbnail: bool,
) -> None:
    form = kind.removeprefix("image/").upper()
    path = saved(
        tmp_path / "a",
        "P" if "transparency" in options else "RGB",
        size,
        form,
        **options,
    )
    found = look(path, kind, tmp_path / "small", 10)
    assert (found.width, found.height, bool(found.thumbnail)) == (*size, has_thumbnail)


@pytest.mark.usefixtures("low_limits")
def test_a_jpeg_with_a_scan_per_colour_is_decoded_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "RGB", (200, 190), "JPEG")
    content = path.read_bytes()
    at = content.index(b"\xff\xda\x00\x0c\x03")
    # A scan of the brightness only; those of the colours would follow.
    path.write_bytes(
        content[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00?\x00" + content[at + 14 :]
    )
    assert look(path, "image/jpeg", tmp_path / "small", 10) == Picture(200, 190)


def test_a_jpeg_that_goes_over_itself_very_often_is_measured_only(
    tmp_path: Path,
) -> None:
    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack("!BBH", 0xFF, marker, len(data) + 2) + data

    side = 1000
    head = b"\xff\xd8" + segment(0xDB, bytes(1) + b"\1" * 64)
    head += segment(0xC2, struct.pack("!BHHB", 8, side, side, 1) + b"\1\x11\0")
    # One code each: no difference of brightness, and nothing in the next 32,767
    # blocks.
    head += b"".join(
        segment(0xC4, kind + b"\1" + bytes(15) + code)
        for kind, code in ((b"\0", b"\0"), (b"\x10", b"\xe0"))
    )
    scan = segment(0xDA, b"\1\1\0\1?\0") + b"\x7f\xff\0\x7f\xff\0"
    path = tmp_path / "a"
    for scans, kind in ((MAX_SCANS, "image/jpeg"), (MAX_SCANS + 1, "")):
        path.write_bytes(head + scan * scans + b"\xff\xd9")
        assert look(path, "image/jpeg", tmp_path / "small") == Picture(side, side, kind)


WEIGHED = """
import sys
from pathlib import Path
from imserver.media.uploads import pictures

def highest():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

path, small = sys.argv[1:]
pictures.prepare()
before = highest()
assert pictures.process(pictures.PictureTask(path, "image/png", small, path + ".c", 100)).thumbnail
print(highest() - before)
"""


@pytest.mark.full("load")
def test_a_large_picture_takes_no_more_memory_than_twice_its_pixels(
    tmp_path: Path,
) -> None:
    Image.new("RGBA", (4000, 4000), (9, 99, 9, 99)).save(
        tmp_path / "a", "PNG", compress_level=1
    )
    run = subprocess.run(
        [sys.executable, "-c", WEIGHED, str(tmp_path / "a"), str(tmp_path / "small")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 150_000, "KiB"


def test_a_file_that_only_begins_like_a_picture_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    Image.effect_noise((200, 200), 80).convert("RGB").save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-5000])
    assert look(path, "image/png", tmp_path / "small") == Picture(200, 200), (
        "it is cut off"
    )
    assert not (tmp_path / "small").exists()
    for kind, head in (
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("image/jpeg", b"\xff\xd8\xff"),
    ):
        path.write_bytes(head + b"<html><script>alert(1)</script></html>")
        assert look(path, kind, tmp_path / "small") is None
    saved(path, "RGB", (10, 10), "PNG")
    # only what it was taken for
    assert look(path, "image/jpeg", tmp_path / "small") is None


# --- metadata -----------------------------------------------------------------

SECRET = b"N 48.8584, E 2.2945"
PROFILE = b"a colour profile that stays"


def exif_of(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    return exif


def halves(size: tuple[int, int] = (80, 40)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    return image


def png_text() -> PngInfo:
    texts = PngInfo()
    texts.add_text("Comment", SECRET.decode())
    texts.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    return texts


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"exif": exif_of(), "comment": SECRET, "icc_profile": PROFILE}),
        ("JPEG", {"xmp": SECRET, "progressive": True, "icc_profile": PROFILE}),
        ("PNG", {"exif": exif_of(), "pnginfo": png_text(), "icc_profile": PROFILE}),
        ("WEBP", {"exif": exif_of(), "xmp": SECRET, "icc_profile": PROFILE}),
        ("GIF", {"comment": SECRET}),
        (
            "GIF",
            {
                "comment": SECRET,
                "save_all": True,
                "append_images": [Image.new("RGB", (80, 40))],
            },
        ),
        (
            "WEBP",
            {
                "xmp": SECRET,
                "save_all": True,
                "append_images": [Image.new("RGB", (80, 40))],
            },
        ),
    ],
)
def test_metadata_is_removed_and_no_pixel_changes(
    tmp_path: Path, form: str, options: dict[str, object]
) -> None:
    path = tmp_path / "a"
    cleaned = tmp_path / "a.cleaned"
    halves().save(path, form, **options)
    path.write_bytes(path.read_bytes() + SECRET)  # behind its end, as cameras do
    kind = f"image/{form.lower()}"
    found = look(path, kind, tmp_path / "small")
    assert (found.width, found.height, found.cleaned) == (80, 40, True)
    content = cleaned.read_bytes()
    assert SECRET not in content
    assert (PROFILE in content or form == "PNG") == (
        "icc_profile" in options or form == "PNG"
    )
    with Image.open(path) as before, Image.open(cleaned) as after:
        assert after.info.get("icc_profile") == options.get("icc_profile")
        frames = getattr(before, "n_frames", 1)
        assert getattr(after, "n_frames", 1) == frames
        for number in range(frames):
            before.seek(number)
            after.seek(number)
            assert before.convert("RGBA").tobytes() == after.convert("RGBA").tobytes()
    again = look(cleaned, kind, tmp_path / "small")
    assert not again.cleaned, "nothing is left to be removed"


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(
    ("form", "kind"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")],
)
def test_a_picture_is_turned_as_its_camera_was_held(
    tmp_path: Path, form: str, kind: str, orientation: int
) -> None:
    path = tmp_path / "a"
    cleaned = tmp_path / "a.cleaned"
    corners = halves()
    corners.paste("white", (0, 0, 20, 20))
    options: dict[str, object] = {
        "icc_profile": PROFILE,
        "exif": exif_of(orientation),
        "quality": 95,
    }
    corners.save(path, form, **options)
    found = look(path, f"image/{form.lower()}", tmp_path / "small")
    with Image.open(path) as image:
        wanted = ImageOps.exif_transpose(image).convert("RGB")
    assert found == Picture(*wanted.size, "image/jpeg", cleaned=True)
    with Image.open(cleaned) as image:
        assert not image.getexif()
        assert image.info["icc_profile"] == PROFILE
        shown = image.convert("RGB")
    assert shown.size == wanted.size
    apart = ImageChops.difference(shown, wanted)
    assert ImageStat.Stat(apart).mean < [6, 6, 6]
    with Image.open(tmp_path / "small") as small:
        assert ImageStat.Stat(
            ImageChops.difference(small.convert("RGB"), wanted)
        ).mean < [6, 6, 6]
    for path in (cleaned, tmp_path / "small"):
        assert SECRET not in path.read_bytes()


@pytest.mark.usefixtures("low_limits")
def test_a_jpeg_that_is_too_large_to_be_turned_keeps_its_orientation_only(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    cleaned = tmp_path / "a.cleaned"
    halves((202, 50)).save(path, "JPEG", exif=exif_of(6))
    found = look(path, "image/jpeg", tmp_path / "small", 0)
    assert found == Picture(50, 202, cleaned=True)
    with Image.open(cleaned) as image:
        assert dict(image.getexif()) == {0x0112: 6}
    assert SECRET not in cleaned.read_bytes()


# --- the process --------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[PictureWorker]:
    one = PictureWorker(100)
    yield one
    one.close()


def test_the_process_reads_one_picture_after_another_and_is_started_again(
    worker: PictureWorker, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a", "RGB", (400, 200), "JPEG", exif=exif_of())
    wanted = Picture(400, 200, "image/jpeg", cleaned=True)
    greenlets = [
        gevent.spawn(worker.process, path, "image/jpeg", tmp_path / "t", tmp_path / "c")
        for _ in range(3)
    ]
    assert [each.get() for each in greenlets] == [wanted] * 3
    pid = worker.pid
    gevent.sleep(0)
    assert worker.process(path, "image/jpeg", tmp_path / "t", tmp_path / "c") == wanted
    assert worker.pid == pid
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.process(path, "image/jpeg", tmp_path / "t", tmp_path / "c") == wanted
    path.write_bytes(b"\xff\xd8\xff no picture")
    assert worker.process(path, "image/jpeg", tmp_path / "t", tmp_path / "c") is None
    pid = worker.pid
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_picture_that_takes_too_long_or_costs_too_much_ends_the_process_and_is_not_tried_again(
    worker: PictureWorker, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a", "RGB", (400, 200), "PNG")
    assert worker.process(path, "image/png", tmp_path / "t", tmp_path / "c") is not None
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.run(b"{}", "", "", 0.05) == b""
    assert not worker.pid
    assert worker.process(path, "image/png", tmp_path / "t", tmp_path / "c") is not None
    os.kill(worker.pid, signal.SIGSTOP)
    looking = gevent.spawn(
        worker.process, path, "image/png", tmp_path / "t", tmp_path / "c"
    )
    gevent.sleep(0)
    os.kill(worker.pid, signal.SIGPROF)
    os.kill(worker.pid, signal.SIGCONT)
    with pytest.raises(TooCostly):
        looking.get()
    assert worker.process(path, "image/png", tmp_path / "t", tmp_path / "c") is not None


def test_the_process_counts_its_cpu_time() -> None:
    program = (
        "from imserver.media.uploads import pictures\n"
        "pictures.CPU_SECONDS = 0.01\n"
        "def look(order):\n"
        "    while True: pass\n"
        "pictures.process = look\n"
        "pictures.main()\n"
    )
    order = PictureTask("a", "image/png", "t", "c", 0)
    done = subprocess.run(
        [sys.executable, "-c", program], input=msgspec.json.encode(order) + b"\n"
    )
    assert done.returncode == -signal.SIGPROF


@pytest.mark.parametrize(
    ("form", "at", "part", "most"),
    [
        ("JPEG", 2, b"\xff\xe3\0\x02", MAX_SEGMENTS),
        ("JPEG", 2, b"\xff\xe1\0\x08Exif\0\0", MAX_SEGMENTS),
        ("JPEG", 2, b"\xff", MAX_SEGMENTS),
        ("PNG", 33, b"\0\0\0\0tEXt" + zlib.crc32(b"tEXt").to_bytes(4), MAX_CHUNKS),
    ],
    ids=["APP3", "EXIF", "fill", "chunks"],
)
def test_a_picture_of_very_many_parts_is_none(
    tmp_path: Path, form: str, at: int, part: bytes, most: int
) -> None:
    path = saved(tmp_path / "a", "RGB", (80, 40), form)
    content = path.read_bytes()
    for number, is_picture in ((20, True), (most, False)):
        path.write_bytes(content[:at] + part * number + content[at:])
        assert (
            look(path, f"image/{form.lower()}", tmp_path / "t") is not None
        ) is is_picture


def test_the_pictures_of_many_are_read_in_turn() -> None:
    turns = Turns()
    order = list[str]()
    go = Flag()

    def read(app: str, user: str) -> None:
        with turns.take(app, user):
            order.append(f"{app} {user}")
            go.wait()

    given = ["a ann", "a ann", "a ann", "a bob", "b cem", "b cem"]
    readers = [gevent.spawn(read, *each.split()) for each in given]
    gevent.sleep(0)
    assert order == ["a ann"]
    readers[1].kill()
    go.set()
    gevent.joinall(readers, raise_error=True)
    assert order == ["a ann", "a ann", "b cem", "a bob", "b cem"]
    with turns.take("a", "ann"):
        order.clear()
