"""The messages page by keys alone, in real browsers; and what a mention counts for whom it names."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import DESKTOP
from tests.support import Server, eventually

pytestmark = pytest.mark.full

MOST = 90
"""Keys until something must have the focus."""
NAME = """
const each = document.activeElement;
const labels = [...(each.labels ?? [])].map((label) => label.textContent.trim()).join(" ");
return (each.getAttribute("aria-label") || labels || each.textContent).trim();
"""
TEXT = "return document.querySelector('article:focus .text')?.textContent ?? ''"
WITHIN = "return Boolean(document.activeElement.closest(arguments[0]))"
BACK = Keys.SHIFT + Keys.TAB + Keys.NULL


class Typist(Chat):
    """Somebody without a mouse."""

    def go(self, key: str, script: str, *arguments: str, begins: str = "") -> None:
        """Press a key until a script says so of the focus."""
        for _ in range(MOST):
            found = self.page.run(script, *arguments)
            if found is True or (begins and found.startswith(begins)):
                return
            self.page.press(key)
        raise AssertionError(f"the key does not lead to {begins or arguments}, but to {found!r}")

    def use(self, name: str, key: str = Keys.ENTER) -> None:
        """Go by the Tab key to what has this name, and press it."""
        self.page.press(Keys.TAB)
        self.go(Keys.TAB, NAME, begins=name)
        self.page.press(key)

    def stand_on(self, text: str) -> None:
        """From the text box to a message."""
        self.go(BACK, WITHIN, "#log")
        self.go(Keys.ARROW_UP, TEXT, begins=text)

    def say(self, text: str) -> None:
        self.go(Keys.TAB, WITHIN, "#message")
        self.page.press(text + Keys.ENTER)
        eventually(lambda: self.page.find("#message").get_attribute("value") == "", what=f"{text!r} is taken")


def test_keys_lead_everywhere_and_mentions_are_counted(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(ann, "Hello")
    other = Chat(pair[1], bob)
    chat = Typist(pair[0], ann, size=DESKTOP)
    page = chat.page

    def counts(*expected: str) -> None:
        found = "#conversations .count"
        eventually(lambda: other.page.texts(found) == list(expected), what=f"unread: {expected}")

    page.press(Keys.CONTROL + "k")
    eventually(lambda: page.focused == "palette-field", what="the palette")
    page.press("Tea")
    eventually(lambda: "Tea" in page.texts(".palette .hit.first b"), what="the group is found")
    page.press(Keys.ENTER)
    eventually(lambda: page.texts("#conversation-name") == ["Tea"], what="the group is open")
    chat.say("The kettle is on")
    counts("1")
    chat.go(Keys.TAB, WITHIN, "#message")
    page.press("@Bo")
    eventually(lambda: page.texts("#mentions bdi") == ["Bob"], what="Bob is offered")
    page.press(Keys.ENTER)
    chat.say("are you there?")
    counts("@", "2")
    other.open(group)
    eventually(lambda: other.page.texts(".line.mentioned .text") == ["@Bob are you there?"], what="the line")
    counts()
    assert page.texts(".line.mentioned") == []

    chat.stand_on("The kettle")
    page.press(Keys.ENTER)
    eventually(lambda: page.shown("[role=menu]"), what="the menu of the message")
    chat.go(Keys.ARROW_DOWN, NAME, begins=chat.word("messages_reply"))
    page.press(Keys.ENTER)
    chat.say("with lemon")
    eventually(lambda: "The kettle is on" in "".join(other.page.texts(".quote")), what="what is replied to")

    chat.stand_on("@Bob")
    page.press("x", Keys.ARROW_UP, "x")
    eventually(lambda: page.texts(".select-count") == ["2 messages"], what="two are chosen")
    chat.use(chat.word("messages_forward"))
    eventually(lambda: page.shown(".choice"), what="the conversations")
    page.press("Bob")
    eventually(lambda: page.texts(".choice bdi") == ["Bob"], what="Bob is offered")
    chat.use("Bob", Keys.SPACE)
    chat.use(chat.word("messages_forward_send", count="1").split("|")[0])
    eventually(lambda: page.texts("#conversation-name") == ["Bob"], what="the conversation with Bob")
    eventually(
        lambda: chat.texts == ["Hello", "The kettle is on", "@Bob are you there?"], what="both, in order"
    )

    chat.go(Keys.TAB, WITHIN, "#conversations")
    page.press(Keys.HOME)
    chat.go(Keys.ARROW_DOWN, NAME, begins="Tea")
    page.press(Keys.ENTER)
    eventually(lambda: page.texts("#conversation-name") == ["Tea"], what="the group again")
