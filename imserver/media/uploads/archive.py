"""Files in archives: their bytes go into exports and backups, and come from
imports and backups."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import IO

from imserver.media.uploads import upload_rows
from imserver.media.uploads.contract import Media, MediaUnavailable, Upload
from imserver.media.uploads.directory import PIECE_BYTES
from imserver.media.uploads.media import HEAD_BYTES, UNKNOWN, MediaType, type_of
from imserver.media.uploads.uploads import (
    THUMBNAIL,
    DamagedFile,
    UploadStorage,
    compared,
    name_of,
    shown_name,
)
from imserver.plugin.storage import ArchivedFiles, Store

FILES = "files"
THUMBNAILS = "thumbnails"


class UploadFiles(ArchivedFiles):
    """Files in archives: of a user, of an app with their thumbnails, or of the
    server."""

    def __init__(self, storage: UploadStorage, store: Store) -> None:
        self._storage = storage
        self._store = store

    def read(self, app: str, user: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """See :class:`ArchivedFiles`."""
        for row in upload_rows.rows_of(self._store, app, user):
            for is_thumbnail, size in parts_of(row)[: 1 if user else 2]:
                name = name_of(row, is_thumbnail)
                if app:
                    if is_thumbnail:
                        name = f"{THUMBNAILS}/{row.id}"
                    else:
                        name = f"{FILES}/{row.id}/{_file_name(row)}"
                yield (
                    name,
                    size,
                    self._pieces(row, is_thumbnail, size, is_whole=not app),
                )

    def _pieces(
        self, row: Upload, is_thumbnail: bool, size: int, is_whole: bool
    ) -> Iterator[bytes]:
        media = self._storage.of(row)
        if (
            not (is_whole or is_thumbnail)
            and sha256_of(media, row.id, size) != row.sha256
        ):
            # its disk is damaged, so no import would take it
            raise FileNotFoundError(row.id)
        try:
            pieces = media.get(name_of(row, is_thumbnail), 0, size - 1)
            yield from (
                compared(pieces, row) if is_whole and not is_thumbnail else pieces
            )
        except FileNotFoundError:
            if (
                is_whole
                and self._store.read(partial(upload_rows.find, name=row.id)) is not None
            ):
                raise MediaUnavailable("a file is missing") from None
            raise

    def write(self, app: str, name: str, content: IO[bytes]) -> bool:
        """Store a file, if it is what its row says. Raises MediaUnavailable,
        and in an import DamagedFile: then no file of the app is there."""
        folder, _, rest = name.partition("/")
        if app and folder not in (FILES, THUMBNAILS):
            return False
        if app:
            id = rest.partition("/")[0]
        else:
            id = name.removesuffix(THUMBNAIL)
        if app:
            is_thumbnail = folder == THUMBNAILS
        else:
            is_thumbnail = name.endswith(THUMBNAIL)
        row = self._store.read_or(None, partial(upload_rows.find, name=id))
        # it was stored after the copy of the database
        if row is None or row.app != (app or row.app):
            return False
        try:
            if app:  # a browser gets the file under this type
                if is_thumbnail:
                    media = ("picture", row.thumbnail_type)
                else:
                    media = (row.kind, row.type)
                if MediaType(*media) not in (
                    type_of(content.read(HEAD_BYTES)),
                    UNKNOWN,
                ):
                    raise DamagedFile(row)
                content.seek(0)
            pieces = iter(partial(content.read, PIECE_BYTES), b"")
            self._storage.copy(row, is_thumbnail, pieces, self._storage.current)
        except DamagedFile:
            if not app:
                return False  # the others come back
            for each in upload_rows.rows_of(self._store, app):
                self._storage.delete(each)
            raise
        if row.store_name != self._storage.current:
            self._store.write(
                partial(upload_rows.move, row=row, store_name=self._storage.current)
            )
        return True


def _file_name(row: Upload) -> str:
    name = shown_name(row.name).lstrip(".")
    return name or f"{row.kind}.{row.type.rpartition('/')[2].partition(';')[0].strip()}"


def sha256_of(store: Media, name: str, size: int) -> str:
    """The SHA-256 of bytes in a store. Raises FileNotFoundError and
    MediaUnavailable."""
    digest = hashlib.sha256()
    for piece in store.get(name, 0, size - 1):
        digest.update(piece)
    return digest.hexdigest()


def parts_of(row: Upload) -> tuple[tuple[bool, int], ...]:
    """The file, and its thumbnail if it has one: whether it is the thumbnail,
    and its bytes."""
    return ((False, row.bytes), (True, row.thumbnail_bytes))[
        : 2 if row.thumbnail_bytes else 1
    ]
