"""Other bits than were written, in the files of SQLite: named, and refused where commits are lost."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.storage.damage import lost_commits
from imserver.gateway.storage.store import Store
from imserver.messenger.messages.log.contract import Draft
from imserver.messenger.messages.log.message_log import MessageLog
from imserver.operate.database import damage_of
from tests.support import run_cli

HEAD, FRAME = 32, 24 + 4096
MESSAGES = 20


def append(store: Store, text: str) -> None:
    store.part(MessageLog).writer.append("shop", [Draft(sender="ann", to_user="bob", body=text.encode())])


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The database of a node that was killed: the last messages are in the log only."""
    store = Store(StorageSettings(), str(tmp_path / "running"))
    store.start()
    store.add_app("shop", {})
    for number in range(MESSAGES):
        append(store, f"text {number}")
    shutil.copytree(tmp_path / "running", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    store.close()
    return tmp_path / "killed" / "imserver.db"


def add_app(folder: Path) -> None:
    store = Store(StorageSettings(), str(folder))
    store.start()
    store.add_app("other", {})


def log_of(database: Path) -> Path:
    return database.with_name("imserver.db-wal")


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 16
    file.write_bytes(content)


def commits_in(log: bytes) -> list[int]:
    """The numbers of the frames that end a transaction."""
    frames = range((len(log) - HEAD) // FRAME)
    return [each for each in frames if log[HEAD + each * FRAME + 4 : HEAD + each * FRAME + 8] != bytes(4)]


def messages(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "imserver.db")) as database:
        return int(database.execute("SELECT count(*) FROM message").fetchone()[0])


def test_a_log_that_ends_in_its_last_transaction_is_that_of_a_crash(killed: Path) -> None:
    log = log_of(killed).read_bytes()
    *_, before, last = commits_in(log)
    assert lost_commits(killed) == 0
    for frames in (before + 1, last):
        log_of(killed).write_bytes(log[: HEAD + frames * FRAME + 100])
        assert lost_commits(killed) == 0
        torn = bytearray(log)
        torn[HEAD + frames * FRAME + 1000] ^= 1
        log_of(killed).write_bytes(torn)
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
    found = run_cli("doctor", "--data-dir", str(killed.parent))
    assert f"fail  write-ahead log: 2 commits in {log_of(killed)} cannot be read" in found.stdout
    assert log_of(killed).read_bytes() == bytes(damaged)


def test_a_server_begins_again_behind_a_damaged_log(killed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copytree(killed.parent, tmp_path / "before")
    with closing(sqlite3.connect(tmp_path / "before" / "imserver.db")) as whole:
        whole.execute("VACUUM INTO ?", (str(copy),))
    flip(log_of(killed), HEAD + 500)
    done = run_cli("restore", "--data-dir", str(killed.parent), str(copy))
    assert done.returncode == 0, done.stderr
    store = Store(StorageSettings(), str(killed.parent))
    store.start()
    store.add_app("shop", {})
    append(store, "after")
    store.close()
    with closing(sqlite3.connect(killed)) as database:
        (last,) = database.execute("SELECT max(id) FROM message").fetchone()
    assert last > 10**14, "no id is given twice"


def test_a_damaged_page_is_named_and_is_no_wrong_answer(tmp_path: Path) -> None:
    store = Store(StorageSettings(), str(tmp_path))
    store.start()
    store.add_app("shop", {})
    for number in range(MESSAGES):
        append(store, f"text {number}")
    store.close()
    file = tmp_path / "imserver.db"
    with closing(sqlite3.connect(file)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'app'").fetchone()
    assert damage_of(file, 10) == ""
    flip(file, (page - 1) * 4096)
    assert damage_of(file, 10)
    found = run_cli("doctor", "--data-dir", str(tmp_path))
    assert found.returncode == 1
    assert f"fail  pages of SQLite: {file}: " in found.stdout
    with pytest.raises((StartError, StorageUnavailable), match="malformed"):
        add_app(tmp_path)
