"""All pages in Chromium, both themes, four languages: axe finds no violation,
our check nothing faint."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Story
from tests.browser.screenshots import CONFIG, PAGES, VIEWS, in_language, show
from tests.browser.test_embedded import CONFIG as SHOP
from tests.browser.test_embedded import LABEL, Shop, open_chat, push
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.tools import require

pytestmark = [pytest.mark.full("browser"), pytest.mark.needs("axe-core")]

PHONE = (390, 844)
DESKTOP = (1280, 800)
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
LOOKS = (
    ("zh", False, PHONE),
    ("de", True, PHONE),
    ("ar", False, DESKTOP),
    ("en", True, DESKTOP),
)
"""Language, dark theme, window: each size has both themes. One language runs
from right to left."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Demo mode, with a user online."""
    config = CONFIG | {"websocket": {"heartbeat_seconds": 3600}}
    with (
        Server(tmp_path_factory.mktemp("server"), config=config) as server,
        connect(server.ws_url, proxy=None, ping_interval=None) as socket,
    ):
        socket.send(
            json.dumps(
                {"seq": "1", "cmd": "login", "data": {"userID": "ann", "appID": 101}}
            )
        )
        assert json.loads(socket.recv(60))["response"]["code"] == 200
        yield server


def violations(page: Page) -> list[str]:
    """What is wrong on the page as it is shown now.

    Of axe-core: rule, elements, and how to mend it. Of ``contrast.js``: the
    contrast, and the one needed.
    """
    if not page.run("return typeof window.axe === 'object'"):
        page.run(Path(require("axe-core")).read_text(encoding="utf-8"))
    busy = "[aria-busy=true]:not(.streamed)"  # a message that grows is not paler
    eventually(lambda: not page.texts(busy), what="no control is at work, and so paler")
    page.driver.set_script_timeout(250)
    # selenium's own ends sooner
    page.driver.command_executor.client_config.timeout = 300
    found: dict[str, Any] = page.awaited(
        "return axe.run(document, { resultTypes: ['violations'] })"
    )
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:160]} — {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ] + page.run(CONTRAST)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Story]]:
    """A server whose chat has a name and a light colour."""
    config = CONFIG | {"chat": {"name": "Tea house", "colour": "#f0b429"}}
    with Server(tmp_path_factory.mktemp("named"), config=config) as server:
        yield server, Story(server, "en")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_chat_with_a_colour_of_its_own_has_no_violation(
    pair: Pair, named: tuple[Server, Story], dark: bool
) -> None:
    server, story = named
    wrong = {}
    for path, ready in (("/", "#to-chat"), ("/home/messages", "form")):
        page = pair[0].open(
            f"{server.http_url}{path}?lang=en", size=PHONE, dark=dark, forget=True
        )
        page.sees(ready)
        wrong[path] = violations(page)
    chat = story.open(pair[0], "en", size=DESKTOP, dark=dark)
    show("conversation", chat, story)
    wrong["conversation"] = violations(chat)
    assert {path: found for path, found in wrong.items() if found} == {}


def looks(number: int) -> tuple[tuple[str, bool, tuple[int, int]], ...]:
    """Two of the looks, with both themes and both sizes."""
    return (LOOKS[0], LOOKS[3]) if number % 2 else (LOOKS[1], LOOKS[2])


@pytest.mark.parametrize(("number", "name"), [*enumerate(PAGES)])
def test_no_page_has_a_violation(
    pair: Pair, server: Server, number: int, name: str
) -> None:
    pair.expects("404")
    path, ready = PAGES[name]
    for language, dark, size in looks(number):
        page = pair[0].open(
            f"{server.http_url}{in_language(path, language)}", size=size, dark=dark
        )
        page.gives("return document.querySelector(arguments[0]) !== null", True, ready)
        if page.shown("#message"):
            page.say("a word 😀")
        assert not violations(page), (language, dark)


@pytest.fixture(scope="module")
def stories(server: Server) -> dict[str, Story]:
    return {language: Story(server, language) for language, *_ in LOOKS}


@pytest.mark.parametrize(("number", "view"), [*enumerate(VIEWS)])
def test_no_view_of_the_messages_page_has_a_violation_or_is_too_wide(
    pair: Pair, stories: dict[str, Story], number: int, view: str
) -> None:
    pair.expects("net::ERR_", "WebSocket connection to", "Failed to load resource")
    found = []
    for language, dark, size in looks(number):
        story = stories[language]
        chat = story.open(pair[0], language, size=size, dark=dark)
        show(view, chat, story)
        found += [
            f"{language} {'dark' if dark else 'light'} {each}"
            for each in violations(chat)
        ]
        chat.fits()
    assert not found, "\n".join(dict.fromkeys(found))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_chat_in_another_page_has_no_violation(
    pair: Pair, start_server: StartServer, dark: bool
) -> None:
    server = start_server(config=SHOP)
    with Shop(server) as shop:
        page = shop.open(pair[0], size=DESKTOP, dark=dark)
        push(server, "bob", "ann", "may I help?")
        page.gives(LABEL, "Talk to us, 1 unread")
        outside = violations(page)
        open_chat(page)
        assert (outside, violations(page)) == ([], [])


FAINT = """
<style>
  p, button { color: #888; background: #fff; border: 0 }
  [title=gradient] { color: #000; background: linear-gradient(#fff, #333) }
  [title=opacity] { color: #000; opacity: 0.4 }
  [title=before]::before { content: "faint"; color: #ccc }
  [title=before], [title=fine] { color: #000 }
  figure { position: relative } figure b { position: absolute; left: 0; color: #fff }
  [title=scrim] b { background: rgb(0 0 0 / 60%) }
  input { background: #fff; border: 1px solid #767676 } [title=edge] { border-color: #ddd }
  ::placeholder { color: #bbb }
</style>
<p title="text">faint</p> <p title="gradient">faint</p> <p title="opacity">faint</p>
<p title="before">fine</p> <p title="fine">fine</p> <button title="disabled" disabled>fine</button>
<input title="placeholder" placeholder="faint"> <input title="edge">
<figure title="picture"><canvas></canvas><b>faint</b></figure>
<figure title="scrim"><canvas></canvas><b>fine</b></figure>
"""


def test_the_check_of_contrast_finds_what_is_faint(pair: Pair) -> None:
    page = pair[0].open("about:blank")
    page.run("document.body.innerHTML = arguments[0]", FAINT)
    page.run(
        "for (const each of document.querySelectorAll('[title]')) each.id = each.title"
    )
    found = page.run(CONTRAST)
    faint = [
        "text",
        "gradient",
        "opacity",
        "before",
        "placeholder",
        "edge",
        "edge",
        "picture",
    ]
    assert [name for each in found for name in re.findall(r"#(\w+)", each)] == faint, (
        found
    )
