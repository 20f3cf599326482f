"""Comparing two source trees pair by pair."""

import json
from typing import Any

import pytest

from bench import versus
from bench.loop import BenchError
from tests.bench.play import run
from tests.support import ROOT

REPORTS = {"cpu_us": (11.0, 10.0), "generator_cpu_us": (9.0, 1.0), "lost": (0.0, 0.0), "p99_ms": (2.0, None)}


@pytest.fixture
def tools() -> list[Any]:
    return []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tools: list[Any]) -> list[tuple[Any, str]]:
    runs: list[tuple[Any, str]] = []

    def measure(tree: Any, command: str, tool: Any) -> dict[str, Any]:
        runs.append((tree, command))
        tools.append(tool)
        return {"figures": {name: pair[tree != ROOT] for name, pair in REPORTS.items()}}

    monkeypatch.setattr(versus, "measure", measure)
    return runs


def test_pairs_alternate_and_a_dearer_unit_fails(calls: list[tuple[Any, str]], tmp_path: Any) -> None:
    result = run("versus", "--pairs", "2", "--json", str(tmp_path), "push", "--v1", "--keyed")
    assert calls == [(ROOT, "push --v1 --keyed"), (tmp_path, "push --v1 --keyed")] * 2
    rows = {row["figure"]: row for row in json.loads(result.stdout)["rows"]}
    assert set(rows) == {"cpu_us", "generator_cpu_us", "lost"}
    assert rows["cpu_us"]["ratio"] == pytest.approx(1.1)
    assert [name for name, row in rows.items() if row["over"]] == ["cpu_us"]
    assert result.exit_code == 1


def test_each_tree_has_its_tool_or_both_have_one(
    calls: list[tuple[Any, str]], tools: list[Any], tmp_path: Any
) -> None:
    run("versus", "--pairs", "1", str(tmp_path), "idle")
    run("versus", "--pairs", "1", "--one-tool", str(tmp_path), "idle")
    assert [tree for tree, _command in calls] == [ROOT, tmp_path] * 2
    assert tools == [ROOT, tmp_path, ROOT, ROOT]


@pytest.mark.linux
def test_the_tool_of_this_tree_starts_the_server_of_another(tmp_path: Any) -> None:
    (tmp_path / "imserver").mkdir()
    (tmp_path / "imserver" / "__init__.py").touch()
    (tmp_path / "imserver" / "__main__.py").write_text("raise SystemExit('the server of another tree')")
    with pytest.raises(BenchError, match="the server of another tree"):
        versus.measure(tmp_path, "idle --connections 1", ROOT)


def test_a_suite_is_compared_row_by_row(calls: list[tuple[Any, str]], tmp_path: Any) -> None:
    run("versus", "--pairs", "1", str(tmp_path), "all")
    assert [command for _tree, command in calls][:4] == [calls[0][1]] * 2 + [calls[2][1]] * 2
