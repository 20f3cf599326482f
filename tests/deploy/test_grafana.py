"""deploy/grafana.json: the board shows every metric, under its own name, and as what it is."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from imserver.gateway.metric_table import Metric
from tests.rows import METRICS
from tests.support import ROOT

BOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]
BY_NAME = {metric.name: metric for metric in METRICS}
ANNOTATIONS = [note["expr"] for note in BOARD["annotations"]["list"]]
UNITS = {
    "seconds": {"s", "percentunit"},
    "bytes": {"bytes", "Bps"},
    "": {"short", "ops", "none", "percentunit"},
}
_NAME = re.compile(r"\b(?:imserver|process)_[a-z_]+\b")


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def everything() -> Iterator[str]:
    yield from ANNOTATIONS
    for panel in CHARTS:
        yield from expressions(panel)


def used(expression: str) -> Iterator[tuple[Metric, str]]:
    """The metrics in an expression, each with the suffix of the series."""
    for name in _NAME.findall(expression):
        base = re.sub("_(bucket|sum|count)$", "", name)
        assert base in BY_NAME, f"{expression}: no such metric"
        yield BY_NAME[base], name.removeprefix(base)


def test_every_metric_is_shown_and_nothing_else() -> None:
    shown = {metric.name for expression in everything() for metric, _ in used(expression)}
    assert shown == set(BY_NAME)


@pytest.mark.parametrize("expression", sorted(set(everything())))
def test_an_expression_reads_each_metric_as_what_it_is(expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    for metric, suffix in used(expression):
        read = re.search(rf"(\w*)\(?{metric.name}{suffix}(\{{[^}}]*\}})(\[[^]]+\])?", expression)
        assert read, expression
        function, chosen, window = read.groups()
        assert chosen == '{node=~"$node"}', "the chosen nodes only"
        assert suffix == ("_bucket" if metric.kind == "histogram" else "")
        assert (window is not None) == (function in ("rate", "increase", "changes"))
        assert (metric.kind != "gauge") == (function in ("rate", "increase")), expression
        if metric.kind == "histogram":
            assert "histogram_quantile" in expression
            assert re.search(r"by \(le\b", expression)
    for label in re.findall(r"by \(([^)]*)\)", expression):
        known = {"node", "le"}.union(*(metric.label.split() for metric, _ in used(expression)))
        assert set(label.split(", ")) <= known, expression


@pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: panel["title"])
def test_a_panel_has_the_unit_of_what_it_shows(panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for expression in expressions(panel):
        for metric, _ in used(expression):
            assert unit in UNITS[metric.unit], f"{metric.name} as {unit}"
            if metric.kind == "counter" and metric.unit == "seconds":
                assert unit == "percentunit"  # seconds a second
