"""Reading is not disturbed on the messages page, its parts fit, and it says
what is missing or refused."""

import re
import time
from contextlib import suppress

import pytest
from selenium.webdriver.common.keys import Keys

from imserver.pages.text import TEXT
from imserver_client import Api, RequestRefused
from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat, login_form
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full("browser")


PHONE = (390, 844)
LONG = "FIRST LINE. " + "Some text that goes on and on. " * 150 + "LAST LINE."
ARABIC = "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643"
TOP = "return document.querySelectorAll('article')[arguments[0]].getBoundingClientRect().top"
BELOW = """
const log = document.querySelector("#log");
return Math.floor(log.scrollHeight - log.scrollTop - log.clientHeight) <= 1;
"""
WIDE = "const each = document.querySelector(arguments[0]); return each.scrollWidth - each.clientWidth"
BUBBLE = "document.querySelectorAll('article .bubble')[arguments[0]]"
HOLD = f"""
const bubble = {BUBBLE};
const {{ x, y }} = bubble.getBoundingClientRect();
const touch = new Touch({{ identifier: 1, target: bubble, clientX: x + 5, clientY: y + 5 }});
bubble.dispatchEvent(new TouchEvent("touchstart", {{ touches: [touch], bubbles: true, cancelable: true }}));
"""
BESIDE = f"""
const both = [{BUBBLE}, document.querySelector(".menu")];
const [bubble, menu] = both.map((each) => each.getBoundingClientRect());
return menu.top >= bubble.bottom || menu.bottom <= bubble.top;
"""
DIRECTIONS = """
return [...document.querySelectorAll("article")].slice(-2).map((row) =>
  [".text", ".quote b", ".quote span"].map((part) => getComputedStyle(row.querySelector(part)).direction));
"""
BEGINS = """
const range = document.createRange();
const box = (each) => { range.selectNodeContents(each); return range.getBoundingClientRect(); };
const names = ["#me-name", "#conversations b bdi"].map((each) => document.querySelector(each));
const preview = document.querySelector(".preview");
return [
  ...names.map((name) => Math.round(
    name.closest(".me-words, .row-words").getBoundingClientRect().right - box(name).right)),
  box(preview).left >= preview.getBoundingClientRect().left,
];
"""
"""How far names are from where the page begins, and whether a text is cut at
its end."""
WORDS = """
return [...document.querySelectorAll(".key")].map((key) => {
  const word = document.createRange();
  word.setStart(key.firstChild, 0);
  word.setEnd(key.firstChild, key.textContent.split(" ")[0].length);
  return word.getClientRects().length;
});
"""
"""Of each button: over how many lines its first word goes."""
INSIDE = """
const [mark, row] = ["mark", ".preview"].map((each) =>
  document.querySelector(`#hits ${each}`).getBoundingClientRect());
return mark.right <= row.right && mark.bottom <= row.bottom + 1;
"""
OWN_IN_VIEW = """
const [own, log] = [".own .bubble", "#log"].map((each) =>
  document.querySelector(each).getBoundingClientRect());
return own.top >= log.top && own.bottom <= log.bottom;
"""


def open_with_texts(chat: Chat, conversation: int, count: int) -> None:
    """Open a conversation, and wait for so many messages, and for its end."""
    chat.open(conversation)
    eventually(lambda: len(chat.messages) == count, what="the messages")
    chat.run("document.querySelector('#latest').click()")
    chat.gives(BELOW, True)
    chat.settle()


def test_a_text_that_is_expanded_stays_so_and_where_it_is(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, *(f"number {number}" for number in range(20)), LONG)
    chat = Chat(pair[0], ann, size=PHONE)
    open_with_texts(chat, group, 21)
    top = "return document.querySelector('article:last-child .text').getBoundingClientRect().top"
    before = chat.run(top)
    assert before > 0
    chat.tap(chat.word("more"))
    chat.gives(top, before)
    assert chat.shown("#latest")
    bob.post("messages/react", id=ann.id_of(group), emoji="👍")
    chat.has(".reaction", "👍1")  # the row is drawn again
    assert "LAST LINE." in chat.messages[-1]
    chat.run(
        "const log = document.querySelector('#log'); log.scrollTop = log.scrollHeight"
    )
    chat.settle()
    assert chat.run(top) < 0
    chat.tap(chat.word("less"))
    chat.settle()
    assert 0 <= chat.run(top) < PHONE[1] - 200, "the start of the text is in view"
    assert "LAST LINE." not in chat.messages[-1]


def test_texts_and_names_have_the_direction_of_their_own_letters(
    pair: Pair, server: Server
) -> None:
    ann, bob, cat = (Account(server, name) for name in (ARABIC, "Bob", "Cat"))
    group = ann.create_group("Tea", bob, cat)
    ann.say(group, ARABIC)
    bob.say(group, "an English text")
    first, second = (ann.id_of(group, text) for text in (ARABIC, "an English text"))
    bob.post("messages/send", conversation=group, text="tea is ready.", reply_to=first)
    ann.post("messages/send", conversation=group, text=f"{ARABIC}.", reply_to=second)
    chat = Chat(pair[0], cat)
    open_with_texts(chat, group, 4)
    chat.has(".quote b", ARABIC, "Bob")
    assert chat.run(DIRECTIONS) == [["ltr", "rtl", "rtl"], ["rtl", "ltr", "ltr"]]
    ann.say(group, "hello")
    chat.has(".conversation .preview", f"{ARABIC}: hello")
    left = "(each) => each.getBoundingClientRect().left"
    name, text = chat.run(
        f"return [...document.querySelectorAll('.preview bdi')].map({left})"
    )
    assert name < text
    bob.say(ann, LONG)
    chat = Chat(pair[0], ann, language="ar", size=PHONE)
    chat.has_some("#conversations b bdi", "Bob")
    assert chat.run(BEGINS) == [0, 0, True]


def test_the_own_message_is_in_view_while_a_bot_streams(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bot = ann.bot("stream_bot")
    chat = Chat(pair[0], ann, size=PHONE)
    bot.post("messages/send", to=ann.user, text="Ask me.")
    chat.go(f"#u/{bot.user}")
    chat.reads("Ask me.")
    stream = bot.post("messages/stream/open", to=ann.user, text=LONG)["stream"]
    chat.sees(".streamed")
    chat.say("enough")
    chat.sees(".own .tick")
    bot.post(
        "messages/stream/append", pieces=[{"stream": stream, "piece": 1, "text": LONG}]
    )
    eventually(
        lambda: chat.messages[1].count("LAST LINE.") == 2, what="the rest of the answer"
    )
    chat.settle()
    assert chat.messages[2] == "enough"
    assert chat.run(OWN_IN_VIEW), "the own message is in view"
    chat.run("document.querySelector('#log').scrollTop = 300")
    chat.settle()
    before = chat.run(TOP, 1)
    bot.post("messages/stream/close", stream=stream)
    chat.misses(".streamed")
    assert chat.messages[1] == "enough", "as it is in the log"
    chat.settle()
    assert abs(chat.run(TOP, 2) - before) <= 1, "the reader stays in the answer"


def test_a_hit_shows_why_a_long_message_matches(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(
        ann, f"{LONG} And a *needle* in the hay. {LONG}", "好" * 600 + "针" + "好" * 100
    )
    chat = Chat(pair[0], ann, size=PHONE)
    for wanted, shown in (
        ("Needle", "…on and on. LAST LINE. And a needle in"),
        ("针", "…" + "好" * 30 + "针好"),
    ):
        chat.write("#search", Keys.CONTROL + "a" + Keys.NULL + wanted)
        chat.has("#hits mark", wanted.lower())
        assert chat.texts("#hits .preview")[0].startswith(shown)
        assert chat.run(INSIDE), "the word is in view"


def test_long_names_and_words_on_buttons_fit(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("A name of fifty characters " + "W" * 23)
    ann.say(group, "tea")
    chat = Chat(pair[0], ann, size=PHONE)
    chat.open(group, "tea")
    chat.act("tea", "messages_forward")
    chat.sees(".picker .pick")
    assert chat.run(WIDE, "dialog[open] .layer-body") <= 0
    assert (
        chat.run("return document.querySelector('.picker .pick .avatar').clientWidth")
        == 36
    )
    chat.click("dialog[open] .close")
    for labels in (
        ["Risotto", "Noodles with peanuts, ginger and lime"],
        ["Wednesday"] * 4,
    ):
        bot = ann.bot(f"menu_bot_{len(labels)}")
        row = [
            {"text": label, "value": str(number)} for number, label in enumerate(labels)
        ]
        bot.post("messages/send", to=ann.user, text="Lunch?", buttons=[row])
        chat.go(f"#u/{bot.user}")
        chat.has(".key", *labels)
        assert chat.run(WORDS) == [1] * len(labels)
        assert chat.run(WIDE, "#log") <= 0


def test_the_text_box_has_one_button_for_a_text_or_a_voice_message(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    chat = Chat(pair[0], ann, size=PHONE)
    chat.open(ann.create_group("Tea"))
    for text, shown, hidden in (
        ("", "#composer-tools-after button", "#send"),
        ("tea", "#send", "#composer-tools-after button"),
    ):
        chat.field.send_keys(text)
        assert (chat.shown(shown), chat.shown(hidden)) == (True, False)
    assert chat.run("return document.querySelector('#message').clientWidth") > 210
    chat.press(Keys.TAB, Keys.TAB, Keys.TAB)  # past emoji and the clock
    assert chat.focused == "send"
    chat.press(Keys.ENTER)
    chat.reads("tea")
    assert chat.focused == "message"
    assert not chat.shown("#send")


def test_arrow_keys_move_from_a_control_in_a_message(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, "first", "second", "see https://tea.example/x", "last")
    chat = Chat(pair[0], ann)
    open_with_texts(chat, group, 4)
    chat.field.click()
    for _ in range(6):
        chat.press(Keys.SHIFT + Keys.TAB + Keys.NULL)
        if chat.run("return document.activeElement.closest('#log') !== null"):
            break
    chosen = "return document.activeElement.querySelector('.text')?.textContent"
    assert chat.focused == "https://tea.example/x"
    for text in ("see https://tea.example/x", "second"):
        chat.press(Keys.ARROW_UP)
        assert chat.run(chosen) == text
    chat.run("document.querySelector('#log a').focus()")
    chat.press(Keys.ARROW_DOWN)
    assert chat.run(chosen) == "last"


@pytest.mark.parametrize("lines", [1, 16])
def test_the_menu_of_a_finger_never_covers_its_message(
    pair: Pair, server: Server, lines: int
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.say(group, *("\n".join([f"text {number}"] * lines) for number in range(12)))
    chat = Chat(pair[0], ann, size=PHONE)
    open_with_texts(chat, group, 12)
    for block in ("start", "center", "end"):
        chat.run(f"{BUBBLE}.scrollIntoView({{ block: arguments[1] }})", 6, block)
        chat.settle()
        chat.run(HOLD, 6)
        chat.sees(".menu")
        assert chat.run(BESIDE, 6), block
        chat.press(Keys.ESCAPE)
        chat.misses(".menu")


SHOWN = """
return [...document.querySelectorAll(arguments[0])]
  .filter((each) => each.checkVisibility()).map((each) => each.textContent);
"""


def is_shown(page: Page, selector: str, text: str) -> None:
    """The texts of what matches and is shown."""
    page.gives(SHOWN, [text], selector)


def test_without_a_network_panels_and_groups_say_so_and_are_loaded_later(
    pair: Pair, server: Server
) -> None:
    pair.expects("net::ERR_INTERNET_DISCONNECTED", "WebSocket connection to")
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    chat = Chat(pair[0], ann)
    chat.sees(f"[data-conversation='{group}']")
    for opener, loaded in (
        ("#me", "#profile-name"),
        ("#new-conversation", ".contacts > .muted"),
    ):
        chat.click(opener)
        chat.sees(loaded)  # its module is loaded
        chat.click("dialog[open] .close")
        chat.misses("dialog")
        chat.cut()
        chat.click(opener)
        chat.sees("dialog[open] .note:not([hidden])")
        assert chat.word("messages_loading") not in chat.texts("dialog[open] .muted")
        chat.mend()
        chat.sees(loaded)
        assert not chat.shown("dialog[open] .note:not([hidden])")
        chat.click("dialog[open] .close")
        chat.misses("dialog")
    chat.cut()
    chat.open(group)
    is_shown(chat, "#empty-hint", "This device is offline")
    chat.mend()
    is_shown(chat, "#conversation-status", "2 members")


def test_a_ban_is_named_and_ends_by_itself(pair: Pair, server: Server) -> None:
    pair.expects("WebSocket connection to", "403")
    ann = Account(server, "Ann")
    chat = Chat(pair[0], ann)
    with Api(server.http_url) as api:
        api.call(
            "POST",
            "ban",
            {"app": APP, "users": [ann.user], "seconds": 4, "reason": "too loud"},
        )
    banner = r"You are banned until \w{3} \d+, \d{4}, \d\d:\d\d: too loud"
    eventually(
        lambda: re.fullmatch(banner, "".join(chat.texts("#banner-text"))),
        what="the ban",
    )
    chat.online()


def test_where_one_cannot_write_a_line_says_why(pair: Pair, server: Server) -> None:
    pair.expects("404")
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.say(group, "hello")
    chat = Chat(pair[0], ann)
    chat.open(group, "hello")
    bob.post(
        "groups/mute", group=str(group), member=ann.user, until=int(time.time()) + 20
    )
    muted = chat.words["messages_muted_until"].partition("{")[0]
    chat.has_some("#read-only", muted)
    assert not chat.shown("#composer")
    chat.reload()
    chat.sees("#read-only")
    chat.sees("#composer")  # when the mute is over
    chat.misses("#read-only")
    chat.click("#conversation-open")
    chat.sees("[data-key=leave]")
    bob.post("groups/remove", group=str(group), members=[ann.user])
    is_shown(chat, "dialog[open] .note", "You are not in this group any more")
    assert not chat.texts("dialog[open] .group-body *")
    is_shown(chat, "#read-only", chat.words["messages_fault_unknown_group"])
    assert not chat.shown("#composer")
    assert chat.texts("#conversation-status") == [""]
    chat.reload()
    is_shown(chat, "#read-only", chat.words["messages_fault_unknown_group"])
    bob.post("groups/invite", group=str(group), members=[ann.user])
    chat.sees("#composer")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("1abc", "messages_fault_login_form"),
        ("taken.name", "messages_fault_login_taken"),
    ],
)
def test_a_refused_registration_marks_the_field(
    pair: Pair, server: Server, name: str, fault: str
) -> None:
    pair.expects("400", "409")
    with Api(server.http_url) as api, suppress(RequestRefused):
        taken = {"name": "taken.name", "password": PASSWORD, "nickname": "Ann"}
        api.call("POST", "accounts/register", taken)
    address = f"{server.http_url}/home/messages?lang=en"
    page = login_form(pair[0].open(address, forget=True, size=(390, 844)))
    page.click("#login-switch")
    for field, text in (
        ("#nickname", "Ann"),
        ("#identifier", name),
        ("#password", PASSWORD + Keys.ENTER),
    ):
        page.write(field, text)
    is_shown(page, "#login-note", TEXT["en"][fault])
    eventually(lambda: page.focused == "identifier", what="the field has the focus")
    assert page.run("return document.activeElement.ariaInvalid") == "true"
    note = "return document.querySelector('#login-note').previousElementSibling"
    assert page.run(f"{note}.contains(document.activeElement)")


def test_a_new_user_is_led_to_people(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    chat = Chat(pair[0], ann)
    is_shown(chat, "#conversations-note", chat.words["messages_none_hint"])
    is_shown(chat, "#empty-title", chat.words["messages_none"])
    chat.click("#find-people")
    chat.sees("dialog[open] #find-text")
    chat.click("dialog[open] .close")
    bob.say(ann, "hello")
    chat.misses("#find-people", "#conversations-note")
