"""What operators and gateways ask of nodes, over the wire: metrics of a machine, recommendations, keys."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imserver.plugin.testing import HostAndPort
from tests.conftest import StartServer
from tests.gateway.api.test_metrics import samples
from tests.processes import pause
from tests.support import HTTP_SERVERS, Server, eventually

from .clusters import Nodes, name_of, nodes_of
from .cmd import fresh, get, logged_in, send_message
from .raw import ask, bearer, request

KEY = "an-admin-key-of-this-test"
FIRST, SECOND = "wss://im1.example.com/acc", "ws://im2.example.com/acc"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes_of(tmp_path_factory.mktemp("cluster"), 2) as two:
        yield two


def metrics(address: HostAndPort) -> dict[tuple[str, str], float]:
    """The answer of GET /metrics by name and labels, as read by another program's rules."""
    answer = get(address, "/metrics")
    assert answer.status == 200
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.body.decode())


def ups(address: HostAndPort) -> dict[str, float]:
    found = metrics(address)
    return {labels[6:-1]: value for (name, labels), value in found.items() if name == "imserver_node_up"}


@pytest.mark.full
def test_every_node_answers_for_all_of_its_machine(nodes: Nodes) -> None:
    names = sorted(name_of(server) for server in nodes.servers)
    for address in nodes.http:
        found = metrics(address)
        for metric in ("imserver_connections", "imserver_registry_up", "imserver_registry_round_trips_total"):
            assert sorted(labels[6:-1] for name, labels in found if name == metric) == names
        assert ups(address) == dict.fromkeys(names, 1)


@pytest.mark.full
def test_what_goes_between_nodes_is_counted_on_both(nodes: Nodes) -> None:
    here, there = nodes.servers
    sender, receiver = f'node="{name_of(here)}"', f'node="{name_of(there)}"'
    before = metrics(here.http)
    user = fresh()
    with logged_in(there.ws, user, 101) as client:
        for _ in range(3):
            assert send_message(here.http, 101, user, "m") == {"sendResults": True}
            client.push("msg")
    after = metrics(here.http)
    for name, node in (
        ("imserver_pushes_total", f'{sender},app="101"'),
        ("imserver_rpc_sent_total", sender),
        ("imserver_rpc_received_total", receiver),
        ("imserver_deliveries_total", receiver),
    ):
        assert after[name, node] - before.get((name, node), 0) >= 3, name
    logins = "imserver_logins_total", f'{receiver},app="101"'
    assert after[logins] - before.get(logins, 0) == 1
    assert (
        after["imserver_registry_seconds_count", sender] > before["imserver_registry_seconds_count", sender]
    )


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


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_with_keys_metrics_are_a_problem_for_strangers(start_server: StartServer, http_server: str) -> None:
    server = start_server(
        config={"api": {"keys": [{"key": KEY, "scopes": ["admin"]}]}}, http_server=http_server
    )
    refused = get(server.http, "/metrics")
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")
    answer = ask(server.http, bearer(request("/metrics"), KEY))
    assert answer.status == 200
    # For machines, and for back ends' ports: the WebSocket port has neither.
    for path in ("/metrics", "/gateway", "/cluster"):
        assert get(server.ws, path).status == 404
    assert get(server.http, "/gateway").json == {"url": "ws://127.0.0.1/acc"}


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
