"""The attack "archives": an operator imports archives that somebody forged, while others use the server.

The commands run beside the server, on its database. What each of them takes, and for how long the server's
loop is blocked, is measured.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile

from bench.abuse_answers import row_of
from bench.context import RunContext
from bench.http_client import post
from bench.loop import BenchError, Json
from bench.probe import watched
from bench.servers import NodeProcess

NAME: Final = "demo: archives"
APP: Final = "101"
ROWS: Final = 100_000
SECONDS: Final = 60
MOST_COMMAND_MB = 400


Content = tuple[bytes, int]
"""A piece, and how often it stands there: so the tool needs no memory, which would count as that
of its commands."""


def _forged(good: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """What is wrong with an archive, and its file."""
    with ZipFile(good) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    (rows,) = [name for name in entries if name.startswith("rows/message/")]
    row = entries[rows].splitlines()[0]
    zeros, letters = bytes(1 << 20), b"x" * (1 << 20)
    forgeries: dict[str, tuple[str, Content]] = {
        "huge manifest": ("manifest.json", (zeros, 1024)),
        "huge line of checksums": ("checksums.jsonl", (zeros, 1024)),
        "huge line": (rows, (letters, 512)),
        "deep JSON": (rows, (b"[" * (1 << 20), 32)),
        "rows of another app": (rows, (row[:-1] + b',"app":"102"}\n', ROWS)),
        "the same row": (rows, (row + b"\n", ROWS)),
    }
    path = folder / "forged.zip"
    for kind, (name, (piece, count)) in forgeries.items():
        changed = dict(entries)
        if name == rows:
            digest = sha256()
            for _ in range(count):
                digest.update(piece)
            sums = [json.loads(line) for line in entries["checksums.jsonl"].splitlines()]
            for each in sums:
                if each["name"] == rows:
                    each |= {"sha256": digest.hexdigest(), "bytes": count * len(piece)}
            changed["checksums.jsonl"] = "".join(json.dumps(each) + "\n" for each in sums).encode()
            manifest = json.loads(entries["manifest.json"])
            manifest["checksums"] = sha256(changed["checksums.jsonl"]).hexdigest()
            changed["manifest.json"] = json.dumps(manifest).encode()
        with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1) as file:
            for other, content in changed.items():
                with file.open(other, "w", force_zip64=True) as out:
                    for _ in range(count if other == name else 1):
                        out.write(piece if other == name else content)
        yield kind, path


def archives(context: RunContext) -> Json:
    """The row of the attack."""
    settings = {"IMSERVER_APPS": json.dumps({APP: {"open": True}})}
    node = context.pool.start(NodeProcess(context.log, environment=settings, cores=context.cores.server))
    context.target, pid = node.target, node.pids[0]
    (prober,) = context.start_workers(1)
    folder = Path(node.data_directory).parent

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "imserver", words[0], "-c", os.devnull]
        command += ["--data-dir", node.data_directory, *words[1:]]
        return subprocess.run(
            command, cwd=node.working_directory, env={**os.environ, **node.environment}, check=False,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS,
        )  # fmt: skip

    try:
        message = {"app": APP, "user": "ann", "to": "bob", "text": "Lunch is ready"}
        if "id" not in (answer := post(context.target, "/api/v1/messages/send", message)):
            raise BenchError(f"archives: {json.dumps(answer)[:300]}")
        good = folder / "good.zip"
        done = run("export", APP, str(good))
        if done.returncode:
            raise BenchError(f"archives: {done.stdout[-300:]}")
        with watched(context, prober, pid, 10 * SECONDS) as measured:
            taken = [
                kind
                for kind, path in _forged(good, folder)
                if not run("import", "--app", "evil", str(path)).returncode
            ]
    finally:
        node.control("stop")
    command_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return row_of(
        NAME,
        f"a command took {command_mb:.0f} MB at most" + "".join(f"; {kind} was imported" for kind in taken),
        (command_mb / MOST_COMMAND_MB, 2.0 * bool(taken)),
        **measured,
        command_mb=command_mb,
    )
