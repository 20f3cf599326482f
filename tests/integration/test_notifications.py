"""Notifications from end to end: a server, a push service and a device that decrypts what it gets."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from imserver.notifications.contract import Shown
from tests.conftest import StartServer
from tests.notifications.devices import Device
from tests.support import Server, eventually
from tests.users import User

from .raw import ask, bearer, request
from .test_v1_publisher import command, publisher
from .v1 import call, good

KEY = "key-of-the-shop-0123456789"
APP = "shop"


class PushService:
    """Takes what is posted, and answers with the status in the path: ``/<user>/<status>``."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                service.received.append((self.path, dict(self.headers), content))
                self.send_response(int(self.path.rpartition("/")[2]))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def of(self, user: str) -> list[tuple[str, dict[str, str], bytes]]:
        return [each for each in self.received if each[0].startswith(f"/{user}/")]


@pytest.fixture(scope="module")
def service() -> Iterator[PushService]:
    one = PushService()
    yield one
    one.stop()


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
    service: PushService

    def subscribe(self, service: PushService, status: int = 201) -> None:
        self.service, self.device = service, Device()
        known = self.device.endpoint(f"{service.url}/{self.user}/{status}")
        keys = {"p256dh": known.p256dh, "auth": known.auth}
        self.endpoint = self.post("notifications/endpoints", endpoint=known.url, keys=keys)["id"]

    def shown(self, count: int) -> list[Shown]:
        """What the device has got, once there are so many."""
        service, user = self.service, self.user
        eventually(lambda: len(service.of(user)) >= count, what=f"{count} notifications")
        return [self.device.shown(content) for _, _, content in self.service.of(self.user)]


def person(server: Server, service: PushService, status: int = 201) -> Person:
    one = Person.register(server, APP)
    one.subscribe(service, status)
    return one


def events_of(server: Server, user: str) -> list[dict[str, Any]]:
    page = good(server.http, "events/log", app=APP, limit=1000, key=KEY)
    return [each for each in page["events"] if each["user"] == user]


def test_a_message_is_shown_answered_and_closed(server: Server, service: PushService) -> None:
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


def test_a_push_that_is_not_stored_is_shown(server: Server, service: PushService) -> None:
    bob = person(server, service)
    notify = {"title": "Order 17", "url": "/orders/17", "tag": "17", "ttl": 600}
    push = {"app": APP, "user": bob.user, "text": "It has left", "notify": notify}
    assert good(server.http, "push", push, key=KEY)["results"][0]["status"] == "absent"
    (shown,) = bob.shown(1)
    assert (shown.kind, shown.title, shown.body, shown.url) == (
        "push",
        "Order 17",
        "It has left",
        "/orders/17",
    )
    ((_, headers, _),) = service.of(bob.user)
    assert int(headers["TTL"]) <= 600


def test_a_publisher_connection_may_have_it(server: Server, service: PushService) -> None:
    bob = person(server, service)
    push = {"app": APP, "user": bob.user, "text": "It has left", "notify": {"title": "Order 17"}}
    with publisher(server, KEY) as one:
        one.send(command(1, **push), command(2, **{**push, "notify": True}))
        assert one.message().json["results"][0]["status"] == "absent"
        assert one.message().json["error"]["code"] == "invalid_request"
    assert [shown.title for shown in bob.shown(1)] == ["Order 17"]


def test_what_a_bot_says_of_its_notification_is_shown(server: Server, service: PushService) -> None:
    bob = person(server, service)
    push = {"app": APP, "user": bob.user, "text": "It has left", "store": True}
    good(server.http, "push", {**push, "notify": {"title": "Order 17"}}, key=KEY)
    (shown,) = bob.shown(1)
    assert (shown.kind, shown.title, shown.body) == ("message", "Order 17", "It has left")
    good(server.http, "push", {**push, "notify": False}, key=KEY)
    bob.post("notifications/test")
    assert [shown.kind for shown in bob.shown(2)] == ["message", "test"]


def test_an_endpoint_that_is_gone_is_removed_and_reported(server: Server, service: PushService) -> None:
    bob = person(server, service, 410)
    bob.post("notifications/test")
    eventually(lambda: not bob.get("notifications/endpoints")["endpoints"], what="its end")
    (event,) = eventually(lambda: events_of(server, bob.user), what="an event")
    assert (event["event"], event["endpoint"]) == ("gone", bob.endpoint)
    assert event["host"] == service.url.removeprefix("http://")


def test_metrics_say_what_became_of_notifications(server: Server, service: PushService) -> None:
    bob = person(server, service)
    bob.post("notifications/test")
    bob.shown(1)
    text = ask(server.http, bearer(request("/metrics"), KEY)).body.decode()
    assert 'imserver_notifications_total{node="' in text
    assert f',app="{APP}",kind="test",result="taken"}} ' in text
    assert "imserver_notifications_lost_total" in text
