"""Clients of Centrifugo on two nodes that share a Redis; the second one has the WSGI server."""

import asyncio
from collections.abc import Iterator

import pytest
from cent import (
    ChannelsRequest,
    Disconnect,
    DisconnectRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from cent import Client as Cent
from cent import StreamPosition as Position

from tests.integration.clusters import Nodes, nodes_of

from .conftest import CONFIG, KEY
from .people import SECONDS, person


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    patient = {"redis_seconds": 20, "rpc_seconds": 20}
    with nodes_of(tmp_path_factory.mktemp("centrifugo"), 2, cluster=patient, **CONFIG) as two:
        yield two


@pytest.mark.parametrize(("via", "protobuf"), [(0, False), (1, False), (1, True)])
async def test_the_back_end_may_ask_either_node(nodes: Nodes, via: int, protobuf: bool) -> None:
    user, channel = f"eve-{via}-{protobuf}", f"talk:server-{via}-{protobuf}"

    with Cent(f"{nodes.servers[via].http_url}/api", KEY, timeout=SECONDS) as cent:
        async with person(nodes.servers[0], protobuf, user) as eve:
            await eve.events.next("on_subscribed")
            await asyncio.to_thread(
                cent.subscribe, SubscribeRequest(user=user, channel=channel, data={"x": 1})
            )
            subscribed = await eve.events.next("on_subscribed")
            assert (subscribed.channel, eve.read(subscribed.data)) == (channel, {"x": 1})
            assert (await eve.events.next("on_join")).info.user == user
            stats = await asyncio.to_thread(cent.presence_stats, PresenceStatsRequest(channel=channel))
            assert stats.num_clients == 1
            assert channel in cent.channels(ChannelsRequest(pattern="talk:server-*")).channels
            tagged = PublishRequest(channel=channel, data="hi", tags={"a": "b"})
            await asyncio.to_thread(cent.publish, tagged)
            heard = (await eve.events.next("on_publication")).pub
            assert (eve.read(heard.data), heard.tags) == ("hi", {"a": "b"})
            await asyncio.to_thread(cent.publish, PublishRequest(channel=f"#{user}", data="you"))
            assert eve.read((await eve.events.next("on_publication")).pub.data) == "you"
            await asyncio.to_thread(cent.unsubscribe, UnsubscribeRequest(user=user, channel=channel))
            assert (await eve.events.next("on_unsubscribed")).channel == channel
            client = eve.client.client_id
            refresh = RefreshRequest(user=user, client=client, expired=True)
            await asyncio.to_thread(cent.refresh, refresh)
            assert (await eve.events.next("on_connecting")).code == 3005
            await eve.client.ready(SECONDS)
            final = DisconnectRequest(user=user, disconnect=Disconnect(code=4504, reason="sold out"))
            await asyncio.to_thread(cent.disconnect, final)
            gone = await eve.events.next("on_disconnected")
            assert (gone.code, gone.reason) == (4504, "sold out")


async def test_the_back_end_subscribes_from_a_position(nodes: Nodes) -> None:
    user, whole, lost = "tom", "past:whole", "past:lost"

    with Cent(f"{nodes.servers[1].http_url}/api", KEY, timeout=SECONDS) as cent:

        async def publish(channel: str, *numbers: int) -> list[Position]:
            requests = [PublishRequest(channel=channel, data=number) for number in numbers]
            found = [await asyncio.to_thread(cent.publish, each) for each in requests]
            return [Position(offset=each.offset or 0, epoch=each.epoch or "") for each in found]

        async def subscribe(channel: str, since: Position) -> int:
            """Returns the offset after which the client receives publications."""
            await asyncio.to_thread(
                cent.subscribe, SubscribeRequest(user=user, channel=channel, recover_since=since)
            )
            subscribed = await tom.events.next("on_subscribed")
            assert subscribed.channel == channel
            return int(subscribed.stream_position.offset)

        async def hear(count: int) -> list[tuple[int, int]]:
            heard = [(await tom.events.next("on_publication")).pub for _ in range(count)]
            return [(each.offset, each.data) for each in heard]

        async with person(nodes.servers[0], False, user) as tom:
            await tom.events.next("on_subscribed")
            missed = await publish(whole, 1, 2, 3)
            assert await subscribe(whole, missed[0]) == missed[0].offset
            assert await hear(2) == [(missed[1].offset, 2), (missed[2].offset, 3)]
            (live,) = await publish(whole, 4)
            assert await hear(1) == [(live.offset, 4)]
            (end,) = await publish(lost, 1)
            assert await subscribe(lost, Position(offset=0, epoch="another")) == end.offset
            (live,) = await publish(lost, 2)
            assert await hear(1) == [(live.offset, 2)]


@pytest.mark.parametrize("channel", ["past:once", "ledger:once"])
def test_a_publication_that_is_repeated_on_the_other_node_has_its_offset(nodes: Nodes, channel: str) -> None:
    def publish(node: int, data: int = 1) -> Position:
        request = PublishRequest(channel=channel, data=data, idempotency_key="order-7")
        with Cent(f"{nodes.servers[node].http_url}/api", KEY, timeout=SECONDS) as cent:
            found = cent.publish(request)
        return Position(offset=found.offset or 0, epoch=found.epoch or "")

    first = publish(0)
    assert first.offset > 0
    assert [publish(node) for node in (1, 1, 0)] == [first] * 3
    assert publish(1, data=2) == first, "the key alone decides"
