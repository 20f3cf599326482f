"""Power cuts that are made of a recording: what was synchronised is there, and
what was not may be gone."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.chat_dialects import MARK_BITS
from bench.power import Cuts, Disk, Remains, cut_all, read_records, recorder

from .play import found

pytestmark = [pytest.mark.linux, pytest.mark.needs("cc")]

_WRITER = """
import json, os, sqlite3, sys, time
folder, history, mode = sys.argv[1:]
database = sqlite3.connect(folder + "/imserver.db", isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute(f"PRAGMA synchronous={mode}")
database.execute("CREATE TABLE message (conversation, seq, body)")
with open(history, "w") as acks:
    for number in range(1, 101):
        mark = 1 << int(os.environ["BITS"]) | number
        row = {"event": "ask", "client": "ann", "name": "send", "object": "chat", "message": f"1:{number}:"}
        acks.write(json.dumps(row | {"number": mark, "at": time.monotonic()}) + "\\n")
        database.execute("INSERT INTO message VALUES (1, ?, ?)", (number, b"1:%d:" % number))
        acks.write(json.dumps({"event": "ok", "number": mark, "at": time.monotonic()}) + "\\n")
"""
_PRELUDE = """
import os, sys
os.chdir(sys.argv[1])
def write(name, text, sync=True):
    with open(name, "wb", buffering=0) as file:
        file.write(text)
        if sync:
            os.fsync(file.fileno())
def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
"""
_FILES = """
write("kept", b"old" * 1000)
write("nameless", b"x")
os.rename("nameless", "named")
sync(".")
write("new", b"new" * 1000)
os.rename("new", "kept")
write("torn", b"y" * 5000, False)
"""
_FOLDERS = """
os.mkdir("a")
os.mkdir("a/b")
write("a/b/lost", b"1")
sync("a/b")
sync(".")
os.mkdir("c")
write("c/draft", b"22")
os.link("c/draft", "c/kept")
os.unlink("c/draft")
os.truncate("c/kept", 1)
write("c/kept", b"3")
sync("c")
sync(".")
os.unlink("c/kept")
write("c/next", b"4")
"""


def record(folder: Path, *command: str, **environment: str) -> tuple[Disk, Path]:
    """Run a program whose calls are recorded; its files, and the recording."""
    root = folder / "root"
    root.mkdir()
    preload, recording = recorder(folder, root)
    subprocess.run(
        [sys.executable, "-c", *command],
        check=True,
        env={**os.environ, **preload, **environment},
    )
    return Disk(root), recording


def play(disk: Disk, recording: Path) -> Disk:
    for each in read_records(recording):
        disk.follow(each)
    return disk


def test_names_and_contents_are_kept_as_far_as_they_were_synchronised(
    tmp_path: Path,
) -> None:
    disk = play(*record(tmp_path, _PRELUDE + _FILES, str(tmp_path / "root")))
    assert disk.cut("drop", random.Random(1)) == {"kept": b"old" * 1000, "named": b"x"}
    assert disk.cut("keep", random.Random(1)) == {
        "kept": b"new" * 1000,
        "named": b"x",
        "torn": b"y" * 5000,
    }
    contents = {disk.cut("torn", random.Random(seed)).get("torn") for seed in range(50)}
    assert len(contents) > 10, (
        "the file that was not synchronised may hold any of its sectors"
    )
    first_files = {disk.cut("some", random.Random(seed))["kept"] for seed in range(50)}
    assert first_files == {b"old" * 1000, b"new" * 1000}, "a rename is done or not"


def test_a_file_is_lost_if_a_folder_above_it_was_not_synchronised(
    tmp_path: Path,
) -> None:
    disk = play(*record(tmp_path, _PRELUDE + _FOLDERS, str(tmp_path / "root")))
    assert disk.cut("drop", random.Random(1)) == {"a": None, "c": None, "c/kept": b"3"}
    assert disk.cut("keep", random.Random(1)) == {
        "a": None,
        "a/b": None,
        "a/b/lost": b"1",
        "c": None,
        "c/next": b"4",
    }


@pytest.mark.parametrize(("mode", "loses"), [("FULL", False), ("OFF", True)])
def test_a_commit_that_was_not_synchronised_is_lost_in_some_cuts(
    tmp_path: Path, mode: str, loses: bool
) -> None:
    history = tmp_path / "history"
    disk, recording = record(
        tmp_path,
        _WRITER,
        str(tmp_path / "root"),
        str(history),
        mode,
        BITS=str(MARK_BITS),
    )
    found = cut_all(disk, recording, history, 60, 7)
    assert len(found.events) == 200
    figures = found.figures
    assert figures["power_cuts"] == 60
    assert (figures["power_compared"] or 0) > 1000
    assert bool(figures["chaos_broken"] or figures["power_broken"]) == loses, (
        found.notes
    )
    assert {note.split(": ")[1] for note in found.notes} <= {
        "lost",
        "stale",
        "DatabaseError",
    }


@pytest.mark.parametrize(
    ("rows", "broken"),
    [
        ([(7, 1, b"1:1:"), (7, 2, b"1:2:"), (7, 3, b"1:3:")], set()),
        ([(7, 1, b"1:1:"), (7, 2, b"1:2:")], set()),
        ([(7, 1, b"1:1:")], {"lost", "stale"}),
        ([(7, 1, b"1:1:"), (7, 2, b"1:2:"), (7, 3, b"1:2:")], {"doubled"}),
        ([(7, 1, b"1:1:"), (7, 3, b"1:2:")], {"hole"}),
        ([(7, 1, b"1:2:"), (7, 2, b"1:1:")], {"overtaken"}),
        ([(7, 1, b"1:1:"), (7, 2, b"1:2:"), (7, 3, b"2:9:")], {"invented"}),
    ],
)
def test_what_is_left_is_judged_by_what_was_said_before(
    rows: list[tuple[int, int, bytes]], broken: set[str], tmp_path: Path
) -> None:
    """Three messages are sent, two acknowledged before the power goes, at 5.5
    s."""
    history = tmp_path / "history"
    with history.open("w") as lines:
        for number, (begun, ended) in enumerate(
            [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)], 1
        ):
            ask = {
                "client": "ann",
                "name": "send",
                "object": "chat",
                "message": f"1:{number}:",
            }
            lines.write(
                json.dumps({"event": "ask", "number": number, "at": begun, **ask})
                + "\n"
            )
            lines.write(
                json.dumps({"event": "ok", "number": number, "at": ended}) + "\n"
            )
    found = Cuts(history)
    found.compare("a cut", 5.5, Remains(rows=[*rows]))
    assert {note.split(": ")[1] for note in found.notes} == broken
    assert found.figures["power_compared"] == 2


@pytest.mark.full("faults")
def test_what_was_acknowledged_is_there_after_a_few_cuts() -> None:
    report = found("chaos", "--power", "4", "--minutes", "0.1", "--rate", "40")
    assert report["figures"]["power_cuts"] == 4
    assert report["figures"]["power_compared"] > 0
    assert report["faults"] == {}
