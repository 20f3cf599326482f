"""deploy/grafana.json: the board shows every metric, under its own name, and as
what it is.

deploy/alerts.yaml: each alert reads metrics that exist, fires when it should,
and says what to do.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.gateway.metric_table import Metric
from imserver.plugin.commands import read_yaml
from tests.docs.markdown import anchors
from tests.rows import METRICS
from tests.support import ROOT
from tests.tools import require

BOARD: dict[str, Any] = json.loads(
    (ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8")
)
CHARTS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
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
    shown = {
        metric.name for expression in everything() for metric, _ in used(expression)
    }
    assert shown == set(BY_NAME)


@pytest.mark.parametrize("expression", sorted(set(everything())))
def test_an_expression_reads_each_metric_as_what_it_is(expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    for metric, suffix in used(expression):
        read = re.search(
            rf"(\w*)\(?{metric.name}{suffix}(\{{[^}}]*\}})(\[[^]]+\])?", expression
        )
        assert read, expression
        function, chosen, window = read.groups()
        assert chosen == '{node=~"$node"}', "the chosen nodes only"
        assert suffix == ("_bucket" if metric.kind == "histogram" else "")
        assert (window is not None) == (function in ("rate", "increase", "changes"))
        assert (metric.kind != "gauge") == (function in ("rate", "increase")), (
            expression
        )
        if metric.kind == "histogram":
            assert "histogram_quantile" in expression
            assert re.search(r"by \(le\b", expression)
    for label in re.findall(r"by \(([^)]*)\)", expression):
        known = {"node", "le"}.union(
            *(metric.label.split() for metric, _ in used(expression))
        )
        assert set(label.split(", ")) <= known, expression


@pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: panel["title"])
def test_a_panel_has_the_unit_of_what_it_shows(panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for expression in expressions(panel):
        for metric, _ in used(expression):
            assert unit in UNITS[metric.unit], f"{metric.name} as {unit}"
            if metric.kind == "counter" and metric.unit == "seconds":
                assert unit == "percentunit"  # seconds a second


# --- alerts -------------------------------------------------------------------


RULES = ROOT / "deploy" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts.yaml")


def alerts() -> list[dict[str, Any]]:
    groups = read_yaml(RULES.read_text(encoding="utf-8"), str(RULES))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.needs("promtool")
def test_each_alert_fires_for_what_is_wrong_and_for_nothing_else(
    tmp_path: Path,
) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        CASES.read_text(encoding="utf-8").replace("RULES", str(RULES)), encoding="utf-8"
    )
    for arguments in (("check", "rules", str(RULES)), ("test", "rules", str(cases))):
        done = subprocess.run(
            [require("promtool"), *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case() -> None:
    tried = re.findall(r'alertname="(\w+)"', CASES.read_text(encoding="utf-8"))
    assert sorted(set(tried)) == sorted(rule["alert"] for rule in alerts())


def test_each_alert_reads_metrics_that_exist_as_what_they_are() -> None:
    for rule in alerts():
        metrics = list(used(rule["expr"]))
        assert metrics, rule
        for metric, _ in metrics:
            is_read_as_counter = (
                re.search(rf"(rate|increase)\({metric.name}", rule["expr"]) is not None
            )
            assert is_read_as_counter == (metric.kind != "gauge"), rule["expr"]


def test_each_alert_leads_to_a_line_that_says_what_to_do() -> None:
    known = anchors(ROOT / "docs" / "operations.md")
    for rule in alerts():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == (
            "{{ $externalLabels.docs_url }}/operations/",
            rule["alert"].lower(),
        )
        assert anchor in known, rule["alert"]
