"""Notifications from end to end: a server, a push service and a device that decrypts what it gets."""

from collections.abc import Iterator
from typing import Any

import pytest

from imserver.notifications.contract import Shown
from imserver.plugin.testing import HostAndPort
from tests.conftest import StartServer
from tests.notifications.devices import Device
from tests.support import Server, eventually
from tests.users import User

from .receiver import Post, Receiver
from .v1 import call, good

KEY = "key-of-the-shop-0123456789"
APP = "shop"


def push_service() -> Iterator[Receiver]:
    """A push service. It answers with the status in the path: ``/<user>/<status>``."""
    with Receiver() as one:
        one.reply = lambda post: (int(post.path.rpartition("/")[2]), b"")
        yield one


service = pytest.fixture(push_service, scope="module")


def posts_of(service: Receiver, user: str) -> list[Post]:
    return [post for post in service.posts if post.path.startswith(f"/{user}/")]


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    rules = {"after_seconds": 0, "again_seconds": 0}
    app = {"account_tokens": "required", "notify": rules, "webhook": {"events": ["notified"]}}
    return start_shared_server(
        config={
            "apps": {APP: app},
            "api": {"keys": [{"key": KEY, "scopes": ["push", "admin"]}]},
            "accounts": {"registration": True, "registrations_per_address": 0},
            "notifications": {"allow_loopback": True},
        }
    )


def subscribe(node: HostAndPort, service: Receiver, user: str, app: str, key: str) -> tuple[Device, int]:
    """A device of a user, and the id of its endpoint, to which a push service says that it was created."""
    device = Device()
    known = device.endpoint(f"{service.url}/{user}/201")
    keys = {"p256dh": known.p256dh, "auth": known.auth}
    body = {"app": app, "user": user, "endpoint": known.url, "keys": keys}
    return device, good(node, "notifications/endpoints", body, key=key)["id"]


def test_a_message_is_shown_answered_and_closed(server: Server, service: Receiver) -> None:
    ann, bob = User.register(server, APP, nickname="Ann"), User.register(server, APP)
    device, endpoint = subscribe(server.http, service, bob.user, APP, KEY)

    def shown(count: int) -> Shown:
        posts = eventually(
            lambda: (found := posts_of(service, bob.user))[count - 1 :] and found, what=f"{count} posts"
        )
        return device.shown(posts[count - 1].body)

    sent = ann.post("messages/send", to=bob.user, text="tea?")
    first = shown(1)
    assert (first.kind, first.title, first.body, first.count) == ("message", "Ann", "tea?", 1)
    body = {"token": first.token, "action": "reply", "text": "yes"}
    answer = call(server.http, "notifications/act", body)
    assert (answer.status, answer.json["read"]) == (200, sent["id"])
    page = ann.get("messages", conversation=sent["conversation"])["messages"]
    assert [each["text"] for each in page] == ["tea?", "yes"]
    closed = shown(2)
    assert (closed.kind, closed.tag) == ("close", first.tag)

    def events() -> list[dict[str, Any]]:
        log = good(server.http, "events/log", app=APP, limit=1000, key=KEY)["events"]
        return [each for each in log if each["user"] == bob.user]

    (event,) = eventually(events, what="an event")
    assert event["event"] == "notified"
    assert (event["kind"], event["entry"], event["endpoint"]) == ("message", sent["id"], endpoint)
