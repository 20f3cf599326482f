"""Nodes that are killed, or stand still and wake up again."""

import json
import signal
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from tests.integration.clusters import Launch, Nodes, leases, name_of
from tests.integration.cmd import get, good, is_online, send_to_all
from tests.integration.raw import Address
from tests.processes import pause
from tests.support import Server, eventually

from .conftest import Report
from .traffic import APP, Push, Traffic

QUICK = {"lease_seconds": 3, "renew_seconds": 1}
SLACK_SECONDS = 3.0
"""What a busy machine may add to a time-out of ours; less than the faults last."""
LEASE_SECONDS = 10
"""The default."""
LONG = {"lease_seconds": 90, "renew_seconds": 1}


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


def push_seconds(traffic: Traffic, users: list[str], since: float, at_least: int) -> list[float]:
    """How long each push to these users took that was asked for since; empty until there are enough."""
    pushes = [push for pusher in traffic.pushers for push in [*pusher.pushes]]
    found = [push.answered - push.sent_at for push in pushes if push.user in users and push.sent_at >= since]
    return found if len(found) >= at_least else []


def crowd(traffic: Traffic, nodes: Nodes, each: int) -> list[list[str]]:
    """People on each node, by node."""
    groups = [[f"n{index}u{number}" for number in range(each)] for index in range(len(nodes.servers))]
    for group, server in zip(groups, nodes.servers, strict=True):
        traffic.come(group, address_of(server))
    return groups


def test_a_killed_node_takes_nothing_with_it_but_its_own_connections(
    cluster: Launch, traffic: Traffic, report: Report
) -> None:
    """With the default lease: who was on it is offline everywhere when it is over."""
    nodes = cluster(3)
    groups = crowd(traffic, nodes, 12)
    moving, gone = groups[2][:6], groups[2][6:]
    traffic.push_through(*((lambda s=server: s.http) for server in nodes.servers[:2]), rate=80)
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
    offline = time.monotonic()
    traffic.run_for(1)
    for server in nodes.servers[:2]:
        assert sorted(listed(server)["userList"]) == expected
        assert len(leases(server)) == 2
        assert get(server.http, "/ready").status == 200

    def excused(push: Push) -> bool:
        if push.user in gone:
            return push.answered > killed - 3
        return push.user in moving and killed - 0.5 < push.answered and push.sent_at < moved + 1

    tally = traffic.finish(excused)
    report(f"{tally}; moved after {moved - killed:.1f} s, the others offline after {offline - killed:.1f} s")
    assert len(tally.lost) < 200
    with nodes.redis.client() as redis:
        for user in gone:
            eventually(lambda user=user: json.loads(redis.get(f"acc:user:online:{APP}_{user}"))["isLogoff"])
        assert not json.loads(redis.get(f"acc:user:online:{APP}_{moving[0]}"))["isLogoff"]


def test_while_a_node_is_paused_the_others_do_not_wait_for_it(
    cluster: Launch, traffic: Traffic, report: Report
) -> None:
    """Shorter than its lease: it goes on as if nothing had been, under its epoch. What is answered while it
    stands still has not waited for it."""
    nodes = cluster(3, cluster=LONG)
    groups = crowd(traffic, nodes, 8)
    awake, sleeper = nodes.servers[:2], nodes.servers[2]
    name = name_of(sleeper)
    epoch = leases(awake[0])[name]["epoch"]
    traffic.push_through(*((lambda s=server: s.http) for server in awake), rate=80)
    traffic.run_for(1)

    def only_the_sleeper_is_missing(server: Server) -> bool:
        """A busy machine may take longer than the time in which a node must answer."""
        state = good(get(server.http, "/system/state", cluster="true"))
        data = listed(server)
        return data.get("missingNodes") == state["missingNodes"] == [name] and {*groups[0], *groups[1]} == {
            *data["userList"]
        }

    stopped = time.monotonic()
    pause(sleeper.process.pid)
    try:
        for server in awake:
            eventually(lambda server=server: only_the_sleeper_is_missing(server))
            is_online(server.http, groups[2][0], APP)
        assert send_to_all(awake[0].http, APP, "x", "9:1")["sendResults"]
        for group in groups:
            times = eventually(lambda group=group: push_seconds(traffic, group, stopped, at_least=30))
            assert median(times) < 1, "a push does not wait for the node, which would take a second"
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    woken = time.monotonic()
    everybody = sorted(user for group in groups for user in group)
    for server in nodes.servers:
        eventually(lambda server=server: sorted(listed(server)["userList"]) == everybody)
    settled = time.monotonic()
    traffic.run_for(1)
    assert leases(awake[0])[name]["epoch"] == epoch

    def excused(push: Push) -> bool:
        return push.user in groups[2] and stopped - 0.5 < push.answered and push.sent_at < settled + 0.5

    for person in traffic.persons.values():  # the message to all is none of the pushers'
        person.got[:] = [got for got in person.got if got.pusher != 9]
    tally = traffic.finish(excused)
    report(f"{tally}; stood still for {woken - stopped:.1f} s")


def test_a_node_that_slept_beyond_its_lease_has_a_new_life_and_no_ghosts(
    cluster: Launch, traffic: Traffic, report: Report
) -> None:
    nodes = cluster(3, cluster=QUICK)
    groups = crowd(traffic, nodes, 8)
    sleeper = nodes.servers[2]
    name = name_of(sleeper)
    epoch = leases(nodes.servers[0])[name]["epoch"]
    traffic.push_through(*((lambda s=server: s.http) for server in nodes.servers[:2]), rate=80)
    traffic.run_for(1)
    moving, staying = groups[2][:4], groups[2][4:]
    stopped = time.monotonic()
    pause(sleeper.process.pid)
    try:
        for server in nodes.servers[:2]:
            eventually(lambda server=server: name not in leases(server))
            data, seconds = timed(server, "/user/list", appID=APP)
            assert (sorted(data["userList"]), "missingNodes" in data) == (
                sorted(groups[0] + groups[1]),
                False,
            )
            assert seconds < SLACK_SECONDS
            assert not is_online(server.http, staying[0], APP)
        # Some come back elsewhere; their old connections still hang on the sleeper, and end with it.
        ghosts = []
        for number, user in enumerate(moving):
            ghosts.append(traffic.persons[user])
            traffic.come([user], address_of(nodes.servers[number % 2]))
        traffic.run_for(1)
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    woken = time.monotonic()
    everybody = sorted(user for group in groups for user in group)
    for server in nodes.servers:
        eventually(lambda server=server: sorted(listed(server)["userList"]) == everybody)
        eventually(lambda server=server: all(is_online(server.http, user, APP) for user in everybody))
    settled = time.monotonic()
    assert leases(nodes.servers[0])[name]["epoch"] > epoch
    state = good(get(sleeper.http, "/system/state", isDebug="true"))["managerInfo"]
    eventually(
        lambda: (
            {f"{APP}_{user}" for user in staying}
            == {*good(get(sleeper.http, "/system/state", isDebug="true"))["managerInfo"]["users"]}
        ),
        what=f"those who moved are not addressed on the sleeper: {state}",
    )
    before = [len(ghost.got) for ghost in ghosts]
    traffic.run_for(2)
    assert [len(ghost.got) for ghost in ghosts] == before, "older connections get nothing"
    assert all(ghost.online for ghost in ghosts), "and stay open"

    def excused(push: Push) -> bool:
        return push.user in groups[2] and stopped - 0.5 < push.answered and push.sent_at < settled + 0.5

    for user, ghost in zip(moving, ghosts, strict=True):
        traffic.persons[user].got[:0] = ghost.got
        ghost.wanted = False
    tally = traffic.finish(excused)
    report(f"{tally}; slept {woken - stopped:.1f} s, all was well {settled - woken:.1f} s after")
