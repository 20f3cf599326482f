"""The messages page by keys, menu and finger: back where one came from, and
conversations on two devices."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import DESKTOP
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")


PHONE = (390, 844)
MESSAGE = "return document.activeElement.closest('article')?.querySelector('.text')?.textContent"
"""Of which something has the focus."""
LOOK = """
const { colorScheme, fontSize, backgroundColor } = getComputedStyle(document.documentElement);
return [document.documentElement.lang, colorScheme, fontSize, backgroundColor];
"""


@pytest.fixture
def story(server: Server) -> tuple[Account, int, int]:
    """Ann, and her groups Tea and Cake. Both have a message with the word
    parcel."""
    ann = Account(server, "Ann")
    tea = ann.create_group("Tea")
    cake = ann.create_group("Cake")
    for group in (tea, cake):
        ann.say(group, "the parcel is here", "thank you")
    return ann, tea, cake


def is_open(chat: Chat, conversation: int) -> None:
    chat.gives("return location.hash", f"#c/{conversation}")
    chat.sees("#log")


def test_back_and_escape_lead_from_a_search_and_a_panel_step_by_step(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, cake = story
    chat = Chat(pair[0], ann, size=PHONE)
    assert not chat.shown("#log")
    chat.click(f"[data-conversation='{tea}']")
    is_open(chat, tea)
    assert not chat.shown("#new-conversation"), (
        "a phone shows the list or the conversation"
    )
    chat.click("#search-here")
    chat.write("#search", "parcel")
    chat.click("#hits button")
    is_open(chat, tea)
    chat.driver.back()
    chat.sees("#hits button")
    chat.driver.back()
    is_open(chat, tea)
    assert chat.focused == "search-here"

    chat.click("#search-here", "#search-scope")
    chat.write("#search", Keys.CONTROL + "a" + Keys.NULL + "parcel")
    chat.pick("#hits button", "Cake")
    is_open(chat, cake)
    chat.driver.back()
    chat.sees("#hits button")
    chat.write("#search", Keys.ESCAPE)
    is_open(chat, tea)

    chat.click("#search-here")
    chat.sees("#search")
    chat.click("#me")
    chat.sees("dialog[open] #profile-name")
    chat.reload()
    is_open(chat, tea)
    chat.driver.back()
    chat.gives("return location.hash", "")
    chat.sees(f"[data-conversation='{tea}']")
    assert not chat.shown("#search-scope"), (
        "one step leads to the list, without a search"
    )


def test_the_look_of_the_device_is_chosen_and_stays(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    chat.open(tea)
    light = chat.run(LOOK)
    chat.click("#settings", ".segment [value='dark']", ".segment [value='125']")
    dark = ["en", "dark", "20px", "rgb(19, 21, 23)"]
    assert light[:3] == ["en", "light dark", "16px"]
    assert chat.run(LOOK) == dark
    chat.reload()
    assert chat.run(LOOK) == dark
    chat.click("#settings")
    chat.write("[data-key=language]", "中")
    chat.gives("return document.documentElement.lang", "zh-Hans")
    chat.online()
    is_open(chat, tea)
    chat.driver.get(f"{ann.server.http_url}/home/messages?lang=en#c/{tea}")
    chat.gives("return location.search", "?lang=zh")
    chat.run(
        "localStorage.removeItem('imserver:look'); dispatchEvent(new Event('look'))"
    )
    assert chat.run(LOOK)[1:] == light[1:]


def test_the_focus_stays_where_one_was(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, _ = story
    chat = Chat(pair[0], ann)
    chat.open(tea, "the parcel is here", "thank you")
    chat.act("thank you", "messages_recall")
    ann.post("messages/react", id=ann.id_of(tea), emoji="👍")
    chat.has(".reaction", "👍1")  # the row is drawn again
    chat.click("dialog[open] .quiet")
    chat.gives(MESSAGE, "thank you")
    chat.act("thank you", "messages_hide")
    chat.click("dialog[open] .danger")
    chat.reads("the parcel is here")
    chat.gives(MESSAGE, "the parcel is here")
    chat.act("the parcel is here", "messages_recall")
    chat.click("dialog[open] .danger")
    eventually(
        lambda: chat.focused == "You deleted a message", what="the notice in its place"
    )
    chat.press(Keys.ESCAPE)
    eventually(lambda: chat.focused == "message", what="the text box has the focus")
    chat.press(Keys.ESCAPE)
    chat.gives("return document.activeElement.dataset.conversation", str(tea))


def test_a_wide_window_has_panels_beside_conversations(
    pair: Pair, story: tuple[Account, int, int]
) -> None:
    ann, tea, cake = story
    chat = Chat(pair[0], ann)
    chat.open(tea)
    panel = ".layer.panel"
    modal = "return document.querySelector('.layer.panel').matches(':modal')"
    chat.click("#conversation-open")
    chat.sees(f"{panel} .group-info")
    assert not chat.run(modal)
    chat.say("meanwhile")
    chat.click("#me")
    chat.has(f"{panel} h2", "My profile")
    chat.resize(820, 1000)
    chat.gives(modal, True)
    chat.resize(1280, 800)
    chat.gives(modal, False)
    chat.write("#message", Keys.ESCAPE)
    chat.misses(panel)
    is_open(chat, tea)
    chat.click("#conversation-open")
    chat.sees(panel)
    chat.click(f"[data-conversation='{cake}']")
    is_open(chat, cake)
    assert not chat.shown(panel)


MOST = 90
"""Keys until something must have the focus."""
NAME = """
const each = document.activeElement;
const labels = [...(each.labels ?? [])].map((label) => label.textContent.trim()).join(" ");
return (each.getAttribute("aria-label") || labels || each.textContent).trim();
"""
TEXT = "return document.querySelector('article:focus .text')?.textContent ?? ''"
WITHIN = "return Boolean(document.activeElement.closest(arguments[0]))"


class Typist(Chat):
    """Somebody without a mouse."""

    def walk(self, key: str, script: str, *arguments: str, begins: str = "") -> None:
        """Press a key until a script says so of the focus."""
        for _ in range(MOST):
            found = self.run(script, *arguments)
            if found is True or (begins and found.startswith(begins)):
                return
            self.press(key)
        raise AssertionError(
            f"the key does not lead to {begins or arguments}, but to {found!r}"
        )

    def use(self, name: str, key: str = Keys.ENTER) -> None:
        """Go by the Tab key to what has this name, and press it."""
        self.press(Keys.TAB)
        self.walk(Keys.TAB, NAME, begins=name)
        self.press(key)

    def stand_on(self, text: str) -> None:
        """From the text box to a message."""
        self.walk(Keys.SHIFT + Keys.TAB + Keys.NULL, WITHIN, "#log")
        self.walk(Keys.ARROW_UP, TEXT, begins=text)

    def say(self, text: str) -> None:
        self.walk(Keys.TAB, WITHIN, "#message")
        self.press(text + Keys.ENTER)
        eventually(
            lambda: self.find("#message").get_attribute("value") == "",
            what=f"{text!r} is taken",
        )


def test_keys_lead_everywhere_and_mentions_are_counted(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(ann, "Hello")
    other = Chat(pair[1], bob)
    chat = Typist(pair[0], ann, size=DESKTOP)

    chat.press(Keys.CONTROL + "k")
    eventually(lambda: chat.focused == "palette-field", what="the palette")
    chat.press("Tea")
    chat.has_some(".palette .hit.first b", "Tea")
    chat.press(Keys.ENTER)
    chat.has("#conversation-name", "Tea")
    chat.say("The kettle is on")
    other.has("#conversations .count", "1")
    chat.walk(Keys.TAB, WITHIN, "#message")
    chat.press("@Bo")
    chat.has("#mentions bdi", "Bob")
    chat.press(Keys.ENTER)
    chat.say("are you there?")
    other.has("#conversations .count", "@", "2")
    other.open(group)
    other.has(".line.mentioned .text", "@Bob are you there?")
    other.has("#conversations .count")
    assert chat.texts(".line.mentioned") == []

    chat.stand_on("The kettle")
    chat.press(Keys.ENTER)
    chat.sees("[role=menu]")
    chat.walk(Keys.ARROW_DOWN, NAME, begins=chat.word("messages_reply"))
    chat.press(Keys.ENTER)
    chat.say("with lemon")
    other.has_some(".quote", "The kettle is on")

    chat.stand_on("@Bob")
    chat.press("x", Keys.ARROW_UP, "x")
    chat.has(".select-count", "2 messages")
    chat.use(chat.word("messages_forward"))
    chat.sees(".picker .pick")
    chat.press("Bob")
    chat.has(".picker .pick bdi", "Bob")
    chat.use("Bob", Keys.SPACE)
    chat.use(chat.word("messages_forward_send", count="1").split("|")[0])
    chat.has("#conversation-name", "Bob")
    chat.reads("Hello", "The kettle is on", "@Bob are you there?")

    chat.walk(Keys.TAB, WITHIN, "#conversations")
    chat.press(Keys.HOME)
    chat.walk(Keys.ARROW_DOWN, NAME, begins="Tea")
    chat.press(Keys.ENTER)
    chat.has("#conversation-name", "Tea")


ROWS = """
return [...document.querySelectorAll("#conversations [data-conversation]")].map((each) => {
  const marks = [["pinned", ".pin-mark"], ["marked", ".dot"], ["draft", ".draft"]];
  const found = marks.filter(([, selector]) => each.querySelector(selector)).map(([name]) => name);
  return [each.querySelector("bdi").textContent, ...found].join(" ");
});
"""
FOCUS = """
const rows = [...document.querySelectorAll("#conversations [data-conversation]")];
const row = rows.find((each) => each.querySelector("bdi").textContent === arguments[0]);
row?.focus();
return Boolean(row);
"""
MENU = """
const how = { bubbles: true, cancelable: true };
document.activeElement.dispatchEvent(new MouseEvent("contextmenu", how));
"""
EARLY = """
new MutationObserver((_, watch) => {
  const row = document.querySelector(".archive");
  if (!row) return;
  watch.disconnect();
  row.click();
}).observe(document, { childList: true, subtree: true });
"""
"""A click on a row of the last visit, before the list is there."""


def shows(chat: Chat, *rows: str) -> None:
    """The list has these conversations, with their marks, in this order."""
    chat.gives(ROWS, list(rows))


def focus(chat: Chat, name: str) -> None:
    eventually(lambda: chat.run(FOCUS, name), what=f"the row of {name}")


def press(chat: Chat, name: str, key: str) -> None:
    focus(chat, name)
    chat.press(key)


def test_pins_archive_marks_and_drafts_are_on_all_devices(
    pair: Pair, server: Server
) -> None:
    ann, bob, cat, dan = (
        Account(server, name) for name in ("Ann", "Bob", "Cat", "Dan")
    )
    for each in (bob, cat, dan):
        each.say(ann, "hello")
    for row in ann.get("conversations")["conversations"]:
        ann.read(row["conversation"])
    desk = Chat(pair[0], ann, size=DESKTOP)
    phone = Chat(pair[1], ann, size=PHONE)
    phone.command("Emulation.setTouchEmulationEnabled", enabled=True)
    phone.reload()
    for each in (desk, phone):
        shows(each, "Dan", "Cat", "Bob")

    press(desk, "Bob", "p")
    for each in (desk, phone):
        shows(each, "Bob pinned", "Dan", "Cat")
    press(desk, "Cat", "u")
    for each in (desk, phone):
        shows(each, "Bob pinned", "Dan", "Cat marked")
    phone.reload()
    shows(phone, "Bob pinned", "Dan", "Cat marked")
    focus(phone, "Cat")
    phone.press(Keys.ENTER)
    shows(desk, "Bob pinned", "Dan", "Cat")

    desk.go(f"#u/{dan.user}")
    desk.field.send_keys("not yet")
    shows(phone, "Bob pinned", "Dan draft", "Cat")
    phone.go(f"#u/{dan.user}")
    eventually(
        lambda: phone.field.get_attribute("value") == "not yet",
        what="the draft of the other device",
    )
    phone.tap(phone.word("send"))  # Enter is a new line there
    eventually(lambda: desk.messages[-1:] == ["not yet"], what="the message")
    eventually(
        lambda: desk.field.get_attribute("value") == "", what="the draft is gone"
    )
    phone.go("")
    shows(phone, "Bob pinned", "Dan", "Cat")
    focus(phone, "Cat")
    box: Any = phone.run(
        "return document.activeElement.getBoundingClientRect().toJSON()"
    )
    x = box["x"] + box["width"] / 2
    y = box["y"] + box["height"] / 2
    phone.touch(x, y, *((-24 * step, 0) for step in range(1, 6)))
    for each in (desk, phone):
        shows(each, "Bob pinned", "Dan")
    desk.click(".archive")
    shows(desk, "Cat")
    cat.say(ann, "again")
    for each in (desk, phone):
        shows(each, "Bob pinned", "Cat", "Dan")

    focus(desk, "Bob")
    desk.run(MENU)
    desk.tap(desk.word("messages_unpin"), within="[role=menu]")
    for each in (desk, phone):
        shows(each, "Cat", "Dan", "Bob")


def test_the_archive_opens_by_a_click_before_the_list_is_loaded(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(ann, "hello")
    ann.post("inbox", conversation=ann.newest, archived=ann.id_of(ann.newest))
    page = Chat(pair[0], ann)
    page.sees(".archive")
    page.command("Page.addScriptToEvaluateOnNewDocument", source=EARLY)
    page.driver.refresh()
    page.has("#conversations b bdi", "Bob")
