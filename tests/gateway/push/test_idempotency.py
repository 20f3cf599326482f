"""Ids of messages and requests: accepted once, for a time, in bounded memory,
on one node and on two."""

import tracemalloc

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.model import ACCEPTED, Outcome
from imserver.gateway.push.idempotency import (
    MAX_FIRST_BYTES,
    MAX_FIRSTS,
    UNTRACKED,
    WAITING,
    First,
    Idempotency,
    IdReused,
    RequestResult,
)
from tests.gateway.core.cluster_harness import Book, FakeRegistry
from tests.support import Clock

SENT = Outcome.SENT
ABSENT = Outcome.NOT_SENT
PENDING = Outcome.PENDING
FAILED = Outcome.FAILED


def make(
    limit: int = 1000,
    seconds: float = 100,
    *,
    shared: bool = True,
    claims: FakeRegistry | None = None,
    clock: Clock | None = None,
) -> Idempotency:
    return Idempotency(
        limit, seconds, shared=shared, registry=claims, clock=clock or Clock()
    )  # type: ignore[arg-type]


def two_nodes() -> tuple[FakeRegistry, Idempotency, Idempotency]:
    """A registry that two nodes share, and the ids of each."""
    claims = FakeRegistry(Book(), Lease("node", 1))
    return claims, make(claims=claims), make(claims=claims)


def accept(ids: Idempotency, id: str, app: str = "101") -> bool:
    """Claim the id of a message and, if it was free, have it remembered."""
    key = ids.claim(app, id)
    if key is not None:
        ids.settle(key, True)
    return key is not None


def begin(ids: Idempotency, id: str, app: str = "101", digest: int = 1) -> int:
    """Claim the id of a request, which is free."""
    key = ids.claim(app, id, digest)
    assert isinstance(key, int)
    return key


def carry_out(
    ids: Idempotency, id: str, *outcomes: Outcome, app: str = "101", digest: int = 1
) -> None:
    """Claim the id of a request, which is free, and settle it."""
    ids.settle(
        begin(ids, id, app, digest),
        not ACCEPTED.isdisjoint(outcomes),
        digest,
        bytes(outcomes),
    )


# --- ids of messages ----------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.booleans(), st.integers(0, 4)),
        max_size=60,
    ),
)
def test_it_behaves_like_a_list_of_ids_and_times(
    limit: int, steps: list[tuple[str, bool, int]]
) -> None:
    clock = Clock()
    ids = make(limit, 10, clock=clock)
    known: list[tuple[str, float]] = []
    repeats = 0
    for name, accepted, pause in steps:
        clock.now += pause
        known = [(old, moment) for old, moment in known if clock.now < moment + 10]
        key = ids.claim("101", name)
        assert (key is None) == (name in dict(known))
        repeats += key is None
        if key is not None:
            ids.settle(key, accepted)
            if accepted:
                known = [*known, (name, clock.now)][-limit:]
        assert len(known) <= len(ids) <= limit
    assert ids.repeats == repeats


def test_an_empty_id_is_never_a_repeat_and_never_remembered() -> None:
    ids = make()
    for digest in (0, 0, 1, 1):
        assert ids.claim("101", "", digest) == UNTRACKED
        ids.settle(UNTRACKED, True, digest, bytes([SENT]))
    assert len(ids) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_whose_ids_are_the_same(shared: bool) -> None:
    """Messages share theirs in demo mode, requests never. Names of apps may
    have colons."""
    ids = make(shared=shared)
    assert [accept(ids, "a", app) for app in ("101", "102", "101")] == [
        True,
        not shared,
        False,
    ]
    for app, id in (
        ("101", "a"),
        ("102", "a"),
        ("shop", "eu:order-17"),
        ("shop:eu", "order-17"),
    ):
        carry_out(ids, id, SENT, app=app, digest=len(id))
        assert isinstance(ids.claim(app, id, 9), IdReused)
    assert ids.name("shop", "eu:order-17") != ids.name("shop:eu", "order-17")
    assert ids.name("101", "a") != ids.name("101", "a", 1)


def test_repeats_wait_for_the_outcome_and_one_of_them_may_follow_a_failure() -> None:
    ids = make()
    claimed: list[object] = []
    first = begin(ids, "a")
    busy, free = ids.claim_each("101", ["a", "b"], [1, 1])
    assert (busy, type(free)) == (WAITING, int), "of many ids none is waited for"
    waiting = [
        gevent.spawn(lambda: claimed.append(ids.claim("101", "a", 1))) for _ in range(3)
    ]
    gevent.sleep(0)
    assert claimed == []
    ids.settle(first, False)
    gevent.sleep(0.01)
    assert claimed == [first]
    ids.settle(first, True, 1, bytes([SENT]))
    gevent.joinall(waiting, timeout=60, raise_error=True)
    assert claimed == [first, *[First(bytes([SENT]))] * 2]


@pytest.mark.full("load")
def test_a_hundred_thousand_long_ids_take_little_memory() -> None:
    ids = make(limit=100_000)
    tracemalloc.start()
    try:
        for number in range(120_000):
            accept(ids, f"{number}{'x' * 500}")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == 100_000
    assert taken / len(ids) < 130


@pytest.mark.parametrize("limit", [1, 10_300, 10_301])
def test_a_memory_of_any_size_keeps_exactly_that_many(limit: int) -> None:
    ids = make(limit=limit)
    for number in range(limit + 10):
        accept(ids, str(number))
    assert (len(ids), ids.evicted) == (limit, 10)
    assert not accept(ids, "10")
    assert accept(ids, "9")


# --- requests: a repeat gets the result of the first --------------------------


@pytest.mark.parametrize(
    ("outcomes", "accepted"),
    [
        ((), False),
        ((ABSENT,), False),
        ((FAILED, ABSENT), False),
        ((SENT, ABSENT, PENDING), True),
    ]
    + [((ABSENT, outcome), True) for outcome in (SENT, PENDING, Outcome.PARTLY)],
)
def test_one_accepted_target_uses_the_id_up_for_others(
    outcomes: tuple[Outcome, ...], accepted: bool
) -> None:
    ids = make()
    carry_out(ids, "a", *outcomes)
    if accepted:
        assert ids.claim("101", "a", 1) == First(bytes(outcomes))
        assert isinstance(ids.claim("101", "a", 2), IdReused)
    else:
        carry_out(ids, "a", digest=2)


@pytest.mark.parametrize(
    ("number", "size"), [(MAX_FIRSTS, 1), (2, MAX_FIRST_BYTES // 2)]
)
def test_first_results_leave_when_they_are_too_many_and_the_id_stays_used(
    number: int, size: int
) -> None:
    ids = make(limit=200_000)
    for index in range(2 * number + 1):
        ids.settle(begin(ids, str(index)), True, 1, bytes(size))
    for index in (0, number - 1, number, 2 * number):
        assert ids.claim("101", str(index), 1) == First(
            bytes(size) if index >= number else b""
        )


# --- two nodes ----------------------------------------------------------------


def test_another_node_knows_the_result_of_what_was_carried_out_and_else_that_it_was_accepted() -> (
    None
):
    claims, here, there = two_nodes()
    third = make(claims=claims)
    here.carry_out_each(
        "101", [("a", 1), ("b", -2)], lambda index, _: (None, [SENT], b"at %d" % index)
    )
    carry_out(here, "c", SENT)
    assert accept(here, "m")
    for _ in range(2):  # the second time it is in the memory of the node
        assert there.claim("101", "a", 1) == First(b"at 0")
        assert isinstance(there.claim("101", "a", 7), IdReused)
        assert third.claim_each("101", ["a", "b"], [1, -2]) == [
            First(b"at 0"),
            First(b"at 1"),
        ]
        assert there.claim("101", "c", 1) == First(b"")
        assert there.claim("101", "m") is None
    assert here.claim("101", "c", 1) == First(bytes([SENT]))


def test_a_registry_that_is_away_or_fails_leaves_nothing_claimed_and_each_node_by_itself() -> (
    None
):
    claims, here, there = two_nodes()
    here.carry_out_each("101", [("a", 1)], lambda *_: (None, [SENT], b"result"))
    for fails, node, ids in (
        ("results", there, "na"),
        ("claim", here, "b"),
        ("claim", here, "bc"),
    ):
        claims.fails = fails
        with pytest.raises(RuntimeError, match="a fault of ours"):
            node.claim_each("101", [*ids], [1] * len(ids))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        here.claim("101", "b", 1)
    claims.fails = ""
    assert [type(each) for each in there.claim_each("101", ["n", "a"], [1, 1])] == [
        int,
        First,
    ]
    claims.away = True
    for node in (here, there):
        for id in "bc":
            carry_out(node, id, SENT)
            assert isinstance(node.claim("101", id, 1), First)


@pytest.mark.parametrize("accepted", [True, False])
def test_another_node_waits_for_the_outcome_and_may_then_try_itself(
    accepted: bool,
) -> None:
    _, here, there = two_nodes()
    key = begin(here, "a")
    others = [gevent.spawn(there.claim, "101", "a", 1) for _ in range(2)]
    gevent.sleep(0.01)
    assert not any(other.ready() for other in others)
    here.settle(key, accepted)
    found = others[0].get(timeout=60)
    if not accepted:
        there.settle(found, True, 1, b"")
    assert others[1].get(timeout=60) == First(b"")


# --- many ids -----------------------------------------------------------------


def test_many_ids_are_claimed_with_one_question() -> None:
    claims, here, there = two_nodes()
    carry_out(here, "old", SENT)
    carry_out(there, "theirs", SENT)
    busy = begin(there, "busy")
    claims.claimed.clear()
    found = here.claim_each(
        "101", ["new", "old", "theirs", "busy", "old", ""], [1, 1, 1, 1, 2, 0]
    )
    assert found[1:4] == [First(bytes([SENT])), First(b""), WAITING]
    assert [type(found[0]), type(found[4]), found[5]] == [int, IdReused, UNTRACKED]
    assert claims.claimed == [[f"\0{101}\0{id}" for id in ("new", "theirs", "busy")]]
    there.settle(busy, False)
    carry_out(here, "busy", SENT)


def test_many_messages_are_claimed_with_one_question_but_for_those_of_this_node_only() -> (
    None
):
    claims, here, there = two_nodes()
    assert accept(here, "old")
    assert accept(there, "theirs")
    claims.claimed.clear()
    found = here.claim_each("101", ["new", "old", "theirs", "absent"], only_here=[3])
    assert [type(found[0]), *found[1:3], type(found[3])] == [int, None, None, int]
    assert here.claim("101", "b", only_here=True)
    assert claims.claimed == [["new", "theirs"]]
    here.release(found)
    assert accept(here, "new")
    assert accept(there, "absent")


def test_many_requests_are_carried_out_once_and_those_that_another_request_holds_come_last() -> (
    None
):
    _, here, there = two_nodes()
    carry_out(here, "old", SENT)
    busy = begin(there, "busy")
    requests = [("busy", 1), ("old", 1), ("new", 1), ("old", 2), ("absent", 1)]
    seen: list[tuple[str, bytes | None]] = []

    def run(index: int, first: First | None) -> RequestResult[int]:
        name, _ = requests[index]
        seen.append((name, None if first is None else first.result))
        if name == "absent":
            there.settle(busy, True)
        return index, [ABSENT if name == "absent" else SENT], name.encode()

    with pytest.raises(IdReused):
        here.carry_out_each("101", requests, run, all_or_none=True)
    results = here.carry_out_each("101", requests, run)
    assert seen == [
        ("old", bytes([SENT])),
        ("new", None),
        ("absent", None),
        ("busy", b""),
    ]
    assert here.claim("101", "new", 1) == First(b"new")
    assert [each for each in results if not isinstance(each, IdReused)] == [0, 1, 2, 4]
    found = here.claim_each("101", ["new", "absent"], [1, 2])
    assert [type(each) for each in found] == [First, int]


def test_a_request_that_fails_leaves_those_behind_it_unclaimed() -> None:
    ids = make()
    requests = [("a", 1), ("b", 1), ("c", 1)]

    def run(index: int, _first: First | None) -> RequestResult[None]:
        if index:
            raise OSError("gone")
        return None, [SENT], bytes([SENT])

    with pytest.raises(OSError, match="gone"):
        ids.carry_out_each("101", requests, run)
    found = ids.claim_each("101", ["a", "b", "c"], [1, 1, 1])
    assert [type(each) for each in found] == [First, int, int]
