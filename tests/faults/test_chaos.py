"""Chaos in short: everything breaks under a chat, on each engine. The long form
is a command."""

import json
import shutil

import pytest

from bench.faults import FAULTS
from tests.bench.play import run
from tests.tools import require

pytestmark = pytest.mark.linux

SHORT = (
    "--minutes",
    "0.05",
    "--longest",
    "1.2",
    "--rest",
    "0.6",
    "--clients",
    "12",
    "--json",
)
"""Each fault once."""
OF_DATABASE = (
    "database,pause_database,database_ahead,database_behind,hang,no_database,stall"
)
OF_CLOCKS = "ahead,behind,drift"


@pytest.mark.parametrize(
    ("database", "faults"),
    [
        pytest.param(
            "sqlite",
            "kill,restart,pause,redis,receiver,cut,deaf,stall",
            marks=pytest.mark.ci,
        ),
        ("sqlite", ""),
        ("postgresql", f"{OF_DATABASE},{OF_CLOCKS}"),
        ("mysql", f"{OF_DATABASE},{OF_CLOCKS}"),
    ],
)
def test_nothing_that_was_acknowledged_is_lost_or_comes_out_of_order(
    database: str, faults: str
) -> None:
    if database == "mysql":
        require("mariadbd", "mysqld")  # nothing on PyPI brings one
    more = ("--webhook", "--notifications")
    result = run("chaos", "--database", database, "--faults", faults, *SHORT, *more)
    assert result.stdout, result.output
    found = json.loads(result.stdout)
    figures = found["figures"]
    notes = found["notes"]
    received = f"seed {notes['seed']}: {figures['acknowledged']} acknowledged of {figures['messages']}"
    assert found["faults"] == {}, f"{received}; {json.dumps([found['faults'], notes])}"
    assert result.exit_code == 0
    assert notes["calm"]
    assert figures["acknowledged"] == figures["messages"] > 50
    assert figures["events"] >= figures["messages"], (
        "and the receiver has got all of them"
    )
    assert figures["notified"] > 0, "and some absent users were notified"
    assert figures["judged"] > figures["messages"], (
        "and the checker has read what everybody saw"
    )
    played = {each["fault"] for each in notes["rounds"]}
    assert played | set(notes["skipped"]) == (
        set(faults.split(",")) if faults else set(FAULTS)
    )
    if shutil.which("cc") and shutil.which("faketime"):
        impossible = {*f"{OF_DATABASE},{OF_CLOCKS}".split(",")} - {"stall"}
        assert set(notes["skipped"]) == (impossible if not faults else set())


@pytest.mark.parametrize("more", [pytest.param((), marks=pytest.mark.ci), ("--alone",)])
def test_subscribers_of_channels_miss_nothing_without_notice(
    more: tuple[str, ...],
) -> None:
    result = run("chaos", "--channels", *SHORT, *more)
    found = json.loads(result.stdout or result.output)
    figures = found["figures"]
    notes = found["notes"]
    assert found["faults"] == {}, json.dumps([figures, notes])
    assert notes["calm"]
    assert figures["acknowledged"] == figures["publications"] > 20
    # Which of the two depends on the fault: who loses a connection comes back
    # by one of them.
    assert figures["recoveries"] + figures["reloads"] > 0
