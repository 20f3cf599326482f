"""Rates of requests over HTTP: who pays, and the headers that tell how many are
left."""

import pytest

from imserver.gateway.auth.principal import DEMO, Principal
from imserver.gateway.auth.rates import BucketList
from imserver.gateway.http.limits import Rates
from imserver.gateway.http.reply import ApiProblem
from imserver.gateway.metrics import Metrics
from tests.rows import ROUTES
from tests.support import Clock

ONE = Principal(frozenset({"push"}), key="one")
TWO = Principal(frozenset({"push"}), key="two")


def rates_of(per_second: float, metrics: Metrics | None = None) -> Rates:
    """``per_second`` requests, and messages of accounts in all apps but
    ``free``."""
    limits = {"free": 0.0}
    return Rates(
        per_second,
        lambda app: limits.get(app, per_second),
        metrics or Metrics(),
        BucketList(),
    )


def takes(rates: Rates, principal: Principal = ONE, host: str = "h") -> bool:
    """Whether a request is within the rate."""
    try:
        rates.require(principal, host)
    except ApiProblem:
        return False
    return True


def received(rates: Rates) -> list[str]:
    """Limit, what remains, and seconds until all is there again."""
    return [value for _, value in rates.headers(ONE, "h")]


def test_the_headers_tell_how_many_are_left(clock: Clock) -> None:
    metrics = Metrics()
    rates = rates_of(3, metrics)
    assert received(rates) == ["3", "3", "0"]
    assert takes(rates)
    assert received(rates) == ["3", "2", "1"]
    assert [takes(rates) for _ in range(3)] == [True, True, False]
    assert received(rates) == ["3", "0", "1"]
    clock.now += 0.34
    assert received(rates) == ["3", "1", "1"]
    rates.charge(ONE, "h", 9)
    assert received(rates) == ["3", "0", "4"]
    clock.now += 100
    assert received(rates) == ["3", "3", "0"]
    assert metrics.http_over_rate == 1


def test_each_key_and_user_has_their_own_rate_and_without_keys_each_address(
    clock: Clock,
) -> None:
    rates = rates_of(1)
    assert takes(rates, ONE, "h")
    assert takes(rates, TWO, "h")
    assert not takes(rates, ONE, "another")
    assert takes(rates, DEMO, "h")
    assert takes(rates, DEMO, "another")
    assert not takes(rates, DEMO, "h")
    rates = rates_of(1)
    ann, bob = (
        Principal("session", apps=frozenset({"101"}), user=user)
        for user in ("ann", "bob")
    )
    assert takes(rates, ann, "h")
    assert takes(rates, bob, "h")
    assert not takes(rates, ann, "another")
    assert takes(rates, Principal("session", apps=frozenset({"102"}), user="ann"), "h")
    pages = [
        Principal("page", apps=frozenset({"101"}), user=user) for user in ("one", "two")
    ]
    assert [takes(rates, page, "of pages") for page in pages] == [True, False], (
        "anybody gets as many as they want"
    )


def test_every_request_of_a_user_and_every_one_to_our_own_api_counts() -> None:
    users = {"session", "account", "guest", "bot", "page"}
    assert not [
        f"{row.method} {row.path}"
        for row in ROUTES
        if (row.path.startswith("/api/v1/") or row.need.users & users)
        and not row.limited
    ]


def test_a_refusal_says_when_to_come_again(clock: Clock) -> None:
    rates = rates_of(0.25)
    rates.require(ONE, "h")
    with pytest.raises(ApiProblem) as refused:
        rates.require(ONE, "h")
    assert refused.value.problem.status == 429
    assert refused.value.headers == (("Retry-After", "4"),)
    clock.now += 4
    rates.require(ONE, "h")
    rates = rates_of(0)
    rates.require(ONE, "h")
    rates.charge(ONE, "h", 1000)
    assert received(rates) == []


def test_messages_of_an_account_have_the_limit_of_the_app_beside_that_of_requests(
    clock: Clock,
) -> None:
    metrics = Metrics()
    rates = rates_of(1, metrics)
    rates.require_message("shop", "ann")
    with pytest.raises(ApiProblem):
        rates.require_message("shop", "ann")
    assert metrics.http_over_rate == 1
    rates.require_message("shop", "bob")
    assert takes(rates)
    for _ in range(10):
        rates.require_message("free", "ann")
