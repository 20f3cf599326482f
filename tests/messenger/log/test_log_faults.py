"""What a writer tells when its database fails it or is late: temporary, certain
where that can be known."""

import fcntl
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import gevent
import psycopg
import pymysql
import pytest

from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.statements import (
    DirectStatements,
    MysqlStatements,
    PostgresqlStatements,
    SqliteStatements,
)
from imserver.gateway.storage.store import Store
from imserver.messenger.log import writer
from imserver.messenger.log.contract import (
    Appended,
    AppendRequest,
    Draft,
    Entry,
    Rejected,
    StorageUnsure,
)
from imserver.messenger.log.message_log import MessageLog
from imserver.messenger.log.transaction import lock_head
from tests.gateway.storage.relay import Relay
from tests.gateway.transport.harness import until
from tests.messenger.log_file import Listening
from tests.stores import OpenStore
from tests.support import eventually

pytestmark = pytest.mark.sqlite_first

APP = "gochat"
DRIVERS: dict[str, tuple[type[DirectStatements], Exception]] = {
    "sqlite": (
        SqliteStatements,
        __import__("sqlite3").OperationalError("disk I/O error"),
    ),
    "postgresql": (
        PostgresqlStatements,
        psycopg.OperationalError("server closed the connection"),
    ),
    "mysql": (MysqlStatements, pymysql.err.OperationalError(2013, "Lost connection")),
}


@pytest.fixture
def store(url: str, open_store: OpenStore) -> Store:
    """A store in which something was stored already, so that its writer has a
    connection."""
    found = open_store(url, seconds=10)
    found.part(MessageLog).writer.append(
        APP, [Draft(sender="a", to_user="b", body=b"first")]
    )
    return found


def fail_commits(
    store: Store, patch: pytest.MonkeyPatch, times: int, after: bool
) -> None:
    """Let the answers to the next COMMITs be lost, ``after`` they were carried
    out or before."""
    driver, error = DRIVERS[store.address.engine]
    commit: Any = driver.commit
    left = [times]

    def failing(self: Any) -> None:
        left[0] -= 1
        if left[0] < 0 or after:
            commit(self)
        if left[0] >= 0:
            raise error

    patch.setattr(driver, "commit", failing)


def test_an_entry_whose_commit_lost_its_answer_is_reported_as_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = store.part(MessageLog)
    received: list[int] = []
    log.writer.report_to(
        Listening(lambda _app, first, _last, _entries: received.append(first))
    )
    fail_commits(store, monkeypatch, 1, after=True)
    (outcome,) = log.writer.append(APP, [Draft(sender="a", to_user="b")])
    assert (outcome.entry.id, outcome.repeated) == (2, False)
    assert received == [2]
    assert log.entries.head(APP) == 2
    assert store.healthy()


def test_an_entry_whose_commit_did_not_come_about_is_not_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = store.part(MessageLog)
    fail_commits(store, monkeypatch, 1, after=False)
    with pytest.raises(StorageUnavailable):
        log.writer.append(APP, [Draft(sender="a", to_user="b")])
    assert log.entries.head(APP) == 1
    assert not store.healthy(), "reads say nothing about writes"
    (outcome,) = log.writer.append(APP, [Draft(sender="a", to_user="b")])
    assert (outcome.entry.id, outcome.entry.seq) == (2, 2)
    assert store.healthy()


def test_a_connection_that_was_cut_in_the_meantime_is_not_noticed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.address.engine == "sqlite":
        pytest.skip("SQLite has no connection that could be cut")
    store.part(MessageLog).writer.connection.sql.close()  # type: ignore[union-attr]
    (outcome,) = store.part(MessageLog).writer.append(
        APP, [Draft(sender="a", to_user="b")]
    )
    assert isinstance(outcome, Appended)


@pytest.mark.full("waits")
def test_who_waits_too_long_for_other_writers_has_stored_nothing(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(threaded=True, seconds=2)
    log = store.part(MessageLog)
    log.writer.append(APP, [Draft(sender="a", to_user="b")])
    with (tmp_path / "imserver.db.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = [
            gevent.spawn(log.writer.append, APP, [Draft(sender="a", to_user="b")])
            for _ in range(3)
        ]
        for one in waiting:
            with pytest.raises(StorageUnavailable, match="in time"):
                one.get(timeout=60)
        fcntl.flock(lock, fcntl.LOCK_UN)
    (outcome,) = log.writer.append(APP, [Draft(sender="a", to_user="b")])
    assert outcome.entry.id == 2, "what was given up was not stored later"


def test_a_closed_store_takes_nothing_more(open_store: OpenStore) -> None:
    store = open_store(threaded=True)
    log = store.part(MessageLog)
    log.writer.append(APP, [Draft(sender="a", to_user="b")])
    store.close()
    with pytest.raises(StorageUnavailable):
        log.writer.append(APP, [Draft(sender="a", to_user="b")])
    with gevent.Timeout(60), pytest.raises(StorageUnavailable):
        log.groups.create(APP, "a", "tea", [])


@pytest.mark.full("waits")
@pytest.mark.parametrize("stored", [True, False])
def test_who_cannot_wait_for_a_commit_learns_later_what_became_of_it(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """The answer to a COMMIT is lost, and the database stays away for longer
    than anybody waits."""
    store = open_store(url, seconds=2)
    log = store.part(MessageLog)
    log.writer.append(APP, [Draft(sender="a", to_user="b")])
    fail_commits(store, monkeypatch, 1, after=stored)
    error = DRIVERS[store.address.engine][1]
    ask = writer.batch_of
    away = [True]

    def batch_of(sql: DirectStatements, number: int, id: int) -> int | None:
        if away[0]:
            raise error
        return ask(sql, number, id)

    monkeypatch.setattr(writer, "batch_of", batch_of)
    heard: list[Any] = []
    answers: list[Any] = []
    for draft in (Draft(sender="a", to_user="b"), Draft(sender="a")):
        log.writer.send(AppendRequest(APP, draft, answers.append))
    until(lambda: len(answers) == 2)
    for each in answers:
        assert isinstance(each, StorageUnsure)
        each.on_known = heard.append
    log.writer.report_to(
        Listening(lambda _app, _first, _last, entries: heard.append(entries))
    )
    away[0] = False
    until(lambda: len(heard) > 1 + stored)
    if not stored:
        assert all(isinstance(each, StorageUnavailable) for each in heard)
        return
    first, second, entries = heard
    assert isinstance(first, Appended), (
        "the sender gets the result before the entry is delivered"
    )
    assert isinstance(second, Rejected)
    assert [first.entry] == entries == log.entries.read(APP, 1, 10)


def test_of_drafts_that_are_stored_one_by_one_each_has_its_own_outcome(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is refused, and the database goes away while the others are stored:
    what was stored is told."""
    store = open_store(url, seconds=10)
    log = store.part(MessageLog)
    log.writer.append(APP, [Draft(sender="a", to_user="b")])
    driver, error = DRIVERS[store.address.engine]
    wrong = ValueError("refused")
    execute_many = driver.execute_many
    calls: list[Exception | None] = [wrong, None, error, error]

    def failing(self: Any, statement: str, rows: Any) -> None:
        fault = calls.pop(0) if calls and "INTO message " in statement else None
        if fault is not None:
            raise fault
        execute_many(self, statement, rows)

    monkeypatch.setattr(driver, "execute_many", failing)
    received: list[Entry] = []
    log.writer.report_to(
        Listening(lambda _app, _first, _last, entries: received.extend(entries))
    )
    drafts = [Draft(sender="a", to_user="b", body=body) for body in (b"one", b"two")]
    first, second = log.writer.append(APP, drafts)
    assert isinstance(first, Appended)
    assert isinstance(second, StorageUnavailable)
    assert [entry.body for entry in received] == [b"one"]
    assert [entry.body for entry in log.entries.read(APP, 1, 10)] == [b"one"]


# --- round trips --------------------------------------------------------------


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has no connection")
    with Relay(url) as one:
        yield one


def named(name: str, session: int = 0) -> Draft:
    """A message of one account to another."""
    return Draft(
        sender="1", to_user="2", body=b"x", client_msg_id=name, uplink_session=session
    )


def trips_of_second(relay: Relay, log: MessageLog) -> int:
    """The round trips of a message behind another one."""
    log.writer.begin_uplink(APP, "1", 7)
    log.writer.append(APP, [named("first", 7)])
    before = relay.trips
    log.writer.append(APP, [named("second", 7)])
    return relay.trips - before


def test_a_stored_message_takes_few_round_trips(
    relay: Relay, open_store: OpenStore
) -> None:
    most = 2 if relay.url.startswith("postgresql") else 10
    assert trips_of_second(relay, open_store(relay.url).part(MessageLog)) <= most


@pytest.mark.parametrize("what", ["question", "answer"])
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_connection_that_is_cut_in_a_transaction_stores_a_message_once(
    relay: Relay, open_store: OpenStore, which: str, what: Literal["question", "answer"]
) -> None:
    log = open_store(relay.url, seconds=10).part(MessageLog)
    trips = trips_of_second(relay, log)
    relay.cut_in(1 if which == "first" else trips, what)
    is_lost = (which, what) == ("last", "question")
    with pytest.raises(StorageUnavailable) if is_lost else nullcontext():
        log.writer.append(APP, [named("third", 7)])
    (again,) = log.writer.append(APP, [named("third", 7)])
    assert (again.entry.id, again.repeated) == (3, not is_lost)
    assert [entry.id for entry in log.entries.read(APP, 0, 10)] == [1, 2, 3]


def test_what_is_refused_with_its_commit_was_not_stored_and_others_are(
    url: str, open_store: OpenStore
) -> None:
    """A database with a rule of its own."""
    if not url.startswith("postgresql"):
        pytest.skip("others send COMMIT alone")
    log = open_store(url, seconds=10).part(MessageLog)
    log.writer.append(APP, [named("first")])
    with psycopg.connect(url) as other:
        other.execute("ALTER TABLE message ADD CHECK (client_msg_id <> 'wrong')")
    names = ("second", "wrong", "third")
    outcomes = log.writer.append(APP, [named(name) for name in names])
    assert [type(each) for each in outcomes] == [Appended, Rejected, Appended]
    assert [entry.client_msg_id for entry in log.entries.read(APP, 0, 10)] == [
        "first",
        "second",
        "third",
    ]


def test_the_victim_of_a_deadlock_is_stored_nevertheless(
    url: str, open_store: OpenStore
) -> None:
    """Another one has the row of the conversation, and waits for the head."""
    if not url.startswith("postgresql"):
        pytest.skip("others send COMMIT alone")
    log = open_store(url, seconds=10).part(MessageLog)
    log.writer.append(APP, [named("first")])
    with (
        psycopg.connect(url) as other,
        psycopg.connect(url) as third,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("SET deadlock_timeout = '1min'")  # the writer notices it
        other.execute("UPDATE conversation SET created = created")
        stored = pool.submit(log.writer.append, APP, [named("second")])
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        eventually(lambda: third.execute(waiting).fetchone() == (1,))
        other.execute("UPDATE log SET floor = floor")
        other.commit()
        (outcome,) = stored.result()
    assert isinstance(outcome, Appended)
    assert outcome.entry.id == 2


def test_a_node_that_vanished_in_the_middle_does_not_hold_the_others_up_for_hours(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was cut off without a word: its transaction is open, and will never be
    asked anything again."""
    if url.startswith("sqlite"):
        pytest.skip(
            "SQLite's writers are on one machine, whose kernel knows when one is gone"
        )
    monkeypatch.setattr("imserver.gateway.storage.engines.ABANDONED_SECONDS", 1)
    vanished = open_store(url, seconds=10)
    vanished.part(MessageLog).writer.append(APP, [Draft(sender="a", to_user="b")])
    sql = vanished.part(MessageLog).writer.connection.sql  # type: ignore[union-attr]
    sql.begin()
    lock_head(sql, APP)
    (outcome,) = (
        open_store(url, seconds=40)
        .part(MessageLog)
        .writer.append(APP, [Draft(sender="a", to_user="b")])
    )
    assert outcome.entry.id == 2


# --- late commits -------------------------------------------------------------


def test_nobody_who_reads_by_a_cursor_misses_what_is_committed_late(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several writers wait for a while, all done, before each commit, while a
    reader goes along."""
    *logs, reader = (open_store(url, seconds=30).part(MessageLog) for _ in range(6))
    logs[0].writer.append(
        APP, [Draft(sender=f"w{writer}", to_user="all") for writer in range(len(logs))]
    )
    for driver, _ in DRIVERS.values():

        def late(self: Any, commit: Callable[[Any], None] = driver.commit) -> None:
            time.sleep(random.random() * 0.02)
            commit(self)

        monkeypatch.setattr(driver, "commit", late)
    over = threading.Event()

    def write(writer: int) -> list[int]:
        drafts = [Draft(sender=f"w{writer}", to_user="all", body=b"x")]
        found = [
            logs[writer].writer.append(APP, drafts * random.randint(1, 5))
            for _ in range(25)
        ]
        return [each.entry.id for some in found for each in some]  # type: ignore[union-attr]

    def read() -> set[int]:
        seen = [0]
        while True:
            is_last = over.is_set()
            page = reader.entries.read(APP, seen[-1], 7)
            seen += [entry.id for entry in page]
            if is_last and not page:
                return set(seen)

    with ThreadPoolExecutor(len(logs) + 1) as pool:
        reading = pool.submit(read)
        stored = set(itertools.chain.from_iterable(pool.map(write, range(len(logs)))))
        over.set()
        assert stored <= reading.result()
    entries = reader.entries.read(APP, 0, 10_000)
    assert [entry.id for entry in entries] == list(
        range(1, len(logs) + len(stored) + 1)
    )
    seqs: dict[int, list[int]] = {}
    for entry in entries:
        seqs.setdefault(entry.conversation, []).append(entry.seq)
    assert all(each == list(range(1, len(each) + 1)) for each in seqs.values())
