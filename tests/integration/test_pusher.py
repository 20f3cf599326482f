"""The pusher dialect on raw sockets: what it refuses and why, limits, and several nodes."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.docs.markdown import table_with
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import ROOT, Server, eventually

from .pusher import SHOP, Client, call, sign, trigger
from .raw import Response, ask, request
from .receiver import Receiver, rejecting
from .setting import Launch

Ask = Callable[[Server], Response]


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    rows = {"open": {"subscribe": "anybody"}}
    club = {"app_id": "8", "key": "clubkey", "secret": "the secret of the club"}
    return launch("front", apps={"shop": {"pusher": SHOP, "channels": rows}, "club": {"pusher": club}})


@pytest.fixture
def clients(server: Server) -> Iterator[tuple[Client, Client]]:
    with Client(server.ws) as first, Client(server.ws) as second:
        yield first, second
    all_left(server)


def all_left(server: Server) -> None:
    """Nobody is subscribed to anything any more."""
    eventually(lambda: call(server, "GET", "/apps/7/channels").json == {"channels": {}})


# --- connections --------------------------------------------------------------------------------------------


def test_who_is_refused_reads_why_twice(server: Server) -> None:
    for key, query, code in (
        ("nokey", "protocol=7", 4001),
        ("shopkey", "protocol=3", 4007),
        ("shopkey", "", 4007),
        ("shopkey", "protocol=x", 4007),
    ):
        with Client(server.ws, key, query) as client:
            assert (client.refusal["event"], client.refusal["data"]["code"]) == ("pusher:error", code)
            client.closed(code)


# --- subscriptions ------------------------------------------------------------------------------------------


def refusal(client: Client, channel: str) -> Any:
    found = client.event("pusher:subscription_error", channel)
    return found["type"], found["status"]


@pytest.mark.parametrize(
    "channel",
    ["private-a", "presence-a", "private-encrypted-a", "private-cache-a", "a:b", "$a", "a#ann", "$open:a"],
)
def test_a_signature_is_needed(clients: tuple[Client, Client], channel: str) -> None:
    client, other = clients
    member = {"user_id": "ann"} if channel.startswith("presence") else None
    client.asks(channel, member, secret="another secret")
    assert refusal(client, channel) == ("AuthError", 401)
    client.say("pusher:subscribe", {"channel": channel})
    assert refusal(client, channel) == ("AuthError", 401)
    stolen = f"{SHOP['key']}:{sign(f'{other.socket_id}:{channel}')}"
    client.say("pusher:subscribe", {"channel": channel, "auth": stolen})
    assert refusal(client, channel) == ("AuthError", 401)
    client.subscribes(channel, "ann" if member else "")


def test_the_library_for_dotnet_reads_of_a_refusal_by_its_own_event(server: Server) -> None:
    query = "protocol=5&client=pusher-dotnet-client&version=2.1.0"
    with Client(server.ws, query=query) as client:
        for channel in ("private-a", "user:ann"):
            client.say("pusher:subscribe", {"channel": channel})
            assert client.event("pusher_internal:subscription_error", channel)["status"] in (401, 403)
        client.subscribes("presence-a", "ann")
    all_left(server)


def test_some_channels_are_not_for_clients(clients: tuple[Client, Client]) -> None:
    for channel in ("user:ann", "group:7", "#server-to-user-ann", "#private"):
        clients[0].asks(channel)
        assert refusal(clients[0], channel) == ("AuthError", 403)


def test_presence_counts_users_and_not_connections(server: Server) -> None:
    with ExitStack() as stack:
        ann, second, bob = (stack.enter_context(Client(server.ws)) for _ in range(3))
        hash_of_ann = {"ann": {"name": "ann"}}
        state = {"presence": {"count": 1, "ids": ["ann"], "hash": hash_of_ann}}
        assert ann.subscribes("presence-a", "ann") == state
        assert second.subscribes("presence-a", "ann") == state
        ann.is_quiet()
        assert bob.subscribes("presence-a", "bob")["presence"]["ids"] == ["ann", "bob"]
        for client in (ann, second):
            added = client.event("pusher_internal:member_added", "presence-a")
            assert added == {"user_id": "bob", "user_info": {"name": "bob"}}
        second.leave()
        where = "/apps/7/channels/presence-a"
        counted = {"subscription_count": 2}
        eventually(
            lambda: counted.items() <= call(server, "GET", where, info="subscription_count").json.items()
        )
        bob.is_quiet()
        ann.say("pusher:unsubscribe", {"channel": "presence-a"})
        assert bob.event("pusher_internal:member_removed", "presence-a") == {"user_id": "ann"}
    all_left(server)


@pytest.mark.full
def test_subscribers_are_counted_if_the_app_wants_it(start_server: StartServer) -> None:
    with Receiver() as receiver:
        counting = {**SHOP, "subscription_count": True, "webhook_url": receiver.url}
        server = start_server(config={"apps": {"shop": {"pusher": counting}}})

        def counts() -> list[int]:
            events = [event for post in tuple(receiver.posts) for event in post.json["events"]]
            return [event["subscription_count"] for event in events if event["name"] == "subscription_count"]

        with Client(server.ws) as first, Client(server.ws) as second:
            steps = (lambda: first.subscribes("news"), lambda: second.subscribes("news"), second.leave)
            for number, step in zip((1, 2, 1), steps, strict=True):
                step()
                found = first.event("pusher_internal:subscription_count", "news")
                assert found == {"subscription_count": number}
        eventually(lambda: counts() == [1, 2, 1])


# --- users --------------------------------------------------------------------------------------------------


def test_a_sign_in_keeps_subscriptions_and_opens_the_channel_of_the_user(
    server: Server, clients: tuple[Client, Client]
) -> None:
    client, other = clients
    client.subscribes("news")
    client.signs_in("ann")
    client.event("pusher:signin_success")
    client.asks("#server-to-user-bob")
    assert refusal(client, "#server-to-user-bob") == ("AuthError", 403)
    client.subscribes("#server-to-user-ann")
    trigger(server, "#server-to-user-ann", '{"a":1}')
    assert client.event("e", "#server-to-user-ann") == {"a": 1}
    trigger(server, "news")
    assert client.event("e", "news") == "x"
    other.is_quiet()


def test_the_signature_of_a_presence_channel_is_no_sign_in(
    server: Server, clients: tuple[Client, Client]
) -> None:
    """Back ends sign it for nicknames that clients choose."""
    client, other = clients
    client.subscribes("presence-a", "ann")
    for channel in ("#server-to-user-ann", "user:ann"):
        client.asks(channel)
        assert refusal(client, channel) == ("AuthError", 403)
    trigger(server, "#server-to-user-ann")
    assert call(server, "POST", "/apps/7/users/ann/terminate_connections", {}).json == {}
    client.signs_in("carol")
    client.event("pusher:signin_success")
    client.subscribes("#server-to-user-carol")
    assert other.subscribes("presence-a", "bob")["presence"]["ids"] == ["ann", "bob"]
    assert client.event("pusher_internal:member_added", "presence-a")["user_id"] == "bob"


def test_a_wrong_sign_in_ends_the_connection(clients: tuple[Client, Client]) -> None:
    client, other = clients
    data = '{"id":"ann"}'
    auth = f"{SHOP['key']}:{sign(f'{other.socket_id}::user::{data}')}"
    client.say("pusher:signin", {"auth": auth, "user_data": data})
    assert client.message().json["event"] == "pusher:error"
    client.closed(4009)


def test_all_connections_of_a_user_are_ended(server: Server, clients: tuple[Client, Client]) -> None:
    client, other = clients
    for each, user in ((client, "ann"), (other, "bob")):
        each.signs_in(user)
        each.event("pusher:signin_success")
    assert call(server, "POST", "/apps/7/users/ann/terminate_connections", {}).json == {}
    assert client.message().json["data"]["code"] == 4009
    client.closed(4009)
    other.is_quiet()


# --- client events ------------------------------------------------------------------------------------------


def test_client_events_reach_the_others(clients: tuple[Client, Client]) -> None:
    ann, bob = clients
    for client, user in ((ann, "ann"), (bob, "bob")):
        client.subscribes("presence-a", user)
    ann.event("pusher_internal:member_added", "presence-a")
    ann.say("client-moved", {"x": 1}, "presence-a")
    found = bob.message().json
    assert found == {"event": "client-moved", "channel": "presence-a", "data": '{"x": 1}', "user_id": "ann"}
    ann.is_quiet()


def test_client_events_need_a_private_channel_of_the_client(clients: tuple[Client, Client]) -> None:
    client, other = clients
    for channel in ("news", "private-encrypted-a", "private-other"):
        other.subscribes(channel)
        if channel != "private-other":
            client.subscribes(channel)
        client.say("client-moved", {}, channel)
        assert client.event("pusher:error")["code"] == 4301
    other.is_quiet()


def test_an_app_limits_users_of_presence_channels_and_client_events(start_server: StartServer) -> None:
    limits = {"presence_members": 1, "client_events_per_second": 3, "event_bytes": 20}
    server = start_server(config={"apps": {"shop": {"pusher": {**SHOP, **limits}}}})
    with Client(server.ws) as ann, Client(server.ws) as again, Client(server.ws) as bob:
        ann.subscribes("presence-a", "ann")
        again.subscribes("presence-a", "ann")
        bob.asks("presence-a", {"user_id": "bob"})
        assert refusal(bob, "presence-a") == ("LimitReached", 403)
        bob.subscribes("private-a")
        bob.say("client-moved", "x" * 30, "private-a")
        assert "20 bytes" in bob.message().json["data"]["message"]
        for _ in range(10):
            bob.say("client-moved", {}, "private-a")
        found = bob.message().json["data"]
        assert found["code"] == 4301
        assert "3 client events" in found["message"]


@pytest.mark.full
def test_the_back_end_reviews_client_events(start_server: StartServer) -> None:
    with Receiver() as receiver:
        apps = {"shop": {"pusher": SHOP, "webhook": receiver.reviewing}}
        server = start_server(config={"apps": apps})
        with Client(server.ws) as ann, Client(server.ws) as bob:
            ann.signs_in("ann")
            ann.event("pusher:signin_success")
            bob.subscribes("private-b")
            ann.subscribes("private-b")
            receiver.reply = rejecting
            ann.say("client-said", "buy now", "private-b")
            assert ann.event("pusher:error") == {"code": 4301, "message": "No advertising"}
            receiver.reply = lambda _: (200, b'{"answers": [{"action": "replace", "text": "tea"}]}')
            ann.say("client-said", "coffee", "private-b")
            assert bob.event("client-said", "private-b") == "tea"
        message = receiver.posts[-1].json["messages"][0]
        assert (message["sender"], message["channel"], message["type"]) == ("ann", "private-b", "client-said")
        assert message["text"] == "coffee"


# --- the HTTP API -------------------------------------------------------------------------------------------


EVENT: dict[str, Any] = {"name": "e", "channels": ["a"], "data": "x"}
SINGLE: dict[str, Any] = {"name": "e", "channel": "a", "data": "x"}
REFUSALS = {
    tuple(row.values()): row["when"]
    for row in table_with(ROOT / "docs/reference/pusher-dialect.md", "status", "text", "when")
}
"""Status, text and case of each row of the table of errors."""
CHANNELS = "/apps/7/channels"


def query(path: str = CHANNELS, **params: Any) -> Ask:
    return lambda server: call(server, "GET", path, **params)


def event(**fields: Any) -> Ask:
    body = {name: value for name, value in {**EVENT, **fields}.items() if value is not None}
    return lambda server: call(server, "POST", "/apps/7/events", body)


def batch(*events: Any) -> Ask:
    return lambda server: call(server, "POST", "/apps/7/batch_events", {"batch": events})


def plain(text: str) -> Ask:
    """A request with this query, which is not signed."""
    return lambda server: ask(server.http, request(f"{CHANNELS}?{text}"))


BAD: dict[str, list[Ask]] = {
    "the request is not signed": [plain("")],
    "no app has the key": [query(auth_key="nokey")],
    "there is no auth_version": [plain("auth_key=shopkey")],
    "auth_version is not 1.0": [query(auth_version="2.0")],
    "auth_timestamp is no number": [query(auth_timestamp="soon"), query(auth_timestamp="9" * 30)],
    "the clocks differ, or the request is old": [
        query(auth_timestamp="1000"),
        query(auth_timestamp="9" * 14),
    ],
    "the signature is missing or wrong": [
        lambda server: ask(server.http, request(f"{CHANNELS}?{signed_query()}")),
        lambda server: ask(server.http, request(f"{CHANNELS}?{signed_query()}&auth_signature=00")),
    ],
    "the body was changed": [lambda server: call(server, "POST", "/apps/7/events", EVENT, body_md5="0" * 32)],
    "no app has this app_id": [query("/apps/9/channels")],
    "the key belongs to another app": [query("/apps/8/channels")],
    "an event lacks name or data, a body batch": [event(name=None)],
    "a field has another type, or the body is no JSON": [
        event(data={"a": 1}),
        lambda server: call(server, "POST", "/apps/7/events"),
        lambda server: call(server, "POST", "/apps/7/events", []),
    ],
    "there are none or more channels": [event(channels=[]), event(channels=["a"] * 101)],
    "the name of the event is empty or longer": [event(name=""), event(name="x" * 201)],
    "it begins with pusher: or pusher_internal:": [event(name="pusher_internal:member_added")],
    "the name of a channel has other characters": [event(channels=["#x"]), event(channels=["a", "café"])],
    "it is longer": [event(channels=["x" * 256])],
    "socket_id is not two numbers with a dot": [event(socket_id="x")],
    "data has more than event_bytes": [event(data="x" * 10241), batch({**SINGLE, "data": "x" * 10241})],
    "there are more events": [batch(*[SINGLE] * 11)],
    "there is none": [batch()],
    "an event of a batch has no channel": [batch(SINGLE, EVENT)],
    "a list of other channels with info=user_count": [
        query(info="user_count"),
        query(info="user_count", filter_by_prefix="private-"),
    ],
    "another channel with info=user_count": [query(f"{CHANNELS}/news", info="user_count")],
    "the users of another channel": [query(f"{CHANNELS}/news/users")],
}


def signed_query() -> str:
    """The parameters of a request, without its signature."""
    return f"auth_key=shopkey&auth_version=1.0&auth_timestamp={int(time.time())}"


@pytest.mark.parametrize(("status", "text", "when"), REFUSALS, ids=REFUSALS.values())
def test_errors_have_the_texts_of_the_reference(server: Server, status: str, text: str, when: str) -> None:
    expected = ".*".join(map(re.escape, text.split("…"))) + "\n"
    for each in BAD[when]:
        answer = each(server)
        assert answer.status == int(status), answer
        assert re.fullmatch(expected, answer.body.decode()), answer


def test_each_bad_request_has_its_row_in_the_reference() -> None:
    assert BAD.keys() == set(REFUSALS.values())


def test_the_error_of_a_signature_shows_what_to_sign(server: Server) -> None:
    unsigned = signed_query()
    text = ask(server.http, request(f"{CHANNELS}?{unsigned}&auth_signature=00")).body.decode()
    wanted = "&".join(sorted(unsigned.split("&")))
    assert f'HmacSHA256Hex("GET\\n{CHANNELS}\\n{wanted}", your_secret_key)' in text
    assert SHOP["secret"] not in text


def test_routes_of_reverb(server: Server, clients: tuple[Client, Client]) -> None:
    for address in (server.http, server.ws):
        up = ask(address, request("/up"))
        assert (up.status, up.body) == (200, b'{"health":"OK"}')
    client, _ = clients
    client.subscribes("news")
    client.subscribes("presence-a", "ann")
    eventually(lambda: call(server, "GET", "/apps/7/connections").json == {"connections": 2})


def test_only_channels_with_subscribers_are_listed(server: Server, clients: tuple[Client, Client]) -> None:
    client, other = clients
    client.subscribes("news")
    other.subscribes("presence-a", "ann")
    assert call(server, "GET", "/apps/7/channels").json == {"channels": {"news": {}, "presence-a": {}}}
    found = call(server, "GET", "/apps/7/channels", filter_by_prefix="presence-", info="user_count").json
    assert found == {"channels": {"presence-a": {"user_count": 1}}}


# --- several nodes ------------------------------------------------------------------------------------------


@pytest.mark.full
def test_nodes_share_channels(start_server: StartServer, redis_server: RedisServer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret that all nodes share, long enough")
    config = {
        "apps": {"shop": {"pusher": SHOP}},
        "redis": {"url": redis_server.url},
        "app": {"rpc_port": 0},
        "server": {"secret_file": str(secret)},
    }
    first = start_server(config=config)
    second = start_server(config=config)
    with Client(first.ws) as ann, Client(second.ws) as bob, Client(second.ws) as again:
        ann.subscribes("presence-a", "ann")
        found = eventually(lambda: call(second, "GET", "/apps/7/channels/presence-a/users").json["users"])
        assert found == [{"id": "ann"}]
        assert bob.subscribes("presence-a", "bob")["presence"]["ids"] == ["ann", "bob"]
        assert ann.event("pusher_internal:member_added", "presence-a")["user_id"] == "bob"
        again.subscribes("presence-a", "ann")
        bob.is_quiet()
        trigger(second, "presence-a", socket_id=ann.socket_id)
        assert bob.event("e", "presence-a") == again.event("e", "presence-a") == "x"
        ann.say("client-moved", {}, "presence-a")
        assert bob.event("client-moved", "presence-a") == {}
        again.leave()
        trigger(first, "cache-a", "last")
        bob.subscribes("cache-a")
        assert bob.event("e", "cache-a") == "last"
        ann.say("pusher:unsubscribe", {"channel": "presence-a"})
        assert bob.event("pusher_internal:member_removed", "presence-a") == {"user_id": "ann"}
        for number, client in enumerate((ann, bob), 1):
            client.subscribes("news")
            for node in (first, second):
                found = call(node, "GET", "/apps/7/channels/news", info="subscription_count").json
                assert found == {"occupied": True, "subscription_count": number}
        eventually(lambda: call(first, "GET", "/apps/7/connections").json == {"connections": 2})
