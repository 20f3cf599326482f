"""Confirmed e-mail addresses: who confirms which, and how many mails an address gets before."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from imserver.gateway.config.settings import AppSettings
from imserver.people.accounts import confirmations
from imserver.people.accounts.link_mails import MAILS
from imserver.people.accounts.parts import accounts_of
from tests.rows import ROUTES, sections
from tests.support import until
from tests.users import PASSWORD, User

from .mail import Sink
from .node_harness import ADMIN, Harness, config

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

HOME = "https://im.example.com"
CONFIRM = "/api/v1/accounts/email/confirm"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Harness]:
    harness = Harness(
        config(
            Path(tmp_path_factory.mktemp("confirmations")),
            app=AppSettings(http_url=HOME + "/"),
            of_features=sections(
                accounts={"registration": True, "registrations_per_address": 0}, smtp=sink.settings
            ),
        )
    )
    yield harness
    harness.close()


def person(node: Harness, name: str) -> User:
    return User.register(node, "gochat", name=name, nickname="Your bank", email=f"{name}@example.com")


def change(user: User, email: str) -> None:
    user.post("accounts/identifiers", email=email, password=PASSWORD)


def is_confirmed(user: User) -> bool:
    confirmed: bool = user.get("accounts/show")["email_confirmed"]
    return confirmed


def token_for(user: User, sink: Sink) -> str:
    """Ask for a mail, and read its token."""
    before = len(sink.mails)
    assert user.post("accounts/email/request")["confirmed"] is False
    until(lambda: len(sink.mails) > before)
    found = re.search(re.escape(f"{HOME}{CONFIRM}?token=") + r"([A-Za-z0-9_=-]+)\n", sink.mails[-1][2])
    assert found, sink.mails[-1]
    return found[1]


def confirm(node: Harness, token: str) -> tuple[int, str]:
    status, answer = node.call("POST", CONFIRM, query={"token": token})
    return status, answer.get("code", "")


def test_the_button_of_the_page_confirms_and_the_link_does_not(node: Harness, sink: Sink) -> None:
    ann = person(node, "ann")
    assert not is_confirmed(ann)
    assert not ann.get("notifications/wishes")["mail_confirmed"]
    token = token_for(ann, sink)
    sender, to, text = sink.mails[-1]
    assert (sender, to) == ("im@example.com", ["ann@example.com"])
    assert "An account at im.example.com names" in text
    assert "bank" not in text, "the words of a user are in no mail to an address that is not confirmed"
    row = next(each for each in ROUTES if (each.method, each.path) == ("GET", CONFIRM))
    page = node.ask(row, query={"token": token})
    assert page.status == 200
    assert b"<button>Confirm</button>" in page.body
    assert not is_confirmed(ann)
    assert confirm(node, token) == (200, "")
    assert is_confirmed(ann)
    assert ann.get("notifications/wishes")["mail_confirmed"]
    assert confirm(node, token) == (200, ""), "a second click does no harm"
    assert ann.post("accounts/email/request")["confirmed"]


def test_a_link_is_for_one_address_and_one_day(
    node: Harness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = person(node, "bob")
    token = token_for(bob, sink)
    wrong = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    assert confirm(node, wrong) == confirm(node, "x") == (404, "unknown_confirmation")
    change(bob, "bob@example.net")
    assert confirm(node, token) == (404, "unknown_confirmation")
    change(bob, "bob@example.com")
    assert confirm(node, token) == (200, "")
    change(bob, "other@example.com")
    assert not is_confirmed(bob)
    monkeypatch.setattr(confirmations, "LINK_SECONDS", 0)
    change(bob, "late@example.com")
    assert confirm(node, token_for(bob, sink)) == (404, "unknown_confirmation")


def test_an_account_and_an_address_get_few_mails(node: Harness, sink: Sink) -> None:
    """An account cannot mail strangers in turn, and accounts cannot mail one stranger in turn."""
    eve = person(node, "eve")
    for number in range(MAILS):
        change(eve, f"stranger{number}@example.com")
        token_for(eve, sink)
    change(eve, "one.more@example.com")
    assert eve.refused("accounts/email/request") == (429, "too_many_requests")
    mal, sid = person(node, "mal"), person(node, "sid")
    for number in range(MAILS):
        user = (mal, sid)[number % 2]
        change(user, "victim@example.com")
        token_for(user, sink)
        change(user, f"{number}@example.com")
    change(sid, "victim@example.com")
    assert sid.refused("accounts/email/request") == (429, "too_many_requests")
    before = len(sink.mails)
    assert node.call("POST", "/api/v1/accounts/reset", {"login": "sid"})[0] == 202
    until(lambda: not accounts_of(node.node.core).resets.mails.waiting)
    assert len(sink.mails) == before, "mails for a forgotten password count, too"


def test_a_password_that_was_reset_by_mail_confirms(node: Harness, sink: Sink) -> None:
    fay = person(node, "fay")
    before = len(sink.mails)
    assert node.call("POST", "/api/v1/accounts/reset", {"login": "fay"})[0] == 202
    until(lambda: len(sink.mails) > before)
    code = sink.code(f"{HOME}/home/messages")
    assert not is_confirmed(fay)
    finished = {"code": code, "password": "battery staple"}
    assert node.call("POST", "/api/v1/accounts/reset/finish", finished)[0] == 200
    account = accounts_of(node.node.core).accounts.known("gochat", fay.user)
    assert account.email_confirmed


def test_a_back_end_may_confirm_and_a_user_may_not(node: Harness) -> None:
    gil = person(node, "gil")
    given = {"email": "gil@example.org", "email_confirmed": True}
    assert gil.refused("accounts/identifiers", **given, password=PASSWORD) == (403, "not_allowed")
    new = {"name": "hal", "password": PASSWORD, "email": "hal@example.com", "email_confirmed": True}
    assert User(node, "", app="gochat").refused("accounts/register", **new) == (403, "not_allowed")
    back_end, jo = User(node, ADMIN.key, app="201"), User.register(node, "201", email="jo@example.com")
    given = {"email": "jo@example.org", "email_confirmed": True}
    assert back_end.post("accounts/identifiers", user=jo.user, **given)["email_confirmed"]
    assert is_confirmed(jo)
    assert back_end.post("accounts/register", **new)["account"]["email_confirmed"]
    assert "email_confirmed" not in User.register(node, "201").get("accounts/show", of=jo.user)


def test_a_node_of_the_release_before_changes_an_address_and_confirms_nothing(node: Harness) -> None:
    jan = person(node, "jan")
    rows = accounts_of(node.node.core).rows
    assert rows.confirm_email(int(jan.user), lambda _: True)
    node.node.core.store.execute("UPDATE account SET email = 'x@example.com' WHERE id = %s", (jan.user,))
    assert not is_confirmed(jan)


def test_without_an_address_or_a_mail_server_nothing_is_sent(node: Harness, tmp_path: Path) -> None:
    assert User.register(node, "gochat").refused("accounts/email/request")[0] == 400
    other = Harness(config(tmp_path, of_features=sections(accounts={"registration": True})))
    try:
        assert person(other, "kim").refused("accounts/email/request") == (501, "not_implemented")
    finally:
        other.close()
