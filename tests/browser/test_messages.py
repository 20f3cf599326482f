"""The page of stored messages, in real browsers."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Pair
from tests.browser.messenger import STATE, Account, Chat, fill, login_form, open_page
from tests.conftest import StartServer
from tests.integration.gochat import fresh_phone
from tests.integration.receiver import Receiver, rejecting, replacing
from tests.ports import fixed_ports
from tests.support import Server, eventually
from tests.users import PASSWORD

HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}&amp;"
)
NAMES = "#conversations .conversation b"
STATUS = """
const status = document.querySelector("#conversation-status");
window.statuses = [];
new MutationObserver(() => window.statuses.push(status.textContent)).observe(status, { childList: true });
"""
"""Remember what the head of the conversation says: the typing notice goes by
itself."""
SAVED_TOKEN = (
    "return JSON.parse(localStorage.getItem('imserver:account:gochat'))?.token"
)
CHOSEN = "return document.activeElement.querySelector('.text')?.textContent"
END = """
const latest = document.querySelector("#latest");
const last = [...document.querySelectorAll("#log .text")].at(-1)?.textContent;
if (latest.hidden && last === arguments[0]) return true;
latest.click();
return false;
"""
BROKEN_HISTORY = """
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (text) {
  if (window.isBroken && text.includes('"history"')) text = text.replace(/"limit":\\d+/, '"limit":"?"');
  send.call(this, text);
};
window.isBroken = true;
"""
"""While ``isBroken`` the server refuses requests for messages: their limit is
no number."""
LAYERS = """
const { openPanel, openDialog } = await import("/static/messages/parts/panel.js");
const open = [openPanel, openDialog].map((each) => each("Title", document.createElement("p")));
for (const layer of open.reverse()) layer.close();
const { hash } = location;
await new Promise((end) => setTimeout(end, 500));
return [history.state?.layers ?? 0, location.hash];
"""
LOADED = """
const loaded = performance.getEntriesByType("resource").filter((each) => each.transferSize);
return [...loaded, ...performance.getEntriesByType("navigation").filter((each) => each.transferSize)]
  .map((each) => new URL(each.name).pathname).sort();
"""
BROKEN_LINE = (
    "WebSocket",
    "Failed to load resource",
    "ERR_CONNECTION_REFUSED",
    "Failed to fetch",
)


def write_to_stranger(page: Chat, phone: str) -> None:
    """Find a user by their phone number, and open the conversation with
    them."""
    page.click("#new-conversation")
    page.write("#find-text", phone + Keys.ENTER)
    page.click("[data-key=message]")
    page.misses("dialog")
    page.sees("#composer")


def numbers(of: Account, to: Account, count: int) -> None:
    of.say(to, *(f"number {number}" for number in range(count)))


def use_tool(page: Chat) -> list[str]:
    """Point at the first message, and click the last of its tools. Returns the
    lines of the menu that opens; none if the row was drawn anew.
    """
    x, y = page.run(
        "const { x, y, width, height } = document.querySelector('#log .bubble').getBoundingClientRect();"
        "return [x + width / 2, y + height / 2]"
    )
    for at in ((1, 1), (x, y)):
        page.command("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    page.run("document.querySelector('.tool:last-child')?.click()")
    return page.texts(".menu button")


def test_two_users_register_and_exchange_messages(pair: Pair, server: Server) -> None:
    bob = Account(server, "Bob")
    page = login_form(open_page(pair[0], server))
    page.click("#login-switch")
    fill(page, identifier=fresh_phone(), password=PASSWORD, nickname="Ann")
    page.gives(STATE, "online")
    eventually(lambda: page.name == "Ann", what="the own name")
    login = page.run(
        "return JSON.parse(localStorage.getItem('imserver:account:gochat'))"
    )
    first = Chat(pair[0], Account(server, "Ann", login))
    write_to_stranger(first, bob.phone)
    first.say(HOSTILE)
    bob.log_in(open_page(pair[1], server, "zh"))
    second = Chat(pair[1], bob)
    second.has(NAMES, "Ann")
    second.has(".conversation .count", "1")
    eventually(lambda: "(1)" in second.driver.title, what="the title says it, too")
    second.choose("Ann")
    second.has_received("Ann", HOSTILE)
    second.has(".conversation .count")
    first.has(".tick", "✓✓")
    first.run(STATUS)
    second.write("#message", "我")
    eventually(
        lambda: "Bob is typing…" in first.run("return window.statuses"),
        what="the typing notice",
    )
    second.say("也在")
    first.has_received("Bob", "我也在")
    first.gives(
        "return document.querySelector('#conversation-status').textContent.includes('typing')",
        False,
    )
    for each in (first, second):
        assert each.run("return window.pwned") is None
        days = each.texts("#log .divider.day")  # two at midnight
        assert 1 <= len(days) == len(set(days)), "each date once"


@pytest.mark.full("browser")
def test_older_conversations_are_counted_and_found(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    ann.say(ann.create_group("Oldest"), "a needle")
    numbers(bob, ann, 3)
    for number in range(54):
        ann.create_group(f"Group {number}")
    page = Chat(pair[0], ann)
    eventually(
        lambda: "(3)" in page.driver.title,
        what="the unread messages of one that is not shown",
    )
    page.write("#search", "group 1")
    page.has("#hits .link", "More conversations")  # there are more than five
    page.click("#hits .link")
    assert len(page.texts("#hits .hit b")) == 15  # with a 1 somewhere in the number
    assert page.focused.startswith("Group 1")
    page.press(Keys.ESCAPE)
    end = "const list = document.querySelector('nav.conversations'); list.scrollTop = list.scrollHeight"
    eventually(
        lambda: page.run(end) or page.texts(NAMES)[-2:] == ["Bob", "Oldest"],
        what="the end",
    )
    page.write("#search", "needle")
    page.click("#hits .hit")
    page.gives(CHOSEN, "a needle")


@pytest.mark.full("browser")
def test_reactions_pins_replies_edits_and_forwards_reach_the_other_page(
    pair: Pair, server: Server
) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    numbers(ann, bob, 120)
    first = Chat(pair[0], ann)
    second = Chat(pair[1], bob)
    for page, name in ((first, "Bob"), (second, "Ann")):
        page.choose(name)
        page.gives(END, True, "number 119")
    first.say("who *brings* `tea`? https://tea.example/x.")
    question = "who brings tea? https://tea.example/x."
    second.has_received("Ann", question)
    link = second.run(
        "const { href, rel } = document.querySelector('#log .bubble a'); return [href, rel]"
    )
    assert link == ["https://tea.example/x", "noopener noreferrer nofollow"]
    second.menu(question, "👍")
    first.has(".reaction", "👍1")
    first.click(".reaction")
    second.has(".reaction", "👍2")
    second.click(".reaction")
    first.has(".reaction", "👍1")
    first.act(question, "messages_pin")
    second.has("#pinned-text", f"Ann: {question}")

    second.act(question, "messages_reply")
    second.say("me")
    first.has(".quote b", "You")
    first.write("#message", Keys.UP)  # edits the last own message
    first.find("#message").clear()
    first.say("who brings cake?")
    second.has_received("Ann", "who brings cake?")
    assert second.texts(".edited") == ["edited"]
    second.act("number 119", "messages_reply")
    second.say("the last number")
    cat.say(ann, "hello")
    first.act("the last number", "messages_forward")
    first.pick(".picker .pick", "Cat")
    first.click(".picker > .wide")
    first.has("#conversation-name", "Cat")
    first.has(".forwarded", "Forwarded from Bob")
    first.choose("Bob")
    first.run("document.querySelector('#log').scrollTop = 0")
    first.write("#search", "the last")
    eventually(
        lambda: len(first.texts("#hits .hit")) == 2,
        what="the message and the one that was forwarded",
    )
    first.run("document.querySelectorAll('#hits .hit')[1].click()")
    eventually(
        lambda: "the last" in str(first.run(CHOSEN)), what="the hit has the focus"
    )


@pytest.mark.full("browser")
def test_without_a_server_one_reads_and_writes_and_it_is_sent_once_later(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects(*BROKEN_LINE)
    config = {"accounts": {"registrations_per_address": 0}, "app": fixed_ports()}
    server = start_server(config=config)
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    numbers(bob, ann, 3)
    page = Chat(pair[0], ann)
    page.choose("Bob")
    page.has_received("Bob", "number 2")
    page.awaited("await navigator.serviceWorker.ready")
    server.process.kill()  # without warning
    server.process.wait()
    eventually(lambda: page.state != "online", what="the page has noticed")
    page.driver.refresh()
    page.has_received("Bob", "number 2")
    page.say("one")
    waits = "Waits on this device, goes out when the network is back"
    page.has(".pending-line", f"{waits}Cancel")
    page.driver.refresh()
    eventually(lambda: page.own == ["one"], what="it waits after a reload, too")
    start_server(config=config, folder=server.folder)
    page.has(".tick", "✓")
    other = Chat(pair[1], bob)
    other.choose("Ann")
    other.has_received("Ann", "one")
    assert other.received == [("Ann", "one")]


@pytest.mark.full("browser")
def test_messages_that_could_not_be_loaded_are_loaded_by_a_button(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    numbers(bob, ann, 2)
    page = Chat(pair[0], ann, script=BROKEN_HISTORY)
    page.choose("Bob")
    page.sees("#empty-button")
    errors = [
        "The messages could not be loaded",
        "The server does not accept this request",
    ]
    assert page.texts("#empty-title, #empty-hint") == errors
    page.click("#empty-button")
    page.sees("#empty-button")
    page.run("window.isBroken = false")
    page.click("#empty-button")
    page.has_received("Bob", "number 1")
    assert not page.shown("#empty")
    assert page.awaited(LAYERS) == [0, page.run("return location.hash")]
    assert page.texts("#conversation-name") == ["Bob"], (
        "two layers that close at once leave it open"
    )


@pytest.mark.full("browser")
def test_messages_to_a_group_and_recalls(pair: Pair, server: Server) -> None:
    ann, bob, cat = (Account(server, name) for name in ("Ann", "Bob", "Cat"))
    first = Chat(pair[0], ann)
    second = Chat(pair[1], bob)
    group = str(ann.create_group("Tea", bob))
    first.choose("Tea")
    second.choose("Tea")
    second.has_notice("Ann created the group “Tea”")
    second.has("#conversation-status", "2 members")
    ann.post("groups/invite", group=group, members=[cat.user])
    second.has_notice("Ann added Cat")
    second.has("#conversation-status", "3 members")
    second.write("#message", "@Ca")
    second.has("#mentions bdi", "Cat")  # the new member can be mentioned
    second.find("#message").clear()
    first.say("at five?")
    second.has_received("Ann", "at five?")
    first.gives(
        "return document.querySelector('#log .tick')?.ariaLabel", "Read by 1 of 2"
    )
    first.menu("at five?", "Who has read it")
    first.has(".chooser .person-name bdi", "Bob")
    first.click("dialog[open] .close")
    lines = eventually(
        lambda: use_tool(second), what="the tools of the message under the pointer"
    )
    assert "Reply" in lines
    assert not {"Delete for everyone", "Pin"} & set(lines)
    second.press(Keys.ESCAPE)
    first.act("at five?", "messages_recall")
    first.click("dialog .danger")
    eventually(
        lambda: first.own == second.received == [], what="recalled on both pages"
    )
    second.has_notice("Ann deleted a message")
    second.reload()
    second.has_notice("Ann deleted a message")
    ann.post("groups/options", group=group, pin="member")
    second.has_notice("Ann lets all members pin messages")
    first.say("at six?")
    second.act("at six?", "messages_pin")
    first.has("#pinned-text", "Ann: at six?")
    ann.post("groups/role", group=group, member=bob.user, role="admin")
    second.has_notice("You are now an admin")


@pytest.mark.full("browser")
def test_a_login_that_fails_or_has_ended_says_so(pair: Pair, server: Server) -> None:
    pair.expects("Failed to load resource", "401")
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    page = login_form(open_page(pair[0], server))
    fill(page, identifier="13799999999", password=PASSWORD)
    page.has("#login-note", "Wrong account or password")
    ann.log_in(page)
    ann.post("accounts/logout")
    page.has("#login-note", "You are logged out")
    page.sees("#login-form")
    assert page.run(SAVED_TOKEN) is None
    bob.log_in(page)
    login = {"token": "of another tab", "user": ann.user, "nickname": "Ann"}
    page.run(
        "localStorage.setItem('imserver:account:gochat', JSON.stringify(arguments[0]))",
        login,
    )
    bob.post("accounts/logout")
    page.sees("#login-form")
    assert page.run(SAVED_TOKEN) == "of another tab"


@pytest.mark.full("browser")
def test_the_page_shows_why_a_message_was_rejected_and_what_replaced_it(
    pair: Pair, start_server: StartServer
) -> None:
    with Receiver() as receiver:
        receiver.reply = rejecting
        hook = {"webhook": receiver.reviewing}
        server = start_server(
            config={
                "accounts": {"registrations_per_address": 0},
                "apps": {"gochat": hook},
            }
        )
        ann = Account(server, "Ann")
        bob = Account(server, "Bob")
        page = Chat(pair[0], ann)
        page.go(f"#u/{bob.user}")
        page.say("buy now")
        page.has(".reason", "Message rejected: No advertising")
        assert page.own == ["buy now"]
        receiver.reply = replacing
        page.click(".pending .link")
        eventually(lambda: page.own == ["***"], what="what was stored instead")
        other = Chat(pair[1], bob)
        other.choose("Ann")
        other.has_received("Ann", "***")


@pytest.mark.full("browser")
def test_a_conversation_with_images_stays_at_its_end(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    for number in range(20):
        ann.say(bob, f"number {number}")
        ann.send(bob, "picture", {"url": f"/static/favicon.svg?{number}"})
    page = Chat(pair[0], bob, size=(390, 700))
    page.choose("Ann")
    page.has(".divider.unread", "New messages")
    # the page opens at the first unread message, which is not the end
    page.click("#latest")
    images = "return [...document.querySelectorAll('#log img')].filter((each) => each.complete).length"
    page.gives(images, 20)
    below = "const log = document.querySelector('#log');"
    page.gives(
        f"{below} return log.scrollHeight - log.scrollTop - log.clientHeight <= 1", True
    )
    assert page.run("return document.querySelector('#message').clientHeight") >= 24, (
        "one row of text"
    )


@pytest.mark.full("browser")
def test_a_reload_asks_for_nothing_but_the_worker_the_websocket_cards_and_wishes(
    pair: Pair, server: Server
) -> None:
    """Browsers show neither the worker nor the WebSocket among these."""
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.say(ann, "hello")
    page = Chat(pair[0], ann)
    page.gives("return Boolean(navigator.serviceWorker.controller)", True)
    page.reload()
    page.has("#conversations b bdi", "Bob")
    page.gives(
        LOADED, ["/api/v1/accounts/cards", "/api/v1/notifications/conversations"]
    )
