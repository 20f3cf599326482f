"""centrifuge-python, with JSON and with protobuf frames."""

import asyncio
from typing import Any

import pytest
from cent import Client as Cent
from cent import PublishRequest, SubscribeRequest
from centrifuge import ReplyError

from tests.conftest import StartServer
from tests.support import Server

from .conftest import CONFIG, KEY, token
from .people import SECONDS, Events, both, person, refused


def code_of(error: pytest.ExceptionInfo[ReplyError]) -> int:
    return error.value.code


# --- connections --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, 3500),
        ({"token": "nonsense"}, 3500),
        ({"token": token("ann") + "x"}, 3500),
        ({"token": token("ann", app="bank")}, 3500),
        ({"token": token("")}, 3500),
        ({"token": token("ann", channel="news")}, 3500),
        ({"token": token("ann"), "path": "/connection/bank/websocket"}, 3500),
        ({"token": token("x" * 256)}, 107),
        ({"token": token("ann", channels=["#bob"])}, 4505),
        ({"token": token("ann"), "path": "/connection/nowhere/websocket"}, 4505),
        ({"token": token("ann"), "path": "/connection/system:x/websocket"}, 4505),
    ],
)
async def test_refused_clients_do_not_come_back(
    server: Server, options: dict[str, Any], code: int
) -> None:
    assert await refused(server, **options) == code


@both
async def test_a_token_may_lack_a_user_where_the_app_says_so(
    server: Server, protobuf: bool
) -> None:
    nobody = {"sub": None}  # as if it were missing
    renewed = asyncio.Event()

    async def fresh() -> str:
        renewed.set()
        return token("", seconds=300)

    for proof in (token(""), token("", **nobody)):
        assert await refused(server, token=proof) == 3500
    path = "/connection/nameless/websocket"
    proof = token("", seconds=4)
    async with person(server, protobuf, path=path, token=proof, get_token=fresh) as one:
        await one.subscribe("open:1")
        await one.subscribe("$open:1", token=token("", channel="$open:1"))
        events = Events()
        closed = one.client.new_subscription("users:1", events)  # type: ignore[arg-type]
        await closed.subscribe()
        assert (await events.next("on_unsubscribed")).code == 103
        await asyncio.wait_for(renewed.wait(), SECONDS)
        await one.subscribe("open:2")
    async with person(server, protobuf, "ann", path=path) as ann:
        await ann.subscribe("users:1")


# --- subscriptions ------------------------------------------------------------


@both
async def test_who_may_subscribe_depends_on_the_channel_and_its_token(
    server: Server, protobuf: bool
) -> None:
    async with person(server, protobuf, "ann") as ann:
        await ann.subscribe("open:1")
        await ann.subscribe("few:1#bob,ann")
        for channel in ("talk:1", "$open:1", "open:1#ann,bob"):
            own = token("ann", channel=channel, client=ann.client.client_id)
            await ann.subscribe(channel, token=own)
        past, _ = await ann.subscribe("$past:1", token=token("ann", channel="$past:1"))
        assert (await past.history()).offset == 0, "the options of past count"
        wrong = {
            "$open:2": "",
            "$open:3": token("bob", channel="$open:3"),
            "open:2#ann": "",
            "open:2#1,2": "",
            "few:2#bob": "",
            "few:3": "",
            "talk:2": "",
            "talk:3": token("bob", channel="talk:3"),
            "talk:4": token("ann", channel="talk:1"),
            "talk:5": token("ann"),
            "talk:6": token("ann", channel="talk:6", app="bank"),
            "talk:7": token("ann", channel="talk:7", client="another"),
            "shut:1": token("ann", channel="shut:1"),
            "user:bob": token("ann", channel="user:bob"),
            "group:999999": token("ann", channel="group:999999"),
            "#bob": token("ann", channel="#bob"),
        }
        for channel, proof in wrong.items():
            events = Events()
            refused = ann.client.new_subscription(channel, events, token=proof)  # type: ignore[arg-type]
            await refused.subscribe()
            assert (await events.next("on_unsubscribed")).code == 103, channel


@both
async def test_a_publication_reaches_subscribers_with_its_author(
    server: Server, protobuf: bool
) -> None:
    infos = {"info": {"name": "Ann"}}
    async with (
        person(server, protobuf, token=token("ann", **infos)) as ann,
        person(server, not protobuf, "bob") as bob,
    ):
        _, heard = await bob.subscribe("talk:7", token=token("bob", channel="talk:7"))
        proof = token("ann", channel="talk:7", info={"role": 1})
        subscription, own = await ann.subscribe("talk:7", token=proof)
        assert (await heard.next("on_join")).info.user == "bob"
        for events in (heard, own):
            joined = (await events.next("on_join")).info
            assert (joined.user, joined.client) == ("ann", ann.client.client_id)
        await subscription.publish(ann.written({"text": "你好"}))
        for one, events in ((ann, own), (bob, heard)):
            publication = (await events.next("on_publication")).pub
            assert one.read(publication.data) == {"text": "你好"}
            assert publication.info.user == "ann"
            assert one.read(publication.info.conn_info) == {"name": "Ann"}
            assert one.read(publication.info.chan_info) == {"role": 1}
        present = (await subscription.presence()).clients
        assert {client.user for client in present.values()} == {"ann", "bob"}
        assert ann.client.client_id in present
        stats = await subscription.presence_stats()
        assert (stats.num_clients, stats.num_users) == (2, 2)
        await subscription.unsubscribe()
        assert (await heard.next("on_leave")).info.user == "ann"


@pytest.mark.parametrize("by_api", [False, True], ids=["token", "api"])
async def test_subscriptions_by_the_server_go_on_after_a_gap(
    start_server: StartServer, by_api: bool
) -> None:
    """The SDKs forget such a subscription when they receive ``unsubscribe``,
    and connect again after 3010."""
    server = start_server(config={**CONFIG, "limits": {"history_bytes": 4000}})

    with Cent(f"{server.http_url}/api", KEY, timeout=SECONDS) as cent:
        session_token = token("ann", **({} if by_api else {"channels": ["past:gap"]}))
        async with person(server, False, token=session_token) as ann:
            await ann.events.next("on_subscribed")  # #ann
            if by_api:
                cent.subscribe(SubscribeRequest(user="ann", channel="past:gap"))
            assert (await ann.events.next("on_subscribed")).channel == "past:gap"
            cent.publish(PublishRequest(channel="past:gap", data=1))
            assert (await ann.events.next("on_publication")).pub.offset == 1
            # takes the place of past:gap
            cent.publish(PublishRequest(channel="past:other", data="x" * 3000))
            cent.publish(PublishRequest(channel="past:gap", data=2))
            assert (await ann.events.next("on_connecting")).code == 3010
            if not by_api:
                subscribed = await ann.events.next("on_subscribed")
                while subscribed.channel != "past:gap":
                    subscribed = await ann.events.next("on_subscribed")
                assert (subscribed.was_recovering, subscribed.recovered) == (
                    True,
                    False,
                )
                cent.publish(PublishRequest(channel="past:gap", data=3))
                assert (await ann.events.next("on_publication")).pub.data == 3
