"""deploy/alerts.yaml: each alert reads metrics that exist, fires when it should, and says what to do."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from imserver.plugin.commands import read_yaml
from tests.deploy.test_grafana import used
from tests.docs.markdown import anchors
from tests.support import ROOT
from tests.tools import require

RULES = ROOT / "deploy" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts.yaml")


def alerts() -> list[dict[str, Any]]:
    groups = read_yaml(RULES.read_text(encoding="utf-8"), str(RULES))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.needs("promtool")
def test_each_alert_fires_for_what_is_wrong_and_for_nothing_else(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES.read_text(encoding="utf-8").replace("RULES", str(RULES)), encoding="utf-8")
    for arguments in (("check", "rules", str(RULES)), ("test", "rules", str(cases))):
        done = subprocess.run(
            [require("promtool"), *arguments], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case() -> None:
    tried = re.findall(r'alertname="(\w+)"', CASES.read_text(encoding="utf-8"))
    assert sorted(tried) == sorted(rule["alert"] for rule in alerts())


def test_each_alert_reads_metrics_that_exist_as_what_they_are() -> None:
    for rule in alerts():
        metrics = list(used(rule["expr"]))
        assert metrics, rule
        for metric, _ in metrics:
            is_read_as_counter = re.search(rf"(rate|increase)\({metric.name}", rule["expr"]) is not None
            assert is_read_as_counter == (metric.kind != "gauge"), rule["expr"]


def test_each_alert_leads_to_a_line_that_says_what_to_do() -> None:
    known = anchors(ROOT / "docs" / "operations.md")
    for rule in alerts():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor) == ("{{ $externalLabels.docs_url }}/operations/", rule["alert"].lower())
        assert anchor in known, rule["alert"]
