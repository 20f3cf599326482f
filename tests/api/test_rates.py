"""Rates of keys: so many requests a second, told in headers, each key for itself."""

import pytest

from imserver.api import rates as module
from imserver.api.rates import Rates
from imserver.api.reply import ApiProblem
from imserver.auth.principal import DEMO, Principal
from imserver.metrics import Metrics

ONE, TWO = Principal(frozenset({"push"}), key="one"), Principal(frozenset({"push"}), key="two")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def received(rates: Rates, caller: Principal = ONE, host: str = "h") -> list[str]:
    """Limit, what remains, and seconds until all is there again."""
    return [value for _, value in rates.headers(caller, host)]


def test_a_burst_of_a_second_is_allowed_and_fills_up_again() -> None:
    clock = Clock()
    metrics = Metrics()
    rates = Rates(3, metrics, clock)
    assert [rates.take(ONE, "h") for _ in range(4)] == [True, True, True, False]
    assert received(rates) == ["3", "0", "1"]
    clock.now += 0.34
    assert [rates.take(ONE, "h") for _ in range(2)] == [True, False]
    clock.now += 100
    assert received(rates) == ["3", "3", "0"]
    assert metrics.http_over_rate == 2


def test_each_key_has_its_own_and_without_keys_each_address() -> None:
    rates = Rates(1, Metrics(), Clock())
    assert rates.take(ONE, "h")
    assert rates.take(TWO, "h")
    assert not rates.take(ONE, "another")
    assert rates.take(DEMO, "h")
    assert rates.take(DEMO, "another")
    assert not rates.take(DEMO, "h")


def test_without_a_limit_there_are_no_headers() -> None:
    rates = Rates(0, Metrics())
    rates.require(ONE, "h")
    rates.charge(ONE, "h", 1000)
    assert received(rates) == []


def test_a_refusal_says_when_to_come_again() -> None:
    clock = Clock()
    rates = Rates(0.25, Metrics(), clock)
    rates.require(ONE, "h")
    with pytest.raises(ApiProblem) as refused:
        rates.require(ONE, "h")
    assert refused.value.problem.status == 429
    assert refused.value.headers == (("Retry-After", "4"),)
    clock.now += 4
    rates.require(ONE, "h")


def test_what_is_charged_may_be_more_than_there_is_and_has_to_be_paid_back() -> None:
    clock = Clock()
    rates = Rates(10, Metrics(), clock)
    rates.charge(ONE, "h", 30)
    assert received(rates) == ["10", "0", "3"]
    clock.now += 2.05
    assert not rates.take(ONE, "h")
    clock.now += 0.1
    assert rates.take(ONE, "h")


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 10)
    rates = Rates(1, Metrics(), Clock())
    for number in range(100):
        rates.take(DEMO, f"host {number}")
    assert len(rates._buckets) == 10
    assert not rates.take(DEMO, "host 99")
    assert rates.take(DEMO, "host 0")
