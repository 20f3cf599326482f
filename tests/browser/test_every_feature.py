"""Three people, three browsers, one story: every feature of the messages page is used once.

Ann has a desktop and only a keyboard, Bob a tablet, Cat a phone in Chinese and in the dark, and fingers.
A second device of Ann shows what the first has changed. Twice the network goes away, and once the node is
killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from imserver.pages.text import TEXT
from tests.bots import ExampleBot, LanguageModel
from tests.browser.chromium import Browser, unexpected
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, LINE, PASSWORD, Account, Chat, login_form, picture
from tests.browser.test_inbox import LIST
from tests.browser.test_media import offer
from tests.browser.test_three_people import rows
from tests.conftest import StartServer
from tests.ports import fixed_ports
from tests.support import Server, eventually, run_cli

pytestmark = pytest.mark.full

DESKTOP, TABLET, PHONE = (1280, 800), (820, 1180), (390, 844)
LIMIT = 300_000
"""Bytes of a file."""
MOST_TABS = 90
MOUSE = (
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
)
"""A desktop has one, though Ann does not touch hers. Without a display, Chromium finds none."""

NAME_OF_FOCUS = """
const each = document.activeElement;
const labels = [...(each.labels ?? [])].map((label) => label.textContent.trim()).join(" ");
return (each.getAttribute("aria-label") || labels || each.textContent).trim();
"""
TEXT_OF_FOCUS = "return document.activeElement.querySelector('.text')?.textContent ?? ''"
IN_LOG = "return document.querySelector('#log').contains(document.activeElement)"
IN_LIST = "return Boolean(document.activeElement.closest('#conversations'))"
POINT = """
const [selector, text] = arguments;
const all = [...document.querySelectorAll(selector)];
const found = all.findLast((each) => !text || each.textContent.includes(text));
found?.scrollIntoView({ block: "center" });
const box = found?.getBoundingClientRect();
return box ? [box.x + Math.min(box.width / 2, 40), box.y + box.height / 2] : null;
"""
NETWORK = ("net::ERR_", "WebSocket connection to")
"""What the console says of a network or a node that is away."""
SAVED = "return JSON.parse(localStorage.getItem(arguments[0]))"


class Person(Chat):
    """Somebody whose page begins with a link or a form."""

    def __init__(
        self,
        browser: Browser,
        server: Server,
        address: str,
        *,
        language: str = "en",
        touch: bool = False,
        **how: Any,
    ) -> None:
        self.browser = browser
        self.words = TEXT[language]
        self.server = server
        self.page = browser.open(address, script=LINE, forget=True, **how)
        if touch:
            self.page.command("Emulation.setTouchEmulationEnabled", enabled=True)
            self.page.driver.refresh()

    def has_come(self) -> None:
        """The login is done."""
        eventually(lambda: self.page.state == "online", what="the page is online")
        login = self.page.run(SAVED, f"imserver:account:{APP}")
        self.account = Account(self.server, login["nickname"], login)

    def shows(self, *texts: str, within: str = "[role=log] article .text") -> None:
        """These texts are in the open conversation."""
        for text in texts:
            eventually(
                lambda text=text: any(text in each for each in self.page.texts(within)),
                what=f"{self.account.nickname} sees {text!r} in {self.page.texts(within)}",
            )

    def lists(self, *conversations: str) -> None:
        """The list has these conversations, with their marks, in this order."""
        eventually(
            lambda: self.page.run(LIST) == list(conversations),
            what=f"{conversations}, not {self.page.run(LIST)}",
        )

    def click_row(self, name: str) -> None:
        """Open a conversation of the list."""
        click = (
            "const rows = [...document.querySelectorAll('#conversations [data-conversation]')];"
            "const row = rows.find((each) => each.querySelector('bdi').textContent === arguments[0]);"
            "row?.click(); return Boolean(row)"
        )
        eventually(lambda: self.page.run(click, name), what=f"the row of {name}")
        eventually(lambda: self.page.texts("#conversation-name") == [name], what=f"{name} is open")

    def counts(self, *counts: str) -> None:
        """What the list says of unread messages."""
        eventually(
            lambda: self.page.texts("#conversations .count") == list(counts),
            what=f"{counts}, not {self.page.texts('#conversations .count')}",
        )

    def waits(self, selector: str) -> None:
        eventually(lambda: self.page.shown(selector), what=f"{selector} is shown")


class Typist(Person):
    """Somebody without a mouse."""

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus. Those after Ctrl, Alt or Shift are pressed with it."""
        chain = ActionChains(self.page.driver)
        down: list[str] = []
        for key in "".join(keys):
            if key in (Keys.CONTROL, Keys.ALT, Keys.SHIFT):
                down.append(key)
                chain.key_down(key)
            else:
                chain.send_keys(key)
        for key in down:
            chain.key_up(key)
        chain.perform()

    def tab_to(self, name: str, *, back: bool = False) -> None:
        """Go to what has this name, or one that begins so."""
        passed: list[str] = []
        for _ in range(MOST_TABS):
            self.press(Keys.SHIFT + Keys.TAB if back else Keys.TAB)
            passed.append(self.page.run(NAME_OF_FOCUS))
            if passed[-1].startswith(name):
                return
        raise AssertionError(f"Tab does not lead to {name!r}, but to {passed}")

    def use(self, name: str, key: str = Keys.ENTER, *, back: bool = False) -> None:
        """Press what has this name."""
        self.tab_to(name, back=back)
        self.press(key)

    def palette(self, text: str, row: str) -> None:
        """Choose the first row for a text."""
        self.press(Keys.CONTROL + "k")
        eventually(lambda: self.page.focused == "palette-field", what="the palette")
        self.press(text)
        eventually(lambda: row in self.page.texts(".palette .hit.first b"), what=f"{row} is found")
        self.press(Keys.ENTER)
        eventually(lambda: not self.page.shown(".palette"), what="the palette is closed")

    def go_to(self, name: str) -> None:
        """Open a conversation."""
        self.palette(name, name)
        eventually(lambda: self.page.texts("#conversation-name") == [name], what=f"{name} is open")
        eventually(lambda: self.page.focused == "message", what="the text box has the focus")

    def leave(self) -> None:
        """Close all that is above the conversation, and go back to the text box."""
        while self.page.shown("dialog[open]"):
            before = len(self.page.texts("dialog[open]"))
            self.press(Keys.ESCAPE)
            eventually(lambda: len(self.page.texts("dialog[open]")) < before, what="Escape closes it")  # noqa: B023
        if self.page.focused != "message":
            self.tab_to(self.word("message"))

    def say(self, text: str) -> None:
        eventually(lambda: self.page.focused == "message", what="the text box has the focus")
        self.press(text + Keys.ENTER)
        eventually(lambda: self.page.find("#message").get_attribute("value") == "", what=f"{text!r} is taken")

    def stand_on(self, text: str) -> None:
        """From the text box to a message."""
        while not self.page.run(IN_LOG):
            self.press(Keys.SHIFT + Keys.TAB)
        for _ in range(MOST_TABS):
            if text in self.page.run(TEXT_OF_FOCUS):
                return
            self.press(Keys.ARROW_UP)
        raise AssertionError(f"arrow keys do not lead to {text!r}")

    def choose(self, name: str) -> None:
        """A line of the menu of the message with the focus."""
        self.press(Keys.ENTER)
        self.waits("[role=menu]")
        for _ in range(MOST_TABS):
            if self.page.run(NAME_OF_FOCUS) == name:
                return self.press(Keys.ENTER)
            self.press(Keys.ARROW_DOWN)
        raise AssertionError(f"the menu has no {name!r}")

    def key_on_row(self, name: str, key: str) -> None:
        """Press a key on the row of a conversation. The list is one stop of the Tab key."""
        for _ in range(MOST_TABS):
            if self.page.run(IN_LIST):
                break
            self.press(Keys.TAB)
        self.press(Keys.HOME)
        for _ in range(MOST_TABS):
            if self.page.run(NAME_OF_FOCUS).startswith(name):
                return self.press(key)
            self.press(Keys.ARROW_DOWN)
        raise AssertionError(f"the list has no {name!r}")


class Toucher(Person):
    """Somebody with fingers, for whom Enter begins a new line."""

    def say(self, text: str) -> None:
        self.page.find("#message").send_keys(text)
        self.tap("#send")
        eventually(lambda: self.page.find("#message").get_attribute("value") == "", what=f"{text!r} is taken")

    def tap(self, selector: str, text: str = "") -> None:
        self._touch(selector, text)
        self._lift()

    def hold(self, selector: str, text: str = "") -> None:
        """A long press."""
        self._touch(selector, text)
        self.waits("[role=menu]")
        self._lift()

    def pull(self, selector: str, text: str, across: int) -> None:
        x, y = self._touch(selector, text)
        for step in range(1, 6):
            point = {"x": x + across * step / 5, "y": y}
            self.page.command("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
        self._lift()

    def _touch(self, selector: str, text: str) -> tuple[float, float]:
        x, y = eventually(lambda: self.page.run(POINT, selector, text), what=f"{selector} {text!r}")
        self.page.command("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        return x, y

    def _lift(self) -> None:
        self.page.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


class Company:
    """The three people, a second device of Ann, and the server that serves them."""

    def __init__(self, desk: Browser, pair: Pair, start: StartServer, folder: Path) -> None:
        self.desk = desk
        self.pair = pair
        self.folder = folder
        self._start = start
        self._config = {
            "app": fixed_ports(),
            "accounts": {"registration": True, "registrations_per_address": 0},
            "uploads": {
                "max_bytes": LIMIT,
                "picture_bytes": LIMIT,
                "voice_bytes": LIMIT,
                "min_free_bytes": 0,
            },
            "apps": {APP: {"accounts": {"guests": True, "search": True}}},
            "api": {"keys": [{"key": "k" * 40, "scopes": ["read"], "apps": [APP]}]},
        }
        self.server = start(folder=folder / "server", config=self._config)

    @property
    def people(self) -> tuple[Person, Person, Person]:
        return self.ann, self.bob, self.cat

    def kill_node(self) -> None:
        self.server.process.kill()
        self.server.process.wait()

    def start_node(self) -> None:
        """With the same data."""
        self.server = self._start(folder=self.server.folder, config=self._config)

    # --- they come ------------------------------------------------------------------------------------------

    def owner_comes(self) -> None:
        """Ann opens the link of ``imserver chat``."""
        done = run_cli("chat", "-c", str(self.server.config_file), folder=self.server.folder)
        assert done.returncode == 0, done.stderr
        link = re.search(r"/home/messages(#owner=\S+)", done.stdout)
        assert link, done.stdout
        self.ann = ann = Typist(self.desk, self.server, self._page("en", link[1]), size=DESKTOP)
        ann.waits("#welcome-form")
        ann.tab_to(ann.word("messages_your_name"))
        ann.press("Ann")
        ann.tab_to(ann.word("messages_password"))
        ann.press(PASSWORD + Keys.ENTER)
        ann.has_come()

    def member_comes(self) -> None:
        """Bob makes an account. Ann finds him by a part of his name, and he accepts her request."""
        self.bob = bob = Person(self.pair[0], self.server, self._page("en"), size=TABLET)
        login_form(bob.page)
        bob.page.click("#login-switch")
        for field, text in (("#nickname", "Bob"), ("#identifier", "bob.b"), ("#password", PASSWORD)):
            bob.page.find(field).send_keys(text)
        bob.page.click("#login-submit")
        bob.has_come()
        ann = self.ann
        ann.palette("ob", "Bob")
        ann.say("Hello Bob")
        ann.palette("about", ann.word("messages_about_here"))
        ann.use(ann.word("messages_ask"))
        ann.leave()
        bob.page.click("#new-conversation")
        bob.page.click("[data-key^=accept]")
        eventually(lambda: bob.page.texts(".contacts ul bdi") == ["Ann"], what="the new contact")
        bob.page.click("dialog[open] .close")

    def group_begins(self) -> None:
        """With Bob, a description and a picture."""
        ann = self.ann
        ann.palette("new gr", ann.word("messages_new_group"))
        ann.waits("#group-name")
        ann.press("Tea")
        ann.use("Bob", Keys.SPACE)
        ann.use(ann.word("messages_create"))
        eventually(lambda: ann.page.texts("#conversation-name") == ["Tea"], what="the group is open")
        self.group = int(ann.page.run("return location.hash").removeprefix("#c/"))
        ann.palette("about", ann.word("messages_about_here"))
        ann.use(ann.word("messages_group_edit"))
        ann.waits("#group-description")
        ann.tab_to(ann.word("messages_description"))
        ann.press("Every day at five")
        ann.use(ann.word("messages_save"))
        eventually(
            lambda: ann.page.texts(".group-info .card-text") == ["Every day at five"], what="the description"
        )
        photo = self.folder / "kettle.jpg"
        photo.write_bytes(picture(600, 400, 20))
        ann.page.command("Page.setInterceptFileChooserDialog", enabled=True)  # the dialog is not of the page
        ann.use(ann.word("messages_avatar_choose"))
        ann.page.find("#avatar-file").send_keys(str(photo))
        ann.waits(".crop-window")
        ann.press(Keys.ARROW_LEFT, "+")
        ann.use(ann.word("messages_avatar_use"))
        ann.waits(".group-info .avatar img")

    def guest_comes(self) -> None:
        """Cat opens a link for people without an account: a name is enough."""
        ann = self.ann
        ann.use(ann.word("messages_group_link"))
        ann.use(ann.word("messages_link_guests"), Keys.SPACE)
        ann.use(ann.word("messages_link_new"))
        ann.waits("#invitation-link")
        link = ann.page.run("return document.querySelector('#invitation-link').value")
        ann.leave()
        address = link.replace("#", "?lang=zh#")
        self.cat = cat = Toucher(
            self.pair[1], self.server, address, language="zh", size=PHONE, dark=True, touch=True
        )
        cat.waits("#guest-form")
        cat.page.find("#nickname").send_keys("阿凯")
        cat.tap("#guest-go")
        cat.has_come()
        cat.waits("#message")
        ann.shows("阿凯", within="[role=log] .notice")

    def second_device_comes(self) -> None:
        login = self.ann.page.run(SAVED, f"imserver:account:{APP}")
        saved = f"localStorage.setItem('imserver:account:{APP}', JSON.stringify({json.dumps(login)}))"
        self.again = again = Person(self.pair[2], self.server, self._page("en", "none"), size=TABLET)
        again.page.run(saved)
        again.page.driver.get(self._page("en"))
        again.has_come()

    def _page(self, language: str, hash: str = "") -> str:
        return f"{self.server.http_url}/home/messages?lang={language}{hash}"

    # --- they talk ------------------------------------------------------------------------------------------

    def all_open_the_group(self) -> None:
        self.ann.go_to("Tea")
        self.bob.click_row("Tea")
        self.second_device_comes()
        self.again.click_row("Tea")

    def words_are_formatted_and_read_by_two(self) -> None:
        ann, bob, cat = self.people
        ann.say("The *kettle* is on, ~~four~~ `five` o'clock, see www.tea.example")
        for each in (bob, cat):
            each.shows("kettle")
            found = [each.page.texts(f"[role=log] .text {tag}") for tag in ("strong", "s", "code", "a")]
            assert found == [["kettle"], ["four"], ["five"], ["www.tea.example"]]
        read = ann.word("messages_read_by", count="2", members="2")
        label = "return [...document.querySelectorAll('[role=log] .tick')].at(-1)?.getAttribute('aria-label')"
        for page in (ann.page, self.again.page):
            eventually(lambda page=page: page.run(label) == read, what="two have read it")
        ann.stand_on("kettle")
        ann.choose(ann.word("messages_readers"))
        eventually(
            lambda: set(ann.page.texts(".chooser .person-name bdi")) == {"Bob", "阿凯"},
            what="who has read it",
        )
        ann.leave()

    def unread_messages_and_mentions_are_counted(self) -> None:
        ann, bob, cat = self.people
        bob.click_row("Ann")
        cat.say("一")
        cat.say("二")
        bob.counts("2")
        ann.press("@Bo")
        eventually(lambda: ann.page.texts("#mentions bdi") == ["Bob"], what="Bob is offered")
        ann.press(Keys.ENTER)
        ann.say("are you there?")
        bob.counts("@", "3")
        cat.page.find("#message").send_keys("@")
        cat.tap("#mentions li", cat.word("messages_all"))
        cat.say("喝茶")
        bob.counts("@", "4")
        eventually(
            lambda: ann.page.texts(".line.mentioned .text") == ["@所有人 喝茶"], what="Ann is mentioned, too"
        )
        assert cat.page.texts(".line.mentioned") == []
        bob.click_row("Tea")
        bob.shows("@所有人 喝茶")
        bob.counts()

    def bot_streams(self) -> None:
        """Bob starts a bot of the gallery, and uses a command of it."""
        owner = Account(self.server, "Robin")
        account = owner.post("bots", name="kettle_bot", nickname="Kettle")
        owner.post("bots/update", app=APP, bot=account["id"], description="Boils water", listed=True)
        model = LanguageModel(["It ", "is ", "hot."])
        bot = ExampleBot(self.server, "llm-bot", account["token"], self.folder / "bot", LLM_URL=model.url)
        bob = self.bob
        try:
            bob.page.click("#new-conversation")
            bob.page.click("#bot-gallery")
            eventually(lambda: bob.page.texts(".bots .person small") == ["Boils water"], what="the gallery")
            bob.page.click(".bots .person")
            eventually(lambda: bob.page.texts(".card-of-person code") == ["/ask"], what="the card")
            bob.page.click("#bot-start")
            eventually(lambda: bob.texts == ["/start", "It is"], what="the beginning of the answer")
            assert bob.page.shown(".streamed .caret")
            model.gate.set()
            eventually(lambda: bob.texts == ["/start", "It is hot."], what="the whole answer")
            field = bob.named("field", bob.word("message"))
            field.send_keys("/")
            offered = ["/ask", "/question"]
            eventually(lambda: bob.page.texts("#mentions b") == offered, what="the commands are offered")
            field.send_keys(Keys.ENTER + "now?" + Keys.ENTER)
            eventually(lambda: bob.texts[2:] == ["/ask now?", "It is hot."], what="another answer")
            eventually(lambda: not bob.page.shown(".streamed"), what="it is stored")
        finally:
            model.stop()
            bot.kill()
        bob.click_row("Tea")

    def files_become_an_album_but_a_large_one_is_refused(self) -> None:
        bob = self.bob
        large, files = self.folder / "large.bin", [self.folder / f"hills-{number}.jpg" for number in range(3)]
        large.write_bytes(bytes(2 * LIMIT))
        for number, file in enumerate(files):
            file.write_bytes(picture(600, 400, 30 * number))
        offer(bob.page, large, *files)
        refused = bob.word("messages_media_too_large", size="600 kB", limit="300 kB")
        assert bob.page.texts(".picked .refused .reason") == [refused]
        bob.page.find(".picked-caption").send_keys("The *hills*")
        bob.page.click("dialog .question .wide")
        loaded = (
            "const all = [...document.querySelectorAll('.line[data-id] .album img')];"
            "return all.length === 3 && all.every((each) => each.naturalWidth > 0)"
        )
        for each in self.people:
            each.shows("The hills", within=".line[data-id] .caption")
            eventually(lambda each=each: each.page.run(loaded), what="the three pictures")

    def finger_opens_a_menu_and_replies(self) -> None:
        """A long press on a picture, and a pull at a message."""
        ann, bob, cat = self.people
        cat.hold(".album img")
        cat.tap("[role=menu] .sign", "❤")
        for each in (ann, bob):
            eventually(lambda each=each: each.page.texts(".reaction") != [], what="the reaction")
        cat.pull(".line[data-id] .text", "are you there?", 120)
        eventually(lambda: "are you there?" in cat.page.texts("#reply-text")[0], what="the reply")
        cat.say("在")
        for each in (ann, bob):
            each.shows("are you there?", within=".quote")

    def emoji_are_found_by_name(self) -> None:
        ann = self.ann
        ann.use(ann.word("emoji"), back=True)
        ann.waits(".picker input")
        eventually(
            lambda: ann.page.run("return document.activeElement.matches('.picker input')"), what="its field"
        )
        ann.press("teapot")
        eventually(lambda: ann.page.texts(".picker-rows button")[:1] == ["🫖"], what="the teapot")
        ann.press(Keys.ENTER, Keys.ESCAPE, Keys.ESCAPE)  # the first empties the field
        eventually(lambda: not ann.page.shown(".picker"), what="Escape closes the emoji")
        ann.say("!")
        for each in (self.bob, self.cat):
            each.shows("🫖!")

    def several_messages_are_forwarded(self) -> None:
        ann, bob, _ = self.people
        ann.stand_on("二")
        ann.press("x", Keys.ARROW_UP, "x")
        eventually(lambda: ann.page.texts(".select-count") == ["2 messages"], what="two are chosen")
        ann.use(ann.word("messages_forward"), back=False)
        ann.waits(".choice")
        ann.press("Bob")
        eventually(lambda: ann.page.texts(".choice bdi") == ["Bob"], what="Bob is offered")
        ann.use("Bob", Keys.SPACE)
        ann.use(ann.word("messages_forward_send", count="1").split("|")[0])
        eventually(lambda: ann.page.texts("#conversation-name") == ["Bob"], what="the conversation with Bob")
        ann.shows("一", "二")
        bob.click_row("Ann")
        bob.shows("一", "二")
        bob.click_row("Tea")

    # --- the list -------------------------------------------------------------------------------------------

    def list_is_arranged_on_two_devices(self) -> None:
        """By keys: pinned, muted, marked as unread, archived. And a draft."""
        ann, again = self.ann, self.again
        ann.go_to("Everybody")
        for each in (ann, again):
            each.lists("Bob", "Tea", "Everybody")
        ann.key_on_row("Tea", "p")
        for each in (ann, again):
            each.lists("Tea pinned", "Bob", "Everybody")
        ann.key_on_row("Bob", "u")
        for each in (ann, again):
            each.lists("Tea pinned", "Bob marked", "Everybody")
        ann.key_on_row("Everybody", "a")
        for each in (ann, again):
            each.lists("Tea pinned", "Bob marked")
        ann.key_on_row("Tea", "m")
        ann.use(ann.word("messages_notify_week"))
        ann.press(Keys.ESCAPE)
        again.page.driver.refresh()
        for each in (ann, again):
            eventually(lambda each=each: len(each.page.texts(".quiet-mark")) == 1, what="Tea is muted")
        again.page.click(".archive")
        again.lists("Everybody")
        again.page.click(".archive")
        ann.go_to("Bob")
        for each in (ann, again):
            each.lists("Tea pinned", "Bob")
        ann.press("not yet")
        again.lists("Tea pinned", "Bob draft")
        again.click_row("Bob")
        field = again.page.find("#message")
        eventually(lambda: field.get_attribute("value") == "not yet", what="the draft of the other device")
        ann.say("!")
        again.shows("not yet!")
        again.click_row("Tea")
        ann.go_to("Tea")

    def search_is_filtered(self) -> None:
        ann = self.ann
        ann.palette("from:阿凯 茶", "阿凯 · Tea")
        ann.waits(".line.found")
        assert ann.page.texts(".line.found .text") == ["@所有人 喝茶"]
        ann.leave()

    def look_is_changed(self) -> None:
        """By the palette and by the settings: theme, size of texts, language."""
        ann = self.ann
        style = (
            "const { colorScheme, fontSize } = getComputedStyle(document.documentElement);"
            "return [colorScheme, fontSize]"
        )
        ann.palette("dark", "Theme: Dark")
        ann.palette("text si", ann.word("messages_size"))
        ann.use(ann.word("messages_size_normal"), Keys.ARROW_RIGHT)
        eventually(lambda: ann.page.run(style) == ["dark", "18px"], what="dark, and larger")
        ann.use(ann.word("messages_language"), "中")
        eventually(
            lambda: ann.page.run("return document.documentElement.lang").startswith("zh"), what="Chinese"
        )
        ann.words = TEXT["zh"]
        ann.online()
        ann.palette("语言", ann.word("messages_language"))
        ann.use(ann.word("messages_language"), "E")
        eventually(lambda: ann.page.run("return document.documentElement.lang") == "en", what="English")
        ann.words = TEXT["en"]
        ann.online()
        ann.go_to("Tea")

    # --- the network and the node ---------------------------------------------------------------------------

    def network_is_away(self, *away: Person, texts: str) -> None:
        """Who is away writes: it waits, says so, and goes out later. The others write, too."""
        for each in away:
            each.cut()
            for number in (1, 2):
                each.say(f"{texts} {number} of {each.account.nickname}")
            waits = each.word("messages_stranded")
            eventually(
                lambda each=each, waits=waits: each.page.texts(".stranded-note") == [waits], what=waits
            )
        for each in self.people:
            if each not in away:
                each.say(f"{texts}, meanwhile")
        for each in away:
            each.mend()
        for each in self.people:
            for other in away:
                each.shows(f"{texts} 2 of {other.account.nickname}", within=".line[data-id] .text")
            each.shows(f"{texts}, meanwhile")
            eventually(lambda each=each: each.page.texts(".pending") == [], what="nothing waits")

    def node_is_killed(self) -> None:
        """Without warning. What Ann and Cat write meanwhile goes out when it is back."""
        ann, _, cat = self.people
        self.kill_node()
        for each in (ann, cat):
            eventually(lambda each=each: each.page.state != "online", what="it is noticed")
            each.say(f"a node is away, says {each.account.nickname}")
            eventually(lambda each=each: len(each.page.texts(".pending")) == 1, what="it waits")
        self.start_node()
        for each in (*self.people, self.again):
            each.online()
            each.shows("a node is away, says Ann", "a node is away, says 阿凯", within=".line[data-id] .text")

    # --- the end --------------------------------------------------------------------------------------------

    def all_show_the_same(self) -> None:
        """What the server has, in its order, once; also on a page that begins again."""
        reader = self.bob.account
        stored = [each["id"] for each in reader.history(self.group) if each["kind"] == "message"]
        texts = {each["id"]: each.get("text") for each in reader.history(self.group)}
        shown = rows(self.bob)
        assert [row[0] for row in shown] == stored
        for id, text, *_ in shown:
            assert text == texts[id] or texts[id] is None or "kettle" in text, text
        for each in (*self.people, self.again):
            eventually(lambda each=each: rows(each) == shown, what=f"{rows(each)} is {shown}")
            assert each.page.texts(".pending") == []
            each.page.driver.refresh()
            each.online()
            eventually(lambda each=each: rows(each) == shown, what=f"{rows(each)} is {shown} again")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Browser]:
    """A browser of its own, with a mouse."""
    browser = Browser(tmp_path / "desk", MOUSE)
    yield browser
    browser.quit()


def test_three_people_use_every_feature(
    desk: Browser, pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    pair.expects(*NETWORK)
    company = Company(desk, pair, start_server, tmp_path)
    company.owner_comes()
    company.member_comes()
    company.group_begins()
    company.guest_comes()
    company.all_open_the_group()
    company.words_are_formatted_and_read_by_two()
    company.unread_messages_and_mentions_are_counted()
    company.bot_streams()
    company.files_become_an_album_but_a_large_one_is_refused()
    company.finger_opens_a_menu_and_replies()
    company.emoji_are_found_by_name()
    company.several_messages_are_forwarded()
    company.list_is_arranged_on_two_devices()
    company.search_is_filtered()
    company.look_is_changed()
    company.network_is_away(company.bob, company.cat, texts="a tunnel")
    company.node_is_killed()
    company.network_is_away(company.ann, company.cat, texts="a lift")
    company.all_show_the_same()
    assert not unexpected(desk.complaints(), *NETWORK)
