"""Showing reports: a progress bar and tables for people, Markdown for the documentation."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import crew
from bench.figures import FIGURES, shown

#: A document holds the Markdown of a suite between the mark with its name and the next end.
END_MARK = "<!-- end -->"
MARKS = {"million": "<!-- million -->", "cluster": "<!-- cluster -->"}
USUAL_MARK = "<!-- figures -->"


class Bar:
    """A progress bar on standard error, when that is a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, text: str) -> crew.Progress:
        """Show a new piece of work."""
        self._bar.reset(self._task, description=text, total=None)

        def progress(done: int, total: int) -> None:
            self._bar.update(self._task, completed=done, total=total or None)

        return progress


def place_line(report: dict[str, Any]) -> str:
    """Return in one line where the figures come from."""
    facts = report["machine"]
    words = [f"{facts['cores']} cores", facts["processor"] or facts["architecture"], facts["kernel"]]
    words.append(f"Python {facts['python']}")
    if report["generator"]["pinned"]:
        words.append("server and generators on cores of their own")
    where = report["server"]
    if where.get("own"):
        words.append(f"a server of its own, request log to {where['log']}")
    elif where:
        words.append(f"server {where['url']}")
    return ", ".join(words)


def show(report: dict[str, Any]) -> None:
    """Print one report as a table."""
    many = report["runs"] > 1
    table = Table(title=report.get("title") or report["command"], title_justify="left")
    table.add_column("figure")
    table.add_column(f"median of {report['runs']}" if many else "value", justify="right")
    if many:
        table.add_column("from", justify="right")
        table.add_column("to", justify="right")
    for name, value in report["figures"].items():
        row = [FIGURES[name].label, shown(name, value)]
        if many:
            values = [run[name] for run in report["each"] if run.get(name) is not None]
            row += [shown(name, min(values)), shown(name, max(values))] if values else ["–", "–"]
        table.add_row(*row)
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(place_line(report), highlight=False)
    if report.get("stopped"):
        console.print(f"STOPPED: {report['stopped']}", highlight=False)
    if report["faults"]:
        console.print(
            "NOT GOOD: " + ", ".join(FIGURES[name].label for name in report["faults"]), highlight=False
        )


def show_bars(bars: Iterable[dict[str, Any]]) -> None:
    """Print figures beside their bars."""
    table = Table(title="bars", title_justify="left")
    for column in ("what", "figure"):
        table.add_column(column)
    for column in ("value", "bar", "bar here", "met"):
        table.add_column(column, justify="right")
    for bar in bars:
        table.add_row(*cells(bar))
    Console(file=sys.stdout).print(table)


def cells(bar: dict[str, Any]) -> list[str]:
    """Return the cells of one bar."""
    name, sign = bar["figure"], "≥" if bar["at_least"] else "≤"
    return [
        bar["title"],
        bar["label"] + (" (from CPU)" if bar["derived"] else ""),
        shown(name, bar["value"]),
        f"{sign} {shown(name, bar['bar'])}",
        f"{sign} {shown(name, bar['scaled_bar'])}",
        "yes" if bar["met"] else "NO",
    ]


def begin_mark(suite: dict[str, Any]) -> str:
    """Return the mark behind which a document holds the Markdown of ``suite``."""
    return MARKS.get(suite.get("suite", ""), USUAL_MARK)


def markdown(suite: dict[str, Any]) -> str:
    """Return the report of a suite as Markdown."""
    reports = suite["reports"]
    lines = [f"{place_line(reports[-1])}. imserver {suite['imserver']}.", ""]
    if suite.get("suite") == "million":
        return "\n".join(lines + sizes_table(reports) + [""] + bars_table(suite["bars"]))
    lines += bars_table(suite["bars"])
    lines += ["", "Every figure of the same runs:"]
    for report in reports:
        lines += ["", f"**{report['title']}** – `{report['command']}`", "", "| figure | value |", "|---|--:|"]
        for name, value in report["figures"].items():
            lines.append(f"| {FIGURES[name].label} | {shown(name, value)} |")
    return "\n".join(lines)


def sizes_table(reports: list[dict[str, Any]]) -> list[str]:
    """Return one table of all sizes, a column each."""
    names = list(dict.fromkeys(name for report in reports for name in report["figures"]))
    lines = [f"| | {' | '.join(report['title'] for report in reports)} |", "|---|" + "--:|" * len(reports)]
    for name in names:
        cells = [shown(name, report["figures"].get(name)) for report in reports]
        lines.append(f"| {FIGURES[name].label} | {' | '.join(cells)} |")
    return lines


def bars_table(bars: list[dict[str, Any]]) -> list[str]:
    """Return the bars with their commands."""
    lines = ["| what | figure | value | bar | bar here | met | command |", "|---|---|--:|--:|--:|---|---|"]
    return lines + [f"| {' | '.join(cells(bar))} | `{bar['command']}` |" for bar in bars] if bars else []
