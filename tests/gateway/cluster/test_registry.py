"""The registry in Redis, one node: sessions, message ids, channels."""

from collections.abc import Iterator

import gevent
import pytest

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import ReportedMembers, Session, SessionRef, SessionRegistration
from imserver.gateway.config.settings import ClusterSettings
from tests.gateway.cluster.conftest import LASTING, StartNode, lease_of
from tests.gateway.cluster.node_process import QUIET
from tests.gateway.cluster.redis_server import RedisServer
from tests.support import POLICIES, until

AWKWARD = [
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
]


@pytest.fixture
def registry(server: RedisServer) -> Iterator[RedisRegistry]:
    registry = RedisRegistry(server.settings, LASTING, ["101", "102"])
    registry.start(lease_of(1), QUIET)
    yield registry
    registry.stop()


def begin(registry: RedisRegistry, user: str = "ann", policy: str = "newest", device: str = "") -> Session:
    """A session that has begun and is addressed."""
    session = Session("101", user, device, policy, "127.0.0.1:5000", 1700000000)
    registration = registry.register(session)
    assert registration is not None
    assert registration.addressed
    return session


def registration(registry: RedisRegistry, session: Session) -> SessionRegistration:
    answer = registry.register(session)
    assert answer is not None
    return answer


def ids(registry: RedisRegistry, user: str = "ann", app: str = "101") -> list[int]:
    """The ids of a user's addressed sessions."""
    found = registry.find(app, [user])
    assert found is not None
    assert all(ref.epoch == registry.lease.epoch for ref in found[0])
    return [ref.id for ref in found[0]]


# --- the node -----------------------------------------------------------------------------------------------


def test_a_started_node_has_an_epoch_and_is_among_the_live(registry: RedisRegistry) -> None:
    assert registry.lease.epoch > 0
    assert registry.leases()[registry.lease.epoch] == registry.lease
    assert registry.healthy()
    assert registry.counters.epochs == 1


def test_what_a_node_reports_is_seen_in_its_lease(registry: RedisRegistry) -> None:
    registry.report(7, {"101": 5}, draining=True)

    def received() -> bool:
        lease = registry.leases()[registry.lease.epoch]
        return (lease.connections, lease.counts, lease.draining) == (7, {"101": 5}, True)

    until(received)


def test_the_database_in_which_a_node_keeps_things_is_seen_in_its_lease(registry: RedisRegistry) -> None:
    registry.report_database("d1")
    until(lambda: registry.leases()[registry.lease.epoch].database == "d1")


def test_a_stopped_node_is_not_healthy(registry: RedisRegistry) -> None:
    registry.stop()
    assert not registry.healthy()


# --- sessions -----------------------------------------------------------------------------------------------


def test_a_session_that_began_is_found_until_it_ends(registry: RedisRegistry) -> None:
    session = begin(registry)
    assert session.number > 0
    assert registry.registered(session)
    ref = SessionRef(registry.lease.epoch, session.id, session.number, "")
    assert registry.find("101", ["ann", "bob"]) == [(ref,), ()]
    assert registry.unregister(session) is True
    assert ids(registry) == []


def test_a_session_not_yet_begun_is_not_registered(registry: RedisRegistry) -> None:
    assert not registry.registered(Session("101", "ann"))


def test_the_same_user_in_two_apps_is_two_users(registry: RedisRegistry) -> None:
    here = begin(registry)
    there = Session("102", "ann")
    registration(registry, there)
    assert [ids(registry, app=app) for app in ("101", "102", "103")] == [[here.id], [there.id], []]
    assert registry.unregister(here) is True
    assert ids(registry, app="102") == [there.id]


@pytest.mark.parametrize("user", AWKWARD)
def test_any_name_is_only_a_name(registry: RedisRegistry, user: str) -> None:
    session = begin(registry, user, device=user)
    assert ids(registry, user) == [session.id]
    found = registry.find("101", [user])
    assert found is not None
    assert found[0][0].device == user
    begin(registry, "ann")
    assert ids(registry, user) == [session.id]
    assert registry.unregister(session) is True
    assert ids(registry, user) == []


def test_numbers_grow_with_each_session_of_a_user(registry: RedisRegistry) -> None:
    numbers = [begin(registry, policy="multi").number for _ in range(20)]
    assert numbers == sorted(set(numbers))


def test_newest_addresses_the_latest_session_only(registry: RedisRegistry) -> None:
    older = begin(registry, device="phone")
    newer = Session("101", "ann", "desk", "newest")
    assert [ref.id for ref in registration(registry, newer).replaced] == [older.id]
    assert ids(registry) == [newer.id]


def test_under_newest_the_end_of_the_older_session_is_no_exit(registry: RedisRegistry) -> None:
    older, newer = begin(registry), begin(registry)
    assert registry.unregister(older) is False
    assert ids(registry) == [newer.id]
    assert registry.unregister(newer) is True


def test_under_newest_the_end_of_the_newest_is_the_exit_though_an_older_one_stays(
    registry: RedisRegistry,
) -> None:
    older, newer = begin(registry), begin(registry)
    assert registry.unregister(newer) is True
    assert registry.unregister(older) is False
    assert ids(registry) == []


def test_multi_addresses_all_and_the_end_of_the_last_is_the_exit(registry: RedisRegistry) -> None:
    sessions = [begin(registry, policy="multi") for _ in range(3)]
    assert ids(registry) == [session.id for session in sessions]
    assert [registry.unregister(session) for session in sessions] == [False, False, True]


def test_single_replaces_a_session_of_the_same_device_only(registry: RedisRegistry) -> None:
    phone = begin(registry, policy="single", device="phone")
    desk = begin(registry, policy="single", device="desk")
    again = Session("101", "ann", "phone", "single")
    assert [ref.id for ref in registration(registry, again).replaced] == [phone.id]
    assert ids(registry) == [desk.id, again.id]


def test_no_device_name_is_a_name_too(registry: RedisRegistry) -> None:
    nameless = begin(registry, policy="single")
    begin(registry, policy="single", device="phone")
    again = Session("101", "ann", "", "single")
    assert [ref.id for ref in registration(registry, again).replaced] == [nameless.id]


def test_refuse_refuses_a_second_session_of_the_same_device(registry: RedisRegistry) -> None:
    first = begin(registry, policy="refuse", device="phone")
    second = Session("101", "ann", "phone", "refuse")
    answer = registration(registry, second)
    assert answer.refused
    assert [ref.id for ref in answer.others] == [first.id]
    assert not registry.registered(second)
    assert ids(registry) == [first.id]
    begin(registry, policy="refuse", device="desk")


def test_refuse_replaces_a_session_that_is_known_to_be_dead(registry: RedisRegistry) -> None:
    first = begin(registry, policy="refuse")
    second = Session("101", "ann", "", "refuse")
    others = registration(registry, second).others
    answer = registry.register(second, replacing=others)
    assert answer is not None
    assert answer.addressed
    assert answer.replaced == others
    assert ids(registry) == [second.id]
    assert registry.unregister(first) is False


def test_refuse_does_not_replace_another_than_the_one_known_to_be_dead(registry: RedisRegistry) -> None:
    first = begin(registry, policy="refuse")
    late = Session("101", "ann", "", "refuse")
    dead = registration(registry, late).others
    registry.unregister(first)
    second = begin(registry, policy="refuse")
    answer = registry.register(late, replacing=dead)
    assert answer is not None
    assert answer.refused
    assert ids(registry) == [second.id]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_session_may_begin_twice(registry: RedisRegistry, policy: str) -> None:
    session = begin(registry, policy=policy)
    number = session.number
    session.number = 0
    answer = registration(registry, session)
    assert answer.addressed
    assert answer.replaced == ()
    assert session.number == number
    assert ids(registry) == [session.id]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_session_that_ended_twice_ended_once(registry: RedisRegistry, policy: str) -> None:
    session = begin(registry, policy=policy)
    assert registry.unregister(session) is True
    assert registry.unregister(session) is False


# --- registering again --------------------------------------------------------------------------------------


def test_sessions_are_restored_with_their_numbers(registry: RedisRegistry) -> None:
    sessions = [begin(registry, f"user{i}") for i in range(500)]
    numbers = [session.number for session in sessions]
    reregistered = list(registry.reregister(iter(sessions)))
    assert [session.number for session, _ in reregistered] == numbers
    assert all(answer.addressed and not answer.replaced for _, answer in reregistered)


def test_a_session_that_never_began_is_given_a_number_when_it_is_restored(registry: RedisRegistry) -> None:
    session = Session("101", "ann")
    [(same, answer)] = registry.reregister([session])
    assert same is session
    assert answer.addressed
    assert session.number == answer.number > 0
    assert ids(registry) == [session.id]


@pytest.mark.parametrize("policy", ["newest", "single", "refuse"])
def test_the_higher_number_wins_when_an_older_session_is_restored(
    registry: RedisRegistry, policy: str
) -> None:
    older = begin(registry, policy=policy)
    registry.unregister(older)
    newer = begin(registry, policy=policy)
    [(_, answer)] = registry.reregister([older])
    assert answer.superseded
    assert ids(registry) == [newer.id]


@pytest.mark.parametrize("policy", ["newest", "single", "refuse"])
def test_a_session_that_is_registered_late_gives_way_to_those_that_began_after_it(
    registry: RedisRegistry, policy: str
) -> None:
    late = Session("101", "ann", policy=policy)
    late.began -= 60
    newer = begin(registry, policy=policy)
    [(_, answer)] = registry.reregister([late])
    assert not answer.addressed
    assert answer.superseded
    assert ids(registry) == [newer.id]


@pytest.mark.parametrize("policy", ["newest", "single"])
def test_a_session_that_is_registered_late_replaces_those_that_began_before_it(
    registry: RedisRegistry, policy: str
) -> None:
    older = begin(registry, policy=policy)
    gevent.sleep(0.1)
    late = Session("101", "ann", policy=policy)
    gevent.sleep(0.1)
    [(_, answer)] = registry.reregister([late])
    assert [ref.id for ref in answer.replaced] == [older.id]
    assert older.number < late.number < begin(registry, policy=policy).number


def test_under_refuse_a_session_that_is_registered_late_does_not_replace_an_older_one(
    registry: RedisRegistry,
) -> None:
    older = begin(registry, policy="refuse")
    gevent.sleep(0.1)
    [(_, answer)] = registry.reregister([Session("101", "ann", policy="refuse")])
    assert answer.refused
    assert ids(registry) == [older.id]


def test_a_registration_that_redis_carries_out_late_gives_way_to_sessions_that_began_after_it(
    own_server: RedisServer, start_node: StartNode
) -> None:
    """Redis stops, and nobody waits for it. When it goes on, it carries out what it was sent before."""
    node = start_node(own_server, settings=ClusterSettings(lease_seconds=60.0, redis_seconds=0.3))
    own_server.pause()
    older = Session("101", "ann")
    assert node.register(older) is None
    newer = Session("101", "ann")
    assert node.register(newer) is None
    gevent.sleep(0.3)
    own_server.resume()
    until(node.healthy)
    [(_, answer)] = node.reregister([newer])
    assert answer.addressed
    assert ids(node) == [newer.id]


@pytest.mark.parametrize("policy", ["newest", "single", "refuse"])
def test_a_login_that_redis_carries_out_late_is_superseded(registry: RedisRegistry, policy: str) -> None:
    newer = begin(registry, policy=policy)
    registry.keeper._redis_ms -= 1500 * registry.keeper.link.seconds  # it was asked for so long ago
    assert (answer := registry.register(Session("101", "ann", policy=policy))) is not None
    assert answer.superseded
    assert ids(registry) == [newer.id]


@pytest.mark.parametrize("policy", ["newest", "single", "refuse"])
def test_the_higher_number_wins_when_the_newer_session_is_restored(
    registry: RedisRegistry, policy: str
) -> None:
    older = begin(registry, policy=policy)
    registry.unregister(older)
    newer = begin(registry, policy=policy)
    registry.unregister(newer)
    list(registry.reregister([older]))
    [(_, answer)] = registry.reregister([newer])
    assert answer.addressed
    assert [ref.id for ref in answer.replaced] == [older.id]
    assert ids(registry) == [newer.id]


# --- many at once -------------------------------------------------------------------------------------------


def test_many_users_are_found_in_the_order_of_the_question(registry: RedisRegistry) -> None:
    sessions = {f"user{i}": begin(registry, f"user{i}") for i in range(0, 300, 2)}
    names = [f"user{i}" for i in reversed(range(300))] + ["user0", "user0"]
    found = registry.find("101", names)
    assert found is not None
    assert [[ref.id for ref in refs] for refs in found] == [
        [sessions[name].id] if name in sessions else [] for name in names
    ]


def test_nobody_is_asked_for(registry: RedisRegistry) -> None:
    assert registry.find("101", []) == []
    assert registry.claim([]) == []


# --- message ids --------------------------------------------------------------------------------------------


def settled(registry: RedisRegistry, key: str, accepted: bool) -> None:
    [claim] = registry.claim([key]) or []
    assert claim.state == "mine"
    registry.settle(claim, accepted)


def state(registry: RedisRegistry, key: str) -> str:
    [claim] = registry.claim([key]) or []
    return claim.state


def test_a_claim_is_pending_for_others_until_it_is_settled(registry: RedisRegistry) -> None:
    assert state(registry, "m1") == "mine"
    assert state(registry, "m1") == "pending"


def test_an_accepted_id_is_a_repeat(registry: RedisRegistry) -> None:
    settled(registry, "m1", accepted=True)
    assert state(registry, "m1") == "repeat"
    assert state(registry, "m2") == "mine"


def test_the_result_of_an_accepted_id_is_found(registry: RedisRegistry) -> None:
    for key, accepted in (("a", True), ("b", False)):
        [claim] = registry.claim([key]) or []
        registry.settle(claim, accepted, b"\0result")
    settled(registry, "c", accepted=True)
    assert registry.results(["c", "a", "b"]) == [b"", b"\0result", b""]


def test_an_id_that_was_not_accepted_is_free_again(registry: RedisRegistry) -> None:
    settled(registry, "m1", accepted=False)
    assert state(registry, "m1") == "mine"


@pytest.mark.full
def test_an_accepted_id_is_forgotten_after_its_time(server: RedisServer, start_node: StartNode) -> None:
    registry = start_node(server, dedupe_seconds=3.0)
    settled(registry, "m1", accepted=True)
    until(lambda: state(registry, "m1") == "mine")


def test_many_ids_are_claimed_in_order(registry: RedisRegistry) -> None:
    settled(registry, "b", accepted=True)
    claims = registry.claim(["a", "b", "c", "a"])
    assert claims is not None
    assert [(claim.key, claim.state) for claim in claims] == [
        ("a", "mine"),
        ("b", "repeat"),
        ("c", "mine"),
        ("a", "pending"),
    ]


def test_a_user_who_is_there_is_found_and_the_id_claimed(registry: RedisRegistry) -> None:
    session = begin(registry)
    answer = registry.find_and_claim("101", "ann", "m1")
    assert answer is not None
    refs, claim = answer
    assert [ref.id for ref in refs] == [session.id]
    assert claim.state == "mine"
    again = registry.find_and_claim("101", "ann", "m1")
    assert again is not None
    assert again[1].state == "pending"
    registry.settle(claim, True)
    again = registry.find_and_claim("101", "ann", "m1")
    assert again is not None
    assert again[1].state == "repeat"


def test_the_id_of_a_push_to_nobody_stays_free(registry: RedisRegistry) -> None:
    for _ in range(3):
        answer = registry.find_and_claim("101", "nobody", "m1")
        assert answer is not None
        refs, claim = answer
        assert (refs, claim.state) == ((), "mine")
        registry.settle(claim, True)
    assert state(registry, "m1") == "mine"


# --- channels -----------------------------------------------------------------------------------------------


def enter(registry: RedisRegistry, channel: str = "lobby", members: int = 1, app: str = "101") -> None:
    assert registry.report_channels([ReportedMembers(app, channel, members)]) is not None


def members_of(registry: RedisRegistry, channel: str = "lobby", app: str = "101") -> int | None:
    """How many members this node has in a channel; None: it is not found there."""
    found = registry.find_channels(app, [channel])
    assert found is not None
    [nodes] = found
    assert nodes.keys() <= {registry.lease.epoch}
    return nodes.get(registry.lease.epoch)


def test_a_channel_is_found_where_it_has_members(registry: RedisRegistry) -> None:
    assert members_of(registry) is None
    enter(registry)
    assert members_of(registry) == 1
    assert members_of(registry, "garden") is None


def test_a_channel_has_as_many_members_as_were_reported_last(registry: RedisRegistry) -> None:
    for members in (1, 20, 3):
        enter(registry, members=members)
        assert members_of(registry) == members


def test_a_channel_without_members_is_not_found(registry: RedisRegistry) -> None:
    enter(registry)
    enter(registry, members=0)
    assert members_of(registry) is None
    enter(registry, members=0)
    assert members_of(registry) is None


def test_the_same_channel_in_two_apps_is_two_channels(registry: RedisRegistry) -> None:
    enter(registry, app="101", members=1)
    enter(registry, app="102", members=2)
    assert (members_of(registry, app="101"), members_of(registry, app="102")) == (1, 2)
    enter(registry, app="101", members=0)
    assert (members_of(registry, app="101"), members_of(registry, app="102")) == (None, 2)


@pytest.mark.parametrize("channel", AWKWARD)
def test_any_name_of_a_channel_is_only_a_name(registry: RedisRegistry, channel: str) -> None:
    enter(registry, channel, 2)
    enter(registry, "lobby", 3)
    assert (members_of(registry, channel), members_of(registry, "lobby")) == (2, 3)
    enter(registry, channel, 0)
    assert (members_of(registry, channel), members_of(registry, "lobby")) == (None, 3)


@pytest.mark.parametrize("app", AWKWARD)
def test_any_name_of_an_app_has_its_own_channels(registry: RedisRegistry, app: str) -> None:
    enter(registry, "lobby", 2, app=app)
    enter(registry, "lobby", 3)
    assert (members_of(registry, app=app), members_of(registry)) == (2, 3)


def test_many_channels_are_reported_and_found_in_order(registry: RedisRegistry) -> None:
    assert registry.report_channels([ReportedMembers("101", f"r{n}", n) for n in range(1201)]) is not None
    found = registry.find_channels("101", [f"r{n}" for n in range(1201)])
    assert found is not None
    assert [sum(nodes.values()) for nodes in found] == list(range(1201))


def test_a_life_of_the_registry_begins_with_the_node(registry: RedisRegistry) -> None:
    assert registry.generation() > 0


def test_a_node_that_is_not_settled_says_so_in_its_lease(registry: RedisRegistry) -> None:
    registry.report(0, {}, unsettled=True)
    until(lambda: registry.leases()[registry.lease.epoch].unsettled)
    registry.report(0, {}, unsettled=False)
    until(lambda: not registry.leases()[registry.lease.epoch].unsettled)


# --- attempts -----------------------------------------------------------------------------------------------


def test_attempts_are_counted_in_one_step_and_forgotten(registry: RedisRegistry) -> None:
    assert [registry.attempt("who", 2, 1000, 1) for _ in range(2)] == [0, 0]
    wait = registry.attempt("who", 2, 1000, 1)
    assert wait is not None
    assert 500 < wait <= 1000
    assert registry.attempt("other", 2, 1000, 1) == 0
    assert registry.attempt("who", 2, 1000, -1) == 0
    assert registry.attempt("who", 2, 1000, 1) == 0
    assert registry.attempt("who", 2, 1000, -2) == 0
    assert [registry.attempt("who", 2, 0.001, 1) for _ in range(2)] == [0, 0]
    until(lambda: registry.attempt("who", 2, 0.001, 1) == 0)
