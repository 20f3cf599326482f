"""Rates of keys: so many requests a second, told in headers, each key for itself."""

import pytest

from imserver.auth import quotas
from imserver.auth.principal import DEMO, Principal
from imserver.http import rates as module
from imserver.http.rates import Rates
from imserver.http.reply import ApiProblem
from imserver.metrics import Metrics
from tests.support import Clock

ONE, TWO = Principal(frozenset({"push"}), key="one"), Principal(frozenset({"push"}), key="two")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(quotas, "monotonic", one)
    return one


def takes(rates: Rates, caller: Principal = ONE, host: str = "h") -> bool:
    """Whether a request is within the rate."""
    try:
        rates.require(caller, host)
    except ApiProblem:
        return False
    return True


def received(rates: Rates, caller: Principal = ONE, host: str = "h") -> list[str]:
    """Limit, what remains, and seconds until all is there again."""
    return [value for _, value in rates.headers(caller, host)]


def test_a_burst_of_a_second_is_allowed_and_fills_up_again(clock: Clock) -> None:
    metrics = Metrics()
    rates = Rates(3, metrics)
    assert [takes(rates, ONE, "h") for _ in range(4)] == [True, True, True, False]
    assert received(rates) == ["3", "0", "1"]
    clock.now += 0.34
    assert [takes(rates, ONE, "h") for _ in range(2)] == [True, False]
    clock.now += 100
    assert received(rates) == ["3", "3", "0"]
    assert metrics.http_over_rate == 2


def test_each_key_has_its_own_and_without_keys_each_address(clock: Clock) -> None:
    rates = Rates(1, Metrics())
    assert takes(rates, ONE, "h")
    assert takes(rates, TWO, "h")
    assert not takes(rates, ONE, "another")
    assert takes(rates, DEMO, "h")
    assert takes(rates, DEMO, "another")
    assert not takes(rates, DEMO, "h")


def test_each_user_with_a_token_has_their_own_wherever_they_are(clock: Clock) -> None:
    rates = Rates(1, Metrics())
    ann, bob = (Principal("session", apps=frozenset({"101"}), user=user) for user in ("ann", "bob"))
    assert takes(rates, ann, "h")
    assert takes(rates, bob, "h")
    assert not takes(rates, ann, "another")
    assert takes(rates, Principal("session", apps=frozenset({"102"}), user="ann"), "h")
    pages = [Principal("page", apps=frozenset({"101"}), user=user) for user in ("one", "two")]
    assert [takes(rates, page, "of pages") for page in pages] == [True, False], (
        "anybody gets as many as they want"
    )


def test_without_a_limit_there_are_no_headers() -> None:
    rates = Rates(0, Metrics())
    rates.require(ONE, "h")
    rates.charge(ONE, "h", 1000)
    assert received(rates) == []


def test_a_refusal_says_when_to_come_again(clock: Clock) -> None:
    rates = Rates(0.25, Metrics())
    rates.require(ONE, "h")
    with pytest.raises(ApiProblem) as refused:
        rates.require(ONE, "h")
    assert refused.value.problem.status == 429
    assert refused.value.headers == (("Retry-After", "4"),)
    clock.now += 4
    rates.require(ONE, "h")


def test_what_is_charged_may_be_more_than_there_is_and_has_to_be_paid_back(clock: Clock) -> None:
    rates = Rates(10, Metrics())
    rates.charge(ONE, "h", 30)
    assert received(rates) == ["10", "0", "3"]
    clock.now += 2.05
    assert not takes(rates, ONE, "h")
    clock.now += 0.1
    assert takes(rates, ONE, "h")


def test_buckets_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 10)
    rates = Rates(1, Metrics())
    for number in range(100):
        takes(rates, DEMO, f"host {number}")
    assert len(rates._buckets) == 10
    assert not takes(rates, DEMO, "host 99")
    assert takes(rates, DEMO, "host 0")
