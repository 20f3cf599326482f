"""Showing reports: a progress bar and tables, Markdown for the documentation, SVG for a million."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import groupby, pairwise
from math import floor, log10

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import crew
from bench.figures import FIGURES, shown
from bench.loop import Json

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

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def begin(self, text: str) -> crew.Progress:
        self._bar.reset(self._task, description=text, total=None)

        def progress(done: int, total: int) -> None:
            self._bar.update(self._task, completed=done, total=total or None)

        return progress


def place_line(report: Json) -> str:
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


def print_table(title: str, columns: str, rows: Iterable[Sequence[str]]) -> None:
    """Print a table; ``columns`` are separated by ``|``, and one with a ``>`` is aligned to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns.split("|"):
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout).print(table)


def say(text: str) -> None:
    Console(file=sys.stdout).print(text, highlight=False)


def show(report: Json) -> None:
    many, rows = report["runs"] > 1, []
    for name, value in report["figures"].items():
        values = [run[name] for run in report["each"] if run.get(name) is not None]
        ends = [shown(name, end(values)) if values else "–" for end in (min, max)] if many else []
        rows.append((FIGURES[name].label, shown(name, value), *ends))
    columns = f"figure|>median of {report['runs']}|>from|>to" if many else "figure|>value"
    print_table(report.get("title") or report["command"], columns, rows)
    say(place_line(report))
    if report.get("attacks"):
        title, columns = (
            "requests of a stranger, the worst first",
            "request|>loop held|>memory grew|answer|good",
        )
        print_table(title, columns, (_attack_cells(row) for row in report["attacks"]))
        say(f"The worst request: {report['worst']}")
    if report.get("stopped"):
        say(f"STOPPED: {report['stopped']}")
    if report["faults"]:
        say("NOT GOOD: " + ", ".join(FIGURES[name].label for name in report["faults"]))


def _attack_cells(row: Json) -> list[str]:
    good = "NO" if row["over"] else "yes" if row["judged"] else "–"
    numbers = [shown(name, row[name]) for name in ("hold_ms", "growth_mb")]
    return [row["name"], *numbers, row["answer"], good]


def show_versus(rows: Iterable[Json]) -> None:
    """Print how this tree compares with another: a table for each command, in which costs are marked."""
    for command, figures in groupby(rows, key=lambda row: row["command"]):
        title, columns = (
            f"{command}: this tree against the other",
            "figure|>this|>other|>ratio|>pair by pair|>good",
        )
        print_table(title, columns, (_versus_cells(row) for row in figures))


def _versus_cells(row: Json) -> list[str]:
    name, pairs = row["figure"], " ".join(f"{each:.2f}" for each in row["ratios"])
    good = "NO" if row["over"] else "yes" if row["cost"] else ""
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}"
    return [FIGURES[name].label, shown(name, row["ours"]), shown(name, row["theirs"]), ratio, pairs, good]


def show_bars(bars: Iterable[Json]) -> None:
    print_table("bars", "what|figure|>value|>bar|>bar here|>met", map(cells, bars))


def cells(bar: Json) -> list[str]:
    name, sign = bar["figure"], "≥" if bar["at_least"] else "≤"
    return [
        bar["title"],
        bar["label"] + (" (from CPU)" if bar["derived"] else ""),
        shown(name, bar["value"]),
        f"{sign} {shown(name, bar['bar'])}",
        f"{sign} {shown(name, bar['scaled_bar'])}",
        "yes" if bar["met"] else "NO",
    ]


def begin_mark(suite: Json) -> str:
    """Return the mark behind which a document holds the Markdown of ``suite``."""
    return MARKS.get(suite.get("suite", ""), USUAL_MARK)


def head(suite: Json) -> list[str]:
    """Return where a suite was measured, as the first lines of its Markdown."""
    return [f"{place_line(suite['reports'][-1])}. imserver {suite['imserver']}.", ""]


def bars(suite: Json) -> str:
    """Return the bars of a suite as Markdown."""
    return "\n".join(head(suite) + bars_table(suite["bars"]))


def markdown(suite: Json) -> str:
    reports, lines = suite["reports"], head(suite)
    if suite.get("suite") == "million":
        names = dict.fromkeys(name for report in reports for name in report["figures"])
        lines += [
            f"| | {' | '.join(report['title'] for report in reports)} |",
            "|---|" + "--:|" * len(reports),
        ]
        for name in names:  # a column for each size
            values = [shown(name, report["figures"].get(name)) for report in reports]
            lines.append(f"| {FIGURES[name].label} | {' | '.join(values)} |")
        return "\n".join([*lines, "", *bars_table(suite["bars"])])
    lines += bars_table(suite["bars"])
    lines += ["", "Every figure of the same runs:"]
    for report in reports:
        lines += ["", f"**{report['title']}** – `{report['command']}`", "", "| figure | value |", "|---|--:|"]
        for name, value in report["figures"].items():
            lines.append(f"| {FIGURES[name].label} | {shown(name, value)} |")
    return "\n".join(lines)


def bars_table(bars: list[Json]) -> list[str]:
    lines = ["| what | figure | value | bar | bar here | met | command |", "|---|---|--:|--:|--:|---|---|"]
    return lines + [f"| {' | '.join(cells(bar))} | `{bar['command']}` |" for bar in bars] if bars else []


WIDTH, LEFT, RIGHT = 900, 70, 20
PANEL, GAP, TOP, BOTTOM = 130, 34, 46, 40
COLOURS = ("#1f6feb", "#d1570b", "#1a7f37", "#8250df") * 2
GREY = "#57606a"
Points = list[tuple[float, float]]


def panels(series: Json) -> dict[str, dict[str, Points]]:
    """Return what is shown of a sampler's ``series``: titles with units, and lines by name."""
    samples = series["samples"]
    first = samples[0]
    begin, free = first["at"], first["available_bytes"]

    def line(value: Callable[[Json], float | None], scale: float = 1.0) -> Points:
        return [(each["at"] - begin, v * scale) for each in samples if (v := value(each)) is not None]

    def rates(points: Points) -> Points:
        return [(at, (v - last) / (at - before)) for (before, last), (at, v) in pairwise(points)]

    memory, cpu = {}, {}
    for name in first["groups"]:
        memory[name] = line(lambda each, name=name: each["groups"][name]["pss_bytes"], 1e-6)  # type: ignore[misc]
        cpu[name] = rates(line(lambda each, name=name: each["groups"][name]["cpu_seconds"], 100))  # type: ignore[misc]
    memory["machine, grown by"] = line(lambda each: max(free - each["available_bytes"], 0), 1e-6)
    return {
        "connections, thousands (TCP sockets / 2)": {
            "": line(lambda each: each["sockets"] - first["sockets"], 1 / 2000)
        },
        "memory, MB (PSS)": memory,
        "CPU, % of a core": cpu,
        "sent over loopback, MB/s": {"": rates(line(lambda each: each["sent_bytes"], 1e-6))},
    }


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = GREY, size: int = 11) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-family="sans-serif" font-size="{size}" fill="{colour}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def svg(title: str, series: Json) -> str:
    """Return the plot of a sampler's ``series`` with the marks of its phases."""
    shown = panels(series)
    begin = series["samples"][0]["at"]
    seconds = max(series["samples"][-1]["at"] - begin, 1.0)
    scale = (WIDTH - LEFT - RIGHT) / seconds
    bottom = TOP + len(shown) * (PANEL + GAP) - GAP
    height = bottom + GAP + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 20, title, colour="#1f2328", size=14),
    ]
    for place, (name, lines) in enumerate(shown.items()):
        parts += _panel(name, lines, TOP + place * (PANEL + GAP), scale)
    free = 0.0
    for at, text in series["marks"]:  # a line where each phase begins; its name where there is room
        x = LEFT + (at - begin) * scale
        parts.append(
            _line(x, TOP - 14, x, bottom, 'stroke="#8c959f" stroke-width="0.6" stroke-dasharray="2,3"')
        )
        if x >= free and text != "end":
            parts.append(_text(x + 3, bottom + 30, text))
            free = x + 12 + 6.0 * len(text)
    for minute in range(0, int(seconds / 60) + 1, max(1, round(seconds / 60 / 12))):
        parts.append(_text(LEFT + minute * 60 * scale, bottom + 16, f"{minute} min", "middle"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, lines: dict[str, Points], y: float, scale: float) -> Iterable[str]:
    most = max((value for line in lines.values() for _at, value in line), default=1.0) or 1.0
    step = 10.0 ** floor(log10(most))
    top = next((step * times for times in (1, 2, 5, 10) if step * times >= most), most)
    right = float(WIDTH - RIGHT)
    yield _text(LEFT, y - 6, title)
    for share in (0.0, 0.5, 1.0):
        at = y + PANEL * (1 - share)
        yield _line(LEFT, at, right, at, 'stroke="#d0d7de" stroke-width="0.7"')
        yield _text(LEFT - 6, at + 4, f"{top * share:,g}", "end")
    for colour, points in zip(COLOURS, lines.values(), strict=False):
        way = " ".join(f"{LEFT + at * scale:.1f},{y + PANEL * (1 - value / top):.1f}" for at, value in points)
        yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
    for colour, name in reversed(list(zip(COLOURS, lines, strict=False))):
        if name:
            yield _text(right, y - 6, name, "end", colour)
            right -= 8 + 6.2 * len(name)
