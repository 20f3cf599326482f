"""Files in archives: writes their bytes to exports and backups, and reads them
from imports and backups."""

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
            for is_thumbnail, size in parts_of(row):
                if user and is_thumbnail:
                    continue
                if not app:
                    name = name_of(row, is_thumbnail)
                elif is_thumbnail:
                    name = f"{THUMBNAILS}/{row.id}"
                else:
                    name = f"{FILES}/{row.id}/{_file_name(row)}"
                pieces = self._pieces(row, is_thumbnail, size, of_server=not app)
                yield name, size, pieces

    def _pieces(
        self, row: Upload, is_thumbnail: bool, size: int, of_server: bool
    ) -> Iterator[bytes]:
        """The bytes of a file or of its thumbnail. ``of_server``: they are for a
        copy of the whole server, which must be complete. Raises
        FileNotFoundError if the file was deleted, and MediaUnavailable."""
        media = self._storage.of(row)
        is_checked_first = not (of_server or is_thumbnail)
        if is_checked_first and sha256_of(media, row.id, size) != row.sha256:
            # The file is damaged on the disk, so no import would accept it.
            raise FileNotFoundError(row.id)

        try:
            pieces = media.get(name_of(row, is_thumbnail), 0, size - 1)
            if of_server and not is_thumbnail:
                pieces = compared(pieces, row)
            yield from pieces
        except FileNotFoundError:
            if not of_server:
                raise
            # The file may have been deleted since its row was read.
            if self._store.read(partial(upload_rows.find, name=row.id)) is not None:
                raise MediaUnavailable("a file is missing") from None
            raise

    def write(self, app: str, name: str, content: IO[bytes]) -> bool:
        """Store a file of an archive, if its bytes match its row. Returns
        whether it was stored.

        ``app``: the app that is imported; ``""``: the whole server is restored.
        ``name``: the path in the archive, as :meth:`read` makes it. Raises
        MediaUnavailable, and in an import DamagedFile; then no file of the app
        stays.
        """
        if app:
            folder, _, rest = name.partition("/")
            if folder not in (FILES, THUMBNAILS):
                return False
            file_id = rest.partition("/")[0]
            is_thumbnail = folder == THUMBNAILS
        else:
            file_id = name.removesuffix(THUMBNAIL)
            is_thumbnail = name.endswith(THUMBNAIL)
        row = self._store.read_or(None, partial(upload_rows.find, name=file_id))
        if row is None:  # it was stored after the copy of the database
            return False
        if app and row.app != app:
            return False

        try:
            if app:
                _check_type(row, is_thumbnail, content)
            pieces = iter(partial(content.read, PIECE_BYTES), b"")
            self._storage.copy(row, is_thumbnail, pieces, self._storage.current)
        except DamagedFile:
            if not app:
                return False  # a restore continues with the other files
            # An import is refused as a whole, so none of its files may stay.
            for file in upload_rows.rows_of(self._store, app):
                self._storage.delete(file)
            raise

        if row.store_name != self._storage.current:
            self._store.write(
                partial(upload_rows.move, row=row, store_name=self._storage.current)
            )
        return True


def _check_type(row: Upload, is_thumbnail: bool, content: IO[bytes]) -> None:
    """Raise DamagedFile if the content has another type than the row, because
    browsers get the type of the row."""
    if is_thumbnail:
        media = MediaType("picture", row.thumbnail_type)
    else:
        media = MediaType(row.kind, row.type)
    actual = type_of(content.read(HEAD_BYTES))
    if media not in (actual, UNKNOWN):
        raise DamagedFile(row)
    content.seek(0)


def _file_name(row: Upload) -> str:
    """The name of a file in an archive: the sender's name for it, or a name
    made from its type."""
    name = shown_name(row.name).lstrip(".")
    if name:
        return name
    subtype = row.type.rpartition("/")[2].partition(";")[0].strip()
    return f"{row.kind}.{subtype}"


def sha256_of(store: Media, name: str, size: int) -> str:
    """The SHA-256 of bytes in a store. Raises FileNotFoundError and
    MediaUnavailable."""
    digest = hashlib.sha256()
    for piece in store.get(name, 0, size - 1):
        digest.update(piece)
    return digest.hexdigest()


def parts_of(row: Upload) -> tuple[tuple[bool, int], ...]:
    """The file, and its thumbnail if it has one, as (whether it is the
    thumbnail, number of bytes)."""
    file = (False, row.bytes)
    if row.thumbnail_bytes:
        return file, (True, row.thumbnail_bytes)
    return (file,)
