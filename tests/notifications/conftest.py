"""Nodes that notify, with short pauses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imserver.backends.webhooks import consumer
from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.notifications import notifier
from tests.notifications.notifying import NotifyingNode, StartNode


@pytest.fixture
def quick(hasty_consumers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses."""

    def until_beat(seconds: float = 1.0) -> float:
        return seconds

    for owner, name, value in (
        (consumer, "LOOK_SECONDS", 0.01),
        (notifier, "READ_SECONDS", 0.01),
        (DeliveryLease, "RENEW_SECONDS", 0.1),
        (consumer, "until_beat", until_beat),
        (notifier, "until_beat", until_beat),
    ):
        monkeypatch.setattr(owner, name, value)


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
