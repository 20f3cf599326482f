"""Connections: what they cost, what they hold, their round trips, and what happens when all come back."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.connections import OPEN_SECONDS, Peer
from bench.dialects import OPENERS
from bench.figures import Figures
from bench.frames import CLOSE, TEXT, login_frame, request_frame, scan, user_name
from bench.generator import Generator, close_connections, open_connections, settle
from bench.latency import Latency
from bench.loop import BenchError, Json
from bench.proc import memory
from bench.stage import (
    MOST_CONNECTIONS,
    MOST_IN_PROCESS,
    Stage,
    parameter,
    seconds_parameter,
    text_parameter,
)

LAST_ANSWERS_SECONDS = 5.0
RECEIVE_BYTES = 4096
PINGS_PER_SECOND = 1000


class Echo:
    """The requests of one process. Owns who is waiting since when, and what a right answer looks like."""

    def __init__(self, generator: Generator, command: str) -> None:
        self.generator = generator
        self.loop = generator.loop
        self.swarm = generator.swarm
        self.marker = b'"cmd":"' + command.encode() + b'"'
        self.frame = request_frame(command, "bench", {} if command == "heartbeat" else None)
        self.expected = b""
        self.latency = Latency()
        self.answers = self.wrong = 0
        self.sent_ns: dict[int, int] = {}
        self.swarm.take = self._take

    def send(self, peer: Peer) -> None:
        """Send a request unless the last one is still unanswered or the connection is gone."""
        if peer.fd in self.swarm.peers and peer.fd not in self.sent_ns:
            self.sent_ns[peer.fd] = time.monotonic_ns()
            self.swarm.send(peer, self.frame)

    def run(self, begin: float, until: float) -> None:
        """Keep one request in flight on each connection; written out, since each line counts."""
        poll, clock = self.loop.epoll.poll, time.monotonic_ns
        peers, owners = self.swarm.peers, self.loop.owners
        receive = {fd: peer.sock.recv for fd, peer in peers.items()}
        send = {fd: peer.sock.send for fd, peer in peers.items()}
        sent_ns, add, frame = self.sent_ns, self.latency.add, self.frame
        until_ns = int(until * 1e9)
        now = clock()
        while now < until_ns and not self.loop.stopped and sent_ns:
            for fd, mask in poll(0.2, 1024):
                peer = peers.get(fd)
                if peer is None:
                    owners[fd].ready(fd, mask)
                    continue
                try:
                    data = receive[fd](RECEIVE_BYTES)
                    if data != self.expected and not self._answered(peer, data):
                        continue
                    now = clock()
                    add((now - sent_ns[fd]) // 1000)
                    self.answers += 1
                    sent_ns[fd] = now
                    send[fd](frame)
                except OSError:
                    self.swarm.lose(peer, "reset")
                    sent_ns.pop(fd, None)
            now = clock()
            self.generator.passed(begin, until)

    def finish(self) -> None:
        until = time.monotonic() + LAST_ANSWERS_SECONDS
        while self.sent_ns and time.monotonic() < until:
            self.loop.turn(0.1)
            for fd in self.sent_ns.keys() - self.swarm.peers.keys():
                del self.sent_ns[fd]
        self.swarm.take = self.swarm.skim

    def _take(self, peer: Peer, end: int) -> None:
        if self._answered(peer, bytes(self.swarm.view[len(peer.rest) : end])) and peer.fd in self.sent_ns:
            self.latency.add((time.monotonic_ns() - self.sent_ns.pop(peer.fd)) // 1000)
            self.answers += 1

    def _answered(self, peer: Peer, data: bytes) -> bool:
        """Look closely at what came: whether the answer is in it; other frames may be as well."""
        if not data:
            self.sent_ns.pop(peer.fd, None)
            self.swarm.lose(peer, "end of stream")
            return False
        whole = peer.rest + data
        found, used = scan(whole, len(whole))
        peer.rest = whole[used:]
        answered = False
        for opcode, start, stop in found:
            payload = whole[start:stop]
            if opcode >= CLOSE:
                self.swarm.control(peer, opcode, payload)
            elif opcode == TEXT and self.marker in payload:
                answered = peer.fd in self.swarm.peers
                if b'"code":200' not in payload:
                    self.wrong += 1
                elif len(found) == 1 and not self.expected:
                    self.expected = whole[:used]
        return answered

    def result(self) -> Json:
        found = {"wrong": self.wrong, "unanswered": len(self.sent_ns), "latency": self.latency.pack()}
        return {**found, "round_trips": self.answers, **self.swarm.facts()}


def echo(generator: Generator, seconds: float, command: str) -> Json:
    """Task: one request in flight on each connection of this process, for ``seconds``."""
    run, begin = Echo(generator, command), time.monotonic()
    for peer in list(generator.swarm.peers.values()):
        run.send(peer)
    run.run(begin, begin + seconds)
    wall, during = time.monotonic() - begin, run.answers
    run.finish()
    return {"during": during, "seconds": wall, **run.result()}


def stand_by(generator: Generator, seconds: float) -> Json:
    """Task: ping 1,000 times a second over all connections of this process, until told to stop."""
    run, peers = Echo(generator, "ping"), list(generator.swarm.peers.values())
    begin, turn = time.monotonic(), 0
    while not generator.loop.stopped and (now := time.monotonic()) < begin + seconds and peers:
        due = begin + turn / PINGS_PER_SECOND
        if now >= due:
            run.send(peers[turn % len(peers)])
            turn += 1
        else:
            generator.loop.turn(due - now)
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


def round_trips(stage: Stage, options: EchoOptions) -> Figures:
    """Measure round trips of pings or heartbeats."""
    command = "heartbeat" if options.heartbeat else "ping"
    hands = stage.hire(-(-options.connections // MOST_IN_PROCESS))
    stage.open(hands, options.connections)
    stage.ask(hands, echo, seconds=min(0.3, options.seconds), command=command)
    with stage.measured() as span:
        answers = stage.ask(hands, echo, seconds=options.seconds, command=command)
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


def handshake(stage: Stage, options: HandshakeOptions) -> Figures:
    """Measure the opening of connections, also with a login."""
    hands, first = stage.hire(1), options.members
    if options.login and options.members:
        stage.open(stage.hire(1), options.members)
    stage.open(hands, min(WARM_UP_CONNECTIONS, options.connections), first=first, login=options.login)
    stage.ask(hands, close_connections)
    stage.rest()
    with stage.measured() as span:
        (answer,) = stage.ask(
            hands, open_connections, first=first, count=options.connections, login=options.login
        )
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
    dialect: str = text_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        return dict(OPENERS[self.dialect].environment)


def idle(stage: Stage, options: IdleOptions) -> Figures:
    """Measure memory and CPU of idle connections."""
    if options.environment and not stage.folder:
        raise BenchError(f"--dialect {options.dialect} needs a server of our own, which has our key")
    empty = memory(stage.pids).rss_bytes
    hands = stage.hire(-(-options.connections // CONNECTIONS_A_PROCESS))
    stage.open(hands, min(WARM_UP_CONNECTIONS, options.connections), dialect=options.dialect)
    stage.ask(hands, close_connections)
    stage.rest()
    before = memory(stage.pids).rss_bytes
    stage.open(hands, options.connections, dialect=options.dialect)
    stage.rest()
    after = memory(stage.pids).rss_bytes
    with stage.measured() as span:
        stage.wait(options.seconds)
    answers = stage.ask(hands, settle, quiet_seconds=0.1)
    return {
        "rss_empty_mb": empty / 1e6,
        "rss_warm_mb": before / 1e6,
        "rss_full_mb": after / 1e6,
        "rss_connection_bytes": (after - before) / options.connections,
        "idle_cpu_percent": span.server_us / 1e4 / span.seconds,
        "connections": sum(answer["connections"] for answer in answers),
        "dropped": sum(answer["lost"] for answer in answers),
    }


def drop_and_return(generator: Generator, first: int, count: int, seconds: float) -> Json:
    """Task: close all connections of this process, then open as many again, failures tried again."""
    app, begin = generator.target.app, time.monotonic()
    generator.swarm.close(reset=False)
    opening = generator.swarm.open(
        range(first, first + count),
        lambda number: login_frame(app, user_name(number)),
        seconds=seconds,
        retry=True,
        progress=generator.progress,
    )
    return {**opening.pack(), "begin": begin, "end": time.monotonic()}


def move(generator: Generator, target: Json, first: int, count: int, seconds: float) -> Json:
    """Task: wait until the server has ended all connections here, then open as many at ``target``."""
    swarm, begin = generator.swarm, time.monotonic()
    while swarm.peers and time.monotonic() < begin + seconds and not generator.loop.stopped:
        generator.loop.turn(0.1)
    swarm.close()
    generator.aim(target, generator.index)
    return drop_and_return(generator, first, count, seconds)


@dataclass(frozen=True)
class StormOptions:
    clients: int = parameter(10_000, "Connections that drop and come back.", most=MOST_CONNECTIONS)
    bystanders: int = parameter(500, "Connections that stay, and ping.", most=MOST_IN_PROCESS)


def storm(stage: Stage, options: StormOptions) -> Figures:
    """Measure how long it takes when all reconnect at once."""
    (bystander,) = stage.hire(1, cores=())  # not behind the others on their core
    stage.open([bystander], options.bystanders)
    hands = stage.hire(-(-options.clients // MOST_IN_PROCESS))
    shares = stage.open(hands, options.clients, first=options.bystanders)
    bystander.ask(stand_by, seconds=OPEN_SECONDS + 10)
    with stage.measured() as span:
        for hand, (first, count) in zip(hands, shares, strict=True):
            hand.ask(drop_and_return, first=first, count=count, seconds=OPEN_SECONDS)
        answers = stage.gather(hands)
    bystander.stop()
    (stood,) = stage.gather([bystander])
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
