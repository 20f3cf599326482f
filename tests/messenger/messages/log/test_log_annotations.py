"""Reactions, pins and mentions, on every engine."""

import json

import gevent
import pytest

from imserver.messenger.messages.commands import Search
from imserver.messenger.messages.log.annotations import MOST_EMOJI, MOST_PINS, MOST_USERS
from imserver.messenger.messages.log.contract import MOST_UNREAD, Change, Draft, Entry, Rejected
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.messenger.messages.log.writer import BATCH_CHANGES
from imserver.messenger.messages.model import Reaction
from tests.messenger.messages.log.test_log import APP, group_of, ids, say, stored

THUMB, HEART = "\N{THUMBS UP SIGN}", "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}"


def react(log: MessageLog, user: str, message: int, emoji: str = THUMB, *, remove: bool = False) -> Entry:
    """The entry of a reaction that changes something."""
    change = log.annotations.react(APP, user, message, emoji, remove=remove)
    assert isinstance(change, Change)
    assert change.entry is not None
    return change.entry


def reactions(entries: list[Entry], message: int) -> list[tuple[str, int, tuple[str, ...], bool]]:
    (found,) = [entry for entry in entries if entry.id == message]
    return [(each.emoji, each.count, each.users, each.mine) for each in found.reactions]


def test_a_reaction_is_an_entry_and_every_page_shows_the_totals(log: MessageLog) -> None:
    message, other = stored(log, say("a", "b", "tea?"), say("a", "b", "now?"))
    first = react(log, "b", message.id)
    assert (first.kind, first.type, first.body.decode(), first.about) == (
        "reaction",
        "add",
        THUMB,
        message.id,
    )
    assert (first.sender, first.conversation, json.loads(first.meta)) == ("b", 1, {"count": 1})
    react(log, "a", message.id)
    last = react(log, "a", message.id, HEART)
    of_a = [(THUMB, 2, ("b", "a"), True), (HEART, 1, ("a",), True)]
    of_b = [(THUMB, 2, ("b", "a"), True), (HEART, 1, ("a",), False)]
    assert reactions(log.entries.history(APP, "a", 1, 0, 10)[0], message.id) == of_a
    assert reactions(log.entries.sync(APP, "b", 0, 10)[0], message.id) == of_b
    assert reactions(log.search.find(APP, "b", Search("tea", 0, 0, 10))[0], message.id) == of_b
    assert ids(log.entries.history(APP, "a", 1, 0, 10)[0]) == [message.id, other.id]
    assert ids(log.entries.sync(APP, "a", 0, 10)[0]) == [1, 2, 3, 4, 5]
    (shown,) = log.entries.find(APP, [message.id])
    assert json.loads(shown.meta) == {"reacted": last.id}


def test_a_user_reacts_once_with_one_emoji_and_may_take_it_back(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b"))
    react(log, "b", message.id)
    assert log.annotations.react(APP, "b", message.id, THUMB) == Change(1)
    assert log.annotations.react(APP, "a", message.id, THUMB, remove=True) == Change(1)
    removed = react(log, "b", message.id, remove=True)
    assert (removed.type, removed.body.decode(), json.loads(removed.meta)) == ("remove", THUMB, {"count": 0})
    (shown,) = log.entries.history(APP, "b", 1, 0, 10)[0]
    assert not shown.reactions
    assert json.loads(shown.meta) == {"reacted": removed.id}


def test_of_many_users_some_are_named_and_each_sees_their_own(log: MessageLog) -> None:
    users = [f"u{number:02}" for number in range(MOST_USERS + 2)]
    at = group_of(log, *users)
    (message,) = stored(log, say("u00", at))
    for user in users:
        react(log, user, message.id)
    page = log.entries.history(APP, users[-1], at, 0, 10)[0]
    assert reactions(page, message.id) == [(THUMB, len(users), tuple(users[:MOST_USERS]), True)]
    react(log, users[-1], message.id, remove=True)
    page = log.entries.history(APP, users[-1], at, 0, 10)[0]
    assert reactions(page, message.id) == [(THUMB, len(users) - 1, tuple(users[:MOST_USERS]), False)]
    react(log, users[0], message.id, remove=True)
    page = log.entries.history(APP, users[-2], at, 0, 10)[0]
    assert reactions(page, message.id) == [(THUMB, MOST_USERS, tuple(users[1 : MOST_USERS + 1]), True)]


def test_many_users_react_at_a_time(log: MessageLog) -> None:
    users = [f"u{number:02}" for number in range(BATCH_CHANGES + 5)]
    at = group_of(log, *users)
    (message,) = stored(log, say("u00", at))
    reacting = [gevent.spawn(react, log, user, message.id) for user in users]
    counts = sorted(json.loads(each.get().meta)["count"] for each in reacting)
    assert counts == list(range(1, len(users) + 1))
    ((emoji, count, named, mine),) = reactions(log.entries.history(APP, users[-1], at, 0, 10)[0], message.id)
    assert (emoji, count, len(named), mine) == (THUMB, len(users), MOST_USERS, True)


def test_a_message_has_at_most_so_many_emoji(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b"))
    for number in range(MOST_EMOJI):
        react(log, "a", message.id, chr(0x1F600 + number))
    assert log.annotations.react(APP, "b", message.id, THUMB) == Rejected(
        "full", "at most 20 different emoji"
    )
    react(log, "b", message.id, chr(0x1F600))


@pytest.mark.parametrize("emoji", ["", " ", "x" * 33, "a\0", "a\n", "\u2028", "\x85", "\ud800"])
def test_what_is_no_emoji_is_refused(log: MessageLog, emoji: str) -> None:
    (message,) = stored(log, say("a", "b"))
    refused = log.annotations.react(APP, "a", message.id, emoji)
    assert isinstance(refused, Rejected)
    assert refused.reason == "invalid"


def test_nobody_reacts_to_what_they_cannot_read(log: MessageLog) -> None:
    at = group_of(log, "owner", "a")
    early, gone = stored(log, say("a", at), say("a", at))
    log.groups.join(APP, at, ["late"])
    stored(log, say("a", at, kind="recall", about=gone.id))
    edit = stored(log, say("a", at, "x", kind="edit", about=early.id))[0]
    stored(log, Draft(sender="a", room="hall"))
    unknown = Rejected("unknown_message")
    assert [log.annotations.react(APP, user, early.id, THUMB) for user in ("stranger", "late")] == [
        unknown,
        unknown,
    ]
    assert [log.annotations.pin(APP, user, early.id) for user in ("stranger", "late")] == [unknown, unknown]
    for about in (99, edit.id, 1, edit.id + 1):
        assert log.annotations.react(APP, "a", about, THUMB) == unknown
        assert log.annotations.pin(APP, "", about) == unknown
    assert log.annotations.react(APP, "a", gone.id, THUMB) == Rejected("recalled")
    assert log.annotations.pin(APP, "owner", gone.id) == Rejected("recalled")
    log.groups.leave(APP, at, ["a"])
    assert log.annotations.react(APP, "a", early.id, THUMB) == unknown
    log.groups.set_member(APP, at, "late", muted_until=1 << 40)
    (later,) = stored(log, say("owner", at))
    assert log.annotations.react(APP, "late", later.id, THUMB) == Rejected("muted")
    assert log.annotations.react("no such app", "a", early.id, THUMB) == unknown


def test_a_recall_removes_reactions_and_pin_and_an_edit_removes_nothing(log: MessageLog) -> None:
    one, two = stored(log, say("a", "b"), say("a", "b"))
    for message in (one, two):
        react(log, "b", message.id)
        log.annotations.pin(APP, "a", message.id)
    (edit,) = stored(log, say("a", "b", "edited", kind="edit", about=one.id))
    stored(log, say("a", "b", kind="recall", about=two.id))
    page = log.entries.history(APP, "b", 1, 0, 10)[0]
    assert reactions(page, one.id) == [(THUMB, 1, ("b",), True)]
    assert json.loads(page[0].meta) == {"reacted": 3, "edited": edit.id}
    assert [entry.kind for entry in page if entry.id == two.id] == ["recall"]
    assert ids(log.entries.pins(APP, "b", 1)[0]) == [one.id]
    stored(log, say("a", "b", kind="recall", about=one.id))
    assert log.entries.pins(APP, "b", 1)[0] == []
    assert log.annotations.react(APP, "b", one.id, THUMB, remove=True) == Rejected("recalled")


def test_who_may_pin_and_what_is_pinned(log: MessageLog) -> None:
    at = group_of(log, "owner", "admin", "a")
    log.groups.set_member(APP, at, "admin", role="admin")
    one, two, three = stored(log, *(say("a", at) for _ in range(3)))
    assert log.annotations.pin(APP, "a", one.id) == Rejected(
        "not_allowed", "only the owner and admins of this group pin messages"
    )
    pinned = log.annotations.pin(APP, "admin", two.id)
    assert isinstance(pinned, Change)
    assert pinned.entry is not None
    assert (pinned.entry.kind, pinned.entry.type, pinned.entry.about) == ("pin", "add", two.id)
    assert log.annotations.pin(APP, "owner", two.id) == Change(at)
    log.annotations.pin(APP, "", one.id)
    log.annotations.pin(APP, "owner", three.id)
    assert ids(log.entries.pins(APP, "a", at)[0]) == [three.id, one.id, two.id]
    log.marks.hide(APP, "a", [one.id])
    assert ids(log.entries.pins(APP, "a", at)[0]) == [three.id, two.id]
    log.annotations.pin(APP, "owner", three.id, remove=True)
    assert log.annotations.pin(APP, "owner", three.id, remove=True) == Change(at)
    assert ids(log.entries.pins(APP, "owner", at)[0]) == [one.id, two.id]
    assert (
        log.entries.pins(APP, "stranger", at)[0]
        == log.entries.pins(APP, "a", 99)[0]
        == log.entries.pins("none", "a", at)[0]
        == []
    )
    kinds = [entry.kind for entry in log.entries.history(APP, "a", at, 0, 4)[0]]
    assert kinds == ["pin", "pin", "pin", "pin"]


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
    assert ids(log.entries.pins(APP, "b", at)[0]) == []


def test_both_of_two_users_pin_up_to_the_limit(log: MessageLog) -> None:
    messages = stored(log, *(say("a", "b") for _ in range(MOST_PINS + 1)))
    for message in messages[:-1]:
        assert isinstance(log.annotations.pin(APP, "b", message.id), Change)
    assert log.annotations.pin(APP, "a", messages[-1].id) == Rejected("full", "at most 100 pinned messages")
    assert len(log.entries.pins(APP, "a", 1)[0]) == MOST_PINS


def test_reactions_and_pins_are_neither_unread_nor_the_last_entry(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b"))
    react(log, "a", message.id)
    log.annotations.pin(APP, "a", message.id)
    (summary,) = log.conversations.page(APP, "b", 0, 10)[0]
    assert summary.last is not None
    assert (summary.unread, summary.last.id, summary.position) == (1, message.id, 3)
    assert summary.last == log.entries.history(APP, "b", 1, 2, 10)[0][0]


def test_many_reactions_hide_no_unread_message_and_no_author(log: MessageLog) -> None:
    (message,) = stored(log, say("a", "b", meta=b'{"mentions":["b"]}'))
    changes = [
        gevent.spawn(log.annotations.react, APP, "a", message.id, THUMB, remove=bool(number % 2))
        for number in range(MOST_UNREAD + 1)
    ]
    last = [each.get().entry for each in changes][-1]
    (summary,) = log.conversations.page(APP, "b", 0, 10)[0]
    assert summary.last is not None
    assert (summary.unread, summary.mentions, summary.last.id) == (1, 1, message.id)
    result = log.marks.note(APP, "b", message.conversation, read=last.id)
    assert result is not None
    assert result.authors == ("a",)


def test_what_expires_leaves_no_reaction_pin_or_mention(log: MessageLog) -> None:
    one, two = stored(log, say("a", "b", meta=b'{"mentions":["b"]}'), say("a", "b"))
    for message in (one, two):
        react(log, "b", message.id)
        log.annotations.pin(APP, "b", message.id)
    log.expire(APP, more_than=5)
    assert ids(log.entries.pins(APP, "b", 1)[0]) == [two.id]
    assert log.annotations.react(APP, "b", one.id, THUMB) == Rejected("unknown_message")
    assert log.conversations.page(APP, "b", 0, 10)[0][0].mentions == 0
    react(log, "a", two.id)
    assert reactions(log.entries.history(APP, "a", 1, 0, 10)[0], two.id) == [(THUMB, 2, ("b", "a"), True)]


def test_unread_mentions_are_counted(log: MessageLog) -> None:
    def mentions(user: str) -> int:
        return next(each.mentions for each in log.conversations.page(APP, user, 0, 10)[0])

    at = group_of(log, "a", "b", "c")
    first, second, third, fourth = stored(
        log,
        say("a", at, meta=b'{"mentions":["b","b","a"]}'),
        say("a", at, meta=b'{"mentions":["all"]}'),
        say("b", at, meta=b'{"mentions":["c"]}'),
        say("c", at, "plain"),
    )
    assert [mentions(user) for user in "abc"] == [0, 2, 2]
    log.marks.note(APP, "b", at, read=first.id)
    assert mentions("b") == 1
    stored(
        log,
        say("a", at, kind="recall", about=second.id),
        say("c", at, "@b", kind="edit", about=fourth.id, meta=b'{"mentions":["b"]}'),
        say("b", at, "nobody", kind="edit", about=third.id),
    )
    assert [mentions(user) for user in "abc"] == [0, 1, 0]
    log.marks.forget(APP, "b")
    assert mentions("b") == 0


@pytest.mark.parametrize("meta", [b'{"mentions":"b"}', b'{"mentions":[1,"","a\\u0000"]}', b"no json", b"[1]"])
def test_strange_mentions_cost_nobody_anything(log: MessageLog, meta: bytes) -> None:
    stored(log, say("a", "b", meta=meta), say("a", "b", meta=b'{"mentions":["b"]}'))
    assert log.conversations.page(APP, "b", 0, 10)[0][0].mentions == 1


def test_a_key_of_a_draft_is_no_reaction(log: MessageLog) -> None:
    metas = [b'{"reactions":1}', b'{"x":{"reactions":[]}}']
    for entry, meta in zip(stored(log, *(say("a", "b", meta=meta) for meta in metas)), metas, strict=True):
        (found,) = log.entries.find(APP, [entry.id])
        assert (found.reactions, found.meta) == ((), meta)
        react(log, "b", entry.id)
        (found,) = log.entries.readable(APP, "a", [entry.id])
        assert found.reactions == (Reaction(THUMB, 1, ("b",), mine=False),)


# --- histories ----------------------------------------------------------------------------------------------


def test_a_history_goes_forward_from_an_entry(log: MessageLog) -> None:
    entries = stored(log, *(say("a", "b", str(number)) for number in range(6)))
    react(log, "b", entries[2].id)
    assert (
        ids(log.entries.history(APP, "b", 1, 0, 2, 0)[0]),
        log.entries.history(APP, "b", 1, 0, 2, 0)[1],
    ) == ([1, 2], True)
    assert log.entries.history(APP, "b", 1, 0, 2, 4) == (log.entries.find(APP, [5, 6]), False)
    assert log.entries.history(APP, "b", 1, 5, 10, 3)[0] == log.entries.find(APP, [4])
    assert log.entries.history(APP, "b", 1, 0, 10, 6) == ([], False)
    log.marks.hide(APP, "b", [5])
    assert ids(log.entries.history(APP, "b", 1, 0, 10, 3)[0]) == [4, 6]
    assert log.entries.history(APP, "stranger", 1, 0, 10, 0) == ([], False)
