"""The index of words on every engine: what it finds, what goes with the messages, who fills it."""

import gevent
import pytest

from imserver.messages.commands import SearchFilter
from imserver.messages.log.contract import Change, Draft
from imserver.messages.log.message_log import MessageLog
from imserver.messages.log.rows import LogTables
from imserver.messages.log.word_index import SEGMENT, WordIndex
from imserver.storage.store import Store
from tests.storage.conftest import OpenStore

from .test_log import APP, bodies, ids, say, stored


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    return open_store(url, seconds=10)


@pytest.fixture
def log(store: Store) -> MessageLog:
    """The log of a new database, once on each engine."""
    return store.part(MessageLog)


def pad(log: MessageLog, segments: int = 1) -> None:
    """Messages of others, so that all earlier ones can come into the index."""
    for _ in range(segments):
        stored(log, *(say("x", "y", f"of others {number}") for number in range(SEGMENT)))


def fill(log: MessageLog) -> int:
    count = 0
    while log.words.fill(APP):
        count += 1
    return count


def found(log: MessageLog, text: str, user: str = "bob", limit: int = 50) -> list[str]:
    return bodies(log.search.find(APP, user, text, 0, 0, limit)[0])


def indexed(store: Store, word: str) -> bool:
    """Whether the index has a word, whoever may read its message."""
    rows = store.read(lambda sql: sql.query("SELECT terms FROM word"))
    return any(word.encode() in bytes(row[0]) for row in rows)


def test_words_are_found_in_the_index_and_behind_it(log: MessageLog) -> None:
    change = log.groups.create(APP, "ann", "tea", ["bob"])
    assert isinstance(change, Change)
    group = change.conversation
    stored(log, say("ann", group, "the red kettle"), say("ann", "x", "a red kettle of others"))
    stored(log, say("bob", group, '{"name":"Kettle, red.pdf"}', type="file"), say("ann", "bob", "红色的茶壶"))
    pad(log, 3)
    stored(log, say("bob", group, "kettle: red"))

    def check() -> None:
        assert found(log, "kettle red") == ["the red kettle", "kettle: red"]
        assert found(log, '"red kettle"') == ["the red kettle"]
        assert found(log, "red ket", limit=1) == ["kettle: red"]
        assert found(log, "茶") == found(log, "茶壶") == found(log, "壶") == ["红色的茶壶"]
        assert found(log, "kettle green") == found(log, "kettle", "stranger") == []
        assert bodies(log.search.find(APP, "bob", "red", group, 0, 9, SearchFilter(sender="ann"))[0]) == [
            "the red kettle"
        ]
        assert len(log.search.find(APP, "bob", "kettle", 0, 0, 9, SearchFilter(types=("file",)))[0]) == 1
        entries, before = log.search.find(APP, "bob", "kettle", group, 0, 1)
        assert before == entries[0].id
        assert bodies(log.search.find(APP, "bob", "kettle", group, before, 1)[0]) == ["the red kettle"]

    check()
    assert fill(log) == 3
    check()
    log.words.erase(APP)
    check()
    assert fill(log) == 3
    check()


def test_what_is_changed_or_deleted_leaves_the_index_with_the_message(store: Store, log: MessageLog) -> None:
    recalled, edited, removed, _, expired = stored(
        log,
        *(say("ann", "bob", f"{word} tea") for word in ("recalled", "edited", "removed")),
        say("cat", "bob", "erased tea"),
        say("ann", "bob", "expired tea"),
    )
    pad(log)
    assert fill(log) == 1
    assert len(found(log, "tea")) == 5
    stored(log, say("ann", "bob", "", kind="recall", about=recalled.id))
    stored(log, say("ann", "bob", "new coffee", kind="edit", about=edited.id))
    log.removals.remove(APP, "act", [removed.id])
    log.erase_user(APP, "cat", "deleted:1")
    assert found(log, "tea") == ["expired tea"]
    assert found(log, "coffee") == ["new coffee"]
    assert [word for word in ("recalled", "edited", "removed", "erased") if indexed(store, word)] == []
    while log.removals.restore(APP, "act"):
        pass
    assert found(log, "tea") == ["removed tea", "expired tea"]
    log.expire(APP, more_than=1, upto=expired.id)
    assert found(log, "tea") == found(log, "coffee") == []
    assert not indexed(store, "expired")
    assert indexed(store, "others")
    pad(log)
    log.expire(APP, more_than=1)
    assert not indexed(store, "others")


def test_a_message_that_is_changed_while_its_segment_is_added_is_found_by_what_it_has(
    store: Store, log: MessageLog
) -> None:
    message, other = stored(log, say("ann", "bob", "secret tea"), say("ann", "bob", "secret cake"))
    pad(log)
    changes = [
        say("ann", "bob", "", kind="recall", about=other.id),
        say("ann", "bob", "coffee", kind="edit", about=message.id),
    ]

    def change() -> None:
        if changes:
            stored(log, changes.pop())

    tables = LogTables(store.database, lambda: True)
    in_parts = WordIndex(tables, most_postings=1000, pause=change)
    assert not in_parts.fill(APP), "its messages have changed"
    assert in_parts.fill(APP)
    assert found(log, "coffee") == ["coffee"]
    assert found(log, "secret") == []
    assert not indexed(store, "secret")
    assert len(found(log, "others", "y", limit=100)) == 100, "all parts are there"


def test_two_nodes_add_each_segment_once(url: str, open_store: OpenStore, log: MessageLog) -> None:
    stored(log, say("ann", "bob", "a needle"))
    pad(log, 4)
    other = open_store(url, seconds=10).part(MessageLog)
    both = [gevent.spawn(fill, each) for each in (log, other)]
    gevent.joinall(both, raise_error=True)
    fill(log)
    assert found(other, "needle") == ["a needle"]
    assert not other.words.fill(APP)
    assert other.words.next_end(APP) == 5 * SEGMENT - 1


def test_ids_may_have_a_gap_that_is_wider_than_all_segments(log: MessageLog) -> None:
    stored(log, say("ann", "bob", "an old needle"))
    pad(log)
    log.continue_after(APP, 10**15)
    stored(log, say("ann", "bob", "a new needle"))
    pad(log)
    assert fill(log) == 3
    assert found(log, "needle") == ["an old needle", "a new needle"]


def test_bytes_that_are_no_text_and_very_long_texts_disturb_nobody(log: MessageLog) -> None:
    log.writer.append(APP, [Draft(sender="ann", to_user="bob", body=b"\xff\x00 tea")])
    long = " ".join(f"word{number}" for number in range(20_000))
    (entry,) = stored(log, say("ann", "bob", long))
    pad(log)
    assert fill(log) == 1
    assert len(log.search.find(APP, "bob", "tea", 0, 0, 9)[0]) == 1
    assert ids(log.search.find(APP, "bob", "word1 word7", 0, 0, 9)[0]) == [entry.id]
