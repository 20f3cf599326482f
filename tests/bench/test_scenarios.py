"""Every scenario in a tiny form against the real server."""

import json
from typing import Any

import pytest

from bench.figures import FIGURES
from tests.bench.play import found, run
from tests.support import Server

pytestmark = [pytest.mark.linux, pytest.mark.parametrize("server", ["front"], indirect=True)]


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few connections need no second to settle."""
    monkeypatch.setattr("bench.context.REST_SECONDS", 0.2)
    monkeypatch.setattr("bench.push.QUIET_SECONDS", 0.2)


@pytest.fixture
def server_options(server: Server) -> tuple[str, ...]:
    """Options that name the server of this module."""
    return ("--url", server.http_url, "--ws", server.ws_url, "--pid", str(server.pid))


def test_idle(server_options: tuple[str, ...]) -> None:
    report = found("idle", "--connections", "50", "--seconds", "0.2", *server_options)
    assert report["figures"]["connections"] == 50
    assert report["figures"]["rss_empty_mb"] > 5
    assert not report["server"]["own"]


@pytest.mark.full
@pytest.mark.slow
def test_idle_connections_answer_pings(server_options: tuple[str, ...]) -> None:
    """Its server is another one, which pings more often."""
    report = found("idle", "--connections", "50", "--seconds", "3", "--ping-seconds", "1", "--log", "null")
    assert report["figures"]["pings"] >= 50
    assert report["figures"]["ping_cpu_us"] > 0
    assert report["figures"]["dropped"] == 0


@pytest.mark.parametrize("dialect", ["client", "action"])
@pytest.mark.full
def test_idle_connections_of_another_dialect(server_options: tuple[str, ...], dialect: str) -> None:
    report = found("idle", "--connections", "50", "--seconds", "0.2", "--dialect", dialect, *server_options)
    assert report["figures"]["connections"] == 50
    assert report["figures"]["dropped"] == 0
    assert report["command"].endswith(f"--dialect {dialect}")


@pytest.mark.full
def test_idle_connections_of_the_protobuf_dialect_on_a_server_with_our_key(
    server_options: tuple[str, ...],
) -> None:
    report = found("idle", "--connections", "50", "--seconds", "0.2", "--dialect", "protobuf")
    assert (report["figures"]["connections"], report["figures"]["dropped"]) == (50, 0)
    result = run("idle", "--connections", "50", "--dialect", "protobuf", *server_options)
    assert result.exit_code != 0
    assert "needs a server of our own" in result.output


@pytest.mark.parametrize(
    "way", [(), pytest.param(("--rate", "50"), marks=pytest.mark.full), ("--one-per-send",)]
)
def test_fanout(server_options: tuple[str, ...], way: tuple[str, ...]) -> None:
    report = found("fanout", "--receivers", "20", "--seconds", "0.3", *way, *server_options)
    figures = report["figures"]
    assert figures["messages"] > 0
    assert figures["lost"] == figures["doubled"] == figures["other_order"] == 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["cpu_us"] > 0
    assert ("of_floor_percent" in figures) == ("--one-per-send" in way)
    assert report["parameters"]["receivers"] == 20


@pytest.mark.full
def test_pings_beside_a_fanout(server_options: tuple[str, ...]) -> None:
    way = ("--receivers", "20", "--seconds", "0.3", "--rate", "50", "--bystanders", "5")
    figures = found("fanout", *way, *server_options)["figures"]
    assert figures["bystander_pings"] > 0
    assert figures["bystanders_lost"] == figures["pings_unanswered"] == figures["lost"] == 0


@pytest.mark.parametrize("way", [(), ("--rate", "50")])
@pytest.mark.full
def test_fanout_to_receivers_in_several_processes(
    server_options: tuple[str, ...], way: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.push.MOST_IN_PROCESS", 8)
    report = found("fanout", "--receivers", "20", "--seconds", "0.3", *way, *server_options)
    assert report["generator"]["processes"] == 3
    messages = [run["messages"] for run in report["each"]]
    assert report["figures"]["messages"] == messages[0] > 0
    assert report["figures"]["lost"] == report["figures"]["doubled"] == 0


@pytest.mark.parametrize("way", [(), ("--heartbeat",)])
@pytest.mark.full
def test_echo(server_options: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found("echo", "--connections", "20", "--seconds", "0.2", *way, *server_options)["figures"]
    assert figures["round_trips_per_second"] > 0
    assert figures["errors"] == 0


@pytest.mark.parametrize(
    "way",
    [
        ("push",),
        ("push", "--bulk", "40"),
        pytest.param(("push", "--v1"), marks=pytest.mark.full),
        pytest.param(("push", "--v1", "--bulk", "40"), marks=pytest.mark.full),
        ("publish",),
        pytest.param(("publish", "--rate", "500"), marks=pytest.mark.full),
    ],
)
def test_messages_to_single_users(server_options: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found(*way, "--users", "20", "--seconds", "0.5", *server_options)["figures"]
    unit = "publishes" if "publish" in way else "targets" if "--bulk" in way else "requests"
    answer = "ack" if "publish" in way else "answer"
    assert figures["messages"] > 0
    assert figures[f"{unit}_per_second"] > 0
    assert figures["lost"] == figures["refused"] == figures["doubled"] == 0
    assert 0 < figures[f"{answer}_p50_ms"] <= figures[f"{answer}_p99_ms"]


@pytest.mark.parametrize("scenario", [("push", "--v1"), ("publish",)])
@pytest.mark.full
def test_a_server_of_our_own_asks_for_keys_if_that_is_to_be_measured(
    server: Server, scenario: tuple[str, ...]
) -> None:
    report = found(*scenario, "--keyed", "--users", "5", "--seconds", "0.1")
    assert report["figures"]["messages"] > 0
    assert report["figures"]["refused"] == 0


@pytest.mark.parametrize("way", [(), ("--login", "--members", "10")])
@pytest.mark.full
def test_handshake(server_options: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found("handshake", "--connections", "50", *way, *server_options)["figures"]
    assert figures["opened_per_second"] > 0
    assert figures["errors"] == 0


@pytest.mark.full
@pytest.mark.parametrize("way", [(), ("--bot",)])
def test_streams(server_options: tuple[str, ...], way: tuple[str, ...]) -> None:
    figures = found("streams", "--streams", "20", "--seconds", "0.5", *way)["figures"]
    assert figures["pieces_per_second"] > 10
    assert figures["lost"] == figures["doubled"] == figures["refused"] == figures["unfinished"] == 0


@pytest.mark.full
def test_storm(server_options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.session_scenarios.MOST_IN_PROCESS", 60)
    figures = found("storm", "--clients", "100", "--bystanders", "10", *server_options)["figures"]
    assert figures["returned"] == 100
    assert figures["bystanders_lost"] == figures["pings_unanswered"] == 0
    assert figures["bystander_pings"] > 0


@pytest.mark.full
def test_runs_are_shown_as_their_median_with_the_extremes(server_options: tuple[str, ...]) -> None:
    result = run("echo", "--connections", "5", "--seconds", "0.1", "--runs", "2", *server_options)
    assert result.exit_code == 0
    assert "median of 2" in result.stdout
    assert "server CPU each" in result.stdout


def test_memory_needs_the_processes_of_the_server(server: Server) -> None:
    result = run("idle", "--url", server.http_url, "--ws", server.ws_url)
    assert result.exit_code == 1
    assert "--pid" in result.output


@pytest.mark.full
def test_the_report_of_a_suite_becomes_markdown(tmp_path: Any, server_options: tuple[str, ...]) -> None:
    floor = found("floor", "--receivers", "5", "--seconds", "0.05")
    echo = found("echo", "--connections", "5", "--seconds", "0.1", *server_options)
    bar = {
        "title": "ping",
        "command": echo["command"],
        "figure": "cpu_us",
        "label": FIGURES["cpu_us"].label,
        "value": 8.0,
        "bar": 10,
        "at_least": False,
        "scaled_bar": 10.5,
        "met": True,
        "derived": False,
    }
    suite = {
        "imserver": "1",
        "reports": [{"title": "floor", **floor}, {"title": "ping", **echo}],
        "bars": [bar],
    }
    file = tmp_path / "all.json"
    file.write_text(json.dumps(suite))
    result = run("table", str(file))
    assert result.exit_code == 0
    assert (
        "| ping | server CPU each | 8.00 µs | ≤ 10.00 µs | ≤ 10.50 µs | yes | `imserver bench echo"
        in result.stdout
    )

    document = tmp_path / "doc.md"
    document.write_text("before <!-- figures --> old <!-- end --> after")
    assert run("table", str(file), "--into", str(document)).exit_code == 0
    text = document.read_text()
    assert text.startswith("before <!-- figures -->\n")
    assert text.endswith("\n<!-- end --> after")
    assert "old" not in text
    assert result.stdout.strip() in text

    document.write_text("before <!-- figures bars --> old <!-- end --> after")
    assert run("table", str(file), "--into", str(document)).exit_code == 0
    text = document.read_text()
    assert "| ping | server CPU each |" in text
    assert "old" not in text
    assert "**ping**" not in text

    document.write_text("before <!-- figures details --> old <!-- end --> after")
    assert run("table", str(file), "--into", str(document)).exit_code == 0
    text = document.read_text()
    assert "**ping**" in text
    assert "old" not in text
    assert "| ping | server CPU each |" not in text

    document.write_text("no marks")
    assert "no marks" in run("table", str(file), "--into", str(document)).output
