"""Tests that fail by chance are tried again, alone: little suites that fail in
known ways."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

WAYS = pytest.mark.parametrize(
    "options", [(), ("-n", "1", "--dist", "loadfile")], ids=["alone", "workers"]
)
BY_CHANCE = """
from pathlib import Path

def fails_once(name):
    mark = Path(__file__).with_name(name)
    if not mark.exists():
        mark.touch()
        raise AssertionError("by chance")
"""


def play(folder: Path, suite: str, *options: str, file: str = "") -> tuple[int, str]:
    """Run a suite of one module in a folder; status and output."""
    (folder / "test_suite.py").write_text(BY_CHANCE + suite, encoding="utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -m 'not full'\nmarkers = full\n", encoding="utf-8"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_")
    }
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "FLAKY_FILE": file}
    # their import would take most of the time
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = ("-p", "no:cacheprovider", "-p", "tests.flaky", "-p", "xdist")
    command = [sys.executable, "-m", "pytest", *plugins, *options]
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return result.returncode, result.stdout


def closing(output: str) -> str:
    """The counts in the closing line."""
    return output.splitlines()[-1].strip("= ").rpartition(" in ")[0]


@WAYS
def test_a_test_that_passes_alone_does_not_fail_the_run(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    suite = """
def test_before(): pass
def test_chance(): print("what it printed"); fails_once("one")
def test_after(): pass
"""
    status, output = play(tmp_path, suite, *options)
    assert status == 0, output
    assert closing(output) == "2 passed, 1 flaky"
    assert "FLAKY test_suite.py::test_chance\n" in output
    assert "AssertionError: by chance" in output
    assert "what it printed" in output
    assert (
        f"on worker {'gw0' if options else 'main'} after 1 tests; hypothesis profile "
        in output
    )
    assert f"PYTHONHASHSEED=7 {sys.executable} -m pytest -x test_suite.py\n" in output


def test_a_fourth_flaky_test_fails_the_run(tmp_path: Path) -> None:
    suite = "".join(f"def test_{name}(): fails_once('{name}')\n" for name in "abcd")
    status, output = play(tmp_path, suite)
    assert (status, closing(output)) == (1, "4 failed"), output
    assert output.count("\nFLAKY ") == 4


def test_runs_with_one_file_count_together(tmp_path: Path) -> None:
    suite = "def test_a(): fails_once('{0}a')\ndef test_b(): fails_once('{0}b')\n"
    for status in (0, 1):
        assert (
            play(tmp_path, suite.format(status), file=str(tmp_path / "flaky"))[0]
            == status
        )


def test_a_test_that_fails_twice_fails_the_run(tmp_path: Path) -> None:
    suite = """
def test_chance(): fails_once("one")
def test_always(): fails_once("two") if not Path(__file__).with_name("two").exists() else 1 / 0
"""
    status, output = play(tmp_path, suite, "-n", "1")
    assert (status, closing(output)) == (1, "1 failed, 1 flaky"), output
    assert "FAILED TWICE test_suite.py::test_always (status 1)\n" in output
    assert "ZeroDivisionError: division by zero" in output, "of the second try"


def test_a_test_that_kills_its_worker_hides_no_other(tmp_path: Path) -> None:
    """As pytest does it to one that goes on waiting although its time limit was
    raised in it."""
    suite = """
import os

def test_before(): pass
def test_killer():
    try: fails_once("one")
    except AssertionError: os._exit(1)
def test_after(): pass
"""
    status, output = play(tmp_path, suite, "-n", "1", "--dist", "loadfile")
    assert (status, closing(output)) == (0, "2 passed, 1 flaky"), output
    assert "crashed while running 'test_suite.py::test_killer'" in output


@pytest.mark.parametrize(
    ("suite", "options", "status"),
    [
        ("import no_such_module", (), 2),
        ("import no_such_module", ("-n", "1"), 1),
        ("def test_a(): fails_once('a')\ndef test_b(): pass\n", ("-x",), 1),
        (
            "".join(f"def test_{number}(): assert False\n" for number in range(11)),
            (),
            1,
        ),
    ],
    ids=["collection", "collection of workers", "ended early", "too many"],
)
def test_what_is_no_chance_is_not_tried_again(
    tmp_path: Path, suite: str, options: tuple[str, ...], status: int
) -> None:
    found, output = play(tmp_path, suite, *options)
    assert (found, "trying again" in output) == (status, False), output
