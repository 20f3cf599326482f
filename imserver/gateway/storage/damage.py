"""Damage of a SQLite database: what its write-ahead log has lost without a
word."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from imserver.gateway.errors import StartError

_HEAD: Final = struct.Struct(">IIIIIIII")
"""Of the log: magic, version, bytes of a page, checkpoint, two salts, two sums.
https://sqlite.org/fileformat2.html"""
_FRAME: Final = struct.Struct(">IIIIII")
"""Before each page: its number, pages of the database after a commit (else 0),
two salts, two sums."""


def lost_commits(database: Path) -> int:
    """How many commits stand behind a damaged place of the write-ahead log; 0:
    none is known.

    SQLite takes the first frame with a wrong checksum for the end of its log:
    after a power failure the last transaction may be incomplete there. All
    transactions before it were synchronised. So several transactions behind
    such a frame show that the disk has other bits than were written. SQLite
    would leave them out, and write over them. Nothing is changed. Takes 0.1 ms
    a frame. Raises OSError.
    """
    if not _look_for_lost(database):
        return 0
    with _without_writers(database):  # one may have changed the log meanwhile
        return _look_for_lost(database)


def _look_for_lost(database: Path) -> int:
    log = database.with_name(f"{database.name}-wal")
    if not log.exists() or log.stat().st_size <= _HEAD.size:
        return 0
    with log.open("rb") as file:
        head = file.read(_HEAD.size)
        magic, _, page_bytes, *_ = _HEAD.unpack(head)
        order = ">" if magic & 1 else "<"
        salts = head[16:24]
        seed = head[24:]
        if seed != _sum(order, bytes(8), head[:24]):  # SQLite ignores the whole log
            with database.open("rb") as pages:
                page_bytes = int.from_bytes(os.pread(pages.fileno(), 2, 16))
            salts = os.pread(file.fileno(), 8, _HEAD.size + 8)
            seed = b""
        return _count(file, order, _FRAME.size + max(page_bytes, 512), salts, seed)


def _count(log: IO[bytes], order: str, size: int, salts: bytes, seed: bytes) -> int:
    """The commits in the frames from the first one on that SQLite does not
    take, if its successors belong to it. ``seed``: with which the sums begin;
    empty: no sum is right."""
    commits = 0
    is_lost = False
    while len(frame := log.read(size)) == size:
        is_right = frame[8:16] == salts and frame[16:24] == _sum(
            order, seed, frame[:8] + frame[24:]
        )
        if is_lost and not is_right:
            break
        is_lost = is_lost or not is_right
        if is_lost and frame[8:16] == salts:
            commits += frame[4:8] != bytes(4)
        seed = frame[16:24]
    return commits if commits > 1 else 0


def _sum(order: str, seed: bytes, content: bytes) -> bytes:
    if not seed:
        return b""
    one, two = struct.unpack(">II", seed)
    for first, second in struct.iter_unpack(f"{order}II", content):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return struct.pack(">II", one, two)


def refuse_damaged(database: Path) -> None:
    """Raise StartError if the write-ahead log has lost commits. Raises
    OSError."""
    count = lost_commits(database)
    if count:
        raise StartError(
            f"storage: {database}-wal is damaged, and {count} commits behind the damage cannot be read: "
            f"run imserver restore with a backup, or without one with a copy of {database.name} alone"
        )


@contextmanager
def _without_writers(database: Path) -> Iterator[None]:
    """Context in which no node writes."""
    lock = database.with_name(f"{database.name}.lock")
    if not lock.exists():
        yield
        return
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
