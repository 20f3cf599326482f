"""Channels when Redis or a node fails: what goes on, what is reached afterwards, and what nobody is told."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.clusters import Launch, Nodes
from tests.integration.cmd import CmdClient, get, logged_in
from tests.integration.test_channels_cluster import nothing, publish, subscribe, texts
from tests.integration.v1 import good
from tests.support import Server, eventually

from .test_nodes import QUICK

APP = 102
SETTLE_SECONDS = 60.0


@pytest.fixture
def nodes(cluster: Launch) -> Nodes:
    return cluster(2, apps={str(APP): {"login_policy": "multi"}}, cluster=QUICK)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def enter(stack: ExitStack, server: Server, user: str) -> CmdClient:
    return stack.enter_context(logged_in(server.ws, user, APP))


def receive(server: Server, channel: str, text: str, *people: CmdClient) -> None:
    """Publish at one node: each of these people is told."""
    publish(server.http, APP, channel, text)
    for one in people:
        assert texts(one, 1) == [text]


def all_hear(nodes: Nodes, channel: str, word: str, *people: CmdClient) -> None:
    """Whatever is published at any node reaches each of these people once."""
    for number, server in enumerate(nodes.running):
        receive(server, channel, f"{word} {number}", *people)
    nothing(*people)


def until_all_answer(nodes: Nodes, status: int) -> None:
    for server in nodes.running:
        eventually(lambda server=server: get(server.http, "/ready").status == status, SETTLE_SECONDS, "ready")


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
    until_all_answer(nodes, 503)
    all_hear(nodes, "lobby", "meanwhile", ann, bob)
    cid = enter(stack, two, "cid")
    assert subscribe(two.http, APP, "late", "cid") == ["subscribed"]
    all_hear(nodes, "late", "subscribed meanwhile", cid)

    nodes.redis.start()
    until_all_answer(nodes, 200)
    everybody_is_known(nodes, "lobby", "ann", "bob")
    everybody_is_known(nodes, "late", "cid")
    eventually(lambda: (recorded(nodes, "lobby"), recorded(nodes, "late")) == (2, 1), SETTLE_SECONDS)
    all_hear(nodes, "lobby", "after", ann, bob)
    all_hear(nodes, "late", "after", cid)


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
