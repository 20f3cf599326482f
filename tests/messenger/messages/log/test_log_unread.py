"""What many users have not read, on every engine: the same as the list of conversations counts for each."""

import tracemalloc

from msgspec import json

from imserver.messenger.messages.log.contract import MOST_UNREAD, Draft
from imserver.messenger.messages.log.conversations import MOST_MENTIONS, UnreadMessages
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.test_log import APP, say, stored


def unread(log: MessageLog, conversation: int, *users: str) -> UnreadMessages:
    return log.conversations.unread(APP, {conversation: users}, {conversation: users})[conversation]


def among(found: UnreadMessages, user: str, after: int = 0, mentions: bool = False) -> list[int]:
    indexes = list(found.among(user, after, mentions))
    assert list(found.among(user, after, mentions, newest_first=True)) == indexes[::-1]
    return [found.ids[index] for index in indexes]


def test_unread_messages_of_members_of_a_group(log: MessageLog) -> None:
    group = log.groups.create(APP, "ann", "tea", ["bob", "eve", "zoe"]).conversation
    stored(log, say("ann", "zoe"), say("ann", group), say("bob", group, meta=b'{"mentions":["zoe","kim"]}'))
    log.groups.join(APP, group, ["kim"], "ann")
    stored(log, say("ann", group, meta=b'{"mentions":["all"]}', time_ms=7), say("zoe", group))
    first, of_bob, joined, to_all, of_zoe = 3, 4, 5, 6, 7
    log.marks.note(APP, "bob", group, read=first)
    log.groups.leave(APP, group, ["eve"], "ann")
    log.marks.hide(APP, "kim", [of_zoe])
    found = unread(log, group, "ann", "bob", "eve", "zoe", "kim", "nobody", "ann")
    assert found.reads == {"ann": 0, "bob": first, "zoe": 0, "kim": joined - 1}
    assert (found.ids, found.senders) == ([first, of_bob, to_all, of_zoe], ["ann", "bob", "ann", "zoe"])
    assert found.times[2] == 7
    assert among(found, "ann") == [of_bob, of_zoe]
    assert among(found, "bob") == [to_all, of_zoe]
    assert among(found, "zoe") == [first, of_bob, to_all]
    assert among(found, "zoe", of_bob) == [to_all]
    assert among(found, "kim") == [to_all], "the other one is hidden"
    assert among(found, "zoe", mentions=True) == [of_bob, to_all]
    assert among(found, "zoe", of_bob, mentions=True) == [to_all]
    assert among(found, "kim", mentions=True) == [to_all]
    assert among(found, "ann", mentions=True) == [], "nobody mentions themselves"
    assert [found.is_unread("bob", id) for id in (first, to_all, joined)] == [False, True, False]
    assert not found.is_unread("kim", of_zoe)
    for user in ("ann", "bob", "zoe", "kim"):
        pages = log.conversations.page(APP, user, 0, 9)[0]
        listed = next(each for each in pages if each.conversation.id == group)
        assert found.count(user) == listed.unread, user


def test_of_several_conversations_and_of_none(log: MessageLog) -> None:
    assert log.conversations.unread(APP, {1: ["a"]}, {}) == {}
    stored(log, say("a", "b"), say("c", "b"), say("c", "b"))
    log.marks.note(APP, "b", 2, read=2)
    log.marks.note(APP, "c", 2, received=3)
    found = log.conversations.unread(APP, {1: ["b", "c"], 2: ["b"], 3: ["b"]}, {})
    assert [each.ids for each in found.values()] == [[1], [3], []]
    assert found[1].reads.keys() == {"b"}
    assert (found[2].count("b"), found[3].reads) == (1, {})
    users = {1: ["a", "b"], 2: ["b", "c"]}
    found = {("a", 1): 0, ("b", 1): 0, ("b", 2): 2, ("c", 2): 1}
    assert log.conversations.read_positions(APP, users) == found
    assert log.conversations.read_positions("none", users) == {}


def test_what_is_no_message_any_more_or_hidden_is_not_unread(log: MessageLog) -> None:
    _, edited, recalled, hidden, last, other = stored(log, *[say("a", "b")] * 5, say("c", "b"))
    log.annotations.react(APP, "a", edited.id, "👍")
    stored(log, Draft(sender="a", kind="edit", conversation=1, about=edited.id, body=b"new"))
    stored(log, Draft(sender="a", kind="recall", conversation=1, about=recalled.id))
    log.marks.hide(APP, "b", [hidden.id, other.id])
    log.expire(APP, more_than=8)
    found = unread(log, 1, "b")
    assert among(found, "b") == [edited.id, last.id]
    assert (found.is_unread("b", hidden.id), found.is_unread("b", last.id)) == (False, True)


def test_only_the_newest_are_read(log: MessageLog) -> None:
    group = log.groups.create(APP, "ann", "tea", ["bob"]).conversation
    stored(log, *(say("ann", group) for _ in range(MOST_UNREAD + 5)))
    found = unread(log, group, "bob")
    assert (found.count("bob"), found.ids[-1]) == (MOST_UNREAD, MOST_UNREAD + 6)
    assert found.has_older("bob")


def test_of_each_user_only_the_newest_mentions_are_read(log: MessageLog) -> None:
    users = [f"u{number}" for number in range(100)]
    group = log.groups.create(APP, "ann", "tea", ["bob", *users]).conversation
    (first,) = stored(log, say("ann", group, meta=b'{"mentions":["bob"]}'))
    meta = json.encode({"mentions": users})
    later = stored(log, *(say("ann", group, meta=meta) for _ in range(MOST_MENTIONS + 20)))
    tracemalloc.start()
    found = unread(log, group, "bob", *users)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert among(found, "bob", mentions=True) == [first.id]
    newest = [entry.id for entry in later[20:]]
    assert all(among(found, user, mentions=True) == newest for user in users)
    assert (found.has_older("u1", mentions=True), found.has_older("bob", mentions=True)) == (True, False)
    assert not found.has_older("u1")
    assert peak < 8_000_000
    without = log.conversations.unread(APP, {group: ["bob", *users]}, {group: ["bob"]})[group]
    assert among(without, "bob", mentions=True) == [first.id]
    assert among(without, "u1", mentions=True) == []


def test_a_thousand_members_at_once(log: MessageLog) -> None:
    users = [f"u{number}" for number in range(1100)]
    group = log.groups.create(APP, "ann", "all", users).conversation
    stored(log, say("ann", group), say("ann", group))
    log.marks.note(APP, "u700", group, read=2)
    found = unread(log, group, *users)
    counts = {user: found.count(user) for user in users}
    assert counts.pop("u700") == 1
    assert set(counts.values()) == {2}
