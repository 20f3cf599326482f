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

HEAD, FRAME = 32, 24 + 4096
APPS = 20


def begin(folder: Path) -> Store:
    """A store in a folder, with some apps, each of which was a transaction."""
    store = Store(StorageSettings(), str(folder))
    store.start()
    for number in range(APPS):
        store.add_app(f"app {number}", {})
    return store


def kill(store: Store, tmp_path: Path) -> Path:
    """The database of a node that was killed: the last rows are in the log only."""
    folder = tmp_path / "killed"
    shutil.copytree(tmp_path / "running", folder, ignore=shutil.ignore_patterns("*-shm"))
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
    return [each for each in frames if log[HEAD + each * FRAME + 4 : HEAD + each * FRAME + 8] != bytes(4)]


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
    assert log_of(killed).read_bytes() == bytes(damaged)


def damage_page(tmp_path: Path) -> Path:
    """A database with other bits in its apps."""
    begin(tmp_path).close()
    file = tmp_path / "imserver.db"
    with closing(sqlite3.connect(file)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'app'").fetchone()
    flip(file, (page - 1) * 4096)
    return file


def test_a_damaged_page_is_no_wrong_answer(tmp_path: Path) -> None:
    damage_page(tmp_path)
    with pytest.raises((StartError, StorageUnavailable), match="malformed"):
        begin(tmp_path)
