"""``python -m tools.judges [NAME …]``: let others judge this server, and write
docs/judges.md.

Nothing in the table of that page is typed: versions are those of the lock
files, results those of the run. Without names all of ``judges.toml`` run, one
after the other; with names the rows of the others stay as they are. The exit
status is 1 if one of them fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, NamedTuple
from xml.etree import ElementTree

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "judges.md"
TABLE: Final = ROOT / "tools" / "judges.toml"
BEGIN: Final = "<!-- The rows below are written by: make judges -->\n\n"
HEADS: Final = (
    "judge",
    "what it judges",
    "assertions",
    "version",
    "result",
    "exceptions",
    "day",
    "command",
)
REQUIREMENTS: Final = {
    "autobahn": "tests/autobahn/requirements.txt",
    "synapse": "plugins/arrivals/tests/synapse/requirements.txt",
}
"""What is installed apart, for one judge."""
CANNOT_RUN: Final = 2
"""Exit status of a command whose programs are not here."""


class Judge(NamedTuple):
    """What judges us: a row of ``judges.toml``, which explains the fields."""

    name: str
    what: str
    packages: list[str]
    run: list[str]
    assertions: Literal["theirs", "ours"] = "ours"

    @property
    def command(self) -> list[str]:
        """What runs it, from the top folder."""
        is_test = self.run[0].partition("::")[0].endswith(".py")
        if is_test:
            return ["pytest", "-m", "", *self.run]
        return [*self.run]


class Result(NamedTuple):
    """``state`` is passed, failed or not run; ``detail``: how many, or what is
    wrong."""

    state: str
    detail: str
    exceptions: tuple[str, ...] = ()


def version_of(package: str) -> str:
    """Name and version of a package as its lock file has it, or of a program as
    it says itself."""
    kind, _, name = package.partition(":")
    if kind == "npm":
        locked = json.loads(
            (ROOT / "sdk/package-lock.json").read_text(encoding="utf-8")
        )["packages"]
        return f"{name} {locked[f'node_modules/{name}']['version']}"
    if kind == "program":
        words = name.split()
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return f"{words[0]} (missing)"
        found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
        return f"{words[0]} {found[0] if found else '?'}"
    file = REQUIREMENTS.get(kind, "requirements-dev.lock")
    texts = [
        (ROOT / each).read_text(encoding="utf-8")
        for each in (file, "requirements.lock")
    ]
    found = re.search(
        rf"^{re.escape(name)}(?:\[.*\])?==([^\s;]+)", "\n".join(texts), re.MULTILINE
    )
    if found is None:
        raise LookupError(f"no lock file has {package}")
    return f"{name} {found[1]}"


def run(judge: Judge) -> Result:
    """Let it judge. What it prints goes to this terminal, too."""
    # CI=true forbids to leave out
    environment = {**os.environ, "CI": "", "PYTHON": sys.executable}
    with TemporaryDirectory() as folder:
        command = judge.command
        report = Path(folder, "report.xml")
        if command[0] == "pytest":
            # Their properties are no part of the newer form of a report.
            options = (
                "-p",
                "no:cacheprovider",
                "-o",
                "junit_family=xunit1",
                f"--junitxml={report}",
            )
            command = [sys.executable, "-m", *command, *options]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            lines = []
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line.rstrip())
        if report.exists():
            return of_report(report, process.returncode)
    return of_output(lines, process.returncode)


def of_report(report: Path, status: int) -> Result:
    """The result of a run of pytest. A test that was skipped, or none at all,
    is no success."""
    cases = [*ElementTree.parse(report).iter("testcase")]
    wrong = [
        each
        for each in cases
        if each.find("failure") is not None or each.find("error") is not None
    ]
    skipped = [each.find("skipped") for each in cases]
    reasons = [each.get("message", "") for each in skipped if each is not None]
    properties = [
        (each.get("name"), each.get("value", ""))
        for case in cases
        for each in case.iter("property")
    ]
    exceptions = dict.fromkeys(
        value for name, value in properties if name == "exception"
    )
    checks = sum(int(value) for name, value in properties if name == "checks")
    if wrong or status or not cases:
        names = ", ".join(f"`{each.get('name')}`" for each in wrong[:3])
        return Result(
            "failed",
            f"{len(wrong)} of {len(cases)}: {names}"
            if wrong
            else f"exit status {status}",
        )
    if reasons:
        return Result(
            "not run", f"{len(reasons)} of {len(cases)} left out: {reasons[0]}"
        )
    if checks:
        inside = f", with {checks} of its own"
    else:
        inside = ""
    return Result("passed", f"{len(cases)} of {len(cases)}{inside}", tuple(exceptions))


def of_output(lines: Sequence[str], status: int) -> Result:
    """The result of a command: its exit status, what it counted last, and its
    lines ``exception: …``."""
    counted = [found[0] for line in lines if (found := re.search(r"\d+ of \d+", line))]
    last = next(filter(None, reversed(lines)), "")
    if status == CANNOT_RUN:
        return Result("not run", last)
    if status:
        return Result(
            "failed", counted[-1] if counted else f"exit status {status}: {last}"
        )
    named = [
        line.removeprefix("exception: ")
        for line in lines
        if line.startswith("exception: ")
    ]
    return Result("passed", counted[-1] if counted else "", tuple(named))


SIGNS: Final = {"passed": "🟢", "failed": "🔴", "not run": "⚪"}


def line_of(judge: Judge, result: Result, day: str) -> str:
    """The row of the page."""
    cells = (
        judge.name,
        judge.what,
        judge.assertions,
        "<br>".join(version_of(each) for each in judge.packages),
        f"{SIGNS[result.state]} {result.state}: {result.detail}",
        "<br>".join(result.exceptions),
        day,
        f"`{shlex.join(judge.command)}`",
    )
    return row(each.replace("|", "\\|").replace("\n", " ") for each in cells)


def row(cells: Iterable[str]) -> str:
    return "|" + "".join(f" {each} |" if each else " |" for each in cells)


def lines_of(page: str) -> dict[str, str]:
    """The rows that stand on a page, by the names of their judges."""
    rows = (
        line
        for line in page.partition(BEGIN)[2].splitlines()[2:]
        if line.startswith("| ")
    )
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def write(page: str, lines: Mapping[str, str], judges: Iterable[Judge]) -> str:
    """The page with these rows, in the order of the judges."""
    head, mark, _ = page.partition(BEGIN)
    if not mark:
        raise ValueError(f"the page lacks {BEGIN.strip()}")
    rows = [
        lines.get(each.name) or line_of(each, Result("not run", "not yet"), "")
        for each in judges
    ]
    return "\n".join((head + mark + row(HEADS), row("---" for _ in HEADS), *rows, ""))


def read_judges(table: Path = TABLE) -> list[Judge]:
    """The judges of a table."""
    return [
        Judge(**each)
        for each in tomllib.loads(table.read_text(encoding="utf-8"))["judge"]
    ]


def main(*names: str, page: Path = PAGE, table: Path = TABLE) -> int:
    """Run the judges with these names, or all; returns the exit status."""
    judges = read_judges(table)
    missing = set(names) - {each.name for each in judges}
    if missing:
        print(f"There is no judge {', '.join(missing)}.", file=sys.stderr)
        return 2
    failed = 0
    for judge in judges:
        if names and judge.name not in names:
            continue
        result = run(judge)
        failed |= result.state == "failed"
        text = page.read_text(encoding="utf-8")
        line = line_of(judge, result, f"{datetime.now(UTC):%Y-%m-%d}")
        page.write_text(
            write(text, {**lines_of(text), judge.name: line}, judges), encoding="utf-8"
        )
        print(f"{judge.name}: {result.state}: {result.detail}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
