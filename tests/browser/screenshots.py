"""``python -m tests.browser.screenshots [FOLDER]``: a picture of every view of
every page.

Phones, tablet and desktop, light and dark, in each language, with three
accounts and a group that has talked for a while. The default folder is
``build/screenshots``. In place of a folder, ``gallery`` makes the pictures of
docs/gallery.md anew, and ``readme`` that of README.md.
"""

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
from imserver.pages.text import LANGUAGES
from tests.browser.chromium import Browser, Page
from tests.browser.messenger import APP, Account, Chat, Story, save
from tests.integration.v1 import call
from tests.support import ROOT, Server, eventually
from tests.users import User

SIZES: Final = {
    "phone": (390, 844),
    "small-phone": (320, 640),
    "tablet": (820, 1180),
    "desktop": (1280, 800),
}
CONFIG: Final = {
    "accounts": {"registrations_per_address": 0},
    "apps": read_yaml(DEFAULT_CONFIG.read_text("utf-8"), "")["apps"]
    | {APP: {"accounts": {"guests": True, "search": True}, "previews": True}},
    "previews": {"allow_loopback": True},
}
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


ANSWER: Final = """
const [path, document] = arguments;
const real = window.fetch;
window.fetch = async (address, ...more) =>
  String(address.url ?? address).includes(path) ? Response.json(document) : real(address, ...more);
"""
"""Phones and mails need servers of others: the page gets the answer of a server
that has them."""
PHONES: Final = [
    {
        "id": number,
        "host": host,
        "device": name,
        "enabled": name != "",
        "language": "en",
        "created": 1,
    }
    for number, host, name in (
        (1, "fcm/shop", "Pixel 9"),
        (2, "apns/shop", ""),
        (3, "fcm.example", "Chrome"),
    )
]
STATES: Final = "waiting", "sent", "refused", "joined"
_MAILS = [
    {"code": each, "email": f"{each}@example.com", "state": each, "created": 0}
    for each in STATES
]
MAILS: Final = {
    "refusal": "",
    "next": "",
    "counts": dict.fromkeys(STATES, 1),
    "mails": _MAILS,
}
CONTEXT_MENU: Final = """
const row = document.querySelector("[data-conversation]");
row.focus();
row.dispatchEvent(new PointerEvent("contextmenu", { bubbles: true, cancelable: true }));
return document.querySelector("[role=menu]") !== null;
"""
CHOOSE: Final = "[...document.querySelectorAll('.line[data-id]')].slice(-4, -2).forEach((row) => row.click())"
WINDOW: Final = "return [[innerWidth, innerHeight], matchMedia('(prefers-color-scheme: dark)').matches]"
END: Final = "document.querySelector('#latest').click()"
HELP: Final = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '?', bubbles: true }))"

Step = str | Callable[[Chat, Story], object]
"""A selector of what is clicked, or what is called."""


def _run(script: str) -> Step:
    return lambda chat, _: chat.run(script)


def _answer(path: str, document: object) -> Step:
    return lambda chat, _: chat.run(ANSWER, path, document)


def _tap(word: str, within: str = "") -> Step:
    return lambda chat, _: chat.tap(chat.word(word), within=within)


def _go(address: Callable[[Story], str]) -> Step:
    return lambda chat, story: chat.go(address(story))


def _write(selector: str, text: str) -> Step:
    return lambda chat, _: chat.write(selector, text)


def _more(count: int, selector: str) -> Step:
    return lambda chat, _: eventually(
        lambda: len(chat.texts(selector)) > count, what=f"more {selector}"
    )


def _show(selector: str) -> Step:
    """Scroll to what is soon there."""

    def scroll(chat: Chat, _: Story) -> None:
        chat.sees(selector)
        chat.run(
            "document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })",
            selector,
        )

    return scroll


def _names(field: str, found: str) -> tuple[Step, ...]:
    """Look for colleagues by a part of their names."""
    return (
        lambda chat, story: chat.write(field, story.words["part_of_names"]),
        _more(1, found),
    )


def _context(chat: Chat, _: Story) -> None:
    """Again, until what listens is loaded."""
    eventually(lambda: chat.run(CONTEXT_MENU), what="the menu of a conversation")


def _menu(chat: Chat, _: Story) -> None:
    chat.menu(chat.messages[-1])


def _focus_search(chat: Chat, _: Story) -> None:
    # a script gives no event `focus` to a tab that lacks it
    chat.find("#search").click()


def _emoji(chat: Chat, _: Story) -> None:
    if not chat.shown(".picker"):
        chat.tap(chat.word("emoji"))
    chat.gives(
        "return document.querySelectorAll('.picker-grid button').length > 1500", True
    )


def _select(chat: Chat, _: Story) -> None:
    chat.act(chat.messages[-1], "messages_select")
    chat.sees(".select-bar")
    chat.run(CHOOSE)


def _act(word: str) -> Step:
    return lambda chat, _: chat.act(
        next(text for text in reversed(chat.messages) if text), word
    )


def _blocked(chat: Chat, story: Story) -> None:
    story.ann.post("friends/block", friend=story.cat.user)
    chat.go(f"#u/{story.cat.user}")
    chat.sees("#read-only")
    story.ann.post("friends/unblock", friend=story.cat.user)


def _offline(chat: Chat, story: Story) -> None:
    chat.cut()
    chat.say(story.texts[-2])


def _question(chat: Chat, story: Story) -> None:
    chat.run(
        "localStorage.removeItem(arguments[0])",
        f"imserver:wishes:{APP}:{chat.account.user}",
    )
    chat.reload()  # as if the user had not answered
    chat.open(story.group)
    chat.run("Notification.requestPermission = async () => 'denied'")
    chat.say("👋")


def _quiet(chat: Chat, _: Story) -> None:
    chat.sees("[data-key=notify-quiet]")
    # the story may have switched them on before
    if not chat.shown("[data-key=notify-begin]"):
        chat.click("[data-key=notify-quiet]")


def _own(chat: Chat, story: Story) -> None:
    """The page of an owner, who has a report to decide."""
    ann = story.ann
    bob = story.bob
    cat = story.cat
    User(ann.server, "", app=APP).post("accounts/role", user=ann.user, role="owner")
    message = next(
        each["id"] for each in ann.history(story.group) if each["from"] == cat.user
    )
    bob.post("reports/send", message=message, reason="spam", text=story.texts[0])
    chat.reload()


def _appeal(chat: Chat, story: Story) -> None:
    """The page of somebody who is banned."""
    eve = Account(story.ann.server, "Eve")
    size, dark = chat.run(WINDOW)
    page = Chat(chat.browser, eve, language=story.language, size=size, dark=dark)
    User(eve.server, "", app=APP).post(
        "moderation/ban", user=eve.user, seconds=3600, reason="Advertising"
    )
    page.sees("#banner-button")


def _ask(chat: Chat, story: Story) -> None:
    """A question, and a poll in which somebody has voted."""
    options = [{"text": each, "value": each} for each in ("Udon", "Risotto")]
    for poll in (False, True):
        fields = {
            "to": story.ann.user,
            "options": options,
            "client_msg_id": f"ask {poll}",
            "poll": poll,
        }
        poll_message = story.bob.post("asks/create", text=story.texts[6], **fields)
    story.bob.post("asks/answer", id=poll_message["id"], choices=[0])
    chat.go(f"#u/{story.bob.user}")


def _newcomer(chat: Chat, story: Story) -> None:
    _guest(chat, story)
    chat.write("#nickname", "Gil" + Keys.ENTER)


def _dead(chat: Chat, story: Story) -> None:
    _guest(chat, story, "x" * 22)


def _guest(chat: Chat, story: Story, code: str = "") -> None:
    """The page of somebody without an account who opens the link of an
    invitation."""
    size, dark = chat.run(WINDOW)
    link = f"{chat.run('return location.href').partition('#')[0]}#invite={code or story.invitation}"
    chat.browser.open(link, size=size, dark=dark, forget=True)


def _remind(chat: Chat, story: Story) -> None:
    ann = story.ann
    ann.post("messages/send", to=ann.user, text=story.texts[2], client_msg_id="saved")
    ann.post(
        "scheduled/remind",
        message=ann.id_of(story.group),
        seconds=0,
        client_msg_id="reminder",
    )
    chat.go(f"#u/{ann.user}")


def _schedule(chat: Chat, story: Story) -> None:
    for number, text in enumerate(story.texts[:2]):
        fields = {"text": text, "client_msg_id": f"{number}", "seconds": 3600}
        story.ann.post("scheduled/create", conversation=story.group, **fields)
    chat.go(f"#c/{story.group}")


def _type(chat: Chat, story: Story) -> None:
    friend = story.friend
    chat.reload()
    chat.sees(".conversation .is-online")
    friend.typing(story.ann.user)


def _stream(chat: Chat, story: Story) -> None:
    story.writer.post("messages/stream/open", to=story.ann.user, text=story.texts[1])
    chat.go(f"#u/{story.writer.user}")


GROUP: Final = (
    _go(lambda story: f"#c/{story.group}"),
    _more(3, "[role=log] article .text"),
)
NEWEST: Final = (*GROUP, _run(END))
GROUP_INFO: Final = (*GROUP, "#conversation-open")
TEAM: Final = (_go(lambda story: f"#c/{story.team}"), "#conversation-open")
SELECTION: Final = (*GROUP, _select)
CONTACTS: Final = (_tap("messages_people"),)
PROFILE: Final = (_tap("messages_profile"),)
SETTINGS: Final = (_tap("messages_settings"),)
BOT: Final = (_go(lambda story: f"#u/{story.bot.user}"), ".key")
MANAGE: Final = (_own, "#manage")
FOLDERS: Final = (
    lambda _, story: story.ann.post(
        "inbox/folders", folders=[{"id": 7, "name": "Tea"}]
    ),
    "#list-filters [data-key=edit]",
)
POLL: Final = (_ask, _show(".poll-option"))
NEW: Final = Keys.CONTROL + "a" + Keys.NULL
COLLEAGUES: Final = (lambda _, story: story.team,)

VIEWS: Final[dict[str, tuple[Step, ...]]] = {
    "list": ("#conversations .conversation",),
    "conversation-menu": (_show("[data-conversation]"), _context, "[role=menu]"),
    "archive": (".archive:not([data-key])", ".archive ~ .people-note"),
    "conversation": (*GROUP, "[role=log] article"),
    "menu": (*GROUP, _menu, "[role=menu]"),
    "emoji": (*GROUP, _emoji, ".picker"),
    "selection": (*SELECTION, ".select-bar"),
    "forward": (
        *SELECTION,
        _tap("messages_forward", ".select-bar"),
        ".picker .pick",
        ".picker .chosen",
    ),
    "delete": (
        *SELECTION,
        _tap("messages_select_delete", ".select-bar"),
        "dialog[open] .danger",
    ),
    "album": (*NEWEST, ".album"),
    "files": (*GROUP, _run(PASTE_PICTURES), ".picked li:nth-child(3)"),
    "viewer": (*NEWEST, ".album .media-picture", ".viewer-about"),
    "thread": (
        *NEWEST,
        "#log .thread-line",
        _more(1, ".thread .bubble > .text"),
        ".thread",
    ),
    "more-emoji": (
        *GROUP,
        _menu,
        _tap("messages_more_emoji"),
        "dialog .picker-grid button",
    ),
    "report": (*NEWEST, _act("safety_report"), ".safety-form"),
    "remind": (*NEWEST, _act("later_remind"), ".later-times"),
    "formats": (
        *GROUP,
        _write("#message", NEW + "tea" + Keys.CONTROL + "a" + Keys.NULL),
        ".formats",
    ),
    "shortcodes": (*GROUP, _write("#message", NEW + ":tea"), "#mentions li"),
    "poll": (*POLL, ".poll-option"),
    "voters": (*POLL, "[data-key$=':who']", ".poll-voters li"),
    "new-poll": (
        *GROUP,
        _write("#message", NEW + "/poll Tea?" + Keys.ENTER),
        "#poll-text",
    ),
    "new-question": (
        *GROUP,
        _write("#message", NEW + "/question Tea?" + Keys.ENTER),
        ".ask-form",
    ),
    "new-menu": ("#new-menu", "[role=menu]"),
    "open-groups": ("#new-menu", _tap("messages_open_groups"), "#open-group-text"),
    "folders": (*FOLDERS, ".folders li"),
    "folder": (*FOLDERS, ".folders .folder-name", "#folder-name"),
    "blocked": (_blocked, "[role=log]"),
    "search": (_write("#search", "make serve"), "#hits li"),
    "search-filters": (_focus_search, _tap("messages_has_link"), "#hits .preview"),
    "search-menu": (
        _write("#search", "make"),
        _tap("messages_filters"),
        ".filter-form",
    ),
    "palette": ("#palette-open", ".palette .hit"),
    "contacts": (*CONTACTS, "#my-link"),
    "profile": (*PROFILE, "#profile-name"),
    "security": (*PROFILE, "#security", "[data-key=password]"),
    "threads": (
        _show("[data-key=threads]"),
        "[data-key=threads]",
        ".threads .thread-row",
    ),
    "notify-question": (_question, "#notify-question"),
    "notify-blocked": (
        _question,
        "#notify-question .wide",
        "#notify-question [role=alert]",
    ),
    "settings": (*SETTINGS, _more(0, "[data-key=notify-quiet]"), ".settings .segment"),
    "erase": (*SETTINGS, "[data-key=erase]", "dialog:modal form"),
    "second-factor": (*PROFILE, "#security", "#second-factor", ".factor button"),
    "notify-settings": (*SETTINGS, _quiet, "[data-key=notify-begin]"),
    "notify-here": (*GROUP, "#notices-here", ".notice-level"),
    "bots": (*PROFILE, "#bots", ".bots .person"),
    "bot": (*PROFILE, "#bots", ".bots .person", "#bot-hook"),
    "new-bot": (*PROFILE, "#bots", "#new-bot", "#bot-name"),
    "bot-gallery": (*CONTACTS, "#bot-gallery", ".bots .person"),
    "bot-card": (
        *CONTACTS,
        "#bot-gallery",
        ".bots .person",
        ".card-of-person #bot-start",
    ),
    "start-card": (
        _go(lambda story: f"#u/{story.guide.user}"),
        "#start-card #bot-start",
    ),
    "buttons": (*BOT, ".key[aria-pressed=true]"),
    "commands": (*BOT, _write("#message", NEW + "/"), "#mentions b"),
    "keys": (_show("[data-conversation]"), _run(HELP), ".shortcuts"),
    "group": (*GROUP_INFO, ".group-info .person-row"),
    "group-edit": (*GROUP_INFO, "[data-key=rename]", "#group-name"),
    "card": (*GROUP_INFO, ".person-row:nth-child(2) .person", ".card-of-person"),
    "media": (*GROUP_INFO, "[data-key=media]", ".media-list"),
    "invite": (*CONTACTS, "#my-link", "#invitation-link"),
    "link": (*GROUP_INFO, "[data-key=link]", "#invitation-link"),
    "new-group": (*CONTACTS, "#new-group", "#group-create"),
    "colleagues": (
        *COLLEAGUES,
        *CONTACTS,
        "#new-group",
        *_names("#picker-text", ".picker .person-name"),
        ".picker input[type=checkbox]",
        "#group-create",
    ),
    "directory": (
        *COLLEAGUES,
        *CONTACTS,
        *_names("#find-text", ".row-list .person-name"),
        "#find-text",
    ),
    "palette-people": (
        *COLLEAGUES,
        "#palette-open",
        *_names(".palette input", "[data-section=people] bdi"),
        ".palette",
    ),
    "team": (*TEAM, "#member-text"),
    "members": (
        *TEAM,
        *_names("#member-text", ".member-list .person-name"),
        "#member-text",
    ),
    "saved": (_remind, ".later-link"),
    "send-later": (
        _go(lambda story: f"#u/{story.bob.user}"),
        ".page-tool",
        ".later-times",
    ),
    "scheduled": (_schedule, ".page-tool", ".later-keys"),
    "rules": (*TEAM, "[data-key=rules]", ".group-rules"),
    "previews": (TEAM[0], _more(1, ".previews-card"), ".previews-card"),
    "signs": (_type, ".conversation .typing"),
    "status": (*PROFILE, _show("#profile-status"), "#profile-status"),
    "streamed": (_stream, ".streamed .key"),
    "phones": (
        _answer("notifications/endpoints", {"endpoints": PHONES}),
        *SETTINGS,
        _quiet,
        _show("[data-key='endpoint:1']"),
        "[data-key=notify-begin]",
    ),
    "offline": (*GROUP, _offline, ".pending .status"),
    "guest": (_guest, "#guest-form"),
    "dead-link": (_dead, ".dead-link"),
    "newcomer": (_newcomer, ".newcomer"),
    "appeal": (_appeal, "#banner-button", "dialog textarea"),
    "invite-mails": (
        _answer("invitations/mails", MAILS),
        *CONTACTS,
        "#my-link",
        ".invite-progress summary",
        "#invite-send",
    ),
    "reports": (*MANAGE, ".manage [data-key^='report:']"),
    "reported": (*MANAGE, ".manage [data-key^='report:']", ".manage .reported"),
    "manage-people": (*MANAGE, "#manage-people", ".manage-body .person-row"),
    "manage-guests": (*MANAGE, "#manage-guests", ".manage-body p"),
    "manage-links": (*MANAGE, "#manage-links", ".manage-body .person-row"),
    "manage-rules": (*MANAGE, "#manage-rules", ".manage-body textarea"),
}
"""Views of the messages page → what leads there, and what is shown then."""


def show(view: str, chat: Chat, story: Story) -> None:
    *steps, last = VIEWS[view]
    for step in steps:
        if isinstance(step, str):
            chat.click(step)
        else:
            step(chat, story)
    chat.sees(last)


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
"""Picture of docs/gallery.md → view of the messages page, window, theme,
language."""


@contextmanager
def running(folder: Path) -> Iterator[tuple[Server, Browser]]:
    with Server(folder / "server", config=CONFIG) as server:
        browser = Browser(folder / "profile")
        try:
            yield server, browser
        finally:
            browser.quit()


def make(target: Path) -> int:
    """Write all pictures; return their number."""
    number = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as (server, browser),
    ):
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
                    for view in VIEWS:
                        chat = story.open(browser, language, size=window, dark=dark)
                        try:
                            show(view, chat, story)
                        except (AssertionError, WebDriverException) as wrong:
                            print(f"{view}/{name}: {str(wrong).splitlines()[0]}")
                        settle(chat, "body")
                        save(chat, target / "messages" / f"{view}-{name}")
                        if view == "offline":
                            # it would be sent by the next view
                            chat.tap(chat.word("messages_cancel"))
                        number += 1
    return number


def in_language(path: str, language: str) -> str:
    before, mark, part = path.partition("#")
    return f"{before}{'&' if '?' in before else '?'}lang={language}{mark}{part}"


def settle(page: Page, ready: str) -> None:
    """Wait until this is there, all pictures are loaded, and the page has
    drawn."""
    page.gives("return document.querySelector(arguments[0]) !== null", True, ready)
    page.gives("return [...document.images].every((each) => each.complete)", True)
    page.settle()


def _read_stories(server: Server) -> dict[str, Story]:
    """Stories of which all has been read."""
    stories = {language: Story(server, language) for language in ("en", "zh")}
    for story in stories.values():
        for account in (story.ann, story.bob, story.cat):
            account.read(story.group)
    return stories


def _webp(page: Page, size: str, target: Path) -> None:
    width, height = SIZES[size]
    clip = {
        "x": 0,
        "y": 0,
        "width": width,
        "height": height,
        "scale": 2 if size == "phone" else 1,
    }
    shot = page.command("Page.captureScreenshot", format="webp", quality=80, clip=clip)
    target.write_bytes(base64.b64decode(shot["data"]))


def make_gallery(target: Path) -> int:
    """Write the pictures of docs/gallery.md; return their number."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as (server, browser),
    ):
        stories = _read_stories(server)
        for name, (view, size, theme, language) in GALLERY.items():
            story = stories[language]
            chat = story.open(browser, language, size=SIZES[size], dark=theme == "dark")
            show(view, chat, story)
            settle(chat, "body")
            _webp(chat, size, target / f"{name}.webp")
        ann = stories["en"].ann
        for _ in range(12):  # the admin page shows somebody whose logins are refused
            call(
                server.http,
                "accounts/login",
                {"app": APP, "login": ann.phone, "password": "wrong"},
            )
        page = browser.open(f"{server.http_url}/admin?lang=en#person/{APP}/{ann.user}")
        settle(page, "main.place table")
        eventually(lambda: not page.texts("main [aria-busy=true]"), what="all is there")
        _webp(page, "desktop", target / "admin.webp")
    return len(GALLERY) + 1


def make_readme_picture(target: Path) -> int:
    """Write the picture of README.md: the page on a desktop and on a phone,
    side by side."""
    edge = 28
    windows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as (server, browser),
    ):
        stories = _read_stories(server)
        for size, language, dark in (
            ((1180, 790), "en", False),
            ((346, 758), "zh", True),
        ):
            chat = stories[language].open(browser, language, size=size, dark=dark)
            show("album", chat, stories[language])
            settle(chat, "body")
            save(chat, file := Path(folder) / f"{language}.png")
            windows.append(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))
    width = sum(each.width for each in windows)
    height = max(each.height for each in windows)
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
