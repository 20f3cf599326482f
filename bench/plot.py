"""The plot of a million: connections, memory, CPU and network over time, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import pairwise
from math import ceil, floor, log10

from bench.loop import Json

WIDTH, HEIGHT, LEFT, TOP = 810, 130, 70, 46
STEP = HEIGHT + 34
"""Distance between the tops of two panels."""
COLOURS = ("#1f6feb", "#d1570b", "#1a7f37", "#8250df") * 2
STYLE = """text{font:11px sans-serif;fill:#57606a}.end{text-anchor:end}.title{font-size:14px;fill:#1f2328}
path{fill:none;stroke-width:.7;stroke:#d0d7de}.mark{stroke:#8c959f;stroke-dasharray:2,3}
polyline{fill:none;stroke-width:1.4}"""
Points = list[tuple[float, float]]


def panels(series: Json) -> dict[str, dict[str, Points]]:
    """Return the panels of a sampler's ``series``: titles with units, and lines by name."""
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


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def svg(title: str, series: Json) -> str:
    """Return the plot of a sampler's ``series`` with the marks of its phases."""
    shown = panels(series)
    begin = series["samples"][0]["at"]
    seconds = max(series["samples"][-1]["at"] - begin, 1.0)
    scale = WIDTH / seconds
    bottom = TOP + len(shown) * STEP
    size = f'viewBox="0 0 {WIDTH + LEFT + 20} {bottom + 40}" width="{WIDTH + LEFT + 20}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(LEFT, 20, title, "title"),
    ]
    for index, (name, lines) in enumerate(shown.items()):
        parts += _panel(name, lines, TOP + index * STEP, scale)
    free = 0.0
    for at, text in series["marks"]:  # a line at the start of each phase; its name if there is room
        x = LEFT + (at - begin) * scale
        parts.append(f'<path class="mark" d="M{x:.1f} {TOP - 14}V{bottom - 34}"/>')
        if x >= free and text != "end":
            parts.append(_text(x + 3, bottom, text))
            free = x + 12 + 6.0 * len(text)
    every = max(1, round(seconds / 720))
    for minute in range(0, int(seconds / 60) + 1, every):
        parts.append(_text(LEFT + minute * 60 * scale, bottom - 16, f"{minute} min"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, lines: dict[str, Points], y: float, scale: float) -> list[str]:
    most = max((value for line in lines.values() for _at, value in line), default=1.0) or 1.0
    step = 10.0 ** floor(log10(most))
    top = step * ceil(most / step)
    parts = [_text(LEFT, y - 6, title)]
    for share in (0.0, 0.5, 1.0):
        at = y + HEIGHT * (1 - share)
        parts += [f'<path d="M{LEFT} {at}h{WIDTH}"/>', _text(LEFT - 6, at + 4, f"{top * share:,g}", "end")]
    for colour, points in zip(COLOURS, lines.values(), strict=False):
        way = " ".join(
            f"{LEFT + at * scale:.1f},{y + HEIGHT * (1 - value / top):.1f}" for at, value in points
        )
        parts.append(f'<polyline points="{way}" stroke="{colour}"/>')
    names = (
        f'<tspan style="fill:{colour}"> {escape(name)}</tspan>'
        for colour, name in zip(COLOURS, lines, strict=False)
    )
    return [*parts, f'<text x="{LEFT + WIDTH}" y="{y - 6}" class="end">{"".join(names)}</text>']
