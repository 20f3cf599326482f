"""Tasks of a process with very many connections: log in, send heartbeats, receive broadcasts, leave."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.connections import LEAVING, OPEN, OPEN_WINDOW, Peer, Swarm
from bench.frames import CLOSE, TEXT, client_frame, login_frame, request_frame, scan, user_name
from bench.generator import Generator
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency
from bench.loop import BATCH, Json

#: A message text is its time stamp and the number of the user it is for, or EVERYBODY.
TARGET_DIGITS = 7
EVERYBODY = 9_999_999
TEXT_AT = b'"msg":"'
#: A broadcast to a million takes seconds.
SPREAD_STEP_US = 10_000
#: Asked for buffers; the kernel doubles them. A client that sits there needs no more.
SOCKET_BYTES = 8192
QUIET_SECONDS = 15.0
COME_SECONDS = 900.0
HARVEST_SECONDS = 0.2
BEAT = request_frame("heartbeat", "beat", {})
GOODBYE = client_frame((1000).to_bytes(2, "big"), CLOSE)


def message_text(stamp: int, target: int) -> bytes:
    return b"%0*d%0*d" % (STAMP_DIGITS, stamp, TARGET_DIGITS, target)


class Received:
    """The messages of one measurement at all connections of a process. Owned by its crowd.

    ``strays`` are messages that reached somebody they were not for.
    """

    def __init__(self) -> None:
        self.total = self.singles = self.strays = self.last_ns = 0
        self.latency = Latency()
        self.spread = Latency(SPREAD_STEP_US)
        self._frame = b"-"
        self._stamp = 0

    def same(self, peer: Peer, data: bytes) -> bool:
        """Count ``data`` if it is the broadcast that others got already."""
        if data != self._frame:
            return False
        self._broadcast(peer)
        return True

    def message(self, peer: Peer, frame: bytes) -> None:
        at = frame.find(TEXT_AT) + len(TEXT_AT)
        stamp = int(frame[at : at + STAMP_DIGITS])
        target = int(frame[at + STAMP_DIGITS : at + STAMP_DIGITS + TARGET_DIGITS])
        if target == EVERYBODY:
            self._frame, self._stamp = frame, stamp
            self._broadcast(peer)
        elif target == peer.number:
            self.singles += 1
            self.latency.add(self._since(stamp))
        else:
            self.strays += 1

    def _broadcast(self, peer: Peer) -> None:
        peer.frames += 1
        self.total += 1
        self.spread.add(self._since(self._stamp))

    def _since(self, stamp: int) -> int:
        self.last_ns = now = time.monotonic_ns()
        return (now // 1000 - stamp) % STAMP_WRAP

    def verdict(self, peers: list[Peer], wanted: int) -> Json:
        """Compare what came with ``wanted`` broadcasts to each of ``peers``."""
        counts = [peer.frames for peer in peers]
        return {
            "received": self.total,
            "lost": sum(wanted - count for count in counts if count < wanted),
            "doubled": sum(count - wanted for count in counts if count > wanted),
            "singles": self.singles,
            "strays": self.strays,
            "last_ns": self.last_ns,
            "latency": self.latency.pack(),
            "spread": self.spread.pack(),
        }


class Crowd(Swarm):
    """The connections of one generator process, which count broadcasts, heartbeats and notices."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator.loop, generator.target, generator.index, SOCKET_BYTES)
        self.progress = generator.progress
        self.received = Received()
        self.beats = self.notices = 0
        self.take = self.count
        self._beaten = b"-"  # the answer to a heartbeat, the same for everybody

    def count(self, peer: Peer, end: int) -> None:
        data, peer.rest = bytes(self.view[:end]), b""
        if data == self._beaten:
            self.beats += 1
            return
        if self.received.same(peer, data):
            return
        found, used = scan(data, end)
        peer.rest = data[used:]
        begin = 0
        for opcode, start, stop in found:
            payload, frame = data[start:stop], data[begin:stop]
            begin = stop
            if opcode >= CLOSE:
                self.control(peer, opcode, payload)
            elif opcode == TEXT and b'"cmd":"msg"' in payload:
                self.received.message(peer, frame)
            elif opcode == TEXT and b'"cmd":"heartbeat"' in payload and b'"code":200' in payload:
                self.beats += 1
                self._beaten = frame
            else:
                self.notices += 1

    def each(self, peers: list[Peer], frame: bytes, answered: Callable[[], int], window: int) -> int:
        """Send ``frame`` on each connection and wait for as many answers, at most ``window`` under way;
        return how many did not come."""
        before, lost, total, sent = answered(), self.lost, len(peers), 0
        quiet = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < quiet and not self.loop.stopped:
            done = answered() - before + self.lost - lost
            self.progress(done, total)
            if done >= total:
                break
            for peer in peers[sent : done + window]:
                sent += 1
                if peer.fd in self.peers:
                    self.send(peer, frame)
            if self.loop.turn(0.1):
                quiet = time.monotonic() + QUIET_SECONDS
        return total - (answered() - before)

    def facts(self) -> Json:
        """``notices`` are frames that nobody counts: of logins and departures."""
        return {**super().facts(), "notices": self.notices}


def crowd_of(generator: Generator) -> Crowd:
    """Return the crowd of this process; the first call makes it."""
    crowd: Crowd = generator.kept.get("crowd") or generator.kept.setdefault("crowd", Crowd(generator))
    return crowd


def tell(generator: Generator) -> Json:
    return crowd_of(generator).facts()


def come(
    generator: Generator, first: int, count: int, window: int = OPEN_WINDOW, seconds: float = COME_SECONDS
) -> Json:
    """Task: log in ``count`` users, ``first`` and following; done when all are in, or after ``seconds``."""
    crowd, app, begin = crowd_of(generator), generator.target.app, time.monotonic()
    opening = crowd.open(
        range(first, first + count),
        lambda number: login_frame(app, user_name(number)),
        window=window,
        seconds=seconds,
        retry=True,
        progress=generator.progress,
    )
    return {**opening.pack(), "begin": begin, "end": time.monotonic(), **crowd.facts()}


def beat(generator: Generator, window: int = OPEN_WINDOW) -> Json:
    crowd = crowd_of(generator)
    peers = list(crowd.peers.values())
    return {
        "sent": len(peers),
        "unanswered": crowd.each(peers, BEAT, lambda: crowd.beats, window),
        **crowd.facts(),
    }


def count_anew(generator: Generator) -> Json:
    crowd = crowd_of(generator)
    crowd.received = Received()
    for peer in crowd.peers.values():
        peer.clear()
    return crowd.facts()


def expect(generator: Generator, broadcasts: int, seconds: float, look_seconds: float) -> Json:
    """Task: receive until all have so many broadcasts, for ``seconds`` at most.

    Between two looks the process sleeps, so that a frame that arrives wakes nobody. What is measured is the
    server then, not how often it has to wake the few processes that play so many clients.
    """
    crowd, loop = crowd_of(generator), generator.loop
    end = time.monotonic() + seconds
    while time.monotonic() < end and not loop.stopped:
        wanted = broadcasts * len(crowd.peers)
        generator.progress(crowd.received.total, wanted)
        if crowd.received.total >= wanted:
            break
        pause = time.monotonic() + max(HARVEST_SECONDS, look_seconds)
        while time.monotonic() < pause:
            if loop.turn(0) < BATCH:
                time.sleep(look_seconds)
    return crowd.facts()


def verdict(generator: Generator, broadcasts: int) -> Json:
    """Task: tell what was received, compared with so many broadcasts to everybody."""
    crowd = crowd_of(generator)
    generator.loop.turn(0)
    return {"verdict": crowd.received.verdict(list(crowd.peers.values()), broadcasts), **crowd.facts()}


def leave(generator: Generator, window: int = OPEN_WINDOW) -> Json:
    """Task: everybody closes as clients do, by a close frame."""
    crowd = crowd_of(generator)
    peers = [peer for peer in crowd.peers.values() if peer.phase == OPEN]
    for peer in peers:
        peer.phase = LEAVING
    missing = crowd.each(peers, GOODBYE, lambda: -len(crowd.peers), window)
    crowd.close()
    return {"left": len(peers) - missing, "missing": missing, **crowd.facts()}
