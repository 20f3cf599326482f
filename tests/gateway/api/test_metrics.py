"""The table of metrics, its text, and the texts of several nodes made one."""

import re
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from imserver.gateway.cluster.registry import Lease, RegistryCounters
from imserver.gateway.cluster.rpc.counters import RpcCounters
from imserver.gateway.config.settings import KeySettings
from imserver.gateway.metric_table import METRICS, merge, render
from imserver.gateway.metrics import Histogram, Metrics
from imserver.gateway.push.idempotency import Idempotency
from tests.gateway.api.api_node import ApiNode, with_keys
from tests.gateway.api.conftest import StartNode

KEYS = with_keys(
    KeySettings("admin-key", ("admin",)),
    KeySettings("read-key", ("read",)),
    KeySettings("app-key", ("admin",), ("101",)),
)
SAMPLE = re.compile(
    r"(?P<name>[a-z_]+)\{(?P<labels>(?:[a-z_]+=\"(?:[^\"\\\n]|\\.)*\",?)+)\} (?P<value>[0-9.e+-]+|NaN)"
)


class AnyNode:
    """A node with every service that the table looks at."""

    def __init__(self, clustered: bool) -> None:
        self.metrics = Metrics()
        self.started_at = 1.5
        self.config = SimpleNamespace(
            server=SimpleNamespace(data_dir="/"), app=SimpleNamespace(log_file="/log")
        )
        self.poller = SimpleNamespace(count=1, ready=[])
        self.context = SimpleNamespace(connections={1, 2, 3})
        self.gate = SimpleNamespace(limit=100)
        apps = {
            "101": SimpleNamespace(
                name="101", users={"ann": 1, "bob": [2, 3]}, several=1
            ),
            '7"\n\\': SimpleNamespace(name='7"\n\\', users={}, several=0),
        }
        self.hub = SimpleNamespace(apps=apps, registered=apps.values)
        self.flusher = SimpleNamespace(stalled=set(), budget=SimpleNamespace(total=7))
        self.idempotency = Idempotency(1000, 60)
        self.pending = SimpleNamespace(count=4, expired=5)
        self.metrics.http_over_rate = 6
        membership = SimpleNamespace(channels=2, members=3)
        self.channels = SimpleNamespace(members=SimpleNamespace(membership=membership))
        log = SimpleNamespace(writer=SimpleNamespace(losses=0))
        self.store = SimpleNamespace(id="d1", healthy=lambda: True, part=lambda _: log)
        self.tenants = SimpleNamespace(names=lambda: ["101", "105"])
        self.registry = SimpleNamespace(
            counters=RegistryCounters(),
            healthy=lambda: True,
            leases=lambda: {1: 1, 2: 2},
        )
        self.rpc = SimpleNamespace(
            counters=RpcCounters(), queued_items=0, queued_bytes=0
        )
        self.node_messages = SimpleNamespace(unreadable=0)
        self.member = object() if clustered else None
        self.rerouting = SimpleNamespace(rerouted=0, unreached=0)
        self.connections = SimpleNamespace(unreached=0)
        self.node = self.network = self.sessions = self
        self.status = self

    def ready(self) -> bool:
        return True


def samples(text: str) -> dict[tuple[str, str], float]:
    """Value by name and labels; every line has to be one that Prometheus
    understands."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            found[match["name"], match["labels"]] = float(match["value"])
    return found


def described(text: str) -> list[str]:
    return [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]


def test_every_counter_of_every_part_is_in_the_table() -> None:
    node = AnyNode(clustered=True)
    for prefix, counters, fields in (
        ("imserver", node.metrics, Metrics.__slots__),
        (
            "imserver_registry",
            node.registry.counters,
            RegistryCounters.__struct_fields__,
        ),
        ("imserver_rpc", node.rpc.counters, RpcCounters.__struct_fields__),
    ):
        for number, field in enumerate(fields, 1):
            if type(getattr(counters, field)) is int:
                setattr(counters, field, 1000 + number)
        shown = samples(render(node, "n"))
        for number, field in enumerate(fields, 1):
            if type(getattr(counters, field)) is int and field not in {
                *SHOWN_OTHERWISE,
                *OF_MESSENGER,
            }:
                assert shown[f"{prefix}_{field}_total", 'node="n"'] == 1000 + number


SHOWN_OTHERWISE = (
    "http_fast",
    "http_handed_over",
    "http_over_rate",
    "http_refused",
    "http_running",
    "outbox_bytes_now",
)
"""By a label, or by the part that knows them."""
OF_MESSENGER = ("stored_repeats", "not_stored", "expired", "log_gaps", "resent_entries")


OF_A_CLUSTER = re.compile(
    "imserver_(registry|rpc|cluster|pushes_rerouted|pushes_unreached|connections_unreached)_"
)


def test_a_node_that_is_alone_shows_nothing_of_a_cluster() -> None:
    names = [metric.name for metric in METRICS]
    assert described(render(AnyNode(clustered=True), "n")) == names
    alone = described(render(AnyNode(clustered=False), "n"))
    assert alone == [name for name in names if not OF_A_CLUSTER.match(name)]


def test_every_sample_is_labelled_with_the_node_and_escaped() -> None:
    text = render(AnyNode(clustered=True), 'a"b\\c')
    assert all(labels.startswith('node="a\\"b\\\\c"') for _, labels in samples(text))
    users = {
        labels: value
        for (name, labels), value in samples(text).items()
        if name == "imserver_users"
    }
    assert list(users.values()) == [2, 0]
    assert list(users)[1].endswith('app="7\\"\\n\\\\"')
    assert text.endswith("\n")
    shown = samples(text)
    for folder in ("data", "log"):
        free, size = (
            next(
                value
                for (name, labels), value in shown.items()
                if name == each and folder in labels
            )
            for each in ("imserver_disk_free_bytes", "imserver_disk_bytes")
        )
        assert 0 <= free <= size
    sessions = [
        value
        for (name, _), value in samples(text).items()
        if name == "imserver_sessions"
    ]
    assert sessions == [3, 0], "each of a user with several"


def test_apps_that_are_not_registered_are_one_label_and_distributions_add_up() -> None:
    node = AnyNode(clustered=False)
    for app, number in (("101", 2), ("a system", 3), ("another", 4)):
        node.metrics.pushes[app] += number
        node.metrics.login_refused("token", app)
    node.metrics.closed(1006)
    node.metrics.http_handed_over = 3
    shown = samples(render(node, "n"))
    assert shown["imserver_closes_total", 'node="n",code="1006"'] == 1
    assert shown["imserver_http_requests_total", 'node="n",by="flask"'] == 3
    pushes = {
        labels: value
        for (name, labels), value in shown.items()
        if name == "imserver_pushes_total"
    }
    assert pushes == {'node="n",app="101"': 2, 'node="n",app="other"': 7}
    assert (
        shown["imserver_logins_denied_total", 'node="n",app="other",reason="token"']
        == 2
    )
    assert shown["imserver_logins_refused_total", 'node="n",app="101"'] == 1
    node = AnyNode(clustered=False)
    node.metrics.loop_lags = Histogram((0.01, 0.1))
    for seconds in (0.001, 0.01, 0.05, 7.0):
        node.metrics.lagged(seconds)
    shown = samples(render(node, "n"))
    name = "imserver_loop_lag_seconds"
    assert [
        shown[f"{name}_bucket", f'node="n",le="{le}"'] for le in ("0.01", "0.1", "+Inf")
    ] == [2, 3, 4]
    assert shown[f"{name}_count", 'node="n"'] == 4
    assert shown[f"{name}_sum", 'node="n"'] == pytest.approx(7.061)
    assert shown["imserver_loop_lag_max_seconds", 'node="n"'] == 7


def test_values_that_are_counted_together_are_counted_as_one_by_one() -> None:
    values = [7.0, 0.01, 0.001, 0.1, 0.05, 0.01, 0.11]
    one_by_one = Histogram((0.01, 0.1))
    together = Histogram((0.01, 0.1))
    for value in values:
        one_by_one.observe(value)
    for part in (values[:3], [], values[3:]):
        together.observe_all(part)
    assert together.counts == one_by_one.counts == [3, 2, 2]
    assert together.total == pytest.approx(one_by_one.total)


OF_OLD = """# HELP gone_total Was once
# TYPE gone_total counter
gone_total{node="d"} 4
# HELP imserver_node_up Said otherwise
# TYPE imserver_node_up gauge
imserver_node_up{node="d"} 1
"""


def test_texts_of_several_nodes_become_one_that_describes_each_metric_once() -> None:
    texts = [render(AnyNode(clustered=True), name) for name in ("a", "b", "c")]
    merged = merge(texts)
    assert described(merged) == described(texts[0])
    shown = samples(merge([*texts, OF_OLD], ["e"]))
    ups = {
        labels: value
        for (name, labels), value in shown.items()
        if name == "imserver_node_up"
    }
    assert ups == {**{f'node="{name}"': 1 for name in "abcd"}, 'node="e"': 0}, (
        "one is silent"
    )
    assert shown["gone_total", 'node="d"'] == 4, (
        "one of another version knows other metrics"
    )
    assert merge([*texts, OF_OLD]).count("# HELP imserver_node_up") == 1
    assert samples(merged) == {
        **samples(texts[0]),
        **samples(texts[1]),
        **samples(texts[2]),
    }
    names = [
        re.sub("(_(bucket|sum|count))?{.*", "", line)
        for line in merged.splitlines()
        if line[0] != "#"
    ]
    together = [name for name, _ in groupby(names)]
    assert len(together) == len({*together}), (
        "all samples of a metric stand together, as the format demands"
    )


OWN_METRICS = """\
# HELP imserver_node_up Whether the node has answered
# TYPE imserver_node_up gauge
imserver_node_up{node="10.0.0.1:9001"} 1
# HELP imserver_users Users
# TYPE imserver_users gauge
imserver_users{node="10.0.0.1:9001",app="101"} 2
"""


def scrape(node: ApiNode, key: str = "") -> Any:
    return node.web.get(
        "/metrics", headers={"Authorization": f"Bearer {key}"} if key else {}
    )


def test_a_scrape_gets_all_nodes_of_the_machine_and_no_other(node: ApiNode) -> None:
    peers = node.meet()
    node.core.overview = replace(node.core.overview, own_metrics=lambda: OWN_METRICS)
    peers.others = [
        Lease("10.0.0.1:9003", 2, host="one"),
        Lease("10.0.0.1:9005", 3, host="one"),
        Lease("10.0.0.2:9001", 4, host="two"),
    ]
    peers.answers = {"10.0.0.1:9003": {"metrics": OWN_METRICS.replace("9001", "9003")}}
    answer = scrape(node)
    assert (answer.status_code, answer.content_type) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    assert samples(answer.text) == {
        ("imserver_node_up", 'node="10.0.0.1:9001"'): 1,
        ("imserver_node_up", 'node="10.0.0.1:9003"'): 1,
        ("imserver_node_up", 'node="10.0.0.1:9005"'): 0,
        ("imserver_users", 'node="10.0.0.1:9001",app="101"'): 2,
        ("imserver_users", 'node="10.0.0.1:9003",app="101"'): 2,
    }
    assert peers.queries[0][0] == ["10.0.0.1:9003", "10.0.0.1:9005"]


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("", 401),
        ("wrong", 401),
        ("read-key", 200),
        ("app-key", 403),
        ("admin-key", 200),
    ],
)
def test_with_keys_a_scrape_needs_one_of_all_apps(
    start_node: StartNode, key: str, status: int
) -> None:
    assert scrape(start_node(KEYS), key).status_code == status


def test_a_failure_is_no_metric(node: ApiNode) -> None:
    node.core.overview = replace(node.core.overview, own_metrics=lambda: 1 / 0)
    assert scrape(node).status_code == 500
