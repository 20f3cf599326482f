"""The list of conversations: of many, with filters and folders."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.support import Server, eventually

pytestmark = [pytest.mark.full("browser")]

FOCUS = "document.querySelector('#conversations [data-conversation]').focus()"
WHERE = """
const row = document.activeElement.closest("[aria-posinset]");
const numbers = ["posinset", "setsize"].map((each) => row?.getAttribute(`aria-${each}`));
return [row?.querySelector("b bdi").textContent, ...numbers];
"""
SIZE = "return document.querySelector('[aria-setsize]')?.getAttribute('aria-setsize')"
ROWS = "return document.querySelectorAll('#conversations li').length"
NAMES = "#conversations .conversation b bdi"
TOP = """
const { top } = document.querySelector("nav").getBoundingClientRect();
const rows = [...document.querySelectorAll("#conversations li")];
const first = rows.find((row) => row.getBoundingClientRect().top >= top);
return [first.querySelector("b bdi").textContent, Math.round(first.getBoundingClientRect().top - top)];
"""
"""The first row that is in view, and where it is."""


def test_a_long_list_has_few_rows_and_leads_everywhere(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    for number in range(59):
        (ann if number % 2 else bob).create_group(
            f"Group {number}", bob if number % 2 else ann
        )
    bob.say(ann, "hello")
    tea = ann.create_group("Tea", bob)
    chat = Chat(pair[0], ann)
    chat.sees("#list-filters .chip")
    chat.gives(SIZE, "61")
    chat.run(FOCUS)
    chat.gives(WHERE, ["Tea", "1", "61"])
    chat.press(Keys.END)
    assert chat.run(WHERE) == ["Group 0", "61", "61"]
    chat.press(Keys.ARROW_UP)
    chat.press(Keys.PAGE_UP)
    name, position, _ = chat.run(WHERE)
    assert name == f"Group {61 - int(position)}"
    assert chat.run(ROWS) < 40

    before = chat.run(TOP)
    bob.say(tea, "the kettle is on")
    bob.say(bob.create_group("Cake", ann), "with cream")
    eventually(lambda: chat.run(WHERE)[2] == "62", what="a new group is listed")
    assert (chat.run(WHERE)[0], chat.run(TOP)) == (name, before), (
        "what is in view stays where it is"
    )

    chat.press(Keys.HOME)
    assert chat.run(WHERE)[0] == "Cake"
    chat.press(Keys.ENTER)
    chat.has("#conversation-name", "Cake")
    chat.field.send_keys(Keys.ALT + Keys.ARROW_DOWN)
    chat.has("#conversation-name", "Tea")
    chat.field.send_keys(Keys.ALT + Keys.ARROW_UP)
    chat.has("#conversation-name", "Cake")


def test_filters_and_folders_are_above_the_list_on_all_devices(
    pair: Pair, server: Server
) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    tea = ann.create_group("Tea", bob)
    for number in range(6):
        ann.create_group(f"Group {number}", bob)
    bob.say(ann, "hello")
    cat.say(ann, "hello")
    bob.say(tea, "one", "two")
    first = Chat(pair[0], ann)
    second = Chat(pair[1], ann)
    first.pick("#list-filters .chip", first.word("messages_filter_unread"))
    first.has(NAMES, "Tea", "Cat", "Bob")
    first.choose("Cat")
    first.reads("hello")
    first.has(NAMES, "Tea", "Cat", "Bob")
    first.pick("#list-filters .chip", first.word("messages_filter_people"))
    first.has(NAMES, "Cat", "Bob")

    first.tap(first.word("messages_new_menu"))
    first.tap(first.word("messages_folder_new"))
    first.write("#folder-name", "Kitchen")
    for name in ("Tea", "Bob"):
        first.pick(".choices .choice", name, within="bdi")
    first.tap(first.word("messages_create"))
    first.misses("dialog")
    for each in (first, second):
        each.pick("#list-filters .chip", "Kitchen", within="bdi")
        each.has(NAMES, "Tea", "Bob")
        each.has("#list-filters [aria-pressed=true] b", "2")
    first.reload()
    first.has(NAMES, "Tea", "Bob")

    second.click("#list-filters [data-key=edit]")
    second.tap(f"{second.word('messages_folder_remove')}: Kitchen")
    second.click("dialog .danger")
    second.press(Keys.ESCAPE)
    for each in (first, second):
        eventually(
            lambda each=each: len(each.texts(NAMES)) == 9,
            what="without the folder all are listed",
        )
