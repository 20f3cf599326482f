"""The position up to which an app follows a running server: a file of the data
directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from .problems import BadArchive

_OVERLAP_MS: Final = 24 * 3600 * 1000
"""How far before the last message of an export to begin. An export takes time,
so it may lack messages that are older than its last one."""
_OWN: Final = 0o600
"""The mode of a file that only its owner may read."""


class Position(Struct):
    """The position of an app on a server that it follows."""

    cursor: str = ""
    """The position in the events there, see
    :class:`~imserver_arrivals.live.Live`."""
    address: str = ""
    """The address of the server; ``""`` if the app followed none."""
    ours: int = -1
    """The last entry of our log that was checked for posting there; -1 if
    nothing is posted there."""
    groups: dict[int, str] = field(default_factory=dict)
    """Conversation here → id of the group there."""


class PositionFile:
    """The file with the position for one app and format.

    One process at a time locks it, because two imports would take each other's
    files.
    """

    def __init__(self, folder: str, format: str, app: str) -> None:
        self.path = Path(folder, f"follow-{format}-{quote(app, safe='')}.json")

    @contextmanager
    def locked(self) -> Iterator[Position]:
        """Yield the position, and lock the file until the end of ``with``.

        The position is empty if there is no file. Raises BadArchive if another
        process has the lock or the file is broken, and OSError.
        """
        # The file itself is replaced by each write, so another file is locked.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = os.open(self.path.with_suffix(".lock"), flags, _OWN)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                position = self._read()
            except BlockingIOError:
                raise BadArchive(
                    f"another process imports into this app or follows a server for it: {self.path} is in use"
                ) from None
            except ValueError as error:
                raise BadArchive(
                    f"{self.path}: {error}; without the file, the command begins again"
                ) from None
            yield position
        finally:
            os.close(lock)

    def _read(self) -> Position:
        """Return the position in the file. Raises ValueError and OSError."""
        content = b"{}"
        if self.path.exists():
            content = self.path.read_bytes()
        return msgspec.json.decode(content, type=Position)

    def write(self, position: Position) -> None:
        """Replace the file. Raises OSError.

        If the process is killed meanwhile, the old file stays.
        """
        new = self.path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(new, flags, _OWN), "wb") as file:
            file.write(msgspec.json.encode(position))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)

    def note_archive(
        self, position: Position, last_ms: int, groups: dict[int, str]
    ) -> None:
        """Note that an archive was imported, so that following continues from
        there.

        ``last_ms``: the time of its last record. ``groups``: conversation here
        → id of the group there. If the app follows a server already, its
        position stays.
        """
        position.groups.update(groups)
        if not position.address:
            position.cursor = f"@{max(last_ms - _OVERLAP_MS, 0)}"
        self.write(position)
