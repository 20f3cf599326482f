"""Counters: all of them begin at nothing, and somebody raises each."""

import re
from pathlib import Path

import pytest

import imserver
from imserver.metrics import Metrics

SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted(Path(imserver.__file__).parent.rglob("*.py"))
    if path.name != "metrics.py"
)


def test_a_new_node_has_counted_nothing() -> None:
    assert all(not value for value in Metrics().snapshot().values())


@pytest.mark.parametrize("name", [name for name in Metrics.__slots__ if name != "closes"])
def test_every_counter_is_raised_somewhere(name: str) -> None:
    assert re.search(rf"metrics\.{name} (\+=|=) ", SOURCE)


def test_closes_are_counted_by_code() -> None:
    metrics = Metrics()
    for code in (1000, 1006, 1000):
        metrics.closed(code)
    assert metrics.closes == {1000: 2, 1006: 1}


def test_a_snapshot_stays_as_it_was() -> None:
    metrics = Metrics()
    metrics.closed(1000)
    metrics.logins += 1
    snapshot = metrics.snapshot()
    metrics.closed(1000)
    metrics.logins += 1
    assert set(snapshot) == set(Metrics.__slots__)
    assert (snapshot["closes"], snapshot["logins"]) == ({1000: 1}, 1)


def test_a_counter_that_does_not_exist_cannot_be_raised() -> None:
    with pytest.raises(AttributeError):
        Metrics().no_such_counter = 1  # type: ignore[attr-defined]
