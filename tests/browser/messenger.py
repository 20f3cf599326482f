"""The messages page as a person uses it: by the names that a screen reader
says. And what is in it: accounts, a group, and a conversation with text,
pictures, a voice note and a file.
"""

from __future__ import annotations

import base64
import io
import json
import math
import urllib.request
import wave
from array import array
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from selenium.webdriver.common.keys import Keys

from imserver.pages.text import TEXT
from imserver_client import Api, Messenger
from tests.browser.chromium import Browser, Page
from tests.media.previews.site import Site, html
from tests.support import Server, eventually
from tests.users import PASSWORD, User

APP = "gochat"
STATE = "return document.querySelector('#state')?.dataset.state"
_BATCH = 100
_NAMES = count(1)

NAMED = """
const [role, name, within] = arguments;
const tags = {
  button: "button, [role=button], summary, [role^=menuitem], [role=option]",
  link: "a[href]", field: "input, textarea, [role=combobox]",
  row: "[role=log] article",
};
const labels = (each) => [...(each.labels ?? [])].map((label) => label.textContent.trim()).join(" ");
const textOf = (each) => {
  const copy = each.cloneNode(true);
  for (const hidden of copy.querySelectorAll("[aria-hidden=true]")) hidden.remove();
  return copy.textContent;
};
const nameOf = (each) => (each.getAttribute("aria-label") || labels(each) || textOf(each)).trim();
const roots = within ? document.querySelectorAll(within) : [document];
for (const root of roots) {
  for (const each of root.querySelectorAll(tags[role])) {
    if (each.checkVisibility({ visibilityProperty: true }) && nameOf(each) === name) return each;
  }
}
return null;
"""


MENU = """
const [text, choice] = arguments;
const rows = [...document.querySelectorAll("[role=log] article[data-id]")];
const row = rows.findLast((each) => each.querySelector(".text")?.textContent === text);
if (!row) return false;
const menu = () => document.querySelector("[role=menu]");
if (!menu()) {
  row.focus();
  row.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
}
if (!choice) return Boolean(menu());
const lines = [...(menu()?.querySelectorAll("button") ?? [])];
const line = lines.find((each) => (each.getAttribute("aria-label") || each.textContent).trim() === choice);
line?.click();
return Boolean(line);
"""
"""Open the menu of the newest message with a text and choose from it in one
step: a redraw in between would close it.
"""

LINE = """
window.line = (() => {
  const open = new Set();
  let isCut = false;
  const Real = window.WebSocket;
  window.WebSocket = class extends Real {
    constructor(url, ...more) {
      super(url, ...more);
      open.add(this);
      this.addEventListener("close", () => open.delete(this));
      if (isCut) this.close();
    }
  };
  return {
    cut() { isCut = true; for (const each of open) each.close(); },
    mend() { isCut = false; },
  };
})();
"""
"""Chromium does not cut WebSockets when it emulates a network that is away."""


def login_form(page: Page) -> Page:
    """Wait for the form: it is drawn again when the page has heard what the app
    wants."""
    page.sees("#identifier")
    page.gives("return document.querySelector('#login').ariaBusy !== 'true'", True)
    return page


def address(server: Server, language: str = "en") -> str:
    return f"{server.http_url}/home/messages?lang={language}"


def open_page(
    browser: Browser, server: Server, language: str = "en", **how: Any
) -> Page:
    return browser.open(address(server, language), forget=True, **how)


def fill(page: Page, **fields: str) -> None:
    """Write into fields, named by their ids, in place of what is there; Enter
    at the end."""
    for name, text in fields.items():
        page.write(f"#{name.replace('_', '-')}", Keys.CONTROL + "a" + Keys.NULL + text)
    page.press(Keys.ENTER)


def register(page: Page, nickname: str, name: str = "") -> str:
    """Create an account with a user name on the page. Returns the user name."""
    name = name or f"user.{next(_NAMES)}"
    login_form(page).click("#login-switch")
    fill(page, nickname=nickname, identifier=name, password=PASSWORD)
    page.gives(STATE, "online")
    return name


class Account(User):
    """A user of the messages page: a new one, or who has logged in there."""

    def __init__(
        self, server: Server, nickname: str, login: dict[str, Any] | None = None
    ) -> None:
        """``login``: what the page has saved."""
        if login is None:
            result = User.register(server, nickname=nickname)
            super().__init__(server, result.token, result.user, APP, result.account)
        else:
            super().__init__(server, login["token"], login["user"], APP)
        self.nickname = nickname

    def log_in(self, page: Page) -> Page:
        fill(login_form(page), identifier=self.phone, password=PASSWORD)
        page.gives(STATE, "online")
        return page

    def create_group(self, name: str, *members: Account) -> int:
        people = [each.user for each in members]
        return int(self.post("groups/create", name=name, members=people)["group"])

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        address = f"{self.server.http_url}/api/v1/uploads?name={name}&app={APP}"
        request = urllib.request.Request(
            address, content, {"Authorization": f"Bearer {self.token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            stored: dict[str, Any] = json.load(answer)
        return stored

    def say(self, to: Account | int, *texts: str) -> None:
        """Send texts, as a back end does for this user."""
        with Api(self.server.http_url, timeout_seconds=60) as api:
            for start in range(0, len(texts), _BATCH):
                api.batch(
                    [
                        ("push", self._push(to, text=text))
                        for text in texts[start : start + _BATCH]
                    ]
                )

    def send(self, to: Account | int, type: str, data: dict[str, Any]) -> None:
        with Api(self.server.http_url, timeout_seconds=60) as api:
            api.call("POST", "push", self._push(to, type=type, data=data))

    @property
    def newest(self) -> int:
        return int(self.get("conversations")["conversations"][0]["conversation"])

    def history(self, conversation: int) -> list[dict[str, Any]]:
        """All its entries, the oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            before = {"before": found[0]["id"]} if found else {}
            page = self.get("messages", conversation=conversation, limit=100, **before)[
                "messages"
            ]
            found = [*sorted(page, key=lambda each: each["id"]), *found]
            if not page:
                return found

    def id_of(self, conversation: int, text: str = "") -> int:
        """Of the newest message, or of the newest with this text."""
        rows = [
            each
            for each in self.history(conversation)
            if not text or each.get("text") == text
        ]
        return int(rows[-1]["id"])

    def read(self, conversation: int) -> None:
        self.post(
            "messages/read", conversation=conversation, id=self.id_of(conversation)
        )

    def _push(self, to: Account | int, **content: object) -> dict[str, Any]:
        target = {"user": to.user} if isinstance(to, Account) else {"group": str(to)}
        return {
            "app": APP,
            "targets": [target],
            "sender": self.user,
            "store": True,
            **content,
        }


class Chat(Page):
    """The messages page of one user in one browser, in English unless
    ``language`` says otherwise."""

    def __init__(
        self,
        browser: Browser,
        account: Account,
        *,
        language: str = "en",
        script: str = "",
        **how: Any,
    ) -> None:
        super().__init__(browser.driver)
        self.browser = browser
        self.account = account
        self.words = TEXT[language]
        login = {
            "token": account.token,
            "user": account.user,
            "nickname": account.nickname,
        }
        login_script = f"localStorage.setItem('imserver:account:{APP}', JSON.stringify({json.dumps(login)}));"
        browser.open(
            address(account.server, language),
            script=login_script + LINE + script,
            **how,
        )
        self.online()

    def online(self) -> Chat:
        eventually(
            lambda: self.state == "online",
            what=f"the page of {self.account.nickname} is online",
        )
        return self

    # --- elements -------------------------------------------------------------

    def word(self, key: str, **values: str) -> str:
        """A text of the page by its key; those that features add are on the
        page only."""
        text = "return JSON.parse(document.getElementById('page-data').textContent).text[arguments[0]]"
        return str(self.words.get(key) or self.run(text, key)).format(**values)

    def named(self, role: str, name: str, within: str = "") -> Any:
        """The visible element with this role (``button``, ``link``, ``field``)
        and accessible name."""
        return eventually(
            lambda: self.run(NAMED, role, name, within), what=f"{role} {name!r}"
        )

    @property
    def field(self) -> Any:
        return self.named("field", self.word("message"))

    @property
    def messages(self) -> list[str]:
        return self.texts("[role=log] article .text")

    # --- actions --------------------------------------------------------------

    def tap(self, name: str, role: str = "button", within: str = "") -> None:
        """Click what has this name, as the page is now: a redraw in between
        makes it another element."""
        script = f"const found = (function () {{ {NAMED} }}).apply(null, arguments);"
        script += "found?.click(); return Boolean(found);"
        eventually(
            lambda: self.run(script, role, name, within),
            what=f"{role} {name!r} is clicked",
        )

    def open(self, conversation: int, *texts: str) -> None:
        self.go(f"#c/{conversation}")
        self.sees("#composer")
        if texts:
            self.reads(*texts)

    def choose(self, name: str) -> None:
        """Open a conversation of the list by its name."""
        self.pick(".conversation", name, within="b")
        self.has("#conversation-name", name)

    def reads(self, *texts: str) -> None:
        """Wait until these are the messages that are drawn."""
        self.has("[role=log] article .text", *texts)

    def say(self, text: str) -> None:
        field = self.field
        field.send_keys(
            text.replace("\n", Keys.SHIFT + Keys.ENTER + Keys.NULL) + Keys.ENTER
        )
        eventually(
            lambda: field.get_attribute("value") == "", what=f"{text[:40]!r} is taken"
        )

    def menu(self, text: str, choice: str = "") -> None:
        """Open the menu of the message with this text, and choose a line of
        it."""
        eventually(
            lambda: self.run(MENU, text, choice),
            what=f"{choice or 'the menu'} of {text!r}",
        )

    def act(self, text: str, word: str) -> None:
        self.menu(text, self.word(word))

    def cut(self) -> None:
        """Take the network away: requests fail, and the WebSocket ends."""
        self._network(offline=True)
        self.run("window.line.cut()")
        eventually(lambda: self.state != "online", what="the page is offline")

    def mend(self) -> None:
        self.run("window.line.mend()")
        self._network(offline=False)
        self.online()

    def _network(self, *, offline: bool) -> None:
        rates = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.command("Network.enable")
        self.command("Network.emulateNetworkConditions", offline=offline, **rates)


# --- content ------------------------------------------------------------------


def picture(width: int, height: int, hue: int) -> bytes:
    image = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(image)
    for y in range(height):
        shade = y / height
        sky = (int(110 + 90 * shade), int(150 + 60 * shade) - hue // 4, 220 - hue // 2)
        pen.line((0, y, width, y), fill=sky)
    for layer in range(3):
        base = height * (0.55 + 0.15 * layer)
        ridge = [
            (
                x,
                base
                - 0.12 * height * math.sin(x / width * (5 + layer * 2) + hue + layer),
            )
            for x in range(0, width + 8, 8)
        ]
        green = 110 - 30 * layer
        pen.polygon(
            [(0, height), *ridge, (width, height)],
            fill=(40 + hue // 4, green, 70 - 12 * layer),
        )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def voice(seconds: int) -> bytes:
    """A tone that swells and fades, as a WAV file."""
    rate = 8000
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        times = (number / rate for number in range(seconds * rate))
        loud = (
            9000 * abs(math.sin(at * 1.7)) * math.sin(at * 440 * math.pi)
            for at in times
        )
        sound.writeframes(array("h", map(int, loud)).tobytes())
    return file.getvalue()


_WAVE = [int(31 * abs(math.sin(at / 5) * math.sin(at / 17 + 1))) for at in range(48)]

STORIES = json.loads(Path(__file__).with_name("story.json").read_text(encoding="utf-8"))
"""Language → what people write, the names of three, a group and a bot, a bot
that is offered with its description and commands, a group with five colleagues,
and a part of some of their names.
"""


class Story:
    """Three accounts, a group and two conversations with what people send each
    other."""

    def __init__(self, server: Server, language: str) -> None:
        self.language = language
        self.words = STORIES.get(language, STORIES["en"])  # Germans talk English
        *names, group, bot = self.words["names"]
        self.ann, self.bob, self.cat = people = [
            Account(server, name) for name in names
        ]
        self.group = self.ann.create_group(group, self.bob, self.cat)
        texts = self.words["texts"]
        self.texts = texts
        for turn in range(12):
            for number, text in enumerate(texts):
                people[(turn + number) % 3].say(self.group, text)
        for number, (width, height) in enumerate([(1200, 800), (600, 900)]):
            stored = self.bob.upload(
                f"hills-{number}.jpg", picture(width, height, 40 + 60 * number)
            )
            self.bob.send(self.group, "picture", media(stored))
        note = media(self.cat.upload("note.wav", voice(4)))
        self.cat.send(self.group, "voice", {**note, "seconds": 4, "wave": _WAVE})
        self.ann.send(
            self.group,
            "file",
            media(self.ann.upload("minutes.txt", b"Tea, then cake.\n" * 40)),
        )
        album = [
            self.cat.upload(f"path-{at}.jpg", picture(900, 600 + 150 * at, 30 * at))
            for at in range(5)
        ]
        items = [{"type": "picture", **media(stored)} for stored in album]
        self.cat.send(self.group, "album", {"items": items, "caption": texts[1]})
        self.cat.say(self.group, *texts[6:9])
        self._make_bots(bot)
        self.invitation: str = self.ann.post(
            "invitations/create", group=str(self.group), guests=True
        )["code"]
        root = self.ann.id_of(self.group)
        for person, text in (
            (self.bob, texts[3]),
            (self.ann, texts[4]),
            (self.cat, texts[5]),
        ):
            person.post(
                "messages/send", conversation=self.group, text=text, thread=root
            )
        self.bob.say(self.ann, *texts[:5])
        self.cat.say(self.ann, texts[0])
        self._arrange(texts[7])

    def _arrange(self, draft: str) -> None:
        """A pinned, a marked and an archived conversation, and a draft."""
        found = {
            each["peer"]: each
            for each in self.ann.get("conversations")["conversations"]
        }
        changes: dict[str, dict[str, Any]] = {
            "": {"pinned": 1},
            self.bob.user: {"draft": {"text": draft}},
            self.cat.user: {"archived": found[self.cat.user]["last"]["id"]},
            self.bot.user: {"marked": found[self.bot.user]["last"]["id"]},
        }
        for peer, change in changes.items():
            self.ann.post("inbox", conversation=found[peer]["conversation"], **change)

    def _make_bots(self, nickname: str) -> None:
        """One has commands, and has sent a message with buttons; the app offers
        another one, with whom nobody has talked.
        """
        self.bot = self.ann.bot(f"menu_{self.language}", nickname=nickname)
        text = self.texts[6]
        commands = [
            {"name": name, "description": text}
            for name in ("today", "tomorrow", "order")
        ]
        self.bot.post("bots/commands", commands=commands)
        rows = (("Udon", "Risotto"), ("OK",))
        buttons = [[{"text": each, "value": each} for each in row] for row in rows]
        self.bot.post("messages/send", to=self.ann.user, text=text, buttons=buttons)
        nickname, description, *meanings = self.words["guide"]
        self.guide = self.cat.bot(f"guide_{self.language}", nickname=nickname)
        named = zip(("today", "walk"), meanings, strict=True)
        commands = [{"name": name, "description": text} for name, text in named]
        fields = {"description": description, "commands": commands, "listed": True}
        self.cat.post("bots/update", bot=self.guide.user, **fields)

    @cached_property
    def team(self) -> int:
        """A group whose members can be searched, with links that have
        previews."""
        name, *colleagues = self.words["team"]
        server = self.ann.server
        members = [Account(server, each) for each in colleagues]
        group = self.ann.create_group(name, self.bob, self.cat, *members)
        title = self.texts[6]
        lines = " ".join(self.texts[:3])
        meta = '<meta property="og:{}" content="{}">'.format
        with Site() as site:
            for path, size in (("wide", (1200, 630)), ("small", (200, 200))):
                head = f"<title>{title}</title>{meta('description', lines)}{meta('site_name', name)}"
                site.pages[f"/{path}"] = html(f"{head}{meta('image', f'/{path}.jpg')}")
                site.pages[f"/{path}.jpg"] = (
                    200,
                    picture(*size, 40),
                    {"Content-Type": "image/jpeg"},
                )
                self.bob.say(group, f"{site.url}/{path}")
            links = [each["id"] for each in self.ann.history(group)][-2:]
            eventually(
                lambda: (
                    len(self.ann.post("previews/show", messages=links)["previews"])
                    == len(links)
                ),
                what="the previews",
            )
        return group

    @cached_property
    def friend(self) -> Messenger:
        """The connection of the second account, of whom the first one sees
        whether they are online."""
        self.ann.befriend(self.bob)
        messenger = Messenger(
            self.ann.server.ws_url, APP, self.bob.user, self.bob.token, cursor=None
        )
        messenger.connect()
        return messenger

    @cached_property
    def writer(self) -> User:
        return self.ann.bot(f"writer_{self.language}", nickname="Robo")

    def open(self, browser: Browser, language: str, **how: Any) -> Chat:
        return Chat(browser, self.ann, language=language, **how)


def media(stored: dict[str, Any]) -> dict[str, Any]:
    """The body of a message with an uploaded file."""
    fields = ("url", "name", "bytes", "width", "height", "thumbnail")
    return {name: stored[name] for name in fields if stored.get(name) is not None}


def save(page: Page, path: Any) -> None:
    shot = page.command("Page.captureScreenshot", format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(shot["data"]))
