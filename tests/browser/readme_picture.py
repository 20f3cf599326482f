"""``python -m tests.browser.readme_picture``: makes docs/images/chat.png, which README.md shows.

The chat page on a desktop (Chinese, light) and on a phone (English, dark), in the middle of a conversation.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from tests.browser.chromium import Browser, Page
from tests.browser.messenger import save
from tests.integration.cmd import logged_in, send_to_all
from tests.support import ROOT, Server, eventually

APP: Final = 101
DESKTOP: Final = (1180, 790)
PHONE: Final = (346, 758)
EDGE: Final = 28
"""Pixels around and between the windows."""
RADIUS: Final = 16
BACKGROUND: Final = "#d9d1c2"
ONLINE: Final = ("李白", "李清照", "苏轼", "Ann")


def make(target: Path) -> None:
    """Write the picture."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = Server(folder / "server")
        stack.callback(server.stop)
        for user in ONLINE:
            stack.enter_context(logged_in(server.ws, user, APP))
        pages = []
        for name, size, query in (
            ("desktop", DESKTOP, "lang=zh"),
            ("phone", PHONE, "lang=en"),
        ):
            browser = Browser(folder / name)
            stack.callback(browser.quit)
            page = browser.open(
                f"{server.http_url}/home/index?appID={APP}&{query}", size=size, dark=name == "phone"
            )
            eventually(lambda page=page: page.state == "online", what="the page is online")
            pages.append(page)
        _chat(server, *pages)
        windows = [_window(page, folder / "window.png") for page in pages]
    width = sum(window.width for window in windows) + 3 * EDGE
    height = max(window.height for window in windows) + 2 * EDGE
    picture = Image.new("RGB", (width, height), BACKGROUND)
    left = EDGE
    for window in windows:
        rounded = Image.new("L", window.size)
        ImageDraw.Draw(rounded).rounded_rectangle((0, 0, *window.size), RADIUS, fill=255)
        picture.paste(window, (left, (height - window.height) // 2), rounded)
        left += window.width + EDGE
    picture.save(target, optimize=True)


def _chat(server: Server, desktop: Page, phone: Page) -> None:
    """Everybody says something, one after the other."""
    lines = 0

    def heard() -> None:
        nonlocal lines
        lines += 1
        for page in (desktop, phone):
            eventually(lambda page=page: len(page.texts("#log .line")) > lines, what="the message came")

    def push(user: str, text: str) -> None:
        send_to_all(server.http, APP, user, text)
        heard()

    def say(page: Page, text: str) -> None:
        page.say(text)
        heard()

    push("李白", "今晚月色真好，谁来对饮？")
    say(desktop, "算我一个！")
    push("苏轼", "明月几时有？把酒问青天。")
    say(phone, "Hello from the phone! Nothing to install, just a link.")
    push("Ann", "The order service pushed this with one curl.")
    say(desktop, "收到。Welcome!")


def _window(page: Page, file: Path) -> Image.Image:
    save(page, file)
    return Image.open(io.BytesIO(file.read_bytes())).convert("RGB")


if __name__ == "__main__":
    make(ROOT / "docs/images/chat.png")
