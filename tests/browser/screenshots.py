"""``python -m tests.browser.screenshots [FOLDER]``: a picture of every view of every page.

Phones, tablet and desktop, light and dark, in each language, with three accounts and a group that has
talked for a while. The default folder is ``build/screenshots``. In place of a folder, ``gallery`` makes the
pictures of docs/gallery.md anew, and ``readme`` that of README.md.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from PIL import Image, ImageDraw
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys

from imserver.gateway.assets import DEFAULT_CONFIG
from imserver.gateway.config.yaml import read_yaml
from imserver.pages.text import LANGUAGES, TEXT
from imserver_client import Api
from tests.browser.chromium import Browser, Page
from tests.browser.messenger import APP, TEXTS, WORDS_OF_NAMES, Chat, Story, save
from tests.integration.v1 import call
from tests.support import ROOT, Server, eventually

SIZES: Final = {"phone": (390, 844), "small-phone": (320, 640), "tablet": (820, 1180), "desktop": (1280, 800)}
CONFIG: Final = {
    "accounts": {"registrations_per_address": 0},
    "apps": read_yaml(DEFAULT_CONFIG.read_text("utf-8"), "")["apps"]
    | {APP: {"accounts": {"guests": True, "search": True}, "previews": True}},
    "previews": {"allow_loopback": True},
}
"""Of a server that has all views."""
PASTE_PICTURES: Final = """
const transfer = new DataTransfer();
for (const name of "abc") {
  const canvas = document.createElement("canvas");
  canvas.getContext("2d").fillStyle = { a: "#7aa2d8", b: "#2c6e49", c: "#b5382a" }[name];
  canvas.getContext("2d").fillRect(0, 0, 300, 150);
  const [, content] = canvas.toDataURL("image/png").split(",");
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  transfer.items.add(new File([bytes], `${name}.png`, { type: "image/png" }));
}
const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
document.querySelector("#message").dispatchEvent(event);
"""
ADMIN_VIEWS: Final = (
    "people",
    "connections",
    "reports",
    "refusals",
    "apps",
    "webhooks",
    "notifications",
    "nodes",
    "audit",
)
PAGES: Final = {
    "start": ("/", "h1"),
    "chat": ("/home/index?appID=101", "#people-list li"),
    "two": ("/home/index?uid=1&to_uid=2", "#state[data-state=online]"),
    "room": ("/home/room?uid=1", "#state[data-state=online]"),
    "channels": ("/home/channels", "#subscriptions .channel"),
    "status": ("/status", "#figures:not([hidden])"),
    "cluster": ("/cluster", "#figures:not([hidden])"),
    "admin": ("/admin", "#sections a"),
    **{f"admin-{view}": (f"/admin#{view}", "main.place h1") for view in ADMIN_VIEWS},
    "reference": ("/api/v1/docs", "h1"),
    "not-found": ("/none", "h1"),
    "login": ("/home/messages", "#login form"),
}
"""View → address, and what is there when it has been drawn."""


PHONES: Final = """
const real = window.fetch;
window.fetch = async (address, ...more) => {
  if (!String(address.url ?? address).includes("notifications/endpoints")) return real(address, ...more);
  const row = { language: "en", enabled: true, created: 1795000000 };
  const endpoints = [
    { ...row, id: 1, host: "fcm/shop", device: "Pixel 9" },
    { ...row, id: 2, host: "apns/shop", device: "", enabled: false },
    { ...row, id: 3, host: "fcm.googleapis.com", device: "Chrome" },
  ];
  return Response.json({ endpoints });
};
"""
"""Phones need a plug-in, and accounts of their makers: the page gets the answer of a server that has both."""
_CONTEXT_MENU: Final = """
const row = document.querySelector("[data-conversation]");
row.focus();
row.dispatchEvent(new PointerEvent("contextmenu", { bubbles: true, cancelable: true }));
"""


def _open_group(chat: Chat, story: Story) -> None:
    chat.open(story.group)
    eventually(lambda: len(chat.texts) > 3, what="the messages")


def _open_menu(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.menu(chat.texts[-1])


def _emoji(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    if not chat.page.shown(".picker"):
        chat.click(chat.word("emoji"))
    all_drawn = "return document.querySelectorAll('.picker-grid button').length > 1500"
    eventually(lambda: chat.page.run(all_drawn), what="all emoji")


def _selection(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.act(chat.texts[-1], "messages_select")
    eventually(lambda: chat.page.shown(".select-bar"), what="the bar of the selection")
    chat.page.run(
        "[...document.querySelectorAll('.line[data-id]')].slice(-4, -2).forEach((row) => row.click())"
    )


def _forward(chat: Chat, story: Story) -> None:
    _selection(chat, story)
    chat.click(chat.word("messages_forward"), within=".select-bar")
    eventually(lambda: chat.page.shown(".choice"), what="the conversations")
    chat.page.run("document.querySelector('.choice').click()")


def _delete(chat: Chat, story: Story) -> None:
    _selection(chat, story)
    chat.click(chat.word("messages_select_delete"), within=".select-bar")
    eventually(lambda: chat.page.shown("dialog[open] .danger"), what="the question")


def _album(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.page.run("document.querySelector('#latest').click()")
    eventually(lambda: chat.page.shown(".album"), what="the album")


def _files(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.page.run(PASTE_PICTURES)
    eventually(lambda: len(chat.page.texts(".picked li")) == len("abc"), what="the files are offered")


def _viewer(chat: Chat, story: Story) -> None:
    _album(chat, story)
    chat.page.run("document.querySelector('.album .media-picture').click()")
    eventually(lambda: chat.page.shown(".viewer-about"), what="the viewer")


def _thread(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.page.run("document.querySelector('#latest').click()")
    eventually(lambda: chat.page.shown("#log .thread-line"), what="a message with a thread")
    chat.page.run("document.querySelector('#log .thread-line').click()")
    eventually(lambda: len(chat.page.texts(".thread .bubble > .text")) > 1, what="the replies")


def _more_emoji(chat: Chat, story: Story) -> None:
    _open_menu(chat, story)
    chat.click(chat.word("messages_more_emoji"))
    eventually(lambda: chat.page.shown("dialog .picker-grid button"), what="the emoji")


def _report(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.page.run("document.querySelector('#latest').click()")
    words = chat.page.run("return JSON.parse(document.querySelector('#page-data').textContent).text")
    chat.menu(next(text for text in reversed(chat.texts) if text), words["safety_report"])
    eventually(lambda: chat.page.shown(".safety-form"), what="the form")


def _blocked(chat: Chat, story: Story) -> None:
    story.ann.post("friends/block", friend=story.cat.user)
    chat.page.run("location.hash = arguments[0]", f"#u/{story.cat.user}")
    eventually(lambda: chat.page.shown("#read-only"), what="why one cannot write")
    story.ann.post("friends/unblock", friend=story.cat.user)


def _search(chat: Chat, story: Story) -> None:
    field = chat.named("field", chat.word("messages_search"))
    field.send_keys("make serve")
    eventually(lambda: chat.page.texts("#hits li"), what="the hits")


def _filters(chat: Chat, story: Story) -> None:
    chat.named("field", chat.word("messages_search")).click()
    eventually(lambda: chat.page.shown(".chip"), what="the filters")
    chat.click(chat.word("messages_has_link"))
    eventually(lambda: chat.page.texts("#hits .preview"), what="the messages with a link")


def _filter_menu(chat: Chat, story: Story) -> None:
    chat.named("field", chat.word("messages_search")).send_keys("make")
    eventually(lambda: chat.page.shown(".chip"), what="the filters")
    chat.click(chat.word("messages_filters"))
    eventually(lambda: chat.page.shown(".filter-form"), what="the menu")


def _palette(chat: Chat, story: Story) -> None:
    chat.page.click("#palette-open")
    eventually(lambda: chat.page.shown(".palette .hit"), what="the palette")


def _offline(chat: Chat, story: Story) -> None:
    _open_group(chat, story)
    chat.cut()
    chat.say(next(TEXTS[language][-2] for language, words in TEXT.items() if chat.words is words))
    eventually(lambda: chat.page.shown(".pending .status"), what="the message waits")


def _list(chat: Chat, _: Story) -> None:
    eventually(lambda: chat.page.shown("#conversations .conversation"), what="the conversations")


def _conversation_menu(chat: Chat, story: Story) -> None:
    _list(chat, story)
    chat.page.run(_CONTEXT_MENU)
    eventually(lambda: chat.page.shown("[role=menu]"), what="the menu")


def _archive(chat: Chat, story: Story) -> None:
    eventually(lambda: chat.page.shown(".archive"), what="the way to the archive")
    chat.page.click(".archive")
    eventually(lambda: chat.page.shown(".archive ~ .people-note"), what="the archived conversations")


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


def _keys(chat: Chat, story: Story) -> None:
    _list(chat, story)
    chat.page.run("document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '?', bubbles: true }))")
    eventually(lambda: chat.page.shown(".shortcuts"), what="the table of keys")


def _start_card(chat: Chat, story: Story) -> None:
    chat.page.run("location.hash = arguments[0]", f"#u/{story.guide['id']}")
    eventually(lambda: chat.page.shown("#start-card #bot-start"), what="the card of the bot")


def _guest(chat: Chat, story: Story) -> None:
    """The page of somebody without an account who opens the link of an invitation."""
    dark = chat.page.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    width, height, address = chat.page.run("return [innerWidth, innerHeight, location.href]")
    link = f"{address.partition('#')[0]}#invite={story.invitation}"
    chat.page = chat.browser.open(link, size=(width, height), dark=dark, forget=True)
    eventually(lambda: chat.page.shown("#guest-form"), what="the form of a guest")


_profile = _panel("messages_profile", ".profile [data-key=password]")
_settings = _panel("messages_settings", ".settings .segment")


def _quiet_hours(chat: Chat, story: Story) -> None:
    _settings(chat, story)
    eventually(lambda: chat.page.shown("[data-key=notify-quiet]"), what="the settings of notifications")
    if not chat.page.shown("[data-key=notify-begin]"):  # the story may have switched them on before
        chat.page.click("[data-key=notify-quiet]")
    eventually(lambda: chat.page.shown("[data-key=notify-begin]"), what="the hours")


def _phones(chat: Chat, story: Story) -> None:
    chat.page.run(PHONES)
    _quiet_hours(chat, story)
    eventually(lambda: chat.page.shown("[data-key='endpoint:1']"), what="the phones")
    chat.page.run("document.querySelector(\"[data-key='endpoint:1']\").scrollIntoView({ block: 'center' })")


def _status_form(chat: Chat, story: Story) -> None:
    _profile(chat, story)
    chat.page.run("document.querySelector('#profile-status').scrollIntoView({ block: 'center' })")


def _write_name(chat: Chat, story: Story, field: str, rows: str) -> None:
    eventually(lambda: chat.page.shown(field), what=f"{field} is shown")
    chat.page.find(field).send_keys(WORDS_OF_NAMES[story.language])
    eventually(lambda: len(chat.page.texts(rows)) > 1, what="the colleagues")


def _directory(chat: Chat, story: Story) -> None:
    assert story.team
    _contacts(chat, story)
    _write_name(chat, story, "#find-text", ".found .person-name")


def _people_in_palette(chat: Chat, story: Story) -> None:
    assert story.team
    _palette(chat, story)
    _write_name(chat, story, ".palette input", "[data-section=people] bdi")


def _colleagues(chat: Chat, story: Story) -> None:
    assert story.team
    VIEWS["new-group"](chat, story)
    _write_name(chat, story, "#picker-text", ".picker .person-name")
    chat.page.run("document.querySelector('.picker input[type=checkbox]').click()")


def _team_info(chat: Chat, story: Story) -> None:
    chat.open(story.team)
    chat.page.run("document.getElementById('conversation-open').click()")
    eventually(lambda: chat.page.shown("#member-text"), what="the members")


def _members_search(chat: Chat, story: Story) -> None:
    _team_info(chat, story)
    _write_name(chat, story, "#member-text", ".member-list .person-name")


def _previews(chat: Chat, story: Story) -> None:
    chat.open(story.team)
    eventually(lambda: len(chat.page.texts(".previews-card")) > 1, what="the previews")


def _signs(chat: Chat, story: Story) -> None:
    """Who is online, and who is typing."""
    _list(chat, story)
    friend = story.friend
    eventually(lambda: chat.page.shown(".conversation .is-online"), what="the friend is online")
    friend.typing(story.ann.user)
    eventually(lambda: chat.page.shown(".conversation .typing"), what="the friend is typing")


def _streamed(chat: Chat, story: Story) -> None:
    bot = story.writer
    with Api(chat.account.server.http_url, key=bot["token"], timeout_seconds=60) as api:
        body = {"app": APP, "to": story.ann.user, "text": TEXTS[story.language][1]}
        api.call("POST", "messages/stream/open", body)
    chat.page.run("location.hash = arguments[0]", f"#u/{bot['id']}")
    eventually(lambda: chat.page.shown(".streamed .key"), what="the growing answer")


_contacts = _panel("messages_contacts", "#my-link")
_bot_gallery = _inside(_contacts, "#bot-gallery", ".bots .person")
_bots = _inside(_profile, "#bots", ".bots .person")

VIEWS: Final[dict[str, Callable[[Chat, Story], None]]] = {
    "list": _list,
    "conversation-menu": _conversation_menu,
    "archive": _archive,
    "conversation": _open_group,
    "menu": _open_menu,
    "emoji": _emoji,
    "selection": _selection,
    "forward": _forward,
    "delete": _delete,
    "album": _album,
    "files": _files,
    "viewer": _viewer,
    "thread": _thread,
    "more-emoji": _more_emoji,
    "report": _report,
    "blocked": _blocked,
    "search": _search,
    "search-filters": _filters,
    "search-menu": _filter_menu,
    "palette": _palette,
    "contacts": _contacts,
    "profile": _profile,
    "threads": _inside(_profile, "[data-key=threads]", ".threads .thread-row"),
    "notify-question": _question,
    "notify-blocked": _inside(_question, "#notify-question .wide", "#notify-question [role=alert]"),
    "settings": _settings,
    "erase": _inside(_settings, "[data-key=erase]", "dialog:modal form"),
    "second-factor": _inside(_profile, "#second-factor", ".factor button"),
    "notify-settings": _quiet_hours,
    "notify-here": _inside(_open_group, "#notices-here", ".notice-level"),
    "bots": _bots,
    "bot": _inside(_bots, ".bots .person", "#bot-hook"),
    "new-bot": _inside(_bots, "#new-bot", "#bot-name"),
    "bot-gallery": _bot_gallery,
    "bot-card": _inside(_bot_gallery, ".bots .person", ".card-of-person #bot-start"),
    "start-card": _start_card,
    "buttons": _open_bot,
    "commands": _commands,
    "keys": _keys,
    "group": _group_info,
    "group-edit": _inside(_group_info, "[data-key=rename]", "#group-name"),
    "card": _inside(_group_info, ".person-row:nth-child(2) .person", ".card-of-person"),
    "media": _inside(_group_info, "[data-key=media]", ".media-list"),
    "link": _inside(_group_info, "[data-key=link]", "#invitation-create"),
    "new-group": _inside(_contacts, "#new-group", "#group-create"),
    "colleagues": _colleagues,
    "directory": _directory,
    "palette-people": _people_in_palette,
    "team": _team_info,
    "members": _members_search,
    "rules": _inside(_team_info, "[data-key=rules]", ".group-rules"),
    "previews": _previews,
    "signs": _signs,
    "status": _status_form,
    "streamed": _streamed,
    "phones": _phones,
    "offline": _offline,
    "guest": _guest,
}
"""Views of the messages page → what opens them."""


GALLERY: Final = {
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
"""Picture of docs/gallery.md → view of the messages page, window, theme, language."""


@contextmanager
def running(folder: Path) -> Iterator[tuple[Server, Browser]]:
    server = Server(folder / "server", config=CONFIG)
    browser = Browser(folder / "profile")
    try:
        yield server, browser
    finally:
        browser.quit()
        server.stop()


def make(target: Path) -> int:
    """Write all pictures; return their number."""
    number = 0
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (server, browser):
        for language in LANGUAGES:
            story = Story(server, language)
            for size, window in SIZES.items():
                for dark in (False, True):
                    name = f"{size}-{'dark' if dark else 'light'}-{language}.png"
                    for view, (path, ready) in PAGES.items():
                        address = f"{server.http_url}{in_language(path, language)}"
                        page = browser.open(address, size=window, dark=dark)
                        settle(page, ready)
                        save(page, target / view / name)
                        number += 1
                    for view, show in VIEWS.items():
                        chat = story.open(browser, language, size=window, dark=dark)
                        try:
                            show(chat, story)
                        except (AssertionError, WebDriverException) as wrong:
                            print(f"{view}/{name}: {str(wrong).splitlines()[0]}")
                        settle(chat.page, "body")
                        save(chat.page, target / "messages" / f"{view}-{name}")
                        if view == "offline":
                            chat.click(chat.word("messages_cancel"))  # it would be sent by the next view
                        number += 1
    return number


def in_language(path: str, language: str) -> str:
    """The address of a page in a language."""
    before, mark, part = path.partition("#")
    return f"{before}{'&' if '?' in before else '?'}lang={language}{mark}{part}"


def settle(page: Page, ready: str) -> None:
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


def _read_stories(server: Server) -> dict[str, Story]:
    """Stories of which all has been read."""
    stories = {language: Story(server, language) for language in ("en", "zh")}
    for story in stories.values():
        for account in (story.ann, story.bob, story.cat):
            account.read(story.group)
    return stories


def _webp(page: Page, size: str, target: Path) -> None:
    width, height = SIZES[size]
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 2 if size == "phone" else 1}
    shot = page.command("Page.captureScreenshot", format="webp", quality=80, clip=clip)
    target.write_bytes(base64.b64decode(shot["data"]))


def make_gallery(target: Path) -> int:
    """Write the pictures of docs/gallery.md; return their number."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (server, browser):
        stories = _read_stories(server)
        for name, (view, size, theme, language) in GALLERY.items():
            story = stories[language]
            chat = story.open(browser, language, size=SIZES[size], dark=theme == "dark")
            VIEWS[view](chat, story)
            settle(chat.page, "body")
            _webp(chat.page, size, target / f"{name}.webp")
        ann = stories["en"].ann
        for _ in range(12):  # the admin page shows somebody whose logins are refused
            call(server.http, "accounts/login", {"app": APP, "login": ann.phone, "password": "wrong"})
        page = browser.open(f"{server.http_url}/admin?lang=en#person/{APP}/{ann.user}")
        settle(page, "main.place table")
        eventually(lambda: not page.texts("main [aria-busy=true]"), what="all is there")
        _webp(page, "desktop", target / "admin.webp")
    return len(GALLERY) + 1


def make_readme_picture(target: Path) -> int:
    """Write the picture of README.md: the page on a desktop and on a phone, side by side."""
    edge, windows = 28, []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (server, browser):
        stories = _read_stories(server)
        for size, language, dark in (((1180, 790), "en", False), ((346, 758), "zh", True)):
            chat = stories[language].open(browser, language, size=size, dark=dark)
            _album(chat, stories[language])
            settle(chat.page, "body")
            save(chat.page, file := Path(folder) / f"{language}.png")
            windows.append(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))
    width, height = sum(each.width for each in windows), max(each.height for each in windows)
    whole = Image.new("RGB", (width + 3 * edge, height + 2 * edge), "#d9d1c2")
    left = edge
    for window in windows:
        rounded = Image.new("L", window.size)
        ImageDraw.Draw(rounded).rounded_rectangle((0, 0, *window.size), 16, fill=255)
        whole.paste(window, (left, (whole.height - window.height) // 2), rounded)
        left += window.width + edge
    whole.save(target, optimize=True)
    return 1


def main() -> None:
    """The command."""
    (what,) = sys.argv[1:] or ["build/screenshots"]
    kinds = {
        "gallery": (make_gallery, ROOT / "docs/images/gallery"),
        "readme": (make_readme_picture, ROOT / "docs/images/chat.png"),
    }
    write, target = kinds.get(what, (make, Path(what)))
    try:
        number = write(target)
    except pytest.skip.Exception as reason:
        print(f"no screenshots: {reason}")
        return
    print(f"{number} pictures in {target}")


if __name__ == "__main__":
    main()
