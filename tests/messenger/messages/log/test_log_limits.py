"""Marks, unread messages and threads, on every engine, where the model has too few users and messages."""

import json
import tracemalloc

import gevent
import pytest

from imserver.messenger.messages.log.contract import (
    MOST_RECEIPTED,
    MOST_UNREAD,
    Appended,
    MarkResult,
    Receipt,
)
from imserver.messenger.messages.log.conversations import MOST_MENTIONS, UnreadMessages
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.log.threads import MOST_FACES, MOST_LISTED, MOST_ON_PAGE
from tests.messenger.messages.log.test_log import APP, group_of, say, stored


def note(log: MessageLog, user: str, conversation: int, **marks: int) -> MarkResult:
    result = log.marks.note(APP, user, conversation, **marks)
    assert result is not None
    return result


def test_only_so_many_entries_are_looked_at_for_their_authors(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "tea", ["a", "b"]).conversation
    entries = stored(log, say("a", group), *(say("owner", group) for _ in range(MOST_RECEIPTED)))
    assert note(log, "b", group, read=entries[-1].id).authors == ("owner",)


def test_two_who_read_each_other_at_once_both_get_through(log: MessageLog) -> None:
    entries = stored(log, *(say(one, other) for one, other in (("a", "b"), ("b", "a")) * 20))
    readers = [gevent.spawn(note, log, user, 1, read=entry.id) for entry in entries for user in ("a", "b")]
    gevent.joinall(readers, raise_error=True)
    last = entries[-1].id
    assert log.marks.receipts(APP, "a", 1, "", 10) == [Receipt(1, "b", last, last)]
    assert log.marks.receipts(APP, "b", 1, "", 10) == [Receipt(1, "a", last, last)]
    assert log.marks.since(APP, "a", 0).receipts == (Receipt(1, "b", last, last),)


def test_what_somebody_marked_who_is_gone_for_good_is_forgotten_and_nothing_else(log: MessageLog) -> None:
    (first,) = stored(log, say("a", "b"))
    for user in ("a", "b"):
        log.marks.hide(APP, user, [first.id])
        log.marks.note(APP, user, first.conversation, read=first.id)
    for _ in range(2):
        log.marks.forget(APP, "b")
    log.marks.forget("another app", "a")
    assert log.marks.receipts(APP, "a", first.conversation, "", 10) == []
    found = [log.marks.since(APP, user, 0) for user in "ab"]
    assert [(each.hidden, each.reads) for each in found] == [((first.id,), {1: first.id}), ((), {})]
    assert [entry.id for entry in log.entries.history(APP, "b", first.conversation, 0, 10)[0]] == [first.id]


@pytest.mark.parametrize("user", ["é" * 128, "b" * 100_000, "b\0"])
def test_a_user_who_cannot_exist_hides_nothing(log: MessageLog, user: str) -> None:
    (first,) = stored(log, say("a", "b"))
    assert log.marks.hide(APP, user, [first.id]) == 0


def unread(log: MessageLog, conversation: int, *users: str) -> UnreadMessages:
    return log.conversations.unread(APP, {conversation: users}, {conversation: users})[conversation]


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
    meta = json.dumps({"mentions": users}).encode()
    later = stored(log, *(say("ann", group, meta=meta) for _ in range(MOST_MENTIONS + 20)))
    tracemalloc.start()
    found = unread(log, group, "bob", *users)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    def named(user: str) -> list[int]:
        return [found.ids[index] for index in found.among(user, 0, mentions=True)]

    assert named("bob") == [first.id]
    newest = [entry.id for entry in later[20:]]
    assert all(named(user) == newest for user in users)
    assert (found.has_older("u1", mentions=True), found.has_older("bob", mentions=True)) == (True, False)
    assert not found.has_older("u1")
    assert peak < 8_000_000
    found = log.conversations.unread(APP, {group: ["bob", *users]}, {group: ["bob"]})[group]
    assert (named("bob"), named("u1")) == ([first.id], [])


def test_a_thousand_members_at_once(log: MessageLog) -> None:
    users = [f"u{number}" for number in range(1100)]
    group = log.groups.create(APP, "ann", "all", users).conversation
    stored(log, say("ann", group), say("ann", group))
    log.marks.note(APP, "u700", group, read=2)
    found = unread(log, group, *users)
    counts = {user: found.count(user) for user in users}
    assert counts.pop("u700") == 1
    assert set(counts.values()) == {2}


def test_a_list_costs_no_more_with_many_threads(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    roots = [each.id for each in stored(log, *[say("ann", at)] * (MOST_LISTED + 2))]
    log.writer.append(APP, [say("bob", at, thread=root) for root in reversed(roots)])
    listed: list[int] = []
    before, more = 0, True
    while more:
        threads, more = log.threads.of_user(APP, "ann", before, 200)
        assert len(threads) <= MOST_ON_PAGE
        listed += [each.thread for each in threads]
        before = threads[-1].last
    assert listed == roots[2:], "the oldest ones are left out"


def test_an_erased_user_is_no_face_of_a_thread_and_follows_none(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    (root,) = stored(log, say("ann", at))
    (first,) = stored(log, say("bob", at, thread=root.id))
    log.erase_user(APP, "bob", "~gone")
    (shown,) = log.entries.find(APP, [root.id])
    assert json.loads(shown.meta)["replies"]["users"] == ["~gone"]
    (gone,) = log.entries.find(APP, [first.id])
    assert (gone.sender, json.loads(gone.meta)["thread"]) == ("~gone", root.id)
    log.groups.join(APP, at, ["bob"], "ann")
    assert log.threads.of_user(APP, "bob", 0, 9)[0] == []


def test_many_reply_at_a_time_and_each_is_counted_once(log: MessageLog) -> None:
    users = [f"u{number}" for number in range(MOST_FACES + 3)]
    at = group_of(log, *users)
    (root,) = stored(log, say("u0", at))
    drafts = [say(user, at, thread=root.id, client_msg_id=user) for user in users]
    outcomes = [*log.writer.append(APP, drafts), *log.writer.append(APP, drafts)]
    assert all(isinstance(each, Appended) for each in outcomes)
    (shown,) = log.entries.find(APP, [root.id])
    totals = json.loads(shown.meta)["replies"]
    assert (totals["count"], totals["users"]) == (len(users), users[: -MOST_FACES - 1 : -1])
    page = log.threads.replies(APP, "u0", root.id, 0, 50)
    assert page is not None
    assert len(page[0]) == len(users)
