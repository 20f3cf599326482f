"""Failed logins are counted, forgiven and forgotten."""

import pytest

from imserver.auth import attempts
from imserver.auth.attempts import AddressRate, Attempts, TooManyFailures, network_of
from tests.support import Clock


def failing(times: int, most: int = 3) -> tuple[Attempts, Clock]:
    clock = Clock()
    counted = Attempts(most, 30, clock)
    for _ in range(times):
        counted.failed("ann")
    return counted, clock


def test_failures_up_to_the_limit_do_not_block() -> None:
    counted, _ = failing(2)
    counted.require("ann")


def test_only_the_account_with_too_many_failures_waits() -> None:
    counted, clock = failing(3)
    with pytest.raises(TooManyFailures) as refused:
        counted.require("ann")
    assert refused.value.seconds == 10
    counted.require("ben")
    clock.now = 1009.9
    with pytest.raises(TooManyFailures):
        counted.require("ann")
    clock.now = 1010
    counted.require("ann")


def test_success_forgives() -> None:
    counted, _ = failing(3)
    counted.forgive("ann")
    counted.require("ann")
    counted.failed("ann")
    counted.forget("ann")
    counted.failed("ann")
    counted.failed("ann")
    counted.require("ann")


def test_those_that_failed_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_COUNTS", 2)
    counted, _ = failing(3)
    counted.failed("ben")
    counted.failed("cid")
    counted.require("ann")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_addresses_that_one_client_has_count_as_one(address: str, network: str) -> None:
    assert network_of(address) == network


def test_whoever_takes_another_address_of_its_network_for_each_request_is_counted_all_the_same() -> None:
    rate = AddressRate(3, 60)
    for number in range(3):
        rate.charge("shop", f"2001:db8:1:2::{number}")
    with pytest.raises(TooManyFailures):
        rate.charge("shop", "2001:db8:1:2::ffff")
    rate.charge("shop", "2001:db8:1:3::1")
    rate.charge("forum", "2001:db8:1:2::ffff")
