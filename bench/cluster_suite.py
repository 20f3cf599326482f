"""``imserver bench cluster``: the parts with their bars, played on nodes of our own, and their reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from bench import cluster, cluster_storm, rpc
from bench.cluster import ClusterOptions, Play
from bench.crew import Crew
from bench.figures import FIGURES, faults, fold
from bench.machine import machine
from bench.nodes import Nodes
from bench.play import Watcher
from bench.stage import Figures
from bench.suite import FLOOR_US, Bar


@dataclass(frozen=True)
class Part:
    """One measurement."""

    name: str
    title: str
    run: Callable[[Play], Figures]
    bars: tuple[Bar, ...] = ()


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "redis",
            "what logins, heartbeats and pushes ask of Redis",
            cluster.count_in_redis,
            (
                Bar("login_round_trips", 1.05),
                Bar("login_commands", 3.05),
                Bar("push_round_trips", 1.05),
                Bar("push_commands", 3.05),
                Bar("heartbeat_round_trips", 0.01),
            ),
        ),
        Part(
            "push",
            "pushes to users on another node, paced",
            cluster.push_across,
            (Bar("p99_ms", 15), Bar("lost", 0)),
        ),
        Part("forward", "pushes flat out, here and to another node", cluster.forward, (Bar("lost", 0),)),
        Part("bulk", "bulk pushes, here and to another node", cluster.forward_bulk, (Bar("lost", 0),)),
        Part(
            "broadcast",
            "a broadcast on one server and over the nodes",
            cluster.broadcast,
            (Bar("flat_ratio", 1.3), Bar("paced_ratio", 1.3), Bar("lost", 0)),
        ),
        Part(
            "rpc",
            "the RPC alone, encrypted: items of 150 bytes between two processes",
            rpc.rpc,
            (
                Bar("rpc_100_per_second", 50_000, at_least=True),
                Bar("rpc_1_cpu_us", 40, scaled=True),
                Bar("rpc_100_cpu_us", 1, scaled=True),
                Bar("p99_ms", 15),
                Bar("lost", 0),
            ),
        ),
        # The last one: it kills a node.
        Part(
            "storm",
            "a node is killed, its clients come back to another",
            cluster_storm.storm,
            (Bar("offline_seconds", 12), Bar("missing", 0), Bar("bystanders_lost", 0), Bar("ghosts", 0)),
        ),
    )
}


@dataclass(frozen=True)
class ClusterPlace:
    """Where it is played: which Redis, where the logs go, which app."""

    redis: str = ""
    redis_server: str = ""
    log: str = "file"
    app: int = 101


def perform(
    names: tuple[str, ...], options: ClusterOptions, place: ClusterPlace, runs: int, watcher: Watcher
) -> list[dict[str, Any]]:
    """Play the parts ``names`` (none: all) ``runs`` times; return a report for each, JSON-ready."""
    parts = [part for part in PARTS.values() if not names or part.name in names]
    each: dict[str, list[Figures]] = {part.name: [] for part in parts}
    notes: dict[str, object] = {}
    for number in range(runs):
        crew = Crew()
        try:
            watcher.begin(f"{options.nodes} nodes start")
            nodes = Nodes(crew, options.nodes, place.app, place.log, place.redis, place.redis_server)
            for part in parts:
                run = f", run {number + 1} of {runs}" if runs > 1 else ""
                play = Play(nodes, options, watcher.begin(part.title + run))
                each[part.name].append(part.run(play))
                notes |= play.notes
        finally:
            crew.dismiss()
    return [_report(part, options, place, each[part.name], notes) for part in parts]


def _report(
    part: Part, options: ClusterOptions, place: ClusterPlace, each: list[Figures], notes: dict[str, object]
) -> dict[str, Any]:
    figures = fold(each)
    runs = f" --runs {len(each)}" if len(each) > 1 else ""
    return {
        "scenario": f"cluster {part.name}",
        "title": part.title,
        "command": f"imserver bench cluster --part {part.name}{runs}",
        "parameters": asdict(options),
        "runs": len(each),
        "figures": figures,
        "each": each,
        "faults": faults(figures),
        "notes": notes if part.name == "redis" else {},
        "generator": {
            "processes": 0,
            "pinned": False,
            "cpu_us_each": figures.get("generator_cpu_us"),
            "bottleneck": False,
            "rate": "measured",
        },
        "server": {
            "own": True,
            "command": f"imserver serve, {options.nodes} nodes",
            "log": "/dev/null" if place.log == "null" else "a file in a temporary directory",
        },
        "machine": machine(),
    }


def judge(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the reports with the bars of their parts."""
    found = []
    for report in reports:
        part = PARTS[report["scenario"].partition(" ")[2]]
        for bar in part.bars:
            value = report["figures"].get(bar.figure)
            found.append(
                {
                    "title": report["title"],
                    "command": report["command"],
                    "figure": bar.figure,
                    "label": FIGURES[bar.figure].label,
                    "value": value,
                    "bar": bar.limit,
                    "at_least": bar.at_least,
                    "scaled_bar": bar.limit,
                    "met": bar.met(value, FLOOR_US),
                    "derived": False,
                }
            )
    return found
