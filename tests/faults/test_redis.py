"""Redis is killed, stalled or flushed: what needs one node goes on, and
afterwards all is true again."""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.clusters import Launch, Nodes, leases, name_of
from tests.integration.cmd import (
    CmdClient,
    get,
    good,
    is_online,
    logged_in,
    post,
    send_message,
    users,
)
from tests.integration.test_cluster import texts
from tests.integration.v1 import call
from tests.integration.v1 import good as good_v1
from tests.ports import free_ports
from tests.support import Server, eventually

from .test_nodes import QUICK, SLACK_SECONDS, address_of, crowd, timed
from .traffic import APP, Push, Traffic

REDIS_SECONDS = 0.5


def push_both_ways(traffic: Traffic, nodes: Nodes, groups: list[list[str]]) -> None:
    """Pushers 0 and 1 push to users of their own node, 2 and 3 to those of the
    other one."""
    for crossed in (0, 1):
        for index, server in enumerate(nodes.servers):
            traffic.push_through(
                lambda s=server: s.http, users=groups[index ^ crossed], rate=40
            )


def all_is_true(
    nodes: Nodes, expected: list[str], absent: list[str], seconds: float = 60.0
) -> None:
    """Wait until every node tells exactly these users, by list and one by one,
    and takes itself for ready."""
    for server in nodes.servers:
        eventually(
            lambda server=server: get(server.http, "/ready").status == 200,
            seconds,
            "ready",
        )
        eventually(
            lambda server=server: users(server.http, APP) == sorted(expected),
            seconds,
            "the list",
        )
        eventually(
            lambda server=server: all(
                is_online(server.http, user, APP) for user in expected
            ),
            seconds,
            "online",
        )
        assert not any(is_online(server.http, user, APP) for user in absent)


def not_ready(nodes: Nodes) -> None:
    for server in nodes.servers:
        eventually(
            lambda server=server: get(server.http, "/ready").status == 503,
            what="not ready",
        )


def crossing(since: float, until: float) -> Any:
    """What may fail: pushes to users of another node while the registry was
    away."""

    def excused(push: Push) -> bool:
        return (
            push.pusher >= 2
            and since - 0.5 < push.answered
            and push.sent_at < until + 0.5
        )

    return excused


@pytest.mark.ci
def test_redis_is_killed_and_comes_back_empty(
    cluster: Launch, traffic: Traffic
) -> None:
    nodes = cluster(2, cluster=QUICK)
    groups = crowd(traffic, nodes, 8)
    traffic.come(["leaver0", "leaver1"], address_of(nodes.servers[0]))
    push_both_ways(traffic, nodes, groups)
    traffic.run_for(1)

    killed = time.monotonic()
    nodes.redis.kill()
    not_ready(nodes)
    traffic.come(["late0"], address_of(nodes.servers[0]))
    traffic.come(["late1"], address_of(nodes.servers[1]))
    for leaver in ("leaver0", "leaver1"):
        traffic.persons[leaver].leave()
    traffic.run_for(QUICK["lease_seconds"] + 1)
    for index, server in enumerate(nodes.servers):
        data, seconds = timed(server, "/user/list", appID=APP)
        assert seconds < 1 + SLACK_SECONDS
        assert {*groups[index], f"late{index}"} <= {*data["userList"]}
        assert is_online(server.http, groups[index][0], APP)
    nodes.redis.start()
    expected = [*groups[0], *groups[1], "late0", "late1"]
    all_is_true(nodes, expected, ["leaver0", "leaver1"])
    settled = time.monotonic()
    traffic.run_for(2)
    with nodes.redis.client() as redis:
        for user in expected:
            record = json.loads(redis.get(f"acc:user:online:{APP}_{user}"))
            assert (record["userID"], record["isLogoff"]) == (user, False)
        assert redis.hgetall("acc:hash:servers").keys() == {
            name_of(server) for server in nodes.servers
        }
    traffic.finish(crossing(killed, settled))


def no_memory(redis: Any) -> None:
    """Redis has no room for another key, and evicts none."""
    redis.config_set("maxmemory", 1)


def read_only(redis: Any) -> None:
    """Redis is made the replica of a server that is not there."""
    redis.execute_command("REPLICAOF", "127.0.0.1", free_ports())


def emptied(redis: Any) -> None:
    """Redis loses all data; no connection is lost."""
    redis.flushall()


@pytest.mark.ci
@pytest.mark.parametrize("fault", [no_memory, read_only, emptied])
def test_nobody_is_called_absent_while_redis_takes_no_writes_or_lacks_data(
    cluster: Launch, fault: Callable[[Any], None]
) -> None:
    nodes = cluster(2, cluster=QUICK)
    one, two = nodes.servers
    answers: Counter[str] = Counter()
    with logged_in(two.ws, "bob", APP), nodes.redis.client() as redis:
        assert is_online(one.http, "bob", APP)
        fault(redis)
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            push = {"app": str(APP), "user": "bob", "text": "x"}
            for body in (push, {**push, "id": f"id{len(answers)}-{time.monotonic()}"}):
                answer = call(one.http, "push", body)
                is_good = answer.status == 200
                answers[
                    answer.json["results"][0]["status"]
                    if is_good
                    else answer.json["code"]
                ] += 1
            many = good_v1(
                one.http, "presence", {"app": str(APP), "users": ["bob", "nobody"]}
            )
            answers.update(
                f"bob {each['online']}"
                for each in many["users"]
                if each["user"] == "bob"
            )
            assert is_online(one.http, "bob", APP)
            sent = send_message(one.http, APP, "bob", "x")
            assert sent.keys() == {"sendResults"}
    assert answers.keys() <= {"sent", "not_accepted", "bob True"}
    assert answers["not_accepted"]


@pytest.mark.parametrize("lease", [{}, QUICK], ids=["default", "quick"])
def test_redis_is_paused(
    cluster: Launch, traffic: Traffic, lease: dict[str, float]
) -> None:
    """No request waits for longer than the time that Redis has; users of the
    own node notice nothing. Leases outlive it, or they do not."""
    nodes = cluster(2, cluster=lease)
    groups = crowd(traffic, nodes, 8)
    push_both_ways(traffic, nodes, groups)
    traffic.run_for(1)
    epochs = {lease["epoch"] for lease in leases(nodes.servers[0]).values()}
    stopped = time.monotonic()
    nodes.redis.pause()
    try:
        slowest: dict[str, float] = {}
        for number in range(3):
            for server in nodes.servers:
                for name, seconds in _ask_everything(server, f"s{number}").items():
                    slowest[name] = max(slowest.get(name, 0.0), seconds)
        not_ready(nodes)
        traffic.run_for(max(5 - (time.monotonic() - stopped), 0))
    finally:
        nodes.redis.resume()
    resumed = time.monotonic()
    limits = {"list": 1.0, "kick": 2 * REDIS_SECONDS + 1.0}
    for name, seconds in slowest.items():
        assert seconds < limits.get(name, REDIS_SECONDS) + SLACK_SECONDS, slowest
    all_is_true(nodes, [*groups[0], *groups[1]], ["s0", "s1", "s2"])
    settled = time.monotonic()
    traffic.run_for(2)
    after = {lease["epoch"] for lease in leases(nodes.servers[0]).values()}
    assert (after == epochs) == (not lease), (
        "a lease that ran out is a new life, by the clock of Redis"
    )
    slowest_push = traffic.slowest([0, 1, 2, 3], stopped, settled)
    assert slowest_push < max(REDIS_SECONDS + SLACK_SECONDS, (resumed - stopped) / 2)
    traffic.finish(crossing(stopped, settled))


def _ask_everything(server: Server, newcomer: str) -> dict[str, float]:
    """How long each kind of request takes, in seconds."""
    took = {}
    _, took["list"] = timed(server, "/user/list", appID=APP)
    _, took["online"] = timed(server, "/user/online", appID=APP, userID="nobody")
    message = {"userID": "nobody", "msgID": newcomer, "message": "9:1"}
    for name, path, form in (
        ("push", "/user/sendMessage", message),
        (
            "to all",
            "/user/sendMessageAll",
            {**message, "msgID": f"{newcomer}{server.pid}"},
        ),
        ("kick", "/user/kick", {"userID": "nobody"}),
    ):
        began = time.monotonic()
        good(post(server.http, path, appID=102, **form))
        took[name] = time.monotonic() - began
    began = time.monotonic()
    with CmdClient(server.ws) as cmd_client:
        cmd_client.upgrade().login(newcomer, APP)
        took["login"] = time.monotonic() - began
    return took


OTHER = 102
SETTLE_SECONDS = 60.0


def test_channels_go_on_without_redis_and_are_reported_to_the_one_that_comes_back_empty(
    cluster: Launch,
) -> None:
    """A killed node's subscribers are gone without notice then."""
    nodes = cluster(2, apps={str(OTHER): {"login_policy": "multi"}}, cluster=QUICK)
    one, two = nodes.servers

    def all_hear(channel: str, word: str, *people: CmdClient) -> None:
        """Whatever is published at any node reaches each of these people
        once."""
        for number, server in enumerate(nodes.running):
            publication = {
                "app": str(OTHER),
                "channel": channel,
                "text": f"{word} {number}",
            }
            good_v1(server.http, "channels/publish", publication)
            for each in people:
                assert texts(each, 1) == [f"{word} {number}"]
        for each in people:
            each.no_push("msg")

    def subscribe(channel: str, *users: str) -> None:
        """Subscribe the connections of users."""
        body = {"app": str(OTHER), "channel": channel, "users": list(users)}
        found = good_v1(two.http, "channels/subscribe", body)
        assert {each["status"] for each in found["results"]} == {"subscribed"}

    def until_all_answer(status: int) -> None:
        for server in nodes.running:
            eventually(
                lambda server=server: get(server.http, "/ready").status == status,
                SETTLE_SECONDS,
            )

    def known(server: Server, channel: str) -> list[str]:
        found = good_v1(server.http, "channels/presence", app=OTHER, channel=channel)
        return (
            []
            if found["missing_nodes"]
            else sorted(each["user"] for each in found["subscribers"])
        )

    def recorded(channel: str) -> int:
        """How many nodes the records name for a channel; dead lives
        included."""
        with nodes.redis.client() as redis:
            found = [
                redis.hget(key, channel)
                for key in redis.scan_iter("imserver:channels:*", 1000)
            ]
        return sum(len(value.split(",")) for value in found if value)

    with logged_in(one.ws, "ann", OTHER) as ann, logged_in(two.ws, "bob", OTHER) as bob:
        subscribe("lobby", "ann", "bob")
        all_hear("lobby", "before", ann, bob)
        nodes.redis.kill()
        until_all_answer(503)
        all_hear("lobby", "meanwhile", ann, bob)
        with logged_in(two.ws, "cid", OTHER) as cid:
            subscribe("late", "cid")
            all_hear("late", "subscribed meanwhile", cid)
            nodes.redis.start()
            until_all_answer(200)
            for channel, users in (("lobby", ["ann", "bob"]), ("late", ["cid"])):
                for server in nodes.running:
                    wanted = (server, channel, users)
                    eventually(
                        lambda at=wanted: known(*at[:2]) == at[2],
                        SETTLE_SECONDS,
                        "the subscribers",
                    )
            eventually(
                lambda: (recorded("lobby"), recorded("late")) == (2, 1), SETTLE_SECONDS
            )
            all_hear("lobby", "after", ann, bob)
            all_hear("late", "after", cid)
        two.process.kill()
        two.process.wait()
        eventually(
            lambda: recorded("lobby") == 1,
            SETTLE_SECONDS,
            "what the dead node left is cleared away",
        )
        eventually(lambda: known(one, "lobby") == ["ann"], SETTLE_SECONDS)
        all_hear("lobby", "at last", ann)
