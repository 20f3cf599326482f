"""``imserver restore`` and ``imserver move``: replace the database by a copy,
or move the database."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import click

from imserver.gateway.config.settings import Config
from imserver.gateway.config.values import Locations
from imserver.gateway.errors import StartError, Unavailable
from imserver.gateway.node.feature_list import (
    load_features,
    load_with_locations,
    numbers_of_server,
    tables_of,
)
from imserver.gateway.offline import (
    load_settings,
    offline_parts,
    opened,
    record_act,
    settings_options,
)
from imserver.gateway.process import RESTORING, DataDirectory
from imserver.gateway.storage.address import ID_FILE, DatabaseAddress, database_address
from imserver.gateway.storage.app_rows import tables_of_others
from imserver.gateway.storage.contract import Erasure, programs_of
from imserver.gateway.storage.contract import tables_of as spared_by
from imserver.gateway.storage.erasures import (
    JOURNAL,
    PURPOSE,
    ErasureRow,
    Erasures,
    read_journal,
)
from imserver.gateway.storage.statements import PooledStatements, RowsOf, text_of
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import (
    CONDITIONS_OF_APP,
    Reason,
    StoreTables,
    Table,
)
from imserver.gateway.terminal import fail, read_text
from imserver.offline.copies import backup as copies
from imserver.offline.copies import everything as whole
from imserver.offline.copies.archive import BackupArchive, is_archive
from imserver.plugin.progress import long_work

if TYPE_CHECKING:
    from imserver.offline.copies.move import Moved
    from imserver.offline.copies.row_pages import TableSum

_URL_VARIABLE: Final = "IMSERVER_STORAGE_URL"


@click.command()
@settings_options
@click.option(
    "--erasures",
    "journal",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Another journal of erasures, besides the journal of the data folder.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask whether to continue without a journal of erasures.",
)
@whole.without_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
def restore(
    path: str | None,
    data_dir: str | None,
    journal: Path | None,
    yes: bool,
    without: tuple[str, ...],
    file: Path | None,
) -> None:
    """Replace the SQLite database with the copy FILE. No server may run
    meanwhile.

    FILE may also be an archive of backup --everything. Restore such an archive
    into SQLite, or into any other database that is empty. For other copies of
    PostgreSQL and MySQL, load the copy with their own tools first. Then run
    this command without FILE, so that no id is given twice.

    Users who were erased since the copy are erased again. Digests in the
    journal of the data folder (erasures.jsonl) and in the replaced database
    identify these users. Keep a copy of the journal, and the secret, beside
    your backups. Without the journal and the replaced database, the command
    asks whether to continue; in a script, use --yes.
    """
    try:
        settings = load_settings(path, data_dir)
        address = address_of(settings)
        # A server has this lock as long as it runs.
        lock = DataDirectory(settings.server.data_dir)
        folder = Path(settings.server.data_dir)
        # The archive is checked before the operator is asked anything.
        archive = _archive_of(address, file)
        _require_journal(address, folder, journal, yes)

        lock.start(restores=True)
        # The restored database may have another id than this file names.
        (folder / ID_FILE).unlink(missing_ok=True)
        click.get_current_context().call_on_close(lock.stop)
        if archive is not None:
            finish = partial(_finish, settings, lock, journal)
            lines = [whole.restore(settings, address, archive, without, finish)]
        else:
            line, replaced = _replace_database(settings, address, folder, file)
            with opened(path, data_dir) as (settings, store, _):
                erasures = _finish(settings, lock, journal, store, replaced)
            lines = [line, *erasures]
    except (StartError, Unavailable) as error:
        fail(error)
    copies.end(folder)
    click.echo("\n".join(lines))


def _archive_of(address: DatabaseAddress, file: Path | None) -> BackupArchive | None:
    """Open FILE, if it is an archive of everything.

    Returns None if the file is a copy of a SQLite database, or if no file was
    given. Raises StartError if the file is damaged, or if it cannot be restored
    into a database of this kind.
    """
    if file is None:
        if address.file is not None:
            raise StartError(
                f"{address.file} is a SQLite database: give the FILE to restore"
            )
        return None
    if is_archive(file):
        return BackupArchive(file)
    if address.file is None:
        raise StartError(
            f"{address.shown} is not a SQLite database: load {file} with {TOOLS[address.engine][1]}, "
            "then run imserver restore without a file"
        )
    copies.check(file)  # raises StartError
    return None


def _require_journal(
    address: DatabaseAddress, folder: Path, journal: Path | None, yes: bool
) -> None:
    """Make sure that the users who were erased since the copy are known.

    A database or a *journal of erasures* names them. If there is neither, ask
    the operator whether to continue. ``journal``: a further journal. ``yes``:
    do not ask. Raises StartError.
    """
    if journal is not None and journal.stat().st_size and not read_journal(journal):
        raise StartError(f"{journal} is no journal of erasures")
    # The database that is replaced names them, too. After an interrupted
    # restore, the file RESTORING names that database.
    sources = [address.file, folder / JOURNAL, folder / RESTORING, journal]
    has_source = any(source is not None and source.exists() for source in sources)
    if not has_source:
        _accept_no_journal(yes)


def _replace_database(
    settings: Config, address: DatabaseAddress, folder: Path, file: Path | None
) -> tuple[str, Path | None]:
    """Replace a SQLite database by a copy.

    On other engines, prepare the database that other tools have loaded. Returns
    a report, and the path of the replaced database; None if it was not a file.
    Raises StartError.
    """
    if address.file is not None and file is not None:
        return copies.restore(address.file, file, numbers_of_server(), folder)
    copies.move_on(address, settings.storage, numbers_of_server(), folder)
    line = f"{address.shown} continues after all ids that were given since the copy"
    return line, None


def _accept_no_journal(yes: bool) -> None:
    """Warn that nobody knows who was erased, and ask whether to continue.

    Raises StartError if the answer is no, or if nobody can answer. With
    ``yes``, do not ask.
    """
    click.echo(
        f"imserver: there is no journal of erasures ({JOURNAL} of the old data folder, or "
        "--erasures FILE), so users who were erased since the copy come back",
        err=True,
    )
    if yes:
        return
    if not (sys.stdin.isatty() and click.confirm("Restore without a journal?")):
        raise StartError(
            "nothing was restored; give a journal with --erasures FILE, or use --yes"
        )


def address_of(settings: Config) -> DatabaseAddress:
    """Return the address of the database of these settings."""
    return database_address(settings.storage, settings.server.data_dir)


TOOLS = {
    "postgresql": ("pg_dump", "pg_restore or psql"),
    "mysql": ("mariadb-dump or mysqldump", "mariadb or mysql"),
}
"""Engine → its tools that make and load a copy."""


@click.command()
@settings_options
@click.option(
    "--to",
    required=True,
    metavar="URL",
    help="The URL of the empty target database, as in storage.url, or - for standard input.",
)
@whole.without_option
def move(
    path: str | None, data_dir: str | None, to: str, without: tuple[str, ...]
) -> None:
    """Copy the database to another database: SQLite, PostgreSQL, MariaDB or
    MySQL, in any direction.

    No server may run meanwhile. The source database is only read. The target
    database must be empty. If the command is interrupted, run it again to
    continue. At the end, the command compares the two databases, and says which
    setting to change.
    """
    url = to
    if to == "-":
        url = read_text("-").strip()
    begun_at = monotonic()
    given = {}
    if data_dir is not None:
        given["server.data_dir"] = data_dir
    try:
        settings, locations = load_with_locations(path, overrides=given)
        target_settings = _settings_of_target(path, given, url)
        source = address_of(settings)
        target = address_of(target_settings)
        tables = tables_of(load_features(settings))
        report = _move(settings, source, target, tables, without)
        # If the target is the default file of the data folder, this file may
        # name another id.
        Path(settings.server.data_dir, ID_FILE).unlink(missing_ok=True)
        _record_move(target_settings, tables)
    except StartError as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted: run the same command again to continue")

    _print_report(report, target, seconds=monotonic() - begun_at)
    setting = _name_of_url_setting(locations)
    click.echo(
        f"now set {setting} to this address, and start the servers; {source.shown} is unchanged"
    )


def _name_of_url_setting(locations: Locations) -> str:
    """Name the variable or the setting that has the address of the database."""
    if _URL_VARIABLE in os.environ:
        return f"the variable {_URL_VARIABLE}"
    return locations.of("storage.url")


def _move(
    settings: Config,
    source: DatabaseAddress,
    target: DatabaseAddress,
    tables: StoreTables,
    without: Sequence[str],
) -> Moved:
    """Copy the database while no server uses the data folder. Raises
    StartError."""
    # A server has this lock as long as it runs.
    lock = DataDirectory(settings.server.data_dir)
    lock.start()
    try:
        # Imported here: the check of the settings needs no database library.
        from imserver.offline.copies import move as moving

        with long_work("copying the database") as note:
            return moving.move(
                source, target, settings.storage, tables, note, without=without
            )
    finally:
        lock.stop()


def _record_move(settings: Config, tables: StoreTables) -> None:
    """Record the move in the new database. Raises StartError."""
    with whole.started_store(
        settings.storage, settings.server.data_dir, tables
    ) as store:
        record_act(settings, store, "database.move")


def _print_report(report: Moved, target: DatabaseAddress, seconds: float) -> None:
    """Print which tables were moved, with their checksums, and which were not.

    Warnings go to standard error. Tables without rows are only counted.
    """
    for name in report.strangers:
        click.echo(
            f"imserver: the table {name} does not belong to this server, and was not copied",
            err=True,
        )
    click.echo(
        f"moved to {target.shown}: rows {report.rows}, tables {len(report.tables)}, in "
        f"{seconds:.0f} s; counts and checksums are equal"
    )
    _print_tables(report.tables)


def _print_tables(tables: Mapping[str, TableSum]) -> None:
    """Print the rows and the checksum of each table, ordered by name."""
    # Most tables of a small server are empty.
    empty = 0
    for name, table in sorted(tables.items()):
        if table.rows:
            click.echo(f"{name}  rows {table.rows}  {table.checksum}")
        else:
            empty += 1
    click.echo(f"tables without rows: {empty}")


def _settings_of_target(path: str | None, given: Mapping[str, str], url: str) -> Config:
    """Return the settings with the URL of the target.

    ``given``: settings from options of the command. Raises StartError.
    """
    try:
        settings, _ = load_with_locations(path, overrides={**given, "storage.url": url})
    except StartError as error:
        # The operator gave the URL as an option, not in a setting.
        reason = str(error).rpartition("storage.url: ")[2]
        raise StartError(f"--to: {reason}") from None
    return settings


# --- users who were erased since a copy was made, and are erased again --------


def erasures_of(database: Path) -> list[ErasureRow]:
    """Read the erasures that a SQLite file has stored.

    The list is empty if the file is unreadable.
    """
    statement = f"{RowsOf(ErasureRow, 'erasure').select} WHERE ended > 0"
    try:
        with closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return [ErasureRow(*row) for row in connection.execute(statement)]
    except sqlite3.Error:
        return []


def _finish(
    settings: Config,
    lock: DataDirectory,
    journal: Path | None,
    store: Store,
    before: Path | None,
) -> list[str]:
    """Erase the users again who were erased since the copy.

    It is the last step of a restore. Three places name the erasures. One is the
    replaced database ``before``; None if it was not a file. Two are journals:
    that of the data folder, and a further ``journal``; None if the operator
    gave none. At the end the journal of the data folder has all of them.

    ``store``: the restored database. Returns a report. Raises StartError.
    """
    try:
        rows = _erasures_since(before, lock.path / JOURNAL, journal)
        # A new data folder gets its secret here.
        keys = lock.secrets(settings.server).keys(PURPOSE)
        erasures = Erasures(store, lambda: keys)
        count = _erase_again(settings, store, erasures, rows)
        erasures.write_journal(lock.path, is_whole=True)
    except OSError as error:
        raise StartError(
            f"the journal {error.filename} cannot be used: {error.strerror}"
        ) from None
    except Unavailable as error:
        raise StartError(
            f"{error}: run imserver restore again before you start a server"
        ) from None
    record_act(settings, store, "database.restore", count=count)
    if count:
        return [f"users erased since the copy, and erased again now: {count}"]
    return []


@long_work("erasing again")
def _erasures_since(
    before: Path | None, journal: Path, further_journal: Path | None
) -> list[ErasureRow]:
    """Return the erasures of the replaced database and of both journals.

    None: there is no such file. Raises OSError and StartError.
    """
    rows = []
    if before is not None:
        rows += erasures_of(before)
    rows += read_journal(journal)
    if further_journal is not None:
        rows += read_journal(further_journal)
    return rows


def _erase_again(
    settings: Config, store: Store, erasures: Erasures, rows: Iterable[ErasureRow]
) -> int:
    """Carry out the erasures in ``rows`` that the restored database lacks.

    Returns how many users were erased. Raises Unavailable and StartError.
    """
    missing = _missing_from(erasures, rows)
    tables = tables_of(load_features(settings)).of_server()
    users = _users_of(erasures, store, missing, tables)
    with offline_parts(settings, store, Erasure) as named:
        parts = [erasure for _, erasure in reversed(named)]
        for row, user in users:
            erasures.repeat(row, user)
            _erase_with_bots(store, parts, row, user)
            erasures.end(row.app, user, row.ended)
    # Also erasures of users who are not in the copy, for the next restore.
    erasures.note(missing)
    return len(users)


def _erase(
    store: Store, parts: Sequence[Erasure], app: str, user: str, name: str
) -> None:
    """Erase a user from features, and then from the other tables.

    ``name``: takes the place of the user's id in messages that stay; ``""``:
    they keep the id.
    """
    for each in parts:
        each.user(app, user, name)
    store.delete_rows_of_user(app, user, spared_by(parts))


def _erase_with_bots(
    store: Store, parts: Sequence[Erasure], row: ErasureRow, user: str
) -> None:
    """Erase a user, and before that the user's bots. Raises Unavailable."""
    for program in programs_of(parts, row.app, user):
        _erase(store, parts, row.app, program, name="")
    _erase(store, parts, row.app, user, row.name)


def _missing_from(erasures: Erasures, rows: Iterable[ErasureRow]) -> list[ErasureRow]:
    """Return the erasures in ``rows`` that the restored database lacks."""
    rows_by_name = {row.name: row for row in rows}
    for ended in erasures.ended():
        rows_by_name.pop(ended.name, None)
    return list(rows_by_name.values())


def _users_of(
    erasures: Erasures,
    store: Store,
    rows: Iterable[ErasureRow],
    tables: Sequence[Table],
) -> list[tuple[ErasureRow, str]]:
    """Find the users of erasures who have rows in the database.

    Returns (erasure, user). An erasure has only a digest of the user's id, so
    it is compared with the digests of all users. If a user was erased several
    times, only the first erasure is returned.
    """
    pairs: list[tuple[ErasureRow, str]] = []
    for app, rows_of_app in _first_erasures(rows).items():
        users: set[str] = store.read_or(set(), partial(_users_in, app, tables))
        user_by_digest = _users_by_digest(erasures, app, users)
        for row in rows_of_app:
            if row.digest in user_by_digest:
                pairs.append((row, user_by_digest[row.digest]))
    return pairs


def _users_by_digest(
    erasures: Erasures, app: str, users: Iterable[str]
) -> dict[str, str]:
    """Return digest → user. A user has a digest for each secret of the server."""
    user_by_digest: dict[str, str] = {}
    for user in users:
        for digest in erasures.digests(app, user):
            user_by_digest[digest] = user
    return user_by_digest


def _first_erasures(rows: Iterable[ErasureRow]) -> dict[str, list[ErasureRow]]:
    """Return app → the first erasure of each of its digests."""
    newest_first = sorted(rows, key=lambda row: -row.ended)
    # Of equal digests, the last row stays: the oldest erasure.
    rows_by_digest = {row.digest: row for row in newest_first}
    rows_by_app: dict[str, list[ErasureRow]] = {}
    for row in rows_by_digest.values():
        rows_by_app.setdefault(row.app, []).append(row)
    return rows_by_app


def _users_in(app: str, tables: Sequence[Table], sql: PooledStatements) -> set[str]:
    """Return all users who have rows in an app.

    The declaration of a table names its column with a user, if it has one.
    """
    users: set[str] = set()
    for table in (*tables_of_others(sql), *tables):
        if isinstance(table.of_user, Reason) or table.of_app not in CONDITIONS_OF_APP:
            continue  # no column of the table has a user of an app
        column = table.of_user.removesuffix(" = %s")
        rows = sql.query(
            f"SELECT DISTINCT {column} FROM {table.name} WHERE {table.of_app}",
            (app,),
        )
        users.update(_user_of_cell(user) for (user,) in rows)
    return users


def _user_of_cell(user: Any) -> str:
    """Return the user in a cell of a table, as a text."""
    if isinstance(user, int):  # the id of an account
        return str(user)
    return text_of(user)
