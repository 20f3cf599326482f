"""Power loss: what a disk may hold when the power goes, made from a recording
of all writes and syncs.

A library records the calls of a server that clients use
(``tests/faults/record_writes.c``). Then the power is cut at many moments,
offline: what was synchronised is kept; other writes are dropped, kept or torn
by sectors, as a seed says. Names are kept up to the last time that their folder
was synchronised, and some after it. What is left is opened as at a start. The
checker judges it by what clients had been told until then.
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
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from bench.chat_dialects import mark_of, text_of
from bench.history import judge
from bench.loop import BenchError, Json
from bench.report import show_phase
from bench.servers import SOURCE, compiled

RECORD_SOURCE: Final = SOURCE / "tests" / "faults" / "record_writes.c"

_HEAD: Final = struct.Struct("<QQQQII")
(
    WRITE,
    TRUNCATE,
    SYNC_BEGIN,
    SYNC_END,
    NAME,
    RENAME,
    UNLINK,
    FOLDER_BEGIN,
    FOLDER_END,
    EXTEND,
    FOLDER,
) = range(1, 12)
SECTOR: Final = 512
HOW: Final = ("drop", "keep", "some", "torn")
"""What becomes of writes that were not synchronised: of all, of all, of each,
of each sector."""
MARK: Final = re.compile(rb"(\d+):(\d+):")
MOST_NOTES: Final = 20


class Record(NamedTuple):
    """One call. ``position``: among all. ``offset``: or a size. ``number``: a
    begin and its end share it."""

    position: int
    at: float
    inode: int
    offset: int
    number: int
    kind: int
    data: bytes


def recorder(folder: Path, root: Path) -> tuple[dict[str, str], Path]:
    """Variables that let a server record what it does below a folder; its
    recording. Raises BenchError."""
    library = compiled(RECORD_SOURCE, folder)
    if library is None:
        raise BenchError("power cuts need a C compiler")
    recording = folder / "writes"
    recording.touch()
    recording.chmod(0o666)
    return {
        "LD_PRELOAD": str(library),
        "RECORD_FILE": str(recording),
        "RECORD_ROOT": str(root),
    }, recording


def read_records(file: Path) -> Iterator[Record]:
    """The calls of a recording, in their order."""
    with file.open("rb") as source:
        for position in count():
            if len(head := source.read(_HEAD.size)) < _HEAD.size:
                return
            time_ns, inode, offset, number, kind, length = _HEAD.unpack(head)
            yield Record(
                position,
                time_ns / 1e9,
                inode,
                offset,
                number,
                kind,
                source.read(length),
            )


@dataclass
class _Content:
    """What is surely on the disk of a file, and what may be."""

    sure: bytearray = field(default_factory=bytearray)
    pending: list[Record] = field(default_factory=list)

    def settle(self, before: int) -> None:
        """All changes before this position are synchronised."""
        for change in self.pending:
            if change.position < before:
                _change(self.sure, change)
        self.pending = [change for change in self.pending if change.position >= before]


def _change(content: bytearray, change: Record) -> None:
    if change.kind == TRUNCATE:
        del content[change.offset :]
    end = change.offset + len(change.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data


class _Naming(NamedTuple):
    """A change of names. ``names``: path → file, or None where there is none
    any more."""

    position: int
    names: dict[str, int | None]


_IS_FOLDER: Final = -1  # in place of a file


class Disk:
    """A disk that follows a recording. ``root``: the folder that is
    recorded."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self._files: dict[int, int] = {}
        """Inode → file. The number of an inode is given again when its file is
        gone."""
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

    def _file(self, inode: int) -> int:
        if inode not in self._files:
            self._files[inode] = len(self._contents)
            self._contents.append(_Content())
        return self._files[inode]

    def follow(self, record: Record) -> None:
        """The next call was made."""
        kind = record.kind
        if kind in (WRITE, TRUNCATE, EXTEND):
            if kind == EXTEND:
                change = record._replace(kind=WRITE, data=b"")
            else:
                change = record
            self._contents[self._file(record.inode)].pending.append(change)
        elif kind in (SYNC_BEGIN, FOLDER_BEGIN):
            self._begins[record.number] = record.position, record.data.decode()
        elif kind == SYNC_END:
            before, _ = self._begins.pop(record.number)
            self._contents[self._file(record.inode)].settle(before)
        elif kind == FOLDER_END:
            self._settle_names(*self._begins.pop(record.number))
        else:
            self._rename(record)

    def _settle_names(self, before: int, folder: str) -> None:
        pending = []
        for naming in self._namings:
            if naming.position < before and folder in map(
                os.path.dirname, naming.names
            ):
                _apply(self._names, naming)
            else:
                pending.append(naming)
        self._namings = pending

    def _rename(self, record: Record) -> None:
        path, _, after = record.data.decode().partition("\0")
        names: dict[str, int | None] = {path: None}
        if record.kind == FOLDER:
            names = {path: _IS_FOLDER}
        elif record.kind == NAME:
            if not self._links[self._file(record.inode)]:
                # a new file has the number of one that is gone
                del self._files[record.inode]
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
        naming = _Naming(record.position, names)
        _apply(self._now, naming)
        self._namings.append(naming)

    def cut(self, how: str, chance: random.Random) -> dict[str, bytes | None]:
        """The power goes now: the files of the disk, by path below the root;
        None: a folder."""
        names = dict(self._names)
        count = {"drop": 0, "keep": len(self._namings)}.get(
            how, chance.randint(0, len(self._namings))
        )
        for naming in self._namings[:count]:
            _apply(names, naming)
        files: dict[str, bytes | None] = {}
        for path, file in sorted(names.items()):
            folder = os.path.dirname(path)
            below = os.path.relpath(path, self.root)
            if folder != self.root and os.path.dirname(below) not in files:
                continue  # nothing leads there: its folder is lost
            files[below] = (
                None
                if file == _IS_FOLDER
                else _content_after(self._contents[file], how, chance)
            )
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


def _tear(content: bytearray, change: Record, chance: random.Random) -> None:
    """Write some of the sectors of a write."""
    start = change.offset
    end = change.offset + len(change.data)
    position = start
    while position < end:
        until = min(end, position // SECTOR * SECTOR + SECTOR)
        if chance.random() < 0.5:
            part = change.data[position - start : until - start]
            _change(content, change._replace(offset=position, data=part))
        position = until


# --- what stands on it --------------------------------------------------------


@dataclass
class Remains:
    """What is left of a disk: number of a conversation, place and body of each
    message."""

    rows: list[tuple[int, int, bytes]] = field(default_factory=list)
    broken: str = ""
    """Why it cannot be used."""


_STATEMENT: Final = "SELECT conversation, seq, body FROM message"


def read_sqlite(folder: Path) -> Remains:
    """Open the database as a start would, and read it."""
    stored = Remains()
    try:
        with closing(sqlite3.connect(folder / "imserver.db")) as database:
            (intact,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if intact != "ok":
                stored.broken = intact
            if database.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = 'message'"
            ).fetchone()[0]:
                stored.rows = database.execute(_STATEMENT).fetchall()
    except sqlite3.Error as error:
        stored.broken = f"{type(error).__name__}: {error}"
    return stored


# --- the judgement ------------------------------------------------------------


class Cuts:
    """What all cuts together have shown. ``history``: what clients did and were
    told."""

    def __init__(self, history: Path) -> None:
        self.events = sends_in(history)
        """In the order of time."""
        self.lines = [json.dumps(event) for event in self.events]
        self.objects = {
            event["message"]: event["object"]
            for event in self.events
            if event["event"] == "ask"
        }
        """Message → its conversation."""
        self.figures = Counter(
            power_cuts=0, power_compared=0, chaos_broken=0, power_broken=0
        )
        self.notes: list[str] = []

    def compare(self, where: str, moment: float, stored: Remains) -> None:
        """Judge what is left after a cut at a moment."""
        end = bisect_left(self.events, moment, key=itemgetter("at"))
        requests = [event for event in self.events[:end] if event["event"] == "ask"]
        judged, broken = judge(
            self.lines[:end],
            [] if stored.broken else self._reads(requests, moment, stored),
        )
        texts = [*([stored.broken] if stored.broken else []), *broken]
        self.figures.update(
            power_cuts=1,
            power_compared=end - len(requests),
            chaos_broken=int(judged["chaos_broken"] or 0),
            power_broken=bool(stored.broken),
        )
        self.notes += [f"{where}: {text}" for text in texts][
            : MOST_NOTES - len(self.notes)
        ]

    def _reads(
        self, requests: Sequence[Json], moment: float, stored: Remains
    ) -> Iterator[str]:
        """Lines that say what somebody reads who comes after the cut, in each
        conversation."""
        rows: dict[str, list[tuple[int, str | None]]] = {
            event["object"]: [] for event in requests
        }
        texts = [
            (number, seq, text_in(bytes(body or b"")))
            for number, seq, body in stored.rows
        ]
        names = {
            number: self.objects[text]
            for number, _, text in texts[::-1]
            if text in self.objects
        }
        for number, seq, text in texts:
            rows.setdefault(names.get(number, f"conversation {number}"), []).append(
                (seq, text)
            )
        for number, (name, messages) in enumerate(rows.items(), 1):
            ask = {
                "event": "ask",
                "at": moment,
                "number": -number,
                "client": "disk",
                "name": "read",
            }
            yield json.dumps(ask | {"object": name, "whole": True})
            yield json.dumps(
                {
                    "event": "ok",
                    "at": moment,
                    "number": -number,
                    "messages": sorted(messages, key=itemgetter(0)),
                }
            )


def sends_in(history: Path) -> list[Json]:
    """What the history of a chat says of messages that were sent, in the order
    of time."""
    events = list[Json]()
    sent = set[int]()
    with history.open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            if event["event"] == "ask" and event["name"] == "send":
                sent.add(event["number"])
            if event["event"] in ("ask", "ok") and event["number"] in sent:
                events.append(event)
    return sorted(events, key=itemgetter("at"))


def text_in(body: bytes) -> str | None:
    """The text by which a history names a message; None: the body has none."""
    found = MARK.search(body)
    if found is None:
        return None
    return text_of(mark_of(int(found[1]), int(found[2])))


def cut_all(disk: Disk, recording: Path, history: Path, cuts: int, seed: int) -> Cuts:
    """Follow the recording, cut the power so often, and compare what is stored
    with the history."""
    chance = random.Random(seed)
    found = Cuts(history)
    folder = recording.with_name("state")
    times = [record.at for record in read_records(recording)]
    acks = [event["at"] for event in found.events if event["event"] == "ok"]
    if not times or not acks:
        raise BenchError("nothing was recorded")
    moments = sorted(
        chance.randrange(bisect_left(times, acks[0]), len(times)) for _ in range(cuts)
    )
    number = 0
    shown_at = time.monotonic()
    for record in read_records(recording):
        while moments and moments[0] == record.position:
            moments.pop(0)
            number += 1
            how = HOW[number % len(HOW)]
            _make(folder, disk.cut(how, chance))
            found.compare(
                f"cut {number} ({how}) at {record.at:.6f}",
                record.at,
                read_sqlite(folder),
            )
            if time.monotonic() > shown_at + 10:
                shown_at = time.monotonic()
                show_phase(
                    f"cut {number} of {cuts}: {found.figures['chaos_broken']:g} rules broken"
                )
        disk.follow(record)
    return found


def _make(folder: Path, files: dict[str, bytes | None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
