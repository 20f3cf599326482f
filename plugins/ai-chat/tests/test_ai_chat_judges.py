"""Unmodified clients: the AI SDK, AG-UI's client, and and the npm package; the example in Chromium."""

import itertools
import json
import os
import shutil
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from conftest import APP, CONFIG, KEY, PLUGIN

from imserver_client import Entry, Messenger
from tests.bots import ExampleBot
from tests.browser.chromium import CHROMIUM, DRIVER, Browser, Page, unexpected
from tests.browser.site import serve_folder
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.plug_ins import running
from tests.sdk.node import NODE_FLAGS, bundle, run, run_node
from tests.support import ROOT, Server, eventually
from tests.tools import require
from tests.users import User

HERE = Path(__file__).parent
_names = itertools.count()


@pytest.mark.needs("node")
def test_the_judges_chat_with_a_bot(servers: tuple[Server, Server], project: Path) -> None:
    here, there = servers
    ann = User.register(here, APP, key=KEY)
    bot = ann.bot(f"judge{next(_names)}_bot")
    users = {"chat": bot.user, "bot": {"token": bot.token, "user": ann.user}}
    place = {"url": here.http_url, "api": there.http_url, "token": ann.token, **users}
    shutil.copy(HERE / "judges.test.mjs", project)
    run_node(str(project / "judges.test.mjs"), PLACE=json.dumps(place))


@pytest.mark.needs("tsc")
def test_the_types_of_the_package_are_those_of_the_ai_sdk(project: Path) -> None:
    shutil.copy(HERE / "consumer.ts", project)
    options = {"module": "nodenext", "target": "es2022", "types": []}
    options |= dict.fromkeys(("strict", "noEmit", "skipLibCheck"), True)
    config = {"compilerOptions": {**options, "lib": ["es2022", "dom"]}, "files": ["consumer.ts"]}
    (project / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    (project / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
    run([require("tsc"), "-p", str(project)])


def test_the_package_has_its_version_and_nothing_else() -> None:
    described = json.loads((PLUGIN / "npm" / "package.json").read_text("utf-8"))
    names = {path.name for path in (PLUGIN / "npm").iterdir()}
    assert names == {*described["files"], "package.json", "README.md", "LICENSE"}
    assert f'version = "{described["version"]}"' in (PLUGIN / "pyproject.toml").read_text("utf-8")


def place_of(servers: list[Server]) -> dict[str, Any]:
    """What a script has to know that kills nodes: Ann, her bot and the processes."""
    ann = User.register(servers[1], APP, key=KEY)
    bot = ann.bot("dying_bot")
    return {
        "urls": [each.http_url for each in servers],
        "processes": [each.process.pid for each in servers],
        "token": ann.token,
        "chat": bot.user,
        "bot": {"token": bot.token, "user": ann.user},
    }


@pytest.mark.needs("node")
def test_answers_survive_the_death_of_nodes(project: Path, installed: dict[str, str], tmp_path: Path) -> None:
    with running(tmp_path, installed, 4, CONFIG) as servers:
        shutil.copy(HERE / "killed.test.mjs", project)
        run_node(str(project / "killed.test.mjs"), PLACE=json.dumps(place_of(servers)))


@pytest.mark.needs("node")
def test_an_application_with_ag_ui_hears_that_its_node_has_died(
    project: Path, installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path, installed, 2, CONFIG) as servers:
        shutil.copy(HERE / "killed_ag_ui.mjs", project)
        place = json.dumps(place_of(servers))
        run([require("node"), *NODE_FLAGS, str(project / "killed_ag_ui.mjs")], PLACE=place)


def test_the_guide_does_what_it_says(installed: dict[str, str], tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "ai-chat.md"
    (settings,), (session,) = blocks(guide, "yaml"), blocks(guide, "console")
    with Server(tmp_path / "node", config=yaml.safe_load(settings.text), environment=installed) as server:
        ann = User.register(server)
        bot = ann.bot("tea_bot")

        def answer() -> None:
            for event in messenger:
                if isinstance(event, Entry) and event.sender == ann.user:
                    stream = messenger.stream_open(conversation=event.conversation).stream
                    messenger.stream_append([(stream, 1, "Yes, "), (stream, 2, "please.")])
                    messenger.stream_close(stream)

        with Messenger(server.ws_url, "gochat", bot.user, bot.token, cursor=None) as messenger:
            thread = Thread(target=answer)
            thread.start()
            play_session(session, tmp_path, server, ANN=ann.token, BOT=bot.user)
        thread.join()


PRODUCTION = '--define:process.env.NODE_ENV="production"'
EXAMPLE = ROOT / "examples" / "ai-chat"
LAST = "li.assistant:nth-last-child(2)"


def text(page: Page) -> str:
    return "".join(page.texts(LAST))


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("AI_CHAT_PICTURES"):
        page.driver.save_screenshot(str(Path(folder, f"{name}.png")))


@pytest.fixture
def site(project: Path, tmp_path: Path) -> Path:
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
