"""Nodes that answer the API."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from imserver.gateway.config.settings import Config
from tests.gateway.api.api_node import ApiNode

StartNode = Callable[..., ApiNode]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """``start_node(config)``: a node. 马远 is online in the apps 101 and 102, 黄帝
    in 101."""
    nodes = list[ApiNode]()
    numbers = count()

    def start(config: Config | None = None) -> ApiNode:
        nodes.append(one := ApiNode(tmp_path / str(next(numbers)), config))
        for app, users in (
            ("101", ("马远", "黄帝")),
            ("102", ("马远",)),
            ("default", ("named",)),
        ):
            if app in one.core.hub.apps:
                one.begin(app, *users)
        return one

    yield start
    for one in nodes:
        one.close()


@pytest.fixture
def node(start_node: StartNode) -> ApiNode:
    """One in demo mode."""
    return start_node()
