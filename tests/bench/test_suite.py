"""Folding runs, judging figures by their bars, and the commands that stand beside figures."""

import pytest

from bench.context import Span
from bench.figures import FIGURES, faults, fold, shown
from bench.runner import SCENARIOS, ServerChoice, command_line, judge, options_of
from bench.suite import ALL, SUITES, Bar


def test_several_runs_fold_to_the_median_and_faults_to_the_worst() -> None:
    runs = [{"cpu_us": 3.0, "lost": 0.0}, {"cpu_us": 9.0, "lost": 2.0}, {"cpu_us": 4.0, "lost": 0.0}]
    assert fold(runs) == {"cpu_us": 4.0, "lost": 2.0}
    assert faults(fold(runs)) == {"lost": 2.0}


def test_a_figure_that_no_run_has_stays_unknown() -> None:
    assert fold([{"cpu_us": None}, {"cpu_us": None}]) == {"cpu_us": None}
    assert shown("cpu_us", None) == "–"


def test_figures_are_judged_by_the_bars_of_their_rows() -> None:
    assert not Bar("cpu_us", 1.0).met(None)
    figures = {"cpu_us": 1.0, "lost": 1, "deliveries_per_second": 2e6}
    reports = [
        {"scenario": "", "command": "c", "figures": figures, "generator": {"bottleneck": True}} for _ in ALL
    ]
    judged = {
        bar["figure"]: bar for bar in judge(ALL, reports) if bar["title"] == "broadcast to 500, flat out"
    }
    met = {name: bar["met"] for name, bar in judged.items()}
    assert met == {"cpu_us": True, "lost": False, "deliveries_per_second": True}
    assert judged["deliveries_per_second"]["derived"]
    reports[0]["figures"] = {**figures, "cpu_us": 1e9}
    assert not judge(ALL[:1], reports[:1])[0]["met"]


def test_a_suite_plays_every_scenario_that_the_runner_starts_a_server_for() -> None:
    played = {row.command.split()[0] for row in ALL}
    assert played == {name for name, scenario in SCENARIOS.items() if not scenario.servers}


@pytest.mark.parametrize("rows", SUITES.values(), ids=SUITES)
def test_the_bars_of_a_suite_name_figures_and_its_commands_are_their_own(rows: tuple) -> None:
    assert {bar.figure for row in rows for bar in row.bars} <= set(FIGURES)
    for row in rows:
        scenario = SCENARIOS[row.command.split()[0]]
        again = command_line(scenario, options_of(row), 1).removeprefix("imserver bench ")
        assert again in (row.command, row.command.removesuffix(" --connections 10000"))


def test_a_rate_that_left_the_server_idle_is_derived_from_its_cpu() -> None:
    span = Span(observed=True, server_us=500_000)
    figures = span.rate("requests", 100_000, 1.0)
    assert figures["measured_per_second"] == 100_000
    assert figures["requests_per_second"] == 200_000
    assert figures["generator_bound"] == 1
    span.server_us = 950_000
    assert span.rate("requests", 100_000, 1.0)["requests_per_second"] == 100_000


def test_a_server_without_pids_has_a_rate_but_no_cost() -> None:
    figures = Span(observed=False).rate("requests", 100, 2.0)
    assert figures["requests_per_second"] == 50
    assert figures["cpu_us"] is None


def test_addresses_are_taken_apart() -> None:
    target = ServerChoice(url="http://localhost:8080").target()
    assert (target.ws_host, target.ws_port, target.ws_path) == ("localhost", 8089, "/acc")
    target = ServerChoice(url="http://h:1", ws="ws://w:2/other").target()
    assert (target.http_port, target.ws_host, target.ws_port, target.ws_path) == (1, "w", 2, "/other")
