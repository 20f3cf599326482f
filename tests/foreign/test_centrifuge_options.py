"""Clients of Centrifugo in an app that is closed but for what its options open, on one node and on two."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from cent import CentApiResponseError, HistoryRequest, PresenceRequest, PublishRequest, SubscribeRequest
from cent import Client as Cent
from centrifuge import ReplyError

from tests.integration.clusters import Nodes, nodes_of
from tests.support import Server

from .conftest import OTHER_KEY, SECRET, token
from .people import SECONDS, both, person, refused, run

KEY = "key-of-the-closed-app-0123456789"
FOR_ALL = {
    "subscribe": "anybody",
    "publish": "anybody",
    "presence": True,
    "read_presence": "anybody",
    "history_size": 10,
    "history_seconds": 60,
    "read_history": "anybody",
}
CONFIG: dict[str, Any] = {
    "apps": {
        "closed": {
            "jwt": [{"algorithm": "HS256", "key": SECRET}],
            "known_channels_only": True,
            "channels": {
                "": {"subscribe": "anybody"},
                "room": FOR_ALL,
                "shut": FOR_ALL | {"publish": "nobody", "read_presence": "nobody", "read_history": "nobody"},
            },
        }
    },
    "api": {
        "keys": [
            {"key": OTHER_KEY, "scopes": ["admin"]},
            {"key": KEY, "scopes": ["admin"], "apps": ["closed"]},
        ]
    },
    "centrifuge": {"app": "closed"},
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    patient = {"redis_seconds": 20, "rpc_seconds": 20}
    with nodes_of(tmp_path_factory.mktemp("closed"), 2, cluster=patient, **CONFIG) as two:
        yield two


@pytest.fixture(params=[0, 1], ids=["one node", "two nodes"])
def servers(nodes: Nodes, request: pytest.FixtureRequest) -> tuple[Server, Server]:
    """The servers of two clients."""
    return nodes.servers[0], nodes.servers[request.param]


async def code_of(call: Callable[[], Awaitable[object]]) -> int:
    with pytest.raises(ReplyError) as error:
        await call()
    code: int = error.value.code
    return code


@both
def test_options_open_what_they_name(servers: tuple[Server, Server], protobuf: bool) -> None:
    here, there = servers
    channel = f"room:{protobuf}-{here is there}"

    async def scenario() -> None:
        async with person(here, protobuf, "ann") as ann, person(there, protobuf, "bob") as bob:
            _, heard = await bob.subscribe(channel)
            await ann.client.publish(channel, ann.written({"n": 1}))
            pub = (await heard.next("on_publication")).pub
            assert (bob.read(pub.data), pub.info.user, pub.offset) == ({"n": 1}, "ann", 1)
            present = (await ann.client.presence(channel)).clients
            assert [each.user for each in present.values()] == ["bob"]
            stats = await ann.client.presence_stats(channel)
            assert (stats.num_clients, stats.num_users) == (1, 1)
            page = await ann.client.history(channel, limit=5)
            assert [ann.read(each.data) for each in page.publications] == [{"n": 1}]

    run(scenario())


@both
def test_everything_else_is_closed(servers: tuple[Server, Server], protobuf: bool) -> None:
    async def scenario() -> None:
        async with person(servers[1], protobuf, "ann") as ann:
            client = ann.client

            async def codes(channel: str) -> list[int]:
                return [
                    await code_of(lambda: client.publish(channel, ann.written(1))),
                    await code_of(lambda: client.presence(channel)),
                    await code_of(lambda: client.presence_stats(channel)),
                    await code_of(lambda: client.history(channel)),
                ]

            for channel in ("shut:1", "lobby"):
                await ann.subscribe(channel)
            assert await codes("shut:1") == [103] * 4
            assert await codes("lobby") == [103, 108, 108, 108]
            assert await codes("other:1") == [102] * 4
            unknown = client.new_subscription("other:1", ann.events)
            await unknown.subscribe()
            assert (await ann.events.next("on_unsubscribed")).code == 102
            assert await code_of(lambda: client.rpc("dance", ann.written(1), timeout=SECONDS)) == 108

    run(scenario())


@both
def test_a_closed_history_is_not_recovered(servers: tuple[Server, Server], protobuf: bool) -> None:
    here, there = servers
    channel = f"shut:{protobuf}-{here is there}"

    async def scenario(cent: Cent) -> None:
        async with person(here, protobuf, "ann") as ann:
            first = await asyncio.to_thread(cent.publish, PublishRequest(channel=channel, data=1))
            subscription, heard = await ann.subscribe(channel, recoverable=True)
            assert not (await heard.next("on_subscribed")).recoverable
            await subscription.unsubscribe()
            await asyncio.to_thread(cent.publish, PublishRequest(channel=channel, data=2))
            await subscription.subscribe()
            assert not (await heard.next("on_subscribed")).recovered
            await asyncio.to_thread(cent.publish, PublishRequest(channel=channel, data=3))
            pub = (await heard.next("on_publication")).pub
            assert (ann.read(pub.data), first.offset) == (3, 1)

    with Cent(f"{there.http_url}/api", KEY, timeout=SECONDS) as cent:
        run(scenario(cent))


def test_the_back_end_does_not_use_unknown_channels_either(nodes: Nodes) -> None:
    with Cent(f"{nodes.servers[0].http_url}/api", KEY, timeout=SECONDS) as cent:
        for call, request in (
            (cent.publish, PublishRequest(channel="other:1", data=1)),
            (cent.presence, PresenceRequest(channel="other:1")),
            (cent.history, HistoryRequest(channel="other:1")),
            (cent.subscribe, SubscribeRequest(user="ann", channel="other:1")),
        ):
            with pytest.raises(CentApiResponseError) as error:
                call(request)  # type: ignore[operator]
            assert error.value.code == 102


def test_a_token_for_an_unknown_channel_logs_nobody_in(nodes: Nodes) -> None:
    proof = token("ann", channels=["other:1"])
    assert asyncio.run(refused(nodes.servers[0], token=proof)) == 4505
