"""What several do to one group at once: its rules hold in the order of the log,
on each engine."""

import json
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from imserver.gateway import errors
from imserver.gateway.auth.questions import AccountLookup, Relations
from imserver.gateway.auth.rates import Buckets, TooManyRequests
from imserver.gateway.storage.statements import Statements
from imserver.gateway.storage.store import Store
from imserver.messenger.groups.declared import NEW_GROUPS, SEARCH_TIME
from imserver.messenger.groups.groups import (
    ADMIN,
    MEMBER,
    OWNER,
    BadGroup,
    Group,
    GroupCommands,
    Groups,
    NoMember,
    NotAllowed,
    TooManyMembers,
    UnknownGroup,
)
from imserver.messenger.groups.wire import JoinGroup
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search.search import EntrySearch
from imserver.plugin.errors import ServiceRefused

APP = "101"
LIMIT = 5
MOST_GROUPS = 5


NICKNAMES = {"1": "jose perez", "2": "rene"}
"""User → the folded name of the account, of those who have one."""


class Accounts(AccountLookup):
    """All users are accounts, and those without a nickname have no name."""

    def those_of(
        self, app: str, users: Sequence[str], words: Sequence[str] = ()
    ) -> Any:
        named = [
            user
            for user in users
            if all(word in NICKNAMES.get(user, "") for word in words)
        ]
        return [SimpleNamespace(user=user) for user in named]


TENANTS: Any = None
"""Only routes look at the settings of an app."""


@pytest.fixture
def groups(store: Store) -> Groups:
    creations = Buckets(NEW_GROUPS, MOST_GROUPS, 3600)
    return Groups(
        store, LIMIT, creations, Buckets(SEARCH_TIME), Accounts(), Relations(), TENANTS
    )


@pytest.fixture
def group(groups: Groups) -> int:
    """Ann's, with Bob as its admin, Cid and Dan."""
    group, _ = groups.create(APP, "ann", "tea", ["bob", "cid", "dan"])
    groups.set_role(APP, group.id, "ann", "bob", ADMIN)
    return group.id


class Asking(Relations):
    """Eve is a stranger to everybody."""

    def strangers_among(self, app: str, by: str, users: Collection[str]) -> set[str]:
        return {"eve"} & set(users)


@pytest.mark.sqlite_first
def test_strangers_are_invited_or_refused_where_nobody_invites(store: Store) -> None:
    creations = Buckets(NEW_GROUPS, MOST_GROUPS, 3600)
    groups = Groups(
        store, LIMIT, creations, Buckets(SEARCH_TIME), Accounts(), Asking(), TENANTS
    )
    with pytest.raises(ServiceRefused, match="eve"):
        groups.strangers_among(APP, "ann", ["bob", "eve"])
    sent: list[Any] = []
    groups.ask(
        lambda app, group, by, users: sent.append((app, group, by, users)) or users
    )
    group, added = groups.create(
        APP, "ann", "tea", ["eve", "bob", "eve", "ann"], {"eve"}
    )
    assert (added.users, added.invited) == (["bob"], ["eve"])
    added = groups.add(
        APP, group.id, "bob", ["eve"], groups.strangers_among(APP, "bob", ["eve"])
    )
    assert (added.users, added.invited) == ((), ["eve"])
    assert sent == [(APP, group.id, by, ["eve"]) for by in ("ann", "bob")]
    assert roles(groups, group.id) == {"ann": OWNER, "bob": MEMBER}


def roles(groups: Groups, group: int) -> dict[str, str]:
    return {row.user: row.role for row in groups.members(APP, group, "", "", 100)}


def at_once(*deeds: tuple[Any, ...]) -> list[str]:
    """Do all of it at the same time; the names of what was raised, ``""`` for
    nothing."""

    def outcome(function: Callable[..., Any], *arguments: Any) -> str:
        try:
            function(APP, *arguments)
        except (
            BadGroup,
            NoMember,
            NotAllowed,
            TooManyRequests,
            TooManyMembers,
            UnknownGroup,
        ) as refused:
            return type(refused).__name__
        return ""

    running = [gevent.spawn(outcome, *deed) for deed in deeds]
    return [one.get(timeout=60) for one in running]


def names(groups: Groups, group: int, text: str, limit: int = 100) -> list[str]:
    """The users on all pages of a search."""
    found: list[str] = []
    after = ""
    while True:
        page, after = groups.members_named(APP, group, "bob", text, after, limit)
        assert len(page) <= limit
        found += [each.user for each in page]
        if not after:
            return found


def test_members_are_found_by_words_of_their_names(groups: Groups) -> None:
    group = groups.create(APP, "bob", "tea", ["1", "2", "Zoé", "Rob"])[0].id
    assert names(groups, group, "pérez JOS") == ["1"]
    assert names(groups, group, "zoe") == ["Zoé"]
    assert names(groups, group, "re") == ["1", "2"]
    assert names(groups, group, "ob", limit=1) == ["Rob", "bob"]
    assert names(groups, group, "1") == names(groups, group, "...") == []
    with pytest.raises(UnknownGroup):
        groups.members_named(APP, group, "eve", "re", "", 10)


def test_searches_of_members_take_time_of_who_searches(store: Store) -> None:
    creations = Buckets(NEW_GROUPS, MOST_GROUPS, 3600)
    searches = Buckets(SEARCH_TIME, 1, 3600)
    groups = Groups(store, LIMIT, creations, searches, Accounts(), Relations(), TENANTS)
    group = groups.create(APP, "ann", "tea", ["bob"])[0].id
    groups.members_named(APP, group, "bob", "ann", "", 10)
    with pytest.raises(TooManyRequests):
        groups.members_named(APP, group, "bob", "ann", "", 10)
    assert groups.members_named(APP, group, "ann", "bob", "", 10)[0]
    assert groups.members_named(APP, group, "", "bob", "", 10)[0], "a back end"


def test_many_who_are_invited_at_once_are_no_more_than_there_is_room_for(
    groups: Groups, group: int
) -> None:
    errors = at_once(
        *((groups.invite, group, "cid", ["bob", f"u{number}"]) for number in range(4))
    )
    assert sorted(errors) == ["", *["TooManyMembers"] * 3]
    assert len(roles(groups, group)) == LIMIT
    assert groups.invite(APP, group, "cid", ["ann", "bob"]) == ()


def test_a_user_creates_and_joins_only_so_many_groups_within_a_time(
    groups: Groups, group: int
) -> None:
    groups.set_open(APP, group, "ann", True)
    deeds = [(groups.create, "eve", "mine", [])] * (MOST_GROUPS - 2)

    def met(_: Statements) -> bool:
        return True

    assert not any(
        at_once(
            *deeds,
            (groups.join, group, "eve"),
            (groups.accept, group, "eve", "bob", met),
        )
    )
    assert groups.create(APP, "eve", "mine", [])[0].role == OWNER, (
        "one of them has added nobody"
    )
    for deed in (
        (groups.create, "eve", "more", []),
        (groups.join, group, "eve"),
        (groups.accept, group, "eve", "", met),
    ):
        assert at_once(deed) == ["TooManyRequests"]
    eve: Any = SimpleNamespace(app=APP, user="eve")
    commands = GroupCommands(groups, lambda app, user: None)
    with pytest.raises(TooManyRequests):
        commands.join(eve, JoinGroup(group))
    assert (
        commands.commands()[JoinGroup].code_of(TooManyRequests(1))
        == errors.ReplyCode.LIMIT
    )
    groups.create(APP, "eve", "of the back end", [], by_user=False)
    assert groups.join(APP, group, "eve", by_user=False).id == group
    assert not groups.accept(APP, group, "eve", "", met, by_user=False), (
        "a member already"
    )


def invite_once(store: Store, group: int) -> None:
    """Store an invitation to a group, which may be used once."""
    statement = "INSERT INTO invitation VALUES (%s, %s, 'bob', %s, 0, 0, 0, 1, 0)"
    store.execute(statement, ("a" * 22, APP, group))


def test_an_invitation_counts_with_the_join_or_not_at_all(
    groups: Groups, group: int, store: Store
) -> None:
    def used_by(sql: Statements) -> bool:
        return sql.execute("UPDATE invitation SET uses = 1 WHERE uses = 0") == 1

    invite_once(store, group)
    groups.remove(APP, group, "ann", ["dan"])
    assert groups.accept(APP, group, "bob", "bob", used_by) is False
    assert groups.accept(APP, group, "eve", "bob", used_by) is True
    with pytest.raises(UnknownGroup):
        groups.accept(APP, group, "fay", "bob", used_by)
    assert "fay" not in roles(groups, group)


def test_the_owner_or_a_back_end_deletes_a_group(
    groups: Groups, group: int, store: Store
) -> None:
    invite_once(store, group)
    groups.set_open(APP, group, "ann", True)
    with pytest.raises(NotAllowed):
        groups.delete(APP, group, "bob")
    assert groups.delete(APP, group, "ann") == 4
    assert groups.delete(APP, group, "") == 0
    assert (roles(groups, group), store.rows("SELECT code FROM invitation")) == ({}, [])
    assert groups.page(APP, "bob", 0, 10) == (0, [])
    for outsider in ("ann", "eve"):
        with pytest.raises(UnknownGroup):
            groups.join(APP, group, outsider)
    assert [
        each.kind
        for each in store.part(MessageLog).entries.history(APP, "dan", group, 0, 1)[0]
    ] == ["leave"]


def test_an_open_group_that_all_have_left_is_joined_and_gets_an_owner_from_a_back_end(
    groups: Groups, group: int
) -> None:
    groups.set_open(APP, group, "ann", True)
    for user in tuple(roles(groups, group)):
        groups.leave(APP, group, user)
    assert groups.show(APP, group, "eve").open
    with pytest.raises(UnknownGroup):
        groups.check_inviting(APP, group, "ann")
    assert groups.join(APP, group, "eve").role == MEMBER
    with pytest.raises(NotAllowed):
        groups.set_role(APP, group, "eve", "eve", OWNER)
    groups.set_role(APP, group, "", "eve", OWNER)
    assert groups.delete(APP, group, "eve") == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("by", ["ann", ""])
def test_a_group_is_deleted_in_parts_and_a_repeated_call_goes_on(
    groups: Groups, group: int, log: MessageLog, by: str
) -> None:
    groups.set_open(APP, group, "ann", True)
    groups.invite(APP, group, "ann", ["eve"])
    first = log.groups.leave(APP, group, None, by)
    assert first.users == ("cid", "dan")
    assert roles(groups, group) == {"ann": OWNER, "bob": ADMIN, "eve": MEMBER}
    with pytest.raises(UnknownGroup):
        groups.join(APP, group, "cid")
    assert groups.delete(APP, group, by) == 3
    assert roles(groups, group) == {}
    named = [
        json.loads(each.meta)["users"]
        for each in log.entries.history(APP, "ann", group, 0, 3)[0]
    ]
    assert named == [["cid", "dan"], ["eve", "bob"], ["ann"]]


def test_what_others_do_costs_a_user_no_group(groups: Groups) -> None:
    for user in ("ann", "bob"):
        for _ in range(MOST_GROUPS):
            group, _ = groups.create(APP, user, "spam", ["eve"])
            groups.leave(APP, group.id, user)
    assert groups.page(APP, "eve", 0, 100)[0] == 2 * MOST_GROUPS
    assert groups.create(APP, "eve", "mine", [])[0].role == OWNER


AT_ONCE: dict[str, tuple[list[tuple[Any, ...]], list[str], dict[str, str]]] = {
    "owner and successor leave": (
        [("leave", "ann"), ("leave", "bob")],
        ["", ""],
        {"cid": OWNER, "dan": MEMBER},
    ),
    "successor leaves first": (
        [("leave", "bob"), ("leave", "ann")],
        ["", ""],
        {"cid": OWNER, "dan": MEMBER},
    ),
    "all leave": (
        [("leave", user) for user in ("ann", "cid", "bob", "dan")],
        [""] * 4,
        {},
    ),
    "the new owner leaves": (
        [("leave", "cid"), ("set_role", "ann", "cid", OWNER)],
        ["", "NoMember"],
        {"ann": OWNER, "bob": ADMIN, "dan": MEMBER},
    ),
    "handed to two": (
        [("set_role", "ann", user, OWNER) for user in ("cid", "dan")],
        ["", "NotAllowed"],
        {"ann": ADMIN, "bob": ADMIN, "cid": OWNER, "dan": MEMBER},
    ),
    "removed a moment ago": (
        [
            ("remove", "ann", ["bob", "dan"]),
            ("invite", "dan", ["eve"]),
            ("remove", "bob", ["cid"]),
            ("describe", "bob", {"name": "coffee"}),
            ("leave", "bob"),
        ],
        ["", *["UnknownGroup"] * 4],
        {"ann": OWNER, "cid": MEMBER},
    ),
    "an admin until a moment ago": (
        [
            ("set_role", "ann", "bob", MEMBER),
            ("remove", "bob", ["cid"]),
            ("mute", "bob", "cid", 2**40),
            ("describe", "bob", {"name": "coffee"}),
            ("set_open", "bob", True),
        ],
        ["", *["NotAllowed"] * 4],
        {"ann": OWNER, "bob": MEMBER, "cid": MEMBER, "dan": MEMBER},
    ),
    "an admin since a moment": (
        [
            ("set_role", "ann", "cid", ADMIN),
            ("remove", "bob", ["dan", "cid"]),
            ("mute", "bob", "cid", 2**40),
        ],
        ["", "NotAllowed", "NotAllowed"],
        {"ann": OWNER, "bob": ADMIN, "cid": ADMIN, "dan": MEMBER},
    ),
    "closed a moment ago": (
        [("set_open", "ann", True), ("set_open", "ann", False), ("join", "eve")],
        ["", "", "UnknownGroup"],
        {"ann": OWNER, "bob": ADMIN, "cid": MEMBER, "dan": MEMBER},
    ),
    "a back end removes the owner": (
        [("remove", "", ["ann", "cid", "nobody"])],
        [""],
        {"bob": OWNER, "dan": MEMBER},
    ),
    "a back end removes all": (
        [("remove", "", ["ann", "cid"]), ("remove", "", ["bob", "dan"])],
        [""] * 2,
        {},
    ),
    "a back end hands it over": (
        [("set_role", "", "dan", OWNER)],
        [""],
        {"ann": ADMIN, "bob": ADMIN, "cid": MEMBER, "dan": OWNER},
    ),
}
"""What several do to the group: what each is told, and who is what in the
end."""


@pytest.mark.parametrize("case", AT_ONCE)
def test_of_what_is_done_at_once_the_first_counts(
    groups: Groups, group: int, case: str
) -> None:
    deeds, errors, left = AT_ONCE[case]
    assert (
        at_once(*((getattr(groups, name), group, *more) for name, *more in deeds))
        == errors
    )
    assert roles(groups, group) == left
    if left.get("cid"):
        shown = groups.show(APP, group, "cid")
        assert (shown.name, shown.muted_until, shown.open) == ("tea", 0, False)


def test_who_is_erased_and_is_removed_at_once_is_gone(
    groups: Groups, group: int, log: MessageLog
) -> None:
    errors = at_once(
        (groups.remove, group, "ann", ["cid"]),
        (log.erase_user, "cid", ""),
        (log.erase_user, "ann", ""),
    )
    assert errors == [""] * 3
    assert roles(groups, group) == {"bob": OWNER, "dan": MEMBER}
    assert groups.page(APP, "cid", 0, 10) == (0, [])


@pytest.mark.sqlite_first
def test_a_removal_is_noted_with_the_leave_or_not_at_all(
    groups: Groups, group: int, store: Store
) -> None:
    store.execute("DROP TABLE removed_member")
    with pytest.raises(errors.StorageUnavailable):
        groups.remove(APP, group, "ann", ["cid"])
    assert "cid" in roles(groups, group)


def test_the_end_of_an_owner_is_reported_before_the_owner_is_gone(
    groups: Groups, group: int, log: MessageLog
) -> None:
    before = log.entries.head(APP)
    groups.leave(APP, group, "ann")
    role, leaving = log.entries.read(APP, before, 10)
    assert (role.kind, b'"users":["bob"],"role":"owner"' in role.meta) == (
        "group",
        True,
    )
    assert (leaving.kind, leaving.meta) == ("leave", b'{"users":["ann"],"members":3}')


def test_groups_are_listed_in_pages_with_their_names(groups: Groups) -> None:
    ids = [
        groups.create(APP, "ann", f"group {number}", [])[0].id for number in range(5)
    ]
    groups.leave(APP, ids[1], "ann")
    total, page = groups.page(APP, "ann", ids[0], 2)
    assert (total, [(one.id, one.name) for one in page]) == (
        4,
        [(ids[2], "group 2"), (ids[3], "group 3")],
    )
    assert all(isinstance(one, Group) and one.role == OWNER for one in page)


def say(log: MessageLog, group: int, text: str) -> None:
    log.writer.append(
        APP, [Draft(sender="ann", conversation=group, body=text.encode())]
    )


def texts_of(store: Store, user: str, group: int) -> list[str]:
    """What a user finds in the history of a group, and by a search."""
    log = store.part(MessageLog)
    entries, more = log.entries.history(APP, user, group, 0, 100)
    assert not more
    texts = [entry.body.decode() for entry in entries if entry.kind == "message"]
    search = store.part(EntrySearch)
    found, rest = search.find(APP, user, Search("tea", group, 0, 100))
    assert ([entry.body.decode() for entry in found], rest) == (texts, 0)
    return texts


def test_late_members_read_earlier_messages_where_the_group_says_so(
    store: Store, log: MessageLog, groups: Groups, group: int
) -> None:
    say(log, group, "tea 1")
    groups.leave(APP, group, "dan")
    say(log, group, "tea 2")
    groups.invite(APP, group, "ann", ["eve"])
    groups.remove(APP, group, "ann", ["eve"])
    shown = groups.set_options(APP, group, "bob", {"history": "all"})
    assert shown.options
    say(log, group, "tea 3")
    head = log.entries.head(APP)
    groups.invite(APP, group, "ann", ["dan"])
    groups.remove(APP, group, "ann", ["bob"])
    groups.invite(APP, group, "ann", ["eve"])
    say(log, group, "tea 4")
    assert texts_of(store, "dan", group) == ["tea 1", "tea 2", "tea 3", "tea 4"], (
        "nothing twice"
    )
    assert texts_of(store, "eve", group) == ["tea 3", "tea 4"], (
        "again a member: after the first time only"
    )
    listed, _ = log.conversations.page(APP, "dan", 0, 10)
    assert listed[0].unread == 1, "what was before is not unread"
    synced, _ = log.entries.sync(APP, "eve", head, 100)
    assert [entry.body for entry in synced if entry.kind == "message"] == [b"tea 4"]
    groups.set_options(APP, group, "ann", {"history": "since_joining"})
    groups.remove(APP, group, "ann", ["cid"])
    groups.invite(APP, group, "ann", ["cid"])
    say(log, group, "tea 5")
    assert texts_of(store, "cid", group)[-2:] == ["tea 4", "tea 5"], (
        "what cid has read before stays"
    )
    assert texts_of(store, "dan", group)[0] == "tea 1", "who could read it can"


def test_each_text_of_a_group_that_changes_is_an_entry(
    groups: Groups, group: int, log: MessageLog
) -> None:
    before = log.entries.head(APP)
    texts = {"name": "茶", "avatar": "/u/1.jpg", "description": "Tea\nat five"}
    changed = groups.describe(APP, group, "bob", texts)  # type: ignore[arg-type]
    assert (changed.name, changed.avatar, changed.description) == tuple(texts.values())
    groups.describe(APP, group, "bob", {"name": "茶", "avatar": ""})
    assert [json.loads(entry.meta) for entry in log.entries.read(APP, before, 10)] == [
        {"change": "rename", "name": "茶"},
        {"change": "avatar", "avatar": "/u/1.jpg"},
        {"change": "description", "description": "Tea\nat five"},
        {"change": "avatar", "avatar": ""},
    ]
    (listed,) = log.conversations.page(APP, "dan", 0, 10)[0]
    assert (listed.conversation.name, listed.conversation.avatar) == ("茶", "")
    for wrong in (
        {"name": ""},
        {"avatar": "x" * 1001},
        {"description": "x" * 501},
        {"name": "a\nb"},
    ):
        with pytest.raises(BadGroup):
            groups.describe(APP, group, "bob", wrong)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed):
        groups.describe(APP, group, "cid", {"description": "mine"})


def test_options_say_which_role_invites_and_renames(
    groups: Groups, group: int, log: MessageLog
) -> None:
    with pytest.raises(NotAllowed):
        groups.set_options(APP, group, "cid", {"rename": "member"})
    with pytest.raises(UnknownGroup):
        groups.set_options(APP, group, "eve", {"rename": "member"})
    with pytest.raises(NotAllowed):
        groups.describe(APP, group, "cid", {"name": "coffee"})
    groups.invite(APP, group, "cid", ["eve"])
    groups.set_options(APP, group, "bob", {"rename": "member", "invite": "admin"})
    assert groups.describe(APP, group, "cid", {"name": "coffee"}).name == "coffee"
    groups.remove(APP, group, "bob", ["eve"])
    with pytest.raises(NotAllowed):
        groups.invite(APP, group, "cid", ["eve"])
    groups.invite(APP, group, "bob", ["eve"])
    before = log.entries.head(APP)
    groups.set_options(
        APP, group, "ann", {"rename": "admin", "invite": "member", "pin": "admin"}
    )
    groups.set_options(APP, group, "ann", {"rename": "admin"})
    (entry,) = log.entries.read(APP, before, 10)
    assert (entry.kind, entry.sender) == ("group", "ann")
    assert json.loads(entry.meta) == {
        "change": "options",
        "invite": "member",
        "rename": "admin",
    }
    groups.remove(APP, group, "ann", ["dan", "cid"])
    assert (
        json.loads(log.entries.read(APP, entry.id, 10)[0].meta)["members"]
        == groups.count(APP, group)
        == 3
    )
    groups.invite(APP, group, "ann", ["cid"])
    assert groups.show(APP, group, "cid").options == {
        "history": "since_joining",
        "invite": "member",
        "rename": "admin",
        "pin": "admin",
        "bots": "mentions",
        "write": "member",
        "reply": "member",
    }
