"""Every part of the cluster's measurements in a tiny form, with real nodes and a real Redis."""

import json
from functools import partial

import pytest

from bench import cluster
from bench.cluster import PARTS, Nodes
from bench.figures import FIGURES
from bench.suite import CLUSTER
from tests.bench.play import run

pytestmark = [pytest.mark.full, pytest.mark.linux]

TINY = ("--users", "20", "--logins", "40", "--receivers", "20", "--bulk", "10", "--clients", "50")


@pytest.mark.slow
@pytest.mark.usefixtures("short_rests")
def test_every_part_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    leases = {"IMSERVER_CLUSTER_LEASE_SECONDS": "3", "IMSERVER_CLUSTER_RENEW_SECONDS": "0.5"}
    few = {"BYSTANDERS": 10, "GONE": 5, "WARM_UP_SECONDS": 0.1}
    for name, value in {"Nodes": partial(Nodes, environment=leases), **few}.items():
        monkeypatch.setattr(cluster, name, value)
    result = run("cluster", *TINY, "--rate", "50", "--seconds", "0.3", "--json")
    found = json.loads(result.stdout)
    reports = {report["parameters"]["part"]: report for report in found["reports"]}
    assert set(reports) == set(PARTS)
    for report in reports.values():
        assert set(report["figures"]) <= set(FIGURES)
        assert report["faults"] == {}
    assert reports["redis"]["figures"]["login_commands"] >= 1
    assert 0 < reports["push"]["figures"]["p50_ms"] <= reports["push"]["figures"]["p99_ms"]
    assert reports["push"]["figures"]["rpc_events"] == reports["push"]["figures"]["messages"]
    assert reports["bulk"]["figures"]["events_a_batch"] > 1
    assert reports["broadcast"]["figures"]["flat_ratio"] > 0
    paced = reports["broadcast"]["figures"]["paced_ratio"]
    assert paced is None or paced > 0  # None: one of them took too little CPU to be measured
    for part in ("push", "forward", "channel", "stored"):
        figures = reports[part]["figures"]
        assert min(figures["api_node_cpu_us"], figures["socket_node_cpu_us"], figures["p50_ms"]) > 0
        assert figures["redis_cpu_us"] >= 0
        assert figures["rpc_events"] > 0
    for part in ("channel", "stored"):
        figures = reports[part]["figures"]
        ends = figures["api_node_cpu_us"] + figures["socket_node_cpu_us"]
        assert figures["cpu_us"] == pytest.approx(ends, rel=0.2)
    storm = reports["storm"]["figures"]
    assert storm["returned"] == storm["shown_online"] == 50
    assert 0 < storm["offline_seconds"] < 60
    assert {bar["title"] for bar in found["bars"]} == {row.title for row in CLUSTER}


def test_a_redis_that_is_not_there_is_one_clear_line() -> None:
    result = run("cluster", "--part", "push", "--redis-server", "no-such-redis-server")
    assert result.exit_code == 1
    assert "no no-such-redis-server here" in result.output
    assert "Traceback" not in result.output
