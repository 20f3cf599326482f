"""Missing programs are told from failures, and tests start no process that
nobody ends."""

import re

import pytest

from .support import ROOT
from .tools import require


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_without_a_program_a_test_is_skipped_and_fails_on_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(
        outcome, match="needs no-such-program or another, which is not installed"
    ):
        require("no-such-program", "another")


def test_all_tests_start_processes_by_spawn() -> None:
    others = {"processes.py", "run.py", "test_rpc_mailbox.py"}  # no tests, or its text
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name not in others:
            assert not re.search(
                r"\bsubprocess\.Popen\(", path.read_text(encoding="utf-8")
            ), path
