"""Fixtures of the fault tests: clusters that a test may break, traffic, and a report of what was lost."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.clusters import Launch, Nodes, nodes_of
from tests.support import merged

from .traffic import Traffic

_REPORTS = pytest.StashKey[list[str]]()

Report = Callable[[object], None]
"""``report(text)``: a line under the results of the run."""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """``cluster(number, section={…}, …)``: a cluster for this test alone, with the four usual apps."""
    with ExitStack() as stack:

        def start(number: int, **config: Any) -> Nodes:
            usual = {
                "apps": {str(app): {} for app in (101, 102, 103, 104)},
                "cluster": {"redis_seconds": 0.5, "rpc_seconds": 1},
            }
            folder = tmp_path_factory.mktemp("cluster")
            return stack.enter_context(nodes_of(folder, number, **merged(usual, config)))

        yield start


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """People and back ends; all gone before the servers stop."""
    with Traffic() as one:
        yield one


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """What a test has counted is told at the end of the run, whether it passed or not."""
    reports = request.config.stash.setdefault(_REPORTS, [])
    return lambda text: reports.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was counted."""
    reports = terminalreporter.config.stash.get(_REPORTS, [])
    if reports:
        terminalreporter.section("what was lost")
        for line in reports:
            terminalreporter.write_line(line)
