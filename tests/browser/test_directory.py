"""Colleagues on the page of stored messages: directory, mentions, members, what they say of themselves."""

import json

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import violations
from tests.conftest import StartServer
from tests.support import Server

pytestmark = pytest.mark.full("browser")


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    """One server for all tests of this module, with the settings of a chat."""
    apps = {"gochat": {"accounts": {"search": True, "guests": True}}}
    limits = {"registrations_per_address": 0, "logins_per_address": 0}
    return start_shared_server(config={"apps": apps, "accounts": limits})


LARGE = """
const { fetch } = window;
window.fetch = (address, ...more) => {
  const isList = String(address).includes("/groups/members?") && !String(address).includes("text=");
  return isList ? Promise.resolve(new Response(arguments[0], { status: 200 })) : fetch(address, ...more);
};
"""
"""Lists of members are the first ones of a large group."""


def test_the_server_searches_members_whom_the_page_has_not_loaded(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("Tea", Account(server, "Bob"), Account(server, "René Roux"))
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


def test_what_people_say_of_themselves_and_do_is_in_the_list(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    ann.befriend(bob)
    ann.say(bob, "hello")
    first, second = Chat(pair[0], ann), Chat(pair[1], bob)
    second.click("#me")
    second.write("#profile-status", "Back at two")
    second.click("label:has(#profile-away)")
    assert violations(second) == []
    second.click("[data-key=save-status]")
    second.sees(".toast")
    first.click(".conversation")
    first.has_some("#conversation-status", "Away · Back at two · Online")
    first.sees(".conversation .is-online")
    second.run("document.querySelector('dialog[open] .close').click()")
    second.click(".conversation")
    second.write("#message", "I am")
    first.has_some(".conversation .typing", "is typing")
    assert violations(first) == []


def test_a_message_is_forwarded_to_a_colleague_without_a_conversation(pair: Pair, server: Server) -> None:
    ann, eve, tim = (Account(server, name) for name in ("Ann", "Eve", "Tim Zander"))
    group = ann.create_group("tea", eve)
    ann.say(group, "the parcel")
    chat = Chat(pair[0], ann)
    chat.open(group, "the parcel")
    chat.act("the parcel", "messages_forward")
    chat.write(".chooser .search-field", "zander")
    chat.has(".choice bdi", "Tim Zander")
    chat.click(".choice", ".chooser .wide")
    chat.has("#conversation-name", "Tim Zander")
    chat.reads("the parcel")
    assert [each["peer"] for each in tim.get("conversations")["conversations"]] == [ann.user]
