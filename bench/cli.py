"""``imserver bench``: the command line of the load tools."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from bench import chaos as chaos_run
from bench import chart, cluster_suite, million_suite, report
from bench.capacity import MOST_ONLINE, MillionOptions
from bench.chaos import ChaosOptions
from bench.cluster import ClusterOptions
from bench.cluster_suite import ClusterPlace
from bench.command import (
    NODES_OPTIONS,
    OUTPUT_OPTIONS,
    PLACE_OPTIONS,
    decorated,
    guarded,
    option,
    show_all,
)
from bench.play import SCENARIOS, Place, Scenario, play
from bench.suite import ALL, SMOKE, Row, judge, perform
from imserver import __version__


@click.group()
def bench() -> None:
    """Measure this server, or any other of the cmd dialect."""


def place_of(values: dict[str, Any]) -> Place:
    """Take what belongs to the place out of a command's values."""
    arguments: list[str] = []
    for name in ("config", "door"):
        value = values.pop(name, None)
        if value:
            arguments += [f"--{name}", value]
    names = ("url", "ws", "pids", "app", "key", "log", "pin")
    taken = {name: values.pop(name) for name in names if name in values}
    return Place(arguments=tuple(arguments), **taken)


def scenario_command(scenario: Scenario) -> click.Command:
    """Return the click command of one scenario; its options are the fields of the scenario's dataclass."""

    def command(runs: int, as_json: bool, **values: Any) -> None:
        place = place_of(values)
        with report.Bar() as watcher:
            found = play(scenario, scenario.options(**values), place, runs, watcher)
        if as_json:
            click.echo(json.dumps({"imserver": __version__, **found}, ensure_ascii=False))
        else:
            report.show(found)
        if found["faults"]:
            sys.exit(1)

    options = tuple(option(entry) for entry in fields(scenario.options))  # type: ignore[arg-type]
    summary = (
        (sys.modules[scenario.run.__module__].__doc__ or "")
        .partition(": ")[2]
        .partition("\n")[0]
        .replace("``", "")
    )
    command.__doc__ = summary[:1].upper() + summary[1:]
    place = PLACE_OPTIONS if scenario.needs_server else ()
    return click.command(scenario.name)(decorated(guarded(command), (*options, *place, *OUTPUT_OPTIONS)))


def suite_command(name: str, rows: tuple[Row, ...], text: str) -> click.Command:
    """Return the click command of a suite."""

    def command(runs: int, as_json: bool, **values: Any) -> None:
        with report.Bar() as watcher:
            reports = perform(rows, place_of(values), runs, watcher)
        show_all(name, reports, judge(rows, reports), as_json)

    command.__doc__ = text
    return click.command(name)(decorated(guarded(command), (*PLACE_OPTIONS, *OUTPUT_OPTIONS)))


def million(
    sizes: tuple[int, ...], redis: str, redis_server: str, log: str, as_json: bool, **values: Any
) -> None:
    """Log a million users in on one machine, and reach them all."""
    place = ClusterPlace(redis, redis_server, log)
    with report.Bar() as watcher:
        reports = [
            million_suite.perform(MillionOptions(connections=size, **values), place, watcher)
            for size in sizes or million_suite.SIZES
        ]
    show_all("million", reports, million_suite.judge(reports), as_json)


bench.add_command(
    click.command("million")(
        decorated(
            guarded(million),
            (
                click.option(
                    "--connections",
                    "sizes",
                    type=click.IntRange(100, MOST_ONLINE),
                    multiple=True,
                    help="Users to log in (repeatable) [default: 10,000, then 100,000, then 1,000,000].",
                ),
                *NODES_OPTIONS,
                *(option(entry) for entry in fields(MillionOptions) if entry.name != "connections"),
                OUTPUT_OPTIONS[-1],
            ),
        )
    )
)


def cluster(
    parts: tuple[str, ...],
    redis: str,
    redis_server: str,
    log: str,
    runs: int,
    as_json: bool,
    **values: Any,
) -> None:
    """Pushes and broadcasts across several nodes, and storms. Needs a Redis."""
    place = ClusterPlace(redis, redis_server, log)
    with report.Bar() as watcher:
        reports = cluster_suite.perform(parts, ClusterOptions(**values), place, runs, watcher)
    show_all("cluster", reports, cluster_suite.judge(reports), as_json)


bench.add_command(
    click.command("cluster")(
        decorated(
            guarded(cluster),
            (
                click.option(
                    "--part",
                    "parts",
                    type=click.Choice(list(cluster_suite.PARTS)),
                    multiple=True,
                    help="Only this part (repeatable) [default: all].",
                ),
                *NODES_OPTIONS,
                *(option(entry) for entry in fields(ClusterOptions)),
                *OUTPUT_OPTIONS,
            ),
        )
    )
)


def chaos(as_json: bool, **values: Any) -> None:
    """Break nodes, Redis, database, network and disk under a chat. What was acknowledged must not be lost."""
    with report.Bar() as watcher:
        found = chaos_run.perform(ChaosOptions(**values), watcher.begin)
    show_all("chaos", [found], [], as_json)


bench.add_command(
    click.command("chaos")(
        decorated(guarded(chaos), (*(option(entry) for entry in fields(ChaosOptions)), OUTPUT_OPTIONS[-1]))
    )
)


@bench.command("table")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Replace what stands in this document between <!-- figures --> (<!-- million -->, <!-- cluster -->) "
    "and the next <!-- end -->.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the largest million as SVG into a file.",
)
def table(file: Path, into: Path | None, plot: Path | None) -> None:
    """Turn the JSON of a suite (all, cluster, million) into Markdown."""
    suite = json.loads(file.read_text(encoding="utf-8"))
    if plot is not None:
        drawn = [entry for entry in suite["reports"] if entry.get("series")]
        if not drawn:
            raise click.ClickException(f"{file} has nothing to plot")
        plot.write_text(chart.svg(drawn[-1]["title"], drawn[-1]["series"]), encoding="utf-8")
    text = report.markdown(suite)
    if into is None:
        click.echo(text)
        return
    document, mark = into.read_text(encoding="utf-8"), report.begin_mark(suite)
    before, begin, rest = document.partition(mark)
    _old, end, after = rest.partition(report.END_MARK)
    if not begin or not end:
        raise click.ClickException(f"{into} has no marks {mark} and {report.END_MARK}")
    into.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


for _scenario in SCENARIOS.values():
    bench.add_command(scenario_command(_scenario))
bench.add_command(suite_command("all", ALL, "Measure all that has a bar; exits with 1 when one is missed."))
bench.add_command(suite_command("smoke", SMOKE, "Play small forms of everything, within a minute."))
