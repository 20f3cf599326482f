"""Finding what was said, on every engine, and what fills the index of words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imserver.gateway.storage.store import Store
from imserver.messenger.log.changes import SEGMENT
from imserver.messenger.log.commands import Search, SearchFilter
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.search import search as log_search
from imserver.messenger.search.message_search import WordIndexing
from imserver.messenger.search.search import EntrySearch
from imserver.messenger.search.word_index import WordIndex
from tests.messenger.log.test_log import APP, bodies, say, stored
from tests.messenger.log_file import Gates, LogFile
from tests.stores import OpenStore, WriteAt
from tests.support import run_cli

Stretches = Callable[..., None]


@pytest.fixture
def stretches(constants: Callable[..., None]) -> Stretches:
    """``stretches(first, growth, seconds)``: what a search looks at at once,
    and for how long."""
    return lambda first, growth=4, seconds=0.5: constants(
        log_search, FIRST_STRETCH=first, STRETCH_GROWTH=growth, SEARCH_SECONDS=seconds
    )


def found(
    search: EntrySearch,
    user: str,
    text: str,
    conversation: int = 0,
    before: int = 0,
    limit: int = 50,
) -> list[str]:
    entries, further = search.find(APP, user, Search(text, conversation, before, limit))
    assert further == 0
    return bodies(entries)


@pytest.mark.sqlite_first
@pytest.mark.parametrize(
    ("body", "text", "is_found"),
    [
        ("Good Morning", "good m", True),
        ("Good Morning", "morning good", True),
        ("Good Morning", "go morning", False),
        ("good morning, ann", '"good morning"', True),
        ("good grey morning", '"good morning"', False),
        ("good mornings", '"good morning"', False),
        ("good mornings", '"good morning', True),
        ("see example.com/path", "example.com", True),
        ("com example", "example.com", False),
        ("École", "ecole", True),
        ("wörter", "WORTER", True),
        ("worter", "wörter", True),
        ("Straße", "strasse", True),
        ("ＦＵＬＬ", "full", True),
        ("今天晚上八点在老地方见", "老地方", True),
        ("今天晚上八点在老地方见", "老地方 今天", True),
        ("今天晚上八点在老地方见", "点", True),
        ("今天晚上八点在老地方见", "见", True),
        ("今天晚上八点在老地方见", "今晚", False),
        ("明天，见", "天见", False),
        ("カタカナ", "ﾀｶ", True),
        ("한국어를", "국어", True),
        ("हिन्दी में", "हिन्दी", True),
        ("हिन्दी में", "हन्दी", False),
        ("100% sure_", "% sure_", True),
        ("100 percent", "%", False),
        ("a\\b", "a\\b", True),
        ("a'; DROP TABLE message; --", "'; drop", True),
        ("é", "30", False),
        ("👍 yes", "👍", True),
        ("two\nlines", "lines two", True),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstu", True),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstux", False),
    ],
)
def test_what_counts_as_found(
    log: MessageLog,
    body: str,
    text: str,
    is_found: bool,
    search: EntrySearch,
    words: WordIndex,
) -> None:
    stored(log, say("a", "b", body))
    assert found(search, "b", text) == ([body] if is_found else [])
    stored(log, *(say("x", "y", "of others") for _ in range(SEGMENT)))
    assert words.fill(APP), "now it is in the index"
    assert found(search, "b", text) == ([body] if is_found else [])


@pytest.mark.parametrize(
    ("text", "filter", "expected"),
    [
        ("", SearchFilter(sender="c"), ["see www.example.org", "TEA from c"]),
        ("tea", SearchFilter(sender="c"), ["TEA from c"]),
        ("", SearchFilter(sender="nobody"), []),
        (
            "",
            SearchFilter(link=True),
            ["see www.example.org", "tea: HTTPS://example.com/x"],
        ),
        ("tea", SearchFilter(link=True), ["tea: HTTPS://example.com/x"]),
        (
            "",
            SearchFilter(types=("file",)),
            ['{"name":"Report 报告.pdf","url":"/tea"}'],
        ),
        ("tea", SearchFilter(types=("file",)), []),
        (
            "报告",
            SearchFilter(types=("file",)),
            ['{"name":"Report 报告.pdf","url":"/tea"}'],
        ),
        (
            '"5"',
            SearchFilter(types=("picture", "text")),
            ['[{"caption":"\\"5\\" \\u62a5"}]'],
        ),
        ("报", SearchFilter(types=("picture",)), ['[{"caption":"\\"5\\" \\u62a5"}]']),
        ("", SearchFilter(types=("picture",), sender="c"), []),
    ],
)
def test_filters_narrow_a_search_or_replace_its_text(
    log: MessageLog,
    text: str,
    filter: SearchFilter,
    expected: list[str],
    search: EntrySearch,
) -> None:
    group = log.groups.create(APP, "a", "tea", ["b", "c"]).conversation
    stored(
        log,
        say("c", group, "see www.example.org"),
        say("a", group, '{"name":"Report 报告.pdf","url":"/tea"}', type="file"),
        say("a", group, '[{"caption":"\\"5\\" \\u62a5"}]', type="picture"),
        say("a", group, '{"name":"broken', type="picture"),
        say("a", group, "tea: HTTPS://example.com/x"),
        say("c", group, "TEA from c"),
        say("c", "x", "tea of others"),
    )
    assert bodies(search.find(APP, "b", Search(text, 0, 0, 10, filter))[0]) == expected


def test_a_search_reads_only_the_time_that_is_wanted(
    write_at: WriteAt, stretches: Stretches
) -> None:
    day = 86400
    gates = Gates()
    store = LogFile().open(gates)
    log = store.part(MessageLog)
    search = store.part(EntrySearch)
    for number in range(1, 41):
        write_at(number * day)
        stored(log, say("a", "b", f"tea {number}", time_ms=number * day * 1000))
    stretches(2, 1)
    at = [number * day * 1000 for number in range(42)]
    for filter, expected in (
        (SearchFilter(since=at[10], until=at[14]), [10, 11, 12, 13]),
        (SearchFilter(until=at[3]), [1, 2]),
        (SearchFilter(since=at[39]), [39, 40]),
        (SearchFilter(since=at[41]), []),
        (SearchFilter(until=1), []),
    ):
        gates.reads = 0
        assert bodies(search.find(APP, "b", Search("tea", 0, 0, 50, filter))[0]) == [
            f"tea {number}" for number in expected
        ]
        assert gates.reads <= 2 + 3, filter


def test_pages_go_back_to_the_beginning(
    log: MessageLog, stretches: Stretches, search: EntrySearch
) -> None:
    stretches(7)
    stored(
        log,
        *(
            say("a", "b", f"tea {number}" if number % 3 else "coffee")
            for number in range(60)
        ),
    )
    seen: list[str] = []
    before = 0
    pages = 0
    while pages == 0 or before:
        entries, before = search.find(APP, "b", Search("tea", 1, before, 10))
        assert len(entries) <= 10
        seen = bodies(entries) + seen
        pages += 1
    assert seen == [f"tea {number}" for number in range(60) if number % 3]
    assert pages >= 4


def test_a_search_that_takes_long_says_how_far_it_has_come(
    log: MessageLog, stretches: Stretches, search: EntrySearch, words: WordIndex
) -> None:
    stretches(10, 1, 0.0)
    stored(log, say("a", "b", "tea"), *(say("a", "b", "coffee") for _ in range(35)))
    before = 0
    steps = 0
    entries: list[object] = []
    while not entries:
        found_now, before = search.find(APP, "b", Search("tea", 0, before, 10))
        entries += found_now
        steps += 1
        assert before > 0 or entries
    assert steps == 4
    milk = bodies(
        stored(log, *(say("a", "b", f"milk {number}") for number in range(300)))
    )
    stored(log, *(say("x", "y", "of others") for _ in range(SEGMENT)))
    assert words.fill(APP)
    seen: list[str] = []
    before = 0
    while before or not seen:
        page, before = search.find(APP, "b", Search("milk", 0, before, 999))
        seen = bodies(page) + seen
    assert seen == milk, (
        "each once, where the time is over between two parts of a segment"
    )


def test_a_long_log_is_looked_through_in_steps_that_hold_no_writer_up() -> None:
    gates = Gates()
    store = LogFile().open(gates)
    search = store.part(EntrySearch)
    stored(store.part(MessageLog), *[say("a", "b", "some words")] * 5000)
    gates.reads = 0
    found, rest = search.find(APP, "b", Search("nowhere said", 0, 0, 10))
    while rest:  # its half second was over
        found, rest = search.find(APP, "b", Search("nowhere said", 0, rest, 10))
    assert found == []
    assert gates.reads >= 3, (
        "the head of the log, and the messages in more than one step"
    )


# --- what fills the index of words --------------------------------------------


def send(log: MessageLog, count: int, text: str = "a needle") -> None:
    log.writer.append(
        "gochat", [Draft(sender="ann", to_user="bob", body=text.encode())] * count
    )


def indexed(store: Store) -> int:
    """How many segments are in the index."""
    return store.part(WordIndex).next_end("gochat")[0] // SEGMENT


def test_a_node_adds_what_others_stored_before_and_what_it_stores(
    tmp_path: Path, open_store: OpenStore
) -> None:
    other = open_store().part(MessageLog)
    send(other, SEGMENT)
    store = open_store()
    log = store.part(MessageLog)
    indexing = WordIndexing(store)
    indexing.look()
    assert indexed(store) == 1
    send(log, SEGMENT - 2)
    indexing.look()
    assert indexed(store) == 1, "the second one is not whole"
    send(log, 1)
    indexing.look()
    assert indexed(store) == 2


def test_a_node_merges_what_any_node_has_changed(
    tmp_path: Path, open_store: OpenStore
) -> None:
    other = open_store()
    log = other.part(MessageLog)
    send(log, SEGMENT, "a secret")
    assert other.part(WordIndex).fill("gochat")
    log.writer.append(
        "gochat", [Draft(sender="ann", kind="recall", about=1, conversation=1)]
    )
    store = open_store()
    indexing = WordIndexing(store)
    words = store.part(WordIndex)
    assert words.changed() == ["gochat"]
    indexing.merge()
    assert words.changed() == []


@pytest.mark.parametrize("apps", [(), ("gochat",)])
def test_the_command_makes_the_index_anew(
    tmp_path: Path, open_store: OpenStore, apps: tuple[str, ...]
) -> None:
    store = open_store()
    search = store.part(EntrySearch)
    send(store.part(MessageLog), SEGMENT)
    assert store.part(WordIndex).fill("gochat")
    store.write(lambda sql: sql.execute("UPDATE word SET terms = %s", (b"\x80",)))
    assert len(search.find("gochat", "bob", Search("needle", 0, 0, 5))[0]) == 1, (
        "what is in no index"
    )
    done = run_cli("search", "rebuild", "--data-dir", str(tmp_path), *apps)
    assert done.stdout == "segments of gochat: 1\n", done.stderr
    assert len(search.find("gochat", "bob", Search("needle", 0, 0, 5))[0]) == 5
    absent = run_cli("search", "rebuild", "--data-dir", str(tmp_path), "none")
    assert (absent.returncode, absent.stderr) == (
        1,
        "imserver: app none has no messages\n",
    )
