"""Deltas in stored channels as in :mod:`tests.dialects.centrifuge.test_channel_deltas`, and with streamed
messages between publications."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.model import ChannelPart, Event
from tests.dialects.centrifuge.test_channel_deltas import (  # noqa: F401
    BOUNDED,
    PRICES,
    Reader,
    publish,
    test_a_delta_is_made_once_for_all_subscribers,
    test_a_publication_beside_the_history_is_whole_and_so_is_the_next,
    test_a_publication_of_another_client_names_it,
    test_no_delta_is_made_and_nothing_retained_if_nobody_reads_deltas,
    test_one_that_did_not_receive_a_publication_gets_the_next_one_whole,
    test_publications_that_came_during_the_subscription_are_read,
    test_subscribers_that_read_deltas_receive_joins_and_leaves_as_such,
    test_the_first_publication_is_whole_and_the_others_are_deltas,
    test_the_namespace_and_the_history_must_permit_deltas,
    test_what_was_missed_comes_as_one_whole_publication_and_deltas,
)
from tests.gateway.core.cluster_harness import MULTI
from tests.gateway.hub.harness import Harness
from tests.messenger.messages.test_streamed_messages import streams_of
from tests.messenger.messaging_harness import Node

STORED = ChannelSettings(history="log", delta=True)


def _node(options: ChannelSettings) -> Iterator[Harness]:
    with Node() as harness:
        harness.channel_settings = {"prices": options, "*": replace(options, delta=False)}
        yield harness


@pytest.fixture
def harness() -> Iterator[Harness]:
    yield from _node(STORED)


@pytest.fixture(params=[BOUNDED, STORED], ids=["bounded", "stored"])
def either(request: pytest.FixtureRequest) -> Iterator[Harness]:
    yield from _node(request.param)


def test_streamed_messages_between_publications_make_the_same_payloads(either: Harness) -> None:
    streams = streams_of(either)
    early, plain = Reader(either, "ann"), Reader(either, "bob", delta=False)
    publish(either, 1, 2)
    head = Event("stream", "bot", "", channel=ChannelPart(PRICES))
    id = streams.open(MULTI, head, "a")
    streams.append(MULTI, [(id, 1, "b")])
    late = Reader(either, "cid")
    offset = publish(either, 3, 4)
    streams.append(MULTI, [(id, 2, "c")])
    streams.close(MULTI, id)
    publish(either, 5, 6)
    for reader in (early, plain, late):
        reader.read()
    assert early.payloads == plain.payloads
    assert [each["text"] for each in plain.payloads if isinstance(each, dict)] == ["a", "b", "c", "abc"]
    assert late.payloads[0] == {
        "stream": id,
        "piece": 1,
        "text": "ab",
        "whole": True,
        "from": "bot",
        "type": "text",
    }
    assert late.payloads[1:] == plain.payloads[4:]
    assert sum(early.kinds) >= 3
    back = Reader(either, "dan", since=Position(early.result.epoch, offset))
    assert back.payloads == plain.payloads[-3:]
