"""Playing a scenario: a server (ours or yours), fresh generators, so many runs, one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

from bench import chat, echo, fanout, floor, handshake, idle, publish, push, storm
from bench.crew import Crew, Progress
from bench.figures import faults, fold
from bench.loop import BenchError
from bench.machine import machine
from bench.peer import Target
from bench.stage import Cores, Figures, Stage

OWN_KEY = "a-key-for-measuring-only"
KEYS = "[{key: %s, scopes: [push, read, admin]}]"
"""Keys of a server of our own, as its settings have them."""


@dataclass(frozen=True)
class Scenario:
    """One thing that can be measured."""

    name: str
    options: Callable[..., Any]
    run: Callable[[Stage, Any], Figures]
    needs_server: bool = True
    needs_pids: bool = False


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("floor", floor.FloorOptions, floor.run, needs_server=False),
        Scenario("idle", idle.IdleOptions, idle.run, needs_pids=True),
        Scenario("fanout", fanout.FanoutOptions, fanout.run),
        Scenario("echo", echo.EchoOptions, echo.run),
        Scenario("push", push.PushOptions, push.run),
        Scenario("publish", publish.PublishOptions, publish.run),
        Scenario("chat", chat.ChatOptions, chat.run),
        Scenario("handshake", handshake.HandshakeOptions, handshake.run),
        Scenario("storm", storm.StormOptions, storm.run),
    )
}


@dataclass(frozen=True)
class Place:
    """Which server is measured: one at ``url`` and ``ws``, or (no ``url``) one of our own for each run."""

    url: str = ""
    ws: str = ""
    pids: tuple[int, ...] = ()
    app: int = 101
    key: str = ""
    log: str = "file"
    pin: bool = True
    arguments: tuple[str, ...] = ()

    def target(self) -> Target:
        """Return the server at ``url`` and ``ws``; raises BenchError for what we do not speak."""
        http = urlsplit(self.url)
        ws = urlsplit(self.ws or f"ws://{http.hostname}:8089/acc")
        if http.scheme != "http" or ws.scheme != "ws" or not http.hostname or not ws.hostname:
            raise BenchError("--url has to be http://host:port and --ws ws://host:port/path")
        return Target(
            ws.hostname, ws.port or 80, ws.path or "/acc", http.hostname, http.port or 80, self.app, self.key
        )


class Watcher(Protocol):
    """Where progress is shown."""

    def begin(self, text: str) -> Progress:
        """Start to show a new piece of work; the result is told how far it is."""


def play(
    scenario: Scenario, options: Any, place: Place, runs: int, watcher: Watcher, title: str = ""
) -> dict[str, Any]:
    """Run ``scenario`` ``runs`` times, each with fresh processes; return the report, JSON-ready."""
    if getattr(options, "keyed", False) and not place.key:
        place = replace(place, key=OWN_KEY)
    each: list[Figures] = []
    processes = 0
    for number in range(runs):
        run = f", run {number + 1} of {runs}" if runs > 1 else ""
        progress = watcher.begin((title or scenario.name) + run)
        crew = Crew()
        try:
            stage = set_stage(scenario, place, crew, progress, getattr(options, "environment", {}))
            helpers = len(crew.hands)
            each.append(scenario.run(stage, options))
            processes = len(crew.hands) - helpers
        finally:
            crew.dismiss()
    figures = fold(each)
    bound = bool(figures.get("generator_bound"))
    return {
        "scenario": scenario.name,
        "command": command_line(scenario, options, runs),
        "parameters": asdict(options),
        "runs": runs,
        "figures": figures,
        "each": each,
        "faults": faults(figures),
        "generator": {
            "processes": processes,
            "pinned": place.pin and not place.url,
            "cpu_us_each": figures.get("generator_cpu_us"),
            "bottleneck": bound,
            "rate": "derived from the server's CPU per unit" if bound else "measured",
        },
        "server": describe(scenario, place),
        "machine": machine(),
    }


def set_stage(
    scenario: Scenario, place: Place, crew: Crew, progress: Progress, environment: dict[str, str]
) -> Stage:
    """Return the stage of one run; starts a server of our own when there is to be one."""
    cores = Cores.divided() if place.pin else Cores()
    if not scenario.needs_server:
        return Stage(Target("127.0.0.1", 0), (), crew, progress, cores)
    if place.url:
        if scenario.needs_pids and not place.pids:
            raise BenchError(f"{scenario.name} reads the server's memory: name its processes by --pid")
        return Stage(place.target(), place.pids, crew, progress)
    (keeper,) = crew.hire(1)
    keeper.ask(
        "serve",
        log=place.log,
        arguments=list(place.arguments),
        cores=cores.server,
        environment={**environment, **({"IMSERVER_API_KEYS": KEYS % place.key} if place.key else {})},
    )
    (own,) = crew.gather([keeper])
    target = Target("127.0.0.1", own["ws_port"], "/acc", "127.0.0.1", own["http_port"], place.app, place.key)
    return Stage(target, (own["pid"],), crew, progress, cores, own["data_directory"])


def describe(scenario: Scenario, place: Place) -> dict[str, Any]:
    """Return which server was measured."""
    if not scenario.needs_server:
        return {}
    if place.url:
        return {"own": False, "url": place.url, "ws": place.ws, "pids": list(place.pids)}
    log = "/dev/null" if place.log == "null" else "a file in a temporary directory"
    return {"own": True, "command": " ".join(["imserver serve", *place.arguments]), "log": log}


def command_line(scenario: Scenario, options: Any, runs: int) -> str:
    """Return the command that asks for the same."""
    words = ["imserver", "bench", scenario.name]
    for entry in fields(options):
        value = getattr(options, entry.name)
        if value != entry.default:
            words.append("--" + entry.name.replace("_", "-"))
            if isinstance(value, str):
                words.append(value)
            elif not isinstance(value, bool):
                words.append(f"{value:g}")
    if runs > 1:
        words += ["--runs", str(runs)]
    return " ".join(words)
