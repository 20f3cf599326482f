"""Showing reports: a progress bar and tables, Markdown for the documentation, SVG for a million."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
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
    if report.get("attacks"):
        show_attacks(report)
    if report.get("stopped"):
        console.print(f"STOPPED: {report['stopped']}", highlight=False)
    if report["faults"]:
        console.print(
            "NOT GOOD: " + ", ".join(FIGURES[name].label for name in report["faults"]), highlight=False
        )


def show_attacks(report: dict[str, Any]) -> None:
    """Print what each request of a stranger did, the worst first."""
    table = Table(title="requests of a stranger, the worst first", title_justify="left")
    for column in ("request", "loop held", "memory grew", "answer", "good"):
        table.add_column(column, justify="right" if column in ("loop held", "memory grew") else "left")
    for row in report["attacks"]:
        good = "NO" if row["over"] else "yes" if row["judged"] else "–"
        numbers = shown("hold_ms", row["hold_ms"]), shown("growth_mb", row["growth_mb"])
        table.add_row(row["name"], *numbers, row["answer"], good)
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(f"The worst request: {report['worst']}", highlight=False)


def show_versus(rows: Iterable[dict[str, Any]]) -> None:
    """Print how this tree compares with another: a table for each command, in which costs are marked."""
    for command, figures in groupby(rows, key=lambda row: row["command"]):
        table = Table(title=f"{command}: this tree against the other", title_justify="left")
        table.add_column("figure")
        for column in ("this", "other", "ratio", "pair by pair", "good"):
            table.add_column(column, justify="right")
        for row in figures:
            name = row["figure"]
            good = "NO" if row["over"] else "yes" if row["cost"] else ""
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}"
            pairs = " ".join(f"{each:.2f}" for each in row["ratios"])
            values = shown(name, row["ours"]), shown(name, row["theirs"])
            table.add_row(FIGURES[name].label, *values, ratio, pairs, good)
        Console(file=sys.stdout).print(table)


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


def head(suite: dict[str, Any]) -> list[str]:
    """Return where a suite was measured, as the first lines of its Markdown."""
    return [f"{place_line(suite['reports'][-1])}. imserver {suite['imserver']}.", ""]


def bars(suite: dict[str, Any]) -> str:
    """Return the bars of a suite as Markdown."""
    return "\n".join(head(suite) + bars_table(suite["bars"]))


def markdown(suite: dict[str, Any]) -> str:
    """Return the report of a suite as Markdown."""
    reports, lines = suite["reports"], head(suite)
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


WIDTH, LEFT, RIGHT = 900, 70, 20
PANEL, GAP, TOP, BOTTOM = 130, 34, 46, 40
COLOURS = ("#1f6feb", "#d1570b", "#1a7f37", "#8250df")
TEXT = 'font-family="sans-serif" font-size="11" fill="#57606a"'

TITLE_TEXT = 'font-family="sans-serif" font-size="14" fill="#1f2328"'

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One panel: its title with the unit, and its lines by name."""

    title: str
    lines: dict[str, Points]

    def top(self) -> float:
        most = max((value for line in self.lines.values() for _at, value in line), default=1.0) or 1.0
        step: float = 1.0
        while step * 10 <= most:
            step *= 10
        while step > most:
            step /= 10
        return next((step * times for times in (1, 2, 5, 10) if step * times >= most), most)


def panels(series: dict[str, Any]) -> list[Panel]:
    """Return what is shown of a sampler's ``series``."""
    samples: Sequence[dict[str, Any]] = series["samples"]
    begin = samples[0]["at"]
    at = [sample["at"] - begin for sample in samples]
    online = [(sample["sockets"] - samples[0]["sockets"]) / 2 / 1e3 for sample in samples]
    traffic = [value / 1e6 for value in _rates(samples, [sample["sent_bytes"] for sample in samples])]
    names = list(samples[0]["groups"])

    def of_group(name: str, key: str) -> list[float | None]:
        return [sample["groups"][name][key] for sample in samples]

    memory = {
        name: [(t, v / 1e6) for t, v in zip(at, of_group(name, "pss_bytes"), strict=True) if v is not None]
        for name in names
    }
    free = samples[0]["available_bytes"]
    memory["machine, grown by"] = [
        (t, max(free - sample["available_bytes"], 0) / 1e6) for t, sample in zip(at, samples, strict=True)
    ]
    cpu = {
        name: list(
            zip(at[1:], [100 * v for v in _rates(samples, of_group(name, "cpu_seconds"))], strict=True)
        )
        for name in names
    }
    return [
        Panel("connections, thousands (TCP sockets / 2)", {"": list(zip(at, online, strict=True))}),
        Panel("memory, MB (PSS)", memory),
        Panel("CPU, % of a core", cpu),
        Panel("sent over loopback, MB/s", {"": list(zip(at[1:], traffic, strict=True))}),
    ]


def _rates(samples: Sequence[dict[str, Any]], values: Sequence[float | None]) -> list[float]:
    rates = []
    for place in range(1, len(samples)):
        now, before = values[place], values[place - 1]
        seconds = samples[place]["at"] - samples[place - 1]["at"]
        rates.append((now - before) / seconds if now is not None and before is not None else 0.0)
    return rates


def svg(title: str, series: dict[str, Any]) -> str:
    """Return the plot of a sampler's ``series`` with the marks of its phases."""
    shown = panels(series)
    begin = series["samples"][0]["at"]
    marks = [(at - begin, text) for at, text in series["marks"]]
    seconds = max(series["samples"][-1]["at"] - begin, 1.0)
    scale = (WIDTH - LEFT - RIGHT) / seconds
    height = TOP + len(shown) * (PANEL + GAP) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" {TITLE_TEXT}>{escape(title)}</text>',
    ]
    for place, panel in enumerate(shown):
        parts += _panel(panel, TOP + place * (PANEL + GAP), scale, seconds)
    bottom = TOP + len(shown) * (PANEL + GAP) - GAP
    parts += _marks(marks, scale, bottom)
    minutes = max(1, round(seconds / 60 / 12))
    for minute in range(0, int(seconds / 60) + 1, minutes):
        x = LEFT + minute * 60 * scale
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" {TEXT}>{minute} min</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, y: float, scale: float, seconds: float) -> Iterable[str]:
    top = panel.top()
    right = LEFT + seconds * scale
    yield f'<text x="{LEFT}" y="{y - 6}" {TEXT}>{escape(panel.title)}</text>'
    for share in (0.0, 0.5, 1.0):
        line = y + PANEL * (1 - share)
        yield (
            f'<line x1="{LEFT}" y1="{line:.1f}" x2="{right:.1f}" y2="{line:.1f}" stroke="#d0d7de" '
            'stroke-width="0.7"/>'
        )
        yield f'<text x="{LEFT - 6}" y="{line + 4:.1f}" text-anchor="end" {TEXT}>{top * share:,g}</text>'
    for colour, points in zip(COLOURS * 2, panel.lines.values(), strict=False):
        way = " ".join(f"{LEFT + at * scale:.1f},{y + PANEL * (1 - value / top):.1f}" for at, value in points)
        yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
    x = right
    for colour, name in reversed(list(zip(COLOURS * 2, panel.lines, strict=False))):
        if name:
            yield (
                f'<text x="{x:.1f}" y="{y - 6}" text-anchor="end" font-family="sans-serif" font-size="11" '
                f'fill="{colour}">{escape(name)}</text>'
            )
            x -= 8 + 6.2 * len(name)


def _marks(marks: Sequence[tuple[float, str]], scale: float, bottom: float) -> Iterable[str]:
    """Yield a line where each phase begins; its name where there is room."""
    free = 0.0
    for at, text in marks:
        x = LEFT + at * scale
        yield (
            f'<line x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" y2="{bottom}" stroke="#8c959f" '
            'stroke-width="0.6" stroke-dasharray="2,3"/>'
        )
        if x >= free and text != "end":
            yield f'<text x="{x + 3:.1f}" y="{bottom + 30}" {TEXT}>{escape(text)}</text>'
            free = x + 12 + 6.0 * len(text)
