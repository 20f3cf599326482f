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
    """Open a file for appending, unbuffered. Only this user may read and write
    a new file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return open(os.open(path, flags, PRIVATE_FILE), "ab", buffering=0)


def write_all(file: IO[bytes], piece: bytes) -> None:
    """Write a whole piece. One call of ``write`` may write only a part of it, if
    the disk is nearly full."""
    remaining = memoryview(piece)
    while remaining:
        written = file.write(remaining)
        remaining = remaining[written:]


def make_private(folder: Path) -> None:
    """Create a folder and its parents, for this user only. The folders survive
    a power failure."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        Threads.synchronise(folder.parent)


def folder_of(app: str, user: str) -> str:
    """The name of the folder of a user's unfinished uploads. ``user`` ``""``: a
    pattern for all folders of the app."""
    user_part = _hashed(user) if user else "*"
    return f"{_hashed(app)}-{user_part}"


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


class Directory(Service):
    """Files in folders by the first letters of their names. Owner of everything
    under ``root``."""

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
        :data:`STALE_SECONDS`, and empty folders of that age. Returns the number
        of files. Runs in a thread."""
        oldest_use = time.time() - STALE_SECONDS
        removed = 0
        incoming = self.root / _INCOMING

        for path in [*incoming.glob("*"), *incoming.glob("*/*")]:
            try:
                last_use = path.stat().st_mtime
                if path.is_dir():
                    with suppress(OSError):  # it is not empty
                        if last_use < oldest_use:
                            path.rmdir()
                    continue
                with suppress(FileNotFoundError):
                    # Each request for an upload touches its state file only.
                    state_path = path.with_suffix(STATE)
                    last_use = max(last_use, state_path.stat().st_mtime)
                if last_use < oldest_use:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # another node has removed it
                continue
        return removed

    def forget_unfinished(self, app: str, user: str = "") -> None:
        """Remove the unfinished uploads of a user; ``user`` ``""``: of all users
        of the app."""

        def work() -> None:
            import shutil  # on first use: it loads compressors, 0.2 MB

            for folder in (self.root / _INCOMING).glob(folder_of(app, user)):
                shutil.rmtree(folder, ignore_errors=True)

        self.files.do(work)

    def free_bytes(self) -> int:
        """Free bytes of the disk. Raises MediaUnavailable."""
        disk = self.do(os.statvfs, self.root)
        return disk.f_bavail * disk.f_frsize

    def put(self, name: str, path: str, _size: int, _sha256: str, _kind: str) -> None:
        """Move a finished file into the store. Once this returns, the file
        survives a power failure."""
        source = Path(path)
        target = self._path(name)

        def work() -> None:
            # First the bytes, then their name. So a file that exists after a
            # power failure is complete.
            Threads.synchronise(source)
            make_private(target.parent)
            source.replace(target)
            for folder in (target.parent, target.parent.parent):
                Threads.synchronise(folder)

        self.do(work)

    def get(self, name: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last``. Raises FileNotFoundError,
        MediaUnavailable."""
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
        """Delete a file."""

        def unlink() -> None:
            self._path(name).unlink(missing_ok=True)

        self.do(unlink)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _path(self, name: str) -> Path:
        if "/" in name or name.startswith("."):
            # The name is from a row that this server has not made, for example
            # from a forged backup.
            beginning = name[:_LOGGED_CHARACTERS]
            raise MediaUnavailable(f"no file of ours has the name {beginning!r}")
        return self.root / name[:2] / name

    def do(self, function: Callable[..., T], *arguments: object) -> T:
        """Access the folder in a thread. Switches greenlets. Raises
        MediaUnavailable."""
        try:
            return self.files.do(function, *arguments)
        except OSError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: OSError) -> MediaUnavailable:
        log.error(
            "the folder of uploads %s cannot be used: %s",
            error.filename or self.root,
            error.strerror,
        )
        return MediaUnavailable(
            f"the folder of uploads cannot be used: {error.strerror}"
        )
