"""Stored channels on a node without the messenger."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from msgspec.structs import replace

from imserver.gateway.channels.members import ChannelRefused, Publication
from imserver.gateway.channels.subscriptions import Channels
from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.model import ChannelPart, Event, Outcome
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.cluster_harness import MULTI
from tests.gateway.hub.harness import Harness
from tests.gateway.hub.test_channels import texts

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


def test_what_a_new_member_has_read_from_the_log_does_not_come_again(gateway: Gateway) -> None:
    (ann, client), (bob, other) = (gateway.login(MULTI, user) for user in ("ann", "bob"))
    for connection in (ann, bob):
        gateway.channels.subscriptions.join(MULTI, "plain", connection)
    local, ordered = gateway.hub.apps[MULTI].channels["plain"], gateway.channels.subscriptions.ordered
    ordered.wait(local, ann, False)
    for offset in range(1, 5):
        if offset == 2:
            ordered.release(local, ann, Position("e", 3), is_stored=True)
        part = ChannelPart("plain", offset, "e")
        ordered.to_ready(local, Publication("plain", replace(EVENT, text=str(offset), channel=part)))
    assert texts(client, other) == [["4"], ["1", "2", "3", "4"]]


@pytest.mark.parametrize(("epoch", "basis"), [("", 1), ("other", 0)])
def test_a_delta_is_for_who_has_received_what_was_before(gateway: Gateway, epoch: str, basis: int) -> None:
    gateway.channel_settings = {"*": ChannelSettings(history_size=5, history_seconds=60, delta=True)}  # type: ignore[misc]
    ann, _ = gateway.login(MULTI, "ann")
    position = gateway.channels.publishing.publish_event(MULTI, "news", EVENT).position
    assert position is not None
    since, options = Position(epoch or position.epoch, 0), gateway.channels.options.of(MULTI, "news")
    found = gateway.channels.subscriptions.subscribe(ann, "news", options, since, delta=True)
    gateway.channels.subscriptions.answered(ann, "news", found)
    state = gateway.hub.apps[MULTI].channels["news"].position
    assert state is not None
    assert (found.recovered, state.deltas) == (not epoch, {ann: basis})
