"""``python -m tools.mutants PATH …``: change the server in one point, and see
whether a test notices.

PATH is a folder or a module of ``imserver``. The tests of its folder run once,
and it is recorded which of them reach which line. Those that reach a changed
line judge it, the fast ones first. What a server does that a test has started
counts for all tests of the file. A change that no test notices is printed.

The same seed takes the same changes as long as their lines stay the same, in
whatever file.
"""

import argparse
import ast
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import coverage
import pytest

ROOT: Final = Path(__file__).parents[1]
PAIRS: Final = (
    (ast.Eq, ast.NotEq),
    (ast.Lt, ast.GtE),
    (ast.Gt, ast.LtE),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.And, ast.Or),
)
OPPOSITES: Final[dict[type, Any]] = {**dict(PAIRS), **{new: old for old, new in PAIRS}}
LOGS: Final = {"debug", "info", "warning", "error", "exception", "critical", "log"}
CLASS_OPTIONS: Final = (ast.ClassDef, "keywords")
PYTEST: Final = ("pytest", "-q", "-p", "no:cacheprovider")
COVERAGE: Final = """[run]
source = imserver
data_file = {tree}/.coverage
concurrency = greenlet, thread
parallel = true
patch = subprocess, _exit
context = ${{MUTANTS_FILE-}}
"""
_mtimes = count(int(time.time()) + 1)
"""Each version of a module has another time, so that Python compiles it."""


@dataclass(frozen=True)
class Change:
    """A point of a module (``path`` below the tree), its new text, and the
    lines of its statement."""

    path: str
    kind: str
    start: int
    end: int
    text: str
    lines: range
    rank: bytes

    def apply(self, source: str) -> str:
        data = source.encode()
        return (data[: self.start] + self.text.encode() + data[self.end :]).decode()


def variants(
    node: ast.AST, constructor: bool
) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """What may be changed at a node: the kind, the part that goes, and what
    comes in its place."""
    match node:
        case ast.Compare(left, [operator], right) if type(operator) in OPPOSITES:
            yield (
                "comparison",
                node,
                ast.Compare(left, [OPPOSITES[type(operator)]()], right),
            )
        case ast.BoolOp(operator, values):
            yield "and, or", node, ast.BoolOp(OPPOSITES[type(operator)](), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield "comparison", node, operand
        case ast.Constant(bool(value)):
            yield "constant", node, ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield "constant", node, ast.Constant(value * 2 or 1)
        case ast.If(test) | ast.IfExp(test) if not isinstance(
            test, ast.Compare | ast.UnaryOp
        ):
            yield "branch", test, ast.UnaryOp(ast.Not(), test)
        case ast.Return(ast.AST() as value) if not isinstance(value, ast.Constant):
            yield "return None", node, ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.Delete():
            yield "call dropped", node, ast.Pass()
        case ast.Raise():
            yield "refusal dropped", node, ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]) | ast.AugAssign() if (
            not constructor
        ):
            yield "assignment dropped", node, ast.Pass()


def is_left_out(node: ast.AST) -> bool:
    """Texts of the log, f-strings, assertions, patterns, ``__all__``, imports
    for types."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(attr=name))) if name in LOGS:
            return True
        case ast.Assign([ast.Name("__all__")]) | ast.If(ast.Name("TYPE_CHECKING")):
            return True
    return isinstance(node, ast.JoinedStr | ast.Assert | ast.pattern)


def walk(
    node: ast.AST, statement: ast.stmt, constructor: bool
) -> Iterator[tuple[ast.AST, ast.stmt, bool]]:
    """All nodes but annotations, decorators, options of classes (``frozen``)
    and texts of exceptions: each with its statement, and whether a constructor
    has it.
    """
    if is_left_out(node):
        return
    if isinstance(node, ast.stmt):
        statement = node
    if isinstance(node, ast.FunctionDef):
        constructor = node.name in ("__init__", "__post_init__")
    yield node, statement, constructor
    for name, value in () if isinstance(node, ast.Raise) else ast.iter_fields(node):
        if (
            name not in ("annotation", "returns", "decorator_list")
            and (type(node), name) != CLASS_OPTIONS
        ):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, statement, constructor)


def find_changes(path: str, source: str, seed: int) -> Iterator[Change]:
    """All changes of a module."""
    texts = source.splitlines(keepends=True)
    starts = [0]
    for line in texts:
        starts.append(starts[-1] + len(line.encode()))
    same: Counter[str] = Counter()
    nodes = (
        found
        for each in ast.parse(source).body
        for found in walk(each, each, constructor=False)
    )
    for node, statement, constructor in nodes:
        body = getattr(statement, "body", None)
        if body:
            last = body[0].lineno - 1
        else:
            last = statement.end_lineno or 0
        for kind, old, new in variants(node, constructor):
            assert isinstance(old, ast.expr | ast.stmt)
            assert old.end_lineno
            start = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + (old.end_col_offset or 0)
            if isinstance(new, ast.stmt):
                text = ast.unparse(new)
            else:
                text = f"({ast.unparse(new)})"
            key = f"{seed} {kind} {texts[old.lineno - 1].strip()} {text}"
            same[key] += 1
            rank = blake2b(f"{key} {same[key]}".encode()).digest()
            yield Change(
                path, kind, start, end, text, range(statement.lineno, last + 1), rank
            )


def choose(path: str, seed: int, number: int) -> list[Change]:
    """Some changes of a folder or module."""
    files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py")
    changes = (
        change
        for file in files
        for change in find_changes(
            str(file.relative_to(ROOT)), file.read_text(encoding="utf-8"), seed
        )
    )
    return sorted(changes, key=lambda change: change.rank)[:number]


def find_tests(path: str) -> str:
    """The folder of tests that mirrors a module's, or the next one above."""
    folders = Path("tests", *Path(path).parts[1:]).parents
    return next(str(each) for each in folders if (ROOT / each).is_dir())


def copy_tree(folder: Path) -> Path:
    """What git knows of this tree, and new files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(
    tree: Path, arguments: list[str], seconds: float, **environment: str
) -> int | None:
    """The exit status of a module, None when the time is over."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


class Reach:
    """Which tests reach a line, and how long each takes."""

    def __init__(self, tree: Path, tests: list[str], options: list[str]) -> None:
        config = tree / "mutants.ini"
        config.write_text(COVERAGE.format(tree=tree), encoding="utf-8")
        command = [
            "coverage",
            "run",
            f"--rcfile={config}",
            "-m",
            *PYTEST,
            "-p",
            "tools.mutants",
        ]
        run(tree, [*command, *options, *tests], 3600, MUTANTS_TREE=str(tree))
        self.seconds: dict[str, float] = json.loads(
            (tree / "mutants.json").read_text(encoding="utf-8")
        )
        print(f"{len(self.seconds)} tests and files of tests judge", flush=True)
        measured = coverage.Coverage(config_file=str(config))
        measured.combine([str(tree)])
        self._data = measured.get_data()
        self._tree = tree

    def find_tests(self, change: Change, seconds: float) -> list[str]:
        """The tests for a change, as many as fit into this time: for a line
        that runs at import, or that no test reaches in a thread of Python (the
        storage has others), all that reach its module.
        """
        reached = self._data.contexts_by_lineno(str(self._tree / change.path))
        names = {name for line in change.lines for name in reached.get(line, ())}
        if not names or "" in names:
            names = set().union(*reached.values())
        tests = sorted(
            names & self.seconds.keys(),
            key=lambda name: ("::" not in name, self.seconds[name]),
        )
        total = 0.0
        for number, name in enumerate(tests):
            total += self.seconds[name]
            if number and total > seconds:
                return tests[:number]
        return tests


def judge(
    tree: Path, change: Change, tests: list[str], seconds: float, options: list[str]
) -> str:
    """Whether one of these tests fails with the change, or takes longer than
    this time."""
    if not tests:
        return "not reached"
    path = tree / change.path
    source = path.read_text(encoding="utf-8")
    try:
        write(path, change.apply(source))
        status = run(tree, [*PYTEST, "-x", "-n", "0", *options, *tests], seconds)
    finally:
        write(path, source)
    return "survived" if status == 0 else "killed"


def write(path: Path, source: str) -> None:
    path.write_text(source, encoding="utf-8")
    mtime = next(_mtimes)
    os.utime(path, (mtime, mtime))


def show(change: Change, outcome: str, tests: list[str]) -> None:
    """Print what no test has noticed."""
    source = (ROOT / change.path).read_text(encoding="utf-8")
    before = source.splitlines()
    after = change.apply(source).splitlines()
    lines = difflib.unified_diff(
        before, after, change.path, change.kind, lineterm="", n=1
    )
    print(f"{outcome} ({len(tests)} tests)", *lines, "", sep="\n", flush=True)


def row(path: str, outcomes: list[str]) -> str:
    """A line of the table."""
    numbers = [outcomes.count(name) for name in ("killed", "survived", "not reached")]
    share = numbers[0] / max(1, len(outcomes))
    return (
        f"| {path} | {len(outcomes)} | {' | '.join(map(str, numbers))} | {share:.0%} |"
    )


def main() -> None:
    """Judge the changes, print those that no test notices, and a table."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition(": ")[2].partition("\n")[0]
    )
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=60, help="of all paths together")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of tests for a change"
    )
    parser.add_argument(
        "--tests", action="append", default=[], help="a file or folder of more tests"
    )
    parser.add_argument(
        "-k", default="not postgresql and not mysql", help="as pytest's option"
    )
    given = parser.parse_args()
    options = ["-k", given.k]
    chosen = {
        path: choose(path, given.seed, given.count // len(given.paths))
        for path in given.paths
    }
    tests = sorted(
        {find_tests(change.path) for changes in chosen.values() for change in changes}
    )
    rows = [
        "| module | changes | killed | survived | not reached | share |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(given.jobs) as threads,
    ):
        trees: SimpleQueue[Path] = SimpleQueue()
        for job in range(given.jobs):
            trees.put(copy_tree(Path(folder, str(job))))
        reach = Reach(
            copy_tree(Path(folder, "reach")),
            [*tests, *given.tests],
            ["-n", str(given.jobs), *options],
        )

        def test(change: Change) -> str:
            tests = reach.find_tests(change, given.seconds)
            seconds = 60 + 5 * sum(map(reach.seconds.__getitem__, tests))
            tree = trees.get()
            try:
                outcome = judge(tree, change, tests, seconds, options)
            finally:
                trees.put(tree)
            if outcome != "killed":
                show(change, outcome, tests)
            return outcome

        judged = []
        for path, changes in chosen.items():
            outcomes = list(threads.map(test, changes))
            judged += outcomes
            rows.append(row(path, outcomes))
            print(rows[-1], flush=True)
    print(*rows, row("all", judged), sep="\n")


# --- the plug-in of pytest that records ---------------------------------------

_seconds: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    current = coverage.Coverage.current()
    if current:
        current.switch_context(item.nodeid.partition("[")[0])
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
        os.environ["COVERAGE_PROCESS_START"] = (
            os.environ["MUTANTS_TREE"] + "/mutants.ini"
        )
        os.environ["MUTANTS_FILE"] = item.nodeid.partition("::")[0]
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count for the test with all its parameters, and for its file."""
    names = {report.nodeid.partition("[")[0], report.nodeid.partition("::")[0]}
    for name in names:
        _seconds[name] += report.duration
    if report.failed:
        _failed.update(names)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        passed = {
            name: seconds for name, seconds in _seconds.items() if name not in _failed
        }
        Path(os.environ["MUTANTS_TREE"], "mutants.json").write_text(
            json.dumps(passed), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
