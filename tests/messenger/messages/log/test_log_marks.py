"""What users mark, on every engine: what they have read and received, and who is told of it."""

import gevent
import pytest

from imserver.messenger.messages.log.contract import MOST_RECEIPTED, Change, MarkResult, Receipt
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.test_log import APP, say, stored


def note(log: MessageLog, user: str, conversation: int, **marks: int) -> MarkResult:
    result = log.marks.note(APP, user, conversation, **marks)
    assert result is not None
    return result


def test_a_read_position_never_goes_back_nor_beyond_the_log(log: MessageLog) -> None:
    stored(log, *(say("a", "b") for _ in range(5)), say("a", "c"))
    first = note(log, "b", 1, read=3)
    assert (first.moved, first.receipt) == (True, Receipt(1, "b", 3, 3))
    second = note(log, "b", 1, read=2)
    assert (second.moved, second.receipt, second.version) == (False, first.receipt, first.version)
    assert log.marks.since(APP, "b", 0).reads == {1: 3}
    third = note(log, "b", 1, read=10**12)
    assert third.version > first.version
    assert log.marks.since(APP, "b", first.version).reads == {1: 6}
    assert log.marks.since(APP, "b", third.version).reads == {}


def test_whoever_is_not_in_a_conversation_reads_nothing_there(log: MessageLog) -> None:
    stored(log, say("a", "b"))
    assert log.marks.note(APP, "stranger", 1, read=1) is None
    assert log.marks.note(APP, "b", 99, read=1) is None
    assert log.marks.note("no such app", "b", 1, read=1) is None
    assert log.marks.receipts(APP, "stranger", 1, "", 10) == []


def test_receipts_of_a_group_are_counted_by_message(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "", ["a", "b", "c"]).conversation
    first, second = (one.id for one in stored(log, say("owner", group), say("owner", group)))

    def counts(user: str = "owner") -> list[tuple[int, int, int, int]]:
        found = log.marks.count_receipts(APP, user, group, [second, first])
        return [(each.id, each.members, each.received, each.read) for each in found]

    assert counts() == [(second, 3, 0, 0), (first, 3, 0, 0)]
    note(log, "a", group, read=second)
    note(log, "b", group, read=first, received=second)
    assert counts() == [(second, 3, 2, 1), (first, 3, 2, 2)]
    assert counts("a") == [(second, 3, 1, 0), (first, 3, 1, 1)]
    assert counts("stranger") == []
    log.groups.join(APP, group, ["late"])
    note(log, "late", group, read=log.entries.head(APP))
    log.groups.leave(APP, group, ["b"])
    assert counts() == [(second, 2, 1, 1), (first, 2, 1, 1)]

    def readers(message: int, after: str = "") -> list[str]:
        return [each.user for each in log.marks.receipts(APP, "owner", group, after, 10, message)]

    assert readers(first) == readers(second) == ["a"]
    assert readers(first, after="a") == []
    assert readers(0) == ["a", "late"]


def test_what_is_received_is_not_read_but_what_is_read_was_received(log: MessageLog) -> None:
    stored(log, *(say("a", "b") for _ in range(5)))
    received = note(log, "b", 1, received=4)
    assert received.receipt == Receipt(1, "b", 0, 4)
    assert log.marks.since(APP, "b", 0).reads == {}
    assert log.conversations.page(APP, "b", 0, 1)[0][0].unread == 5
    assert note(log, "b", 1, read=2).receipt == Receipt(1, "b", 2, 4)
    assert note(log, "b", 1, read=5).receipt == Receipt(1, "b", 5, 5)
    assert log.marks.since(APP, "b", 0).reads == {1: 5}


def test_the_other_one_learns_of_it_by_a_version_of_their_own(log: MessageLog) -> None:
    stored(log, say("a", "b"), say("a", "b"), say("c", "b"))
    before = log.marks.since(APP, "a", 0)
    assert before.receipts == ()
    note(log, "b", 1, received=1)
    first = log.marks.since(APP, "a", before.version)
    assert first.receipts == (Receipt(1, "b", 0, 1),)
    assert log.marks.since(APP, "a", first.version).receipts == ()
    note(log, "b", 1, read=2)
    note(log, "b", 2, read=3)
    assert log.marks.since(APP, "a", first.version).receipts == (Receipt(1, "b", 2, 2),)
    assert log.marks.since(APP, "b", 0).receipts == ()
    assert log.marks.since(APP, "c", 0).receipts == (Receipt(2, "b", 3, 3),)


def test_those_are_informed_whose_messages_were_passed_over(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "tea", ["a", "b", "c"]).conversation
    entries = stored(log, say("a", group), say("b", group), say("owner", group), say("c", group))
    first = note(log, "c", group, read=entries[1].id)
    assert set(first.authors) == {"a", "b"}
    assert set(note(log, "c", group, received=entries[3].id).authors) == {"owner"}
    assert note(log, "c", group, read=entries[3].id).authors == ("owner",)
    assert note(log, "c", group, read=entries[3].id).authors == ()
    assert log.marks.since(APP, "a", 0).receipts == ()


def test_who_has_left_a_group_learns_nothing_of_it_and_nobody_learns_what_they_read(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "tea", ["a", "b", "c"]).conversation
    entries = stored(log, say("a", group), say("b", group), say("", group))
    log.groups.leave(APP, group, ["a"])
    assert note(log, "c", group, read=entries[-1].id).authors == ("b",)
    assert note(log, "a", group, read=entries[-1].id).authors == ()
    log.groups.join(APP, group, ["a"])
    assert set(note(log, "owner", group, read=entries[-1].id).authors) == {"a", "b"}


def test_a_position_of_a_former_member_stays_before_what_they_may_not_read(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "tea", ["a", "b"]).conversation
    stored(log, say("owner", group))
    change = log.groups.leave(APP, group, ["a"])
    assert isinstance(change, Change)
    left = change.entry
    assert left is not None
    (unseen,) = stored(log, say("owner", group))
    assert note(log, "a", group, received=unseen.id).receipt == Receipt(group, "a", 0, left.id)
    assert note(log, "a", group, read=unseen.id).receipt == Receipt(group, "a", left.id, left.id)
    assert not note(log, "a", group, read=unseen.id, received=unseen.id).moved
    assert log.marks.since(APP, "a", 0).reads == {group: left.id}
    log.groups.join(APP, group, ["a"])
    assert log.marks.receipts(APP, "owner", group, "", 10) == [Receipt(group, "a", left.id, left.id)]
    (later,) = stored(log, say("owner", group))
    result = note(log, "a", group, read=later.id)
    assert (result.receipt, result.authors) == (Receipt(group, "a", later.id, later.id), ("owner",))


def test_members_of_a_group_are_asked_where_they_are(log: MessageLog) -> None:
    group = log.groups.create(APP, "owner", "tea", ["a", "b", "c"]).conversation
    (entry,) = stored(log, say("owner", group))
    for user in ("a", "b", "c"):
        note(log, user, group, read=entry.id)
    log.groups.leave(APP, group, ["b"])
    assert [each.user for each in log.marks.receipts(APP, "owner", group, "", 10)] == ["a", "c"]
    assert [each.user for each in log.marks.receipts(APP, "owner", group, "", 1)] == ["a"]
    assert [each.user for each in log.marks.receipts(APP, "owner", group, "a", 10)] == ["c"]
    assert [each.user for each in log.marks.receipts(APP, "a", group, "", 10)] == ["c"]
    assert log.marks.receipts(APP, "b", group, "", 10) == []


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
    marks = log.marks.since(APP, "a", 0)
    for _ in range(2):
        log.marks.forget(APP, "b")
    log.marks.forget("another app", "a")
    assert log.marks.since(APP, "b", 0).hidden == ()
    assert log.marks.since(APP, "b", 0).reads == {}
    assert log.marks.receipts(APP, "a", first.conversation, "", 10) == []
    found = log.marks.since(APP, "a", 0)
    assert (
        (found.hidden, found.reads)
        == (marks.hidden, marks.reads)
        == ((first.id,), {first.conversation: first.id})
    )
    assert [entry.id for entry in log.entries.history(APP, "b", first.conversation, 0, 10)[0]] == [first.id]


@pytest.mark.parametrize("user", ["é" * 128, "b" * 100_000, "b\0"])
def test_a_user_who_cannot_exist_hides_nothing(log: MessageLog, user: str) -> None:
    (first,) = stored(log, say("a", "b"))
    assert log.marks.hide(APP, user, [first.id]) == 0
