"""What another server had, stored with its own times, on every engine."""

import json
from collections.abc import Callable, Sequence

from imserver.messenger.messages.commands import Search, SearchFilter
from imserver.messenger.messages.log.contract import Draft, Rejected
from imserver.messenger.messages.log.log_import import LogImport
from imserver.messenger.messages.log.message_log import MessageLog
from tests.messenger.messages.log.test_log import APP

DAY = 86_400_000
BEGIN = 1_600_000_000_000
"""A moment in September 2020, in Unix milliseconds."""


def past(log: MessageLog, keys: Sequence[str], work: Callable[[LogImport], object]) -> int:
    """The number of new entries."""
    added = 0

    def counted(given: LogImport) -> None:
        nonlocal added
        work(given)
        added = given.added

    log.import_past(APP, keys, counted)
    return added


def draft_of(sender: str, text: str, group: int, time_ms: int, about: int = 0) -> Draft:
    return Draft(sender=sender, body=text.encode(), conversation=group, time_ms=time_ms, about=about)


KEYS = ("g", "1", "2", "3", "r1", "r2", "r3", "j", "l", "n", "d", "p")


def fill(given: LogImport) -> None:
    """A group in which somebody replies, reacts, edits, joins and leaves; and a message between two."""
    group = given.create_group("g", "a", "tea", ["b"], BEGIN, description="For tea", is_open=True)
    first = given.append("1", draft_of("a", "tea?", group, BEGIN + 1), [("r1", "b", "👍"), ("r2", "a", "👍")])
    assert isinstance(first, int)
    given.append("2", draft_of("gone", "yes", group, BEGIN + DAY, about=first), (), True)
    given.join("j", group, ["c", "b"], "a", BEGIN + 2 * DAY)
    given.leave("l", group, ["b", "a"], "b", BEGIN + 3 * DAY)
    given.describe("n", group, "name", "coffee", "a", BEGIN + 4 * DAY)
    given.append("d", Draft(sender="a", to_user="c", body=b"psst", time_ms=BEGIN + 5 * DAY))


def test_everything_has_its_time_and_twice_is_once(log: MessageLog) -> None:
    assert past(log, KEYS, fill) == 9
    assert past(log, KEYS, fill) == 0
    entries = log.entries.read(APP, 0, 100)
    kinds = [(entry.kind, (entry.time_ms - BEGIN) // DAY) for entry in entries]
    assert kinds == [
        *(("group", 0), ("message", 0), ("reaction", 0), ("reaction", 0), ("message", 1), ("edit", 1)),
        *(("join", 2), ("leave", 3), ("group", 4), ("message", 5)),
    ]
    assert [entry.id for entry in entries] == list(range(1, 11))
    stored_at = log.entries.stored_at(APP, range(1, 11))
    assert [stored_at[entry.id] for entry in entries] == [entry.time_ms // 1000 for entry in entries]
    group = log.conversations.get(APP, 1)
    assert group is not None
    assert (group.name, group.description, group.open, group.created) == (
        "coffee",
        "For tea",
        True,
        BEGIN // 1000,
    )
    members = log.conversations.members(APP, 1, "", 10)
    assert {row.user: row.role for row in members} == {"a": "owner", "c": "member"}  # the owner stays


def test_messages_have_replies_reactions_and_edits(log: MessageLog) -> None:
    past(log, KEYS, fill)
    first, reply = (entry for entry in log.entries.history(APP, "c", 1, 0, 100)[0] if entry.kind == "message")
    (reaction,) = first.reactions
    assert (reaction.emoji, reaction.count, reaction.users) == ("👍", 2, ("b", "a"))
    assert json.loads(first.meta)["reacted"] == 4
    assert (reply.about, reply.sender, json.loads(reply.meta)) == (first.id, "gone", {"edited": 6})
    own = log.entries.history(APP, "a", 1, 0, 100)[0][1]
    assert own.reactions[0].mine
    change = log.annotations.react(APP, "a", first.id, "👍", remove=True)
    assert not isinstance(change, Rejected)
    assert change.entry is not None
    assert json.loads(change.entry.meta) == {"count": 1}


def test_a_later_import_adds_what_is_new(log: MessageLog) -> None:
    past(log, KEYS, fill)

    def later(given: LogImport) -> None:
        group = given.conversation_of("g")
        given.append("1", draft_of("a", "tea?", group, BEGIN + 1), [("r1", "b", "👍"), ("r3", "c", "🎉")])
        given.append("3", draft_of("c", "late", group, BEGIN + 6 * DAY, about=given.find("1")))
        assert given.pin("p", given.find("1"), "a", BEGIN + 6 * DAY)

    assert past(log, KEYS, later) == 3
    first = log.entries.find(APP, [2])[0]
    assert [(each.emoji, each.count) for each in first.reactions] == [("👍", 2), ("🎉", 1)]
    assert log.entries.find(APP, [log.entries.head(APP) - 1])[0].about == 2
    assert [entry.id for entry in log.entries.pins(APP, "a", 1)[0]] == [2]


def test_who_has_left_joins_again_only_if_an_event_says_so(log: MessageLog) -> None:
    past(log, KEYS, fill)
    listed = ["a", "b", "new"]
    past(log, ["m"], lambda given: given.join("m", 1, listed, "", BEGIN + 6 * DAY, only_first=True))
    assert [row.user for row in log.conversations.members(APP, 1, "", 10)] == ["a", "c", "new"]
    past(log, ["x"], lambda given: given.join("x", 1, ["b"], "b", BEGIN + 7 * DAY))
    assert [row.user for row in log.conversations.members(APP, 1, "", 10)] == ["a", "b", "c", "new"]


def test_search_and_retention_go_by_the_times(log: MessageLog) -> None:
    past(log, KEYS, fill)
    window = SearchFilter(since=BEGIN + DAY // 2, until=BEGIN + 2 * DAY)
    found, _ = log.search.find(APP, "c", Search("", 0, 0, 10, window))
    assert [entry.body for entry in found] == [b"yes"]
    log.expire(APP, older_than_seconds=86400)
    assert log.entries.read(APP, 0, 100) == []


def test_what_cannot_be_stored_is_refused(log: MessageLog) -> None:
    def bad(given: LogImport) -> None:
        for key, draft in (
            ("1", draft_of("a", "x", 77, BEGIN)),
            ("2", Draft(sender="a", room="tea", body=b"x")),
            ("3", Draft(sender="a\0", to_user="b", body=b"x")),
        ):
            assert isinstance(given.append(key, draft), Rejected)
        assert not given.pin("p", 99, "a", BEGIN)
        stored = given.append(
            "d", Draft(sender="a", to_user="b", body=b"x"), [("r1", "", "👍"), ("r2", "b", "\n")]
        )
        assert isinstance(stored, int)

    assert past(log, KEYS, bad) == 1
