"""Channels when Redis or a node fails: what goes on, what is reached afterwards, and what nobody is told."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.clusters import Launch, Nodes, leases
from tests.integration.cmd import CmdClient, get, logged_in
from tests.integration.test_channels_cluster import nothing, publish, subscribe, texts
from tests.integration.v1 import good
from tests.processes import pause
from tests.support import Server, eventually

from .test_nodes import QUICK

APP = 102
SETTLE_SECONDS = 60.0


@pytest.fixture(params=["default", "quick"])
def nodes(request: pytest.FixtureRequest, cluster: Launch) -> Nodes:
    """Two nodes, whose leases outlive what is done here, or do not."""
    apps = {str(APP): {"login_policy": "multi"}}
    return cluster(2, apps=apps, cluster=QUICK if request.param == "quick" else {})


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def enter(stack: ExitStack, server: Server, user: str) -> CmdClient:
    return stack.enter_context(logged_in(server.ws, user, APP))


def receive(server: Server, channel: str, text: str, *people: CmdClient, **more: Any) -> None:
    """Publish at one node: each of these people is told."""
    publish(server.http, APP, channel, text)
    for one in people:
        assert texts(one, 1) == [text]


def all_hear(nodes: Nodes, channel: str, word: str, *people: CmdClient) -> None:
    """Whatever is published at any node reaches each of these people once."""
    for number, server in enumerate(nodes.running):
        receive(server, channel, f"{word} {number}", *people)
    nothing(*people)


def ready(nodes: Nodes) -> None:
    for server in nodes.running:
        eventually(lambda server=server: get(server.http, "/ready").status == 200, SETTLE_SECONDS, "ready")


def not_ready(nodes: Nodes) -> None:
    for server in nodes.running:
        eventually(lambda server=server: get(server.http, "/ready").status == 503, what="not ready")


def everybody_is_known(nodes: Nodes, channel: str, *users: str) -> None:
    """Every node tells exactly these subscribers, and waits for nobody any more."""

    def received(server: Server) -> bool:
        found = good(server.http, "channels/presence", app=APP, channel=channel)
        names = sorted(each["user"] for each in found["subscribers"])
        return names == sorted(users) and not found["missing_nodes"]

    for server in nodes.running:
        eventually(lambda server=server: received(server), SETTLE_SECONDS, "the subscribers")


def recorded(nodes: Nodes, channel: str) -> int:
    """How many nodes the records name for a channel; dead lives included."""
    with nodes.redis.client() as redis:
        found = [redis.hget(key, channel) for key in redis.scan_iter("imserver:channels:*", 1000)]
    return sum(len(value.split(",")) for value in found if value)


def test_channels_go_on_without_redis_and_are_reported_to_the_one_that_comes_back_empty(
    nodes: Nodes, stack: ExitStack
) -> None:
    one, two = nodes.servers
    ann, bob = enter(stack, one, "ann"), enter(stack, two, "bob")
    subscribe(two.http, APP, "lobby", "ann", "bob")
    all_hear(nodes, "lobby", "before", ann, bob)

    nodes.redis.kill()
    not_ready(nodes)
    all_hear(nodes, "lobby", "meanwhile", ann, bob)
    cid = enter(stack, two, "cid")
    assert subscribe(two.http, APP, "late", "cid") == ["subscribed"]
    all_hear(nodes, "late", "subscribed meanwhile", cid)

    nodes.redis.start()
    ready(nodes)
    everybody_is_known(nodes, "lobby", "ann", "bob")
    everybody_is_known(nodes, "late", "cid")
    eventually(lambda: (recorded(nodes, "lobby"), recorded(nodes, "late")) == (2, 1), SETTLE_SECONDS)
    all_hear(nodes, "lobby", "after", ann, bob)
    all_hear(nodes, "late", "after", cid)


def test_a_flush_loses_no_channel(nodes: Nodes, stack: ExitStack) -> None:
    one, two = nodes.servers
    ann, bob = enter(stack, one, "ann"), enter(stack, two, "bob")
    subscribe(one.http, APP, "lobby", "ann", "bob")
    subscribe(one.http, APP, "garden", "bob")
    with nodes.redis.client() as redis:
        redis.flushall()
    eventually(lambda: (recorded(nodes, "lobby"), recorded(nodes, "garden")) == (2, 1), SETTLE_SECONDS)
    nodes.wait_until_met()
    all_hear(nodes, "lobby", "after", ann, bob)
    all_hear(nodes, "garden", "after", bob)


def test_a_paused_redis_holds_up_no_publish_for_long(nodes: Nodes, stack: ExitStack) -> None:
    one, two = nodes.servers
    ann, bob = enter(stack, one, "ann"), enter(stack, two, "bob")
    subscribe(one.http, APP, "lobby", "ann", "bob")
    nodes.redis.pause()
    try:
        began = time.monotonic()
        all_hear(nodes, "lobby", "meanwhile", ann, bob)
        assert time.monotonic() - began < 10, "Redis stands still until the end of this test"
    finally:
        nodes.redis.resume()
    ready(nodes)
    all_hear(nodes, "lobby", "after", ann, bob)


def test_a_killed_nodes_subscribers_are_gone_without_notice(nodes: Nodes, stack: ExitStack) -> None:
    one, two = nodes.servers
    ann, bob = enter(stack, one, "ann"), enter(stack, two, "bob")
    subscribe(one.http, APP, "lobby", "ann", "bob")
    all_hear(nodes, "lobby", "before", ann, bob)
    two.process.kill()
    two.process.wait()
    receive(one, "lobby", "meanwhile", ann)
    everybody_is_known(nodes, "lobby", "ann")
    eventually(lambda: recorded(nodes, "lobby") == 1, 60, "what the dead node left is cleared away")
    receive(one, "lobby", "after", ann)
    nothing(ann)


def test_a_node_that_stood_still_for_longer_than_its_lease_has_its_channels_again(
    cluster: Launch, stack: ExitStack
) -> None:
    nodes = cluster(2, apps={str(APP): {"login_policy": "multi"}}, cluster=QUICK)
    one, two = nodes.servers
    ann, bob = enter(stack, one, "ann"), enter(stack, two, "bob")
    subscribe(one.http, APP, "lobby", "ann", "bob")
    subscribe(one.http, APP, "garden", "bob")
    pause(two.process.pid)
    try:
        eventually(lambda: len(leases(one)) == 1, what="its lease is over")
        receive(one, "lobby", "meanwhile", ann)
    finally:
        two.process.send_signal(signal.SIGCONT)
    nodes.wait_until_met()
    ready(nodes)
    everybody_is_known(nodes, "lobby", "ann", "bob")
    all_hear(nodes, "lobby", "after", ann, bob)
    all_hear(nodes, "garden", "after", bob)


def test_a_node_that_stops_leaves_no_record_of_its_channels(nodes: Nodes, stack: ExitStack) -> None:
    one, two = nodes.servers
    enter(stack, one, "ann")
    with logged_in(two.ws, "bob", APP):
        subscribe(one.http, APP, "lobby", "ann", "bob")
        subscribe(one.http, APP, "garden", "bob")
        two.stop()
    assert (recorded(nodes, "lobby"), recorded(nodes, "garden")) == (1, 0)
