"""Ids of messages: accepted once, for a time, in bounded memory."""

import tracemalloc

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imserver.push.idempotency import UNTRACKED, Dedupe
from tests.support import Clock


def make(
    limit: int = 1000, seconds: float = 100, *, shared: bool = True, clock: Clock | None = None
) -> Dedupe:
    return Dedupe(limit, seconds, shared=shared, clock=clock or Clock())


def accept(dedupe: Dedupe, msg_id: str, app: str = "101") -> bool:
    """Claim an id and, if it was free, have it remembered."""
    key = dedupe.claim(app, msg_id)
    if key is None:
        return False
    dedupe.settle(key, True)
    return True


def test_an_id_is_accepted_once() -> None:
    dedupe = make()
    assert [accept(dedupe, name) for name in ("a", "b", "a", "b", "c")] == [True, True, False, False, True]
    assert (len(dedupe), dedupe.repeats) == (3, 2)


def test_a_released_id_may_be_claimed_again() -> None:
    dedupe = make()
    for _ in range(3):
        key = dedupe.claim("101", "a")
        assert key
        dedupe.settle(key, False)
    assert len(dedupe) == 0
    assert accept(dedupe, "a")


def test_an_empty_id_is_never_a_repeat_and_never_remembered() -> None:
    dedupe = make()
    for _ in range(3):
        assert dedupe.claim("101", "") == UNTRACKED
        dedupe.settle(UNTRACKED, True)
    assert len(dedupe) == 0


def test_a_shared_memory_counts_an_id_for_all_apps() -> None:
    dedupe = make(shared=True)
    assert accept(dedupe, "a", "101")
    assert not accept(dedupe, "a", "102")


def test_a_memory_by_app_counts_an_id_for_each_app_by_itself() -> None:
    dedupe = make(shared=False)
    assert accept(dedupe, "a", "101")
    assert accept(dedupe, "a", "102")
    assert not accept(dedupe, "a", "101")


def test_the_oldest_leave_first_when_there_are_too_many() -> None:
    dedupe = make(limit=3)
    for name in "abcd":
        assert accept(dedupe, name)
    assert (len(dedupe), dedupe.evicted) == (3, 1)
    assert not any(accept(dedupe, name) for name in "bcd")
    assert accept(dedupe, "a")
    assert accept(dedupe, "b")


def test_an_id_is_forgotten_after_its_time() -> None:
    clock = Clock()
    dedupe = make(seconds=100, clock=clock)
    accept(dedupe, "a")
    clock.now += 50
    accept(dedupe, "b")
    clock.now += 49
    assert not accept(dedupe, "a")
    clock.now += 2
    assert accept(dedupe, "a")
    assert not accept(dedupe, "b")
    assert (len(dedupe), dedupe.evicted) == (2, 0)


def test_expired_ids_are_dropped_while_others_are_accepted() -> None:
    clock = Clock()
    dedupe = make(seconds=100, clock=clock)
    for number in range(100):
        accept(dedupe, f"old {number}")
    clock.now += 200
    for number in range(10):
        accept(dedupe, f"new {number}")
    assert len(dedupe) == 10
    assert not accept(dedupe, "new 0")


def test_repeats_wait_for_the_outcome_and_one_of_them_may_follow_a_failure() -> None:
    dedupe = make()
    claimed: list[int | None] = []
    first = dedupe.claim("101", "a")
    assert first
    waiting = [gevent.spawn(lambda: claimed.append(dedupe.claim("101", "a"))) for _ in range(3)]
    gevent.sleep(0)
    assert claimed == []
    dedupe.settle(first, False)
    gevent.sleep(0.01)
    assert claimed == [first]
    dedupe.settle(first, True)
    gevent.joinall(waiting, timeout=60, raise_error=True)
    assert claimed == [first, None, None]


def test_another_id_does_not_wait() -> None:
    dedupe = make()
    assert dedupe.claim("101", "a")
    assert dedupe.claim("101", "b")


@settings(deadline=None)
@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.booleans(), st.integers(0, 4)), max_size=60),
)
def test_it_behaves_like_a_list_of_ids_and_times(limit: int, steps: list[tuple[str, bool, int]]) -> None:
    clock = Clock()
    dedupe = make(limit, 10, clock=clock)
    known: list[tuple[str, float]] = []
    for name, accepted, pause in steps:
        clock.now += pause
        known = [(old, moment) for old, moment in known if clock.now < moment + 10]
        key = dedupe.claim("101", name)
        assert (key is None) == (name in dict(known))
        if key is not None:
            dedupe.settle(key, accepted)
            if accepted:
                known = [*known, (name, clock.now)][-limit:]


@pytest.mark.full
def test_a_hundred_thousand_long_ids_take_little_memory() -> None:
    dedupe = make(limit=100_000)
    tracemalloc.start()
    try:
        for number in range(120_000):
            accept(dedupe, f"{number}{'x' * 500}")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dedupe) == 100_000
    assert taken / len(dedupe) < 130


@pytest.mark.parametrize("limit", [1, 10_300, 10_301])
def test_a_memory_of_any_size_keeps_exactly_that_many(limit: int) -> None:
    dedupe = make(limit=limit)
    for number in range(limit + 10):
        accept(dedupe, str(number))
    assert (len(dedupe), dedupe.evicted) == (limit, 10)
    assert not accept(dedupe, "10")
    assert accept(dedupe, "9")
