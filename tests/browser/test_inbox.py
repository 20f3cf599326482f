"""What a user keeps about conversations on the messages page, on two devices: by key, menu and finger."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import DESKTOP, PHONE
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

LIST = """
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
    chat.gives(LIST, list(rows))


def focus(chat: Chat, name: str) -> None:
    eventually(lambda: chat.run(FOCUS, name), what=f"the row of {name}")


def press(chat: Chat, name: str, key: str) -> None:
    focus(chat, name)
    chat.press(key)


def test_pins_archive_marks_and_drafts_are_on_all_devices(pair: Pair, server: Server) -> None:
    ann, bob, cat, dan = (Account(server, name) for name in ("Ann", "Bob", "Cat", "Dan"))
    for each in (bob, cat, dan):
        each.say(ann, "hello")
    for row in ann.get("conversations")["conversations"]:
        ann.read(row["conversation"])
    desk, phone = Chat(pair[0], ann, size=DESKTOP), Chat(pair[1], ann, size=PHONE)
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
    field = phone.field
    eventually(lambda: field.get_attribute("value") == "not yet", what="the draft of the other device")
    field.send_keys("!")
    phone.tap(phone.word("send"))  # Enter is a new line there
    eventually(lambda: desk.messages[-1:] == ["not yet!"], what="the message")
    eventually(lambda: desk.field.get_attribute("value") == "", what="the draft is gone")

    phone.go("")
    shows(phone, "Bob pinned", "Dan", "Cat")
    focus(phone, "Cat")
    box: Any = phone.run("return document.activeElement.getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
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


def test_the_archive_opens_by_a_click_before_the_list_is_loaded(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    ann.post("inbox", conversation=ann.newest, archived=ann.id_of(ann.newest))
    page = Chat(pair[0], ann)
    page.sees(".archive")
    page.command("Page.addScriptToEvaluateOnNewDocument", source=EARLY)
    page.driver.refresh()
    page.has("#conversations b bdi", "Bob")
