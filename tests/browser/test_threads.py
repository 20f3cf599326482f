"""Threads on the messages page, in two browsers: replies, what is unread, and also to the group."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.screenshots import PASTE_PICTURES
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

PHONE, DESKTOP = (390, 844), (1280, 800)
IN_GROUP = "#log article[data-id] .bubble > .text"
UNREAD = "[data-key=unread-threads]"
IN_THREAD = ".thread .log article[data-id] .bubble > .text"
LINE = "return document.querySelector('#log .thread-line')?.innerText.replace(/\\s+/g, ' ') ?? ''"


def shows(chat: Chat, where: str, *texts: str) -> None:
    chat.has(where, *list(texts))


def shows_line(chat: Chat, *parts: str) -> None:
    eventually(lambda: all(part in chat.run(LINE) for part in parts), what=f"the line with {parts}")


def reply(chat: Chat, text: str, also: bool = False) -> None:
    chat.sees(".thread textarea")
    if also:
        chat.click(".thread .also input")
    chat.write(".thread textarea", text + Keys.ENTER)


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
        chat.has(IN_GROUP, "Which tea?")
    two.act("Which tea?", "messages_thread_reply")
    two.has(IN_THREAD, "Which tea?")
    reply(two, "Green")
    two.has(IN_THREAD, "Which tea?", "Green")
    shows_line(one, "1 reply", "1 new")
    one.has(IN_GROUP, "Which tea?")
    one.click("#log .thread-line")
    one.has(IN_THREAD, "Which tea?", "Green")
    eventually(lambda: "new" not in one.run(LINE), what="Ann has read the thread")
    one.misses(UNREAD)
    reply(one, "Black for me", also=True)
    for chat in (one, two):
        chat.has(IN_THREAD, "Which tea?", "Green", "Black for me")
        chat.has(IN_GROUP, "Which tea?", "Black for me")
    two.cut()
    reply(one, "While you were away")
    one.has(IN_THREAD, "Which tea?", "Green", "Black for me", "While you were away")
    two.mend()
    two.has(IN_THREAD, "Which tea?", "Green", "Black for me", "While you were away")
    ids = two.run(
        "return [...document.querySelectorAll('.thread article[data-id]')].map((row) => row.dataset.id)"
    )
    assert len(set(ids)) == len(ids) == 4
    one.write(".thread textarea", Keys.ESCAPE)
    one.misses(".thread")
    assert one.run("return document.activeElement.className") == "thread-line"
    one.reload()
    shows_line(one, "3 replies")
    one.has(IN_GROUP, "Which tea?", "Black for me")
    reply(two, "Tea for all")
    one.has(f"{UNREAD} .count", "1")
    one.click(UNREAD)
    one.click(".threads .thread-row")
    one.has(IN_THREAD, "Which tea?", "Green", "Black for me", "While you were away", "Tea for all")
    one.misses(UNREAD)


def test_a_thread_in_the_menu_of_a_phone_is_edited_muted_and_listed(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    ann, bob, group = people
    chat = Chat(pair[0], bob, size=PHONE)
    chat.open(group)
    chat.act("Which tea?", "messages_thread_reply")
    reply(chat, "Gren")
    chat.has(IN_THREAD, "Which tea?", "Gren")
    chat.act("Gren", "messages_edit")
    chat.write(".thread textarea", Keys.CONTROL + "a" + Keys.NULL + "Green" + Keys.ENTER)
    chat.has(IN_THREAD, "Which tea?", "Green")
    chat.tap(chat.word("messages_thread_mute"))
    chat.named("button", chat.word("messages_thread_follow"))
    chat.tap(chat.word("messages_thread_follow"))
    chat.named("button", chat.word("messages_thread_mute"))
    chat.write(".thread textarea", Keys.ESCAPE)
    chat.misses(".thread")
    root = next(each for each in ann.history(group) if each.get("text") == "Which tea?")
    found: dict[str, Any] = bob.get("threads/list")
    assert [each["thread"] for each in found["threads"]] == [root["id"]]


def test_the_text_box_of_a_thread_is_that_of_the_conversation(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    ann, bob, group = people
    chat = Chat(pair[0], bob, size=DESKTOP)
    chat.open(group)
    chat.write("#message", "of the group")
    chat.act("Which tea?", "messages_thread_reply")
    chat.sees(".thread textarea")
    field = chat.find(".thread textarea")
    field.send_keys("**Green**, @An")
    chat.has(".thread .mentions bdi", "Ann")
    field.send_keys(Keys.ESCAPE)
    chat.misses(".thread .mentions")
    field.send_keys("n")
    chat.sees(".thread .mentions")
    field.send_keys(Keys.ENTER)
    chat.click(".thread [id$=emoji-open]", ".thread .picker-grid button")
    field.send_keys(Keys.ENTER)
    eventually(lambda: len(chat.texts(IN_THREAD)) == 2, what="the reply")
    assert chat.texts(".thread .log .bubble > .text strong") == ["Green"]
    sent = next(each for each in ann.history(group) if "Green" in (each.get("text") or ""))
    assert sent["meta"]["mentions"] == [ann.user]
    field.send_keys("two hills")
    chat.run(PASTE_PICTURES.replace("#message", ".thread textarea"))
    eventually(lambda: chat.texts(".picked li"), what="the pictures are offered")
    chat.run("document.querySelector('dialog:modal .wide').click()")
    chat.sees(".thread .log .album")
    eventually(lambda: [each.get("type") for each in ann.history(group)][-1] == "album", what="Ann has it")
    album = ann.history(group)[-1]
    assert (album["meta"]["thread"], album["data"]["caption"]) == (sent["meta"]["thread"], "two hills")
    chat.has(IN_GROUP, "Which tea?")
    assert chat.run("return document.querySelector('#message').value") == "of the group"


def test_a_hit_of_a_search_that_is_in_a_thread_opens_it(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    ann, bob, group = people
    root = ann.id_of(group, "Which tea?")
    bob.post("messages/send", conversation=group, text="Lapsang, please", thread=root)
    chat = Chat(pair[0], ann, size=DESKTOP)
    chat.online()
    chat.named("field", chat.word("messages_search")).send_keys("lapsang")
    eventually(lambda: chat.texts("#hits .preview"), what="the hit")
    chat.click("#hits .hit")
    chat.has(IN_THREAD, "Which tea?", "Lapsang, please")
    reply_id = ann.id_of(group, "Lapsang, please")
    chat.write(".thread textarea", Keys.ESCAPE)
    chat.misses(".thread")
    chat.run("location.hash = arguments[0]", f"#c/{group}/{reply_id}")  # the address in a notification
    chat.has(IN_THREAD, "Which tea?", "Lapsang, please")
