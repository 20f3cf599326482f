"""Emoji, messages that are chosen, and a finger that pulls one, on the messages page in real browsers."""

import re

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_reading import open_with_texts
from tests.support import Server, eventually

pytestmark = pytest.mark.full

PHONE = (390, 844)
CHOSEN = "return document.querySelectorAll('.line.chosen').length"
ROW = (
    "const { x, y } = [...document.querySelectorAll('.line[data-id] .text')]"
    ".find((each) => each.textContent === arguments[0]).getBoundingClientRect(); return [x + 20, y + 8]"
)


def test_an_emoji_is_found_by_its_name_and_comes_first_the_next_time(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, "tea?")
    chat = Chat(pair[0], ann)
    open_with_texts(chat, group, 1)
    page = chat.page
    chat.click(chat.word("emoji"))
    eventually(lambda: page.shown(".picker input"), what="the emoji")
    for query, emoji in (("rocket", "🚀"), ("龙", "🐲")):  # in either language
        page.find(".picker input").send_keys(query)
        eventually(lambda emoji=emoji: page.texts(".picker-rows button")[:1] == [emoji], what=emoji)
        page.find(".picker input").send_keys(Keys.ENTER + Keys.CONTROL + "a" + Keys.NULL + Keys.BACKSPACE)
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER)
    field = page.find("#message").get_attribute("value") or ""
    assert re.fullmatch("🚀🐲.+", field), field
    page.press(Keys.ESCAPE)
    eventually(lambda: not page.shown(".picker"), what="Escape closes the emoji")
    chat.menu("tea?")
    chat.click(chat.word("messages_more_emoji"))
    eventually(lambda: "🐲" in page.texts("dialog[open] .picker-rows button")[:3], what="the recent ones")
    page.run(
        "[...document.querySelectorAll('dialog[open] .picker-rows button')]"
        ".find((each) => each.textContent === '🐲').click()"
    )
    eventually(lambda: page.texts(".reaction") == ["🐲1"], what="the reaction")


def test_chosen_messages_are_forwarded_to_several_conversations_and_deleted(
    pair: Pair, server: Server
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group, other = ann.create_group("Tea", bob), ann.create_group("Cake", bob)
    bob.say(ann, "hello")
    private = next(
        each["conversation"] for each in bob.get("conversations")["conversations"] if each["kind"] == "user"
    )
    bob.say(group, "one", "two", "three")
    ann.say(group, "mine")
    chat, reader = Chat(pair[0], ann), Chat(pair[1], bob)
    open_with_texts(chat, group, 4)
    open_with_texts(reader, group, 4)
    page = chat.page
    page.run("document.querySelector('.line[data-id]').focus()")
    page.press("x")
    eventually(lambda: page.shown(".select-bar"), what="the bar")
    page.press(Keys.ARROW_DOWN, Keys.SPACE)
    eventually(lambda: page.texts(".select-count") == ["2 messages"], what="two are chosen")
    bob.post("messages/react", app="gochat", id=bob.history(group)[-1]["id"], emoji="👍")
    eventually(lambda: page.texts(".reaction") == ["👍1"], what="a row is drawn again")
    assert page.run(CHOSEN) == 2
    chat.click(chat.word("messages_forward"), within=".select-bar")
    choose = (
        "const found = [...document.querySelectorAll('.choice')]"
        ".find((each) => each.textContent.includes(arguments[0])); found?.click(); return Boolean(found)"
    )
    for name in ("Bob", "Cake"):
        eventually(lambda name=name: page.run(choose, name), what=name)  # type: ignore[misc]
    chat.click(chat.word("messages_forward_send", count="2").split("|")[1], within="dialog[open]")
    eventually(lambda: not page.shown(".select-bar"), what="the text box is back")
    forwarded = [("one", True), ("two", True)]
    for history in (lambda: ann.history(other), lambda: bob.history(private)):
        eventually(
            lambda history=history: (
                [  # type: ignore[misc]
                    (each.get("text"), "forwarded" in each.get("meta", {})) for each in history()[-2:]
                ]
                == forwarded
            ),
            what="both messages",
        )

    page.run("[...document.querySelectorAll('.line[data-id]')].at(-1).focus()")
    page.press("x", Keys.ARROW_UP, "x")
    eventually(lambda: page.texts(".select-count") == ["2 messages"], what="two are chosen")
    chat.click(chat.word("messages_select_delete"), within=".select-bar")
    eventually(lambda: page.shown("dialog[open] .switch"), what="the question")
    page.run("document.querySelector('dialog[open] .switch input').click()")
    page.click("dialog[open] .danger")
    eventually(lambda: chat.texts == ["one", "two"], what="both are gone")
    eventually(lambda: reader.texts == ["one", "two", "three"], what="mine is recalled for all")
    page.run("document.querySelector('.line[data-id]').focus()")
    page.press("x")
    eventually(lambda: page.shown(".select-bar"), what="the bar")
    page.press(Keys.ESCAPE)
    eventually(lambda: not page.shown(".select-bar") and page.shown("#composer"), what="Escape ends it")


def test_a_finger_that_pulls_a_message_far_enough_replies_to_it(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, *(f"number {number}" for number in range(30)))
    chat = Chat(pair[0], ann, size=PHONE)
    page = chat.page
    page.command("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        page.driver.refresh()
        chat.online()
        open_with_texts(chat, group, 30)
        swipes = "return document.querySelector('#log').classList.contains('swipes')"
        eventually(lambda: page.run(swipes), what="the module")

        def pull(*moves: tuple[int, int]) -> None:
            x, y = page.run(ROW, "number 27")
            points = [{"x": x, "y": y}]
            page.command("Input.dispatchTouchEvent", type="touchStart", touchPoints=points)
            for across, down in moves:
                points = [{"x": x + across, "y": y + down}]
                page.command("Input.dispatchTouchEvent", type="touchMove", touchPoints=points)
            page.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

        pull((20, 0), (40, 1), (50, 1))
        eventually(lambda: not page.texts(".swipe-sign"), what="too short: the row is back")
        assert not page.shown("#reply-bar")
        pull((2, -20), (30, -60), (90, -90))
        assert not page.shown("#reply-bar"), "it scrolls"
        open_with_texts(chat, group, 30)
        pull((20, 0), (50, 2), (80, 2), (100, 2))
        eventually(lambda: page.texts("#reply-text") == ["number 27"], what="the reply")
    finally:
        page.command("Emulation.setTouchEmulationEnabled", enabled=False)
