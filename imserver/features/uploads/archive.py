"""Files in archives: their bytes go into exports and backups, and come from imports and backups."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import IO

from imserver.features.uploads import upload_rows
from imserver.features.uploads.contract import Media, Upload
from imserver.features.uploads.declared import UploadSettings
from imserver.features.uploads.directory import PIECE_BYTES
from imserver.features.uploads.media import HEAD_BYTES, UNKNOWN, MediaType, type_of
from imserver.features.uploads.uploads import THUMBNAIL, DamagedFile, UploadStorage, name_of, shown_name
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

FILES = "files"
THUMBNAILS = "thumbnails"


def read(config: Config, store: Store, app: str, user: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of a user; ``""``: of the app, with their thumbnails."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        for row in upload_rows.rows_of(store, app, user):
            yield f"{FILES}/{row.id}/{_file_name(row)}", _pieces(storage, row, False)
            if row.thumbnail_bytes and not user:
                yield f"{THUMBNAILS}/{row.id}", _pieces(storage, row, True)


def _file_name(row: Upload) -> str:
    name = shown_name(row.name).lstrip(".")
    return name or f"{row.kind}.{row.type.rpartition('/')[2].partition(';')[0].strip()}"


def _pieces(storage: UploadStorage, row: Upload, thumbnail: bool) -> Iterator[bytes]:
    store, size = storage.of(row), row.thumbnail_bytes if thumbnail else row.bytes
    if not thumbnail and sha256_of(store, row.id, size) != row.sha256:
        raise FileNotFoundError(row.id)  # its disk is damaged, so no import would take it
    yield from store.get(name_of(row, thumbnail), 0, size - 1)


def sha256_of(store: Media, name: str, size: int) -> str:
    """The SHA-256 of bytes in a store. Raises FileNotFoundError and MediaUnavailable."""
    digest = hashlib.sha256()
    for piece in store.get(name, 0, size - 1):
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def write(config: Config, store: Store, app: str) -> Iterator[Callable[[str, str], bool]]:
    """A function that stores a file of an app whose row was imported.

    It raises DamagedFile for a file that is not what its row says. Then no file of the app is there.
    """
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:

        def take(name: str, path: str) -> bool:
            folder, _, rest = name.partition("/")
            if folder not in (FILES, THUMBNAILS):
                return False
            id = rest.partition("/")[0]
            row = store.read_or(None, lambda sql: upload_rows.find(sql, id))
            if row is None or row.app != app:
                return False
            is_thumbnail = folder == THUMBNAILS
            # A browser gets the file under this type.
            media = ("picture", row.thumbnail_type) if is_thumbnail else (row.kind, row.type)
            try:
                with open(path, "rb") as file:
                    if MediaType(*media) not in (type_of(file.read(HEAD_BYTES)), UNKNOWN):
                        raise DamagedFile(row)
                    file.seek(0)
                    _put(store, storage, row, is_thumbnail, file)
            except DamagedFile:
                for each in upload_rows.rows_of(store, app):
                    storage.delete(each)
                raise
            return True

        yield take


def _put(store: Store, storage: UploadStorage, row: Upload, is_thumbnail: bool, content: IO[bytes]) -> None:
    """Store a file, or its thumbnail, where new ones go. Raises MediaUnavailable and DamagedFile."""
    pieces = iter(partial(content.read, PIECE_BYTES), b"")
    storage.copy(row, is_thumbnail, pieces, storage.current)
    if row.store_name != storage.current:
        store.write(partial(upload_rows.move, row=row, store_name=storage.current))


# --- the archive of ``imserver backup --everything`` --------------------------------------------------------


def parts_of(row: Upload) -> tuple[tuple[bool, int], ...]:
    """The file, and its thumbnail if it has one: whether it is the thumbnail, and its bytes."""
    return ((False, row.bytes), (True, row.thumbnail_bytes))[: 2 if row.thumbnail_bytes else 1]


def read_files(config: Config, store: Store) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Name, size and pieces of all files, in whichever store they are. Raises MediaUnavailable."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        for row in upload_rows.rows_of(store):
            for is_thumbnail, size in parts_of(row):
                name = name_of(row, is_thumbnail)
                try:
                    pieces = storage.of(row).get(name, 0, size - 1)
                except FileNotFoundError:  # deleted since the row was read
                    continue
                yield name, size, pieces


def write_files(config: Config, store: Store, files: Iterable[tuple[str, IO[bytes]]]) -> int:
    """Store files where new ones go, if they are what their rows say. Returns their number. Raises
    MediaUnavailable."""
    count = 0
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        for name, content in files:
            row = store.read_or(None, partial(upload_rows.find, name=name.removesuffix(THUMBNAIL)))
            if row is None:  # stored after the copy of the database
                continue
            with suppress(DamagedFile):  # the others come back
                _put(store, storage, row, name.endswith(THUMBNAIL), content)
                count += 1
    return count
