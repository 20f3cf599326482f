"""``python -m tools.house HOUSE …``: run the tests of a house without those
that it does not need.

``make test HOUSE=people`` calls it. A copy of this tree has the gateway, the
house and those on which it stands, with their tests, and no plug-in. ARGUMENTS
are for pytest; paths of tests replace those of the house.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

STREET: Final = {
    "gateway": (),
    "messenger": (),
    "media": ("messenger",),
    "backends": ("messenger",),
    "pages": (),
    "people": ("backends", "messenger", "pages"),
    "operate": ("messenger", "pages", "people"),
    "offline": (),
    "dialects": ("backends", "messenger", "people"),
    "notifications": ("backends", "messenger", "people"),
}
"""House → the houses on which it stands, beside the gateway. The gateway's own
commands may name no other."""

TESTED_WITH: Final = {"offline": ("people",)}
"""House → the houses that its tests need besides: what it copies and checks is
what others store."""

LEFT_OUT: Final = {
    "plugins",
    "data",
    "log",
    "build",
    "dist",
    ".git",
    ".venv",
    ".mypy_cache",
    ".hypothesis",
}
"""Folders of the tree that no house has or that are not part of it."""


def needed_by(house: str) -> set[str]:
    """A house and all below it, with what its tests need."""
    below = (*STREET[house], *TESTED_WITH.get(house, ()))
    return {"gateway", house}.union(*map(needed_by, below))


def copy_tree(house: str, tree: Path) -> None:
    """Copy this tree into a new folder, with a house and what it stands on
    alone."""
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name not in LEFT_OUT:
            shutil.copytree(
                path,
                tree / path.name,
                ignore=shutil.ignore_patterns("__pycache__", "node_modules"),
            )
        elif path.is_file():
            shutil.copy(path, tree)
    for name in (".venv", "sdk/node_modules"):
        if (ROOT / name).exists():
            (tree / name).symlink_to(ROOT / name)
    gone = STREET.keys() - needed_by(house)
    for name in gone:
        shutil.rmtree(tree / "imserver" / name)
        shutil.rmtree(tree / "tests" / name, ignore_errors=True)
    names = tree / "imserver" / "__init__.py"
    row = re.compile(
        rf'^    "imserver\.(?:{"|".join(gone) or "-"})[."].*\n', re.MULTILINE
    )
    names.write_text(row.sub("", names.read_text(encoding="utf-8")), encoding="utf-8")


def main(house: str, *arguments: str) -> int:
    """Run the tests; returns the exit status of pytest."""
    if house not in STREET:
        print(
            f"There is no house {house}. There are {', '.join(STREET)}.",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix=f"imserver-{house}-") as folder:
        tree = Path(folder, "imserver")
        copy_tree(house, tree)
        tests = (
            ()
            if any(each.startswith("tests/") for each in arguments)
            else (f"tests/{house}",)
        )
        command = [sys.executable, "-m", "pytest", *arguments, *tests]
        return subprocess.run(command, cwd=tree, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
