"""Clients of Centrifugo on two nodes that share a Redis, the second has the
WSGI server; channels of users (``#<user>``): clients come and go while back
ends publish, and receive everything once and in order."""

import asyncio
from collections.abc import Iterator
from typing import Any

import cent as api
import pytest
from cent import Client as Cent
from cent import StreamPosition as Position
from centrifuge import ReplyError
from centrifuge.exceptions import SubscriptionUnsubscribedError

from tests.integration.clusters import Nodes, nodes_of
from tests.integration.v1 import good
from tests.support import Server

from .conftest import CONFIG, KEY, SECRET
from .people import SECONDS, Person, json_first, person
from .test_centrifuge_python import code_of


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    patient = {"redis_seconds": 20, "rpc_seconds": 20}
    with nodes_of(
        tmp_path_factory.mktemp("centrifugo"), 2, cluster=patient, **CONFIG
    ) as two:
        yield two


@pytest.mark.parametrize(("via", "protobuf"), [(0, False), (1, False), (1, True)])
async def test_the_back_end_may_ask_either_node(
    nodes: Nodes, via: int, protobuf: bool
) -> None:
    user = f"eve-{via}-{protobuf}"
    channel = f"talk:server-{via}-{protobuf}"

    with Cent(f"{nodes.servers[via].http_url}/api", KEY, timeout=SECONDS) as cent:
        async with person(nodes.servers[0], protobuf, user) as eve:
            await eve.events.next("on_subscribed")
            await asyncio.to_thread(
                cent.subscribe,
                api.SubscribeRequest(user=user, channel=channel, data={"x": 1}),
            )
            subscribed = await eve.events.next("on_subscribed")
            assert (subscribed.channel, eve.read(subscribed.data)) == (
                channel,
                {"x": 1},
            )
            assert (await eve.events.next("on_join")).info.user == user
            stats = await asyncio.to_thread(
                cent.presence_stats, api.PresenceStatsRequest(channel=channel)
            )
            assert stats.num_clients == 1
            assert (
                channel
                in cent.channels(api.ChannelsRequest(pattern="talk:server-*")).channels
            )
            tagged = api.PublishRequest(channel=channel, data="hi", tags={"a": "b"})
            await asyncio.to_thread(cent.publish, tagged)
            heard = (await eve.events.next("on_publication")).pub
            assert (eve.read(heard.data), heard.tags) == ("hi", {"a": "b"})
            await asyncio.to_thread(
                cent.publish, api.PublishRequest(channel=f"#{user}", data="you")
            )
            assert eve.read((await eve.events.next("on_publication")).pub.data) == "you"
            await asyncio.to_thread(
                cent.unsubscribe, api.UnsubscribeRequest(user=user, channel=channel)
            )
            assert (await eve.events.next("on_unsubscribed")).channel == channel
            client = eve.client.client_id
            refresh = api.RefreshRequest(user=user, client=client, expired=True)
            await asyncio.to_thread(cent.refresh, refresh)
            assert (await eve.events.next("on_connecting")).code == 3005
            await eve.client.ready(SECONDS)
            final = api.DisconnectRequest(
                user=user, disconnect=api.Disconnect(code=4504, reason="sold out")
            )
            await asyncio.to_thread(cent.disconnect, final)
            gone = await eve.events.next("on_disconnected")
            assert (gone.code, gone.reason) == (4504, "sold out")


async def test_the_back_end_subscribes_from_a_position(nodes: Nodes) -> None:
    with Cent(f"{nodes.servers[1].http_url}/api", KEY, timeout=SECONDS) as cent:

        async def publish(channel: str, *numbers: int) -> list[Position]:
            requests = [
                api.PublishRequest(channel=channel, data=number) for number in numbers
            ]
            found = [await asyncio.to_thread(cent.publish, each) for each in requests]
            return [
                Position(offset=each.offset or 0, epoch=each.epoch or "")
                for each in found
            ]

        async with person(nodes.servers[0], False, "tom") as tom:
            await tom.events.next("on_subscribed")
            first = (await publish("past:whole", 1, 2))[0]
            (end,) = await publish("past:lost", 1)
            lost = Position(offset=0, epoch="another")
            for channel, since, begin, missed in (
                ("past:whole", first, first.offset, [2]),
                ("past:lost", lost, end.offset, []),
            ):
                request = api.SubscribeRequest(
                    user="tom", channel=channel, recover_since=since
                )
                await asyncio.to_thread(cent.subscribe, request)
                subscribed = await tom.events.next("on_subscribed")
                assert (subscribed.channel, subscribed.stream_position.offset) == (
                    channel,
                    begin,
                )
                await publish(channel, 9)
                heard = [
                    (await tom.events.next("on_publication")).pub for _ in (*missed, 9)
                ]
                assert [each.data for each in heard] == [*missed, 9]
                assert [each.offset for each in heard] == [
                    *range(begin + 1, begin + 1 + len(heard))
                ]


@pytest.mark.parametrize("channel", ["past:once", "ledger:once"])
def test_a_publication_that_is_repeated_on_the_other_node_has_its_offset(
    nodes: Nodes, channel: str
) -> None:
    def publish(node: int, data: int = 1) -> Position:
        request = api.PublishRequest(
            channel=channel, data=data, idempotency_key="order-7"
        )
        with Cent(f"{nodes.servers[node].http_url}/api", KEY, timeout=SECONDS) as cent:
            found = cent.publish(request)
        return Position(offset=found.offset or 0, epoch=found.epoch or "")

    first = publish(0)
    assert first.offset > 0
    assert [publish(node) for node in (1, 1, 0)] == [first] * 3
    assert publish(1, data=2) == first, "the key alone decides"


ROW = {
    "publish": "anybody",
    "presence": True,
    "read_presence": "anybody",
    "join_leave": True,
}
JWT = [{"algorithm": "HS256", "key": SECRET}]
RECENT = {"history_size": 1000, "history_seconds": 300, "read_history": "anybody"}
PAST = {**ROW, **RECENT}
STORED = {"history": "log"}
APPS: dict[str, Any] = {
    "past": {
        "jwt": JWT,
        "login_policy": "multi",
        "channels": {"user": PAST, "*": RECENT},
    },
    "kept": {
        "jwt": JWT,
        "login_policy": "multi",
        "channels": {"user": {**ROW, **STORED}, "*": STORED},
    },
    "asks": {"jwt": JWT, "subscribe_to_own_channel": False},
    "both": {"jwt": JWT, "subscribe_to_own_channel": False, "channels": {"user": PAST}},
}
OF_USERS: dict[str, Any] = {
    "apps": APPS,
    "api": {
        "keys": [
            {"key": KEY, "scopes": ["admin"]},
            *(
                {"key": f"{KEY}-{app}", "scopes": ["admin"], "apps": [app]}
                for app in APPS
            ),
        ]
    },
    "websocket": {
        "client_ping_seconds": 1,
        "client_silent_seconds": 60,
        "sweep_seconds": 1,
    },
}
CUTS = 6
NUMBERS = 120


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    patient = {"redis_seconds": 20, "rpc_seconds": 20}
    with nodes_of(
        tmp_path_factory.mktemp("users"), 2, cluster=patient, **OF_USERS
    ) as nodes:
        yield nodes.servers


def cent_of(server: Server, app: str) -> Cent:
    return Cent(f"{server.http_url}/api", f"{KEY}-{app}", timeout=SECONDS)


def member(server: Server, app: str, user: str, protobuf: bool = False) -> Any:
    return person(server, protobuf, user, path=f"/connection/{app}/websocket")


async def come_and_go(
    servers: list[Server], app: str, user: str, protobuf: bool
) -> list[int]:
    """The numbers that a client of a user receives. It is cut again and again,
    and returns to any node. They are published on the last one."""
    heard: list[int] = []
    recovered: list[bool] = []
    cent = cent_of(servers[-1], app)
    begun = asyncio.Event()

    async def publish() -> None:
        await begun.wait()
        for number in range(NUMBERS):
            await asyncio.to_thread(
                cent.publish, api.PublishRequest(channel=f"#{user}", data=number)
            )

    async def receive(one: Person) -> None:
        while len(heard) < NUMBERS:
            name, context = await one.events.any()
            if name == "on_subscribed":
                recovered.append(context.recovered)
                begun.set()
            elif (
                name == "on_publication"
                and context.channel == f"#{user}"
                and context.pub.offset
            ):
                heard.append(one.read(context.pub.data))

    async with member(servers[0], app, user, protobuf) as one:
        receiver = asyncio.create_task(receive(one))
        publisher = asyncio.create_task(publish())
        for cut in range(1, CUTS + 1):
            while len(heard) < cut * NUMBERS // (CUTS + 1):
                await asyncio.sleep(0.005)
            await one.client.disconnect()
            await one.return_to(
                servers[cut % len(servers)], f"/connection/{app}/websocket"
            )
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(publisher, receiver)
    assert recovered[1:] == [True] * CUTS
    return heard


@json_first
@pytest.mark.parametrize("app", ["past", "kept"])
async def test_clients_that_come_and_go_receive_everything_once_and_in_order(
    servers: list[Server], app: str, protobuf: bool
) -> None:
    assert await come_and_go(servers, app, f"ann-{protobuf}", protobuf) == [
        *range(NUMBERS)
    ]


@json_first
async def test_a_user_sees_who_is_there_publishes_and_reads_what_was_published(
    servers: list[Server], protobuf: bool
) -> None:
    user = f"bob-{protobuf}"

    with cent_of(servers[0], "past") as cent:
        async with member(servers[0], "past", user, protobuf) as one:
            subscribed = await one.events.next("on_subscribed")
            assert (subscribed.channel, subscribed.recoverable) == (f"#{user}", True)
            assert subscribed.positioned
            assert (
                await one.events.next("on_join")
            ).info.client == one.client.client_id
            async with member(servers[-1], "past", user, protobuf) as other:
                await other.events.next("on_subscribed")
                assert (
                    await one.events.next("on_join")
                ).info.client == other.client.client_id
                present = (await one.client.presence(f"#{user}")).clients
                assert {*present} == {one.client.client_id, other.client.client_id}
                found = await asyncio.to_thread(
                    cent.presence, api.PresenceRequest(channel=f"#{user}")
                )
                assert {*found.presence} == {*present}
                await other.client.publish(f"#{user}", other.written("from a client"))
                heard = (await one.events.next("on_publication")).pub
                assert (heard.offset, one.read(heard.data), heard.info.user) == (
                    1,
                    "from a client",
                    user,
                )
            assert (await one.events.next("on_leave")).info.user == user
            sent = good(
                servers[-1].http,
                "push",
                {"app": "past", "user": user, "text": "by push"},
                key=KEY,
            )
            assert sent["sent"] == 1
            heard = (await one.events.next("on_publication")).pub
            assert (heard.offset, one.read(heard.data)) == (2, "by push")
            page = await one.client.history(f"#{user}", limit=10)
            assert [each.offset for each in page.publications] == [1, 2]
            history = await asyncio.to_thread(
                cent.history, api.HistoryRequest(channel=f"#{user}", limit=10)
            )
            assert [each.offset for each in history.publications] == [1, 2]
            for name in ("#another", "user:another"):
                with pytest.raises(ReplyError) as refused:
                    await one.client.history(name)
                assert code_of(refused) == 103


@pytest.mark.parametrize("app", ["past", "kept"])
async def test_positions_of_before_the_options_recover_nothing_once(
    servers: list[Server], app: str
) -> None:
    """Clients have counted messages of this channel, whose numbers are not
    those of its history."""

    with cent_of(servers[0], app) as cent:
        cent.publish(api.PublishRequest(channel="#eve", data=1))
        async with member(servers[0], app, "eve") as one:
            await one.events.next("on_subscribed")
            await one.client.disconnect()
            known = one.client._server_subs["#eve"].epoch
            for epoch, is_recovered in (("", False), (known, True)):
                one.client._server_subs["#eve"].epoch = epoch
                await one.client.connect()
                await one.client.ready(SECONDS)
                assert (
                    await one.events.next("on_subscribed")
                ).recovered == is_recovered
                await one.client.disconnect()


@json_first
@pytest.mark.parametrize("app", ["asks", "both"])
async def test_clients_that_do_not_get_it_ask_for_it(
    servers: list[Server], app: str, protobuf: bool
) -> None:
    user = f"dan-{protobuf}"

    with cent_of(servers[-1], app) as cent:
        async with member(servers[0], app, user, protobuf) as one:
            own, heard = await one.subscribe(f"#{user}", recoverable=True)
            assert (await heard.next("on_subscribed")).recoverable == (app == "both")
            await asyncio.to_thread(
                cent.publish, api.PublishRequest(channel=f"#{user}", data="hi")
            )
            assert one.read((await heard.next("on_publication")).pub.data) == "hi"
            with pytest.raises(SubscriptionUnsubscribedError):
                await one.subscribe("#another")
            await own.unsubscribe()
            if app == "both":
                await asyncio.to_thread(
                    cent.publish, api.PublishRequest(channel=f"#{user}", data="missed")
                )
            await own.subscribe()
            await own.ready(SECONDS)
            await asyncio.to_thread(
                cent.publish, api.PublishRequest(channel=f"#{user}", data="again")
            )
            if app == "both":
                assert (
                    one.read((await heard.next("on_publication")).pub.data) == "missed"
                )
            assert one.read((await heard.next("on_publication")).pub.data) == "again"
