"""``python -m tests.browser.screenshots [FOLDER]``: a picture of every view of every page.

Phones and desktop, light and dark, Chinese and English, with three accounts and a group that has talked for a
while. The default folder is ``build/screenshots``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys

from imserver.features.pages.text import TEXT
from tests.browser.chromium import Browser, Page
from tests.browser.messenger import APP, TEXTS, Chat, Story, save
from tests.support import Server, eventually

SIZES: Final = {"phone": (390, 844), "small-phone": (320, 640), "desktop": (1280, 800)}
PAGES: Final = {
    "start": ("/", "h1"),
    "chat": ("/home/index?appID=101", "#people-list li"),
    "two": ("/home/index?uid=1&to_uid=2", "#state[data-state=online]"),
    "room": ("/home/room?uid=1", "#state[data-state=online]"),
    "channels": ("/home/channels", "#subscriptions .channel"),
    "status": ("/status", "#figures:not([hidden])"),
    "cluster": ("/cluster", "#figures:not([hidden])"),
    "reference": ("/api/v1/docs", "h1"),
    "not-found": ("/none", "h1"),
    "login": ("/home/messages", "form"),
}
"""View → address, and what is there when it has been drawn."""


def _open_group(chat: Chat, story: Story) -> None:
    chat.open(story.group)
    eventually(lambda: len(chat.texts) > 3, what="the messages")


def _open_menu(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.menu(chat.texts[-1])


def _search(chat: Chat, story: Story) -> None:
    field = chat.named("field", chat.word("messages_search"))
    field.send_keys("make serve")
    eventually(lambda: chat.page.texts("#hits li"), what="the hits")


def _offline(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.cut()
    chat.say(TEXTS["zh" if chat.words is TEXT["zh"] else "en"][-1])
    eventually(lambda: chat.page.shown(".pending .status"), what="the message waits")


def _list(chat: Chat, _: Story) -> None:
    eventually(lambda: chat.page.shown("#conversations .conversation"), what="the conversations")


def _panel(word: str, ready: str) -> Callable[[Chat, Story], None]:
    def open_panel(chat: Chat, _: Story) -> None:
        chat.click(chat.word(word))
        eventually(lambda: chat.page.shown(ready), what=f"{ready} is shown")

    return open_panel


def _group_info(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.page.run("document.getElementById('conversation-open').click()")
    eventually(lambda: chat.page.shown(".group-info .person-row"), what="the members")


def _inside(outer: Callable[[Chat, Story], None], selector: str, ready: str) -> Callable[[Chat, Story], None]:
    """What a button of another view opens."""

    def open_inside(chat: Chat, story: Story) -> None:
        outer(chat, story)
        eventually(lambda: chat.page.shown(selector), what=f"{selector} is shown")
        chat.page.run("document.querySelector(arguments[0]).click()", selector)
        eventually(lambda: chat.page.shown(ready), what=f"{ready} is shown")

    return open_inside


def _open_bot(chat: Chat, story: Story) -> None:
    chat.page.run("location.hash = arguments[0]", f"#u/{story.bot['id']}")
    eventually(lambda: chat.page.shown(".key"), what="the buttons")
    chat.page.click(".key")
    eventually(lambda: chat.page.shown(".key[aria-pressed=true]"), what="the press")


def _commands(chat: Chat, story: Story) -> None:
    _open_bot(chat, story)
    field = chat.named("field", chat.word("message"))
    field.send_keys(Keys.CONTROL + "a" + Keys.NULL + "/")  # in place of the draft of another time
    eventually(lambda: chat.page.shown("#mentions b"), what="the commands")


def _question(chat: Chat, story: Story) -> None:
    chat.page.run("localStorage.removeItem(arguments[0])", f"imserver:wishes:{APP}:{chat.account.user}")
    chat.page.driver.refresh()  # as if the user had not answered
    chat.online()
    _open_group(chat, story)
    chat.page.run("Notification.requestPermission = async () => 'denied'")
    chat.say("👋")
    eventually(lambda: chat.page.shown("#notify-question"), what="the question")


_profile = _panel("messages_profile", ".profile [data-key=password]")
_settings = _panel("messages_settings", ".settings .segment")
_bots = _inside(_profile, "#bots", ".bots .person")

VIEWS: Final[dict[str, Callable[[Chat, Story], None]]] = {
    "list": _list,
    "conversation": _open_group,
    "menu": _open_menu,
    "search": _search,
    "contacts": _panel("messages_contacts", "#my-link"),
    "profile": _profile,
    "notify-question": _question,
    "notify-blocked": _inside(_question, "#notify-question .wide", "#notify-question [role=alert]"),
    "settings": _settings,
    "notify-settings": _inside(_settings, "[data-key=notify-quiet]", "[data-key=notify-begin]"),
    "notify-here": _inside(_open_group, "#notices-here", ".notice-level"),
    "bots": _bots,
    "bot": _inside(_bots, ".bots .person", "#bot-hook"),
    "new-bot": _inside(_bots, "#new-bot", "#bot-name"),
    "buttons": _open_bot,
    "commands": _commands,
    "keys": _inside(_settings, "[data-key=shortcuts]", ".shortcuts"),
    "group": _group_info,
    "card": _inside(_group_info, ".person-row:nth-child(2) .person", ".card-of-person"),
    "media": _inside(_group_info, "[data-key=media]", ".media-list"),
    "link": _inside(_group_info, "[data-key=link]", "#invitation-create"),
    "new-group": _inside(_panel("messages_contacts", "#my-link"), "#new-group", "#group-create"),
    "offline": _offline,
}
"""Views of the messages page → what opens them."""


@contextmanager
def _running(folder: Path) -> Iterator[tuple[Server, Browser]]:
    server = Server(folder / "server", config={"accounts": {"registrations_per_address": 0}})
    browser = Browser(folder / "profile")
    try:
        yield server, browser
    finally:
        browser.quit()
        server.stop()


def make(target: Path) -> int:
    """Write all pictures; return their number."""
    number = 0
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as (server, browser):
        for language in ("zh", "en"):
            story = Story(server, language)
            for size, window in SIZES.items():
                for dark in (False, True):
                    name = f"{size}-{'dark' if dark else 'light'}-{language}.png"
                    for view, (path, ready) in PAGES.items():
                        address = f"{server.http_url}{path}{'&' if '?' in path else '?'}lang={language}"
                        page = browser.open(address, size=window, dark=dark)
                        _settle(page, ready)
                        save(page, target / view / name)
                        number += 1
                    for view, show in VIEWS.items():
                        chat = story.open(browser, language, size=window, dark=dark)
                        try:
                            show(chat, story)
                        except (AssertionError, WebDriverException) as wrong:
                            print(f"{view}/{name}: {str(wrong).splitlines()[0]}")
                        _settle(chat.page, "body")
                        save(chat.page, target / "messages" / f"{view}-{name}")
                        if view == "offline":
                            chat.click(chat.word("messages_cancel"))  # it would be sent by the next view
                        number += 1
    return number


def _settle(page: Page, ready: str) -> None:
    """Wait until this is there, all pictures are loaded, and two frames have been drawn."""
    eventually(
        lambda: page.run("return Boolean(document.querySelector(arguments[0]))", ready),
        what=f"{ready} is shown",
    )
    eventually(
        lambda: page.run("return [...document.images].every((each) => each.complete)"), what="the pictures"
    )
    page.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def main() -> None:
    """The command."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "build/screenshots")
    try:
        number = make(target)
    except pytest.skip.Exception as reason:
        print(f"no screenshots: {reason}")
        return
    print(f"{number} pictures in {target}")


if __name__ == "__main__":
    main()
