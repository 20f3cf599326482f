"""Every scenario in a tiny form, and what it says when something is wrong."""

import json

import pytest

from bench import cluster
from bench.cluster import PARTS
from bench.runner import CLUSTER
from tests.bench.play import found, run
from tests.support import Server, run_cli

pytestmark = pytest.mark.linux

ZERO = (
    "lost",
    "doubled",
    "dropped",
    "refused",
    "other_order",
    "errors",
    "unfinished",
    "missing",
    "unstored",
)
FULL = pytest.mark.full("load")
QUICK = (
    "--push-seconds",
    "0.5",
    "--calm-seconds",
    "0.1",
    "--idle-seconds",
    "0.3",
    "--broadcasts",
    "1",
)
TINY = ("--users", "20", "--logins", "40", "--receivers", "20", "--bulk", "10")


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios in a tiny form need no second to settle."""
    for name in ("context.REST", "million.CALM"):
        monkeypatch.setattr(f"bench.{name}_SECONDS", 0.2)


def options_of(server: Server) -> tuple[str, ...]:
    return ("--url", server.http_url, "--ws", server.ws_url, "--pid", str(server.pid))


def check(positive: str, *arguments: str) -> None:
    """Run a scenario: these figures are positive, or have the value behind
    ``=``; nothing is wrong."""
    figures = found(*arguments)["figures"]
    for name in positive.split():
        name, _, value = name.partition("=")
        assert figures[name] == float(value) if value else figures[name] > 0, (
            name,
            figures,
        )
    assert not any(figures.get(name) for name in ZERO), figures


@pytest.mark.parametrize("server", ["front"], indirect=True)
@pytest.mark.parametrize(
    ("command", "positive"),
    [
        ("idle --connections 50 --seconds 0.2", "rss_empty_mb connections"),
        ("fanout --receivers 20 --seconds 0.3", "messages p50_ms cpu_us"),
        ("fanout --receivers 20 --seconds 0.3 --one-per-send", "messages p99_ms"),
        ("push --users 20 --seconds 0.5", "requests_per_second answer_p50_ms"),
        ("push --users 20 --seconds 0.5 --bulk 40", "targets_per_second answer_p50_ms"),
        ("publish --users 20 --seconds 0.5", "publishes_per_second ack_p50_ms"),
        (
            "chat --members 8 --seconds 0.3 --rate 100",
            "messages=30 deliveries=210 cpu_us ack_p50_ms",
        ),
        *(
            pytest.param(*row, marks=FULL)
            for row in (
                (
                    "fanout --receivers 20 --seconds 0.3 --rate 50",
                    "messages p50_ms cpu_us",
                ),
                ("push --users 20 --seconds 0.5 --v1", "requests_per_second"),
                ("push --users 20 --seconds 0.5 --v1 --bulk 40", "targets_per_second"),
                ("publish --users 20 --seconds 0.5 --rate 500", "publishes_per_second"),
                ("handshake --connections 50", "opened_per_second"),
                (
                    "handshake --connections 50 --login --members 10",
                    "opened_per_second",
                ),
                ("chat --members 8 --seconds 0.3 --rate 0", "messages cpu_us"),
                (
                    "chat --members 8 --seconds 0.3 --rate 100 --single",
                    "messages=30 deliveries=30",
                ),
                ("chat --members 8 --seconds 0.3 --rate 0 --single", "messages cpu_us"),
            )
        ),
    ],
)
def test_a_scenario_against_a_running_server(
    server: Server, command: str, positive: str
) -> None:
    check(positive, *command.split(), *options_of(server))


@pytest.mark.parametrize(
    ("command", "positive"),
    [
        (
            "notify --members 20",
            "notifications_lost=0 notifications_again=0 notified_cpu_us",
        ),
        *(
            pytest.param(*row, marks=FULL)
            for row in (
                (
                    "idle --connections 50 --seconds 3 --ping-seconds 1",
                    "pings ping_cpu_us",
                ),
                (
                    "capacity --connections 60 --seconds 0.2",
                    "login_cpu_us push_cpu_us delivery_cpu_us",
                ),
                ("push --v1 --keyed --users 5 --seconds 0.1", "messages"),
                ("publish --keyed --users 5 --seconds 0.1", "messages"),
                ("streams --streams 20 --seconds 0.5", "pieces_per_second"),
                ("channels --connections 20", "subscriptions_per_second"),
                ("channels --connections 20 --dialect cmd", "subscriptions_per_second"),
                (
                    "chat --members 4 --seconds 0.3 --rate 100",
                    "stored_rows=30 messages=30",
                ),
                (
                    "chat --members 6 --seconds 0.3 --rate 50 --nodes 2",
                    "stored_rows=15 deliveries=75",
                ),
            )
        ),
    ],
)
def test_a_scenario_with_a_server_of_its_own(command: str, positive: str) -> None:
    check(positive, *command.split(), "--log", "null")


@pytest.mark.slow
@FULL
@pytest.mark.parametrize(("users", "processes"), [(300, 2), (100, 1)])
def test_a_few_hundred_instead_of_a_million(
    users: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ("--connections", str(users), "--processes", str(processes))
    result = run("million", *how, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    whole = json.loads(result.stdout)
    (report,) = whole["reports"]
    figures = report["figures"]
    assert report["stopped"] == ""
    assert figures["online"] == figures["listed"] == users
    assert figures["pushes"] > 20
    for pushes in ("push", "busy_push"):
        assert 0 < figures[f"{pushes}_p50_ms"] <= figures[f"{pushes}_p99_ms"]
    assert 0 < figures["broadcast_seconds"] < 60
    assert figures["pss_full_mb"] > 10
    assert (figures["redis_mb"] is None) == (processes == 1), (
        "one process needs no Redis"
    )
    assert whole["bars"] == []  # they are for a million


@pytest.mark.slow
@FULL
def test_every_part_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WARM_UP_SECONDS", 0.1)
    whole = json.loads(
        run("cluster", *TINY, "--rate", "50", "--seconds", "0.3", "--json").stdout
    )
    reports = {report["parameters"]["part"]: report for report in whole["reports"]}
    figures = {part: report["figures"] for part, report in reports.items()}
    assert figures.keys() == PARTS.keys()
    assert [report["faults"] for report in reports.values()] == [{}] * len(PARTS)
    assert figures["redis"]["login_commands"] >= 1
    assert 0 < figures["push"]["p50_ms"] <= figures["push"]["p99_ms"]
    assert figures["push"]["rpc_events"] == figures["push"]["messages"]
    assert figures["bulk"]["events_a_batch"] > 1
    for part in ("push", "forward", "channel", "stored"):
        names = ("api_node_cpu_us", "socket_node_cpu_us", "p50_ms", "rpc_events")
        assert min(figures[part][name] for name in names) > 0
    for part in ("channel", "stored"):
        ends = figures[part]["api_node_cpu_us"] + figures[part]["socket_node_cpu_us"]
        assert figures[part]["cpu_us"] == pytest.approx(ends, rel=0.2)
    assert {bar["title"] for bar in whole["bars"]} == {row.title for row in CLUSTER}


@FULL
@pytest.mark.parametrize("server", ["front"], indirect=True)
def test_runs_are_shown_as_their_median_with_the_extremes(server: Server) -> None:
    result = run("handshake", "--connections", "5", "--runs", "2", *options_of(server))
    assert result.exit_code == 0
    assert "median of 2" in result.stdout
    assert "server CPU each" in result.stdout


@FULL
def test_the_console_script_starts_a_server_of_its_own_and_ends_it() -> None:
    ended = run_cli("bench", "handshake", "--connections", "5", "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.split()[1:] == ["s", "handshake"]
    report = json.loads(ended.stdout)
    assert not report["server"]["url"]
    assert report["figures"]["cpu_us"] > 0


@FULL
@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (
            "handshake --url http://127.0.0.1:9 --ws ws://127.0.0.1:9/acc",
            "ECONNREFUSED",
        ),
        ("handshake --config /no/such/file", "/no/such/file"),
        (
            "cluster --part push --redis-server no-such-redis-server",
            "no no-such-redis-server here",
        ),
        ("idle --url http://127.0.0.1:9", "--pid"),
    ],
)
def test_what_is_away_is_one_clear_line(command: str, problem: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 1
    assert problem in result.output
    assert "Traceback" not in result.output
