"""``imserver bench cluster``: the cost of nodes for each other and of Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.request import urlopen

from bench import proc
from bench.connections import Target
from bench.context import (
    MOST_IN_PROCESS,
    RunContext,
    parameter,
    seconds_parameter,
    shares,
    text_parameter,
)
from bench.figures import Figures, with_faults_of
from bench.generator import close_connections
from bench.loop import BenchError
from bench.push import FanoutOptions, PushOptions, Sending, measure, subscribe_all
from bench.servers import NodeProcess, RedisProcess, Worker, WorkerPool, redis_facts
from bench.session_scenarios import beat

WARM_UP_SECONDS = 0.5
METRICS_SECONDS = 10.0
JOIN_SECONDS = 30.0
FAULTS = ("lost", "doubled", "refused", "dropped")


class Nodes:
    """``count`` nodes, each with its own address, and their Redis: the one at
    ``redis_url``, or a new one."""

    def __init__(
        self,
        pool: WorkerPool,
        count: int,
        app: int,
        log: str = "file",
        redis_url: str = "",
        redis_server: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.pool = pool
        self.app = app
        self.log = log
        self.redis = redis_url or pool.start(RedisProcess(redis_server)).url
        self.nodes: list[NodeProcess] = []
        self.folder = ""
        settings = {
            "IMSERVER_REDIS_URL": self.redis,
            "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
        }
        settings |= environment or {}
        for _ in range(count):
            own = pool.start(
                NodeProcess(log, environment=settings, data_directory=self.folder)
            )
            self.folder = self.folder or own.data_directory
            self.nodes.append(own)
        deadline = time.monotonic() + JOIN_SECONDS
        wanted = count**2
        while (known := self.counters().get("imserver_cluster_nodes", 0)) < wanted:
            if time.monotonic() > deadline:
                raise BenchError(
                    f"the nodes do not find each other: {known:g} of {wanted} ways are known"
                )
            time.sleep(0.1)

    @property
    def targets(self) -> list[Target]:
        return [replace(node.target, app=self.app) for node in self.nodes]

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(node.process.pid for node in self.nodes)

    def counters(self) -> dict[str, float]:
        """Return the counters of the metrics, each summed over all nodes."""
        url = f"http://{self.targets[0].http_host}:{self.targets[0].http_port}/metrics"
        with urlopen(url, timeout=METRICS_SECONDS) as answer:
            text: str = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in re.findall(
            r"^(\w+_total|imserver_cluster_nodes)(?:\{.*\})? (\S+)$", text, re.M
        ):
            found[name] = found.get(name, 0.0) + float(value)
        return found


class ClusterRun:
    """The nodes, and the context in which requests go to the first of them. It
    counts the CPU of all."""

    def __init__(self, nodes: Nodes, options: ClusterOptions) -> None:
        self.nodes = nodes
        self.options = options
        self.here, *_, self.there = nodes.targets
        self.context = RunContext(self.here, nodes.pids, nodes.pool)

    def open(
        self, count: int, end: Target, first: int = 0, dialect: str = "cmd"
    ) -> Worker:
        """Log users in at a node, in a process of their own."""
        (worker,) = self.context.start_workers(1)
        self.context.open([worker], count, first=first, dialect=dialect, end=end)
        return worker

    def counted(self, before: dict[str, float]) -> dict[str, float]:
        return {
            name: value - before.get(name, 0.0)
            for name, value in self.nodes.counters().items()
        }

    def pushes(self, bulk: int = 0, rate: float = 0.0) -> Sending:
        return PushOptions(users=self.options.users, bulk=bulk, rate=rate).sending

    def push_to(self, end: Target, how: Sending) -> Figures:
        """Push to users of the node ``end``, with the RPC of the nodes.

        All costs are per message, also where each message has many receivers.
        """
        options = self.options
        context = self.context
        if how.kind == "channel":
            count = options.receivers
        else:
            count = options.users
        worker = self.open(
            count, end, dialect="cmd-cursor" if how.kind == "stored" else "cmd"
        )
        if how.kind == "channel":
            context.ask([worker], subscribe_all, count=count)
        warm_up = measure(context, worker, how, WARM_UP_SECONDS)
        sockets = self.nodes.pids[self.nodes.targets.index(end)]
        pids = {"api_node_cpu_us": self.nodes.pids[0], "socket_node_cpu_us": sockets}
        counters = self.nodes.counters()
        redis = redis_facts(self.nodes.redis)
        before = {name: proc.cpu((pid,)) for name, pid in pids.items()}
        found = with_faults_of(warm_up, measure(context, worker, how, options.seconds))
        spent = {
            name: proc.cpu((pid,)).since(before[name]) for name, pid in pids.items()
        }
        spent["redis_cpu_us"] = redis_facts(self.nodes.redis).cpu_us - redis.cpu_us
        counted = self.counted(counters)
        context.ask([worker], close_connections)
        messages = max(found["messages"] or 0, 1)
        receivers = count if how.kind == "channel" else 1
        events, batches = (
            counted.get(f"imserver_rpc_{name}_total", 0.0)
            for name in ("sent", "batches_sent")
        )
        return {
            **found,
            "messages_per_second": (found["measured_per_second"] or 0) / receivers,
            **{
                name: (found[name] or 0) * receivers
                for name in ("cpu_us", "generator_cpu_us")
            },
            **{name: each / messages for name, each in spent.items()},
            "rpc_events": events,
            "rpc_batches": batches,
            "events_a_batch": events / max(batches, 1),
        }


def count_in_redis(run: ClusterRun) -> Figures:
    """Logins, heartbeats and pushes: round trips and commands of the registry,
    counted by the nodes."""
    nodes = run.nodes
    options = run.options
    workers = list[Worker]()
    figures = dict[str, float | None]()

    def counted(unit: str, work: Callable[[], float]) -> None:
        before = nodes.counters()
        spent_us = redis_facts(nodes.redis).cpu_us
        count = max(work(), 1)
        counters = run.counted(before)
        spent_us = redis_facts(nodes.redis).cpu_us - spent_us
        for name in ("round_trips", "commands"):
            figures[f"{unit}_{name}"] = (
                counters.get(f"imserver_registry_{name}_total", 0.0) / count
            )
        figures[f"{unit}_redis_cpu_us"] = spent_us / count

    def log_in() -> float:
        for end, first, share in shares(nodes.targets, options.logins):
            workers.append(run.open(share, end, first))
        return options.logins

    def beat_all() -> float:
        answers = run.context.ask(workers, beat, seconds=options.seconds)
        figures["errors"] = sum(answer["unanswered"] for answer in answers)
        return float(sum(answer["answered"] for answer in answers))

    def push_there() -> float:
        found = measure(
            run.context, workers[-1], run.pushes(rate=options.rate), options.seconds
        )
        figures["lost"] = found["lost"]
        return found["messages"] or 0

    counted("login", log_in)
    counted("heartbeat", beat_all)
    counted("push", push_there)
    run.context.ask(workers, close_connections)
    return figures


def forward(run: ClusterRun, bulk: int = 0) -> Figures:
    """Pushes at full speed, to users on the same node and on another one."""
    how = run.pushes(bulk)
    here = run.push_to(run.here, how)
    there = run.push_to(run.there, how)
    return {
        "here_per_second": here["measured_per_second"],
        "here_cpu_us": here["cpu_us"],
        **there,
        "forward_cpu_us": (there["cpu_us"] or 0) - (here["cpu_us"] or 0),
        **{fault: (here[fault] or 0) + (there[fault] or 0) for fault in FAULTS},
    }


PARTS: dict[str, Callable[[ClusterRun], Figures]] = {
    "redis": count_in_redis,
    "push": lambda run: run.push_to(run.there, run.pushes(rate=run.options.rate)),
    "forward": forward,
    "bulk": lambda run: forward(run, run.options.bulk),
    "channel": lambda run: run.push_to(run.there, FanoutOptions(channel=True).sending),
    "stored": lambda run: run.push_to(run.there, replace(run.pushes(), kind="stored")),
}


@dataclass(frozen=True)
class ClusterOptions:
    part: str = text_parameter("", "Only this part [default: all].", ("", *PARTS))
    nodes: int = parameter(2, "Nodes of the cluster.", least=2, most=32)
    users: int = parameter(
        1000, "Connected users who get the pushes in turn.", most=MOST_IN_PROCESS
    )
    logins: int = parameter(
        5000, "Logins whose Redis operations are counted.", most=MOST_IN_PROCESS
    )
    receivers: int = parameter(
        500, "Receivers of each broadcast or publication.", least=2, most=10_000
    )
    rate: float = parameter(
        500.0, "Pushes a second to users on another node.", most=20_000
    )
    bulk: int = parameter(1000, "Messages of a bulk request.", most=10_000)
    seconds: float = seconds_parameter(3.0, "How long each measurement takes")
    redis: str = text_parameter("", "The URL of a Redis [default: start one].")
    redis_server: str = text_parameter(
        "", "The redis-server to start [default: the one in PATH]."
    )


def run(context: RunContext, options: ClusterOptions) -> Figures:
    """Measure one part on its own nodes."""
    own = (context.log, options.redis, options.redis_server)
    nodes = Nodes(context.pool, options.nodes, context.target.app, *own)
    return PARTS[options.part](ClusterRun(nodes, options))
