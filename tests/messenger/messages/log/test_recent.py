"""The newest entries that a node has stored, as the index of words needs them."""

from imserver.messenger.messages.log.contract import Commit, Entry
from imserver.messenger.messages.log.words import SEGMENT
from imserver.messenger.messages.log.writer import RecentEntries


def commit(first: int, count: int, app: str = "app", body: bytes = b"", about: int = 0) -> Commit:
    entries = [
        Entry(
            id=id,
            conversation=1,
            seq=id,
            sender="ann",
            kind="edit" if about else "message",
            body=body,
            about=about,
        )
        for id in range(first, first + count)
    ]
    return Commit(app, first, first + count - 1, entries)


def ids(recent: RecentEntries, segment: int, app: str = "app") -> list[int]:
    parts, _ = recent.take(app, max(segment * SEGMENT, 1), (segment + 1) * SEGMENT)
    return [part.first + number for part in parts for number in range(len(part.conversations))]


def test_a_segment_is_there_once_and_only_if_all_of_it_is() -> None:
    recent = RecentEntries()
    recent.add(commit(1, 4))
    assert ids(recent, 0) == [], "the last ones are missing"
    recent.add(commit(1, 4))
    recent.add(commit(5, SEGMENT - 7))
    recent.add(commit(SEGMENT - 2, 2 * SEGMENT + 10))
    assert ids(recent, 0, "other") == []
    assert ids(recent, 0) == list(range(1, SEGMENT))
    assert ids(recent, 0) == []
    assert ids(recent, 2) == list(range(2 * SEGMENT, 3 * SEGMENT))
    assert ids(recent, 1) == [], "what is before was forgotten"
    recent.add(commit(5 * SEGMENT + 1, SEGMENT))
    assert ids(recent, 3) == ids(recent, 4) == [], "another node has stored some"
    assert ids(recent, 5) == [], "the first one is missing"


def test_what_was_changed_is_known_wherever_the_change_is() -> None:
    recent = RecentEntries()
    recent.add(commit(SEGMENT, SEGMENT - 1))
    recent.add(commit(2 * SEGMENT - 1, 1, about=SEGMENT + 2))
    recent.add(commit(2 * SEGMENT, SEGMENT, about=SEGMENT + 7))
    recent.add(commit(3 * SEGMENT, 1, about=2 * SEGMENT))
    assert recent.take("app", SEGMENT, 2 * SEGMENT)[1] == {SEGMENT + 2, SEGMENT + 7}
    assert recent.take("app", 2 * SEGMENT, 3 * SEGMENT)[1] == {2 * SEGMENT}


def test_what_takes_too_much_memory_is_forgotten_the_oldest_log_first() -> None:
    recent = RecentEntries(most_bytes=1_400_000)
    half = SEGMENT // 2
    for first, app in ((SEGMENT, "one"), (SEGMENT, "two"), (SEGMENT + half, "one")):
        recent.add(commit(first, half, app, bytes(300)))
    recent.add(commit(SEGMENT, half, "three", bytes(300)))
    assert ids(recent, 1, "two") == []
    assert len(ids(recent, 1, "one")) == SEGMENT
    recent.add(commit(SEGMENT + half, half, "three", bytes(300)))
    assert len(ids(recent, 1, "three")) == SEGMENT
    recent.add(commit(SEGMENT, SEGMENT, "four", bytes(2000)))
    assert ids(recent, 1, "four") == []
    recent.add(commit(SEGMENT, SEGMENT, "five", bytes(300)))
    assert len(ids(recent, 1, "five")) == SEGMENT
