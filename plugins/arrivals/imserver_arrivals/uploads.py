"""Files of an archive as uploads. Their bytes come from a folder, or from the
archive itself.

The id of an upload is made from the id of the file there and the secret of the
server. Therefore a repeated import finds it, even if an import was killed in
the middle of it.
"""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

from imserver.media.emoji import NAME, OwnEmoji
from imserver.media.uploads import Offer, Upload, Uploads
from imserver.plugin.errors import ServiceRefused, StorageUnavailable, Unavailable

from .problems import Problems
from .records import Archive, Emoji, File
from .text import clean

_NAME_CHARACTERS: Final = 255
_ID_BYTES: Final = 24
_PIECE_BYTES: Final = 1 << 16
_OF_FILE: Final = re.compile(r"[A-Za-z0-9]{2,64}", re.ASCII)
"""The id of a file or user at the beginning of the name of a file."""


class FileIndex:
    """Finds the bytes of files by their ids in an archive.

    ``folder`` may have further files, such as ``F….png``, ``F…-name`` and
    ``F…/name``. The name begins with the id of the file. Pictures of people
    have the id of the user (``U….jpg``).
    """

    def __init__(self, archive: Archive, folder: Path | None) -> None:
        """Find the files in the folder. None: only the archive has files."""
        self._archive = archive
        self._paths: dict[str, Path] = {}
        """Id of a file → its path in the folder."""
        if folder is None:
            return
        for path in sorted(folder.iterdir()):
            match = _OF_FILE.match(path.name)
            # A link could lead to a file that nobody meant to import.
            if match is None or path.is_symlink():
                continue
            file = _first_file(path)
            if file is not None:
                self._paths[match[0]] = file

    def __contains__(self, id: str) -> bool:
        """Whether the bytes of a file are there. A broken file counts as
        there."""
        try:
            file = self.open(id)
        except Exception:
            # The file exists, but is broken. The import will note it.
            return True
        if file is not None:
            file.close()
        return file is not None

    def open(self, id: str) -> IO[bytes] | None:
        """Open a file. None if its bytes are missing.

        Raises OSError, and errors of a broken zip file.
        """
        path = self._paths.get(id)
        if path is None:
            return self._archive.open(id)
        return path.open("rb")


class FileUploads:
    """Uploads the files of an archive, each once.

    ``key``: the secret from which ids are made. ``new`` and ``emoji``: how many
    files were uploaded, and how many emoji were added.
    """

    def __init__(
        self,
        uploads: Uploads,
        index: FileIndex,
        app: str,
        key: bytes,
        problems: Problems,
    ) -> None:
        """Prepare uploads into an app. Nothing is uploaded yet."""
        self._uploads = uploads
        self._index = index
        self._app = app
        self._key = key
        self._problems = problems
        self.new = 0
        self.emoji = 0

    def upload(self, id: str, user: str, name: str, kind: str = "") -> Upload | None:
        """Upload a file for the account of a user, or find its earlier upload.

        ``id``: of the file in the archive. ``name``: of the upload. ``kind``:
        the kind that it must have, such as ``picture``; ``""``: any. Returns
        None if the bytes are missing, or if the app refuses them, which is
        noted. Raises StorageUnavailable.
        """
        if not id:
            return None
        try:
            file = self._index.open(id)
            if file is None:
                return None
            with file:
                return self._find_or_receive(id, file, user, name, kind)
        except StorageUnavailable:
            raise
        except (ServiceRefused, Unavailable) as error:
            self._problems.note(f"file that is refused: {error}")
            return None
        except Exception as error:  # also of a decompressor
            self._problems.note_broken(f"file {id}", error)
            return None

    def _find_or_receive(
        self, id: str, file: IO[bytes], user: str, name: str, kind: str
    ) -> Upload:
        """Return the upload of a file, which is received if it is new."""
        upload_id = self._upload_id(id)
        upload = self._uploads.find(upload_id)
        if upload is not None:
            # An import that was killed may have left pieces of it.
            self._uploads.discard_rest(upload_id)
            return upload
        length = _length_of(file, self._uploads.limit_of(kind))
        file.seek(0)
        offer = Offer(self._app, user, name, kind, length)
        upload = self._uploads.receive(offer, file.read, upload_id)
        self.new += 1
        return upload

    def part(self, file: File, user: str) -> dict[str, Any]:
        """Upload a file, and return the part of a message's body that describes
        it.

        It is ``{"type": "image", "url": "/api/v1/uploads/…", "name": "cat.jpg",
        "bytes": 1234, …}``, for example. If the bytes are missing, the part has
        only the name.
        """
        name = clean(file.name or "file").replace("\n", " ")[:_NAME_CHARACTERS]
        upload = None
        if not file.why:
            upload = self.upload(file.id, user, name)
        if upload is None:
            return {"type": "file", "name": name}
        return _part_of(upload, name)

    def add_emoji(self, own: OwnEmoji, emoji: Iterable[Emoji]) -> None:
        """Add an archive's own emoji to the app.

        If the app has an emoji with the name, it stays. An emoji that cannot be
        added is noted. Raises StorageUnavailable.
        """
        names = {row.name for row in own.of(self._app)}
        for row in emoji:
            if row.name in names:
                continue
            if not re.fullmatch(NAME, row.name):
                self._problems.note("emoji with a name that this server does not allow")
                continue
            try:
                self._add_one_emoji(own, row)
                self.emoji += 1
            except StorageUnavailable:
                raise
            except (ServiceRefused, Unavailable) as error:
                self._problems.note(f"emoji that is refused: {error}")
            except Exception as error:  # also of a decompressor
                self._problems.note_broken(f"emoji {row.name}", error)

    def _add_one_emoji(self, own: OwnEmoji, emoji: Emoji) -> None:
        """Add an emoji to the app. Raises OSError if its picture is missing.

        The id of the upload is made from the picture, so that another picture
        under the same name is another upload.
        """
        with self._open_existing(emoji.file) as file:
            content = file.read(self._uploads.limit_of("picture"))
        picture = hashlib.sha256(content).hexdigest()
        file_id = self._upload_id(f"emoji\0{emoji.name}\0{picture}")
        own.add(self._app, emoji.name, content, file_id=file_id)

    def _upload_id(self, id: str) -> str:
        """Return the id of the upload of a file. ``id``: of the file in the
        archive.

        It is a digest with a secret key, because whoever knows the id of an
        upload may read it.
        """
        digest = hashlib.blake2b(
            f"{self._app}\0{id}".encode(),
            key=self._key[: hashlib.blake2b.MAX_KEY_SIZE],
            digest_size=_ID_BYTES,
        )
        return urlsafe_b64encode(digest.digest()).decode()

    def _open_existing(self, id: str) -> IO[bytes]:
        """Open a file. Raises OSError if its bytes are missing."""
        file = self._index.open(id)
        if file is None:
            raise OSError("the file has no bytes")
        return file


def _part_of(upload: Upload, name: str) -> dict[str, Any]:
    """Return the part of a message's body that describes an upload."""
    address = f"/api/v1/uploads/{upload.id}"
    kind = upload.kind
    # A voice message needs a length, and this was no spoken message there.
    if kind == "voice":
        kind = "file"
    part = {"type": kind, "url": address, "name": name, "bytes": upload.bytes}
    if upload.width:
        part |= {"width": upload.width, "height": upload.height}
    if upload.thumbnail_bytes:
        part["thumbnail"] = f"{address}/thumbnail"
    return part


def _first_file(path: Path) -> Path | None:
    """Return a file, or the first file in a folder. None if neither exists."""
    if not path.is_dir():
        if path.is_file():
            return path
        return None
    for inner in sorted(path.iterdir()):
        if inner.is_file() and not inner.is_symlink():
            return inner
    return None


def _length_of(file: IO[bytes], most: int) -> int:
    """Return the number of unpacked bytes of a file.

    If there are more than ``most``, the result is one more than ``most``. So a
    file of any size costs little time.
    """
    length = 0
    while True:
        piece = file.read(_PIECE_BYTES)
        if not piece:
            return length
        length += len(piece)
        if length > most:
            return most + 1
