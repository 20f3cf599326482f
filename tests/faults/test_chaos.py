"""Chaos in short: everything breaks under a chat, on each engine. The long form is a command."""

import json

import pytest

from tests.bench.play import run
from tests.tools import require

from .conftest import Report

pytestmark = [pytest.mark.timeout(120), pytest.mark.linux]

SHORT = ("--longest", "1.5", "--rest", "0.6", "--clients", "16")


@pytest.mark.parametrize(
    ("database", "minutes", "faults"),
    [("sqlite", 0.3, ""), ("postgresql", 0.08, "database,stall"), ("mysql", 0.08, "database,stall")],
)
def test_nothing_that_was_acknowledged_is_lost_or_comes_out_of_order(
    database: str, minutes: float, faults: str, report: Report
) -> None:
    if database == "mysql":
        require("mariadbd", "mysqld")  # nothing on PyPI brings one
    arguments = ("--minutes", str(minutes), "--database", database, "--faults", faults)
    result = run("chaos", *arguments, *SHORT, "--json")
    assert result.stdout, result.output
    (found,) = json.loads(result.stdout)["reports"]
    figures, notes = found["figures"], found["notes"]
    told = f"seed {notes['seed']}: {figures['acknowledged']} acknowledged of {figures['messages']}"
    report(f"{told}; {figures['chaos_faults']} faults; {figures['raw_repeats']} repeats dropped by id")
    assert found["faults"] == {}, (told, found["faults"], notes)
    assert result.exit_code == 0
    assert notes["calm"]
    assert figures["chaos_faults"] >= 2
    assert figures["acknowledged"] == figures["messages"] > 50
