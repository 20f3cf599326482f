"""Tasks of a process with very many connections: log in, send heartbeats, receive broadcasts, leave."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.connections import LEAVING, OPEN, OPEN_WINDOW, Connection, ConnectionSet
from bench.dialects import OPENERS
from bench.frames import CLOSE, TEXT, client_frame, request_frame, scan
from bench.generator import Generator
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency
from bench.loop import BATCH, Json

#: A message text is its time stamp and the number of its user, or EVERYBODY.
TARGET_DIGITS = 7
EVERYBODY = 9_999_999
TEXT_AT = b'"msg":"'
#: A broadcast to a million takes seconds.
SPREAD_STEP_US = 10_000
#: Requested buffer size; the kernel doubles it. An idle client needs no more.
SOCKET_BYTES = 8192
QUIET_SECONDS = 15.0
COME_SECONDS = 900.0
HARVEST_SECONDS = 0.2
BEAT = request_frame("heartbeat", "beat", {})
GOODBYE = client_frame((1000).to_bytes(2, "big"), CLOSE)


def message_text(stamp: int, target: int) -> bytes:
    return b"%0*d%0*d" % (STAMP_DIGITS, stamp, TARGET_DIGITS, target)


class Received:
    """The messages of one measurement at all connections of a process. Owned by its connections.

    ``misdelivered``: messages that reached a wrong user.
    """

    def __init__(self) -> None:
        self.total = self.singles = self.misdelivered = self.last_ns = 0
        self.latency = Latency()
        self.spread = Latency(SPREAD_STEP_US)
        self._frame = b"-"
        self._stamp = 0

    def same(self, conn: Connection, data: bytes) -> bool:
        """Count ``data`` if it is the broadcast that other connections have received."""
        if data != self._frame:
            return False
        self._broadcast(conn)
        return True

    def message(self, conn: Connection, frame: bytes) -> None:
        at = frame.find(TEXT_AT) + len(TEXT_AT)
        stamp = int(frame[at : at + STAMP_DIGITS])
        target = int(frame[at + STAMP_DIGITS : at + STAMP_DIGITS + TARGET_DIGITS])
        if target == EVERYBODY:
            self._frame, self._stamp = frame, stamp
            self._broadcast(conn)
        elif target == conn.number:
            self.singles += 1
            self.latency.add(self._since(stamp))
        else:
            self.misdelivered += 1

    def _broadcast(self, conn: Connection) -> None:
        conn.frames += 1
        self.total += 1
        self.spread.add(self._since(self._stamp))

    def _since(self, stamp: int) -> int:
        self.last_ns = now = time.monotonic_ns()
        return (now // 1000 - stamp) % STAMP_WRAP

    def verdict(self, conns: list[Connection], wanted: int) -> Json:
        """Compare the received messages with ``wanted`` broadcasts to each of ``conns``."""
        counts = [conn.frames for conn in conns]
        return {
            "received": self.total,
            "lost": sum(wanted - count for count in counts if count < wanted),
            "doubled": sum(count - wanted for count in counts if count > wanted),
            "singles": self.singles,
            "misdelivered": self.misdelivered,
            "last_ns": self.last_ns,
            "latency": self.latency.pack(),
            "spread": self.spread.pack(),
        }


class UserConnections(ConnectionSet):
    """The connections of one generator process, which count broadcasts, heartbeats and notices."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator.loop, generator.target, generator.index, SOCKET_BYTES)
        self.received = Received()
        self.beats = self.notices = 0
        self.take = self.count
        self._beaten = b"-"  # the answer to a heartbeat, the same for everybody

    def count(self, conn: Connection, end: int) -> None:
        data, conn.rest = bytes(self.view[:end]), b""
        if data == self._beaten:
            self.beats += 1
            return
        if self.received.same(conn, data):
            return
        found, used = scan(data, end)
        conn.rest = data[used:]
        begin = 0
        for opcode, start, stop in found:
            payload, frame = data[start:stop], data[begin:stop]
            begin = stop
            if opcode >= CLOSE:
                self.control(conn, opcode, payload)
            elif opcode == TEXT and b'"cmd":"msg"' in payload:
                self.received.message(conn, frame)
            elif opcode == TEXT and b'"cmd":"heartbeat"' in payload and b'"code":200' in payload:
                self.beats += 1
                self._beaten = frame
            else:
                self.notices += 1

    def each(self, conns: list[Connection], frame: bytes, answered: Callable[[], int], window: int) -> int:
        """Send ``frame`` on each connection and wait for as many answers, at most ``window`` requests at a
        time; return the number of missing answers.
        """
        before, lost, total, sent = answered(), self.lost, len(conns), 0
        quiet = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < quiet and not self.loop.stopped:
            done = answered() - before + self.lost - lost
            if done >= total:
                break
            for conn in conns[sent : done + window]:
                sent += 1
                if conn.fd in self.by_fd:
                    self.send(conn, frame)
            if self.loop.turn(0.1):
                quiet = time.monotonic() + QUIET_SECONDS
        return total - (answered() - before)

    def facts(self) -> Json:
        """``notices``: number of enter and exit frames, which are not counted elsewhere."""
        return {**super().facts(), "notices": self.notices}


def users_of(generator: Generator) -> UserConnections:
    """Return the connections of this process; the first call makes it."""
    users: UserConnections = generator.state.get("users") or generator.state.setdefault(
        "users", UserConnections(generator)
    )
    return users


def report(generator: Generator) -> Json:
    return users_of(generator).facts()


def come(
    generator: Generator, first: int, count: int, window: int = OPEN_WINDOW, seconds: float = COME_SECONDS
) -> Json:
    """Task: log in ``count`` users, from ``first`` on; ends when all are in, or after ``seconds``."""
    users, begin = users_of(generator), time.monotonic()
    opening = users.open(
        range(first, first + count), OPENERS["cmd"], window=window, seconds=seconds, retry=True
    )
    return {**opening.pack(), "begin": begin, "end": time.monotonic(), **users.facts()}


def beat(generator: Generator, window: int = OPEN_WINDOW) -> Json:
    users = users_of(generator)
    conns = list(users.by_fd.values())
    return {
        "sent": len(conns),
        "unanswered": users.each(conns, BEAT, lambda: users.beats, window),
        **users.facts(),
    }


def count_anew(generator: Generator) -> Json:
    users = users_of(generator)
    users.received = Received()
    for conn in users.by_fd.values():
        conn.clear()
    return users.facts()


def expect(generator: Generator, broadcasts: int, seconds: float, look_seconds: float) -> Json:
    """Task: receive until all have so many broadcasts, at most ``seconds``.

    Between two checks the process sleeps, so that an arriving frame wakes nothing. So the server is measured,
    and not the wake-ups of the few processes that play so many clients.
    """
    users, loop = users_of(generator), generator.loop
    end = time.monotonic() + seconds
    while time.monotonic() < end and not loop.stopped:
        wanted = broadcasts * len(users.by_fd)
        if users.received.total >= wanted:
            break
        pause = time.monotonic() + max(HARVEST_SECONDS, look_seconds)
        while time.monotonic() < pause:
            if loop.turn(0) < BATCH:
                time.sleep(look_seconds)
    return users.facts()


def verdict(generator: Generator, broadcasts: int) -> Json:
    """Task: report the received messages, compared with so many broadcasts to all users."""
    users = users_of(generator)
    generator.loop.turn(0)
    return {"verdict": users.received.verdict(list(users.by_fd.values()), broadcasts), **users.facts()}


def leave(generator: Generator, window: int = OPEN_WINDOW) -> Json:
    """Task: close all connections as clients do, with a close frame."""
    users = users_of(generator)
    conns = [conn for conn in users.by_fd.values() if conn.phase == OPEN]
    for conn in conns:
        conn.phase = LEAVING
    missing = users.each(conns, GOODBYE, lambda: -len(users.by_fd), window)
    users.close()
    return {"left": len(conns) - missing, "missing": missing, **users.facts()}
