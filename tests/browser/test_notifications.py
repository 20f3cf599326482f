"""Notifications of the messages page: the question, the settings, and the worker, in real Chromium."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Browser, Page, unexpected
from tests.browser.messenger import APP, Account, Chat
from tests.browser.push import PushedBrowser
from tests.browser.site import serve_folder
from tests.conftest import StartServer
from tests.integration.receiver import Receiver
from tests.support import Server, eventually

pytestmark = pytest.mark.full

QUESTION = "#notify-question"
FOUND = "#log .line.found .text"
"""The message that was opened."""
KEY = "return document.activeElement.dataset.key"
ICON = "return document.querySelector('link[rel=icon]').getAttribute('href')"
SWITCH_OFF = """
const wishes = JSON.parse(localStorage.getItem(arguments[0])) ?? {};
wishes.device = { ...wishes.device, sound: false };
localStorage.setItem(arguments[0], JSON.stringify(wishes));
"""
HERE = "[data-key=notify-here]"


@pytest.fixture(scope="module")
def service() -> Iterator[Receiver]:
    """The push service."""
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
def pushed(browser: Browser, server: Server, service: Receiver) -> Iterator[PushedBrowser]:
    """The browser of a user who has not been asked yet; afterwards its console must be empty."""
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
        (listed,) = self.ann.get("conversations")["conversations"]
        self.conversation = int(listed["conversation"])

    def texts(self) -> list[str]:
        return [each["text"] for each in self.bob.history(self.conversation) if each["kind"] == "message"]

    def unread(self) -> int:
        (listed,) = self.ann.get("conversations")["conversations"]
        return int(listed["unread"])


@pytest.fixture
def people(server: Server) -> People:
    return People(server)


def open_chat(pushed: PushedBrowser, account: Account, **how: Any) -> Chat:
    chat = Chat(pushed.browser, account, script=pushed.script, **how)
    chat.page.command("Page.bringToFront")
    return chat


def click(page: Page, selector: str) -> None:
    """As a person: browsers ask at no other time."""
    eventually(lambda: page.shown(selector), what=selector)
    page.driver.find_element(By.CSS_SELECTOR, selector).click()


def close_page(pushed: PushedBrowser) -> None:
    pushed.browser.open("about:blank")


def turned_on(pushed: PushedBrowser, people: People) -> Chat:
    """The page of Ann, who has agreed after her first message."""
    chat = open_chat(pushed, people.ann)
    chat.open(people.conversation)
    assert not chat.page.shown(QUESTION)
    chat.say("hello")
    eventually(lambda: chat.page.shown(QUESTION), what="the page asks after the first message")
    pushed.allow()
    click(chat.page, f"{QUESTION} .wide")
    eventually(lambda: endpoints(people), what="the server has the endpoint")
    eventually(lambda: not chat.page.shown(QUESTION), what="the question is gone")
    return chat


def stays(condition: Callable[[], bool], what: str, seconds: float = 1) -> None:
    """It is so, and is still so later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(0.05)


def endpoints(people: People) -> list[dict[str, Any]]:
    return list(people.ann.get("notifications/endpoints")["endpoints"])


def shown_as(pushed: PushedBrowser, *texts: str) -> None:
    """The notifications, whatever the worker still does."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [each["body"] for each in pushed.shown()]
        return found == list(texts)

    try:
        eventually(look, seconds=20)
    except AssertionError:
        raise AssertionError(f"notifications {found} instead of {list(texts)}") from None


def test_from_the_question_to_a_reply_with_the_page_closed(pushed: PushedBrowser, people: People) -> None:
    turned_on(pushed, people)
    (endpoint,) = endpoints(people)
    assert endpoint["device"].startswith("Chrome, ")
    close_page(pushed)

    people.bob.say(people.ann, "are you there?")
    pushed.deliver(pushed.pushed(0))
    shown_as(pushed, "are you there?")
    (notification,) = pushed.shown()
    assert (notification["title"], notification["lang"]) == ("Bob", "en")
    assert notification["actions"] == [["reply", "Reply"], ["read", "Mark as read"]]
    assert pushed.click("reply", "on my way") == []
    eventually(lambda: people.texts()[-1] == "on my way", what="the reply is stored")
    assert people.unread() == 0
    assert pushed.shown() == []

    people.bob.say(people.ann, "good", "very good")
    pushed.deliver(eventually(lambda: pushed.with_text("very good"), what="the last push"))
    shown_as(pushed, "very good")
    assert pushed.click("read") == []
    eventually(lambda: people.unread() == 0, what="it is read")

    people.bob.say(people.ann, "look")
    pushed.deliver(eventually(lambda: pushed.with_text("look"), what="the last push"))
    shown_as(pushed, "look")
    (address,) = pushed.click()
    last = people.bob.history(people.conversation)[-1]["id"]
    assert address.endswith(f"/home/messages?lang=en#c/{people.conversation}/{last}")
    page = pushed.browser.open(address, script=pushed.script)
    eventually(lambda: page.texts(FOUND) == ["look"], what="the message is shown")
    assert page.run("return location.hash") == f"#c/{people.conversation}"
    eventually(lambda: people.unread() == 0, what="it is read")


def test_a_question_is_answered_with_the_page_closed_and_its_notification_goes(
    pushed: PushedBrowser, people: People
) -> None:
    turned_on(pushed, people)
    close_page(pushed)
    options = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
    id = people.bob.post("asks/create", app=APP, to=people.ann.user, text="Deploy?", options=options)["id"]
    pushed.deliver(pushed.pushed(0))
    shown_as(pushed, "Question: Deploy?")
    assert pushed.shown()[0]["actions"] == [["answer:yes", "Yes"], ["answer:no", "No"]]
    assert pushed.click("answer:no") == []
    shown_as(pushed, "You answered: No")
    question = people.bob.post("asks/get", app=APP, id=id)
    assert (question["state"], question["answers"][0]["value"]) == ("answered", "no")
    assert people.unread() == 0
    pushed.deliver(eventually(lambda: pushed.with_text('"kind":"close"'), what="the notification goes"))
    shown_as(pushed)


def test_a_browser_that_says_no_is_explained(pushed: PushedBrowser, people: People) -> None:
    chat = open_chat(pushed, people.ann)
    chat.open(people.conversation)
    chat.say("hello")
    eventually(lambda: chat.page.shown(QUESTION), what="the page asks")
    pushed.allow("denied")
    click(chat.page, f"{QUESTION} .wide")
    blocked = chat.word("messages_notify_blocked")
    eventually(lambda: chat.page.texts(f"{QUESTION} p") == [blocked], what="why not")
    click(chat.page, f"{QUESTION} .quiet")
    eventually(lambda: not chat.page.shown(QUESTION), what="the explanation is gone")
    chat.page.click("#settings")
    eventually(lambda: chat.page.texts(".notice-settings > .muted") == [blocked], what="the settings say it")
    assert endpoints(people) == []


def test_not_now_is_an_answer(pushed: PushedBrowser, people: People) -> None:
    chat = open_chat(pushed, people.ann, size=(320, 640))
    chat.open(people.conversation)
    chat.say("hello")
    eventually(lambda: chat.page.shown(QUESTION), what="the page asks")
    chat.page.fits()
    click(chat.page, f"{QUESTION} .quiet")
    eventually(lambda: chat.page.focused == "message", what="the text box has the focus")
    chat.say("again")
    again = open_chat(pushed, people.ann, size=(320, 640))
    again.open(people.conversation)
    again.say("and again")
    stays(lambda: not again.page.shown(QUESTION), what="nobody asks again")
    again.page.click("#notices-here")
    eventually(lambda: again.page.shown(".notice-level"), what="the levels")
    again.page.fits()


def test_devices_and_wishes_are_set_in_the_settings(pushed: PushedBrowser, people: People) -> None:
    pushed.allow()
    chat = open_chat(pushed, people.ann)
    page = chat.page
    page.click("#settings")
    click(page, HERE)
    eventually(lambda: len(endpoints(people)) == 1, what="this device")
    eventually(lambda: page.shown(".notice-settings .person-row .mark"), what="it is in the list")
    page.click("[data-key=notify-test]")
    assert b'"kind":"test"' in pushed.pushed(0)
    click(page, "[data-key=notify-preview]")
    click(page, "[data-key=notify-quiet]")
    eventually(lambda: page.shown("[data-key=notify-begin]"), what="the hours")
    page.run(
        "const time = document.querySelector('[data-key=notify-end]');"
        "time.value = '06:30'; time.dispatchEvent(new Event('change'))"
    )
    zone = page.run("return Intl.DateTimeFormat().resolvedOptions().timeZone")
    quiet = {"begin": "22:00", "end": "06:30", "zone": zone}
    eventually(lambda: people.ann.get("notifications/wishes")["quiet"] == quiet, what="the quiet hours")
    assert people.ann.get("notifications/wishes")["preview"] is False
    click(page, HERE)
    eventually(lambda: endpoints(people) == [], what="this device is gone")
    eventually(lambda: page.run(KEY) == "notify-here", what="the focus stays")
    assert page.run("return localStorage.getItem('test:push')") is None


PHONES = [
    {"id": 1, "host": "apns/gochat", "device": "iPhone", "language": "en", "enabled": True, "created": 0},
    {"id": 2, "host": "fcm/gochat", "device": "", "language": "en", "enabled": True, "created": 0},
]
WITH_PHONES = f"""
const ask = window.fetch;
window.fetch = async (address, options) => {{
  const {{ pathname }} = new URL(address, location);
  const isList = pathname.endsWith("/notifications/endpoints") && options?.method !== "POST";
  return isList ? Response.json({{ endpoints: {json.dumps(PHONES)} }}) : ask(address, options);
}};
"""


def test_phones_are_among_the_devices(pushed: PushedBrowser, people: People) -> None:
    """As the server lists them that has the plug-in for their push services."""
    chat = Chat(pushed.browser, people.ann, script=pushed.script + WITH_PHONES)
    page = chat.page
    page.click("#settings")
    rows = ".notice-settings .person-row"
    eventually(lambda: len(page.texts(rows)) == 2, what="the phones")
    assert page.texts(f"{rows} .person-name") == ["iPhone", "Google (FCM)"]
    (apple, google) = page.texts(f"{rows} small")
    assert apple.startswith("Apple (APNs) · Since")
    assert google.startswith("Since")


def test_a_conversation_is_muted(pushed: PushedBrowser, people: People) -> None:
    chat = open_chat(pushed, people.ann)
    page = chat.page
    chat.open(people.conversation)
    page.click("#notices-here")
    click(page, "[data-key='level:nothing']")

    def wishes() -> list[tuple[str, int]]:
        found = people.ann.get("notifications/conversations")["conversations"]
        return [(each["level"], each["mute_until"]) for each in found]

    eventually(lambda: wishes() == [("nothing", 0)], what="nothing")
    eventually(lambda: page.shown(".quiet-mark .slash"), what="the list has a mark")
    eventually(lambda: page.shown("#notices-here .slash"), what="the head, too")
    click(page, "[data-key='level:all']")
    click(page, "[data-key='mute:168']")
    eventually(lambda: any(end > time.time() + 6 * 86_400 for _, end in wishes()), what="muted for a week")
    click(page, "[data-key=unmute]")
    eventually(lambda: wishes() in ([], [("all", 0)]), what="not muted")
    eventually(lambda: not page.shown(".quiet-mark"), what="the mark is gone")


def test_the_device_forgets_a_user_who_logs_out(pushed: PushedBrowser, people: People) -> None:
    chat = turned_on(pushed, people)
    chat.page.click("#me")
    chat.page.click("#logout")
    eventually(lambda: endpoints(people) == [], what="the endpoint is gone")
    assert chat.page.run("return localStorage.getItem('test:push')") is None
    assert not [each for each in chat.page.run("return Object.keys(localStorage)") if ":rows:" in each]


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


def test_a_page_of_another_origin_has_notifications(
    pushed: PushedBrowser, people: People, tmp_path: Path
) -> None:
    for name, text in PRODUCT.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with serve_folder(tmp_path) as origin:
        pushed.origin, pushed.scope = origin, f"{origin}/"
        pushed.allow()
        ann, server = people.ann, people.ann.server
        options = {"http": server.http_url, "ws": server.ws_url, "user": ann.user, "token": ann.token}
        page = pushed.browser.open(f"{origin}/#{quote(json.dumps(options))}", script=pushed.script)
        eventually(lambda: page.texts("output") == ["off"], what="off")
        click(page, "#on")
        eventually(lambda: page.texts("output") == ["on"], what="on")
        assert len(endpoints(people)) == 1
        page.driver.refresh()
        eventually(lambda: page.texts("output") == ["on"], what="still on")
        close_page(pushed)
        people.bob.say(ann, "hello")
        pushed.deliver(pushed.pushed(0))
        shown_as(pushed, "hello")
        assert pushed.click("reply", "hi") == []
        eventually(lambda: people.texts()[-1] == "hi", what="the reply is stored")
        people.bob.say(ann, "bye")
        pushed.deliver(eventually(lambda: pushed.with_text("bye"), what="the last push"))
        shown_as(pushed, "bye")
        last = people.bob.history(people.conversation)[-1]["id"]
        assert pushed.click() == [f"{origin}/?c={people.conversation}&m={last}"]
        page = pushed.browser.open(f"{origin}/#{quote(json.dumps(options))}", script=pushed.script)
        eventually(lambda: page.texts("output") == ["on"], what="on")
        click(page, "#on")
        eventually(lambda: page.texts("output") == ["off"], what="off")
        eventually(lambda: endpoints(people) == [], what="the server forgets it")


SOUNDS = """
window.sounds = 0;
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (...when) { window.sounds += 1; return start.apply(this, when); };
"""


def test_a_message_of_another_conversation_makes_a_sound_that_can_be_switched_off(
    pushed: PushedBrowser, people: People
) -> None:
    pushed.script += SOUNDS
    chat = open_chat(pushed, people.ann)
    page = chat.page
    chat.open(people.conversation)
    click(page, "#log")
    people.bob.say(people.ann, "here")
    eventually(lambda: "here" in chat.texts, what="it is shown")
    cat = Account(people.ann.server, "Cat")
    cat.say(people.ann, "there")
    eventually(lambda: page.run("return window.sounds") == 2, what="the two notes")
    eventually(lambda: page.run(ICON) == "/static/icons/unread-1.svg", what="the count on the icon")
    page.run(SWITCH_OFF, f"imserver:wishes:{APP}:{people.ann.user}")
    silent = open_chat(pushed, people.ann)
    silent.open(people.conversation)
    click(silent.page, "#log")
    silent.page.click("#message")
    silent.page.press(Keys.ESCAPE)
    eventually(lambda: not silent.page.shown("#composer"), what="the list")
    cat.say(people.ann, "and again")
    eventually(
        lambda: "and again" in "".join(silent.page.texts("#conversations .preview")), what="it is listed"
    )
    stays(lambda: silent.page.run("return window.sounds") == 0, what="no sound")
