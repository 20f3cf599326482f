"""The scenario notify: a few of each kind against a real server."""

import pytest

from tests.bench.play import found

pytestmark = pytest.mark.linux


def test_every_absent_user_is_notified_and_dead_endpoints_go() -> None:
    figures = found("notify", "--members", "20", "--bad", "5", "--dead", "50", "--audience", "30")["figures"]
    assert figures["notifications_lost"] == figures["notifications_again"] == 0
    assert figures["notified_cpu_us"] > figures["encrypt_us"] > 0
    assert (figures["audience_taken"], figures["audience_lost"]) == (50, 0)
    assert (figures["beside_bad_lost"], figures["beside_bad_again"]) == (0, 0)
    assert (figures["dead_endpoints"], figures["dead_left"], figures["dead_again"]) == (100, 0, 0)
