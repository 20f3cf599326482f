"""Scenario ``streams``: streamed messages, from the publisher to a subscriber of each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.connections import Connection
from bench.context import MOST_IN_PROCESS, RunContext, parameter, seconds_parameter
from bench.figures import Figures
from bench.frames import request_frame
from bench.generator import Generator
from bench.http_client import JSON, HttpConnections, request_head
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
    """The streams of a process: one publisher for all, and one subscriber of each."""

    def __init__(self, generator: Generator) -> None:
        self.loop, self.target, self.connections = generator.loop, generator.target, generator.connections
        self.conns = list(self.connections.by_fd.values())
        self.subscribed = self.opened = self.pieces = self.ends = self.lost = self.doubled = 0
        self.refused = self.requests = self.sent = self.last_ns = 0
        self.latency = Latency()
        self.answers: dict[int, bytes] = {}
        self.names: list[bytes] = []
        for conn in self.conns:
            conn.clear()
        self.connections.take = self._take
        self.http = HttpConnections(self.loop, self.target, 2, self._answered)
        self._publishers = list(self.http)

    def _take(self, conn: Connection, end: int) -> None:
        now = time.monotonic_ns()
        for payload in self.connections.payloads(conn, end):
            self._frame(conn, payload, now)

    def _frame(self, conn: Connection, payload: bytes, now: int) -> None:
        if b'"cmd":"publication"' in payload:
            self.ends += payload.count(WORD) == conn.frames
        elif b'"cmd":"subscribe"' in payload:
            self.subscribed += b'"code":200' in payload
        elif b'"whole":true' in payload:
            self.opened += 1
        elif b'"cmd":"stream"' in payload:
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

    def _answered(self, number: int, _micros: int, status: int, body: bytes) -> None:
        if status != 200:
            raise BenchError(f"{PATH}: {status} {body[:300].decode(errors='replace')}")
        self.answers[number] = body
        self.refused += body.count(b'"status"') - body.count(b'"appended"') - body.count(b'"closed"')

    def ask(self, path: str, fields: bytes) -> None:
        """Send a request."""
        conn = self._publishers[self.requests % len(self._publishers)]
        body = b'{"app":"%d",%b}' % (self.target.app, fields)
        head = request_head(self.target, PATH + path, JSON, len(body))
        self.http.send(conn, (self.requests,), head + body)
        self.requests += 1

    def append(self, count: int) -> None:
        """Append one piece to each of the next ``count`` streams."""
        names, stamp = self.names, stamp_us()
        pieces = [
            b'{"stream":"%b","piece":%d,"text":"%b%0*d"}'
            % (names[n % len(names)], n // len(names) + 1, WORD, STAMP_DIGITS, stamp)
            for n in range(self.sent, self.sent + count)
        ]
        self.ask("append", b'"pieces":[%b]' % b",".join(pieces))
        self.sent += count

    def wait(self, count: Callable[[], int], what: str) -> None:
        """Wait until there are as many as connections."""
        if not self.loop.until(lambda: count() == len(self.conns), ANSWER_SECONDS):
            raise BenchError(f"{what} after {ANSWER_SECONDS:g} s")


def begin(generator: Generator) -> Json:
    """Task: open a stream in a channel of its own for each connection."""
    generator.state["streams"] = streams = Streams(generator)
    for conn in generator.loop.each(streams.conns):
        streams.connections.send(conn, request_frame("subscribe", "s", {"channel": f"live:{conn.number}"}))
    streams.wait(lambda: streams.subscribed, "connections are not subscribed")
    for conn in generator.loop.each(streams.conns):
        streams.ask("open", b'"channel":"live:%d"' % conn.number)
    streams.wait(lambda: streams.opened, "streams are not open")
    streams.wait(lambda: len(streams.answers), "streams are not answered")
    streams.names = [json.loads(answer)["stream"].encode() for _, answer in sorted(streams.answers.items())]
    return {"opened": streams.opened}


def stream(generator: Generator, rate: float, seconds: float, batch: int) -> Json:
    """Task: append ``rate`` pieces per second to each stream, up to ``batch`` with a request."""
    streams: Streams = generator.state["streams"]
    per_second = rate * len(streams.names)
    total = int(per_second * seconds)
    streams.latency, first, received = Latency(), streams.sent, streams.pieces
    begun = time.monotonic()
    while streams.sent - first < total and not generator.loop.stopped:
        due = min(total, int((time.monotonic() - begun) * per_second)) - (streams.sent - first)
        size = min(batch, total - (streams.sent - first))
        if due >= size:
            streams.append(size)
            continue
        generator.loop.turn((size - due) / per_second)
    generator.loop.until(lambda: streams.pieces - received >= total, ANSWER_SECONDS)
    return {
        "pieces": streams.pieces - received,
        "missing": total - (streams.pieces - received),
        "seconds": streams.last_ns / 1e9 - begun,
        "latency": streams.latency.pack(),
    }


def end(generator: Generator) -> Json:
    """Task: close all streams, and wait for their ends, which have the whole texts."""
    streams: Streams = generator.state["streams"]
    count = len(streams.names)
    for each in generator.loop.each(streams.names):
        streams.ask("close", b'"stream":"%b"' % each)
    generator.loop.until(lambda: streams.ends >= count, ANSWER_SECONDS)
    generator.loop.turn(0)
    streams.http.close()
    streams.connections.take = streams.connections.payloads
    return {
        "unfinished": max(0, count - streams.ends),
        "lost": streams.lost,
        "doubled": streams.doubled + max(0, streams.ends - count),
        "refused": streams.refused,
        "dropped": generator.connections.lost,
    }


@dataclass(frozen=True)
class StreamsOptions:
    streams: int = parameter(1000, "Open streams, each with one subscriber.", most=MOST_IN_PROCESS)
    rate: float = parameter(20.0, "Pieces a second of each stream.", least=0.1, most=1000)
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
    context.ask(workers, stream, rate=options.rate, seconds=min(1.0, options.seconds), batch=batch)
    with context.measured() as span:
        answers = context.ask(workers, stream, rate=options.rate, seconds=options.seconds, batch=batch)
    span.note(answers)
    (answer,) = answers
    (ends,) = context.ask(workers, end)
    return {
        **span.rate("pieces", answer["pieces"], answer["seconds"], flat_out=False),
        **Latency.merged([answer["latency"]]).figures(),
        "lost": answer["missing"] + ends["lost"],
        **{name: ends[name] for name in ("unfinished", "doubled", "refused", "dropped")},
    }
