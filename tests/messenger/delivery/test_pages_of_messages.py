"""Pages of stored messages, of event streams that come back, and of searches:
bounded, whole, in order."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from gevent.event import Event as Flag

from imserver.gateway.auth import rates
from imserver.gateway.auth.rates import TooManyRequests
from imserver.gateway.cluster import history
from imserver.gateway.cluster.history import PAGE_BYTES
from imserver.gateway.errors import StorageUnavailable
from imserver.messenger.delivery import catch_up
from imserver.messenger.delivery.catch_up import StreamStarts
from imserver.messenger.log.commands import Search, SearchFilter
from imserver.messenger.log.contract import Draft, Entry
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.model import Message
from imserver.messenger.search import message_search
from imserver.messenger.search.message_search import SEARCHES_AT_ONCE, MessageSearch
from tests.gateway.dialects.sse.test_wire import DIALECT, data_of
from tests.gateway.transport.harness import until
from tests.messenger.delivery.test_messaging import two
from tests.messenger.messaging_harness import APP, Node
from tests.security.node_harness import ADMIN, Harness, config
from tests.users import User

BOUND = 1000


@pytest.fixture
def low_bound(constants: Callable[..., None]) -> None:
    constants(history, PAGE_BYTES=BOUND)


@pytest.mark.usefixtures("low_bound")
@pytest.mark.parametrize(
    ("sizes", "oldest", "newest"),
    [
        ((), [], []),
        ((BOUND // 2, BOUND // 2), [1, 2], [1, 2]),
        ((5 * BOUND,), [1], [1]),
        ((BOUND // 2, BOUND // 2, 1), [1, 2], [2, 3]),
        ((BOUND, 1), [1], [2]),
        ((BOUND + 1, 1), [1], [2]),
        ((1, BOUND + 1), [1], [2]),
        ((BOUND + 1, BOUND + 1, BOUND + 1), [1], [3]),
        ((BOUND + 1, 0, 1), [1], [2, 3]),
    ],
)
def test_as_many_as_fit_and_one_at_least(
    node: Node, sizes: tuple[int, ...], oldest: list[int], newest: list[int]
) -> None:
    node.log.writer.append(
        APP, [Draft(sender="ann", to_user="bob", body=b"x" * size) for size in sizes]
    )
    reader = node.log.entries
    for (found, more), expected in (
        (reader.sync(APP, "bob", 0, 50), oldest),
        (reader.history(APP, "bob", 1, 0, 50, after=0), oldest),
        (reader.history(APP, "bob", 1, 0, 50), newest),
    ):
        assert [entry.id for entry in found] == expected
        assert more is (len(expected) < len(sizes))


def send_texts(node: Node, count: int) -> None:
    ann = node.speaker("ann", cursor=0)
    for number in range(count):
        assert ann.send("bob", f"{number}".ljust(BOUND // 3))[0] == 200


def ids(page: Any) -> list[int]:
    return [each["id"] for each in page["messages"]]


@pytest.mark.usefixtures("low_bound")
def test_a_sync_goes_on_behind_what_the_page_held_and_ends_live(node: Node) -> None:
    send_texts(node, 7)
    assert node.speaker("bob", cursor=0).login == (200, {"recovered": False}), (
        "it missed too many bytes"
    )
    assert node.speaker("bob", cursor=5).login == (200, {"recovered": True})
    bob = node.speaker("bob")
    seen: list[int] = []
    more = True
    while more:
        _, page = bob.ask("sync", {"cursor": seen[-1] if seen else 0, "limit": 200})
        assert 1 <= len(page["messages"]) <= 3
        seen += ids(page)
        more = page["hasMore"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    node.speaker("ann", cursor=7).send("bob", "live")
    bob.settle()
    assert bob.texts() == ["live"]


def test_a_reader_of_the_api_must_begin_anew_if_entries_expire_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(config(tmp_path))
    try:
        log, admin = (
            harness.node.core.store.part(MessageLog),
            User(harness, ADMIN.key, app="201"),
        )
        log.writer.append("201", [Draft(sender="ann", to_user="bob")] * 3)
        sync = log.entries.sync

        def expiring(*arguments: Any) -> Any:
            log.expire("201", more_than=1)
            return sync(*arguments)

        monkeypatch.setattr(log.entries, "sync", expiring)
        page = admin.get("messages/sync", user="bob", after=1, limit=10)
        assert (page["messages"], page["begin_anew"]) == ([], True)
    finally:
        harness.close()


# --- event streams that come back ---------------------------------------------


def stored_on(node: Node) -> StreamStarts:
    return StreamStarts(node.messaging.catch_up)


@pytest.mark.parametrize("cursor", [None, 0, 1])
def test_a_node_that_is_behind_delivers_nothing_again(cursor: int | None) -> None:
    """What the client has, or gets from the log first, comes to this node
    late."""
    first, second = two()
    with first, second:
        second.speaker("eve", 0)
        ann = first.speaker("ann", 0)
        first.wire = lambda low, _: low != 1
        ann.send("bob", "1")
        bob = second.speaker("bob")
        stored = stored_on(second)
        start = stored.start(APP, "bob", cursor)
        stream: Any = bob.connection
        stored.send(stream, start)
        ann.send("bob", "2")
        expected = [1, 2] if cursor == 0 else [2]
        until(lambda: [message["id"] for message in bob.pushed()][-1:] == [2])
        assert [message["id"] for message in bob.pushed()] == expected


@pytest.mark.parametrize(
    ("page", "page_bytes", "limit", "cursor", "resumed", "reads"),
    [
        (50, 1000, 50, 20, True, 6),
        (4, 1000, 50, 20, True, 9),
        (50, 40, 50, 20, True, 9),
        (4, 1000, 9, 21, True, 9),
        (4, 1000, 9, 20, False, 7),
    ],
)
def test_what_was_missed_is_read_once_page_by_page_and_no_more_than_may(
    constants: Callable[..., None],
    page: int,
    page_bytes: int,
    limit: int,
    cursor: int,
    resumed: bool,
    reads: int,
) -> None:
    constants(catch_up, PAGE=page, RESUMED=limit)
    constants(history, PAGE_BYTES=page_bytes)
    with Node() as node:
        node.log.writer.append(
            APP, [Draft(sender="ann", to_user="bob", body=b"1234567890")] * 30
        )
        bob = node.speaker("bob")
        stored = stored_on(node)
        before = node.gates.reads
        start = stored.start(APP, "bob", cursor)
        assert start.resumed is resumed
        stored.send(bob.connection, start)
        bob.settle()
        assert [message["id"] for message in bob.pushed()] == [
            *range(cursor + 1, 31)
        ] * resumed
        assert node.gates.reads - before <= reads


def test_a_stream_is_not_resumed_if_entries_expire_while_they_are_read(
    node: Node,
) -> None:
    ann = node.speaker("ann", 0)
    for text in "1234":
        ann.send("bob", text)
    node.during(2, lambda: node.log.expire(APP, more_than=1, upto=3))
    start = stored_on(node).start(APP, "bob", 1)
    assert (start.resumed, start.cursor) == (False, 4)


def test_a_stored_entry_has_its_id_outside_and_inside() -> None:
    body = b'{"a":\n1}'
    own = "c-1"
    message = Message(
        17,
        3,
        5,
        "shop",
        ("ann", "shop"),
        type="order",
        body=body,
        client_msg_id=own,
        time_ms=9,
    )
    block = DIALECT.encode_message(message)
    assert block.startswith(b"id: 17\n")
    assert data_of(block.removeprefix(b"id: 17\n")) == {
        "event": "message",
        "app": "system:shop",
        "id": 17,
        "conversation": 3,
        "seq": 5,
        "kind": "message",
        "from": "shop",
        "to": "ann",
        "type": "order",
        "data": {"a": 1},
        "client_msg_id": "c-1",
        "time": 9,
    }


# --- messageSearch ------------------------------------------------------------

TEA = Search("tea", 0, 0, 10)


def store_of(log: object) -> Any:
    return SimpleNamespace(part=lambda _make: log)


class SlowLog:
    """Answers when it may."""

    def __init__(self) -> None:
        self.looking = self.most = 0
        self.may = Flag()

    def find(self, *_arguments: Any) -> tuple[list[Any], int]:
        self.looking += 1
        self.most = max(self.most, self.looking)
        self.may.wait()
        self.looking -= 1
        return [], 0


@pytest.mark.usefixtures("small")
def test_a_search_that_waits_too_long_is_refused_temporarily() -> None:
    log = SlowLog()
    found = MessageSearch(store_of(log))
    searches = [
        gevent.spawn(found.search, "a", "u", TEA) for _ in range(SEARCHES_AT_ONCE)
    ]
    until(lambda: log.looking == SEARCHES_AT_ONCE)
    with pytest.raises(StorageUnavailable):
        found.search("a", "u", TEA)
    log.may.set()
    gevent.joinall(searches, raise_error=True)
    assert found.search("a", "u", TEA) == ([], 0)


def test_a_search_is_refused_at_once_while_many_wait(
    constants: Callable[..., None],
) -> None:
    constants(message_search, SEARCHES_WAITING=1)
    log = SlowLog()
    found = MessageSearch(store_of(log))
    searches = [
        gevent.spawn(found.search, "a", "u", TEA) for _ in range(SEARCHES_AT_ONCE + 1)
    ]
    until(lambda: log.looking == SEARCHES_AT_ONCE)
    with pytest.raises(StorageUnavailable):
        found.search("a", "u", TEA)
    assert not any(search.ready() for search in searches)
    log.may.set()
    gevent.joinall(searches, raise_error=True)
    assert log.most == SEARCHES_AT_ONCE


def test_a_user_pays_for_the_time_of_their_searches(
    constants: Callable[..., None],
) -> None:
    now = 0.0

    def find(*_arguments: Any) -> tuple[list[Any], int]:
        nonlocal now
        now += 4.0
        return [], 0

    constants(message_search, monotonic=lambda: now)
    constants(rates, monotonic_ns=lambda: 1)
    log = Mock()
    log.find = find
    searches = MessageSearch(store_of(log))
    for _ in range(4):  # the last one may begin with little time left
        searches.search("a", "u", TEA)
    with pytest.raises(TooManyRequests):
        searches.search("a", "u", TEA)
    searches.search("a", "v", TEA)


def test_a_page_has_the_newest_results_that_fit_and_continues_behind_them() -> None:
    body = b"x" * (PAGE_BYTES // 3)
    entries = [
        Entry(id=number, conversation=1, seq=number, sender="a", body=body)
        for number in range(1, 9)
    ]
    log = Mock()
    log.find = lambda _app, _user, search: (entries[: search.before - 1], 0)
    found = MessageSearch(store_of(log))
    before = len(entries) + 1
    pages = []
    files = SearchFilter(types=("file",))
    while before:
        page, before = found.search("a", "u", Search("", 1, before, 100, files))
        pages.append([entry.id for entry in page])
    assert pages == [[6, 7, 8], [3, 4, 5], [1, 2]]
