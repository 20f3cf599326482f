"""The admin page in a real browser: what those who answer for a server mend, in
how many clicks."""

import json
import sqlite3
from contextlib import closing, suppress
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.keys import Keys
from websockets.sync.client import connect

from tests.browser.chromium import Page
from tests.browser.conftest import Pair
from tests.browser.messenger import NAMED
from tests.browser.test_accessibility import LOOKS, violations
from tests.conftest import StartServer
from tests.integration.receiver import SECRET, Receiver
from tests.integration.v1 import good, refused
from tests.support import Server, eventually, with_constants
from tests.users import NamedUser

pytestmark = pytest.mark.full("browser")

KEY = "an-admin-key-of-this-test"
OF_SHOP = "an-admin-key-of-the-shop"
PASSWORD = "correct horse"
CONFIG: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": KEY, "scopes": ["admin"]},
            {"key": OF_SHOP, "scopes": ["admin"], "apps": ["shop"]},
        ]
    },
    "accounts": {"registration": True, "registrations_per_address": 0},
    "apps": {
        "gochat": {
            "account_tokens": "required",
            "accounts": {"identifiers": ["name", "email"]},
        },
        "shop": {"open": True},
    },
}


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(config=CONFIG)


class Admin(Page):
    """The page, and the taps that were needed. Typing is no tap."""

    taps = 0

    def look_up(self, text: str, label: str) -> None:
        self.run("document.activeElement.blur()")
        self.press("/")
        eventually(lambda: self.focused == "find", what="the box has the focus")
        self.press(text)
        self.tap(label, "link", ".hits")

    def tap(self, label: str, role: str = "button", within: str = "") -> None:
        """Click what a screen reader calls so, as soon as it is there."""
        script = NAMED.replace("=== name", ".startsWith(name)")

        def act() -> bool:
            # it was drawn anew meanwhile
            with suppress(StaleElementReferenceException):
                found = self.run(script, role, label, within or None)
                if found is not None and found.is_enabled():
                    self.run("arguments[0].click()", found)
                    return True
            return False

        eventually(act, what=f"{role} {label!r} is there, and clicked")
        self.taps += 1

    def shows(self, text: str, selector: str = "main.place") -> None:
        self.has_some(selector, text)

    def section(self, name: str) -> None:
        self.tap(name, "link", ".sections")


def opened(
    pair: Pair, server: Server, *, key: str = KEY, language: str = "en", **options: Any
) -> Admin:
    page = Admin(
        pair[0].open(f"{server.http_url}/admin?lang={language}", **options).driver
    )
    if key:
        page.write("#field-key", key + Keys.ENTER)
    page.sees("#sections a")
    return page


def register(server: Server, name: str, nickname: str = "") -> str:
    registration = {
        "app": "gochat",
        "name": name,
        "password": PASSWORD,
        "nickname": nickname,
    }
    return str(good(server.http, "accounts/register", registration)["account"]["user"])


def test_the_first_view_says_how_the_server_is_and_leads_to_what_one_wants_to_do(
    pair: Pair, server: Server
) -> None:
    admin = opened(pair, server, size=(390, 844))
    admin.shows("1 of 1 ready", ".tile.good")
    for text in (" free", "from clients", "None is scheduled", "within the last hour"):
        admin.shows(text, ".tile")
    admin.tap("Reset a second factor", "link", ".tasks")
    admin.shows("Open the person › More › Second factor off", ".hint")
    admin.press("/")
    admin.press("drain")
    admin.press(Keys.ENTER)  # the only hit
    admin.shows("Take a node out of service", ".hint")
    assert admin.run(OPEN_SECTION) == "Nodes"
    assert admin.run("return document.querySelector('main.place').offsetTop") < 120
    for task, focused in TASKS.items():
        admin.go("#")
        admin.tap(task, "link", ".tasks")
        admin.gives(
            "return document.querySelectorAll('main [aria-busy=true]').length", 0
        )
        admin.gives(FOCUSED_BELOW_HINT, focused)
    admin.go("#app/shop")
    admin.gives("return document.getElementById('app').value", "shop")
    admin.go("#")
    admin.gives("return document.getElementById('app').value", "")
    for section in ("reports", "notifications"):  # of all apps together
        admin.gives(
            f"return document.querySelector('.tile[href=\"#{section}\"] .figure').textContent",
            "0",
        )


TASKS = {
    "What is slow?": "field-order",
    "Change the log level": "Log more for a while",
    "Who uses deprecated": "Deprecated",
    "Who deleted": "field-message",
}
"""The task → the id or text of the element that has the focus then."""
FOCUSED_BELOW_HINT = """
const hint = document.querySelector(".hint").getBoundingClientRect();
const at = document.activeElement;
const { top, bottom } = at.getBoundingClientRect();
const isSeen = hint.top > 50 && hint.bottom <= top && bottom <= innerHeight;
return isSeen ? at.id || at.textContent : [at.id, hint.top, hint.bottom, top, bottom].join(" ");
"""
"""The element with the focus, if it and the line that says what to do are
within the window."""


OPEN_SECTION = """
const open = document.querySelector("[data-section][aria-current]");
const { left, right } = open.getBoundingClientRect();
return left >= 0 && right <= innerWidth ? open.textContent : `${left} ${right}`;
"""
"""The section that is open, if it is within the window."""


def test_ann_cannot_log_in_and_it_is_mended(
    pair: Pair, start_server: StartServer
) -> None:
    server = start_server(
        config={**CONFIG, "accounts": {**CONFIG["accounts"], "failures": 3}}
    )
    register(server, "ann", "Ann of Accounting")
    login = {"app": "gochat", "login": "ann", "password": PASSWORD}
    for _ in range(5):
        refused(server.http, "accounts/login", {**login, "password": "wrong"})
    assert refused(server.http, "accounts/login", login)[0] == 429
    admin = opened(pair, server)
    admin.look_up("ann", "AccountAnn of Accounting")
    admin.shows("Refuses now")
    admin.tap("Lift what refuses")
    admin.shows("Lifted", "#toasts")
    assert admin.taps <= 5
    assert good(server.http, "accounts/login", login)["token"]


def test_a_stolen_key_is_looked_at_and_replaced(pair: Pair, server: Server) -> None:
    key = good(
        server.http,
        "keys/create",
        {"scopes": ["push"], "apps": ["shop"], "note": "till 7"},
        key=KEY,
    )
    for _ in range(3):
        good(
            server.http,
            "push",
            {"app": "shop", "user": "ann", "text": "hi"},
            key=key["secret"],
        )
    used = {"id": key["key"]["id"], "key": KEY}  # it is stored once a minute
    eventually(
        lambda: good(server.http, "keys/usage", **used)["uses"],
        150,
        "what the key did is stored",
    )
    admin = opened(pair, server)
    admin.look_up("till", "Keytill 7")
    admin.shows("POST /api/v1/push")
    admin.shows("made the key")
    admin.tap("Replace")
    admin.tap("Replace", within="dialog")
    admin.shows("Copy it now", "dialog")
    secret = admin.run("return document.querySelector('.secret').value")
    admin.tap("Close", within="dialog")
    admin.shows("Revoked")
    assert admin.taps <= 6
    push = {"app": "shop", "user": "ann", "text": "hi"}
    eventually(
        lambda: server.post("/api/v1/push", push, key=key["secret"])[0] == 401,
        what="the old key ends",
    )
    assert good(server.http, "push", push, key=secret)
    assert secret not in admin.driver.page_source


def test_a_dead_webhook_is_found_mended_and_its_events_are_sent_again(
    pair: Pair, start_server: StartServer
) -> None:
    soon = {
        f"imserver.backends.webhooks.{module}.TRY_SECONDS": 2
        for module in ("event_rows", "feeds")
    }
    with Receiver() as receiver:
        server = start_server(config=CONFIG, command=with_constants(soon))
        hook = {
            "url": "http://127.0.0.1:9/gone",
            "secret": SECRET,
            "events": ["account"],
        }
        settings = {
            "account_tokens": "required",
            "accounts": {"identifiers": ["name"]},
            "webhook": hook,
        }
        good(
            server.http, "apps/create", {"app": "lamps", "settings": settings}, key=KEY
        )
        good(
            server.http,
            "accounts/register",
            {"app": "lamps", "name": "ann", "password": PASSWORD},
            key=KEY,
        )
        dead = {"key": KEY, "app": "lamps"}
        eventually(
            lambda: good(server.http, "events/dead", **dead)["events"],
            what="the event is dead",
        )
        admin = opened(pair, server)
        admin.section("Webhooks")
        admin.shows("Failing")
        admin.tap("lamps", "link", "table")
        admin.shows("refused")
        admin.tap("Change address")
        admin.write(
            "#field-url",
            Keys.CONTROL + "a" + Keys.NULL + f"{receiver.url}/events" + Keys.ENTER,
        )
        admin.shows("Saved", "#toasts")
        admin.tap("Try")
        admin.shows("The receiver took the test event", "#toasts")
        assert receiver.wait_for(1, "test")
        admin.tap("Send again", within="table")
        admin.shows("1 event is sent again", "#toasts")
        assert admin.taps <= 6
        assert receiver.wait_for(1, "account")
        columns = "app, event, member, attempts, next_try, first_failed, dead, body"
        with (
            closing(
                sqlite3.connect(server.folder / "data" / "imserver.db")
            ) as database,
            database,
        ):
            rows = ((f"dead-{number}",) for number in range(10_001))
            database.executemany(
                f"INSERT INTO event_retry ({columns}) VALUES ('lamps', ?, 'ann', 1, 0, 1, 1, x'7b7d')",
                rows,
            )
        admin.driver.refresh()
        admin.shows("10,000+", "main .facts")
        admin.go("#")
        admin.shows("Dead: 10,000+", ".tile")


def test_the_messages_of_a_spammer_go_and_the_person_is_banned(
    pair: Pair, server: Server
) -> None:
    ann = register(server, "ann2", "Ann")
    mallory = register(server, "spammer", "Mallory")
    reader = NamedUser(server, ann, KEY)
    writer = NamedUser(server, mallory, KEY)
    group = int(reader.post("groups/create", name="Tea", members=[mallory])["group"])
    for number in range(30):
        writer.post("messages/send", conversation=group, text=f"cheap {number}")

    def texts() -> int:
        page = reader.get("messages", conversation=group, limit=100)
        return sum("cheap" in str(each) for each in page["messages"])

    assert texts() == 30
    admin = opened(pair, server)
    admin.look_up("spammer", "AccountMallory")
    admin.tap("Clear messages")
    admin.shows("Messages: 30.", "dialog")
    admin.tap("Delete them", within="dialog")
    admin.shows("30 messages are gone", "#toasts")
    admin.tap("Ban")
    admin.tap("Ban", within="dialog")
    admin.shows("Banned", "#toasts")
    assert admin.taps <= 5
    admin.shows("Banned", ".section-head .badge")
    admin.gives(HAS_BUTTON, False, "Ban")
    admin.shows("Key ", "td")  # who has done it
    eventually(lambda: texts() == 0, what="nobody sees them any more")
    assert writer.get("presence")["online_count"] == 0
    assert [
        each["user"]
        for each in good(server.http, "bans", key=KEY, app="gochat")["bans"]
    ] == [mallory]
    admin.tap("Clear messages")
    admin.tap("Delete them", within="dialog")
    admin.shows("sent nothing", "#toasts .toast:last-child:not(:has(button))")
    good(
        server.http,
        "moderation/mute",
        {"app": "gochat", "user": mallory, "seconds": 600},
        key=KEY,
    )
    admin.go("#people")
    admin.tap("gochat")
    admin.shows("Muted", ".badge")
    admin.tap("Banned and muted", "link", ".section-head")
    admin.tap("Unban", within="tr")
    admin.shows("No longer banned", "#toasts")
    admin.tap("Mallory", "link", "table")
    admin.shows("Muted", ".section-head .badge")
    admin.gives(HAS_BUTTON, False, "Unban")
    admin.tap("Ban")
    admin.tap("Cancel", within="dialog")
    admin.tap("Unmute")
    admin.gives(HAS_BUTTON, False, "Unmute")
    assert good(server.http, "moderation/holds", key=KEY, app="gochat")["holds"] == []


HAS_BUTTON = "return [...document.querySelectorAll('main button')].some((e) => e.innerText === arguments[0])"


def test_a_person_is_exported_and_erased_after_an_undo_and_the_audit_says_so_in_words(
    pair: Pair, server: Server
) -> None:
    user = register(server, "bobby", "Bobby")
    whom = {"app": "gochat", "user": user}
    group = good(server.http, "groups/create", {**whom, "name": "Tea"}, key=KEY)[
        "group"
    ]
    message = {**whom, "conversation": int(group), "text": "buy now"}
    spam = good(server.http, "messages/send", message, key=KEY)["id"]
    delete = {"app": "gochat", "messages": [spam], "reason": "spam"}
    good(server.http, "moderation/delete", delete, key=KEY)
    admin = opened(pair, server)
    admin.go("#audit")
    admin.write("#field-message", f"{spam}{Keys.ENTER}")
    admin.gives("return document.querySelectorAll('.act').length", 1)
    admin.shows(f"deleted message {spam} of Bobby: spam", ".act")

    admin.go(f"#person/gochat/{user}")
    admin.tap("Export everything of this person")
    admin.shows("Ready")
    admin.run(
        "HTMLAnchorElement.prototype.click = function () { window.saved = this.download; }"
    )
    admin.tap("Download")
    admin.gives("return window.saved", f"{user}.zip")
    admin.tap("Delete", within="td .actions")
    admin.shows("There is no archive.")

    def erase(proof: str) -> None:
        admin.run("document.querySelector('.more-actions').open = true")
        admin.tap("Erase this person")
        admin.shows("Groups", "dialog .facts")
        admin.write("#field-reason", "asked by letter")
        admin.write("#field-again", proof)
        admin.tap("Erase this person", within="dialog[open]")

    erase("bob")
    admin.shows("not what is asked for", "dialog")
    admin.press(Keys.ESCAPE)
    erase("bobby")
    admin.shows("is locked out, and is erased in", ".notice")
    login = {"app": "gochat", "login": "bobby", "password": PASSWORD}
    assert refused(server.http, "accounts/login", login)[0] == 403
    admin.run("window.left = document.querySelector('.notice p').textContent")
    admin.run(
        "window.undo = document.querySelector('.notice button'); window.undo.focus()"
    )
    admin.gives(
        "return document.querySelector('.notice p').textContent === window.left", False
    )
    # it is counted down beside the button
    admin.gives("return document.activeElement === window.undo", True)
    admin.tap("Undo")
    admin.shows("may log in again", "#toasts")
    assert good(server.http, "accounts/login", login)["token"]
    assert (
        good(server.http, "users/erase", {**whom, "seconds": 1}, key=KEY)["erased"]
        is False
    )
    admin.driver.refresh()
    admin.shows("was erased", ".notice")
    admin.go("#audit")
    admin.shows("erased a deleted user", ".act")
    admin.tap("Verify")
    admin.shows("unbroken", "[role=status] .badge")
    with (
        closing(sqlite3.connect(server.folder / "data" / "imserver.db")) as database,
        database,
    ):
        database.execute("UPDATE audit SET kind = 'page' WHERE number = 1")
    admin = opened(pair, server, key=OF_SHOP)
    admin.go("#audit")
    admin.tap("Verify")
    admin.shows("broken", "[role=status] .badge")
    assert [text.strip() for text in admin.texts("[role=status] p")] == ["broken"]


def test_an_app_is_deleted_after_an_undo(pair: Pair, server: Server) -> None:
    good(
        server.http,
        "apps/create",
        {"app": "kiosk", "settings": {"open": True}},
        key=KEY,
    )
    admin = opened(pair, server)
    admin.go("#app/kiosk")

    def delete(typed: str) -> None:
        admin.tap("Delete this app")
        admin.shows("Accounts", "dialog .facts")
        admin.write("#field-reason", "closed")
        admin.write("#field-again", typed)
        admin.tap("Delete this app", within="dialog[open]")

    delete("kiosk 2")
    admin.shows("not what is asked for", "dialog")
    admin.press(Keys.ESCAPE)
    delete("kiosk")
    admin.shows("is locked, and is deleted in", ".notice")
    admin.go("#apps")
    admin.shows("Locked, will be deleted", "table")
    admin.tap("kiosk", "link", "table")
    admin.tap("Undo")
    admin.shows("The app is as it was", "#toasts")
    admin.shows("Delete this app")
    # the page is there before
    whom = {"app": "kiosk", "confirm": "kiosk", "seconds": 8}
    assert good(server.http, "apps/delete", whom, key=KEY)["ends"]
    admin.driver.refresh()
    admin.shows("was deleted", ".notice")
    admin.go("#audit")
    admin.shows("carried out the deletion of the app kiosk", ".act")


def test_people_are_locked_and_get_a_new_password(pair: Pair, server: Server) -> None:
    user = register(server, "cid", "Cid")
    admin = opened(pair, server)
    admin.look_up("cid", "AccountCid")
    admin.tap("Lock account")
    admin.write("#field-reason", "lost phone")
    admin.tap("Lock account", within="dialog")
    admin.shows("lost phone")
    assert "for good" not in "".join(admin.texts("main.place")).replace(
        "Erase for good", ""
    )
    assert refused(
        server.http,
        "accounts/login",
        {"app": "gochat", "login": "cid", "password": PASSWORD},
    )
    admin.tap("Unlock account")
    admin.shows("Lock account")
    admin.tap("Reset password")
    password = admin.run("return document.querySelector('#field-password').value")
    admin.tap("Set password", within="dialog")
    admin.shows("The password is set", "#toasts")
    login = {"app": "gochat", "login": "cid", "password": password}
    assert good(server.http, "accounts/login", login)["account"]["user"] == user
    admin.go("#refusals")
    admin.shows("Cid", "table a")  # of the login that was refused


def test_a_node_is_drained_and_serves_again(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects("Failed to load resource")  # 400: there is no such route
    server = start_server(config=CONFIG)
    admin = opened(pair, server)
    with connect(server.ws_url, proxy=None) as socket:
        socket.send(
            json.dumps(
                {"seq": "1", "cmd": "login", "data": {"userID": "ann", "app": "shop"}}
            )
        )
        socket.recv(60)
        admin.section("Nodes")
        admin.shows("Serves this page")
        admin.tap("Drain")
        admin.shows("No other node serves clients", "dialog")
        admin.tap("Drain", within="dialog")
        admin.shows("somebody has drained it")
        eventually(lambda: server.get("/ready")[0] == 503, what="it is not ready")
    admin.tap("Serve again")
    eventually(lambda: server.get("/ready")[0] == 200, what="it serves again")
    admin.shows("/api/v1/admin/rights", "[aria-label='What takes time']")
    admin.tap("Log more for a while")
    admin.write("dialog [name=name]", "/api/v1/nowhere")
    admin.tap("Begin", within="dialog")
    admin.shows("there is no such route or command", "dialog")
    admin.write("dialog [name=name]", Keys.BACKSPACE * len("nowhere"), "push")
    admin.tap("Begin", within="dialog")
    admin.shows("The nodes log so for 10", "#toasts")
    admin.tap("Log as the settings say")
    admin.shows("The nodes log as the settings say.", "#toasts")


def test_a_key_of_one_app_sees_its_app_only(pair: Pair, server: Server) -> None:
    register(server, "eve", "Eve")
    admin = opened(pair, server, key=OF_SHOP)
    assert "Nodes" not in admin.texts("#sections a")
    assert not admin.shown("#app-place")
    admin.press("/")
    admin.press("eve")
    admin.shows("Nothing has this id or name", ".hits")


def test_an_owner_logs_in_with_the_account_and_a_member_does_not(
    pair: Pair, server: Server
) -> None:
    owner = register(server, "dan", "Dan")
    register(server, "flo", "Flo")
    good(
        server.http,
        "accounts/role",
        {"app": "gochat", "user": owner, "role": "owner"},
        key=KEY,
    )
    pair.expects("Failed to load resource")
    page = pair[0].open(f"{server.http_url}/admin?lang=en")
    for name, is_let_in in (("flo", False), ("dan", True)):
        page.sees("#field-login")
        for field, text in (("login", name), ("password", PASSWORD)):
            page.run(
                "document.getElementById(arguments[0]).value = ''", f"field-{field}"
            )
            page.write(f"#field-{field}", text)
        page.press(Keys.ENTER)
        if is_let_in:
            page.sees("#sections a")
        else:
            eventually(
                lambda: "may not administrate" in page.texts("[role=alert]")[0],
                what="the refusal",
            )
    assert "People" in page.texts("#sections a")
    assert page.texts("#who") == ["Account Dan, Owner"]


def test_the_login_of_the_chat_opens_the_page_and_no_visit_is_a_refusal(
    pair: Pair, server: Server
) -> None:
    def refusals() -> int:
        return len(good(server.http, "refusals", key=KEY, limit=1000)["refusals"])

    def visit(token: str) -> Admin:
        login = json.dumps({"token": token, "user": "?", "nickname": ""})
        script = f"localStorage.setItem('imserver:account:gochat', {json.dumps(login if token else '')});"
        return Admin(
            pair[0]
            .open(f"{server.http_url}/admin?lang=en", forget=True, script=script)
            .driver
        )

    before = refusals()
    tokens = {}
    for name in ("kai", "lea"):
        account = {
            "app": "gochat",
            "name": name,
            "password": PASSWORD,
            "nickname": name.title(),
        }
        tokens[name] = good(server.http, "accounts/register", account)
    lea = {"app": "gochat", "user": tokens["lea"]["account"]["user"]}
    good(server.http, "accounts/role", {**lea, "role": "owner"}, key=KEY)
    for token in ("", tokens["kai"]["token"]):
        visit(token).sees("#field-key")
    page = visit(tokens["lea"]["token"])
    page.sees("#sections a", "#to-chat a")
    assert page.texts("#who") == ["Account Lea, Owner"]
    assert not page.shown("#app-place")
    good(
        server.http,
        "groups/create",
        {**lea, "name": "Tea", "members": [tokens["kai"]["account"]["user"]]},
        key=KEY,
    )
    page.section("Audit")
    page.has_some(".act", "Lea, Kai")
    page.tap("Log out")
    page.sees("#field-key")
    page.driver.refresh()
    page.tap("Go on with the login of the chat")
    page.sees("#sections a")
    page.run("localStorage.clear()")
    assert refusals() == before


def test_texts_of_people_are_text_and_the_key_stays_in_the_tab(
    pair: Pair, server: Server
) -> None:
    register(server, "mallory", '<img src=x onerror="document.title=1"><b>bold</b>')
    admin = opened(pair, server)
    admin.look_up("mallory", "Account<img src=x")
    admin.shows("<b>bold</b>", "h1")
    assert not admin.run(
        "return document.querySelectorAll('main.place img, main.place b').length"
    )
    assert KEY not in admin.driver.current_url
    assert admin.run("return localStorage.length") == 0
    assert admin.run("return document.cookie") == ""
    admin.driver.refresh()
    admin.shows("<b>bold</b>", "h1")
    admin.tap("Log out")
    admin.sees("#field-key")
    assert admin.run("return sessionStorage.getItem('imserver:admin-page')") is None


@pytest.fixture(scope="module")
def full(start_shared_server: StartServer) -> tuple[Server, list[str]]:
    """A server with something in each section, and the parts of the page."""
    hook = {"url": "http://127.0.0.1:9/gone", "secret": SECRET, "events": ["connect"]}
    apps = {**CONFIG["apps"], "shop": {"open": True, "webhook": hook}}
    server = start_shared_server(config={**CONFIG, "apps": apps})
    user = register(server, "ann", "Ann")
    refused(
        server.http,
        "accounts/login",
        {"app": "gochat", "login": "ann", "password": "wrong"},
    )
    good(
        server.http,
        "groups/create",
        {"app": "gochat", "user": user, "name": "Lamps"},
        key=KEY,
    )
    key = good(
        server.http, "keys/create", {"scopes": ["push"], "note": "till"}, key=KEY
    )["key"]["id"]
    good(
        server.http,
        "moderation/mute",
        {"app": "gochat", "user": user, "seconds": 3600},
        key=KEY,
    )
    parts = [
        "",
        f"person/gochat/{user}",
        "people",
        "connections",
        "apps",
        "app/shop",
        f"key/{key}",
    ]
    parts += [
        "refusals",
        "reports",
        "webhooks",
        "webhook/shop",
        "notifications",
        "nodes",
        "audit",
    ]
    return server, [*parts, "group/gochat/1", "held/gochat"]


@pytest.mark.needs("axe-core")
@pytest.mark.parametrize(
    "look", LOOKS, ids=lambda look: f"{look[0]}-{'dark' if look[1] else 'light'}"
)
def test_no_section_has_a_violation_or_is_too_wide(
    pair: Pair, full: tuple[Server, list[str]], look: tuple[str, bool, tuple[int, int]]
) -> None:
    pair.expects("Failed to load resource")  # 403: the shop has no accounts
    (server, parts), (language, dark, size) = full, look
    with connect(server.ws_url, proxy=None) as socket:
        socket.send(
            json.dumps(
                {"seq": "1", "cmd": "login", "data": {"userID": "ann", "app": "shop"}}
            )
        )
        socket.recv(60)
        page = opened(pair, server, language=language, dark=dark, size=size)
        found = []
        for part in parts:
            page.run(CHOOSE, "shop" if part == "connections" else "gochat")
            page.go(f"#{part}")
            page.sees("main.place h1")
            found += [f"{part}: {each}" for each in violations(page)]
            page.fits()
        page.press("/")
        page.press("ann")
        page.sees(".hit")
        found += [f"hits: {each}" for each in violations(page)]
        page.press(Keys.ARROW_DOWN, Keys.ENTER)
        eventually(lambda: page.run(OPEN_DIALOG), what="a dialog")
        found += [f"dialog: {each}" for each in violations(page)]
        page.press(Keys.ESCAPE)
    assert not found, "\n".join(dict.fromkeys(found))


CHOOSE = """
const choose = document.getElementById("app");
choose.value = arguments[0];
choose.dispatchEvent(new Event("change"));
"""
OPEN_DIALOG = """
if (!document.querySelector("dialog[open]")) document.querySelector("main.place .actions > .danger")?.click();
return document.querySelector("dialog[open]") !== null;
"""


MALFORMED = """
const real = window.fetch;
const broken = {
  results: [7, null, { type: "none" }, { type: "app", id: 3, label: {} }],
  apps: [null, 5, { app: 7 }], nodes: [null, { node: 3, cpu: "x" }],
  webhooks: [{ app: {}, answers: 3 }, null],
  keys: "none", refusals: 7, next: 5,
};
window.fetch = async (...given) => {
  const answer = await real(...given);
  if (String(given[0]).includes("admin/rights")) return answer;
  return new Response(JSON.stringify(broken), { status: 200 });
};
"""
"""Every answer of the API is something else than the page expects."""


def test_demo_mode_needs_no_login_and_a_server_that_answers_nonsense_or_is_gone_is_survived(
    pair: Pair, start_server: StartServer
) -> None:
    pair.expects("/api/v1", "Failed to load resource")
    server = start_server(config={"apps": {"shop": {"open": True}}})
    admin = opened(pair, server, key="", size=(320, 640))
    admin.fits()
    admin.press("/")
    assert admin.focused == "find"
    admin.press("shop")
    admin.sees(".hit")
    admin.press(Keys.ARROW_DOWN)
    admin.press(Keys.ENTER)
    admin.shows("shop", "h1")
    admin.fits()
    admin = opened(pair, server, key="", script=MALFORMED)
    for section in ("Apps and keys", "Webhooks", "Nodes", "Refusals"):
        admin.section(section)
        admin.gives(
            "return document.querySelectorAll('main [aria-busy=true]').length", 0
        )
        assert admin.shown("main.place h1")
    admin.press("/")
    admin.press("x")
    admin.sees(".hits")
    admin = opened(pair, server, key="")
    server.stop()
    admin.section("Nodes")
    admin.shows("The server does not answer")
    assert admin.shown(".failed button")


def test_a_setting_of_an_app_is_found_changed_and_refused_at_its_field(
    pair: Pair, server: Server
) -> None:
    pair.expects("status of 400")
    settings = {
        "open": True,
        "webhook": {"url": "http://127.0.0.1:9/hook", "secret": SECRET},
    }
    good(server.http, "apps/create", {"app": "chairs", "settings": settings}, key=KEY)
    admin = opened(pair, server)
    admin.section("Apps and keys")
    admin.tap("chairs", "link", "table")
    admin.write(".settings-find input", "per_day")
    admin.write(
        "[id='setting-quotas.pushes_per_day']", Keys.CONTROL + "a" + Keys.NULL + "77"
    )
    admin.write(".settings-find input", Keys.CONTROL + "a" + Keys.NULL + "absent")
    admin.write(
        "[id='setting-webhook.absent_seconds']", Keys.CONTROL + "a" + Keys.NULL + "15"
    )
    admin.shows("2 changes", ".save-bar")
    admin.tap("Save", within=".save-bar")
    admin.shows("quotas.pushes_per_day0 → 77", "dialog")
    admin.tap("Save", within="dialog")
    admin.shows("0 of 77 today")
    shown = good(server.http, "apps/show", key=KEY, app="chairs")
    assert (shown["quotas"]["pushes_per_day"], shown["webhook"]["absent_seconds"]) == (
        77,
        15,
    )
    assert shown["webhook"]["signed"]
    admin.write("#setting-same_as", "nobody")
    admin.tap("Save", within=".save-bar")
    admin.tap("Save", within="dialog")
    admin.shows("expected another app", ".setting .problem")
