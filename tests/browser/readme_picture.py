"""``python -m tests.browser.readme_picture``: makes docs/images/chat.png, which README.md shows.

The messages page on a desktop (English, light) and on a phone (Chinese, dark), with a group that talks.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from tests.browser.messenger import Story, save
from tests.browser.screenshots import VIEWS, running, settle
from tests.support import ROOT

WINDOWS: Final = (("album", (1180, 790), "en", False), ("album", (346, 758), "zh", True))
"""View of the messages page, size, language, whether it is dark."""
EDGE: Final = 28
"""Pixels around and between the windows."""
RADIUS: Final = 16
BACKGROUND: Final = "#d9d1c2"


def make(target: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as (server, browser):
        windows = []
        for view, size, language, dark in WINDOWS:
            story = Story(server, language)
            for account in (story.ann, story.bob, story.cat):
                account.read(story.group)
            chat = story.open(browser, language, size=size, dark=dark)
            VIEWS[view](chat, story)
            settle(chat.page, "body")
            file = Path(name) / "window.png"
            save(chat.page, file)
            windows.append(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))
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


if __name__ == "__main__":
    make(ROOT / "docs/images/chat.png")
