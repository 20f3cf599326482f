"""``imserver backup`` and ``imserver restore``, as people call them."""

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imserver.lifecycle import DataDirectory
from imserver.settings import StorageSettings
from imserver.storage.log_contract import Draft
from imserver.storage.store import Store
from tests.support import run_cli

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which a message is stored."""
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    """``run("backup", …)``; ``fails=True`` where it must refuse, in one line."""

    def run(
        *arguments: object, fails: bool = False, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        given = {"IMSERVER_SERVER_DATA_DIR": str(data), **environment}
        done = run_cli(*map(str, arguments), seconds=30, **given)
        assert done.returncode == (1 if fails else 0), done
        if fails:
            assert done.stderr.startswith("imserver: ")
            assert done.stderr.count("\n") == 1
        return done

    return run


def say(data: Path, *words: str) -> list[str]:
    """Store messages; all that is stored then."""
    store = Store(StorageSettings(), str(data), threaded=False)
    store.start()
    log = store.log()
    log.append("app", [Draft(sender="a", to_user="b", body=word.encode()) for word in words])
    found = [entry.body.decode() for entry in log.read("app", 0, 100)]
    store.close()
    return found


def test_what_was_stored_before_a_copy_is_there_after_it_is_put_back(
    run: Run, data: Path, tmp_path: Path
) -> None:
    say(data, "one", "two")
    copy = tmp_path / "copy.db"
    assert str(copy) in run("backup", copy).stdout
    assert copy.stat().st_mode & 0o777 == 0o600
    say(data, "three")
    said = run("restore", copy).stdout
    assert "imserver.db.before" in said
    assert say(data, "four") == ["one", "two", "four"]
    assert sorted(file.name for file in data.iterdir() if "part" in file.name) == []
    with sqlite3.connect(data / "imserver.db.before") as before:
        assert before.execute("SELECT count(*) FROM message").fetchone() == (3,)
    before.close()


def test_a_copy_is_whole_while_others_write(run: Run, data: Path, tmp_path: Path) -> None:
    store = Store(StorageSettings(), str(data), threaded=False)
    log = store.log()
    log.append("app", [Draft(sender="a", to_user="b")])
    writing = sqlite3.connect(data / "imserver.db", isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    writing.execute("UPDATE log SET last_id = 99")
    run("backup", tmp_path / "copy.db")
    writing.execute("ROLLBACK")
    writing.close()
    store.close()
    run("restore", tmp_path / "copy.db", "--data-dir", tmp_path / "elsewhere")
    assert len(say(tmp_path / "elsewhere")) == 1


def test_a_restore_while_a_server_runs_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    say(data, "one")
    run("backup", tmp_path / "copy.db")
    server = DataDirectory(str(data))
    server.start()
    try:
        assert "in use by another server" in run("restore", tmp_path / "copy.db", fails=True).stderr
        run("backup", tmp_path / "another.db")
    finally:
        server.stop()


def test_what_cannot_be_copied_is_one_clear_line_and_changes_nothing(
    run: Run, data: Path, tmp_path: Path
) -> None:
    assert "no such database" in run("backup", tmp_path / "copy.db", fails=True).stderr
    say(data, "one")
    diary = tmp_path / "diary"
    diary.write_text("dear diary", encoding="ascii")
    assert "there already" in run("backup", diary, fails=True).stderr
    assert "no database of this server" in run("restore", diary, fails=True).stderr
    assert "no such file" in run("restore", tmp_path / "none", fails=True).stderr
    assert "cannot be written" in run("backup", tmp_path / "none" / "copy", fails=True).stderr
    assert diary.read_text(encoding="ascii") == "dear diary"
    assert say(data) == ["one"]


def test_another_databases_own_tools_are_named(run: Run, tmp_path: Path) -> None:
    said = run(
        "backup", tmp_path / "copy", fails=True, IMSERVER_STORAGE_URL="postgresql://u:secret@h/d"
    ).stderr
    assert "pg_dump" in said
    assert "secret" not in said
