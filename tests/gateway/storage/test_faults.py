"""A database that goes away, stands still or comes back; one that nobody can
reach or read, or is damaged."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pymysql
import pytest
from sqlalchemy.exc import OperationalError

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.storage import database, engines
from imserver.gateway.storage.damage import lost_commits
from imserver.gateway.storage.store import Store
from tests.gateway.storage.servers import DatabaseServer
from tests.processes import running
from tests.stores import OpenStore
from tests.support import clean_environment, eventually, run_python


def test_a_read_only_database_is_not_healthy(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.add_app("before", {})
    store.read(lambda sql: sql.execute("PRAGMA query_only = 1"))
    with pytest.raises(StorageUnavailable, match="readonly"):
        store.add_app("while read-only", {})
    for _ in range(2):
        store.try_refresh()
        assert not store.healthy()
    store.refresh()
    assert (store.healthy(), store.answers()) == (False, True)
    store.read(lambda sql: sql.execute("PRAGMA query_only = 0"))
    store.try_refresh()
    assert not store.healthy()
    monkeypatch.setattr(database, "REFUSED_SECONDS", 0)
    store.try_refresh()
    assert store.healthy()


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (psycopg.errors.DiskFull("could not extend file"), "has a full disk"),
        (
            psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE"),
            "takes no writes",
        ),
        (psycopg.errors.AdminShutdown("terminating connection"), ""),
        (psycopg.OperationalError("connection refused"), ""),
        (
            pymysql.err.OperationalError(
                1114, "The table 'message' is full", sqlstate="HY000"
            ),
            "has a full disk",
        ),
        (pymysql.err.OperationalError(1290, "--read-only"), "takes no writes"),
        (pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"), ""),
        (sqlite3.OperationalError("database is locked"), ""),
        (
            pymysql.err.OperationalError(sqlite3.SQLITE_FULL, "Can't get stat of 'x'"),
            "",
        ),
        (pymysql.err.OperationalError(5300, "of another engine"), ""),
        (PermissionError(13, "Permission denied"), ""),
        (OSError(28, "No space left on device"), ""),
    ],
)
def test_a_database_that_refuses_differs_from_one_that_is_away(
    error: Exception, refusal: str
) -> None:
    assert engines.refusal_of(error) == refusal
    assert engines.refusal_of(OperationalError("INSERT", None, error)) == refusal


@pytest.mark.full("faults")
def test_a_killed_server_is_away_and_found_again(
    own_database: DatabaseServer, open_store: OpenStore
) -> None:
    store = open_store(own_database.new_url(), seconds=5)
    assert store.add_app("before", {})
    own_database.kill()
    with pytest.raises(StorageUnavailable):
        store.add_app("while away", {})
    assert not store.healthy()
    own_database.start()
    assert store.add_app("after", {})
    assert store.healthy()
    assert not store.add_app("before", {})


# In a process of its own, patched as a server is.
PAUSED = """
from gevent import monkey; monkey.patch_all()
import os, signal, sys, time, gevent
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StorageUnavailable
from imserver.gateway.storage.store import Store
first, second, server = sys.argv[1:]
many = Store(StorageSettings(first, seconds=3, pool_size=4), "")
one = Store(StorageSettings(second, seconds=3, pool_size=1), "")
def tried(deed):
    try:
        return deed()
    except StorageUnavailable:
        return "unavailable"
def signal_all(number):
    for pid in (server, *open(f"/proc/{server}/task/{server}/children").read().split()):
        os.kill(int(pid), number)
many.start()
one.start()
print(one.add_app("a", {}))
signal_all(signal.SIGSTOP)
began = time.monotonic()
looks = [gevent.spawn(tried, many.refresh) for _ in range(50)]
print({look.get() for look in looks}, many.healthy(), 2.5 < time.monotonic() - began < 60, tried(one.keys))
signal_all(signal.SIGCONT)
print(many.add_app("105", {}), many.healthy(), [(one.add_app("a", {}), one.keys()) for _ in range(5)])
"""


@pytest.mark.sqlite_first
def test_a_paused_server_costs_no_more_than_the_time_set(
    own_database: DatabaseServer,
) -> None:
    """Those who ask wait together, not 150 s, and no answer that came too late
    is taken for the next one."""
    urls = [own_database.migrated_url() for _ in range(2)]
    first, paused, resumed = run_python(
        PAUSED, *urls, str(own_database.pids[0])
    ).splitlines()
    assert first == "True"
    assert paused == "{'unavailable'} False True unavailable"
    assert resumed == f"True True {[(False, ())] * 5}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@127.0.0.1:1/none",
        "mysql://nobody@127.0.0.1:1/none",
        "postgresql://nobody:p%40ss@127.0.0.1:1/none?bad=option",
        "postgresql://u:p%40ss@host:port/none",
        "mysql://",
        "mysql://[/x",
        "sqlite:////proc/nowhere/some.db",
    ],
)
def test_an_unreachable_database_is_one_clear_line_at_the_start(
    open_store: OpenStore, url: str
) -> None:
    with pytest.raises(StartError) as caught:
        open_store(url, seconds=1)
    output = str(caught.value)
    assert output.startswith("storage: ")
    assert [part for part in ("\n", "p%40ss") if part in output] == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(
    open_store: OpenStore, tmp_path: Path
) -> None:
    file = tmp_path / "imserver.db"
    file.write_bytes(b"this is somebody's diary" * 100)
    with pytest.raises(StartError, match="not a database"):
        open_store()
    assert file.read_bytes() == b"this is somebody's diary" * 100


@pytest.mark.full("faults")
def test_a_killed_writer_leaves_the_others_a_whole_database(
    open_store: OpenStore, tmp_path: Path
) -> None:
    code = """
import sys
from imserver.gateway.storage.store import Store
from imserver.gateway.config.settings import StorageSettings
store = Store(StorageSettings(), sys.argv[1], threaded=False)
for number in range(100000):
    store.add_app(f"{sys.argv[2]}-{number}", {})
    print(number, flush=True)
"""
    for turn in range(3):
        command = [sys.executable, "-c", code, str(tmp_path), str(turn)]
        with running(
            command, stdout=subprocess.PIPE, env=clean_environment()
        ) as writer:
            for _ in range(20):
                last = int(writer.stdout.readline())
            writer.kill()
        store = open_store()
        assert not store.add_app(f"{turn}-{last}", {}), "what was confirmed is there"
        assert store.add_app(f"{turn} after", {})
        eventually(store.healthy)


HEAD = 32
FRAME = 24 + 4096
APPS = 20


def begin(folder: Path) -> Store:
    """A store in a folder, with some apps, each of which was a transaction."""
    store = Store(StorageSettings(), str(folder))
    store.start()
    for number in range(APPS):
        store.add_app(f"app {number}", {})
    return store


def kill(store: Store, tmp_path: Path) -> Path:
    """The database of a node that was killed: the last rows are in the log
    only."""
    folder = tmp_path / "killed"
    shutil.copytree(
        tmp_path / "running", folder, ignore=shutil.ignore_patterns("*-shm")
    )
    store.close()
    return folder / "imserver.db"


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    return kill(begin(tmp_path / "running"), tmp_path)


def log_of(database: Path) -> Path:
    return database.with_name("imserver.db-wal")


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 16
    file.write_bytes(content)


def commits_in(log: bytes) -> list[int]:
    """The numbers of the frames that end a transaction."""
    frames = range((len(log) - HEAD) // FRAME)
    return [
        each
        for each in frames
        if log[HEAD + each * FRAME + 4 : HEAD + each * FRAME + 8] != bytes(4)
    ]


def test_a_log_that_ends_in_its_last_transaction_is_that_of_a_crash(
    killed: Path,
) -> None:
    log = log_of(killed).read_bytes()
    *_, before, last = commits_in(log)
    crashed = [log]
    for frames in (before + 1, last):
        end = HEAD + frames * FRAME
        crashed += [
            log[: end + 100],
            log[: end + 1000] + bytes([log[end + 1000] ^ 1]) + log[end + 1001 :],
        ]
    for each in crashed:
        log_of(killed).write_bytes(each)
        assert lost_commits(killed) == 0
    log_of(killed).unlink()
    assert lost_commits(killed) == 0


def test_a_damaged_log_stops_the_start_and_stays_as_it_is(killed: Path) -> None:
    log = log_of(killed).read_bytes()
    commits = commits_in(log)
    offsets = [0, 9, 16, 24, HEAD + 8]  # of the log's head, and of a frame's
    offsets += [HEAD + frame * FRAME + 500 for frame in (0, *commits[-4:-1])]
    for offset in offsets:
        damaged = bytearray(log)
        damaged[offset] ^= 16
        log_of(killed).write_bytes(damaged)
        frame = max(0, offset - HEAD) // FRAME
        lost = lost_commits(killed)
        if offset >= HEAD + 24:
            assert lost == sum(commit >= frame for commit in commits)
        assert lost > 1, offset
    store = Store(StorageSettings(), str(killed.parent))
    with pytest.raises(StartError, match=r"imserver\.db-wal is damaged, and 2 commits"):
        store.start()
    assert log_of(killed).read_bytes() == bytes(damaged)


def damage_page(tmp_path: Path) -> Path:
    """A database with other bits in its apps."""
    begin(tmp_path).close()
    file = tmp_path / "imserver.db"
    with closing(sqlite3.connect(file)) as database:
        (page,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'app'"
        ).fetchone()
    flip(file, (page - 1) * 4096)
    return file


def test_a_damaged_page_is_no_wrong_answer(tmp_path: Path) -> None:
    damage_page(tmp_path)
    with pytest.raises((StartError, StorageUnavailable), match="malformed"):
        begin(tmp_path)
