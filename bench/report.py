"""Display of reports: the current phase and tables on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import groupby

import click

from bench.figures import figure, shown
from bench.loop import Json

_BEGUN = time.monotonic()


def show_phase(text: str) -> None:
    """Print what is done now, with the time since the start, on standard
    error."""
    click.echo(f"{time.monotonic() - _BEGUN:6.0f} s  {text}", err=True)


def origin_line(report: Json) -> str:
    """Return one line with the origin of the figures."""
    facts = report["machine"]
    words = [
        f"{facts['cores']} cores",
        facts["processor"] or facts["architecture"],
        facts["kernel"],
    ]
    words.append(f"Python {facts['python']}")
    if report["generator"]["pinned"]:
        words.append("server and generators on cores of their own")
    where = report["server"]
    if where["url"]:
        words.append(f"server {where['url']}")
    else:
        words.append(f"a server of its own, request log to {where['log']}")
        words.append(f"imserver {where['version']}")
    return ", ".join(words)


def rows_table(
    columns: str, rows: Iterable[Sequence[str]], *, padded: bool = False
) -> list[str]:
    """Return the lines of a Markdown table; ``columns`` are separated by ``|``.

    A column whose name begins with ``>`` is aligned to the right. ``padded``:
    for reading as it is.
    """
    names = columns.split("|")
    sides = [">" if name.startswith(">") else "<" for name in names]
    cells = [[name.removeprefix(">") for name in names], *rows]
    sizes = [
        max(map(len, column)) if padded else 0 for column in zip(*cells, strict=True)
    ]
    lines = []
    for row in cells:
        words = (
            f"{cell:{side}{size}}"
            for cell, side, size in zip(row, sides, sizes, strict=True)
        )
        lines.append(f"| {' | '.join(words)} |")
    ends = {">": "-:", "<": "--"}
    rule = (
        "-" * (size or 1) + ends[side] for side, size in zip(sides, sizes, strict=True)
    )
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]


def show_table(title: str, columns: str, rows: Iterable[Sequence[str]]) -> None:
    print("", title, "", *rows_table(columns, rows, padded=True), sep="\n")


def show(report: Json) -> None:
    many = report["runs"] > 1
    rows = []
    for name, value in report["figures"].items():
        values = [run[name] for run in report["each"] if run.get(name) is not None]
        if many:
            ends = [shown(name, end(values)) if values else "–" for end in (min, max)]
        else:
            ends = []
        rows.append((figure(name).label, shown(name, value), *ends))
    if many:
        columns = f"figure|>median of {report['runs']}|>from|>to"
    else:
        columns = "figure|>value"
    show_table(report.get("title") or report["command"], columns, rows)
    print(origin_line(report))
    if report.get("attacks"):
        columns = (
            "request|>loop held|>memory grew|>and stayed|>dropped|>tries|answers|good"
        )
        show_table(
            "requests of strangers and users, the worst first",
            columns,
            map(_attack_cells, report["attacks"]),
        )
        print(f"The worst request: {report['worst']}")
        for name in report["unproved"]:
            print(f"REFUSED, so it proves nothing: {name}")
    if report.get("stopped"):
        print(f"STOPPED: {report['stopped']}")
    if report["faults"]:
        print("NOT GOOD: " + ", ".join(figure(name).label for name in report["faults"]))


_ATTACK_FIGURES = "hold_ms", "growth_mb", "residue_mb", "dropped"


def _attack_cells(row: Json) -> list[str]:
    numbers = [shown(name, row[name]) for name in _ATTACK_FIGURES]
    answers = (
        ", ".join(f"{count} {what}" for what, count in row["counts"].items())
        or row["answer"]
    )
    return [
        row["name"],
        *numbers,
        str(row["tries"]),
        answers,
        "NO" if row["over"] else "yes",
    ]


def show_versus(rows: Iterable[Json]) -> None:
    """Print the comparison of this tree with another: a table per command, with
    costs marked."""
    columns = "figure|>this|>other|>ratio|>pair by pair|>good"
    for command, figures in groupby(rows, key=lambda row: row["command"]):
        show_table(
            f"{command}: this tree against the other",
            columns,
            map(_versus_cells, figures),
        )


def _versus_cells(row: Json) -> list[str]:
    name = row["figure"]
    pairs = " ".join(f"{each:.2f}" for each in row["ratios"])
    if row["over"]:
        good = "NO"
    elif row["cost"]:
        good = "yes"
    else:
        good = ""
    if row["ratio"] is None:
        ratio = "–"
    else:
        ratio = f"{row['ratio']:.3f}"
    return [
        figure(name).label,
        shown(name, row["ours"]),
        shown(name, row["theirs"]),
        ratio,
        pairs,
        good,
    ]


def bar_cells(bar: Json) -> list[str]:
    name = bar["figure"]
    sign = "≥" if bar["at_least"] else "≤"
    return [
        bar["title"],
        bar["label"] + (" (from CPU)" if bar["derived"] else ""),
        shown(name, bar["value"]),
        f"{sign} {shown(name, bar['bar'])}",
        "yes" if bar["met"] else "NO",
    ]
