"""What comes to messages later, on every engine: edits, recalls, removals,
reactions, marks, and threads."""

import json
import time
import tracemalloc

import gevent
import pytest

from imserver.gateway.storage.numbers import far_number
from imserver.messenger.log.annotations import (
    MOST_EMOJI,
    MOST_PINS,
    MOST_USERS,
)
from imserver.messenger.log.commands import Search
from imserver.messenger.log.contract import (
    MOST_RECEIPTED,
    MOST_UNREAD,
    Appended,
    Change,
    Draft,
    Entry,
    MarkResult,
    Receipt,
    Rejected,
)
from imserver.messenger.log.conversations import MOST_MENTIONS, UnreadMessages
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.model import Reaction
from imserver.messenger.log.removals import MOST_AT_ONCE
from imserver.messenger.log.threads import (
    MOST_FACES,
    MOST_LISTED,
    MOST_ON_PAGE,
)
from imserver.messenger.log.writer import BATCH_CHANGES
from imserver.messenger.messages.declared import NUMBERS
from imserver.messenger.search.search import EntrySearch
from tests.messenger.log.test_log import (
    APP,
    bodies,
    group_of,
    ids,
    say,
    stored,
)
from tests.stores import OpenStore


def received(entries: list[Entry]) -> list[tuple[int, str, str, int]]:
    return [
        (entry.id, entry.kind, entry.body.decode(), entry.about) for entry in entries
    ]


def test_a_message_and_its_edits_show_the_newest_text(log: MessageLog) -> None:
    (first,) = stored(log, say("a", "b", "helo", about=7, meta=b'{"mentions":["x"]}'))
    stored(log, say("a", "b", "hello", kind="edit", about=first.id))
    edited = say(
        "a",
        "b",
        '{"n":1}',
        kind="edit",
        type="custom",
        about=first.id,
        meta=b'{"mentions":["b"]}',
    )
    (last,) = stored(log, edited)
    found = log.entries.history(APP, "b", first.conversation, 0, 10)[0]
    assert bodies(found) == ['{"n":1}'] * 3
    assert [entry.type for entry in found] == ["custom"] * 3
    assert [entry.about for entry in found] == [7, first.id, first.id]
    assert [json.loads(entry.meta) for entry in found] == [
        {"mentions": ["b"], "edited": last.id},
        {"mentions": ["b"]},
        {"mentions": ["b"]},
    ]


def test_an_edit_with_a_strange_meta_costs_nobody_anything(log: MessageLog) -> None:
    (first,) = stored(log, say("a", "b", "helo"))
    stored(
        log,
        say("a", "b", "x", kind="edit", about=first.id, meta=b"no json"),
        say("a", "b", "next"),
    )
    assert json.loads(log.entries.find(APP, [first.id])[0].meta) == {"edited": 2}


def test_of_many_changes_that_are_stored_together_the_last_counts(
    log: MessageLog,
) -> None:
    one, two = stored(log, say("a", "b", "1"), say("a", "b", "2"))
    outcomes = log.writer.append(
        APP,
        [
            say("a", "b", "1a", kind="edit", about=one.id),
            say("a", "b", "2a", kind="edit", about=two.id, client_msg_id="e"),
            say("a", "b", "1b", kind="edit", about=one.id),
            say("a", "b", "", kind="recall", about=two.id, client_msg_id="r"),
            say("a", "b", "2b", kind="edit", about=two.id),
        ],
    )
    assert [isinstance(each, Appended) for each in outcomes] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert outcomes[-1] == Rejected("recalled")
    assert bodies(log.entries.read(APP, 0, 10)) == ["1b", "", "1b", "", "1b", ""]


@pytest.mark.usefixtures("small")
def test_the_edits_of_a_message_are_limited_and_it_can_still_be_recalled(
    log: MessageLog,
) -> None:
    first, second = stored(log, say("a", "b", "0"), say("a", "b", "other"))
    edits = [
        say("a", "b", str(n), kind="edit", about=first.id, client_msg_id=str(n))
        for n in range(1, 5)
    ]
    stored(log, edits[0])
    outcomes = log.writer.append(APP, edits)
    assert [isinstance(one, Appended) for one in outcomes] == [True, True, True, False]
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason == "full"
    assert bodies(log.entries.history(APP, "b", first.conversation, 0, 10)[0]) == [
        "3",
        "other",
        "3",
        "3",
        "3",
    ]
    stored(log, say("a", "b", "x", kind="edit", about=second.id))
    stored(log, say("a", "b", "", kind="recall", about=first.id))
    assert bodies(log.entries.history(APP, "b", first.conversation, 0, 10)[0]) == [
        "",
        "x",
        "",
        "",
        "",
        "x",
        "",
    ]


THUMB = "\N{THUMBS UP SIGN}"


def test_a_removed_message_is_gone_and_comes_back_as_it_was(
    log: MessageLog, search: EntrySearch
) -> None:
    group = log.groups.create(APP, "ann", "tea", ["bob"]).conversation
    meta = json.dumps({"mentions": ["bob"]}).encode()
    first, reply = stored(
        log, say("bob", group, "tea?"), say("ann", group, "spam", meta=meta)
    )
    (answer,) = stored(log, say("ann", group, "more spam", about=first.id))
    stored(
        log, say("ann", group, "edited spam", kind="edit", about=reply.id, meta=meta)
    )
    assert isinstance(log.annotations.react(APP, "bob", reply.id, THUMB), Change)
    assert isinstance(log.annotations.pin(APP, "ann", reply.id), Change)
    before = {entry.id: entry for entry in log.entries.find(APP, [reply.id, answer.id])}

    assert log.removals.remove(APP, "act", [reply.id, answer.id]) == [
        reply.id,
        answer.id,
    ]
    for entry in log.entries.find(APP, [reply.id, answer.id]):
        assert (entry.kind, entry.body, entry.about) == ("recall", b"", entry.id)
        assert json.loads(entry.meta) == {"removed": True}
    assert bodies(search.find(APP, "bob", Search("spam", 0, 0, 10))[0]) == []
    assert log.entries.pins(APP, "bob", group)[0] == []
    assert b"spam" not in b"".join(
        entry.body for entry in log.entries.read(APP, 0, 100)
    )
    assert log.removals.copies(APP, "act") == 2

    assert log.removals.restore(APP, "act") == 2
    assert log.removals.restore(APP, "act") == 0
    assert {
        entry.id: entry for entry in log.entries.find(APP, [reply.id, answer.id])
    } == before
    assert ids(search.find(APP, "bob", Search("spam", 0, 0, 10))[0]) == [
        reply.id,
        answer.id,
    ]
    assert ids(log.entries.pins(APP, "bob", group)[0]) == [reply.id]
    entries = log.entries.sync(APP, "bob", 0, 100)[0]
    assert [entry.kind for entry in entries if entry.kind == "recall"] == []
    edits = [
        entry for entry in entries if entry.kind == "edit" and entry.about == answer.id
    ]
    assert json.loads(edits[-1].meta) == {"restored": first.id}
    assert edits[-1].body == b"more spam"


def test_a_removal_that_is_final_leaves_nothing(log: MessageLog) -> None:
    sent = stored(log, say("ann", "bob", "spam"), say("ann", "bob", "ham"))
    log.removals.remove(APP, "act", ids(sent))
    assert log.removals.finish(APP, "act") == 2
    assert log.removals.finish(APP, "act") == 0
    assert log.removals.restore(APP, "act") == 0
    assert {entry.kind for entry in log.entries.read(APP, 0, 100)} == {"recall"}


def test_a_recalled_message_is_not_removed_and_a_removal_ends_where_it_may_not_go_on(
    log: MessageLog,
) -> None:
    one, other = stored(log, say("ann", "bob", "one"), say("ann", "bob", "other"))
    stored(log, say("ann", 1, kind="recall", about=one.id))
    assert log.removals.remove(APP, "act", [one.id]) == [one.id]
    assert log.removals.copies(APP, "act") == 0
    assert log.removals.remove(APP, "act", [other.id], lambda sql: False) is None
    assert log.entries.find(APP, [other.id])[0].body == b"other"


def test_what_its_author_has_recalled_meanwhile_does_not_come_back(
    log: MessageLog, search: EntrySearch
) -> None:
    one, other = stored(log, say("ann", "bob", "one"), say("ann", "bob", "other"))
    log.removals.remove(APP, "act", [one.id, other.id])
    stored(log, say("ann", 1, kind="recall", about=one.id))
    assert log.removals.restore(APP, "act") == 2
    assert [entry.body for entry in log.entries.find(APP, [one.id, other.id])] == [
        b"",
        b"other",
    ]
    assert log.removals.copies(APP, "act") == 0
    assert ids(search.find(APP, "bob", Search("one", 0, 0, 10))[0]) == []


def test_the_messages_of_a_user_are_counted_and_found_in_steps(log: MessageLog) -> None:
    now = int(time.time()) * 1000
    drafts = [
        say("ann", "bob", str(i), time_ms=now + i) for i in range(MOST_AT_ONCE + 10)
    ]
    sent = stored(
        log, *drafts, say("bob", "ann"), say("ann", "eve", time_ms=now + 5000)
    )
    assert log.removals.count(APP, "ann", 0, 0) == {1: MOST_AT_ONCE + 10, 2: 1}
    assert log.removals.count(APP, "ann", now + 5, now + 10) == {1: 5}
    assert log.removals.count(APP, "eve", 0, 0) == {}
    after, last = log.removals.extent(APP, 0, 0)
    found, after = log.removals.sent(APP, "ann", 0, 0, after, last)
    assert [id for id, _ in found] == ids(sent[:MOST_AT_ONCE])
    found, after = log.removals.sent(APP, "ann", 0, 0, after, last)
    assert [conversation for _, conversation in found] == [1] * 10 + [2]
    assert after == last


def test_looks_for_the_messages_of_a_user_skip_the_ids_that_a_restore_leaves_out(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url, seconds=10)
    log = store.part(MessageLog)
    before = stored(log, say("ann", "bob"), say("bob", "ann"))
    for _ in range(2):
        for numbers in NUMBERS:
            store.write(lambda sql, numbers=numbers: numbers.skip(sql, far_number()))
        before += stored(log, say("ann", "bob"), say("bob", "ann"))
    assert before[-1].id > 1 << 32
    after, last = log.removals.extent(APP, 0, 0)
    found = list[int]()
    looks = 0
    while after < last:
        some, after = log.removals.sent(APP, "ann", 0, 0, after, last)
        found += [id for id, _ in some]
        looks += 1
        assert looks <= 4
    assert found == ids(before[::2])
    assert log.removals.count(APP, "ann", 0, 0) == {1: 3}
    assert log.removals.size(APP, 0, 0) == 6


def test_copies_move_to_a_later_removal(log: MessageLog) -> None:
    sent = stored(log, say("ann", "bob", "spam"), say("ann", "bob", "ham"))
    log.removals.remove(APP, "hide", ids(sent))
    assert log.removals.move(APP, [sent[0].id, 99], "delete") == 1
    assert (log.removals.copies(APP, "hide"), log.removals.copies(APP, "delete")) == (
        1,
        1,
    )


THUMB = "\N{THUMBS UP SIGN}"
HEART = "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}"


def react(
    log: MessageLog,
    user: str,
    message: int,
    emoji: str = THUMB,
    *,
    remove: bool = False,
) -> Entry:
    """The entry of a reaction that changes something."""
    change = log.annotations.react(APP, user, message, emoji, remove=remove)
    assert change.entry is not None
    return change.entry


def reactions(
    entries: list[Entry], message: int
) -> list[tuple[str, int, tuple[str, ...], bool]]:
    (found,) = [entry for entry in entries if entry.id == message]
    return [(each.emoji, each.count, each.users, each.mine) for each in found.reactions]


def test_a_reaction_is_an_entry_and_every_page_shows_the_totals(
    log: MessageLog, search: EntrySearch
) -> None:
    message, other = stored(log, say("a", "b", "tea?"), say("a", "b", "now?"))
    first = react(log, "b", message.id)
    assert (first.kind, first.type, first.body.decode()) == ("reaction", "add", THUMB)
    assert json.loads(first.meta) == {"count": 1}
    react(log, "a", message.id)
    react(log, "a", message.id, HEART)
    react(log, "a", message.id, "+1")
    last = react(log, "a", message.id, "+1", remove=True)
    assert (last.type, json.loads(last.meta)) == ("remove", {"count": 0})
    of_a = [(THUMB, 2, ("b", "a"), True), (HEART, 1, ("a",), True)]
    of_b = [(THUMB, 2, ("b", "a"), True), (HEART, 1, ("a",), False)]
    assert reactions(log.entries.history(APP, "a", 1, 0, 10)[0], message.id) == of_a
    assert reactions(log.entries.sync(APP, "b", 0, 10)[0], message.id) == of_b
    assert (
        reactions(search.find(APP, "b", Search("tea", 0, 0, 10))[0], message.id) == of_b
    )
    assert ids(log.entries.history(APP, "a", 1, 0, 10)[0]) == [message.id, other.id]
    assert ids(log.entries.sync(APP, "a", 0, 10)[0]) == [*range(1, 8)]
    (shown,) = log.entries.find(APP, [message.id])
    assert json.loads(shown.meta) == {"reacted": last.id}


def test_of_many_users_some_are_named_and_each_sees_their_own(log: MessageLog) -> None:
    users = [f"u{number:02}" for number in range(MOST_USERS + 2)]
    at = group_of(log, *users)
    (message,) = stored(log, say("u00", at))
    for user in users:
        react(log, user, message.id)
    page = log.entries.history(APP, users[-1], at, 0, 10)[0]
    assert reactions(page, message.id) == [
        (THUMB, len(users), tuple(users[:MOST_USERS]), True)
    ]
    react(log, users[-1], message.id, remove=True)
    page = log.entries.history(APP, users[-1], at, 0, 10)[0]
    assert reactions(page, message.id) == [
        (THUMB, len(users) - 1, tuple(users[:MOST_USERS]), False)
    ]
    react(log, users[0], message.id, remove=True)
    page = log.entries.history(APP, users[-2], at, 0, 10)[0]
    assert reactions(page, message.id) == [
        (THUMB, MOST_USERS, tuple(users[1 : MOST_USERS + 1]), True)
    ]


def test_many_users_react_at_a_time(log: MessageLog) -> None:
    users = [f"u{number:02}" for number in range(BATCH_CHANGES + 5)]
    at = group_of(log, *users)
    (message,) = stored(log, say("u00", at))
    reacting = [gevent.spawn(react, log, user, message.id) for user in users]
    counts = sorted(json.loads(each.get().meta)["count"] for each in reacting)
    assert counts == list(range(1, len(users) + 1))
    ((emoji, count, named, mine),) = reactions(
        log.entries.history(APP, users[-1], at, 0, 10)[0], message.id
    )
    assert (emoji, count, len(named), mine) == (THUMB, len(users), MOST_USERS, True)


def test_a_message_has_at_most_so_many_emoji(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b"))
    for number in range(MOST_EMOJI):
        react(log, "a", message.id, chr(0x1F600 + number))
    assert log.annotations.react(APP, "b", message.id, THUMB) == Rejected(
        "full", "at most 20 different emoji"
    )
    react(log, "b", message.id, chr(0x1F600))


@pytest.mark.parametrize(
    "emoji", ["", " ", "x" * 33, "a\0", "a\n", "\u2028", "\x85", "\ud800"]
)
def test_what_is_no_emoji_is_refused(log: MessageLog, emoji: str) -> None:
    (message,) = stored(log, say("a", "b"))
    refused = log.annotations.react(APP, "a", message.id, emoji)
    assert refused.reason == "invalid"


def test_options_of_the_group_say_who_pins_and_whether_late_members_react_to_earlier_messages(
    log: MessageLog,
) -> None:
    at = group_of(log, "owner", "a")
    (one,) = stored(log, say("a", at))
    log.groups.join(APP, at, ["b"])
    assert log.annotations.react(APP, "b", one.id, THUMB) == Rejected("unknown_message")
    log.groups.set_options(APP, at, {"history": "all", "pin": "member"})
    log.groups.join(APP, at, ["c"])
    assert isinstance(log.annotations.react(APP, "c", one.id, THUMB), Change)
    assert isinstance(log.annotations.pin(APP, "c", one.id), Change)
    assert ids(log.entries.pins(APP, "c", at)[0]) == [one.id]
    assert log.entries.pins(APP, "b", at) == ([], 0)
    log.groups.set_member(APP, at, "c", muted_until=1 << 40)
    assert log.annotations.react(APP, "c", one.id, HEART) == Rejected("muted")
    (entry,) = stored(log, Draft(sender="a", room="hall"))
    for app, user, about in (
        (APP, "a", entry.id),
        (APP, "", entry.id),
        ("other", "a", one.id),
    ):
        assert log.annotations.pin(app, user, about) == Rejected("unknown_message")
    assert log.annotations.pin(APP, "", one.id, remove=True).entry is not None, (
        "a back end"
    )  # type: ignore[union-attr]


def test_both_of_two_users_pin_up_to_the_limit(log: MessageLog) -> None:
    messages = stored(log, *(say("a", "b") for _ in range(MOST_PINS + 1)))
    for message in messages[:-1]:
        assert isinstance(log.annotations.pin(APP, "b", message.id), Change)
    assert log.annotations.pin(APP, "a", messages[-1].id) == Rejected(
        "full", "at most 100 pinned messages"
    )
    assert len(log.entries.pins(APP, "a", 1)[0]) == MOST_PINS


def test_many_reactions_hide_no_unread_message_and_no_author(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b", meta=b'{"mentions":["b"]}'))
    changes = [
        gevent.spawn(
            log.annotations.react, APP, "a", message.id, THUMB, remove=bool(number % 2)
        )
        for number in range(MOST_UNREAD + 1)
    ]
    last = [each.get().entry for each in changes][-1]
    (summary,) = log.conversations.page(APP, "b", 0, 10)[0]
    assert (summary.unread, summary.mentions, summary.last.id) == (1, 1, message.id)
    result = log.marks.note(APP, "b", message.conversation, read=last.id)
    assert result.authors == ("a",)


@pytest.mark.parametrize(
    "meta", [b'{"mentions":"b"}', b'{"mentions":[1,"","a\\u0000"]}', b"no json", b"[1]"]
)
def test_strange_mentions_cost_nobody_anything(log: MessageLog, meta: bytes) -> None:
    stored(log, say("a", "b", meta=meta), say("a", "b", meta=b'{"mentions":["b"]}'))
    assert log.conversations.page(APP, "b", 0, 10)[0][0].mentions == 1


def test_a_key_of_a_draft_is_no_reaction(log: MessageLog) -> None:
    metas = [b'{"reactions":1}', b'{"x":{"reactions":[]}}']
    for entry, meta in zip(
        stored(log, *(say("a", "b", meta=meta) for meta in metas)), metas, strict=True
    ):
        (found,) = log.entries.find(APP, [entry.id])
        assert (found.reactions, found.meta) == ((), meta)
        react(log, "b", entry.id)
        (found,) = log.entries.readable(APP, "a", [entry.id])
        assert found.reactions == (Reaction(THUMB, 1, ("b",), mine=False),)


# --- histories ----------------------------------------------------------------


# --- marks, unread messages and threads, on every engine, where the model has
# too few users and messages


def note(log: MessageLog, user: str, conversation: int, **marks: int) -> MarkResult:
    result = log.marks.note(APP, user, conversation, **marks)
    assert result is not None
    return result


def test_only_so_many_entries_are_looked_at_for_their_authors(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "tea", ["a", "b"]).conversation
    entries = stored(
        log, say("a", group), *(say("owner", group) for _ in range(MOST_RECEIPTED))
    )
    assert note(log, "b", group, read=entries[-1].id).authors == ("owner",)


def test_two_who_read_each_other_at_once_both_get_through(log: MessageLog) -> None:
    entries = stored(
        log, *(say(one, other) for one, other in (("a", "b"), ("b", "a")) * 20)
    )
    readers = [
        gevent.spawn(note, log, user, 1, read=entry.id)
        for entry in entries
        for user in ("a", "b")
    ]
    gevent.joinall(readers, raise_error=True)
    last = entries[-1].id
    assert log.marks.receipts(APP, "a", 1, "", 10) == [Receipt(1, "b", last, last)]
    assert log.marks.receipts(APP, "b", 1, "", 10) == [Receipt(1, "a", last, last)]
    assert log.marks.since(APP, "a", 0).receipts == (Receipt(1, "b", last, last),)


def test_what_somebody_marked_who_is_gone_for_good_is_forgotten_and_nothing_else(
    log: MessageLog,
) -> None:
    (first,) = stored(log, say("a", "b"))
    for user in ("a", "b"):
        log.marks.hide(APP, user, [first.id])
        log.marks.note(APP, user, first.conversation, read=first.id)
    for _ in range(2):
        log.marks.forget(APP, "b")
    log.marks.forget("another app", "a")
    assert log.marks.receipts(APP, "a", first.conversation, "", 10) == []
    found = [log.marks.since(APP, user, 0) for user in "ab"]
    assert [(each.hidden, each.reads) for each in found] == [
        ((first.id,), {1: first.id}),
        ((), {}),
    ]
    assert [
        entry.id
        for entry in log.entries.history(APP, "b", first.conversation, 0, 10)[0]
    ] == [first.id]


@pytest.mark.parametrize("user", ["é" * 128, "b" * 100_000, "b\0"])
def test_a_user_who_cannot_exist_hides_nothing(log: MessageLog, user: str) -> None:
    (first,) = stored(log, say("a", "b"))
    assert log.marks.hide(APP, user, [first.id]) == 0


def unread(log: MessageLog, conversation: int, *users: str) -> UnreadMessages:
    return log.conversations.unread(APP, {conversation: users}, {conversation: users})[
        conversation
    ]


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
    later = stored(
        log, *(say("ann", group, meta=meta) for _ in range(MOST_MENTIONS + 20))
    )
    tracemalloc.start()
    found = unread(log, group, "bob", *users)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    def named(user: str) -> list[int]:
        return [found.ids[index] for index in found.among(user, 0, mentions=True)]

    assert named("bob") == [first.id]
    newest = [entry.id for entry in later[20:]]
    assert all(named(user) == newest for user in users)
    assert (
        found.has_older("u1", mentions=True),
        found.has_older("bob", mentions=True),
    ) == (True, False)
    assert not found.has_older("u1")
    assert peak < 8_000_000
    found = log.conversations.unread(APP, {group: ["bob", *users]}, {group: ["bob"]})[
        group
    ]
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
    before = 0
    more = True
    while more:
        threads, more = log.threads.of_user(APP, "ann", before, 200)
        assert len(threads) <= MOST_ON_PAGE
        listed += [each.thread for each in threads]
        before = threads[-1].last
    assert listed == roots[2:], "the oldest ones are left out"


def test_an_erased_user_is_no_face_of_a_thread_and_follows_none(
    log: MessageLog,
) -> None:
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
    assert (totals["count"], totals["users"]) == (
        len(users),
        users[: -MOST_FACES - 1 : -1],
    )
    page = log.threads.replies(APP, "u0", root.id, 0, 50)
    assert len(page[0]) == len(users)
