"""Releases of before, from the history of this repository.

Tests of upgrades begin with the last release: the one that the newest dated
chapter of CHANGELOG.md names.
"""

import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.support import ROOT, clean_environment
from tests.tools import leave_out, require

_PATHS: Final = (
    "imserver",
    "config",
    "templates",
    "static",
    "sdk/js",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


def last_release() -> str:
    """The tag or the commit of the last release. The test is skipped where the
    history does not have it."""
    _need_history()
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", changes, re.MULTILINE)[0]
    tag = f"v{version}"
    if _git("rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}").returncode == 0:
        return tag
    # Without tags: the first commit that calls itself so.
    line = f'^__version__ = "{re.escape(version)}"'
    commits = _git(
        "log", "--reverse", "--format=%H", f"-G{line}", "--", "imserver/__init__.py"
    ).stdout.split()
    if not commits:
        leave_out(
            f"neither a tag nor a commit of the release {version} is in this clone"
        )
    return str(commits[0])


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [require("git"), "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _need_history() -> None:
    """Skip the test in a tree without history (an archive, a shallow clone): it
    cannot have the commit. Also where the environment says ``CI=true``. In a
    whole clone it must be there."""
    if _git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip(
            "this tree has no whole history, so the release before is not in it"
        )


def unpack(folder: Path, commit: str = "", *more: str) -> Path:
    """Write the tree of a commit or tag (``""``: the last release) to a folder,
    with ``more`` of its paths than the server's own, and check that Python
    finds it there."""
    _need_history()
    git = [require("git"), "-C", str(ROOT)]
    command = [*git, "archive", commit or last_release(), *_PATHS, *more]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        leave_out(f"the release before is not in this clone: {archive.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    found = run(
        folder, sys.executable, "-c", "import imserver; print(imserver.__file__)"
    )
    assert Path(found) == folder / "imserver" / "__init__.py", found
    return folder


def run(tree: Path, *command: str) -> str:
    """The output of a program that uses a tree, in an empty folder: settings
    beside the tree do not count."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=empty,
            env=clean_environment(**environment_of(tree)),
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def environment_of(tree: Path) -> dict[str, str]:
    """The variables with which ``python -m imserver`` is that of a tree."""
    return {"PYTHONPATH": str(tree)}
