"""Search with sections and filters, the palette, and colleagues: directory,
mentions, members, status."""

import json

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import violations
from tests.conftest import StartServer
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

ALL = Keys.CONTROL + "a" + Keys.NULL


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    """A server whose people find each other by their names."""
    apps = {"gochat": {"accounts": {"search": True, "guests": True}}}
    limits = {"registrations_per_address": 0, "logins_per_address": 0}
    return start_shared_server(config={"apps": apps, "accounts": limits})


def test_the_palette_leads_to_people_messages_actions_and_settings(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    Account(server, "Zoë Stranger")
    tea = ann.create_group("Tea club", bob)
    bob.say(tea, "a needle in the hay")
    chat = Chat(pair[0], ann)
    chat.sees(f"[data-conversation='{tea}']")

    def palette(text: str, row: str) -> None:
        chat.press(Keys.CONTROL + "k" + Keys.NULL)
        eventually(lambda: chat.focused == "palette-field", what="the palette")
        chat.press(text)
        chat.has_some(".palette .hit.first b", row)
        chat.press(Keys.ENTER)
        chat.misses(".palette")

    palette("stranger", "Zoë Stranger")
    chat.has("#conversation-name", "Zoë Stranger")
    palette("needle", "Bob · Tea club")
    chat.has("#conversation-name", "Tea club")
    palette("dark", "Theme: Dark")
    chat.gives("return getComputedStyle(document.documentElement).colorScheme", "dark")
    palette("new gr", "New group")
    chat.sees("#group-create")
    chat.press(Keys.ESCAPE)
    chat.misses("#group-create")
    chat.click("#palette-open")
    eventually(lambda: chat.focused == "palette-field", what="the palette")
    chat.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP)
    assert chat.focused == "palette-field"
    chat.press(Keys.ESCAPE)
    eventually(lambda: chat.focused == "palette-open", what="the focus is where it was")


def test_filters_are_typed_and_clicked(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob B", "Cat"))
    tea = ann.create_group("Tea club", bob, cat)
    bob.say(tea, "tea https://example.org", "tea of Bob")
    cat.say(tea, "tea of Cat")
    ann.send(bob, "file", {"name": "Tea report.pdf", "url": "/media/none", "size": 1})
    page = Chat(pair[0], ann)

    field = page.find("#search")
    field.send_keys("tea")
    eventually(
        lambda: len(page.texts("#hits .preview")) == 5,
        what="the group, messages and a file",
    )
    assert page.texts("#hits .hit-title") == [
        "Conversations",
        "Messages",
        "Media and files",
    ]
    field.send_keys(" from:b")
    eventually(lambda: page.texts("#hits .hit b")[:1] == ["Bob B"], what="a suggestion")
    field.send_keys(Keys.ENTER)
    page.has("#hits .preview", "tea of Bob", "tea https://example.org")
    assert field.get_attribute("value") == 'tea from:"Bob B" '
    page.click("#search-chips [aria-pressed]:last-child")
    page.has("#hits .preview", "tea https://example.org")
    field.send_keys(ALL + "has:file ")
    page.has("#hits .preview", "Tea report.pdf")
    field.send_keys(ALL + "has:nothing ")
    page.has("#hits .people-note", "“has:nothing” is not a filter")
    field.send_keys(Keys.ESCAPE)
    page.misses("#search-chips")
    field.send_keys("tea of Bob")
    page.has("#hits .preview", "tea of Bob")
    page.click("#hits .preview")
    eventually(
        lambda: (
            page.focused != "search"
            and page.texts("#conversation-name") == ["Tea club"]
        )
    )
    page.press(Keys.ESCAPE)
    page.misses("#hits")
    assert page.texts("#conversation-name") == ["Tea club"], "one key closes one thing"


def test_the_menu_has_all_filters_and_leads_to_a_day(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob B")
    tea = ann.create_group("Tea club", bob)
    bob.say(tea, "red kettle of Bob", "kettle")
    ann.say(tea, "kettle, red, of Ann")
    page = Chat(pair[0], ann)

    page.write("#search", "kettle re")
    page.has("#hits .preview", "kettle, red, of Ann", "red kettle of Bob")
    assert page.texts("#hits mark") == ["kettle", "re", "re", "kettle"]
    page.click("#search-chips .chip")
    page.write(".filter-form [list]", "Bob B")
    page.click(".filter-form [type=submit]")
    page.has("#hits .preview", "red kettle of Bob")
    page.click("#search-chips .chip")
    page.sees(".filter-form")
    assert page.find(".filter-form [list]").get_attribute("value") == "Bob B"
    page.click(".filter-jump .wide")
    page.sees(".filters .note")
    page.run(
        "document.querySelector('.filter-form select').value = 'Tea club';"
        "document.querySelector('.filter-jump input').value = '2020-01-01'"
    )
    page.click(".filter-jump .wide")
    page.has("#conversation-name", "Tea club")
    assert not page.shown(".filter-menu")


LARGE = """
const { fetch } = window;
window.fetch = (address, ...more) => {
  const isList = String(address).includes("/groups/members?") && !String(address).includes("text=");
  return isList ? Promise.resolve(new Response(arguments[0], { status: 200 })) : fetch(address, ...more);
};
"""
"""Lists of members are the first ones of a large group."""


def test_the_server_searches_members_whom_the_page_has_not_loaded(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group(
        "Tea", Account(server, "Bob"), Account(server, "René Roux")
    )
    all_of_it = ann.get("groups/members", group=str(group))
    large = {**all_of_it, "members": all_of_it["members"][:2], "count": 3_000}
    ann.say(group, "Which tea?")
    chat = Chat(pair[0], ann)
    chat.run(LARGE, json.dumps(large))
    chat.open(group)
    chat.click("#conversation-open")
    chat.sees("#member-text")
    assert len(chat.texts(".member-list .person-name bdi")) == 2
    chat.write("#member-text", "roux rene")
    chat.has(".member-list .person-name bdi", "René Roux")
    chat.press(Keys.ESCAPE)
    chat.write("#message", "@roux")
    chat.has("#mentions bdi", "René Roux")
    chat.press(Keys.ESCAPE)
    chat.act("Which tea?", "messages_thread_reply")
    chat.write(".thread textarea", "@roux")
    chat.has(".thread .mentions bdi", "René Roux")


def test_what_people_say_of_themselves_and_do_is_in_the_list(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.befriend(bob)
    ann.say(bob, "hello")
    first = Chat(pair[0], ann)
    second = Chat(pair[1], bob)
    second.click("#me")
    second.write("#profile-status", "Back at two")
    second.click("label:has(#profile-away)")
    assert violations(second) == []
    second.click("[data-key=save]")
    second.sees(".toast")
    first.click(".conversation")
    first.has_some("#conversation-status", "Away · Back at two · Online")
    first.sees(".conversation .is-online")
    second.run("document.querySelector('dialog[open] .close').click()")
    second.click(".conversation")
    second.write("#message", "I am")
    first.has_some(".conversation .typing", "is typing")
    assert violations(first) == []


def test_a_message_is_forwarded_to_a_colleague_without_a_conversation(
    pair: Pair, server: Server
) -> None:
    ann, eve, tim = (Account(server, name) for name in ("Ann", "Eve", "Tim Zander"))
    group = ann.create_group("tea", eve)
    ann.say(group, "the parcel")
    chat = Chat(pair[0], ann)
    chat.open(group, "the parcel")
    chat.act("the parcel", "messages_forward")
    chat.write("#picker-text", "zander")
    chat.has(".picker li bdi", "Tim Zander")
    chat.click(".picker .pick", ".picker > .wide")
    chat.has("#conversation-name", "Tim Zander")
    chat.reads("the parcel")
    assert [each["peer"] for each in tim.get("conversations")["conversations"]] == [
        ann.user
    ]
