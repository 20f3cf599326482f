"""Emoji, messages that are chosen, and a finger that pulls one, on the messages page in real browsers."""

import re

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_reading import open_with_texts
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

CHOSEN = "return document.querySelectorAll('.line.chosen').length"
SPOT = """
const { x, y } = [...document.querySelectorAll(".line[data-id] .text")]
  .find((each) => each.textContent === arguments[0]).getBoundingClientRect();
return [x + 20, y + 8];
"""
PICK = """
const [selector, text] = arguments;
const found = [...document.querySelectorAll(selector)].find((each) => each.textContent.includes(text));
found?.click();
return Boolean(found);
"""


def test_an_emoji_is_found_by_its_name_and_comes_first_the_next_time(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, "tea?")
    chat = Chat(pair[0], ann)
    open_with_texts(chat, group, 1)
    chat.tap(chat.word("emoji"))
    for query, emoji in (("rocket", "🚀"), ("龙", "🐲")):  # in either language
        chat.write(".picker input", query)
        chat.gives("return document.querySelector('.picker-rows button')?.textContent", emoji)
        chat.write(".picker input", Keys.ENTER + Keys.CONTROL + "a" + Keys.NULL + Keys.BACKSPACE)
    chat.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER)
    field = chat.find("#message").get_attribute("value") or ""
    assert re.fullmatch("🚀🐲.+", field), field
    chat.press(Keys.ESCAPE)
    chat.misses(".picker")
    chat.menu("tea?")
    chat.tap(chat.word("messages_more_emoji"))
    eventually(lambda: "🐲" in chat.texts("dialog[open] .picker-rows button")[:3], what="the recent ones")
    chat.gives(PICK, True, "dialog[open] .picker-rows button", "🐲")
    chat.has(".reaction", "🐲1")


def test_chosen_messages_are_forwarded_to_several_conversations_and_deleted(
    pair: Pair, server: Server
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group, other = ann.create_group("Tea", bob), ann.create_group("Cake", bob)
    bob.say(ann, "hello")
    private = bob.newest
    bob.say(group, "one", "two", "three")
    ann.say(group, "mine")
    chat, reader = Chat(pair[0], ann), Chat(pair[1], bob)
    open_with_texts(chat, group, 4)
    open_with_texts(reader, group, 4)
    chat.run("document.querySelector('.line[data-id]').focus()")
    chat.press("x")
    chat.sees(".select-bar")
    chat.press(Keys.ARROW_DOWN, Keys.SPACE)
    chat.has(".select-count", "2 messages")
    bob.post("messages/react", id=bob.id_of(group), emoji="👍")
    chat.has(".reaction", "👍1")  # a row is drawn again
    assert chat.run(CHOSEN) == 2
    chat.tap(chat.word("messages_forward"), within=".select-bar")
    for name in ("Bob", "Cake"):
        chat.gives(PICK, True, ".choice", name)
    chat.tap(chat.word("messages_forward_send", count="2").split("|")[1], within="dialog[open]")
    chat.misses(".select-bar")

    def forwarded(person: Account, conversation: int) -> list[str]:
        rows = person.history(conversation)[-2:]
        return [each["text"] for each in rows if "forwarded" in each.get("meta", {})]

    eventually(lambda: forwarded(ann, other) == forwarded(bob, private) == ["one", "two"], what="both")

    chat.run("[...document.querySelectorAll('.line[data-id]')].at(-1).focus()")
    chat.press("x", Keys.ARROW_UP, "x")
    chat.has(".select-count", "2 messages")
    chat.tap(chat.word("messages_select_delete"), within=".select-bar")
    chat.sees("dialog[open] .switch")
    chat.run("document.querySelector('dialog[open] .switch input').click()")
    chat.click("dialog[open] .danger")
    chat.reads("one", "two")
    reader.reads("one", "two", "three")  # mine is recalled for all
    chat.run("document.querySelector('.line[data-id]').focus()")
    chat.press("x")
    chat.sees(".select-bar")
    chat.press(Keys.ESCAPE)
    chat.misses(".select-bar")
    chat.sees("#composer")


def test_a_finger_that_pulls_a_message_far_enough_replies_to_it(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, *(f"number {number}" for number in range(30)))
    chat = Chat(pair[0], ann, size=(390, 844))
    chat.command("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        chat.reload()
        open_with_texts(chat, group, 30)
        chat.gives("return document.querySelector('#log').classList.contains('swipes')", True)
        chat.touch(*chat.run(SPOT, "number 27"), (20, 0), (40, 1), (50, 1))
        chat.has(".swipe-sign")  # too short: the row is back
        assert not chat.shown("#reply-bar")
        chat.touch(*chat.run(SPOT, "number 27"), (2, -20), (30, -60), (90, -90))
        assert not chat.shown("#reply-bar"), "it scrolls"
        open_with_texts(chat, group, 30)
        chat.touch(*chat.run(SPOT, "number 27"), (20, 0), (50, 2), (80, 2), (100, 2))
        chat.has("#reply-text", "number 27")
    finally:
        chat.command("Emulation.setTouchEmulationEnabled", enabled=False)
