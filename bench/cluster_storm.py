"""The part of ``imserver bench cluster`` in which a node is killed: its clients come back elsewhere."""

from __future__ import annotations

from dataclasses import asdict

from bench.cluster import HERE, Play
from bench.generator import OPEN_WINDOW
from bench.latency import Latency
from bench.stage import Figures

BYSTANDERS = 200
#: Users of the killed node who do not come back.
GONE = 100
GIVE_UP_SECONDS = 60.0


def storm(play: Play) -> Figures:
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
    bystander.ask("storm.stand", seconds=GIVE_UP_SECONDS)
    mover.ask(
        "storm.move",
        target=asdict(nodes.targets[HERE]),
        first=BYSTANDERS,
        count=options.clients,
        window=OPEN_WINDOW,
        seconds=GIVE_UP_SECONDS,
    )
    killed = nodes.kill(play.there)
    here.pids = tuple(nodes.pids)
    asker.ask("backend.online", first=first_gone, users=GONE, until=0, seconds=GIVE_UP_SECONDS)
    moved, gone = here.gather([mover, asker])
    bystander.stop()
    (stood,) = here.gather([bystander])
    asker.ask("backend.online", first=BYSTANDERS, users=options.clients, until=-1, seconds=0)
    other.ask("backend.count")
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
