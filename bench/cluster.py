"""``imserver bench cluster``: what nodes cost each other, what Redis costs them, and the death of a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from bench import backend, fanout, push
from bench.crew import Progress
from bench.echo import echo
from bench.fanout import FanoutOptions
from bench.figures import Figures, with_faults_of
from bench.generator import OPEN_WINDOW, close_connections
from bench.latency import Latency
from bench.nodes import Nodes, since, spread
from bench.opening import move, stand_by
from bench.push import PushOptions
from bench.servers import redis_facts
from bench.stage import MOST_IN_PROCESS, Stage, parameter, seconds_parameter, text_parameter

WARM_UP_SECONDS = 0.5
PACE = 20.0
#: Back ends that push at once, one request each: so many messages may share a look at Redis and a batch.
FLAT_CLIENTS = 64
HERE = 0


@dataclass(frozen=True)
class ClusterOptions:
    """Parameters of all parts."""

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


@dataclass
class Play:
    """What a part plays with."""

    nodes: Nodes
    options: ClusterOptions
    progress: Progress | None = None
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def there(self) -> int:
        return len(self.nodes.targets) - 1

    def stage(self, connect: int, ask: int = HERE) -> Stage:
        """Return a stage; see :meth:`.nodes.Nodes.stage`."""
        return self.nodes.stage(connect, ask, self.progress)


def count_in_redis(play: Play) -> Figures:
    """Logins, heartbeats and pushes: round trips and commands of the registry, by the nodes' own count."""
    nodes, options = play.nodes, play.options
    figures: Figures = {}
    stages = [play.stage(number) for number in range(len(nodes.targets))]

    def counted(unit: str, work: Callable[[], float]) -> None:
        before, calls = nodes.counters(), redis_facts(nodes.redis)
        count = max(work(), 1)
        after, calls_after = nodes.counters(), redis_facts(nodes.redis)
        figures[f"{unit}_round_trips"] = since(after, before, "imserver_registry_round_trips_total") / count
        figures[f"{unit}_commands"] = since(after, before, "imserver_registry_commands_total") / count
        figures[f"{unit}_redis_cpu_us"] = (calls_after.cpu_us - calls.cpu_us) / count
        play.notes[f"{unit}: calls in Redis"] = calls_after.calls_since(calls)

    hands = []

    def log_in() -> float:
        hands.extend(spread(stages, options.logins))
        return options.logins

    counted("login", log_in)

    def beat() -> float:
        answers = stages[0].ask(hands, echo, seconds=options.seconds, command="heartbeat")
        figures["errors"] = sum(answer["wrong"] + answer["unanswered"] for answer in answers)
        return float(sum(answer["round_trips"] for answer in answers))

    counted("heartbeat", beat)

    def push_there() -> float:
        paced = PushOptions(users=options.users, rate=options.rate, seconds=options.seconds)
        found = push.measure(play.stage(play.there), hands[-1:], paced, options.seconds)
        figures["lost"] = found["lost"]
        return found["messages"] or 0

    counted("push", push_there)
    stages[0].ask(hands, close_connections)
    return figures


def push_across(play: Play) -> Figures:
    """Pushes to users on another node, at a pace: latency, and what goes from node to node."""
    options, stage = play.options, play.stage(play.there)
    hands = stage.hire(1)
    stage.open(hands, options.users)
    paced = PushOptions(users=options.users, rate=options.rate, seconds=options.seconds)
    warm_up = push.measure(stage, hands, paced, WARM_UP_SECONDS)
    before = play.nodes.counters()
    found = with_faults_of(warm_up, push.measure(stage, hands, paced, options.seconds))
    after = play.nodes.counters()
    stage.ask(hands, close_connections)
    return {
        **found,
        "rpc_events": since(after, before, "imserver_rpc_sent_total"),
        "rpc_batches": since(after, before, "imserver_rpc_batches_sent_total"),
    }


def forward(play: Play, bulk: int = 0) -> Figures:
    """Pushes flat out, to users on the node that is asked and to users on another one."""
    options = play.options
    ways = {}
    wanted = PushOptions(users=options.users, bulk=bulk, seconds=options.seconds)
    figures: Figures = {}
    for way, connect in (("here", HERE), ("there", play.there)):
        stage = play.stage(connect)
        hands = stage.hire(1)
        stage.open(hands, options.users)
        warm_up = push.measure(stage, hands, wanted, WARM_UP_SECONDS)
        before = play.nodes.counters()
        ways[way] = with_faults_of(warm_up, push.measure(stage, hands, wanted, options.seconds))
        after = play.nodes.counters()
        stage.ask(hands, close_connections)
        figures[f"{way}_per_second"] = ways[way]["measured_per_second"]
        figures[f"{way}_cpu_us"] = ways[way]["cpu_us"]
    events = since(after, before, "imserver_rpc_sent_total")
    batches = since(after, before, "imserver_rpc_batches_sent_total")
    here, there = ways["here"], ways["there"]
    figures |= {
        "forward_cpu_us": (there["cpu_us"] or 0) - (here["cpu_us"] or 0),
        "rpc_events": events,
        "rpc_batches": batches,
        "events_a_batch": events / batches if batches else None,
        "generator_cpu_us": there["generator_cpu_us"],
        "p50_ms": there["p50_ms"],
        "p99_ms": there["p99_ms"],
    }
    for fault in ("lost", "doubled", "refused", "dropped"):
        figures[fault] = (here[fault] or 0) + (there[fault] or 0)
    return figures


def forward_bulk(play: Play) -> Figures:
    """The same in bulk requests: the events of one share a batch."""
    return forward(play, play.options.bulk)


def broadcast(play: Play) -> Figures:
    """A broadcast to as many receivers: on a server that is alone, on one node, and spread over the nodes."""
    options = play.options
    alone = play.nodes.alone(play.progress)
    # Who pushes receives on the last node: nobody gets it later than those.
    stages = [play.stage(number) for number in reversed(range(len(play.nodes.targets)))]
    places = {"alone": [alone] * len(stages), "one": [stages[-1]] * len(stages), "many": stages}
    ways = {
        "paced": FanoutOptions(receivers=options.receivers, rate=PACE, seconds=options.seconds),
        "flat": FanoutOptions(
            receivers=options.receivers, seconds=options.seconds, clients=FLAT_CLIENTS, depth=1
        ),
    }
    figures: Figures = dict.fromkeys(("lost", "doubled", "refused", "dropped"), 0)
    for place, where in places.items():
        hands = spread(where, options.receivers)  # as many processes receive everywhere
        for way, wanted in ways.items():
            warm_up = fanout.measure(where[0], hands, wanted, WARM_UP_SECONDS)
            found = with_faults_of(warm_up, fanout.measure(where[0], hands, wanted, options.seconds))
            figures[f"{way}_{place}_cpu_us"] = found["cpu_us"]
            figures[f"{way}_{place}_per_second"] = found["measured_per_second"]
            if place == "many":
                figures[f"{way}_p50_ms"], figures[f"{way}_p99_ms"] = found["p50_ms"], found["p99_ms"]
            for fault in ("lost", "doubled", "refused", "dropped"):
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
    options, nodes = play.options, play.nodes
    here, there = play.stage(HERE), play.stage(play.there)
    (bystander,) = here.hire(1)
    here.open([bystander], BYSTANDERS)
    (mover,) = there.hire(1)
    there.open([mover], options.clients, first=BYSTANDERS)
    (goner,) = there.hire(1)
    first_gone = BYSTANDERS + options.clients
    there.open([goner], GONE, first=first_gone)
    asker, other = here.hire(2)
    bystander.ask(stand_by, seconds=GIVE_UP_SECONDS)
    mover.ask(
        move,
        target=asdict(nodes.targets[HERE]),
        first=BYSTANDERS,
        count=options.clients,
        window=OPEN_WINDOW,
        seconds=GIVE_UP_SECONDS,
    )
    killed = nodes.kill(play.there)
    here.pids = tuple(nodes.pids)
    asker.ask(backend.wait_online, first=first_gone, users=GONE, until=0, seconds=GIVE_UP_SECONDS)
    moved, gone = here.gather([mover, asker])
    bystander.stop()
    (stood,) = here.gather([bystander])
    asker.ask(backend.wait_online, first=BYSTANDERS, users=options.clients, until=-1, seconds=0)
    other.ask(backend.count_users)
    back, listed = here.gather([asker, other])
    pings = Latency.merged([stood["latency"]])
    returned = moved["opened"]
    return {
        "returned": returned,
        "missing": options.clients - returned,
        "errors": sum(moved["errors"].values()),
        "seconds": moved["end"] - killed,
        "open_p99_ms": Latency.merged([moved["latency"]]).percentile_ms(99),
        "offline_seconds": gone["at"] - killed,
        "ghosts": gone["online"],
        "shown_online": back["online"],
        "miscounted": abs(listed["count"] - returned - BYSTANDERS) + returned - back["online"],
        "bystanders_lost": stood["lost"],
        "bystander_pings": pings.count,
        "pings_unanswered": stood["unanswered"],
        **{f"ping_{name}": value for name, value in pings.figures().items()},
    }


END = "bench.rpc_end"
ITEM_BYTES = 150
RPC_WARM_UP_SECONDS = 0.2


def rpc_alone(play: Play) -> Figures:
    """Send items from one process to another, encrypted: 1, 10 and 100 a batch flat out, and at a pace."""
    crew, options = play.nodes.crew, play.options
    sender, receiver = hands = crew.hire(2, END)
    stage = Stage(play.nodes.targets[0], tuple(hand.process.pid for hand in hands), crew, play.progress)
    there = stage.ask([receiver], "tell")[0]
    here = stage.ask([sender], "tell")[0]
    stage.ask([sender], "meet", **there)
    stage.ask([receiver], "meet", **here)
    expected = stage.ask([receiver], "wait", received=1)[0]["received"]
    figures: Figures = {}
    for batch in (1, 10, 100):
        for seconds in (RPC_WARM_UP_SECONDS, options.seconds):
            with stage.measured() as span:
                (sent,) = stage.ask([sender], "flood", batch=batch, item_bytes=ITEM_BYTES, seconds=seconds)
                expected += sent["sent"]
                (got,) = stage.ask([receiver], "wait", received=expected)
        figures[f"rpc_{batch}_per_second"] = sent["sent"] / sent["seconds"]
        figures[f"rpc_{batch}_cpu_us"] = span.server_us / sent["sent"]
        figures[f"rpc_{batch}_events_a_batch"] = sent["sent"] / max(sent["batches"], 1)
    stage.ask([receiver], "clock", on=True)
    (paced,) = stage.ask([sender], "pace", rate=options.rate, item_bytes=ITEM_BYTES, seconds=options.seconds)
    expected += paced["sent"]
    (got,) = stage.ask([receiver], "wait", received=expected)
    (timed,) = stage.ask([receiver], "clock", on=False)
    figures |= Latency.merged([timed["latency"]]).figures()
    figures["lost"] = expected - got["received"]
    return figures


PARTS: dict[str, Callable[[Play], Figures]] = {
    "redis": count_in_redis,
    "push": push_across,
    "forward": forward,
    "bulk": forward_bulk,
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
