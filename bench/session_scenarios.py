"""Connections: their costs and memory, and pings beside other work."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.connections import Connection
from bench.context import (
    MOST_CONNECTIONS,
    MOST_IN_PROCESS,
    RunContext,
    parameter,
    seconds_parameter,
    text_parameter,
)
from bench.dialects import OPENERS
from bench.figures import Figures
from bench.frames import request_frame
from bench.generator import Generator, close_connections, open_connections, settle
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.proc import memory

LAST_ANSWERS_SECONDS = 5.0
PINGS_PER_SECOND = 1000


class PingRun:
    """The requests of one process. Owner of the waiting requests with their times."""

    def __init__(self, generator: Generator, command: str) -> None:
        self.loop, self.connections = generator.loop, generator.connections
        self.marker = b'"cmd":"' + command.encode() + b'"'
        self.frame = request_frame(command, "bench", {} if command == "heartbeat" else None)
        self.latency = Latency()
        self.answers = self.wrong = 0
        self.sent_ns: dict[int, int] = {}
        self.connections.take = self._take

    def send(self, conn: Connection) -> None:
        """Send a request unless the last one is unanswered or the connection is closed."""
        if conn.fd in self.connections.by_fd and conn.fd not in self.sent_ns:
            self.sent_ns[conn.fd] = time.monotonic_ns()
            self.connections.send(conn, self.frame)

    def finish(self) -> Json:
        """Wait for the last answers; what was counted."""
        until = time.monotonic() + LAST_ANSWERS_SECONDS
        while self.sent_ns and time.monotonic() < until:
            self.loop.turn(0.1)
            for fd in self.sent_ns.keys() - self.connections.by_fd.keys():
                del self.sent_ns[fd]
        self.connections.take = self.connections.skim
        found = {"wrong": self.wrong, "unanswered": len(self.sent_ns), "latency": self.latency.pack()}
        return {**found, "round_trips": self.answers, **self.connections.facts()}

    def _take(self, conn: Connection, end: int) -> None:
        for payload in self.connections.payloads(conn, end):
            if self.marker in payload and conn.fd in self.sent_ns:
                self.latency.add((time.monotonic_ns() - self.sent_ns.pop(conn.fd)) // 1000)
                self.answers += 1
                self.wrong += b'"code":200' not in payload


def heartbeats(generator: Generator, seconds: float) -> Json:
    """Task: one heartbeat in flight on each connection of this process, for ``seconds``."""
    run, conns = PingRun(generator, "heartbeat"), list(generator.connections.by_fd.values())
    end = time.monotonic() + seconds
    while time.monotonic() < end and not generator.loop.stopped:
        for conn in conns:
            run.send(conn)
        generator.loop.turn(0.1)
    return run.finish()


def stand_by(generator: Generator, seconds: float) -> Json:
    """Task: ping 1,000 times a second over all connections of this process, until it is stopped."""
    run, conns = PingRun(generator, "ping"), list(generator.connections.by_fd.values())
    for turn in generator.loop.paced(PINGS_PER_SECOND, seconds) if conns else ():
        run.send(conns[turn % len(conns)])
    return run.finish()


def bystander_figures(stood: Json) -> Figures:
    pings = Latency.merged([stood["latency"]])
    return {
        "bystanders_lost": stood["lost"],
        "bystander_pings": pings.count,
        "pings_unanswered": stood["unanswered"],
        **pings.figures("ping_"),
    }


WARM_UP_CONNECTIONS = 500
CONNECTIONS_A_PROCESS = 5000


@dataclass(frozen=True)
class HandshakeOptions:
    connections: int = parameter(5000, "Connections to open.", most=MOST_IN_PROCESS)
    login: bool = parameter(False, "Log in too.")
    members: int = parameter(1100, "Users logged in before.", least=0, most=MOST_IN_PROCESS)
    redis: bool = parameter(False, "The server has a Redis.")
    processes: int = parameter(1, "Server processes; several have a Redis.", most=64)
    dialect: str = text_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        return dict(OPENERS[self.dialect].environment)


def handshake(context: RunContext, options: HandshakeOptions) -> Figures:
    """Measure the opening of connections, also with a login."""
    workers, first = context.start_workers(1), options.members
    if options.login and options.members:
        context.open(context.start_workers(1), options.members, dialect=options.dialect)
    given: Json = {"first": first, "login": options.login, "dialect": options.dialect}
    context.open(workers, min(WARM_UP_CONNECTIONS, options.connections), **given)
    context.ask(workers, close_connections)
    context.rest()
    with context.measured() as span:
        (answer,) = context.ask(workers, open_connections, count=options.connections, **given)
    span.note([answer])
    return {
        **span.rate("opened", answer["opened"], answer["seconds"], flat_out=True),
        "errors": sum(answer["errors"].values()),
        **Latency.merged([answer["latency"]]).figures(),
    }


@dataclass(frozen=True)
class IdleOptions:
    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(10.0, "How long to watch the idle CPU")
    ping_seconds: int = parameter(0, "Seconds between two pings; 0: none, or as --url does it.", least=0)
    dialect: str = text_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        pings = {"IMSERVER_WEBSOCKET_PING_SECONDS": str(self.ping_seconds)} if self.ping_seconds else {}
        return {**OPENERS[self.dialect].environment, **pings}


def attend(generator: Generator, seconds: float) -> Json:
    """Task: answer pings for so long."""
    generator.connections.pings = 0
    generator.loop.until(lambda: False, seconds)
    return {"pings": generator.connections.pings}


def idle(context: RunContext, options: IdleOptions) -> Figures:
    """Measure memory and CPU of idle connections."""
    if OPENERS[options.dialect].environment and not context.folder:
        raise BenchError(f"--dialect {options.dialect} needs a server of our own, which has our key")
    empty = memory(context.pids).rss_bytes
    workers = context.start_workers(-(-options.connections // CONNECTIONS_A_PROCESS))
    context.open(workers, min(WARM_UP_CONNECTIONS, options.connections), dialect=options.dialect)
    context.ask(workers, close_connections)
    context.rest()
    before = memory(context.pids).rss_bytes
    context.open(workers, options.connections, dialect=options.dialect)
    context.rest()
    after = memory(context.pids).rss_bytes
    with context.measured() as span:
        attended = context.ask(workers, attend, seconds=options.seconds)
    answers = context.ask(workers, settle, quiet_seconds=0.1)
    pings = sum(answer["pings"] for answer in attended)
    return {
        "rss_empty_mb": empty / 1e6,
        "rss_warm_mb": before / 1e6,
        "rss_full_mb": after / 1e6,
        "rss_connection_bytes": (after - before) / options.connections,
        "idle_cpu_percent": span.server_us / 1e4 / span.seconds,
        **({"pings": pings, "ping_cpu_us": span.server_us / pings} if pings else {}),
        "connections": sum(answer["connections"] for answer in answers),
        "dropped": sum(answer["lost"] for answer in answers),
    }


def move(generator: Generator, target: Json, first: int, count: int, seconds: float) -> Json:
    """Task: wait until the server has ended all connections here, then open as many at ``target``; failures
    are tried again."""
    connections = generator.connections
    generator.loop.until(lambda: not connections.by_fd, seconds)
    connections.close()
    generator.aim(target, generator.index)
    numbers = range(first, first + count)
    opening = generator.connections.open(numbers, OPENERS["cmd"], seconds=seconds, retry=True)
    return {**opening.pack(), "end": time.monotonic()}
