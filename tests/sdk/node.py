"""Runs JavaScript: tests under Node.js, npm, and the npm packages as their
users install them."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.processes import running
from tests.support import ROOT
from tests.tools import NODE_MODULES, require

PACKAGES: Final = ("js", "react", "react-native")
"""Folders in sdk/ that are npm packages."""
NEIGHBOURS: Final = (
    "react",
    "react-dom",
    "react-native",
    "scheduler",
    "csstype",
    "ws",
    "@types",
    "undici-types",
    "miniprogram-api-typings",
)
"""What a project with the packages finds in sdk/node_modules."""
NODE_FLAGS: Final = ("--no-warnings", "--experimental-websocket")
"""Node 20 hides its WebSocket behind a flag."""
MOST_SECONDS: Final = 250
"""Time after which a program is ended."""
NODE_SECONDS: Final = 220
"""Time after which node's test runner ends a file, and says which tests have
passed."""


def run(command: Sequence[str], folder: Path = ROOT, **environment: str) -> str:
    """Run a program, in the source tree or in ``folder``; a failure or a
    time-out shows what it printed. Returns its output."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired as late:
        for output in (late.stdout, late.stderr):  # bytes, whatever ``text`` says
            if isinstance(output, bytes):
                print(output.decode("utf-8", "replace")[-8000:])
        raise
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    return done.stdout


def run_node(*arguments: str, **environment: str) -> None:
    timeout = f"--test-timeout={NODE_SECONDS * 1000}"
    shown = run(
        [require("node"), *NODE_FLAGS, "--test", timeout, *arguments], **environment
    )
    assert "pass 0" not in shown


@contextmanager
def printing(
    output: Path, script: Path, **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A script that Node.js runs while this is entered; it prints to a file.
    Its input ends with it."""
    command = [require("node"), *NODE_FLAGS, str(script)]
    given = {**os.environ, **environment}
    with (
        output.open("w") as printed,
        running(command, stdin=subprocess.PIPE, stdout=printed, env=given) as process,
    ):
        yield process


def npm(*arguments: str, folder: Path) -> str:
    """Run npm, which may ask no registry."""
    flags = ("--offline", "--ignore-scripts", "--no-audit", "--no-fund")
    command = [require("node"), require("npm"), *arguments, *flags]
    with TemporaryDirectory() as cache:
        return run(command, folder, npm_config_cache=cache)


def install_packages(folder: Path) -> Path:
    """Pack the packages with npm, and install them into a project in
    ``folder``.

    Returns the project. What else it needs (React, its types) it finds in
    sdk/node_modules.
    """
    project = folder / "project"
    project.mkdir()
    (project / "package.json").write_text(
        '{"private": true, "type": "module"}', encoding="utf-8"
    )
    for package in PACKAGES:
        npm("pack", "--pack-destination", str(project), folder=ROOT / "sdk" / package)
    packed = sorted(path.name for path in project.glob("*.tgz"))
    assert len(packed) == len(PACKAGES)
    npm("install", "--legacy-peer-deps", *packed, folder=project)
    for name in NEIGHBOURS:
        (project / "node_modules" / name).symlink_to(NODE_MODULES / name)
    return project


def bundle(entry: Path, output: Path, *flags: str) -> bytes:
    run(
        [
            require("esbuild"),
            str(entry),
            "--bundle",
            "--format=esm",
            f"--outfile={output}",
            *flags,
        ]
    )
    return output.read_bytes()
