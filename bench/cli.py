"""``imserver bench``: the command line of the load tool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from bench import report, runner
from bench.loop import BenchError, Json
from bench.proc import machine
from bench.runner import SCENARIOS, SUITES, Row, ServerChoice, judge, perform, suite_of

Command = Callable[..., Any]
Option = Callable[[Command], Command]

RUNS = click.IntRange(1, 25)
JSON_OPTION: Option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."
)
MEDIAN: Option = click.option(
    "--runs",
    type=RUNS,
    default=1,
    show_default=True,
    help="The number of runs; their median is shown.",
)


@click.group()
def bench() -> None:
    """Measure this server, or another server with the cmd dialect."""


def _option(entry: Any) -> Option:
    name = "--" + entry.name.replace("_", "-")
    facts = entry.metadata
    default = entry.default
    if isinstance(default, bool):
        return click.option(name, is_flag=True, default=default, help=facts["help"])
    kind: Any = click.STRING
    if entry.name == "pid":
        return click.option(name, type=int, multiple=True, help=facts["help"])
    if not isinstance(default, str):
        whole = isinstance(default, int)
        kind = (click.IntRange if whole else click.FloatRange)(
            facts["least"], facts["most"]
        )
    elif facts["choices"]:
        kind = click.Choice(facts["choices"])
    return click.option(
        name, type=kind, default=default, show_default=default != "", help=facts["help"]
    )


def finish(found: Json, as_json: bool, show: Callable[[], None], good: bool) -> None:
    """Print the result, and exit with 1 unless it is good."""
    if as_json:
        command = [sys.executable, "-m", "imserver", "version"]
        version = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
        click.echo(json.dumps({"imserver": version, **found}, ensure_ascii=False))
    else:
        show()
    if not good:
        sys.exit(1)


def add(name: str) -> None:
    """Add the command of a scenario or a suite. Its options are the fields of
    the scenario's dataclass."""
    scenario = SCENARIOS.get(name)
    own = scenario and scenario.servers
    server = [each for each in fields(ServerChoice) if each.name == "log" or not own]

    def command(as_json: bool, runs: int, **values: Any) -> None:
        choice = ServerChoice(**{each.name: values.pop(each.name) for each in server})
        rows = rows_of(name, values)
        try:
            reports = perform(rows, choice, runs, **values)
        except BenchError as error:
            raise click.ClickException(str(error)) from error
        bars = judge(rows, reports)

        def show() -> None:
            for found in reports:
                report.show(found)
            if bars:
                report.show_table(
                    "bars", "what|figure|>value|>bar|met", map(report.bar_cells, bars)
                )

        good = not any(found["faults"] or found.get("stopped") for found in reports)
        whole = {"suite": name, "machine": machine(), "reports": reports, "bars": bars}
        found = whole if name in SUITES else reports[0]
        finish(found, as_json, show, good and all(bar["met"] for bar in bars))

    if scenario:
        command.__doc__ = scenario.text
    else:
        command.__doc__ = "Run every measurement that has a bar (a limit)."
    options = [
        _option(entry)
        for entry in (*(fields(scenario.options) if scenario else ()), *server)
    ]
    decorated: Command = command
    for each in reversed([*options, MEDIAN, JSON_OPTION]):
        decorated = each(decorated)
    bench.add_command(click.command(name)(decorated))


def rows_of(name: str, values: Json) -> tuple[Row, ...]:
    """The rows that a command performs: of a suite all, or only those with the
    ``part`` or the number of ``connections`` in ``values``."""
    suite = suite_of(name)
    option = {"cluster": "part", "million": "connections"}.get(name)
    if option is None:
        return suite
    command = f"{name} --{option} {values[option]}"
    only = tuple(row for row in suite if row.command == command)
    if not values.pop(option):
        return suite
    return only or (Row("", command),)


@bench.command(
    "versus",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--pairs", type=RUNS, default=5, show_default=True, help="Pairs of runs.")
@click.option(
    "--one-tool",
    is_flag=True,
    help="Measure both servers with the load tool of this tree.",
)
@JSON_OPTION
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def versus_command(
    pairs: int, one_tool: bool, as_json: bool, other: Path, command: tuple[str, ...]
) -> None:
    """Compare this source tree with the source tree at OTHER.

    COMMAND is a scenario with its options, or a suite: `versus ../old push --v1
    --keyed`, `versus ../old cluster --part stored`. Each pair runs COMMAND in
    this tree and in the other tree. The exit status is 1 if the median of the
    ratios of a cost over all pairs is above 1.05.
    """
    try:
        found = runner.compare(
            " ".join(command), other.resolve(), pairs, one_tool=one_tool
        )
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    good = not any(row["over"] for row in found)
    finish({"rows": found}, as_json, lambda: report.show_versus(found), good)


for _name in (*SCENARIOS, "all"):
    add(_name)
