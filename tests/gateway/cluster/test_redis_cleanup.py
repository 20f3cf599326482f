"""Members of channels on nodes that share a Redis; and what the dead have left,
which their trails name."""

import time
from collections.abc import Callable

import pytest

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import ReportedMembers, Session
from imserver.gateway.config.settings import ClusterSettings
from tests.gateway.cluster.conftest import Pair, StartNode, enter, members_of
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.cluster.test_redis_nodes import record, vanish, wait_until_cleaned_up
from tests.support import until


def begin_all(node: RedisRegistry, app: str, *users: str) -> list[Session]:
    sessions = [
        Session(app, user, peer="127.0.0.1:5000", login_time=1700000000)
        for user in users
    ]
    assert len(list(node.reregister(sessions))) == len(users)
    return sessions


def keys(server: RedisServer, pattern: str) -> list[str]:
    with server.client() as client:
        return sorted(client.scan_iter(pattern, 1000))


def test_every_node_finds_members_but_of_no_earlier_life(
    server: RedisServer, start_node: StartNode
) -> None:
    a, b, c = (start_node(server, number) for number in (1, 2, 3))
    enter(a, "lobby", members=2)
    enter(b, "lobby", members=3)
    for node in (a, b, c):
        assert members_of(node) == {a.lease.epoch: 2, b.lease.epoch: 3}
    enter(b, "lobby", members=0)
    assert members_of(c) == {a.lease.epoch: 2}
    vanish(a)
    again = start_node(server, 1)
    assert members_of(again) == {}
    until(lambda: members_of(b) == {})
    enter(again, "lobby")
    assert members_of(b) == {again.lease.epoch: 1}


@pytest.mark.parametrize("fault", [RedisServer.kill, RedisServer.pause])
def test_no_channel_is_found_while_redis_is_away(
    own_server: RedisServer, start_node: StartNode, fault: Callable[[RedisServer], None]
) -> None:
    a = start_node(
        own_server,
        1,
        ClusterSettings(lease_seconds=60.0, renew_seconds=0.1, redis_seconds=1.0),
    )
    enter(a, "lobby")
    fault(own_server)
    assert a.find_channels("101", ["lobby"]) is None
    assert a.report_channels([ReportedMembers("101", "garden", 1)]) is None


def test_a_question_that_reconnected_is_not_answered(
    own_server: RedisServer, start_node: StartNode
) -> None:
    """Before the watch has looked: another server may have answered."""
    a = start_node(
        own_server,
        1,
        ClusterSettings(lease_seconds=60, renew_seconds=30, redis_seconds=10.0),
    )
    enter(a, "lobby")
    with own_server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert a.find_channels("101", ["lobby"]) is None


def test_a_node_that_lost_its_lease_gets_everything_until_it_is_settled(
    pair: Pair,
) -> None:
    a, b = pair
    enter(a, "lobby", "garden")
    before = a.lease.epoch
    a.recovery.rejoin = True
    until(lambda: a.lease.epoch > before and a.generation() > 1)
    until(lambda: a.lease.epoch in b.leases())
    assert members_of(b, "any other channel") == {a.lease.epoch: 0}
    enter(a, "lobby", members=1)
    assert members_of(b) == {a.lease.epoch: 1}
    a.report(0, {})
    until(lambda: members_of(b, "any other channel") == {})
    assert members_of(b) == {a.lease.epoch: 1}
    assert members_of(b, "garden") == {}, "it was reported under the old epoch"


def test_only_buckets_that_the_dead_used_are_looked_into(
    server: RedisServer, pair: Pair
) -> None:
    """Also those of apps that no other node knows."""
    a, b = pair
    begin_all(a, "101", *(f"user{number}" for number in range(50)))
    for number in range(50):
        begin_all(a, f"system:shop:{number}", "ann")
    (stays,) = begin_all(b, "system:shop:0", "ann-at-b")
    for app in ("101", "system:shop:1"):
        enter(a, *(f"channel{number}" for number in range(300)), app=app)
    enter(b, "lobby", members=7)
    vanish(a)
    with server.client() as client:
        client.config_resetstat()
        wait_until_cleaned_up(server, a, b)
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls < 4000, (
        "some hundred buckets and records, and the leases meanwhile; not 16,384"
    )
    assert b.counters.cleaned_users == 100
    assert (
        record(server, "user49")["isLogoff"]
        is record(server, "ann", "system:shop:49")["isLogoff"]
        is True
    )
    assert len(keys(server, "imserver:users:*")) == 1
    with server.client() as client:
        left = [client.hgetall(key) for key in keys(server, "imserver:channels:*")]
    assert left == [{"lobby": f"{b.lease.epoch}.7"}]
    for what in ("buckets", "channel-buckets"):
        name = f"{{imserver}}:written-{what}:"
        assert keys(server, f"{name}*") == [f"{name}{b.lease.epoch}"]
    assert b.unregister(stays) is True


@pytest.mark.parametrize(
    "users", [1, pytest.param(3000, marks=pytest.mark.full("programs"))]
)
def test_without_a_bucket_list_or_a_full_one_all_are_searched(
    server: RedisServer, pair: Pair, users: int
) -> None:
    a, b = pair
    begin_all(a, "101", *(f"user{number}" for number in range(users)))
    begin_all(a, "unknown to b", "bob")
    a.report(2, {"unknown to b": 1})
    list_of_a = f"{{imserver}}:written-buckets:{a.lease.epoch}"
    with server.client() as client:
        until(lambda: "unknown to b" in str(client.hgetall("{imserver}:lease-data")))
        if users == 1:  # a life of a version before trails, or one whose trail was lost
            client.delete(list_of_a)
        else:
            assert client.sismember(list_of_a, "*:101")
            assert client.scard(list_of_a) == 1026
    vanish(a)
    wait_until_cleaned_up(server, a, b)
    assert b.counters.cleaned_users == users + 1
    assert keys(server, "imserver:users:*") == []


def test_a_bucket_list_lost_or_in_doubt_is_written_again(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)

    def is_written() -> bool:
        begin_all(a, "101", "ann")
        written = keys(server, "{imserver}:written-buckets:*")
        return written == [f"{{imserver}}:written-buckets:{a.lease.epoch}"]

    assert is_written()
    epoch = a.lease.epoch
    with server.client() as client:
        client.flushall()
        until(lambda: a.lease.epoch > epoch, what="another life")
        assert is_written()
        a.pipeline.admits_calls = False
        assert a.register(Session("101", "bob")) is None
        client.delete(f"{{imserver}}:written-buckets:{a.lease.epoch}")
    until(lambda: a.pipeline.admits_calls, what="a probe")
    assert is_written()


def test_an_empty_bucket_goes_with_its_last_user(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)
    sessions = begin_all(a, "101", "ann", "bob")
    until(lambda: len(keys(server, "imserver:users:*")) == 2)
    # numbers are not older than the millisecond in which they were given
    time.sleep(0.002)
    assert [a.unregister(session) for session in sessions] == [True, True]
    assert keys(server, "imserver:users:*") == []


def test_a_drain_is_known_to_others_before_the_next_renewal(
    server: RedisServer, pair: Pair
) -> None:
    a, b = pair
    a.keeper.renew_seconds = 3600.0
    a.report(0, {}, draining=True)
    until(lambda: b.leases()[a.lease.epoch].draining)
