"""The scenario notify: a few of each kind against a real server."""

import pytest

from tests.bench.play import found

pytestmark = pytest.mark.linux


def test_every_absent_user_is_notified_and_dead_endpoints_go() -> None:
    figures = found("notify", "--members", "20", "--bad", "5", "--dead", "50")["figures"]
    assert figures["notifications_lost"] == figures["notifications_again"] == 0
    assert figures["notified_cpu_us"] > figures["encrypt_us"] > 0
    assert (figures["dead_endpoints"], figures["dead_left"]) == (100, 0)
