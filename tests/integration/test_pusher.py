"""The pusher dialect on raw sockets: what it refuses and why, limits, and
several nodes."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.docs.markdown import table_with
from tests.support import ROOT, Server, eventually

from .clusters import nodes_of
from .pusher import SHOP, Client, call, sign, trigger
from .raw import Response, ask, request
from .receiver import Receiver
from .setting import Launch
from .v1 import good

Ask = Callable[[Server], Response]
KEY = "key-of-all-apps-0123456789"
API = {"keys": [{"key": KEY, "scopes": ["admin"]}]}


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    rows = {"open": {"subscribe": "anybody"}}
    club = {"app_id": "8", "key": "clubkey", "secret": "the secret of the club"}
    return launch(
        "front",
        apps={"shop": {"pusher": SHOP, "channels": rows}, "club": {"pusher": club}},
    )


@pytest.fixture
def clients(server: Server) -> Iterator[tuple[Client, Client]]:
    with Client(server.ws) as first, Client(server.ws) as second:
        yield first, second
    all_left(server)


def all_left(server: Server) -> None:
    """Nobody is subscribed to anything any more."""
    eventually(lambda: call(server, "GET", "/apps/7/channels").json == {"channels": {}})


# --- subscriptions ------------------------------------------------------------


def refusal(client: Client, channel: str) -> Any:
    found = client.event("pusher:subscription_error", channel)
    return found["type"], found["status"]


def test_who_is_refused_reads_why_twice(server: Server) -> None:
    for key, query, code in (
        ("nokey", "protocol=7", 4001),
        ("shopkey", "protocol=3", 4007),
        ("shopkey", "", 4007),
        ("shopkey", "protocol=x", 4007),
    ):
        with Client(server.ws, key, query) as client:
            assert (client.refusal["event"], client.refusal["data"]["code"]) == (
                "pusher:error",
                code,
            )
            client.closed(code)


@pytest.mark.parametrize(
    "channel",
    [
        "private-a",
        "presence-a",
        "private-encrypted-a",
        "private-cache-a",
        "a:b",
        "$a",
        "a#ann",
        "$open:a",
    ],
)
def test_a_signature_is_needed(clients: tuple[Client, Client], channel: str) -> None:
    client, other = clients
    member = {"user_id": "ann"} if channel.startswith("presence") else None
    client.asks(channel, member, secret="another secret")
    client.say("pusher:subscribe", {"channel": channel})
    stolen = f"{SHOP['key']}:{sign(f'{other.socket_id}:{channel}')}"
    client.say("pusher:subscribe", {"channel": channel, "auth": stolen})
    for _ in range(3):
        assert refusal(client, channel) == ("AuthError", 401)
    client.subscribes(channel, "ann" if member else "")


def test_some_channels_are_not_for_clients_and_one_library_reads_so_by_its_own_event(
    server: Server,
) -> None:
    query = "protocol=5&client=pusher-dotnet-client&version=2.1.0"
    with Client(server.ws) as client, Client(server.ws, query=query) as of_dotnet:
        for channel in ("user:ann", "group:7", "#server-to-user-ann", "#private"):
            client.asks(channel)
            assert refusal(client, channel) == ("AuthError", 403)
            of_dotnet.asks(channel)
            assert (
                of_dotnet.event("pusher_internal:subscription_error", channel)["status"]
                == 403
            )


@pytest.mark.full("processes")
def test_subscribers_are_counted_if_the_app_wants_it(start_server: StartServer) -> None:
    with Receiver() as receiver:
        counting = {**SHOP, "subscription_count": True, "webhook_url": receiver.url}
        server = start_server(config={"apps": {"shop": {"pusher": counting}}})

        def counts() -> list[int]:
            events = [
                event for post in tuple(receiver.posts) for event in post.json["events"]
            ]
            return [
                event["subscription_count"]
                for event in events
                if event["name"] == "subscription_count"
            ]

        with Client(server.ws) as first, Client(server.ws) as second:
            steps = (
                lambda: first.subscribes("news"),
                lambda: second.subscribes("news"),
                second.leave,
            )
            for number, step in zip((1, 2, 1), steps, strict=True):
                step()
                found = first.event("pusher_internal:subscription_count", "news")
                assert found == {"subscription_count": number}
        eventually(lambda: counts() == [1, 2, 1])


# --- users and their events ---------------------------------------------------


def test_a_sign_in_alone_proves_a_user(
    server: Server, clients: tuple[Client, Client]
) -> None:
    """Back ends sign presence channels for nicknames that clients choose."""
    client, other = clients
    client.subscribes("news")
    client.subscribes("presence-a", "ann")
    for channel in ("#server-to-user-ann", "user:ann"):
        client.asks(channel)
        assert refusal(client, channel) == ("AuthError", 403)
    trigger(server, "#server-to-user-ann")
    assert (
        call(server, "POST", "/apps/7/users/ann/terminate_connections", {}).json == {}
    )
    client.signs_in("carol")
    client.event("pusher:signin_success")
    client.asks("#server-to-user-bob")
    assert refusal(client, "#server-to-user-bob") == ("AuthError", 403)
    client.subscribes("#server-to-user-carol")
    trigger(server, "#server-to-user-carol", '{"a":1}')
    assert client.event("e", "#server-to-user-carol") == {"a": 1}
    trigger(server, "news")
    assert client.event("e", "news") == "x"
    data = '{"id":"ann"}'
    auth = f"{SHOP['key']}:{sign(f'{client.socket_id}::user::{data}')}"
    other.say("pusher:signin", {"auth": auth, "user_data": data})
    assert other.message().json["event"] == "pusher:error"
    other.closed(4009)
    client.is_quiet()


def test_client_events_reach_the_others_of_a_private_channel_of_the_client(
    clients: tuple[Client, Client],
) -> None:
    ann, bob = clients
    for client, user in ((ann, "ann"), (bob, "bob")):
        client.subscribes("presence-a", user)
    ann.event("pusher_internal:member_added", "presence-a")
    ann.say("client-moved", {"x": 1}, "presence-a")
    found = bob.message().json
    assert found == {
        "event": "client-moved",
        "channel": "presence-a",
        "data": '{"x": 1}',
        "user_id": "ann",
    }
    for channel in ("news", "private-encrypted-a", "private-other"):
        bob.subscribes(channel)
        if channel != "private-other":
            ann.subscribes(channel)
        ann.say("client-moved", {}, channel)
        assert ann.event("pusher:error")["code"] == 4301
    bob.is_quiet()


def test_an_app_limits_users_of_presence_channels_and_client_events(
    start_server: StartServer,
) -> None:
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


# --- the HTTP API -------------------------------------------------------------


EVENT: dict[str, Any] = {"name": "e", "channels": ["a"], "data": "x"}
SINGLE: dict[str, Any] = {"name": "e", "channel": "a", "data": "x"}
REFUSALS = {
    tuple(row.values()): row["when"]
    for row in table_with(
        ROOT / "docs/reference/pusher-dialect.md", "status", "text", "when"
    )
}
"""Status, text and case of each row of the table of errors."""
CHANNELS = "/apps/7/channels"


def query(path: str = CHANNELS, **params: Any) -> Ask:
    return lambda server: call(server, "GET", path, **params)


def event(**fields: Any) -> Ask:
    body = {
        name: value for name, value in {**EVENT, **fields}.items() if value is not None
    }
    return lambda server: call(server, "POST", "/apps/7/events", body)


def batch(*events: Any) -> Ask:
    return lambda server: call(
        server, "POST", "/apps/7/batch_events", {"batch": events}
    )


def plain(text: str) -> Ask:
    """A request with this query, which is not signed."""
    return lambda server: ask(server.http, request(f"{CHANNELS}?{text}"))


BAD: dict[str, list[Ask]] = {
    "the request is not signed": [plain("")],
    "no app has the key": [query(auth_key="nokey")],
    "auth_version is missing": [plain("auth_key=shopkey")],
    "auth_version is not 1.0": [query(auth_version="2.0")],
    "auth_timestamp is no number": [
        query(auth_timestamp="soon"),
        query(auth_timestamp="9" * 30),
    ],
    "the clocks differ, or the request is old": [
        query(auth_timestamp="1000"),
        query(auth_timestamp="9" * 14),
    ],
    "the signature is missing or wrong": [
        lambda server: ask(server.http, request(f"{CHANNELS}?{signed_query()}")),
        lambda server: ask(
            server.http, request(f"{CHANNELS}?{signed_query()}&auth_signature=00")
        ),
    ],
    "the body was changed": [
        lambda server: call(server, "POST", "/apps/7/events", EVENT, body_md5="0" * 32)
    ],
    "no app has this app_id": [query("/apps/9/channels")],
    "the key belongs to another app": [query("/apps/8/channels")],
    "an event lacks name or data, a body batch": [event(name=None)],
    "a field has another type, or the body is no JSON": [
        event(data={"a": 1}),
        lambda server: call(server, "POST", "/apps/7/events"),
        lambda server: call(server, "POST", "/apps/7/events", []),
    ],
    "the event has no channel or more than 100": [
        event(channels=[]),
        event(channels=["a"] * 101),
    ],
    "the name of the event is empty or longer": [event(name=""), event(name="x" * 201)],
    "it begins with pusher: or pusher_internal:": [
        event(name="pusher_internal:member_added")
    ],
    "the name of a channel has other characters": [
        event(channels=["#x"]),
        event(channels=["a", "café"]),
    ],
    "it is longer": [event(channels=["x" * 256])],
    "socket_id is not two numbers with a dot": [event(socket_id="x")],
    "data has more than event_bytes": [
        event(data="x" * 10241),
        batch({**SINGLE, "data": "x" * 10241}),
    ],
    "there are more events": [batch(*[SINGLE] * 11)],
    "the batch is empty": [batch()],
    "an event of a batch has no channel": [batch(SINGLE, EVENT)],
    "a list of other channels with info=user_count": [
        query(info="user_count"),
        query(info="user_count", filter_by_prefix="private-"),
    ],
    "another channel with info=user_count": [
        query(f"{CHANNELS}/news", info="user_count")
    ],
    "the users of another channel": [query(f"{CHANNELS}/news/users")],
}


def signed_query() -> str:
    """The parameters of a request, without its signature."""
    return f"auth_key=shopkey&auth_version=1.0&auth_timestamp={int(time.time())}"


@pytest.mark.parametrize(("status", "text", "when"), REFUSALS, ids=REFUSALS.values())
def test_errors_have_the_texts_of_the_reference(
    server: Server, status: str, text: str, when: str
) -> None:
    expected = ".*".join(map(re.escape, text.split("…"))) + "\n"
    for each in BAD[when]:
        answer = each(server)
        assert answer.status == int(status), answer
        assert re.fullmatch(expected, answer.body.decode()), answer


def test_each_bad_request_has_its_row_in_the_reference() -> None:
    assert BAD.keys() == set(REFUSALS.values())


def test_the_error_of_a_signature_shows_what_to_sign(server: Server) -> None:
    unsigned = signed_query()
    text = ask(
        server.http, request(f"{CHANNELS}?{unsigned}&auth_signature=00")
    ).body.decode()
    wanted = "&".join(sorted(unsigned.split("&")))
    assert f'HmacSHA256Hex("GET\\n{CHANNELS}\\n{wanted}", your_secret_key)' in text
    assert SHOP["secret"] not in text
    for address in (server.http, server.ws):
        up = ask(address, request("/up"))
        assert (up.status, up.body) == (200, b'{"health":"OK"}')


# --- channels of a user or of the members of a group --------------------------


def test_clients_are_members_of_groups_when_they_have_signed_in(
    start_server: StartServer,
) -> None:
    channels = {
        "club": {"subscribe": "members", "publish": "subscribers", "presence": True},
        "private-club": {"subscribe": "members"},
        "presence-club": {"subscribe": "members"},
    }
    apps = {"shop": {"open": True, "pusher": SHOP, "channels": channels}}
    server = start_server(config={"apps": apps, "api": API})
    ann = "ann"
    bob = "bob"

    def publish(text: str) -> None:
        publication = {"app": "shop", "channel": f"user:{ann}", "text": text}
        assert (
            good(server.http, "channels/publish", publication, key=KEY)["status"]
            == "sent"
        )
        assert a.event("text", f"user:{ann}") == text

    with Client(server.ws) as a, Client(server.ws) as b:
        body = {"app": "shop", "user": ann, "name": "tea", "members": [bob]}
        group = good(server.http, "groups/create", body, key=KEY)["group"]
        for client, user in ((a, ann), (b, bob)):
            client.asks(f"club:{group}")
            assert (
                client.event("pusher:subscription_error", f"club:{group}")["status"]
                == 403
            )
            client.signs_in(user)
            client.event("pusher:signin_success")
        for channel in (f"club:{group}", f"group:{group}", f"user:{ann}"):
            a.say("pusher:subscribe", {"channel": channel})
            a.event("pusher_internal:subscription_succeeded", channel)
        a.say("pusher:subscribe", {"channel": f"private-club:{group}"})
        assert (
            a.event("pusher:subscription_error", f"private-club:{group}")["status"]
            == 401
        )
        a.subscribes(f"private-club:{group}")
        a.asks("private-club:999999")
        assert (
            a.event("pusher:subscription_error", "private-club:999999")["status"] == 403
        )
        b.subscribes(f"presence-club:{group}", bob)
        a.subscribes(f"presence-club:{group}", ann)
        assert (
            b.event("pusher_internal:member_added", f"presence-club:{group}")["user_id"]
            == ann
        )
        publish("hello")
        good(
            server.http,
            "groups/remove",
            {"app": "shop", "group": group, "members": [ann]},
            key=KEY,
        )
        for kind in ("club", "group", "private-club", "presence-club"):
            error = a.event("pusher:subscription_error", f"{kind}:{group}")
            assert (error["type"], error["status"]) == ("Ended", 403)
        assert b.event("pusher_internal:member_removed", f"presence-club:{group}") == {
            "user_id": ann
        }
        publish("bye")


@pytest.mark.full("processes")
def test_nodes_share_channels(tmp_path: Path) -> None:
    with nodes_of(tmp_path, 2, apps={"shop": {"pusher": SHOP}}, api=API) as nodes:
        first, second = nodes.servers
        with (
            Client(first.ws) as ann,
            Client(second.ws) as bob,
            Client(second.ws) as again,
        ):
            ann.subscribes("presence-a", "ann")
            found = eventually(
                lambda: call(second, "GET", "/apps/7/channels/presence-a/users").json[
                    "users"
                ]
            )
            assert found == [{"id": "ann"}]
            assert bob.subscribes("presence-a", "bob")["presence"]["ids"] == [
                "ann",
                "bob",
            ]
            assert (
                ann.event("pusher_internal:member_added", "presence-a")["user_id"]
                == "bob"
            )
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
            assert bob.event("pusher_internal:member_removed", "presence-a") == {
                "user_id": "ann"
            }
            for number, client in enumerate((ann, bob), 1):
                client.subscribes("news")
                for node in (first, second):
                    found = call(
                        node, "GET", "/apps/7/channels/news", info="subscription_count"
                    ).json
                    assert found == {"occupied": True, "subscription_count": number}
            eventually(
                lambda: (
                    call(first, "GET", "/apps/7/connections").json == {"connections": 2}
                )
            )
