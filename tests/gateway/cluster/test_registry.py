"""The registry in Redis, one node: names, late sessions, ids, channels,
attempts, records of operators.

What becomes of sessions under each policy is compared with a model in
``test_redis_property.py``.
"""

import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from imserver.gateway.cluster.redis.presence import (
    marked_offline,
    record_key,
    record_of,
)
from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import (
    MAX_VALUES,
    LocalValues,
    ReportedMembers,
    Session,
)
from imserver.gateway.config.settings import ClusterSettings
from imserver.gateway.errors import StorageUnavailable
from tests.gateway.cluster.conftest import (
    LASTING,
    QUIET,
    StartNode,
    begin,
    enter,
    lease_of,
    members_of,
)
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import POLICIES, until

AWKWARD = (
    "马远",
    "#",
    "=x",
    "a,b",
    "a.b.c",
    "1.2.3",
    "{tag}",
    "}",
    "a\0b",
    "line\r\nbreak",
    "*",
    "\ud800",
    "%2E",
    "x" * 500,
)


@pytest.fixture
def registry(server: RedisServer) -> Iterator[RedisRegistry]:
    registry = RedisRegistry(server.settings, LASTING, ["101", "102"])
    registry.start(lease_of(1), QUIET)
    yield registry
    registry.stop()


def ids(registry: RedisRegistry, user: str = "ann", app: str = "101") -> list[int]:
    return [ref.id for ref in registry.find(app, [user])[0]]


def state(registry: RedisRegistry, key: str) -> str:
    [claim] = registry.claim([key]) or []
    return claim.state


def test_what_a_node_reports_is_seen_in_its_lease_until_it_stops(
    registry: RedisRegistry,
) -> None:
    registry.report_database("d1")
    registry.report(7, {"101": 5}, draining=True, unsettled=True)

    def received() -> bool:
        lease = registry.leases()[registry.lease.epoch]
        reported = (
            lease.connections,
            lease.counts,
            lease.draining,
            lease.unsettled,
            lease.database,
        )
        return reported == (7, {"101": 5}, True, True, "d1")

    until(received)
    registry.report(0, {}, unsettled=False)
    until(lambda: not registry.leases()[registry.lease.epoch].unsettled)
    registry.stop()
    assert not registry.healthy()


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_of_a_user_app_or_channel_is_only_a_name(
    registry: RedisRegistry, name: str
) -> None:
    session = begin(registry, name, device=name)
    elsewhere = Session("102", name)
    assert registry.register(elsewhere).addressed
    begin(registry, "ann")
    assert [(ref.id, ref.device) for ref in registry.find("101", [name])[0]] == [
        (session.id, name)
    ]
    assert registry.unregister(session) is True
    assert (ids(registry, name), ids(registry, name, "102")) == ([], [elsewhere.id])

    enter(registry, name, members=2)
    enter(registry, "lobby", members=3)
    enter(registry, "lobby", members=4, app=name)
    found = (
        members_of(registry, name),
        members_of(registry),
        members_of(registry, app=name),
    )
    assert found == tuple({registry.lease.epoch: number} for number in (2, 3, 4))
    enter(registry, name, members=0)
    assert (members_of(registry, name), members_of(registry)) == ({}, found[1])


def test_refuse_does_not_replace_another_than_the_one_known_to_be_dead(
    registry: RedisRegistry,
) -> None:
    first = begin(registry, policy="refuse")
    late = Session("101", "ann", "", "refuse")
    dead = registry.register(late).others
    assert not registry.registered(late)
    registry.unregister(first)
    second = begin(registry, policy="refuse")
    assert registry.register(late, replacing=dead).refused
    assert ids(registry) == [second.id]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_session_may_begin_twice(registry: RedisRegistry, policy: str) -> None:
    session = begin(registry, policy=policy)
    number = session.number
    session.number = 0
    answer = registry.register(session)
    assert (answer.addressed, answer.replaced, session.number) == (True, (), number)
    assert ids(registry) == [session.id]


@pytest.mark.parametrize("policy", ["newest", "single", "refuse"])
def test_a_session_that_is_registered_late_gives_way_to_who_began_after_it_and_replaces_who_began_before(
    registry: RedisRegistry, policy: str
) -> None:
    older = begin(registry, policy=policy)
    gevent.sleep(0.1)
    late, earliest = (Session("101", "ann", policy=policy) for _ in range(2))
    earliest.began -= 60
    gevent.sleep(0.1)
    [(_, answer)] = registry.reregister([earliest])
    assert (answer.addressed, answer.superseded, ids(registry)) == (
        False,
        True,
        [older.id],
    )
    [(_, answer)] = registry.reregister([late])
    if policy == "refuse":
        assert (answer.refused, ids(registry)) == (True, [older.id])
    else:
        assert ([ref.id for ref in answer.replaced], ids(registry)) == (
            [older.id],
            [late.id],
        )
        assert older.number < late.number < begin(registry, policy=policy).number


def test_a_registration_that_redis_carries_out_late_gives_way_to_sessions_that_began_after_it(
    own_server: RedisServer, start_node: StartNode
) -> None:
    """Redis stops, and nobody waits for it. When it goes on, it carries out
    what it was sent before."""
    node = start_node(
        own_server, settings=ClusterSettings(lease_seconds=60.0, redis_seconds=0.3)
    )
    own_server.pause()
    assert node.register(Session("101", "ann")) is None
    newer = Session("101", "ann")
    assert node.register(newer) is None
    gevent.sleep(0.3)
    own_server.resume()
    until(node.healthy)
    [(_, answer)] = node.reregister([newer])
    assert answer.addressed
    assert ids(node) == [newer.id]


def test_ids_are_pending_until_accepted_or_free_of_a_push_if_its_user_is_there(
    registry: RedisRegistry,
) -> None:
    assert registry.claim([]) == []
    claims = registry.claim(["a", "b", "c", "a"]) or []
    assert [(claim.key, claim.state) for claim in claims] == [
        *((key, "mine") for key in "abc"),
        ("a", "pending"),
    ]
    for claim, accepted, result in zip(
        claims, (True, False, True), (b"\0result", b"x", b""), strict=False
    ):
        registry.settle(claim, accepted, result)
    assert registry.results(["c", "a", "b"]) == [b"", b"\0result", b""]
    assert [state(registry, key) for key in "abcd"] == [
        "repeat",
        "mine",
        "repeat",
        "mine",
    ]
    here = [begin(registry).id]
    for user, found, expected in (
        ("nobody", [], "mine"),
        ("ann", here, "mine"),
        ("ann", here, "pending"),
    ):
        refs, claim = registry.find_and_claim("101", user, "m1")
        assert ([ref.id for ref in refs], claim.state) == (found, expected)
        if user == "nobody":
            registry.settle(claim, True)
    registry.settle(registry.find_and_claim("101", "ann", "m2")[1], True)
    assert state(registry, "m2") == "repeat"


def test_a_channel_has_as_many_members_as_were_reported_last(
    registry: RedisRegistry,
) -> None:
    assert members_of(registry) == {}
    for members in (1, 20, 20, 3, 0, 0):
        enter(registry, "lobby", members=members)
        assert members_of(registry) == (
            {registry.lease.epoch: members} if members else {}
        )
    assert (
        registry.report_channels(
            [ReportedMembers("101", f"r{n}", n) for n in range(1201)]
        )
        is not None
    )
    found = registry.find_channels("101", [f"r{n}" for n in range(1201)])
    assert [sum(nodes.values()) for nodes in found] == list(range(1201))


def test_attempts_are_counted_in_one_step_and_forgotten(
    registry: RedisRegistry,
) -> None:
    assert [registry.attempt("who", 2, 1000, 1) for _ in range(2)] == [0, 0]
    assert 500 < registry.attempt("who", 2, 1000, 1) <= 1000
    assert registry.attempt("other", 2, 1000, 1) == 0
    assert registry.attempt("who", 2, 1000, -1) == 0
    assert registry.attempt("who", 2, 1000, 1) == 0
    assert registry.attempt("who", 2, 1000, -2) == 0
    assert [registry.attempt("who", 2, 0.001, 1) for _ in range(2)] == [0, 0]
    until(lambda: registry.attempt("who", 2, 0.001, 1) == 0)


NODE = "10.0.0.1:9001"


@pytest.mark.parametrize(
    ("app", "key", "app_key", "user_key", "value"),
    [
        ("101", b"acc:user:online:101_ann", "appID", "userID", 101),
        ("action:1", b"user:online:1_ann", "appId", "userId", 1),
        ("action:vip", b"user:online:vip_ann", "appId", "userId", "vip"),
        (
            "system:shop",
            b"acc:user:online:system:shop_ann",
            "appID",
            "userID",
            "system:shop",
        ),
        ("a_50%", b"acc:user:online:a%5F50%25_ann", "appID", "userID", "a_50%"),
    ],
)
def test_a_record_is_where_the_original_has_it(
    app: str, key: bytes, app_key: str, user_key: str, value: int | str
) -> None:
    assert record_key(app, b"ann") == key
    record = json.loads(
        record_of(NODE, Session(app, "ann", peer="1.2.3.4:5", login_time=7), False)
    )
    assert (record[app_key], record[user_key], record["loginTime"]) == (value, "ann", 7)
    assert len(record) == 12


@pytest.mark.parametrize("kind", ["", "action:"])
def test_no_two_users_share_a_record(kind: str) -> None:
    pairs = [
        ("a", "b_c_d"),
        ("a_b", "c_d"),
        ("a_b_c", "d"),
        ("a%5Fb", "c_d"),
        ("a%255Fb", "c_d"),
    ]
    assert len({record_key(kind + app, user.encode()) for app, user in pairs}) == len(
        pairs
    )


@pytest.mark.parametrize("app", ["101", "action:1"])
def test_the_record_of_a_user_of_a_dead_node_is_marked_and_stays_what_it_was(
    app: str,
) -> None:
    before = record_of(NODE, Session(app, "马远", "phone"), False)
    after = marked_offline(before, [NODE])
    changed = {
        **json.loads(before),
        "isLogoff": True,
        "logOutTime": json.loads(after)["logOutTime"],
    }
    assert list(json.loads(after).items()) == list(changed.items())
    assert marked_offline(after, [NODE]) is None
    assert marked_offline(before, ["10.0.0.2:9001"]) is None
    assert marked_offline(b'{"appId":1}', [NODE]) is None
    assert "?" in json.loads(record_of(NODE, Session(app, "\ud800"), False)).values(), (
        "no UTF-8"
    )
    record = json.loads(
        record_of(NODE, Session(app, "ann", login_time=7, heartbeat_time=8), True)
    )
    assert (record["loginTime"], record["heartbeatTime"]) == (7, 8)
    assert record["logOutTime"] > 8


@pytest.fixture(params=["local", "redis"])
def store(request: pytest.FixtureRequest) -> Any:
    if request.param == "local":
        return LocalValues()
    start: StartNode = request.getfixturevalue("start_node")
    return start(request.getfixturevalue("server"))


def test_a_value_is_there_until_it_is_removed_by_the_first_who_tries(
    store: Any,
) -> None:
    assert store.value("key") is None
    assert not store.remove_value("key")
    store.put_value("key", b"one", 60)
    store.put_value("key", b"\x00two", 60)
    store.put_value("other", b"", 60)
    assert store.value("key") == b"\x00two"
    assert [store.remove_value("key") for _ in range(2)] == [True, False]
    assert (store.value("key"), store.value("other")) == (None, b"")


def test_a_value_ends_with_its_time(store: Any) -> None:
    store.put_value("key", b"one", 0.001)
    until(lambda: store.value("key") is None)
    assert not store.remove_value("key")


def test_the_memory_of_a_node_is_bounded() -> None:
    store = LocalValues()
    for number in range(MAX_VALUES + 1):
        store.put_value(str(number), b"x", 10 + number)
    assert [store.value(key) for key in ("0", "1", str(MAX_VALUES))] == [
        None,
        b"x",
        b"x",
    ]


def test_without_redis_nothing_is_believed(
    own_server: RedisServer, start_node: StartNode
) -> None:
    node = start_node(own_server)
    node.put_value("key", b"one", 60)
    own_server.kill()
    for call in (
        node.value,
        node.remove_value,
        lambda key: node.put_value(key, b"", 1),
    ):
        with pytest.raises(StorageUnavailable):
            call("key")
