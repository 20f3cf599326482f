"""What goes wrong is found: against a stand-in that loses or doubles a frame, or no server at all."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.bench.play import found, run
from tests.processes import running
from tests.support import ROOT, clean_environment, run_cli

pytestmark = [pytest.mark.linux, pytest.mark.full]

FANOUT = ("fanout", "--receivers", "20", "--seconds", "0.2", "--rate", "50", "--json")


@contextmanager
def standin(*arguments: str) -> Iterator[tuple[str, ...]]:
    with running(
        [sys.executable, "-m", "tests.bench.standin", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        http, ws = process.stdout.readline().split()
        yield (
            "--url",
            f"http://127.0.0.1:{http}",
            "--ws",
            f"ws://127.0.0.1:{ws}/acc",
            "--pid",
            str(process.pid),
        )
        process.stdin.close()


def test_the_floor_needs_no_server() -> None:
    report = found("floor", "--receivers", "20", "--seconds", "0.1")
    figures = report["figures"]
    assert 0.3 < figures["send_us_1"] < 100
    assert figures["frames_per_second_25"] > figures["frames_per_second_1"]
    assert report["server"] == {}


def test_a_server_without_faults_has_none() -> None:
    with standin() as server_options:
        assert run(*FANOUT, *server_options).exit_code == 0


@pytest.mark.parametrize(("fault", "figure"), [("--drop", "lost"), ("--double", "doubled")])
@pytest.mark.parametrize("broadcast", [pytest.param("0"), "12"], ids=["in the warm-up", "in the measurement"])
def test_one_frame_too_few_or_too_many_fails_the_command(fault: str, figure: str, broadcast: str) -> None:
    with standin(fault, broadcast) as server_options:
        result = run(*FANOUT, *server_options)
    report = json.loads(result.stdout)
    assert report["faults"] == {figure: 1}
    assert report["figures"][figure] == 1
    assert result.exit_code == 1


def test_the_console_script_starts_a_server_of_its_own_and_ends_it() -> None:
    ended = run_cli("bench", "echo", "--connections", "5", "--seconds", "0.1", "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    report = json.loads(ended.stdout)
    assert report["server"]["own"]
    assert report["figures"]["cpu_us"] > 0


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    result = run("echo", "--url", "http://127.0.0.1:9", "--ws", "ws://127.0.0.1:9/acc")
    assert result.exit_code == 1
    assert "ECONNREFUSED" in result.output
    assert "Traceback" not in result.output


def test_a_server_of_our_own_that_does_not_start_says_why(tmp_path: Any) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("nonsense: 1\n")
    result = run("echo", "--config", str(wrong))
    assert result.exit_code == 1
    assert "nonsense" in result.output
    assert "Traceback" not in result.output
