"""Reports and acts of moderators in the menus of the messages page."""

import pytest

from tests.browser.conftest import Pair
from tests.browser.messenger import Account, Chat, login_form, open_page
from tests.browser.test_kinds import CHOOSE
from tests.conftest import StartServer
from tests.support import Server, eventually
from tests.users import User

KEY = "admin-key-of-the-tests"
TEXT = "return document.querySelector('[role=log]').textContent"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    accounts = {"registrations_per_address": 0, "registration": True}
    keys = {"keys": [{"key": KEY, "scopes": ["admin"]}]}
    return start_server(
        config={"accounts": accounts, "api": keys, "apps": {"gochat": {}}}
    )


def test_a_user_reports_a_message_and_a_moderator_acts(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    eve = Account(server, "Eve")
    key = User(server, KEY, app="gochat")
    key.post("accounts/role", user=ann.user, role="moderator")
    group = ann.create_group("tea", bob, eve)
    for text in ("hello", "buy now", "buy more"):
        eve.post("messages/send", conversation=group, text=text)

    chat = Chat(pair[1], bob)
    chat.open(group)
    chat.has_some("[role=log]", "buy more")
    chat.menu("buy now", "Report…")
    chat.named("field", "What else moderators should know").send_keys("Every day.")
    chat.tap("Send report", within="dialog[open]")
    chat.has_some(".toast", "Thank you")
    (report,) = key.get("reports")["reports"]
    assert (report["user"], report["reasons"]) == (eve.user, {"spam": 1})

    desk = Chat(pair[0], ann)
    desk.open(group)
    desk.has_some("[role=log]", "buy more")
    desk.menu("hello", "")
    desk.menu("hello", "Delete for everyone")
    desk.tap("Delete for everyone", within="dialog[open]")
    for each in (desk, chat):
        each.has_some("[role=log]", "Moderators have removed a message")
        assert "hello" not in each.run(TEXT)
    desk.tap("Undo")
    for each in (desk, chat):
        each.has_some("[role=log]", "hello")
        assert "Moderators" not in each.run(TEXT)

    desk.menu("buy now", "Mute…")
    desk.tap("Mute", within="dialog[open]")
    desk.has_some(".toast", "Eve is muted")
    desk.menu("buy now", "Lift the mute")
    desk.has_some(".toast", "Eve may write again")
    assert key.get("moderation/holds")["holds"] == []

    desk.menu("buy now", "Ban…")
    desk.has_some("dialog[open]", "(3)")
    desk.named("field", "Reason, which the person sees").send_keys("No advertising.")
    desk.tap(
        "Delete their messages of the last day (3)", role="field", within="dialog[open]"
    )
    desk.tap("Ban", within="dialog[open]")
    for each in (desk, chat):
        each.gives(f"{TEXT}.includes('buy')", False)
    eventually(lambda: key.get("bans")["count"] == 1)


def test_an_owner_handles_a_report_in_four_clicks_and_answers_an_appeal(
    pair: Pair, server: Server
) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    eve = Account(server, "Eve")
    key = User(server, KEY, app="gochat")
    key.post("accounts/role", user=ann.user, role="owner")
    group = ann.create_group("tea", bob, eve)
    spam = eve.post("messages/send", conversation=group, text="buy now")["id"]
    report = bob.post("reports/send", message=spam, reason="spam", text="Every day.")[
        "report"
    ]

    desk = Chat(pair[0], ann, size=(1280, 800))
    desk.go(f"#manage={report}")  # as the message of the server says
    desk.has_some(".manage", "Every day.")
    desk.tap("Close", within=".layer:has(.manage)")
    desk.sees("#manage[data-count='1']")
    desk.click("#manage")
    desk.has_some(".manage", "Message of Eve")
    key.post("moderation/ban", user=eve.user, seconds=3600)
    desk.click(f"[data-key='report:{report}']")
    desk.has_some(".manage", "Every day.")
    desk.has_some(".manage .reported", "buy now")
    desk.has_some(".manage button", "Close as banned")
    key.post("moderation/unban", user=eve.user)
    desk.tap("Delete…", within=".manage")
    desk.tap("Delete for everyone", within="dialog[open]")
    desk.has_some(".manage", "Nothing to decide")
    desk.sees("#manage[data-count='']")
    (closed,) = key.get("reports", state="closed")["reports"]
    assert (closed["outcome"], closed["evidence"]) == ("deleted", "buy now")

    pair.expects("/notifications/")  # the ban may stop what her page still asks for
    chat = Chat(pair[1], eve, size=(390, 844))
    key.post("moderation/ban", user=eve.user, seconds=3600, reason="No advertising.")
    chat.has_some("#banner", "No advertising.")
    chat.click("#banner-button")
    chat.write("dialog textarea", "It was my brother.")
    chat.tap("Send", within="dialog[open]")
    chat.has_some(".toast", "Sent")
    desk.sees("#manage[data-count='1']")
    desk.click(".manage .person")
    desk.has_some(".manage", "It was my brother.")
    desk.has_some(".manage-ban", "No advertising. · by the server")
    desk.tap("People", within=".manage .tabs")
    desk.has_some(".manage .mark", "Banned")
    desk.has_some(".manage .person-row", "No advertising. · by the server")
    desk.tap("Reports", within=".manage .tabs")
    desk.click(".manage .person")
    desk.tap("Lift the ban", within=".manage")
    desk.has_some(".toast", "Eve may log in again")
    assert key.get("bans")["count"] == 0
    for view, text in (
        ("people", "Owners"),
        ("guests", "no guests"),
        ("links", "no links"),
        ("rules", "House rules"),
    ):
        desk.tap(view.title(), within=".manage .tabs")
        desk.has_some(".manage-body", text)
    desk.click("#manage-people")
    desk.sees(role := f"[data-key='role:{bob.user}']")
    desk.run(CHOOSE, role, "owner")
    desk.tap("Make an owner", within="dialog:modal")
    desk.has_some(".toast", "Bob is an owner")
    desk.misses(role)
    assert len(key.get("accounts/list", role="owner")["accounts"]) == 2

    key.post("moderation/rules", text="Be kind.")
    page = login_form(open_page(pair[1], server))
    page.click("#login-switch", "#login-form summary")
    page.has_some("#login-form details", "Be kind.")


def test_a_person_is_reported_from_their_card(pair: Pair, server: Server) -> None:
    ann = Account(server, "Ann")
    bob = Account(server, "Bob")
    bob.post("messages/send", to=ann.user, text="buy now")
    chat = Chat(pair[1], ann)
    chat.click("#conversations button")
    chat.has_some("[role=log]", "buy now")
    chat.click("#conversation-open")
    chat.tap("Report…", within=".card-of-person")
    chat.has_some("dialog[open]", "Report Bob")
    chat.tap("Send report", within="dialog[open]")
    chat.has_some(".toast", "Thank you")
    (report,) = User(server, KEY).get("reports")["reports"]
    assert (report["user"], report["reasons"]) == (bob.user, {"spam": 1})
    assert chat.shown(".card-of-person")
