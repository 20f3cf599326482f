"""People on the page of stored messages, in real browsers: finding, groups,
invitation links, profiles."""

from pathlib import Path
from string import ascii_uppercase

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat, open_page, register
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import User

pytestmark = pytest.mark.full("browser")

TOP = ":is(body > dialog[open]:last-of-type, body:not(:has(> dialog[open])) #inbox > dialog[open]:last-of-type)"
"""The uppermost panel or dialog: panels beside the conversation are below the
others."""
NOTICES = """
return [...document.querySelectorAll("[role=log] .notice")].slice(-4).map((each) => each.textContent);
"""
WIDE = """
return [...document.querySelectorAll("dialog[open] *")]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth + 1)
  .map((each) => each.outerHTML);
"""
BELOW_THE_SEARCH = """
const { bottom } = document.querySelector(".contacts-find").getBoundingClientRect();
const headings = [...document.querySelectorAll(".row-heading")];
return headings.find((each) => Math.abs(each.getBoundingClientRect().top - bottom) < 16)?.textContent;
"""


def close(page: Page, times: int = 1) -> None:
    """Close the uppermost panels or dialogs."""
    number = "return document.querySelectorAll('dialog[open]').length"
    for _ in range(times):
        before = page.run(number)
        page.click(f"{TOP} .close")
        page.gives(number, before - 1)


def crop(page: Page, folder: Path) -> None:
    photo = folder / "photo.png"
    Image.new("RGB", (600, 200), "#2f6690").save(photo)
    page.sees("[data-key=avatar]")
    page.find("#avatar-file").send_keys(str(photo))
    page.sees(".crop-window")
    page.press(Keys.ARROW_LEFT, "+", Keys.TAB)
    assert float(page.find(".crop-zoom").get_attribute("value") or 0) > 0
    page.click(".crop .wide")


def test_a_new_user_finds_somebody_who_accepts(pair: Pair, server: Server) -> None:
    first = open_page(pair[0], server)
    second = Chat(pair[1], Account(server, "Bob"))
    name = register(first, "Ann")
    first.click("#new-conversation")
    first.write("#find-text", second.account.phone + Keys.ENTER)
    first.click("[data-key=request]")
    first.has_some(".card-of-person .muted", "Request sent")
    second.gives(
        "return document.querySelector('#new-conversation').dataset.count", "1"
    )
    second.click("#new-conversation", "[data-key^=accept]")
    second.has("ul[aria-label=People] bdi", "Ann")
    second.sees("[data-user] .is-online")
    second.click("[data-key^=open]")
    second.has_some(".card-handle", f"@{name}")
    second.has_some(".card-of-person .presence", "Online")
    second.click("[data-key=message]")
    second.misses("dialog")
    second.say("hello")
    close(first, 2)
    first.click(".conversation")
    first.has_received("Bob", "hello")


def test_a_link_leads_a_new_user_into_a_group(pair: Pair, server: Server) -> None:
    first = Chat(pair[0], Account(server, "Ann"))
    first.account.create_group("Tea")
    first.choose("Tea")
    first.click("#conversation-open", "[data-key=link]")
    first.sees("#invitation-link", "svg.qr")
    link = str(first.run("return document.querySelector('#invitation-link').value"))
    second = pair[1].open(link.replace("#", "?lang=en#"), forget=True)
    second.has(".invited", "Ann invites you to the group “Tea”")
    register(second, "Bob")
    second.click("#invitation-accept")
    second.has("#conversation-name", "Tea")
    close(first)
    first.has_some(".group-info .person-name bdi", "Bob")


def test_a_stranger_accepts_or_declines_to_join_a_group(
    pair: Pair, start_server: StartServer
) -> None:
    apps = {"gochat": {"accounts": {"ask_strangers": True}}}
    server = start_server(
        config={"apps": apps, "accounts": {"registrations_per_address": 0}}
    )
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    first = Chat(pair[0], ann)
    second = Chat(pair[1], bob)
    group = str(ann.create_group("Tea", bob))
    first.choose("Bob")
    second.choose("Ann")
    second.has(".invitation-message .text", "Ann invites you to the group “Tea”")
    assert first.texts(".invitation-message .outcome") == ["Not answered yet"]
    second.click(".invitation-message .key:last-of-type")
    for page in (first, second):
        page.has(".invitation-message .outcome", "Declined")
    assert second.texts(".invitation-message .key") == []
    ann.post("groups/invite", group=group, members=[bob.user])
    second.click(".invitation-message .key")
    second.has("#conversation-name", "Tea")
    first.has(".invitation-message .outcome", "Declined", "Accepted")
    assert ann.roles(group).keys() == {ann.user, bob.user}


def test_a_group_is_made_and_managed(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.befriend(bob)
    page = Chat(pair[0], ann)
    page.click("#new-conversation", "#new-group")
    page.write("#group-name", "Tea")
    page.click(".picker input[type=checkbox]", "#group-create")
    page.has("#conversation-name", "Tea")
    page.click(
        "#conversation-open",
        f"[data-key='manage:{bob.user}']",
        "dialog:last-of-type .choice",
    )
    page.has_some(".group-info .mark", "Admin")
    page.click("[data-key=rename]")
    page.write("#group-name", Keys.CONTROL + "a" + Keys.NULL + "Coffee" + Keys.ENTER)
    page.has("#conversation-name", "Coffee")
    page.has(".group-info .card-name", "Coffee")
    page.gives(
        "return document.querySelectorAll('[aria-busy=true], dialog.card').length", 0
    )
    page.click("[data-key=leave]", "dialog:last-of-type .wide.danger")
    page.misses("dialog")
    [group] = bob.get("groups")["groups"]
    assert group["role"] == "owner", "the admin has become the owner"


def test_five_of_everybody_make_a_group_with_eight_taps(
    pair: Pair, start_server: StartServer
) -> None:
    apps = {"gochat": {"accounts": {"search": True}}}
    server = start_server(
        config={"apps": apps, "accounts": {"registrations_per_address": 0}}
    )
    ann = Account(server, "Ann")
    people = [
        Account(server, name)
        for name in ("Zoe", "Bob", "Émile", "Cyd", "Dan", "Eve", "Fay")
    ]
    ann.bot("teabot")
    bob = people[1]
    bob.post("accounts/set", title="Baker")
    ann.create_group("Tea", bob)
    page = Chat(pair[0], ann)
    other = Chat(pair[1], bob)
    assert other.state == "online"
    taps = []

    def tap(selector: str) -> None:
        page.click(selector)
        taps.append(selector)

    tap("#new-conversation")
    page.has(".row-list .row-heading", "Online · 1", *"BCDEFZ")
    page.has(
        ".row-list .person-name bdi",
        "Bob",
        "Bob",
        "Cyd",
        "Dan",
        "Émile",
        "Eve",
        "Fay",
        "Zoe",
    )
    page.has_some(".row-list small", "Baker · Online")
    page.write("#find-text", "TeaBot")
    page.has(".row-list .person-name bdi", "teabot")
    page.write("#find-text", Keys.CONTROL + "a" + Keys.NULL + Keys.BACKSPACE)
    tap("#new-group")
    for each in people[:3]:
        tap(f".picker [data-key='{each.user}']")
    page.write("#picker-text", "da")
    page.has(".picker li bdi", "Dan")
    tap(f".picker [data-key='{people[4].user}']")
    page.gives("return document.querySelector('#picker-text').value", "")
    tap(f".picker [data-key='{people[5].user}']")
    page.has(".picker .chosen bdi", "Zoe", "Bob", "Émile", "Dan", "Eve")
    page.has("#group-create", "Create · 5")
    tap("#group-create")
    page.has("#conversation-name", "Zoe, Bob, Émile, Dan")
    page.has("#conversation-status", "6 members")
    assert len(taps) == 8
    page.click("#conversation-open", f"[data-key='open:{bob.user}']")
    page.has(".card-title", "Baker")
    page.has(".common-groups .choice bdi", "Tea", "Zoe, Bob, Émile, Dan")


def test_letters_lead_to_people_of_a_long_directory(
    pair: Pair, start_server: StartServer
) -> None:
    apps = {"gochat": {"accounts": {"search": True}}}
    server = start_server(
        config={"apps": apps, "accounts": {"registrations_per_address": 0}}
    )
    for number in range(104):
        User.register(server, nickname=f"{ascii_uppercase[number % 26]}{number}")
    page = Chat(pair[0], Account(server, "Ann"), size=(390, 844))
    page.click("#new-conversation")
    page.has(".letters span", *ascii_uppercase)
    page.find(".letters [data-to^='letter:M']").click()  # with a pointer
    page.gives(BELOW_THE_SEARCH, "M")


def test_a_device_is_logged_out_and_this_one_stays(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    ann = Account(server, "Ann")
    first = ann.log_in(open_page(pair[0], server))
    second = ann.log_in(open_page(pair[1], server))
    saved = "return JSON.parse(localStorage.getItem('imserver:account:gochat'))?.device"
    other = eventually(lambda: second.run(saved), what="the login is saved")
    first.click("#me", "#security")
    first.sees("[data-key^=device]")
    devices = ann.get("accounts/devices")["devices"]
    [number] = [each["device"] for each in devices if each["name"] == other]
    first.click(f"[data-key='device:{number}']")
    second.sees("#login-form")
    first.misses(f"[data-key='device:{number}']")
    first.click("#profile-part")
    first.write("#profile-name", "a" + Keys.ENTER)
    first.has("#me-name", "Anna")  # this browser is still logged in
    assert first.state == "online"
    crop(first, tmp_path)
    first.gives("return document.querySelector('#me-avatar img')?.naturalWidth", 320)


def test_changes_of_a_group_are_true_at_once_on_all_pages(
    pair: Pair, server: Server, tmp_path: Path
) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    group = ann.create_group("Tea", bob)
    first = Chat(pair[0], ann)
    second = Chat(pair[1], bob)
    for chat in (first, second):
        chat.open(group)
        chat.has("#conversation-status", "2 members")
    first.click("#conversation-open")
    crop(first, tmp_path)
    first.sees(".group-info .avatar img")
    first.tap(first.word("messages_group_edit"), within=".group-info")
    first.write("#group-description", "Every day at five")
    first.write("#group-name", " time" + Keys.ENTER)
    first.has(".group-info .card-text", "Every day at five")
    cat.post(
        "invitations/accept",
        code=ann.post("invitations/create", group=str(group))["code"],
    )
    picture = ".conversation .avatar img, #conversation-avatar img"
    for chat, by in ((first, "You"), (second, "Ann")):
        chat.has("#conversation-status", "3 members")
        chat.gives("return document.querySelectorAll(arguments[0]).length", 2, picture)
        assert chat.texts("#conversation-name") == ["Tea time"]
        lines = [
            f"{by} changed the picture of the group",
            f"{by} renamed the group to “Tea time”",
            f"{by} changed the description of the group",
            "Cat joined by the link",
        ]
        chat.gives(NOTICES, lines)


def test_panels_fit_a_small_window_and_have_the_focus(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob" * 15)
    ann.befriend(bob)
    group = ann.create_group("Tea " * 12, bob)
    page = Chat(pair[0], ann, language="zh", size=(320, 640), dark=True)

    def check(selector: str) -> None:
        page.sees(selector)
        assert page.run(WIDE) == []
        page.gives(
            f"return document.querySelector('{TOP}').contains(document.activeElement)",
            True,
        )

    page.click("#new-conversation")
    check(f"[data-key='open:{bob.user}']")
    # as a person: else Chromium closes both layers at once
    page.find("#new-group").click()
    check(".picker [type=checkbox]")
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    eventually(
        lambda: page.focused == "new-group",
        what="Escape goes back to where the focus was",
    )
    page.click(f"[data-key='open:{bob.user}']")
    check("[data-key=message]")
    close(page, 2)
    page.click("#me")
    check("#profile-name")
    close(page)
    page.open(group)
    page.say("wide " * 100 + "W" * 300)
    page.click("#conversation-open")
    check("[data-key^=manage]")
    close(page)
    page.fits()
