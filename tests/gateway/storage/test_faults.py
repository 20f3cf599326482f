"""A database that goes away, stands still or comes back; one that nobody can reach or read."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.storage import database, engines
from imserver.gateway.storage.store import Store
from tests.gateway.storage.servers import DatabaseServer
from tests.processes import end, ended_on_failure, running, spawn
from tests.stores import OpenStore
from tests.support import clean_environment, eventually


@pytest.mark.full
def test_a_server_that_was_killed_is_a_temporary_error_and_is_found_again(
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


def test_a_connection_that_is_lost_on_its_way_back_is_one_line(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    open_store().add_app("one", {})
    engine = create_engine("sqlite://", poolclass=QueuePool)
    connection = engine.raw_connection()
    engine.dialect.do_rollback = Mock(side_effect=ConnectionResetError("reset by peer"))  # type: ignore[method-assign]
    connection.close()
    (record,) = [each for each in caplog.records if each.name.startswith("sqlalchemy")]
    assert (record.getMessage(), record.exc_info) == (
        "Exception during reset or similar: reset by peer",
        None,
    )


def test_a_database_that_only_reads_is_not_healthy_until_a_write_succeeds(
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
    ("error", "refused"),
    [
        (psycopg.errors.DiskFull("could not extend file"), True),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE"), True),
        (psycopg.errors.AdminShutdown("terminating connection"), False),
        (psycopg.errors.QueryCanceled("statement timeout"), False),
        (psycopg.OperationalError("connection refused"), False),
        (pymysql.err.OperationalError(1114, "The table 'message' is full"), True),
        (pymysql.err.OperationalError(1290, "--read-only"), True),
        (pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"), False),
        (pymysql.err.OperationalError(2013, "Lost connection"), False),
        (sqlite3.OperationalError("database is locked"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_a_database_that_refuses_differs_from_one_that_is_away(error: Exception, refused: bool) -> None:
    assert engines.is_refusal(error) is refused
    assert engines.is_refusal(OperationalError("INSERT", None, error)) is refused


class Standing:
    """A store in another process; see :mod:`tests.gateway.storage.standing`."""

    def __init__(self, url: str, folder: Path, seconds: float, pool: int = 4) -> None:
        options = (url, str(folder), str(seconds), str(pool))
        self._process = spawn(
            [sys.executable, "-m", "tests.gateway.storage.standing", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
            text=True,
        )
        with ended_on_failure(self._process):
            assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, what: str, name: str = "-", times: int = 1) -> tuple[str, float, bool]:
        """The outcome of the first, the seconds of the slowest, and whether the store is healthy then."""
        assert self._process.stdin is not None
        print(what, name, times, file=self._process.stdin, flush=True)
        outcome, took, healthy = self._line().split("|")
        return outcome, float(took), healthy == "True"

    def end(self) -> None:
        try:
            self._process.communicate(timeout=60)
        finally:
            end(self._process, signal.SIGKILL)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Callable[..., Standing]]:
    """``stand(url, seconds, pool=4)``: a store in a process of its own."""
    standing: list[Standing] = []

    def start(url: str, seconds: float, pool: int = 4) -> Standing:
        standing.append(Standing(url, tmp_path, seconds, pool))
        return standing[-1]

    yield start
    for one in standing:
        one.end()


@pytest.mark.sqlite_first
def test_a_paused_server_costs_no_more_than_the_time_set(
    own_database: DatabaseServer, stand: Callable[..., Standing]
) -> None:
    """Those who ask wait together, and no answer that came too late is taken for the next one."""
    store, one = stand(own_database.new_url(), 3), stand(own_database.new_url(), 3, 1)
    assert one.do("add", "a")[0] == "True"
    own_database.pause()
    outcome, took, healthy = store.do("look", times=50)
    assert (outcome, healthy) == ("unavailable", False)
    assert 2.5 < took < 60, "one after the other they would wait 150 s"
    assert one.do("keys")[0] == "unavailable"
    own_database.resume()
    assert store.do("add", "105")[::2] == ("True", True)
    for _ in range(5):
        assert one.do("add", "a")[0] == "False"
        assert one.do("keys")[0] == "()"


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
def test_a_database_that_cannot_be_reached_is_one_clear_line_at_the_start(url: str) -> None:
    store = Store(StorageSettings(url, seconds=1), "")
    with pytest.raises(StartError) as caught:
        store.start()
    output = str(caught.value)
    assert output.startswith("storage: ")
    assert "\n" not in output
    assert "p%40ss" not in output
    store.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "imserver.db"
    file.write_bytes(b"this is somebody's diary" * 100)
    store = Store(StorageSettings(), str(tmp_path), threaded=False)
    with pytest.raises(StartError, match="not a database"):
        store.start()
    store.close()
    assert file.read_bytes().startswith(b"this is somebody's diary")


@pytest.mark.full
def test_a_writer_that_is_killed_leaves_the_others_a_whole_database(
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
        with running(command, stdout=subprocess.PIPE, env=clean_environment()) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                last = int(writer.stdout.readline())
            writer.kill()
        store = open_store()
        assert not store.add_app(f"{turn}-{last}", {}), "what was confirmed is there"
        assert store.add_app(f"{turn} after", {})
        eventually(store.healthy)
