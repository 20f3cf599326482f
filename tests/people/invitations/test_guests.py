"""Guests: they come by an invitation with a name, talk in their groups, and
become members or expire."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.storage.store import Store
from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import AccountsOfApp, AppAccountSettings
from imserver.people.accounts.parts import AccountParts, accounts_of
from imserver.people.accounts.rows import AccountStore
from imserver.people.invitations.rows import (
    InvitationMail,
    InvitationShown,
    InvitationStore,
    MailCounts,
    use,
)
from tests.rows import sections
from tests.security.node_harness import ADMIN, ALL, APPS, RULED, Harness, config
from tests.stores import OpenStore
from tests.users import PASSWORD, User

APP = "202"
PER_ADDRESS = 3
DAYS = 30


def start(folder: Path) -> Harness:
    """A node whose app 202 takes guests, and 201 none."""
    rules = AppAccountSettings(guests=True)
    apps = {
        **APPS,
        APP: replace(RULED, api_allow_from=(), of_features=(AccountsOfApp(rules),)),
    }
    accounts = {
        "registration": True,
        "registrations_per_address": 0,
        "guest_days": DAYS,
    }
    of_features = sections(accounts={**accounts, "guests_per_address": PER_ADDRESS})
    return Harness(config(folder, apps=apps, of_features=of_features))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = start(tmp_path_factory.mktemp("guests"))
    yield harness
    harness.close()


def test_an_address_has_no_more_guests_after_a_restart(tmp_path: Path) -> None:
    harness = start(tmp_path)
    code = Host(harness).code
    statuses = []
    for _ in range(2):
        body = {"app": APP, "code": code, "nickname": "Gil"}
        for _ in range(2):
            statuses.append(
                harness.call(
                    "POST", "/api/v1/invitations/join", body, host="192.0.2.7"
                )[0]
            )
        harness.close()
        harness = start(tmp_path)
    harness.close()
    assert statuses == [201, 201, 201, 429]


class Host:
    """A member with a group, and an invitation to it for guests."""

    def __init__(self, node: Harness) -> None:
        self.node = node
        self.people: AccountParts = accounts_of(node.node.core)
        self.ann = User.register(node, APP)
        self.group = self.ann.group()
        self.code = self.invite(guests=True)

    def invite(self, **fields: Any) -> str:
        code: str = self.ann.post("invitations/create", group=self.group, **fields)[
            "code"
        ]
        return code

    def join(
        self, nickname: str = "Gil", code: str = "", host: str = "127.0.0.1"
    ) -> tuple[int, Any]:
        body = {
            "app": APP,
            "code": code or self.code,
            "nickname": nickname,
            "device": "phone",
        }
        status, answer = self.node.call(
            "POST", "/api/v1/invitations/join", body, host=host
        )
        return status, answer

    def guest(self) -> User:
        session = self.join()[1]["session"]
        return User(
            self.node,
            session["token"],
            session["account"]["user"],
            APP,
            session["account"],
        )

    def say(self, user: User, text: str) -> None:
        user.post("messages/send", conversation=int(self.group), text=text)

    def texts_of(self, sender: User, reader: User) -> list[str]:
        page = reader.get("messages", conversation=self.group)["messages"]
        return [
            each["text"]
            for each in page
            if each.get("from") == sender.user and "text" in each
        ]

    def members(self) -> set[str]:
        return set(self.ann.roles(self.group))

    def accounts(self) -> int:
        return len(self.people.rows.by_ids(APP, range(1000)))


@pytest.fixture
def host(node: Harness) -> Host:
    return Host(node)


def test_a_guest_comes_with_a_name_and_is_marked_as_one(host: Host) -> None:
    preview = host.node.call(
        "GET", "/api/v1/invitations/show", query={"app": APP, "code": host.code}
    )[1]
    assert preview["guests"]
    gil = host.guest()
    assert (gil.account["nickname"], gil.account["guest"]) == ("Gil", True)
    assert host.members() == {host.ann.user, gil.user}
    assert (host.ann.card(gil)["guest"], gil.card(host.ann)["guest"]) == (True, False)
    host.say(gil, "hello")
    assert host.texts_of(gil, host.ann) == ["hello"]


def test_an_owner_lets_a_guest_in_as_a_member_and_removes_another(host: Host) -> None:
    gil = host.guest()
    kim = host.guest()
    host.say(kim, "bye")
    owner = User(host.node, ALL.key, app=APP)
    assert host.ann.refused("accounts/guests/admit", user=gil.user, name="gil") == (
        403,
        "not_allowed",
    )
    owner.post("accounts/role", user=host.ann.user, role="owner")
    admitted = host.ann.post("accounts/guests/admit", user=gil.user, name="Gil.1")
    assert (admitted["kind"], admitted["name"]) == ("person", "gil.1")
    assert host.ann.refused("accounts/guests/admit", user=gil.user, name="gil") == (
        409,
        "no_guest",
    )
    assert host.ann.refused("accounts/guests/admit", user=kim.user, name="gil.1") == (
        409,
        "login_taken",
    )
    assert gil.post("invitations/create", group=host.group)["code"], (
        "with the login of the guest"
    )
    lasts = [
        each["last"].get("text", "")
        for each in gil.get("conversations")["conversations"]
    ]
    assert any("Your user name is gil.1" in each for each in lasts)
    assert kim.refused("accounts/password", password="battery staple")[0] == 403
    gil.post("accounts/password", password="battery staple")
    login = {"app": APP, "login": "gil.1", "password": "battery staple"}
    gil.token = host.node.call("POST", "/api/v1/accounts/login", login)[1]["token"]
    assert gil.refused("accounts/password", password="horse staple") == (
        401,
        "wrong_login",
    ), "it has one"
    host.ann.post("accounts/guests/remove", user=kim.user)
    assert host.ann.refused("accounts/guests/remove", user=gil.user) == (
        409,
        "no_guest",
    )
    assert host.members() == {host.ann.user, gil.user}
    page = host.ann.get("messages", conversation=host.group)["messages"]
    assert "bye" in [each.get("text") for each in page], "what they wrote stays"


def test_an_owner_sees_all_links_of_the_app_and_ends_one(host: Host) -> None:
    bob = User.register(host.node, APP, nickname="Bob")
    code = bob.post("invitations/create")["code"]
    User(host.node, ALL.key, app=APP).post(
        "accounts/role", user=host.ann.user, role="owner"
    )
    assert bob.refused_get("invitations/list") == (403, "not_allowed")
    page = host.ann.get("invitations/list", limit=1000)
    links = {each["code"]: each for each in page["invitations"]}
    assert links[code]["user"] == bob.user
    assert page["names"][bob.user] == "Bob"
    assert page["groups"][links[host.code]["group"]]
    host.ann.post("invitations/end", code=code)
    assert host.ann.refused("invitations/end", code=code) == (404, "unknown_invitation")
    assert code not in [
        each["code"]
        for each in host.ann.get("invitations/list", limit=1000)["invitations"]
    ]


@pytest.mark.parametrize("nickname", ["", " ", "a\x00", "x" * 65])
def test_a_guest_has_a_name(host: Host, nickname: str) -> None:
    assert host.join(nickname)[0] == 400
    assert host.members() == {host.ann.user}


def test_only_an_invitation_for_guests_lets_them_in(host: Host) -> None:
    before = host.accounts()
    assert [host.join(code=code)[0] for code in (host.invite(), "x" * 22)] == [404, 404]
    once = host.invite(guests=True, uses=1)
    assert [host.join(code=once)[0] for _ in range(2)] == [201, 404]
    assert host.accounts() == before + 1
    host.ann.post("invitations/revoke", code=host.code)
    assert host.join()[0] == 404


def test_whoever_does_not_come_in_leaves_no_account(host: Host) -> None:
    before = host.accounts()
    host.ann.post("groups/options", group=host.group, invite="admin")
    host.ann.post("groups/leave", group=host.group)
    assert host.join()[0] == 404
    assert host.accounts() == before


def test_an_app_without_guests_takes_none(node: Harness) -> None:
    ann = User.register(node, "201")
    assert ann.refused("invitations/create", group=ann.group(), guests=True) == (
        403,
        "not_allowed",
    )


def test_a_guest_enters_by_invitation_only_and_gathers_nobody(host: Host) -> None:
    gil = host.guest()
    bob = User.register(host.node, APP)
    group = bob.group()
    bob.post("groups/open", group=group, open=True)
    for route, fields in {
        "groups/create": {"name": "mine"},
        "groups/join": {"group": group},
        "groups/invite": {"group": host.group, "members": [bob.user]},
        "messages/send": {"to": bob.user, "text": "psst"},
    }.items():
        assert gil.refused(route, **fields)[0] == 403, route
    as_contact = bob.post("invitations/create")["code"]
    assert gil.refused("invitations/accept", code=as_contact)[0] == 403
    to_group = bob.post("invitations/create", group=group)["code"]
    assert gil.post("invitations/accept", code=to_group)["status"] == "joined"


def test_a_guest_reaches_one_user_after_that_user_has_written(host: Host) -> None:
    relations = host.node.node.core.relations
    guest = host.guest()
    ann = host.ann.user
    gil = guest.user

    def reached() -> list[bool]:
        return [relations.may_reach(APP, gil, ann), relations.may_write(APP, gil, ann)]

    assert reached() == [False, False]
    assert relations.may_reach(APP, gil, gil)
    assert [relations.may_gather(APP, each) for each in (gil, ann, "")] == [
        False,
        True,
        True,
    ]
    host.ann.post("messages/send", to=gil, text="hello")
    assert reached() == [True, True]
    guest.post("messages/send", to=ann, text="hello, Ann")


def test_a_guest_who_came_by_the_link_of_a_person_is_a_friend_and_writes_first(
    host: Host,
) -> None:
    ann = host.ann
    bob = User.register(host.node, APP)
    code = ann.post("invitations/create", guests=True)["code"]
    status, answer = host.join(code=code)
    assert (status, answer["group"]) == (201, "")
    gil = User(
        host.node, answer["session"]["token"], answer["session"]["account"]["user"], APP
    )
    assert ann.card(gil)["relation"] == "friend"
    gil.post("messages/send", to=ann.user, text="hello, Ann")
    assert gil.refused("messages/send", to=bob.user, text="psst")[0] == 403
    as_contact = bob.post("invitations/create", guests=True)["code"]
    assert gil.refused("invitations/accept", code=as_contact)[0] == 403, (
        "one who is in gathers no friends"
    )


def test_a_guest_sends_a_limited_number_of_messages(host: Host) -> None:
    gil = host.guest()
    message = {"conversation": int(host.group), "text": "hi"}
    sent = [gil.ask("POST", "messages/send", message)[0] for _ in range(7)]
    assert sent[:5] == [200] * 5
    assert 429 in sent


def test_a_password_makes_a_member_that_keeps_groups_and_messages(host: Host) -> None:
    gil = host.guest()
    host.say(gil, "from a guest")
    assert gil.refused("accounts/promote", password=PASSWORD)[0] == 400
    name = f"gil{gil.user}"
    session = gil.post("accounts/promote", name=name, password=PASSWORD)
    member = User(host.node, session["token"], gil.user, APP, session["account"])
    assert (member.account["user"], member.account["name"]) == (gil.user, name)
    assert not member.account["guest"]
    assert gil.refused("groups/create", name="mine") == (401, "token_invalid")
    assert member.group()
    assert host.texts_of(member, member) == ["from a guest"]
    assert member.refused("accounts/promote", name=name, password=PASSWORD) == (
        409,
        "no_guest",
    )
    login = {"app": APP, "login": name, "password": PASSWORD}
    assert host.node.call("POST", "/api/v1/accounts/login", login)[0] == 200


def test_unused_guests_are_deleted_and_their_messages_stay(host: Host) -> None:
    gil = host.guest()
    guests = host.people.guests
    host.say(gil, "farewell")
    created = gil.account["created"]
    days = DAYS * 86400
    guests.expire(created + days)
    assert gil.user in host.members()
    assert guests.expire(created + days + 3600) >= 1
    assert host.members() == {host.ann.user}
    assert host.texts_of(gil, host.ann) == ["farewell"]


def test_a_back_end_makes_a_member_of_a_guest(host: Host) -> None:
    gil = host.guest()
    back_end = User(host.node, ADMIN.key, app="201")
    assert (
        back_end.refused(
            "accounts/promote", user=gil.user, name="gil", password=PASSWORD
        )[0]
        == 404
    )


# --- invitations, as each kind of database keeps them -------------------------

NOW = 1_000
ONE = InvitationShown("a" * 22, "7", "ann", NOW, 0, 0, 0, False)


@pytest.fixture
def rows(url: str, open_store: OpenStore) -> InvitationStore:
    return InvitationStore(open_store(url))


def codes(found: list[InvitationShown]) -> str:
    return "".join(each.code[0] for each in found)


def test_without_a_database_there_are_no_invitations(open_store: OpenStore) -> None:
    rows = InvitationStore(store := open_store())
    assert rows.get("shop", ONE.code) is None
    assert rows.page("shop", "ann", None, NOW, "", 10) == []
    rows.remove("shop", ONE.code)
    assert not store.has_database


def test_an_invitation_is_found_in_its_app_only(rows: InvitationStore) -> None:
    assert rows.add("shop", ONE, 10)
    assert rows.get("shop", ONE.code) == ONE
    for_guests = replace(ONE, code="g" * 22, guests=True)
    assert rows.add("shop", for_guests, 10)
    assert rows.get("shop", for_guests.code) == for_guests
    assert rows.get("other", ONE.code) is None
    assert rows.get("shop", ONE.code.upper()) is None
    rows.remove("other", ONE.code)
    assert rows.get("shop", ONE.code) == ONE
    rows.remove("shop", ONE.code)
    assert rows.get("shop", ONE.code) is None


def test_lists_show_what_has_not_ended(rows: InvitationStore) -> None:
    for letter, change in {
        "a": {},
        "b": {"group": ""},
        "c": {"user": "bob"},
        "d": {"expires_at": NOW},
        "e": {"expires_at": NOW + 1},
        "f": {"uses": 2, "max_uses": 2},
        "g": {"user": "", "group": "7"},
    }.items():
        assert rows.add("shop", replace(ONE, code=letter * 22, **change), 10)  # type: ignore[arg-type]
    assert rows.add("other", replace(ONE, code="h" * 22), 10)
    assert codes(rows.page("shop", "ann", None, NOW, "", 10)) == "abe"
    assert codes(rows.page("shop", None, 7, NOW, "", 10)) == "aceg"
    assert codes(rows.page("shop", "ann", 7, NOW, "", 10)) == "ae"
    assert codes(rows.page("shop", None, 7, NOW, "a" * 22, 2)) == "ce"


def test_those_that_have_ended_do_not_count(rows: InvitationStore) -> None:
    assert rows.add("shop", replace(ONE, expires_at=NOW + 5), 2)
    assert rows.add("shop", replace(ONE, code="b" * 22), 2)
    assert not rows.add("shop", replace(ONE, code="c" * 22), 2)
    assert rows.add("shop", replace(ONE, code="d" * 22, created=NOW + 5), 2)
    assert rows.get("shop", ONE.code) is None
    backend = replace(ONE, user="")
    assert rows.add("shop", replace(backend, code="e" * 22), 1)
    assert not rows.add("shop", replace(backend, code="f" * 22), 1)
    assert rows.add("shop", replace(backend, code="g" * 22, group="8"), 1), (
        "some for each group"
    )


def test_invitations_that_are_made_at_once_do_not_exceed_the_limit(
    url: str, open_store: OpenStore
) -> None:
    accounts = AccountStore(open_store(url))
    makers = [
        accounts.add(Account(0, "shop", str(number)), "a hash") for number in range(20)
    ]
    together = Barrier(3)

    def make(letter: str, rows: InvitationStore) -> list[bool]:
        added = []
        for maker in makers:
            together.wait(60)
            new = replace(
                ONE, user=maker.user, code=f"{letter}{maker.id}".ljust(22, "-")
            )
            added.append(rows.add("shop", new, 1, maker.id))
        return added

    with ThreadPoolExecutor(3) as pool:
        results = pool.map(
            make, "abc", [InvitationStore(open_store(url)) for _ in range(3)]
        )
    assert [sum(each) for each in zip(*results, strict=True)] == [1] * len(makers)


def test_an_invitation_is_used_as_often_as_it_says_until_it_ends(
    url: str, open_store: OpenStore
) -> None:
    stores = [open_store(url) for _ in range(4)]
    rows = InvitationStore(stores[0])
    rows.add("shop", replace(ONE, max_uses=3), 10)

    def use_two(store: Store) -> list[bool]:
        return [
            store.write(lambda sql: use(sql, "shop", ONE.code, NOW)) for _ in range(2)
        ]

    with ThreadPoolExecutor(4) as pool:
        used = [one for some in pool.map(use_two, stores) for one in some]
    assert sorted(used) == [False] * 5 + [True] * 3
    rows.add("shop", replace(ONE, code="b" * 22, expires_at=NOW + 1), 10)
    for at, is_used in ((NOW, True), (NOW + 1, False)):
        assert (
            stores[0].write(lambda sql, at=at: use(sql, "shop", "b" * 22, at))
            is is_used
        )  # type: ignore[misc]


def test_invitations_by_mail_are_kept_by_themselves(
    url: str, open_store: OpenStore
) -> None:
    rows = InvitationStore(store := open_store(url))
    new = InvitationMail("", "7", "ann", "", "waiting", "", NOW, NOW + 9, "en")
    some = [replace(new, code=letter * 22, email=f"{letter}@x") for letter in "abc"]
    rows.add_mails(
        "shop", [*some, replace(new, code="d" * 22, email="d@x", user="bob")], True
    )
    assert rows.add("shop", replace(ONE, code="l" * 22), 1), (
        "they are no links of their maker"
    )
    assert codes(rows.page("shop", None, 7, NOW, "", 10)) == "l"
    assert rows.mails("shop", "ann", 7, "", 2) == some[:2]
    assert rows.mails("shop", "", 7, "b" * 22, 9)[1].user == "bob"
    rows.note_mail("shop", "b" * 22, "550 no")
    assert rows.mail("shop", "b" * 22) == replace(some[1], reason="550 no")
    assert store.write(lambda sql: use(sql, "shop", "a" * 22, NOW))
    assert not store.write(lambda sql: use(sql, "shop", "a" * 22, NOW)), (
        "each is for one person"
    )
    rows.remove("shop", "c" * 22)
    assert rows.count_mails("shop", "ann", 7) == MailCounts(waiting=1, joined=1)
    assert rows.invited_among("shop", 7, ["a@x", "b@x", "c@x", "e@x"], NOW) == {"b@x"}
    assert rows.invited_among("shop", 7, ["b@x"], NOW + 9) == set()
    rows.forget_mails(NOW + 1)
    assert rows.count_mails("shop", "", 7) == MailCounts()
    assert [rows.get("shop", letter * 22) is None for letter in "bl"] == [
        True,
        False,
    ], "with its link"
