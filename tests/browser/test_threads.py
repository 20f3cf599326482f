"""The text boxes of conversations and threads, and messages that are chosen and
pulled, in browsers."""

import re
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.screenshots import PASTE_PICTURES
from tests.browser.test_reading import open_with_texts
from tests.support import Server, eventually

LONG = "0123456789" * 450
PLAIN_HTTP = """
Object.defineProperty(navigator, "clipboard", { value: undefined });
addEventListener("copy", () => {
  const { activeElement: field } = document;
  window.copied = field.value.slice(field.selectionStart, field.selectionEnd);
});
"""
"""Pages of plain http have no clipboard."""

CLOSED = """
window.closeCodes = [];
window.WebSocket = class extends WebSocket {
  constructor(...options) {
    super(...options);
    this.addEventListener("close", ({ code }) => window.closeCodes.push(code));
  }
};
"""

HIDE = """
Object.defineProperty(document, "hidden", { value: true, configurable: true });
document.dispatchEvent(new Event("visibilitychange"));
delete document.hidden;
"""

PASTE = """
document.querySelector(arguments[0]).focus();
document.execCommand("insertText", false, arguments[1]);
"""
"""As browsers do when a user pastes: a `maxlength` cuts it."""


def open_conversation(
    pair: Pair, server: Server, script: str = ""
) -> tuple[Chat, Account]:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(ann, "hello")
    chat = Chat(pair[0], ann, script=script)
    chat.open(ann.newest, "hello")
    return chat, bob


def value(page: Page) -> str:
    return str(page.run("return document.querySelector('#message').value"))


@pytest.mark.full("browser")
def test_a_pasted_text_over_the_limit_stays_and_goes_as_a_file(
    pair: Pair, server: Server
) -> None:
    chat, _ = open_conversation(pair, server)
    chat.run(PASTE, "#message", LONG)
    assert value(chat) == LONG
    assert chat.texts("#left") == ["500 characters too many, the limit is 4000"]
    chat.press(Keys.ENTER)
    assert value(chat) == LONG, "Enter sends nothing, and loses nothing"
    chat.reload()
    eventually(lambda: value(chat) == LONG, what="the draft")
    chat.click("#as-file")
    assert value(chat) == ""
    assert chat.texts("#left") == [""]
    chat.has("[role=log] .file bdi", "text.txt")
    chat.sees("[role=log] a.file")
    link = "document.querySelector('[role=log] a.file').href"
    assert chat.awaited(f"return (await fetch({link})).text()") == LONG


@pytest.mark.full("browser")
@pytest.mark.parametrize(
    "text", ["字" * 6_000, LONG * 20], ids=["of a draft", "of a frame"]
)
def test_a_text_over_the_limits_of_the_server_stays_and_closes_no_connection(
    pair: Pair, server: Server, text: str
) -> None:
    chat, bob = open_conversation(pair, server, CLOSED)
    chat.run(PASTE, "#message", text)
    chat.run(HIDE)
    bob.say(chat.account, "are you there?")
    chat.reads("hello", "are you there?")
    chat.account.post("inbox", conversation=bob.newest, pinned=1)
    chat.sees("#conversations .pin-mark")
    assert value(chat) == text
    assert chat.run("return window.closeCodes") == []


@pytest.mark.full("browser")
def test_texts_are_copied_without_https_and_a_failure_is_said(
    pair: Pair, server: Server
) -> None:
    chat, _ = open_conversation(pair, server, PLAIN_HTTP)

    def copy() -> None:
        """By a click of a person: browsers copy for no script."""
        chat.menu("hello")
        chat.named("button", chat.word("messages_copy"), "[role=menu]").click()

    copy()
    chat.has(".toast", chat.word("messages_copied"))
    assert chat.run("return window.copied") == "hello"
    chat.run("document.execCommand = () => false")
    copy()
    chat.has_some(".toast", chat.word("messages_copy_failed"))


CHOSEN = "return document.querySelectorAll('.line.chosen').length"
SPOT = """
const { x, y } = [...document.querySelectorAll(".line[data-id] .text")]
  .find((each) => each.textContent === arguments[0]).getBoundingClientRect();
return [x + 20, y + 8];
"""


@pytest.mark.full("browser")
def test_an_emoji_is_found_by_its_name_and_comes_first_the_next_time(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, "tea?")
    chat = Chat(pair[0], ann)
    open_with_texts(chat, group, 1)
    chat.tap(chat.word("emoji"))
    for query, emoji in (("rocket", "🚀"), ("龙", "🐲")):  # in either language
        chat.write(".picker input", query)
        chat.gives(
            "return document.querySelector('.picker-rows button')?.textContent", emoji
        )
        chat.write(
            ".picker input",
            Keys.ENTER + Keys.CONTROL + "a" + Keys.NULL + Keys.BACKSPACE,
        )
    chat.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ENTER)
    field = chat.find("#message").get_attribute("value") or ""
    assert re.fullmatch("🚀🐲.+", field), field
    chat.press(Keys.ESCAPE)
    chat.misses(".picker")
    chat.menu("tea?")
    chat.tap(chat.word("messages_more_emoji"))
    eventually(
        lambda: "🐲" in chat.texts("dialog[open] .picker-rows button")[:3],
        what="the recent ones",
    )
    chat.pick("dialog[open] .picker-rows button", "🐲")
    chat.has(".reaction", "🐲1")


@pytest.mark.full("browser")
def test_chosen_messages_are_forwarded_to_conversations_and_deleted(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    other = ann.create_group("Cake", bob)
    bob.say(ann, "hello")
    private = bob.newest
    bob.say(group, "one", "two", "three")
    ann.say(group, "mine")
    chat = Chat(pair[0], ann)
    reader = Chat(pair[1], bob)
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
        chat.pick(".picker .pick", name)
    chat.tap(
        chat.word("messages_forward_send", count="2").split("|")[1],
        within="dialog[open]",
    )
    chat.misses(".select-bar")

    def forwarded(person: Account, conversation: int) -> list[str]:
        rows = person.history(conversation)[-2:]
        return [each["text"] for each in rows if "forwarded" in each.get("meta", {})]

    eventually(
        lambda: forwarded(ann, other) == forwarded(bob, private) == ["one", "two"],
        what="both",
    )

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


@pytest.mark.full("browser")
def test_a_finger_that_pulls_a_message_far_enough_replies_to_it(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, *(f"number {number}" for number in range(30)))
    chat = Chat(pair[0], ann, size=(390, 844))
    chat.command("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        chat.reload()
        open_with_texts(chat, group, 30)
        chat.gives(
            "return document.querySelector('#log').classList.contains('swipes')", True
        )
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


PHONE = (390, 844)
DESKTOP = (1280, 800)
IN_GROUP = "#log article[data-id] .bubble > .text"
UNREAD = "[data-key=threads] .count"
IN_THREAD = ".thread .log article[data-id] .bubble > .text"
LINE = "return document.querySelector('#log .thread-line')?.innerText.replace(/\\s+/g, ' ') ?? ''"


def shows_line(chat: Chat, *parts: str) -> None:
    eventually(
        lambda: all(part in chat.run(LINE) for part in parts),
        what=f"the line with {parts}",
    )


def reply(chat: Chat, text: str, also: bool = False) -> None:
    chat.sees(".thread textarea")
    if also:
        chat.click(".thread .also input")
    chat.write(".thread textarea", text + Keys.ENTER)


@pytest.fixture
def people(server: Server) -> tuple[Account, Account, int]:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    ann.say(group, "Which tea?")
    return ann, bob, group


@pytest.mark.full("browser")
def test_two_people_reply_beside_their_group(
    pair: Pair, people: tuple[Account, Account, int]
) -> None:
    pair.expects(
        "net::ERR_INTERNET_DISCONNECTED", "closed before the connection is established"
    )
    ann, bob, group = people
    one = Chat(pair[0], ann, size=DESKTOP)
    two = Chat(pair[1], bob, size=PHONE)
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
    one.has(UNREAD, "1")
    one.click(UNREAD)
    one.click(".threads .thread-row")
    one.has(
        IN_THREAD,
        "Which tea?",
        "Green",
        "Black for me",
        "While you were away",
        "Tea for all",
    )
    one.misses(UNREAD)


@pytest.mark.full("browser")
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
    chat.write(
        ".thread textarea", Keys.CONTROL + "a" + Keys.NULL + "Green" + Keys.ENTER
    )
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


@pytest.mark.full("browser")
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
    sent = next(
        each for each in ann.history(group) if "Green" in (each.get("text") or "")
    )
    assert sent["meta"]["mentions"] == [ann.user]
    field.send_keys("two hills")
    chat.run(PASTE_PICTURES.replace("#message", ".thread textarea"))
    eventually(lambda: chat.texts(".picked li"), what="the pictures are offered")
    chat.run("document.querySelector('dialog:modal .wide').click()")
    chat.sees(".thread .log .album")
    eventually(
        lambda: [each.get("type") for each in ann.history(group)][-1] == "album",
        what="Ann has it",
    )
    album = ann.history(group)[-1]
    assert (album["meta"]["thread"], album["data"]["caption"]) == (
        sent["meta"]["thread"],
        "two hills",
    )
    chat.has(IN_GROUP, "Which tea?")
    assert chat.run("return document.querySelector('#message').value") == "of the group"


@pytest.mark.full("browser")
def test_a_hit_of_a_search_in_a_thread_opens_it(
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
    # the address in a notification
    chat.run("location.hash = arguments[0]", f"#c/{group}/{reply_id}")
    chat.has(IN_THREAD, "Which tea?", "Lapsang, please")
