"""Every scenario in a tiny form against the real server, and against a stand-in that misbehaves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imserver.bench.cli import bench
from imserver.bench.figures import FIGURES
from tests.support import ROOT, Server, clean_environment, run_cli

pytestmark = pytest.mark.linux


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, list(arguments))


def found(*arguments: str) -> dict[str, Any]:
    """Run a command with ``--json``, which has to succeed, and return its object."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert set(report["figures"]) <= set(FIGURES)
    assert {"cores", "kernel", "python"} <= set(report["machine"])
    assert {"command", "each", "faults", "generator", "imserver", "parameters", "runs", "server"} <= set(
        report
    )
    return report


@pytest.fixture
def place(server: Server) -> tuple[str, ...]:
    """Options that name the server of this module."""
    return ("--url", server.http_url, "--ws", server.ws_url, "--pid", str(server.pid))


@contextmanager
def standin(*arguments: str) -> Iterator[tuple[str, ...]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.standin", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
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


def test_floor() -> None:
    figures = found("floor", "--receivers", "20", "--seconds", "0.1")["figures"]
    assert 0.3 < figures["send_us_1"] < 100
    assert figures["frames_per_second_25"] > figures["frames_per_second_1"]


def test_idle(place: tuple[str, ...]) -> None:
    report = found("idle", "--connections", "50", "--seconds", "0.2", *place)
    assert report["figures"]["connections"] == 50
    assert report["figures"]["rss_empty_mb"] > 5
    assert not report["server"]["own"]


@pytest.mark.parametrize("way", [(), ("--rate", "50"), ("--one-per-send",)])
def test_fanout(place: tuple[str, ...], way: tuple[str, ...]) -> None:
    report = found("fanout", "--receivers", "20", "--seconds", "0.3", *way, *place)
    figures = report["figures"]
    assert figures["messages"] > 5
    assert figures["lost"] == figures["doubled"] == figures["other_order"] == 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["cpu_us"] > 0
    assert ("of_floor_percent" in figures) == ("--one-per-send" in way)
    assert report["parameters"]["receivers"] == 20


@pytest.mark.parametrize("way", [(), ("--heartbeat",)])
def test_echo(place: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found("echo", "--connections", "20", "--seconds", "0.2", *way, *place)["figures"]
    assert figures["round_trips_per_second"] > 100
    assert figures["errors"] == 0


@pytest.mark.parametrize("way", [(), ("--bulk", "40")])
def test_push(place: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found("push", "--users", "20", "--seconds", "0.2", *way, *place)["figures"]
    assert figures["messages"] > 20
    assert figures["lost"] == figures["refused"] == 0
    assert ("targets_per_second" in figures) == bool(way)


@pytest.mark.parametrize("way", [(), ("--login", "--members", "10")])
def test_handshake(place: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found("handshake", "--connections", "50", *way, *place)["figures"]
    assert figures["opened_per_second"] > 10
    assert figures["errors"] == 0


def test_storm(place: tuple[str, ...]) -> None:
    figures = found("storm", "--clients", "100", "--bystanders", "10", *place)["figures"]
    assert figures["returned"] == 100
    assert figures["bystanders_lost"] == figures["pings_unanswered"] == 0
    assert figures["bystander_pings"] > 0


def test_one_lost_delivery_is_found_and_fails_the_command() -> None:
    with standin("--drop", "0") as place:
        result = run("fanout", "--receivers", "20", "--seconds", "0.1", "--rate", "50", "--json", *place)
    assert result.exit_code == 0, "the warm-up of the command swallowed the dropped one"
    with standin("--drop", "12") as place:
        result = run("fanout", "--receivers", "20", "--seconds", "0.2", "--rate", "50", "--json", *place)
    report = json.loads(result.stdout)
    assert report["faults"] == {"lost": 1}
    assert report["figures"]["lost"] == 1
    assert result.exit_code == 1


def test_one_doubled_delivery_is_found_and_fails_the_command() -> None:
    with standin("--double", "12") as place:
        result = run("fanout", "--receivers", "20", "--seconds", "0.2", "--rate", "50", "--json", *place)
    assert json.loads(result.stdout)["faults"] == {"doubled": 1}
    assert result.exit_code == 1


def test_runs_are_shown_as_their_median_with_the_extremes(place: tuple[str, ...]) -> None:
    result = run("echo", "--connections", "5", "--seconds", "0.1", "--runs", "2", *place)
    assert result.exit_code == 0
    assert "median of 2" in result.stdout
    assert "server CPU each" in result.stdout


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


def test_memory_needs_the_processes_of_the_server(server: Server) -> None:
    result = run("idle", "--url", server.http_url, "--ws", server.ws_url)
    assert result.exit_code == 1
    assert "--pid" in result.output


def test_the_report_of_a_suite_becomes_markdown(tmp_path: Any, place: tuple[str, ...]) -> None:
    floor = found("floor", "--receivers", "5", "--seconds", "0.05")
    echo = found("echo", "--connections", "5", "--seconds", "0.1", *place)
    bar = {
        "title": "ping",
        "command": echo["command"],
        "figure": "cpu_us",
        "label": FIGURES["cpu_us"].label,
        "value": 8.0,
        "bar": 10,
        "at_least": False,
        "scaled_bar": 10.5,
        "met": True,
        "derived": False,
    }
    suite = {"reports": [{"title": "floor", **floor}, {"title": "ping", **echo}], "bars": [bar]}
    file = tmp_path / "all.json"
    file.write_text(json.dumps({**suite, "machine": echo["machine"]}))
    result = run("table", str(file))
    assert result.exit_code == 0
    assert (
        "| ping | server CPU each | 8.00 µs | ≤ 10.00 µs | ≤ 10.50 µs | yes | `imserver bench echo"
        in result.stdout
    )
