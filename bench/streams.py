"""Scenario ``streams``: streamed messages, from the publisher to a subscriber
of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import cycle

from bench.connections import Connection
from bench.context import MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.figures import Figures
from bench.frames import request_frame
from bench.generator import Generator
from bench.http_client import JSON, HttpConnections, post, request_head
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency, stamp_us
from bench.loop import BenchError, Json

ANSWER_SECONDS = 30.0
#: A piece ends with its time stamp.
WORD = b"a word "
TEXT_AT = b'"text":"' + WORD
PIECE_AT = b'"piece":'
MOST_PIECES = 1000
PATH = "/api/v1/channels/stream/"


class Streams:
    """The streams of a process, each in a channel of its own with one
    subscriber."""

    def __init__(self, generator: Generator) -> None:
        self.loop = generator.loop
        self.target = generator.target
        self.connections = generator.connections
        self.subscribed = self.pieces = self.ends = self.lost = self.doubled = 0
        self.refused = self.sent = self.last_ns = 0
        self.latency = Latency()
        self.conns = list(self.connections.by_fd.values())
        self.connections.take = self._take
        for conn in self.loop.each(self.conns):
            conn.clear()
            self.connections.send(
                conn,
                request_frame("subscribe", "s", {"channel": f"live:{conn.number}"}),
            )
        if not self.loop.until(
            lambda: self.subscribed == len(self.conns), ANSWER_SECONDS
        ):
            raise BenchError(
                f"connections are not subscribed after {ANSWER_SECONDS:g} s"
            )
        self.names = [
            self.post("open", channel=f"live:{conn.number}")["stream"]
            for conn in self.conns
        ]
        self.http = HttpConnections(self.loop, self.target, 2, self._answered)
        self._publishers = cycle(self.http)

    def post(self, path: str, **fields: str) -> Json:
        return post(self.target, PATH + path, {"app": str(self.target.app), **fields})

    def _take(self, conn: Connection, end: int) -> None:
        now = time.monotonic_ns()
        for payload in self.connections.payloads(conn, end):
            self._frame(conn, payload, now)

    def _frame(self, conn: Connection, payload: bytes, now: int) -> None:
        if b'"cmd":"publication"' in payload:
            self.ends += payload.count(WORD) == conn.frames
        elif b'"cmd":"subscribe"' in payload:
            self.subscribed += b'"code":200' in payload
        elif b'"cmd":"stream"' in payload and b'"whole":true' not in payload:
            at = payload.index(PIECE_AT) + len(PIECE_AT)
            piece = int(payload[at : payload.index(b",", at)])
            at = payload.index(TEXT_AT) + len(TEXT_AT)
            stamp = int(payload[at : at + STAMP_DIGITS])
            self.last_ns = now
            self.latency.add((now // 1000 - stamp) % STAMP_WRAP)
            self.pieces += 1
            self.lost += max(0, piece - conn.frames - 1)
            self.doubled += piece <= conn.frames
            conn.frames = max(piece, conn.frames)

    def _answered(self, _number: int, _micros: int, status: int, body: bytes) -> None:
        self.refused += (
            body.count(b'"status"') - body.count(b'"appended"') if status == 200 else 1
        )

    def append(self, count: int) -> None:
        """Append one piece to each of the next ``count`` streams."""
        names = self.names
        text = f"{WORD.decode()}{stamp_us():0{STAMP_DIGITS}}"
        pieces = ",".join(
            f'{{"stream":"{names[n % len(names)]}","piece":{n // len(names) + 1},"text":"{text}"}}'
            for n in range(self.sent, self.sent + count)
        )
        body = f'{{"app":"{self.target.app}","pieces":[{pieces}]}}'.encode()
        head = request_head(self.target, PATH + "append", JSON, len(body))
        self.http.send(next(self._publishers), (0,), head + body)
        self.sent += count


def begin(generator: Generator) -> Json:
    """Task: open a stream for each connection."""
    generator.state["streams"] = Streams(generator)
    return {}


def stream(generator: Generator, rate: float, seconds: float, batch: int) -> Json:
    """Task: append ``rate`` pieces per second to each stream, ``batch`` with a
    request."""
    streams: Streams = generator.state["streams"]
    streams.latency, sent, received, begun = (
        Latency(),
        streams.sent,
        streams.pieces,
        time.monotonic(),
    )
    for _ in generator.loop.paced(rate * len(streams.names) / batch, seconds):
        streams.append(batch)
    total = streams.sent - sent
    generator.loop.until(lambda: streams.pieces - received >= total, ANSWER_SECONDS)
    return {
        "pieces": streams.pieces - received,
        "missing": total - (streams.pieces - received),
        "seconds": streams.last_ns / 1e9 - begun,
        "latency": streams.latency.pack(),
    }


def end(generator: Generator) -> Json:
    """Task: close all streams, and wait for their ends, which have the whole
    texts."""
    streams: Streams = generator.state["streams"]
    for name in streams.names:
        streams.post("close", stream=name)
    generator.loop.until(lambda: streams.ends >= len(streams.names), ANSWER_SECONDS)
    generator.loop.turn(0)
    streams.http.close()
    return {
        "unfinished": max(0, len(streams.names) - streams.ends),
        "lost": streams.lost,
        "doubled": streams.doubled + max(0, streams.ends - len(streams.names)),
        "refused": streams.refused,
        "dropped": generator.connections.lost,
    }


@dataclass(frozen=True)
class StreamsOptions:
    streams: int = parameter(
        1000, "Open streams, each with one subscriber.", most=MOST_IN_PROCESS
    )
    rate: float = parameter(
        20.0, "Pieces a second of each stream.", least=0.1, most=1000
    )
    seconds: float = seconds_parameter(10.0, "How long to append")
    batch: int = parameter(100, "Pieces in a request.", most=MOST_PIECES)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "IMSERVER_APPS": "{101: {open: true, channels: {live: {subscribe: anybody}}}}",
            "IMSERVER_LIMITS_OPEN_STREAMS": str(MOST_IN_PROCESS),
            "IMSERVER_LIMITS_STREAM_BYTES": "1000000",
        }


def run(context: RunContext, options: StreamsOptions) -> Figures:
    """Measure streamed messages at a fixed rate of pieces."""
    workers = context.start_workers(1)
    context.open(workers, options.streams)
    context.ask(workers, begin)
    # The server joins the pieces of a stream that come in one request.
    batch = min(options.batch, options.streams)
    context.ask(
        workers,
        stream,
        rate=options.rate,
        seconds=min(1.0, options.seconds),
        batch=batch,
    )
    with context.measured() as span:
        answers = context.ask(
            workers, stream, rate=options.rate, seconds=options.seconds, batch=batch
        )
    span.note(answers)
    (answer,) = answers
    (ends,) = context.ask(workers, end)
    return {
        **span.rate("pieces", answer["pieces"], answer["seconds"], flat_out=False),
        **Latency.merged([answer["latency"]]).figures(),
        "lost": answer["missing"] + ends["lost"],
        **{
            name: ends[name] for name in ("unfinished", "doubled", "refused", "dropped")
        },
    }
