"""What a chat left in the SQLite file of a server of our own, read beside it."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

NAME = "imserver.db"
FSYNCS = 20


@dataclass(frozen=True)
class Stored:
    """Messages in the log, bytes of the database, and places missing in the order of any conversation."""

    rows: int
    size: int
    holes: int


def look(folder: str) -> Stored | None:
    """Count what is stored in the data folder ``folder``; None where there is no such file."""
    path = Path(folder) / NAME if folder else None
    if path is None or not path.exists():
        return None
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        (rows,) = database.execute("SELECT count(*) FROM message").fetchone()
        (holes,) = database.execute(
            "SELECT coalesce(sum(last - first + 1 - found + doubles), 0) FROM (SELECT min(seq) AS first,"
            " max(seq) AS last, count(DISTINCT seq) AS found, count(*) - count(DISTINCT seq) AS doubles"
            " FROM message GROUP BY log, conversation)"
        ).fetchone()
    return Stored(rows, pages * page_bytes, holes)


def fsync_ms(folder: str) -> float | None:
    """Return what an fsync of a small append takes in ``folder`` (the median); None where it is not known."""
    if not folder:
        return None
    path = Path(folder) / "fsync-probe"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        times = []
        for _ in range(FSYNCS):
            os.write(file, bytes(4096))
            begin = time.monotonic_ns()
            os.fsync(file)
            times.append((time.monotonic_ns() - begin) / 1e6)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(times)
