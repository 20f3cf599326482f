"""Mailboxes as each kind of database keeps them, and that of many workers one
has a conversation."""

import re

import gevent
import pytest
from imserver_mailbox import FEATURE
from imserver_mailbox.rows import AT_ONCE, DUE, NEVER, OPEN, MailboxRows, Queue
from msgspec.structs import replace

from imserver.plugin.storage import RowsOf, Store
from imserver.plugin.testing import check_tables
from tests.stores import TABLES, OpenStore

APP = "shop"
BOT = "7"


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    return open_store(url, tables=replace(TABLES, of_others=(FEATURE.stored,)))


@pytest.fixture
def rows(store: Store) -> MailboxRows:
    """A mailbox to which nothing was added."""
    rows = MailboxRows(store)
    rows.begin(APP, BOT, 0)
    return rows


def only(rows: MailboxRows) -> Queue:
    (row,) = rows.look(APP, BOT).due
    return row


def claimed(rows: MailboxRows, row: Queue, seconds: int = 60) -> Queue:
    assert rows.claim(row, seconds) is not None
    return replace(row, claim=row.claim + 1)


def test_without_a_database_there_are_none(open_store: OpenStore) -> None:
    store = open_store()
    rows = MailboxRows(store)
    assert (rows.look(APP, BOT).position, rows.dead(APP, BOT, 0, 10)) == (None, ())
    assert [rows.put_back(APP, BOT, 1), rows.drop(APP, BOT, 1)] == [False, False]
    assert not store.has_database


def test_the_log_is_added_once(rows: MailboxRows) -> None:
    rows.begin(APP, BOT, 99)
    assert rows.add(APP, BOT, 0, 10, {3: (4, 8), 5: (9, 9)})
    assert not rows.add(APP, BOT, 0, 12, {3: (4, 11)})
    look = rows.look(APP, BOT)
    assert (look.position, look.begin, look.seconds) == (10, 0, None)
    assert sorted((row.conversation, row.handled, row.last) for row in look.due) == [
        (3, 3, 8),
        (5, 8, 9),
    ]


def test_one_worker_has_a_conversation(rows: MailboxRows) -> None:
    rows.add(APP, BOT, 0, 10, {3: (4, 8)})
    row = only(rows)
    ends = [
        each.value
        for each in gevent.joinall(
            [gevent.spawn(rows.claim, row, 60) for _ in range(15)]
        )
    ]
    assert sum(end is not None for end in ends) == 1
    assert rows.look(APP, BOT).due == []
    seconds = rows.look(APP, BOT).seconds
    assert seconds is not None
    assert 0 < seconds <= 60


def test_what_came_during_a_claim_is_due_after_it(rows: MailboxRows) -> None:
    rows.add(APP, BOT, 0, 10, {3: (4, 8)})
    claim = claimed(rows, only(rows))
    assert rows.add(APP, BOT, 10, 20, {3: (15, 16)})
    assert rows.look(APP, BOT).due == []
    assert rows.settle(claim, 8) is True
    row = only(rows)
    assert (row.handled, row.last, row.tries) == (8, 16, 0)
    assert rows.settle(claimed(rows, row), 16) is True
    assert rows.look(APP, BOT).seconds is None
    rows.add(APP, BOT, 20, 90, {3: (88, 90)})
    assert (only(rows).handled, only(rows).last) == (87, 90)


def test_an_acknowledgement_counts_while_its_lease_holds_and_once(
    rows: MailboxRows,
) -> None:
    rows.add(APP, BOT, 0, 10, {3: (4, 8)})
    late = claimed(rows, only(rows), 0)
    assert (
        rows.settle(late, 8),
        rows.renew(late, 60),
        rows.give_back(late, 0, ""),
    ) == (None, None, False)
    claim = claimed(rows, only(rows))
    assert (rows.settle(late, 8), rows.give_back(late, 0, ""), rows.bury(late, 4)) == (
        None,
        False,
        False,
    )
    assert rows.settle(claim, 9) is None, "no such message was claimed"
    assert rows.renew(claim, 90) is not None
    assert [rows.settle(claim, 4), rows.settle(claim, 4), rows.settle(claim, 8)] == [
        True,
        False,
        None,
    ]
    assert (rows.renew(claim, 60), rows.give_back(claim, 0, "")) == (None, False)
    assert (only(rows).handled, only(rows).tries) == (4, 0)


def test_what_was_given_back_is_due_later_and_its_claim_has_ended(
    rows: MailboxRows,
) -> None:
    rows.add(APP, BOT, 0, 10, {3: (4, 8)})
    claim = claimed(rows, only(rows))
    assert rows.give_back(claim, 60, "no")
    assert (rows.settle(claim, 8), rows.renew(claim, 60)) == (None, None)
    assert rows.look(APP, BOT).due == []
    rows.add(APP, BOT, 10, 20, {3: (15, 16)})
    assert rows.look(APP, BOT).due == [], "a new message does not end the pause"


def test_a_dead_letter_leaves_its_conversation_and_comes_back_alone(
    rows: MailboxRows,
) -> None:
    rows.add(APP, BOT, 0, 10, {3: (4, 8)})
    claim = claimed(rows, only(rows))
    assert rows.give_back(claim, 0, "no")
    row = only(rows)
    assert (row.tries, row.reason) == (1, "no")
    assert rows.bury(claimed(rows, row), 4)
    (letter,) = rows.dead(APP, BOT, 0, 10)
    assert (letter.message, letter.conversation, letter.tries, letter.reason) == (
        4,
        3,
        1,
        "no",
    )
    assert (only(rows).handled, rows.dead(APP, BOT, 4, 10)) == (4, [])
    assert rows.settle(claimed(rows, only(rows)), 8) is True
    assert [rows.put_back(APP, BOT, 4) for _ in range(2)] == [True, False]
    row = only(rows)
    assert (row.message, row.tries, rows.dead(APP, BOT, 0, 10)) == (4, 0, [])
    assert not rows.drop(APP, BOT, 4), "it is no dead letter now"
    assert rows.bury(claimed(rows, row), 4)
    assert rows.put_back(APP, BOT, 4)
    claim = claimed(rows, only(rows))
    assert [rows.settle(claim, 4), rows.settle(claim, 4)] == [True, None]
    assert rows.look(APP, BOT).due == []


def test_a_dead_letter_may_be_dropped(rows: MailboxRows) -> None:
    rows.add(APP, BOT, 0, 10, {3: (4, 4)})
    assert rows.bury(claimed(rows, only(rows)), 4)
    assert [rows.drop(APP, BOT, 4) for _ in range(2)] == [True, False]
    assert (rows.dead(APP, BOT, 0, 10), rows.look(APP, BOT).due) == ([], [])


@pytest.mark.full("load")
def test_100_000_that_wait_cost_no_scan(store: Store, rows: MailboxRows) -> None:
    stored = RowsOf(Queue, "mailbox_queue")
    queues = [
        stored.values(
            Queue(
                app=APP,
                member=BOT,
                conversation=each,
                due=each,
                handled=each,
                last=each + 1,
            )
        )
        for each in range(1, 100_001)
    ]
    store.write(lambda sql: sql.insert_new("mailbox_queue", stored.columns, queues))
    values = (APP, BOT, OPEN, NEVER, AT_ONCE)
    explain = {"sqlite": "EXPLAIN QUERY PLAN"}
    plan = store.read(
        lambda sql: repr(
            sql.query(f"{explain.get(sql.engine, 'EXPLAIN')} {DUE}", values)
        ).lower()
    )
    assert "mailbox_queue_by_due" in plan, plan
    assert not re.search("sort|b-tree|seq scan", plan), plan
    assert [row.conversation for row in rows.look(APP, BOT).due] == [
        *range(1, AT_ONCE + 1)
    ]


def test_its_rows_are_erased_and_exported(url: str) -> None:
    def fill(store: Store, app: str, user: str) -> None:
        MailboxRows(store).begin(app, user, 1)

    check_tables(FEATURE, fill, url)
