"""Copies of a SQLite database, and what a restored database of any engine needs.

A backup runs while servers use the database; a restore needs them stopped.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from imserver.config.settings import StorageSettings
from imserver.errors import StartError, StorageUnavailable
from imserver.process import open_private
from imserver.storage.address import DatabaseAddress
from imserver.storage.database import Database
from imserver.storage.numbers import far_number, move_accounts_on, raised
from imserver.storage.statements import PooledStatements

_SIDE_FILES = ("-wal", "-shm", "-journal")
_OPEN_SECONDS = 2.0
"""How long a connection that was just closed may be listed."""


def backup(database: Path, copy: Path) -> None:
    """Copy a consistent snapshot of a database to a new file. Raises StartError.

    Writers are not delayed. The copy is complete or absent.
    """
    if not database.exists():
        raise StartError(f"{database}: there is no such database")
    if copy.exists():
        raise StartError(f"{copy} exists already")
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
    """Replace a database, which no server uses, by a copy. Returns the new name of the replaced database.

    No number given since the backup is given again. Clients know the greatest number they have seen and would
    ignore new entries below it. Raises StartError; then nothing has changed.
    """
    check(copy)
    before: Path | None = None
    unfinished = database.with_name(f"{database.name}.part")
    try:
        os.close(open_private(unfinished, like=database if database.exists() else None))
        with closing(_connect(copy)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
            with target:
                _move_on(target, _given(database))
        _last(unfinished)
        if database.exists():
            before = _set_aside(database)
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
    return before


def move_on(address: DatabaseAddress, settings: StorageSettings) -> None:
    """Make a database server, which has loaded a copy, give no number again that it gave since the copy.

    Raises StartError if others are connected to the database, or if it cannot be used.
    """
    database = Database(address, settings, threaded=False)
    try:
        database.open()
        deadline = time.monotonic() + _OPEN_SECONDS
        while others := database.read(_other_connections):
            if time.monotonic() > deadline:
                raise StartError(
                    f"the database {address.shown} has other connections ({others}): stop all servers that "
                    "use "
                    "it, and close other clients"
                )
            time.sleep(0.1)
        database.write_long(_move_server_on)
    except StorageUnavailable as error:
        raise StartError(f"storage: {address.shown} cannot be used: {error}") from None
    finally:
        database.close()


def _other_connections(sql: PooledStatements) -> int:
    return int(sql.query(_OTHER_CONNECTIONS[sql.engine])[0][0])


_OTHER_CONNECTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) FROM information_schema.processlist "
    "WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}


def _move_server_on(sql: PooledStatements) -> None:
    far = far_number()
    move_accounts_on(sql, far)  # first, because MySQL commits with it
    for statement in (*_log_statements(far), *_event_statements(far)):
        sql.execute(statement)


def _log_statements(far: int) -> tuple[str, ...]:
    return (
        f"UPDATE log SET {raised('last_id', far)}, {raised('last_conversation', far)}",
        f"UPDATE conversation SET {raised('last_seq', far)}",
        f"UPDATE mark_version SET {raised('version', far)}",
        f"INSERT INTO mark_version (log, member, version) SELECT DISTINCT s.log, s.member, {far} "
        "FROM membership s LEFT JOIN mark_version v ON v.log = s.log AND v.member = s.member "
        "WHERE v.log IS NULL",
    )


def _event_statements(far: int) -> tuple[str, ...]:
    return (f"UPDATE event_feed SET {raised('last_id', far)}",)


def check(copy: Path) -> None:
    """Check that a file is an intact database of this server. Raises StartError."""
    if not copy.exists():
        raise StartError(f"{copy}: there is no such file")
    try:
        with closing(_connect(copy)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT id FROM directory").fetchone()
    except sqlite3.Error as error:
        raise StartError(f"{copy} is not a database of this server: {error}") from None
    if found != "ok":
        raise StartError(f"{copy} is damaged: {found}")


class _Given(NamedTuple):
    """The last numbers given: (app, part) → last id and conversation; the last seqs of conversations, as
    (seq, conversation, app, part); the versions of users' marks, as (user, version, app, part); app → last id
    of an event; the last id of an account."""

    logs: dict[tuple[str, int], tuple[int, int]]
    seqs: list[tuple[int, int, str, int]]
    versions: list[tuple[str, int, str, int]]
    events: dict[str, int]
    account: int


def _given(database: Path) -> _Given | None:
    """The last numbers of a database; None if it does not exist or cannot be read."""
    try:
        with closing(_connect(database)) as connection:
            rows = connection.execute("SELECT app, part, last_id, last_conversation FROM log")
            logs = {(app, part): (last_id, conversation) for app, part, last_id, conversation in rows}
            seqs = connection.execute(
                "SELECT c.last_seq, c.id, l.app, l.part FROM conversation c JOIN log l ON l.number = c.log"
            ).fetchall()
            versions = connection.execute(
                "SELECT v.member, v.version, l.app, l.part FROM mark_version v JOIN log l ON l.number = v.log"
            ).fetchall()
            has_events = "event_feed" in _tables(connection)
            events = dict(connection.execute("SELECT app, last_id FROM event_feed")) if has_events else {}
            found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'account'").fetchone()
    except sqlite3.Error:
        return None
    return _Given(logs, seqs, versions, events, found[0] if found else 0)


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _move_on(copy: sqlite3.Connection, given: _Given | None) -> None:
    """Make a copy continue after the given numbers. If they are unknown, it continues far beyond its own."""
    tables = _tables(copy)
    if not {"log", "mark_version", "account"} <= tables:  # made before the log existed
        return
    if given is None:
        far = far_number()
        for statement in _log_statements(far):
            copy.execute(statement)
        copy.execute(
            "INSERT INTO sqlite_sequence SELECT 'account', 0 WHERE NOT EXISTS "
            "(SELECT 1 FROM sqlite_sequence WHERE name = 'account')"
        )
        copy.execute(f"UPDATE sqlite_sequence SET {raised('seq', far)} WHERE name = 'account'")
    else:
        for (app, part), (last_id, conversation) in given.logs.items():
            copy.execute(
                "INSERT INTO log (app, part, last_id, last_conversation, floor) VALUES (?, ?, ?, ?, 0) "
                "ON CONFLICT (app, part) DO UPDATE SET last_id = max(last_id, excluded.last_id), "
                "last_conversation = max(last_conversation, excluded.last_conversation)",
                (app, part, last_id, conversation),
            )
        copy.executemany(
            "UPDATE conversation SET last_seq = max(last_seq, ?) WHERE id = ? "
            "AND log = (SELECT number FROM log WHERE app = ? AND part = ?)",
            given.seqs,
        )
        copy.executemany(
            "INSERT INTO mark_version (member, version, log) SELECT ?, ?, number FROM log "
            "WHERE app = ? AND part = ? "
            "ON CONFLICT (log, member) DO UPDATE SET version = max(version, excluded.version)",
            given.versions,
        )
        copy.execute("DELETE FROM sqlite_sequence WHERE name = 'account' AND seq < ?", (given.account,))
        copy.execute(
            "INSERT INTO sqlite_sequence SELECT 'account', ? WHERE NOT EXISTS "
            "(SELECT 1 FROM sqlite_sequence WHERE name = 'account')",
            (given.account,),
        )
    if "event_feed" in tables:
        _move_events_on(copy, given)


def _move_events_on(copy: sqlite3.Connection, given: _Given | None) -> None:
    if given is None:
        for statement in _event_statements(far_number()):
            copy.execute(statement)
        return
    # A feed without a lease begins at the end of the log.
    copy.executemany(
        "INSERT INTO event_feed (app, last_id, entry_id, event_id, noted_id, owner, lease_until) "
        "VALUES (?, ?, 0, 0, 0, '', 0) "
        "ON CONFLICT (app) DO UPDATE SET last_id = max(last_id, excluded.last_id)",
        given.events.items(),
    )


def _set_aside(database: Path) -> Path:
    """Rename a database and its files, also if damaged. Returns the new name."""
    aside = _free(database.with_name(f"{database.name}.before"))
    # The content of its write-ahead log belongs to it.
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.replace(aside)
    for end in _SIDE_FILES:
        side = database.with_name(database.name + end)
        if side.exists():
            side.replace(aside.with_name(aside.name + end))
    return aside


def _free(path: Path) -> Path:
    """A name that is not in use, so that no earlier copy is overwritten."""
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
