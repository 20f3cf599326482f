"""Files in archives: their bytes go into exports and backups, and come from imports and backups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from imserver.features.uploads import upload_rows
from imserver.features.uploads.contract import MediaUnavailable, Upload
from imserver.features.uploads.declared import UploadSettings
from imserver.features.uploads.directory import PIECE_BYTES
from imserver.features.uploads.uploads import THUMBNAIL, DamagedFile, UploadStorage, name_of, shown_name
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

_AT_ONCE = 200
FILES = "files"
THUMBNAILS = "thumbnails"


def read(config: Config, store: Store, app: str, user: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of a user; ``""``: of the app, with their thumbnails."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        last, nothing = "", list[Upload]()
        while rows := store.read_or(nothing, partial(upload_rows.after, app, user, last, _AT_ONCE)):
            for row in rows:
                yield f"{FILES}/{row.id}/{_file_name(row)}", _pieces(storage, row, False)
                if row.thumbnail_bytes and not user:
                    yield f"{THUMBNAILS}/{row.id}", _pieces(storage, row, True)
            last = rows[-1].id


def _file_name(row: Upload) -> str:
    name = shown_name(row.name).lstrip(".")
    return name or f"{row.kind}.{row.type.rpartition('/')[2].partition(';')[0].strip()}"


def _pieces(storage: UploadStorage, row: Upload, thumbnail: bool) -> Iterator[bytes]:
    size = row.thumbnail_bytes if thumbnail else row.bytes
    yield from storage.of(row).get(name_of(row, thumbnail), 0, size - 1)


@contextmanager
def write(config: Config, store: Store, app: str) -> Iterator[Callable[[str, str], bool]]:
    """A function that stores a file of an app whose row was imported."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:

        def take(name: str, path: str) -> bool:
            folder, _, rest = name.partition("/")
            if folder not in (FILES, THUMBNAILS):
                return False
            id = rest.partition("/")[0]
            row = store.read_or(None, lambda sql: upload_rows.find(sql, id))
            if row is None or row.app != app:
                return False
            storage.take(row, folder == THUMBNAILS, Path(path))
            return store.execute("UPDATE upload SET place = %s WHERE id = %s", (storage.current, id)) > 0

        yield take


# --- the archive of ``imserver backup --everything`` --------------------------------------------------------


def all_rows(store: Store) -> Iterator[list[Upload]]:
    """The rows of all files, in pages."""
    after, nothing = "", list[Upload]()
    while rows := store.read_or(nothing, partial(upload_rows.all_after, name=after, limit=_AT_ONCE)):
        yield rows
        after = rows[-1].id


def parts_of(row: Upload) -> tuple[tuple[bool, int], ...]:
    """The file, and its thumbnail if it has one: whether it is the thumbnail, and its bytes."""
    return ((False, row.bytes), (True, row.thumbnail_bytes))[: 2 if row.thumbnail_bytes else 1]


def read_files(config: Config, store: Store) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Name, size and pieces of all files, in whichever store they are. Raises MediaUnavailable."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        for row in (row for rows in all_rows(store) for row in rows):
            for is_thumbnail, size in parts_of(row):
                name = name_of(row, is_thumbnail)
                try:
                    pieces = storage.of(row).get(name, 0, size - 1)
                except FileNotFoundError:  # deleted since the row was read
                    continue
                yield name, size, pieces


def write_files(config: Config, store: Store, files: Iterable[tuple[str, IO[bytes]]]) -> int:
    """Store files where new ones go, if their rows are there. Returns their number.

    Raises MediaUnavailable, also if the bytes of a file are not those of its row.
    """
    count = 0
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        for name, content in files:
            id, to = name.removesuffix(THUMBNAIL), storage.current
            row = store.read_or(None, partial(upload_rows.find, name=id))
            if row is None:  # stored after the copy of the database
                continue
            try:
                storage.copy(row, name.endswith(THUMBNAIL), iter(partial(content.read, PIECE_BYTES), b""), to)
            except DamagedFile:
                problem = f"the bytes of the file {row.id} in the archive are damaged"
                raise MediaUnavailable(problem) from None
            if row.store_name != to:
                store.write(partial(upload_rows.move, row=row, store_name=to))
            count += 1
    return count
