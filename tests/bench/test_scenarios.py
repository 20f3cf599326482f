"""Every scenario in a tiny form against the real server."""

import pytest

from tests.bench.play import found, run
from tests.support import Server

pytestmark = [
    pytest.mark.linux,
    pytest.mark.parametrize("server", ["front"], indirect=True),
    pytest.mark.usefixtures("short_rests"),
]


@pytest.fixture
def server_options(server: Server) -> tuple[str, ...]:
    """Options that name the server of this module."""
    return ("--url", server.http_url, "--ws", server.ws_url, "--pid", str(server.pid))


ZERO = ("lost", "doubled", "dropped", "refused", "other_order", "errors", "unfinished")
FULL = pytest.mark.full
OWN = ("--log", "null")
"""A server of its own, with settings of the scenario."""


@pytest.mark.parametrize(
    ("command", "positive"),
    [
        ("idle --connections 50 --seconds 0.2", "rss_empty_mb connections"),
        *(
            pytest.param(
                f"idle --connections 50 --seconds 0.2 --dialect {dialect}", "connections", marks=FULL
            )
            for dialect in ("client", "action")
        ),
        ("fanout --receivers 20 --seconds 0.3", "messages p50_ms cpu_us"),
        pytest.param("fanout --receivers 20 --seconds 0.3 --rate 50", "messages p50_ms cpu_us", marks=FULL),
        ("fanout --receivers 20 --seconds 0.3 --one-per-send", "messages p99_ms"),
        ("push --users 20 --seconds 0.5", "requests_per_second answer_p50_ms"),
        ("push --users 20 --seconds 0.5 --bulk 40", "targets_per_second answer_p50_ms"),
        pytest.param("push --users 20 --seconds 0.5 --v1", "requests_per_second", marks=FULL),
        pytest.param("push --users 20 --seconds 0.5 --v1 --bulk 40", "targets_per_second", marks=FULL),
        ("publish --users 20 --seconds 0.5", "publishes_per_second ack_p50_ms"),
        pytest.param("publish --users 20 --seconds 0.5 --rate 500", "publishes_per_second", marks=FULL),
        pytest.param("handshake --connections 50", "opened_per_second", marks=FULL),
        pytest.param("handshake --connections 50 --login --members 10", "opened_per_second", marks=FULL),
    ],
)
def test_a_scenario_against_a_running_server(
    server_options: tuple[str, ...], command: str, positive: str
) -> None:
    report = found(*command.split(), *server_options)
    assert all(report["figures"][name] > 0 for name in positive.split()), report["figures"]
    assert not any(report["figures"].get(name) for name in ZERO), report["figures"]
    assert not report["server"]["own"]


@FULL
@pytest.mark.parametrize(
    ("command", "positive"),
    [
        ("idle --connections 50 --seconds 3 --ping-seconds 1", "pings ping_cpu_us"),
        ("idle --connections 50 --seconds 0.2 --dialect protobuf", "connections"),
        ("push --v1 --keyed --users 5 --seconds 0.1", "messages"),
        ("publish --keyed --users 5 --seconds 0.1", "messages"),
        ("streams --streams 20 --seconds 0.5", "pieces_per_second"),
        ("streams --streams 20 --seconds 0.5 --bot", "pieces_per_second"),
        ("channels --connections 20", "subscriptions_per_second"),
        ("channels --connections 20 --recover --behind 5", "recoveries"),
        ("channels --connections 20 --crowd", "subscribers"),
    ],
)
def test_a_scenario_with_a_server_of_its_own(server: Server, command: str, positive: str) -> None:
    report = found(*command.split(), *OWN)
    assert all(report["figures"][name] > 0 for name in positive.split()), report["figures"]
    assert not any(report["figures"].get(name) for name in ZERO), report["figures"]


@pytest.mark.parametrize("way", [(), ("--rate", "50")])
@pytest.mark.full
def test_fanout_to_receivers_in_several_processes(
    server_options: tuple[str, ...], way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.push.MOST_IN_PROCESS", 8)
    report = found("fanout", "--receivers", "20", "--seconds", "0.3", *way, *server_options)
    assert report["generator"]["processes"] == 3
    assert report["figures"]["messages"] > 0
    assert report["figures"]["lost"] == report["figures"]["doubled"] == 0


@pytest.mark.full
def test_runs_are_shown_as_their_median_with_the_extremes(server_options: tuple[str, ...]) -> None:
    result = run("handshake", "--connections", "5", "--runs", "2", *server_options)
    assert result.exit_code == 0
    assert "median of 2" in result.stdout
    assert "server CPU each" in result.stdout


def test_memory_needs_the_processes_of_the_server(server: Server) -> None:
    result = run("idle", "--url", server.http_url, "--ws", server.ws_url)
    assert result.exit_code == 1
    assert "--pid" in result.output
