"""Damage of a SQLite database: commits that its write-ahead log has lost
without an error.

https://sqlite.org/fileformat2.html describes the database file and the log.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from imserver.gateway.errors import StartError

_HEAD: Final = struct.Struct(">IIIIIIII")
"""The head of the log: magic number, version, bytes of a page, checkpoint, two
salts, two checksums."""
_HEAD_SUMMED: Final = slice(0, 24)
_HEAD_SALTS: Final = slice(16, 24)
_HEAD_SUMS: Final = slice(24, 32)
_FRAME: Final = struct.Struct(">IIIIII")
"""The head of a frame, before its page: the number of the page, the pages of
the database after a commit (otherwise 0), two salts, two checksums."""
_FRAME_SUMMED: Final = slice(0, 8)
_FRAME_PAGES: Final = slice(4, 8)
_FRAME_SALTS: Final = slice(8, 16)
_FRAME_SUMS: Final = slice(16, 24)
_FRAME_PAGE: Final = slice(24, None)
_NO_COMMIT: Final = bytes(4)
"""The number of pages in a frame that does not end a transaction: 0."""
_SALTS_BYTES: Final = 8
_FIRST_SUMS: Final = bytes(8)
"""The values from which the checksums of the head start."""
_SUM_BITS: Final = 0xFFFFFFFF
_PAGE_BYTES_AT: Final = 16
"""The offset in the database file at which two bytes have the size of a
page."""
_MIN_PAGE_BYTES: Final = 512


class _Head(NamedTuple):
    """The facts that the head of a log gives about its frames.

    - ``order``: the byte order of the checksums, ``>`` or ``<``.
    - ``page_bytes``: the size of a page.
    - ``salts``: the salts of all frames of this log; a frame with other salts
      is a remainder of an earlier log.
    - ``seed``: the checksums before the first frame; ``b""`` means that they
      are unknown, so the first frame counts as damaged.
    """

    order: str
    page_bytes: int
    salts: bytes
    seed: bytes


def lost_commits(database: Path) -> int:
    """Count the commits behind a damaged place in the write-ahead log of a
    database file.

    The result is 0 if no damage is found. Nothing is changed. Each frame takes
    0.1 ms. Raises OSError.

    A frame of the log is a page with a checksum. For SQLite, the first frame
    with a wrong checksum is the end of the log: after a power failure the last
    transaction may be incomplete. All earlier transactions were written to the
    disk completely. So valid frames of several transactions behind such a frame
    mean damage: the disk has other bits than were written. SQLite would leave
    these transactions out, and overwrite them.
    """
    if not _count_lost_commits(database):
        return 0
    # A writer may have changed the log while it was read. So the commits are
    # counted again while nobody writes.
    with _without_writers(database):
        return _count_lost_commits(database)


def _count_lost_commits(database: Path) -> int:
    """Count the commits behind a damaged place in the write-ahead log.

    The log may change meanwhile, and then the number may be wrong.
    """
    log = database.with_name(f"{database.name}-wal")
    if not log.exists() or log.stat().st_size <= _HEAD.size:
        return 0
    with log.open("rb") as file:
        head = _read_head(file, database)
        return _count_in_frames(file, head)


def _read_head(log: IO[bytes], database: Path) -> _Head:
    """Read the head of a log, which stands before the first frame."""
    head = log.read(_HEAD.size)
    magic, _, page_bytes, *_ = _HEAD.unpack(head)
    # The lowest bit of the magic number tells the byte order of the checksums.
    order = ">" if magic & 1 else "<"
    sums = head[_HEAD_SUMS]
    if sums == _checksums(order, _FIRST_SUMS, head[_HEAD_SUMMED]):
        return _Head(order, page_bytes, salts=head[_HEAD_SALTS], seed=sums)

    # The head is damaged, so SQLite ignores the whole log, and nothing in the
    # head is reliable.
    return _Head(
        order,
        page_bytes=_page_bytes_of(database),
        salts=_salts_of_first_frame(log),
        seed=b"",
    )


def _page_bytes_of(database: Path) -> int:
    """Return the size of a page, which the database file gives."""
    with database.open("rb") as file:
        return int.from_bytes(os.pread(file.fileno(), 2, _PAGE_BYTES_AT))


def _salts_of_first_frame(log: IO[bytes]) -> bytes:
    """Return the salts of the first frame, which equal the salts of the
    head."""
    salts_at = _HEAD.size + _FRAME_SALTS.start
    return os.pread(log.fileno(), _SALTS_BYTES, salts_at)


def _count_in_frames(log: IO[bytes], head: _Head) -> int:
    """Count the commits from the first damaged frame on.

    A frame is a page with checksums before it. Counting ends at the next damaged
    frame. ``log`` is read from the first frame.
    """
    commits = 0
    is_lost = False
    for frame in _frames(log, head):
        # A second damaged frame counts as the end of the log.
        if is_lost and not frame.is_right:
            break

        is_lost = is_lost or not frame.is_right
        if is_lost and frame.is_commit:
            commits += 1

    # The very last transaction may be incomplete. That is not damage.
    return commits if commits > 1 else 0


class _Frame(NamedTuple):
    """The result of checking a frame.

    - ``is_right``: whether its checksums fit its bytes.
    - ``is_commit``: whether it belongs to this log, and ends a transaction.
    """

    is_right: bool
    is_commit: bool


def _frames(log: IO[bytes], head: _Head) -> Iterator[_Frame]:
    """Read and check the frames of a log up to its end."""
    frame_bytes = _FRAME.size + max(head.page_bytes, _MIN_PAGE_BYTES)
    seed = head.seed
    while True:
        frame = log.read(frame_bytes)
        if len(frame) != frame_bytes:
            return

        yield _checked_frame(frame, head, seed)
        # The checksums of a frame continue from the checksums in the frame
        # before, even if that frame is damaged.
        seed = frame[_FRAME_SUMS]


def _checked_frame(frame: bytes, head: _Head, seed: bytes) -> _Frame:
    """Check a frame. Its checksums continue from the checksums ``seed``."""
    is_of_log = frame[_FRAME_SALTS] == head.salts
    sums = frame[_FRAME_SUMS]
    summed = frame[_FRAME_SUMMED] + frame[_FRAME_PAGE]
    return _Frame(
        is_right=is_of_log and sums == _checksums(head.order, seed, summed),
        is_commit=is_of_log and frame[_FRAME_PAGES] != _NO_COMMIT,
    )


def _checksums(order: str, seed: bytes, content: bytes) -> bytes:
    """Return the two checksums of a content, continued from the checksums
    ``seed``.

    Without a seed the result is ``b""``, which no frame has as its checksums.
    """
    if not seed:
        return b""
    # This is the algorithm of SQLite, over pairs of words of 32 bits.
    one, two = struct.unpack(">II", seed)
    for first, second in struct.iter_unpack(f"{order}II", content):
        one = (one + first + two) & _SUM_BITS
        two = (two + second + one) & _SUM_BITS
    return struct.pack(">II", one, two)


def refuse_damaged(database: Path) -> None:
    """Raise StartError if the write-ahead log has lost commits. Raises OSError
    if a file cannot be read."""
    count = lost_commits(database)
    if count:
        raise StartError(
            f"storage: {database}-wal is damaged, and {count} commits "
            "behind the damage cannot be read: run imserver restore with a backup, "
            f"or without one with a copy of {database.name} alone"
        )


@contextmanager
def _without_writers(database: Path) -> Iterator[None]:
    """A context in which no node writes to the database file."""
    lock = database.with_name(f"{database.name}.lock")
    if not lock.exists():
        yield
        return
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
