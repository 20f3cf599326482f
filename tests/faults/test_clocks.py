"""A node whose clock is wrong."""

from pathlib import Path

import pytest

from tests.integration.clusters import Launch
from tests.integration.cmd import is_online, users
from tests.integration.test_clock import stepping
from tests.support import eventually

from .test_nodes import address_of
from .traffic import APP, Traffic

pytestmark = [pytest.mark.linux, pytest.mark.needs("faketime")]


@pytest.mark.parametrize(
    ("step", "words"), [("+3600", "ahead of"), pytest.param("-3600", "behind", marks=pytest.mark.full)]
)
def test_a_node_whose_clock_jumps_says_so_and_keeps_its_lease_and_its_users(
    cluster: Launch, traffic: Traffic, tmp_path: Path, step: str, words: str
) -> None:
    """Leases follow the clock of Redis, so nobody takes the node for dead."""
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    nodes = cluster(1, cluster={"lease_seconds": 3, "renew_seconds": 1})
    wrong = nodes.start(environment=stepping(clock))
    nodes.wait_until_met()
    traffic.come(["ann"], address_of(wrong))
    clock.write_text(f"{step}\n")
    eventually(lambda: f"s {words} that of Redis" in wrong.log_text, what="the warning")
    assert users(nodes.servers[0].http, APP) == ["ann"]
    assert is_online(nodes.servers[0].http, "ann", APP)
    clock.write_text("+0\n")
    eventually(lambda: "agrees with that of Redis" in wrong.log_text, what="the end of the warning")
    assert "lease of epoch" not in wrong.log_text
