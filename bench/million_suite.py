"""The sizes of ``imserver bench million``: a server with its Redis for each, reports, bars."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench import redis
from bench.capacity import MillionOptions, check_machine
from bench.cluster_suite import ClusterPlace
from bench.crew import Crew
from bench.figures import FIGURES, faults
from bench.loop import BenchError
from bench.machine import machine
from bench.million import Million
from bench.peer import Target
from bench.play import Watcher
from bench.stage import Stage
from bench.suite import FLOOR_US, Bar

SIZES = (10_000, 100_000, 1_000_000)
START_SECONDS = 240.0
BARS = (
    Bar("login_seconds", 360),
    Bar("missing", 0),
    Bar("dropped", 0),
    Bar("pss_full_mb", 3500),
    Bar("idle_cpu_percent", 10),
    Bar("push_p99_ms", 100),
    Bar("pushes_lost", 0),
    Bar("broadcast_worst_seconds", 12),
    Bar("lost", 0),
)


def perform(options: MillionOptions, place: ClusterPlace, watcher: Watcher) -> dict[str, Any]:
    """Play one size with servers of its own; return the report, JSON-ready.

    What was measured before something failed is in it; ``stopped`` says what did.
    """
    check_machine(options)
    crew = Crew()
    found: dict[str, Any] = {"figures": {}, "details": {}, "series": {}, "stopped": ""}
    processes = options.server_processes()
    try:
        url, stage = _start(crew, place, processes, watcher)
        million = Million(stage, options, url, watcher.begin)
        try:
            million.run()
        except BenchError as error:
            found["stopped"] = str(error)
        found |= {"figures": million.figures, "details": million.details}
        if not found["stopped"]:
            found["series"] = million.series()
    finally:
        watcher.begin("the servers end")
        crew.dismiss()
    return {
        "scenario": "million",
        "title": f"{options.connections:,} users online",
        "command": f"imserver bench million --connections {options.connections}",
        "parameters": asdict(options),
        "runs": 1,
        "each": [found["figures"]],
        "faults": faults(found["figures"]),
        "generator": {
            "processes": options.generator_processes(),
            "pinned": False,
            "cpu_us_each": found["figures"].get("login_generator_cpu_us"),
            "bottleneck": False,
            "rate": "measured",
        },
        "server": {
            "own": True,
            "command": f"imserver serve --processes {processes}" if processes > 1 else "imserver serve",
            "log": "/dev/null" if place.log == "null" else "a file in a temporary directory",
        },
        "machine": machine(),
        **found,
    }


def _start(crew: Crew, place: ClusterPlace, processes: int, watcher: Watcher) -> tuple[str, Stage]:
    watcher.begin(f"{processes} server processes start")
    environment, url = {"IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}, place.redis
    if processes > 1:
        if not url:
            (keeper,) = crew.hire(1)
            keeper.ask("redis", path=redis.program(place.redis_server))
            url = crew.gather([keeper])[0]["url"]
        environment["IMSERVER_REDIS_URL"] = url
    (keeper,) = crew.hire(1)
    keeper.ask(
        "serve",
        log=place.log,
        arguments=[],
        cores=[],
        environment=environment,
        processes=processes,
        start_seconds=START_SECONDS,
        limit_seconds=START_SECONDS + 30,
    )
    (own,) = crew.gather([keeper])
    target = Target("127.0.0.1", own["ws_port"], "/acc", "127.0.0.1", own["http_port"], place.app)
    return url if processes > 1 else "", Stage(target, tuple(own["pids"]), crew)


def judge(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the report of a million, if there is one, with its bars."""
    return [
        {
            "title": report["title"],
            "command": report["command"],
            "figure": bar.figure,
            "label": FIGURES[bar.figure].label,
            "value": report["figures"].get(bar.figure),
            "bar": bar.limit,
            "at_least": bar.at_least,
            "scaled_bar": bar.limit,
            "met": bar.met(report["figures"].get(bar.figure), FLOOR_US),
            "derived": False,
        }
        for report in reports
        if report["parameters"]["connections"] >= SIZES[-1]
        for bar in BARS
    ]
