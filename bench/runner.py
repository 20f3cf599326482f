"""The runner: starts server and generators for each run of a scenario, combines
the runs, writes the report.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bench import abuse, chaos, chat, cluster, million, notify, push, streams
from bench.abuse import AbuseOptions
from bench.capacity import CapacityOptions, capacity
from bench.cluster import ClusterOptions
from bench.connections import Target
from bench.context import Cores, RunContext, parameter, text_parameter
from bench.faults import ChaosOptions
from bench.figures import FAULTS, Figures, faults, figure, fold
from bench.loop import BenchError, Json
from bench.million import MillionOptions
from bench.notify import NotifyOptions
from bench.proc import machine
from bench.report import show_phase
from bench.servers import SERVER_TREE, SOURCE, NodeProcess, RedisProcess, WorkerPool
from bench.session_scenarios import (
    ChannelsOptions,
    HandshakeOptions,
    IdleOptions,
    channels,
    handshake,
    idle,
)
from imserver.version import full_version


class Bar(NamedTuple):
    """The bar of a figure: at most ``limit``, or ``at_least``."""

    figure: str
    limit: float
    at_least: bool = False

    def met(self, value: float | None) -> bool:
        """Whether ``value`` meets the limit; a missing figure does not."""
        return value is not None and (
            value >= self.limit if self.at_least else value <= self.limit
        )


class Row(NamedTuple):
    """One measurement of a suite: the arguments of ``imserver bench``, and its
    bars. A bar is ``figure<limit`` (at most), ``figure>limit`` (at least), or a
    figure alone, which must be zero.
    """

    title: str
    command: str
    bars: str = ""

    def parsed(self) -> Iterator[Bar]:
        for name, sign, limit in re.findall(r"(\w+)([<>]?)(\S*)", self.bars):
            yield Bar(name, float(limit or 0), sign == ">")


def table(text: str) -> tuple[Row, ...]:
    """Return the rows of a text: title, command and bars of each; an indented
    line continues the last one."""
    lines = text.strip().replace("\n  ", " ").splitlines()
    return tuple(Row(*(part.strip() for part in line.split("|"))) for line in lines)


ALL = table("""
15,000 idle logged-in connections | idle | rss_connection_bytes<2000 rss_empty_mb<45 idle_cpu_percent<0.5
broadcast to 500, flat out | fanout | cpu_us<1 deliveries_per_second>1000000 lost
broadcast to 500, one frame a send | fanout --one-per-send | cpu_us<4.5 lost
broadcast to 500, 20 messages/s | fanout --seconds 10 --rate 20
  | answer_p50_ms<1 answer_p99_ms<2 p50_ms<4 p99_ms<8 lost
publications to a channel of 500, flat out | fanout --channel | cpu_us<1 lost
publications to a channel of 500, one frame a send | fanout --one-per-send --channel
  | lost
three subscriptions of 15,000 clients of Centrifugo | channels
  | cpu_us<15 rss_connection_bytes<1700 missing errors
three subscriptions of 15,000 clients, cmd | channels --dialect cmd
  | rss_connection_bytes<1300 missing errors
1,000 streams at 20 pieces/s | streams | p99_ms<50 lost unfinished doubled refused
push to one user | push | cpu_us<30 requests_per_second>20000 lost
push in bulk, each frame alone | push --clients 1 --bulk 1000 | cpu_us<6.6 targets_per_second>150000 lost
push in bulk, frames sharing a send | push --bulk 1000 | cpu_us<6.6 targets_per_second>150000 lost
/api/v1/push to one user, with a key | push --v1 --keyed | cpu_us<30 requests_per_second>20000 lost
/api/v1/push at 1,000 requests/s | push --rate 1000 --v1 --keyed | answer_p99_ms<5 p99_ms<5 lost
/api/v1/push in bulk, each frame alone | push --clients 1 --bulk 1000 --v1 --keyed
  | cpu_us<6.6 targets_per_second>150000 lost
/api/v1/push in bulk, frames sharing a send | push --bulk 1000 --v1 --keyed
  | cpu_us<6.6 targets_per_second>150000 lost
publisher connection | publish --keyed | cpu_us<25 publishes_per_second>40000 lost
a group of 500, 500 messages/s, stored | chat | cpu_us<0.7 elapsed_seconds<41 ack_p99_ms<400 unstored lost
one-to-one, 500 messages/s, stored | chat --seconds 20 --single | ack_p99_ms<10 unstored lost
one-to-one, 500 senders flat out, stored | chat --rate 0 --seconds 10 --single
  | stored_per_second>15000 unstored lost
handshake | handshake | cpu_us<40 errors
handshake with login | handshake --login | cpu_us<80 errors
""")

CLUSTER = table("""
what logins, heartbeats and pushes ask of Redis | cluster --part redis
  | login_round_trips<1.05 login_commands<3.05 push_round_trips<1.05
    push_commands<3.05 heartbeat_round_trips<0.01
pushes to users on another node, paced | cluster --part push | p99_ms<15 lost
pushes flat out, here and to another node | cluster --part forward | lost
bulk pushes, here and to another node | cluster --part bulk | lost
publications flat out, all subscribers on another node | cluster --part channel | lost
stored pushes flat out, to users on another node | cluster --part stored | lost
""")

MILLION = table("""
10,000 users online | million --connections 10000
100,000 users online | million --connections 100000
1,000,000 users online | million --connections 1000000
  | login_seconds<360 missing dropped pss_full_mb<3500 idle_cpu_percent<10
    push_p99_ms<100 pushes_lost broadcast_worst_seconds<12 lost
""")

ABUSE = table("""
full requests of strangers and users | abuse
  | hold_ms<50 growth_mb<20 hash_mb<24 residue_mb<8 dropped unproved
""")

SUITES = {"all": ALL, "cluster": CLUSTER, "million": MILLION, "abuse": ABUSE}


#: Settings of a server that the tool starts: one API key, and open apps.
OWN_KEY = "a-key-for-measuring-only"
KEYS = "[{key: %s, scopes: [push, read, admin]}]"
OPEN_APPS = (
    "{101: {open: true}, 102: {open: true}, 103: {open: true}, 104: {open: true}}"
)


@dataclass(frozen=True)
class Scenario:
    """One measurement. ``run`` measures once; ``text`` is the help of its
    command.

    ``servers`` names the servers that it starts itself; empty: the runner
    starts one for it, or uses the one at ``--url``.
    """

    name: str
    text: str
    options: type[Any]
    run: Callable[[RunContext, Any], Figures]
    servers: str = ""
    needs_pids: bool = False


NODES = "imserver serve, several nodes"
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "idle",
            "Memory and CPU of idle connections.",
            IdleOptions,
            idle,
            needs_pids=True,
        ),
        Scenario(
            "fanout",
            "Messages to everybody in an app.",
            push.FanoutOptions,
            push.fanout,
        ),
        Scenario(
            "push", "Messages to single users by HTTP.", push.PushOptions, push.push
        ),
        Scenario(
            "publish",
            "Messages over publisher connections.",
            push.PublishOptions,
            push.push,
        ),
        Scenario(
            "chat",
            "Stored messages in a group, or in pairs.",
            chat.ChatOptions,
            chat.run,
        ),
        Scenario(
            "notify",
            "Notifications of absent users.",
            NotifyOptions,
            notify.run,
            "imserver serve",
        ),
        Scenario(
            "channels",
            "Subscriptions to channels.",
            ChannelsOptions,
            channels,
            needs_pids=True,
        ),
        Scenario(
            "streams",
            "Messages in pieces, at a fixed rate.",
            streams.StreamsOptions,
            streams.run,
        ),
        Scenario(
            "handshake", "The opening of connections.", HandshakeOptions, handshake
        ),
        Scenario(
            "capacity",
            "Measure the cost of a user.",
            CapacityOptions,
            capacity,
            needs_pids=True,
        ),
        Scenario(
            "cluster",
            "Pushes across nodes; needs a Redis.",
            ClusterOptions,
            cluster.run,
            NODES,
        ),
        Scenario(
            "million",
            "Log in a million users, and reach all of them.",
            MillionOptions,
            million.run,
            NODES,
        ),
        Scenario(
            "chaos",
            "Break nodes, the network and disks while a chat runs.",
            ChaosOptions,
            chaos.run,
            NODES,
        ),
        Scenario(
            "abuse",
            "Send the worst requests of strangers and users.",
            AbuseOptions,
            abuse.run,
            NODES,
        ),
    )
}


@dataclass(frozen=True)
class ServerChoice:
    """The measured server: one at ``url`` and ``ws``, or (no ``url``) a new one
    for each run."""

    url: str = text_parameter(
        "", "Measure the server at http://host:port [default: start one]."
    )
    ws: str = text_parameter(
        "", "The WebSocket address of that server [default: ws://HOST:8089/acc]."
    )
    pid: tuple[int, ...] = field(
        default=(), metadata={"help": "A process of that server (repeatable)."}
    )
    app: int = parameter(101, "The appID to use.", most=1 << 62)
    key: str = text_parameter("", "An API key for the pushes.")
    log: str = text_parameter(
        "file", "The log file of a server that this command starts.", ("file", "null")
    )
    no_pin: bool = parameter(
        False, "Do not bind the started server and the generators to cores."
    )
    config: str = text_parameter(
        "", "Configuration file of the server that this command starts."
    )
    http: str = text_parameter(
        "", "HTTP server of the node that this command starts.", ("", "front", "wsgi")
    )

    def target(self) -> Target:
        """Return the server at ``url`` and ``ws``; raises BenchError for other
        schemes."""
        http = urlsplit(self.url)
        ws = urlsplit(self.ws or f"ws://{http.hostname}:8089/acc")
        if (
            http.scheme != "http"
            or ws.scheme != "ws"
            or not http.hostname
            or not ws.hostname
        ):
            raise BenchError(
                "--url must be http://host:port, and --ws must be ws://host:port/path"
            )
        return Target(
            ws.hostname,
            ws.port or 80,
            ws.path or "/acc",
            http.hostname,
            http.port or 80,
            self.app,
            self.key,
        )


def play(
    scenario: Scenario, options: Any, choice: ServerChoice, runs: int, title: str = ""
) -> Json:
    """Run ``scenario`` ``runs`` times, each with fresh processes; return the
    report, JSON-ready."""
    if getattr(options, "keyed", False) and not choice.key:
        choice = replace(choice, key=OWN_KEY)
    each: list[Figures] = []
    extra: Json = {}
    processes = 0
    for number in range(runs):
        if runs > 1:
            run = f", run {number + 1} of {runs}"
        else:
            run = ""
        pool = WorkerPool()
        try:
            context = make_context(
                scenario, choice, pool, (title or scenario.name) + run, options
            )
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
            "pinned": not scenario.servers and not choice.no_pin and not choice.url,
            "cpu_us_each": figures.get("generator_cpu_us"),
            "bottleneck": bound,
            "rate": "derived from the server's CPU per unit" if bound else "measured",
        },
        "server": {
            "url": choice.url,
            "log": choice.log,
            "command": scenario.servers or "imserver serve",
            "version": "" if choice.url else full_version(),
        },
        "machine": machine(),
        **extra,
    }


def make_context(
    scenario: Scenario, choice: ServerChoice, pool: WorkerPool, title: str, options: Any
) -> RunContext:
    """Return the context of one run; starts a server if the scenario needs
    one."""
    cores = Cores() if choice.no_pin else Cores.divided()
    show_phase(title)
    if scenario.servers:
        return RunContext(Target("127.0.0.1", 0), (), pool, cores, log=choice.log)
    if choice.url:
        if scenario.needs_pids and not choice.pid:
            raise BenchError(
                f"{scenario.name} reads the server's memory: name its processes by --pid"
            )
        return RunContext(choice.target(), choice.pid, pool)
    environment = {**getattr(options, "environment", {})}
    if choice.key:
        environment = {
            "IMSERVER_API_KEYS": KEYS % choice.key,
            "IMSERVER_APPS": OPEN_APPS,
            **environment,
        }
    if getattr(options, "redis", False):
        redis = {"IMSERVER_REDIS_URL": pool.start(RedisProcess()).url}
        environment |= {**redis, "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
    given = {"config": choice.config, "http": choice.http}
    arguments = [
        word for name, value in given.items() if value for word in (f"--{name}", value)
    ]
    own = pool.start(
        NodeProcess(choice.log, arguments, environment, cores=cores.server)
    )
    target = replace(own.target, app=choice.app, key=choice.key)
    return RunContext(
        target, own.pids[:1], pool, cores, own.data_directory, log=choice.log
    )


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
    kinds: Json = {
        entry.name: type(entry.default) for entry in fields(SCENARIOS[name].options)
    }
    given: Json = {}
    while words:
        option = words.pop(0)[2:].replace("-", "_")
        given[option] = True if kinds[option] is bool else kinds[option](words.pop(0))
    return SCENARIOS[name].options(**given)


def perform(
    rows: tuple[Row, ...], choice: ServerChoice, runs: int, **given: Any
) -> list[Json]:
    """Run all ``rows``, with the options ``given``; return their reports, each
    with its ``title``."""
    reports = []
    for number, row in enumerate(rows, 1):
        if len(rows) > 1:
            title = f"{number}/{len(rows)} {row.title}"
        else:
            title = row.title
        options = replace(options_of(row), **given)
        report = play(SCENARIOS[row.command.split()[0]], options, choice, runs, title)
        reports.append({"title": row.title, **report})
    return reports


def judge(rows: tuple[Row, ...], reports: list[Json]) -> list[Json]:
    return [
        {
            "title": row.title,
            "command": report["command"],
            "figure": bar.figure,
            "label": figure(bar.figure).label,
            "value": report["figures"].get(bar.figure),
            "bar": bar.limit,
            "at_least": bar.at_least,
            "met": bar.met(report["figures"].get(bar.figure)),
            "derived": bar.figure.endswith("_per_second")
            and report["generator"]["bottleneck"],
        }
        for row, report in zip(rows, reports, strict=True)
        for bar in row.parsed()
    ]


def suite_of(command: str) -> tuple[Row, ...]:
    """The rows of a suite, or one row for the command of a scenario."""
    return SUITES.get(command, (Row("", command),))


MOST_RATIO = 1.05
#: Costs of the server per unit, which have a limit.
COSTS = ("cpu_us", "rss_connection_bytes", "pss_connection_bytes", "rss_empty_mb")


def is_cost(name: str) -> bool:
    """Whether a figure is a cost of the server per unit."""
    return name.endswith(COSTS) and "generator" not in name and "redis" not in name


def measure(tree: Path, command: str, tool: Path) -> Json:
    """Measure the server of the source tree ``tree`` with the load tool of the
    tree ``tool``.

    Returns its figures. Raises BenchError if the tool fails.
    """
    words = [sys.executable, "-m", "imserver", "bench", *command.split(), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tool)}
    if tool != tree:
        environment[SERVER_TREE] = str(tree)
    done = subprocess.run(
        words, cwd=tool, env=environment, capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip() or done.stdout.strip())[-1000:]
        raise BenchError(
            f"`imserver bench {command}` failed for {tree}:\n{last}"
        ) from None
    report: Json = found["reports"][0] if "reports" in found else found
    return report


def compare(
    command: str, other: Path, pairs: int, *, one_tool: bool = False
) -> list[Json]:
    """Run each row of ``command`` in this tree and in ``other``, ``pairs``
    times; return a row a figure.

    ``ratio`` is the median of this tree's value divided by the other's, pair by
    pair; ``over``: it is a cost, and above the limit, or this tree lost
    something in a run. With ``one_tool`` the load tool of this tree measures
    both servers.
    """
    found = []
    for row in suite_of(command):
        runs: dict[str, list[tuple[float, float]]] = {}
        for number in range(pairs):
            show_phase(f"{row.title or command}, pair {number + 1} of {pairs}")
            ours = measure(SOURCE, row.command, SOURCE)
            theirs = measure(other, row.command, SOURCE if one_tool else other)
            for name, value in ours["figures"].items():
                their = theirs["figures"].get(name)
                if their is not None and value is not None:
                    runs.setdefault(name, []).append((value, their))
        found += [
            _row(row.title, row.command, name, each) for name, each in runs.items()
        ]
    return found


def _row(title: str, command: str, name: str, each: list[tuple[float, float]]) -> Json:
    ratios = [ours / theirs for ours, theirs in each if theirs]
    if ratios:
        ratio = statistics.median(ratios)
    else:
        ratio = None
    ours, theirs = (statistics.median(values) for values in zip(*each, strict=True))
    lost = name in FAULTS and ours > theirs
    return {
        "title": title,
        "command": f"imserver bench {command}",
        "figure": name,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "ratios": ratios,
        "cost": is_cost(name),
        "over": lost or (is_cost(name) and ratio is not None and ratio > MOST_RATIO),
    }
