"""Four nodes of one machine are replaced, one after the other, while everybody
goes on."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.cluster.redis_server import RedisServer
from tests.gateway.supervisor.family import Family
from tests.integration.cmd import get, good, users
from tests.support import eventually

from .traffic import APP, Push, Traffic

pytestmark = pytest.mark.linux

PROCESSES = 4


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    family = Family(
        tmp_path / "family",
        f"redis://127.0.0.1:{redis.port}",
        PROCESSES,
        config={"drain": {"close_seconds": 1}},
    )
    try:
        yield family
    finally:
        family.stop()
        redis.kill()
    family.check()


def test_a_rolling_restart_under_load(family: Family, traffic: Traffic) -> None:
    """Who is closed with 1001 comes back; nothing that was accepted is lost,
    also if it hit such a moment."""
    names = [f"u{number}" for number in range(40)]
    traffic.come(names, lambda: family.ws)
    traffic.push_through(*(lambda: family.http for _ in range(3)), rate=60)
    traffic.run_for(2)
    old = family.pids
    began = time.monotonic()
    family.signal(signal.SIGURG)
    while "rolling restart: done" not in family.output:
        data = good(get(family.http, "/user/list", appID=APP))
        assert len({*data["userList"]}) == len(data["userList"])
        assert time.monotonic() - began < 100, family.output
        time.sleep(0.1)
    assert not {*old} & {*family.wait_until_replaced(*old)}
    traffic.wait_until_online()
    eventually(lambda: users(family.http, APP) == sorted(names))
    settled = time.monotonic()
    traffic.run_for(2)

    def excused(push: Push) -> bool:
        return began - 0.5 < push.answered and push.sent_at < settled + 0.5

    tally = traffic.finish(excused)
    closed = [code for person in traffic.persons.values() for code in person.closed_by]
    assert {*closed} == {1001}
    assert len(closed) >= len(names), "everybody was on a node that was replaced"
    assert tally.outcomes["unknown"] == 0, "no request went without an answer"
    assert not tally.lost
