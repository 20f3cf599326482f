"""The example: useChat in Chromium, and its bot. ``AI_CHAT_PICTURES``: where pictures of it go."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlencode

import pytest
from conftest import APP, CONFIG, KEY

from tests.bots import ExampleBot
from tests.browser.chromium import CHROMIUM, DRIVER, Browser, Page, unexpected
from tests.browser.site import serve_folder
from tests.integration.plug_ins import running
from tests.sdk.node import bundle
from tests.support import ROOT, eventually
from tests.tools import require
from tests.users import User

PRODUCTION = '--define:process.env.NODE_ENV="production"'
EXAMPLE = ROOT / "examples" / "ai-chat"
LAST = "li.assistant:nth-last-child(2)"


def text(page: Page) -> str:
    """The answer at the end of the page."""
    return "".join(page.texts(LAST))


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("AI_CHAT_PICTURES"):
        page.driver.save_screenshot(str(Path(folder, f"{name}.png")))


@pytest.fixture
def site(project: Path, tmp_path: Path) -> Path:
    """The folder of the page."""
    require(*CHROMIUM)
    require(DRIVER)
    shutil.copy(EXAMPLE / "page.jsx", project)
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(EXAMPLE / "index.html", site)
    bundle(project / "page.jsx", site / "page.js", "--jsx=automatic", PRODUCTION)
    return site


def location(address: str, server: str, ann: User, bot: User) -> str:
    """Where the page of Ann is that talks with a bot at a server."""
    return f"{address}/index.html#{urlencode({'server': server, 'bot': bot.user, 'token': ann.token})}"


@pytest.mark.full("browser")
@pytest.mark.needs("node", "esbuild")
def test_a_page_with_use_chat(installed: dict[str, str], site: Path, tmp_path: Path) -> None:
    with running(tmp_path, installed, 2, CONFIG) as (first, second), serve_folder(site) as address:
        ann = User.register(first, APP, key=KEY)
        bot = ann.bot("tea_bot")
        producer = ExampleBot(second, "ai-chat", bot.token, tmp_path / "bot", APP, MODEL_SECONDS="0.1")
        desktop, phone = Browser(tmp_path / "desktop"), Browser(tmp_path / "phone")
        try:
            page, other = (
                browser.open(location(address, node.http_url, ann, bot))
                for browser, node in ((desktop, first), (phone, second))
            )
            page.resize(1280, 800)
            other.resize(390, 844)
            for each in (page, other):
                eventually(lambda each=each: each.shown("form"), what="the page")
            page.find("input").send_keys("Does tea help?\n")
            for each in (page, other):
                eventually(lambda each=each: "You ask" in text(each), what="the answer comes on both devices")
            picture(page, "desktop-streaming")
            picture(other, "phone-streaming")
            page.driver.refresh()
            eventually(lambda: "You ask" in text(page), what="the answer after the reload")
            whole = "You ask: “Does tea help?” " + " ".join(["Tea helps."] * 20)
            for each in (page, other):
                eventually(lambda each=each: text(each).strip() == whole, what="the whole answer, once")
                assert len(each.texts("li.assistant")) == 1
                eventually(lambda each=each: each.texts("form button") == ["Send"], what="ready")
            other.find("input").send_keys("And now?\n")
            eventually(lambda: "And now?" in text(page), what="the second answer on the first device")
            page.click("button.stop")
            for each in (page, other):
                eventually(lambda each=each: text(each).endswith("Stopped"), what="stopped on both")
                eventually(lambda each=each: each.texts("form button") == ["Send"], what="ready")
            producer.wait_for("closed: ")
            for each, name in ((page, "desktop-stopped"), (other, "phone-stopped")):
                assert each.overflow <= 0
                picture(each, name)
            for each in (desktop, phone):
                assert not unexpected(each.complaints())
        finally:
            producer.kill()
            desktop.quit()
            phone.quit()
