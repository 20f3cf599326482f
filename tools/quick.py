"""``python -m tools.quick [COMMIT]``: print the tests that ``make quick`` runs.

They are the smoke tests, and the tests of each folder in which a file differs
from COMMIT (default: the last one; of another branch: where this one left it)
or is new to git.
"""

import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SMOKE: Final = tuple(
    f"tests/{name}.py"
    for name in (
        "test_layers",
        "gateway/node/test_feature_list",
        "test_glossary",
        "test_smoke",
    )
)
FOLDERS: Final = {
    "imserver": "",
    "imserver_client": "client",
    "static": "pages",
    "templates": "pages",
    "tests": "",
    "tools": "",
}
"""Folder → where its tests are in tests/. Any other folder has the name of its
tests."""


def changed_files(commit: str) -> list[str]:
    """Paths that differ from a commit, the removed among them, and those that
    git does not know yet."""
    commands = (
        ["diff", "--name-only", "--no-renames", "--merge-base", commit],
        ["ls-files", "--others", "--exclude-standard"],
    )
    return [
        path
        for command in commands
        for path in subprocess.check_output(
            ["git", *command], cwd=ROOT, text=True
        ).splitlines()
    ]


def find_tests(path: str) -> str | None:
    """A test itself; the tests of the file's folder, or of its dialect or
    feature; or those of its name."""
    if PurePosixPath(path).match("test_*.py") and (ROOT / path).exists():
        return path
    top, *rest = PurePosixPath(path).parts
    if top == "plugins" and len(rest) > 1:
        tests = f"plugins/{rest[0]}/tests"
        return tests if (ROOT / tests).exists() else None
    names = PurePosixPath(FOLDERS.get(top, top), *rest).parts
    folders = ["/".join(("tests", *names[:-1][:depth])) for depth in (2, 1)]
    module = f"tests/test_{PurePosixPath(names[0]).stem}.py"
    return next(
        (
            each
            for each in (*folders, module)
            if each != "tests" and (ROOT / each).exists()
        ),
        None,
    )


def main(commit: str = "HEAD") -> None:
    """Print the tests on standard output, for pytest, and what was chosen on
    standard error, for people."""
    found = {path: find_tests(path) for path in changed_files(commit)}
    chosen = dict.fromkeys((*SMOKE, *filter(None, found.values())))
    print("Chosen tests:", *chosen, file=sys.stderr)
    others = [path for path, tests in found.items() if tests is None]
    if others:
        print("Without tests of their own:", *others, file=sys.stderr)
    print(*chosen)


if __name__ == "__main__":
    main(*sys.argv[1:])
