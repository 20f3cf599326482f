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


def open_conversation(pair: Pair, server: Server, script: str = "") -> Chat:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    chat = Chat(pair[0], ann, script=script)
    chat.open(ann.get("conversations")["conversations"][0]["conversation"])
    return chat


def value(page: Page, selector: str = "#message") -> str:
    return str(page.run("return document.querySelector(arguments[0]).value", selector))


@pytest.mark.full
def test_a_pasted_text_over_the_limit_stays_and_goes_as_a_file(pair: Pair, server: Server) -> None:
    chat = open_conversation(pair, server)
    page = chat.page
    page.run(PASTE, "#message", LONG)
    assert value(page) == LONG
    assert page.texts("#left") == ["500 characters too many, the limit is 4000"]
    page.press(Keys.ENTER)
    assert value(page) == LONG, "Enter sends nothing, and loses nothing"
    page.driver.refresh()
    chat.online()
    eventually(lambda: value(page) == LONG, what="the draft")
    page.click("#as-file")
    assert value(page) == ""
    assert page.texts("#left") == [""]
    eventually(lambda: page.texts("[role=log] .file bdi") == ["text.txt"], what="the file is sent")
    link = "const done = arguments[0]; fetch(document.querySelector('[role=log] a.file').href)"
    eventually(lambda: page.shown("[role=log] a.file"), what="it is stored")
    sent = page.driver.execute_async_script(f"{link}.then((answer) => answer.text()).then(done)")
    assert sent == LONG


@pytest.mark.full
@pytest.mark.parametrize("text", ["字" * 6_000, LONG * 20], ids=["of a draft", "of a frame"])
def test_a_text_over_the_limits_of_the_server_stays_and_closes_no_connection(
    pair: Pair, server: Server, text: str
) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.say(ann, "hello")
    conversation = ann.get("conversations")["conversations"][0]["conversation"]
    chat = Chat(pair[0], ann, script=CLOSED)
    page = chat.page
    chat.open(conversation)
    page.run(PASTE, "#message", text)
    page.run(HIDE)
    bob.say(ann, "are you there?")
    eventually(lambda: "are you there?" in chat.texts, what="the next message")
    ann.post("inbox", conversation=conversation, pinned=1)
    eventually(lambda: page.shown("#conversations .pin-mark"), what="an arrangement of another device")
    assert value(page) == text
    assert page.run("return window.closeCodes") == []


@pytest.mark.full
def test_texts_are_copied_without_https_and_a_failure_is_said(pair: Pair, server: Server) -> None:
    chat = open_conversation(pair, server, script=PLAIN_HTTP)
    toasts = chat.page.texts

    def copy() -> None:
        """By a click of a person: browsers copy for no script."""
        chat.menu("hello")
        chat.named("button", chat.word("messages_copy"), "[role=menu]").click()

    copy()
    eventually(lambda: toasts(".toast") == [chat.word("messages_copied")], what="it says so")
    assert chat.page.run("return window.copied") == "hello"
    chat.page.run("document.execCommand = () => false")
    copy()
    eventually(lambda: chat.word("messages_copy_failed") in toasts(".toast"), what="it says so")
