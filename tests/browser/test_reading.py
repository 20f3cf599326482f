"""Reading is not disturbed on the page of stored messages, and its parts fit, in real browsers."""

import pytest
from selenium.webdriver.common.keys import Keys

from imserver_client import Api
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat
from tests.support import Server, eventually

pytestmark = pytest.mark.full

PHONE = (390, 844)
LONG = "FIRST LINE. " + "Some text that goes on and on. " * 150 + "LAST LINE."
ARABIC = "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643"

SETTLED = """
const done = arguments[0];
requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(() => done())));
"""
"""The page has drawn, and has scrolled where it wants to."""

TOP = "return document.querySelector('article:last-child .text').getBoundingClientRect().top"
BELOW = (
    "const log = document.querySelector('#log'); return log.scrollHeight - log.scrollTop - log.clientHeight"
)

WIDE = "const each = document.querySelector(arguments[0]); return each.scrollWidth - each.clientWidth"
"""How many pixels wider than itself the content of an element is."""

BUBBLE = "document.querySelectorAll('article .bubble')[arguments[0]]"
HOLD = f"""
const bubble = {BUBBLE};
const {{ x, y }} = bubble.getBoundingClientRect();
const touch = new Touch({{ identifier: 1, target: bubble, clientX: x + 5, clientY: y + 5 }});
bubble.dispatchEvent(new TouchEvent("touchstart", {{ touches: [touch], bubbles: true, cancelable: true }}));
"""
"""A finger stays on a message."""

BESIDE = f"""
const both = [{BUBBLE}, document.querySelector(".menu")];
const [bubble, menu] = both.map((each) => each.getBoundingClientRect());
return menu.top >= bubble.bottom || menu.bottom <= bubble.top;
"""


def settle(chat: Chat) -> None:
    chat.page.driver.execute_async_script(SETTLED)


def open_with_texts(chat: Chat, conversation: int, count: int) -> None:
    """Open a conversation, and wait for so many messages, and for its end."""
    chat.open(conversation)
    eventually(lambda: len(chat.texts) == count, what="the messages")
    chat.page.run("document.querySelector('#latest').click()")
    eventually(lambda: chat.page.run(BELOW) <= 1, what="the end of the conversation")
    settle(chat)


def test_a_text_that_is_expanded_stays_where_it_is(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, *(f"number {number}" for number in range(20)), LONG)
    chat = Chat(pair[0], ann, size=PHONE)
    open_with_texts(chat, group, 21)
    before = chat.page.run(TOP)
    assert before > 0
    chat.click(chat.word("more"))
    settle(chat)
    assert chat.page.run(TOP) == before
    assert chat.page.shown("#latest")
    chat.page.run("const log = document.querySelector('#log'); log.scrollTop = log.scrollHeight")
    settle(chat)
    assert chat.page.run(TOP) < 0
    chat.click(chat.word("less"))
    settle(chat)
    assert 0 <= chat.page.run(TOP) < PHONE[1] - 200, "the start of the text is in view"


def test_an_expanded_text_stays_expanded_when_its_row_is_drawn_again(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, LONG)
    chat = Chat(pair[0], ann)
    open_with_texts(chat, group, 1)
    chat.click(chat.word("more"))
    assert "LAST LINE." in chat.texts[0]
    message = ann.history(group)[-1]["id"]
    bob.post("messages/react", app=APP, id=message, emoji="👍")
    eventually(lambda: chat.page.texts(".reaction") == ["👍1"], what="the reaction")
    assert "LAST LINE." in chat.texts[0]
    chat.click(chat.word("less"))
    assert "LAST LINE." not in chat.texts[0]


def test_a_reply_has_the_direction_of_its_own_text(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in (ARABIC, "Bob", "Cat"))
    group = ann.create_group("Tea", bob, cat)
    ann.say(group, ARABIC)
    bob.say(group, "an English text")
    first, second = (each["id"] for each in ann.history(group) if each["kind"] == "message")
    bob.post("messages/send", app=APP, conversation=group, text="tea is ready.", reply_to=first)
    ann.post("messages/send", app=APP, conversation=group, text=f"{ARABIC}.", reply_to=second)
    chat = Chat(pair[0], cat)
    open_with_texts(chat, group, 4)
    directions = (
        "return [...document.querySelectorAll('article')].slice(-2).map((row) =>"
        " ['.text', '.quote b', '.quote span'].map((part) =>"
        " getComputedStyle(row.querySelector(part)).direction))"
    )
    eventually(lambda: chat.page.texts(".quote b") == [ARABIC, "Bob"], what="the quotes")
    assert chat.page.run(directions) == [["ltr", "rtl", "rtl"], ["rtl", "ltr", "ltr"]]


def test_the_own_message_is_in_view_while_a_bot_streams(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bot = ann.post("bots", name="stream_bot")
    chat = Chat(pair[0], ann, size=PHONE)
    with Api(server.http_url, key=bot["token"], timeout_seconds=60) as api:
        api.call("POST", "messages/send", {"app": APP, "to": ann.user, "text": "Ask me."})
        chat.page.run("location.hash = '#u/' + arguments[0]", bot["id"])
        eventually(lambda: chat.texts == ["Ask me."], what="the conversation")
        body = {"app": APP, "to": ann.user, "text": LONG}
        stream = api.call("POST", "messages/stream/open", body)["stream"]
        eventually(lambda: chat.page.shown(".streamed"), what="the answer grows")
        chat.say("enough")
        eventually(lambda: chat.page.shown(".own .tick"), what="the message is stored")
        pieces = [{"stream": stream, "piece": 1, "text": LONG}]
        api.call("POST", "messages/stream/append", {"app": APP, "pieces": pieces})
        eventually(lambda: chat.texts[1].count("LAST LINE.") == 2, what="the rest of the answer")
        settle(chat)
        script = (
            "const [own, log] = ['.own .bubble', '#log'].map((each) =>"
            " document.querySelector(each).getBoundingClientRect());"
            "return own.top >= log.top && own.bottom <= log.bottom"
        )
        assert chat.texts[2] == "enough"
        assert chat.page.run(script), "the own message is in view"
        chat.page.run("document.querySelector('#log').scrollTop = 300")
        settle(chat)
        top = "return document.querySelectorAll('article')[arguments[0]].getBoundingClientRect().top"
        before = chat.page.run(top, 1)
        api.call("POST", "messages/stream/close", {"app": APP, "stream": stream})
        eventually(lambda: not chat.page.shown(".streamed"), what="the answer is stored")
        assert chat.texts[1] == "enough", "as it is in the log"
        settle(chat)
        assert abs(chat.page.run(top, 2) - before) <= 1, "the reader stays in the answer"


@pytest.mark.parametrize(
    ("text", "wanted", "shown"),
    [
        (f"{LONG} And a *needle* in the hay. {LONG}", "Needle", "…on and on. LAST LINE. And a needle in"),
        ("好" * 600 + "针" + "好" * 100, "针", "…" + "好" * 30 + "针好"),
    ],
)
def test_a_hit_shows_why_a_long_message_matches(
    pair: Pair, server: Server, text: str, wanted: str, shown: str
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, text)
    chat = Chat(pair[0], ann, size=PHONE)
    chat.page.find("#search").send_keys(wanted)
    eventually(lambda: chat.page.shown("#hits .hit"), what="the hit")
    assert chat.page.texts("#hits mark") == [wanted.lower()]
    assert chat.page.texts("#hits .preview")[0].startswith(shown)
    inside = (
        "const [mark, row] = ['mark', '.preview'].map((each) =>"
        " document.querySelector('#hits ' + each).getBoundingClientRect());"
        "return mark.right <= row.right && mark.bottom <= row.bottom + 1"
    )
    assert chat.page.run(inside), "the word is in view"


def test_long_names_do_not_widen_the_dialog_of_a_forward(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("A name of fifty characters " + "W" * 23)
    ann.say(group, "tea")
    chat = Chat(pair[0], ann, size=PHONE)
    open_with_texts(chat, group, 1)
    chat.act("tea", "messages_forward")
    eventually(lambda: chat.page.shown(".choice"), what="the choices")
    assert chat.page.run(WIDE, "dialog[open] .layer-body") <= 0
    assert chat.page.run("return document.querySelector('.choice .avatar').clientWidth") == 36


def test_the_words_on_buttons_are_whole(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    chat = Chat(pair[0], ann, size=PHONE)
    lines = (
        "return [...document.querySelectorAll('.key')].map((key) => {"
        " const word = document.createRange(); word.setStart(key.firstChild, 0);"
        " word.setEnd(key.firstChild, key.textContent.split(' ')[0].length);"
        " return word.getClientRects().length; })"
    )
    for labels in (["Risotto", "Noodles with peanuts, ginger and lime"], ["Wednesday"] * 4):
        bot = ann.post("bots", name=f"menu_bot_{len(labels)}")
        row = [{"text": label, "value": str(number)} for number, label in enumerate(labels)]
        with Api(server.http_url, key=bot["token"], timeout_seconds=60) as api:
            api.call(
                "POST", "messages/send", {"app": APP, "to": ann.user, "text": "Lunch?", "buttons": [row]}
            )
        chat.page.run("location.hash = '#u/' + arguments[0]", bot["id"])
        eventually(lambda labels=labels: chat.page.texts(".key") == labels, what="the buttons")
        assert chat.page.run(lines) == [1] * len(labels)
        assert chat.page.run(WIDE, "#log") <= 0


def test_the_text_box_has_one_button_for_a_text_or_a_voice_message(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("Tea")
    chat = Chat(pair[0], ann, size=PHONE)
    chat.open(group)
    record, page = "#composer-tools-after button", chat.page
    buttons = lambda: (page.shown(record), page.shown("#send"))  # noqa: E731
    assert buttons() == (True, False)
    field = chat.named("field", chat.word("message"))
    field.send_keys("tea")
    assert buttons() == (False, True)
    assert page.run("return document.querySelector('#message').clientWidth") > 210
    page.press(Keys.TAB)
    assert page.focused == "send"
    page.press(Keys.ENTER)
    eventually(lambda: chat.texts == ["tea"], what="the message")
    assert page.focused == "message"
    assert buttons() == (True, False)


def test_arrow_keys_move_from_a_control_in_a_message(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(group, "first", "second", "see https://tea.example/x", "last")
    chat = Chat(pair[0], ann)
    open_with_texts(chat, group, 4)
    page = chat.page
    chat.named("field", chat.word("message")).click()
    for _ in range(6):
        page.press(Keys.SHIFT + Keys.TAB + Keys.NULL)
        if page.run("return document.activeElement.closest('#log') !== null"):
            break
    chosen = "return document.activeElement.querySelector('.text')?.textContent"
    assert page.focused == "https://tea.example/x"
    page.press(Keys.ARROW_UP)
    assert page.run(chosen) == "see https://tea.example/x"
    page.press(Keys.ARROW_UP)
    assert page.run(chosen) == "second"
    page.run("document.querySelector('#log a').focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.run(chosen) == "last"


@pytest.mark.parametrize("lines", [1, 16])
def test_the_menu_of_a_finger_never_covers_its_message(pair: Pair, server: Server, lines: int) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.say(group, *("\n".join([f"text {number}"] * lines) for number in range(12)))
    chat = Chat(pair[0], ann, size=PHONE)
    open_with_texts(chat, group, 12)
    for block in ("start", "center", "end"):
        chat.page.run(f"{BUBBLE}.scrollIntoView({{ block: arguments[1] }})", 6, block)
        settle(chat)
        chat.page.run(HOLD, 6)
        eventually(lambda: chat.page.shown(".menu"), what="the menu")
        assert chat.page.run(BESIDE, 6), block
        chat.page.press(Keys.ESCAPE)
        eventually(lambda: not chat.page.shown(".menu"), what="it is closed")


def test_whoever_comes_back_to_a_conversation_is_where_they_were(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    long, other = (ann.create_group(name, bob) for name in ("Long", "Other"))
    bob.say(long, *map(str, range(150)))
    bob.say(other, "tea")
    chat = Chat(pair[0], ann)
    chat.open(long)
    chat.page.run("document.querySelector('#latest').click()")
    eventually(lambda: chat.page.run(BELOW) <= 1, what="all is read")
    chat.page.run("document.querySelector('#log').scrollTop -= 2000")
    settle(chat)
    first = (
        "const { top } = document.querySelector('#log').getBoundingClientRect();"
        "return [...document.querySelectorAll('article')].find("
        "(each) => each.getBoundingClientRect().bottom > top).textContent"
    )
    before = chat.page.run(first)
    field = chat.named("field", chat.word("message"))
    field.send_keys(Keys.ALT + Keys.ARROW_UP)
    eventually(lambda: chat.texts == ["tea"], what="Alt and an arrow key change the conversation")
    field.send_keys(Keys.ALT + Keys.ARROW_DOWN)
    eventually(lambda: len(chat.texts) > 1 and chat.page.run(first) == before, what="the same messages")


def test_names_of_other_letters_begin_where_the_page_begins(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, LONG)
    page = Chat(pair[0], ann, language="ar", size=PHONE).page
    eventually(lambda: page.texts("#conversations b bdi") == ["Bob"], what="the list")
    distances = (
        "return ['#me-name', '#conversations b bdi'].map((each) => {"
        " const name = document.querySelector(each); const words = name.closest('.me-words, .row-words');"
        " const range = document.createRange(); range.selectNodeContents(name);"
        " return words.getBoundingClientRect().right - range.getBoundingClientRect().right; })"
    )
    assert [round(each) for each in page.run(distances)] == [0, 0]
    begins = (
        "const text = document.querySelector('.preview'); const range = document.createRange();"
        " range.selectNodeContents(text);"
        " return range.getBoundingClientRect().left >= text.getBoundingClientRect().left"
    )
    assert page.run(begins), "a text of other letters is cut at its end"
