"""The part of ``imserver bench cluster`` that measures the RPC alone: two ends, no clients, no Redis."""

from __future__ import annotations

from bench.cluster import Play
from bench.latency import Latency
from bench.stage import Figures, Stage

END = "bench.rpc_end"
ITEM_BYTES = 150
WARM_UP_SECONDS = 0.2


def rpc(play: Play) -> Figures:
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
        for seconds in (WARM_UP_SECONDS, options.seconds):
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
