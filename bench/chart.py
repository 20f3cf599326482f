"""The plot of a million: a few panels over one time axis, written as SVG by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT = 900, 70, 20
PANEL, GAP, TOP, BOTTOM = 130, 34, 46, 40
COLOURS = ("#1f6feb", "#d1570b", "#1a7f37", "#8250df")
TEXT = 'font-family="sans-serif" font-size="11" fill="#57606a"'

TITLE = 'font-family="sans-serif" font-size="14" fill="#1f2328"'

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One panel: its title with the unit, and its lines by name."""

    title: str
    lines: dict[str, Points]

    def top(self) -> float:
        """Return a round number that no point exceeds."""
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
        f'<text x="{LEFT}" y="20" {TITLE}>{escape(title)}</text>',
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
