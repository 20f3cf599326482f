"""Write what documents repeat of the code: the table of metrics, and the
settings that a signal reads again. The board of Grafana gets a chart for each
metric that it lacks.

``python -m tools.tables``
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from imserver.gateway.assets import DEFAULT_CONFIG
from imserver.gateway.config.settings import Config
from imserver.gateway.metric_table import METRICS, Metric
from imserver.gateway.node.feature_list import load_core, load_features

ROOT: Final = Path(__file__).resolve().parent.parent
METRICS_PAGE: Final = ROOT / "docs" / "reference" / "metrics.md"
OPERATIONS_PAGE: Final = ROOT / "docs" / "operations.md"
BOARD: Final = ROOT / "deploy" / "grafana.json"

_CHART_ROWS: Final = 8
_CHART_COLUMNS: Final = 12
"""Size of a chart; the board has 24 columns."""
_RELOADED: Final = re.compile(r"SIGHUP reads again: .*?\. All other", re.DOTALL)
_LINE_CHARACTERS: Final = 140


def metric_cells(metric: Metric) -> tuple[str, str, str]:
    """The cells of a metric in the table of metrics."""
    labels = " and ".join(f"`{label}`" for label in metric.label.split())
    if labels:
        name = f"`{metric.name}` by {labels}"
    else:
        name = f"`{metric.name}`"
    return name, metric.kind, metric.help


def with_table(page: str, head: str, rows: Iterable[Sequence[str]]) -> str:
    """A page whose table with this head has these rows."""
    begin = page.index(f"{head}\n")
    body = page.index("\n", page.index("\n", begin) + 1) + 1
    if "\n\n" in page[body:]:
        end = page.index("\n\n", body) + 1
    else:
        end = len(page)
    lines = [f"| {' | '.join(cells)} |\n" for cells in rows]
    return page[:body] + "".join(lines) + page[end:]


def reloaded_settings() -> list[str]:
    """The settings that SIGHUP reads again: those below a mark ``(reload)`` in
    the manual of the settings file."""
    names = []
    section = ""
    is_marked = False
    for line in DEFAULT_CONFIG.read_text(encoding="utf-8").splitlines():
        title = re.match(r"(\w+):", line)
        if title:
            section = title[1]
        elif "# (reload)" in line and section:
            is_marked = True
        elif is_marked and (key := re.match(r"  (\w+):", line)):
            names.append(f"{section}.{key[1]}")
            is_marked = False
    return names


def chart_of(metric: Metric, number: int, top: int) -> dict[str, Any]:
    """A chart of a metric on the board."""
    by = ", ".join(["node", *metric.label.split()])
    series = f'{metric.name}{{node=~"$node"}}'
    if metric.kind == "histogram":
        buckets = f'rate({metric.name}_bucket{{node=~"$node"}}[$__rate_interval])'
        expression = f"histogram_quantile(0.99, sum by (le) ({buckets}))"
    elif metric.kind == "counter":
        expression = f"sum by ({by}) (rate({series}[$__rate_interval]))"
    else:
        expression = f"sum by ({by}) ({series})"

    is_counter = metric.kind == "counter"
    units = {
        "seconds": "percentunit" if is_counter else "s",
        "bytes": "Bps" if is_counter else "bytes",
        "": "ops" if is_counter else "short",
    }
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": metric.help,
        "datasource": source,
        "gridPos": {"h": _CHART_ROWS, "w": _CHART_COLUMNS, "x": 0, "y": top},
        "targets": [{"refId": "A", "datasource": source, "expr": expression}],
        "fieldConfig": {
            "defaults": {"unit": units[metric.unit]},
            "overrides": [],
        },
    }


def with_charts(board: dict[str, Any], metrics: Iterable[Metric]) -> dict[str, Any]:
    """The board, with a chart at its end for each metric that it does not
    show."""
    shown = json.dumps(board)
    panels = list(board["panels"])
    for metric in metrics:
        if re.search(rf"\b{metric.name}(_bucket)?\b", shown):
            continue
        number = max(panel["id"] for panel in panels) + 1
        positions = [panel["gridPos"] for panel in panels]
        top = max(position["y"] + position["h"] for position in positions)
        panels.append(chart_of(metric, number, top))
    return {**board, "panels": panels}


def with_reloaded_settings(page: str) -> str:
    """The page, with the list of the settings that SIGHUP reads again."""
    names = ", ".join(f"`{name}`" for name in reloaded_settings())
    text = (
        f"SIGHUP reads again: the section `apps`, {names}. No connection is dropped. If "
        "the file has an error, nothing changes, and the log says why. All other"
    )
    lines = textwrap.wrap(text, _LINE_CHARACTERS, break_on_hyphens=False)
    return _RELOADED.sub(lambda _: "\n".join(lines), page)


def all_metrics() -> list[Metric]:
    """The metrics of the core, then those of the features."""
    features = (*load_core(), *load_features(Config()))
    of_features = (row for feature in features for row in feature.metrics())
    return [*METRICS, *of_features]


def main() -> None:
    """Write the files."""
    metrics = all_metrics()

    page = METRICS_PAGE.read_text(encoding="utf-8")
    cells = map(metric_cells, metrics)
    page = with_table(page, "| metric | kind | meaning |", cells)
    METRICS_PAGE.write_text(page, encoding="utf-8")

    page = OPERATIONS_PAGE.read_text(encoding="utf-8")
    OPERATIONS_PAGE.write_text(with_reloaded_settings(page), encoding="utf-8")

    board = with_charts(json.loads(BOARD.read_text(encoding="utf-8")), metrics)
    BOARD.write_text(
        json.dumps(board, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
