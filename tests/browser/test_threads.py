"""Threads on the messages page, in two browsers: replies, what is unread, and also to the group."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.screenshots import PASTE_PICTURES
from tests.support import Server, eventually

pytestmark = pytest.mark.full

PHONE, DESKTOP = (390, 844), (1280, 800)
IN_GROUP = "#log article[data-id] .bubble > .text"
UNREAD = "[data-key=unread-threads]"
IN_THREAD = ".thread .log article[data-id] .bubble > .text"
LINE = "return document.querySelector('#log .thread-line')?.innerText.replace(/\\s+/g, ' ') ?? ''"


def shows(chat: Chat, where: str, *texts: str) -> None:
    eventually(
        lambda: chat.page.texts(where) == list(texts), what=f"{where} of {chat.account.nickname}: {texts}"
    )


def shows_line(chat: Chat, *parts: str) -> None:
    eventually(lambda: all(part in chat.page.run(LINE) for part in parts), what=f"the line with {parts}")


def reply(chat: Chat, text: str, also: bool = False) -> None:
    eventually(lambda: chat.page.shown(".thread textarea"), what="the thread is open")
    if also:
        chat.page.click(".thread .also input")
    chat.page.find(".thread textarea").send_keys(text + Keys.ENTER)


@pytest.fixture
def people(server: Server) -> tuple[Account, Account, int]:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    ann.say(group, "Which tea?")
    return ann, bob, group


def test_two_people_reply_beside_their_group(pair: Pair, people: tuple[Account, Account, int]) -> None:
    pair.expects("net::ERR_INTERNET_DISCONNECTED", "closed before the connection is established")
    ann, bob, group = people
    one, two = Chat(pair[0], ann, size=DESKTOP), Chat(pair[1], bob, size=PHONE)
    for chat in (one, two):
        chat.open(group)
        shows(chat, IN_GROUP, "Which tea?")
    two.act("Which tea?", "messages_thread_reply")
    shows(two, IN_THREAD, "Which tea?")
    reply(two, "Green")
    shows(two, IN_THREAD, "Which tea?", "Green")
    shows_line(one, "1 reply", "1 new")
    shows(one, IN_GROUP, "Which tea?")
    one.page.click("#log .thread-line")
    shows(one, IN_THREAD, "Which tea?", "Green")
    eventually(lambda: "new" not in one.page.run(LINE), what="Ann has read the thread")
    eventually(lambda: not one.page.shown(UNREAD), what="the list knows it")
    reply(one, "Black for me", also=True)
    for chat in (one, two):
        shows(chat, IN_THREAD, "Which tea?", "Green", "Black for me")
        shows(chat, IN_GROUP, "Which tea?", "Black for me")
    two.cut()
    reply(one, "While you were away")
    shows(one, IN_THREAD, "Which tea?", "Green", "Black for me", "While you were away")
    two.mend()
    shows(two, IN_THREAD, "Which tea?", "Green", "Black for me", "While you were away")
    ids = two.page.run(
        "return [...document.querySelectorAll('.thread article[data-id]')].map((row) => row.dataset.id)"
    )
    assert len(set(ids)) == len(ids) == 4
    one.page.find(".thread textarea").send_keys(Keys.ESCAPE)
    eventually(lambda: not one.page.shown(".thread"), what="the thread is closed")
    assert one.page.run("return document.activeElement.className") == "thread-line"
    one.page.driver.refresh()
    one.online()
    shows_line(one, "3 replies")
    shows(one, IN_GROUP, "Which tea?", "Black for me")
    reply(two, "Tea for all")
    eventually(lambda: one.page.texts(f"{UNREAD} .count") == ["1"], what="the list counts it")
    one.page.click(UNREAD)
    one.page.click(".threads .thread-row")
    shows(one, IN_THREAD, "Which tea?", "Green", "Black for me", "While you were away", "Tea for all")
    eventually(lambda: not one.page.shown(UNREAD), what="all replies are read")


def test_a_thread_in_the_menu_of_a_phone_is_edited_muted_and_listed(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    ann, bob, group = people
    chat = Chat(pair[0], bob, size=PHONE)
    chat.open(group)
    chat.act("Which tea?", "messages_thread_reply")
    reply(chat, "Gren")
    shows(chat, IN_THREAD, "Which tea?", "Gren")
    chat.act("Gren", "messages_edit")
    chat.page.find(".thread textarea").send_keys(Keys.CONTROL + "a" + Keys.NULL + "Green" + Keys.ENTER)
    shows(chat, IN_THREAD, "Which tea?", "Green")
    chat.click(chat.word("messages_thread_mute"))
    chat.named("button", chat.word("messages_thread_follow"))
    chat.click(chat.word("messages_thread_follow"))
    chat.named("button", chat.word("messages_thread_mute"))
    chat.page.find(".thread textarea").send_keys(Keys.ESCAPE)
    eventually(lambda: not chat.page.shown(".thread"), what="the thread is closed")
    root = next(each for each in ann.history(group) if each.get("text") == "Which tea?")
    found: dict[str, Any] = bob.get("threads/list")
    assert [each["thread"] for each in found["threads"]] == [root["id"]]


def test_the_text_box_of_a_thread_is_that_of_the_conversation(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    ann, bob, group = people
    chat = Chat(pair[0], bob, size=DESKTOP)
    chat.open(group)
    chat.page.find("#message").send_keys("of the group")
    chat.act("Which tea?", "messages_thread_reply")
    eventually(lambda: chat.page.shown(".thread textarea"), what="the thread is open")
    field = chat.page.find(".thread textarea")
    field.send_keys("**Green**, @An")
    eventually(lambda: chat.page.texts(".thread .mentions bdi") == ["Ann"], what="the names")
    field.send_keys(Keys.ESCAPE)
    eventually(lambda: not chat.page.shown(".thread .mentions"), what="Escape closes the names only")
    field.send_keys("n")
    eventually(lambda: chat.page.shown(".thread .mentions"), what="the names")
    field.send_keys(Keys.ENTER)
    chat.page.click(".thread [id$=emoji-open]")
    eventually(lambda: chat.page.shown(".thread .picker-grid button"), what="the emoji")
    chat.page.click(".thread .picker-grid button")
    field.send_keys(Keys.ENTER)
    eventually(lambda: len(chat.page.texts(IN_THREAD)) == 2, what="the reply")
    assert chat.page.texts(".thread .log .bubble > .text strong") == ["Green"]
    sent = next(each for each in ann.history(group) if "Green" in (each.get("text") or ""))
    assert sent["meta"]["mentions"] == [ann.user]
    field.send_keys("two hills")
    chat.page.run(PASTE_PICTURES.replace("#message", ".thread textarea"))
    eventually(lambda: chat.page.texts(".picked li"), what="the pictures are offered")
    chat.page.run("document.querySelector('dialog:modal .wide').click()")
    eventually(lambda: chat.page.shown(".thread .log .album"), what="the album is in the thread")
    eventually(lambda: [each.get("type") for each in ann.history(group)][-1] == "album", what="Ann has it")
    album = ann.history(group)[-1]
    assert (album["meta"]["thread"], album["data"]["caption"]) == (sent["meta"]["thread"], "two hills")
    shows(chat, IN_GROUP, "Which tea?")
    assert chat.page.run("return document.querySelector('#message').value") == "of the group"


def test_a_hit_of_a_search_that_is_in_a_thread_opens_it(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    ann, bob, group = people
    root = next(each for each in ann.history(group) if each.get("text") == "Which tea?")["id"]
    bob.post("messages/send", conversation=group, text="Lapsang, please", thread=root)
    chat = Chat(pair[0], ann, size=DESKTOP)
    chat.online()
    chat.named("field", chat.word("messages_search")).send_keys("lapsang")
    eventually(lambda: chat.page.texts("#hits .preview"), what="the hit")
    chat.page.click("#hits .hit")
    shows(chat, IN_THREAD, "Which tea?", "Lapsang, please")
    reply_id = next(each for each in ann.history(group) if each.get("text") == "Lapsang, please")["id"]
    chat.page.find(".thread textarea").send_keys(Keys.ESCAPE)
    eventually(lambda: not chat.page.shown(".thread"), what="the thread is closed")
    chat.page.run("location.hash = arguments[0]", f"#c/{group}/{reply_id}")  # the address in a notification
    shows(chat, IN_THREAD, "Which tea?", "Lapsang, please")
