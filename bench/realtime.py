"""Scenario ``realtime``: each user publishes to a channel of its own and to one of six users, as in the
benchmark that Supabase publishes of its Realtime servers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

from bench.channels import DIALECT, subscribe_each
from bench.connections import Connection
from bench.context import MOST_CONNECTIONS, MOST_IN_PROCESS, RunContext, parameter, seconds_parameter, shares
from bench.figures import Figures, with_faults_of
from bench.frames import client_frame, frame_template
from bench.generator import Generator
from bench.latency import Latency, stamp_us
from bench.loop import BenchError, Json
from bench.push import new_tag
from bench.tally import Receipts, Tally
from bench.workers import Worker

MEMBERS = 6
WARM_UP_SECONDS = 1.0
ANSWER_SECONDS = 30.0
NAMESPACES = "own", "six"
"""Equally long, and so are all publications."""
PADDING = b"." * 57
"""With it a publication is a frame of 211 bytes, as in the published benchmark."""
BODY = b'{"id":1,"publish":{"channel":"%b","data":{"id":"%b%%07d","msg":"%%010d%b"}}}'

PING = b"{}"
PONG = client_frame(PING)


def channels_of(number: int) -> tuple[str, str]:
    """Return the channel of this user alone, and the one with five others."""
    own, six = NAMESPACES
    return f"{own}:{number:07d}", f"{six}:{number // MEMBERS:07d}"


class RealtimeRun(Tally):
    """The publications of one process and their deliveries. All members of a channel are in one process.

    ``frames``: two for each connection, its publication to the channel of its own, and that to its six.
    ``refused``: publications that the server answered with an error.
    """

    def __init__(self, generator: Generator, tag: str) -> None:
        super().__init__(generator.connections, tag, every=True)
        self.loop = generator.loop
        self.published = self.refused = 0
        self.frames: list[tuple[Connection, bytes]] = [
            (conn, frame_template(BODY % (channels_of(conn.number)[which].encode(), self.tag, PADDING)))
            for which in range(len(NAMESPACES))
            for conn in self.receivers
        ]

    def publish(self, rate: float, seconds: float) -> None:
        """Publish ``rate`` messages a second of each user, to its two channels in turn, evenly spread."""
        frames, send = self.frames, self.connections.send
        for turn in self.loop.each(self.loop.paced(rate * len(self.receivers), seconds)):
            conn, frame = frames[turn % len(frames)]
            send(conn, frame % (turn, stamp_us()))
            self.published = turn + 1

    def wanted(self) -> list[tuple[int, int]]:
        """Return what each receiver must have: how many publications, and the sum of their numbers."""
        numbers = [range(first, self.published, len(self.frames)) for first in range(len(self.frames))]
        sums = [(len(each), sum(each)) for each in numbers]
        count = len(self.receivers)
        of_six: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for conn, (size, total) in zip(self.receivers, sums[count:], strict=True):
            before = of_six[conn.number // MEMBERS]
            of_six[conn.number // MEMBERS] = before[0] + size, before[1] + total
        six = [of_six[conn.number // MEMBERS] for conn in self.receivers]
        return [(a + c, b + d) for (a, b), (c, d) in zip(sums[:count], six, strict=True)]

    def _count_line(self, conn: Connection, line: bytes) -> None:
        if line == PING:
            self.connections.send(conn, PONG)
            return
        self.refused += b'"error":{' in line
        super()._count_line(conn, line)


def subscribe(generator: Generator) -> Json:
    """Task: subscribe each connection of this process to its two channels."""
    conns = generator.connections.by_fd.values()
    return subscribe_each(generator, [channels_of(conn.number) for conn in conns])


def publish(generator: Generator, tag: str, rate: float, seconds: float) -> Json:
    """Task: publish for ``seconds``, and count the publications that arrive."""
    run, begin = RealtimeRun(generator, tag), time.monotonic()
    run.publish(rate, seconds)
    sending_seconds = time.monotonic() - begin
    wanted = run.wanted()
    expected = sum(count for count, _ in wanted)
    generator.loop.until(lambda: run.received >= expected, ANSWER_SECONDS)
    run.release()
    return {
        "published": run.published,
        "refused": run.refused,
        "sending_seconds": sending_seconds,
        "seconds": run.last_ns / 1e9 - begin,
        "receipts": run.compare(wanted).pack(),
        **run.figures(),
        **generator.connections.facts(),
    }


@dataclass(frozen=True)
class RealtimeOptions:
    connections: int = parameter(2000, "Users, six to a channel.", most=MOST_CONNECTIONS)
    rate: float = parameter(2.0, "Messages a second of each user, to its two channels in turn.", least=0.01)
    seconds: float = seconds_parameter(10.0, "How long to publish")

    @property
    def environment(self) -> dict[str, str]:
        rows = ", ".join(f"{name}: {{subscribe: anybody, publish: subscribers}}" for name in NAMESPACES)
        return {"IMSERVER_APPS": f"{{101: {{open: true, channels: {{{rows}}}}}}}"}


def run(context: RunContext, options: RealtimeOptions) -> Figures:
    """Measure publications to channels of one and of six."""
    workers = context.start_workers(-(-options.connections // MOST_IN_PROCESS))
    for worker, first, count in shares(workers, -(-options.connections // MEMBERS)):
        first, count = first * MEMBERS, count * MEMBERS
        context.open([worker], min(count, options.connections - first), first=first, dialect=DIALECT)
    if errors := sum(answer["errors"] for answer in context.ask(workers, subscribe)):
        raise BenchError(f"the server refused {errors} subscriptions")
    warm_up = _measure(context, workers, options.rate, min(WARM_UP_SECONDS, options.seconds))
    return with_faults_of(warm_up, _measure(context, workers, options.rate, options.seconds))


def _measure(context: RunContext, workers: list[Worker], rate: float, seconds: float) -> Figures:
    with context.measured() as span:
        answers = context.ask(workers, publish, tag=new_tag(), rate=rate, seconds=seconds)
    span.note(answers)
    whole = Receipts.merged(answer["receipts"] for answer in answers)
    if not whole.received:
        raise BenchError("no publication arrived")
    latency = Latency.merged(answer["latency"] for answer in answers)
    longest = max(answer["seconds"] for answer in answers)
    figures: Figures = {
        "publications": sum(answer["published"] for answer in answers),
        "publishes_per_second": sum(answer["published"] / answer["sending_seconds"] for answer in answers),
        **span.rate("deliveries", whole.received, longest, flat_out=False),
    }
    cost = figures["cpu_us"]
    return figures | {
        "deliveries_per_core": 1e6 / cost if cost else None,
        "p50_ms": latency.percentile_ms(50),
        "p95_ms": latency.percentile_ms(95),
        **latency.figures(),
        "frame_bytes": max(answer["frame_bytes"] for answer in answers),
        "lost": whole.lost,
        "doubled": whole.doubled,
        "refused": sum(answer["refused"] for answer in answers),
        "dropped": sum(answer["lost"] for answer in answers),
    }
