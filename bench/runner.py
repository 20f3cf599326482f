"""The runner: starts server and generators for each run of a scenario, combines the runs, writes the
report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

from bench import abuse, channels, chaos, chat, cluster, million, notify, push, session_scenarios, streams
from bench.connections import Target
from bench.context import Cores, RunContext
from bench.figures import FIGURES, Figures, faults, fold
from bench.loop import BenchError, Json
from bench.proc import machine
from bench.report import ProgressBar
from bench.servers import NodeProcess, RedisProcess
from bench.suite import SUITES, Row
from bench.workers import WorkerPool

#: Settings of a server that the tool starts: one API key, and open apps.
OWN_KEY = "a-key-for-measuring-only"
KEYS = "[{key: %s, scopes: [push, read, admin]}]"
OPEN_APPS = "{101: {open: true}, 102: {open: true}, 103: {open: true}, 104: {open: true}}"


@dataclass(frozen=True)
class Scenario:
    """One measurement.

    ``run`` measures once; the first line of its docstring is the help of the command. ``server``: the runner
    starts a server for it (or uses the one at ``--url``). ``servers`` names the servers that it starts
    itself.
    """

    name: str
    options: type[Any]
    run: Callable[[RunContext, Any], Figures]
    server: bool = True
    servers: str = ""
    needs_pids: bool = False


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("idle", session_scenarios.IdleOptions, session_scenarios.idle, needs_pids=True),
        Scenario("fanout", push.FanoutOptions, push.fanout),
        Scenario("push", push.PushOptions, push.push),
        Scenario("publish", push.PublishOptions, push.publish),
        Scenario("chat", chat.ChatOptions, chat.run),
        Scenario("notify", notify.NotifyOptions, notify.run, False, "imserver serve"),
        Scenario("channels", channels.ChannelsOptions, channels.run, needs_pids=True),
        Scenario("streams", streams.StreamsOptions, streams.run),
        Scenario("handshake", session_scenarios.HandshakeOptions, session_scenarios.handshake),
        Scenario("cluster", cluster.ClusterOptions, cluster.run, False, "imserver serve, several nodes"),
        Scenario("million", million.MillionOptions, million.run, False, "imserver serve --processes N"),
        Scenario("chaos", chaos.ChaosOptions, chaos.run, False, "imserver serve, several nodes"),
        Scenario("abuse", abuse.AbuseOptions, abuse.run, False, "imserver serve, with keys and without"),
    )
}


@dataclass(frozen=True)
class ServerChoice:
    """The measured server: one at ``url`` and ``ws``, or (no ``url``) a new one for each run."""

    url: str = ""
    ws: str = ""
    pids: tuple[int, ...] = ()
    app: int = 101
    key: str = ""
    log: str = "file"
    pin: bool = True
    arguments: tuple[str, ...] = ()

    def target(self) -> Target:
        """Return the server at ``url`` and ``ws``; raises BenchError for other schemes."""
        http = urlsplit(self.url)
        ws = urlsplit(self.ws or f"ws://{http.hostname}:8089/acc")
        if http.scheme != "http" or ws.scheme != "ws" or not http.hostname or not ws.hostname:
            raise BenchError("--url has to be http://host:port and --ws ws://host:port/path")
        return Target(
            ws.hostname, ws.port or 80, ws.path or "/acc", http.hostname, http.port or 80, self.app, self.key
        )


def play(
    scenario: Scenario, options: Any, choice: ServerChoice, runs: int, watcher: ProgressBar, title: str = ""
) -> Json:
    """Run ``scenario`` ``runs`` times, each with fresh processes; return the report, JSON-ready."""
    if getattr(options, "keyed", False) and not choice.key:
        choice = replace(choice, key=OWN_KEY)
    each: list[Figures] = []
    extra: Json = {}
    processes = 0
    for number in range(runs):
        run = f", run {number + 1} of {runs}" if runs > 1 else ""
        pool = WorkerPool()
        try:
            context = make_context(scenario, choice, pool, watcher, (title or scenario.name) + run, options)
            each.append(scenario.run(context, options))
            processes = len(pool.workers)
            extra |= context.extra
        finally:
            pool.end()
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
            "pinned": scenario.server and choice.pin and not choice.url,
            "cpu_us_each": figures.get("generator_cpu_us"),
            "bottleneck": bound,
            "rate": "derived from the server's CPU per unit" if bound else "measured",
        },
        "server": describe(scenario, choice),
        "machine": machine(),
        **extra,
    }


def make_context(
    scenario: Scenario, choice: ServerChoice, pool: WorkerPool, watcher: ProgressBar, title: str, options: Any
) -> RunContext:
    """Return the context of one run; starts a server if the scenario needs one."""
    cores = Cores.divided() if choice.pin else Cores()
    watcher.begin(title)
    if not scenario.server:
        return RunContext(Target("127.0.0.1", 0), (), pool, cores, show_phase=watcher.begin, log=choice.log)
    if choice.url:
        if scenario.needs_pids and not choice.pids:
            raise BenchError(f"{scenario.name} reads the server's memory: name its processes by --pid")
        return RunContext(choice.target(), choice.pids, pool, show_phase=watcher.begin)
    environment = {**getattr(options, "environment", {})}
    if choice.key:
        environment = {"IMSERVER_API_KEYS": KEYS % choice.key, "IMSERVER_APPS": OPEN_APPS, **environment}
    processes = getattr(options, "processes", 1)
    if processes > 1 or getattr(options, "redis", False):
        redis = {"IMSERVER_REDIS_URL": pool.start(RedisProcess()).url}
        environment |= {**redis, "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
    if processes > 1:
        cores = Cores()
    own = pool.start(
        NodeProcess(choice.log, choice.arguments, environment, processes=processes, cores=cores.server)
    )
    target = replace(own.target, app=choice.app, key=choice.key)
    return RunContext(
        target,
        own.pids if processes > 1 else own.pids[:1],
        pool,
        cores,
        own.data_directory,
        show_phase=watcher.begin,
        log=choice.log,
    )


def describe(scenario: Scenario, choice: ServerChoice) -> Json:
    if choice.url:
        return {"own": False, "url": choice.url, "ws": choice.ws, "pids": list(choice.pids)}
    log = "/dev/null" if choice.log == "null" else "a file in a temporary directory"
    command = scenario.servers or " ".join(["imserver serve", *choice.arguments])
    return {"own": True, "command": command, "log": log}


def command_line(scenario: Scenario, options: Any, runs: int) -> str:
    """Return the command line of a run."""
    words = ["imserver", "bench", scenario.name]
    for entry in fields(options):
        value = getattr(options, entry.name)
        if value != entry.default:
            words.append("--" + entry.name.replace("_", "-"))
            if isinstance(value, str):
                words.append(value)
            elif not isinstance(value, bool):
                words.append(f"{value:g}" if isinstance(value, float) else str(value))
    if runs > 1:
        words += ["--runs", str(runs)]
    return " ".join(words)


def options_of(row: Row) -> Any:
    """Return the options in the command of ``row``."""
    name, *words = row.command.split()
    kinds: Json = {entry.name: type(entry.default) for entry in fields(SCENARIOS[name].options)}
    given: Json = {}
    while words:
        option = words.pop(0)[2:].replace("-", "_")
        given[option] = True if kinds[option] is bool else kinds[option](words.pop(0))
    return SCENARIOS[name].options(**given)


def perform(
    rows: tuple[Row, ...], choice: ServerChoice, runs: int, watcher: ProgressBar, **given: Any
) -> list[Json]:
    """Run all ``rows``, with the options ``given``; return their reports, each with its ``title``."""
    reports = []
    for number, row in enumerate(rows, 1):
        title = f"{number}/{len(rows)} {row.title}"
        options = replace(options_of(row), **given)
        report = play(SCENARIOS[row.command.split()[0]], options, choice, runs, watcher, title)
        reports.append({"title": row.title, **report})
    return reports


def judge(rows: tuple[Row, ...], reports: list[Json]) -> list[Json]:
    return [
        {
            "title": row.title,
            "command": report["command"],
            "figure": bar.figure,
            "label": FIGURES[bar.figure].label,
            "value": report["figures"].get(bar.figure),
            "bar": bar.limit,
            "at_least": bar.at_least,
            "met": bar.met(report["figures"].get(bar.figure)),
            "derived": bar.figure.endswith("_per_second") and report["generator"]["bottleneck"],
        }
        for row, report in zip(rows, reports, strict=True)
        for bar in row.bars
    ]


def rows_of(command: str) -> tuple[Row, ...]:
    """Return the rows of a suite, or one row for the command of a scenario."""
    return SUITES[command] if command in SUITES else (Row(command, command),)
