"""Files in the archive of ``imserver backup --everything``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import IO, Final

from msgspec.structs import replace

from imserver.features.uploads import upload_rows
from imserver.features.uploads.contract import MediaUnavailable, Upload
from imserver.features.uploads.declared import UploadSettings
from imserver.features.uploads.directory import PIECE_BYTES, open_private, write_all
from imserver.features.uploads.uploads import THUMBNAIL, UploadStorage, name_of, new_id
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

_ROWS: Final = 200


def all_rows(store: Store) -> Iterator[list[Upload]]:
    """The rows of all files, in pages."""
    after = ""
    while rows := _rows(store, after):
        yield rows
        after = rows[-1].id


def _rows(store: Store, after: str) -> list[Upload]:
    nothing: list[Upload] = []
    return store.read_or(nothing, lambda sql: upload_rows.all_after(sql, after, _ROWS))


def _row(store: Store, name: str) -> Upload | None:
    return store.read_or(None, lambda sql: upload_rows.find(sql, name))


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
            row = _row(store, name.removesuffix(THUMBNAIL))
            if row is None:  # stored after the copy of the database
                continue
            _write(storage, row, name.endswith(THUMBNAIL), content)
            if row.store_name != storage.current:
                _note(store, row, storage.current)
            count += 1
    return count


def _note(store: Store, row: Upload, store_name: str) -> None:
    store.write(lambda sql: upload_rows.move(sql, row, store_name))


def _write(storage: UploadStorage, row: Upload, is_thumbnail: bool, content: IO[bytes]) -> None:
    path, digest, size = storage.directory.incoming() / new_id(), hashlib.sha256(), 0
    try:
        with open_private(path) as file:
            while piece := content.read(PIECE_BYTES):
                digest.update(piece)
                write_all(file, piece)
                size += len(piece)
        sha256 = digest.hexdigest()
        if not is_thumbnail and sha256 != row.sha256:
            raise MediaUnavailable(f"the bytes of the file {row.id} in the archive are damaged")
        store = storage.of(replace(row, store_name=storage.current))
        kind = row.thumbnail_type if is_thumbnail else row.type
        store.put(name_of(row, is_thumbnail), str(path), size, sha256, kind)
    finally:
        path.unlink(missing_ok=True)
