"""People on the page of stored messages, in real browsers: finding, groups, invitation links, profiles."""

from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat, login_form
from tests.browser.test_accessibility import DESKTOP, PHONE, violations
from tests.browser.test_messages import choose, open_page, write_to
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import PASSWORD

pytestmark = pytest.mark.full

NAMES = count(1)


TOP = (
    ":is(body > dialog[open]:last-of-type, body:not(:has(> dialog[open])) #inbox > dialog[open]:last-of-type)"
)
"""The uppermost panel or dialog: panels beside the conversation are below the others."""


def close(page: Page) -> None:
    """Close the uppermost panel or dialog."""
    before = page.run("return document.querySelectorAll('dialog[open]').length")
    page.click(f"{TOP} .close")
    eventually(
        lambda: page.run("return document.querySelectorAll('dialog[open]').length") == before - 1,
        what="it is closed",
    )


def register(page: Page, nickname: str) -> str:
    """Create an account with a user name on the page. Returns the user name."""
    name = f"user.{next(NAMES)}"
    login_form(page).click("#login-switch")
    for field, text in (("#nickname", nickname), ("#identifier", name), ("#password", PASSWORD)):
        page.find(field).send_keys(text)
    page.click("#login-submit")
    eventually(lambda: page.state == "online", what="the page is connected")
    return name


def test_a_new_user_finds_somebody_who_accepts(pair: Pair, server: Server) -> None:
    bob = Account(server, "Bob")
    first = open_page(pair[0], server)
    name = register(first, "Ann")
    second = bob.log_in(open_page(pair[1], server))
    first.click("#new-conversation")
    eventually(lambda: first.shown("#find-text"), what="the contacts")
    first.find("#find-text").send_keys(bob.phone + Keys.ENTER)
    first.click("[data-key=request]")
    eventually(lambda: "Request sent" in first.texts(".card-of-person .muted"), what="the request")
    count = "return document.querySelector('#new-conversation').dataset.count"
    eventually(lambda: second.run(count) == "1", what="the request is counted on Bob's page")
    second.click("#new-conversation")
    second.click("[data-key^=accept]")
    eventually(lambda: second.texts("ul[aria-label=Contacts] bdi") == ["Ann"], what="the new contact")
    second.click("[data-key^=open]")
    eventually(lambda: f"@{name}" in second.texts(".card-handle"), what="the card of Ann")
    eventually(lambda: "Online" in second.texts(".card-of-person .presence"), what="her presence")
    write_to(second)
    second.say("hello")
    close(first)
    close(first)
    choose(first, "Bob")
    first.has_received("Bob", "hello")


def test_a_link_leads_a_new_user_into_a_group(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    ann.post("groups/create", name="Tea")
    first = ann.log_in(open_page(pair[0], server))
    choose(first, "Tea")
    first.click("#conversation-open")
    first.click("[data-key=link]")
    first.click("#invitation-create")
    eventually(lambda: first.shown("#invitation-link"), what="the link")
    link = str(first.run("return document.querySelector('#invitation-link').value"))
    eventually(lambda: first.shown("svg.qr"), what="the QR code")
    second = pair[1].open(link.replace("#", "?lang=en#"), forget=True)
    eventually(
        lambda: second.texts(".invited") == ["Ann invites you to the group “Tea”"], what="the invitation"
    )
    register(second, "Bob")
    second.click("#invitation-accept")
    eventually(lambda: second.texts("#conversation-name") == ["Tea"], what="the group is open")
    close(first)
    eventually(lambda: "Bob" in first.texts(".group-info .person-name bdi"), what="the new member")


def test_a_stranger_accepts_or_declines_to_join_a_group(pair: Pair, start_server: StartServer) -> None:
    apps = {"gochat": {"accounts": {"ask_strangers": True}}}
    server = start_server(config={"apps": apps, "accounts": {"registrations_per_address": 0}})
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    first, second = ann.log_in(open_page(pair[0], server)), bob.log_in(open_page(pair[1], server))
    group = ann.create_group("Tea", bob)
    choose(first, "Bob")
    choose(second, "Ann")
    invited = "Ann invites you to the group “Tea”"
    eventually(lambda: second.texts(".invitation-message .text") == [invited], what="the invitation")
    assert first.texts(".invitation-message .outcome") == ["Not answered yet"]
    second.click(".invitation-message .key:last-of-type")
    for page in (first, second):
        eventually(
            lambda page=page: page.texts(".invitation-message .outcome") == ["Declined"], what="the end"
        )
    assert second.texts(".invitation-message .key") == []
    ann.post("groups/invite", group=str(group), members=[bob.user])
    eventually(lambda: second.shown(".invitation-message .key"), what="the second invitation")
    second.click(".invitation-message .key")
    eventually(lambda: second.texts("#conversation-name") == ["Tea"], what="the group is open")
    ends = ["Declined", "Accepted"]
    eventually(
        lambda: first.texts(".invitation-message .outcome") == ends, what="Ann sees that Bob has accepted"
    )
    assert ann.roles(str(group)).keys() == {ann.user, bob.user}


def test_a_group_is_made_and_managed(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    ann.befriend(bob)
    page = ann.log_in(open_page(pair[0], server))
    page.click("#new-conversation")
    page.click("#new-group")
    eventually(lambda: page.shown("#group-name"), what="the new group")
    page.find("#group-name").send_keys("Tea")
    page.click(".picker input[type=checkbox]")
    page.click("#group-create")
    eventually(lambda: page.texts("#conversation-name") == ["Tea"], what="the group is open")
    page.click("#conversation-open")
    page.click(f"[data-key='manage:{bob.user}']")
    page.click("dialog:last-of-type .choice")
    eventually(lambda: "Admin" in page.texts(".group-info .mark"), what="the new role")
    page.click("[data-key=rename]")
    page.press(Keys.CONTROL + "a" + Keys.NULL + "Coffee" + Keys.ENTER)
    eventually(lambda: page.texts("#conversation-name") == ["Coffee"], what="the new name")
    eventually(lambda: page.texts(".group-info .card-name") == ["Coffee"], what="the new name in the panel")
    busy = "return document.querySelectorAll('[aria-busy=true], dialog.card').length"
    eventually(lambda: page.run(busy) == 0, what="the dialog is closed, and nothing is loading")
    page.click("[data-key=leave]")
    page.click("dialog:last-of-type .wide.danger")
    eventually(lambda: not page.shown("dialog"), what="the panel is closed")
    [group] = bob.get("groups")["groups"]
    assert group["role"] == "owner", "the admin has become the owner"


def test_a_device_is_logged_out_and_this_one_stays(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    first = ann.log_in(open_page(pair[0], server))
    second = ann.log_in(open_page(pair[1], server))
    other = eventually(
        lambda: second.run("return JSON.parse(localStorage.getItem('imserver:account:gochat'))?.device"),
        what="the login is saved",
    )
    first.click("#me")
    eventually(lambda: first.shown("[data-key^=device]"), what="the devices")
    devices = ann.get("accounts/devices")["devices"]
    [number] = [each["device"] for each in devices if each["name"] == other]
    first.click(f"[data-key='device:{number}']")
    eventually(lambda: second.shown("#login-form"), what="the other browser is logged out")
    eventually(lambda: not first.shown(f"[data-key='device:{number}']"), what="the list without it")
    first.find("#profile-name").send_keys("a" + Keys.ENTER)
    eventually(lambda: first.texts("#me-name") == ["Anna"], what="this browser is still logged in")
    assert first.state == "online"


def test_a_picture_is_cropped_and_shown(pair: Pair, server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (600, 200), "#2f6690").save(photo)
    page = Account(server, "Ann").log_in(open_page(pair[0], server))
    page.click("#me")
    eventually(lambda: page.shown("[data-key=avatar]"), what="the profile")
    page.find("#avatar-file").send_keys(str(photo))
    eventually(lambda: page.shown(".crop-window"), what="the picture")
    page.press(Keys.ARROW_LEFT, "+", Keys.TAB)
    assert float(page.find(".crop-zoom").get_attribute("value") or 0) > 0
    page.click(".crop .wide")
    size = "return document.querySelector('#me-avatar img')?.naturalWidth"
    eventually(lambda: page.run(size) == 320, what="the new picture")


def test_what_changes_in_a_group_is_true_at_once_on_every_page(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (600, 200), "#2f6690").save(photo)
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    group = ann.create_group("Tea", bob)
    first, second = Chat(pair[0], ann), Chat(pair[1], bob)
    for chat in (first, second):
        chat.open(group)
        eventually(
            lambda chat=chat: chat.page.texts("#conversation-status") == ["2 members"], what="the count"
        )
    first.page.click("#conversation-open")
    eventually(lambda: first.page.shown("[data-key=avatar]"), what="the group")
    first.page.find("#avatar-file").send_keys(str(photo))
    eventually(lambda: first.page.shown(".crop-window"), what="the picture")
    first.page.click(".crop .wide")
    eventually(lambda: first.page.shown(".group-info .avatar img"), what="the picture of the group")
    first.click(first.word("messages_group_edit"), within=".group-info")
    eventually(lambda: first.page.shown("#group-description"), what="the form")
    first.page.find("#group-description").send_keys("Every day at five")
    first.page.find("#group-name").send_keys(" time" + Keys.ENTER)
    eventually(
        lambda: first.page.texts(".group-info .card-text") == ["Every day at five"], what="the description"
    )
    code = ann.post("invitations/create", group=str(group))["code"]
    cat.post("invitations/accept", code=code)
    picture = "return document.querySelectorAll('.conversation .avatar img, #conversation-avatar img').length"
    for chat, by in ((first, "You"), (second, "Ann")):
        page = chat.page
        eventually(
            lambda page=page: page.texts("#conversation-status") == ["3 members"], what="the new count"
        )
        eventually(lambda page=page: page.run(picture) == 2, what="the picture in the list and the head")
        assert page.texts("#conversation-name") == ["Tea time"]
        eventually(
            lambda page=page, by=by: (
                page.texts("[role=log] .notice")[-4:]
                == [
                    f"{by} changed the picture of the group",
                    f"{by} renamed the group to “Tea time”",
                    f"{by} changed the description of the group",
                    "Cat joined by the link",
                ]
            ),
            what="what has happened",
        )


@pytest.mark.needs("axe-core")
@pytest.mark.parametrize(
    ("language", "dark", "size"), [("zh", True, (320, 640)), ("en", False, PHONE), ("en", True, DESKTOP)]
)
def test_panels_fit_and_have_no_violation(
    pair: Pair, server: Server, language: str, dark: bool, size: tuple[int, int]
) -> None:
    ann, bob, cat = Account(server, "Ann"), Account(server, "Bob" * 15), Account(server, "Cat")
    ann.befriend(bob)
    cat.post("friends/request", friend=ann.user)
    group = ann.post("groups/create", name="Tea " * 12, members=[bob.user])["group"]
    page = login_form(open_page(pair[0], server, language, size=size, dark=dark))
    found = violations(page)
    page.click("#login-switch")
    found += violations(page)
    page.click("#login-switch")
    ann.log_in(page)

    def check() -> None:
        wide = "[...document.querySelectorAll('dialog[open] *')].filter((each) => each.checkVisibility()"
        wide += " && each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML)"
        inside = f"document.querySelector('{TOP}').contains(document.activeElement)"
        assert page.run(f"return {wide}") == []
        eventually(lambda: page.run(f"return {inside}"), what="the focus is in the dialog")
        found.extend(violations(page))

    page.click("#new-conversation")
    eventually(lambda: page.shown("[data-key^=accept]"), what="the contacts")
    check()
    page.click("#new-group")
    eventually(lambda: page.shown(".picker [type=checkbox]"), what="the contacts to choose")
    check()
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    eventually(lambda: page.focused == "new-group", what="Escape goes back to where the focus was")
    page.click("#my-link")
    page.click("#invitation-create")
    eventually(lambda: page.shown("#invitation-link"), what="the link")
    check()
    close(page)
    page.click(f"[data-key='open:{bob.user}']")
    eventually(lambda: page.shown("[data-key=message]"), what="the card")
    check()
    close(page)
    close(page)
    page.click("#me")
    eventually(lambda: page.shown(".profile [data-key=password]"), what="the profile")
    check()
    close(page)
    page.run("location.hash = `#c/${arguments[0]}`", group)
    page.click("#conversation-open")
    eventually(lambda: page.shown("[data-key^=manage]"), what="the group")
    check()
    page.click("[data-key=media]")
    check()
    assert not found, "\n".join(dict.fromkeys(found))
