"""Notifications from end to end: a server, a push service and a device that decrypts what it gets."""

from collections.abc import Iterator
from typing import Any

import pytest

from imserver.notifications.contract import Shown
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
    events = ["notified", "gone"]
    app = {"account_tokens": "required", "notify": rules, "webhook": {"events": events}}
    return start_shared_server(
        config={
            "apps": {APP: app},
            "api": {"keys": [{"key": KEY, "scopes": ["push", "admin"]}]},
            "accounts": {"registration": True, "registrations_per_address": 0},
            "notifications": {"allow_loopback": True},
        }
    )


class Person(User):
    """A user with a device."""

    device: Device
    endpoint: int
    service: Receiver

    def subscribe(self, service: Receiver, status: int = 201) -> None:
        self.service, self.device = service, Device()
        known = self.device.endpoint(f"{service.url}/{self.user}/{status}")
        keys = {"p256dh": known.p256dh, "auth": known.auth}
        self.endpoint = self.post("notifications/endpoints", endpoint=known.url, keys=keys)["id"]

    def shown(self, count: int) -> list[Shown]:
        """What the device has got, once there are so many."""
        service, user = self.service, self.user
        eventually(lambda: len(posts_of(service, user)) >= count, what=f"{count} notifications")
        return [self.device.shown(post.body) for post in posts_of(service, user)]


def person(server: Server, service: Receiver, status: int = 201) -> Person:
    one = Person.register(server, APP)
    one.subscribe(service, status)
    return one


def events_of(server: Server, user: str) -> list[dict[str, Any]]:
    page = good(server.http, "events/log", app=APP, limit=1000, key=KEY)
    return [each for each in page["events"] if each["user"] == user]


def test_a_message_is_shown_answered_and_closed(server: Server, service: Receiver) -> None:
    ann, bob = User.register(server, APP, nickname="Ann"), person(server, service)
    sent = ann.post("messages/send", to=bob.user, text="tea?")
    (shown,) = bob.shown(1)
    assert (shown.kind, shown.title, shown.body, shown.count) == ("message", "Ann", "tea?", 1)
    body = {"token": shown.token, "action": "reply", "text": "yes"}
    answer = call(server.http, "notifications/act", body)
    assert (answer.status, answer.json["read"]) == (200, sent["id"])
    page = ann.get("messages", conversation=sent["conversation"])["messages"]
    assert [each["text"] for each in page] == ["tea?", "yes"]
    _, closed = bob.shown(2)
    assert (closed.kind, closed.tag) == ("close", shown.tag)
    (event,) = eventually(lambda: events_of(server, bob.user), what="an event")
    assert event["event"] == "notified"
    assert (event["kind"], event["entry"], event["endpoint"]) == ("message", sent["id"], bob.endpoint)
