"""Reports and acts of moderators in the menus of the messages page."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import User

KEY = "admin-key-of-the-tests"
TEXT = "return document.querySelector('[role=log]').textContent"
TOASTS = "return [...document.querySelectorAll('.toast')].map((each) => each.textContent).join(' ')"
DIALOG = "return document.querySelector('dialog[open]')?.textContent ?? ''"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server with an admin key."""
    accounts = {"registrations_per_address": 0, "registration": True}
    keys = {"keys": [{"key": KEY, "scopes": ["admin"]}]}
    return start_server(config={"accounts": accounts, "api": keys, "apps": {"gochat": {}}})


def test_a_user_reports_a_message_and_a_moderator_acts(pair: Pair, server: Server) -> None:
    ann, bob, eve = Account(server, "Ann"), Account(server, "Bob"), Account(server, "Eve")
    key = User(server, KEY)
    key.post("accounts/role", app="gochat", user=ann.user, role="moderator")
    group = ann.create_group("tea", bob, eve)
    for text in ("hello", "buy now", "buy more"):
        eve.post("messages/send", conversation=group, text=text)

    chat = Chat(pair[1], bob)
    chat.open(group)
    eventually(lambda: "buy more" in chat.page.run(TEXT))
    chat.menu("buy now", "Report…")
    chat.named("field", "What else moderators should know").send_keys("Every day.")
    chat.click("Send report", within="dialog[open]")
    eventually(lambda: "Thank you" in chat.page.run(TOASTS))
    (report,) = key.get("reports")["reports"]
    assert (report["user"], report["reasons"]) == (eve.user, {"spam": 1})

    desk = Chat(pair[0], ann)
    desk.open(group)
    eventually(lambda: "buy more" in desk.page.run(TEXT))
    desk.menu("hello", "")
    desk.menu("hello", "Delete for everyone")
    desk.click("Delete for everyone", within="dialog[open]")
    for each in (desk, chat):
        eventually(lambda each=each: "Moderators have removed a message" in each.page.run(TEXT))
        assert "hello" not in each.page.run(TEXT)
    desk.click("Undo")
    for each in (desk, chat):
        eventually(lambda each=each: "hello" in each.page.run(TEXT))
        assert "Moderators" not in each.page.run(TEXT)

    desk.menu("buy now", "Ban…")
    eventually(lambda: "(3)" in desk.page.run(DIALOG))
    desk.named("field", "Reason, which the person sees").send_keys("No advertising.")
    desk.click("Delete their messages of the last day (3)", role="field", within="dialog[open]")
    desk.click("Ban", within="dialog[open]")
    for each in (desk, chat):
        eventually(lambda each=each: "buy" not in each.page.run(TEXT))
    eventually(lambda: key.get("bans", app="gochat")["count"] == 1)


def test_a_person_is_reported_from_their_card(pair: Pair, server: Server) -> None:
    ann, bob = Account(server, "Ann"), Account(server, "Bob")
    bob.post("messages/send", to=ann.user, text="buy now")
    chat = Chat(pair[1], ann)
    chat.page.click("#conversations button")
    eventually(lambda: "buy now" in chat.page.run(TEXT))
    chat.page.click("#conversation-open")
    chat.click("Report…", within=".card-of-person")
    dialogs = (
        "return [...document.querySelectorAll('dialog[open]')].map((each) => each.textContent).join(' ')"
    )
    eventually(lambda: "Report Bob" in chat.page.run(dialogs), what="the dialog of a report")
    chat.click("Send report", within="dialog[open]")
    eventually(lambda: "Thank you" in chat.page.run(TOASTS))
    (report,) = User(server, KEY).get("reports")["reports"]
    assert (report["user"], report["reasons"]) == (bob.user, {"spam": 1})
    assert chat.page.shown(".card-of-person")
