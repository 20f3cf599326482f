"""Power loss: what a disk may hold when the power goes, made from a recording of all writes and syncs.

A library records the calls of a server that clients use (``tests/faults/record_writes.c``). Then the power
is cut at many moments, offline: what was synchronised is kept; other writes are dropped, kept or torn by
sectors, as a seed says. Names are kept up to the last time that their folder was synchronised, and some after
it. What is left is opened as at a start, and compared with what clients had been told until that moment.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.chat_dialects import mark_of
from bench.figures import Figures
from bench.loop import BenchError
from bench.servers import ENGINES, DatabaseProcess, compiled
from bench.workers import SOURCE

RECORD_SOURCE: Final = SOURCE / "tests" / "faults" / "record_writes.c"

_HEAD: Final = struct.Struct("<QQQQII")
WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, NAME, RENAME, UNLINK, FOLDER_BEGIN, FOLDER_END, EXTEND, FOLDER = range(
    1, 12
)
SECTOR: Final = 512
HOW: Final = ("drop", "keep", "some", "torn")
"""What becomes of writes that were not synchronised: of all, of all, of each, of each sector."""
MARK: Final = re.compile(rb"(\d+):(\d+):")


class Record(NamedTuple):
    """One call. ``offset``: also a size. ``number``: a begin and its end have the same."""

    at: float
    inode: int
    offset: int
    number: int
    kind: int
    data: bytes


def recorder(folder: Path, root: Path) -> tuple[dict[str, str], Path]:
    """Variables that let a server record what it does below a folder; its recording. Raises BenchError."""
    library = compiled(RECORD_SOURCE, folder)
    if library is None:
        raise BenchError("power cuts need a C compiler")
    recording = folder / "writes"
    recording.touch()
    recording.chmod(0o666)
    return {"LD_PRELOAD": str(library), "RECORD_FILE": str(recording), "RECORD_ROOT": str(root)}, recording


def read_records(file: Path) -> Iterator[Record]:
    """The calls of a recording, in their order."""
    with file.open("rb") as source:
        while len(head := source.read(_HEAD.size)) == _HEAD.size:
            time_ns, inode, offset, number, kind, length = _HEAD.unpack(head)
            yield Record(time_ns / 1e9, inode, offset, number, kind, source.read(length))


class _Change(NamedTuple):
    """A change of a file's content that is not synchronised. ``position``: of its record."""

    position: int
    kind: int
    offset: int
    data: bytes


@dataclass
class _Content:
    """What is surely on the disk of a file, and what may be."""

    sure: bytearray = field(default_factory=bytearray)
    pending: list[_Change] = field(default_factory=list)

    def settle(self, before: int) -> None:
        """All changes before this position are synchronised."""
        for change in self.pending:
            if change.position < before:
                _change(self.sure, change)
        self.pending = [change for change in self.pending if change.position >= before]


def _change(content: bytearray, change: _Change) -> None:
    if change.kind == TRUNCATE:
        del content[change.offset :]
    end = change.offset + len(change.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data


class _Naming(NamedTuple):
    """A change of names. ``names``: path → file, or None where there is none any more."""

    position: int
    names: dict[str, int | None]

    def is_in(self, folder: str) -> bool:
        return any(os.path.dirname(path) == folder for path in self.names)


_IS_FOLDER: Final = -1
"""In place of a file."""


class Disk:
    """A disk that follows a recording. ``root``: the folder that is recorded.

    ``journal``: whatever is synchronised keeps all changes of names before, as on file systems with a journal
    (ext4). Otherwise only a folder keeps its own.
    """

    def __init__(self, root: Path, journal: bool = False) -> None:
        self.root = str(root.resolve())
        self._journal = journal
        self._files: dict[int, int] = {}
        """Inode → file. The number of an inode is given again when its file is gone."""
        self._contents: list[_Content] = []
        """By the number of the file."""
        self._names: dict[str, int] = {}
        """Surely on the disk: path → file."""
        self._namings: list[_Naming] = []
        """Those that are not synchronised."""
        self._begins: dict[int, tuple[int, str]] = {}
        self._links: Counter[int] = Counter()
        """File → how many names it has now."""
        self._now: dict[str, int] = {}
        """Path → file, as programs see it."""

    def load(self) -> None:
        """Take the files of the folder as synchronised."""
        for path in Path(self.root).rglob("*"):
            if path.is_dir():
                self._names[str(path)] = self._now[str(path)] = _IS_FOLDER
            elif path.is_file() and not path.is_symlink():
                file = self._file(path.stat().st_ino)
                self._contents[file].sure[:] = path.read_bytes()
                self._names[str(path)] = self._now[str(path)] = file
                self._links[file] += 1

    def _file(self, inode: int) -> int:
        if inode not in self._files:
            self._files[inode] = len(self._contents)
            self._contents.append(_Content())
        return self._files[inode]

    def follow(self, position: int, record: Record) -> None:
        """The next call was made."""
        kind = record.kind
        if kind in (WRITE, TRUNCATE, EXTEND):
            data = record.data
            if kind == EXTEND:
                kind, data = WRITE, b""
            change = _Change(position, kind, record.offset, data)
            self._contents[self._file(record.inode)].pending.append(change)
        elif kind in (SYNC_BEGIN, FOLDER_BEGIN):
            self._begins[record.number] = position, record.data.decode()
        elif kind == SYNC_END:
            before, _ = self._begins.pop(record.number)
            self._contents[self._file(record.inode)].settle(before)
            if self._journal:
                self._settle_names(before, "")
        elif kind == FOLDER_END:
            self._settle_names(*self._begins.pop(record.number))
        else:
            self._rename(position, record)

    def _settle_names(self, before: int, folder: str) -> None:
        pending = []
        for naming in self._namings:
            if naming.position < before and (self._journal or naming.is_in(folder)):
                _apply(self._names, naming)
            else:
                pending.append(naming)
        self._namings = pending

    def _rename(self, position: int, record: Record) -> None:
        path, _, after = record.data.decode().partition("\0")
        names: dict[str, int | None] = {path: None}
        if record.kind == FOLDER:
            names = {path: _IS_FOLDER}
        elif record.kind == NAME:
            if not self._links[self._file(record.inode)]:
                del self._files[record.inode]  # a new file has the number of one that is gone
            names = {path: self._file(record.inode)}
        elif record.kind == RENAME:
            names[after] = self._now.get(path)
        if all(self._now.get(name) == file for name, file in names.items()):
            return  # it was only opened
        for name, file in names.items():
            before = self._now.get(name)
            if before is not None:
                self._links[before] -= 1
            if file is not None:
                self._links[file] += 1
        naming = _Naming(position, names)
        _apply(self._now, naming)
        self._namings.append(naming)

    def cut(self, how: str, chance: random.Random) -> dict[str, bytes | None]:
        """The power goes now: the files of the disk, by path below the root; None: a folder."""
        names = dict(self._names)
        count = {"drop": 0, "keep": len(self._namings)}.get(how, chance.randint(0, len(self._namings)))
        for naming in self._namings[:count]:
            _apply(names, naming)
        files: dict[str, bytes | None] = {}
        for path, file in sorted(names.items()):
            folder, below = os.path.dirname(path), os.path.relpath(path, self.root)
            if folder != self.root and os.path.dirname(below) not in files:
                continue  # nothing leads there: its folder is lost
            files[below] = None if file == _IS_FOLDER else _content_after(self._contents[file], how, chance)
        return files


def _apply(names: dict[str, int], naming: _Naming) -> None:
    for path, file in naming.names.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def _content_after(content: _Content, how: str, chance: random.Random) -> bytes:
    if not content.pending or how == "drop":
        return bytes(content.sure)
    data = bytearray(content.sure)
    for change in content.pending:
        if how == "keep" or (change.kind == TRUNCATE and chance.random() < 0.5):
            _change(data, change)
        elif change.kind != TRUNCATE and how == "some":
            if chance.random() < 0.5:
                _change(data, change)
        elif change.kind != TRUNCATE:
            _tear(data, change, chance)
    return bytes(data)


def _tear(content: bytearray, change: _Change, chance: random.Random) -> None:
    """Write some of the sectors of a write."""
    start, end = change.offset, change.offset + len(change.data)
    position = start
    while position < end:
        until = min(end, position // SECTOR * SECTOR + SECTOR)
        if chance.random() < 0.5:
            part = change.data[position - start : until - start]
            _change(content, _Change(0, WRITE, position, part))
        position = until


# --- what stands on it --------------------------------------------------------------------------------------


@dataclass
class StoredMessages:
    """The messages of a database: mark → how often, and the seqs of each conversation."""

    marks: Counter[int] = field(default_factory=Counter)
    seqs: dict[int, list[int]] = field(default_factory=dict)
    broken: str = ""
    """Why the database cannot be used."""
    mended: bool = False
    """Whether its own tool had to cut off a file before it started."""

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        for conversation, seq, body in rows:
            self.seqs.setdefault(conversation, []).append(seq)
            self.marks.update(marks_in(bytes(body or b"")))

    @property
    def holes(self) -> int:
        return sum(max(seqs) - min(seqs) + 1 - len(set(seqs)) for seqs in self.seqs.values())


_STATEMENT: Final = "SELECT conversation, seq, body FROM message"


def read_sqlite(folder: Path) -> StoredMessages:
    """Open the database as a start would, and read it."""
    stored = StoredMessages()
    try:
        with closing(sqlite3.connect(folder / "imserver.db")) as database:
            (intact,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if intact != "ok":
                stored.broken = intact
            if database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'message'").fetchone()[0]:
                stored.add(database.execute(_STATEMENT).fetchall())
    except sqlite3.Error as error:
        stored.broken = f"{type(error).__name__}: {error}"
    return stored


def marks_in(body: bytes) -> list[int]:
    """The mark of a message; nothing if it has none."""
    found = MARK.search(body)
    return [] if found is None else [mark_of(int(found[1]), int(found[2]))]


def read_server(
    engine: str, folder: Path, rows: Callable[[str, DatabaseProcess], Sequence[Sequence[Any]]] | None = None
) -> StoredMessages:
    """Start a database server on a folder, wait for its recovery, and read messages, or these ``rows``."""
    server = ENGINES[engine]({})
    server.keep_folder = server.synchronises = False
    shutil.move(folder, server.data)
    stored = StoredMessages()
    try:
        if server.identity:
            for path in (server.data, *server.data.rglob("*")):
                os.chown(path, server.identity["user"], server.identity["group"])
        server.data.chmod(0o700)
        for name in ("postmaster.pid", "postmaster.opts"):
            (server.data / name).unlink(missing_ok=True)
        server.start()
        stored.add((rows or _rows)(engine, server))
    except Exception as error:  # also those of drivers
        stored.broken = str(error)
    finally:
        server.end()
    return stored


def _rows(engine: str, server: DatabaseProcess) -> Sequence[Sequence[Any]]:
    if engine == "postgresql":
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=server.port, user="imserver", dbname="postgres"
        ) as opened:
            (there,) = opened.execute("SELECT to_regclass('message')").fetchone() or (None,)
            return opened.execute(_STATEMENT).fetchall() if there else []
    import pymysql

    with (
        pymysql.connect(host="127.0.0.1", port=server.port, user="root") as session,
        session.cursor() as cursor,
    ):
        cursor.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'message'")
        if not cursor.fetchall():
            return []
        cursor.execute(f"{_STATEMENT.replace('message', 'imserver.message')}")
        return list(cursor.fetchall())


# --- the comparison -----------------------------------------------------------------------------------------


@dataclass
class Acknowledged:
    """What clients had been told.

    ``rows``: when which number was acknowledged, in the order of time. ``elsewhere``: when which number came
    to a place that keeps its power. What was acknowledged within ``loses_seconds`` before a cut may be lost.
    """

    rows: list[tuple[float, int]]
    loses_seconds: float = 0.0
    elsewhere: list[tuple[float, int]] = field(default_factory=list)

    def until(self, moment: float) -> tuple[list[int], list[int]]:
        """The numbers that must be stored at a moment, and those that may be."""
        surely = moment - self.loses_seconds
        there = {number for at, number in self.elsewhere if at < moment}
        rows = [(at, number) for at, number in self.rows if at < moment and number not in there]
        return [number for at, number in rows if at < surely], [number for at, number in rows if at >= surely]


def acknowledged(history: Path) -> Acknowledged:
    """What a chat had acknowledged."""
    rows = []
    with history.open(encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if event["event"] == "ok" and event["number"] > 0:
                rows.append((event["at"], event["number"]))
    return Acknowledged(sorted(rows))


@dataclass
class CutTally:
    """What all cuts together have shown. ``notes``: the first faults in words."""

    cuts: int = 0
    compared: int = 0
    lost: int = 0
    newest: int = 0
    newest_lost: int = 0
    doubled: int = 0
    holes: int = 0
    broken: int = 0
    mended: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if len(self.notes) < 20:
            self.notes.append(text)


def cut_all(
    disk: Disk,
    recording: Path,
    acks: Acknowledged,
    cuts: int,
    seed: int,
    folder: Path,
    read: Callable[[Path], StoredMessages],
    show: Callable[[str], None] = lambda text: None,
) -> CutTally:
    """Follow the recording, cut the power so often, and compare what is stored with ``acks``."""
    chance = random.Random(seed)
    count = sum(1 for _ in read_records(recording))
    if not count or not acks.rows:
        raise BenchError("nothing was recorded")
    first = sum(1 for record in read_records(recording) if record.at < acks.rows[0][0])
    moments = sorted(chance.randrange(first, count) for _ in range(cuts))
    tally, shown_at = CutTally(), time.monotonic()
    for position, record in enumerate(read_records(recording)):
        while moments and moments[0] == position:
            moments.pop(0)
            tally.cuts += 1
            how = HOW[tally.cuts % len(HOW)]
            _make(folder, disk.cut(how, chance))
            _compare(
                tally, f"cut {tally.cuts} ({how}) at {record.at:.6f}", *acks.until(record.at), read(folder)
            )
            if time.monotonic() > shown_at + 10:
                shown_at = time.monotonic()
                show(f"cut {tally.cuts} of {cuts}: {tally.lost} lost, {tally.broken} broken")
        disk.follow(position, record)
    return tally


def _make(folder: Path, files: dict[str, bytes | None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def _compare(
    tally: CutTally, where: str, surely: list[int], newest: list[int], stored: StoredMessages
) -> None:
    if stored.broken:
        tally.broken += 1
        tally.note(f"{where}: {stored.broken}")
    lost = [mark for mark in surely if not stored.marks[mark]]
    doubled = [mark for mark, times in stored.marks.items() if times > 1]
    tally.compared += len(surely)
    tally.lost += len(lost)
    tally.newest += len(newest)
    tally.newest_lost += sum(not stored.marks[mark] for mark in newest)
    tally.doubled += len(doubled)
    tally.holes += stored.holes
    tally.mended += stored.mended
    if lost or doubled or stored.holes:
        tally.note(
            f"{where}: {len(lost)} of {len(surely)} lost, {len(doubled)} doubled, {stored.holes} holes"
        )


def figures(tally: CutTally) -> Figures:
    return {
        "power_cuts": tally.cuts,
        "power_compared": tally.compared,
        "power_lost": tally.lost,
        "power_newest": tally.newest,
        "power_newest_lost": tally.newest_lost,
        "power_doubled": tally.doubled,
        "power_holes": tally.holes,
        "power_broken": tally.broken,
        "power_mended": tally.mended,
    }
