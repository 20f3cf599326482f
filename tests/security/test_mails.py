"""Forgotten passwords and confirmed addresses: what a mail allows, how many
come, and what that reveals."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from imserver.gateway.config.settings import AppSettings, TenantSettings
from imserver.people.accounts import confirmations, resets
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import (
    AccountsOfApp,
    AppAccountSettings,
    SmtpSettings,
)
from imserver.people.accounts.link_mails import MAILS
from imserver.people.accounts.mailing import Mail, NotSent, send
from imserver.people.accounts.parts import accounts_of
from tests.rows import ROUTES, sections
from tests.support import until
from tests.users import PASSWORD, User

from .mail import Sink
from .node_harness import ADMIN, APPS, FOREIGN, RULED, Harness, config

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

NEW = "battery staple"
HOME = "https://im.example.com"
PAGE = f"{HOME}/home/messages"
SHOP = "https://shop.example.com/forgotten"
CONFIRM = "/api/v1/accounts/email/confirm"
ASK = "/api/v1/accounts/reset"
FINISH = "/api/v1/accounts/reset/finish"
ACCOUNTS = {
    "registration": True,
    "registrations_per_address": 0,
    "logins_per_address": 60,
}


@pytest.mark.parametrize(
    "address", ["a@(x", "a@[", "a b@c", "@", "", "a,b@c.de", "a<b@c.de", "b@c.de,c"]
)
def test_what_is_no_address_is_refused_before_a_connection(address: str) -> None:
    with pytest.raises(NotSent, match="is not an address"):
        send(
            SmtpSettings(host="192.0.2.1", sender="im@example.com"),
            Mail(address, "Hi", HOME),
        )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Harness]:
    """201 has a page of its own for resets; in 202 there are no passwords."""
    ruled = replace(RULED, api_allow_from=())
    no_passwords = AppAccountSettings(passwords=False, reset_url=SHOP)
    apps = {
        **APPS,
        "201": replace(
            ruled, of_features=(AccountsOfApp(AppAccountSettings(reset_url=SHOP)),)
        ),
        "202": replace(ruled, of_features=(AccountsOfApp(no_passwords),)),
        "208": TenantSettings(account_tokens="required"),
    }
    more = {
        "apps": apps,
        "of_features": sections(accounts=ACCOUNTS, smtp=sink.settings),
    }
    folder = Path(tmp_path_factory.mktemp("resets"))
    harness = Harness(config(folder, app=AppSettings(http_url=HOME + "/"), **more))
    yield harness
    harness.close()


def register(node: Harness, name: str, app: str = "gochat") -> User:
    return User.register(
        node, app, name=name, nickname="Your bank", email=f"{name}@example.com"
    )


def forget(node: Harness, sink: Sink, login: str, app: str = "gochat") -> None:
    """Ask for a mail, and wait for it."""
    before = len(sink.mails)
    assert node.call("POST", ASK, {"app": app, "login": login}) == (
        202,
        {"seconds": 1800},
    )
    until(lambda: len(sink.mails) > before)


def finish(
    node: Harness, code: str, app: str = "gochat", password: str = NEW
) -> tuple[int, str]:
    status, answer = node.call(
        "POST", FINISH, {"app": app, "code": code, "password": password}
    )
    return status, answer.get("code", "")


def log_in(node: Harness, name: str, password: str) -> int:
    body = {"login": name, "password": password}
    status: int = node.call("POST", "/api/v1/accounts/login", body, host="192.0.2.77")[
        0
    ]
    return status


def idle(node: Harness) -> None:
    """Wait until nothing is sent any more."""
    until(lambda: not accounts_of(node.node.core).resets.mails.waiting)


def test_a_code_sets_a_new_password_once_and_ends_all_sessions(
    node: Harness, sink: Sink
) -> None:
    ann = register(node, "ann")
    forget(node, sink, "ANN")
    assert sink.mails[-1][:2] == ("im@example.com", ["ann@example.com"])
    code = sink.code(PAGE)
    assert finish(node, code, app="208") == (404, "unknown_reset"), (
        "the code is of another app"
    )
    assert finish(node, code, password="short")[0] == 400
    assert not is_confirmed(ann)
    assert finish(node, code) == (200, "")
    assert (
        accounts_of(node.node.core).accounts.known("gochat", ann.user).email_confirmed
    ), "by its mail"
    assert finish(node, code, password="another one") == (404, "unknown_reset")
    assert [log_in(node, "ann", each) for each in (PASSWORD, NEW)] == [401, 200]
    assert ann.refused_get("accounts/show") == (401, "token_invalid")


def test_codes_end_with_their_time_and_an_account_gets_few(
    node: Harness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else ends them: ``tests/people/accounts/accounts/test_rows.py``."""
    register(node, "bob")
    monkeypatch.setattr(resets, "CODE_SECONDS", 0)
    for login in ("bob", "bob@example.com", "bob"):
        forget(node, sink, login)
        assert finish(node, sink.code(PAGE)) == (404, "unknown_reset")
    assert node.call("POST", ASK, {"login": "bob"})[0] == 202
    idle(node)
    assert len([to for _, to, _ in sink.mails if to[0].startswith("bob")]) == MAILS
    assert log_in(node, "bob", PASSWORD) == 200


def test_nobody_learns_whether_an_account_exists(node: Harness, sink: Sink) -> None:
    """The answer precedes every look into the database."""
    accounts_of(node.node.core).accounts.register("gochat", {"name": "dan"}, PASSWORD)
    answer = accounts_of(node.node.core).rows.add(
        Account(0, "gochat", "", email="eve@example.com"), ""
    )
    before = len(sink.mails)
    for login in (
        "nobody",
        "nobody@example.com",
        "dan",
        "eve@example.com",
        "\u200b",
        "x" * 254,
    ):
        assert node.call("POST", ASK, {"login": login}) == (202, {"seconds": 1800})
    idle(node)
    assert len(sink.mails) == before, "no address, no password, or no account"
    assert answer.email == "eve@example.com"


def test_another_page_is_named_where_the_app_says_so(node: Harness, sink: Sink) -> None:
    register(node, "fay", app="201")
    forget(node, sink, "fay", app="201")
    assert finish(node, sink.code(SHOP), app="201") == (200, "")
    status, answer = node.call("POST", ASK, {"app": "208", "login": "fay"})
    assert (status, answer["code"]) == (501, "not_implemented"), "208 has no page"
    rules = node.call("GET", "/api/v1/accounts/rules", query={"app": "208"})[1]
    assert (rules["passwords"], rules["reset"]) == (True, False)


def test_a_node_without_pages_sends_no_link_to_one(tmp_path: Path) -> None:
    of_features = sections(
        smtp={"host": "127.0.0.1", "port": 1, "sender": "im@example.com"}
    )
    harness = Harness(
        config(tmp_path, features=("messages", "accounts"), of_features=of_features)
    )
    try:
        status, answer = harness.call("POST", ASK, {"app": "gochat", "login": "ann"})
        assert (status, answer["code"]) == (501, "not_implemented")
    finally:
        harness.close()


def test_a_mail_that_is_refused_for_now_is_sent_again(
    node: Harness, sink: Sink
) -> None:
    register(node, "gil")
    sink.answers = ["451 later"]
    sink.tries = 0
    forget(node, sink, "gil")
    assert sink.tries == 2
    sink.answers = ["554 never"]
    sink.tries = 0
    assert node.call("POST", ASK, {"login": "gil"})[0] == 202
    idle(node)
    assert sink.tries == 1


def test_nothing_is_sent_openly_where_tls_is_wanted(sink: Sink) -> None:
    before = len(sink.mails)
    settings = SmtpSettings(
        "127.0.0.1", sink.port, "starttls", "im", "secret", "im@example.com"
    )
    with pytest.raises(NotSent, match="SMTPNotSupportedError"):
        send(settings, Mail("ann@example.com", "Hi", "link"))
    assert len(sink.mails) == before


def test_requests_of_one_address_are_limited_like_logins(node: Harness) -> None:
    for _ in range(ACCOUNTS["logins_per_address"]):
        assert node.call("POST", ASK, {"login": "nobody"}, host="192.0.2.55")[0] == 202
    for route, body in (
        (ASK, {"login": "nobody"}),
        (FINISH, {"code": "x", "password": NEW}),
    ):
        status, answer = node.call("POST", route, body, host="192.0.2.55")
        assert (status, answer["code"]) == (429, "too_many_requests")
    idle(node)


def test_without_passwords_all_that_takes_one_is_refused(node: Harness) -> None:
    new = {"login": "hal", "password": PASSWORD}
    for route, body, token in (
        ("accounts/register", new, ""),
        ("accounts/register", new, FOREIGN.key),
        ("accounts/login", new, ""),
        ("accounts/reset", {"login": "hal"}, ""),
        ("accounts/reset/finish", {"code": "x", "password": NEW}, ""),
        ("accounts/password", {"password": NEW}, node.account("202")),
    ):
        status, answer = node.call(
            "POST", f"/api/v1/{route}", {"app": "202", **body}, token
        )
        assert (status, answer["code"]) == (403, "passwords_off"), route
    rules = node.call("GET", "/api/v1/accounts/rules", query={"app": "202"})[1]
    assert (rules["passwords"], rules["reset"]) == (False, False)
    token = node.account("202")
    changed = node.call(
        "POST", "/api/v1/accounts/identifiers", {"app": "202", "name": "hal"}, token
    )
    assert (changed[0], changed[1]["name"]) == (200, "hal"), (
        "there is no password to give"
    )


# --- confirmed addresses ------------------------------------------------------


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
    found = re.search(
        re.escape(f"{HOME}{CONFIRM}?token=") + r"([A-Za-z0-9_=-]+)\n", sink.mails[-1][2]
    )
    assert found, sink.mails[-1]
    return found[1]


def confirm(node: Harness, token: str) -> tuple[int, str]:
    status, answer = node.call("POST", CONFIRM, query={"token": token})
    return status, answer.get("code", "")


def test_the_button_of_the_page_confirms_and_the_link_does_not(
    node: Harness, sink: Sink
) -> None:
    amy = register(node, "amy")
    assert not is_confirmed(amy)
    assert not amy.get("notifications/wishes")["mail_confirmed"]
    token = token_for(amy, sink)
    sender, to, text = sink.mails[-1]
    assert (sender, to) == ("im@example.com", ["amy@example.com"])
    assert "An account at im.example.com names" in text
    assert "bank" not in text, (
        "the words of a user are in no mail to an address that is not confirmed"
    )
    row = next(each for each in ROUTES if (each.method, each.path) == ("GET", CONFIRM))
    page = node.ask(row, query={"token": token})
    assert page.status == 200
    assert b"<button>Confirm</button>" in page.body
    assert not is_confirmed(amy)
    assert confirm(node, token) == (200, "")
    assert is_confirmed(amy)
    assert amy.get("notifications/wishes")["mail_confirmed"]
    assert confirm(node, token) == (200, ""), "a second click does no harm"
    assert amy.post("accounts/email/request")["confirmed"]


def test_a_link_is_for_an_address_and_a_day(
    node: Harness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    ben = register(node, "ben")
    token = token_for(ben, sink)
    wrong = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    assert confirm(node, wrong) == confirm(node, "x") == (404, "unknown_confirmation")
    change(ben, "ben@example.net")
    assert confirm(node, token) == (404, "unknown_confirmation")
    change(ben, "ben@example.com")
    assert confirm(node, token) == (200, "")
    change(ben, "other@example.com")
    assert not is_confirmed(ben)
    monkeypatch.setattr(confirmations, "LINK_SECONDS", 0)
    change(ben, "late@example.com")
    assert confirm(node, token_for(ben, sink)) == (404, "unknown_confirmation")


def test_an_account_and_an_address_get_few_mails(node: Harness, sink: Sink) -> None:
    """An account cannot mail strangers in turn, and accounts cannot mail one
    stranger in turn."""
    eva = register(node, "eva")
    for number in range(MAILS):
        change(eva, f"stranger{number}@example.com")
        token_for(eva, sink)
    change(eva, "one.more@example.com")
    assert eva.refused("accounts/email/request") == (429, "too_many_requests")
    mal = register(node, "mal")
    sid = register(node, "sid")
    for number in range(MAILS):
        user = (mal, sid)[number % 2]
        change(user, "victim@example.com")
        token_for(user, sink)
        change(user, f"{number}@example.com")
    change(sid, "victim@example.com")
    assert sid.refused("accounts/email/request") == (429, "too_many_requests")
    before = len(sink.mails)
    assert node.call("POST", ASK, {"login": "sid"})[0] == 202
    idle(node)
    assert len(sink.mails) == before, "mails for a forgotten password count, too"


def test_a_back_end_may_confirm_and_a_user_may_not(node: Harness) -> None:
    gus = register(node, "gus")
    given = {"email": "gus@example.org", "email_confirmed": True}
    assert gus.refused("accounts/identifiers", **given, password=PASSWORD) == (
        403,
        "not_allowed",
    )
    new = {
        "name": "hob",
        "password": PASSWORD,
        "email": "hob@example.com",
        "email_confirmed": True,
    }
    assert User(node, "", app="gochat").refused("accounts/register", **new) == (
        403,
        "not_allowed",
    )
    back_end = User(node, ADMIN.key, app="201")
    jo = User.register(node, "201", email="jo@example.com")
    given = {"email": "jo@example.org", "email_confirmed": True}
    assert back_end.post("accounts/identifiers", user=jo.user, **given)[
        "email_confirmed"
    ]
    assert is_confirmed(jo)
    assert back_end.post("accounts/register", **new)["account"]["email_confirmed"]
    assert "email_confirmed" not in User.register(node, "201").get(
        "accounts/show", of=jo.user
    )


def test_a_node_of_the_release_before_changes_an_address_and_confirms_nothing(
    node: Harness,
) -> None:
    jan = register(node, "jan")
    rows = accounts_of(node.node.core).rows
    assert rows.confirm_email(int(jan.user), lambda _: True)
    node.node.core.store.execute(
        "UPDATE account SET email = 'x@example.com' WHERE id = %s", (jan.user,)
    )
    assert not is_confirmed(jan)


def test_without_an_address_or_a_mail_server_nothing_is_sent(
    node: Harness, tmp_path: Path
) -> None:
    assert User.register(node, "gochat").refused("accounts/email/request")[0] == 400
    other = Harness(
        config(tmp_path, of_features=sections(accounts={"registration": True}))
    )
    try:
        assert register(other, "kim").refused("accounts/email/request") == (
            501,
            "not_implemented",
        )
    finally:
        other.close()
