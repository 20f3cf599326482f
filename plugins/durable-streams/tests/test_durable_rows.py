"""Appends and streams as each kind of database judges and keeps them."""

from typing import Any

import pytest
from gevent.event import AsyncResult
from imserver_durable_streams import FEATURE
from imserver_durable_streams.protocol import Producer
from imserver_durable_streams.reading import StreamReader
from imserver_durable_streams.rows import (
    DELETED,
    GONE,
    LIVE,
    PRODUCER_SECONDS,
    Append,
    StreamRow,
    StreamRows,
)
from msgspec.structs import replace

from imserver.gateway.storage.tables import StoreTables
from imserver.messenger.log.contract import AppendRequest
from imserver.plugin.http import ApiProblem
from imserver.plugin.messages import Appended, Draft, MessageLog
from imserver.plugin.storage import Statements, Store
from tests.stores import TABLES, OpenStore

APP = "shop"


@pytest.fixture
def store(empty_url: str, open_store: OpenStore) -> Store:
    return open_store(
        empty_url, tables=StoreTables(TABLES.of_server, (FEATURE.stored,))
    )


@pytest.fixture
def rows(store: Store) -> StreamRows:
    return StreamRows(store)


def stream(name: str = "s", **fields: Any) -> StreamRow:
    return StreamRow(app=APP, name=name, content_type="text/plain", **fields)


def create(rows: StreamRows, name: str = "s", **fields: Any) -> str:
    return rows.create(stream(name, **fields), 0)[0]


def append(store: Store, *appends: Append) -> list[int]:
    """Append all at once; the status of each, 0: it is stored."""
    results: list[AsyncResult[Any]] = [AsyncResult() for _ in appends]
    for each, result in zip(appends, results, strict=True):
        draft = Draft(sender="", room=each.name, body=b"x")
        store.part(MessageLog).writer.send(
            AppendRequest(APP, draft, result.set, source=each)
        )
    outcomes = [each.get(timeout=60) for each in results]
    assert [isinstance(each, Appended) for each in outcomes] == [
        not each.verdict.status for each in appends
    ]
    return [each.verdict.status for each in appends]


def text(**fields: Any) -> Append:
    return Append(APP, "s", "text/plain", **fields)


def of(id: str, epoch: int, seq: int) -> Append:
    return text(producer=Producer(id, epoch, seq))


def test_numbers_of_producers_are_judged_in_their_order(
    store: Store, rows: StreamRows
) -> None:
    create(rows)
    appends = (
        of("p", 0, 0),
        of("p", 0, 1),
        of("p", 0, 1),
        of("p", 0, 3),
        of("q", 0, 1),
        of("q", 4, 0),
    )
    assert append(store, *appends) == [0, 0, 204, 409, 409, 0]
    assert [appends[2].verdict.number, appends[3].verdict.number] == [1, 2]
    again = of("p", 0, 0), of("p", 1, 1), of("p", 1, 0), of("p", 0, 2), of("p", 1, 1)
    assert append(store, *again) == [204, 400, 0, 403, 0]
    assert again[3].verdict.number == 1


def test_a_stream_forgets_the_producers_that_have_not_appended_for_the_longest(
    store: Store, rows: StreamRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imserver_durable_streams.rows.MOST_PRODUCERS", 3)
    monkeypatch.setattr("imserver_durable_streams.rows._DROPPED_PRODUCERS", 1)
    now = [1_000_000_000]
    monkeypatch.setattr("imserver_durable_streams.rows.time", lambda: now[0])

    def append_later(id: str, seq: int) -> int:
        now[0] += 3600
        return append(store, of(id, 0, seq))[0]

    create(rows)
    assert [append_later(id, 0) for id in "abc"] == [0, 0, 0]
    assert append_later("a", 1) == 0
    assert append_later("d", 0) == 0
    assert [append_later(id, 2) for id in "a"] == [0]
    assert append_later("c", 0) == 204
    assert append_later("b", 1) == 409, "it begins anew"
    rows.sweep()
    assert append_later("c", 0) == 204
    now[0] += PRODUCER_SECONDS
    rows.sweep()
    assert store.rows("SELECT producer FROM durable_streams_producer", ()) == []


def test_producers_of_the_version_before_are_remembered_from_the_first_sweep_on(
    store: Store, rows: StreamRows
) -> None:
    create(rows)
    append(store, of("p", 0, 0))
    store.execute("UPDATE durable_streams_producer SET used = 0", ())
    rows.sweep()
    assert append(store, of("p", 0, 0)) == [204]


def test_what_is_refused_leaves_no_trace(store: Store, rows: StreamRows) -> None:
    create(rows)
    assert append(
        store, text(seq="b"), text(seq="a"), text(seq="b"), text(seq="c")
    ) == [0, 409, 409, 0]
    late = (
        replace(of("p", 0, 0), seq="a"),
        replace(of("p", 0, 0), seq="d"),
        replace(of("p", 0, 0), seq="d"),
    )
    assert append(store, *late) == [409, 0, 204]
    assert append(
        store, Append(APP, "s", "image/png"), Append(APP, "none", "text/plain")
    ) == [409, 404]


def test_nothing_is_appended_behind_the_end(store: Store, rows: StreamRows) -> None:
    create(rows)
    end = text(producer=Producer("p", 0, 0), ends=True)
    assert append(store, text(), end, text(), of("p", 0, 0), of("p", 0, 1)) == [
        0,
        0,
        409,
        204,
        409,
    ]
    row = rows.get(APP, "s")
    assert row is not None
    assert (row.closed_at, row.closed_by) == (2, "p\n0\n0")
    create(rows, "t")
    empty = Append(APP, "t", ends=True, content=False)
    assert append(store, empty, replace(empty)) == [0, 204]
    row = rows.get(APP, "t")
    assert row is not None
    assert row.closed_at == 2  # before its entry


def test_a_stream_is_made_once(store: Store, rows: StreamRows) -> None:
    made = [replace(text(), wish=stream(ttl=5)) for _ in range(2)]
    assert append(store, *made) == [0, 200]
    assert [
        create(rows, ttl=5),
        create(rows, ttl=6),
        create(rows, ttl=5, closed_at=0),
    ] == [
        "same",
        "other",
        "other",
    ]


def test_a_fork_whose_source_was_not_looked_at_is_not_made(
    store: Store, rows: StreamRows
) -> None:
    create(rows)
    assert create(rows, "fork", parent="s", start=-1) == "other"


def test_a_deleted_stream_stays_while_forks_read_it(
    store: Store, rows: StreamRows
) -> None:
    for name, parent in (("a", ""), ("b", "a"), ("c", "b")):
        assert create(rows, name, parent=parent) == "new"
    states = lambda: [row.state for each in "abc" if (row := rows.get(APP, each))]  # noqa: E731
    rows.remove(APP, "a")
    rows.remove(APP, "b")
    assert states() == [DELETED, DELETED, LIVE]
    assert [create(rows, "a"), create(rows, "d", parent="a")] == ["other", "other"]
    assert append(store, Append(APP, "a", "text/plain")) == [410]
    rows.remove(APP, "c")
    assert states() == [GONE, GONE, GONE]
    outcome, row = rows.create(stream("a"), 7)
    assert (outcome, row.begins, row.start) == ("new", 7, 7)


def test_a_stream_expires_when_nobody_uses_it(store: Store, rows: StreamRows) -> None:
    create(rows, ttl=100)
    before = rows.get(APP, "s")
    now = store.read_or(0, Statements.clock_ms)
    assert before is not None
    assert 109_000 < before.expires_ms - now <= 110_000
    rows.renew(before)
    assert rows.get(APP, "s") == before  # a tenth of the time has not passed
    rows.renew(replace(before, ttl=200))
    after = rows.get(APP, "s")
    assert after is not None
    assert 219_000 < after.expires_ms - now <= 230_000
    create(rows, "old", expires_ms=now - 1)
    create(rows, "fork", parent="old")
    assert append(store, Append(APP, "old", "text/plain")) == [410]
    rows.remove(APP, "fork")
    assert append(store, Append(APP, "old", "text/plain")) == [404]
    create(rows, "other", expires_ms=now - 1)
    rows.sweep()
    assert [
        row.state for each in ("s", "old", "other") if (row := rows.get(APP, each))
    ] == [LIVE, GONE, GONE]


def test_a_gone_stream_is_forgotten_with_the_entries_of_its_channel(
    store: Store, rows: StreamRows
) -> None:
    create(rows)
    create(rows, "t")
    append(store, text(), Append(APP, "t", "text/plain"))
    for name in ("s", "t"):
        rows.remove(APP, name)
    store.part(MessageLog).expire(APP, more_than=1)
    rows.sweep()
    assert [bool(rows.get(APP, each)) for each in "st"] == [True, True]  # for a day
    store.execute(
        "UPDATE durable_streams_stream SET expires_ms = 1 WHERE state = %s", (GONE,)
    )
    rows.sweep()
    assert [bool(rows.get(APP, each)) for each in "st"] == [False, True]


def test_a_reader_learns_that_what_follows_has_expired(
    store: Store, rows: StreamRows
) -> None:
    log = store.part(MessageLog)
    reader = StreamReader(rows)

    def read(*offset: int, name: str = "s") -> tuple[int, tuple[int, int]]:
        """The number of entries, or the status of the refusal; and where the
        next read begins."""
        row = rows.get(APP, name)
        assert row is not None
        try:
            page = reader.read(row, (offset[0], offset[-1] if len(offset) > 1 else 0))
        except ApiProblem as refused:
            return refused.problem.status, (0, 0)
        assert page.next == reader.tail(row)
        return len(page.chunks), page.next

    def expire_all() -> None:
        append(store, Append(APP, "other", "text/plain"))
        log.expire(APP, more_than=1)

    create(rows)
    create(rows, "other")
    append(store, text(), text(), text())
    log.expire(APP, more_than=1)
    assert [read(-1), read(2), read(3)] == [(1, (3, 0)), (1, (3, 0)), (0, (3, 0))]
    assert [read(0)[0], read(0, 1)[0], read(1)[0]] == [410, 410, 410]
    append(store, *[Append(APP, "other", "text/plain")] * 3)
    log.expire(APP, more_than=1)
    assert [read(-1), read(3), read(2)[0]] == [(0, (6, 0)), (0, (6, 0)), 410]
    append(store, *[Append(APP, "other", "text/plain")] * 3, text())
    log.expire(APP, more_than=4)
    assert read(6) == (1, (10, 0))  # whoever was at the end has missed nothing
    append(store, text(ends=True, content=False))
    assert [read(-1), read(10)] == [(1, (10, 0)), (0, (10, 0))]
    expire_all()
    expire_all()
    assert [read(-1), read(6)[0]] == [(0, (10, 0)), 410]
