"""The events of apps on each engine: order, leases, retries, absences."""

import re
import time
from pathlib import Path

import gevent
import pytest

from imserver.backends.webhooks.dead_events import (
    DUE_AT_ONCE,
    MOST_COUNTED,
    NEXT_TRY,
    RetryRow,
    counts,
    list_retries,
    next_try,
    send_again,
)
from imserver.backends.webhooks.event_rows import (
    Absence,
    EventStore,
    FeedHead,
    NewEvent,
    NotOwner,
)
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.stores import OpenStore
from tests.support import run_cli

APP = "shop"


@pytest.fixture
def events(store: Store) -> EventStore:
    return EventStore(store)


def absence(
    user: str, conversation: int = 1, entry: int = 1, due: int = 1000
) -> Absence:
    return Absence(user, conversation, entry, due)


def absent_event(user: str) -> NewEvent:
    return NewEvent(APP, user, "absent", b'{"user":"%b"}' % user.encode())


def fill(store: Store, count: int) -> None:
    """Store so many messages."""
    store.part(MessageLog).writer.append(
        APP, [Draft(sender="ann", to_user="bob", body=b"x")] * count
    )


def week_later(store: Store) -> None:
    """Let a week pass by the clock of the database, as far as leases tell."""
    store.execute("UPDATE event_feed SET lease_until = lease_until - 604800")


def test_events_are_numbered_per_app_in_the_order_of_their_commits(
    events: EventStore,
) -> None:
    ids = events.append([absent_event("a"), NewEvent("other", "x", "account", b"{}")])
    assert ids == {APP: 1, "other": 1}
    assert events.append([absent_event("b"), absent_event("Ä")]) == {APP: 3}
    found = events.read(APP, 1, 10)
    assert [(event.id, event.user, event.kind, event.body) for event in found] == [
        (2, "b", "absent", b'{"user":"b"}'),
        (3, "Ä", "absent", '{"user":"Ä"}'.encode()),
    ]
    assert abs(found[0].time - time.time()) < 60
    assert [event.id for event in events.read(APP, 0, 2)] == [1, 2]
    heads = events.heads([APP, "other", "none"])
    assert heads == {APP: FeedHead(0, 3, False), "other": FeedHead(0, 1, False)}


def test_a_lease_belongs_to_one_node_until_it_ends(
    store: Store, events: EventStore
) -> None:
    assert set(events.claim({APP: None, "b": 0}, "one", 10)) == {APP, "b"}
    assert events.claim({APP: None}, "two", 10) == {}
    assert set(events.claim({APP: None}, "one", 10)) == {APP}, "renewed"
    events.release([APP], "two")
    assert events.claim({APP: None}, "two", 10) == {}, (
        "nobody gives back what is not theirs"
    )
    events.release([APP], "one")
    assert set(events.claim({APP: None}, "two", 10)) == {APP}
    with pytest.raises(NotOwner):
        events.advance(APP, "one", 1, 1)
    with pytest.raises(NotOwner):
        events.note(APP, "one", 1, [])
    events.save(APP, "one", 9, 9, 9)
    store.write(
        lambda sql: sql.execute("UPDATE event_feed SET lease_until = lease_until - 20")
    )
    (row,) = events.claim({APP: None}, "one", 10).values()
    assert (row.entry_id, row.event_id, row.noted_id, row.owner) == (0, 0, 0, "one")


def test_a_feed_continues_however_long_all_nodes_were_off(
    store: Store, events: EventStore
) -> None:
    """The same as after a clock of the database that jumps forward."""
    assert events.claim({APP: None}, "one", 10)[APP].entry_id == 0
    events.append([absent_event("a")])
    fill(store, 2)
    week_later(store)
    assert events.undelivered(APP) == 0, "retention deletes nothing of it"
    events.append([absent_event("b")])
    events.expire([APP])
    row = events.claim({APP: None}, "two", 10)[APP]
    assert (row.entry_id, row.noted_id, row.event_id, row.last_id, row.owner) == (
        0,
        0,
        0,
        2,
        "two",
    )
    week_later(store)
    row = events.claim({APP: None}, "two", 10)[APP]
    assert (row.entry_id, row.event_id, row.owner) == (0, 0, "two"), (
        "its owner goes on as well"
    )


def test_the_feed_of_a_removed_webhook_ends_after_three_days(
    store: Store, events: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    events.claim({APP: None}, "one", 10)
    events.append([absent_event("a")])
    fill(store, 2)
    events.expire([])
    assert events.undelivered(APP) == 0, "it may come back"
    week_later(store)
    events.expire([])
    assert "Nothing after entry 0 and event 0 was delivered" in caplog.text
    assert events.undelivered(APP) is None
    row = events.claim({APP: None}, "two", 10)[APP]
    assert (row.entry_id, row.noted_id, row.event_id, row.last_id) == (2, 2, 1, 1)


def test_events_that_are_added_first_leave_the_beginning_of_a_feed_to_its_node(
    store: Store, events: EventStore
) -> None:
    fill(store, 3)
    assert events.append([absent_event("a")]) == {APP: 1}
    row = events.claim({APP: 1}, "one", 10)[APP]
    assert (row.entry_id, row.noted_id, row.event_id, row.last_id) == (1, 1, 0, 1)
    assert events.append([absent_event("b")]) == {APP: 2}
    assert events.claim({APP: 0}, "one", 10)[APP].entry_id == 1


def test_events_that_are_added_to_an_ended_feed_are_the_first_of_the_next_owner(
    store: Store, events: EventStore
) -> None:
    fill(store, 3)
    events.claim({APP: 0}, "one", 10)
    events.append([absent_event("a")])
    week_later(store)
    events.expire([])
    events.append([absent_event("b")])
    events.append([absent_event("c")])
    row = events.claim({APP: 2}, "two", 10)[APP]
    assert (row.entry_id, row.event_id, row.last_id, row.owner) == (2, 1, 3, "two")


def test_a_lease_of_a_clock_that_was_ahead_has_ended(
    store: Store, events: EventStore
) -> None:
    assert APP in events.claim({APP: 0}, "one", 10)
    assert APP not in events.claim({APP: 0}, "two", 10)
    store.write(
        lambda sql: sql.execute(
            "UPDATE event_feed SET lease_until = lease_until + 3600"
        )
    )
    assert APP in events.claim({APP: 0}, "two", 10)
    assert APP not in events.claim({APP: 0}, "one", 10)


def test_the_first_waiting_event_of_each_user_is_tried(
    store: Store, events: EventStore
) -> None:
    events.claim({APP: None}, "one", 10)
    aside = [
        RetryRow(0, "log-1", "ann", 1, 100, b"1"),
        RetryRow(0, "log-2", "ann", 0, 0, b"2"),
        RetryRow(0, "log-3", "bob", 1, 500, b"3"),
    ]
    events.advance(APP, "one", 3, 0, aside)
    events.advance(
        APP, "one", 4, 0, [*aside[:1], RetryRow(0, "log-4", "bob", 0, 0, b"4")]
    )
    assert events.waiting_users(APP) == {"ann", "bob"}
    assert events.heads([APP])[APP].has_retries
    assert [row.event for row in events.due_retries(APP, 200, 900, 10)] == ["log-1"]
    first, second = events.due_retries(APP, 600, 900, 10)
    assert events.due_retries(APP, 0, 300, 10)[0].event == "log-3", (
        "the clock was set back"
    )
    assert (first.event, second.event) == ("log-1", "log-3")
    events.end_retry(first)
    assert not events.put_off(second, 600, 50)
    assert [row.event for row in events.due_retries(APP, 600, 900, 10)] == ["log-2"]
    later = events.due_retries(APP, 700, 1000, 10)[1]
    assert (later.event, later.attempts, later.first_failed) == ("log-3", 2, 500)
    assert events.put_off(later, 500 + 3 * 86400, 50), "it is dead"
    assert [row.event for row in events.due_retries(APP, 2**40, 2**41, 10)] == [
        "log-2",
        "log-4",
    ]
    (dead,) = list_retries(store, APP, True, 0, 10)
    assert (dead.event, dead.body) == ("log-3", b"3")
    assert list_retries(store, APP, True, dead.number, 10) == []
    assert send_again(store, APP, "log-2") == 1, "it is due already"
    assert send_again(store, "other") == 0
    assert send_again(store, APP, "log-3") == 1
    assert [row.event for row in events.due_retries(APP, 1, 900, 10)] == [
        "log-2",
        "log-3",
    ]
    (ann, bob) = events.due_retries(APP, 1, 900, 10)
    events.put_off(ann, 700, 60)
    events.put_off(bob, 700, 80)
    assert store.read(lambda sql: next_try(sql, APP)) == 760
    assert send_again(store, APP, "log-2") == 1, "it was put aside"
    assert [row.event for row in events.due_retries(APP, 1, 900, 10)] == ["log-2"]
    assert send_again(store, APP) == 3, (
        "also what is due, and what waits behind another one"
    )
    assert store.read(lambda sql: next_try(sql, APP)) == 0


@pytest.mark.full("load")
def test_what_is_tried_next_is_found_beside_100_000_that_wait(
    store: Store, events: EventStore
) -> None:
    rows = [
        (
            APP,
            f"log-{number}",
            f"user {number % 50_000}",
            900 + number if number < 50_000 else 0,
        )
        for number in range(100_000)
    ]
    columns = "app, event, member, attempts, first_failed, dead, body, next_try"
    insert = f"INSERT INTO event_retry ({columns}) VALUES (%s, %s, %s, 1, 0, 0, '', %s)"
    store.write(lambda sql: sql.execute_many(insert, rows))
    explain = {"sqlite": "EXPLAIN QUERY PLAN"}
    for statement, values in ((NEXT_TRY, (APP,)), (DUE_AT_ONCE, (APP, APP))):
        plan = store.read(
            lambda sql, what=statement, of=values: repr(  # type: ignore[misc]
                sql.query(f"{explain.get(sql.engine, 'EXPLAIN')} {what}", of)
            ).lower()
        )
        assert "event_retry_by_try" in plan, plan
        assert not re.search("filesort|b-tree|seq scan", plan), plan
    assert store.read(lambda sql: counts(sql, APP)) == (MOST_COUNTED, 0, 900)


def test_only_the_newest_dead_events_are_kept(
    store: Store, events: EventStore, small_limits: None
) -> None:
    events.claim({APP: None}, "one", 10)
    rows = [RetryRow(0, f"log-{number}", "ann", 1, 1, b"x") for number in range(5)]
    events.advance(APP, "one", 1, 0, rows, dead=True)
    assert [row.event for row in list_retries(store, APP, True, 0, 10)] == [
        "log-2",
        "log-3",
        "log-4",
    ]


def test_an_absence_is_reported_once_until_the_user_was_online_or_is_erased(
    store: Store, events: EventStore
) -> None:
    events.claim({APP: None}, "one", 10)
    events.note(
        APP, "one", 5, [absence("ann"), absence("bob", due=3000), absence("ann", 2)]
    )
    events.note(APP, "one", 6, [absence("ann", due=1)])
    due, following = events.due_absences(APP, 2000, 10)
    assert sorted((each.user, each.conversation, each.due) for each in due) == [
        ("ann", 1, 1000),
        ("ann", 2, 1000),
    ]
    assert following == 3000
    received, over = due
    assert events.end_absences(
        APP, "one", [(received, absent_event("ann"))], [over]
    ) == {APP: 1}
    assert events.end_absences(APP, "one", [(received, absent_event("ann"))], []) == {}
    events.note(APP, "one", 7, [absence("ann", received.conversation, 9)])
    assert events.due_absences(APP, 2000, 10) == ([], 3000)
    events.came_online([(APP, "ann"), (APP, "nobody")])
    events.note(APP, "one", 8, [absence("ann", received.conversation, 9)])
    assert events.due_absences(APP, 2000, 10)[0] == [
        absence("ann", received.conversation, 9)
    ]
    with pytest.raises(NotOwner):
        events.end_absences(APP, "two", [], [])
    store.delete_rows_of_user(APP, "ann", frozenset())
    assert [each.user for each in events.due_absences(APP, 3000, 10)[0]] == ["bob"]


def test_events_expire_after_all_attempts(store: Store, events: EventStore) -> None:
    events.claim({APP: None}, "one", 10)
    events.append([absent_event("a"), absent_event("b"), absent_event("c")])
    store.write(
        lambda sql: sql.execute("UPDATE event SET time = time - 400000 WHERE id < 3")
    )
    events.expire([APP])
    assert len(events.read(APP, 0, 10)) == 3, "they were not delivered"
    events.advance(APP, "one", 0, 1)
    events.expire([APP])
    assert [event.id for event in events.read(APP, 0, 10)] == [2, 3]
    week_later(store)
    events.expire([APP])
    assert [event.id for event in events.read(APP, 0, 10)] == [2, 3], (
        "all nodes were off"
    )
    events.expire([])
    assert [event.id for event in events.read(APP, 0, 10)] == [3], (
        "nobody delivers them"
    )


def test_ids_of_lost_events_are_not_given_again(
    store: Store, events: EventStore
) -> None:
    events.known.update(events.append([absent_event("a"), absent_event("b")]))
    store.write(lambda sql: sql.execute("DELETE FROM event WHERE id = 2"))
    store.write(lambda sql: sql.execute("UPDATE event_feed SET last_id = 1"))
    assert events.append([absent_event("c")]) == {APP: 3}
    assert [event.id for event in events.read(APP, 0, 10)] == [1, 3]


def test_events_that_wait_are_bounded_in_bytes(
    events: EventStore, small_limits: None
) -> None:
    large = NewEvent(APP, "ann", "absent", b'"%b"' % (b"x" * 90))
    adding = [gevent.spawn(events.append, [large]) for _ in range(3)]
    gevent.joinall(adding)
    assert [type(each.exception) for each in adding].count(StorageUnavailable) == 2
    assert len(events.read(APP, 0, 10)) == 1
    assert events.append([large, large]) == {APP: 3}, "one alone may be larger"


def test_ids_of_events_of_a_deleted_app_are_not_given_again(
    store: Store, events: EventStore
) -> None:
    store.add_app(APP, {})
    events.claim({APP: None}, "one", 10)
    events.append([absent_event("a"), absent_event("b")])
    store.delete_app(APP)
    store.delete_rows(APP)
    assert events.read(APP, 0, 10) == []
    store.add_app(APP, {})
    row = events.claim({APP: None}, "two", 10)[APP]
    assert (row.event_id, row.last_id, row.owner) == (2, 2, "two")
    assert events.append([absent_event("c")]) == {APP: 3}
    store.delete_rows(APP)
    assert [event.id for event in events.read(APP, 0, 10)] == [3], (
        "a late deletion spares the new app"
    )


def test_without_a_database_nothing_is_made(open_store: OpenStore) -> None:
    store = open_store()
    events = EventStore(store)
    assert events.claim({APP: None}, "one", 10) == {}
    assert events.read(APP, 0, 10) == []
    assert events.heads([APP]) == {}
    assert events.undelivered(APP) is None
    events.expire([])
    events.came_online([(APP, "ann")])
    events.release([APP], "one")
    assert not store.has_database


def test_events_about_ids_that_are_too_long_for_a_login_are_stored(
    events: EventStore,
) -> None:
    longest = "u" * 255
    longer = "\u4e00" * 200
    assert events.append(
        [absent_event(longest + "v"), NewEvent(APP, longer, "absent", b"{}")]
    ) == {APP: 2}
    assert [event.user for event in events.read(APP, 0, 10)] == [longest, longer[:85]]


@pytest.mark.full("faults")
def test_dead_events_are_listed_and_sent_again(tmp_path: Path) -> None:
    def run(command: str, *arguments: str) -> str:
        """What ``imserver app`` prints, or why it fails."""
        given = {"IMSERVER_SERVER_DATA_DIR": str(tmp_path / "data")}
        done = run_cli("app", command, *arguments, seconds=30, **given)
        return done.stderr if done.returncode else done.stdout

    def events_of(*arguments: str) -> list[list[str]]:
        return [line.split() for line in run("events", *arguments).splitlines()[1:]]

    assert events_of("101") == []
    assert "app none does not exist" in run("events", "none")
    run("create", "105")
    store = Store(StorageSettings(), str(tmp_path / "data"), threaded=False)
    store.start()
    events = EventStore(store)
    events.append([NewEvent("105", "ann", "account", b"{}")])
    events.claim({"105": None}, "node", 10)
    assert (
        "waiting until the receiver answers: 1 events, and at most 0 messages"
        in run("events", "105")
    )
    dead = [
        RetryRow(0, f"event-{number}", "ann", 7, 1795155801, b"{}") for number in (1, 2)
    ]
    events.advance("105", "node", 0, 1, dead, dead=True)
    assert events_of("105") == []
    assert events_of("105", "--dead")[0][:3] == ["event-1", "ann", "7"]
    assert "no event event-3" in run("events", "105", "--replay", "event-3")
    assert run("events", "105", "--replay", "event-1") == "events sent again: 1\n"
    assert [row[0] for row in events_of("105", "--dead")] == ["event-2"]
    assert events_of("105")[0][0] == "event-1"
    assert "refused events: 1; next try: at once" in run("events", "105")
    assert run("events", "105", "--replay", "all") == "events sent again: 1\n"
    store.close()


def test_a_refused_user_loses_nothing_young_and_waits_for_three_days_in_all(
    events: EventStore,
) -> None:
    """Events that waited behind a refused one are dead at their first refusal
    after three days."""
    events.claim({APP: None}, "one", 10)
    aside = [
        RetryRow(0, "log-1", "ann", 1, 100, b"1"),
        RetryRow(0, "log-2", "ann", 0, 100, b"2"),
    ]
    events.advance(APP, "one", 3, 0, aside)
    later = 100 + 3 * 86400
    (first,) = events.due_retries(APP, later, later + 900, 10)
    assert events.put_off(first, later, 50)
    (second,) = events.due_retries(APP, later, later + 900, 10)
    assert second.event == "log-2"
    assert events.put_off(second, later, 50)
