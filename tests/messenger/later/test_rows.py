"""Scheduled messages as each kind of database keeps them, and that two nodes
send each of them once."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult
from msgspec import Struct
from msgspec.structs import replace

from imserver.messenger.later import FEATURE
from imserver.messenger.later.declared import MOST_WAITING
from imserver.messenger.later.rows import (
    AT_ONCE,
    ScheduledMessage,
    ScheduledRows,
    SourceRow,
    When,
)
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.messages import Appended, Draft, Entry, MessageLog, Rejected
from imserver.plugin.storage import Statements, Store
from imserver.plugin.testing import check_tables
from tests.stores import OpenStore

APP = "shop"


def message(id: str, **fields: Any) -> ScheduledMessage:
    given: dict[str, Any] = {
        "app": APP,
        "member": "ann",
        "to_user": "bob",
        "body": id.encode(),
        **fields,
    }
    return ScheduledMessage(id=id, **given)


@pytest.fixture
def nodes(url: str, open_store: OpenStore) -> tuple[Store, Store]:
    """Two nodes with one database."""
    return open_store(url), open_store(url)


@pytest.fixture
def rows(nodes: tuple[Store, Store]) -> ScheduledRows:
    return ScheduledRows(nodes[0])


def send(store: Store, row: ScheduledMessage) -> AsyncResult[Any]:
    """Let a node send it."""
    from imserver.messenger.log.contract import AppendRequest

    where: dict[str, Any] = {"to_user": row.to_user, "conversation": row.conversation}
    draft = Draft(sender=row.member, body=row.body, client_msg_id=row.id, **where)
    done: AsyncResult[Any] = AsyncResult()
    store.part(MessageLog).writer.send(
        AppendRequest(row.app, draft, done.set, source=SourceRow(row))
    )
    return done


def sent_by(store: Store, row: ScheduledMessage) -> Any:
    return send(store, row).get(timeout=60)


def stored(store: Store) -> list[str]:
    return [
        entry.body.decode()
        for entry in store.part(MessageLog).entries.read(APP, 0, 1000)
    ]


def reasons(results: list[AsyncResult[Any]]) -> list[str]:
    """Why drafts were rejected, and "" for each that was stored."""
    outcomes = [each.get(timeout=60) for each in results]
    assert all(isinstance(each, Appended | Rejected) for each in outcomes)
    return sorted(
        each.reason if isinstance(each, Rejected) else "" for each in outcomes
    )


def test_without_a_database_there_are_none(open_store: OpenStore) -> None:
    store = open_store()
    rows = ScheduledRows(store)
    assert (rows.of_user(APP, "ann"), rows.due()) == (((), 0), ((), None))
    assert not rows.cancel(APP, "ann", "a")
    assert not store.has_database


def test_a_row_is_what_was_scheduled(rows: ScheduledRows) -> None:
    given = message(
        "a", type="custom", body=b'{"\0":1}', meta=b"{}", about=3, thread=4, also=True
    )
    row = rows.add(given, When(seconds=60))
    assert rows.add(message("a"), When(seconds=0)) == row == rows.get(APP, "ann", "a")
    (listed,), now = rows.of_user(APP, "ann")
    assert listed == row == replace(given, version=1, due=row.due, created=row.created)
    assert 0 <= row.due - 60_000 - row.created <= now - row.created < 60_000
    assert rows.of_user(APP, "bob")[0] == []


class Claim(Struct):
    """A source that takes the next version of a row."""

    row: ScheduledMessage
    entries: list[int] = []

    def holds(self, sql: Statements) -> bool:
        statement = "UPDATE scheduled_message SET version = version + 1 WHERE app = %s AND id = %s AND version = %s"
        return (
            sql.execute(statement, (self.row.app, self.row.id, self.row.version)) == 1
        )

    def stored(self, _sql: Statements, entry: Entry) -> None:
        self.entries.append(entry.id)


def test_a_source_reads_what_the_one_before_it_has_written(store: Store) -> None:
    from imserver.messenger.log.contract import AppendRequest

    row = ScheduledRows(store).add(message("a"), When(seconds=60))
    claims = [Claim(row), Claim(row)]
    results: list[AsyncResult[Any]] = [AsyncResult(), AsyncResult()]
    for claim, result in zip(claims, results, strict=True):  # in one transaction
        draft = Draft(sender="ann", to_user="bob")
        store.part(MessageLog).writer.send(
            AppendRequest(APP, draft, result.set, source=claim)
        )
    first, second = (each.get(timeout=60) for each in results)
    assert claims[0].entries == [first.entry.id]
    assert (second.reason, claims[1].entries) == ("withdrawn", [])


def test_what_is_due_is_leased_by_one_node(
    nodes: tuple[Store, Store], rows: ScheduledRows
) -> None:
    rows.add(message("late"), When(seconds=100))
    due = [rows.add(message(id, member=id), When(seconds=0)) for id in ("a", "b")]
    seen, left = rows.due()
    assert sorted((row for row, _ in seen), key=lambda row: row.id) == due
    assert left == 0.0
    assert len(rows.lease(seen)) == 2
    assert ScheduledRows(nodes[1]).lease(seen) == []
    leased, left = rows.due()
    assert leased == []
    assert left is not None
    assert 0 < left <= 15, "then another node looks"


def test_a_change_is_of_what_was_read(rows: ScheduledRows) -> None:
    first = rows.add(message("a"), When(seconds=60))
    second = rows.change(first, replace(first, body=b"more"), None)
    assert second == replace(first, version=2, body=b"more")
    assert rows.change(first, first, When()) is None
    assert rows.refuse(first, "blocked") is None
    refused = rows.refuse(second, "blocked")
    assert refused is not None
    assert rows.due() == ([], None)
    again = rows.change(refused, refused, When())
    assert [row for row, _ in rows.due()[0]] == [again]


def test_the_coming_of_a_user_is_awaited(rows: ScheduledRows) -> None:
    first = rows.add(message("a"), When(awaits=True))
    rows.add(message("b", to_user="cal"), When(awaits=True))
    rows.add(message("c"), When(seconds=60))
    assert rows.awaited(("", "")) == [(APP, "bob"), (APP, "cal")]
    assert rows.awaited((APP, "bob")) == [(APP, "cal")]
    assert rows.awaiting(APP, "bob") == [first]
    (came,) = rows.come([first, first])
    assert (came, came.awaits) == (rows.get(*first.key), False)
    assert [row for row, _ in rows.due()[0]] == [came]
    assert rows.awaited(("", "")) == [(APP, "cal")]


def test_those_who_await_somebody_come_in_parts(rows: ScheduledRows) -> None:
    for number in range(AT_ONCE + 1):
        rows.add(message(f"{number}", member=f"u{number % 3}"), When(awaits=True))
    first = rows.awaiting(APP, "bob")
    (last,) = rows.awaiting(APP, "bob", (first[-1].member, first[-1].id))
    keys = [(row.member, row.id) for row in (*first, last)]
    assert keys == sorted({*keys})
    assert len(keys) == AT_ONCE + 1


def test_what_is_refused_for_a_while_waits(rows: ScheduledRows) -> None:
    row = rows.add(message("a"), When())
    waits = rows.refuse(row, "quota", 60_000)
    assert waits is not None
    assert rows.get(*row.key) == replace(row, version=2, reason="quota") == waits
    due, left = rows.due()
    assert (due, left is not None and 50 < left < 61) == ([], True)


@pytest.mark.sqlite_first
def test_a_user_has_a_limited_number(rows: ScheduledRows) -> None:
    for number in range(MOST_WAITING):
        rows.add(message(f"{number}"), When(seconds=0))
    with pytest.raises(ServiceRefused) as refused:
        rows.add(message("more"), When(seconds=0))
    assert refused.value.problem.code == "too_many_scheduled"
    rows.add(message("more", member="bob"), When(seconds=0))
    assert (len(rows.due()[0]), rows.due()[1]) == (AT_ONCE, 0.0)


def test_it_is_sent_once_by_whichever_node(
    nodes: tuple[Store, Store], rows: ScheduledRows
) -> None:
    """A node that was thought dead sends what another one sends, and what it
    has sent."""
    row = rows.add(message("a"), When(seconds=0))
    assert reasons([send(node, row) for node in nodes]) == ["", "withdrawn"]
    assert reasons([send(nodes[1], row)]) == ["withdrawn"]
    assert stored(nodes[0]) == ["a"]
    assert rows.of_user(APP, "ann")[0] == []


def test_what_is_scheduled_again_is_sent_once(
    nodes: tuple[Store, Store], rows: ScheduledRows
) -> None:
    for _ in range(2):
        row = rows.add(message("a"), When(seconds=0))
        assert reasons([send(nodes[0], row)]) == [""]
    assert stored(nodes[0]) == ["a"]


def test_what_the_log_refuses_stays(
    nodes: tuple[Store, Store], rows: ScheduledRows
) -> None:
    row = rows.add(message("a", to_user="", conversation=9), When(seconds=0))
    assert reasons([send(nodes[0], row)]) == ["unknown_conversation"]
    assert rows.get(APP, "ann", "a") == row


@pytest.mark.parametrize("act", ["cancel", "change"])
def test_it_is_sent_or_withdrawn(
    nodes: tuple[Store, Store], rows: ScheduledRows, act: str
) -> None:
    """Each of many is withdrawn at the moment at which it is sent, and the
    answer says which."""
    all_rows = [rows.add(message(f"{number}"), When(seconds=0)) for number in range(60)]

    def withdraw(row: ScheduledMessage) -> bool:
        if act == "cancel":
            return rows.cancel(APP, "ann", row.id)
        return (
            rows.change(row, replace(row, body=b"late"), When(seconds=60)) is not None
        )

    results: list[gevent.Greenlet[Any, Any]] = []
    withdrawn: list[gevent.Greenlet[Any, bool]] = []
    for first in range(0, len(all_rows), 10):
        some = all_rows[first : first + 10]
        results += [gevent.spawn(sent_by, nodes[1], row) for row in some]
        withdrawn += [gevent.spawn(withdraw, row) for row in reversed(some)][::-1]
        gevent.joinall(results, raise_error=True)
        gevent.joinall(withdrawn, raise_error=True)
    sent = [isinstance(each.get(), Appended) for each in results]
    assert sent == [not each.get() for each in withdrawn]
    assert sorted(stored(nodes[0])) == sorted(
        row.id for row, was in zip(all_rows, sent, strict=True) if was
    )
    left = (
        []
        if act == "cancel"
        else [row.id for row, was in zip(all_rows, sent, strict=True) if not was]
    )
    assert sorted(row.id for row in rows.of_user(APP, "ann")[0]) == sorted(left)


def test_those_of_a_user_and_of_an_app_are_erased_and_exported(url: str) -> None:
    def fill(store: Store, app: str, user: str) -> None:
        ScheduledRows(store).add(message("a", app=app, member=user), When(awaits=True))

    check_tables(FEATURE, fill, url)


def test_messages_to_somebody_who_was_erased_are_refused(
    open_store: OpenStore, url: str
) -> None:
    store = open_store(url)
    rows = ScheduledRows(store)
    before = rows.add(message("a"), When(awaits=True))
    store.delete_rows_of_user(APP, "bob")
    (after,), _ = rows.of_user(APP, "ann")
    assert (after.to_user, after.reason, after.awaits) == ("", "unknown_account", False)
    assert not rows.due()[0]
    assert rows.change(before, before, None) is None
