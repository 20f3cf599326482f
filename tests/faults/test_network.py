"""The network between two nodes breaks or is slow. Redis is reached by both all
the time."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from bench.faults import Network
from tests.integration.clusters import Launch, Nodes, name_of
from tests.integration.cmd import get, good, is_online, logged_in, users
from tests.integration.v1 import good as good_v1
from tests.ports import free_ports
from tests.support import Server, eventually

from .test_nodes import QUICK, SLACK_SECONDS, address_of, crowd, listed, metric, timed
from .test_redis import push_both_ways
from .traffic import APP, Push, Traffic

pytestmark = pytest.mark.linux

RPC_SECONDS = 1.0
LOSSES = (
    "imserver_rpc_dropped_total",
    "imserver_rpc_stale_total",
    "imserver_rpc_lost_total",
    "imserver_rpc_late_total",
    "imserver_pushes_unreached_total",
)
"""Where nodes count events that did not arrive."""


class Apart(NamedTuple):
    """Two nodes that reach each other by a network each only."""

    nodes: Nodes
    networks: list[Network]


@pytest.fixture
def apart(cluster: Launch) -> Iterator[Apart]:
    channels = {
        "bounded": {"history_size": 100, "history_seconds": 300},
        "stored": {"history": "log"},
    }
    with ExitStack() as stack:
        nodes = cluster(0, apps={str(APP): {"channels": channels}}, cluster=QUICK)
        networks = []
        for index in range(2):
            port = free_ports(2)
            address = f"127.0.1.{index + 1}"
            networks.append(Network())
            stack.callback(networks[-1].close)
            for each in (port, port + 1):
                networks[-1].listen(address, each)
            nodes.start(
                {
                    "app": {"rpc_port": port},
                    "cluster": {"advertise": address, "bind": "127.0.0.1"},
                }
            )
        nodes.wait_until_met()
        yield Apart(nodes, networks)


def counted(nodes: Nodes) -> int:
    """Events that the nodes know to be lost."""
    return int(sum(metric(server, name) for server in nodes.servers for name in LOSSES))


def both_see_all(nodes: Nodes, expected: list[str], seconds: float = 60.0) -> None:
    for server in nodes.servers:
        eventually(
            lambda server=server: users(server.http, APP) == sorted(expected),
            seconds,
            "the list",
        )
        eventually(
            lambda server=server: (
                "missingNodes" not in good(get(server.http, "/user/list", appID=APP))
            ),
            seconds,
        )


@pytest.mark.parametrize("how", [pytest.param("cut", marks=pytest.mark.ci), "hold"])
def test_two_nodes_do_not_reach_each_other(
    apart: Apart, traffic: Traffic, how: str
) -> None:
    """``cut``: what was on the way is gone, and connections with it; ``hold``:
    it arrives late."""
    nodes, networks = apart
    groups = crowd(traffic, nodes, 8)
    names = [name_of(server) for server in nodes.servers]
    push_both_ways(traffic, nodes, groups)
    traffic.run_for(1.5)
    assert all(network.pairs for network in networks)
    before = counted(nodes)

    broken = time.monotonic()
    for network in networks:
        network.control(how)
    for _ in range(2):
        for index, server in enumerate(nodes.servers):
            data, seconds = timed(server, "/user/list", appID=APP)
            assert seconds < RPC_SECONDS + SLACK_SECONDS
            assert sorted(data["userList"]) == sorted(groups[index])
            assert data["missingNodes"] == [names[1 - index]]
            # The registry tells who is on the other side all the same.
            assert is_online(server.http, groups[1 - index][0], APP)
    # Somebody crosses over. The word of it cannot pass; the registry passes it
    # on.
    crosser = groups[0][0]
    stayed = traffic.persons[crosser]
    traffic.come([crosser], address_of(nodes.servers[1]))
    eventually(
        lambda: crosser not in listed(nodes.servers[0])["userList"],
        what="forgotten where they were",
    )
    traffic.run_for(max(6 - (time.monotonic() - broken), 0))
    for network in networks:
        network.control("heal")
    healed = time.monotonic()
    both_see_all(nodes, [*groups[0], *groups[1]])
    # Nothing fails any more.
    eventually(lambda: _pass_again(traffic, healed), what="pushes pass again")
    settled = time.monotonic()
    traffic.run_for(2)
    assert stayed.online, "the older connection is open and answered"

    def excused(push: Push) -> bool:
        if push.user == crosser:
            return broken - 0.5 < push.answered and push.sent_at < settled + 0.5
        return (
            push.pusher >= 2 and broken - 0.5 < push.answered and push.sent_at < settled
        )

    # The first push that waited for the network would have waited for as long
    # as it was broken.
    slowest = traffic.slowest([0, 1, 2, 3], broken, settled)
    assert slowest < max(0.5 + SLACK_SECONDS, (healed - broken) / 2), (
        "nobody waits for the network"
    )
    traffic.persons[crosser].got[:0] = stayed.got
    stayed.wanted = False
    tally = traffic.finish(excused)
    known = counted(nodes) - before
    assert len(tally.lost) <= known, "the nodes know of every loss"


def _pass_again(traffic: Traffic, since: float) -> bool:
    """Whether the pushes of a second (or more) were sent in either direction,
    all after a moment."""
    return all(
        len(lately := pusher.pushes[-40:]) == 40
        and all(push.outcome == "sent" and push.sent_at > since for push in lately)
        for pusher in traffic.pushers[2:]
    )


@pytest.mark.parametrize("channel", ["bounded:news", "stored:news"])
def test_what_a_killed_node_has_stored_and_not_sent_arrives(
    apart: Apart, channel: str
) -> None:
    """From the history, to which a node compares its positions every few
    seconds."""
    one, two = apart.nodes.servers

    def publish(server: Server, text: str) -> tuple[str, int]:
        body = {"app": str(APP), "channel": channel, "text": text}
        answer = good_v1(server.http, "channels/publish", body)
        return answer["epoch"], answer["offset"]

    with logged_in(two.ws, "ann", APP) as ann:
        assert ann.ask_cmd("subscribe", {"channel": channel})[0] == 200
        epoch, _ = publish(one, "one")
        for network in apart.networks:
            network.control("cut")
        assert publish(one, "two") == (epoch, 2)
        one.process.kill()
        one.process.wait()
        found = [ann.push("publication").json["response"]["data"] for _ in range(2)]
        assert publish(two, "three") == (epoch, 3)
        found.append(ann.push("publication").json["response"]["data"])
        assert [(each["offset"], each["text"]) for each in found] == [
            (1, "one"),
            (2, "two"),
            (3, "three"),
        ]
        ann.ask_cmd("unsubscribe", {"channel": channel})
        _, _, back = ann.ask_cmd(
            "subscribe", {"channel": channel, "epoch": epoch, "offset": 1}
        )
        assert [
            back["recovered"],
            *(each["text"] for each in back["publications"]),
        ] == [True, "two", "three"]
