"""What is said in rooms, in the log of every engine."""

from imserver.gateway.cluster.history import PAGE_BYTES
from imserver.gateway.model import Limit
from imserver.messenger.messages.commands import Search
from imserver.messenger.messages.log.contract import Draft, LogExtent, PublicationPage, Rejected, RejectReason
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.test_log import APP, stored
from tests.stores import WriteAt

NAMES = ("r", "安", "it's %s \\", "R", "r ", "x" * Limit.ROOM_BYTES)
"""Names of rooms that have to be told apart."""


def draft_to(room: str, body: str = "hi", sender: str = "ann") -> Draft:
    """What somebody says in a room."""
    return Draft(sender=sender, body=body.encode(), room=room)


def test_a_room_is_a_conversation_of_its_own_without_members(log: MessageLog) -> None:
    entries = stored(log, *[draft_to(name) for name in NAMES], draft_to("r", "again", "bob"))
    assert [entry.id for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry.seq for entry in entries] == [1, 1, 1, 1, 1, 1, 2]
    assert [entry.room for entry in entries] == [*NAMES, "r"]
    assert {entry.members for entry in entries} == {()}
    assert [entry.conversation for entry in entries] == [1, 2, 3, 4, 5, 6, 1]
    (later,) = stored(log, draft_to("安"))
    assert (later.conversation, later.seq) == (2, 2)
    assert log.entries.read(APP, 0, 10) == [*entries, later]
    found = log.conversations.get(APP, 2)
    assert found is not None
    assert (found.kind, found.name, found.members, found.last_id) == ("room", "安", (), 8)


def test_nobody_reads_a_room_as_if_it_were_a_conversation_of_theirs(log: MessageLog) -> None:
    (entry,) = stored(log, draft_to("r"))
    assert log.entries.sync(APP, "ann", 0, 10) == ([], False)
    assert log.entries.history(APP, "ann", entry.conversation, 0, 10) == ([], False)
    assert log.conversations.page(APP, "ann", 0, 10) == ([], False)
    assert log.conversations.memberships(APP, "ann") == []
    assert log.marks.note(APP, "ann", entry.conversation, read=1) is None
    assert log.search.find(APP, "ann", Search("hi", entry.conversation, 0, 10))[0] == []
    outcome = log.writer.append(APP, [Draft(sender="ann", body=b"-", conversation=entry.conversation)])[0]
    assert isinstance(outcome, Rejected)
    assert outcome.reason == RejectReason.NOT_MEMBER


def test_catching_up_takes_each_room_from_its_own_position_in_one_order(log: MessageLog) -> None:
    drafts = [
        draft_to("r"),
        Draft(sender="bob", to_user="ann"),
        draft_to("s"),
        draft_to("t"),
        draft_to("r"),
        draft_to("s"),
    ]
    entries = stored(log, *drafts, Draft(sender="", to_user="ann"))
    everything = {"": 0, "r": 0, "s": 0, "t": 0, "never": 0}
    assert log.entries.catch_up(APP, "ann", 0, 10, everything) == (entries, False)
    found, more = log.entries.catch_up(APP, "ann", 0, 10, {"": 2, "r": 1, "s": 3})
    assert ([entry.id for entry in found], more) == ([5, 6, 7], False)
    found, more = log.entries.catch_up(APP, "ann", 5, 10, {"": 0, "r": 0, "s": 7})
    assert ([entry.id for entry in found], more) == ([7], False)
    assert log.entries.catch_up(APP, "cid", 0, 10, {"": 0}) == ([], False)
    assert log.entries.catch_up(APP, "ann", 7, 10, everything) == ([], False)


def test_catching_up_goes_page_by_page(log: MessageLog) -> None:
    drafts = [draft_to("rst"[number % 3], str(number)) for number in range(30)]
    entries = stored(log, *drafts[:15], Draft(sender="bob", to_user="ann"), *drafts[15:])
    after_by_room = {"": 0, "r": 0, "s": 4, "t": 11}
    wanted = [entry.id for entry in entries if entry.id > after_by_room[entry.room]]
    seen: list[int] = []
    more = True
    while more:
        page, more = log.entries.catch_up(APP, "ann", seen[-1] if seen else 0, 4, after_by_room)
        seen += [entry.id for entry in page]
        assert more == (seen != wanted)
    assert seen == wanted


def test_the_messages_of_a_channel_are_read_from_both_ends(log: MessageLog) -> None:
    entries = stored(log, *[draft_to("rs"[number % 2], str(number)) for number in range(10)])
    of_r = [entry for entry in entries if entry.room == "r"]

    def page(since: int | None, limit: int, reverse: bool = False) -> tuple[list[int], bool]:
        found = log.entries.channel_page(APP, "r", since, limit, reverse)
        assert (found.last, found.extent.head) == (9, 10)
        return [entry.id for entry in found.entries], found.more

    assert log.entries.channel_page(APP, "r", None, 9).entries == of_r
    assert page(None, 2) == ([1, 3], True)
    assert page(3, 9) == ([5, 7, 9], False)
    assert page(9, 9) == page(10, 9) == page(99, 9) == ([], False)
    assert page(None, 0) == page(1, 0) == ([], False)
    assert page(None, 2, True) == ([9, 7], True)
    assert page(5, 9, True) == ([3, 1], False)
    assert page(1, 9, True) == page(0, 9, True) == ([], False)
    log.expire(APP, more_than=4)
    found = log.entries.channel_page(APP, "r", 1, 9)
    assert ([entry.id for entry in found.entries], found.extent.floor) == ([7, 9], 6)
    assert log.entries.channel_page(APP, "t", None, 9) == PublicationPage([], False, 0, LogExtent(6, 10))
    assert log.entries.channel_page("other", "r", None, 9) == PublicationPage([], False, 0, LogExtent(0, 0))
    first, second, third = stored(log, *[draft_to("big", "x" * (PAGE_BYTES // 2))] * 3)
    for reverse, entries in ((False, [first, second]), (True, [third, second])):
        found = log.entries.channel_page(APP, "big", None, 9, reverse)
        assert (found.entries, found.more) == (entries, True), "what fits"


def test_a_recalled_message_is_no_publication_and_its_recall_is_read_with_the_revisions(
    log: MessageLog,
) -> None:
    first, second = stored(log, draft_to("r", "one"), draft_to("r", "two"))
    (recall,) = stored(log, Draft(sender="", kind="recall", about=first.id, conversation=first.conversation))
    stored(log, draft_to("r", "three"))
    found = log.entries.channel_page(APP, "r", None, 9)
    assert [entry.body for entry in found.entries] == [b"two", b"three"]
    assert found.last == 4
    page = log.entries.channel_page(APP, "r", None, 2, reverse=True, revisions=True)
    assert ([entry.id for entry in page.entries], page.more) == ([4, recall.id], True)
    page = log.entries.channel_page(APP, "r", recall.id, 9, reverse=True, revisions=True)
    assert [(entry.id, entry.kind) for entry in page.entries] == [(second.id, "message"), (1, "recall")]
    assert not page.more


def test_what_was_stored_before_a_moment_is_found(log: MessageLog, write_at: WriteAt) -> None:
    assert log.entries.stored_before(APP, 10**10) == 0
    for now in (100, 100, 200, 300):
        write_at(now)
        stored(log, draft_to("r"), draft_to("s"))
    assert [log.entries.stored_before(APP, time) for time in (99, 100, 101, 200, 201, 300, 301)] == [
        *(0, 0, 4, 4, 6, 6, 8)
    ]


def test_what_has_expired_is_delivered_to_nobody(log: MessageLog) -> None:
    stored(log, *[draft_to("r", str(number)) for number in range(10)])
    assert log.expire(APP, more_than=4) == 6
    found, _ = log.entries.catch_up(APP, "ann", 0, 10, {"": 0, "r": 0})
    assert [entry.body for entry in found] == [b"6", b"7", b"8", b"9"]
