"""What the text box takes, and what is copied: no text is lost. And links with codes survive a reload."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
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
"""The close codes of the page's connections."""

HIDE = """
Object.defineProperty(document, "hidden", { value: true, configurable: true });
document.dispatchEvent(new Event("visibilitychange"));
delete document.hidden;
"""
"""A page that is hidden sends drafts at once."""

PASTE = """
document.querySelector(arguments[0]).focus();
document.execCommand("insertText", false, arguments[1]);
"""
"""As browsers do when a user pastes: a `maxlength` cuts it."""


def open_conversation(pair: Pair, server: Server, script: str = "") -> tuple[Chat, Account]:
    """The page of Ann, and Bob, who has written to her."""
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    chat = Chat(pair[0], ann, script=script)
    chat.open(ann.newest, "hello")
    return chat, bob


def value(page: Page) -> str:
    return str(page.run("return document.querySelector('#message').value"))


@pytest.mark.full("browser")
def test_a_pasted_text_over_the_limit_stays_and_goes_as_a_file(pair: Pair, server: Server) -> None:
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
@pytest.mark.parametrize("text", ["字" * 6_000, LONG * 20], ids=["of a draft", "of a frame"])
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
def test_texts_are_copied_without_https_and_a_failure_is_said(pair: Pair, server: Server) -> None:
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
