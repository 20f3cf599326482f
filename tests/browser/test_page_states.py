"""What the messages page says when something is missing or not allowed, in real browsers."""

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

SHOWN = """
return [...document.querySelectorAll(arguments[0])]
  .filter((each) => each.checkVisibility()).map((each) => each.textContent);
"""


def is_shown(page: Page, selector: str, text: str) -> None:
    """The texts of what matches and is shown."""
    page.gives(SHOWN, [text], selector)


def test_without_a_network_panels_and_groups_say_so_and_are_loaded_later(pair: Pair, server: Server) -> None:
    pair.expects("net::ERR_INTERNET_DISCONNECTED", "WebSocket connection to")
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    chat = Chat(pair[0], ann)
    chat.sees(f"[data-conversation='{group}']")
    for opener, loaded in (
        ("#me", ".profile [data-key=password]"),
        ("#new-conversation", ".contacts [aria-labelledby]"),
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
        api.call("POST", "ban", {"app": APP, "users": [ann.user], "seconds": 4, "reason": "too loud"})
    banner = r"You are banned until \w{3} \d+, \d{4}, \d\d:\d\d: too loud"
    eventually(lambda: re.fullmatch(banner, "".join(chat.texts("#banner-text"))), what="the ban")
    chat.online()


def test_where_one_cannot_write_a_line_says_why(pair: Pair, server: Server) -> None:
    pair.expects("404")
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.say(group, "hello")
    chat = Chat(pair[0], ann)
    chat.open(group, "hello")
    bob.post("groups/mute", group=str(group), member=ann.user, until=int(time.time()) + 20)
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
    ("name", "fault"), [("1abc", "messages_fault_login_form"), ("taken.name", "messages_fault_login_taken")]
)
def test_a_refused_registration_marks_the_field(pair: Pair, server: Server, name: str, fault: str) -> None:
    pair.expects("400", "409")
    with Api(server.http_url) as api, suppress(RequestRefused):
        taken = {"name": "taken.name", "password": PASSWORD, "nickname": "Ann"}
        api.call("POST", "accounts/register", taken)
    address = f"{server.http_url}/home/messages?lang=en"
    page = login_form(pair[0].open(address, forget=True, size=(390, 844)))
    page.click("#login-switch")
    for field, text in (("#nickname", "Ann"), ("#identifier", name), ("#password", PASSWORD + Keys.ENTER)):
        page.write(field, text)
    is_shown(page, "#login-note", TEXT["en"][fault])
    eventually(lambda: page.focused == "identifier", what="the field has the focus")
    assert page.run("return document.activeElement.ariaInvalid") == "true"
    note = "return document.querySelector('#login-note').previousElementSibling"
    assert page.run(f"{note}.contains(document.activeElement)")


def test_a_new_user_is_led_to_people(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    chat = Chat(pair[0], ann)
    is_shown(chat, "#conversations-note", chat.words["messages_none_hint"])
    is_shown(chat, "#empty-title", chat.words["messages_none"])
    chat.click("#find-people")
    chat.sees("dialog[open] #find-text")
    chat.click("dialog[open] .close")
    bob.say(ann, "hello")
    chat.misses("#find-people", "#conversations-note")
