"""Ids of messages and requests: accepted once, for a time, in bounded memory, on one node and on two."""

import tracemalloc
from collections.abc import Sequence

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.gateway.cluster.registry import Claim
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
from tests.support import Clock

SENT, ABSENT, PENDING, FAILED = Outcome.SENT, Outcome.NOT_SENT, Outcome.PENDING, Outcome.FAILED


class SharedClaims:
    """The claims of a registry that two nodes share; ``away`` while it does not answer."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.entries: dict[str, bytes] = {}
        self.away = False
        self.calls: list[list[str]] = []

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        self.calls.append(list(keys))
        if self.away:
            return None
        found = []
        for key in keys:
            state = self.states.get(key)
            if state is None:
                self.states[key] = "pending"
            found.append(Claim(key, state or "mine", "token"))  # type: ignore[arg-type]
        return found

    def settle(self, claim: Claim, accepted: bool, result: bytes = b"") -> None:
        if accepted:
            self.states[claim.key] = "repeat"
            self.entries[claim.key] = result
        else:
            del self.states[claim.key]

    def results(self, keys: Sequence[str]) -> list[bytes]:
        return [self.entries.get(key, b"") for key in keys]


def make(
    limit: int = 1000,
    seconds: float = 100,
    *,
    shared: bool = True,
    claims: SharedClaims | None = None,
    clock: Clock | None = None,
) -> Idempotency:
    return Idempotency(limit, seconds, shared=shared, registry=claims, clock=clock or Clock())  # type: ignore[arg-type]


def accept(ids: Idempotency, id: str, app: str = "101") -> bool:
    """Claim the id of a message and, if it was free, have it remembered."""
    key = ids.claim(app, id)
    if key is not None:
        ids.settle(key, True)
    return key is not None


def carry_out(ids: Idempotency, id: str, *outcomes: Outcome, app: str = "101", digest: int = 1) -> None:
    """Claim the id of a request, which is free, and settle it."""
    key = ids.claim(app, id, digest)
    assert isinstance(key, int)
    ids.settle(key, not ACCEPTED.isdisjoint(outcomes), digest, bytes(outcomes))


# --- ids of messages ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.booleans(), st.integers(0, 4)), max_size=60),
)
def test_it_behaves_like_a_list_of_ids_and_times(limit: int, steps: list[tuple[str, bool, int]]) -> None:
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


def test_expired_ids_are_dropped_while_others_are_accepted() -> None:
    clock = Clock()
    ids = make(seconds=100, clock=clock)
    for number in range(100):
        accept(ids, f"old {number}")
    clock.now += 200
    for number in range(10):
        accept(ids, f"new {number}")
    assert len(ids) == 10
    assert not accept(ids, "new 0")


def test_an_empty_id_is_never_a_repeat_and_never_remembered() -> None:
    ids = make()
    for digest in (0, 0, 1, 1):
        assert ids.claim("101", "", digest) == UNTRACKED
        ids.settle(UNTRACKED, True, digest, bytes([SENT]))
    assert len(ids) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_whose_ids_are_the_same(shared: bool) -> None:
    """Messages share theirs in demo mode, requests never. Names of apps may have colons."""
    ids = make(shared=shared)
    assert [accept(ids, "a", app) for app in ("101", "102", "101")] == [True, not shared, False]
    for app, id in (("101", "a"), ("102", "a"), ("shop", "eu:order-17"), ("shop:eu", "order-17")):
        carry_out(ids, id, SENT, app=app, digest=len(id))
        assert isinstance(ids.claim(app, id, 9), IdReused)
    assert ids.name("shop", "eu:order-17") != ids.name("shop:eu", "order-17")
    assert ids.name("101", "a") != ids.name("101", "a", 1)


def test_repeats_wait_for_the_outcome_and_one_of_them_may_follow_a_failure() -> None:
    ids = make()
    claimed: list[int | None] = []
    first = ids.claim("101", "a")
    assert first
    assert ids.claim("101", "b"), "another id does not wait"
    waiting = [gevent.spawn(lambda: claimed.append(ids.claim("101", "a"))) for _ in range(3)]
    gevent.sleep(0)
    assert claimed == []
    ids.settle(first, False)
    gevent.sleep(0.01)
    assert claimed == [first]
    ids.settle(first, True)
    gevent.joinall(waiting, timeout=60, raise_error=True)
    assert claimed == [first, None, None]


@pytest.mark.full
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


# --- requests: a repeat gets the result of the first --------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "accepted"),
    [((), False), ((ABSENT,), False), ((FAILED, ABSENT), False), ((SENT, ABSENT, PENDING), True)]
    + [((ABSENT, outcome), True) for outcome in (SENT, PENDING, Outcome.PARTLY)],
)
def test_one_target_that_was_accepted_uses_the_id_up_for_another_request(
    outcomes: tuple[Outcome, ...], accepted: bool
) -> None:
    ids = make()
    carry_out(ids, "a", *outcomes)
    if accepted:
        assert ids.claim("101", "a", 1) == First(bytes(outcomes))
        assert isinstance(ids.claim("101", "a", 2), IdReused)
    else:
        carry_out(ids, "a", digest=2)


def test_a_request_that_comes_meanwhile_waits_for_the_outcome() -> None:
    ids = make()
    key = ids.claim("101", "a", 1)
    assert isinstance(key, int)
    second = gevent.spawn(ids.claim, "101", "a", 1)
    gevent.sleep(0)
    assert not second.ready()
    busy, free = ids.claim_each("101", ["a", "b"], [1, 1])
    assert (busy, type(free)) == (WAITING, int), "of many ids none is waited for"
    ids.settle(key, True, 1, bytes([SENT]))
    assert second.get(timeout=60) == First(bytes([SENT]))


@pytest.mark.parametrize(("number", "size"), [(MAX_FIRSTS, 1), (2, MAX_FIRST_BYTES // 2)])
def test_first_results_leave_when_they_are_too_many_and_the_id_stays_used(number: int, size: int) -> None:
    ids = make(limit=200_000)
    for index in range(2 * number + 1):
        key = ids.claim("101", str(index), 1)
        assert isinstance(key, int)
        ids.settle(key, True, 1, bytes(size))
    for index in (0, number - 1, number, 2 * number):
        assert ids.claim("101", str(index), 1) == First(bytes(size) if index >= number else b"")


# --- two nodes ----------------------------------------------------------------------------------------------


def test_another_node_knows_only_that_it_was_accepted() -> None:
    claims = SharedClaims()
    here, there = make(claims=claims), make(claims=claims)
    carry_out(here, "a", SENT)
    assert accept(here, "m")
    for _ in range(2):
        assert there.claim("101", "a", 1) == First(b"")
        assert there.claim("101", "m") is None
    assert here.claim("101", "a", 1) == First(bytes([SENT]))


def test_the_result_of_a_request_that_was_carried_out_is_known_to_all_nodes() -> None:
    claims = SharedClaims()
    here, there, third = (make(claims=claims) for _ in range(3))
    requests = [("a", 1), ("b", -2)]
    here.carry_out_each("101", requests, lambda index, _: (None, [SENT], b"at %d" % index))
    for _ in range(2):  # the second time it is in the memory of the node
        assert there.claim("101", "a", 1) == First(b"at 0")
        assert isinstance(there.claim("101", "a", 7), IdReused)
        assert third.claim_each("101", ["a", "b"], [1, -2]) == [First(b"at 0"), First(b"at 1")]


def test_a_request_whose_result_cannot_be_read_is_a_repeat() -> None:
    claims = SharedClaims()
    here, there = make(claims=claims), make(claims=claims)
    here.carry_out_each("101", [("a", 1)], lambda *_: (None, [SENT], b"result"))

    def broken(_keys: Sequence[str]) -> list[bytes]:
        raise OSError("gone")

    claims.results, usual = broken, claims.results  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        there.claim_each("101", ["new", "a"], [1, 1])
    claims.results = usual  # type: ignore[method-assign]
    assert [type(each) for each in there.claim_each("101", ["new", "a"], [1, 1])] == [int, First]


@pytest.mark.parametrize("accepted", [True, False])
def test_another_node_waits_for_the_outcome_and_may_then_try_itself(accepted: bool) -> None:
    claims = SharedClaims()
    here, there = make(claims=claims), make(claims=claims)
    key = here.claim("101", "a", 1)
    assert isinstance(key, int)
    others = [gevent.spawn(there.claim, "101", "a", 1) for _ in range(2)]
    gevent.sleep(0.01)
    assert not any(other.ready() for other in others)
    here.settle(key, accepted)
    found = others[0].get(timeout=60)
    if not accepted:
        assert isinstance(found, int)
        there.settle(found, True, 1, b"")
    assert others[1].get(timeout=60) == First(b"")


def test_a_claim_on_this_node_only_does_not_ask_the_cluster() -> None:
    claims = SharedClaims()
    ids = make(claims=claims)
    key = ids.claim("101", "a", only_here=True)
    assert key
    ids.settle(key, True)
    assert claims.calls == []


def test_while_the_registry_is_away_each_node_is_by_itself() -> None:
    claims = SharedClaims()
    claims.away = True
    here, there = make(claims=claims), make(claims=claims)
    carry_out(here, "a", SENT)
    assert isinstance(here.claim("101", "a", 1), First)
    carry_out(there, "a", SENT)


def test_a_registry_that_fails_leaves_nothing_claimed() -> None:
    claims = SharedClaims()
    ids = make(claims=claims)

    def fail(_keys: Sequence[str]) -> None:
        raise OSError("gone")

    claims.claim, usual = fail, claims.claim  # type: ignore[assignment, method-assign]
    with pytest.raises(OSError, match="gone"):
        ids.claim("101", "a", 1)
    with pytest.raises(OSError, match="gone"):
        ids.claim_each("101", ["a", "b"], [1, 1])
    claims.claim = usual  # type: ignore[method-assign]
    carry_out(ids, "a", SENT)
    carry_out(ids, "b", SENT)


# --- many ids -----------------------------------------------------------------------------------------------


def test_many_ids_are_claimed_with_one_question() -> None:
    claims = SharedClaims()
    here, there = make(claims=claims), make(claims=claims)
    carry_out(here, "old", SENT)
    carry_out(there, "theirs", SENT)
    busy = there.claim("101", "busy", 1)
    assert isinstance(busy, int)
    claims.calls.clear()
    found = here.claim_each("101", ["new", "old", "theirs", "busy", "old", ""], [1, 1, 1, 1, 2, 0])
    assert found[1:4] == [First(bytes([SENT])), First(b""), WAITING]
    assert [type(found[0]), type(found[4]), found[5]] == [int, IdReused, UNTRACKED]
    assert claims.calls == [[f"\0{101}\0{id}" for id in ("new", "theirs", "busy")]]
    there.settle(busy, False)
    carry_out(here, "busy", SENT)


def test_many_messages_are_claimed_with_one_question_but_for_those_of_this_node_only() -> None:
    claims = SharedClaims()
    here, there = make(claims=claims), make(claims=claims)
    assert accept(here, "old")
    assert accept(there, "theirs")
    claims.calls.clear()
    found = here.claim_each("101", ["new", "old", "theirs", "absent"], only_here=[3])
    assert [type(found[0]), *found[1:3], type(found[3])] == [int, None, None, int]
    assert claims.calls == [["new", "theirs"]]
    here.release(found)
    assert accept(here, "new")
    assert accept(there, "absent")


def test_many_requests_are_carried_out_once_and_those_that_another_request_holds_come_last() -> None:
    claims = SharedClaims()
    here, there = make(claims=claims), make(claims=claims)
    carry_out(here, "old", SENT)
    busy = there.claim("101", "busy", 1)
    assert isinstance(busy, int)
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
    assert seen == [("old", bytes([SENT])), ("new", None), ("absent", None), ("busy", b"")]
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
