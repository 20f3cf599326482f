"""Chaos in short: everything breaks under a chat, on each engine. The long form is a command."""

import json
import shutil

import pytest

from bench.chaos import FAULTS
from tests.bench.play import run
from tests.tools import require

from .conftest import Report

pytestmark = [pytest.mark.timeout(120), pytest.mark.linux]

SHORT = ("--minutes", "0.05", "--longest", "1.2", "--rest", "0.6", "--clients", "16")
"""Each fault once."""


@pytest.mark.parametrize(
    ("database", "faults"), [("sqlite", ""), ("postgresql", "database,stall"), ("mysql", "database,stall")]
)
def test_nothing_that_was_acknowledged_is_lost_or_comes_out_of_order(
    database: str, faults: str, report: Report
) -> None:
    if database == "mysql":
        require("mariadbd", "mysqld")  # nothing on PyPI brings one
    result = run("chaos", "--database", database, "--faults", faults, *SHORT, "--json")
    assert result.stdout, result.output
    found = json.loads(result.stdout)
    figures, notes = found["figures"], found["notes"]
    told = f"seed {notes['seed']}: {figures['acknowledged']} acknowledged of {figures['messages']}"
    report(f"{told}; {figures['chaos_faults']} faults; {figures['raw_repeats']} repeats dropped by id")
    assert found["faults"] == {}, (told, found["faults"], notes)
    assert result.exit_code == 0
    assert notes["calm"]
    assert figures["acknowledged"] == figures["messages"] > 50
    played = {each["fault"] for each in notes["rounds"]}
    if shutil.which("cc"):
        assert played == (set(faults.split(",")) if faults else set(FAULTS) - {"database"})
