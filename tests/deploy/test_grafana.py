"""deploy/grafana.json: the board shows every metric, under its own name, and as what it is."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
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


@pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: panel["title"])
def test_a_legend_names_labels_that_are_left(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            summed = "sum(" in target["expr"]
            assert any(label in each.split(", ") for each in grouped) or (not grouped and not summed)


def test_panels_lie_side_by_side_and_none_over_another() -> None:
    boxes = [panel["gridPos"] for panel in PANELS]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in combinations(boxes, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)
    lines: dict[int, int] = {}
    for box in boxes:
        lines[box["y"]] = lines.get(box["y"], 0) + box["w"]
    assert set(lines.values()) == {24}


def test_panels_are_distinguished() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for panel in CHARTS:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)


def test_the_board_asks_the_data_source_that_is_chosen() -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "node"}
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["node"]["datasource"] == wanted
    (metric,) = [metric for metric, _ in used(variables["node"]["definition"])]
    assert metric.name == "imserver_node_up"
    for panel in CHARTS:
        assert panel["datasource"] == wanted
        assert all(target["datasource"] == wanted for target in panel["targets"])
