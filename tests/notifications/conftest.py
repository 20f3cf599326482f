"""Nodes that notify, with short pauses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.backends.webhooks import consumer
from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.notifications import notifier
from tests.notifications.notifying import NotifyingNode, StartNode


@pytest.fixture
def quick(hasty_consumers: None, constants: Callable[..., None]) -> None:
    """Short pauses."""

    def until_beat(seconds: float = 1.0) -> float:
        return seconds

    constants(consumer, LOOK_SECONDS=0.01, until_beat=until_beat)
    constants(notifier, READ_SECONDS=0.01, until_beat=until_beat)
    constants(DeliveryLease, RENEW_SECONDS=0.1)


@pytest.fixture
def start(quick: None, tmp_path: Path) -> Iterator[StartNode]:
    nodes: list[NotifyingNode] = []

    def start_node(**options: Any) -> NotifyingNode:
        nodes.append(NotifyingNode(tmp_path, **options))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.kill()


@pytest.fixture
def node(start: StartNode) -> NotifyingNode:
    return start()
