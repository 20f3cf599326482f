"""Releases of before, from the history of this repository."""

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.support import ROOT, clean_environment
from tests.tools import leave_out, require

BEFORE: Final = "f37e25a6f089dfd3dc26922d1c5dc8c95423a635"
"""The commit of version 1.0."""
_PATHS: Final = (
    *("imserver", "config", "templates", "static", "sdk/js"),
    *("setup.py", "pyproject.toml", "README.md", "LICENSE"),
)


def last_release() -> str:
    """The newest tag ``v*`` before the current commit; :data:`BEFORE` if there is none."""
    command = [require("git"), "-C", str(ROOT), "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or BEFORE


def unpack(folder: Path, commit: str = BEFORE, *more: str) -> Path:
    """Write the tree of a commit or tag to a folder, with ``more`` of its paths than the server's own, and
    check that Python finds it there.

    A tree without history (an archive, a shallow clone) cannot have the commit: the test is skipped, also
    where the environment says ``CI=true``. In a whole clone it must be there.
    """
    git = [require("git"), "-C", str(ROOT)]
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, check=False)
    if shallow.stdout.strip() != b"false":
        pytest.skip(f"this tree has no whole history, so the release before ({commit[:8]}) is not in it")
    archive = subprocess.run([*git, "archive", commit, *_PATHS, *more], capture_output=True, check=False)
    if archive.returncode:
        leave_out(f"the release before is not in this clone: {archive.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    found = run(folder, sys.executable, "-c", "import imserver; print(imserver.__file__)")
    assert Path(found) == folder / "imserver" / "__init__.py", found
    return folder


def run(tree: Path, *command: str) -> str:
    """The output of a program that uses a tree, in an empty folder: settings beside the tree do not count."""
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
