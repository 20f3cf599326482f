"""Handles of groups: who has which, and whom a message mentions by one. Their
rules hold in the order of the log, on each engine."""

import json
from typing import Any

import pytest

from imserver.gateway.auth.rates import TooManyRequests
from imserver.gateway.model import Limit
from imserver.gateway.storage.store import Store
from imserver.messenger.groups.groups import (
    ADMIN,
    BadGroup,
    Groups,
    HandleTaken,
    MentionedGroup,
    NotAllowed,
)
from imserver.messenger.log.contract import Appended, Draft, Rejected
from imserver.messenger.log.handles import MOST_GROUPS, MOST_MEMBERS
from imserver.messenger.log.message_log import MessageLog
from tests.messenger.accounts import add_account
from tests.messenger.groups.test_kinds import APP, groups_in
from tests.messenger.messaging_harness import Node


@pytest.fixture
def groups(store: Store) -> Groups:
    return groups_in(store)


def named(groups: Groups, handle: str, *users: str) -> int:
    """A group of ann, these users and nobody else, with a handle."""
    group = groups.create(APP, "ann", f"The {handle}", users)[0].id
    groups.describe(APP, group, "ann", {"handle": handle})
    return group


def send(log: MessageLog, sender: str, group: int, *mentions: str, **more: Any) -> Any:
    """``meta`` of the stored message, or why it is refused."""
    meta = json.dumps({"mentions": mentions}, separators=(",", ":")).encode()
    (result,) = log.writer.append(
        APP, [Draft(sender=sender, conversation=group, body=b"tea", meta=meta, **more)]
    )
    assert isinstance(result, Appended | Rejected)
    return (
        result.reason
        if isinstance(result, Rejected)
        else json.loads(result.entry.meta or b"{}")
    )


def unread(log: MessageLog, user: str, group: int) -> int:
    """How many unread messages of a group mention a user."""
    page, _ = log.conversations.page(APP, user, 0, 100)
    return next(each.mentions for each in page if each.conversation.id == group)


def test_a_handle_mentions_its_members_who_may_read_the_message(
    groups: Groups, log: MessageLog
) -> None:
    named(groups, "Design", "bob", "cid", "dan")
    tea = groups.create(APP, "ann", "tea", ["bob", "cid", "eve"])[0].id
    assert send(log, "ann", tea, "eve", "@design", "@DESIGN") == {
        "mentions": ["eve", "bob", "cid"],
        "handles": ["design"],
    }
    assert [unread(log, user, tea) for user in ("ann", "bob", "cid", "eve")] == [
        0,
        1,
        1,
        1,
    ]
    assert send(log, "eve", tea, "@design", "bob")["mentions"] == ["bob", "ann", "cid"]
    first = log.entries.history(APP, "ann", tea, 0, 10)[0][1].id
    assert send(log, "ann", tea, "@design", thread=first)["thread"] == first
    thread = log.threads.get(APP, "cid", first)
    assert thread is not None
    assert thread.follows
    assert send(log, "ann", tea, "bob", kind="edit", about=first) == {
        "mentions": ["bob"]
    }
    assert [unread(log, user, tea) for user in ("bob", "cid")] == [2, 1]
    assert send(log, "ann", tea, "@design", kind="edit", about=first)["handles"] == [
        "design"
    ]
    assert unread(log, "cid", tea) == 2


def test_who_is_named_by_nothing_stays_as_written(
    groups: Groups, log: MessageLog, store: Store
) -> None:
    group = named(groups, "design", "bob")
    tea = groups.create(APP, "ann", "tea", ["eve"])[0].id
    assert send(log, "ann", tea, "@design") == {}, "nobody else is reached"
    assert send(log, "eve", tea, "@nobody", "x@design") == {
        "mentions": ["@nobody", "x@design"]
    }
    groups.leave(APP, group, "bob")
    assert groups.delete(APP, group, "ann") == 1
    assert send(log, "eve", tea, "@design", "@", "@\0") == {
        "mentions": ["@design", "@", "@\0"]
    }
    assert named(groups, "design", "eve") != group, "it may be chosen again"
    to_user = Draft(
        sender="ann", to_user="eve", body=b"tea", meta=b'{"mentions":["@design"]}'
    )
    (result,) = log.writer.append(APP, [to_user])
    assert isinstance(result, Appended)
    assert result.entry.meta == to_user.meta


def test_a_guest_mentions_only_groups_of_their_own(
    groups: Groups, log: MessageLog, store: Store
) -> None:
    guest = add_account(store, APP, guest=1)
    named(groups, "design", "bob")
    named(groups, "guests", "bob", guest)
    tea = groups.create(APP, "ann", "tea", ["bob", guest])[0].id
    meta = send(log, guest, tea, "@design", "@guests")
    assert meta == {"mentions": ["@design", "ann", "bob"], "handles": ["guests"]}


def test_a_message_mentions_a_limited_number(log: MessageLog) -> None:
    def make(handle: str, users: list[str]) -> int:
        group = log.groups.create(APP, "ann", handle, users).conversation
        log.groups.describe(APP, group, {"handle": handle})
        return group

    users = [f"u{number}" for number in range(MOST_MEMBERS)]
    large = make("large", users)
    groups = [
        make(f"g{number}", users[number : number + 1])
        for number in range(MOST_GROUPS + 1)
    ]
    make("hundred", users[: Limit.MENTIONS])
    handles = [f"@g{number}" for number in range(len(groups))]
    small = log.groups.create(APP, "ann", "", users[:2]).conversation
    assert send(log, "ann", small, "@large") == "full", "ann is one too many"
    log.groups.leave(APP, large, ["ann"])
    assert send(log, "ann", small, "@large") == {
        "mentions": users[:2],
        "handles": ["large"],
    }
    assert send(log, "ann", small, *handles) == "full"
    assert send(log, "ann", small, *handles[1:])["mentions"] == ["u1"]
    assert send(log, "ann", large, "@hundred") == "not_member"
    assert send(log, "u999", large, "@hundred", "u998") == "full"
    assert len(send(log, "u999", large, "@hundred")["mentions"]) == Limit.MENTIONS


def test_admins_choose_a_handle_that_no_other_group_has(
    groups: Groups, log: MessageLog
) -> None:
    group = groups.create(APP, "ann", "tea", ["bob", "gus"])[0].id
    other = named(groups, "design")
    groups.set_options(APP, group, "ann", {"rename": "member"})
    groups.describe(APP, group, "bob", {"name": "Tea"})
    with pytest.raises(NotAllowed):
        groups.describe(APP, group, "bob", {"handle": "tea"})
    for user in ("bob", "gus"):
        groups.set_role(APP, group, "ann", user, ADMIN)
    with pytest.raises(NotAllowed):  # a guest
        groups.describe(APP, group, "gus", {"handle": "tea"})
    for wrong in (
        "t",
        "two words",
        "-tea",
        "tea-",
        "@tea",
        "all",
        "Everyone",
        "x" * 33,
        "te\u202ea",
    ):
        with pytest.raises(BadGroup):
            groups.describe(APP, group, "bob", {"handle": wrong})
    with pytest.raises(HandleTaken):
        groups.describe(APP, group, "bob", {"handle": "DESIGN", "name": "unchanged"})
    assert groups.show(APP, group, "ann").name == "Tea"
    assert (
        groups.describe(APP, group, "bob", {"handle": "Tea_設計"}).handle == "tea_設計"
    )
    entry = log.entries.history(APP, "ann", group, 0, 10)[0][-1]
    assert json.loads(entry.meta) == {"change": "handle", "handle": "tea_設計"}
    groups.describe(APP, other, "ann", {"handle": ""})
    assert groups.describe(APP, group, "bob", {"handle": "design"}).handle == "design"


def test_groups_to_mention_are_listed_with_how_many_they_reach(groups: Groups) -> None:
    design = named(groups, "design", "bob", "cid")
    named(groups, "attic", "dan")
    guests = named(groups, "guests", "gus")
    tea = groups.create(APP, "ann", "tea", ["bob", "cid", "gus"])[0].id
    row = MentionedGroup(str(design), "design", "The design", "", 2)
    for by, text in (("ann", "DES"), ("bob", "the design")):
        assert groups.find_mentionable(APP, tea, by, text) == ([row], False)
    rows, _ = groups.find_mentionable(APP, tea, "", "")
    assert [(each.handle, each.members) for each in rows] == [
        ("attic", 1),
        ("design", 3),
        ("guests", 2),
    ]
    assert [each.group for each in groups.find_mentionable(APP, tea, "gus", "")[0]] == [
        str(guests)
    ]


@pytest.mark.sqlite_first
def test_a_search_of_groups_to_mention_takes_time_of_who_searches(store: Store) -> None:
    groups = groups_in(store, searches=1)
    tea = named(groups, "tea", "bob")
    groups.find_mentionable(APP, tea, "ann", "")
    with pytest.raises(TooManyRequests):
        groups.find_mentionable(APP, tea, "ann", "")
    assert groups.find_mentionable(APP, tea, "bob", "")[0] != []


@pytest.mark.sqlite_first
@pytest.mark.parametrize("look", ["dеsign", "ｄesign", "ԁеѕіɡո", "ᴅesign"])
def test_no_handle_looks_like_another(
    groups: Groups, log: MessageLog, look: str
) -> None:
    """Letters of other scripts, and other letters of the same, in place of
    Latin ones."""
    named(groups, "design")
    other = groups.create(APP, "ann", "another", [])[0].id
    with pytest.raises((BadGroup, HandleTaken)):
        groups.describe(APP, other, "ann", {"handle": look})


@pytest.mark.parametrize(
    ("one", "same"), [("scope", "ѕсоре"), ("oiko", "οικο"), ("tea", "ｔｅａ")]
)
def test_a_handle_in_one_script_that_looks_like_one_in_another_is_taken(
    groups: Groups, one: str, same: str
) -> None:
    for first, second in ((one, same), (f"{same}2", f"{one}2")):
        named(groups, first)
        with pytest.raises(HandleTaken):
            named(groups, second)


@pytest.mark.parametrize(
    "handle", ["tea_設計", "команда", "ομάδα", "ティーteam", "équipe-2"]
)
def test_a_handle_may_have_letters_of_one_alphabet_beside_those_of_east_asia(
    groups: Groups, handle: str
) -> None:
    assert groups.describe(APP, named(groups, handle), "ann", {}).handle == handle


def test_clients_on_all_nodes_get_whom_a_handle_mentions() -> None:
    with Node() as one, Node(one.file) as two:
        one.others, two.others = [two], [one]
        design = one.group("ann", "bob")
        tea = one.group("ann", "bob", "cid")
        one.log.groups.describe(one.app, design, {"handle": "design"})
        bob = two.speaker("bob", 0)
        ann = one.speaker("ann", 0)
        assert ann.send(tea, "tea", mentions=["@design"])[0] == 200
        bob.settle()
        assert bob.pushed()[-1]["meta"] == {"mentions": ["bob"], "handles": ["design"]}
