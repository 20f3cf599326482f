"""Pictures, voice messages, videos and files on the page of stored messages, in
real browsers."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import LIMIT, Pair
from tests.browser.messenger import Account, Chat, address
from tests.sdk.lossy import LossyProxy
from tests.support import Server, eventually

MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SECRET = b"N 48.8584, E 2.2945"

VIDEO = """
const canvas = document.createElement("canvas");
canvas.width = 160;
canvas.height = 90;
const context = canvas.getContext("2d");
const paint = setInterval(() => {
  context.fillStyle = `hsl(${Math.random() * 360} 80% 50%)`;
  context.fillRect(0, 0, 160, 90);
}, 20);
const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: "video/webm;codecs=vp8" });
const parts = [];
const size = () => parts.reduce((sum, each) => sum + each.size, 0);
const done = new Promise((resolve) => (recorder.onstop = resolve));
recorder.ondataavailable = ({ data }) => {
  parts.push(data);
  if (size() > 8000 && recorder.state === "recording") recorder.stop();
};
recorder.start(100);
await done;
clearInterval(paint);
window.made = new File(parts, "clip.webm", { type: "video/webm" });
"""
DROP = """
const transfer = new DataTransfer();
transfer.items.add(window.made);
const main = document.querySelector(".room");
for (const kind of ["dragenter", "dragover", "drop"]) {
  main.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}
"""
LOADED = """
const all = [...document.querySelectorAll(".line:not(.pending) .media-picture img")];
return all.length === arguments[0] && all.every((each) => each.naturalWidth > 0);
"""
ZOOM = "return document.querySelector('.viewer-stage')?.dataset.zoom"
LABELS = """
const play = document.querySelector(".voice-play");
window.labels = [];
new MutationObserver(() => {
  const label = play.getAttribute("aria-label");
  if (window.labels.at(-1) !== label) window.labels.push(label);
}).observe(play, { attributes: true });
"""
UPLOAD = """
const { FileUpload } = await import("/static/messages/session/upload.js");
const content = new Uint8Array(arguments[0]);
for (let at = 0; at < content.length; at += 1) content[at] = (at * 31) % 251;
const shares = [];
const upload = new FileUpload({ app: "101", token: "" }, new Blob([content]), { name: "large.bin" });
upload.query.set("user", "ann"); // as a back end does
const file = await upload.start((share) => shares.push(share));
return { file, shares };
"""
CANCEL = """
const { FileUpload } = await import("/static/messages/session/upload.js");
const upload = new FileUpload({ app: "101", token: "" }, new Blob([new Uint8Array(9_000_000)]));
upload.query.set("user", "bob");
let code = "";
try {
  await upload.start((share) => share > 0.4 && upload.cancel());
} catch (error) {
  code = error.code;
}
const file = await upload.start();
return { code, bytes: file.bytes };
"""


def talking(
    pair: Pair, server: Server, browser: Browser | None = None
) -> tuple[Chat, Chat]:
    """The pages of Ann and Bob, who have their conversation open."""
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.say(bob, "hello")
    first = Chat(browser or pair[0], ann)
    second = Chat(pair[1], bob)
    first.choose("Bob")
    second.choose("Ann")
    return first, second


def picture(path: Path, colour: str) -> Path:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, SECRET.decode()
    Image.new("RGB", (640, 480), colour).save(path, "JPEG", exif=exif)
    return path


def attach(page: Page, *paths: Path) -> None:
    offer(page, *paths)
    page.click("dialog .question .wide")


def offer(page: Page, *paths: Path) -> None:
    # else headless Chromium closes it
    page.command("Page.setInterceptFileChooserDialog", enabled=True)
    page.sees("#composer-tools button")
    page.find("#composer-tools button").click()
    page.sees("[role=menu]")
    page.find("[role=menu] button").click()  # only a person's click opens the dialog
    eventually(lambda: page.texts("input[type=file]"), what="the field for files")
    page.driver.find_elements(By.CSS_SELECTOR, "input[type=file]")[-1].send_keys(
        "\n".join(map(str, paths))
    )
    eventually(
        lambda: len(page.texts(".picked li")) == len(paths),
        what="the files are offered",
    )


def mouse(page: Page, kind: str, x: int, **more: Any) -> None:
    more = {
        "button": "left",
        "buttons": int(kind != "mouseReleased"),
        "clickCount": 1,
    } | more
    page.command("Input.dispatchMouseEvent", type=kind, x=x, y=300, **more)


@pytest.mark.full("browser")
def test_a_picture_is_sent_and_viewed(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    first, second = talking(pair, server)
    for name, colour in (("a.jpg", "red"), ("b.jpg", "blue")):
        attach(first, picture(tmp_path / name, colour))
    for page in (first, second):
        page.gives(LOADED, True, 2)
    box = second.run(
        "return document.querySelector('.media-picture').getBoundingClientRect().toJSON()"
    )
    assert [box["width"], box["height"]] == pytest.approx([210, 280], abs=2), "upright"
    second.run("document.querySelector('.media-picture').focus()")
    second.press(Keys.ENTER)
    second.has(".viewer-count", "1 of 2")
    shown = eventually(
        lambda: second.run("return document.querySelector('.viewer-image')?.src")
    )
    content = server.get(shown.removeprefix(server.http_url))[1]
    assert SECRET not in content
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (480, 640)
    second.press(Keys.ARROW_RIGHT)
    second.has(".viewer-count", "2 of 2")
    second.press("+")
    second.gives(ZOOM, "1.50")
    second.press(Keys.ESCAPE)
    second.misses("dialog")
    second.gives("return document.activeElement.className", "media-picture")

    first.click(".media-picture")
    first.has(".viewer-count", "1 of 2")
    for kind, x in (
        ("mousePressed", 600),
        ("mouseMoved", 500),
        ("mouseMoved", 400),
        ("mouseReleased", 400),
    ):
        mouse(first, kind, x)
    first.has(".viewer-count", "2 of 2")
    mouse(first, "mouseWheel", 600, deltaX=0, deltaY=-120)
    first.gives(ZOOM, "1.20")
    for kind, x in (("mousePressed", 400), ("mouseMoved", 500), ("mouseReleased", 600)):
        mouse(first, kind, x)
    assert first.texts(".viewer-count") == ["2 of 2"], "a larger picture is moved"
    first.driver.back()
    first.misses("dialog")


@pytest.mark.full("browser")
def test_addresses_that_are_no_files_are_not_loaded(pair: Pair, server: Server) -> None:
    """Six pictures that are event streams would stop all other requests of the
    reader's browser."""
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.say(bob, "hello")
    stream = "/connection/gochat/sse?cf_connect={}"
    for number in range(6):
        ann.send(bob, "picture", {"url": f"{stream}&n={number}"})
    ann.send(bob, "picture", {"url": "/static/favicon.svg"})
    page = Chat(pair[0], bob)
    page.choose("Ann")
    page.gives(LOADED, True, 1)  # the picture that is a file
    assert len(page.texts(".line a.file")) == 6
    requests = (
        "return performance.getEntriesByType('resource').map((each) => each.name)"
    )
    assert not [each for each in page.run(requests) if "/connection/" in each]
    # Markup that embeds a stream is refused at once.
    images = (
        "const images = arguments[0].map((src) => Object.assign(new Image(), { src }));"
        "return Promise.all(images.map((each) => each.decode().then(() => 'shown', () => 'refused')));"
    )
    assert (
        page.awaited(images, [f"{stream}&k={number}" for number in range(6)])
        == ["refused"] * 6
    )
    assert re.search(rb"imserver_streams_total[^ ]* 0\n", server.get("/metrics")[1]), (
        "no stream was opened"
    )


@pytest.mark.full("browser")
def test_a_video_plays(pair: Pair, server: Server) -> None:
    first, second = talking(pair, server)
    first.awaited(VIDEO)
    first.run(DROP)
    first.click("dialog .question .wide")
    second.sees("video.media-video")
    about = second.run(
        "const { poster, preload, style } = document.querySelector('video');"
        "return [poster, preload, style.width]"
    )
    assert (bool(about[0]), about[1:]) == (True, ["none", "160px"])
    second.run(
        "document.querySelector('video').muted = true; document.querySelector('video').play()"
    )
    eventually(
        lambda: second.run("return document.querySelector('video').currentTime > 0"),
        what="it plays",
    )
    assert second.run("return document.querySelector('video').videoWidth") == 160


@pytest.mark.full("browser")
def test_a_voice_message_is_recorded_and_played_faster(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    browser = Browser(tmp_path, *MICROPHONE)
    try:
        first, second = talking(pair, server, browser)
        record = "#composer-tools-after button"
        first.click(record)
        first.sees(".record-bar svg")
        first.press(Keys.ESCAPE)
        first.misses(".record-bar")
        first.click(record)
        eventually(
            lambda: (first.texts(".record-time") or [""])[0] >= "0:02",
            what="two seconds",
        )
        first.click(".record-send")
        second.sees(".voice")
        bars = second.run(
            "return document.querySelector('.voice-all path').getAttribute('d').split('M').length - 1"
        )
        assert 2 < bars <= 64
        for wanted in ("1.5×", "2×", "1×", "1.5×"):
            second.click(".voice-speed")
            assert second.texts(".voice-speed") == [wanted]
        second.run(LABELS)
        # browsers play nothing that no person has asked for
        second.find(".voice-play").click()
        eventually(
            lambda: second.run("return window.labels.join()").endswith("Pause,Play"),
            what="it has been played",
        )
        assert browser.complaints() == []
    finally:
        browser.quit()


@pytest.mark.full("browser")
def test_an_album_is_sent_once_after_a_reload_and_shown_as_one_message(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    first, second = talking(pair, server)
    first.run("XMLHttpRequest.prototype.send = () => {}")  # no upload ends
    first.write("#message", "the *hills*")
    notes, spare, large = (
        tmp_path / f"{name}.txt" for name in ("notes", "spare", "large")
    )
    for file, size in ((notes, 3), (spare, 3), (large, LIMIT + 1)):
        file.write_bytes(b"t" * size)
    pictures = [
        picture(tmp_path / f"{name}.jpg", name) for name in ("red", "blue", "teal")
    ]
    offer(first, *pictures, notes, spare, large)
    assert "the limit is 12 MB" in first.texts(".picked .refused .reason")[0]
    first.click(".picked li:nth-child(5) .round:last-child")
    eventually(
        lambda: "spare.txt" not in first.texts(".picked bdi"), what="it was taken away"
    )
    first.run("document.querySelector('.picked-handle').focus()")
    first.press(Keys.ARROW_DOWN)
    eventually(
        lambda: first.texts(".picked bdi")[:2] == ["blue.jpg", "red.jpg"],
        what="another order",
    )
    first.click("dialog .question .wide")
    eventually(
        lambda: len(first.texts(".line.pending .album .media-waiting")) == 3,
        what="it waits",
    )
    assert first.find("#message").get_attribute("value") == "", (
        "the draft has become the caption"
    )
    first.driver.refresh()
    for page in (first, second):
        page.gives(LOADED, True, 3)
        assert page.texts(".line:not(.pending) .caption") == ["the hills"]
        assert len(page.texts(".line .file")) == 1
    assert second.run("return document.querySelectorAll('.line[data-id]').length") == 2
    assert second.texts("#conversations .preview") == ["the hills"]
    second.run("document.querySelectorAll('.media-picture')[2].click()")
    second.has(".viewer-count", "3 of 3")
    name = "return document.querySelector('.viewer-image').alt"
    assert second.run(name) == "teal.jpg"
    second.press(Keys.HOME)
    second.gives(name, "blue.jpg")


@pytest.mark.full("browser")
def test_an_upload_continues_over_a_bad_line(pair: Pair, server: Server) -> None:
    pair.expects("ERR_", "Failed to load resource")
    with LossyProxy((server.http.host, server.http.port), 0) as line:
        host, port = line.address
        page = pair[0].open(f"http://{host}:{port}/home/messages?lang=en")
        line.share = 0.05  # of pieces of 32 KB: each megabyte is cut once or twice
        received = page.awaited(UPLOAD, 10_000_000)
        line.share = 0
    content = bytes(at * 31 % 251 for at in range(10_000_000))
    assert received["file"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert received["shares"][-1] == 1
    assert line.cut > 0


def unfinished(server: Server) -> set[Path]:
    folder = server.folder / "data" / "uploads" / "incoming"
    return {path for path in folder.rglob("*") if path.is_file() and not path.suffix}


@pytest.mark.full("browser")
def test_a_cancelled_upload_leaves_nothing_and_may_begin_again(
    pair: Pair, server: Server
) -> None:
    pair.expects("423")
    page = pair[0].open(address(server))
    # a bad line may have lost the answer to the beginning of an upload
    before = unfinished(server)
    received = page.awaited(CANCEL)
    assert received == {"code": "cancelled", "bytes": 9_000_000}
    eventually(lambda: unfinished(server) <= before, what="nothing unfinished")
    assert json.loads(server.get("/api/v1/uploads?app=101&user=bob")[1])["total"] == 1
