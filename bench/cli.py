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
from bench.cluster import PARTS
from bench.loop import BenchError, Json
from bench.proc import machine
from bench.runner import SCENARIOS, SUITES, Row, Scenario, ServerChoice, judge, options_of, perform, play

Command = Callable[..., Any]
Option = Callable[[Command], Command]

RUNS = click.IntRange(1, 25)
LOG = click.option(
    "--log",
    type=click.Choice(["file", "null"]),
    default="file",
    show_default=True,
    help="Where a server of our own writes its (request) log.",
)
SERVER_OPTIONS: tuple[Option, ...] = (
    click.option("--url", default="", help="Measure the server at http://host:port (default: start one)."),
    click.option("--ws", default="", help="Its WebSocket address [default: ws://HOST:8089/acc]."),
    click.option("--pid", "pids", type=int, multiple=True, help="A process of that server (repeatable)."),
    click.option("--app", type=int, default=101, show_default=True, help="The appID to play in."),
    click.option("--key", default="", help="An API key for the pushes."),
    LOG,
    click.option(
        "--pin/--no-pin",
        default=True,
        show_default=True,
        help="A server of our own gets the first core, the generators the others.",
    ),
    click.option("--config", default="", help="Configuration file of a server of our own."),
    click.option("--http", type=click.Choice(["front", "wsgi"]), help="HTTP server of a node of our own."),
)
JSON_OPTION: Option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."
)


def runs_option(text: str, default: int = 1) -> Option:
    return click.option("--runs", type=RUNS, default=default, show_default=True, help=text)


MEDIAN = runs_option("Show the median of so many runs.")


@click.group()
def bench() -> None:
    """Measure this server, or any other of the cmd dialect."""


def add(name: str, text: str, command: Command, *options: Option) -> None:
    """Add a command. A BenchError is shown as one line."""

    def guarded(**values: Any) -> None:
        try:
            command(**values)
        except BenchError as error:
            raise click.ClickException(str(error)) from error

    guarded.__doc__ = text
    decorated: Command = guarded
    for each in reversed([*options, JSON_OPTION]):
        decorated = each(decorated)
    bench.add_command(click.command(name)(decorated))


def options(kind: type[Any], *without: str) -> list[Option]:
    return [_option(entry) for entry in fields(kind) if entry.name not in without]


def _option(entry: Any) -> Option:
    name, facts, default = "--" + entry.name.replace("_", "-"), entry.metadata, entry.default
    if isinstance(default, bool):
        return click.option(name, is_flag=True, default=default, help=facts["help"])
    kind: Any = click.STRING
    if not isinstance(default, str):
        whole = isinstance(default, int)
        kind = (click.IntRange if whole else click.FloatRange)(facts["least"], facts["most"])
    elif facts["choices"]:
        kind = click.Choice(facts["choices"])
    return click.option(name, type=kind, default=default, show_default=default != "", help=facts["help"])


def choice_of(values: Json) -> ServerChoice:
    """Take the choice of the server out of a command's values."""
    given = {name: value for name in ("config", "http") if (value := values.pop(name, None))}
    arguments = tuple(word for name, value in given.items() for word in (f"--{name}", value))
    names = {entry.name for entry in fields(ServerChoice)} & values.keys()
    return ServerChoice(arguments=arguments, **{name: values.pop(name) for name in names})


def finish(found: Json, as_json: bool, show: Callable[[], None], good: bool) -> None:
    """Print the result, and exit with 1 unless it is good."""
    if as_json:
        command = [sys.executable, "-m", "imserver", "version"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        click.echo(json.dumps({"imserver": version, **found}, ensure_ascii=False))
    else:
        show()
    if not good:
        sys.exit(1)


def scenario_command(scenario: Scenario) -> None:
    """Add the command of one scenario; its options are the fields of the scenario's dataclass."""

    def command(as_json: bool, runs: int, **values: Any) -> None:
        choice = choice_of(values)
        found = play(scenario, scenario.options(**values), choice, runs)
        finish(found, as_json, lambda: report.show(found), not found["faults"])

    where = SERVER_OPTIONS if scenario.server else (LOG,) if scenario.servers else ()
    text = (scenario.run.__doc__ or "").partition("\n\n")[0].replace("``", "")
    add(scenario.name, text, command, *options(scenario.options), *where, MEDIAN)


def suite_command(name: str, text: str, *more: Option) -> None:
    """Add the command of a suite. ``--part`` and ``--connections`` select rows."""

    def command(runs: int, as_json: bool, only: tuple[Any, ...] = (), **values: Any) -> None:
        choice, rows = choice_of(values), chosen(name, only)
        reports = perform(rows, choice, runs, **values)
        bars = judge(rows, reports)

        def show() -> None:
            for found in reports:
                report.show(found)
            if bars:
                report.show_bars(bars)

        good = not any(found["faults"] or found.get("stopped") for found in reports)
        whole = {"suite": name, "machine": machine(), "reports": reports, "bars": bars}
        finish(whole, as_json, show, good and all(bar["met"] for bar in bars))

    add(name, text, command, *more, MEDIAN)


def chosen(name: str, only: tuple[Any, ...]) -> tuple[Row, ...]:
    rows = {getattr(options_of(row), "part", row.title): row for row in SUITES[name]}
    if name == "million":
        rows = {options_of(row).connections: row for row in SUITES[name]}
        title, command = "{0:,} users online", "million --connections {0}"
        rows |= {size: Row(title.format(size), command.format(size)) for size in only if size not in rows}
    return tuple(rows[each] for each in only or list(rows))


@bench.command("versus", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--pairs", type=RUNS, default=5, show_default=True, help="Pairs of runs.")
@click.option("--one-tool", is_flag=True, help="Measure both servers with the load tool of this tree.")
@JSON_OPTION
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def versus_command(pairs: int, one_tool: bool, as_json: bool, other: Path, command: tuple[str, ...]) -> None:
    """Compare this source tree with the one at OTHER.

    COMMAND is that of a scenario with its options, or a suite: `versus ../old push --v1 --keyed`,
    `versus ../old cluster --part stored`. Each pair runs it in this tree and in the other one. Exits with 1
    when the median of the ratios of a cost, pair by pair, is above 1.05.
    """
    try:
        found = runner.compare(" ".join(command), other.resolve(), pairs, one_tool=one_tool)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    good = not any(row["over"] for row in found)
    finish({"rows": found}, as_json, lambda: report.show_versus(found), good)


for _scenario in SCENARIOS.values():
    if _scenario.name not in SUITES:
        scenario_command(_scenario)
_of = {name: scenario.options for name, scenario in SCENARIOS.items()}
_part = click.option(
    "--part",
    "only",
    type=click.Choice(list(PARTS)),
    multiple=True,
    help="Only this part (repeatable) [default: all].",
)
_sizes = click.option(
    "--connections",
    "only",
    type=click.IntRange(100, 2_000_000),
    multiple=True,
    help="Users to log in (repeatable) [default: 10,000, then 100,000, then 1,000,000].",
)
suite_command("all", "Measure all that has a bar.", *SERVER_OPTIONS)
_cluster, _million = options(_of["cluster"], "part"), options(_of["million"], "connections")
suite_command("cluster", "Measure pushes and broadcasts across nodes. Needs a Redis.", _part, LOG, *_cluster)
suite_command("million", "Log a million users in, and reach them all.", _sizes, LOG, *_million)
suite_command("abuse", "Send the worst requests of strangers and users.", LOG, *options(_of["abuse"]))
