"""Who finds an account, who sees when somebody is online, and who is
invited."""

from contextlib import closing
from itertools import chain
from time import time
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.http.operation import Operation
from imserver.messenger.groups.wire import CreateGroup, InviteToGroup, UpdateGroup
from imserver.messenger.log.message_log import MessageLog
from imserver.people.accounts import cards
from imserver.people.accounts.declared import AccountsOfApp, AppAccountSettings
from imserver.people.accounts.parts import accounts_of
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.http import read_cursor
from tests.rows import DOCUMENTED
from tests.users import PASSWORD, User

from .node_harness import ADMIN, ALL, APPS, RULED, Harness
from .test_relations import Session, of_users

FINDS = 5
SEARCHES = 6
GROUPS = 8
INVITATIONS = 3


RULED_BY = {
    "202": AppAccountSettings(("email",), find=False),
    "205": AppAccountSettings(search=True),
    "asking": AppAccountSettings(ask_strangers=True),
    "listed": AppAccountSettings(search=True, show_emails=True),
}
"""The accounts of 202 have e-mail addresses only and do not find each other;
those of 205 are searched by their names; those of the app ``asking`` do not add
strangers to groups; those of ``listed`` see e-mail addresses."""
NODE = {
    "apps": APPS
    | {
        app: replace(RULED, api_allow_from=(), of_features=(AccountsOfApp(rules),))
        for app, rules in RULED_BY.items()
    },
    "accounts": {
        "failures": 3,
        "finds_per_account": FINDS,
        "searches_per_account": SEARCHES,
        "invitations": INVITATIONS,
        "groups_per_user": GROUPS,
        "group_members": 3,
    },
}


def person(node: Harness, app: str = "201", **fields: Any) -> User:
    return User.register(node, app, **fields)


def log_in(
    node: Harness, login: str, password: str = PASSWORD, **more: Any
) -> tuple[int, Any]:
    body = {"app": "201", "login": login, "password": password}
    return node.call("POST", "/api/v1/accounts/login", body, **more)


@pytest.mark.parametrize(
    ("login", "kind", "stored", "other"),
    [
        ("Ann.One@Example.com", "email", "ann.one@example.com", " Ann.One@example.COM"),
        ("AnnOne", "name", "annone", "ANNONE "),
        ("+49 (170) 12-34", "phone", "+491701234", "+49 170 1234"),
    ],
)
def test_an_account_logs_in_with_any_spelling_of_its_identifier(
    node: Harness, login: str, kind: str, stored: str, other: str
) -> None:
    one = person(node, login=login)
    expected = {"phone": "", "email": "", "name": "", kind: stored}
    assert {name: one.account[name] for name in expected} == expected
    for text in (login, stored, other):
        status, session = log_in(node, text)
        assert (status, session["account"]["user"]) == (200, one.user)
        body = {"app": "201", "login": text, "password": PASSWORD}
        assert node.call("POST", "/api/v1/accounts/register", body)[0] == 409


def test_identifiers_of_one_account_can_be_changed_with_its_password(
    node: Harness,
) -> None:
    one = person(node, phone="4711", email="cid@example.com", name="cid", login="Cid")
    other = person(node, phone="someone")
    route = "accounts/identifiers"
    proof = {"password": PASSWORD}
    assert one.refused(route, name="someone", **proof) == (409, "login_taken")
    assert one.refused(route, email="", password="wrong horse") == (401, "wrong_login")
    assert one.refused(route, email="", phone="", name="", **proof)[0] == 400
    changed = one.post(route, email="", phone="", name="CID", **proof)
    assert (changed["phone"], changed["email"], changed["name"]) == ("", "", "cid")
    logins = [
        log_in(node, text, host="192.0.2.9")[0]
        for text in ("4711", "cid@example.com", "cid")
    ]
    assert logins == [401, 401, 200]
    assert other.post(route, email="cid@example.com", phone="", **proof)["phone"] == ""
    back_end = User(node, ADMIN.key, app="201")
    assert back_end.post(route, user=one.user, phone="4711"), (
        "a back end needs no password"
    )


def test_a_stolen_token_deletes_no_account_and_failures_count_for_all_identifiers(
    node: Harness,
) -> None:
    one = person(node, name="leaver")
    refused = (401, "wrong_login")
    assert one.refused("accounts/delete") == refused
    assert [
        one.refused("accounts/delete", password="wrong horse") for _ in range(2)
    ] == [refused] * 2
    assert one.refused("accounts/delete", password=PASSWORD) == (
        429,
        "too_many_requests",
    )
    assert one.post("accounts/set", nickname="Here")["user"] == one.user
    fields = {"app": "201", "user": one.user}
    assert node.call("POST", "/api/v1/accounts/delete", fields, ADMIN.key) == (
        200,
        {"user": one.user},
    )
    person(node, phone="7001", email="hal@example.com", name="hal")
    here = "198.51.100.1"
    logins = ("7001", "hal@example.com", "hal")
    assert [log_in(node, text, "wrong", host=here)[0] for text in logins] == [
        401,
        401,
        401,
    ]
    assert log_in(node, "HAL@example.com", host=here)[0] == 429
    assert log_in(node, "hal", host="198.51.100.2")[0] == 200


def test_an_invalid_identifier_is_refused(node: Harness) -> None:
    anybody = User(node, "", app="201")
    for given in (
        {},
        {"login": "张三"},
        {"login": "a b"},
        {"email": "ann"},
        {"name": "9lives"},
        {"name": "an"},
        {"login": "eve", "name": "dan"},
        {"email": "x@" + "e" * 253},
        {"email": "<x@y.example>"},
        {"email": "a,x@y.example"},
        {"login": "x@y.example."},
        {"login": '"x"@y.example'},
        {"email": "x(1)@y.example"},
        {"email": "x@y.example;"},
    ):
        refused = anybody.refused("accounts/register", password=PASSWORD, **given)
        assert refused == (400, "invalid_request"), given


def test_an_app_chooses_the_identifiers_of_its_accounts(node: Harness) -> None:
    body = {"app": "202", "password": PASSWORD, "login": "fay"}
    assert node.call("POST", "/api/v1/accounts/register", body)[0] == 400
    fay = person(node, "202", login="fay@example.com")
    person(node, "202", login="gus@example.com")
    assert fay.refused("accounts/find", text="gus@example.com") == (403, "not_allowed")
    assert fay.refused("accounts/identifiers", name="fay", password=PASSWORD)[0] == 400
    rules = {
        "registration": True,
        "identifiers": ["email"],
        "find": False,
        "search": False,
    }
    rules |= {"passwords": True, "reset": False, "guests": False}
    assert User(node, "", app="202").get("accounts/rules") == rules
    assert User(node, "", app="204").refused_get("accounts/rules")[0] == 403


def test_an_account_is_found_by_what_it_allows(node: Harness) -> None:
    ida = person(
        node, phone="8001", email="ida@example.com", name="ida", nickname="Ida"
    )
    jim = person(node, name="jim")
    for text in ("8001", "IDA@example.com", "Ida"):
        found = jim.post("accounts/find", text=text)
        assert (found["user"], found["nickname"], found["name"]) == (
            ida.user,
            "Ida",
            "ida",
        )
        assert (found["presence"], found["last_seen"]) == ("", 0), "a stranger"
    assert jim.refused("accounts/find", text="id") == (404, "unknown_account")
    ida.post("accounts/set", findable=False)
    assert jim.refused("accounts/find", text="ida") == (404, "unknown_account")
    assert jim.card(ida)["name"] == ""
    assert jim.card(ida.bot("teabot"))["name"] == "teabot", (
        "a bot may have no other name"
    )
    assert (
        ida.post("accounts/find", text="ida")["relation"]
        == ida.card(ida)["relation"]
        == "self"
    )
    jim.post("friends/request", friend=ida.user)
    assert (jim.card(ida)["relation"], ida.card(jim)["relation"]) == (
        "outgoing",
        "incoming",
    )
    assert jim.refused("accounts/cards", users=["1"] * 101)[0] == 400
    assert jim.refused("accounts/find", text="ida") == (429, "too_many_requests"), FINDS
    body = {"app": "201", "text": "ida"}
    assert (
        node.call("POST", "/api/v1/accounts/find", body, ADMIN.key)[1]["user"]
        == ida.user
    )


def test_who_has_blocked_somebody_is_not_found_by_them_and_what_they_had_in_common_goes_on(
    node: Harness,
) -> None:
    kim = person(node, name="kim")
    lea = person(node, name="lea")
    group = int(person(node).group(kim, lea))
    direct = kim.post("messages/send", to=lea.user, text="before")["conversation"]
    lea.post("friends/block", friend=kim.user)
    assert (
        kim.post("messages/send", conversation=group, text="to all")["conversation"]
        == group
    )
    for each in (kim, lea):
        assert [
            row["text"] for row in each.get("messages", conversation=direct)["messages"]
        ] == ["before"]
    assert kim.refused("accounts/find", text="lea") == (404, "unknown_account")
    assert kim.card(lea)["relation"] == ""
    assert lea.card(kim)["relation"] == "blocked"


def test_people_are_searched_by_a_part_of_their_names_where_the_app_allows_it(
    node: Harness,
) -> None:
    zoe = person(node, "205", name="zoe", nickname="Zoe Miller")
    others = [
        person(node, "205", name="milly", nickname="米丽"),
        person(node, "205", name="xena", nickname="Old MILLS"),
        person(node, "205", name="away", nickname="Mill away"),
    ]
    others[2].post("friends/block", friend=zoe.user)
    locked = person(node, "205", name="locked", nickname="Mill locked")
    assert (
        node.call(
            "POST",
            "/api/v1/accounts/lock",
            {"app": "205", "user": locked.user},
            ALL.key,
        )[0]
        == 200
    )
    blocked = person(node, "205", name="blocked", nickname="Mill blocked")
    zoe.post("friends/block", friend=blocked.user)
    found = zoe.post("accounts/search", text="míLL")
    assert [card["user"] for card in found["cards"]] == [others[1].user, others[0].user]
    assert [card["presence"] for card in found["cards"]] == ["", ""]
    assert (found["more"], found["next"]) == (False, "")
    assert zoe.post("accounts/search", text=" ") == {
        "cards": [],
        "more": False,
        "next": "",
    }
    for wrong in ({"text": "m" * 65}, {"text": "mill", "after": "2.7"}):
        assert zoe.refused("accounts/search", **wrong)[0] == 400
    for _ in range(SEARCHES - 2):
        zoe.post("accounts/search", text="nobody")
    assert zoe.refused("accounts/search", text="mill") == (429, "too_many_requests")
    body = {"app": "205", "text": "mill"}
    found = node.call("POST", "/api/v1/accounts/search", body, ALL.key)[1]
    expected = {zoe.user, blocked.user, *(each.user for each in others)}
    assert {card["user"] for card in found["cards"]} == expected
    assert person(node, name="ole").refused("accounts/search", text="ole") == (
        403,
        "not_allowed",
    ), "off by default"


def test_a_search_for_people_shows_pages_that_begin_with_those_whose_names_begin_so(
    node: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "MOST_FOUND", 2)
    monkeypatch.setattr(cards, "FIRST_STEP", 1)
    una = person(node, "205", name="una")
    inside = person(node, "205", name="opal", nickname="Opal")
    pals = [
        person(node, "205", name=f"pal{number}", nickname=f"Pal {number}")
        for number in range(3)
    ]
    pages: list[list[str]] = []
    after = ""
    while not pages or after:
        found = una.post("accounts/search", text="pal", after=after)
        pages.append([card["user"] for card in found["cards"]])
        after = found["next"]
        assert found["more"] == (after != "")
    assert pages == [[pals[1].user, pals[2].user], [pals[0].user, inside.user], []]
    assert una.post("accounts/search", text="2 pal")["more"] is False
    monkeypatch.setattr(cards, "SEARCH_SECONDS", -1)
    found = una.post("accounts/search", text="pal 0")
    assert (found["cards"], found["more"]) == ([], True), "no time"


def test_the_directory_has_everybody_whom_a_search_finds_from_a_to_z(
    node: Harness,
) -> None:
    ada = person(node, "listed", name="ada", nickname="Ada")
    names = ("Żoë", "émile", "Bob", "bob a", "米丽")
    people = {each: person(node, "listed", nickname=each) for each in names}
    hidden = [
        person(node, "listed", nickname=f"Hidden {number}") for number in range(4)
    ]
    hidden[0].post("accounts/set", findable=False)
    hidden[1].post("friends/block", friend=ada.user)
    ada.post("friends/block", friend=hidden[2].user)
    lock = {"app": "listed", "user": hidden[3].user}
    assert node.call("POST", "/api/v1/accounts/lock", lock, ALL.key)[0] == 200
    bot = ada.bot("bobbot", nickname="Bob the bot")
    guest = node.guest("listed", "Bob the guest")
    pages = [list[str]()]
    cursor = ""
    back_end = User(node, ALL.key, app="listed")
    while cursor or pages == [[]]:
        page = back_end.get("accounts/directory", user=ada.user, limit=5, cursor=cursor)
        pages.append([card["nickname"] for card in page["cards"]])
        cursor = page["next"]
        assert "hidden" not in (read_cursor(cursor) or ""), (
            "it names nobody whom the page does not show"
        )
    in_order = ["Bob", "bob a", "émile", "Żoë", "米丽"]
    assert list(chain.from_iterable(pages)) == in_order, "nobody twice, nobody left out"
    assert len(ada.get("accounts/directory")["cards"]) == len(people)
    assert {
        each["nickname"] for each in back_end.get("accounts/directory")["cards"]
    } > {"Ada", "Hidden 1"}
    with (
        closing(Session(node, "listed", people["Bob"].user)),
        closing(Session(node, "listed", bot.user)),
    ):
        assert ada.get("accounts/directory", online="true")["cards"] == [], "a stranger"
        ada.befriend(people["Bob"])
        (card,) = ada.get("accounts/directory", online="true")["cards"]
        assert (card["user"], card["presence"]) == (people["Bob"].user, "online")
    assert [
        each["user"] for each in ada.post("accounts/search", text="bobbot")["cards"]
    ] == [bot.user]
    assert (
        node.call("POST", "/api/v1/accounts/lock", {**lock, "user": bot.user}, ALL.key)[
            0
        ]
        == 200
    )
    assert back_end.post("accounts/search", text="bobbot")["cards"] == [], "locked"
    assert User(node, guest, app="listed").refused_get("accounts/directory") == (
        403,
        "not_allowed",
    )
    assert ada.refused_get("accounts/directory", limit=201)[0] == 400
    assert person(node).refused_get("accounts/directory") == (403, "not_allowed"), (
        "off by default"
    )
    assert len(pages) - 1 + 4 == SEARCHES
    assert ada.refused_get("accounts/directory") == (429, "too_many_requests")


def test_titles_are_shown_to_all_and_confirmed_addresses_where_the_app_wants_it(
    node: Harness,
) -> None:
    admin = User(node, ALL.key, app="listed")
    bea = User.register(
        node, "listed", email="bea@example.com", email_confirmed=True, key=ALL.key
    )
    cem = User.register(node, "listed", email="cem@example.com")
    assert bea.post("accounts/set", title="Head of tea")["title"] == "Head of tea"
    for wrong in ("x" * 65, "a\nb", "a\u202eb"):
        assert bea.refused("accounts/set", title=wrong)[0] == 400
    assert (cem.card(bea)["title"], cem.card(bea)["email"]) == ("Head of tea", ""), (
        "a stranger"
    )
    assert (
        cem.post("accounts/find", text="bea@example.com")["email"] == "bea@example.com"
    )
    bea.befriend(cem)
    assert (cem.card(bea)["email"], bea.card(cem)["email"]) == (
        "bea@example.com",
        "",
    ), "confirmed ones only"
    guest = node.guest("listed")
    gus = User(
        node,
        guest,
        User(node, guest, app="listed").get("accounts/show")["user"],
        "listed",
    )
    admin.post("groups/create", user=bea.user, name="tea", members=[gus.user])
    assert (gus.card(bea)["title"], gus.card(bea)["email"]) == ("Head of tea", "")
    bea.post("accounts/set", findable=False)
    assert cem.card(bea)["email"] == ""
    User.register(
        node, "205", email="dan@example.com", email_confirmed=True, key=ALL.key
    )
    assert (
        person(node, "205").post("accounts/find", text="dan@example.com")["email"] == ""
    ), "off by default"


def test_groups_in_common_are_those_of_both_now(node: Harness) -> None:
    one = person(node)
    two = person(node)
    three = person(node)
    both = one.group(two)
    left = one.group(two)
    one.group(three)
    two.post("groups/leave", group=left)
    found = one.get("groups", member=two.user)
    assert ([each["group"] for each in found["groups"]], found["count"]) == ([both], 1)
    assert one.get("groups", member="nobody")["groups"] == []


def test_what_users_say_of_themselves_is_shown_to_those_who_know_them_until_it_ends(
    node: Harness,
) -> None:
    ivy = person(node, name="ivy")
    jan = person(node, name="jan")
    kai = person(node, name="kai")
    ivy.befriend(jan)

    def seen(by: User) -> tuple[str, bool, int]:
        card = by.card(ivy)
        return card["status"], card["away"], card["status_until"]

    end = int(time()) + 3600
    own = ivy.post("accounts/set", status="Back at two", away=True, status_until=end)
    assert (own["status"], own["away"], own["status_until"]) == (
        "Back at two",
        True,
        end,
    )
    assert (seen(jan), seen(ivy), seen(kai)) == (("Back at two", True, end),) * 2 + (
        ("", False, 0),
    )
    assert "status" not in kai.get("accounts/show", of=ivy.user)
    jan.post("friends/block", friend=ivy.user)
    ivy.post("friends/block", friend=jan.user)
    assert seen(jan) == ("", False, 0), "whoever is blocked sees none of it"
    ivy.post("accounts/set", status_until=int(time()) - 1)
    assert seen(ivy) == ("", False, 0), "it has ended"
    ivy.post("accounts/set", away=True)
    assert seen(ivy) == ("Back at two", True, 0), (
        "a new one without an end does not end"
    )
    for wrong in (
        {"status": "x" * 81},
        {"status": "a\nb"},
        {"status": "a\u202eb"},
        {"status_until": -1},
    ):
        assert ivy.refused("accounts/set", **wrong)[0] == 400
    assert ivy.post("accounts/set", status="", away=False)["status"] == ""


def test_presence_is_shown_to_friends_and_in_common_conversations(
    node: Harness,
) -> None:
    """To whom otherwise: ``relations.txt``."""
    ola = person(node, name="ola")
    pia = person(node, name="pia")
    quo = person(node, name="quo")
    ola.befriend(pia)
    assert quo.card(ola)["presence"] == ""
    group = ola.group(quo)
    with closing(Session(node, "201", ola.user)):
        assert [one.card(ola)["presence"] for one in (pia, quo)] == ["online"] * 2
    # it may still store now
    accounts_of(node.node.core).rows.store_last_seen(
        [("201", int(ola.user), 2_000_000_000)]
    )

    def seen(one: User) -> tuple[str, int]:
        card = one.card(ola)
        return card["presence"], card["last_seen"]

    assert seen(pia) == seen(quo) == ("offline", 2_000_000_000)
    ola.post("groups/remove", group=group, members=[quo.user])
    assert seen(quo) == ("", 0)
    ola.post("accounts/set", show_presence=False)
    assert (seen(pia), seen(ola)[0]) == (("", 0), "offline"), "to oneself"
    (card,) = User(node, ADMIN.key, app="201").post("accounts/cards", users=[ola.user])[
        "cards"
    ]
    assert card["presence"] == "offline", "to a back end"


def test_others_do_not_see_contacts_and_settings_of_an_account(node: Harness) -> None:
    ray = person(node, phone="9001", email="ray@example.com", name="ray")
    sue = person(node, name="sue")
    shown = sue.get("accounts/show", of=ray.user)
    assert (shown["phone"], shown["email"], shown["name"]) == ("", "", "")
    assert sue.card(ray)["name"] == "", "nobody lists user names by their ids"
    ray.befriend(sue)
    assert sue.card(ray)["name"] == "ray"
    ray.post("accounts/set", findable=False)
    assert sue.card(ray)["name"] == ""
    assert not {"findable", "show_presence"} & shown.keys()


def invite(one: User, **given: Any) -> str:
    code: str = one.post("invitations/create", **given)["code"]
    assert len(code) == 22, "128 random bits"
    return code


def preview(node: Harness, code: str) -> tuple[int, Any]:
    """What somebody without a token sees."""
    return node.call(
        "GET", "/api/v1/invitations/show", query={"app": "201", "code": code}
    )


def codes(one: User, **query: Any) -> list[str]:
    return [each["code"] for each in one.get("invitations", **query)["invitations"]]


UNKNOWN = (404, "unknown_invitation")


def test_an_invitation_link_leads_into_a_group(node: Harness) -> None:
    tom, uma, vic = (
        person(node, name=name, nickname=name.title()) for name in ("tom", "uma", "vic")
    )
    group = tom.post("groups/create", name="tea", members=[])["group"]
    code = invite(tom, group=group, uses=1)
    status, shown = preview(node, code)
    assert status == 200
    assert (shown["name"], shown["members"], shown["nickname"], shown["group"]) == (
        "tea",
        1,
        "Tom",
        group,
    )
    assert tom.post("invitations/accept", code=code)["status"] == "already"
    assert uma.post("invitations/accept", code=code) == {
        "status": "joined",
        "group": group,
        "user": tom.user,
    }
    assert uma.refused("invitations/accept", code=code) == UNKNOWN, "it was for one"
    assert preview(node, code)[0] == 404

    code = invite(uma, group=group, seconds=0)
    assert codes(uma) == [code]
    assert codes(tom, group=group) == [code], "the owner sees all"
    tom.post("groups/options", group=group, invite="admin")
    assert vic.refused("invitations/accept", code=code) == UNKNOWN, (
        "uma may not invite any more"
    )
    assert uma.refused("invitations/create", group=group) == (403, "role_too_low")
    assert preview(node, code)[0] == 404
    tom.post("groups/options", group=group, invite="member")
    mute = {"group": group, "member": uma.user}
    tom.post("groups/mute", until=2**31, **mute)
    assert vic.refused("invitations/accept", code=code) == UNKNOWN, "uma is muted"
    own = invite(tom, group=group, seconds=0)
    assert uma.post("invitations/accept", code=own)["status"] == "already"
    tom.post("invitations/revoke", code=own)
    tom.post("groups/mute", until=0, **mute)
    assert vic.post("invitations/accept", code=code)["status"] == "joined"
    full = person(node, name="wes")
    assert full.refused("invitations/accept", code=code) == (409, "too_many_members")
    for _ in range(GROUPS + 1):
        assert full.refused("groups/join", group="999999999") == (
            404,
            "unknown_group",
        ), "it does not count"
    for number in range(GROUPS):
        full.post("groups/create", name=f"own {number}")
    vic.post("groups/leave", group=group)
    tom.post("groups/open", group=group, open=True)
    for route, fields in (
        ("invitations/accept", {"code": code}),
        ("groups/join", {"group": group}),
        ("groups/create", {"name": "one more"}),
    ):
        assert full.refused(route, **fields) == (429, "too_many_requests"), route
    tom.post("groups/open", group=group, open=False)
    assert full.refused("invitations/create", group=group) == (404, "unknown_group")
    assert full.refused("invitations/revoke", code=code) == UNKNOWN
    assert tom.post("invitations/revoke", code=code) == {"code": code}
    assert full.refused("invitations/accept", code=code) == UNKNOWN


@pytest.mark.parametrize("status", ["friends", "joined"])
def test_an_invitation_is_not_used_up_while_the_database_is_away(
    node: Harness, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    nia = person(node, name=f"nia-{status}")
    oli = person(node, name=f"oli-{status}")
    code = invite(nia, uses=1, group=nia.group() if status == "joined" else "")
    store = node.node.core.store
    answers = iter([store.write_or])

    def write_once(*given: Any) -> Any:
        for write in answers:
            return write(*given)
        raise StorageUnavailable("gone")

    gone = Mock(side_effect=StorageUnavailable("gone"))
    with monkeypatch.context() as patched:
        for owner, name, replaced in (
            (AccountStore, "relate", gone),
            (store.part(MessageLog).groups, "join", gone),
            (store, "write_or", write_once),
        ):
            patched.setattr(owner, name, replaced)
        assert oli.refused("invitations/accept", code=code) == (
            503,
            "storage_unavailable",
        )
    assert oli.post("invitations/accept", code=code)["status"] == status


def test_an_invitation_link_makes_friends(node: Harness) -> None:
    xia, yan, zoe = (
        person(node, name=name, nickname=name.title()) for name in ("xia", "yan", "zoe")
    )
    code = invite(xia, seconds=3600)
    assert preview(node, code)[1]["nickname"] == "Xia"
    assert yan.post("invitations/accept", code=code) == {
        "status": "friends",
        "group": "",
        "user": xia.user,
    }
    assert yan.post("invitations/accept", code=code)["status"] == "already"
    assert xia.post("invitations/accept", code=code)["status"] == "already", "oneself"
    assert xia.card(yan)["relation"] == "friend"
    zoe.post("friends/block", friend=xia.user)
    assert zoe.refused("invitations/accept", code=code) == (403, "not_allowed")
    xia.post("friends/block", friend=zoe.user)
    assert zoe.refused("invitations/accept", code=code) == UNKNOWN
    fields = {"query": {"app": "201", "user": xia.user}}
    (shown,) = node.call("GET", "/api/v1/invitations", token=ADMIN.key, **fields)[1][
        "invitations"
    ]
    assert (
        shown["uses"],
        shown["max_uses"],
        shown["expires_at"] - shown["created"],
    ) == (1, 0, 3600)

    for _ in range(2):
        invite(xia)
    assert xia.refused("invitations/create") == (409, "too_many_invitations")
    xia.post("accounts/delete", password=PASSWORD)
    assert zoe.refused("invitations/accept", code=code) == UNKNOWN
    rows = node.node.core.store.read(
        lambda sql: sql.query("SELECT member FROM invitation")
    )
    assert (xia.user,) not in rows


def test_invitations_of_one_app_lead_nowhere_in_another(node: Harness) -> None:
    one = person(node, name="abe")
    other = person(node, "202", login="abe@example.com")
    assert other.refused("invitations/accept", code=invite(one)) == UNKNOWN
    assert one.refused("invitations/accept", code="x" * 22) == UNKNOWN
    assert one.refused("invitations/accept", code="x' OR 1=1 --")[0] == 400
    assert one.refused("invitations/create", seconds=367 * 86400)[0] == 400


# --- whom nobody adds to groups without asking --------------------------------


def invitation_between(user: User, other: User) -> dict[str, Any]:
    """The newest invitation between two users that was sent, as one of them
    reads it."""
    (row,) = [
        each
        for each in user.get("conversations")["conversations"]
        if each.get("peer") == other.user
    ]
    found = user.get("messages", conversation=row["conversation"], limit=200)[
        "messages"
    ]
    invitations = [
        each
        for each in found
        if each.get("type") == "invitation" and each["kind"] == "message"
    ]
    return dict(max(invitations, key=lambda each: int(each["id"]))["data"])


def test_strangers_are_invited_and_whom_one_knows_is_added(node: Harness) -> None:
    ann, bob, friend, met = (User.register(node, "asking") for _ in range(4))
    ann.befriend(friend)
    ann.post("messages/send", to=met.user, text="hello")
    assert ann.post("groups/create", name="tea", members=[met.user])["users"] == []
    met.post("messages/send", to=ann.user, text="hello")
    assert ann.roles(ann.group(met))[met.user] == "member"
    for route, fields in (
        ("groups/create", {"name": "tea"}),
        ("groups/invite", {"group": ann.group()}),
    ):
        done = ann.post(route, **fields, members=[friend.user, bob.user])
        assert (done["users"], done["invited"]) == ([friend.user], [bob.user])
        assert set(ann.roles(done["group"])) == {ann.user, friend.user}
    content = invitation_between(bob, ann)
    assert (content["group"], content["name"]) == (done["group"], "tea")
    assert friend.refused("invitations/accept", code=content["code"]) == UNKNOWN, (
        "it is for one user"
    )
    assert friend.refused("invitations/revoke", code=content["code"]) == UNKNOWN
    bob.post("invitations/accept", code=content["code"])
    assert ann.roles(done["group"])[bob.user] == "member"
    for user, other in ((bob, ann), (ann, bob)):
        settled = invitation_between(user, other)
        assert settled == {"group": done["group"], "name": "tea", "status": "accepted"}
    assert ann.roles(ann.group(bob))[bob.user] == "member", (
        "they have a group in common now"
    )


def test_an_invitation_is_declined_or_revoked_and_both_see_it(node: Harness) -> None:
    ann, bob = (User.register(node, "asking") for _ in range(2))
    group = ann.group(bob)
    for user, status in ((bob, "declined"), (ann, "revoked")):
        code = invitation_between(bob, ann)["code"]
        user.post("invitations/revoke", code=code)
        for one, other in ((bob, ann), (ann, bob)):
            assert invitation_between(one, other) == {
                "group": group,
                "name": "tea",
                "status": status,
            }
        assert bob.refused("invitations/accept", code=code) == UNKNOWN
        assert ann.post("groups/invite", group=group, members=[bob.user])[
            "invited"
        ] == [bob.user]
    assert ann.group(bob), (
        "a stranger who was asked does not become somebody whom one knows"
    )
    assert set(ann.roles(group)) == {ann.user}


def test_whoever_has_blocked_a_user_is_not_asked_and_few_are_asked_at_once(
    node: Harness,
) -> None:
    ann, bob = (User.register(node, "asking") for _ in range(2))
    group = ann.group(bob)
    bob.post("friends/block", friend=ann.user)
    assert ann.refused("groups/invite", group=group, members=[bob.user]) == (
        403,
        "not_allowed",
    )
    bob.post("invitations/revoke", code=invitation_between(bob, ann)["code"])
    assert invitation_between(bob, ann)["status"] == "declined"
    ann = User.register(node, "asking")
    group = ann.group()
    people = [User.register(node, "asking") for _ in range(INVITATIONS + 1)]
    done = ann.post(
        "groups/invite", group=group, members=[each.user for each in people]
    )
    assert (done["users"], len(done["invited"])) == ([], INVITATIONS)
    listed = [bool(each.get("conversations")["conversations"]) for each in people]
    assert listed == [True] * INVITATIONS + [False]


def test_back_ends_and_bots_add_without_asking_and_commands_of_clients_ask(
    node: Harness,
) -> None:
    ann, bob = (User.register(node, "asking") for _ in range(2))
    group = ann.group()
    bot = ann.bot(f"tea{ann.user}")
    ann.post("groups/invite", group=group, members=[bot.user])
    assert bot.post("groups/invite", group=group, members=[bob.user])["invited"] == [
        bob.user
    ]
    assert bob.user not in ann.roles(group)
    User(node, ALL.key, app="asking").post(
        "groups/invite", user=ann.user, group=group, members=[bob.user]
    )
    assert set(ann.roles(group)) == {ann.user, bob.user, bot.user}
    ann, bob, friend = (User.register(node, "asking") for _ in range(3))
    ann.befriend(friend)
    group = int(ann.group())
    with closing(Session(node, "asking", ann.user)) as session:
        assert session.run(CreateGroup("tea", (bob.user, friend.user))) == "+"
        assert session.run(InviteToGroup(group, (bob.user, friend.user))) == "+"
    assert set(ann.roles(str(group))) == {ann.user, friend.user}
    assert invitation_between(bob, ann)["group"] == str(group)


# --- what a user who is muted says nowhere ------------------------------------


SHOWN = {
    "text",
    "data",
    "value",
    "emoji",
    "name",
    "nickname",
    "avatar",
    "description",
    "status",
    "commands",
}
"""Fields of requests whose content others see."""
ELSEWHERE = {
    **dict.fromkeys(
        ("messages/send", "messages/edit", "asks/create", "notifications/act"),
        "messaging asks",
    ),
    **dict.fromkeys(("asks/answer", "messages/stream/open"), "the service asks"),
    **dict.fromkeys(("accounts/find", "accounts/search"), "it is searched"),
    "messages/press": "a value that the bot has chosen",
    **dict.fromkeys(("reports/send", "reports/appeal"), "moderators alone read it"),
    **dict.fromkeys(
        ("accounts/register", "accounts/promote", "invitations/join"),
        "the account is new",
    ),
}
"""Operations with such a field that need no ``voice``, and why."""


def test_each_route_with_which_a_user_shows_others_something_has_a_voice() -> None:
    silent = {
        row.path.removeprefix("/api/v1/")
        for row in DOCUMENTED
        if isinstance(row, Operation)
        and of_users(row.need)
        and row.body
        and not row.voice
        if SHOWN & {*row.body.__struct_fields__}
    }
    assert silent == ELSEWHERE.keys()


def test_who_is_muted_names_nothing_for_others(node: Harness) -> None:
    eve = person(node)
    bob = person(node)
    group = eve.group(bob)
    node.node.core.mutes.mute(eve.app, eve.user, int(time()) + 60, "spam")
    requests: tuple[tuple[str, dict[str, Any]], ...] = (
        ("groups/create", {"name": "spam", "members": [bob.user]}),
        ("groups/rename", {"group": group, "name": "spam"}),
        *(("accounts/set", {field: "spam"}) for field in ("nickname", "status")),
        ("accounts/identifiers", {"name": "spammer", "password": PASSWORD}),
        ("messages/send", {"to": bob.user, "text": "spam"}),
    )
    for path, body in requests:
        assert eve.refused(path, **body) == (403, "muted"), path
    assert not eve.post("accounts/set", show_presence=False)["show_presence"]
    back_end = User(node, ALL.key, app=eve.app)
    assert (
        back_end.post("groups/rename", user=eve.user, group=group, name="tea")["name"]
        == "tea"
    )
    with closing(Session(node, eve.app, eve.user)) as session:
        for command in (
            CreateGroup("spam", (bob.user,)),
            UpdateGroup(int(group), name="spam"),
        ):
            assert session.run(command) == "-"
