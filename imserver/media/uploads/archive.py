"""Files in archives: writes their bytes to exports and backups, and reads them
from imports and backups."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import IO, NamedTuple

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


class ArchivedFile(NamedTuple):
    """A file to write to an archive.

    ``name``: its path there. ``pieces``: its bytes, which are read when they
    are iterated.
    """

    name: str
    size: int
    pieces: Iterator[bytes]


class StoredPart(NamedTuple):
    """A file or its thumbnail, as bytes in a store."""

    is_thumbnail: bool
    size: int


class UploadFiles(ArchivedFiles):
    """The uploaded files in archives: in exports of a user or an app, and in
    backups of the whole server. Thumbnails are left out of exports of a
    user."""

    def __init__(self, storage: UploadStorage, store: Store) -> None:
        self._storage = storage
        self._store = store

    def read(self, app: str, user: str) -> Iterator[ArchivedFile]:
        """List the uploaded files that belong in an archive.

        The arguments choose one of three archives. With both, it is the export
        of a user. Without ``user``, it is the export of an app. Without both,
        it is the backup of the whole server. May switch greenlets.
        """
        is_of_server = not app
        is_of_user = user != ""
        for row in upload_rows.rows_of(self._store, app, user):
            for part in parts_of(row):
                if is_of_user and part.is_thumbnail:
                    # Users get the pictures that they sent, not our previews.
                    continue
                yield ArchivedFile(
                    name=_archived_name(row, part.is_thumbnail, is_of_server),
                    size=part.size,
                    pieces=self._pieces(row, part, is_of_server),
                )

    def _pieces(
        self, row: Upload, part: StoredPart, is_of_server: bool
    ) -> Iterator[bytes]:
        """Yield the bytes of a file, or of its thumbnail.

        A backup of the whole server must be complete, so a missing file is an
        error there. An export leaves it out. Raises FileNotFoundError if the
        file was deleted, and MediaUnavailable.
        """
        media = self._storage.of(row)
        is_checked_first = not (is_of_server or part.is_thumbnail)
        if is_checked_first and sha256_of(media, row.id, part.size) != row.sha256:
            # The file is damaged on the disk, so no import would accept it.
            raise FileNotFoundError(row.id)

        name = name_of(row, part.is_thumbnail)
        try:
            pieces = media.get(name, first=0, last=part.size - 1)
            if is_of_server and not part.is_thumbnail:
                pieces = compared(pieces, row)
            yield from pieces
        except FileNotFoundError:
            # The file may have been deleted since its row was read.
            if is_of_server and self._find(row.id) is not None:
                raise MediaUnavailable("a file is missing") from None
            raise

    def _find(self, file_id: str) -> Upload | None:
        """The row of a file; None if it was deleted. Raises
        StorageUnavailable."""
        return self._store.read(partial(upload_rows.find, name=file_id))

    def write(self, app: str, name: str, content: IO[bytes]) -> bool:
        """Store a file of an archive, if its bytes match its row.

        ``app``: the app that is imported; ``""``: the whole server is restored.
        ``name``: the path in the archive, as :meth:`read` makes it. Returns
        whether the file was stored. Raises MediaUnavailable, and in an import
        DamagedFile; then no file of the app stays.
        """
        is_import = app != ""
        if is_import:
            file_id, is_thumbnail = _read_export_name(name)
            if not file_id:
                return False
        else:
            file_id = name.removesuffix(THUMBNAIL)
            is_thumbnail = name.endswith(THUMBNAIL)
        row = self._store.read_or(None, partial(upload_rows.find, name=file_id))
        if row is None:
            # It was stored after the copy of the database, or is no upload.
            return False
        if is_import and row.app != app:
            return False
        if not self._write_checked(row, is_thumbnail, content, is_import):
            return False
        self._name_current_store(row)
        return True

    def _name_current_store(self, row: Upload) -> None:
        """Let a row name the store of this server. Until now the row may name the
        store of the server that wrote the archive."""
        if row.store_name != self._storage.current:
            self._store.write(
                partial(upload_rows.move, row=row, store_name=self._storage.current)
            )

    def _write_checked(
        self, row: Upload, is_thumbnail: bool, content: IO[bytes], is_import: bool
    ) -> bool:
        """Store the bytes of a file, or of its thumbnail, if they match its
        row.

        A restore skips a damaged file, and returns False. An import is refused
        as a whole: it deletes the files of the app, and raises DamagedFile.
        """
        try:
            if is_import:
                _check_type(row, is_thumbnail, content)
            pieces = iter(partial(content.read, PIECE_BYTES), b"")
            self._storage.copy(row, is_thumbnail, pieces, self._storage.current)
        except DamagedFile:
            if not is_import:
                return False  # a restore continues with the other files
            # An import is refused as a whole, so none of its files may stay.
            for file in upload_rows.rows_of(self._store, row.app):
                self._storage.delete(file)
            raise
        return True


def _check_type(row: Upload, is_thumbnail: bool, content: IO[bytes]) -> None:
    """Raise DamagedFile if the content has another type than the row says.

    Browsers get the type of the row, so a wrong one could make them run the
    file.
    """
    if is_thumbnail:
        media = MediaType("picture", row.thumbnail_type)
    else:
        media = MediaType(row.kind, row.type)
    actual = type_of(content.read(HEAD_BYTES))
    if media not in (actual, UNKNOWN):
        raise DamagedFile(row)
    content.seek(0)


def _archived_name(row: Upload, is_thumbnail: bool, is_of_server: bool) -> str:
    """The path of a file in an archive, for example ``files/7f3a/plan.pdf``.

    A backup keeps the names of the storage, so that it can be put back as it
    is. An export shows people the name that the file had when it was sent.
    """
    if is_of_server:
        return name_of(row, is_thumbnail)
    if is_thumbnail:
        return f"{THUMBNAILS}/{row.id}"
    return f"{FILES}/{row.id}/{_file_name(row)}"


def _read_export_name(name: str) -> tuple[str, bool]:
    """The id of the file that has a path in an export, and whether the path
    belongs to its thumbnail. The id is ``""`` if the path belongs to no
    upload."""
    folder, _, rest = name.partition("/")
    if folder not in (FILES, THUMBNAILS):
        return "", False
    return rest.partition("/")[0], folder == THUMBNAILS


def _file_name(row: Upload) -> str:
    """The name of a file in an export. It is the name that the sender gave the
    file. A file without a name gets a name made from its type, such as
    ``voice.ogg``."""
    # A name that begins with a dot would hide the file.
    name = shown_name(row.name).lstrip(".")
    if name:
        return name
    subtype = row.type.rpartition("/")[2].partition(";")[0].strip()
    return f"{row.kind}.{subtype}"


def sha256_of(store: Media, name: str, size: int) -> str:
    """The SHA-256 of a file in a store, in hexadecimal.

    The file has ``size`` bytes and is read for it. Raises FileNotFoundError and
    MediaUnavailable.
    """
    digest = hashlib.sha256()
    for piece in store.get(name, 0, size - 1):
        digest.update(piece)
    return digest.hexdigest()


def parts_of(row: Upload) -> tuple[StoredPart, ...]:
    """The file, and its thumbnail if it has one."""
    file = StoredPart(is_thumbnail=False, size=row.bytes)
    if not row.thumbnail_bytes:
        return (file,)
    return file, StoredPart(is_thumbnail=True, size=row.thumbnail_bytes)
