"""The scenario notify: a few of each kind against a real server."""

import pytest

from bench.push_devices import KINDS
from tests.bench.play import found

pytestmark = pytest.mark.linux


def test_every_absent_user_is_notified_and_dead_endpoints_go() -> None:
    figures = found("notify", "--members", "20", "--bad", "5", "--dead", "50")["figures"]
    assert figures["notifications_lost"] == figures["notifications_again"] == 0
    assert figures["notified_cpu_us"] > figures["encrypt_us"] > 0
    assert (figures["dead_endpoints"], figures["dead_left"]) == (100, 0)


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(each, marks=pytest.mark.full) for each in KINDS[1:])]
)
def test_devices_get_each_notification_once_and_dead_ones_are_asked_for_once(kind: str) -> None:
    options = ("--members", "20", "--bad", "0", "--dead", "50", "--audience", "30")
    figures = found("notify", "--kind", kind, *options)["figures"]
    assert figures["notifications_lost"] == figures["notifications_again"] == 0
    assert (figures["audience_taken"], figures["audience_lost"]) == (50, 0)
    assert (figures["dead_endpoints"], figures["dead_left"], figures["dead_again"]) == (100, 0, 0)


@pytest.mark.full
def test_nothing_is_lost_and_nothing_comes_twice_beside_services_that_hang_throttle_and_reset() -> None:
    figures = found("notify", "--kind", "apns", "--members", "60", "--bad", "60", "--dead", "0")["figures"]
    assert (figures["beside_bad_lost"], figures["beside_bad_again"]) == (0, 0)
