"""Notifications of the messages page: the question, the settings, and the
worker, in real Chromium."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Browser, Page, unexpected
from tests.browser.messenger import APP, Account, Chat
from tests.browser.push import PushedBrowser
from tests.browser.screenshots import ANSWER, PHONES
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.integration.receiver import Receiver
from tests.support import Server, eventually

pytestmark = pytest.mark.full("browser")

QUESTION = "#notify-question"
FOUND = "#log .line.found .text"
ICON = "return document.querySelector('link[rel=icon]').getAttribute('href')"
SWITCH_OFF = """
const wishes = JSON.parse(localStorage.getItem(arguments[0])) ?? {};
wishes.device = { ...wishes.device, sound: false };
localStorage.setItem(arguments[0], JSON.stringify(wishes));
"""
HERE = "[data-key=notify-here]"


@pytest.fixture(scope="module")
def service() -> Iterator[Receiver]:
    with Receiver() as receiver:
        receiver.reply = lambda _: (201, b"")
        yield receiver


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(
        config={
            "accounts": {"registrations_per_address": 0},
            "notifications": {"allow_loopback": True},
            "apps": {APP: {"notify": {"after_seconds": 0, "again_seconds": 0}}},
        }
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One of its own: its permissions change."""
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.quit()


_names = count(1)


@pytest.fixture
def pushed(
    browser: Browser, server: Server, service: Receiver
) -> Iterator[PushedBrowser]:
    """The browser of a user who has not been asked yet; afterwards its console
    must be empty."""
    with PushedBrowser(browser, server, service, str(next(_names))) as pushed:
        pushed.allow("prompt")
        browser.open(f"{server.http_url}/none").run("localStorage.clear()")
        browser.complaints()
        yield pushed
        complaints = browser.complaints()
        browser.open("about:blank")
        assert not unexpected(complaints, "/none")


class People:
    """Two users, of whom Bob has written to Ann."""

    def __init__(self, server: Server) -> None:
        self.ann, self.bob = Account(server, "Ann"), Account(server, "Bob")
        self.bob.say(self.ann, "one", "two", "three")
        self.conversation = self.ann.newest

    def texts(self) -> list[str]:
        return [
            each["text"]
            for each in self.bob.history(self.conversation)
            if each["kind"] == "message"
        ]

    def unread(self) -> int:
        (listed,) = self.ann.get("conversations")["conversations"]
        return int(listed["unread"])

    def endpoints(self) -> list[dict[str, Any]]:
        return list(self.ann.get("notifications/endpoints")["endpoints"])


@pytest.fixture
def people(server: Server) -> People:
    return People(server)


def open_chat(pushed: PushedBrowser, people: People, **how: Any) -> Chat:
    chat = Chat(pushed.browser, people.ann, script=pushed.script, **how)
    chat.command("Page.bringToFront")
    chat.open(people.conversation)
    return chat


def click(page: Page, selector: str) -> None:
    """As a person: browsers ask at no other time. The page may draw the element
    again while it is found."""

    def was_clicked() -> bool:
        try:
            page.find(selector).click()
        except StaleElementReferenceException:
            return False
        return True

    page.sees(selector)
    eventually(was_clicked, what=f"a click on {selector}")


def answered(
    pushed: PushedBrowser, people: People, permission: str, button: str, **how: Any
) -> Chat:
    """The page of Ann, who is asked after her first message, and has pressed a
    button."""
    chat = open_chat(pushed, people, **how)
    assert not chat.shown(QUESTION)
    chat.say("hello")
    chat.sees(QUESTION)
    chat.fits()
    pushed.allow(permission)
    click(chat, f"{QUESTION} {button}")
    return chat


def turned_on(pushed: PushedBrowser, people: People) -> Chat:
    chat = answered(pushed, people, "granted", ".wide")
    eventually(people.endpoints, what="the server has the endpoint")
    chat.misses(QUESTION)
    return chat


def stays(condition: Callable[[], bool], what: str, seconds: float = 1) -> None:
    """It is so, and is still so later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(0.05)


def test_from_the_question_to_replies_with_the_page_closed(
    pushed: PushedBrowser, people: People
) -> None:
    turned_on(pushed, people)
    (endpoint,) = people.endpoints()
    assert endpoint["device"].startswith("Chrome, ")
    pushed.browser.open("about:blank")

    people.bob.say(people.ann, "are you there?")
    pushed.deliver(pushed.pushed(0))
    (notification,) = pushed.shown_as("are you there?")
    assert (notification["title"], notification["lang"]) == ("Bob", "en")
    assert notification["actions"] == [["reply", "Reply"], ["read", "Mark as read"]]
    assert pushed.click("reply", "on my way") == []
    eventually(lambda: people.texts()[-1] == "on my way", what="the reply is stored")
    assert people.unread() == 0
    pushed.shown_as()

    people.bob.say(people.ann, "good", "very good")
    pushed.deliver_text("very good")
    pushed.shown_as("very good")
    assert pushed.click("read") == []
    eventually(lambda: people.unread() == 0, what="it is read")

    options = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
    id = people.bob.post(
        "asks/create", to=people.ann.user, text="Deploy?", options=options
    )["id"]
    pushed.deliver_text("Deploy?")
    (notification,) = pushed.shown_as("Question: Deploy?")
    assert notification["actions"] == [["answer:yes", "Yes"], ["answer:no", "No"]]
    assert pushed.click("answer:no") == []
    pushed.shown_as("You answered: No")
    question = people.bob.post("asks/get", id=id)
    assert (question["state"], question["answers"][0]["value"]) == ("answered", "no")
    assert people.unread() == 0
    pushed.deliver_text('"kind":"close"')
    pushed.shown_as()

    people.bob.say(people.ann, "look")
    pushed.deliver_text("look")
    pushed.shown_as("look")
    (address,) = pushed.click()
    last = people.bob.id_of(people.conversation)
    assert address.endswith(f"/home/messages?lang=en#c/{people.conversation}/{last}")
    page = pushed.browser.open(address, script=pushed.script)
    page.has(FOUND, "look")
    assert page.run("return location.hash") == f"#c/{people.conversation}"
    eventually(lambda: people.unread() == 0, what="it is read")


def test_a_browser_that_says_no_is_explained(
    pushed: PushedBrowser, people: People
) -> None:
    chat = answered(pushed, people, "denied", ".wide")
    blocked = chat.word("messages_notify_blocked")
    chat.has(f"{QUESTION} p", blocked)
    click(chat, f"{QUESTION} .quiet")
    chat.misses(QUESTION)
    chat.click("#settings")
    chat.has(".notice-settings > .muted", blocked)
    assert people.endpoints() == []


def test_not_now_is_an_answer(pushed: PushedBrowser, people: People) -> None:
    chat = answered(pushed, people, "prompt", ".quiet", size=(320, 640))
    eventually(lambda: chat.focused == "message", what="the text box has the focus")
    chat.say("again")
    again = open_chat(pushed, people, size=(320, 640))
    again.say("and again")
    stays(lambda: not again.shown(QUESTION), what="nobody asks again")
    again.click("#notices-here")
    again.sees(".notice-level")
    again.fits()


def test_devices_and_wishes_are_set_in_the_settings(
    pushed: PushedBrowser, people: People
) -> None:
    pushed.allow()
    page = open_chat(pushed, people)
    page.click("#settings")
    click(page, HERE)
    eventually(lambda: len(people.endpoints()) == 1, what="this device")
    page.sees(".notice-settings .person-row .mark")
    page.click("[data-key=notify-test]")
    assert b'"kind":"test"' in pushed.pushed(0)
    click(page, "[data-key=notify-preview]")
    click(page, "[data-key=notify-quiet]")
    page.sees("[data-key=notify-begin]")
    page.run(
        "const time = document.querySelector('[data-key=notify-end]');"
        "time.value = '06:30'; time.dispatchEvent(new Event('change'))"
    )
    zone = page.run("return Intl.DateTimeFormat().resolvedOptions().timeZone")
    quiet = {"begin": "22:00", "end": "06:30", "zone": zone}
    eventually(
        lambda: people.ann.get("notifications/wishes")["quiet"] == quiet,
        what="the quiet hours",
    )
    assert people.ann.get("notifications/wishes")["preview"] is False
    click(page, HERE)
    eventually(lambda: people.endpoints() == [], what="this device is gone")
    page.gives("return document.activeElement.dataset.key", "notify-here")
    assert page.run("return localStorage.getItem('test:push')") is None


def test_phones_are_among_the_devices(pushed: PushedBrowser, people: People) -> None:
    """As the server lists them that has the plug-in for their push services."""
    chat = Chat(pushed.browser, people.ann, script=pushed.script)
    chat.run(ANSWER, "notifications/endpoints", {"endpoints": PHONES})
    chat.click("#settings")
    rows = ".notice-settings .person-row"
    chat.has(f"{rows} .person-name bdi", "Pixel 9", "Apple (APNs)", "Chrome")
    assert [each.partition("Since")[0] for each in chat.texts(f"{rows} small")] == [
        "Google (FCM) · ",
        "",
        "",
    ]


def test_a_conversation_is_muted(pushed: PushedBrowser, people: People) -> None:
    page = open_chat(pushed, people)
    page.click("#notices-here")
    click(page, "[data-key='level:nothing']")

    def wishes() -> list[tuple[str, int]]:
        found = people.ann.get("notifications/conversations")["conversations"]
        return [(each["level"], each["mute_until"]) for each in found]

    eventually(lambda: wishes() == [("nothing", 0)], what="nothing")
    page.sees(".quiet-mark .slash", "#notices-here .slash")
    click(page, "[data-key='level:all']")
    click(page, "[data-key='mute:168']")
    eventually(
        lambda: any(end > time.time() + 6 * 86_400 for _, end in wishes()),
        what="muted for a week",
    )
    click(page, "[data-key=unmute]")
    eventually(lambda: wishes() in ([], [("all", 0)]), what="not muted")
    page.misses(".quiet-mark")


def test_the_device_forgets_a_user_who_logs_out(
    pushed: PushedBrowser, people: People
) -> None:
    chat = turned_on(pushed, people)
    chat.click("#me", "#logout")
    eventually(lambda: people.endpoints() == [], what="the endpoint is gone")
    assert chat.run("return localStorage.getItem('test:push')") is None
    assert not [
        each
        for each in chat.run("return Object.keys(localStorage)")
        if ":rows:" in each
    ]


PRODUCT = {
    "index.html": """<!doctype html><link rel="icon" href="data:,">
<button id="on">on</button><output></output>
<script type="module" src="page.js"></script>""",
    "page.js": """
const { http, ws, user, token } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const { Messenger } = await import(`${http}/sdk/messenger.js`);
const sdk = await import(`${http}/sdk/notifications.js`);
const client = new Messenger({ url: ws, httpUrl: http, app: "gochat", user, token, cursor: null });
const options = { worker: `/worker.js?${encodeURIComponent(http)}`, page: "/?c={conversation}&m={id}" };
const output = document.querySelector("output");
output.textContent = await sdk.notificationState(client, options);
document.querySelector("#on").addEventListener("click", async () => {
  const act = output.textContent === "on" ? sdk.disableNotifications : sdk.enableNotifications;
  output.textContent = (await act(client, options)) ?? "off";
});
""",
    "worker.js": """
importScripts(`${decodeURIComponent(new URL(location).search.slice(1))}/sdk/notifications-worker.js`);
""",
}
"""A page of a product, with a server for messages at another origin."""


def test_a_page_elsewhere_has_notifications(
    pushed: PushedBrowser, people: People, tmp_path: Path
) -> None:
    for name, text in PRODUCT.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with serve_folder(tmp_path) as origin:
        pushed.origin = origin
        pushed.scope = f"{origin}/"
        pushed.allow()
        ann = people.ann
        server = people.ann.server
        options = {
            "http": server.http_url,
            "ws": server.ws_url,
            "user": ann.user,
            "token": ann.token,
        }
        address = f"{origin}/#{quote(json.dumps(options))}"
        page = pushed.browser.open(address, script=pushed.script)
        page.has("output", "off")
        click(page, "#on")
        page.has("output", "on")
        assert len(people.endpoints()) == 1
        page.driver.refresh()
        page.has("output", "on")
        pushed.browser.open("about:blank")
        people.bob.say(ann, "hello")
        pushed.deliver(pushed.pushed(0))
        pushed.shown_as("hello")
        assert pushed.click("reply", "hi") == []
        eventually(lambda: people.texts()[-1] == "hi", what="the reply is stored")
        people.bob.say(ann, "bye")
        pushed.deliver_text("bye")
        pushed.shown_as("bye")
        last = people.bob.id_of(people.conversation)
        assert pushed.click() == [f"{origin}/?c={people.conversation}&m={last}"]
        page = pushed.browser.open(address, script=pushed.script)
        page.has("output", "on")
        click(page, "#on")
        page.has("output", "off")
        eventually(lambda: people.endpoints() == [], what="the server forgets it")


SOUNDS = """
window.sounds = 0;
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (...when) { window.sounds += 1; return start.apply(this, when); };
"""


def test_a_message_of_another_conversation_makes_a_sound_that_can_be_switched_off(
    pushed: PushedBrowser, people: People
) -> None:
    pushed.script += SOUNDS
    page = open_chat(pushed, people)
    click(page, "#log")
    people.bob.say(people.ann, "here")
    eventually(lambda: "here" in page.messages, what="it is shown")
    cat = Account(people.ann.server, "Cat")
    cat.say(people.ann, "there")
    page.gives("return window.sounds", 2)  # the two notes
    page.gives(ICON, "/static/icons/unread-1.svg")
    page.run(SWITCH_OFF, f"imserver:wishes:{APP}:{people.ann.user}")
    silent = open_chat(pushed, people)
    click(silent, "#log")
    silent.click("#message")
    silent.press(Keys.ESCAPE)
    silent.misses("#composer")
    cat.say(people.ann, "and again")
    silent.has_some("#conversations .preview", "and again")
    stays(lambda: silent.run("return window.sounds") == 0, what="no sound")
