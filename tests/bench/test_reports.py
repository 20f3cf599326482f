"""Folding runs, judging figures by their bars, comparing trees, and commands
that fail."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import runner
from bench.cli import add, bench
from bench.context import RunContext, Span
from bench.figures import Figures, faults, fold, shown, with_faults_of
from bench.latency import Latency
from bench.loop import BenchError
from bench.runner import (
    ALL,
    SCENARIOS,
    SUITES,
    Bar,
    Scenario,
    ServerChoice,
    command_line,
    judge,
    options_of,
)
from tests.bench.play import run
from tests.support import ROOT

REPORTS = {
    "cpu_us": (11.0, 10.0),
    "generator_cpu_us": (9.0, 1.0),
    "lost": (0.0, 0.0),
    "p99_ms": (2.0, None),
}


def test_several_runs_fold_to_the_median_and_faults_to_the_worst() -> None:
    runs: list[Figures] = [
        {"cpu_us": cpu, "lost": lost}
        for cpu, lost in ((3.0, 0.0), (9.0, 2.0), (4.0, 0))
    ]
    assert fold(runs) == {"cpu_us": 4.0, "lost": 2.0}
    assert faults(fold(runs)) == {"lost": 2.0}
    assert fold([{"cpu_us": None}, {"cpu_us": None}]) == {"cpu_us": None}
    assert fold([{"push_max_ms": 1.0}, {"push_max_ms": 3.0}]) == {"push_max_ms": 3.0}
    assert with_faults_of(
        {"cpu_us": 5.0, "lost": 1.0}, {"cpu_us": 2.0, "lost": 2.0}
    ) == {
        "cpu_us": 2.0,
        "lost": 3.0,
    }, "those of the warm-up count"


def test_a_figure_has_the_unit_that_its_name_says() -> None:
    named = {"cpu_us": "1.50 µs", "logins_per_second": "2 /s", "lost": "2"}
    assert {name: shown(name, 1.5) for name in named} == named
    assert shown("cpu_us", None) == "–"


def test_figures_are_judged_by_the_bars_of_their_rows() -> None:
    assert not Bar("cpu_us", 1.0).met(None)
    figures = {"cpu_us": 1.0, "lost": 1, "deliveries_per_second": 2e6}
    reports = [
        {
            "scenario": "",
            "command": "c",
            "figures": figures,
            "generator": {"bottleneck": True},
        }
        for _ in ALL
    ]
    judged = {
        bar["figure"]: bar
        for bar in judge(ALL, reports)
        if bar["title"] == "broadcast to 500, flat out"
    }
    met = {name: bar["met"] for name, bar in judged.items()}
    assert met == {"cpu_us": True, "lost": False, "deliveries_per_second": True}
    assert judged["deliveries_per_second"]["derived"]
    reports[0]["figures"] = {**figures, "cpu_us": 1e9}
    assert not judge(ALL[:1], reports[:1])[0]["met"]


def test_a_suite_plays_every_scenario_that_the_runner_starts_a_server_for() -> None:
    played = {row.command.split()[0] for row in ALL}
    started = {name for name, scenario in SCENARIOS.items() if not scenario.servers}
    assert played == started - {"capacity"}, "that one is of imserver doctor"
    for row in (row for rows in SUITES.values() for row in rows):
        scenario = SCENARIOS[row.command.split()[0]]
        again = command_line(scenario, options_of(row), 1).removeprefix(
            "imserver bench "
        )
        assert again == row.command


def test_a_rate_that_left_the_server_idle_is_derived_from_its_cpu() -> None:
    span = Span(observed=True, server_us=500_000)
    figures = span.rate("requests", 100_000, 1.0)
    names = ("measured_per_second", "requests_per_second", "generator_bound")
    assert [figures[name] for name in names] == [100_000, 200_000, 1]
    span.server_us = 950_000
    assert span.rate("requests", 100_000, 1.0)["requests_per_second"] == 100_000
    unseen = Span(observed=False).rate("requests", 100, 2.0)
    assert (unseen["requests_per_second"], unseen["cpu_us"]) == (50, None)


def test_addresses_are_taken_apart() -> None:
    target = ServerChoice(url="http://localhost:8080").target()
    assert (target.ws_host, target.ws_port, target.ws_path) == (
        "localhost",
        8089,
        "/acc",
    )
    target = ServerChoice(url="http://h:1", ws="ws://w:2/other").target()
    assert (target.http_port, target.ws_host, target.ws_port, target.ws_path) == (
        1,
        "w",
        2,
        "/other",
    )


def latencies(*micros: int) -> Latency:
    found = Latency()
    for value in micros:
        found.add(value)
    return found


def test_percentiles_are_exact_to_ten_microseconds_also_of_several_processes() -> None:
    one = latencies(*range(1000, 101_000, 1000))
    assert one.count == 100
    assert one.percentile_ms(50) == pytest.approx(50, abs=0.02)
    assert one.percentile_ms(99) == pytest.approx(99, abs=0.02)
    assert one.figures()["max_ms"] == 100
    assert latencies(10, 30_000_000).percentile_ms(99) == 30_000, (
        "beyond the last bucket"
    )
    parts = [
        json.loads(json.dumps(part.pack()))
        for part in (latencies(100, 200), latencies(100, 9000))
    ]
    whole = Latency.merged(parts)
    assert (whole.count, whole.max_us, whole.percentile_ms(50)) == (
        4,
        9000,
        pytest.approx(0.11),
    )


@dataclass(frozen=True)
class NoOptions:
    """A scenario without options."""


@pytest.mark.linux
@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_a_message_that_is_lost_fails_the_command(lost: float) -> None:
    def lossy(_context: RunContext, _options: NoOptions) -> Figures:
        return {"cpu_us": 1.0, "lost": lost}

    SCENARIOS["lossy"] = Scenario("lossy", "", NoOptions, lossy, servers="none")
    add("lossy")
    try:
        result = run("lossy", "--json")
    finally:
        del bench.commands["lossy"], SCENARIOS["lossy"]
    assert json.loads(result.stdout)["faults"] == ({"lost": lost} if lost else {})
    assert result.exit_code == bool(lost)


# --- two trees ----------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str, Any]]:
    """What was measured: tree, command and tool."""
    runs: list[tuple[Any, str, Any]] = []

    def measure(tree: Any, command: str, tool: Any) -> dict[str, Any]:
        runs.append((tree, command, tool))
        return {"figures": {name: pair[tree != ROOT] for name, pair in REPORTS.items()}}

    monkeypatch.setattr(runner, "measure", measure)
    return runs


def test_pairs_alternate_and_a_dearer_unit_fails(
    calls: list[tuple[Any, str, Any]], tmp_path: Path
) -> None:
    result = run(
        "versus", "--pairs", "2", "--json", str(tmp_path), "push", "--v1", "--keyed"
    )
    command = "push --v1 --keyed"
    assert calls == [(ROOT, command, ROOT), (tmp_path, command, tmp_path)] * 2
    rows = {row["figure"]: row for row in json.loads(result.stdout)["rows"]}
    assert set(rows) == {"cpu_us", "generator_cpu_us", "lost"}
    assert rows["cpu_us"]["ratio"] == pytest.approx(1.1)
    assert [name for name, row in rows.items() if row["over"]] == ["cpu_us"]
    assert result.exit_code == 1
    calls.clear()
    run("versus", "--pairs", "1", "--one-tool", str(tmp_path), "idle")
    assert calls == [(ROOT, "idle", ROOT), (tmp_path, "idle", ROOT)]
    calls.clear()
    run("versus", "--pairs", "1", str(tmp_path), "all")
    assert [command for _, command, _ in calls] == [
        row.command for row in ALL for _ in range(2)
    ]


@pytest.mark.linux
def test_the_tool_of_this_tree_starts_the_server_of_another(tmp_path: Path) -> None:
    (tmp_path / "imserver").mkdir()
    (tmp_path / "imserver" / "__init__.py").touch()
    (tmp_path / "imserver" / "__main__.py").write_text(
        "raise SystemExit('the server of another tree')"
    )
    with pytest.raises(BenchError, match="the server of another tree"):
        runner.measure(tmp_path, "idle --connections 1", ROOT)
