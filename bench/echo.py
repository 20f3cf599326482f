"""Scenario ``echo``: what a round trip costs when each connection has one in flight."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench.connections import Peer
from bench.figures import Figures
from bench.frames import CLOSE, TEXT, request_frame, scan
from bench.generator import Generator
from bench.latency import Latency
from bench.stage import MOST_CONNECTIONS, MOST_IN_PROCESS, Stage, parameter, seconds_parameter

LAST_ANSWERS_SECONDS = 2.0
RECEIVE_BYTES = 4096


class Echo:
    """The requests of one process. Owns who is waiting since when, and what a right answer looks like."""

    def __init__(self, generator: Generator, command: str) -> None:
        self.loop = generator.loop
        self.passed = generator.passed
        self.swarm = generator.swarm
        self.marker = b'"cmd":"' + command.encode() + b'"'
        self.frame = request_frame(command, "bench", {} if command == "heartbeat" else None)
        self.expected = b""
        self.latency = Latency()
        self.answers = 0
        self.wrong = 0
        self.sent_ns: dict[int, int] = {}

    def begin(self) -> None:
        for peer in list(self.swarm.peers.values()):
            self.sent_ns[peer.fd] = time.monotonic_ns()
            peer.sock.send(self.frame)

    def run(self, begin: float, until: float) -> None:
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
                    self._lost(peer, "reset")
            now = clock()
            self.passed(begin, until)

    def finish(self) -> None:
        until = time.monotonic() + LAST_ANSWERS_SECONDS
        self.swarm.take = self._last_answer
        while self.sent_ns and time.monotonic() < until:
            self.loop.turn(0.1)
            for peer in self.swarm.lost:
                self.sent_ns.pop(peer.fd, None)
        self.swarm.take = self.swarm.skim

    def _last_answer(self, peer: Peer, end: int) -> None:
        data = bytes(self.swarm.view[len(peer.rest) : end])
        if self._answered(peer, data) and peer.fd in self.sent_ns:
            self.latency.add((time.monotonic_ns() - self.sent_ns.pop(peer.fd)) // 1000)
            self.answers += 1

    def _answered(self, peer: Peer, data: bytes) -> bool:
        """Look closely at what came: whether the answer is in it; other frames may be as well."""
        if not data:
            self._lost(peer, "end of stream")
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

    def _lost(self, peer: Peer, reason: str) -> None:
        self.sent_ns.pop(peer.fd, None)
        self.swarm.lose(peer, reason)


def echo(generator: Generator, seconds: float, command: str) -> dict[str, Any]:
    """Task: one request in flight on each connection of this process, for ``seconds``."""
    run = Echo(generator, command)
    begin = time.monotonic()
    run.begin()
    run.run(begin, begin + seconds)
    wall = time.monotonic() - begin
    during = run.answers
    run.finish()
    return {
        "round_trips": run.answers,
        "during": during,
        "seconds": wall,
        "wrong": run.wrong,
        "unanswered": len(run.sent_ns),
        "latency": run.latency.pack(),
        **generator.swarm.facts(),
    }


@dataclass(frozen=True)
class EchoOptions:
    """Parameters of the scenario."""

    connections: int = parameter(200, "Connections, each with one request in flight.", most=MOST_CONNECTIONS)
    seconds: float = seconds_parameter(3.0, "How long")
    heartbeat: bool = parameter(False, "Send heartbeats instead of pings.")
    processes: int = parameter(1, "Generator processes.", most=64)


def run(stage: Stage, options: EchoOptions) -> Figures:
    """Measure round trips of pings or heartbeats."""
    command = "heartbeat" if options.heartbeat else "ping"
    hands = stage.hire(max(options.processes, -(-options.connections // MOST_IN_PROCESS)))
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
