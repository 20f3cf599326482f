"""Copies of a SQLite database: one is taken while servers use it, and put back while none does."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from imserver.errors import StartError

_SIDE_FILES = ("-wal", "-shm", "-journal")


def backup(database: Path, copy: Path) -> None:
    """Copy a database, as it stands at one moment, to a new file. Raises StartError.

    What is written meanwhile is not held up. The copy is there whole or not at all.
    """
    if not database.exists():
        raise StartError(f"{database}: there is no such database")
    if copy.exists():
        raise StartError(f"{copy} is there already")
    unfinished = copy.with_name(f"{copy.name}.part")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(_connect(database)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        check(unfinished)
        _last(unfinished)
        unfinished.rename(copy)
        _last(copy.parent)
    except OSError as error:
        raise StartError(f"{copy} cannot be written: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StartError(f"{database} cannot be copied: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def restore(database: Path, copy: Path) -> Path | None:
    """Put a copy in a database's place, which no server uses; what was there is kept beside it, as returned.

    Raises StartError, and has changed nothing then.
    """
    check(copy)
    kept: Path | None = None
    unfinished = database.with_name(f"{database.name}.part")
    try:
        with closing(_connect(copy)) as source, closing(sqlite3.connect(unfinished)) as target:
            unfinished.chmod(0o600)
            source.backup(target)
        _last(unfinished)
        if database.exists():
            kept = database.with_name(f"{database.name}.before")
            with closing(sqlite3.connect(database)) as old:  # what stands in its log belongs to it
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.replace(kept)
        for end in _SIDE_FILES:
            database.with_name(database.name + end).unlink(missing_ok=True)
        unfinished.rename(database)
        _last(database.parent)
    except OSError as error:
        raise StartError(f"{database} cannot be written: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StartError(f"{database} cannot be replaced: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return kept


def check(copy: Path) -> None:
    """Whether a file is a whole database of this server's. Raises StartError."""
    if not copy.exists():
        raise StartError(f"{copy}: there is no such file")
    try:
        with closing(_connect(copy)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT id FROM directory").fetchone()
    except sqlite3.Error as error:
        raise StartError(f"{copy} is no database of this server: {error}") from None
    if found != "ok":
        raise StartError(f"{copy} is damaged: {found}")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _last(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
