"""Saved messages, reminders and messages that are sent later: a journey of one
person."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.support import Server, eventually

pytestmark = [pytest.mark.full("browser")]


def test_messages_are_saved_reminded_of_and_sent_later(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.befriend(bob)
    bob.say(ann, "tea at nine", "cake at ten")
    chat = Chat(pair[0], ann)
    first = ann.newest
    chat.open(first, "tea at nine", "cake at ten")
    saved = chat.word("messages_to_oneself")

    chat.act("tea at nine", "later_save")
    eventually(
        lambda: saved in chat.texts(".conversation b"),
        what="saved messages are a conversation",
    )
    chat.act("cake at ten", "later_remind")
    chat.click("dialog .later-row")
    chat.misses("dialog")
    (reminder,) = ann.get("scheduled")["scheduled"]
    ann.post("scheduled/change", id=reminder["id"], seconds=0)
    chat.choose(saved)
    chat.reads("tea at nine", "cake at ten")
    chat.tap(chat.word("later_original"))
    chat.has("#conversation-name", "Bob")
    chat.has(".line.found .text", "tea at nine")
    chat.choose(saved)
    chat.click("a.later-link")
    chat.has("#conversation-name", "Bob")

    field = chat.field
    field.send_keys("see you")
    chat.tap(chat.word("later_send"), within="#composer")
    chat.tap(chat.word("later_online", name="Bob"), within="dialog")
    eventually(lambda: field.get_attribute("value") == "", what="the text is taken")
    field.send_keys("good night")
    chat.tap(f"{chat.word('later_send')} · 1", within="#composer")
    chat.tap(chat.word("later_set"), within="dialog")
    chat.tap(f"{chat.word('later_send')} · 2", within="#composer")
    chat.has(".later-list bdi", "good night", "see you")
    chat.tap(chat.word("messages_edit"), within=".later-list")
    chat.write(".later-text textarea", Keys.END + ", Bob" + Keys.NULL)
    chat.tap(chat.word("later_set"), within=".later-text")
    chat.has(".later-list bdi", "good night, Bob", "see you")
    chat.tap(chat.word("later_delete"), within=".later-list li:last-child")
    chat.has(".later-list bdi", "good night, Bob")
    chat.tap(chat.word("later_now"), within=".later-list")
    chat.has(".later-list .muted", chat.word("later_none"))
    chat.press(Keys.ESCAPE)
    chat.reads("tea at nine", "cake at ten", "good night, Bob")

    ann.post(
        "messages/send",
        to=bob.user,
        text="more",
        thread=ann.id_of(first, "good night, Bob"),
    )
    chat.click("#log .thread-line")
    chat.write(".thread textarea", "in the thread")
    assert (
        chat.run("return document.querySelectorAll('.thread .page-tool').length") == 1
    )
    chat.click(".thread .page-tool", ".later-row")
    chat.misses(".later-times")
    (row,) = ann.get("scheduled")["scheduled"]
    assert (row["text"], row["thread"] > 0) == ("in the thread", True)
