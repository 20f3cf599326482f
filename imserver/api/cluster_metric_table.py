"""Metrics of a node in a cluster."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from imserver.api.metric import Metric, counters, of_cluster

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
