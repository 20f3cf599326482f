"""Channels that belong to a user or to the members of a group, in the cmd and pusher dialects."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Server

from .clusters import Nodes, nodes_of
from .cmd import CmdClient, fresh, logged_in
from .pusher import SHOP
from .pusher import Client as PusherClient
from .v1 import good

KEY = "key-of-all-apps-0123456789"
CONFIG: dict[str, Any] = {
    "apps": {
        "shop": {
            "open": True,
            "pusher": SHOP,
            "channels": {
                "club": {"subscribe": "members", "publish": "subscribers", "presence": True},
                "private-club": {"subscribe": "members"},
                "presence-club": {"subscribe": "members"},
            },
        }
    },
    "api": {"keys": [{"key": KEY, "scopes": ["admin"]}]},
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("groups"), 2, **CONFIG) as two:
        yield two


def group_of(server: Server, *users: str) -> str:
    body = {"app": "shop", "user": users[0], "name": "tea", "members": users[1:]}
    group: str = good(server.http, "groups/create", body, key=KEY)["group"]
    return group


def remove(server: Server, group: str, *users: str) -> None:
    good(server.http, "groups/remove", {"app": "shop", "group": group, "members": users}, key=KEY)


def publish(server: Server, channel: str, text: str) -> None:
    found = good(server.http, "channels/publish", {"app": "shop", "channel": channel, "text": text}, key=KEY)
    assert found["status"] == "sent"


def subscribe(client: CmdClient, channel: str) -> int:
    return client.ask_cmd("subscribe", {"channel": channel})[0]


def received(client: CmdClient, cmd: str) -> Any:
    """The data of the next push, which must be this one."""
    while True:
        found = client.push().json
        if found["cmd"] not in ("enter", "exit"):
            assert found["cmd"] == cmd, found
            return found["response"]["data"]


def test_a_channel_of_a_group_is_for_its_members_as_long_as_they_are(nodes: Nodes) -> None:
    server, other = nodes.servers
    ann, bob, eve = fresh("ann"), fresh("bob"), fresh("eve")
    group = group_of(server, ann, bob)
    club, own = f"club:{group}", f"group:{group}"
    with (
        logged_in(server.ws, ann, "shop") as a,
        logged_in(other.ws, bob, "shop") as b,
        logged_in(other.ws, eve, "shop") as e,
    ):
        for channel in (club, own):
            assert (subscribe(a, channel), subscribe(b, channel)) == (200, 200)
            assert subscribe(e, channel) == 1003
        for channel in ("club:999999", "club:tea", f"club:{group}:1", "club:", "group:999999", "group:tea"):
            assert subscribe(a, channel) == 1003
        assert b.ask_cmd("publish", {"channel": club, "text": "milk?"})[0] == 200
        assert [received(each, "publication")["text"] for each in (a, b)] == ["milk?"] * 2
        assert e.ask_cmd("publish", {"channel": club, "text": "x"})[0] == 1003
        assert a.ask_cmd("publish", {"channel": own, "text": "x"})[0] == 1003  # groups have stored messages
        remove(other, group, ann)
        ended = [received(a, "unsubscribed") for _ in range(2)]
        assert sorted((each["channel"], each["code"]) for each in ended) == [(club, 2000), (own, 2000)]
        publish(server, club, "and sugar")
        publish(server, own, "and sugar")
        assert [received(b, "publication")["channel"] for _ in range(2)] == [club, own]
        a.no_push("publication", "msg")
        assert (subscribe(a, club), subscribe(a, own)) == (1003, 1003)
        present = good(server.http, "channels/presence", app="shop", channel=club, key=KEY)
        assert [each["user"] for each in present["subscribers"]] == [bob]


def test_clients_of_pusher_are_members_when_they_have_signed_in(nodes: Nodes) -> None:
    server, _ = nodes.servers
    ann, bob = fresh("ann"), fresh("bob")
    group = group_of(server, ann, bob)
    with PusherClient(server.ws) as a, PusherClient(server.ws) as b:
        for client, user in ((a, ann), (b, bob)):
            client.asks(f"club:{group}")
            assert client.event("pusher:subscription_error", f"club:{group}")["status"] == 403
            client.signs_in(user)
            client.event("pusher:signin_success")
        for channel in (f"club:{group}", f"group:{group}", f"user:{ann}"):
            a.say("pusher:subscribe", {"channel": channel})
            a.event("pusher_internal:subscription_succeeded", channel)
        a.say("pusher:subscribe", {"channel": f"private-club:{group}"})
        assert a.event("pusher:subscription_error", f"private-club:{group}")["status"] == 401
        a.subscribes(f"private-club:{group}")
        a.asks("private-club:999999")
        assert a.event("pusher:subscription_error", "private-club:999999")["status"] == 403
        b.subscribes(f"presence-club:{group}", bob)
        a.subscribes(f"presence-club:{group}", ann)
        assert b.event("pusher_internal:member_added", f"presence-club:{group}")["user_id"] == ann
        publish(server, f"user:{ann}", "hello")
        assert a.event("text", f"user:{ann}") == "hello"
        remove(server, group, ann)
        channels = [f"{kind}:{group}" for kind in ("club", "group", "private-club", "presence-club")]
        for channel in channels:
            ended = a.event("pusher:subscription_error", channel)
            assert (ended["type"], ended["status"]) == ("Ended", 403)
        assert b.event("pusher_internal:member_removed", f"presence-club:{group}") == {"user_id": ann}
        publish(server, f"user:{ann}", "bye")
        assert a.event("text", f"user:{ann}") == "bye"
