"""What the dead have left is found by their trails: in any app, without a walk over all buckets."""

import time

import pytest

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import Session
from tests.gateway.cluster.conftest import Pair, StartNode
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.cluster.test_redis_nodes import record, vanish, wait_until_cleaned_up
from tests.support import until


def begin(node: RedisRegistry, app: str, *users: str) -> list[Session]:
    """Sessions of these users, all registered together."""
    sessions = [Session(app, user, peer="127.0.0.1:5000", login_time=1700000000) for user in users]
    assert len(list(node.reregister(sessions))) == len(users)
    return sessions


def keys(server: RedisServer, pattern: str) -> list[str]:
    with server.client() as client:
        return sorted(client.scan_iter(pattern, 1000))


def test_only_buckets_that_the_dead_used_are_looked_into(server: RedisServer, pair: Pair) -> None:
    """Also those of apps that no other node knows."""
    a, b = pair
    begin(a, "101", *(f"user{number}" for number in range(50)))
    for number in range(50):
        begin(a, f"system:shop:{number}", "ann")
    (stays,) = begin(b, "system:shop:0", "ann-at-b")
    vanish(a)
    with server.client() as client:
        client.config_resetstat()
        wait_until_cleaned_up(server, a, b)
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls < 4000, "100 buckets, 100 records, and the leases meanwhile; not 16,384"
    assert b.counters.cleaned_users == 100
    assert record(server, "user49")["isLogoff"] is record(server, "ann", "system:shop:49")["isLogoff"] is True
    assert len(keys(server, "imserver:users:*")) == 1
    assert keys(server, "{imserver}:written-buckets:*") == [f"{{imserver}}:written-buckets:{b.lease.epoch}"]
    assert b.unregister(stays) is True


@pytest.mark.parametrize("users", [1, pytest.param(3000, marks=pytest.mark.full("programs"))])
def test_without_a_bucket_list_or_with_one_that_is_full_all_buckets_are_searched(
    server: RedisServer, pair: Pair, users: int
) -> None:
    a, b = pair
    begin(a, "101", *(f"user{number}" for number in range(users)))
    begin(a, "unknown to b", "bob")
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


def test_a_bucket_list_that_is_lost_or_in_doubt_is_written_again(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)

    def is_written() -> bool:
        begin(a, "101", "ann")
        written = keys(server, "{imserver}:written-buckets:*")
        return written == [f"{{imserver}}:written-buckets:{a.lease.epoch}"]

    assert is_written()
    epoch = a.lease.epoch
    with server.client() as client:
        client.flushall()
        until(lambda: a.lease.epoch > epoch, what="another life")
        assert is_written()
        a.pipeline.closed = False
        assert a.register(Session("101", "bob")) is None
        client.delete(f"{{imserver}}:written-buckets:{a.lease.epoch}")
    until(lambda: a.pipeline.closed, what="a probe")
    assert is_written()


def test_an_empty_bucket_goes_with_its_last_user(server: RedisServer, start_node: StartNode) -> None:
    a = start_node(server, 1)
    sessions = begin(a, "101", "ann", "bob")
    until(lambda: len(keys(server, "imserver:users:*")) == 2)
    time.sleep(0.002)  # numbers are not older than the millisecond in which they were given
    assert [a.unregister(session) for session in sessions] == [True, True]
    assert keys(server, "imserver:users:*") == []


def test_a_drain_is_known_to_others_before_the_next_renewal(server: RedisServer, pair: Pair) -> None:
    a, b = pair
    a.keeper.renew_seconds = 3600.0
    a.report(0, {}, draining=True)
    until(lambda: b.leases()[a.lease.epoch].draining)
