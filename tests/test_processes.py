"""Processes and sockets of the tests end, and missing programs are told from failures."""

import re
import signal
import sys

import pytest

from .processes import end, ended_on_failure, spawn
from .support import ROOT
from .tools import require

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


def test_a_process_that_ignores_its_signal_is_killed() -> None:
    process = spawn(DEAF, stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert end(process, seconds=0.1) == -signal.SIGKILL
    assert process.stdout.closed


def test_a_constructor_that_fails_leaves_no_process() -> None:
    process = spawn(SLEEP)
    with pytest.raises(KeyboardInterrupt), ended_on_failure(process):
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_program_a_test_is_skipped_and_fails_on_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="needs no-such-program or another, which is not installed"):
        require("no-such-program", "another")


def test_all_tests_start_processes_by_spawn() -> None:
    others = {"processes.py", "run.py", "measure_scale.py", "test_rpc_mailbox.py"}  # no tests, or its text
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name not in others:
            assert not re.search(r"\bsubprocess\.Popen\(", path.read_text(encoding="utf-8")), path
