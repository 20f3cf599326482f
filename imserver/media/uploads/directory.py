"""Uploaded files in a directory.

File access is not cooperative: a busy disk would block the loop. So all file
access runs in a few native threads, while the calling greenlet waits.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, TypeVar

from imserver.media.uploads.contract import MediaUnavailable
from imserver.plugin.runtime import Service, Threads

log = logging.getLogger(__name__)

T = TypeVar("T")

PIECE_BYTES: Final = 65536
"""Bytes per read or write."""
STALE_SECONDS: Final = 86400.0
"""Age of unfinished files that are removed."""
STATE: Final = ".json"
"""Suffix of the state file of an unfinished upload. The time of the file is the
time of the last request for the upload."""
_INCOMING: Final = "incoming"
PRIVATE_FILE: Final = 0o600
"""The mode of a file that only this user may read and write."""
_PRIVATE_FOLDER: Final = 0o700
_HASH_BYTES: Final = 10
_LOGGED_CHARACTERS: Final = 100
"""Characters of a forged name that are logged."""


def open_private(path: Path) -> IO[bytes]:
    """Open a file for appending, unbuffered. If it is new, only this user may
    read and write it. Runs in a thread."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return open(os.open(path, flags, PRIVATE_FILE), "ab", buffering=0)


def write_all(file: IO[bytes], piece: bytes) -> None:
    """Write a whole piece. If the disk is nearly full, one call of ``write``
    may write only a part of it. Runs in a thread."""
    remaining = memoryview(piece)
    while remaining:
        written = file.write(remaining)
        remaining = remaining[written:]


def make_private(folder: Path) -> None:
    """Create a folder and its parents, for this user only.

    The folders survive a power failure, because each name is synchronised in
    its parent. Runs in a thread.
    """
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        Threads.synchronise(folder.parent)


def folder_of(app: str, user: str) -> str:
    """The name of the folder of a user's unfinished uploads.

    App and user are hashed, because they may have any characters. An empty
    ``user`` gives a pattern for all folders of the app.
    """
    user_part = _hashed(user) if user else "*"
    return f"{_hashed(app)}-{user_part}"


def _hashed(text: str) -> str:
    """A short hash of a text, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


class Directory(Service):
    """The store of uploaded files in a folder.

    ``root`` is the folder, and everything under it belongs to this store. A
    file is in a folder with the first letters of its name.
    """

    store_name = ""

    root: Path
    files: Threads

    def incoming(self) -> Path:
        """The folder for incoming files, created if needed. Raises
        MediaUnavailable."""
        folder = self.root / _INCOMING
        self.do(make_private, folder)
        return folder

    def sweep(self) -> int:
        """Remove unfinished files that nobody has used for
        :data:`STALE_SECONDS`, and empty folders of that age.

        Returns the number of removed files. Runs in a thread.
        """
        oldest_use = time.time() - STALE_SECONDS
        removed = 0
        incoming = self.root / _INCOMING

        # A list, because files are removed on the way.
        for path in [*incoming.glob("*"), *incoming.glob("*/*")]:
            try:
                if path.is_dir():
                    with suppress(OSError):  # it is not empty
                        if path.stat().st_mtime < oldest_use:
                            path.rmdir()
                elif _last_use_of(path) < oldest_use:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # another node has removed it
                continue
        return removed

    def forget_unfinished(self, app: str, user: str = "") -> None:
        """Remove the unfinished uploads of a user. An empty ``user`` means all
        users of the app. Switches greenlets."""

        def remove_folders() -> None:
            import shutil  # on first use: it loads compressors, 0.2 MB

            for folder in (self.root / _INCOMING).glob(folder_of(app, user)):
                shutil.rmtree(folder, ignore_errors=True)

        self.files.do(remove_folders)

    def free_bytes(self) -> int:
        """Free bytes of the disk. Raises MediaUnavailable."""
        disk = self.do(os.statvfs, self.root)
        return disk.f_bavail * disk.f_frsize

    def put(self, name: str, path: str, _size: int, _sha256: str, _kind: str) -> None:
        """Move a finished file into the store under a name. When this returns,
        the file survives a power failure. Raises MediaUnavailable."""
        source = Path(path)
        target = self._path(name)

        def move() -> None:
            # First the bytes, then their name. So a file that exists after a
            # power failure is complete.
            Threads.synchronise(source)
            make_private(target.parent)
            source.replace(target)
            for folder in (target.parent, target.parent.parent):
                Threads.synchronise(folder)

        self.do(move)

    def get(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """Yield the bytes of a file from index ``first`` to index ``last``, in
        pieces.

        The file is opened now, and read when the result is iterated. Raises
        FileNotFoundError and MediaUnavailable.
        """
        try:
            file: IO[bytes] = self.files.do(self._path(name).open, "rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unavailable(error) from None
        return self._pieces(name, file, first, last)

    def _pieces(
        self, name: str, file: IO[bytes], first: int, last: int
    ) -> Iterator[bytes]:
        """Read the bytes from ``first`` to ``last`` of an open file, piece by
        piece, and close it. Raises MediaUnavailable."""
        with file:
            while first <= last:
                size = min(PIECE_BYTES, last + 1 - first)
                piece = self.do(os.pread, file.fileno(), size, first)
                if not piece:
                    log.error("the file %s is shorter than its recorded size", name)
                    raise MediaUnavailable("a file is shorter than its recorded size")
                first += len(piece)
                yield piece

    def delete(self, name: str) -> None:
        """Delete a file, if it exists. Raises MediaUnavailable."""

        def unlink() -> None:
            self._path(name).unlink(missing_ok=True)

        self.do(unlink)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _path(self, name: str) -> Path:
        """The path of the file with a name, for example ``root/7f/7f3a…``.
        Raises MediaUnavailable for a name that could lead out of the folder."""
        if "/" in name or name.startswith("."):
            # The name is from a row that this server has not made, for example
            # from a forged backup.
            beginning = name[:_LOGGED_CHARACTERS]
            raise MediaUnavailable(f"no file of ours has the name {beginning!r}")
        return self.root / name[:2] / name

    def do(self, function: Callable[..., T], *arguments: object) -> T:
        """Access the folder in a thread, and return the result of ``function``.
        Switches greenlets. Raises MediaUnavailable if the disk fails."""
        try:
            return self.files.do(function, *arguments)
        except OSError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: OSError) -> MediaUnavailable:
        """Log an error of the disk, and return the error for the caller."""
        log.error(
            "the folder of uploads %s cannot be used: %s",
            error.filename or self.root,
            error.strerror,
        )
        return MediaUnavailable(
            f"the folder of uploads cannot be used: {error.strerror}"
        )


def _last_use_of(path: Path) -> float:
    """The Unix time of the last request for an unfinished file. Raises
    FileNotFoundError."""
    last_use = path.stat().st_mtime
    with suppress(FileNotFoundError):
        # Each request for an upload touches its state file only.
        last_use = max(last_use, path.with_suffix(STATE).stat().st_mtime)
    return last_use
