"""Two nodes against a model: whatever happens in whatever order, at most one
session holds a place."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imserver.gateway.cluster.redis.registry import RedisRegistry
from imserver.gateway.cluster.registry import Session, SessionRef, SessionRegistration
from imserver.gateway.config.settings import ClusterSettings
from tests.gateway.cluster.conftest import QUIET, lease_of
from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.core.cluster_harness import Book, FakeRegistry
from tests.support import POLICIES

PATIENT = ClusterSettings(lease_seconds=600, renew_seconds=20, redis_seconds=30)
DEVICES = ("", "phone", "a.b,c")
users = map("user{}".format, count())

Nodes = Sequence[RedisRegistry | FakeRegistry]


@pytest.fixture(scope="module", params=["redis", "book"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """Two nodes for all examples; each example has a user of its own."""
    if request.param == "book":  # what tests of services have in place of Redis
        book = Book()
        yield (
            FakeRegistry(book, lease_of(1, epoch=1)),
            FakeRegistry(book, lease_of(2, epoch=2)),
        )
        return
    shared: RedisServer = request.getfixturevalue("shared_redis")
    with shared.client() as client:
        client.flushall()
    both = tuple(RedisRegistry(shared.settings, PATIENT, ["101"]) for _ in range(2))
    for number, node in enumerate(both):
        node.start(lease_of(number), QUIET)
    yield both
    for node in both:
        node.stop()


class SessionOfNode(NamedTuple):
    node: int
    session: Session


class Model:
    """What the registry shall know of one user."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.refs: list[SessionOfNode] = []

    def rivals(self, session: Session) -> list[SessionOfNode]:
        others = [record for record in self.refs if record.session is not session]
        if self.policy == "multi":
            return []
        return [
            record
            for record in others
            if self.policy == "newest" or record.session.device == session.device
        ]

    def register(self, record: SessionOfNode) -> tuple[str, list[SessionOfNode]]:
        """What becomes of a session that begins, or is restored if it has a
        number; and of which others."""
        rivals = self.rivals(record.session)
        number = record.session.number
        if number and any(rival.session.number > number for rival in rivals):
            self.refs = [ref for ref in self.refs if ref != record]
            return "superseded", []
        if self.policy == "refuse" and not number and rivals:
            return "refused", rivals
        self.refs = [
            ref for ref in self.refs if ref not in rivals and ref != record
        ] + [record]
        return "addressed", rivals

    def unregister(self, record: SessionOfNode) -> bool:
        was_there = record in self.refs
        self.refs = [ref for ref in self.refs if ref != record]
        return was_there and not self.refs


def outcome(registration: SessionRegistration | None) -> str:
    return (
        "refused"
        if registration.refused
        else "superseded"
        if registration.superseded
        else "addressed"
    )


def keys(refs: tuple[SessionRef, ...]) -> list[tuple[int, int]]:
    return sorted((ref.epoch, ref.id) for ref in refs)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.integers(0, 1), st.sampled_from(DEVICES)),
        st.tuples(st.just("unregister"), st.integers(0, 20), st.none()),
        st.tuples(st.just("restore"), st.integers(0, 20), st.none()),
        st.tuples(st.just("insist"), st.integers(0, 1), st.sampled_from(DEVICES)),
    ),
    max_size=14,
)


@given(policy=st.sampled_from(POLICIES), steps=steps)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_registry_does_what_the_model_says(
    nodes: Nodes, policy: str, steps: list[tuple[str, int, str | None]]
) -> None:
    user = next(users)
    model = Model(policy)
    records: list[SessionOfNode] = []
    for what, number, device in steps:
        if what in ("register", "insist"):
            record = SessionOfNode(number, Session("101", user, device or "", policy))
            records.append(record)
            expected, rivals = model.register(record)
            registration = nodes[number].register(record.session)
            if what == "insist" and expected == "refused":
                registration = nodes[number].register(
                    record.session, replacing=registration.others
                )
                model.refs = [ref for ref in model.refs if ref not in rivals] + [record]
                expected = "addressed"
        elif not records:
            continue
        else:
            record = records[number % len(records)]
            if not record.session.number:
                continue  # it was refused: its node has closed it
            if what == "unregister":
                expected_exit = model.unregister(record)
                assert nodes[record.node].unregister(record.session) is expected_exit
                continue
            expected, rivals = model.register(record)
            before = record.session.number
            [(_, registration)] = nodes[record.node].reregister([record.session])
            assert record.session.number == before
        assert outcome(registration) == expected
        named = registration.others if expected == "refused" else registration.replaced
        assert keys(named) == sorted(
            (nodes[r.node].lease.epoch, r.session.id) for r in rivals
        )
        check(nodes, user, model)


def check(nodes: Nodes, user: str, model: Model) -> None:
    expected = sorted(
        (nodes[record.node].lease.epoch, record.session.id) for record in model.refs
    )
    for node in nodes:
        found = node.find("101", [user])
        assert keys(found[0]) == expected
    per_device = [record.session.device for record in model.refs]
    if model.policy == "newest":
        assert len(per_device) <= 1
    if model.policy in ("single", "refuse"):
        assert len(per_device) == len(set(per_device))


@given(
    policy=st.sampled_from(["newest", "single", "refuse"]),
    lives=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["stay", "leave", "return"])),
        min_size=2,
        max_size=12,
    ),
)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_of_sessions_that_come_at_once_the_highest_is_left(
    nodes: Nodes, policy: str, lives: list[tuple[int, str]]
) -> None:
    user = next(users)
    sessions = [Session("101", user, "", policy) for _ in lives]
    over: set[int] = set()
    refused: set[int] = set()
    gone: set[int] = set()

    def live(node: RedisRegistry | FakeRegistry, session: Session, way: str) -> None:
        registration = node.register(session)
        received(registration, session)
        if way == "return" and session.number:
            for _, again in node.reregister([session]):
                received(again, session)
        if way == "leave":
            node.unregister(session)
            gone.add(session.id)

    def received(registration: SessionRegistration | None, session: Session) -> None:
        over.update(ref.id for ref in registration.replaced)
        if registration.refused:
            refused.add(session.id)
        if registration.superseded:
            over.add(session.id)

    gevent.joinall(
        [
            gevent.spawn(live, nodes[node], session, way)
            for session, (node, way) in zip(sessions, lives, strict=True)
        ],
        raise_error=True,
    )
    found = nodes[0].find("101", [user])
    left = {ref.id for ref in found[0]}
    assert len(left) <= 1
    stayed = {session.id for session in sessions} - over - refused - gone
    returned = {
        session.id
        for session, (_, way) in zip(sessions, lives, strict=True)
        if way == "return"
    }
    if not stayed:
        # Who asked to be restored before the word came is addressed again, if
        # its follower has gone.
        assert left <= over & returned
        return
    assert left == stayed, "everybody who is not addressed was told so, and nobody else"
    if policy != "refuse":
        assert (
            max(
                sessions, key=lambda session: session.number * (session.id not in gone)
            ).id
            in left
        )
