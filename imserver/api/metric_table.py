"""The table of metrics: name, help, and how each is read off a node.

``docs/reference/metrics.md`` and the board in ``deploy/grafana.json`` are compared with it by tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, Literal

from msgspec import Struct

from imserver.metrics import Histogram, resident_bytes

Kind = Literal["counter", "gauge", "histogram"]
Value = float | Histogram | Mapping[Any, float]
Read = Callable[[Any], Value | None]


class Metric(Struct, frozen=True):
    """One row: what Prometheus calls it, what it is, and how it is read off a node.

    ``read`` gets the node and returns a number, a :class:`Histogram`, or, where ``label`` is given, a number
    for each value of that label; None if this node has no such thing.
    """

    name: str
    kind: Kind
    help: str
    read: Read
    label: str = ""

    @property
    def unit(self) -> str:
        """``"seconds"``, ``"bytes"``, or ``""`` for what is only counted; it stands in the name."""
        return next((unit for unit in ("seconds", "bytes") if unit in self.name.split("_")), "")


def counters(prefix: str, path: str, helps: Mapping[str, str]) -> Iterator[Metric]:
    """A row for each field of the counters at ``path`` of the node; those of a cluster may be missing."""
    read_counters = attrgetter(path)

    def reading(name: str) -> Read:
        if path.startswith("cluster."):
            return lambda node: getattr(read_counters(node), name) if node.cluster is not None else None
        return lambda node: getattr(read_counters(node), name)

    for name, help_ in helps.items():
        yield Metric(f"{prefix}_{name}_total", "counter", help_, reading(name))


def of_cluster(read: Read) -> Read:
    """The same of the node's cluster; None on a node that is alone."""
    return lambda node: read(node.cluster) if node.cluster is not None else None


_REGISTRY = {
    "round_trips": "Pipelines sent to Redis",
    "commands": "Commands in them",
    "errors": "Pipelines that failed, time-outs included",
    "timeouts": "Pipelines not answered in time",
    "unanswered": "Registry calls without an answer",
    "epochs": "Epochs of the node; above 1 its lease was lost",
    "reregistered": "Sessions registered again",
    "late_replacements": "Replaced sessions found at a lease renewal",
    "cleaned_users": "Users of dead nodes that this node marked offline",
}

_RPC = {
    "sent": "Events sent to other nodes",
    "received": "Events received from other nodes",
    "batches_sent": "Batches in which events were sent",
    "batches_received": "Batches in which events came",
    "bytes_sent": "Bytes of the events sent",
    "bytes_received": "Bytes of the events received",
    "dropped": "Events dropped because the lease of their peer ended",
    "overflows": "Events refused because the queue to a peer was full",
    "refused": "Events refused because the circuit of a peer is open",
    "stale": "Events received that were meant for an earlier epoch of the node",
    "gaps": "How often events were missing",
    "lost": "How many events were missing: sent to this node, never received",
    "late": "Events dropped because later ones had come before them",
    "malformed": "RPC messages dropped because of their shape or version",
    "refused_peers": "Connections to the RPC ports that were not authenticated",
    "call_failures": "Node queries without an answer",
    "answered": "Node queries answered",
    "busy": "Node queries refused because too many were in work",
    "breaker_opens": "How often the circuit of a peer opened",
    "restarts": "Restarted receivers; above 0: a defect",
}

_REROUTING = {
    "rerouted": "Pushes sent on to the node to which their user had moved",
    "unreached": "Pushes accepted for a user of another node that reached nobody",
}

_BY_ID = {
    "unreached": "Pushes by connection id that came from another node and reached nobody",
}

_CLUSTER = (
    Metric(
        "imserver_registry_up",
        "gauge",
        "Whether the registry answers and the node's lease is live",
        of_cluster(lambda cluster: int(cluster.registry.healthy())),
    ),
    Metric(
        "imserver_cluster_nodes",
        "gauge",
        "Live nodes of the cluster, as the node sees them",
        of_cluster(lambda cluster: len(cluster.registry.leases())),
    ),
    Metric(
        "imserver_registry_seconds",
        "histogram",
        "How long Redis took to answer a pipeline",
        of_cluster(attrgetter("registry.counters.seconds")),
    ),
    Metric(
        "imserver_rpc_call_seconds",
        "histogram",
        "How long other nodes took to answer queries",
        of_cluster(attrgetter("rpc.counters.call_seconds")),
    ),
    Metric(
        "imserver_rpc_queue_items",
        "gauge",
        "Events that wait to be sent to other nodes",
        of_cluster(attrgetter("rpc.queued_items")),
    ),
    Metric(
        "imserver_rpc_queue_bytes",
        "gauge",
        "Bytes of the events that wait",
        of_cluster(attrgetter("rpc.queued_bytes")),
    ),
    Metric(
        "imserver_rpc_unreadable_total",
        "counter",
        "Events of other nodes that this version does not understand",
        of_cluster(attrgetter("node_messages.unreadable")),
    ),
)

CLUSTER_METRICS: Final[tuple[Metric, ...]] = (
    *_CLUSTER,
    *counters("imserver_registry", "cluster.registry.counters", _REGISTRY),
    *counters("imserver_rpc", "cluster.rpc.counters", _RPC),
    *counters("imserver_pushes", "cluster.rerouting", _REROUTING),
    *counters("imserver_connections", "cluster.connections", _BY_ID),
)


def _by_generation(values: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(values))


def _sessions(node: Any) -> dict[str, int]:
    # Lists have to be counted only where a user may have several sessions.
    return {
        app.name: sum(len(entry) if type(entry) is list else 1 for entry in app.users.values())
        if app.several
        else len(app.users)
        for app in node.hub.registered()
    }


def _requests(node: Any) -> dict[str, int]:
    counted = node.metrics
    return {"front": counted.http_fast, "flask": counted.http_handed_over, "nobody": counted.http_refused}


_PROCESS = (
    Metric("imserver_node_up", "gauge", "Whether the node has answered this scrape", lambda node: 1),
    Metric(
        "imserver_ready",
        "gauge",
        "Whether the node can do its work, as /ready says",
        lambda node: int(node.ready()),
    ),
    Metric(
        "imserver_database_up",
        "gauge",
        "Whether the database answered last; absent while nothing is kept",
        lambda node: int(node.store.healthy()) if node.store.id else None,
    ),
    Metric("imserver_apps", "gauge", "Apps that the node knows", lambda node: len(node.tenants.names())),
    Metric("process_start_time_seconds", "gauge", "When it was started (Unix)", lambda node: node.started_at),
    Metric(
        "process_cpu_seconds_total", "counter", "CPU time, user and system", lambda _: sum(os.times()[:2])
    ),
    Metric(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory; what forked nodes share is counted in each",
        lambda _: resident_bytes(),
    ),
    Metric(
        "imserver_loop_lag_seconds",
        "histogram",
        "How late the event loop came to the tick of each second",
        attrgetter("metrics.loop_lags"),
    ),
    Metric(
        "imserver_batch_messages",
        "histogram",
        "Messages of clients that were stored together",
        attrgetter("metrics.batch_messages"),
    ),
    Metric(
        "imserver_batch_seconds",
        "histogram",
        "How long it took to store them, until it was known that the database has them",
        attrgetter("metrics.batch_seconds"),
    ),
    Metric(
        "imserver_loop_lag_max_seconds",
        "gauge",
        "The worst of it since the start",
        attrgetter("metrics.loop_lag_max_seconds"),
    ),
    Metric(
        "imserver_collections_total",
        "counter",
        "Runs of the garbage collector",
        lambda node: _by_generation(node.metrics.collections),
        "generation",
    ),
    Metric(
        "imserver_collector_seconds_total",
        "counter",
        "Time in which the garbage collector held up the loop",
        lambda node: _by_generation(node.metrics.collector_seconds),
        "generation",
    ),
    Metric(
        "imserver_collector_pause_max_seconds",
        "gauge",
        "Its longest run since the start",
        attrgetter("metrics.collector_pause_max_seconds"),
    ),
    Metric(
        "imserver_readers",
        "gauge",
        "Greenlets that serve sockets; more than a few: commands wait for something",
        attrgetter("poller.count"),
    ),
    Metric(
        "imserver_sockets_ready",
        "gauge",
        "Sockets with something to read that wait for a reader",
        lambda node: len(node.poller.ready),
    ),
    Metric("imserver_requests_running", "gauge", "HTTP requests in Flask", attrgetter("servers.running")),
)

_CONNECTIONS = (
    Metric(
        "imserver_connections",
        "gauge",
        "WebSocket connections, logged in or not",
        lambda node: len(node.context.connections),
    ),
    Metric(
        "imserver_connections_limit",
        "gauge",
        "Connections that the node takes at most",
        attrgetter("gate.limit"),
    ),
    Metric(
        "imserver_users",
        "gauge",
        "Users who are online on the node",
        lambda node: {app.name: len(app.users) for app in node.hub.registered()},
        "app",
    ),
    Metric("imserver_sessions", "gauge", "Their addressed sessions", _sessions, "app"),
    Metric(
        "imserver_closes_total",
        "counter",
        "Connections that ended, by close code; 1006: without a close frame",
        attrgetter("metrics.closes"),
        "code",
    ),
    Metric(
        "imserver_http_requests_total",
        "counter",
        "HTTP requests, by who answered: the front, Flask, or nobody (refused before either)",
        _requests,
        "by",
    ),
    Metric(
        "imserver_outbox_bytes",
        "gauge",
        "Bytes that wait for clients to read, and of unfinished messages and bodies",
        attrgetter("flusher.budget.total"),
    ),
    Metric(
        "imserver_outboxes_stalled",
        "gauge",
        "Connections whose kernel buffer is full",
        lambda node: len(node.flusher.stalled),
    ),
    Metric("imserver_message_ids", "gauge", "Message ids remembered", lambda node: len(node.dedupe)),
    Metric(
        "imserver_pending_pushes", "gauge", "Pending pushes for absent users", attrgetter("pending.count")
    ),
    Metric(
        "imserver_pending_expired_total",
        "counter",
        "Pending pushes that expired before their user came",
        attrgetter("pending.expired"),
    ),
    Metric(
        "imserver_requests_over_rate_total",
        "counter",
        "Requests refused because their key had made too many",
        attrgetter("api.rates.refused"),
    ),
    Metric(
        "imserver_rooms",
        "gauge",
        "Rooms with members on the node",
        attrgetter("rooms.membership.rooms"),
    ),
    Metric(
        "imserver_room_members",
        "gauge",
        "Their members there; a connection in two rooms counts twice",
        attrgetter("rooms.membership.members"),
    ),
)

_OWN = {
    "accepted": "TCP connections accepted by the front",
    "files_exhausted": "Times that accepting paused because no file was left",
    "handshakes": "WebSocket upgrades carried out",
    "handshakes_refused": "WebSocket upgrades refused with an HTTP status",
    "streams": "Requests for an event stream that may have one, if their login may happen",
    "logins": "Logins that succeeded",
    "logins_refused": "Logins that were refused",
    "sweeps": "Passes over all connections in search of silent ones",
    "swept": "Connections closed by these passes",
    "uploads": "Files that were taken in",
    "upload_bytes": "Bytes of these files",
    "uploads_refused": "Files that were not taken",
    "downloads": "Files and parts of files, thumbnails too, that were asked for and given",
    "stored": "Messages of clients that were stored",
    "stored_repeats": "Messages of clients that had been stored before, and were answered as then",
    "not_stored": "Messages of clients that were refused, or could not be stored for the moment",
    "expired": "Entries of the log that were deleted because of their age or number",
    "log_gaps": "Times that the log was read because news of it had not come",
    "told_again": "Times that a client was told again what it had not acknowledged",
    "messages_in": "Messages read from clients",
    "pushes": "Messages that back ends and pages sent with success",
    "deliveries": "Pushed frames given to connections, notices too",
    "slow_readers": "Connections closed because they did not read",
}

_BACK_ENDS = (
    Metric(
        "imserver_logins_denied_total",
        "counter",
        "Logins that the rules of an app refused, by reason",
        attrgetter("metrics.denials"),
        "reason",
    ),
    Metric(
        "imserver_webhook_waiting",
        "gauge",
        "Events that wait to be told to back ends",
        attrgetter("webhooks.tally.waiting"),
    ),
    Metric(
        "imserver_webhook_waiting_bytes",
        "gauge",
        "Bytes of these events",
        attrgetter("webhooks.tally.waiting_bytes"),
    ),
)

_WEBHOOKS = {
    "delivered": "Events that back ends have taken",
    "failures": "Requests with events that failed and are repeated",
    "dropped": "Events that no back end was told of",
}

_AUTHORISE = {
    "asked": "Logins about which back ends were asked",
    "refused": "Logins that they refused",
    "undecided": "Logins refused because the back end did not say in time",
}

_MESSAGE_IDS = {
    "repeats": "Pushes with a message id that was accepted before, on this node",
    "evicted": "Message ids forgotten before their time, for want of room",
}

METRICS: Final = (
    *_PROCESS,
    *_CONNECTIONS,
    *counters("imserver", "metrics", _OWN),
    *_BACK_ENDS,
    *counters("imserver_webhook", "webhooks.tally", _WEBHOOKS),
    *counters("imserver_authorise", "webhooks.authoriser", _AUTHORISE),
    *counters("imserver_message_id", "dedupe", _MESSAGE_IDS),
    *CLUSTER_METRICS,
)
"""Every metric, in the order in which it is shown."""
