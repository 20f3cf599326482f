"""centrifuge-python, with JSON and with protobuf frames."""

import asyncio
from typing import Any

import pytest
from cent import (
    CentApiResponseError,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from cent import Client as Cent
from centrifuge import CentrifugeError, ReplyError, StreamPosition

from tests.conftest import StartServer
from tests.integration.cmd import number
from tests.integration.v1 import good
from tests.support import Server
from tests.users import User

from .conftest import CONFIG, KEY, OTHER_KEY, SILENT_SECONDS, WHOLE_KEY, token
from .people import SECONDS, Events, both, json_first, person, refused, run


def code_of(error: pytest.ExceptionInfo[ReplyError]) -> int:
    return error.value.code


# --- connections --------------------------------------------------------------------------------------------


@json_first
def test_a_token_needs_neither_app_nor_end(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        async with person(server, protobuf, "ann") as ann:
            connected = await ann.events.next("on_connected")
            assert connected.client == ann.client.client_id
            assert connected.version.startswith("imserver ")
            own = await ann.events.next("on_subscribed")
            assert own.channel == "#ann"

    run(scenario())


def test_tokens_with_several_algorithms_log_in(server: Server) -> None:
    async def scenario() -> None:
        for algorithm in ("HS256", "HS512"):
            session_token = token("ann", algorithm)
            async with person(server, False, token=session_token) as ann:
                assert (await ann.rpc("conversations"))["hasMore"] is False

    run(scenario())


def test_an_open_app_takes_clients_without_a_user(server: Server) -> None:
    async def scenario() -> None:
        async with person(server, False, path="/connection/hall/websocket") as guest:
            await guest.subscribe("news")
            with pytest.raises(ReplyError) as error:
                await guest.rpc("conversations")
            assert code_of(error) == 101

    run(scenario())


def test_in_an_open_app_a_token_names_the_user_and_gives_no_right(server: Server) -> None:
    path = "/connection/hall/websocket"

    async def scenario() -> None:
        session_token = token("zoe", channels=["news"]) + "forged"
        async with person(server, False, path=path, token=session_token) as zoe:
            found = [(await zoe.events.next("on_subscribed")).channel for _ in range(2)]
            assert found == ["#zoe", "news"]

    run(scenario())
    for channel in ("talk:1", "shut:1", "user:bob", "group:1", "#bob"):
        assert run(refused(server, path=path, token=token("zoe", channels=[channel]))) == 4505


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
def test_a_refused_client_does_not_come_back(server: Server, options: dict[str, Any], code: int) -> None:
    assert run(refused(server, **options)) == code


@json_first
@pytest.mark.parametrize("times", [{"exp": 1}, {"nbf": 2**33}, {"expire_at": 1}])
def test_a_token_of_another_time_is_replaced_before_the_connection_counts(
    server: Server, protobuf: bool, times: dict[str, int]
) -> None:
    async def scenario() -> None:
        async def fresh() -> str:
            return token("ann")

        async with person(
            server, protobuf, token=token("ann", **times), get_token=fresh, min_reconnect_delay=0.01
        ) as ann:
            assert (await ann.rpc("conversations"))["hasMore"] is False

    run(scenario())


@pytest.mark.full
@json_first
def test_a_token_is_renewed_at_its_end(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        renewed = asyncio.Event()

        async def fresh() -> str:
            renewed.set()
            return token("ann", seconds=300)

        async with person(server, protobuf, token=token("ann", seconds=4), get_token=fresh) as ann:
            await asyncio.wait_for(renewed.wait(), SECONDS)
            assert (await ann.rpc("conversations"))["hasMore"] is False

    run(scenario())


@both
def test_a_token_may_lack_a_user_where_the_app_says_so(server: Server, protobuf: bool) -> None:
    nobody = {"sub": None}  # as if it were missing
    renewed = asyncio.Event()

    async def fresh() -> str:
        renewed.set()
        return token("", seconds=300)

    async def scenario() -> None:
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

    run(scenario())


@pytest.mark.full
@json_first
def test_pings_keep_a_silent_client_connected(impatient: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        async with person(impatient, protobuf, "ann", max_server_ping_delay=SILENT_SECONDS) as ann:
            client = ann.client.client_id
            await asyncio.sleep(SILENT_SECONDS + 2)  # also longer than ping and delay together
            assert (await ann.rpc("conversations"))["hasMore"] is False
            assert ann.client.client_id == client

    run(scenario())


# --- subscriptions ------------------------------------------------------------------------------------------


@both
def test_who_may_subscribe_depends_on_the_channel_and_its_token(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
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

    run(scenario())


@both
def test_a_publication_reaches_subscribers_with_its_author(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
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

    run(scenario())


@json_first
def test_what_a_channel_does_not_have_is_not_available(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        async with person(server, protobuf, "ann") as ann:
            channel, _ = await ann.subscribe("open:2")
            for ask, code in ((channel.presence, 108), (channel.presence_stats, 108), (channel.history, 108)):
                with pytest.raises(ReplyError) as error:
                    await ask()
                assert code_of(error) == code
            with pytest.raises(ReplyError) as error:
                await channel.publish(ann.written({}))
            assert code_of(error) == 103
            with pytest.raises(ReplyError) as error:
                await ann.client.history("past:9")
            assert code_of(error) == 103, "only of channels to which the client is subscribed"

    run(scenario())


@json_first
def test_the_channel_of_a_user_has_neither_history_nor_presence(server: Server, protobuf: bool) -> None:
    """Even if all channels of the app have them: an empty answer would say that nothing was published."""

    async def scenario(cent: Cent) -> None:
        path = "/connection/whole/websocket"
        async with person(server, protobuf, "ann", path=path) as ann:
            subscribed = await ann.events.next("on_subscribed")
            assert subscribed.channel == "#ann"
            assert (subscribed.recoverable, subscribed.positioned) == (False, False)
            cent.publish(PublishRequest(channel="#ann", data="hi"))
            assert ann.read((await ann.events.next("on_publication")).pub.data) == "hi"
            for ask in (ann.client.presence, ann.client.presence_stats, ann.client.history):
                for channel, code in (("#ann", 108), ("#bob", 103)):
                    with pytest.raises(ReplyError) as refused:
                        await ask(channel)
                    assert code_of(refused) == code
        for request, call in (
            (PresenceRequest, cent.presence),
            (PresenceStatsRequest, cent.presence_stats),
            (HistoryRequest, cent.history),
            (HistoryRemoveRequest, cent.history_remove),
        ):
            with pytest.raises(CentApiResponseError) as error:
                call(request(channel="#ann"))
            assert error.value.code == 108

    with Cent(f"{server.http_url}/api", WHOLE_KEY, timeout=SECONDS) as cent:
        run(scenario(cent))


@both
def test_history_in_pages_and_both_directions(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        name = f"past:pages-{protobuf}"
        async with person(server, protobuf, "ann") as ann:
            channel, _ = await ann.subscribe(name)
            for number in range(1, 6):
                await channel.publish(ann.written({"n": number}))
            page = await channel.history(limit=2)
            assert [ann.read(each.data) for each in page.publications] == [{"n": 1}, {"n": 2}]
            assert page.offset == 5
            since = StreamPosition(page.publications[-1].offset, page.epoch)
            rest = await channel.history(limit=-1, since=since)
            assert [each.offset for each in rest.publications] == [3, 4, 5]
            newest = await channel.history(limit=2, reverse=True)
            assert [each.offset for each in newest.publications] == [5, 4]
            assert (await channel.history()).publications == []
            with pytest.raises(ReplyError) as error:
                await channel.history(limit=1, since=StreamPosition(1, "another"))
            assert code_of(error) == 112

    run(scenario())


@both
def test_a_client_that_comes_back_receives_exactly_what_it_missed(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        name = f"past:missed-{protobuf}"
        async with person(server, protobuf, "ann") as ann, person(server, protobuf, "bob") as bob:
            _, heard = await ann.subscribe(name, recoverable=True)
            subscription, _ = await bob.subscribe(name)
            await subscription.publish(bob.written(1))
            assert (await heard.next("on_publication")).pub.offset == 1
            await ann.client.disconnect()
            for number in (2, 3, 4):
                await subscription.publish(bob.written(number))
            await ann.client.connect()
            await ann.client.ready(SECONDS)
            subscribed = await heard.next("on_subscribed")
            assert (subscribed.was_recovering, subscribed.recovered) == (True, True)
            await subscription.publish(bob.written(5))
            found = [(await heard.next("on_publication")).pub for _ in range(4)]
            assert [(each.offset, ann.read(each.data)) for each in found] == [(2, 2), (3, 3), (4, 4), (5, 5)]

    run(scenario())


@both
def test_a_stored_channel_has_the_positions_of_the_log(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        name = f"kept:missed-{protobuf}"
        async with person(server, protobuf, "ann") as ann, person(server, protobuf, "bob") as bob:
            _, heard = await ann.subscribe(name, recoverable=True)
            subscription, _ = await bob.subscribe(name)
            other, _ = await bob.subscribe(f"{name}-other")
            await subscription.publish(bob.written(1))
            first = (await heard.next("on_publication")).pub
            await ann.client.disconnect()
            for number in (2, 3, 4):
                await other.publish(bob.written(0))
                await subscription.publish(bob.written(number))
            await ann.client.connect()
            await ann.client.ready(SECONDS)
            subscribed = await heard.next("on_subscribed")
            assert (subscribed.was_recovering, subscribed.recovered) == (True, True)
            await subscription.publish(bob.written(5))
            found = [(await heard.next("on_publication")).pub for _ in range(4)]
            assert [ann.read(each.data) for each in found] == [2, 3, 4, 5]
            offsets = [first.offset, *[each.offset for each in found]]
            assert [offset - offsets[0] for offset in offsets] == [0, 2, 4, 6, 7]
            page = await subscription.history(limit=-1)
            assert [each.offset for each in page.publications] == offsets
            rest = await subscription.history(limit=2, since=StreamPosition(offsets[1], page.epoch))
            assert [each.offset for each in rest.publications] == offsets[2:4]
            newest = await subscription.history(limit=2, reverse=True)
            assert [each.offset for each in newest.publications] == offsets[:-3:-1]
            with pytest.raises(ReplyError) as error:
                await subscription.history(limit=1, since=StreamPosition(1, "another"))
            assert code_of(error) == 112

    run(scenario())


@json_first
def test_a_client_that_missed_too_much_is_not_recovered(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        name = f"past:much-{protobuf}"
        async with person(server, protobuf, "ann") as ann, person(server, protobuf, "bob") as bob:
            _, heard = await ann.subscribe(name, recoverable=True)
            subscription, _ = await bob.subscribe(name)
            await subscription.publish(bob.written(0))
            await heard.next("on_publication")
            await ann.client.disconnect()
            for number in range(25):
                await subscription.publish(bob.written(number))
            await ann.client.connect()
            subscribed = await heard.next("on_subscribed")
            assert (subscribed.was_recovering, subscribed.recovered) == (True, False)

    run(scenario())


@both
def test_a_client_with_a_state_of_its_own_loads_it_again_if_it_cannot_recover(
    server: Server, protobuf: bool
) -> None:
    async def scenario(cent: Cent) -> None:
        name = f"past:state-{protobuf}"
        positions = [cent.publish(PublishRequest(channel=name, data=each)) for each in range(25)]
        stale, newest = (StreamPosition(each.offset, each.epoch) for each in (positions[0], positions[-1]))
        loaded = [newest, stale]

        async def load(_channel: str) -> StreamPosition:
            return loaded.pop()

        async with person(server, protobuf, "ann") as ann:
            _, heard = await ann.subscribe(name, get_state=load)
            subscribed = await heard.next("on_subscribed")
            assert (subscribed.was_recovering, subscribed.recovered, loaded) == (True, True, [])
            cent.publish(PublishRequest(channel=name, data="new"))
            assert ann.read((await heard.next("on_publication")).pub.data) == "new"

    with Cent(f"{server.http_url}/api", KEY, timeout=SECONDS) as cent:
        run(scenario(cent))


@pytest.mark.full
@json_first
def test_the_token_of_a_subscription_is_renewed_at_its_end(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        renewed = asyncio.Event()

        async def fresh(channel: str) -> str:
            renewed.set()
            return token("ann", channel=channel, seconds=300)

        async with person(server, protobuf, "ann") as ann:
            name = "talk:short"
            first = token("ann", channel=name, seconds=4)
            subscription, _ = await ann.subscribe(name, token=first, get_token=fresh)
            await asyncio.wait_for(renewed.wait(), SECONDS)
            await subscription.publish(ann.written({}))

    run(scenario())


@both
def test_a_token_may_subscribe_its_client(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        session_token = token(
            "ann", channels=["open:3"], subs={"past:4": {"data": {"x": 1}, "info": {"r": 2}}}
        )
        async with person(server, protobuf, token=session_token) as ann:
            subscribed = [await ann.events.next("on_subscribed") for _ in range(3)]
            found = {each.channel: each for each in subscribed}
            assert found.keys() == {"#ann", "open:3", "past:4"}
            assert found["past:4"].recoverable
            assert ann.read(found["past:4"].data) == {"x": 1}
            with Cent(f"{server.http_url}/api", KEY, timeout=SECONDS) as cent:
                cent.publish(PublishRequest(channel="past:4", data={"n": 1}))
            heard = await ann.events.next("on_publication")
            assert (heard.channel, ann.read(heard.pub.data)) == ("past:4", {"n": 1})

    run(scenario())


@pytest.mark.parametrize("by_api", [False, True], ids=["token", "api"])
def test_a_subscription_by_the_server_goes_on_after_a_gap(start_server: StartServer, by_api: bool) -> None:
    """The SDKs forget such a subscription when they receive ``unsubscribe``, and connect again after 3010."""
    server = start_server(config={**CONFIG, "limits": {"history_bytes": 4000}})

    async def scenario(cent: Cent) -> None:
        session_token = token("ann", **({} if by_api else {"channels": ["past:gap"]}))
        async with person(server, False, token=session_token) as ann:
            await ann.events.next("on_subscribed")  # #ann
            if by_api:
                cent.subscribe(SubscribeRequest(user="ann", channel="past:gap"))
            assert (await ann.events.next("on_subscribed")).channel == "past:gap"
            cent.publish(PublishRequest(channel="past:gap", data=1))
            assert (await ann.events.next("on_publication")).pub.offset == 1
            cent.publish(PublishRequest(channel="past:other", data="x" * 3000))  # takes the place of past:gap
            cent.publish(PublishRequest(channel="past:gap", data=2))
            assert (await ann.events.next("on_connecting")).code == 3010
            if not by_api:
                subscribed = await ann.events.next("on_subscribed")
                while subscribed.channel != "past:gap":
                    subscribed = await ann.events.next("on_subscribed")
                assert (subscribed.was_recovering, subscribed.recovered) == (True, False)
                cent.publish(PublishRequest(channel="past:gap", data=3))
                assert (await ann.events.next("on_publication")).pub.data == 3

    with Cent(f"{server.http_url}/api", KEY, timeout=SECONDS) as cent:
        run(scenario(cent))


@both
def test_members_of_a_group_subscribe_to_its_channels_until_they_leave(
    server: Server, protobuf: bool
) -> None:
    user = f"member{number()}"
    answer = good(
        server.http,
        "groups/create",
        {"app": "shop", "user": user, "name": "tea", "members": ["bob"]},
        key=KEY,
    )
    group = answer["group"]

    def publish(channel: str, text: str) -> None:
        good(server.http, "channels/publish", {"app": "shop", "channel": channel, "text": text}, key=KEY)

    async def scenario() -> None:
        async with person(server, protobuf, user) as member, person(server, protobuf, "eve") as eve:
            for one, channel, code in (
                (eve, f"club:{group}", 103),
                (eve, f"group:{group}", 103),
                (member, f"#{user}", 105),
            ):
                events = Events()
                await one.client.new_subscription(channel, events).subscribe()  # type: ignore[arg-type]
                assert (await events.next("on_unsubscribed")).code == code
            names = [f"club:{group}", f"group:{group}", f"user:{user}"]
            heard = [(await member.subscribe(name))[1] for name in names]
            for name, events in zip(names, heard, strict=True):
                await asyncio.to_thread(publish, name, name)
                assert member.read((await events.next("on_publication")).pub.data) == name
            change = {"app": "shop", "group": group, "members": [user]}
            await asyncio.to_thread(lambda: good(server.http, "groups/remove", change, key=KEY))
            for events in heard[:2]:
                assert (await events.next("on_unsubscribed")).code == 2000
            await asyncio.to_thread(publish, names[2], "bye")
            assert member.read((await heard[2].next("on_publication")).pub.data) == "bye"

    run(scenario())


# --- the back end -------------------------------------------------------------------------------------------


@both
def test_the_back_end_subscribes_unsubscribes_refreshes_and_disconnects(
    server: Server, protobuf: bool
) -> None:
    async def scenario(cent: Cent) -> None:
        user, channel = f"eve-{protobuf}", f"past:by-server-{protobuf}"
        async with person(server, protobuf, user) as eve:
            await eve.events.next("on_subscribed")
            cent.subscribe(SubscribeRequest(user=user, channel=channel, data={"x": 1}))
            subscribed = await eve.events.next("on_subscribed")
            assert (subscribed.channel, subscribed.recoverable) == (channel, True)
            assert eve.read(subscribed.data) == {"x": 1}
            cent.publish(PublishRequest(channel=channel, data="hi", tags={"a": "b"}))
            heard = (await eve.events.next("on_publication")).pub
            assert (eve.read(heard.data), heard.offset, heard.tags) == ("hi", 1, {"a": "b"})
            cent.publish(PublishRequest(channel=f"#{user}", data={"to": user}))
            heard = await eve.events.next("on_publication")
            assert (heard.channel, eve.read(heard.pub.data)) == (f"#{user}", {"to": user})
            cent.unsubscribe(UnsubscribeRequest(user=user, channel=channel))
            assert (await eve.events.next("on_unsubscribed")).channel == channel
            async with person(server, protobuf, "bob") as bob:
                room = f"talk:by-server-{protobuf}"
                _, heard_by_bob = await bob.subscribe(room, token=token("bob", channel=room))
                cent.subscribe(SubscribeRequest(user=user, channel=room))
                listening = (heard_by_bob, heard_by_bob, eve.events)
                joined = [(await events.next("on_join")).info.user for events in listening]
                assert joined == ["bob", user, user]
                cent.unsubscribe(UnsubscribeRequest(user=user, channel=room))
                assert (await heard_by_bob.next("on_leave")).info.user == user
            cent.refresh(RefreshRequest(user=user, expired=True))
            assert (await eve.events.next("on_connecting")).code == 3005
            await eve.client.ready(SECONDS)
            cent.disconnect(DisconnectRequest(user=user))
            assert (await eve.events.next("on_disconnected")).code == 3503

    with Cent(f"{server.http_url}/api", KEY, timeout=SECONDS) as cent:
        run(scenario(cent))


# --- stored messages ----------------------------------------------------------------------------------------


@both
def test_rpc_carries_the_commands_of_stored_messages(server: Server, protobuf: bool) -> None:
    async def scenario() -> None:
        ann, bob = f"ann-{protobuf}", f"bob-{protobuf}"
        async with person(server, protobuf, ann) as a, person(server, protobuf, bob) as b:
            assert await b.rpc("sync", cursor=0) == {"messages": [], "hasMore": False}
            sent = await a.rpc("send", to=bob, text="hello", clientMsgID="1")
            heard = await b.events.next("on_publication")
            assert (heard.channel, heard.pub.tags) == (f"#{bob}", {"kind": "message"})
            entry = b.read(heard.pub.data)
            assert (entry["id"], entry["text"], entry["from"]) == (sent["id"], "hello", ann)
            assert heard.pub.offset == sent["id"]
            conversation = sent["conversation"]
            assert (await a.rpc("send", to=bob, text="hello", clientMsgID="1"))["repeated"]
            page = await b.rpc("history", conversation=conversation)
            assert [each["text"] for each in page["messages"]] == ["hello"]
            found = await b.rpc("search", text="hello")
            assert [each["id"] for each in found["messages"]] == [sent["id"]]
            (shown,) = (await b.rpc("conversations"))["conversations"]
            assert (shown["id"], shown["unread"]) == (conversation, 1)
            await a.rpc("sync", cursor=0)
            await b.rpc("read", conversation=conversation, id=sent["id"])
            heard = await a.events.next("on_publication")
            assert (heard.pub.tags, a.read(heard.pub.data)["read"]) == ({"kind": "receipt"}, sent["id"])
            receipts = await a.rpc("receipts", conversation=conversation)
            assert receipts["receipts"][0]["read"] == sent["id"]
            await b.rpc("typing", to=ann)
            heard = await a.events.next("on_publication")
            assert heard.pub.tags == {"kind": "typing"}
            for method, data, code in (
                ("dance", {}, 108),
                ("send", {"text": "to nobody"}, 107),
                ("send", {"conversation": 987654321, "text": "x"}, 1005),
            ):
                with pytest.raises(CentrifugeError) as error:
                    await a.rpc(method, **data)
                assert isinstance(error.value, ReplyError)
                assert error.value.code == code, method

    run(scenario())


@both
def test_rpc_carries_the_commands_of_groups(server: Server, protobuf: bool) -> None:
    path = "/connection/club/websocket"
    people = []
    for nickname in ("ann", "bob", "cid"):
        answer = User.register(server, "club", key=OTHER_KEY, nickname=nickname)
        people.append((answer.user, answer.token))
    (ann, ann_token), (bob, bob_token), (cid, _) = people

    async def scenario() -> None:
        async with (
            person(server, protobuf, path=path, token=ann_token) as a,
            person(server, protobuf, path=path, token=bob_token) as b,
        ):
            answer = await a.rpc("createGroup", name="tea", members=[bob])
            group = answer["group"]
            assert answer == {"group": group, "name": "tea", "role": "owner", "open": False}
            assert await b.rpc("groups") == {"groups": [{**answer, "role": "member"}], "hasMore": False}
            assert await b.rpc("inviteToGroup", group=group, members=[cid]) == {
                "group": group,
                "users": [cid],
            }
            page = await a.rpc("groupMembers", group=group, limit=2)
            assert len(page["members"]) == 2
            assert page["hasMore"]
            rest = await a.rpc("groupMembers", group=group, after=page["members"][-1]["user"])
            found = {each["user"]: each["role"] for each in page["members"] + rest["members"]}
            assert found == {ann: "owner", bob: "member", cid: "member"}
            sent = await a.rpc("send", conversation=group, text="tea?")
            assert sent["conversation"] == group
            assert await b.rpc("leaveGroup", group=group) == {}
            for method, data, code in (
                ("groupMembers", {"group": group}, 1005),
                ("leaveGroup", {"group": group}, 1005),
                ("joinGroup", {"group": group}, 1005),
                ("inviteToGroup", {"group": group, "members": [cid]}, 1005),
                ("createGroup", {"name": "x", "members": ["nobody"]}, 103),
                ("createGroup", {"name": ""}, 107),
                ("createGroup", {"name": "x", "members": [ann] * 1001}, 107),
                ("createGroup", {"name": "x", "members": [5]}, 107),
                ("groupMembers", {}, 107),
            ):
                with pytest.raises(CentrifugeError) as error:
                    await b.rpc(method, **data)
                assert isinstance(error.value, ReplyError)
                assert error.value.code == code, method
            opened = {"app": "club", "group": str(group), "open": True}
            await asyncio.to_thread(good, server.http, "groups/open", opened, key=OTHER_KEY)
            assert (await b.rpc("joinGroup", group=group))["role"] == "member"

    run(scenario())


def test_only_accounts_make_groups(server: Server) -> None:
    async def scenario() -> None:
        async with person(server, False, "ann") as ann:
            with pytest.raises(CentrifugeError) as error:
                await ann.rpc("createGroup", name="tea", members=[])
            assert isinstance(error.value, ReplyError)
            assert error.value.code == 103
            assert await ann.rpc("groups") == {"groups": [], "hasMore": False}

    run(scenario())
