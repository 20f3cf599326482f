"""The table of metrics: name, help, and the function that reads it from a node.
Also their text in Prometheus' format.

``docs/reference/metrics.md`` and the board in ``deploy/grafana.json`` are
compared with it by tests.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from itertools import accumulate
from operator import attrgetter
from shutil import disk_usage
from typing import Any, Final, Literal

from msgspec import Struct

from imserver.gateway.metrics import OTHER, Histogram, resident_bytes

Kind = Literal["counter", "gauge", "histogram"]
Value = float | Histogram | Mapping[Any, Any]
Read = Callable[[Any], Value | None]

_UP: Final = "imserver_node_up"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metric(Struct, frozen=True):
    """One metric: its name in Prometheus, its meaning, and how to read it.

    ``read`` gets the services of a node (``Core``), and returns a number or a
    :class:`Histogram`; None if this node does not have the metric.

    With a ``label``, ``read`` returns a mapping: value of the label → number or
    histogram. Several labels are separated by spaces, as ``app reason``. Then
    the keys of the mapping are tuples. The label ``app`` names registered apps;
    the values of all other apps are added up as ``other``.
    """

    name: str
    kind: Kind
    help: str
    read: Read
    label: str = ""

    @property
    def unit(self) -> str:
        """The unit, which is part of the name.

        The unit is ``"seconds"``, ``"bytes"``, or ``""`` for plain numbers.
        """
        words = self.name.split("_")
        for unit in ("seconds", "bytes"):
            if unit in words:
                return unit
        return ""


def _metric(
    kind: Kind, name: str, help: str, read: Read | str, label: str = ""
) -> Metric:
    """Make a row of the table.

    ``read`` is the function that reads the value from a node, or the path of an
    attribute of the node's services, such as ``metrics.requests``.
    """
    if not isinstance(read, str):
        return Metric(name, kind, help, read, label)
    value: Read = attrgetter(read)
    if read.partition(".")[0] in _OF_CLUSTER:
        value = _in_cluster(value)
    return Metric(name, kind, help, value, label)


_OF_CLUSTER: Final = ("registry", "rpc", "node_messages", "rerouting", "connections")
"""Services whose counters only a node of a cluster has."""


def _in_cluster(read: Read) -> Read:
    """Wrap a reader, so that it returns None on a node alone."""

    def read_there(core: Any) -> Value | None:
        """Read the value, if the node is in a cluster."""
        if core.member is None:
            return None
        return read(core)

    return read_there


gauge, counter, histogram = (
    partial(_metric, kind) for kind in ("gauge", "counter", "histogram")
)
"""Make a row of ``/metrics`` of this kind: from its name, a line of help, and
the function that reads its value or values from a node."""


def counters(prefix: str, path: str, helps: Mapping[str, str]) -> Iterator[Metric]:
    """Make a row for each named field of some counters.

    ``path`` leads to the counters from the services of a node. ``helps`` is
    name of a field → its meaning.
    """
    for name, help_ in helps.items():
        yield counter(f"{prefix}_{name}_total", help_, f"{path}.{name}")


def _users(core: Any) -> dict[str, int]:
    """Count the users of each app on this node."""
    return {app.name: len(app.users) for app in core.hub.registered()}


def _sessions(core: Any) -> dict[str, int]:
    """Count the sessions of each app on this node.

    A user with several sessions counts several times.
    """
    numbers = {}
    for app in core.hub.registered():
        number = len(app.users)
        # Lists have to be counted only where a user may have several sessions.
        if app.several:
            for entry in app.users.values():
                if type(entry) is list:
                    number += len(entry) - 1
        numbers[app.name] = number
    return numbers


def _denials(core: Any) -> dict[tuple[str, str], int]:
    """Count refused logins by app and reason."""
    numbers = {}
    for reason, counts in core.metrics.denials.items():
        for app, number in counts.items():
            numbers[app, reason] = number
    return numbers


def _requests(core: Any) -> dict[str, int]:
    """Count HTTP requests by the server that has answered them."""
    metrics = core.metrics
    return {
        "front": metrics.http_fast,
        "flask": metrics.http_handed_over,
        "nobody": metrics.http_refused,
    }


def _database_up(core: Any) -> int | None:
    """Return 1 if the database is healthy, and 0 if it is not.

    The result is None if the node has no database.
    """
    if not core.store.id:
        return None
    return int(core.store.healthy())


def _cpu_seconds(_core: Any) -> float:
    """Return the CPU time of this process, in seconds."""
    times = os.times()
    return times.user + times.system


def _disks(core: Any, field: str) -> dict[str, int]:
    """Return the bytes of the disks that the server writes to.

    The keys are the purposes of folders. ``field`` is ``free`` for the free
    bytes, or ``total`` for the size.
    """
    folders = {"data": core.config.server.data_dir}
    if core.config.app.log_file:
        folders["log"] = os.path.dirname(core.config.app.log_file) or "."
    return {
        name: getattr(disk_usage(path), field)
        for name, path in folders.items()
        if os.path.isdir(path)
    }


METRICS: Final = (
    gauge(
        "imserver_node_up", "Whether the node has answered this scrape", lambda core: 1
    ),
    gauge(
        "imserver_ready",
        "Whether the node is ready, as /ready says",
        lambda core: int(core.status.ready()),
    ),
    gauge(
        "imserver_database_up",
        "Whether the last access and write succeeded, none refused for 30 s; "
        "absent if nothing is stored",
        _database_up,
    ),
    gauge(
        "imserver_apps",
        "Apps that the node knows",
        lambda core: len(core.tenants.names()),
    ),
    gauge(
        "process_start_time_seconds",
        "Start of the node, in Unix seconds",
        "node.started_at",
    ),
    counter(
        "process_cpu_seconds_total",
        "CPU time, user and system",
        _cpu_seconds,
    ),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory; memory that forked nodes share is counted in each",
        lambda _: resident_bytes(),
    ),
    gauge(
        "imserver_disk_free_bytes",
        "Bytes that are free on the disk of the data folder, and of the log file",
        lambda core: _disks(core, "free"),
        "folder",
    ),
    gauge(
        "imserver_disk_bytes",
        "Bytes of this disk",
        lambda core: _disks(core, "total"),
        "folder",
    ),
    histogram(
        "imserver_request_seconds",
        "Time until the answer to an HTTP request",
        "metrics.requests",
        "route",
    ),
    histogram(
        "imserver_command_seconds",
        "Time until the reply to a command",
        "metrics.commands",
        "command",
    ),
    histogram(
        "imserver_transaction_seconds",
        "Time of a transaction, with what it waited for a connection",
        "metrics.transactions",
        "method",
    ),
    histogram("imserver_job_seconds", "Time of a turn of a job", "metrics.jobs", "job"),
    histogram(
        "imserver_delivery_seconds",
        "Time from the acceptance of the first message of a commit until this node "
        "has delivered it",
        "metrics.delivery_seconds",
    ),
    histogram(
        "imserver_loop_lag_seconds",
        "Delay of the event loop at the tick of each second",
        "metrics.loop_lags",
    ),
    gauge(
        "imserver_loop_lag_max_seconds",
        "Longest delay of the event loop since the start",
        "metrics.loop_lag_max_seconds",
    ),
    counter(
        "imserver_collections_total",
        "Runs of the garbage collector",
        lambda core: dict(enumerate(core.metrics.collections)),
        "generation",
    ),
    counter(
        "imserver_collector_seconds_total",
        "Time in which the garbage collector stopped the loop",
        lambda core: dict(enumerate(core.metrics.collector_seconds)),
        "generation",
    ),
    gauge(
        "imserver_collector_pause_max_seconds",
        "Longest run of the garbage collector since the start",
        "metrics.collector_pause_max_seconds",
    ),
    gauge(
        "imserver_readers",
        "Greenlets that serve sockets; more than a few: commands wait",
        "network.poller.count",
    ),
    gauge(
        "imserver_sockets_ready",
        "Readable sockets that wait for a reader",
        lambda core: len(core.network.poller.ready),
    ),
    gauge(
        "imserver_requests_running", "HTTP requests in Flask", "metrics.http_running"
    ),
    gauge(
        "imserver_connections",
        "WebSocket connections, logged in or not",
        lambda core: len(core.network.context.connections),
    ),
    gauge(
        "imserver_connections_limit",
        "Most connections that the node accepts",
        "network.gate.limit",
    ),
    gauge(
        "imserver_users",
        "Users online on the node",
        _users,
        "app",
    ),
    gauge("imserver_sessions", "Their sessions", _sessions, "app"),
    counter(
        "imserver_closes_total",
        "Closed connections by close code; 1006: without a close frame",
        "metrics.closes",
        "code",
    ),
    counter(
        "imserver_http_requests_total",
        "HTTP requests, by server: the front server, Flask, or nobody (refused "
        "before either)",
        _requests,
        "by",
    ),
    gauge(
        "imserver_outbox_bytes",
        "Bytes that wait for clients to read, and of unfinished messages and bodies",
        "network.flusher.budget.total",
    ),
    gauge(
        "imserver_outboxes_stalled",
        "Connections whose kernel buffer is full",
        lambda core: len(core.network.flusher.stalled),
    ),
    gauge(
        "imserver_message_ids",
        "Message ids remembered",
        lambda core: len(core.idempotency),
    ),
    gauge(
        "imserver_pending_pushes", "Pending pushes for absent users", "pending.count"
    ),
    counter(
        "imserver_pending_expired_total",
        "Pending pushes that expired before a login",
        "pending.expired",
    ),
    counter(
        "imserver_requests_over_rate_total",
        "Requests over the rate of their key, user or address, refused",
        "metrics.http_over_rate",
    ),
    gauge(
        "imserver_channels",
        "Channels with subscribers on the node",
        "channels.members.membership.channels",
    ),
    gauge(
        "imserver_channel_subscribers",
        "Subscribers of these channels; a connection with two subscriptions counts "
        "twice",
        "channels.members.membership.members",
    ),
    *counters(
        "imserver",
        "metrics",
        {
            "accepted": "TCP connections accepted by the front",
            "files_exhausted": "Pauses of accepting because the file limit was reached",
            "handshakes": "WebSocket upgrades carried out",
            "handshakes_refused": "WebSocket upgrades refused with an HTTP status",
            "streams": "Requests for an event stream that reached the login",
            "sweeps": "Passes over all connections that look for silent ones",
            "swept": "Connections closed by these passes",
            "messages_in": "Messages read from clients",
            "deliveries": "Frames of pushes and notices given to connections",
            "slow_readers": "Connections closed because they did not read",
        },
    ),
    counter("imserver_logins_total", "Logins that succeeded", "metrics.logins", "app"),
    counter(
        "imserver_logins_refused_total",
        "Logins that were refused",
        "metrics.logins_refused",
        "app",
    ),
    counter(
        "imserver_pushes_total",
        "Pushes of back ends and pages that were sent",
        "metrics.pushes",
        "app",
    ),
    counter(
        "imserver_logins_denied_total",
        "Refused logins, by reason",
        _denials,
        "app reason",
    ),
    *counters(
        "imserver_message_id",
        "idempotency",
        {
            "repeats": "Pushes with a message id that was accepted before, on this node",
            "evicted": "Message ids removed before their time because the table was full",
        },
    ),
    gauge(
        "imserver_registry_up",
        "Whether the registry answers and the node's lease is live",
        _in_cluster(lambda core: int(core.registry.healthy())),
    ),
    gauge(
        "imserver_cluster_nodes",
        "Live nodes of the cluster, as the node sees them",
        _in_cluster(lambda core: len(core.registry.leases())),
    ),
    histogram(
        "imserver_registry_seconds",
        "Answer time of Redis per pipeline",
        "registry.counters.seconds",
    ),
    histogram(
        "imserver_rpc_call_seconds",
        "Answer time of other nodes to queries",
        "rpc.counters.call_seconds",
    ),
    gauge(
        "imserver_rpc_queue_items",
        "Events that wait to be sent to other nodes",
        "rpc.queued_items",
    ),
    gauge("imserver_rpc_queue_bytes", "Bytes of these events", "rpc.queued_bytes"),
    counter(
        "imserver_rpc_unreadable_total",
        "Events that this version does not understand",
        "node_messages.unreadable",
    ),
    *counters(
        "imserver_registry",
        "registry.counters",
        {
            "round_trips": "Pipelines sent to Redis",
            "commands": "Commands in them",
            "errors": "Pipelines that failed or timed out",
            "timeouts": "Pipelines not answered in time",
            "unanswered": "Registry calls without an answer",
            "epochs": "Epochs of the node; above 1: its lease was lost",
            "reregistered": "Sessions registered again",
            "late_replacements": "Replaced sessions found at a lease renewal",
            "cleaned_users": "Users of dead nodes that this node marked offline",
        },
    ),
    *counters(
        "imserver_rpc",
        "rpc.counters",
        {
            "sent": "Events sent to other nodes",
            "received": "Events received from other nodes",
            "batches_sent": "Batches of events sent",
            "batches_received": "Batches of events received",
            "bytes_sent": "Bytes of the events sent",
            "bytes_received": "Bytes of the events received",
            "dropped": "Events dropped because the lease of their peer ended",
            "overflows": "Events refused because the queue to a peer was full",
            "refused": "Events refused because the circuit of a peer is open",
            "stale": "Events received for an earlier epoch of the node",
            "gaps": "Gaps in the numbers of received events",
            "lost": "Events sent to this node and never received",
            "late": "Events dropped because they came after later ones",
            "malformed": "RPC messages dropped because of their format or version",
            "refused_peers": "Connections to the RPC ports that were not authenticated",
            "call_failures": "Node queries without an answer",
            "answered": "Node queries answered",
            "busy": "Node queries refused because too many were running",
            "breaker_opens": "Times that the circuit of a peer opened",
            "restarts": "Restarts of the receiver; above 0: a defect",
        },
    ),
    *counters(
        "imserver_pushes",
        "rerouting",
        {
            "rerouted": "Pushes forwarded to the node to which their user moved",
            "unreached": "Pushes accepted for a user of another node that reached nobody",
        },
    ),
    *counters(
        "imserver_connections",
        "connections",
        {
            "unreached": "Pushes by connection id that came from another node and reached nobody"
        },
    ),
)
"""Every metric of the core, in the order in which it is shown."""


def render(core: Any, name: str, more: Iterable[Metric] = ()) -> str:
    """Write all metrics of a node in Prometheus' format. Never switches
    greenlets.

    ``name`` is the name of the node, which is a label of all values. ``more``
    are the metrics of its features.
    """
    lines: list[str] = []
    apps = {app.name for app in core.hub.registered()}
    node = _labels(node=name)
    for metric in (*METRICS, *more):
        value = metric.read(core)
        if value is not None:
            lines += _heading(metric)
            lines += _samples(metric, _with_known_apps(metric, value, apps), node)
    return "\n".join((*lines, ""))


def _heading(metric: Metric) -> tuple[str, str]:
    """Return the lines that explain a metric to Prometheus."""
    return (
        f"# HELP {metric.name} {metric.help}",
        f"# TYPE {metric.name} {metric.kind}",
    )


def _with_known_apps(metric: Metric, value: Any, apps: Set[str]) -> Any:
    """Return the value of a metric without names of apps that are not
    registered.

    Such names are no labels. ``apps`` are the registered apps.
    """
    labels = metric.label.split()
    if isinstance(value, Mapping) and "app" in labels:
        return _of_apps(labels, value, apps)
    return value


def _of_apps(
    names: Sequence[str], values: Mapping[Any, float], apps: Set[str]
) -> dict[Any, float]:
    """Add up the values of all apps that are not registered, as :data:`OTHER`.

    ``names`` are the labels of the metric, and ``values`` its values. ``apps``
    are the registered apps. Strangers may choose names of apps, and each label
    costs Prometheus memory.
    """
    index = names.index("app")
    sums: dict[Any, float] = {}
    for key, number in values.items():
        # With one label, the key is the app, and not a tuple.
        if len(names) == 1:
            if key not in apps:
                key = OTHER
        elif key[index] not in apps:
            key = (*key[:index], OTHER, *key[index + 1 :])
        sums[key] = sums.get(key, 0) + number
    return sums


def _samples(metric: Metric, value: Value, labels: str) -> Iterator[str]:
    """Write the lines with the values of a metric.

    ``labels`` is the text of the labels that all lines have, such as
    ``node="n"``.
    """
    if isinstance(value, Histogram):
        yield from _samples_of_histogram(metric, value, labels)
    elif isinstance(value, Mapping):
        names = metric.label.split()
        for key, number in value.items():
            all_labels = f"{labels},{_labels_of_key(names, key)}"
            yield from _samples(metric, number, all_labels)
    else:
        yield f"{metric.name}{{{labels}}} {value!r}"


def _labels_of_key(names: Sequence[str], key: Any) -> str:
    """Write the labels of one value of a metric.

    With several labels, ``key`` is a tuple of their values.
    """
    if len(names) == 1:
        return _labels(**{names[0]: key})
    return _labels(**dict(zip(names, key, strict=True)))


def _samples_of_histogram(
    metric: Metric, histogram: Histogram, labels: str
) -> Iterator[str]:
    """Write the lines of a histogram: its buckets, its sum and its count.

    Prometheus wants the number of all values up to each bound.
    """
    cumulative = accumulate(histogram.counts)
    for bound, count in zip((*histogram.bounds, "+Inf"), cumulative, strict=True):
        yield f"{metric.name}_bucket{{{labels},{_labels(le=bound)}}} {count}"
    yield f"{metric.name}_sum{{{labels}}} {histogram.total!r}"
    yield f"{metric.name}_count{{{labels}}} {sum(histogram.counts)}"


def _labels(**values: object) -> str:
    """Write labels in Prometheus' format: ``app="shop",code="1000"``."""
    return ",".join(
        f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in values.items()
    )


def merge(texts: Iterable[str], missing: Iterable[str] = ()) -> str:
    """Join the metrics of several nodes: each metric is described once.

    ``texts`` are results of :func:`render`. ``missing`` are the names of nodes
    that did not answer. They have no metric but ``imserver_node_up``, which is
    0.
    """
    families: dict[str, _Family] = {}
    for text in texts:
        _add_lines(text, families)
    if _UP in families:
        samples = families[_UP].samples
        samples += [f"{_UP}{{{_labels(node=name)}}} 0" for name in missing]

    lines: list[str] = []
    for family in families.values():
        lines += family.descriptions.values()
        lines += family.samples
    return "\n".join((*lines, ""))


class _Family(Struct, frozen=True):
    """The lines of one metric, of all nodes.

    ``descriptions`` are the lines that begin with ``# HELP`` and ``# TYPE``, by
    this word. ``samples`` are the lines with values.
    """

    descriptions: dict[str, str] = {}
    samples: list[str] = []


def _add_lines(text: str, families: dict[str, _Family]) -> None:
    """Add the metrics of a node to the metrics of other nodes.

    ``text`` is the result of :func:`render`. ``families`` is name of a metric →
    its lines.
    """
    samples: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            _, keyword, name, *_ = line.split(" ")
            family = families.setdefault(name, _Family())
            family.descriptions.setdefault(keyword, line)
            samples = family.samples
        else:
            # The lines with values follow the descriptions of their metric.
            samples.append(line)
