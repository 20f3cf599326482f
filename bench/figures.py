"""The figures of scenarios: one table of their labels, units, and how several runs are combined."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: What a run found, by names of FIGURES; None where it could not be measured.
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Figure:
    """Display of a figure. ``worst``: several runs are combined to their maximum, not to their median.
    ``fault``: any value other than zero fails the command.
    """

    label: str
    unit: str = ""
    digits: int = 0
    worst: bool = False
    fault: bool = False


def _broadcasts(way: str, label: str) -> dict[str, Figure]:
    spreads = {"alone": "a server that is alone", "one": "one node of the cluster", "many": "all nodes"}
    found: dict[str, Figure] = {}
    for spread, where in spreads.items():
        found[f"{way}_{spread}_cpu_us"] = Figure(f"{label}, {where}: CPU a delivery", "µs", 2)
        found[f"{way}_{spread}_per_second"] = Figure(f"{label}, {where}: deliveries/s")
    for percent in (50, 99):
        found[f"{way}_p{percent}_ms"] = Figure(f"{label}, all nodes: latency p{percent}", "ms", 2)
    found[f"{way}_ratio"] = Figure(f"{label}: CPU over all nodes against one", "", 2)
    return found


_BROADCASTS = {**_broadcasts("paced", "20 broadcasts/s"), **_broadcasts("flat", "flat out")}


def _latencies(prefix: str, label: str, digits: int = 2, maximum: bool = False) -> dict[str, Figure]:
    found = {f"{prefix}p{percent}_ms": Figure(f"{label} p{percent}", "ms", digits) for percent in (50, 99)}
    longest = {f"{prefix}max_ms": Figure(f"{label}, longest", "ms", digits, worst=True)}
    return {**found, **longest} if maximum else found


_FAULT_NAMES = (
    "kill restart pause redis flush database cut hold stall slow ahead behind drift pause_redis "
    "replica database_ahead database_behind full no_redis no_answers pause_database hang no_database "
    "deaf mute receiver"
)
FIGURES: dict[str, Figure] = {
    "rss_empty_mb": Figure("RSS of the server as we found it", "MB", 1),
    "rss_warm_mb": Figure("RSS after the warm-up", "MB", 1),
    "rss_full_mb": Figure("RSS with all connections", "MB", 1),
    "rss_opened_bytes": Figure("RSS a connection without subscriptions", "bytes"),
    "rss_connection_bytes": Figure("RSS a connection", "bytes"),
    "idle_cpu_percent": Figure("idle CPU of the server", "% of a core", 3),
    "pings": Figure("pings answered"),
    "ping_cpu_us": Figure("CPU a ping, of an idle server with its clients", "µs", 2),
    "connections": Figure("connections"),
    "messages": Figure("messages pushed"),
    "pieces_per_second": Figure("pieces/s"),
    "subscriptions_per_second": Figure("subscriptions/s"),
    "deliveries_per_second": Figure("deliveries/s"),
    "requests_per_second": Figure("requests/s"),
    "targets_per_second": Figure("targets/s"),
    "publishes_per_second": Figure("publishes/s"),
    "opened_per_second": Figure("connections opened/s"),
    "measured_per_second": Figure("rate as measured", "/s"),
    "server_busy_percent": Figure("server busy", "% of a core", 1),
    "generator_bound": Figure("server had CPU left (its rate is derived)", worst=True),
    "cpu_us": Figure("server CPU each", "µs", 2),
    "generator_cpu_us": Figure("generator CPU each", "µs", 2),
    **_latencies("", "latency", maximum=True),
    **_latencies("answer_", "HTTP answer"),
    **_latencies("ack_", "acknowledgement"),
    "deliveries": Figure("messages delivered"),
    "stored_per_second": Figure("messages stored/s"),
    "elapsed_seconds": Figure("until the last was delivered", "s", 2),
    "events_a_frame": Figure("messages a frame", "", 1),
    "stored_rows": Figure("rows stored"),
    "stored_bytes": Figure("database a row", "bytes"),
    "unstored": Figure("acknowledged and not stored", fault=True),
    "seq_holes": Figure("places missing or doubled in conversations", fault=True),
    "unacknowledged": Figure("messages not acknowledged", fault=True),
    "frame_bytes": Figure("frame on the wire", "bytes"),
    "messages_a_read": Figure("messages in one read of a client", "", 1),
    "lost": Figure("messages lost", fault=True),
    "doubled": Figure("messages doubled", fault=True),
    "asks": Figure("questions"),
    "unfinished": Figure("streams whose end has not the whole text", fault=True),
    "other_order": Figure("receivers with another order", worst=True),
    "refused": Figure("pushes refused", fault=True),
    "dropped": Figure("connections dropped by the server", fault=True),
    "errors": Figure("errors", fault=True),
    "returned": Figure("connections back"),
    "missing": Figure("connections missing", fault=True),
    "seconds": Figure("until all were back", "s", 2),
    "open_p99_ms": Figure("opening of one, p99", "ms", 1),
    "bystanders_lost": Figure("bystanders dropped", fault=True),
    "bystander_pings": Figure("pings of bystanders"),
    "pings_unanswered": Figure("pings of bystanders unanswered", fault=True),
    **_latencies("ping_", "ping of bystanders", maximum=True),
    "login_round_trips": Figure("round trips to Redis a login", "", 3),
    "login_commands": Figure("commands a login, a script counting as one", "", 3),
    "login_redis_cpu_us": Figure("CPU of Redis a login", "µs", 1),
    "heartbeat_round_trips": Figure("round trips to Redis a heartbeat, the lease's included", "", 5),
    "heartbeat_commands": Figure("commands a heartbeat, the lease's included", "", 5),
    "heartbeat_redis_cpu_us": Figure("CPU of Redis a heartbeat", "µs", 3),
    "push_round_trips": Figure("round trips to Redis a push", "", 3),
    "push_commands": Figure("commands a push, a script counting as one", "", 3),
    "push_redis_cpu_us": Figure("CPU of Redis a push", "µs", 1),
    "rpc_events": Figure("events from node to node"),
    "rpc_batches": Figure("batches from node to node"),
    "events_a_batch": Figure("events a batch", "", 1),
    "here_per_second": Figure("pushes/s to users of the node that is asked"),
    "here_cpu_us": Figure("CPU of all nodes a push", "µs", 2),
    "there_per_second": Figure("pushes/s to users of another node"),
    "there_cpu_us": Figure("CPU of all nodes a push", "µs", 2),
    "messages_per_second": Figure("messages/s"),
    "api_node_cpu_us": Figure("CPU of the node with the HTTP API, a message", "µs", 2),
    "socket_node_cpu_us": Figure("CPU of the node with the WebSockets, a message", "µs", 2),
    "redis_cpu_us": Figure("CPU of Redis, a message", "µs", 2),
    "forward_cpu_us": Figure("the difference: CPU a forwarded event, both sides", "µs", 2),
    **_BROADCASTS,
    "offline_seconds": Figure("until users who stay away are offline for all", "s", 2, worst=True),
    "shown_online": Figure("returned users who are shown online"),
    "online": Figure("users online"),
    "processes": Figure("server processes"),
    "login_seconds": Figure("until all were logged in", "s", 1),
    "notices": Figure("notices of logins that clients received"),
    "leave_notices": Figure("notices of departures that clients received"),
    "logins_per_second": Figure("logins/s"),
    "login_cpu_us": Figure("server CPU a login with its handshake", "µs", 1),
    "login_generator_cpu_us": Figure("generator CPU a login", "µs", 1),
    **_latencies("login_", "login", 1),
    "redis_login_cpu_us": Figure("CPU of Redis a login", "µs", 1),
    "redis_login_commands": Figure("commands in Redis a login, its scripts' own included", "", 1),
    "pss_empty_mb": Figure("PSS of the servers before", "MB", 1),
    "pss_full_mb": Figure("PSS of the servers with all online", "MB", 1),
    "pss_connection_bytes": Figure("PSS a connection", "bytes"),
    "redis_mb": Figure("RSS of Redis", "MB", 1),
    "machine_mb": Figure("memory taken on the machine: servers, Redis, clients, kernel", "MB"),
    "beat_seconds": Figure("a heartbeat of everybody", "s", 1),
    "beat_cpu_us": Figure("server CPU a heartbeat", "µs", 2),
    "beats_unanswered": Figure("heartbeats unanswered", fault=True),
    "disk_written_mb": Figure("written to disk by the servers", "MB", 1),
    **_latencies("ask_", "/user/online"),
    "asked": Figure("questions asked"),
    "asked_wrong": Figure("answers wrong or missing", fault=True),
    "pushes": Figure("pushes to single users"),
    **_latencies("push_", "push to one user", maximum=True),
    "push_cpu_us": Figure("server CPU a push", "µs", 1),
    "pushes_lost": Figure("pushes to single users lost", fault=True),
    "pushes_wrong": Figure("pushes refused, unanswered or astray", fault=True),
    "broadcast_seconds": Figure("broadcast to everybody", "s", 2),
    "broadcast_worst_seconds": Figure("the slowest of them", "s", 2, worst=True),
    "broadcast_p50_ms": Figure("half of them had it after", "ms"),
    "broadcast_answer_ms": Figure("the broadcast's HTTP answer", "ms", 1),
    "network_mb_per_second": Figure("network out during the broadcast", "MB/s", 1),
    "broadcast_pushes_seconds": Figure("broadcast with single pushes beside it", "s", 2),
    **_latencies("busy_push_", "push to one user meanwhile", maximum=True),
    "listed": Figure("users that /user/list counts"),
    "list_ms": Figure("its answer", "ms", 1),
    "miscounted": Figure("users it counts wrongly", fault=True),
    "leave_seconds": Figure("until all had left", "s", 1),
    "leave_cpu_us": Figure("server CPU a departure", "µs", 1),
    "ghosts": Figure("users still online after everybody left", fault=True),
    "pss_after_mb": Figure("PSS of the servers afterwards", "MB", 1),
    "chaos_seconds": Figure("from the first message to the last comparison", "s"),
    "chaos_faults": Figure("faults"),
    **{f"chaos_{name}_count": Figure(f"of them {name}") for name in _FAULT_NAMES.split()},
    "sync_pages": Figure("pages of a sync"),
    "acknowledged": Figure("messages acknowledged"),
    "entries_received": Figure("entries received, without repeats"),
    "judged": Figure("operations judged by the checker"),
    "chaos_broken": Figure("rules broken, as the checker says", fault=True),
    "events": Figure("events that the webhook received"),
    "events_repeated": Figure("events that came again"),
    "notified": Figure("absent users who were notified"),
    "encrypt_us": Figure("CPU of encrypting a notification alone", "µs", 1),
    "notified_cpu_us": Figure("server CPU a notification, from the message to the stored result", "µs", 1),
    "of_encrypting": Figure("the same, as a multiple of encrypting alone", "", 2),
    "notified_seconds": Figure("until all were handed over", "s", 2),
    "notify_hold_ms": Figure("meanwhile the loop was held for at most", "ms", 1, worst=True),
    "beside_bad_seconds": Figure("until all were handed over, beside hosts that hang and fail", "s", 2),
    "beside_bad_lost": Figure("not handed over beside them", fault=True),
    "beside_bad_again": Figure("notifications that came again beside them", fault=True),
    "beside_bad_hold_ms": Figure("meanwhile the loop was held for at most", "ms", 1, worst=True),
    "audience_users": Figure("users with devices, of whom all are notified at once"),
    "audience_taken": Figure("of them notified"),
    "audience_lost": Figure("users of an audience that were not notified", fault=True),
    "audience_seconds": Figure("until they were notified, or it was cancelled", "s", 1),
    "audience_per_second": Figure("notifications/s to an audience"),
    "audience_mb": Figure("meanwhile RSS grew by at most", "MB", 1, worst=True),
    "audience_hold_ms": Figure("meanwhile the loop was held for at most", "ms", 1, worst=True),
    "bad_requests": Figure("requests to these hosts meanwhile"),
    "dead_endpoints": Figure("endpoints that their host does not know any more"),
    "dead_left": Figure("of them left after one round", fault=True),
    "dead_again": Figure("requests to them beyond the first", fault=True),
    "dead_seconds": Figure("until they were removed", "s", 1),
    "dead_cpu_us": Figure("server CPU each", "µs", 1),
    "notifications_lost": Figure("absent users who were not notified", fault=True),
    "notifications_again": Figure("notifications that came again, and replaced the first"),
    "notifications_spared": Figure("absent users who had read their message in time"),
    "publications": Figure("messages published"),
    "received": Figure("publications received, all subscribers together"),
    "subscribers": Figure("subscribers that the server counts"),
    **_latencies("count_", "answer with their number", maximum=True),
    "resubscriptions": Figure("subscriptions again with a position"),
    "reloads": Figure("subscriptions told to reload"),
    "recoveries": Figure("subscriptions recovered"),
    "raw_repeats": Figure("repeats that clients dropped by their ids"),
    "resends": Figure("messages sent again"),
    "not_stored": Figure("sends answered: not stored, try again"),
    "logins": Figure("logins"),
    "recovered": Figure("of them recovered without a sync"),
    "lost_connections": Figure("connections lost"),
    "silence_seconds": Figure("longest time without an acknowledgement", "s", 1, worst=True),
    "hold_ms": Figure("the loop was held for at most", "ms", 1, worst=True),
    "growth_mb": Figure("memory grew by at most", "MB", 1, worst=True),
    "hash_mb": Figure("the same where a password is hashed, which takes 19 MiB", "MB", 1, worst=True),
    "residue_mb": Figure("memory stayed larger by at most", "MB", 1, worst=True),
    "attacks": Figure("attacks made"),
    "unproved": Figure("commands and routes all of whose requests were refused", worst=True),
    "attacks_over": Figure("attacks over a limit", worst=True),
    "power_cuts": Figure("power cuts"),
    "power_compared": Figure("what was acknowledged and looked for, all cuts together"),
    "power_broken": Figure("databases that could not be opened, or were not intact", fault=True),
    "tracebacks": Figure("tracebacks in the logs of the nodes", fault=True),
}

#: Of these only zero is good: a command that finds another value exits with 1.
FAULTS = tuple(name for name, figure in FIGURES.items() if figure.fault)


def fold(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure over ``runs``, of faults the maximum."""
    folded: Figures = {}
    for name in runs[0]:
        values = [value for run in runs if (value := run.get(name)) is not None]
        worst = FIGURES[name].worst or FIGURES[name].fault
        folded[name] = (max(values) if worst else statistics.median(values)) if values else None
    return folded


def with_faults_of(warm_up: Figures, figures: Figures) -> Figures:
    """Return ``figures`` with the faults of the warm-up added: faults always count."""
    added = {
        name: value + (warm_up.get(name) or 0) for name in FAULTS if (value := figures.get(name)) is not None
    }
    return {**figures, **added}


def faults(figures: Figures) -> dict[str, float]:
    return {name: value for name in FAULTS if (value := figures.get(name))}


def shown(name: str, value: float | None) -> str:
    """Return a figure with its unit, for display."""
    if value is None:
        return "–"
    if name == "generator_bound":
        return "yes" if value else "no"
    figure = FIGURES[name]
    text = f"{value:,.{figure.digits}f}"
    return f"{text} {figure.unit}" if figure.unit else text
