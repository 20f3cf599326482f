"""Web Push to web-push-testing of npm: it verifies the token and decrypts, as push service and browser do."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.gateway.transport.outgoing import PublicRequests
from imserver.notifications.contract import PushEndpoint, Shown
from imserver.notifications.declared import NotificationSettings
from imserver.notifications.webpush import WebPush
from tests.notifications.devices import body
from tests.processes import spawn
from tests.tools import require

PROGRAM = Path(__file__).with_name("push_service.mjs")
pytestmark = pytest.mark.needs("node", "web-push-testing")


class PushService:
    """A running service."""

    def __init__(self) -> None:
        command = [require("node"), str(PROGRAM), require("web-push-testing")]
        self._process = spawn(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self.url = next(line.strip() for line in self._process.stdout if line.startswith("http://"))

    def stop(self) -> None:
        self._process.communicate(timeout=60)

    def ask(self, path: str, **values: Any) -> Any:
        question = urllib.request.Request(self.url + path, json.dumps(values).encode())
        question.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(question, timeout=60) as answer:
            text = answer.read()
        return json.loads(text)["data"] if text.startswith(b"{") else None

    def subscribe(self, key: str) -> PushEndpoint:
        """What a browser gives for ``pushManager.subscribe({applicationServerKey: key})``."""
        data = self.ask("/subscribe", userVisibleOnly="true", applicationServerKey=key)
        keys = data["keys"]
        return PushEndpoint(1, "shop", "ann", data["endpoint"], keys["p256dh"], keys["auth"])

    def shown(self, endpoint: PushEndpoint) -> list[Shown]:
        """The notifications that the browser has decrypted."""
        data = self.ask("/get-notifications", clientHash=endpoint.url.rpartition("/")[2])
        return [msgspec.json.decode(text, type=Shown) for text in data["messages"]]


@pytest.fixture(scope="module")
def service() -> Iterator[PushService]:
    one = PushService()
    yield one
    one.stop()


Make = Callable[..., WebPush]


@pytest.fixture
def make() -> Iterator[Make]:
    """``make(1)``: a server with another key than that of ``make(2)``."""
    opened: list[WebPush] = []

    def start(seed: int = 1) -> WebPush:
        one = WebPush(PublicRequests(True), NotificationSettings(allow_loopback=True), bytes([seed] * 32))
        opened.append(one)
        return one

    yield start
    for one in opened:
        one.close()


def test_it_verifies_and_decrypts(service: PushService, make: Make) -> None:
    push = make()
    endpoint = service.subscribe(push.public_key)
    push.check(endpoint.url, endpoint.p256dh, endpoint.auth)
    assert push.send(endpoint, body(title="Ann", body="你好"), 60, "high", "topic").status == 201
    assert push.send(endpoint, body(body="long " * 2000), 60, "normal", "topic").status == 201
    first, second = service.shown(endpoint)
    assert first == Shown("message", "t", "Ann", "你好")
    assert second.body.startswith("long long")


def test_it_refuses_the_token_of_another_server(service: PushService, make: Make) -> None:
    endpoint = service.subscribe(make().public_key)
    result = make(2).send(endpoint, body(), 60, "normal", "topic")
    assert (result.outcome, result.status) == ("refused", 400)
    assert service.shown(endpoint) == []
