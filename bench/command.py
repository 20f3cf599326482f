"""What the commands of ``imserver bench`` share: options, how they fail, how they show what they found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from bench import report
from bench.loop import BenchError
from bench.machine import machine
from imserver import __version__

MOST_RUNS = 25

Command = Callable[..., Any]

PLACE_OPTIONS = (
    click.option("--url", default="", help="Measure the server at http://host:port (default: start one)."),
    click.option("--ws", default="", help="Its WebSocket address [default: ws://HOST:8089/acc]."),
    click.option("--pid", "pids", type=int, multiple=True, help="A process of that server (repeatable)."),
    click.option("--app", type=int, default=101, show_default=True, help="The appID to play in."),
    click.option("--key", default="", help="An API key for the pushes."),
    click.option(
        "--log",
        type=click.Choice(["file", "null"]),
        default="file",
        show_default=True,
        help="Where a server of our own writes its (request) log.",
    ),
    click.option(
        "--pin/--no-pin",
        default=True,
        show_default=True,
        help="A server of our own gets the first core, the generators the others.",
    ),
    click.option("--config", default="", help="Configuration file of a server of our own."),
    click.option("--door", type=click.Choice(["front", "wsgi"]), help="Door of a server of our own."),
)
OUTPUT_OPTIONS = (
    click.option(
        "--runs",
        type=click.IntRange(1, MOST_RUNS),
        default=1,
        show_default=True,
        help="Show the median of so many runs.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."),
)

NODES_OPTIONS = (
    click.option("--redis", default="", help="The URL of a Redis [default: start one]."),
    click.option(
        "--redis-server", default="", help="The redis-server to start [default: one that is found]."
    ),
    click.option(
        "--log",
        type=click.Choice(["file", "null"]),
        default="file",
        show_default=True,
        help="Where the servers write their (request) log.",
    ),
)


def decorated(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    """Return ``command`` with click options."""
    for each in reversed(options):
        command = each(command)
    return command


def option(entry: Any) -> Callable[[Command], Command]:
    """Return the click option of a field of a dataclass of options."""
    name = "--" + entry.name.replace("_", "-")
    if isinstance(entry.default, bool):
        flag = f"{name}/--no-{name[2:]}" if entry.default else name
        return click.option(flag, is_flag=True, default=entry.default, help=entry.metadata["help"])
    about = entry.metadata["help"]
    if isinstance(entry.default, str):
        words = click.Choice(entry.metadata["choices"]) if "choices" in entry.metadata else click.STRING
        return click.option(
            name, type=words, default=entry.default, show_default=bool(entry.default), help=about
        )
    least, most = entry.metadata["least"], entry.metadata["most"]
    whole = isinstance(entry.default, int)
    kind = click.IntRange(int(least), int(most)) if whole else click.FloatRange(least, most)
    return click.option(name, type=kind, default=entry.default, show_default=True, help=about)


def guarded(command: Command) -> Command:
    """Return ``command`` with a BenchError shown as one clear line."""

    def guard(**values: Any) -> None:
        try:
            command(**values)
        except BenchError as error:
            raise click.ClickException(str(error)) from error

    guard.__doc__ = command.__doc__
    return guard


def show_all(name: str, reports: list[dict[str, Any]], bars: list[dict[str, Any]], as_json: bool) -> None:
    """Print several reports and their bars; exit with 1 when something is not good."""
    if as_json:
        whole = {
            "imserver": __version__,
            "suite": name,
            "machine": machine(),
            "reports": reports,
            "bars": bars,
        }
        click.echo(json.dumps(whole, ensure_ascii=False))
    else:
        for found in reports:
            report.show(found)
        if bars:
            report.show_bars(bars)
    wrong = any(found["faults"] or found.get("stopped") for found in reports)
    if wrong or not all(bar["met"] for bar in bars):
        sys.exit(1)
