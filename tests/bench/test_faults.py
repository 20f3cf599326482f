"""What goes wrong is told, and fails the command."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from bench.cli import bench, scenario_command
from bench.context import RunContext
from bench.figures import Figures, with_faults_of
from bench.runner import Scenario
from tests.bench.play import run
from tests.support import run_cli

pytestmark = pytest.mark.linux


@dataclass(frozen=True)
class NoOptions:
    """A scenario without options."""


@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_a_message_that_is_lost_fails_the_command(lost: float) -> None:
    def lossy(_context: RunContext, _options: NoOptions) -> Figures:
        """Lose messages."""
        return {"cpu_us": 1.0, "lost": lost}

    scenario_command(Scenario("lossy", NoOptions, lossy, server=False))
    try:
        result = run("lossy", "--json")
    finally:
        del bench.commands["lossy"]
    assert json.loads(result.stdout)["faults"] == ({"lost": lost} if lost else {})
    assert result.exit_code == bool(lost)


def test_faults_of_the_warm_up_count() -> None:
    assert with_faults_of({"cpu_us": 5.0, "lost": 1.0}, {"cpu_us": 2.0, "lost": 2.0}) == {
        "cpu_us": 2.0,
        "lost": 3.0,
    }


@pytest.mark.full
def test_the_console_script_starts_a_server_of_its_own_and_ends_it() -> None:
    ended = run_cli("bench", "handshake", "--connections", "5", "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.split() == ["0", "s", "handshake"]
    report = json.loads(ended.stdout)
    assert report["server"]["own"]
    assert report["figures"]["cpu_us"] > 0


@pytest.mark.full
def test_a_server_that_is_away_or_does_not_start_is_one_clear_line(tmp_path: Any) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("nonsense: 1\n")
    away = ("--url", "http://127.0.0.1:9", "--ws", "ws://127.0.0.1:9/acc")
    for words, problem in ((away, "ECONNREFUSED"), (("--config", str(wrong)), "nonsense")):
        result = run("handshake", *words)
        assert result.exit_code == 1
        assert problem in result.output
        assert "Traceback" not in result.output
