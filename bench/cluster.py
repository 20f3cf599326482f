"""``imserver bench cluster``: what nodes cost each other, what Redis costs them, and the death of a node."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from urllib.request import urlopen

from bench import backend
from bench.connections import Target
from bench.crew import Crew, Hand, Progress
from bench.figures import Figures, with_faults_of
from bench.generator import close_connections
from bench.latency import Latency
from bench.loop import BenchError
from bench.opening import bystander_figures, echo, move, stand_by
from bench.push import FanoutOptions, PushOptions, Sending, measure, measure_warm
from bench.servers import redis_facts
from bench.stage import MOST_IN_PROCESS, Stage, parameter, seconds_parameter, shares, text_parameter

WARM_UP_SECONDS = 0.5
PACE = 20.0
#: Back ends that push at once, one request each: so many messages may share a look at Redis and a batch.
FLAT_CLIENTS = 64
HERE = 0
METRICS_SECONDS = 10.0
JOIN_SECONDS = 30.0
FAULTS = ("lost", "doubled", "refused", "dropped")


class Nodes:
    """``count`` nodes, each reached alone. Owns their processes, which workers of the crew keep, and a Redis.

    That is the one at ``redis_url``, or one of their own, started from ``redis_server``.
    """

    def __init__(
        self,
        crew: Crew,
        count: int,
        app: int,
        log: str = "file",
        redis_url: str = "",
        redis_server: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.crew = crew
        self.app = app
        self.log = log
        self.redis = redis_url or crew.serve_redis(redis_server)[1]
        self.targets: list[Target] = []
        self.pids: list[int] = []
        self.folder = ""
        settings = {"IMSERVER_REDIS_URL": self.redis, "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1"}
        settings |= environment or {}
        for _ in range(count):
            own = crew.serve(log=log, environment=settings, data_directory=self.folder)
            self.folder = self.folder or own.folder
            self.targets.append(replace(own.target, app=app))
            self.pids.append(own.pids[0])
        deadline, wanted = time.monotonic() + JOIN_SECONDS, count**2
        while (known := self.counters().get("imserver_cluster_nodes", 0)) < wanted:
            if time.monotonic() > deadline:
                raise BenchError(f"the nodes do not find each other: {known:g} of {wanted} ways are known")
            time.sleep(0.1)

    def stage(self, connect: int, ask: int, progress: Progress | None) -> Stage:
        """Return a stage whose clients connect to one node and whose pushes go to another.

        What it counts is the CPU of all nodes.
        """
        http = self.targets[ask]
        target = replace(self.targets[connect], http_host=http.http_host, http_port=http.http_port)
        return Stage(target, tuple(self.pids), self.crew, progress)

    def counters(self) -> dict[str, float]:
        """Return the metrics that only count, each summed over all nodes."""
        url = f"http://{self.targets[0].http_host}:{self.targets[0].http_port}/metrics"
        with urlopen(url, timeout=METRICS_SECONDS) as answer:
            text: str = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+_total|imserver_cluster_nodes)(?:\{.*\})? (\S+)$", text, re.M):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def kill(self, number: int) -> float:
        """Kill a node without a warning; return when. It counts no longer."""
        os.kill(self.pids.pop(number), signal.SIGKILL)
        del self.targets[number]
        return time.monotonic()


@dataclass(frozen=True)
class ClusterOptions:
    part: str = text_parameter("", "Which part.")
    nodes: int = parameter(2, "Nodes of the cluster.", least=2, most=32)
    users: int = parameter(1000, "Connected users that are pushed to in turn.", most=MOST_IN_PROCESS)
    logins: int = parameter(5000, "Logins whose Redis operations are counted.", most=MOST_IN_PROCESS)
    receivers: int = parameter(500, "Connections that receive each broadcast.", least=2, most=10_000)
    rate: float = parameter(500.0, "Pushes a second to users on another node.", most=20_000)
    bulk: int = parameter(1000, "Messages of a bulk request.", most=10_000)
    clients: int = parameter(2000, "Connections on the node that is killed.", most=MOST_IN_PROCESS)
    seconds: float = seconds_parameter(3.0, "How long each measurement takes")
    redis: str = text_parameter("", "The URL of a Redis [default: start one].")
    redis_server: str = text_parameter("", "The redis-server to start [default: one that is found].")


class Play:
    def __init__(self, nodes: Nodes, options: ClusterOptions, progress: Progress | None) -> None:
        self.nodes = nodes
        self.options = options
        self.progress = progress
        self.there = len(nodes.targets) - 1
        self.notes: dict[str, object] = {}
        self._counted: dict[str, float] = {}

    def stage(self, connect: int, ask: int = HERE) -> Stage:
        return self.nodes.stage(connect, ask, self.progress)

    def count(self) -> None:
        self._counted = self.nodes.counters()

    def counted(self) -> dict[str, float]:
        return {name: value - self._counted.get(name, 0.0) for name, value in self.nodes.counters().items()}

    def pushes(self, bulk: int = 0, rate: float = 0.0) -> Sending:
        return PushOptions(users=self.options.users, bulk=bulk, rate=rate).sending

    def push_to(self, node: int, how: Sending) -> Figures:
        """Push to users on ``node``, with the RPC of the nodes."""
        stage = self.stage(node)
        hands = stage.hire(1)
        stage.open(hands, self.options.users)
        warm_up = measure(stage, hands, how, WARM_UP_SECONDS)
        self.count()
        found = with_faults_of(warm_up, measure(stage, hands, how, self.options.seconds))
        counted = self.counted()
        stage.ask(hands, close_connections)
        rpc = {"rpc_events": "imserver_rpc_sent_total", "rpc_batches": "imserver_rpc_batches_sent_total"}
        return {**found, **{figure: counted.get(name, 0.0) for figure, name in rpc.items()}}


def spread(stages: list[Stage], users: int) -> list[Hand]:
    """Log ``users`` in, as many on each of ``stages``, with a process for each; return the processes."""
    hands = []
    for stage, first, share in shares(stages, users):
        (hand,) = stage.hire(1)
        stage.open([hand], share, first=first)
        hands.append(hand)
    return hands


def count_in_redis(play: Play) -> Figures:
    """Logins, heartbeats and pushes: round trips and commands of the registry, by the nodes' own count."""
    nodes, options, hands = play.nodes, play.options, list[Hand]()
    figures: Figures = {}
    stages = [play.stage(number) for number in range(len(nodes.targets))]

    def counted(unit: str, work: Callable[[], float]) -> None:
        play.count()
        calls = redis_facts(nodes.redis)
        count = max(work(), 1)
        counters, after = play.counted(), redis_facts(nodes.redis)
        for name in ("round_trips", "commands"):
            figures[f"{unit}_{name}"] = counters.get(f"imserver_registry_{name}_total", 0.0) / count
        figures[f"{unit}_redis_cpu_us"] = (after.cpu_us - calls.cpu_us) / count
        play.notes[f"{unit}: calls in Redis"] = after.calls_since(calls)

    def log_in() -> float:
        hands.extend(spread(stages, options.logins))
        return options.logins

    def beat() -> float:
        answers = stages[0].ask(hands, echo, seconds=options.seconds, command="heartbeat")
        figures["errors"] = sum(answer["wrong"] + answer["unanswered"] for answer in answers)
        return float(sum(answer["round_trips"] for answer in answers))

    def push_there() -> float:
        how = play.pushes(rate=options.rate)
        found = measure(play.stage(play.there), hands[-1:], how, options.seconds)
        figures["lost"] = found["lost"]
        return found["messages"] or 0

    counted("login", log_in)
    counted("heartbeat", beat)
    counted("push", push_there)
    stages[0].ask(hands, close_connections)
    return figures


def push_across(play: Play) -> Figures:
    """Pushes to users on another node, at a pace: latency, and what goes from node to node."""
    return play.push_to(play.there, play.pushes(rate=play.options.rate))


def forward(play: Play, bulk: int = 0) -> Figures:
    """Pushes flat out, to users on the node that is asked and to users on another one."""
    how = play.pushes(bulk)
    here, there = play.push_to(HERE, how), play.push_to(play.there, how)
    events, batches = there["rpc_events"] or 0, there["rpc_batches"]
    return {
        "here_per_second": here["measured_per_second"],
        "here_cpu_us": here["cpu_us"],
        "there_per_second": there["measured_per_second"],
        "there_cpu_us": there["cpu_us"],
        "forward_cpu_us": (there["cpu_us"] or 0) - (here["cpu_us"] or 0),
        "rpc_events": events,
        "rpc_batches": batches,
        "events_a_batch": events / batches if batches else None,
        **{name: there[name] for name in ("generator_cpu_us", "p50_ms", "p99_ms")},
        **{fault: (here[fault] or 0) + (there[fault] or 0) for fault in FAULTS},
    }


def broadcast(play: Play) -> Figures:
    """A broadcast to as many receivers: on a server that is alone, on one node, and spread over the nodes."""
    options, nodes = play.options, play.nodes
    own = nodes.crew.serve(log=nodes.log)
    alone = Stage(replace(own.target, app=nodes.app), own.pids[:1], nodes.crew, play.progress)
    # Who pushes receives on the last node: nobody gets it later than those.
    stages = [play.stage(number) for number in reversed(range(len(nodes.targets)))]
    places = {"alone": [alone] * len(stages), "one": [stages[-1]] * len(stages), "many": stages}
    ways = {"paced": FanoutOptions(rate=PACE).sending, "flat": Sending("all", FLAT_CLIENTS)}
    figures: Figures = dict.fromkeys(FAULTS, 0)
    for place, where in places.items():
        hands = spread(where, options.receivers)  # as many processes receive everywhere
        for way, how in ways.items():
            found = measure_warm(where[0], hands, how, options.seconds, WARM_UP_SECONDS)
            figures[f"{way}_{place}_cpu_us"] = found["cpu_us"]
            figures[f"{way}_{place}_per_second"] = found["measured_per_second"]
            if place == "many":
                figures[f"{way}_p50_ms"], figures[f"{way}_p99_ms"] = found["p50_ms"], found["p99_ms"]
            for fault in FAULTS:
                figures[fault] = (figures[fault] or 0) + (found[fault] or 0)
        where[0].ask(hands, close_connections)
    for way in ways:
        one, many = figures[f"{way}_one_cpu_us"], figures[f"{way}_many_cpu_us"]
        figures[f"{way}_ratio"] = many / one if many and one else None
    return figures


BYSTANDERS = 200
#: Users of the killed node who do not come back.
GONE = 100
GIVE_UP_SECONDS = 60.0


def kill_a_node(play: Play) -> Figures:
    """Kill the last node without a warning.

    Its clients go to the first one, where bystanders ping meanwhile; users who do not come back have to be
    offline for everybody within the lease.
    """
    clients, nodes = play.options.clients, play.nodes
    here, there = play.stage(HERE), play.stage(play.there)
    (bystander,) = here.hire(1)
    here.open([bystander], BYSTANDERS)
    mover, goner = there.hire(2)
    there.open([mover], clients, first=BYSTANDERS)
    there.open([goner], GONE, first=BYSTANDERS + clients)
    asker, other = here.hire(2)
    bystander.ask(stand_by, seconds=GIVE_UP_SECONDS)
    target = asdict(nodes.targets[HERE])
    mover.ask(move, target=target, first=BYSTANDERS, count=clients, seconds=GIVE_UP_SECONDS)
    killed = nodes.kill(play.there)
    asker.ask(backend.wait_online, first=BYSTANDERS + clients, users=GONE, until=0, seconds=GIVE_UP_SECONDS)
    moved, gone = here.gather([mover, asker])
    bystander.stop()
    (stood,) = here.gather([bystander])
    asker.ask(backend.wait_online, first=BYSTANDERS, users=clients, until=-1, seconds=0)
    other.ask(backend.count_users)
    back, listed = here.gather([asker, other])
    returned = moved["opened"]
    return {
        "returned": returned,
        "missing": clients - returned,
        "errors": sum(moved["errors"].values()),
        "seconds": moved["end"] - killed,
        "open_p99_ms": Latency.merged([moved["latency"]]).percentile_ms(99),
        "offline_seconds": gone["at"] - killed,
        "ghosts": gone["online"],
        "shown_online": back["online"],
        "miscounted": abs(listed["count"] - returned - BYSTANDERS) + returned - back["online"],
        **bystander_figures(stood),
    }


END = "bench.rpc_end"
ITEM_BYTES = 150
RPC_WARM_UP_SECONDS = 0.2


def rpc_alone(play: Play) -> Figures:
    """Send items from one process to another, encrypted: 1, 10 and 100 a batch flat out, and at a pace."""
    crew, options = play.nodes.crew, play.options
    sender, receiver = hands = crew.hire(2, END)
    stage = Stage(play.nodes.targets[0], tuple(hand.process.pid for hand in hands), crew, play.progress)
    crew.ask(sender, "meet", **crew.ask(receiver, "tell"))
    crew.ask(receiver, "meet", **crew.ask(sender, "tell"))
    expected = crew.ask(receiver, "wait", received=1)["received"]
    figures: Figures = {}
    for batch in (1, 10, 100):
        for seconds in (RPC_WARM_UP_SECONDS, options.seconds):
            with stage.measured() as span:
                sent = crew.ask(sender, "flood", batch=batch, item_bytes=ITEM_BYTES, seconds=seconds)
                expected += sent["sent"]
                crew.ask(receiver, "wait", received=expected)
        figures[f"rpc_{batch}_per_second"] = sent["sent"] / sent["seconds"]
        figures[f"rpc_{batch}_cpu_us"] = span.server_us / sent["sent"]
        figures[f"rpc_{batch}_events_a_batch"] = sent["sent"] / max(sent["batches"], 1)
    crew.ask(receiver, "clock", on=True)
    paced = crew.ask(sender, "pace", rate=options.rate, item_bytes=ITEM_BYTES, seconds=options.seconds)
    expected += paced["sent"]
    got = crew.ask(receiver, "wait", received=expected)
    timed = crew.ask(receiver, "clock", on=False)
    return {
        **figures,
        **Latency.merged([timed["latency"]]).figures(),
        "lost": expected - got["received"],
    }


PARTS: dict[str, Callable[[Play], Figures]] = {
    "redis": count_in_redis,
    "push": push_across,
    "forward": forward,
    "bulk": lambda play: forward(play, play.options.bulk),
    "broadcast": broadcast,
    "rpc": rpc_alone,
    "storm": kill_a_node,
}


def run(stage: Stage, options: ClusterOptions) -> Figures:
    """Measure one part on nodes of its own."""
    nodes = Nodes(stage.crew, options.nodes, stage.app, stage.log, options.redis, options.redis_server)
    play = Play(nodes, options, stage.progress)
    figures = PARTS[options.part](play)
    stage.extra["notes"] = play.notes
    return figures
