"""``imserver backup --check``: restores a backup on trial, and compares the
result with it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from typing import Final

from msgspec import Struct

from imserver.gateway.config.settings import Config
from imserver.gateway.errors import StartError, Unavailable
from imserver.gateway.node.feature_list import (
    load_config,
    load_features,
    numbers_of_server,
    tables_of,
)
from imserver.gateway.offline import day
from imserver.gateway.storage.address import DatabaseAddress, database_address
from imserver.gateway.storage.tables import StoreTables
from imserver.offline.copies import backup as copies
from imserver.offline.copies import everything as whole
from imserver.offline.copies.archive import BackupArchive, is_archive, lack_of
from imserver.plugin.progress import long_work

_HOUR_SECONDS: Final = 3600


@long_work("restoring on trial")
def restore_on_trial(settings: Config, file: Path) -> str:
    """Restore a backup into a new folder beside it, and delete the folder.

    Returns a report about the restored data. Of ``settings``, only the names of
    features are used, so that nothing of the server can change.

    Raises StartError if the file is damaged, or if rows are missing after the
    restore. It also does so if files were damaged or missing when the backup
    was made.
    """
    begun_at = monotonic()
    try:
        with TemporaryDirectory(prefix=".trial.", dir=file.absolute().parent) as folder:
            restored = _restore(settings, file, Path(folder))
    except (OSError, sqlite3.Error, Unavailable) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"{file} cannot be restored on trial: {reason}") from None

    return _report_of_trial(file, restored, seconds=monotonic() - begun_at)


class _Restored(Struct, frozen=True):
    """The result of a restore on trial.

    ``created``: when the backup was made, in Unix seconds. ``lines``: of a
    report. ``absent``: the files that the backup lacks.
    """

    rows: int
    tables: int
    created: float
    lines: list[str]
    absent: list[str]


def _report_of_trial(file: Path, restored: _Restored, seconds: float) -> str:
    """Say what was restored from a backup.

    Raises StartError if files were missing when the backup was made.
    """
    done = (
        f"{file} was restored on trial in {seconds:.0f} s: rows {restored.rows}, "
        f"tables {restored.tables}"
    )
    # The backup can be restored, but it is not complete.
    if restored.absent:
        raise StartError(f"{done}, but {lack_of(restored.absent)}")
    hours = (time() - restored.created) / _HOUR_SECONDS
    age = f"it was made {day(int(restored.created))} UTC, {hours:.1f} hours ago"
    return "\n".join([done, *restored.lines, age])


def _restore(settings: Config, file: Path, folder: Path) -> _Restored:
    """Restore a backup into a folder, and compare the rows with the backup.

    The backup is an archive, or a copy of the database alone. Raises
    StartError, Unavailable, OSError and sqlite3.Error.
    """
    features = load_features(settings)
    data = folder / "data"
    data.mkdir(mode=0o700)
    trial = _settings_of_trial(data, [feature.name for feature in features])
    address = database_address(trial.storage, str(data))
    assert address.file is not None
    absent: list[str] = []
    if is_archive(file):
        archive = BackupArchive(file)
        copy = folder / "copy.db"
        lines = _restore_archive(trial, address, archive, copy)
        created: float = archive.head.created
        absent = archive.absent
    else:
        copy = file
        lines = ["a copy of the database alone has no checksum"]
        created = file.stat().st_mtime
        copies.restore(address.file, copy, numbers_of_server())
        _require_openable(trial, tables_of(features))
    rows, tables = _compare(copy, address.file)
    return _Restored(rows, tables, created, lines, absent)


def _settings_of_trial(data: Path, features: list[str]) -> Config:
    """Return the settings of a server with the data folder ``data``."""
    overrides = {"server.data_dir": str(data), "features": features}
    return load_config(os.devnull, environ={}, overrides=overrides)


def _restore_archive(
    trial: Config, address: DatabaseAddress, archive: BackupArchive, copy: Path
) -> list[str]:
    """Restore an archive by the settings ``trial``.

    Also write its database to ``copy``, to compare the restored one with it.
    Returns the lines of a report about files and the checksum. Raises
    StartError.
    """
    report = whole.restore(trial, address, archive, (), _finish_nothing)
    archive.extract_database(copy)
    lines = [line for line in report.split("\n") if " files of " in line]
    if archive.has_checksum:
        lines.append("the checksum is right")
    else:
        lines.append("without a checksum: a release before 1.1 has made it")
    return lines


def _finish_nothing(_store: object, _before: object) -> list[str]:
    """Do nothing: on trial, nobody is erased again."""
    return []


def _compare(copy: Path, restored: Path) -> tuple[int, int]:
    """Compare the numbers of rows of all tables.

    A restore may add rows, so that no id is given twice. Returns the number of
    rows of the copy, and the number of its tables. Raises StartError if rows
    are missing.
    """
    before = _counts(copy)
    after = _counts(restored)
    for table, count in before.items():
        came_back = after.get(table, 0)
        # More rows are no error: a restore may add some.
        if came_back < count:
            raise StartError(
                f"of {count} rows of the table {table}, {came_back} came back"
            )
    return sum(before.values()), len(before)


def _counts(database: Path) -> dict[str, int]:
    """Return each table of a SQLite file → the number of its rows.

    The file is not changed.
    """
    url = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(url, uri=True)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        counts = {}
        for (name,) in tables:
            count = connection.execute(f'SELECT count(*) FROM "{name}"')
            (counts[name],) = count.fetchone()
        return counts


def _require_openable(trial: Config, tables: StoreTables) -> None:
    """Raise StartError if a server cannot open the restored database."""
    with whole.started_store(trial.storage, trial.server.data_dir, tables):
        pass
