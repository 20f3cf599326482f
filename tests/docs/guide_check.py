"""``make guide-check``: follow docs/guides/your-product.md in a new environment, and print a stopwatch table.

Needs the wheels of ``make wheel`` in dist/ and a package registry. Fails if a step of the guide fails. The
column "a new user" is an estimate: the time of the machine, and the time to read the guide, to paste its
blocks, and to try each feature.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.docs.markdown import blocks
from tests.docs.product import GUIDE, files_of, following, step, use
from tests.support import ROOT

WORDS_PER_MINUTE = 150
BLOCK_SECONDS = 30.0
"""To copy a block to a file or to the terminal, and to look at the result."""
FEATURE_SECONDS = 30.0
"""To try a feature in two windows."""


class Stopwatch:
    """The rows of the table: what was done, by the machine, and by a new user as estimated."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float, float]] = []

    def time(self, what: str, user_seconds: float, action: Callable[[], object]) -> None:
        """Do one step. ``user_seconds`` is what a user needs beside the machine."""
        began = time.monotonic()
        action()
        self.add(what, time.monotonic() - began, user_seconds)

    def add(self, what: str, seconds: float, user_seconds: float) -> None:
        self._rows.append((what, seconds, seconds + user_seconds))

    def table(self) -> str:
        """All rows and their sums, as Markdown."""
        totals = ("all", sum(row[1] for row in self._rows), sum(row[2] for row in self._rows))
        lines = ["| step | machine, s | a new user (estimate), s |", "| --- | ---: | ---: |"]
        for what, machine, user in (*self._rows, totals):
            lines.append(f"| {what} | {machine:.1f} | {user:.0f} |")
        return "\n".join(lines)


def reading_seconds() -> float:
    """How long it takes to read the steps of the guide without its code."""
    text = GUIDE.read_text(encoding="utf-8").partition("\n## What you have\n")[0]
    for block in blocks(GUIDE, "sh", "python", "html", "text"):
        text = text.replace(block.text, "")
    return len(text.split()) / WORDS_PER_MINUTE * 60


def environment(wheels: Path, home: Path) -> dict[str, str]:
    """The environment of a user who has Python, pip's settings and the wheels, and nothing else."""
    python = str(Path(sys.base_prefix) / "bin")
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    return {**environment, "PATH": f"{python}:/usr/bin:/bin", "HOME": str(home), "WHEELS": str(wheels)}


def check(wheels: Path) -> str:
    """Follow the guide; return the table. Raises AssertionError if something does not work."""
    stopwatch = Stopwatch()
    with (
        tempfile.TemporaryDirectory() as home,
        following(Path(home), **environment(wheels, Path(home))) as terminal,
    ):
        stopwatch.add("read the guide", 0.0, reading_seconds())
        stopwatch.time("1. install", BLOCK_SECONDS, lambda: terminal.run(step("install").text))
        terminal.folder /= "shop"
        files = files_of(GUIDE)
        for block in files[:1]:
            terminal.write(block)
        stopwatch.time("2. set up", 2 * BLOCK_SECONDS, lambda: terminal.run(step("setup").text))

        def write() -> None:
            for block in files[1:]:
                if not block.words[0].startswith(("fastapi", "django")):
                    terminal.write(block)

        stopwatch.time("3. to 5. write five files", 5 * BLOCK_SECONDS, write)
        stopwatch.time("6. start", BLOCK_SECONDS, lambda: terminal.start(step("start").text))
        for feature, seconds in use(terminal):
            stopwatch.add(feature, seconds, FEATURE_SECONDS)
        assert "Traceback" not in terminal.output, terminal.output
    return stopwatch.table()


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    if not list(folder.glob("imserver-*.whl")):
        sys.exit(f"no wheel of imserver in {folder}: make wheel")
    print(check(folder))
