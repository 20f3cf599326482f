"""The examples of the recipes are applied to a copy of the tree. Then the tests
that the recipes name run there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, clean_environment

RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
COPIED = (
    *(
        "bench",
        "checker",
        "config",
        "deploy",
        "docs",
        "examples",
        "imserver",
        "imserver_client",
    ),
    *("plugins", "sdk", "static", "templates", "tests", "tools"),
)
"""The folders that the recipes and their tests need, besides all files of the
tree itself."""
STEP = re.compile(
    r"^(?:In|Make) `(?P<file>[^`]+)`(?:, (?P<how>before|after|replace|remove) `(?P<line>[^`]+)`[^`]*?)?[.:]\n"
    r"(?:\n```\w+\n(?P<text>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TESTS = re.compile(r'make test ARGS="(.*)"')


def apply(tree: Path, step: re.Match[str]) -> None:
    """Do to a file what a step of a recipe says."""
    file = tree / step["file"]
    text = step["text"] or ""
    if step["how"] is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return

    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    matching = [
        number
        for number, line in enumerate(lines)
        if line.strip().startswith(step["line"])
    ]
    assert matching, f"{step['file']} has no line that begins with {step['line']}"
    number = matching[0]
    if step["how"] == "before":
        lines.insert(number, text)
    elif step["how"] == "after":
        lines.insert(number + 1, text)
    else:
        lines[number] = text
    file.write_text("".join(lines), encoding="utf-8")


def run(tree: Path, *command: str) -> None:
    """Run a command of a recipe in the copied tree."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command,
        cwd=tree,
        env=clean_environment(PATH=programs, PYTHONPATH=str(tree)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command}: {ran.stdout[-8_000:]}"


@pytest.mark.slow
def test_their_examples_pass_the_tests_that_they_name(tmp_path: Path) -> None:
    tree = tmp_path / "imserver"
    for name in COPIED:
        shutil.copytree(
            ROOT / name,
            tree / name,
            ignore=shutil.ignore_patterns("__pycache__", "node_modules"),
        )
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tree)
    tests: dict[str, None] = {}
    for page in RECIPES:
        text = page.read_text(encoding="utf-8")
        for step in STEP.finditer(text):
            apply(tree, step)
        named = TESTS.findall(text)
        assert len(named) == 1, f"{page.name} must name its tests once"
        tests |= dict.fromkeys(named[0].split())
        for block in COMMANDS.finditer(text):
            commands = [line for line in block[1].splitlines() if "make " not in line]
            for command in commands:
                run(tree, *shlex.split(command))
    run(tree, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
