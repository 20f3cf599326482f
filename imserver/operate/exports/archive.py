"""Writes an archive: a zip file that grows entry by entry, and can be continued
after a crash.

Beside the file are its directory and its checksums so far, and a state with the
length of each of the three. Bytes after these lengths come from a process that
was killed, and are cut off. Therefore neither the number of entries nor their
size needs memory. Sizes have the form of ZIP64 (APPNOTE.TXT 6.3, sections 4.3
and 4.5.3).

All methods block on the disk and compress, so they run in a thread.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import gmtime, monotonic, struct_time, time
from typing import IO, Any, Final

import msgspec
from msgspec import Struct

NAME: Final = "archive.zip"
CHECKSUMS: Final = "checksums.jsonl"
"""The entry with a line for each of the other entries. Only the manifest comes
after it."""
MANIFEST: Final = "manifest.json"
_DIRECTORY: Final = "directory"
_STATE: Final = "state"
SAVE_SECONDS: Final = 1.0
_LOCAL: Final = struct.Struct("<4s5H3I2H")
"""The header before the content of an entry."""
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
"""The record of an entry in the directory."""
_SIZES: Final = struct.Struct("<2H2Q")
"""The extra field of ZIP64 in the header of an entry."""
_EXTRA: Final = struct.Struct("<2H3Q")
"""The extra field of ZIP64 in the directory."""
_END64: Final = struct.Struct("<4sQ2H2I4Q")
"""The record of ZIP64 about the directory."""
_LOCATOR: Final = struct.Struct("<4sIQI")
"""The record that says where :data:`_END64` is."""
_END: Final = struct.Struct("<4s4H2IH")
"""The last record of a zip file."""
_VERSION: Final = 45
"""Version of the zip format: the first with ZIP64."""
_UTF8: Final = 0x800
_DEFLATE: Final = 8
_ALL: Final = 0xFFFFFFFF
"""Stands in place of a size or an offset that is in the extra field."""
_MOST_16_BITS: Final = 0xFFFF
"""Stands in place of the number of entries, which is in the record of ZIP64."""
_END64_REST_BYTES: Final = 44
"""Length of the record ``_END64`` after its first two fields, in bytes."""
_ZIP64_FIELD: Final = 1
"""The number of the extra field with the sizes of ZIP64."""
_SIZES_BYTES: Final = 16
_EXTRA_BYTES: Final = 24
"""Length of the content of that field, in an entry and in the directory, in
bytes."""
_UNIX: Final = 3 << 8
"""The system that has made an entry: its mode is in the upper half of the
attributes."""
_OWNER_ONLY: Final = 0o100600 << 16
"""The attributes of a plain file that only its owner reads and writes."""
_DOS_EPOCH_YEAR: Final = 1980
_OWN_MODE: Final = 0o600
_PIECE_BYTES: Final = 1 << 16


class EntryChecksum(Struct, frozen=True):
    """An entry of the archive: its name, its size in bytes, and their SHA-256.

    ``rows`` is the number of rows in the entry; 0 if it is a file.
    """

    name: str
    bytes: int
    sha256: str
    rows: int = 0


class ArchiveState(Struct):
    """The progress of an archive, which is saved beside it."""

    stage: int = 0
    """How many stages of the maker are done."""
    position: bytes = b""
    """Where in the rows of the database the maker continues. ``b""`` means at
    the first row."""
    entries: int = 0
    rows: int = 0
    size: int = 0
    """The bytes of all entries before they were compressed."""
    lengths: tuple[int, int, int] = (0, 0, 0)
    """The lengths of the archive, of its directory and of its checksums at the
    last save."""
    begun: int = 0
    """When the archive was begun, in Unix seconds."""
    counts: dict[str, int] = {}
    """Table → the number of its rows in the archive."""
    part: int = 0
    """The number of the last entry with rows."""
    missing: int = 0
    """The number of files that were missing from their storage."""
    profile: dict[str, Any] = {}
    """The account of the user."""

    def count_entry(self, size: int, rows: int, table: str) -> None:
        """Count an entry of this size with rows of a table; ``""``: a file."""
        self.entries += 1
        self.rows += rows
        self.size += size
        if table:
            self.counts[table] = self.counts.get(table, 0) + rows


class ArchiveWriter:
    """Owner of a folder with an archive that grows, and of its open files.

    Call :meth:`open`, then for each entry :meth:`begin`, :meth:`write` and
    :meth:`end`, and last :meth:`finish`. An entry that was ended before the
    last :meth:`save` survives a crash.
    """

    def __init__(self, folder: Path) -> None:
        """Begin without open files. :meth:`open` opens them."""
        self.folder = folder
        self.state = ArchiveState(begun=int(time()))
        self._files: list[IO[bytes]] = []
        self._saved = monotonic()
        self._entry: _Entry | None = None

    def open(self) -> None:
        """Begin an archive, or continue it after the last save.

        Raises OSError, also if another process has locked the files. Without
        the lock, a process that slept until its lease was over would write into
        the archive of the next process.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (NAME, _DIRECTORY, CHECKSUMS):
            self._open_file(name)

        self.state = self._read_state()
        # Bytes that were written after the last save are cut off.
        for file, length in zip(self._files, self.state.lengths, strict=True):
            file.truncate(length)
            file.seek(length)

    def _open_file(self, name: str) -> None:
        """Open a file of the folder, or make it, and lock it. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT
        descriptor = os.open(self.folder / name, flags, _OWN_MODE)
        self._files.append(os.fdopen(descriptor, "r+b"))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _read_state(self) -> ArchiveState:
        """The state at the last save; a new state if the file is missing or
        broken."""
        try:
            content = (self.folder / _STATE).read_bytes()
            return msgspec.msgpack.decode(content, type=ArchiveState)
        except (FileNotFoundError, msgspec.MsgspecError):
            return ArchiveState(begun=int(time()))

    def names(self) -> set[str]:
        """The names of the entries that were ended so far."""
        with (self.folder / CHECKSUMS).open("rb") as lines:
            return {
                msgspec.json.decode(line, type=EntryChecksum).name for line in lines
            }

    def begin(self, name: str) -> None:
        """Begin an entry."""
        self._entry = _Entry(self._files[0], name)

    def write(self, piece: bytes) -> None:
        """Write bytes of the entry."""
        assert self._entry is not None
        self._entry.write(piece)

    def end(self, rows: int = 0, table: str = "") -> None:
        """End the entry, and count it in the state.

        ``rows`` is the number of its rows, and ``table`` the table to which
        they belong; ``""`` if the entry is a file. After a crash, the entry is
        in the archive only if :meth:`save` was called after this.
        """
        assert self._entry is not None
        entry = self._entry
        state = self.state
        _, directory, checksums = self._files
        directory.write(entry.end())
        # The checksums are written before the last two entries, so the last two
        # entries have no checksum in the list.
        if entry.name not in (CHECKSUMS, MANIFEST):
            checksums.write(entry.checksum_line(rows))

        state.count_entry(entry.size, rows, table)
        self._entry = None

    def save(self, at_once: bool = False) -> bool:
        """Save the ended entries so that they survive a crash.

        Does nothing if the last save was less than a second ago, except with
        ``at_once``. Returns whether it has saved.
        """
        if not at_once and monotonic() - self._saved < SAVE_SECONDS:
            return False

        # The files are written before the state, because the state must never
        # name more bytes than the files have.
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self.state.lengths = tuple(map(_length_of, self._files))  # type: ignore[assignment]
        self._replace_state()
        self._saved = monotonic()
        return True

    def _replace_state(self) -> None:
        """Write the state into a new file, which then replaces the old file.

        After a crash the folder has the whole old state or the whole new state.
        """
        target = self.folder / _STATE
        fresh = target.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWN_MODE)
        with open(descriptor, "wb") as file:
            file.write(msgspec.msgpack.encode(self.state))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)

    def finish(self, manifest: bytes) -> Path:
        """Write checksums, manifest and directory, and return the path of the
        file.

        The archive is complete then. Only its file stays in the folder.
        """
        archive, directory, checksums = self._files
        # Both files are read below by their paths, so all bytes must be in
        # them.
        checksums.flush()
        self._write_entry(CHECKSUMS, self._pieces(CHECKSUMS))
        self._write_entry(MANIFEST, (manifest,))
        directory_start = _length_of(archive)
        directory.flush()
        for piece in self._pieces(_DIRECTORY):
            archive.write(piece)
        self._write_end(archive, directory_start)
        archive.flush()
        os.fsync(archive.fileno())

        self.close()
        self._remove_other_files()
        return self.folder / NAME

    def _remove_other_files(self) -> None:
        """Remove the files that only a continued archive needs."""
        for name in (_DIRECTORY, CHECKSUMS, _STATE):
            (self.folder / name).unlink(missing_ok=True)

    def _write_entry(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a complete entry."""
        self.begin(name)
        for piece in pieces:
            self.write(piece)
        self.end()

    def _write_end(self, archive: IO[bytes], start: int) -> None:
        """Write the records at the end of a zip file.

        ``start`` is where the directory begins. The first two records are for
        ZIP64. The last record has smaller fields. So a number that is too great
        is cut to the greatest number that fits. A reader then takes the number
        from ZIP64.
        """
        entries = self.state.entries
        end = _length_of(archive)
        size = end - start
        disk = 0  # a zip file may have several disks; this one has one
        disks = 1
        archive.write(_end64(disk, entries, size, start))
        archive.write(_LOCATOR.pack(b"PK\6\7", disk, end, disks))

        # Each number is written twice: for this disk, and for all disks
        # together.
        few = min(entries, _MOST_16_BITS)
        offsets = (min(size, _ALL), min(start, _ALL))
        comment_bytes = 0
        archive.write(
            _END.pack(b"PK\5\6", disk, disk, few, few, *offsets, comment_bytes)
        )

    def _pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a file beside the archive, in pieces."""
        with (self.folder / name).open("rb") as file:
            yield from iter(partial(file.read, _PIECE_BYTES), b"")

    def close(self) -> None:
        """Close the files. The next attempt continues after the last save."""
        for file in self._files:
            file.close()
        self._files.clear()


_LEVEL: Final = 6
"""The compression level of zlib; 9 is the highest."""


def _end64(disk: int, entries: int, size: int, start: int) -> bytes:
    """The record at the end of a zip file in the form of ZIP64.

    ``size`` and ``start`` belong to the directory.
    """
    return _END64.pack(
        b"PK\6\6",
        _END64_REST_BYTES,
        _VERSION,
        _VERSION,
        disk,
        disk,
        entries,
        entries,
        size,
        start,
    )


class _Entry:
    """The entry that is being written to an archive.

    Its content is compressed piece by piece. ``digest`` and ``size`` are for
    the content before compression.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Begin an entry with this name at the end of a file."""
        self.name = name
        self.size = 0
        self.digest = sha256()
        self._file = file
        self._start = _length_of(file)
        self._packed = 0
        self._crc = 0
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._time = _dos_time(gmtime())
        # Sizes and checksum are still 0 in this header. :meth:`end` writes over
        # it when they are known.
        file.write(self._header())

    def write(self, piece: bytes) -> None:
        """Add bytes to the content."""
        self.size += len(piece)
        self.digest.update(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self._write_packed(self._packer.compress(piece))

    def _write_packed(self, packed: bytes) -> None:
        """Write compressed bytes to the archive, and count them."""
        self._packed += len(packed)
        self._file.write(packed)

    def end(self) -> bytes:
        """Complete the entry, and return its record for the directory.

        The header before the entry is written again, because the sizes and
        the checksum are known only now.
        """
        self._write_packed(self._packer.flush())
        end = _length_of(self._file)
        self._file.seek(self._start)
        self._file.write(self._header())
        # The next entry begins after this one.
        self._file.seek(end)

        return self._directory_record()

    def checksum_line(self, rows: int) -> bytes:
        """The line about the entry in the file of checksums, which has ``rows``
        rows."""
        line = EntryChecksum(
            name=self.name,
            bytes=self.size,
            sha256=self.digest.hexdigest(),
            rows=rows,
        )
        return msgspec.json.encode(line) + b"\n"

    def _directory_record(self) -> bytes:
        """The record of the entry for the directory of a zip file."""
        name = self.name.encode()
        record = _CENTRAL.pack(
            b"PK\1\2",
            _VERSION | _UNIX,
            *self._fields(name_bytes=len(name), extra_bytes=_EXTRA.size),
            0,  # the length of a comment
            0,  # the number of a disk
            0,  # attributes of the content
            _OWNER_ONLY,
            _ALL,  # where the entry begins
        )
        extra = _EXTRA.pack(
            _ZIP64_FIELD, _EXTRA_BYTES, self.size, self._packed, self._start
        )
        return record + name + extra

    def _header(self) -> bytes:
        """The bytes before the content, with the sizes so far."""
        name = self.name.encode()
        header = _LOCAL.pack(b"PK\3\4", *self._fields(len(name), _SIZES.size))
        sizes = _SIZES.pack(_ZIP64_FIELD, _SIZES_BYTES, self.size, self._packed)
        return header + name + sizes

    def _fields(self, name_bytes: int, extra_bytes: int) -> tuple[int, ...]:
        """The fields that the header of an entry and its directory record
        share."""
        return (
            _VERSION,
            _UTF8,
            _DEFLATE,
            *self._time,
            self._crc,
            _ALL,  # the compressed size
            _ALL,  # the size
            name_bytes,
            extra_bytes,
        )


def _dos_time(now: struct_time) -> tuple[int, int]:
    """A moment as the time and the date of MS-DOS, as two numbers of 16 bits.

    Its clock counts in steps of two seconds, and its years from 1980.
    """
    clock = now.tm_hour << 11 | now.tm_min << 5 | now.tm_sec // 2
    years = now.tm_year - _DOS_EPOCH_YEAR
    day = years << 9 | now.tm_mon << 5 | now.tm_mday
    return clock, day


def _length_of(file: IO[bytes]) -> int:
    """The length of a file that is written only at its end."""
    return file.seek(0, os.SEEK_CUR)


def lines_of(columns: Iterable[str], rows: Iterable[Any]) -> Iterator[bytes]:
    """Rows as lines of JSON objects, with the names of their columns.

    Bytes that are not text become ``{"base64": …}``.
    """
    names = list(columns)
    for row in rows:
        line = dict(zip(names, row, strict=True))
        for name, value in line.items():
            if isinstance(value, bytes):
                line[name] = {"base64": value}
        yield msgspec.json.encode(line) + b"\n"
