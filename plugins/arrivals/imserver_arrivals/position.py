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
    """The position of an app on a server that it follows.

    ``cursor``: see :class:`~imserver_arrivals.live.Live`. ``address``: the
    address of the server; ``""`` if the app followed none. ``ours``: the last
    entry of our log that was checked for posting there; -1 for none.
    ``groups``: conversation → id of the group there.
    """

    cursor: str = ""
    address: str = ""
    ours: int = -1
    groups: dict[int, str] = field(default_factory=dict)


class PositionFile:
    """The file with the position for one app and format. One process at a time
    locks it, because two imports would take each other's files."""

    def __init__(self, folder: str, format: str, app: str) -> None:
        self.path = Path(folder, f"follow-{format}-{quote(app, safe='')}.json")

    @contextmanager
    def locked(self) -> Iterator[Position]:
        """The position, locked until the end of ``with``. Raises BadArchive and
        OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = os.open(self.path.with_suffix(".lock"), flags, _OWN)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                content = b"{}"
                if self.path.exists():
                    content = self.path.read_bytes()
                position = msgspec.json.decode(content, type=Position)
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

    def write(self, position: Position) -> None:
        """Replace the file. Raises OSError."""
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
        """Note that an archive was imported: a process that follows later
        continues from there.

        If the app follows a server already, its position stays.
        """
        position.groups.update(groups)
        if not position.address:
            position.cursor = f"@{max(last_ms - _OVERLAP_MS, 0)}"
        self.write(position)
