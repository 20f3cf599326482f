"""ChannelMembers of nodes that share a Redis: which node is told of, and what is not believed any more."""

import pytest

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import ReportedMembers
from imserver.gateway.config.settings import ClusterSettings
from tests.gateway.cluster.conftest import LASTING, PATIENT, QUICK, StartNode
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.cluster.test_redis_cleanup import keys
from tests.gateway.cluster.test_redis_nodes import end_lease, vanish, wait_until_cleaned_up
from tests.support import until


def enter(node: RedisRegistry, *channels: str, members: int = 1, app: str = "101") -> None:
    assert node.report_channels([ReportedMembers(app, channel, members) for channel in channels]) is not None


def where(node: RedisRegistry, channel: str = "lobby", app: str = "101") -> dict[int, int]:
    found = node.find_channels(app, [channel])
    assert found is not None
    return found[0]


def test_every_node_finds_the_nodes_with_members(server: RedisServer, start_node: StartNode) -> None:
    a, b, c = (start_node(server, number) for number in (1, 2, 3))
    enter(a, "lobby", members=2)
    enter(b, "lobby", members=3)
    for node in (a, b, c):
        assert where(node) == {a.lease.epoch: 2, b.lease.epoch: 3}
    enter(a, "lobby", members=0)
    assert where(c) == {b.lease.epoch: 3}


def test_a_node_that_joined_just_now_is_found(
    server: RedisServer, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imserver.gateway.cluster.redis.recovery._TICK_SECONDS", 1000.0)
    a = start_node(server, 1, ClusterSettings(lease_seconds=3600, renew_seconds=1000, redis_seconds=10.0))
    b = start_node(server, 2, LASTING)
    assert b.lease.epoch not in a.leases()
    enter(b, "lobby")
    assert where(a) == {b.lease.epoch: 1}


def test_a_dead_node_has_no_members(server: RedisServer, start_node: StartNode) -> None:
    a, b = start_node(server, 1), start_node(server, 2)
    enter(a, "lobby")
    enter(b, "lobby")
    assert where(b) == {a.lease.epoch: 1, b.lease.epoch: 1}
    vanish(a)
    end_lease(server, a)
    until(lambda: where(b) == {b.lease.epoch: 1})


def test_a_node_that_lives_again_has_no_members_until_it_says_so(
    server: RedisServer, start_node: StartNode
) -> None:
    a, b = start_node(server, 1), start_node(server, 2)
    enter(a, "lobby")
    vanish(a)
    again = start_node(server, 1)
    assert where(again) == {}
    until(lambda: where(b) == {})
    enter(again, "lobby")
    assert where(b) == {again.lease.epoch: 1}


def test_what_the_dead_left_is_cleared_away(server: RedisServer, start_node: StartNode) -> None:
    a, b = start_node(server, 1), start_node(server, 2)
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


def test_a_node_that_stops_cleanly_leaves_nothing(server: RedisServer, start_node: StartNode) -> None:
    a = start_node(server, 1)
    enter(a, "lobby")
    enter(a, "lobby", members=0)
    a.stop(clean=True)
    assert keys(server, "imserver:channels:*") == []
    assert keys(server, "{imserver}:written-channel-buckets:*") == []


def test_no_channel_is_found_while_redis_is_away(own_server: RedisServer, start_node: StartNode) -> None:
    a = start_node(own_server)
    enter(a, "lobby")
    own_server.kill()
    assert a.find_channels("101", ["lobby"]) is None
    assert a.report_channels([ReportedMembers("101", "garden", 1)]) is None


def test_a_stalled_redis_says_nothing_in_time(own_server: RedisServer, start_node: StartNode) -> None:
    a = start_node(own_server, 1, PATIENT)
    enter(a, "lobby")
    own_server.pause()
    assert a.find_channels("101", ["lobby"]) is None
    own_server.resume()


@pytest.mark.full
def test_after_a_restart_any_node_may_have_members_for_a_while(
    own_server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(own_server, 1, QUICK)
    enter(a, "lobby")
    life = a.generation()
    own_server.kill()
    own_server.start()
    until(lambda: a.generation() > life)
    until(a.healthy)
    assert a.find_channels("101", ["lobby"]) is None
    enter(a, "lobby", members=2)
    until(lambda: a.find_channels("101", ["lobby"]) == [{a.lease.epoch: 2}])


def test_a_question_that_had_to_reconnect_is_not_answered(
    own_server: RedisServer, start_node: StartNode
) -> None:
    """Before the watch has looked: another server may have answered."""
    a = start_node(own_server, 1, ClusterSettings(lease_seconds=60, renew_seconds=30, redis_seconds=10.0))
    enter(a, "lobby")
    with own_server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert a.find_channels("101", ["lobby"]) is None


@pytest.mark.full
def test_a_flush_begins_a_new_life_in_which_everything_is_reported_again(
    own_server: RedisServer, start_node: StartNode
) -> None:
    a, b = start_node(own_server, 1, QUICK), start_node(own_server, 2, QUICK)
    lives = [node.generation() for node in (a, b)]
    enter(a, "lobby")
    with own_server.client() as client:
        client.flushall()
    until(lambda: all(node.generation() > life for node, life in zip((a, b), lives, strict=True)))
    assert b.find_channels("101", ["lobby"]) is None
    enter(a, "lobby", members=4)
    a.report(0, {})
    b.report(0, {})
    until(lambda: b.find_channels("101", ["lobby"]) == [{a.lease.epoch: 4}])


def test_a_node_that_lost_its_lease_gets_everything_until_it_is_settled(
    server: RedisServer, start_node: StartNode
) -> None:
    a, b = start_node(server, 1), start_node(server, 2)
    enter(a, "lobby")
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


def test_a_new_epoch_invalidates_what_was_reported_under_the_old_one(
    server: RedisServer, start_node: StartNode
) -> None:
    a, b = start_node(server, 1), start_node(server, 2)
    enter(a, "lobby")
    old = a.lease.epoch
    a.recovery.rejoin = True
    until(lambda: a.lease.epoch > old and a.generation() > 1)
    a.report(0, {})
    until(lambda: where(b) == {})
    enter(a, "lobby", members=2)
    until(lambda: where(b) == {a.lease.epoch: 2})


@pytest.mark.parametrize("members", [1, 0])
def test_saying_it_twice_changes_nothing(server: RedisServer, start_node: StartNode, members: int) -> None:
    a = start_node(server, 1)
    enter(a, "garden", members=5)
    for _ in range(2):
        enter(a, "lobby", members=members)
        assert where(a) == ({a.lease.epoch: 1} if members else {})
    assert where(a, "garden") == {a.lease.epoch: 5}
