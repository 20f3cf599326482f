"""Connections that open: what they cost, what they hold, and what happens when all come back at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench.connections import Peer
from bench.dialects import OPENERS
from bench.figures import Figures
from bench.frames import CLOSE, login_frame, request_frame, scan, user_name
from bench.generator import OPEN_WINDOW, Generator, close_connections, open_connections, pack_opening, settle
from bench.latency import Latency
from bench.loop import BenchError
from bench.stage import (
    MOST_CONNECTIONS,
    MOST_IN_PROCESS,
    Stage,
    choice_parameter,
    parameter,
    seconds_parameter,
)


@dataclass(frozen=True)
class HandshakeOptions:
    """Parameters of the scenario."""

    connections: int = parameter(5000, "Connections to open.", most=MOST_IN_PROCESS)
    login: bool = parameter(False, "Log in too.")
    members: int = parameter(
        1100,
        "Users logged in before (an app that is large enough sends no notices of logins).",
        least=0,
        most=MOST_IN_PROCESS,
    )


def handshake(stage: Stage, options: HandshakeOptions) -> Figures:
    """Measure the opening of connections, also with a login."""
    hands = stage.hire(1)
    if options.login and options.members:
        stage.open(stage.hire(1), options.members)
    stage.open(hands, min(500, options.connections), first=options.members, login=options.login)
    stage.ask(hands, close_connections)
    stage.rest()
    with stage.measured() as span:
        (answer,) = stage.ask(
            hands, open_connections, first=options.members, count=options.connections, login=options.login
        )
    span.note([answer])
    return {
        **span.rate("opened", answer["opened"], answer["seconds"], flat_out=True),
        "errors": sum(answer["errors"].values()),
        **Latency.merged([answer["latency"]]).figures(),
    }


WARM_UP_CONNECTIONS = 500
CONNECTIONS_A_PROCESS = 5000


@dataclass(frozen=True)
class IdleOptions:
    """Parameters of the scenario."""

    connections: int = parameter(15_000, "Connections.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(10.0, "How long to watch the idle CPU")
    login: bool = parameter(True, "Log in (or only connect).")
    dialect: str = choice_parameter("cmd", "What the connections speak.", OPENERS)

    @property
    def environment(self) -> dict[str, str]:
        return dict(OPENERS[self.dialect].environment)


def idle(stage: Stage, options: IdleOptions) -> Figures:
    """Measure memory and CPU of idle connections."""
    if options.environment and not stage.folder:
        raise BenchError(f"--dialect {options.dialect} needs a server of our own, which has our key")
    empty = stage.rss_bytes()
    hands = stage.hire(-(-options.connections // CONNECTIONS_A_PROCESS))
    stage.open(
        hands, min(WARM_UP_CONNECTIONS, options.connections), login=options.login, dialect=options.dialect
    )
    stage.ask(hands, close_connections)
    stage.rest()
    before = stage.rss_bytes()
    stage.open(hands, options.connections, login=options.login, dialect=options.dialect)
    stage.rest()
    after = stage.rss_bytes()
    with stage.measured() as span:
        stage.wait(options.seconds)
    answers = stage.ask(hands, settle, quiet_seconds=0.1)
    span.note(answers)
    return {
        "rss_empty_mb": empty / 1e6,
        "rss_warm_mb": before / 1e6,
        "rss_full_mb": after / 1e6,
        "rss_connection_bytes": (after - before) / options.connections,
        "idle_cpu_percent": span.server_us / 1e4 / span.seconds,
        "connections": sum(answer["connections"] for answer in answers),
        "dropped": sum(answer["lost"] for answer in answers),
    }


PINGS_PER_SECOND = 1000
LAST_ANSWERS_SECONDS = 5.0


def drop_and_return(
    generator: Generator, first: int, count: int, window: int, seconds: float
) -> dict[str, Any]:
    """Task: close all connections of this process, then open as many again, failures tried again."""
    app, begin = generator.target.app, time.monotonic()
    dropped = generator.swarm.close(reset=False)
    dropping = time.monotonic() - begin
    opening = generator.swarm.open(
        range(first, first + count),
        lambda number: login_frame(app, user_name(number)),
        window=window,
        seconds=seconds,
        retry=True,
        progress=generator.progress,
    )
    return {
        **pack_opening(opening),
        "dropped": dropped,
        "begin": begin,
        "dropping_seconds": dropping,
        "end": time.monotonic(),
    }


def move(
    generator: Generator, target: dict[str, Any], first: int, count: int, window: int, seconds: float
) -> dict[str, Any]:
    """Task: wait until the server has ended all connections here, then open as many at ``target``."""
    swarm, begin = generator.swarm, time.monotonic()
    while swarm.peers and time.monotonic() < begin + seconds and not generator.loop.stopped:
        generator.loop.turn(0.1)
    noticed = time.monotonic()
    swarm.close()
    generator.aim(target, generator.index)
    return {**drop_and_return(generator, first, count, window, seconds), "noticed": noticed}


class Bystanders:
    """Connections that ping in turn. Owns who waits for an answer since when."""

    def __init__(self, generator: Generator) -> None:
        self.swarm = generator.swarm
        self.frame = request_frame("ping", "bystander")
        self.latency = Latency()
        self.sent_ns: dict[int, int] = {}
        self.swarm.take = self._take

    def ping(self, peer: Peer) -> None:
        """Send a ping unless the last one is still unanswered or the connection is gone."""
        if peer.fd in self.swarm.peers and peer.fd not in self.sent_ns:
            self.sent_ns[peer.fd] = time.monotonic_ns()
            try:
                peer.sock.send(self.frame)
            except OSError:
                self.swarm.lose(peer, "reset")

    def _take(self, peer: Peer, end: int) -> None:
        swarm = self.swarm
        found, used = scan(swarm.buffer, end)
        for opcode, start, stop in found:
            payload = bytes(swarm.view[start:stop])
            if opcode >= CLOSE:
                swarm.control(peer, opcode, payload)
            elif b'"cmd":"ping"' in payload and peer.fd in self.sent_ns:
                self.latency.add((time.monotonic_ns() - self.sent_ns.pop(peer.fd)) // 1000)
        peer.rest = bytes(swarm.view[used:end])


def stand_by(generator: Generator, seconds: float) -> dict[str, Any]:
    """Task: ping 1,000 times a second over all connections of this process, until told to stop."""
    run = Bystanders(generator)
    peers = list(generator.swarm.peers.values())
    begin = time.monotonic()
    turn = 0
    while not generator.loop.stopped and (now := time.monotonic()) < begin + seconds and peers:
        due = begin + turn / PINGS_PER_SECOND
        if now >= due:
            run.ping(peers[turn % len(peers)])
            turn += 1
        else:
            generator.loop.turn(due - now)
    until = time.monotonic() + LAST_ANSWERS_SECONDS
    while run.sent_ns and time.monotonic() < until:
        generator.loop.turn(0.1)
        for peer in generator.swarm.lost:
            run.sent_ns.pop(peer.fd, None)
    generator.swarm.take = generator.swarm.skim
    return {"latency": run.latency.pack(), "unanswered": len(run.sent_ns), **generator.swarm.facts()}


@dataclass(frozen=True)
class StormOptions:
    """Parameters of the scenario."""

    clients: int = parameter(10_000, "Connections that drop and come back.", most=MOST_CONNECTIONS)
    bystanders: int = parameter(500, "Connections that stay, and ping.", most=MOST_IN_PROCESS)
    window: int = parameter(OPEN_WINDOW, "Connections that a process opens at once.", most=4096)
    seconds: float = seconds_parameter(60.0, "When to give up")


def storm(stage: Stage, options: StormOptions) -> Figures:
    """Measure how long it takes when all reconnect at once."""
    (bystander,) = stage.hire(1, cores=())  # not behind the others on their core
    stage.open([bystander], options.bystanders)
    hands = stage.hire(-(-options.clients // MOST_IN_PROCESS))
    shares = stage.open(hands, options.clients, first=options.bystanders)
    bystander.ask(stand_by, seconds=options.seconds + 10)
    with stage.measured() as span:
        for hand, (first, count) in zip(hands, shares, strict=True):
            hand.ask(
                drop_and_return, first=first, count=count, window=options.window, seconds=options.seconds
            )
        answers = stage.gather(hands)
    bystander.stop()
    (stood,) = stage.gather([bystander])
    span.note([*answers, stood])
    returned = sum(answer["opened"] for answer in answers)
    pings = Latency.merged([stood["latency"]])
    back = Latency.merged(answer["latency"] for answer in answers)
    return {
        "returned": returned,
        "missing": options.clients - returned,
        "seconds": max(answer["end"] for answer in answers) - min(answer["begin"] for answer in answers),
        "errors": sum(count for answer in answers for count in answer["errors"].values()),
        **span.cost("return", returned),
        "open_p99_ms": back.percentile_ms(99),
        "bystanders_lost": stood["lost"],
        "bystander_pings": pings.count,
        "pings_unanswered": stood["unanswered"],
        **{f"ping_{name}": value for name, value in pings.figures().items()},
    }
