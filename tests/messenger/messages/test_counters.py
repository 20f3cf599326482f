"""The counters of a node: the gateway or the messenger raises each."""

import re
from pathlib import Path

import pytest

import imserver
from imserver.gateway.metrics import Metrics

SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted(Path(imserver.__file__).parent.rglob("*.py"))
    if path.name != "metrics.py"
)
OWN = ("batch_", "closes", "collections", "collector_", "denials", "loop_lag")
"""What has a method of its own."""


@pytest.mark.parametrize("name", [name for name in Metrics.__slots__ if not name.startswith(OWN)])
def test_every_counter_is_raised_somewhere(name: str) -> None:
    assert re.search(rf"metrics\.{name}((\[\w+\])? (\+=|=) |\.add\b)", SOURCE)


@pytest.mark.parametrize("method", ["batched", "closed", "lagged", "login_refused", "watch_collector"])
def test_every_method_that_counts_is_called_somewhere(method: str) -> None:
    assert re.search(rf"metrics\.{method}\(", SOURCE)
