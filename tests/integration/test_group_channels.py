"""Channels of a user or of the members of a group, for clients of Pusher."""

from typing import Any

from tests.conftest import StartServer
from tests.support import Server

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


def publish(server: Server, channel: str, text: str) -> None:
    found = good(server.http, "channels/publish", {"app": "shop", "channel": channel, "text": text}, key=KEY)
    assert found["status"] == "sent"


def test_clients_of_pusher_are_members_when_they_have_signed_in(start_server: StartServer) -> None:
    server, ann, bob = start_server(config=CONFIG), "ann", "bob"
    with PusherClient(server.ws) as a, PusherClient(server.ws) as b:
        body = {"app": "shop", "user": ann, "name": "tea", "members": [bob]}
        group = good(server.http, "groups/create", body, key=KEY)["group"]
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
        good(server.http, "groups/remove", {"app": "shop", "group": group, "members": [ann]}, key=KEY)
        for kind in ("club", "group", "private-club", "presence-club"):
            error = a.event("pusher:subscription_error", f"{kind}:{group}")
            assert (error["type"], error["status"]) == ("Ended", 403)
        assert b.event("pusher_internal:member_removed", f"presence-club:{group}") == {"user_id": ann}
        publish(server, f"user:{ann}", "bye")
        assert a.event("text", f"user:{ann}") == "bye"
