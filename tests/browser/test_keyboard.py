"""The messages page by keys alone, in real browsers; and what a mention counts for whom it names."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import DESKTOP
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

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

    def walk(self, key: str, script: str, *arguments: str, begins: str = "") -> None:
        """Press a key until a script says so of the focus."""
        for _ in range(MOST):
            found = self.run(script, *arguments)
            if found is True or (begins and found.startswith(begins)):
                return
            self.press(key)
        raise AssertionError(f"the key does not lead to {begins or arguments}, but to {found!r}")

    def use(self, name: str, key: str = Keys.ENTER) -> None:
        """Go by the Tab key to what has this name, and press it."""
        self.press(Keys.TAB)
        self.walk(Keys.TAB, NAME, begins=name)
        self.press(key)

    def stand_on(self, text: str) -> None:
        """From the text box to a message."""
        self.walk(BACK, WITHIN, "#log")
        self.walk(Keys.ARROW_UP, TEXT, begins=text)

    def say(self, text: str) -> None:
        self.walk(Keys.TAB, WITHIN, "#message")
        self.press(text + Keys.ENTER)
        eventually(lambda: self.find("#message").get_attribute("value") == "", what=f"{text!r} is taken")


def test_keys_lead_everywhere_and_mentions_are_counted(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = ann.create_group("Tea", bob)
    bob.say(ann, "Hello")
    other = Chat(pair[1], bob)
    chat = Typist(pair[0], ann, size=DESKTOP)

    chat.press(Keys.CONTROL + "k")
    eventually(lambda: chat.focused == "palette-field", what="the palette")
    chat.press("Tea")
    chat.has_some(".palette .hit.first b", "Tea")
    chat.press(Keys.ENTER)
    chat.has("#conversation-name", "Tea")
    chat.say("The kettle is on")
    other.has("#conversations .count", "1")
    chat.walk(Keys.TAB, WITHIN, "#message")
    chat.press("@Bo")
    chat.has("#mentions bdi", "Bob")
    chat.press(Keys.ENTER)
    chat.say("are you there?")
    other.has("#conversations .count", "@", "2")
    other.open(group)
    other.has(".line.mentioned .text", "@Bob are you there?")
    other.has("#conversations .count")
    assert chat.texts(".line.mentioned") == []

    chat.stand_on("The kettle")
    chat.press(Keys.ENTER)
    chat.sees("[role=menu]")
    chat.walk(Keys.ARROW_DOWN, NAME, begins=chat.word("messages_reply"))
    chat.press(Keys.ENTER)
    chat.say("with lemon")
    other.has_some(".quote", "The kettle is on")

    chat.stand_on("@Bob")
    chat.press("x", Keys.ARROW_UP, "x")
    chat.has(".select-count", "2 messages")
    chat.use(chat.word("messages_forward"))
    chat.sees(".choice")
    chat.press("Bob")
    chat.has(".choice bdi", "Bob")
    chat.use("Bob", Keys.SPACE)
    chat.use(chat.word("messages_forward_send", count="1").split("|")[0])
    chat.has("#conversation-name", "Bob")
    chat.reads("Hello", "The kettle is on", "@Bob are you there?")

    chat.walk(Keys.TAB, WITHIN, "#conversations")
    chat.press(Keys.HOME)
    chat.walk(Keys.ARROW_DOWN, NAME, begins="Tea")
    chat.press(Keys.ENTER)
    chat.has("#conversation-name", "Tea")
