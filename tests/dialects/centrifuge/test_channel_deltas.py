"""Subscribers that read deltas: what they receive makes the same payloads as
others receive."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec import UNSET, json
from msgspec.structs import replace

from imserver.dialects.centrifuge.service import CentrifugeAnswers, CentrifugeState
from imserver.dialects.centrifuge.wire import CentrifugeDialect
from imserver.gateway.channels.subscriptions import Subscribed
from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import ChannelSettings
from imserver.gateway.hub.hub import LocalChannel
from imserver.gateway.model import ChannelPart, Event, Subscribe
from imserver.gateway.protocol import publications
from imserver.gateway.transport.connection import Connection
from tests.gateway.core.cluster_harness import MULTI
from tests.gateway.hub.harness import Harness
from tests.gateway.protocol.test_fossil import apply
from tests.gateway.transport.harness import Client, turn
from tests.messenger.messaging_harness import Node
from tests.messenger.streams.test_streamed_messages import streams_of

PRICES = "prices:1"
CENTRIFUGE = CentrifugeDialect()
SHARED = "same words in every publication, and 数字 that change: "


def begin(
    harness: Harness, connection: Connection, channel: str, *since_and_delta: Any
) -> Subscribed:
    """Subscribe a connection that waits for the answer."""
    options = harness.channels.options.of(MULTI, channel)
    return harness.channels.subscriptions.subscribe(
        connection, channel, options, *since_and_delta
    )


class Reader:
    """A subscriber. ``payloads``: what its publications make; ``kinds``:
    whether each was a delta."""

    def __init__(
        self,
        harness: Harness,
        user: str,
        *,
        delta: bool = True,
        since: Position | None = None,
    ) -> None:
        self.connection, self.client = harness.login(MULTI, user, dialect=CENTRIFUGE)
        self.connection.dialect_state = CentrifugeState()
        self.delta = delta
        self.payloads: list[Any] = []
        self.kinds: list[bool] = []
        self._last = b""
        found = begin(harness, self.connection, PRICES, since, delta)
        harness.channels.subscriptions.answered(self.connection, PRICES, found)
        command = Subscribe(
            PRICES, recover=since is not None, recoverable=True, delta=delta
        )
        answers = CentrifugeAnswers(Mock())
        self.result: Any = answers.subscribed(
            self.connection, command, found, UNSET, 0
        ).data
        for publication in json.decode(json.encode(self.result)).get(
            "publications", []
        ):
            self._take(publication)

    def read(self) -> None:
        """Take what has come."""
        turn()
        for payload in self.client.payloads():
            self._take(json.decode(payload)["push"]["pub"])

    def _take(self, publication: dict[str, Any]) -> None:
        is_delta = publication.get("delta", False)
        if self.delta:
            data = publication["data"].encode()
            self._last = apply(self._last, data) if is_delta else data
            self.payloads.append(json.decode(self._last))
        else:
            self.payloads.append(publication["data"])
        self.kinds.append(is_delta)


BOUNDED = ChannelSettings(history_size=10, history_seconds=60, delta=True)
STORED = ChannelSettings(history="log", delta=True)


@pytest.fixture(params=[BOUNDED, STORED], ids=["bounded", "stored"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with Node() as harness:
        harness.channel_settings = {
            "prices": request.param,
            "*": replace(request.param, delta=False),
        }
        yield harness


def publish(harness: Harness, *numbers: int, **options: Any) -> int:
    """Publish, each time also to another channel, so that the log has gaps;
    returns the last offset."""
    offset = 0
    for number in numbers:
        event = Event(
            "msg", "shop", "", type="custom", data=json.encode([SHARED * 3, number])
        )
        position = harness.channels.publishing.publish_event(
            MULTI, PRICES, event, **options
        ).position
        offset = 0 if position is None else position.offset
        harness.channels.publishing.publish_event(MULTI, "news:1", event)
    return offset


def numbers(reader: Reader) -> list[int]:
    reader.read()
    assert all(words == SHARED * 3 for words, _ in reader.payloads)
    return [number for _, number in reader.payloads]


def test_the_first_publication_is_whole_and_the_others_are_deltas(
    harness: Harness,
) -> None:
    ann = Reader(harness, "ann")
    bob = Reader(harness, "bob", delta=False)
    publish(harness, 1, 2, 3)
    assert numbers(ann) == numbers(bob) == [1, 2, 3]
    assert ann.kinds == [False, True, True]
    assert bob.kinds == [False, False, False]
    assert ann.result.delta
    assert not bob.result.delta
    connection, _ = harness.login(MULTI, "cid")
    assert not begin(harness, connection, "news:1", None, True).delta, (
        "its namespace permits none"
    )


def test_a_delta_is_made_once_for_all_who_read_deltas_and_not_for_others(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas: list[bytes] = []
    monkeypatch.setattr(
        publications, "make_delta", lambda before, after: deltas.append(after)
    )
    bob = Reader(harness, "bob", delta=False)
    publish(harness, 1, 2)
    assert numbers(bob) == [1, 2]
    assert (deltas, state_of(harness).last, state_of(harness).deltas) == (
        [],
        None,
        None,
    ), "nothing is kept"
    readers = [Reader(harness, f"user {number}") for number in range(5)]
    publish(harness, 3, 4)
    assert [numbers(reader) for reader in readers] == [[3, 4]] * 5
    assert len(deltas) == 1


def state_of(harness: Harness) -> Any:
    local: LocalChannel = harness.hub.apps[MULTI].channels[PRICES]
    return local.position


def test_what_was_missed_comes_as_one_whole_publication_and_deltas(
    harness: Harness,
) -> None:
    ann = Reader(harness, "ann")
    bob = Reader(harness, "bob", delta=False)
    position = Position(ann.result.epoch, publish(harness, 1))
    harness.channels.subscriptions.unsubscribe(ann.connection, PRICES)
    assert state_of(harness).deltas is None
    publish(harness, 2, 3, 4)
    again = Reader(harness, "ann", since=position)
    assert again.result.recovered
    publish(harness, 5)
    assert numbers(again) == [2, 3, 4, 5]
    assert again.kinds == [False, True, True, True]
    assert numbers(bob) == [1, 2, 3, 4, 5]


def test_one_that_did_not_receive_a_publication_gets_the_next_one_whole(
    harness: Harness,
) -> None:
    ann = Reader(harness, "ann")
    bob = Reader(harness, "bob")
    publish(harness, 1)
    publish(harness, 2, except_users=("ann",))
    publish(harness, 3, 4)
    assert numbers(ann) == [1, 3, 4]
    assert ann.kinds == [False, False, True]
    assert numbers(bob) == [1, 2, 3, 4]
    assert bob.kinds == [False, True, True, True]


@pytest.mark.parametrize("harness", [BOUNDED], indirect=True)
def test_who_recovers_an_erased_publication_gets_the_next_one_whole(
    harness: Harness,
) -> None:
    bob = Reader(harness, "bob")
    publish(harness, 1)
    harness.channels.histories.erase_user(MULTI, "shop", "deleted:1")
    ann = Reader(harness, "ann", since=Position(bob.result.epoch, 0))
    publish(harness, 2, 3)
    ann.read()
    assert ann.result.recovered
    assert ann.payloads == ["", [SHARED * 3, 2], [SHARED * 3, 3]]
    assert ann.kinds == [False, False, True]
    assert numbers(bob) == [1, 2, 3]
    assert bob.kinds == [False, True, True]


def test_a_publication_beside_the_history_is_whole_and_so_is_the_next(
    harness: Harness,
) -> None:
    ann = Reader(harness, "ann")
    publish(harness, 1, 2)
    publish(harness, 3, with_history=False)
    publish(harness, 4, 5)
    assert numbers(ann) == [1, 2, 3, 4, 5]
    assert ann.kinds == [False, True, False, False, True]


def test_publications_that_came_during_the_subscription_are_read(
    harness: Harness,
) -> None:
    first = Reader(harness, "first")
    connection, client = harness.login(MULTI, "ann", dialect=CENTRIFUGE)
    connection.dialect_state = CentrifugeState()
    publish(harness, 1)

    found = begin(harness, connection, PRICES, None, True)
    publish(harness, 2, 3)
    harness.channels.subscriptions.answered(connection, PRICES, found)
    publish(harness, 4)
    assert decoded(client) == [2, 3, 4]
    assert numbers(first) == [1, 2, 3, 4]
    state = state_of(harness)
    assert set(state.deltas) == {connection, first.connection}
    for each in (connection, first.connection):
        harness.channels.subscriptions.unsubscribe(each, PRICES)
    assert (state.deltas, state.last) == (None, None)


def decoded(client: Client) -> list[int]:
    """The numbers that the pushes make."""
    turn()
    last = b""
    found = []
    for payload in client.payloads():
        publication = json.decode(payload)["push"]["pub"]
        data = publication["data"].encode()
        last = apply(last, data) if publication.get("delta") else data
        found.append(json.decode(last)[1])
    return found


def test_a_publication_of_another_client_names_it(harness: Harness) -> None:
    ann = Reader(harness, "ann")
    event = Event(
        "msg",
        "bob",
        "hi",
        channel=ChannelPart(PRICES, info=b'{"user":"bob"}', tags=b'{"a":"b"}'),
    )
    harness.channels.publishing.publish_event(MULTI, PRICES, event)
    turn()
    (payload,) = ann.client.payloads()
    publication = json.decode(payload)["push"]["pub"]
    assert publication == {
        "data": '"hi"',
        "info": {"user": "bob"},
        "offset": 1,
        "tags": {"a": "b"},
    }


def test_subscribers_that_read_deltas_receive_joins_and_leaves_as_such(
    harness: Harness,
) -> None:
    channel = harness.channel_settings["prices"]
    harness.channel_settings["prices"] = replace(channel, join_leave=True)
    ann = Reader(harness, "ann")
    publish(harness, 1)
    bob = Reader(harness, "bob", since=Position(ann.result.epoch, 0))
    assert bob.result.recovered
    publish(harness, 2)
    harness.channels.subscriptions.unsubscribe(bob.connection, PRICES)
    turn()
    pushes = [json.decode(payload)["push"] for payload in ann.client.payloads()]
    kinds = [next(kind for kind in push if kind != "channel") for push in pushes]
    assert kinds == ["join", "pub", "join", "pub", "leave"]
    assert pushes[2]["join"]["info"]["user"] == "bob"
    assert [push["pub"].get("delta", False) for push in pushes if "pub" in push] == [
        False,
        True,
    ]
    own, publication = [
        json.decode(payload)["push"] for payload in bob.client.payloads()
    ]
    assert own["join"]["info"]["user"] == "bob"
    assert publication["pub"]["delta"], "it has recovered the one before"


def test_streamed_messages_between_publications_make_the_same_payloads(
    harness: Harness,
) -> None:
    streams = streams_of(harness)
    early = Reader(harness, "ann")
    plain = Reader(harness, "bob", delta=False)
    publish(harness, 1, 2)
    head = Event("stream", "bot", "", channel=ChannelPart(PRICES))
    id = streams.open(MULTI, head, "a")
    streams.append(MULTI, [(id, 1, "b")])
    late = Reader(harness, "cid")
    offset = publish(harness, 3, 4)
    streams.append(MULTI, [(id, 2, "c")])
    streams.close(MULTI, id)
    publish(harness, 5, 6)
    for reader in (early, plain, late):
        reader.read()
    assert early.payloads == plain.payloads
    assert [each["text"] for each in plain.payloads if isinstance(each, dict)] == [
        "a",
        "b",
        "c",
        "abc",
    ]
    first = {
        "stream": id,
        "piece": 1,
        "text": "ab",
        "whole": True,
        "from": "bot",
        "type": "text",
    }
    assert late.payloads[0] == first
    assert late.payloads[1:] == plain.payloads[4:]
    assert sum(early.kinds) >= 3
    back = Reader(harness, "dan", since=Position(early.result.epoch, offset))
    assert back.payloads == plain.payloads[-3:]
