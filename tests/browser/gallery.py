"""``python -m tests.browser.gallery [FOLDER]``: makes the pictures of docs/gallery.md anew."""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.browser.chromium import Browser
from tests.browser.messenger import APP, Story
from tests.browser.screenshots import SIZES, VIEWS, running, settle
from tests.integration.v1 import call
from tests.support import ROOT, Server, eventually

SHOTS: Final = {
    "conversation": ("album", "desktop", "light", "en"),
    "group": ("group", "desktop", "dark", "zh"),
    "palette": ("palette", "desktop", "light", "zh"),
    "settings": ("settings", "desktop", "dark", "en"),
    "search": ("search-filters", "tablet", "light", "en"),
    "bot": ("buttons", "tablet", "dark", "en"),
    "list": ("list", "phone", "light", "en"),
    "talk": ("album", "phone", "dark", "en"),
    "emoji": ("emoji", "phone", "light", "zh"),
    "selection": ("selection", "phone", "dark", "zh"),
    "start": ("start-card", "phone", "light", "en"),
    "guest": ("guest", "phone", "dark", "en"),
    "offline": ("offline", "phone", "light", "en"),
}
"""Picture → view of the messages page, window, theme, language."""
QUALITY: Final = 80
"""Of WebP, in percent."""


def make(target: Path) -> int:
    """Write all pictures; return their bytes."""
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (server, browser):
        stories = {language: Story(server, language) for language in ("en", "zh")}
        for story in stories.values():
            for account in (story.ann, story.bob, story.cat):
                account.read(story.group)
        for name, (view, size, theme, language) in SHOTS.items():
            story = stories[language]
            chat = story.open(browser, language, size=SIZES[size], dark=theme == "dark")
            VIEWS[view](chat, story)
            settle(chat.page, "body")
            scale = 2 if size == "phone" else 1
            width, height = SIZES[size]
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
            shot = chat.page.command("Page.captureScreenshot", format="webp", quality=QUALITY, clip=clip)
            total += (target / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))
        total += _admin(server, browser, stories["en"], target / "admin.webp")
    return total


def _admin(server: Server, browser: Browser, story: Story, target: Path) -> int:
    """Write the picture of somebody on the admin page whose logins are refused; return its bytes."""
    ann = story.ann
    for _ in range(12):
        call(server.http, "accounts/login", {"app": APP, "login": ann.phone, "password": "wrong"})
    page = browser.open(f"{server.http_url}/admin?lang=en#person/{APP}/{ann.user}")
    eventually(lambda: page.shown("main.place table"), what="why logins are refused")
    settle(page, "main.place table")
    eventually(lambda: not page.texts("main [aria-busy=true]"), what="all is there")
    width, height = SIZES["desktop"]
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = page.command("Page.captureScreenshot", format="webp", quality=QUALITY, clip=clip)
    return target.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images/gallery"
    print(f"{len(SHOTS) + 1} pictures in {folder}: {make(folder) / 1000:.0f} kB")
