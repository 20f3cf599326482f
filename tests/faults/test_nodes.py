"""Nodes that stand still and wake up again, are killed, or whose clock is
wrong."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clusters import Launch, Nodes, leases, name_of
from tests.integration.cmd import get, good, is_online, users
from tests.integration.raw import Address
from tests.integration.test_clock import stepping
from tests.processes import pause
from tests.support import Server, eventually

from .traffic import APP, Push, Traffic

QUICK = {"lease_seconds": 3, "renew_seconds": 1}
SLACK_SECONDS = 3.0
"""What a busy machine may add to a time-out of ours; less than the faults
last."""
LEASE_SECONDS = 10
"""The default."""


def address_of(server: Server) -> Callable[[], Address]:
    return lambda: server.ws


def listed(server: Server) -> dict[str, Any]:
    """The answer of /user/list; nobody is in it twice."""
    data: dict[str, Any] = good(get(server.http, "/user/list", appID=APP))
    assert len(set(data["userList"])) == len(data["userList"]), data
    return data


def timed(server: Server, path: str, **query: Any) -> tuple[Any, float]:
    """The data of an answer, and how long it took."""
    began = time.monotonic()
    data = good(get(server.http, path, **query))
    return data, time.monotonic() - began


def metric(server: Server, name: str) -> float:
    """A counter of one node, summed over its labels."""
    text = server.get("/metrics")[1].decode()
    own = f'node="{name_of(server)}"'
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"{name}{{") and own in line
    )


def crowd(traffic: Traffic, nodes: Nodes, each: int) -> list[list[str]]:
    """People on each node, by node."""
    groups = [
        [f"n{index}u{number}" for number in range(each)]
        for index in range(len(nodes.servers))
    ]
    for group, server in zip(groups, nodes.servers, strict=True):
        traffic.come(group, address_of(server))
    return groups


def test_a_killed_node_takes_nothing_with_it_but_its_own_connections(
    cluster: Launch, traffic: Traffic
) -> None:
    """With the default lease: who was on it is offline everywhere when it is
    over."""
    nodes = cluster(3)
    groups = crowd(traffic, nodes, 12)
    moving = groups[2][:6]
    gone = groups[2][6:]
    traffic.push_through(
        *((lambda s=server: s.http) for server in nodes.servers[:2]), rate=80
    )
    traffic.run_for(2)

    for user in gone:
        traffic.persons[user].wanted = False  # they do not come back
    for number, user in enumerate(moving):
        traffic.persons[user].address = address_of(nodes.servers[number % 2])
    killed = time.monotonic()
    nodes.servers[2].process.kill()
    nodes.servers[2].process.wait()
    traffic.wait_until_online(moving)
    moved = time.monotonic()

    expected = sorted([*groups[0], *groups[1], *moving])
    for server in nodes.servers[:2]:
        while listed(server)["userList"] and (
            sorted(listed(server)["userList"]) != expected
            or any(is_online(server.http, u, APP) for u in gone)
        ):
            assert time.monotonic() - killed < LEASE_SECONDS + 60, "they are offline"
    traffic.run_for(1)
    for server in nodes.servers[:2]:
        assert sorted(listed(server)["userList"]) == expected
        assert len(leases(server)) == 2
        assert get(server.http, "/ready").status == 200

    def excused(push: Push) -> bool:
        if push.user in gone:
            return push.answered > killed - 3
        return (
            push.user in moving
            and killed - 0.5 < push.answered
            and push.sent_at < moved + 1
        )

    tally = traffic.finish(excused)
    assert len(tally.lost) < 200
    with nodes.redis.client() as redis:
        for user in gone:
            eventually(
                lambda user=user: json.loads(
                    redis.get(f"acc:user:online:{APP}_{user}")
                )["isLogoff"]
            )
        assert not json.loads(redis.get(f"acc:user:online:{APP}_{moving[0]}"))[
            "isLogoff"
        ]


def test_a_node_that_slept_beyond_its_lease_has_a_new_life_and_no_ghosts(
    cluster: Launch, traffic: Traffic
) -> None:
    nodes = cluster(3, cluster=QUICK)
    groups = crowd(traffic, nodes, 8)
    sleeper = nodes.servers[2]
    name = name_of(sleeper)
    epoch = leases(nodes.servers[0])[name]["epoch"]
    traffic.push_through(
        *((lambda s=server: s.http) for server in nodes.servers[:2]), rate=80
    )
    traffic.run_for(1)
    moving = groups[2][:4]
    staying = groups[2][4:]
    stopped = time.monotonic()
    pause(sleeper.process.pid)
    try:
        for server in nodes.servers[:2]:
            eventually(lambda server=server: name not in leases(server))
            data, seconds = timed(server, "/user/list", appID=APP)
            assert sorted(data["userList"]) == sorted(groups[0] + groups[1])
            assert data["missingNodes"] == [name], "it may still serve its users"
            assert seconds < SLACK_SECONDS
            assert not is_online(server.http, staying[0], APP)
        # Some come back elsewhere; their old connections still hang on the
        # sleeper, and end with it.
        ghosts = []
        for number, user in enumerate(moving):
            ghosts.append(traffic.persons[user])
            traffic.come([user], address_of(nodes.servers[number % 2]))
        traffic.run_for(1)
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    everybody = sorted(user for group in groups for user in group)
    for server in nodes.servers:
        eventually(
            lambda server=server: sorted(listed(server)["userList"]) == everybody
        )
        eventually(
            lambda server=server: all(
                is_online(server.http, user, APP) for user in everybody
            )
        )
    settled = time.monotonic()
    assert leases(nodes.servers[0])[name]["epoch"] > epoch
    addressed = {f"{APP}_{user}" for user in staying}

    def only_those_are_addressed() -> bool:
        state = good(get(sleeper.http, "/system/state", isDebug="true"))
        return {*state["managerInfo"]["users"]} == addressed

    eventually(
        only_those_are_addressed,
        what="those who moved are not addressed on the sleeper",
    )
    before = [len(ghost.got) for ghost in ghosts]
    traffic.run_for(2)
    assert [len(ghost.got) for ghost in ghosts] == before, (
        "older connections get nothing"
    )
    assert all(ghost.online for ghost in ghosts), "and stay open"

    def excused(push: Push) -> bool:
        return (
            push.user in groups[2]
            and stopped - 0.5 < push.answered
            and push.sent_at < settled + 0.5
        )

    for user, ghost in zip(moving, ghosts, strict=True):
        traffic.persons[user].got[:0] = ghost.got
        ghost.wanted = False
    traffic.finish(excused)


@pytest.mark.linux
@pytest.mark.needs("faketime")
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("+3600", "ahead of"),
        pytest.param("-3600", "behind", marks=pytest.mark.full("waits")),
    ],
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
    eventually(
        lambda: "agrees with that of Redis" in wrong.log_text,
        what="the end of the warning",
    )
    assert "lease of epoch" not in wrong.log_text
