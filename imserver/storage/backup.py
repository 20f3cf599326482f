"""Copies of a SQLite database: one is taken while servers use it, and put back while none does."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from imserver.errors import StartError

_SIDE_FILES = ("-wal", "-shm", "-journal")
_MANY = 1 << 32
_SOME = 1 << 20
"""So many messages, and conversations, accounts or marks of a user, may be lost since a copy was made."""


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

    No number that was given since the copy was made is given again: clients, which know the greatest they
    have seen, would take what is new for what they have. Raises StartError, and has changed nothing then.
    """
    check(copy)
    kept: Path | None = None
    unfinished = database.with_name(f"{database.name}.part")
    try:
        with closing(_connect(copy)) as source, closing(sqlite3.connect(unfinished)) as target:
            unfinished.chmod(0o600)
            source.backup(target)
            with target:
                _move_on(target, _given(database))
        _last(unfinished)
        if database.exists():
            kept = _set_aside(database)
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


class _Given(NamedTuple):
    """Numbers that were given: (app, part) → last id and conversation; the last id of an account."""

    logs: dict[tuple[str, int], tuple[int, int]]
    account: int


def _given(database: Path) -> _Given | None:
    """What a database has given; None: it is not there, or cannot tell."""
    try:
        with closing(_connect(database)) as connection:
            rows = connection.execute("SELECT app, part, last_id, last_conversation FROM log")
            logs = {(app, part): (last_id, conversation) for app, part, last_id, conversation in rows}
            found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'account'").fetchone()
    except sqlite3.Error:
        return None
    return _Given(logs, found[0] if found else 0)


def _move_on(copy: sqlite3.Connection, given: _Given | None) -> None:
    """Have a copy count on behind what was given; where that is unknown, far behind what it knows of."""
    tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"log", "mark_version", "account"} <= tables:  # of a time when nothing was counted
        return
    if given is None:
        copy.execute(
            "UPDATE log SET last_id = last_id + ?, last_conversation = last_conversation + ?", (_MANY, _SOME)
        )
        copy.execute(
            "INSERT INTO sqlite_sequence SELECT 'account', 0 WHERE NOT EXISTS "
            "(SELECT 1 FROM sqlite_sequence WHERE name = 'account')"
        )
        copy.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'account'", (_SOME,))
    else:
        for (app, part), (last_id, conversation) in given.logs.items():
            copy.execute(
                "INSERT INTO log (app, part, last_id, last_conversation, floor) VALUES (?, ?, ?, ?, 0) "
                "ON CONFLICT (app, part) DO UPDATE SET last_id = max(last_id, excluded.last_id), "
                "last_conversation = max(last_conversation, excluded.last_conversation)",
                (app, part, last_id, conversation),
            )
        copy.execute("DELETE FROM sqlite_sequence WHERE name = 'account' AND seq < ?", (given.account,))
        copy.execute(
            "INSERT INTO sqlite_sequence SELECT 'account', ? WHERE NOT EXISTS "
            "(SELECT 1 FROM sqlite_sequence WHERE name = 'account')",
            (given.account,),
        )
    copy.execute("UPDATE mark_version SET version = version + ?", (_SOME,))


def _set_aside(database: Path) -> Path:
    """Give a database another name, with all that belongs to it, be it damaged; that name."""
    kept = _free(database.with_name(f"{database.name}.before"))
    # What stands in its log belongs to it.
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.replace(kept)
    for end in _SIDE_FILES:
        side = database.with_name(database.name + end)
        if side.exists():
            side.replace(kept.with_name(kept.name + end))
    return kept


def _free(path: Path) -> Path:
    """A name of which there is no file: nothing that was kept before is written over."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _last(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
