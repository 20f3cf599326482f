"""The archive of ``imserver backup --everything``, and how ``imserver restore``
puts it back."""

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
    help="Leave the tables of this feature of another distribution behind.",
)
_PARTS: Final = ".restore."

Finish = Callable[[Store, Path | None], list[str]]
"""The last step of a restore: gets what is stored, and the previous database if
it is a file. Returns what was done."""


def backup(
    settings: Config, address: DatabaseAddress, file: Path, without: Sequence[str]
) -> str:
    """Write all that a server has stored to a new archive. Servers may run.
    Returns what was done.

    ``without``: features whose tables stay behind if the database is no SQLite
    file. Raises StartError, also if the archive is there and lacks files.
    """
    if file.exists():
        raise StartError(f"{file} exists already")
    features = load_features(settings)
    with tempfile.TemporaryDirectory(
        prefix=f".{file.name}.", dir=file.absolute().parent
    ) as folder:
        copy = Path(folder, "database.db")
        if address.file is not None:
            copies.backup(address.file, copy)
        else:
            from imserver.offline.copies.move import move  # needs the drivers

            target = _of_file(copy)
            tables = tables_of(features)
            with long_work("copying the database") as note:
                move(
                    address,
                    target,
                    settings.storage,
                    tables,
                    note,
                    without=without,
                    is_live=True,
                )
            with closing(sqlite3.connect(copy)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")
        paths = {name: path for name, path in _paths(settings).items() if path}
        if not (settings.server.secret_file or paths["secret"].exists()):
            # no server has made it; one that the settings name must be there
            del paths["secret"]
        try:
            secrets = {
                name: path.read_bytes().decode("latin-1")
                for name, path in paths.items()
            }
        except OSError as error:
            raise StartError(
                f"the secret {error.filename} cannot be read: {error.strerror}"
            ) from None
        try:
            folder, tables = settings.server.data_dir, tables_of(features)
            with (
                started_store(settings.storage, folder, tables) as store,
                offline_parts(settings, store, ArchivedFiles) as parts,
            ):
                files = sum(
                    size for _, part in parts for _, size, _ in part.read("", "")
                )
                need_space(file.parent, copy.stat().st_size + files)
                count, absent = write(file, copy, secrets, _read_files(parts))
        except ImserverError as error:
            raise StartError(str(error)) from None
    done = f"copied the database to {file}; secrets {len(secrets)}, files {count}"
    if absent:
        raise StartError(f"{done}, but {lack_of(absent)}")
    return done


def _read_files(parts: Iterable[tuple[str, ArchivedFiles]]) -> Iterator[FeatureFile]:
    for feature, part in parts:
        for name, size, pieces in part.read("", ""):
            try:
                first = next(pieces, b"")
            except FileNotFoundError:  # deleted since its row was read
                continue
            except ImserverError:
                first = b""
                size = -1
            yield FeatureFile(feature, name, size, chain((first,), pieces))


@long_work("restoring")
def restore(
    settings: Config,
    address: DatabaseAddress,
    archive: BackupArchive,
    without: Sequence[str],
    finish: Finish,
) -> str:
    """Put all of an archive back. No server runs. Returns what was done. Raises
    StartError.

    SQLite: the database is replaced, and no server starts until ``copies.end``.
    Otherwise it must be empty, or that of an interrupted restore, no server
    opens it before all is done, and ``without`` names features whose tables
    stay behind.
    """
    tables = tables_of(load_features(settings))
    folder = Path(settings.server.data_dir)
    need_space(folder, archive.size + archive.database_size)  # the copy is copied
    for rest in folder.glob(f"{_PARTS}*"):  # of an interrupted restore
        shutil.rmtree(rest, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PARTS, dir=folder) as parts:
        copy = Path(parts, "database.db")
        archive.extract_database(copy)
        copies.check(copy)
        of_copy = StorageSettings(f"sqlite:///{copy}")
        # A copy of the release before gets the tables of this one. What no
        # server can use is refused here.
        with started_store(of_copy, parts, tables):
            pass
        if address.file is not None:
            replaced, before = copies.restore(
                address.file, copy, numbers_of_server(), folder
            )
            with started_store(
                settings.storage, settings.server.data_dir, tables
            ) as store:
                return "\n".join(
                    [
                        replaced,
                        *_complete(settings, archive, store),
                        *finish(store, before),
                    ]
                )
        from imserver.offline.copies.move import move  # needs the drivers

        copies.move_copy_on(copy, numbers_of_server())
        done = [f"restored {address.shown}"]

        def complete() -> None:
            with started_store(of_copy, parts, tables) as store:
                done.extend(_complete(settings, archive, store) + finish(store, None))

        with long_work("copying into the database") as note:
            source = _of_file(copy)
            move(
                source,
                address,
                settings.storage,
                tables,
                note,
                without=without,
                complete=complete,
            )
        return "\n".join(done)


def _complete(settings: Config, archive: BackupArchive, store: Store) -> list[str]:
    """Put secrets and files back. Returns what was done. Raises StartError."""
    done = _put_secrets(settings, archive.head.secrets)
    absent = {*archive.absent}
    try:
        with offline_parts(settings, store, ArchivedFiles) as parts:
            for name, part in parts:
                if type(part).write is ArchivedFiles.write:
                    continue
                some = (
                    file
                    for file in archive.files(name)
                    if f"{name}/{file[0]}" not in absent
                )
                count = sum(part.write("", *file) for file in some)
                done.append(f"restored files of {name}: {count}")
                more = archive.features[name] - count
                if more:
                    done.append(
                        f"left out files of {name}, damaged or newer than the database: {more}"
                    )
    except ImserverError as error:
        raise StartError(f"{error}; run the same command again") from None
    done += [lack_of(archive.absent)] if absent else []
    left = {*archive.features} - {feature.name for feature in load_features(settings)}
    return done + [
        f"left out the files of {name}, which the settings do not name"
        for name in sorted(left)
    ]


def _of_file(path: Path) -> DatabaseAddress:
    return database_address(StorageSettings(f"sqlite:///{path.absolute()}"), "")


@contextmanager
def started_store(
    settings: StorageSettings, folder: str, tables: StoreTables
) -> Iterator[Store]:
    """The store of a database, for a command. Raises StartError and
    StorageUnavailable."""
    with closing(Store(settings, folder, threaded=False, tables=tables)) as store:
        store.start()
        yield store


def _paths(settings: Config) -> dict[str, Path | None]:
    """Where the secrets are; None: the settings name no second one."""
    server = settings.server
    if server.secret_file:
        first = Path(server.secret_file)
    else:
        first = Path(server.data_dir, "secret")
    if server.second_secret_file:
        second = Path(server.second_secret_file)
    else:
        second = None
    return dict(zip(("secret", "second_secret"), (first, second), strict=True))


def _put_secrets(settings: Config, secrets: dict[str, Any]) -> list[str]:
    done = []
    for name, path in _paths(settings).items():
        content = secrets.get(name)
        if content is None:
            continue
        if path is None:
            done.append(
                "the archive has a second secret, for which the settings have no server.second_secret_file"
            )
            continue
        try:
            if path.exists():
                if path.read_bytes().decode("latin-1").strip() == content.strip():
                    continue
                before = free_name(path.with_name(f"{path.name}.before"))
                path.rename(before)
                done.append(f"the previous {name} is {before}")
            write_whole(path, content.encode("latin-1"))
        except OSError as error:
            raise StartError(
                f"the secret {path} cannot be written: {error.strerror}"
            ) from None
        done.append(f"restored {path}")
    return done
