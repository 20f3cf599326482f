"""The circuit breaker, with a clock and a die of the test's own."""

from collections.abc import Callable

import pytest

from imserver.gateway.cluster.rpc.peer import BASE_SECONDS, CAP_SECONDS, Breaker


class Harness:
    """A clock that stands still, and a die that always shows its highest number."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limits: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        assert low == 0.0
        self.limits.append(high)
        return high

    def breaker(self, threshold: int = 3) -> Breaker:
        return Breaker(threshold, clock=lambda: self.now, uniform=self.uniform)


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_it_opens_at_the_threshold_of_failures_in_a_row_and_lets_nobody_pass(harness: Harness) -> None:
    breaker = harness.breaker()
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        assert breaker.closed
        assert breaker.allows()
        breaker.succeeded()
    for _ in range(3):
        breaker.failed()
    assert not breaker.closed
    assert not breaker.allows()


def test_after_the_wait_one_caller_is_the_probe_and_all_others_wait_for_it(harness: Harness) -> None:
    breaker = harness.breaker(1)
    breaker.failed()
    assert breaker.wait_seconds == BASE_SECONDS
    harness.now += BASE_SECONDS
    assert breaker.wait_seconds == 0
    assert breaker.allows()
    assert not breaker.closed
    assert not breaker.allows()
    breaker.succeeded()
    assert breaker.closed
    assert breaker.allows()


def test_each_vain_probe_doubles_the_longest_wait_up_to_the_cap_until_one_succeeds(harness: Harness) -> None:
    breaker = harness.breaker(1)
    breaker.failed()
    for _ in range(60):
        harness.now += CAP_SECONDS
        assert breaker.allows()
        breaker.failed()
        assert not breaker.allows()
    assert harness.limits[:4] == [BASE_SECONDS * 2**n for n in range(4)]
    assert harness.limits[-1] == CAP_SECONDS
    harness.now += CAP_SECONDS
    assert breaker.allows()
    breaker.succeeded()
    breaker.failed()
    assert harness.limits[-1] == BASE_SECONDS


@pytest.mark.parametrize(("threshold", "fail"), [(1, Breaker.failed), (100, Breaker.trip)])
def test_what_fails_when_it_is_open_does_not_prolong_the_wait(
    harness: Harness, threshold: int, fail: Callable[[Breaker], None]
) -> None:
    breaker = harness.breaker(threshold)
    for _ in range(64):
        fail(breaker)
    assert not breaker.closed
    assert harness.limits == [BASE_SECONDS]


def test_waits_of_many_breakers_are_spread() -> None:
    waits = []
    for _ in range(200):
        breaker = Breaker(1, base_seconds=1.0, clock=lambda: 0.0)
        breaker.failed()
        waits.append(breaker.wait_seconds)
    assert all(0 <= wait <= 1 for wait in waits)
    assert min(waits) < 0.2
    assert max(waits) > 0.8
