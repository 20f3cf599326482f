"""What operators and gateways ask of nodes, over the wire: metrics of a machine, recommendations, keys."""

import signal
from pathlib import Path

import pytest

from imserver.plugin.testing import HostAndPort
from tests.gateway.api.test_metrics import samples
from tests.processes import pause
from tests.support import Server, eventually

from .clusters import name_of, nodes_of
from .cmd import get

FIRST, SECOND = "wss://im1.example.com/acc", "ws://im2.example.com/acc"


def metrics(address: HostAndPort) -> dict[tuple[str, str], float]:
    """The answer of GET /metrics by name and labels, as read by another program's rules."""
    answer = get(address, "/metrics")
    assert answer.status == 200
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.body.decode())


def ups(address: HostAndPort) -> dict[str, float]:
    found = metrics(address)
    return {labels[6:-1]: value for (name, labels), value in found.items() if name == "imserver_node_up"}


def test_a_node_that_hangs_is_not_up_and_delays_the_scrape_by_its_time_out(tmp_path: Path) -> None:
    with nodes_of(tmp_path, 2, cluster={"rpc_seconds": 1}) as nodes:
        here, hanging = nodes.servers
        name = name_of(hanging)
        pause(hanging.process.pid)
        try:
            assert ups(here.http)[name] == 0
        finally:
            hanging.process.send_signal(signal.SIGCONT)
        eventually(lambda: ups(here.http)[name] == 1, what="the node answers again")


@pytest.mark.full
def test_a_gateway_that_drains_is_recommended_no_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"server": {"public_ws_url": FIRST}, "drain": {"delay_seconds": 60}}
    with nodes_of(tmp_path_factory.mktemp("cluster"), 1, **settings) as nodes:
        (first,) = nodes.servers
        second = nodes.start({"server": {"public_ws_url": SECOND}, "drain": {"delay_seconds": 0}})
        nodes.wait_until_met()

        def recommended(server: Server) -> set[str]:
            return {get(server.http, "/gateway").json["url"] for _ in range(20)}

        # Neither has a connection, so each is as good as the other.
        for server in (first, second):
            assert recommended(server) <= {FIRST, SECOND}
        first.process.send_signal(signal.SIGTERM)
        for server in (first, second):
            eventually(
                lambda server=server: recommended(server) == {SECOND}, what="the lease says that it drains"
            )
