"""Copies of a SQLite database, and the steps after a restore on any engine.

A backup runs while servers use the database; a restore needs them stopped.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.process import RESTORING, open_private
from imserver.gateway.storage.address import DatabaseAddress
from imserver.gateway.storage.damage import lost_commits
from imserver.gateway.storage.database import Database
from imserver.gateway.storage.numbers import (
    GivenNumbers,
    far_number,
    give_after,
    last_given,
    move_keys_on,
    raise_all,
)
from imserver.gateway.storage.statements import (
    PooledStatements,
    Row,
    SqliteStatements,
    Statements,
)
from imserver.gateway.threads import synchronise
from imserver.offline.copies.files import free_name, whole_or_absent, write_whole
from imserver.plugin.progress import long_work
from imserver.plugin.space import need_space

_SIDE_FILES = ("-wal", "-shm", "-journal")
_MOST_VALUE_BYTES: Final = 64 << 20
_FOREIGN: Final = """
    SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')
    UNION SELECT 'computed column', c.name FROM sqlite_master t, pragma_table_xinfo(t.name) c WHERE c.hidden
    UNION SELECT 'computed index', i.name FROM sqlite_master i, pragma_index_xinfo(i.name) c WHERE c.cid = -2
"""
"""Finds the parts of a database that could execute SQL of a stranger."""


@long_work("copying the database")
def backup(database: Path, copy: Path) -> None:
    """Copy a consistent snapshot of a SQLite database to a new file.

    Servers may write to the database meanwhile. If the copy fails, there is no
    new file. Raises StartError.
    """
    if not database.exists():
        raise StartError(f"{database}: there is no such database")
    if copy.exists():
        raise StartError(f"{copy} exists already")
    need_space(copy.parent, database.stat().st_size)
    try:
        with whole_or_absent(copy) as unfinished:
            _copy_rows(database, unfinished)
            check(unfinished, is_own=True)
    except OSError as error:
        raise StartError(f"{copy} cannot be written: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StartError(f"{database} cannot be copied: {error}") from None


def _copy_rows(database: Path, unfinished: Path) -> None:
    """Copy a consistent snapshot of a SQLite database into a file.

    Raises sqlite3.Error.
    """
    with (
        closing(_connect(database)) as source,
        closing(sqlite3.connect(unfinished)) as target,
    ):
        source.backup(target)
        # Without a write-ahead log the copy is one file.
        target.execute("PRAGMA journal_mode=DELETE")


@long_work("replacing the database")
def restore(
    database: Path,
    copy: Path,
    numbers: Sequence[GivenNumbers],
    folder: Path | None = None,
) -> tuple[str, Path | None]:
    """Replace a SQLite database by a copy. No server may use it.

    The new database gives no number again that was given since the backup.
    Clients know the greatest number they have seen, and would ignore new
    entries below it. ``numbers``: the numbers that features give. ``folder``:
    the data folder; None: the folder of the database.

    From :func:`begin` to :func:`end` no server starts. If the call is
    interrupted, call it again: it continues. Returns a report, and the new name
    of the replaced database; None if there was no database. Raises StartError.
    """
    if copy.exists():
        need_space(database.parent, copy.stat().st_size)
    check(copy)
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    numbers = (*_OWN, *numbers)
    folder = folder or database.parent
    unfinished = database.with_name(f"{database.name}.part")
    try:
        before = _name_for_replaced(folder, database)
        replaced = _path_of_replaced(database, before)
        _write_continuing_copy(copy, unfinished, replaced, numbers)
        # The copy must be complete on the disk before the old database is
        # touched.
        synchronise(unfinished)
        begin(folder, before.name)
        if replaced == database and database.exists():
            _fold_log(database)
            _set_aside(database, before)
        _install(unfinished, database)
    except OSError as error:
        raise StartError(f"{database} cannot be written: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StartError(f"{database} cannot be replaced: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    if not before.exists():
        return f"restored {database}", None
    return f"restored {database}; the previous database is {before}", before


def _path_of_replaced(database: Path, before: Path) -> Path:
    """Return where the database to be replaced is now.

    It is ``before``, its new name, if an interrupted call has renamed it. That
    call may have renamed some of the files only; then the others follow here.
    """
    if before.exists() and not database.exists():
        _set_aside(database, before)
    if before.exists():
        return before
    return database


def _install(unfinished: Path, database: Path) -> None:
    """Give a complete new database its name. The old one is already set aside.

    Raises OSError.
    """
    # SQLite would take such a file for a part of the new database.
    for ending in _SIDE_FILES:
        database.with_name(database.name + ending).unlink(missing_ok=True)
    synchronise(database.parent)
    unfinished.rename(database)
    synchronise(database.parent)


def _write_continuing_copy(
    copy: Path, unfinished: Path, replaced: Path, numbers: Sequence[GivenNumbers]
) -> None:
    """Write a copy of a database to a file, and let its numbers continue.

    They continue after the numbers that the ``replaced`` database has given.
    Raises OSError and sqlite3.Error.
    """
    # A restore by root must leave the file to the user of the server.
    owner = None
    if replaced.exists():
        owner = replaced
    os.close(open_private(unfinished, like=owner))
    with (
        closing(_connect(copy)) as source,
        closing(sqlite3.connect(unfinished)) as target,
    ):
        source.backup(target)
        with target:
            given = _given(replaced, numbers)
            _move_on(SqliteStatements(target), numbers, given)


# --- a restore that a power cut interrupts ------------------------------------


def begin(folder: Path, before: str = "") -> None:
    """Note in a data folder that a restore changes its data from now on.

    No server starts until :func:`end`. ``before``: the name that the replaced
    database gets; ``""`` if it is not a file. Raises StartError.
    """
    mark = folder / RESTORING
    try:
        write_whole(mark, before.encode())
    except OSError as error:
        raise StartError(f"{mark} cannot be written: {error.strerror}") from None


def end(folder: Path) -> None:
    """Let servers start again, at the end of a restore. Raises OSError."""
    (folder / RESTORING).unlink(missing_ok=True)
    synchronise(folder)


def _name_for_replaced(folder: Path, database: Path) -> Path:
    """Return the name that the replaced database gets.

    If a restore was interrupted, it is the name that was chosen then.
    """
    mark = folder / RESTORING
    if mark.exists():
        name = mark.read_bytes().decode("utf-8", "replace")
        if name:
            return database.with_name(name)
    return free_name(database.with_name(f"{database.name}.before"))


def _fold_log(database: Path) -> None:
    """Write the content of the write-ahead log into its database.

    A damaged log stays, because SQLite would write only a part of it.
    """
    with suppress(sqlite3.Error):
        if not lost_commits(database):
            with closing(sqlite3.connect(database)) as old:
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _set_aside(database: Path, before: Path) -> None:
    """Rename a database and its files, even if they are damaged.

    Files that do not exist are left out.
    """
    for ending in ("", *_SIDE_FILES):
        source = database.with_name(database.name + ending)
        if source.exists():
            source.replace(before.with_name(before.name + ending))


def move_on(
    address: DatabaseAddress,
    settings: StorageSettings,
    numbers: Sequence[GivenNumbers],
    folder: Path,
) -> None:
    """Let a loaded database give numbers far above its own.

    So it gives no number that was given since the copy. It is for databases of
    a server, where nobody knows these numbers. ``folder``: the data folder, for
    :func:`begin`. Raises StartError if others are connected to the database, or
    if it cannot be used.
    """
    far = far_number()

    def skip(sql: Statements) -> None:
        """Skip the numbers of each kind up to ``far``."""
        for each in (*_OWN, *numbers):
            each.skip(sql, far)

    database = Database(address, settings, threaded=False)
    try:
        database.open()
        # A server that runs would give numbers meanwhile.
        wait_until_alone(database.read, address.shown)
        begin(folder)
        database.write_long(skip)
    except StorageUnavailable as error:
        raise StartError(f"storage: {address.shown} cannot be used: {error}") from None
    finally:
        database.close()


def move_copy_on(copy: Path, numbers: Sequence[GivenNumbers]) -> None:
    """Let a SQLite file give numbers far above its own.

    That happens before its rows are copied to a database server. Raises
    StartError.
    """
    try:
        with closing(_connect(copy)) as connection, connection:
            _move_on(SqliteStatements(connection), (*_OWN, *numbers), given=None)
    except sqlite3.Error as error:
        raise StartError(f"{copy} cannot be changed: {error}") from None


def wait_until_alone(
    read: Callable[[Callable[[PooledStatements], int]], int], shown: str
) -> None:
    """Wait until a database has no other connection than this one.

    ``read``: calls a function with the statements of the database. ``shown``:
    the address of the database. Raises StartError if others stay connected.
    """
    # For a moment, a server that has just ended may still be connected.
    deadline = time.monotonic() + _ALONE_SECONDS
    while True:
        others = read(_other_connections)
        if not others:
            return
        if time.monotonic() > deadline:
            raise StartError(
                f"the database {shown} has other connections ({others}): stop all servers that use "
                "it, and close other clients"
            )
        time.sleep(_ALONE_STEP_SECONDS)


_ALONE_SECONDS: Final = 2.0
_ALONE_STEP_SECONDS: Final = 0.1


def _other_connections(sql: PooledStatements) -> int:
    """Return how many other connections the database has."""
    return int(sql.query(_OTHER_CONNECTIONS[sql.engine])[0][0])


_OTHER_CONNECTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) FROM information_schema.processlist "
    "WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}


@long_work("checking the copy")
def check(copy: Path, is_own: bool = False) -> None:
    """Check that a file is an intact SQLite database of imserver.

    ``is_own``: this command has just written the file. Any other file may have
    triggers, which would change rows here, or expressions that take very long.
    Such files are refused. Raises StartError.
    """
    if not copy.exists():
        raise StartError(f"{copy}: there is no such file")
    try:
        with closing(_connect(copy)) as connection:
            if not is_own:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_VALUE_BYTES)
                _refuse_foreign(connection, copy)
            (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if connection.execute("SELECT id FROM directory").fetchone() is None:
                raise StartError(f"{copy} is damaged: it has no id")
    except sqlite3.Error as error:
        raise StartError(f"{copy} is not a database of this server: {error}") from None
    if state != "ok":
        raise StartError(f"{copy} is damaged: {state}")


def _refuse_foreign(connection: sqlite3.Connection, copy: Path) -> None:
    """Refuse a copy with a trigger, view or computed value. Raises StartError."""
    for kind, name in connection.execute(_FOREIGN):
        raise StartError(
            f"{copy} has a {kind} that this server has not made: drop {name!a}"
        )


def _given(database: Path, numbers: Sequence[GivenNumbers]) -> list[Any] | None:
    """Return the last numbers that a database has given.

    None: the database does not exist, or cannot be read completely.
    """
    try:
        if not database.exists() or lost_commits(database):
            return None
        with closing(_connect(database)) as connection:
            sql = SqliteStatements(connection)
            return [each.read(sql) for each in numbers]
    except sqlite3.Error:
        return None


def _tables(sql: Statements) -> set[str]:
    """Return the names of the tables of a SQLite database."""
    statement = "SELECT name FROM sqlite_master WHERE type = 'table'"
    return {name for (name,) in sql.query(statement)}


def _move_on(
    sql: Statements, numbers: Sequence[GivenNumbers], given: list[Any] | None
) -> None:
    """Let the numbers of a copy continue after those in ``given``.

    ``given``: the last numbers, in the order of ``numbers``. If they are None,
    the copy continues far above its own numbers.
    """
    tables = _tables(sql)
    far = far_number()
    for index, each in enumerate(numbers):
        if not each.tables <= tables:
            continue  # an earlier release has made the copy
        if given is None:
            each.skip(sql, far)
        else:
            each.continue_after(sql, given[index])


def _continue_accounts(sql: Statements, last: int) -> None:
    """Let new accounts have numbers after ``last``."""
    last_in_copy = last_given(sql, "account") or 0
    give_after(sql, "account", max(last, last_in_copy))


def _last_events(sql: Statements) -> list[Row]:
    """Return (app, number of its last event) of each app.

    The list is empty for a database of an earlier release, which has no events.
    """
    if "event_feed" not in _tables(sql):
        return []
    return sql.query("SELECT app, last_id FROM event_feed")


def _skip_events(sql: Statements, far: int) -> None:
    """Let new events of each app have numbers after ``far``."""
    raise_all(sql, far, "event_feed", "last_id")


def _continue_events(sql: Statements, given: list[Row]) -> None:
    """Let the events of each app continue after the given ones.

    ``given``: (app, number of its last event). An app whose copy has no feed
    gets one.
    """
    # The next node takes a feed without a lease, and begins at the end of the
    # log.
    sql.execute_many(
        "INSERT INTO event_feed (app, last_id, entry_id, event_id, noted_id, owner, lease_until) "
        "VALUES (%s, %s, 0, 0, 0, '', 0) "
        "ON CONFLICT (app) DO UPDATE SET last_id = max(last_id, excluded.last_id)",
        given,
    )


_OWN: Final = (
    # The numbers of accounts come first, because MySQL commits the transaction
    # when it changes them.
    GivenNumbers(
        frozenset({"account"}),
        partial(last_given, table="account"),
        _continue_accounts,
        partial(move_keys_on, "account"),
    ),
    GivenNumbers(
        frozenset({"event_feed"}), _last_events, _continue_events, _skip_events
    ),
)
"""The numbers of accounts and events. They also continue after a log has lost
entries."""


def _connect(path: Path) -> sqlite3.Connection:
    """Open a SQLite file that exists. Raises sqlite3.Error if it does not."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
