"""The page of stored messages, in real browsers."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Pair
from tests.browser.messenger import Account, login_form
from tests.conftest import StartServer
from tests.integration.gochat import fresh_phone
from tests.integration.receiver import Receiver, rejecting, replacing
from tests.ports import fixed_ports
from tests.support import Server, eventually
from tests.users import PASSWORD

HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;"


def address(server: Server, language: str = "en") -> str:
    return f"{server.http_url}/home/messages?lang={language}"


def open_page(browser: Browser, server: Server, language: str = "en", **how: Any) -> Page:
    """The page, before a login."""
    return browser.open(address(server, language), forget=True, **how)


def start_conversation(page: Page, phone: str) -> None:
    """Find a user by their phone number, and open the conversation with them."""
    page.click("#new-conversation")
    eventually(lambda: page.shown("#find-text"), what="the contacts")
    page.find("#find-text").send_keys(phone + Keys.ENTER)
    write_to(page)


def write_to(page: Page) -> None:
    """Open the conversation with somebody whose card is shown."""
    page.click("[data-key=message]")
    eventually(lambda: page.shown("#composer") and not page.shown("dialog"), what="the conversation is open")


STATUS = """
const status = document.querySelector("#conversation-status");
window.statuses = [];
new MutationObserver(() => window.statuses.push(status.textContent)).observe(status, { childList: true });
"""
"""Remember what the head of the conversation says: the typing notice goes by itself."""

SAVED_TOKEN = "return JSON.parse(localStorage.getItem('imserver:account:gochat'))?.token"

CHOSEN = "return document.activeElement.querySelector('.text')?.textContent"
"""The text of the message that has the focus."""


def conversations(page: Page) -> list[str]:
    return page.texts("#conversations .conversation b")


def choose(page: Page, name: str) -> None:
    listed = (
        "const found = [...document.querySelectorAll('.conversation')].find((each) =>"
        " each.querySelector('b')?.textContent === arguments[0]); found?.click(); return Boolean(found)"
    )
    eventually(lambda: page.run(listed, name), what=f"the conversation with {name} is listed")
    eventually(
        lambda: page.texts("#conversation-name") == [name], what=f"the conversation with {name} is open"
    )


def send(page: Page, text: str) -> None:
    page.say(text)
    begin = text[:100]  # a long text is shortened
    eventually(lambda: begin in "".join(page.own[-1:]), what=f"{begin!r} is shown")


def test_two_users_register_and_exchange_messages(pair: Pair, server: Server) -> None:
    bob = Account(server, "Bob")
    first = open_page(pair[0], server)
    login_form(first).click("#login-switch")
    first.find("#identifier").send_keys(fresh_phone())
    first.find("#password").send_keys(PASSWORD)
    first.find("#nickname").send_keys("Ann")
    first.click("#login-submit")
    eventually(lambda: first.state == "online", what="the page is connected")
    eventually(lambda: first.name == "Ann", what="the own name")
    start_conversation(first, bob.phone)
    send(first, HOSTILE)
    second = bob.log_in(open_page(pair[1], server, "zh"))
    eventually(lambda: conversations(second) == ["Ann"], what="the missed message is listed")
    eventually(lambda: second.texts(".conversation .count") == ["1"], what="the number of unread messages")
    eventually(lambda: "(1)" in second.driver.title, what="the title says it, too")
    choose(second, "Ann")
    second.has_received("Ann", HOSTILE)
    eventually(lambda: second.texts(".conversation .count") == [], what="it is read")
    eventually(lambda: first.texts(".tick") == ["✓✓"], what="the receipt")
    first.run(STATUS)
    second.find("#message").send_keys("我")
    eventually(lambda: "Bob is typing…" in first.run("return window.statuses"), what="the typing notice")
    send(second, "也在")
    first.has_received("Bob", "我也在")
    eventually(
        lambda: "typing" not in first.texts("#conversation-status")[0], what="the typing notice is gone"
    )
    for page in (first, second):
        assert page.run("return window.pwned") is None
        days = page.texts("#log .divider.day")  # two at midnight
        assert 1 <= len(days) == len(set(days)), "each date once"


def act(page: Page, text: str, word: str) -> None:
    """Choose a line of the menu of the message with this text."""
    menu = (
        "const row = [...document.querySelectorAll('#log .line[data-id]')].find((each) =>"
        " each.querySelector('.bubble').textContent.includes(arguments[0]));"
        "row?.dispatchEvent(new MouseEvent('contextmenu', {bubbles: true, clientX: 400, clientY: 300}));"
        "const line = [...document.querySelectorAll('.menu button')].find((each) =>"
        " each.textContent === arguments[1]); line?.click(); return Boolean(row && line)"
    )
    eventually(lambda: page.run(menu, text, word), what=f"{word} of {text!r}")


def history(server: Server, ann: Account, bob: Account, count: int) -> None:
    """Messages of Ann to Bob."""
    for number in range(count):
        message = {"targets": [{"user": bob.user}], "sender": ann.user, "text": f"number {number}"}
        ann.post("push", app="gochat", **message, store=True)


@pytest.mark.full
def test_a_long_conversation_loads_as_one_scrolls(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    history(server, ann, bob, 260)
    page = bob.log_in(open_page(pair[0], server))
    choose(page, "Ann")
    eventually(lambda: page.texts(".divider.unread") == ["New messages"], what="the first unread message")
    assert page.received[0] == ("Ann", "number 0")
    assert len(page.texts("#log .line")) < 200
    page.click("#latest")
    page.has_received("Ann", "number 259")
    eventually(lambda: page.texts(".conversation .count") == [], what="all are read")
    eventually(lambda: not page.shown("#latest"), what="the end of the conversation")
    seen: set[str] = set()

    def scrolled() -> bool:
        seen.update(text for _, text in page.received)
        assert len(page.texts("#log .line")) <= 200
        page.run("document.querySelector('#log').scrollTop = 0")
        return len(seen) == 260

    eventually(scrolled, what="all messages, page by page")
    ann.post("messages/edit", app="gochat", id=server_id(page, "number 0"), text="the first")
    page.has_received("Ann", "the first")
    assert page.texts(".edited") == ["edited"]


def server_id(page: Page, text: str) -> int:
    found = page.run(
        "return [...document.querySelectorAll('#log .line')].find((each) =>"
        " each.querySelector('.text').textContent === arguments[0]).dataset.id",
        text,
    )
    return int(found)


def create_groups(ann: Account, count: int) -> None:
    """Conversations that are newer than the others."""
    for number in range(count):
        ann.post("groups/create", name=f"Group {number}", members=[])


@pytest.mark.full
def test_older_conversations_are_counted_and_found_by_their_names(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    history(server, bob, ann, 3)
    create_groups(ann, 54)
    history(server, ann, Account(server, "Cat"), 1)
    page = ann.log_in(open_page(pair[0], server))
    eventually(
        lambda: "(3)" in page.driver.title, what="the unread messages of a conversation that is not shown"
    )
    assert len(conversations(page)) == 50
    choose(page, "Cat")
    act(page, "number 0", "Forward")
    eventually(lambda: page.shown(".chooser .search-field"), what="the chooser")
    page.find(".chooser .search-field").send_keys("bob")
    eventually(lambda: page.texts(".choice bdi") == ["Bob"], what="the older conversation is offered")
    page.click("dialog[open] .close")
    page.find("#search").send_keys("BOB")
    eventually(lambda: page.texts("#hits .hit b") == ["Bob"], what="the older conversation is found")
    page.find("#search").send_keys(Keys.CONTROL + "a" + Keys.NULL + "group 1")
    eventually(lambda: page.texts("#hits .link") == ["More conversations"], what="there are more than five")
    page.click("#hits .link")
    assert len(page.texts("#hits .hit b")) == 15  # with a 1 somewhere in the number
    assert page.focused.startswith("Group 1")
    page.press(Keys.ESCAPE)
    page.click("#conversations-more")
    eventually(lambda: len(conversations(page)) == 56, what="all conversations")
    assert conversations(page)[-1] == "Bob"
    assert not page.shown("#conversations-more")


@pytest.mark.full
def test_a_hit_opens_a_conversation_that_is_not_listed_yet(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    oldest = ann.post("groups/create", name="Oldest", members=[])["group"]
    target = {"targets": [{"group": oldest}], "sender": ann.user}
    ann.post("push", app="gochat", text="a needle", store=True, **target)
    create_groups(ann, 55)
    page = ann.log_in(open_page(pair[0], server))
    eventually(lambda: len(conversations(page)) == 50, what="the newest conversations")
    page.find("#search").send_keys("needle")
    page.click("#hits .hit")
    eventually(lambda: page.run(CHOSEN) == "a needle", what="the message has the focus")


@pytest.mark.full
def test_reactions_pins_replies_edits_and_forwards_reach_the_other_page(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    history(server, ann, bob, 120)
    first, second = ann.log_in(open_page(pair[0], server)), bob.log_in(open_page(pair[1], server))
    end = (
        "const latest = document.querySelector('#latest');"
        "const last = [...document.querySelectorAll('#log .text')].at(-1)?.textContent;"
        "if (latest.hidden && last === 'number 119') return true; latest.click(); return false"
    )
    for page, name in ((first, "Bob"), (second, "Ann")):
        choose(page, name)
        eventually(lambda page=page: page.run(end), what="the end of the conversation")  # type: ignore[misc]
    first.say("who *brings* `tea`? https://tea.example/x.")
    second.has_received("Ann", "who brings tea? https://tea.example/x.")
    link = second.run("const { href, rel } = document.querySelector('#log .bubble a'); return [href, rel]")
    assert link == ["https://tea.example/x", "noopener noreferrer nofollow"]
    act(second, "who brings", "👍")
    eventually(lambda: first.texts(".reaction") == ["👍1"], what="the reaction")
    first.run("document.querySelector('.reaction').click()")
    eventually(lambda: second.texts(".reaction") == ["👍2"], what="the second reaction")
    second.run("document.querySelector('.reaction').click()")
    eventually(lambda: first.texts(".reaction") == ["👍1"], what="one was taken back")
    act(first, "who brings", "Pin")
    eventually(lambda: second.shown("#pinned"), what="the pinned message")
    assert second.texts("#pinned-text") == ["Ann: who brings tea? https://tea.example/x."]

    act(second, "who brings", "Reply")
    send(second, "me")
    eventually(lambda: first.texts(".quote b") == ["You"], what="the quote")
    first.find("#message").send_keys(Keys.UP)  # edits the last own message
    first.find("#message").clear()
    first.say("who brings cake?")
    second.has_received("Ann", "who brings cake?")
    assert second.texts(".edited") == ["edited"]
    act(second, "number 119", "Reply")
    send(second, "the last number")
    start_conversation(first, cat.phone)
    send(first, "hello")
    choose(first, "Bob")
    act(first, "the last number", "Forward")
    choice = "const found = [...document.querySelectorAll('.choice')].find((each) =>"
    choice += " each.textContent.includes('Cat')); found?.click(); return Boolean(found)"
    eventually(lambda: first.run(choice), what="the choice of conversations")
    first.click("dialog[open] .chooser > .wide")
    eventually(lambda: first.texts("#conversation-name") == ["Cat"], what="the conversation with Cat")
    eventually(lambda: first.texts(".forwarded") == ["Forwarded from Bob"], what="the forwarded message")
    choose(first, "Bob")
    first.run("document.querySelector('#log').scrollTop = 0")
    first.find("#search").send_keys("the last")
    last = "const hits = [...document.querySelectorAll('#hits .hit')]; hits[1]?.click(); return hits.length"
    eventually(lambda: first.run(last) == 2, what="two hits")
    eventually(lambda: "the last" in str(first.run(CHOSEN)), what="the hit has the focus")


@pytest.mark.full
def test_without_a_server_one_reads_and_writes_and_it_is_sent_once_later(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects("WebSocket", "Failed to load resource", "ERR_CONNECTION_REFUSED", "Failed to fetch")
    config = {"accounts": {"registrations_per_address": 0}, "app": fixed_ports()}
    server = start_server(config=config)
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    history(server, bob, ann, 3)
    page = ann.log_in(open_page(pair[0], server))
    choose(page, "Bob")
    page.has_received("Bob", "number 2")
    page.driver.set_script_timeout(90)
    page.driver.execute_async_script("navigator.serviceWorker.ready.then(arguments[0])")
    server.process.kill()  # without warning
    server.process.wait()
    eventually(lambda: page.state != "online", what="the page has noticed")
    page.driver.refresh()
    page.has_received("Bob", "number 2")
    page.say("one")
    page.say("two")
    eventually(lambda: page.own == ["one", "two"], what="both are shown")
    waits = "Waits on this device, goes out when the network is back"
    eventually(lambda: page.texts(".pending-line") == ["Cancel", f"{waits}Cancel"], what="both wait")
    cancel = (
        "const found = document.querySelectorAll('.pending .link')[1]; found?.click(); return Boolean(found)"
    )
    eventually(lambda: page.run(cancel), what="a way to cancel the second")
    eventually(lambda: page.own == ["one"], what="one was cancelled")
    page.driver.refresh()
    eventually(lambda: page.own == ["one"], what="it waits after a reload, too")
    again = start_server(config=config, folder=server.folder)
    eventually(lambda: page.texts(".tick") == ["✓"], what="it is sent")
    other = bob.log_in(open_page(pair[1], again))
    choose(other, "Ann")
    other.has_received("Ann", "one")
    assert other.received == [("Ann", "one")]


@pytest.mark.full
def test_the_open_conversation_is_shown_again_after_a_backup_was_restored(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    pair.expects("WebSocket", "Failed to load resource", "ERR_CONNECTION_REFUSED", "Failed to fetch")
    config = {"accounts": {"registrations_per_address": 0}, "app": fixed_ports()}
    server = start_server(config=config)
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    history(server, bob, ann, 3)
    page = ann.log_in(open_page(pair[0], server))
    choose(page, "Bob")
    page.has_received("Bob", "number 2")
    server.stop()
    shutil.copytree(server.folder, tmp_path / "backup")
    server = start_server(config=config, folder=server.folder)
    eventually(lambda: page.state == "online", what="the page is back")
    send(page, "lost")
    eventually(lambda: page.texts(".tick") == ["✓"], what="it is stored")
    server.stop()
    again = start_server(config=config, folder=tmp_path / "backup")
    eventually(lambda: page.own == [], what="what the server has lost is gone")
    page.has_received("Bob", "number 0")
    history(again, bob, ann, 1)
    eventually(
        lambda: [text for _, text in page.received] == ["number 0", "number 1", "number 2", "number 0"],
        what="the conversation goes on",
    )


BROKEN_HISTORY = """
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (text) {
  if (window.isBroken && text.includes('"history"')) text = text.replace(/"limit":\\d+/, '"limit":"?"');
  send.call(this, text);
};
window.isBroken = true;
"""
"""While ``isBroken`` the server refuses requests for messages: their limit is no number."""


@pytest.mark.full
def test_messages_that_could_not_be_loaded_are_loaded_by_a_button(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    history(server, bob, ann, 2)
    page = ann.log_in(open_page(pair[0], server, script=BROKEN_HISTORY))
    choose(page, "Bob")
    eventually(lambda: page.shown("#empty-button"), what="a button to try again")
    errors = ["The messages could not be loaded", "The server does not accept this request"]
    assert page.texts("#empty-title, #empty-hint") == errors
    page.click("#empty-button")
    eventually(lambda: page.shown("#empty-button"), what="it has failed again")
    page.run("window.isBroken = false")
    page.click("#empty-button")
    page.has_received("Bob", "number 1")
    assert not page.shown("#empty")


@pytest.mark.full
def test_two_layers_that_close_at_once_leave_the_conversation_open(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    history(server, bob, ann, 1)
    page = ann.log_in(open_page(pair[0], server))
    choose(page, "Bob")
    page.has_received("Bob", "number 0")
    address = page.run("return location.hash")
    layers = (
        "const done = arguments[0];"
        "import('/static/messages/panel.js').then(async ({ openPanel, openDialog, navigate }) => {"
        "  const open = [openPanel, openDialog].map((each) => each('Title', document.createElement('p')));"
        "  for (const layer of open.reverse()) layer.close();"
        "  const hash = location.hash; await new Promise((end) => setTimeout(end, 500));"
        "  done([history.state?.layers ?? 0, location.hash]); })"
    )
    assert page.driver.execute_async_script(layers) == [0, address]
    assert page.texts("#conversation-name") == ["Bob"]


def use_tool(page: Page) -> list[str]:
    """Point at the first message, and click the last of its tools. Returns the lines of the menu that opens;
    none if the row was drawn anew.
    """
    x, y = page.run(
        "const { x, y, width, height } = document.querySelector('#log .bubble').getBoundingClientRect();"
        "return [x + width / 2, y + height / 2]"
    )
    for at in ((1, 1), (x, y)):
        page.command("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    return list(
        page.run(
            "document.querySelector('.tool:last-child')?.click();"
            "return [...document.querySelectorAll('.menu button')].map((each) => each.textContent)"
        )
    )


@pytest.mark.full
def test_messages_to_a_group_and_recalls(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    first = ann.log_in(open_page(pair[0], server))
    second = bob.log_in(open_page(pair[1], server))
    group = ann.post("groups/create", name="Tea", members=[bob.user])["group"]
    choose(first, "Tea")
    choose(second, "Tea")
    eventually(lambda: "Ann created the group “Tea”" in second.notices, what="the first entry")
    eventually(lambda: second.texts("#conversation-status") == ["2 members"], what="their number")
    ann.post("groups/invite", group=group, members=[cat.user])
    eventually(lambda: "Ann added Cat" in second.notices, what="the new member")
    eventually(lambda: second.texts("#conversation-status") == ["3 members"], what="their new number")
    second.find("#message").send_keys("@Ca")
    eventually(lambda: second.texts("#mentions bdi") == ["Cat"], what="the new member can be mentioned")
    second.find("#message").clear()
    send(first, "at five?")
    second.has_received("Ann", "at five?")
    label = "return document.querySelector('#log .tick')?.getAttribute('aria-label')"
    eventually(lambda: first.run(label) == "Read by 1 of 2", what="how many have read it")
    act(first, "at five?", "Who has read it")
    eventually(lambda: first.texts(".chooser .person-name bdi") == ["Bob"], what="who has read it")
    first.click("dialog[open] .close")
    lines = eventually(lambda: use_tool(second), what="the tools of the message under the pointer")
    assert "Reply" in lines
    assert not {"Delete for everyone", "Pin"} & set(lines)
    second.press(Keys.ESCAPE)
    act(first, "at five?", "Delete for everyone")
    first.click("dialog .danger")
    eventually(lambda: first.own == [], what="recalled on the own page")
    eventually(lambda: second.received == [], what="recalled on the other page")
    eventually(lambda: second.notices[-1:] == ["Ann deleted a message"], what="the recall")
    second.driver.refresh()
    eventually(lambda: second.state == "online", what="back again")
    eventually(lambda: "Ann deleted a message" in second.notices, what="the recall, in the same conversation")
    ann.post("groups/options", group=group, pin="member")
    eventually(lambda: "Ann lets all members pin messages" in second.notices, what="the new rule")
    send(first, "at six?")
    act(second, "at six?", "Pin")
    eventually(lambda: first.texts("#pinned-text") == ["Ann: at six?"], what="a member has pinned it")
    ann.post("groups/role", group=group, member=bob.user, role="admin")
    eventually(lambda: "You are now an admin" in second.notices, what="the own role")


@pytest.mark.full
def test_a_login_that_fails_or_has_ended_says_so(pair: Pair, server: Server) -> None:
    pair.expects("Failed to load resource", "401")
    ann = Account(server, "Ann")
    page = login_form(open_page(pair[0], server))
    page.find("#identifier").send_keys("13799999999")
    page.find("#password").send_keys(PASSWORD)
    page.click("#login-submit")
    eventually(lambda: page.texts("#login-note") == ["Wrong account or password"], what="the reason")
    for field in ("#identifier", "#password"):
        page.find(field).clear()
    ann.log_in(page)
    ann.post("accounts/logout")
    eventually(lambda: page.shown("#login-form"), what="the login form")
    eventually(lambda: page.texts("#login-note") == ["You are logged out"], what="the reason")
    assert page.run(SAVED_TOKEN) is None


@pytest.mark.full
def test_an_expired_tab_leaves_the_new_login_of_another_tab(pair: Pair, server: Server) -> None:
    pair.expects("401")  # of requests that were under way
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    page = ann.log_in(open_page(pair[0], server))
    login = {"token": bob.token, "user": bob.user, "nickname": "Bob"}
    page.run("localStorage.setItem('imserver:account:gochat', JSON.stringify(arguments[0]))", login)
    ann.post("accounts/logout")
    eventually(lambda: page.shown("#login-form"), what="the login form")
    assert page.run(SAVED_TOKEN) == bob.token


@pytest.mark.full
def test_the_page_shows_why_a_message_was_rejected_and_what_replaced_it(
    pair: Pair, start_server: StartServer
) -> None:
    with Receiver() as receiver:
        receiver.reply = rejecting
        hook = {"webhook": receiver.reviewing}
        server = start_server(config={"accounts": {"registrations_per_address": 0}, "apps": {"gochat": hook}})
        ann, bob = Account(server, "Ann"), Account(server, "Bob")
        page = ann.log_in(open_page(pair[0], server))
        start_conversation(page, bob.phone)
        page.say("buy now")
        eventually(lambda: page.texts(".reason") == ["Message rejected: No advertising"], what="the reason")
        assert page.own == ["buy now"]
        receiver.reply = replacing
        page.click(".pending .link")
        eventually(lambda: page.own == ["***"], what="what was stored instead")
        bob.log_in(other := open_page(pair[1], server))
        choose(other, "Ann")
        other.has_received("Ann", "***")


@pytest.mark.full
def test_a_phone_shows_the_list_or_the_conversation(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob" * 20)
    page = ann.log_in(open_page(pair[0], server, size=(320, 640), dark=True))
    eventually(lambda: page.shown("#conversations-note"), what="the empty list")
    assert not page.shown("#log")
    start_conversation(page, bob.phone)
    send(page, "wide " * 100 + "W" * 300)
    assert not page.shown("#new-conversation")
    page.fits()
    page.click("#back")
    eventually(lambda: page.shown("#new-conversation"), what="the list")
    page.fits()


@pytest.mark.full
def test_a_conversation_with_images_stays_at_its_end(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    message = {"app": "gochat", "targets": [{"user": bob.user}], "sender": ann.user, "store": True}
    for number in range(20):
        ann.post("push", **message, text=f"number {number}")
        ann.post("push", **message, type="picture", data={"url": f"/static/favicon.svg?{number}"})
    page = bob.log_in(open_page(pair[0], server, size=(390, 700)))
    choose(page, "Ann")
    page.click("#latest")  # the page opens at the first unread message, which is not the end
    images = "return [...document.querySelectorAll('#log img')].filter((each) => each.complete).length"
    eventually(lambda: page.run(images) == 20, what="the images")
    below = "const log = document.querySelector('#log');"
    below += "return log.scrollHeight - log.scrollTop - log.clientHeight"
    eventually(lambda: page.run(below) <= 1, what="the end of the conversation")
    assert page.run("return document.querySelector('#message').clientHeight") >= 24, "one row of text"
