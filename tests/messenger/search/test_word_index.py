"""The index of words on every engine: what it finds, what goes with the
messages, who fills it."""

from collections.abc import Callable

import gevent
import msgspec

from imserver.gateway.storage.statements import Row
from imserver.gateway.storage.store import Store
from imserver.messenger.log.changes import SEGMENT
from imserver.messenger.log.commands import Search, SearchFilter
from imserver.messenger.log.contract import Commit, Draft, Entry
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search.recent_entries import RecentEntries
from imserver.messenger.search.search import EntrySearch
from imserver.messenger.search.word_content import MOST_ROW_BYTES
from imserver.messenger.search.word_index import WordIndex
from imserver.messenger.search.words import Term, offsets_with
from tests.messenger.log.test_log import APP, bodies, ids, say, stored
from tests.stores import OpenStore


def pad(log: MessageLog, segments: int = 1) -> None:
    """Messages of others, so that all earlier ones can come into the index."""
    for _ in range(segments):
        stored(
            log, *(say("x", "y", f"of others {number}") for number in range(SEGMENT))
        )


def fill(words: WordIndex) -> int:
    count = 0
    while words.fill(APP):
        count += 1
    return count


def hits(
    search: EntrySearch, text: str, user: str = "bob", limit: int = 50
) -> list[Entry]:
    """What is found, however often a search stops before its end."""
    entries, before = search.find(APP, user, Search(text, 0, 0, limit))
    while before and len(entries) < limit:
        more, before = search.find(
            APP, user, Search(text, 0, before, limit - len(entries))
        )
        entries = more + entries
    return entries


def found(
    search: EntrySearch, text: str, user: str = "bob", limit: int = 50
) -> list[str]:
    return bodies(hits(search, text, user, limit))


def rows(store: Store, table: str) -> list[Row]:
    return store.read(lambda sql: sql.query(f"SELECT * FROM {table}"))


def indexed(store: Store, word: str) -> bool:
    """Whether the index has a word, whoever may read its message."""
    return any(word.encode() in bytes(row[3]) for row in rows(store, "word"))


def test_words_are_found_in_the_index_and_behind_it(
    log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    change = log.groups.create(APP, "ann", "tea", ["bob"])
    group = change.conversation
    stored(
        log,
        say("ann", group, "the red kettle"),
        say("ann", "x", "a red kettle of others"),
    )
    stored(
        log,
        say("bob", group, '{"name":"Kettle, red.pdf"}', type="file"),
        say("ann", "bob", "红色的茶壶"),
    )
    pad(log, 3)
    stored(log, say("bob", group, "kettle: red"))

    def check() -> None:
        assert found(search, "kettle red") == ["the red kettle", "kettle: red"]
        assert found(search, '"red kettle"') == ["the red kettle"]
        assert found(search, "red ket", limit=1) == ["kettle: red"]
        assert (
            found(search, "茶")
            == found(search, "茶壶")
            == found(search, "壶")
            == ["红色的茶壶"]
        )
        assert (
            found(search, "kettle green") == found(search, "kettle", "stranger") == []
        )
        entries, _ = search.find(
            APP, "bob", Search("red", group, 0, 9, SearchFilter(sender="ann"))
        )
        assert bodies(entries) == ["the red kettle"]
        assert (
            len(
                search.find(
                    APP, "bob", Search("kettle", 0, 0, 9, SearchFilter(types=("file",)))
                )[0]
            )
            == 1
        )
        entries, before = search.find(APP, "bob", Search("kettle", group, 0, 1))
        assert before == entries[0].id
        assert bodies(
            search.find(APP, "bob", Search("kettle", group, before, 1))[0]
        ) == ["the red kettle"]

    check()
    assert fill(words) == 3
    check()
    words.erase(APP)
    check()
    assert fill(words) == 3
    check()


def test_what_is_changed_or_deleted_is_not_found_and_leaves_the_index(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    recalled, edited, removed, _, expired = stored(
        log,
        *(
            say("ann", "bob", f"{word} tea")
            for word in ("recalled", "edited", "removed")
        ),
        say("cat", "bob", "erased tea"),
        say("ann", "bob", "expired tea"),
    )
    pad(log)
    assert fill(words) == 1
    assert len(found(search, "tea")) == 5
    assert not words.merge(APP)

    stored(log, say("ann", "bob", "", kind="recall", about=recalled.id))
    stored(log, say("ann", "bob", "new coffee", kind="edit", about=edited.id))
    log.removals.remove(APP, "act", [removed.id])
    changed = ("recalled", "edited", "removed")

    def check() -> None:
        assert found(search, "tea") == ["erased tea", "expired tea"]
        assert found(search, "coffee") == ["new coffee"]
        assert found(search, "coffee", "stranger") == []
        assert [found(search, word) for word in changed] == [[], [], []]

    check()
    assert indexed(store, "recalled"), "its row waits for the filler"
    assert words.changed() == [APP]
    words.settle(APP)
    check()
    assert [word for word in changed if indexed(store, word)] == []
    assert indexed(store, "coffee")
    assert words.changed() == [] == rows(store, "word_change")

    log.erase_user(APP, "cat", "deleted:1")
    words.settle(APP)
    assert not indexed(store, "erased")
    assert found(search, "tea") == ["expired tea"]
    while log.removals.restore(APP, "act"):
        pass
    assert found(search, "tea") == ["removed tea", "expired tea"]
    words.settle(APP)
    assert found(search, "tea") == ["removed tea", "expired tea"]
    log.expire(APP, more_than=1, upto=expired.id)
    words.settle(APP)
    assert found(search, "tea") == found(search, "coffee") == []
    assert not indexed(store, "expired")
    assert indexed(store, "others")
    pad(log)
    log.expire(APP, more_than=1)
    words.settle(APP)
    assert rows(store, "word") == rows(store, "word_change") == []


def test_changes_of_messages_that_are_not_in_the_index_leave_no_rows(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    stored(log, say("ann", "bob", "tea"))
    stored(log, say("ann", "bob", "coffee", kind="edit", about=1))
    assert rows(store, "word_change") == [], "the segment is not whole"
    pad(log)
    stored(log, say("ann", "bob", "cocoa", kind="edit", about=1))
    assert len(rows(store, "word_change")) == 1
    assert not words.merge(APP), "no node has added the segment"
    assert fill(words) == 1
    assert rows(store, "word_change") == []
    assert found(search, "cocoa") == ["cocoa"]
    assert found(search, "coffee") == found(search, "tea") == []


def test_what_a_node_has_stored_is_not_read_again(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    stored(
        log,
        say("ann", "bob", "a needle"),
        say("ann", "bob", "Kettles2 and a" + "b" * 20),
    )
    pad(log)
    store.write(lambda sql: sql.execute("UPDATE message SET body = %s", (b"hay",)))
    assert fill(words) == 1
    assert indexed(store, "needle")
    assert indexed(store, "kettles2")
    assert indexed(store, "bbbbb")
    assert not indexed(store, "hay")
    words.erase(APP)
    assert fill(words) == 1
    assert indexed(store, "hay"), "the index is made anew of what the database has"
    assert found(search, "hay") == ["hay", "hay"]


def test_a_message_that_its_transaction_changes_beyond_the_segment_has_the_new_words(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    edited, recalled = stored(
        log, say("ann", "bob", "secret tea"), say("ann", "bob", "secret cake")
    )
    stored(
        log, *(say("x", "y", f"of others {number}") for number in range(SEGMENT - 10))
    )
    changes = (
        say("ann", "bob", "coffee", kind="edit", about=edited.id),
        say("ann", "bob", "", kind="recall", about=recalled.id),
    )
    stored(
        log, *(say("x", "y", f"of others {number}") for number in range(20)), *changes
    )
    assert rows(store, "word_change") == []
    assert fill(words) == 1
    assert not indexed(store, "secret")
    assert found(search, "coffee") == ["coffee"]
    assert found(search, "secret") == []


def test_what_another_node_changes_meanwhile_is_read(
    url: str,
    open_store: OpenStore,
    log: MessageLog,
    search: EntrySearch,
    words: WordIndex,
) -> None:
    (message,) = stored(log, say("ann", "bob", "tea"))
    other = open_store(url, seconds=10).part(MessageLog)
    stored(other, say("ann", "bob", "coffee", kind="edit", about=message.id))
    pad(log)
    assert fill(words) == 1
    assert found(search, "coffee") == ["coffee"]
    stored(log, *(say("ann", "bob", f"milk {number}") for number in range(SEGMENT - 4)))
    (last,) = stored(log, say("ann", "bob", "cream"))
    pad(log)
    stored(other, say("ann", "bob", "sugar", kind="edit", about=last.id))
    assert fill(words) == 2
    assert found(search, "sugar") == ["sugar"]
    assert found(search, "cream") == []


def test_a_message_that_is_changed_while_its_segment_is_added_is_found_by_what_it_has(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    message, other = stored(
        log, say("ann", "bob", "secret tea"), say("ann", "bob", "secret cake")
    )
    pad(log)

    def at_once(*drafts: Draft) -> Callable[[], None]:
        waiting = list(drafts)

        def change() -> None:
            if waiting:
                stored(log, waiting.pop())

        return change

    recall = say("ann", "bob", "", kind="recall", about=other.id)
    assert words.fill(
        APP, at_once(recall, say("ann", "bob", "coffee", kind="edit", about=message.id))
    )
    assert indexed(store, "secret"), "it was read before"
    assert found(search, "secret") == []
    assert found(search, "coffee") == ["coffee"]
    assert words.merge(
        APP, at_once(say("ann", "bob", "cocoa", kind="edit", about=message.id))
    )
    assert not indexed(store, "secret")
    assert found(search, "coffee") == []
    assert found(search, "cocoa") == ["cocoa"]
    words.settle(APP)
    assert not indexed(store, "coffee")
    assert found(search, "cocoa") == ["cocoa"]
    assert len(found(search, "others", "y", limit=100)) == 100


def test_what_a_node_writes_that_was_too_slow_is_dropped(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    message, *_ = stored(log, say("ann", "bob", "secret tea"))
    pad(log)

    def overtake() -> None:
        """As another node does when the lease has ended."""
        store.write(lambda sql: sql.execute("UPDATE word_position SET leased = 0"))
        words.fill(APP)
        stored(log, say("ann", "bob", "coffee", kind="edit", about=message.id))
        words.settle(APP)

    assert not words.fill(APP, overtake)
    assert not indexed(store, "secret")
    assert found(search, "coffee") == ["coffee"]


def test_dense_messages_are_found_by_their_texts_and_keep_nobody_out(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(500))
    drafts = [
        say("ann", "bob", f"{text[number:]}{text[:number]} dense{number}x")
        for number in range(300)
    ]
    dense = stored(
        log,
        *drafts,
        say("ann", "bob", text * 5 + " and the last"),
        say("cat", "bob", "a needle"),
    )
    pad(log)
    assert fill(words) == 1
    sizes = [len(row[3]) for row in rows(store, "word")]
    assert sum(sizes) < 2_000_000, "the index does not grow with what they have"
    assert max(sizes) <= MOST_ROW_BYTES
    assert indexed(store, "dense7x")
    assert not indexed(store, "dense299x")
    for number in (7, 299):
        assert ids(hits(search, f'"dense{number}x"')) == [dense[number].id]
    assert ids(hits(search, "the last")) == [dense[300].id]
    assert found(search, "needle") == ["a needle"]
    assert found(search, "dense299x", "y") == []

    stored(log, say("ann", "bob", "short", kind="edit", about=dense[299].id))
    stored(
        log,
        say("ann", "bob", f"{text}{text[::-1]} grown", kind="edit", about=dense[7].id),
    )
    words.settle(APP)
    assert not indexed(store, "dense7x")
    assert found(search, '"dense299x"') == found(search, '"dense7x"') == []
    assert ids(hits(search, "short")) == [dense[299].id]
    assert ids(hits(search, "grown")) == [dense[7].id]


def test_words_of_one_beginning_do_not_make_a_row_large(
    store: Store, log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    numbers = iter(range(1_000_000))
    (first, *_) = stored(
        log,
        *(
            say("ann", "bob", " ".join(f"qu{next(numbers):014}" for _ in range(120)))
            for _ in range(60)
        ),
        say("ann", "cat", "a queen"),
    )
    pad(log)
    assert fill(words) == 1
    assert max(len(row[3]) for row in rows(store, "word")) <= MOST_ROW_BYTES
    assert found(search, "queen", "cat") == found(search, "que", "cat") == ["a queen"]
    assert indexed(store, "queen")
    assert ids(hits(search, "qu00000000000007")) == [first.id]


def test_two_nodes_add_each_segment_once(
    url: str, open_store: OpenStore, log: MessageLog, words: WordIndex
) -> None:
    stored(log, say("ann", "bob", "a needle"))
    pad(log, 4)
    other = open_store(url, seconds=10)
    other_words = other.part(WordIndex)
    both = [gevent.spawn(fill, each) for each in (words, other_words)]
    gevent.joinall(both, raise_error=True)
    fill(words)
    assert found(other.part(EntrySearch), "needle") == ["a needle"]
    assert not other_words.fill(APP)
    assert other_words.next_end(APP) == (5 * SEGMENT - 1, False)


def test_ids_may_have_a_gap_that_is_wider_than_all_segments(
    log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    stored(log, say("ann", "bob", "an old needle"))
    pad(log)
    log.continue_after(APP, 10**15)
    stored(log, say("ann", "bob", "a new needle"))
    pad(log)
    assert fill(words) == 3
    assert found(search, "needle") == ["an old needle", "a new needle"]


def test_bytes_that_are_no_text_and_very_long_texts_disturb_nobody(
    log: MessageLog, search: EntrySearch, words: WordIndex
) -> None:
    log.writer.append(APP, [Draft(sender="ann", to_user="bob", body=b"\xff\x00 tea")])
    long = " ".join(f"word{number}" for number in range(20_000))
    (entry,) = stored(log, say("ann", "bob", long))
    pad(log)
    assert fill(words) == 1
    assert len(search.find(APP, "bob", Search("tea", 0, 0, 9))[0]) == 1
    assert ids(hits(search, "word1 word7")) == [entry.id]


def test_a_row_is_searched_as_if_it_was_decoded() -> None:
    lists: list[int | list[int]] = [
        5,
        130,
        300,
        [0, 2047],
        list(range(15)),
        list(range(100, 116)),
        list(range(2048)),
    ]
    words = [
        "hello",
        "\u0465hello",
        "\u4e25hello",
        "hellohello",
        "x" * 16,
        "\u8336",
        "\u8336\u58f6",
    ]
    for number in range(len(lists)):
        terms = dict(zip(words, lists[number:] + lists[:number], strict=True))
        row = msgspec.msgpack.encode(terms)
        for word, offsets in terms.items():
            expected = {offsets} if isinstance(offsets, int) else {*offsets}
            assert offsets_with(row, Term(word)) >= expected
            assert offsets_with(row, Term(word, is_prefix=True)) >= expected
        assert offsets_with(row, Term("hell")) == set()
        assert offsets_with(row, Term("x" * 15)) == set()


def commit(
    first: int, count: int, app: str = "app", body: bytes = b"", about: int = 0
) -> Commit:
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


def taken(recent: RecentEntries, segment: int, app: str = "app") -> list[int]:
    parts, _ = recent.take(app, max(segment * SEGMENT, 1), (segment + 1) * SEGMENT)
    return [
        part.first + number
        for part in parts
        for number in range(len(part.conversations))
    ]


def test_a_segment_is_there_once_and_only_if_all_of_it_is() -> None:
    recent = RecentEntries()
    recent.add(commit(1, 4))
    assert taken(recent, 0) == [], "the last ones are missing"
    recent.add(commit(1, 4))
    recent.add(commit(5, SEGMENT - 7))
    recent.add(commit(SEGMENT - 2, 2 * SEGMENT + 10))
    assert taken(recent, 0, "other") == []
    assert taken(recent, 0) == list(range(1, SEGMENT))
    assert taken(recent, 0) == []
    assert taken(recent, 2) == list(range(2 * SEGMENT, 3 * SEGMENT))
    assert taken(recent, 1) == [], "what is before was forgotten"
    recent.add(commit(5 * SEGMENT + 1, SEGMENT))
    assert taken(recent, 3) == taken(recent, 4) == [], "another node has stored some"
    assert taken(recent, 5) == [], "the first one is missing"


def test_what_takes_too_much_memory_is_forgotten_the_oldest_log_first() -> None:
    recent = RecentEntries(most_bytes=1_400_000)
    half = SEGMENT // 2
    for first, app in ((SEGMENT, "one"), (SEGMENT, "two"), (SEGMENT + half, "one")):
        recent.add(commit(first, half, app, bytes(300)))
    recent.add(commit(SEGMENT, half, "three", bytes(300)))
    assert taken(recent, 1, "two") == []
    assert len(taken(recent, 1, "one")) == SEGMENT
    recent.add(commit(SEGMENT + half, half, "three", bytes(300)))
    assert len(taken(recent, 1, "three")) == SEGMENT
    recent.add(commit(SEGMENT, SEGMENT, "four", bytes(2000)))
    assert taken(recent, 1, "four") == []
    recent.add(commit(SEGMENT, SEGMENT, "five", bytes(300)))
    assert len(taken(recent, 1, "five")) == SEGMENT
