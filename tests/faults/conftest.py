"""Fixtures of the fault tests: clusters that a test may break, and traffic."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.clusters import Launch, Nodes, nodes_of
from tests.support import merged

from .traffic import Traffic


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """``cluster(number, section={…}, …)``: a cluster for this test alone, with
    the four usual apps."""
    with ExitStack() as stack:

        def start(number: int, **config: Any) -> Nodes:
            usual = {
                "apps": {str(app): {} for app in (101, 102, 103, 104)},
                "cluster": {"redis_seconds": 0.5, "rpc_seconds": 1},
            }
            folder = tmp_path_factory.mktemp("cluster")
            return stack.enter_context(
                nodes_of(folder, number, **merged(usual, config))
            )

        yield start


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """People and back ends; all gone before the servers stop."""
    with Traffic() as one:
        yield one
