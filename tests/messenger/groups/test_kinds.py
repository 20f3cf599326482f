"""Kinds of groups: announcements, open groups, and groups that are everybody's.
Their rules hold in the order of the log, on each engine."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from imserver.gateway.auth.questions import AccountLookup, Relations
from imserver.gateway.auth.rates import Buckets, TooManyRequests
from imserver.gateway.storage.store import Store
from imserver.messenger.groups.declared import NEW_GROUPS, SEARCH_TIME
from imserver.messenger.groups.everybody import MOST_JOINING, EverybodysGroups
from imserver.messenger.groups.groups import (
    ADMIN,
    BadGroup,
    Groups,
    NewGroup,
    NotAllowed,
    UnknownGroup,
)
from imserver.messenger.log.contract import Appended, Draft, Rejected
from imserver.messenger.log.message_log import MessageLog
from tests.messenger.accounts import add_account, insert
from tests.messenger.messaging_harness import Node
from tests.stores import OpenStore

APP = "101"


class Accounts(AccountLookup):
    """Everybody is an account; ann owns the app."""

    def those_of(
        self, app: str, users: Sequence[str], words: Sequence[str] = ()
    ) -> Any:
        return [
            SimpleNamespace(user=user, role="owner" if user == "ann" else "")
            for user in users
        ]


class Guests(Relations):
    """Gus is a guest."""

    def may_gather(self, app: str, by: str) -> bool:
        return by != "gus"


TENANTS: Any = SimpleNamespace(
    get=lambda app: SimpleNamespace(wants_accounts=lambda app: app == APP)
)


def groups_in(store: Store, searches: int = 15_000) -> Groups:
    buckets = Buckets(NEW_GROUPS, 100, 3600), Buckets(SEARCH_TIME, searches, 3600)
    return Groups(store, 5, *buckets, Accounts(), Guests(), TENANTS)


@pytest.fixture
def groups(store: Store) -> Groups:
    return groups_in(store)


def send(log: MessageLog, sender: str, group: int, **more: Any) -> str:
    """Why a message is refused; ``""``: it is stored."""
    (result,) = log.writer.append(
        APP, [Draft(sender=sender, conversation=group, body=b"tea", **more)]
    )
    assert isinstance(result, Appended | Rejected)
    return result.reason if isinstance(result, Rejected) else ""


def first_of(log: MessageLog, group: int, sender: str) -> int:
    entries = log.entries.history(APP, "ann", group, 0, 100)[0]
    return next(
        each.id for each in entries if each.sender == sender and each.kind == "message"
    )


def test_in_announcements_few_write_and_all_reply_in_threads(
    groups: Groups, log: MessageLog
) -> None:
    group = groups.create(APP, "ann", "news", ["bob", "cid"])[0].id
    assert send(log, "cid", group) == ""
    before = first_of(log, group, "cid")
    groups.set_options(APP, group, "ann", {"write": "admin"})
    groups.set_role(APP, group, "ann", "bob", ADMIN)
    assert [send(log, user, group) for user in ("ann", "bob", "")] == ["", "", ""]
    news = first_of(log, group, "bob")
    assert send(log, "cid", group) == send(log, "cid", group, about=news) == "read_only"
    assert send(log, "cid", group, thread=news, also=True) == "read_only"
    assert send(log, "cid", group, kind="edit", about=before) == "read_only"
    assert send(log, "cid", group, thread=news) == ""
    reply = log.threads.replies(APP, "cid", news, 0, 10)[0][-1].id
    assert send(log, "cid", group, kind="edit", about=reply) == ""
    assert send(log, "cid", group, kind="recall", about=before) == ""
    groups.set_options(APP, group, "bob", {"reply": "admin"})
    assert send(log, "cid", group, thread=news) == "read_only"
    assert send(log, "bob", group, thread=news) == ""
    assert send(log, "eve", group) == "not_member"
    groups.set_options(APP, group, "ann", {"write": "member"})
    assert send(log, "cid", group, thread=news) == send(log, "cid", group) == ""
    refusal = Rejected("read_only")
    assert (refusal.problem.code, refusal.reply_code) == ("role_too_low", 1003)


def test_incoming_webhooks_write_announcements_and_other_bots_do_not(
    groups: Groups, store: Store
) -> None:
    log = store.part(MessageLog)
    hook, bot = (add_account(store, APP, bot=1) for _ in range(2))
    group = groups.create(
        APP, "ann", "news", [hook, bot], kind=NewGroup(options={"write": "admin"})
    )[0].id
    insert(
        store,
        "incoming_hook",
        id=int(hook),
        app=APP,
        conversation=group,
        token_hash="h",
        created=0,
    )
    assert [send(log, each, group) for each in (hook, bot)] == ["", "read_only"]


def test_a_group_says_of_which_kind_it_is(groups: Groups, log: MessageLog) -> None:
    kind = NewGroup("what is new", True, "", {"write": "admin", "history": "all"})
    group, _ = groups.create(APP, "bob", "news", ["cid"], kind=kind)
    assert (group.open, group.everybody, group.description) == (True, "", "what is new")
    (entry,) = log.entries.history(APP, "cid", group.id, 0, 10)[0]
    kinds = {
        "change": "create",
        "name": "news",
        "users": ["bob", "cid"],
        "open": True,
        "write": "admin",
    }
    assert json.loads(entry.meta) == kinds
    summaries, _ = log.conversations.page(APP, "cid", 0, 10)
    assert [(each.is_new, each.conversation.options) for each in summaries] == [
        (True, 33)
    ]
    log.marks.note(APP, "cid", group.id, entry.id)
    assert [each.is_new for each in log.conversations.page(APP, "cid", 0, 10)[0]] == [
        False
    ]
    groups.leave(APP, group.id, "cid")
    assert [each.is_new for each in log.conversations.page(APP, "cid", 0, 10)[0]] == [
        False
    ]


# --- open groups --------------------------------------------------------------


def found(
    groups: Groups, text: str = "", by: str = "eve", limit: int = 50
) -> list[tuple[str, str, int]]:
    """Name, role and members of what a search finds, page by page."""
    rows = list[tuple[str, str, int]]()
    below = 0
    while True:
        page, below = groups.open_groups(APP, by, text, below, limit)
        assert len(page) <= limit
        rows += [(each.group.name, each.group.role, each.members) for each in page]
        if not below:
            return rows


def test_open_groups_are_found_joined_left_and_joined_again(groups: Groups) -> None:
    tea = groups.create(
        APP, "ann", "Tea & Café", ["bob"], kind=NewGroup("Leaves of Łódź", True)
    )[0].id
    groups.create(APP, "ann", "secret tea", ["bob"])
    chess = groups.create(APP, "bob", "chess", [], kind=NewGroup(open=True))[0].id
    assert (
        found(groups)
        == found(groups, limit=1)
        == [("chess", "", 1), ("Tea & Café", "", 2)]
    )
    assert found(groups, "CAFE lodz") == [("Tea & Café", "", 2)]
    assert found(groups, "nothing") == []
    for count in (3, 3):
        assert groups.join(APP, tea, "eve").role == "member"
        assert found(groups, "tea") == [("Tea & Café", "member", count)]
        groups.leave(APP, tea, "eve")
    groups.remove(APP, tea, "ann", ["bob"])
    with pytest.raises(UnknownGroup):
        groups.join(APP, tea, "bob")
    groups.set_open(APP, chess, "bob", False)
    groups.delete(APP, tea, "ann")
    assert found(groups) == []
    with pytest.raises(NotAllowed):
        found(groups, by="gus")


@pytest.mark.sqlite_first
def test_searches_of_open_groups_take_time_of_who_searches(store: Store) -> None:
    groups = groups_in(store, searches=1)
    found(groups)
    with pytest.raises(TooManyRequests):
        found(groups)
    assert found(groups, by="ann") == found(groups, by="") == []


# --- groups that are everybody's ----------------------------------------------


def members(groups: Groups, group: int) -> set[str]:
    return {each.user for each in groups.members(APP, group, "", "", 10_000)}


def test_everybody_of_the_app_is_in_also_who_comes_later(
    store: Store, url: str, open_store: OpenStore
) -> None:
    groups = groups_in(store)
    log = store.part(MessageLog)
    people = [add_account(store, APP) for _ in range(2 * MOST_JOINING + 1)]
    guest = add_account(store, APP, guest=1)
    add_account(store, APP, bot=1)
    add_account(store, "102")
    group = groups.create(APP, "ann", "all", [], kind=NewGroup(everybody="members"))[
        0
    ].id
    nodes = [EverybodysGroups(groups), EverybodysGroups(groups_in(open_store(url)))]
    looks = [gevent.spawn(node.look) for node in nodes]
    assert sum(each.get(timeout=60) for each in looks) == len(people), (
        "nobody joins twice"
    )
    assert members(groups, group) == {"ann", *people}
    entries = [each for each in log.entries.read(APP, 0, 100) if each.kind == "join"]
    assert [json.loads(each.meta)["everybody"] for each in entries] == [True] * len(
        entries
    )
    assert max(len(json.loads(each.meta)["users"]) for each in entries) == MOST_JOINING
    assert nodes[0].look() == 0
    later = add_account(store, APP)
    groups.remove(APP, group, "", [people[0]])
    assert [node.look() for node in nodes] == [1, 0]
    assert members(groups, group) == {"ann", *people[1:], later}
    groups.set_everybody(APP, group, "ann", "all")
    assert nodes[1].look() == 1
    assert guest in members(groups, group)
    groups.set_everybody(APP, group, "ann", "")
    add_account(store, APP)
    assert [node.look() for node in nodes] == [0, 0]


def test_who_joins_is_an_account_that_nobody_erases(
    groups: Groups, store: Store
) -> None:
    columns = "(digest, ended, app, name, member, leased)"
    erase = f"INSERT INTO erasure {columns} VALUES ('d', 0, %s, 'gone', %s, 0)"
    one, other = (add_account(store, APP) for _ in range(2))
    store.execute(erase, (APP, one))
    group = groups.create(APP, "ann", "all", [], kind=NewGroup(everybody="members"))[
        0
    ].id
    assert EverybodysGroups(groups).look() == 1
    assert members(groups, group) == {"ann", other}


def test_all_accounts_are_looked_at_again_when_their_number_has_changed(
    groups: Groups, store: Store
) -> None:
    group = groups.create(APP, "ann", "all", [], kind=NewGroup(everybody="members"))[
        0
    ].id
    guest = add_account(store, APP, guest=1)
    node = EverybodysGroups(groups, whole_seconds=0)
    one = add_account(store, APP)
    assert [node.look() for _ in range(3)] == [1, 0, 0]
    guests = "UPDATE account SET guest = %s WHERE id = %s"
    for is_guest, id in ((0, guest), (1, one)):
        store.execute(guests, (is_guest, int(id)))
    assert node.look() == 0, "as many as before"
    store.execute(guests, (0, int(one)))
    assert node.look() == 1
    assert members(groups, group) == {"ann", one, guest}


def test_what_a_later_release_has_written_is_a_closed_group(
    groups: Groups, store: Store
) -> None:
    group = groups.create(
        APP, "ann", "all", ["bob"], kind=NewGroup(everybody="members")
    )[0].id
    store.execute("UPDATE conversation SET open = 9 WHERE id = %s", (group,))
    assert (
        groups.show(APP, group, "bob").open,
        groups.show(APP, group, "bob").everybody,
    ) == (False, "")
    add_account(store, APP)
    assert EverybodysGroups(groups).look() == 0
    groups.leave(APP, group, "bob")


def test_nobody_leaves_what_is_everybodys_and_an_owner_of_the_app_makes_it(
    groups: Groups, store: Store
) -> None:
    everybodys = NewGroup(everybody="members")
    bot = add_account(store, APP, bot=1)
    with pytest.raises(NotAllowed):
        groups.create(APP, "bob", "all", [], kind=everybodys)
    with pytest.raises(BadGroup):
        groups.create("102", "ann", "all", [], kind=everybodys)
    groups.create(APP, "bob", "by a back end", [], by_user=False, kind=everybodys)
    group = groups.create(APP, "ann", "all", ["bob", bot], kind=everybodys)[0].id
    for refused in (
        lambda: groups.leave(APP, group, "bob"),
        lambda: groups.remove(APP, group, "ann", ["bob", bot]),
        lambda: groups.set_open(APP, group, "ann", True),
        lambda: groups.set_everybody(APP, group, "bob", ""),
    ):
        with pytest.raises(NotAllowed):
            refused()
    with pytest.raises(UnknownGroup):
        groups.join(APP, group, "eve")
    assert groups.remove(APP, group, "ann", [bot]) == (bot,)
    groups.set_everybody(APP, group, "ann", "")
    groups.leave(APP, group, "bob")
    assert groups.delete(APP, group, "ann") == 1


@pytest.mark.sqlite_first
def test_who_is_online_gets_what_is_said_from_the_entry_of_the_join_on() -> None:
    with Node() as one, Node(one.file) as two:
        one.others, two.others = [two], [one]
        group = one.log.groups.create(
            one.app, "ann", "all", [], everybody="members"
        ).conversation
        bob = one.speaker("bob", 0)
        cid = two.speaker("cid", 0)
        one.log.groups.join(one.app, group, ["bob", "cid"], everybody=True)
        two.log.groups.set_options(one.app, group, {"write": "admin"})
        ann = two.speaker("ann", 0)
        assert ann.send(group, "tea")[0] == 200
        assert bob.send(group, "me, too") == (1003, {"refused": "read_only"})
        for each in (bob, cid):
            each.settle()
            assert each.texts()[-3:] == ["join", "group", "tea"]
