"""Colleagues on the page of stored messages: directory, mentions, members, what they say of themselves."""

import json

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.browser.test_accessibility import violations
from tests.browser.test_messages import open_page
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import PASSWORD, User

pytestmark = pytest.mark.full


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


def waits(page: Page, selector: str, text: str = "") -> None:
    def is_there() -> bool:
        return any(text in each for each in page.texts(selector)) if text else bool(page.shown(selector))

    eventually(is_there, what=f"{selector} {text}")


def test_the_server_searches_members_whom_the_page_has_not_loaded(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    group = ann.create_group("Tea", Account(server, "Bob"), Account(server, "René Roux"))
    all_of_it = ann.get("groups/members", group=str(group))
    large = {**all_of_it, "members": all_of_it["members"][:2], "count": 3_000}
    ann.say(group, "Which tea?")
    chat = Chat(pair[0], ann)
    page = chat.page
    page.run(LARGE, json.dumps(large))
    chat.open(group)
    waits(page, "#composer")
    page.click("#conversation-open")
    waits(page, "#member-text")
    assert len(page.texts(".member-list .person-name bdi")) == 2
    page.find("#member-text").send_keys("roux rene")
    eventually(lambda: page.texts(".member-list .person-name bdi") == ["René Roux"], what="the member")
    page.press(Keys.ESCAPE)
    page.find("#message").send_keys("@roux")
    eventually(lambda: page.texts("#mentions bdi") == ["René Roux"], what="the member is offered")
    page.press(Keys.ESCAPE)
    chat.act("Which tea?", "messages_thread_reply")
    waits(page, ".thread textarea")
    page.find(".thread textarea").send_keys("@roux")
    eventually(lambda: page.texts(".thread .mentions bdi") == ["René Roux"], what="in the thread, too")


def test_what_people_say_of_themselves_and_do_is_in_the_list(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    ann.befriend(bob)
    ann.say(bob, "hello")
    first = ann.log_in(open_page(pair[0], server))
    second = bob.log_in(open_page(pair[1], server))
    second.click("#me")
    waits(second, "#profile-status")
    second.find("#profile-status").send_keys("Back at two")
    second.click("label:has(#profile-away)")
    assert violations(second) == []
    second.click("[data-key=save-status]")
    waits(second, ".toast")
    first.click(".conversation")
    waits(first, "#conversation-status", "Away · Back at two · Online")
    waits(first, ".conversation .is-online")
    second.run("document.querySelector('dialog[open] .close').click()")
    second.click(".conversation")
    waits(second, "#message")
    second.find("#message").send_keys("I am")
    waits(first, ".conversation .typing", "is typing")
    assert violations(first) == []


def test_a_guest_who_becomes_a_member_goes_on_in_each_tab(pair: Pair, server: Server) -> None:
    pair.expects("401")
    ann = Account(server, "Ann")
    group = ann.create_group("Tea")
    code = ann.post("invitations/create", group=str(group), guests=True)["code"]
    joined = User(server, "").post("invitations/join", code=code, nickname="Gil", device="x")
    account = joined["session"]["account"]
    saved = {"token": joined["session"]["token"], "user": account["user"], "nickname": "Gil", "guest": True}
    page = open_page(pair[1], server)
    page.run(
        "localStorage.setItem('imserver:account:gochat', arguments[0])", json.dumps({**saved, "device": "x"})
    )
    page.driver.refresh()
    waits(page, ".conversation", "Tea")
    tab = page.driver.current_window_handle
    address = page.driver.current_url
    page.driver.switch_to.new_window("tab")
    page.driver.get(address)
    waits(page, ".conversation", "Tea")
    assert not page.shown("#new-conversation")
    other = page.driver.current_window_handle
    page.driver.switch_to.window(tab)
    page.run("window.isSame = true")
    page.click("#me")
    waits(page, "#member-form")
    page.find("#member-login").send_keys("gil" + Keys.TAB + PASSWORD + Keys.ENTER)
    waits(page, "#toasts", "You are a member now")
    waits(page, "#new-conversation")
    waits(page, ".conversation", "Tea")
    assert page.run("return window.isSame"), "without a reload"
    page.driver.switch_to.window(other)
    waits(page, "#new-conversation")
    page.driver.close()
    page.driver.switch_to.window(tab)


def test_a_message_is_forwarded_to_a_colleague_without_a_conversation(pair: Pair, server: Server) -> None:
    ann, eve, tim = (Account(server, name) for name in ("Ann", "Eve", "Tim Zander"))
    group = ann.create_group("tea", eve)
    ann.say(group, "the parcel")
    chat = Chat(pair[0], ann)
    chat.open(group)
    eventually(lambda: "the parcel" in chat.texts, what="the message")
    chat.act("the parcel", "messages_forward")
    waits(chat.page, ".chooser .search-field")
    chat.page.find(".chooser .search-field").send_keys("zander")
    waits(chat.page, ".choice bdi", "Tim Zander")
    assert chat.page.texts(".choice bdi") == ["Tim Zander"]
    chat.page.click(".choice")
    chat.page.click(".chooser .wide")
    eventually(lambda: chat.page.texts("#conversation-name") == ["Tim Zander"], what="the new conversation")
    eventually(lambda: "the parcel" in chat.texts, what="the message there")
    assert [each["peer"] for each in tim.get("conversations")["conversations"]] == [ann.user]
