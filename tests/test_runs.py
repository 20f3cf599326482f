"""How tests run: in an empty folder, without settings of this machine, and with
a line every few seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.tools import require

PROBE = """
import os
from pathlib import Path
from tests.tools import require

def test_finds_nothing():
    assert list(Path.cwd().iterdir()) == []
    assert not [name for name in os.environ if name.startswith("IMSERVER_")]

def test_leaves_a_file():
    Path("left").touch()

def test_needs_a_program():
    require("no-such-program")
"""


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What pytest says of these tests, in a folder where a server has run."""
    (tmp_path / "test_probe.py").write_text(PROBE, encoding="utf-8")
    (tmp_path / "imserver.yaml").write_text("nonsense: 1", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IMSERVER_APP_HTTP_PORT", "9999")
    monkeypatch.delenv("CI", raising=False)
    plug_ins = (
        "-p",
        "tests.progress",
        "-p",
        "tests.working_folder",
        "-p",
        "no:cacheprovider",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "1",
            *plug_ins,
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_test_finds_no_server_of_its_folder_and_leaves_nothing_there(
    output: str,
) -> None:
    assert "2 passed, 1 skipped, 1 error" in output
    assert "the test has left in the working folder: left" in output


def test_the_end_says_which_program_brings_what_was_skipped(output: str) -> None:
    need = "this test needs no-such-program, which is not installed here"
    assert f"1 skipped: {need} (on Debian: apt-get install no-such-program)" in output


def test_a_package_may_have_another_name_than_its_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match="apt-get install prometheus"):
        require("promtool")
