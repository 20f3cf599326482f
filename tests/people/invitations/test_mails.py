"""Invitations by e-mail: who may send them, what is sent, what the mail server
refuses, and a restart."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.config.settings import AppSettings
from imserver.gateway.storage.statements import text_of
from imserver.people.accounts.declared import AccountsOfApp, AppAccountSettings
from imserver.people.accounts.parts import accounts_of
from imserver.people.invitations.mails import STORED_SECONDS, InvitationMails
from tests.rows import sections
from tests.security.mail import Sink
from tests.security.node_harness import ADMIN, APPS, RULED, Harness, config
from tests.support import until
from tests.users import User

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

APP = "201"
SITE = "https://im.example.com"
PER_DAY = 40


def start(folder: Path, sink: Sink | None) -> Harness:
    rules = AppAccountSettings(guests=True)
    apps = {
        **APPS,
        APP: replace(RULED, api_allow_from=(), of_features=(AccountsOfApp(rules),)),
    }
    accounts = {
        "registration": True,
        "registrations_per_address": 0,
        "invitation_mails": PER_DAY,
    }
    mail = {"smtp": sink.settings} if sink else {}
    settings = sections(accounts=accounts, chat={"name": "Tea house"}, **mail)
    return Harness(
        config(folder, apps=apps, app=AppSettings(http_url=SITE), of_features=settings)
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Harness]:
    harness = start(tmp_path_factory.mktemp("mails"), sink)
    yield harness
    harness.close()


class Host:
    """An owner of the app with a group, and what is mailed for them."""

    def __init__(self, node: Harness, role: str = "owner") -> None:
        self.node = node
        self.ann = User.register(node, APP, nickname="Ann <b>")
        if role:
            User(node, ADMIN.key, app=APP).post(
                "accounts/role", user=self.ann.user, role=role
            )
        self.group: str = self.ann.post("groups/create", name="Tea & more")["group"]

    def mail(self, *emails: str, **fields: Any) -> Any:
        return self.ann.post(
            "invitations/mail", group=self.group, emails=emails, guests=True, **fields
        )

    def page(self) -> Any:
        return self.ann.get("invitations/mails", group=self.group)

    def is_settled(self, **counts: int) -> Callable[[], bool]:
        return lambda: (
            self.page()["counts"]
            == {"waiting": 0, "sent": 0, "refused": 0, "joined": 0} | counts
        )

    def rows(self) -> Any:
        return self.page()["mails"]

    def states(self) -> dict[str, str]:
        return {row["email"]: row["state"] for row in self.rows()}


def join(node: Harness, code: str) -> tuple[int, str]:
    body = {"app": APP, "code": code, "nickname": "Gil"}
    status, answer = node.call("POST", "/api/v1/invitations/join", body)
    return status, answer.get("code", "")


def test_each_address_gets_a_link_of_its_own_which_works_once(
    node: Harness, sink: Sink
) -> None:
    host = Host(node)
    before = len(sink.mails)
    answer = host.mail(
        "gil@example.com",
        " GIL@example.com",
        "eve@example.com",
        "no address",
        language="de",
    )
    assert answer == {
        "count": 2,
        "refused": [{"email": "no address", "reason": "no_address"}],
    }
    until(host.is_settled(sent=2))
    assert host.page()["refusal"] == ""
    mails = {to: text for _, (to,), text in sink.mails[before:]}
    assert sorted(mails) == ["eve@example.com", "gil@example.com"]
    text = mails["gil@example.com"]
    message = sink.messages[-1]
    assert message["Subject"] == "Ann <b> lädt dich zu Tea & more auf Tea house ein"
    html = message.get_body(("html",))
    assert html is not None
    assert "Ann &lt;b&gt; lädt dich zu" in html.get_content()
    code = text.partition(f"{SITE}/home/messages#invite=")[2][:22]
    assert [join(node, code) for _ in range(2)] == [
        (201, ""),
        (404, "unknown_invitation"),
    ]
    shown = node.call(
        "GET", "/api/v1/invitations/show", query={"app": APP, "code": code}
    )
    assert (shown[0], shown[1]["code"]) == (410, "invitation_used")
    assert host.states() == {"gil@example.com": "joined", "eve@example.com": "sent"}
    again = host.mail("eve@example.com", "gil@example.com")
    assert again["refused"] == [{"email": "eve@example.com", "reason": "invited"}]
    assert host.ann.get("invitations", group=host.group)["invitations"] == [], (
        "they are a list of their own"
    )


def test_what_the_mail_server_refuses_is_shown_with_its_words(
    node: Harness, sink: Sink
) -> None:
    host = Host(node)
    sink.answers = ["550 5.1.1 nobody of this name"]
    host.mail("nobody@example.com")
    until(host.is_settled(refused=1))
    assert host.rows()[0]["reason"] == "550 5.1.1 nobody of this name"
    assert host.mail("nobody@example.com")["refused"] == [], (
        "after a mistake it is mended"
    )


def test_what_waits_is_sent_after_a_restart_if_its_host_still_may(
    tmp_path: Path, sink: Sink
) -> None:
    first = start(tmp_path, sink)
    host = Host(first)
    other = Host(first)
    sink.answers = ["451 later"] * 3
    host.mail("first@example.com", "second@example.com")
    other.mail("third@example.com")
    until(
        lambda: (
            [row["reason"] for row in host.rows() + other.rows()] == ["451 later"] * 3
        )
    )
    User(first, ADMIN.key, app=APP).post(
        "accounts/role", user=other.ann.user, role="member"
    )
    rows = {row["email"]: row["code"] for row in host.rows() + other.rows()}
    host.ann.post("invitations/revoke", code=rows["second@example.com"])
    first.close()
    # A node that waits for a pause of the one before would make the test long.
    second = start(tmp_path, sink)
    before = len(sink.mails)
    again = User(second, ADMIN.key, app=APP)
    for email, group in (
        ("third@example.com", other.group),
        ("first@example.com", host.group),
    ):
        second.node.core.service(InvitationMails).runner.start(APP, rows[email])
        until(
            lambda: (
                again.get("invitations/mails", group=group)["counts"]["waiting"] == 0  # noqa: B023
            )
        )
    assert [to for _, (to,), _ in sink.mails[before:]] == ["first@example.com"]
    assert sink.ids[-1] in sink.ids[:-1], "who has got it twice sees it once"
    assert rows["first@example.com"] not in sink.ids[-1]
    second.close()


def test_a_mail_waits_for_a_mail_server_that_is_away(tmp_path: Path) -> None:
    away = Sink()
    away.stop()
    node = start(tmp_path, away)
    host = Host(node)
    host.mail("gil@example.com")
    until(lambda: "refused" in host.rows()[0]["reason"].lower())
    assert host.states() == {"gil@example.com": "waiting"}
    node.close()


def test_only_owners_and_moderators_mail_and_only_where_mail_is_sent(
    node: Harness, tmp_path: Path
) -> None:
    member = Host(node, role="")
    fields = {"group": member.group, "emails": ["bob@example.com"]}
    assert member.ann.refused("invitations/mail", **fields) == (403, "not_allowed")
    assert member.page()["refusal"] == "role"
    owner = Host(node)
    assert owner.ann.refused("invitations/mail", **fields) == (404, "unknown_group")
    assert owner.ann.refused_get("invitations/mails", group=member.group) == (
        404,
        "unknown_group",
    )
    mute = start(tmp_path, None)
    host = Host(mute)
    assert host.ann.refused("invitations/mail", **fields | {"group": host.group}) == (
        501,
        "not_implemented",
    )
    assert host.page()["refusal"] == "no_mail"
    mute.close()


def test_an_app_and_an_address_get_a_limited_number(tmp_path: Path, sink: Sink) -> None:
    node = start(tmp_path, sink)
    host = Host(node)
    for number in range(3):
        host = Host(node)
        assert host.mail("victim@example.com")["refused"] == [], number
    last = Host(node).mail("victim@example.com")
    assert last == {
        "count": 0,
        "refused": [{"email": "victim@example.com", "reason": "often"}],
    }
    many = [f"{number}@example.com" for number in range(PER_DAY)]
    fields = {"group": host.group, "emails": many}
    assert host.ann.refused("invitations/mail", **fields) == (429, "too_many_requests")
    node.close()


def test_an_address_is_deleted_after_a_month_or_with_its_host(node: Harness) -> None:
    core = node.node.core
    host = Host(node)
    other = Host(node)
    for one in (host, other):
        one.mail("late@example.com")
        until(one.is_settled(sent=1))
    accounts_of(core).accounts.remove(APP, other.ann.user)
    rows = core.store.rows(
        "SELECT member FROM invitation_mail WHERE email = %s", ("late@example.com",)
    )
    assert [text_of(member) for (member,) in rows] == [host.ann.user]
    end = host.rows()[0]["created"] + STORED_SECONDS
    for count in (1, 0):
        core.service(InvitationMails).forget(end + 1 - count)
        assert len(host.rows()) == count
