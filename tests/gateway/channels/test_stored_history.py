"""Stored channels on a node without the messenger."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.model import Event, Outcome
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.cluster_harness import MULTI
from tests.gateway.hub.harness import Harness

STORED = "stored:1"
EVENT = Event("msg", "shop", "x")


class Gateway(Harness):
    """A node whose channels in the namespace ``stored`` are stored."""

    channel_settings: ClassVar = {"stored": ChannelSettings(history="log")}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as node:
        yield node


@pytest.mark.parametrize(
    "act",
    [
        lambda channels, ann: channels.publishing.publish_event(MULTI, STORED, EVENT),
        lambda channels, ann: channels.histories.read(MULTI, STORED),
        lambda channels, ann: channels.subscriptions.join(MULTI, STORED, ann),
        lambda channels, ann: channels.subscriptions.subscribe(
            ann, STORED, channels.options.of(MULTI, STORED)
        ),
    ],
    ids=["publish", "history", "join", "subscribe"],
)
def test_a_node_without_the_log_refuses_stored_channels_by_name(
    gateway: Gateway, act: Callable[[Channels, Connection], object]
) -> None:
    ann, _ = gateway.login(MULTI, "ann")
    with pytest.raises(ChannelRefused, match="message log, which this node does not have") as refused:
        act(gateway.channels, ann)
    assert refused.value.reason == "not_available"
    assert gateway.channels.members.channels_of(ann) == ()
    assert gateway.channels.publishing.publish(MULTI, STORED, EVENT) is Outcome.REFUSED
