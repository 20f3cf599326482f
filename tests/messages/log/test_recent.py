"""The newest entries that a node has stored."""

from imserver.messages.log.contract import Commit, Entry
from imserver.messages.log.recent import RecentEntries


def commit(first: int, count: int, app: str = "app", body: bytes = b"") -> Commit:
    entries = [
        Entry(id=id, conversation=1, seq=id, sender="ann", kind="message", type="text", body=body)
        for id in range(first, first + count)
    ]
    return Commit(app, first, first + count - 1, entries)


def ids(recent: RecentEntries, first: int, end: int, app: str = "app") -> list[int]:
    return [entry.id for entry in recent.take(app, first, end)]


def test_entries_are_there_once_and_only_if_all_are() -> None:
    recent = RecentEntries()
    recent.add(commit(3, 4))
    recent.add(commit(7, 5))
    assert ids(recent, 4, 8) == [4, 5, 6, 7, 8, 9, 10, 11], "and all later ones"
    assert ids(recent, 4, 8) == []
    assert ids(recent, 8, 10) == [8, 9, 10, 11]
    assert ids(recent, 10, 14) == [], "the last ones are missing"
    recent.add(commit(12, 9))
    assert ids(recent, 11, 16) == [], "the first one was forgotten"
    recent.add(commit(30, 3))
    assert ids(recent, 16, 18) == [], "another node has stored some"
    assert ids(recent, 30, 33) == [30, 31, 32]
    assert ids(recent, 30, 33, "other") == []


def test_what_takes_too_much_memory_is_forgotten_the_oldest_log_first() -> None:
    recent = RecentEntries(most_bytes=14_000)
    for first, app in ((1, "one"), (1, "two"), (3, "one")):
        recent.add(commit(first, 2, app, bytes(2000)))
    recent.add(commit(1, 2, "three", bytes(1000)))
    assert ids(recent, 1, 3, "two") == []
    assert ids(recent, 1, 5, "one") == [1, 2, 3, 4]
    assert ids(recent, 1, 3, "three") == [1, 2]
    recent.add(commit(1, 1, "four", bytes(20_000)))
    assert ids(recent, 1, 2, "four") == []
    recent.add(commit(1, 2, "five", bytes(2000)))
    assert ids(recent, 1, 3, "five") == [1, 2]
