"""What is kept, on every engine: SQLite, PostgreSQL and MariaDB."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest
from msgspec.structs import replace

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.storage.contract import Changes, KeyRow
from imserver.gateway.storage.statements import (
    CLOCK,
    NOW,
    PooledStatements,
    Row,
    Statements,
)
from imserver.gateway.storage.store import Store
from tests.stores import OpenStore

KEY = KeyRow("4f1d", "ab" * 32, ("push", "read"), ("101", "系统"), "the shop's")


class News:
    """What a store has told."""

    def __init__(self, store: Store) -> None:
        self.received: list[Changes] = []
        store.report_to(self.received.append)

    def rows(self, kind: str) -> list[Any]:
        return [row for changes in self.received for row in getattr(changes, kind)]

    @property
    def apps(self) -> list[tuple[str, dict[str, object]]]:
        return [(row.name, row.settings) for row in self.rows("apps")]


def test_what_is_stored_is_reported_and_outlives_the_process(
    url: str, open_store: OpenStore
) -> None:
    first = open_store(url)
    news = News(first)
    settings = {"max_channels": 3, "origins": ["example.org"]}
    assert first.add_app("system:商店", settings)
    assert news.apps == [("system:商店", settings)]
    first.add_key(KEY)
    first.close()
    again = Store(StorageSettings(url), "")
    news = News(again)
    again.start()
    assert news.apps == [("system:商店", settings)]
    assert [row.digest for row in news.rows("keys")] == [KEY.digest]
    again.close()


def test_a_data_folder_takes_no_other_database_than_that_in_which_its_nodes_have_stored(
    url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    open_store().close()
    store = open_store()
    store.add_key(KEY)
    store.close()
    with pytest.raises(
        StartError, match=r"stored in another database.*imserver\.db away"
    ) as refused:
        open_store(url)
    assert "\n" not in str(refused.value)
    new = tmp_path / "new.db"
    with pytest.raises(StartError, match="imserver move"):
        open_store(f"sqlite:///{new}")
    with closing(sqlite3.connect(new)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    (tmp_path / "imserver.db").rename(tmp_path / "moved.db")
    open_store(url, threaded=True).close()
    with pytest.raises(StartError, match=r"stored in another database.*/database away"):
        open_store(f"sqlite:///{new}")
    with pytest.raises(StartError, match="stored in another database"):
        open_store()  # whoever loses the setting storage.url gets no empty server
    (tmp_path / "moved.db").rename(tmp_path / "imserver.db")
    assert open_store(url).keys() == (), "the folder has noted the database"
    (tmp_path / "database").unlink()
    assert open_store().keys() != ()


def test_a_second_folder_with_data_does_not_take_the_database_of_the_first(
    url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    open_store(url).add_key(KEY)
    folder = tmp_path / "second"
    folder.mkdir()
    second = Store(StorageSettings(), str(folder))
    second.add_app("shop", {})
    second.close()
    with (
        closing(Store(StorageSettings(url), str(folder))) as second,
        pytest.raises(StartError, match="move"),
    ):
        second.start()


def test_a_name_is_compared_byte_by_byte(url: str, open_store: OpenStore) -> None:
    store = open_store(url)
    names = ("shop", "Shop", "shop ", "shöp", "shop\u0301", "ｓｈｏｐ", "sho")
    assert [[store.add_app(name, {}) for name in names] for _ in range(2)] == [
        [True] * 7,
        [False] * 7,
    ]


def test_of_many_who_make_the_same_app_at_once_one_does(
    url: str, open_store: OpenStore
) -> None:
    stores = [open_store(url, seconds=30) for _ in range(6)]
    guard = threading.Barrier(len(stores))

    def register(store: Store) -> bool:
        guard.wait()
        return store.add_app("system:one", {})

    with ThreadPoolExecutor(len(stores)) as pool:
        assert sorted(pool.map(register, stores)) == [False] * 5 + [True]


def test_nobody_misses_what_others_store_at_the_same_time(
    url: str, open_store: OpenStore
) -> None:
    """Versions are given in the order of the commits, so a look that saw one
    has seen all before it."""
    *writers, reader = [open_store(url, seconds=30) for _ in range(5)]
    news = News(reader)
    stop = threading.Event()

    def write(number: int) -> None:
        for index in range(25):
            writers[number].add_app(f"app {number}-{index}", {})

    def read() -> None:
        while not stop.is_set():
            reader.refresh()

    with ThreadPoolExecutor(5) as pool:
        looking = pool.submit(read)
        list(pool.map(write, range(4)))
        stop.set()
        looking.result()
    reader.refresh()
    names = [name for name, _ in news.apps]
    assert len(names) == len(set(names)) == 100


def test_changes_are_merged_and_seen_elsewhere(url: str, open_store: OpenStore) -> None:
    one = open_store(url)
    other = open_store(url)
    one.add_app("105", {"max_channels": 1, "max_connections": 2})
    news = News(other)
    other.refresh()
    assert one.change_app("105", {"max_channels": 5}, ("max_connections",))
    assert not one.change_app("106", {"max_channels": 5})
    other.refresh()
    other.refresh()
    assert news.apps == [
        ("105", {"max_channels": 1, "max_connections": 2}),
        ("105", {"max_channels": 5}),
    ]


def test_nodes_learn_what_is_stored_after_the_database_lost_changes(
    url: str, open_store: OpenStore
) -> None:
    one = open_store(url)
    for app in ("kept", "lost"):
        one.add_app(app, {})
    two = open_store(url)
    news = News(two)

    def lose(sql: Statements) -> None:
        sql.execute("DELETE FROM app WHERE name = 'lost'")
        sql.execute("UPDATE directory SET version = version - 1")

    one.write(lose)
    one.add_app("new", {})
    two.refresh()
    assert ("new", {}) in news.apps
    one.write(lose)
    two.refresh()
    assert ("kept", {}) in news.apps, "all is read again"


def test_a_key_is_stored_rotated_and_revoked_once(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    news = News(store)
    stored = store.add_key(KEY)
    assert stored == replace(KEY, created=stored.created)
    assert stored.created > 0
    for moment, address in ((5, "192.0.2.1"), (9, "192.0.2.2"), (7, "192.0.2.3")):
        store.note_key_uses([(KEY.id, moment, address), ("config:1", moment, address)])
    (row,) = store.keys()
    assert (row.id, row.used, row.used_from) == (KEY.id, 9, "192.0.2.2"), (
        "a use goes only forward"
    )
    (second, _), (third, _) = KeyRow.make(expires=2**40), KeyRow.make()
    after = store.rotate_key(KEY.id, second, 3600)
    assert (after.scopes, after.apps, after.note, after.expires) == (
        KEY.scopes,
        KEY.apps,
        KEY.note,
        2**40,
    )
    assert store.rotate_key(second.id, third, 0).id == third.id
    newest = {row.id: row for row in news.rows("keys")}
    assert 0 <= newest[KEY.id].expires - stored.created - 3600 < 60
    assert [newest[id].revoked > 0 for id in (KEY.id, second.id)] == [False, True]
    assert not newest[third.id].has_ended(2**50)
    for id in (second.id, "none"):
        assert store.rotate_key(id, KeyRow.make()[0], 60) is None
    assert [store.revoke_key(id) for id in (KEY.id, KEY.id, "none")] == [
        True,
        False,
        None,
    ]
    last = news.rows("keys")[-1]
    assert (last.id, last.revoked > 0) == (KEY.id, True)


def test_bans_are_read_by_all_nodes_and_the_last_word_counts(
    url: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = open_store(url)
    other = open_store(url)
    awkward = ["ann", "Ann", "ann ", "马远", "a\0b", "'"]
    one.ban("105", [*awkward, "ann", "é" * 128], 3600)
    for user, ban_seconds in (("ann", 7200), ("ann", 0.5), ("bob", 0)):
        one.ban("106", [user], ban_seconds)
    news = News(other)
    # By the clock of the database: those of nodes differ.
    for name, value in (("time", lambda: 0), ("_ENDED_BANS_MS", -600)):
        monkeypatch.setattr(f"imserver.gateway.storage.store.{name}", value)
    other.refresh()
    seconds = {(row.app, row.user): row.seconds for row in news.rows("bans")}
    assert seconds.keys() == {
        *(("105", user) for user in awkward),
        ("106", "ann"),
        ("106", "bob"),
    }
    assert all(3000 < seconds["105", user] <= 3600 for user in awkward)
    assert seconds["106", "ann"] <= 0.5
    assert seconds["106", "bob"] < 0, "there was none, or it was lifted"
    other.refresh()
    assert len(news.received) == 1
    one.ban("107", ["cid"], 1)
    assert one.rows("SELECT count(*) FROM ban WHERE app = '106'") == [(0,)]


def test_an_app_is_deleted_and_created_again_and_younger(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    news = News(store)
    assert store.add_app("shop", {"max_channels": 3})
    assert [store.delete_app(app) for app in ("tea", "shop", "shop")] == [
        False,
        True,
        False,
    ]
    assert not store.change_app("shop", {"max_channels": 4})
    assert store.is_deleted("shop")
    assert store.add_app("shop", {})
    assert not store.is_deleted("shop")
    store.ban("shop", ["ann"], 60)
    store.delete_rows("shop")
    assert len(store.rows("SELECT app FROM ban")) == 1, (
        "a deletion that is still running spares it"
    )
    assert store.delete_app("shop")
    store.delete_rows("shop")
    assert store.rows("SELECT app FROM ban") == []
    store.add_app("shop", {})
    store.refresh()
    young = list(dict.fromkeys(row.created for row in news.rows("apps")))
    assert (len(young), young) == (3, sorted(young))


def test_every_database_has_its_own_id_that_stays(
    url: str, open_store: OpenStore, tmp_path: Path
) -> None:
    first = open_store(url)
    second = open_store(url)
    other = open_store(f"sqlite:///{tmp_path}/other.db")
    assert len(first.id) == 32
    assert first.id == second.id != other.id


# --- lazily -------------------------------------------------------------------


def test_nothing_is_made_before_there_is_something_to_store(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(threaded=True)
    store.refresh()
    assert store.keys() == ()
    assert [*store.rows_of_app("shop"), *store.rows_of_user("shop", "ann")] == []
    assert (store.id, store.healthy(), list(tmp_path.iterdir())) == ("", True, [])
    first = [
        gevent.spawn(store.add_app, f"app {number % 10}", {}) for number in range(50)
    ]
    assert sum(each.get(timeout=60) for each in first) == 10
    assert (tmp_path / "imserver.db").stat().st_mode & 0o777 == 0o600


def test_what_another_process_has_made_is_found(
    open_store: OpenStore, tmp_path: Path
) -> None:
    open_store(f"sqlite:///{tmp_path}/deep/er/some.db")
    assert (tmp_path / "deep/er/some.db").exists(), (
        "one that is configured is made at the start"
    )
    early = open_store()
    late = open_store()
    news = News(early)
    late.add_app("105", {})
    early.refresh()
    assert news.apps == [("105", {})]
    assert early.id == late.id


def test_a_forbidden_database_is_neither_made_nor_used(
    open_store: OpenStore, tmp_path: Path
) -> None:
    objections = ["no"]
    store = open_store()
    store.ask(lambda database: "" if database else objections[0])
    with pytest.raises(StorageUnavailable, match="no"):
        store.add_app("105", {})
    assert (store.healthy(), list(tmp_path.iterdir())) == (False, [])
    objections[0] = ""
    assert store.add_app("105", {})
    assert store.healthy()


# --- looking ------------------------------------------------------------------


def test_refreshes_share_reads_and_each_sees_everything_stored_before_it(
    open_store: OpenStore,
) -> None:
    """The one that is under way began too early for those who come later; the
    next serves all of them."""
    one = open_store(threaded=True)
    other = open_store(threaded=True)
    one.add_app("first", {})
    news = News(other)
    looking = [gevent.spawn(other.refresh) for _ in range(100)]
    gevent.sleep(0)
    one.add_app("second", {})
    other.refresh()
    assert {name for name, _ in news.apps} == {"first", "second"}
    gevent.joinall(looking, raise_error=True)
    assert len(news.received) <= 3


# --- clock --------------------------------------------------------------------


def test_whole_seconds_of_the_clock_are_not_rounded_up(
    url: str, open_store: OpenStore
) -> None:
    store = open_store(url)
    statement = f"SELECT {NOW[store.address.engine]}, {CLOCK[store.address.engine]}"
    seconds, clock = store.rows(statement)[0]
    while clock % 1 < 0.5:
        gevent.sleep(0.05)
        seconds, clock = store.rows(statement)[0]
    assert seconds <= clock


@pytest.mark.parametrize("url", ["mysql"], indirect=True)
def test_the_clock_of_mysql_does_not_depend_on_the_time_zone(
    url: str, open_store: OpenStore
) -> None:
    end_of_summer = 1_792_890_000
    times = [
        end_of_summer - 3600.000004,
        end_of_summer - 0.000004,
        end_of_summer + 3599.25,
    ]

    def read(sql: PooledStatements) -> list[Row]:
        add_zone(sql, "with summer time", end_of_summer)
        rows = []
        for zone in ("-09:30", "with summer time"):
            sql.execute("SET time_zone = %s", (zone,))
            for time in times:
                sql.execute(f"SET timestamp = {time:.6f}")
                rows += sql.query(f"SELECT {CLOCK['mysql']}, {NOW['mysql']}")
        return rows

    rows = open_store(url).write(read)
    assert [(float(clock), seconds) for clock, seconds in rows] == 2 * [
        (time, int(time)) for time in times
    ]


def add_zone(sql: PooledStatements, name: str, end_of_summer: int) -> None:
    """Add a zone with its only summer, whose last hour is repeated in local
    time."""
    id = sql.insert("INSERT INTO mysql.time_zone (Use_leap_seconds) VALUES ('N')", ())
    sql.execute("INSERT INTO mysql.time_zone_name VALUES (%s, %s)", (name, id))
    for kind, offset in ((0, 3600), (1, 7200)):
        values = (id, kind, offset, kind, "")
        sql.execute(
            "INSERT INTO mysql.time_zone_transition_type VALUES (%s, %s, %s, %s, %s)",
            values,
        )
    for time, kind in ((0, 0), (end_of_summer - 86400, 1), (end_of_summer, 0)):
        sql.execute(
            "INSERT INTO mysql.time_zone_transition VALUES (%s, %s, %s)",
            (id, time, kind),
        )
