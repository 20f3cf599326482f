"""The archive of ``imserver backup --everything``, and its restore by
``imserver restore``."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click

from imserver.gateway.config.settings import Config, StorageSettings
from imserver.gateway.errors import ImserverError, StartError
from imserver.gateway.node.feature_list import (
    load_features,
    numbers_of_server,
    tables_of,
)
from imserver.gateway.offline import offline_parts
from imserver.gateway.storage.address import DatabaseAddress, database_address
from imserver.gateway.storage.contract import ArchivedFiles
from imserver.gateway.storage.store import Store
from imserver.gateway.storage.tables import StoreTables
from imserver.offline.copies import backup as copies
from imserver.offline.copies.archive import BackupArchive, FeatureFile, lack_of, write
from imserver.offline.copies.files import free_name, write_whole
from imserver.plugin.progress import long_work
from imserver.plugin.space import need_space

without_option: Final = click.option(
    "--without",
    multiple=True,
    metavar="FEATURE",
    help="Do not copy the tables of this feature, which comes from another package.",
)
_PARTS: Final = ".restore."
"""The names of temporary folders of a restore begin so."""

Finish = Callable[[Store, Path | None], list[str]]
"""The last step of a restore, as a function. Its arguments are the store, and
the path of the replaced database; None if that was not a file. Returns a
report."""


def backup(
    settings: Config, address: DatabaseAddress, file: Path, without: Sequence[str]
) -> str:
    """Write everything that a server has stored to a new archive.

    Servers may run. ``without``: features whose tables are not copied if the
    database is not a SQLite file. Returns a report. Raises StartError. If files
    are missing in the archive, it is written, and then StartError is raised.
    """
    if file.exists():
        raise StartError(f"{file} exists already")
    tables = tables_of(load_features(settings))
    # The copy is beside the archive, which is on a disk with space for both.
    with tempfile.TemporaryDirectory(
        prefix=f".{file.name}.", dir=file.absolute().parent
    ) as folder:
        copy = Path(folder, "database.db")
        _copy_database(settings, address, copy, tables, without)
        secrets = _read_secrets(settings)
        try:
            with (
                started_store(
                    settings.storage, settings.server.data_dir, tables
                ) as store,
                offline_parts(settings, store, ArchivedFiles) as parts,
            ):
                size = copy.stat().st_size + _size_of_files(parts)
                need_space(file.parent, size)
                count, absent = write(file, copy, secrets, _read_files(parts))
        except ImserverError as error:
            raise StartError(str(error)) from None
    return _report_of_backup(file, len(secrets), count, absent)


def _report_of_backup(
    file: Path, secrets: int, files: int, absent: Sequence[str]
) -> str:
    """Say how much the new archive has, in numbers of secrets and files.

    ``absent``: the names of files that could not be read. If there are any, the
    same words are raised as a StartError.
    """
    done = f"copied the database to {file}; secrets {secrets}, files {files}"
    if absent:
        raise StartError(f"{done}, but {lack_of(absent)}")
    return done


def _copy_database(
    settings: Config,
    address: DatabaseAddress,
    copy: Path,
    tables: StoreTables,
    without: Sequence[str],
) -> None:
    """Copy a database of any engine to a SQLite file.

    ``without`` is for other engines than SQLite only. Raises StartError.
    """
    if address.file is not None:
        copies.backup(address.file, copy)
        return
    from imserver.offline.copies.move import move  # needs the drivers

    with long_work("copying the database") as note:
        move(
            address,
            _address_of_file(copy),
            settings.storage,
            tables,
            note,
            without=without,
            is_live=True,
        )
    # Without a write-ahead log, the archive needs only one file.
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _read_secrets(settings: Config) -> dict[str, str]:
    """Return the name → content of each secret of the server.

    Without the secrets, tokens and links of the restored server would not be
    valid. Raises StartError.
    """
    paths = {name: path for name, path in _secret_paths(settings).items() if path}
    # A secret that the settings name must exist. Otherwise the first server
    # makes one, and no server has run yet.
    if not (settings.server.secret_file or paths["secret"].exists()):
        del paths["secret"]
    try:
        return {
            name: path.read_bytes().decode("latin-1") for name, path in paths.items()
        }
    except OSError as error:
        raise StartError(
            f"the secret {error.filename} cannot be read: {error.strerror}"
        ) from None


def _size_of_files(parts: Iterable[tuple[str, ArchivedFiles]]) -> int:
    """Return the bytes of the files of features."""
    total = 0
    for _, part in parts:
        # Empty names mean the files of the whole server.
        for _, size, _ in part.read("", ""):
            total += size
    return total


def _read_files(parts: Iterable[tuple[str, ArchivedFiles]]) -> Iterator[FeatureFile]:
    """Yield the files of features.

    ``parts``: (feature, its files). Files that were deleted meanwhile are left
    out. A file that cannot be read has the size -1.
    """
    for feature, part in parts:
        for name, size, pieces in part.read("", ""):
            try:
                # The first piece shows whether the file can be read.
                first = next(pieces, b"")
            except FileNotFoundError:  # deleted since its row was read
                continue
            except ImserverError:
                first = b""
                size = -1  # it is unreadable
            yield FeatureFile(feature, name, size, chain((first,), pieces))


@long_work("restoring")
def restore(
    settings: Config,
    address: DatabaseAddress,
    archive: BackupArchive,
    without: Sequence[str],
    finish: Finish,
) -> str:
    """Restore a whole archive. No server may run. Returns a report.

    A SQLite database is replaced, and no server starts until ``copies.end``.
    Any other database must be empty, or left by an interrupted restore, and no
    server opens it before the end. ``without``: features whose tables are not
    copied. ``finish``: the last step. Raises StartError.
    """
    tables = tables_of(load_features(settings))
    folder = Path(settings.server.data_dir)
    # The database is extracted from the archive, and then copied once more.
    need_space(folder, archive.size + archive.database_size)
    _delete_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=_PARTS, dir=folder) as parts:
        copy = Path(parts, "database.db")
        storage_of_copy = _extract(archive, copy, tables)
        if address.file is not None:
            line, before = copies.restore(
                address.file, copy, numbers_of_server(), folder
            )
            with started_store(
                settings.storage, settings.server.data_dir, tables
            ) as store:
                # Secrets and files belong to the restored database, so they
                # come after it.
                completed = _restore_around(settings, archive, store)
                return "\n".join([line, *completed, *finish(store, before)])

        lines = [f"restored {address.shown}"]

        def complete() -> None:
            """Restore everything else with the extracted copy, before its rows
            are copied. The row that lets servers start is copied last, so a
            server never sees an incomplete restore."""
            with started_store(storage_of_copy, parts, tables) as store:
                lines.extend(_restore_around(settings, archive, store))
                lines.extend(finish(store, None))

        _copy_to_server(settings, copy, address, tables, without, complete)
        return "\n".join(lines)


def _copy_to_server(
    settings: Config,
    copy: Path,
    address: DatabaseAddress,
    tables: StoreTables,
    without: Sequence[str],
    complete: Callable[[], None],
) -> None:
    """Copy the SQLite file ``copy`` to a database server.

    ``complete`` is called first. Raises StartError.
    """
    from imserver.offline.copies.move import move  # needs the drivers

    copies.move_copy_on(copy, numbers_of_server())
    with long_work("copying into the database") as note:
        move(
            _address_of_file(copy),
            address,
            settings.storage,
            tables,
            note,
            without=without,
            complete=complete,
        )


def _extract(
    archive: BackupArchive, copy: Path, tables: StoreTables
) -> StorageSettings:
    """Extract the database of an archive to the file ``copy``.

    Returns the settings with which a server opens it. Raises StartError if no
    server can use it.
    """
    archive.extract_database(copy)
    copies.check(copy)
    storage = StorageSettings(f"sqlite:///{copy}")
    # This start takes the migration steps that an archive of an earlier release
    # lacks.
    with started_store(storage, str(copy.parent), tables):
        pass
    return storage


def _delete_leftovers(folder: Path) -> None:
    """Delete the temporary folders of restores that were interrupted."""
    for leftover in folder.glob(f"{_PARTS}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _restore_around(
    settings: Config, archive: BackupArchive, store: Store
) -> list[str]:
    """Restore the secrets and files that belong to the database.

    Returns the lines of a report. Raises StartError.
    """
    done = _put_secrets(settings, archive.head.secrets)
    try:
        with offline_parts(settings, store, ArchivedFiles) as parts:
            for feature, part in parts:
                # A feature that only reads files has nothing to restore.
                if type(part).write is not ArchivedFiles.write:
                    done += _put_files(archive, feature, part)
    except ImserverError as error:
        raise StartError(f"{error}; run the same command again") from None
    return [*done, *_left_out_of(settings, archive)]


def _left_out_of(settings: Config, archive: BackupArchive) -> Iterator[str]:
    """Say which files are not restored, because nobody has them or wants them."""
    if archive.absent:
        yield lack_of(archive.absent)
    present = {feature.name for feature in load_features(settings)}
    for name in sorted(archive.features.keys() - present):
        yield (
            f"left out the files of the feature {name}, which the settings do not name"
        )


def _put_files(archive: BackupArchive, feature: str, part: ArchivedFiles) -> list[str]:
    """Restore the files of a feature. Returns the lines of a report.

    Files that are incomplete in the archive are left out. Raises ImserverError.
    """
    incomplete = set(archive.absent)
    count = 0
    for name, content in archive.files(feature):
        if f"{feature}/{name}" not in incomplete:
            # An empty app means the whole server.
            is_stored = part.write("", name, content)
            count += is_stored
    done = [f"restored files of {feature}: {count}"]
    left_out = archive.features[feature] - count
    if left_out:
        done.append(
            f"left out files of {feature}, damaged or newer than the database: {left_out}"
        )
    return done


def _address_of_file(path: Path) -> DatabaseAddress:
    """Return the address of a SQLite file."""
    return database_address(StorageSettings(f"sqlite:///{path.absolute()}"), "")


@contextmanager
def started_store(
    settings: StorageSettings, folder: str, tables: StoreTables
) -> Iterator[Store]:
    """Open the store of a database until the end of the block, for a command.

    Raises StartError and StorageUnavailable.
    """
    with closing(Store(settings, folder, threaded=False, tables=tables)) as store:
        store.start()
        yield store


def _secret_paths(settings: Config) -> dict[str, Path | None]:
    """Return the paths of ``secret`` and ``second_secret``.

    The second path is None if the settings name no second secret.
    """
    server = settings.server
    first = Path(server.secret_file or Path(server.data_dir, "secret"))
    second = None
    if server.second_secret_file:
        second = Path(server.second_secret_file)
    return {"secret": first, "second_secret": second}


def _put_secrets(settings: Config, secrets: dict[str, Any]) -> list[str]:
    """Write the secrets of an archive. Returns the lines of a report.

    A different secret that exists already gets another name. Raises StartError.
    """
    done = []
    for name, path in _secret_paths(settings).items():
        content = secrets.get(name)
        if content is None:
            continue
        # The operator has to name a file first.
        if path is None:
            done.append(
                "the archive has a second secret, for which the settings have no server.second_secret_file"
            )
            continue
        try:
            done += _put_secret(name, path, content)
        except OSError as error:
            raise StartError(
                f"the secret {path} cannot be written: {error.strerror}"
            ) from None
    return done


def _put_secret(name: str, path: Path, content: str) -> list[str]:
    """Write a secret, and keep a different one under another name.

    ``name``: for example ``secret``. Returns the lines of a report. Raises
    OSError.
    """
    done = []
    if path.exists():
        # The secret is there already: nothing has to change.
        if path.read_bytes().decode("latin-1").strip() == content.strip():
            return []
        before = free_name(path.with_name(f"{path.name}.before"))
        path.rename(before)
        done.append(f"the previous {name} is {before}")
    write_whole(path, content.encode("latin-1"))
    return [*done, f"restored {path}"]
