"""ChannelMembers of nodes that share a Redis: which node is told of, and what is not believed any more."""

from collections.abc import Callable

import pytest

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import ReportedMembers
from imserver.gateway.config.settings import ClusterSettings
from tests.gateway.cluster.conftest import PATIENT, Pair, StartNode
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.cluster.test_redis_cleanup import keys
from tests.gateway.cluster.test_redis_nodes import vanish, wait_until_cleaned_up
from tests.support import until


def enter(node: RedisRegistry, *channels: str, members: int = 1, app: str = "101") -> None:
    assert node.report_channels([ReportedMembers(app, channel, members) for channel in channels]) is not None


def where(node: RedisRegistry, channel: str = "lobby", app: str = "101") -> dict[int, int]:
    found = node.find_channels(app, [channel])
    assert found is not None
    return found[0]


def test_every_node_finds_the_nodes_with_members_and_not_those_of_an_earlier_life(
    server: RedisServer, start_node: StartNode
) -> None:
    a, b, c = (start_node(server, number) for number in (1, 2, 3))
    enter(a, "lobby", members=2)
    enter(b, "lobby", members=3)
    for node in (a, b, c):
        assert where(node) == {a.lease.epoch: 2, b.lease.epoch: 3}
    enter(b, "lobby", members=0)
    assert where(c) == {a.lease.epoch: 2}
    vanish(a)
    again = start_node(server, 1)
    assert where(again) == {}
    until(lambda: where(b) == {})
    enter(again, "lobby")
    assert where(b) == {again.lease.epoch: 1}


def test_what_the_dead_left_is_cleared_away(server: RedisServer, pair: Pair) -> None:
    a, b = pair
    channels = [f"channel{number}" for number in range(300)]
    enter(a, *channels)
    enter(a, *channels, app="system:shop:1")
    enter(b, "lobby", members=7)
    vanish(a)
    wait_until_cleaned_up(server, a, b)
    with server.client() as client:
        left = [client.hgetall(key) for key in keys(server, "imserver:channels:*")]
    assert left == [{"lobby": f"{b.lease.epoch}.7"}]
    assert keys(server, "{imserver}:written-channel-buckets:*") == [
        f"{{imserver}}:written-channel-buckets:{b.lease.epoch}"
    ]


@pytest.mark.parametrize("fault", [RedisServer.kill, RedisServer.pause])
def test_no_channel_is_found_while_redis_is_away(
    own_server: RedisServer, start_node: StartNode, fault: Callable[[RedisServer], None]
) -> None:
    a = start_node(own_server, 1, PATIENT)
    enter(a, "lobby")
    fault(own_server)
    assert a.find_channels("101", ["lobby"]) is None
    assert a.report_channels([ReportedMembers("101", "garden", 1)]) is None


def test_a_question_that_had_to_reconnect_is_not_answered(
    own_server: RedisServer, start_node: StartNode
) -> None:
    """Before the watch has looked: another server may have answered."""
    a = start_node(own_server, 1, ClusterSettings(lease_seconds=60, renew_seconds=30, redis_seconds=10.0))
    enter(a, "lobby")
    with own_server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert a.find_channels("101", ["lobby"]) is None


def test_a_node_that_lost_its_lease_gets_everything_until_it_is_settled(pair: Pair) -> None:
    a, b = pair
    enter(a, "lobby", "garden")
    before = a.lease.epoch
    a.recovery.rejoin = True
    until(lambda: a.lease.epoch > before and a.generation() > 1)
    until(lambda: a.lease.epoch in b.leases())
    assert where(b, "any other channel") == {a.lease.epoch: 0}
    enter(a, "lobby", members=1)
    assert where(b) == {a.lease.epoch: 1}
    a.report(0, {})
    until(lambda: where(b, "any other channel") == {})
    assert where(b) == {a.lease.epoch: 1}
    assert where(b, "garden") == {}, "it was reported under the old epoch"
