"""Nodes that share a Redis: who lives, who is where, who has to go, and what is
left of the dead."""

import json
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
import pytest
from msgspec.structs import replace

from imserver.gateway.cluster.features import FIRST_RELEASE, absent_features
from imserver.gateway.cluster.redis import presence, recovery, registry
from imserver.gateway.cluster.redis.connection import RedisUnavailable
from imserver.gateway.cluster.redis.lease import LeaseKeeper, LeaseLost
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.redis.scripts import (
    EPOCH,
    LEASE_DATA,
    LEASES,
    LIFE,
    VERSION,
)
from imserver.gateway.cluster.registry import (
    Claim,
    Lease,
    ReportedMembers,
    Session,
    SessionRef,
)
from imserver.gateway.config.settings import ClusterSettings
from imserver.gateway.errors import StartError
from tests.gateway.cluster.conftest import LASTING, QUIET, Pair, StartNode, begin
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import until


def where(node: RedisRegistry, user: str = "ann") -> list[tuple[int, int]]:
    """(epoch, id) of a user's sessions, as a node sees them."""
    return [(ref.epoch, ref.id) for ref in node.find("101", [user])[0]]


def vanish(node: RedisRegistry) -> None:
    """Let a node do what a killed one does: nothing any more."""
    node.recovery.stop()
    node.pipeline.stop()


def end_lease(server: RedisServer, dead: RedisRegistry) -> None:
    with server.client() as client:
        assert client.zadd(LEASES, {str(dead.lease.epoch): 1}, xx=True, ch=True) == 1


def wait_until_cleaned_up(
    server: RedisServer, dead: RedisRegistry, other: RedisRegistry
) -> None:
    """Let the lease of a dead node run out, and wait for what it left to be
    gone."""
    end_lease(server, dead)
    with server.client() as client:
        until(lambda: dead.lease.epoch not in other.leases())
        until(lambda: client.hlen("{imserver}:dead-epochs") == 0)


def ref_of(node: RedisRegistry, session: Session) -> SessionRef:
    return SessionRef(node.lease.epoch, session.id, session.number, session.device)


# --- who lives ----------------------------------------------------------------


def test_nodes_see_each_other_until_they_leave_or_restart(
    server: RedisServer, start_node: StartNode
) -> None:
    received: list[int] = []
    a = start_node(
        server,
        1,
        LASTING,
        events=replace(QUIET, leases_changed=lambda: received.append(1)),
    )
    until(lambda: received)
    b, earlier = (start_node(server, number, LASTING) for number in (2, 3))
    assert set(b.leases()) == {a.lease.epoch, b.lease.epoch}
    until(lambda: len(a.leases()) == 3 and len(received) > 1)
    assert a.leases()[b.lease.epoch].control == "tcp://127.0.0.1:9004"
    begin(earlier)
    vanish(earlier)
    later = start_node(server, 3, LASTING)
    assert earlier.lease.epoch not in later.leases()
    assert where(later) == []
    b.stop()
    left = {a.lease.epoch, later.lease.epoch}
    until(lambda: set(a.leases()) == left, what="a node that leaves is gone at once")


def test_a_node_whose_lease_has_run_out_is_overdue_until_it_joins_again_is_replaced_or_forgotten(
    server: RedisServer, start_node: StartNode
) -> None:
    a, *others, left = (start_node(server, number) for number in range(1, 6))
    until(lambda: len(a.leases()) == 5)
    left.stop()
    for node in others:
        vanish(node)
        end_lease(server, node)
    until(lambda: set(a.leases()) == {a.lease.epoch})
    epochs = [node.lease.epoch for node in others]
    assert {lease.epoch: lease.draining for lease in a.overdue()} == dict.fromkeys(
        epochs, True
    )
    assert set(a.reachable()) == {a.lease.epoch, *epochs}
    again, _, forgotten = others
    again.keeper.join()
    second = start_node(server, 3)
    until(lambda: len(a.leases()) == 3)
    assert [lease.epoch for lease in a.overdue()] == [forgotten.lease.epoch]
    a.forget_lease(forgotten.lease.epoch)
    assert set(a.reachable()) == {a.lease.epoch, again.lease.epoch, second.lease.epoch}


def test_nodes_that_redis_has_forgotten_are_overdue_until_they_join_again(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)
    b = start_node(server, 2)
    until(lambda: len(a.leases()) == 2)
    b.recovery.stop()
    epoch = a.lease.epoch
    with server.client() as client:
        client.flushall()
    until(lambda: a.lease.epoch != epoch and a.lease.epoch in a.leases())
    assert set(a.reachable()) == {a.lease.epoch, b.lease.epoch}
    assert b.lease.epoch not in a.leases()


def test_an_idle_node_asks_little(server: RedisServer, start_node: StartNode) -> None:
    node = start_node(server, 1)
    before = node.counters.commands
    began = gevent.get_hub().loop.now()
    gevent.sleep(0.5)
    looks = (gevent.get_hub().loop.now() - began) / LASTING.renew_seconds
    assert node.counters.commands - before <= 6 + looks, (
        "one for each look, and those of the start"
    )


def test_epochs_are_never_given_twice_although_redis_is_empty_or_has_older_data_again(
    server: RedisServer, start_node: StartNode
) -> None:
    epochs = []
    for number in (1, 2, 1, 1, 2):
        node = start_node(server, number)
        vanish(node)  # it would end the next life of its number as that ends its own
        epochs.append(node.lease.epoch)
    assert epochs == sorted(set(epochs))
    with server.client() as client:
        client.flushall()
        assert start_node(server, 3).lease.epoch > epochs[-1]
        before = client.get(EPOCH)
        nodes = a, b = start_node(server, 1), start_node(server, 2)
        epochs = [node.lease.epoch for node in nodes]
        for node in nodes:
            node.recovery.stop()
        client.set(EPOCH, before)
        client.zrem(LEASES, *epochs)
        client.hdel(LEASE_DATA, *epochs)
    for node in (b, a):
        with pytest.raises(LeaseLost):
            node.keeper.refresh()
        node.keeper.join()
    assert epochs[-1] < b.lease.epoch < a.lease.epoch


def test_a_node_that_stood_still_until_its_lease_ended_asks_the_registry_before_it_lets_somebody_in(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)
    b = start_node(server, 2)
    first = begin(b, policy="refuse")
    end_lease(server, a)
    with pytest.raises(LeaseLost):
        a.keeper.refresh()
    answer = a.register(Session("101", "ann", "", "refuse"))
    assert answer is not None
    assert [ref.id for ref in answer.others] == [first.id]


def test_a_node_renews_no_lease_of_another_one(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1, lease={"birth": 1})
    b = start_node(server, 2, lease={"birth": 2})
    epoch = a.lease.epoch
    with server.client() as client:
        client.hset(LEASE_DATA, str(epoch), client.hget(LEASE_DATA, str(b.lease.epoch)))
    until(lambda: a.lease.epoch > b.lease.epoch)
    assert a.keeper.past_epochs == (epoch,)


def test_a_node_without_a_new_epoch_still_sees_the_others(
    own_server: RedisServer, start_node: StartNode
) -> None:
    b = start_node(own_server, 2)
    a = start_node(own_server, 1)
    a.recovery.stop()
    epoch = a.lease.epoch
    keeper = a.keeper
    for _ in range(20):
        keeper.join()
    assert set(a.leases()) == {a.lease.epoch, b.lease.epoch}
    assert 1 < len(past := keeper.past_epochs) < 20
    assert epoch < (epoch := a.lease.epoch)
    own_server.kill()
    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            keeper.join()
    assert set(a.leases()) == {epoch, b.lease.epoch}
    assert keeper.past_epochs == past


def test_a_node_whose_lease_is_lost_while_it_starts_joins_again(
    server: RedisServer, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = LeaseKeeper.refresh
    flushed: list[int] = []

    def flush_once(keeper: LeaseKeeper) -> bool:
        if not flushed:
            flushed.append(keeper.lease.epoch)
            with server.client() as client:
                client.flushall()
        return refresh(keeper)

    monkeypatch.setattr(LeaseKeeper, "refresh", flush_once)
    node = start_node(server, 1)
    until(node.healthy)
    assert node.lease.epoch > flushed[0]


@pytest.mark.parametrize(
    ("first", "own", "output"),
    [
        (
            {},
            {"fingerprint": "f2"},
            r"another secret than this node .*127\.0\.0\.1:9002.*server\.data_dir",
        ),
        (
            {"all_features": "core pusher", "feature_names": "core pusher"},
            {
                "all_features": "core",
                "features_left_out": "pusher",
                "feature_names": "core",
            },
            r"other features than this node .*node 127\.0\.0\.1:9002: pusher\).*setting features",
        ),
        (
            {
                "all_features": "core",
                "features_left_out": "later",
                "feature_names": "core",
            },
            {"all_features": "core later", "feature_names": "core"},
            r"node 127\.0\.0\.1:9002: later\)",
        ),
        (
            {"feature_names": "core messages"},
            {
                "all_features": "core later messages pusher",
                "feature_names": "core messages pusher",
            },
            r"node 127\.0\.0\.1:9002: pusher\)",
        ),
        (
            {"database": "d1"},
            {"database": "d2"},
            r"another database .* node .*127\.0\.0\.1:9002.*storage\.url",
        ),
        (
            {"database": "d1"},
            {"database": ""},
            r"another database .* node .*127\.0\.0\.1:9002.*storage\.url",
        ),
        (
            {"number": 2},
            {"host": "elsewhere"},
            r"127\.0\.0\.1:9004 on machine here .*cluster\.advertise",
        ),
    ],
    ids=[
        "secret",
        "features",
        "left out there",
        "of 1.0",
        "database",
        "no database",
        "address",
    ],
)
def test_a_node_that_does_not_fit_to_the_others_does_not_join(
    server: RedisServer,
    start_node: StartNode,
    first: dict[str, Any],
    own: dict[str, Any],
    output: str,
) -> None:
    lease = dict(first)
    start_node(server, lease.pop("number", 1), lease=lease)
    with pytest.raises(StartError, match=output):
        start_node(server, 2, lease=own)


def test_nodes_that_fit_join(server: RedisServer, start_node: StartNode) -> None:
    """A database where the others have none yet, and features where those of
    the release before name none."""
    epochs = [start_node(server, 1, lease={"features": "core"}).lease.epoch]
    for number in (2, 3):
        node = start_node(
            server, number, lease={"database": "d1", "feature_names": "core pusher"}
        )
        assert node.lease.features == "", (
            "the others compare it with theirs, unless it is empty"
        )
        epochs.append(node.lease.epoch)
    assert epochs == sorted(set(epochs))


OF_1_0 = "core " + " ".join(sorted(FIRST_RELEASE))


def test_features_that_other_nodes_do_not_know_keep_no_node_away(
    server: RedisServer, start_node: StartNode
) -> None:
    """A node of 1.0 compares the names that others publish with its own, so all
    publish the same."""
    old = start_node(server, 1, lease={"feature_names": OF_1_0})
    new = start_node(
        server, 2, lease={"all_features": f"{OF_1_0} later", "feature_names": OF_1_0}
    )
    newer = {
        "all_features": f"{OF_1_0} dreams later",
        "feature_names": OF_1_0,
        "features_left_out": "ask",
    }
    newest = start_node(server, 3, lease=newer)
    without_pages = {
        "all_features": OF_1_0.replace(" pages", ""),
        "feature_names": "core",
    }
    last = start_node(server, 4, lease=without_pages)
    for node in (old, new, newest, last):
        assert node.lease.feature_names == OF_1_0
    assert absent_features(
        newest.lease, [old.lease, new.lease, newest.lease, Lease("before 1.0")]
    ) == {
        old.lease.node: {"dreams", "later"},
        new.lease.node: {"dreams"},
    }


def test_a_node_publishes_the_names_of_the_nodes_of_an_older_release_that_it_joins(
    server: RedisServer, start_node: StartNode
) -> None:
    """So one of these may start again beside it, also when all of them have
    ended meanwhile."""
    names = f"{OF_1_0} lines previews"
    old = start_node(server, 1, lease={"feature_names": names})
    own = {"all_features": f"{OF_1_0} later previews", "feature_names": OF_1_0}
    first = start_node(server, 2, lease=own)
    old.stop()
    second = start_node(server, 3, lease=own)
    assert first.lease.feature_names == second.lease.feature_names == names
    with server.client() as client:
        written = [
            json.loads(lease)["feature_names"] for lease in client.hvals(LEASE_DATA)
        ]
    assert written == [names, names]


@pytest.mark.full("processes")
def test_a_node_that_says_it_lives_is_believed_until_a_look(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)
    a.recovery.stop()
    b = start_node(server, 2)
    assert b.lease.epoch not in a.leases()
    a.add_lease(b.lease)
    assert a.leases()[b.lease.epoch] == b.lease
    unknown = msgspec.structs.replace(b.lease, epoch=b.lease.epoch + 1000)
    a.add_lease(unknown)
    assert set(a.leases()) == {a.lease.epoch, b.lease.epoch, unknown.epoch}
    a.recovery.start()
    until(lambda: set(a.leases()) == {a.lease.epoch, b.lease.epoch})
    vanish(b)
    end_lease(server, b)
    until(lambda: set(a.leases()) == {a.lease.epoch})
    a.add_lease(b.lease)
    assert set(a.leases()) == {a.lease.epoch}, "the dead do not come back"


def test_leases_are_read_again_in_another_life_of_the_data(
    server: RedisServer, start_node: StartNode
) -> None:
    """Without a change of the version: two servers may have counted to the same
    one."""
    node = start_node(server, 1)
    own = node.lease.epoch
    other = node.lease.epoch + 1000
    with server.client() as client:
        client.hset(LEASE_DATA, str(other), client.hget(LEASE_DATA, str(own)))
        client.zadd(LEASES, {str(other): 1e15})
        client.incr(VERSION)
        until(lambda: set(node.leases()) == {own, other})
        client.hdel(LEASE_DATA, str(other))
        client.zrem(LEASES, str(other))
        client.hset(LIFE, "life", "another")
        until(lambda: set(node.leases()) == {own})


# --- who is where -------------------------------------------------------------


def test_users_and_channels_of_a_node_that_just_joined_are_found(
    server: RedisServer, start_node: StartNode
) -> None:
    rarely = ClusterSettings(lease_seconds=3600, renew_seconds=1000, redis_seconds=10.0)
    a = start_node(server, 1, rarely)
    b = start_node(server, 2, LASTING)
    session = begin(b)
    assert where(a) == [(b.lease.epoch, session.id)], (
        "without waiting for the next look"
    )
    c = start_node(server, 3, LASTING)
    assert c.report_channels([ReportedMembers("101", "lobby", 1)]) is not None
    assert a.find_channels("101", ["lobby"]) == [{c.lease.epoch: 1}]


@pytest.mark.parametrize("policy", ["newest", "single"])
def test_logins_elsewhere_replace_and_the_replaced_node_learns_of_each_once(
    server: RedisServer, start_node: StartNode, policy: str
) -> None:
    replaced: list[tuple[str, str, int]] = []
    a = start_node(
        server,
        1,
        events=replace(QUIET, replaced=lambda *received: replaced.append(received)),
    )
    b = start_node(server, 2)
    users = [f"user{number}" for number in range(1200)]
    older = [begin(a, user, policy) for user in users]
    newer = [Session("101", user, "", policy) for user in users]
    for one, other in zip(older, newer, strict=True):
        registration = b.register(other)
        assert registration.replaced == (ref_of(a, one),)
        assert other.number > one.number
    assert where(a, users[0]) == [(b.lease.epoch, newer[0].id)]
    until(lambda: len(replaced) == len(users))
    assert a.counters.late_replacements >= 1
    gevent.sleep(0.5)
    assert sorted(replaced) == sorted(("101", each.user, each.id) for each in older), (
        "told once"
    )
    assert (a.unregister(older[0]), b.unregister(newer[0])) == (False, True)


def test_refuse_holds_across_nodes_until_the_end_of_the_holder(
    server: RedisServer, pair: Pair
) -> None:
    a, b = pair
    first = begin(a, policy="refuse")
    second = Session("101", "ann", "", "refuse")
    registration = b.register(second)
    assert registration.others == (ref_of(a, first),)
    vanish(a)
    assert where(b), "the lease still runs"
    end_lease(server, a)

    def taken() -> bool:
        answer = b.register(second)
        return answer is not None and answer.addressed and answer.replaced == ()

    until(taken)
    assert set(b.leases()) == {b.lease.epoch}


def test_who_is_refused_for_a_session_on_a_node_that_joined_just_now_knows_that_node(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1)
    b = start_node(server, 2)
    first = begin(b, policy="refuse")
    assert a.register(Session("101", "ann", "", "refuse")).others == (ref_of(b, first),)
    assert b.lease.epoch in a.leases()


def test_claims_hold_across_nodes(server: RedisServer, pair: Pair) -> None:
    a, b = pair

    def state(node: RedisRegistry) -> str:
        [claim] = node.claim(["m1"]) or []
        return claim.state

    [mine] = a.claim(["m1"]) or []
    assert (mine.state, state(b)) == ("mine", "pending")
    with server.client() as client:
        assert client.get("acc:submit:again:seq:m1") != "1"
        assert -1 != client.pttl("acc:submit:again:seq:m1") <= 10000, (
            "that of a node that dies lapses"
        )
        b.settle(Claim("m1", "mine", "?0.0"), False)  # that of somebody else
        assert [state(b) for _ in range(100)] == ["pending"] * 100
        a.settle(mine, True)
        until(lambda: state(b) == "repeat")
        assert client.get("acc:submit:again:seq:m1") == "1"
        assert 43000 < client.ttl("acc:submit:again:seq:m1") <= 43200


def record(
    server: RedisServer, user: str = "ann", app: str = "101"
) -> dict[str, object]:
    """What operators read about a user."""
    with server.client() as client:
        found: dict[str, object] = json.loads(
            client.get(f"acc:user:online:{app}_{user}")
        )
    return found


def test_a_refused_login_and_the_end_of_an_older_session_change_no_record(
    server: RedisServer, pair: Pair
) -> None:
    a, b = pair
    older = begin(a)
    begin(b)
    a.unregister(older)
    assert (record(server)["isLogoff"], record(server)["accPort"]) == (False, "9004")
    begin(b, "bob", policy="refuse")
    before = record(server, "bob")
    a.register(Session("101", "bob", "", "refuse", "127.0.0.1:6"))
    assert record(server, "bob") == before


def test_records_of_long_sessions_are_kept(
    server: RedisServer, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of a quarter of a day
    monkeypatch.setattr(registry.random, "uniform", lambda low, high: 1e-5)
    sessions: list[Session] = []
    events = replace(QUIET, sessions=lambda: iter(sessions))
    a = start_node(server, 1, events=events)
    sessions += [begin(a, f"user{i}") for i in range(250)]
    with server.client() as client:
        for session in sessions:
            client.expire(f"acc:user:online:101_{session.user}", 1000)
        until(
            lambda: all(
                client.ttl(f"acc:user:online:101_{s.user}") > 1000 for s in sessions
            )
        )


# --- the dead -----------------------------------------------------------------


@pytest.fixture
def few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of buckets that fits to a few hundred users."""
    for module in (recovery, presence):
        monkeypatch.setattr(module, "BUCKETS", 128)


@pytest.mark.usefixtures("few_buckets")
def test_what_a_dead_node_left_is_cleared_by_one_other(
    server: RedisServer, start_node: StartNode
) -> None:
    a, b, c = (start_node(server, number, LASTING) for number in (1, 2, 3))
    users = [f"user{i}" for i in range(300)]
    for user in users:
        begin(a, user)
    begin(a, "both", "multi")
    there = begin(b, "both", "multi")
    moved = [begin(b, user) for user in users[:10]]
    vanish(a)
    wait_until_cleaned_up(server, a, b)
    with server.client() as client:
        assert [record(server, user)["isLogoff"] for user in users] == [False] * 10 + [
            True
        ] * 290
        assert record(server, "both")["isLogoff"] is False
        left = {
            field: value
            for key in client.scan_iter("imserver:users:*", 1000)
            for field, value in client.hgetall(key).items()
            if field != "#"
        }
        assert left.keys() == {*users[:10], "both"}
        assert left["both"] == f"{b.lease.epoch}.{there.id}.{there.number}"
        assert client.hkeys("acc:hash:servers") == ["127.0.0.1:9004", "127.0.0.1:9006"]
    assert sorted([b.counters.cleaned_users, c.counters.cleaned_users]) == [0, 290]
    assert all(b.unregister(session) is True for session in moved)


@pytest.mark.usefixtures("few_buckets")
def test_who_logs_in_while_the_dead_are_cleared_stays_online(
    server: RedisServer, start_node: StartNode
) -> None:
    a = start_node(server, 1, LASTING)
    b = start_node(server, 2, LASTING)
    for i in range(200):
        begin(a, f"user{i}")
    vanish(a)
    later = start_node(server, 1, LASTING)

    def log_in() -> None:
        for i in range(200):
            begin(later, f"user{i}", port=5001)
            gevent.sleep(0.001)

    greenlet = gevent.spawn(log_in)
    with server.client() as client:
        until(lambda: greenlet.dead and client.hlen("{imserver}:dead-epochs") == 0)
    greenlet.get()
    assert [record(server, f"user{i}")["isLogoff"] for i in range(200)] == [False] * 200
    assert all(where(b, f"user{i}") for i in range(200))


@pytest.mark.parametrize("clean", [True, False])
def test_a_stopped_node_leaves_a_task_only_with_sessions(
    server: RedisServer, pair: Pair, clean: bool
) -> None:
    a, b = pair
    session = begin(a)
    if clean:
        a.unregister(session)
    b.recovery.stop()  # it would do the task
    a.stop(clean=clean)
    with server.client() as client:
        assert client.hlen("{imserver}:dead-epochs") == (0 if clean else 1)
        assert len(client.keys("{imserver}:written-buckets:*")) == (0 if clean else 1)
    b.recovery.start()
    until(lambda: where(b) == [])


# --- what it costs ------------------------------------------------------------


def cost(
    server: RedisServer,
    node: RedisRegistry,
    what: Callable[[], object],
    is_done: Callable[[], bool] = lambda: True,
) -> tuple[int, dict[str, int]]:
    """Round trips of a node, and commands that Redis counted, for something
    done 50 times."""
    with server.client() as client:
        client.config_resetstat()
        before = node.counters.round_trips
        for _ in range(50):
            what()
        until(is_done)
        trips = node.counters.round_trips - before
        stats = client.info("commandstats").items()
        calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats}
    counted = ("evalsha", "eval", "hget", "set", "expire")
    return trips, {name: count for name, count in calls.items() if name in counted}


@pytest.fixture
def settled_node(server: RedisServer, start_node: StartNode) -> RedisRegistry:
    """A node that asks nothing of its own accord. Its lease lasts as long as a
    test."""
    node = start_node(
        server, 1, ClusterSettings(lease_seconds=600.0, redis_seconds=20.0)
    )
    node.recovery.stop()
    return node


def test_a_login_and_a_logout_are_one_command_and_a_push_that_succeeds_two_in_one_round_trip(
    server: RedisServer, settled_node: RedisRegistry
) -> None:
    sessions: list[Session] = []
    for what in (
        lambda: sessions.append(begin(settled_node, policy="multi")),
        lambda: settled_node.unregister(sessions.pop()),
    ):
        trips, commands = cost(server, settled_node, what)
        assert (trips, commands["evalsha"]) == (50, 50)
    begin(settled_node)
    keys = iter(range(1000))

    def push() -> None:
        answer = settled_node.find_and_claim("101", "ann", str(next(keys)))
        settled_node.settle(answer[1], True)

    # what nobody waits for is sent a quarter of a second later
    with server.client() as client:
        trips, commands = cost(
            server,
            settled_node,
            push,
            lambda: client.get("acc:submit:again:seq:49") == "1",
        )
    assert trips <= 51, "the last one is told alone"
    assert "evalsha" not in commands
    assert commands["set"] == 100
    assert commands["hget"] == 1, "Redis reports when the user moves"


def address_of_push(
    node: RedisRegistry, id: str, user: str = "ann"
) -> list[tuple[int, int]]:
    """(epoch, id) of the sessions that a push with this message id goes to."""
    answer = node.find_and_claim("101", user, id)
    refs, claim = answer
    assert claim.state == "mine"
    return [(ref.epoch, ref.id) for ref in refs if ref.id]


@pytest.mark.parametrize("tracking", [True, False], ids=["tracking", "forbidden"])
def test_who_moves_is_found_by_the_next_push(
    own_server: RedisServer, start_node: StartNode, tracking: bool
) -> None:
    with own_server.client() as client:
        if not tracking:
            client.execute_command("ACL", "SETUSER", "default", "-client|tracking")
        here = start_node(own_server, 1, LASTING)
        there = start_node(own_server, 2, LASTING)
        old = begin(here)
        assert (
            address_of_push(here, "1")
            == address_of_push(here, "2")
            == [(here.lease.epoch, old.id)]
        )

        new = begin(there)
        assert address_of_push(here, "3") == [(there.lease.epoch, new.id)]
        assert address_of_push(here, "4") == [(there.lease.epoch, new.id)]

        client.client_kill_filter(_type="normal", skipme=True)  # reports get lost
        newest = begin(here)
        assert address_of_push(there, "5") == [(here.lease.epoch, newest.id)]
        assert here.unregister(newest)
        assert address_of_push(there, "6") == address_of_push(here, "7") == []

        newest = begin(there)
        assert address_of_push(here, "8") == [(there.lease.epoch, newest.id)]
        client.flushall()
        assert address_of_push(here, "9") == []


@pytest.mark.parametrize("limit", ["presence._MAX_KNOWN", "connection._MAX_KEYS"])
def test_a_full_table_of_known_users_begins_anew(
    settled_node: RedisRegistry, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"imserver.gateway.cluster.redis.{limit}", 2)
    sessions = {user: begin(settled_node, user) for user in ("ann", "bob", "eve")}
    for number in range(2):
        for user, session in sessions.items():
            found = address_of_push(settled_node, f"{user}{number}", user)
            assert found == [(settled_node.lease.epoch, session.id)]


def test_logins_of_one_moment_share_a_round_trip_and_ten_thousand_users_are_found_in_a_few(
    server: RedisServer, settled_node: RedisRegistry
) -> None:
    before = settled_node.counters.round_trips
    logins = [gevent.spawn(begin, settled_node, f"login{i}") for i in range(500)]
    gevent.joinall(logins, raise_error=True)
    assert settled_node.counters.round_trips - before <= 5
    sessions = [Session("101", f"user{i}") for i in range(10_000)]
    assert len(list(settled_node.reregister(sessions))) == 10_000
    before = settled_node.counters.round_trips
    found = settled_node.find(
        "101", [*(session.user for session in sessions), "nobody", "user0"]
    )
    ids = [[session.id] for session in sessions]
    assert [[ref.id for ref in refs] for refs in found] == [*ids, [], ids[0]]
    assert settled_node.counters.round_trips - before <= 12
