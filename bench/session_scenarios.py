"""Connections: their costs and memory, their round trips, and a reconnect of all at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.connections import OPEN_SECONDS, Connection
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
from bench.frames import CLOSE, TEXT, request_frame, scan
from bench.generator import Generator, close_connections, open_connections, settle
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.proc import memory

LAST_ANSWERS_SECONDS = 5.0
RECEIVE_BYTES = 4096
PINGS_PER_SECOND = 1000


class PingRun:
    """The requests of one process. Owner of the waiting requests with their times, and of the expected
    answers.
    """

    def __init__(self, generator: Generator, command: str) -> None:
        self.generator = generator
        self.loop = generator.loop
        self.connections = generator.connections
        self.marker = b'"cmd":"' + command.encode() + b'"'
        self.frame = request_frame(command, "bench", {} if command == "heartbeat" else None)
        self.expected = b""
        self.latency = Latency()
        self.answers = self.wrong = 0
        self.sent_ns: dict[int, int] = {}
        self.connections.take = self._take

    def send(self, conn: Connection) -> None:
        """Send a request unless the last one is unanswered or the connection is closed."""
        if conn.fd in self.connections.by_fd and conn.fd not in self.sent_ns:
            self.sent_ns[conn.fd] = time.monotonic_ns()
            self.connections.send(conn, self.frame)

    def run(self, begin: float, until: float) -> None:
        """Keep one request in flight on each connection; written out, since each line counts."""
        poll, clock = self.loop.epoll.poll, time.monotonic_ns
        conns, handlers = self.connections.by_fd, self.loop.handlers
        receive = {fd: conn.sock.recv for fd, conn in conns.items()}
        send = {fd: conn.sock.send for fd, conn in conns.items()}
        sent_ns, add, frame = self.sent_ns, self.latency.add, self.frame
        until_ns = int(until * 1e9)
        now = clock()
        while now < until_ns and not self.loop.stopped and sent_ns:
            for fd, mask in poll(0.2, 1024):
                conn = conns.get(fd)
                if conn is None:
                    handlers[fd].ready(fd, mask)
                    continue
                try:
                    data = receive[fd](RECEIVE_BYTES)
                    if data != self.expected and not self._answered(conn, data):
                        continue
                    now = clock()
                    add((now - sent_ns[fd]) // 1000)
                    self.answers += 1
                    sent_ns[fd] = now
                    send[fd](frame)
                except OSError:
                    self.connections.lose(conn, "reset")
                    sent_ns.pop(fd, None)
            now = clock()

    def finish(self) -> None:
        until = time.monotonic() + LAST_ANSWERS_SECONDS
        while self.sent_ns and time.monotonic() < until:
            self.loop.turn(0.1)
            for fd in self.sent_ns.keys() - self.connections.by_fd.keys():
                del self.sent_ns[fd]
        self.connections.take = self.connections.skim

    def _take(self, conn: Connection, end: int) -> None:
        if (
            self._answered(conn, bytes(self.connections.view[len(conn.rest) : end]))
            and conn.fd in self.sent_ns
        ):
            self.latency.add((time.monotonic_ns() - self.sent_ns.pop(conn.fd)) // 1000)
            self.answers += 1

    def _answered(self, conn: Connection, data: bytes) -> bool:
        """Check whether the data contains the answer; other frames may be in it as well."""
        if not data:
            self.sent_ns.pop(conn.fd, None)
            self.connections.lose(conn, "end of stream")
            return False
        whole = conn.rest + data
        found, used = scan(whole, len(whole))
        conn.rest = whole[used:]
        answered = False
        for opcode, start, stop in found:
            payload = whole[start:stop]
            if opcode >= CLOSE:
                self.connections.control(conn, opcode, payload)
            elif opcode == TEXT and self.marker in payload:
                answered = conn.fd in self.connections.by_fd
                if b'"code":200' not in payload:
                    self.wrong += 1
                elif len(found) == 1 and not self.expected:
                    self.expected = whole[:used]
        return answered

    def result(self) -> Json:
        found = {"wrong": self.wrong, "unanswered": len(self.sent_ns), "latency": self.latency.pack()}
        return {**found, "round_trips": self.answers, **self.connections.facts()}


def echo(generator: Generator, seconds: float, command: str) -> Json:
    """Task: one request in flight on each connection of this process, for ``seconds``."""
    run, begin = PingRun(generator, command), time.monotonic()
    for conn in list(generator.connections.by_fd.values()):
        run.send(conn)
    run.run(begin, begin + seconds)
    wall, during = time.monotonic() - begin, run.answers
    run.finish()
    return {"during": during, "seconds": wall, **run.result()}


def stand_by(generator: Generator, seconds: float) -> Json:
    """Task: ping 1,000 times a second over all connections of this process, until it is stopped."""
    run, conns = PingRun(generator, "ping"), list(generator.connections.by_fd.values())
    for turn in generator.loop.paced(PINGS_PER_SECOND, seconds) if conns else ():
        run.send(conns[turn % len(conns)])
    run.finish()
    return run.result()


def bystander_figures(stood: Json) -> Figures:
    pings = Latency.merged([stood["latency"]])
    return {
        "bystanders_lost": stood["lost"],
        "bystander_pings": pings.count,
        "pings_unanswered": stood["unanswered"],
        **pings.figures("ping_"),
    }


@dataclass(frozen=True)
class EchoOptions:
    connections: int = parameter(200, "Connections, each with one request in flight.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(3.0, "How long")
    heartbeat: bool = parameter(False, "Send heartbeats instead of pings.")


def round_trips(context: RunContext, options: EchoOptions) -> Figures:
    """Measure round trips of pings or heartbeats."""
    command = "heartbeat" if options.heartbeat else "ping"
    workers = context.start_workers(-(-options.connections // MOST_IN_PROCESS))
    context.open(workers, options.connections)
    context.ask(workers, echo, seconds=min(0.3, options.seconds), command=command)
    with context.measured() as span:
        answers = context.ask(workers, echo, seconds=options.seconds, command=command)
    trips = sum(answer["round_trips"] for answer in answers)
    seconds = max(answer["seconds"] for answer in answers)
    span.note(answers)
    return {
        **span.rate("round_trips", trips, seconds, during=sum(answer["during"] for answer in answers)),
        **Latency.merged(answer["latency"] for answer in answers).figures(),
        "errors": sum(answer["wrong"] + answer["unanswered"] + answer["lost"] for answer in answers),
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


def drop_and_return(generator: Generator, first: int, count: int, seconds: float) -> Json:
    """Task: close all connections of this process, then open as many again; failures are tried again."""
    begin = time.monotonic()
    generator.connections.close(reset=False)
    opening = generator.connections.open(
        range(first, first + count), OPENERS["cmd"], seconds=seconds, retry=True
    )
    return {**opening.pack(), "begin": begin, "end": time.monotonic()}


def move(generator: Generator, target: Json, first: int, count: int, seconds: float) -> Json:
    """Task: wait until the server has ended all connections here, then open as many at ``target``."""
    connections = generator.connections
    generator.loop.until(lambda: not connections.by_fd, seconds)
    connections.close()
    generator.aim(target, generator.index)
    return drop_and_return(generator, first, count, seconds)


@dataclass(frozen=True)
class StormOptions:
    clients: int = parameter(10_000, "Connections that drop and come back.", most=MOST_CONNECTIONS)
    bystanders: int = parameter(500, "Connections that stay, and ping.", most=MOST_IN_PROCESS)


def storm(context: RunContext, options: StormOptions) -> Figures:
    """Measure how long it takes when all reconnect at once."""
    (bystander,) = context.start_workers(1, cores=())  # not on a shared core
    context.open([bystander], options.bystanders)
    workers = context.start_workers(-(-options.clients // MOST_IN_PROCESS))
    shares = context.open(workers, options.clients, first=options.bystanders)
    bystander.ask(stand_by, seconds=OPEN_SECONDS + 10)
    with context.measured() as span:
        for worker, (first, count) in zip(workers, shares, strict=True):
            worker.ask(drop_and_return, first=first, count=count, seconds=OPEN_SECONDS)
        answers = context.gather(workers)
    bystander.stop()
    (stood,) = context.gather([bystander])
    span.note([*answers, stood])
    returned = sum(answer["opened"] for answer in answers)
    return {
        "returned": returned,
        "missing": options.clients - returned,
        "seconds": max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers),
        "errors": sum(count for answer in answers for count in answer["errors"].values()),
        **span.cost(returned),
        "open_p99_ms": Latency.merged(answer["latency"] for answer in answers).percentile_ms(99),
        **bystander_figures(stood),
    }
