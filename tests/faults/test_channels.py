"""Channels with history when a publishing node is killed, and when Redis loses its data."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.clusters import Launch
from tests.integration.raw import Ended, Raw, text
from tests.integration.v1 import good
from tests.ports import free_ports
from tests.support import Server, eventually

from .proxy import Proxy
from .test_nodes import QUICK

pytestmark = pytest.mark.linux

APP = "102"
NEWS = "news"
OPTIONS = {"subscribe": "anybody", "history_size": 100, "history_seconds": 300}
STORED = {"subscribe": "anybody", "history": "log"}
APPS = {APP: {"open": True, "channels": {"*": OPTIONS}}}
STORED_APPS = {APP: {"open": True, "channels": {"*": STORED}}}
CHECK_SECONDS = 60.0
"""A node compares its positions with the history every few seconds."""


class Subscriber:
    """A client of Centrifugo with one subscription, from a position or from now."""

    def __init__(self, server: Server, epoch: str = "", offset: int = 0) -> None:
        self.raw = Raw(server.ws).upgrade(f"/connection/{APP}/websocket")
        request: dict[str, Any] = {"channel": NEWS, "recoverable": True, "positioned": True}
        if epoch:
            request |= {"recover": True, "epoch": epoch, "offset": offset}
        self.raw.send(text('{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "subscribe": request})))
        assert self.next()["id"] == 1
        self.subscribed = self.next()["subscribe"]
        self.epoch = self.subscribed["epoch"]

    def next(self, seconds: float = CHECK_SECONDS) -> Any:
        """The next reply or push that is no ping."""
        while not (found := self.raw.message(seconds).json):
            self.raw.send(text("{}"))
        return found

    def publications(self, number: int) -> list[tuple[int, str]]:
        found = [self.next()["push"]["pub"] for _ in range(number)]
        return [(each["offset"], each["data"]) for each in found]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def enter(stack: ExitStack, server: Server, epoch: str = "", offset: int = 0) -> Subscriber:
    subscriber = Subscriber(server, epoch, offset)
    stack.enter_context(subscriber.raw)
    return subscriber


def publish(server: Server, message: str) -> tuple[str, int]:
    """Publish a text; the position that the answer names."""
    answer = good(server.http, "channels/publish", {"app": APP, "channel": NEWS, "text": message})
    assert answer["status"] in ("sent", "partly"), answer
    return answer["epoch"], answer["offset"]


@pytest.mark.parametrize("apps", [APPS, STORED_APPS], ids=["bounded", "stored"])
def test_what_a_killed_node_has_stored_and_not_sent_arrives(
    cluster: Launch, stack: ExitStack, apps: Any
) -> None:
    nodes = cluster(0, apps=apps, cluster=QUICK)
    proxies = []
    for index in range(2):
        port, address = free_ports(2), f"127.0.1.{index + 1}"
        proxies.append(stack.enter_context(Proxy(address, "127.0.0.1", (port, port + 1))))
        nodes.start({"app": {"rpc_port": port}, "cluster": {"advertise": address, "bind": "127.0.0.1"}})
    nodes.wait_until_met()
    one, two = nodes.servers
    ann = enter(stack, two)
    publish(one, "one")
    assert ann.publications(1) == [(1, "one")]
    for proxy in proxies:
        proxy.drop()
    epoch, offset = publish(one, "two")
    one.process.kill()
    one.process.wait()
    assert offset == 2
    assert ann.publications(1) == [(2, "two")], "it is read from the history"
    assert publish(two, "three") == (epoch, 3)
    assert ann.publications(1) == [(3, "three")]
    back = enter(stack, two, epoch, 1).subscribed
    assert back["recovered"]
    assert [each["data"] for each in back["publications"]] == ["two", "three"]


@pytest.mark.ci
def test_a_stored_channel_loses_and_doubles_nothing_when_publishing_nodes_are_killed(
    cluster: Launch, stack: ExitStack
) -> None:
    nodes = cluster(3, apps=STORED_APPS, cluster=QUICK)
    *publishing, last = nodes.servers
    ann = enter(stack, last)
    accepted: dict[str, int] = {}
    stop = threading.Event()

    def run(name: str, at: Server) -> None:
        """Publish one by one; what a dead node has not answered is repeated at the last one."""
        for number in range(1000):
            if stop.is_set():
                return
            request = {"app": APP, "channel": NEWS, "text": f"{name}-{number}", "id": f"{name}-{number}"}
            try:
                answer = good(at.http, "channels/publish", request)
            except (Ended, OSError):
                at = last
                answer = good(at.http, "channels/publish", request)
            accepted[f"{name}-{number}"] = answer.get("offset", 0)

    threads = [
        threading.Thread(target=run, args=(name, publishing[index % 2])) for index, name in enumerate("abcd")
    ]
    for thread in threads:
        thread.start()
    try:
        for node in publishing:
            before = len(accepted)
            eventually(lambda before=before: len(accepted) > before + 50, CHECK_SECONDS, "publications")
            node.process.kill()
            node.process.wait()
        before = len(accepted)
        eventually(lambda before=before: len(accepted) > before + 50, CHECK_SECONDS, "publications")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    heard = ann.publications(len(accepted))
    offsets = [offset for offset, _ in heard]
    assert offsets == sorted(set(offsets))
    assert sorted(data for _, data in heard) == sorted(accepted)
    assert all(accepted[data] in (0, offset) for offset, data in heard)
    half = offsets[len(offsets) // 2 :][-900:]
    back = enter(stack, last, ann.epoch, half[0]).subscribed
    assert back["recovered"]
    assert [each["offset"] for each in back["publications"]] == half[1:]


@pytest.mark.parametrize("how", ["restart", "flush"])
def test_every_subscriber_learns_that_redis_has_lost_its_data(
    cluster: Launch, stack: ExitStack, how: str
) -> None:
    nodes = cluster(2, apps=APPS)
    one, two = nodes.servers
    ann, bob = enter(stack, one), enter(stack, two)
    epoch, _ = publish(one, "one")
    assert ann.publications(1) == bob.publications(1) == [(1, "one")]
    if how == "restart":
        nodes.redis.kill()
        nodes.redis.start()
    else:
        with nodes.redis.client() as redis:
            redis.flushall()
    for subscriber in (ann, bob):
        push = subscriber.next()["push"]
        assert (push["channel"], push["unsubscribe"]["code"]) == (NEWS, 2500)
    eventually(lambda: _published(one), CHECK_SECONDS, "the history takes publications again")
    again = enter(stack, two, epoch, 1)
    assert not again.subscribed.get("recovered", False)
    assert again.epoch != epoch
    number = again.subscribed.get("offset", 0)
    assert publish(one, "three") == (again.epoch, number + 1)
    assert again.publications(1) == [(number + 1, "three")]


def _published(server: Server) -> bool:
    answer = good(server.http, "channels/publish", {"app": APP, "channel": NEWS, "text": "two"})
    return answer["status"] == "sent"
