"""What the messages page says when something is missing or not allowed, in real browsers."""

import re
import time
from contextlib import suppress

import pytest

from imserver.pages.text import TEXT
from imserver_client import Api, RequestRefused
from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import APP, Account, Chat, login_form
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full

PHONE = (390, 844)
NO_NETWORK = "net::ERR_INTERNET_DISCONNECTED", "WebSocket connection to"


def is_shown(page: Page, selector: str, text: str) -> None:
    """The texts of what matches and is shown."""
    shown = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter((each) => each.checkVisibility()).map((each) => each.textContent)"
    )
    eventually(lambda: page.run(shown, selector) == [text], what=f"{selector} says {text!r}")


@pytest.mark.parametrize(
    ("opener", "loaded"),
    [("#me", ".profile [data-key=password]"), ("#new-conversation", ".contacts [aria-labelledby]")],
)
def test_a_panel_without_a_network_says_so_and_is_loaded_later(
    pair: Pair, server: Server, opener: str, loaded: str
) -> None:
    pair.expects(*NO_NETWORK)
    chat = Chat(pair[0], Account(server, "Ann"))
    page = chat.page
    page.click(opener)  # its module is loaded
    eventually(lambda: page.shown(loaded), what="the panel")
    page.click("dialog[open] .close")
    eventually(lambda: not page.shown("dialog"), what="it is closed")
    chat.cut()
    page.click(opener)
    eventually(lambda: page.shown("dialog[open] .note:not([hidden])"), what="why nothing is shown")
    assert chat.word("messages_loading") not in page.texts("dialog[open] .muted")
    chat.mend()
    eventually(lambda: page.shown(loaded), what="the panel is loaded")
    assert not page.shown("dialog[open] .note:not([hidden])")


def test_the_panel_of_a_group_without_us_shows_no_more_than_that(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    pair.expects("404")
    group = bob.create_group("Tea", ann)
    chat = Chat(pair[0], ann)
    chat.open(group)
    chat.page.click("#conversation-open")
    eventually(lambda: chat.page.shown("[data-key=leave]"), what="the panel")
    bob.post("groups/remove", app=APP, group=str(group), members=[ann.user])
    is_shown(chat.page, "dialog[open] .note", "You are not in this group any more")
    assert not chat.page.texts("dialog[open] .group-body *")


def test_a_ban_is_named_and_ends_by_itself(pair: Pair, server: Server) -> None:
    pair.expects("WebSocket connection to", "403")
    ann = Account(server, "Ann")
    chat = Chat(pair[0], ann)
    with Api(server.http_url) as api:
        api.call("POST", "ban", {"app": APP, "users": [ann.user], "seconds": 4, "reason": "too loud"})
    banner = r"You are banned until \w{3} \d+, \d{4}, \d\d:\d\d: too loud"
    eventually(lambda: re.fullmatch(banner, "".join(chat.page.texts("#banner-text"))), what="the ban")
    chat.online()


def test_where_one_cannot_write_a_line_says_why(pair: Pair, server: Server) -> None:
    pair.expects("404")
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    bob.say(group, "hello")
    chat = Chat(pair[0], ann)
    page = chat.page
    chat.open(group)
    eventually(lambda: "hello" in chat.texts, what="the message")
    bob.post("groups/mute", app=APP, group=str(group), member=ann.user, until=int(time.time()) + 20)
    muted = chat.words["messages_muted_until"].partition("{")[0]
    eventually(lambda: "".join(page.texts("#read-only")).startswith(muted), what="the mute")
    assert not page.shown("#composer")
    page.driver.refresh()
    chat.online()
    eventually(lambda: page.shown("#read-only"), what="it is also said after a reload")
    eventually(lambda: page.shown("#composer") and not page.shown("#read-only"), what="the mute is over")
    bob.post("groups/remove", app=APP, group=str(group), members=[ann.user])
    is_shown(page, "#read-only", chat.words["messages_fault_unknown_group"])
    assert not page.shown("#composer")
    assert page.texts("#conversation-status") == [""]
    page.driver.refresh()
    chat.online()
    is_shown(page, "#read-only", chat.words["messages_fault_unknown_group"])
    bob.post("groups/invite", app=APP, group=str(group), members=[ann.user])
    eventually(lambda: page.shown("#composer"), what="the text box after the return")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("1abc", "messages_fault_login_form"),
        ("ann@", "messages_fault_login_form"),
        ("taken.name", "messages_fault_login_taken"),
    ],
)
def test_a_refused_registration_marks_the_field(pair: Pair, server: Server, name: str, fault: str) -> None:
    pair.expects("400", "409")
    with Api(server.http_url) as api, suppress(RequestRefused):
        taken = {"name": "taken.name", "password": PASSWORD, "nickname": "Ann"}
        api.call("POST", "accounts/register", taken)
    address = f"{server.http_url}/home/messages?lang=en"
    page = login_form(pair[0].open(address, forget=True, size=PHONE))
    page.click("#login-switch")
    for field, text in (("#nickname", "Ann"), ("#identifier", name), ("#password", PASSWORD)):
        page.find(field).send_keys(text)
    page.click("#login-submit")
    is_shown(page, "#login-note", TEXT["en"][fault])
    eventually(lambda: page.focused == "identifier", what="the field has the focus")
    assert page.run("return document.activeElement.ariaInvalid") == "true"
    assert page.run(
        "return document.querySelector('#login-note').previousElementSibling.contains(document.activeElement)"
    )


def test_a_new_user_is_led_to_people(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    chat = Chat(pair[0], ann)
    page = chat.page
    is_shown(page, "#conversations-note", chat.words["messages_none_hint"])
    is_shown(page, "#empty-title", chat.words["messages_none"])
    page.click("#find-people")
    eventually(lambda: page.shown("dialog[open] #find-text"), what="the contacts")
    page.click("dialog[open] .close")
    bob.say(ann, "hello")
    eventually(lambda: not page.shown("#find-people"), what="there is a conversation")
    assert not page.shown("#conversations-note")


def test_a_group_opened_without_a_network_says_why_and_counts_its_members_later(
    pair: Pair, server: Server
) -> None:
    pair.expects(*NO_NETWORK)
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    group = bob.create_group("Tea", ann)
    chat = Chat(pair[0], ann)
    page = chat.page
    eventually(lambda: page.shown(f"[data-conversation='{group}']"), what="the group is listed")
    chat.cut()
    chat.open(group)
    is_shown(page, "#empty-hint", "This device is offline")
    chat.mend()
    is_shown(page, "#conversation-status", "2 members")
