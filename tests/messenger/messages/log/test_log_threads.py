"""Threads: replies, who follows them, and how far they are read, on every engine."""

import json
from typing import Any

from imserver.messenger.messages.log.contract import Appended, Draft, Entry, Rejected
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.log.threads import MOST_FACES, MOST_LISTED, MOST_ON_PAGE, Thread
from tests.messenger.messages.log.test_log import APP, group_of, ids, say, stored


def reply(log: MessageLog, user: str, at: int, root: int, *, also: bool = False, **more: Any) -> Entry:
    """A stored reply in a thread."""
    (entry,) = stored(log, say(user, at, thread=root, also=also, **more))
    return entry


def seen(log: MessageLog, user: str, root: int) -> Thread:
    thread = log.threads.get(APP, user, root)
    assert thread is not None
    return thread


def replies(log: MessageLog, user: str, root: int) -> list[int]:
    page = log.threads.replies(APP, user, root, 0, 50)
    assert page is not None
    return ids(page[0])


def unread(log: MessageLog, user: str, at: int) -> tuple[int, int, int]:
    """Unread messages and mentions of a conversation, and the last entry in the list."""
    summary = next(each for each in log.conversations.page(APP, user, 0, 9)[0] if each.conversation.id == at)
    assert summary.last is not None
    return summary.unread, summary.mentions, summary.last.id


def test_a_reply_is_an_entry_that_the_conversation_counts_only_if_it_shows_it(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob", "eve")
    (root,) = stored(log, say("ann", at, "tea?"))
    first = reply(log, "bob", at, root.id)
    assert (first.kind, first.about, json.loads(first.meta)) == ("message", root.id, {"thread": root.id})
    assert unread(log, "eve", at) == (1, 0, root.id)
    both = reply(log, "bob", at, root.id, also=True)
    assert json.loads(both.meta) == {"thread": root.id, "also": True}
    assert unread(log, "eve", at) == (2, 0, both.id)
    mentioning = reply(log, "ann", at, first.id, about=first.id, meta=b'{"mentions":["eve"]}')
    assert json.loads(mentioning.meta) == {"mentions": ["eve"], "thread": root.id}, "a reply to a reply"
    assert mentioning.about == first.id
    assert unread(log, "eve", at) == (2, 0, both.id)
    everything = [root.id, first.id, both.id, mentioning.id]
    assert ids(log.entries.history(APP, "eve", at, 0, 10)[0])[1:] == everything
    assert ids(log.entries.sync(APP, "eve", 0, 10)[0])[1:] == everything
    assert replies(log, "eve", root.id) == everything[1:]
    (shown,) = log.entries.find(APP, [root.id])
    totals = {"count": 3, "last": mentioning.id, "time": mentioning.time_ms, "users": ["ann", "bob"]}
    assert json.loads(shown.meta) == {"replies": totals}


def test_who_wrote_or_was_mentioned_follows_until_they_mute_the_thread(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob", "eve", "kim", "zoe")
    (root,) = stored(log, say("ann", at, meta=b'{"mentions":["kim","away"]}'))
    first = reply(log, "bob", at, root.id, meta=b'{"mentions":["zoe","all"]}')
    following = {user: seen(log, user, root.id) for user in ("ann", "bob", "eve", "kim", "zoe")}
    assert {user for user, thread in following.items() if thread.follows} == {"ann", "bob", "kim", "zoe"}
    assert {user: thread.unread for user, thread in following.items()} == {
        **dict.fromkeys(("ann", "kim", "zoe"), 1),
        **dict.fromkeys(("bob", "eve"), 0),
    }
    assert [following[user].read for user in ("ann", "bob", "zoe")] == [first.id - 1, first.id, first.id - 1]
    assert log.threads.follow(APP, "zoe", root.id, False) is not None
    second = reply(log, "eve", at, root.id, meta=b'{"mentions":["zoe"]}')
    assert not seen(log, "zoe", root.id).follows, "a mention does not end the mute"
    assert [thread.thread for thread in log.threads.of_user(APP, "eve", 0, 9)[0]] == [root.id]
    assert (seen(log, "ann", root.id).unread, seen(log, "bob", root.id).unread) == (2, 1)
    unread_of = log.conversations.unread(APP, {at: ["ann", "bob", "eve", "kim", "zoe"]}, {})[at]
    notified = {user: [unread_of.ids[each] for each in unread_of.among(user, 0)] for user in unread_of.reads}
    assert notified == {
        "ann": [first.id, second.id],
        "bob": [root.id, second.id],
        "eve": [root.id],
        "kim": [root.id, first.id, second.id],
        "zoe": [root.id],
    }
    assert {user: unread_of.count(user) for user in unread_of.reads} == {
        user: len(ids) for user, ids in notified.items()
    }
    assert [unread_of.is_unread(user, first.id) for user in ("kim", "zoe")] == [True, False]


def test_the_read_position_of_a_thread_is_the_greatest(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    (root,) = stored(log, say("ann", at))
    first, second = reply(log, "bob", at, root.id), reply(log, "bob", at, root.id)
    other = stored(log, say("bob", at))[0]
    read = log.threads.read(APP, "ann", root.id, first.id)
    assert read is not None
    assert (read.read, read.unread, read.last) == (first.id, 1, second.id)
    for id, position in ((1, first.id), (other.id + 5, second.id), (first.id, second.id)):
        read = log.threads.read(APP, "ann", root.id, id)
        assert read is not None
        assert read.read == position
    assert read.unread == 0
    assert log.conversations.page(APP, "ann", 0, 9)[0][0].read == 0, "that of the conversation is another one"
    assert log.threads.read(APP, "eve", root.id, 9) is None


def test_threads_are_listed_by_their_newest_reply(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    roots = stored(log, say("ann", at), say("ann", at), say("ann", at))
    for number in (0, 1, 2, 0):
        last = reply(log, "bob", at, roots[number].id)
    threads, more = log.threads.of_user(APP, "ann", 0, 2)
    assert ([thread.thread for thread in threads], more) == ([roots[0].id, roots[2].id], True)
    assert (threads[0].last, threads[0].unread, threads[0].conversation) == (last.id, 2, at)
    assert threads[0].message is not None
    threads, more = log.threads.of_user(APP, "ann", threads[-1].last, 2)
    assert ([thread.thread for thread in threads], more) == ([roots[1].id], False)
    log.groups.leave(APP, at, ["bob"], "ann")
    assert log.threads.of_user(APP, "bob", 0, 9)[0] == [], "of a group that they have left"
    page = log.threads.replies(APP, "ann", roots[0].id, 0, 1)
    assert page is not None
    assert (ids(page[0]), page[1]) == ([last.id], last.id)
    page = log.threads.replies(APP, "ann", roots[0].id, page[1], 1)
    assert page is not None
    assert page[1] == 0


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


def test_a_thread_begins_with_a_message_that_the_sender_reads_in_this_conversation(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    (root, elsewhere) = stored(log, say("ann", at), say("ann", "bob"))
    log.groups.join(APP, at, ["eve"], "ann")
    reaction = log.annotations.react(APP, "bob", root.id, "+1")
    assert not isinstance(reaction, Rejected)
    assert reaction.entry is not None
    for user, where, thread in (
        ("ann", at, elsewhere.id),
        ("ann", at, 99),
        ("ann", at, reaction.entry.id),
        ("ann", "zoe", root.id),
        ("eve", at, root.id),
    ):
        (refused,) = log.writer.append(APP, [say(user, where, thread=thread)])
        assert isinstance(refused, Rejected), (user, where, thread)
        assert refused.reason == "unknown_message"
    assert log.threads.get(APP, "eve", root.id) is None
    assert log.threads.follow(APP, "eve", root.id, True) is None
    assert log.threads.replies(APP, "eve", root.id, 0, 9) is None
    (pair,) = stored(log, say("bob", "ann", thread=elsewhere.id))
    assert json.loads(pair.meta) == {"thread": elsewhere.id}
    for wrong in (Draft(sender="ann", room="r", thread=1), Draft(sender="ann", to_user="bob", thread=-1)):
        (refused,) = log.writer.append(APP, [wrong])
        assert isinstance(refused, Rejected)
        assert refused.reason == "invalid"


def test_edits_and_recalls_leave_a_thread_as_it_is(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    (root,) = stored(log, say("ann", at))
    first = reply(log, "bob", at, root.id, also=True)
    totals = {"count": 1, "last": first.id, "time": first.time_ms, "users": ["bob"]}
    (edit,) = stored(log, Draft(sender="bob", kind="edit", conversation=at, about=first.id, body=b"new"))
    log.annotations.react(APP, "ann", first.id, "+1")
    (shown,) = log.entries.find(APP, [first.id])
    meta = json.loads(shown.meta)
    assert (meta["thread"], meta["also"], meta["edited"]) == (root.id, True, edit.id)
    for id in (first.id, root.id):
        stored(log, Draft(sender="ann", kind="recall", conversation=at, about=id))
    recalled = {entry.id: entry for entry in log.entries.find(APP, [first.id, root.id])}
    assert json.loads(recalled[first.id].meta) == {"thread": root.id, "also": True}
    assert json.loads(recalled[root.id].meta) == {"replies": totals}
    assert seen(log, "ann", root.id).unread == 0, "a recalled reply is not unread"
    assert reply(log, "bob", at, root.id), "a thread goes on without its first message"


def test_an_erased_user_is_no_face_of_a_thread_and_follows_none(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    (root,) = stored(log, say("ann", at))
    first = reply(log, "bob", at, root.id)
    log.erase_user(APP, "bob", "~gone")
    (shown,) = log.entries.find(APP, [root.id])
    assert json.loads(shown.meta)["replies"]["users"] == ["~gone"]
    (gone,) = log.entries.find(APP, [first.id])
    assert (gone.sender, json.loads(gone.meta)["thread"]) == ("~gone", root.id)
    log.groups.join(APP, at, ["bob"], "ann")
    assert log.threads.of_user(APP, "bob", 0, 9)[0] == []


def test_a_thread_expires_with_its_messages(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    (root,) = stored(log, say("ann", at))
    first = reply(log, "bob", at, root.id)
    last = reply(log, "bob", at, root.id)
    log.expire(APP, more_than=1)
    assert replies(log, "ann", root.id) == [last.id]
    assert log.threads.of_user(APP, "ann", 0, 9) == ([], False)
    for id in (root.id, first.id, last.id):
        (refused,) = log.writer.append(APP, [say("ann", at, thread=id)])
        assert isinstance(refused, Rejected)


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
    assert len(replies(log, "u0", root.id)) == len(users)


def test_a_message_without_replies_is_a_thread_that_nobody_follows(log: MessageLog) -> None:
    at = group_of(log, "ann", "bob")
    stored(log, say("ann", at))
    assert log.threads.of_user(APP, "ann", 0, 9) == ([], False)
    thread = seen(log, "bob", 2)
    assert (thread.last, thread.follows, thread.unread) == (0, False, 0)
