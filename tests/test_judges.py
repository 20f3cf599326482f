"""``make judges``: a row says what its run has said, and turns red by
itself."""

import json
import re
from pathlib import Path

import pytest

from tools import judges

EMPTY = f"# Judges\n\nWritten by hand.\n\n{judges.BEGIN}"
GOOD = """
def test_a(record_property):
    record_property("exception", "case 7: not here")
    record_property("checks", 30)
def test_b(): pass
"""
MODULES = {
    "good": GOOD,
    "bad": "def test_a(): pass\ndef test_b(): assert False",
    "absent": "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('no browser')",
    "broken": "import a_module_that_is_not_there",
    "empty": "",
}
COMMANDS = {
    "good command": "echo exception: case 8; echo 5 of 5 cases good, 12 s",
    "bad command": "echo 4 of 5 cases good; exit 1",
    "absent command": "echo it needs Python 2.7; exit 2",
}
RESULTS = {
    "good": "🟢 passed: 2 of 2, with 30 of its own | case 7: not here",
    "bad": "🔴 failed: 1 of 2: `test_b` |",
    "absent": "⚪ not run: 1 of 2 left out: no browser |",
    "broken": "🔴 failed: 1 of 1",
    "empty": "🔴 failed: exit status 5 |",
    "good command": "🟢 passed: 5 of 5 | case 8",
    "bad command": "🔴 failed: 4 of 5 |",
    "absent command": "⚪ not run: it needs Python 2.7 |",
}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_says_what_its_run_has_said(tmp_path: Path) -> None:
    runs = {
        name: [str(written(tmp_path, f"test_{name}.py", text))]
        for name, text in MODULES.items()
    }
    runs |= {name: ["sh", "-c", text] for name, text in COMMANDS.items()}
    rows = [
        f'[[judge]]\nname = "{name}"\nwhat = "all"\npackages = ["pypi:pytest"]\nrun = {json.dumps(run)}'
        for name, run in runs.items()
    ]
    table = written(tmp_path, "judges.toml", "\n".join(rows))
    page = written(tmp_path, "judges.md", EMPTY)
    assert judges.main(page=page, table=table) == 1
    first = page.read_text("utf-8")
    assert first.startswith(EMPTY)
    lines = judges.lines_of(first)
    pytest_version = judges.version_of("pypi:pytest")
    assert list(lines) == list(RESULTS)
    assert {
        name: text
        for name, text in RESULTS.items()
        if f" | {pytest_version} | {text}" not in lines[name]
    } == {}
    assert judges.main("good", "absent", "bad command", page=page, table=table) == 1
    assert page.read_text("utf-8") == first, "two runs of a day make the same page"
    written(tmp_path, "test_bad.py", "def test_a(): pass")
    assert judges.main("bad", page=page, table=table) == 0
    mended = judges.lines_of(page.read_text("utf-8"))
    assert "🟢 passed: 1 of 1" in mended.pop("bad")
    assert mended.items() <= lines.items()
    assert judges.main("unknown", page=page, table=table) == 2


@pytest.mark.needs("promtool")
def test_a_judge_that_refuses_turns_its_row_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = written(
        tmp_path, "promtool", "#!/bin/sh\necho promtool, version 9.9.9\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    page = written(tmp_path, "judges.md", EMPTY)
    assert judges.main("promtool", page=page) == 1
    assert (
        "| promtool 9.9.9 | 🔴 failed: 1 of 1: `test_each_alert_fires"
        in page.read_text("utf-8")
    )


def test_the_page_names_each_judge_in_the_version_that_is_pinned() -> None:
    lines = judges.lines_of(judges.PAGE.read_text("utf-8"))
    rows = judges.read_judges()
    assert list(lines) == [judge.name for judge in rows]
    for judge in rows:
        assert (judges.ROOT / judge.run[0].partition("::")[0]).exists(), judge
        cells = re.split(r" \| |<br>", lines[judge.name])
        pinned = [
            judges.version_of(each)
            for each in judge.packages
            if not each.startswith("program:")
        ]
        assert [*filter(cells.__contains__, pinned)] == pinned, (
            f'make judges ARGS="{judge.name}"'
        )
