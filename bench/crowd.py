"""Very many connections in one process, a few bytes each: arrays, no object per connection."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.connections import (
    DIALLING,
    IP_BIND_ADDRESS_NO_PORT,
    LOGGING_IN,
    OPEN,
    RESET_ON_CLOSE,
    UPGRADING,
    Opening,
    Target,
    source_address,
)
from bench.frames import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    UPGRADE_ACCEPT,
    client_frame,
    login_frame,
    request_frame,
    scan,
    upgrade_request,
    user_name,
)
from bench.generator import Generator, pack_opening
from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency
from bench.loop import READ, WRITE, Loop

#: A message text is its time stamp and the number of the user it is for, or EVERYBODY.
TARGET_DIGITS = 7
EVERYBODY = 9_999_999
TEXT_AT = b'"msg":"'
#: A broadcast to a million takes seconds.
SPREAD_STEP_US = 10_000


def message_text(stamp: int, target: int) -> bytes:
    """Return the text of a message that is sent at ``stamp``."""
    return b"%0*d%0*d" % (STAMP_DIGITS, stamp, TARGET_DIGITS, target)


class Received:
    """The messages of one measurement at all connections of a process. Owned by its crowd.

    ``broadcasts`` counts by descriptor. ``strays`` are messages that reached somebody they were not for.
    """

    def __init__(self, files: int) -> None:
        self.broadcasts = array("H", bytes(2 * files))
        self.total = self.singles = self.strays = self.last_ns = 0
        self.latency = Latency()
        self.spread = Latency(SPREAD_STEP_US)
        self._frame = b"-"
        self._stamp = 0

    def same(self, fd: int, data: bytes) -> bool:
        """Count ``data`` if it is the broadcast that others got already."""
        if data != self._frame:
            return False
        self._broadcast(fd)
        return True

    def message(self, fd: int, number: int, frame: bytes) -> None:
        """Count a message that came to user ``number``."""
        at = frame.find(TEXT_AT) + len(TEXT_AT)
        stamp = int(frame[at : at + STAMP_DIGITS])
        target = int(frame[at + STAMP_DIGITS : at + STAMP_DIGITS + TARGET_DIGITS])
        if target == EVERYBODY:
            self._frame, self._stamp = frame, stamp
            self._broadcast(fd)
        elif target == number:
            self.singles += 1
            self.latency.add(self._since(stamp))
        else:
            self.strays += 1

    def _broadcast(self, fd: int) -> None:
        self.broadcasts[fd] += 1
        self.total += 1
        self.spread.add(self._since(self._stamp))

    def _since(self, stamp: int) -> int:
        self.last_ns = now = time.monotonic_ns()
        return (now // 1000 - stamp) % STAMP_WRAP

    def verdict(self, fds: list[int], wanted: int) -> dict[str, Any]:
        """Compare what came with ``wanted`` broadcasts to each of ``fds``."""
        counts = [self.broadcasts[fd] for fd in fds]
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


RECEIVE_BYTES = 4096
#: Asked for buffers; the kernel doubles them. A client that sits there needs no more.
BUFFER_BYTES = 8192


class CrowdOpening:
    """The opening of connections in one process. Owns what is under way: since when, half-read answers."""

    def __init__(self, crowd: Crowd, target: Target, index: int) -> None:
        self.crowd = crowd
        self.target = target
        self.index = index
        self._request = upgrade_request(f"{target.ws_host}:{target.ws_port}", target.ws_path)
        # Answers that are the same for everybody, as they were seen the first time.
        self._upgraded = self._logged_in = b"-"
        self._begun_ns: dict[int, int] = {}
        self._rest: dict[int, bytes] = {}
        self._opening = Opening()
        self._again: deque[int] = deque()
        self._dials = 0

    def open(
        self, loop: Loop, numbers: range, *, window: int, seconds: float, progress: Callable[[int, int], None]
    ) -> Opening:
        """Log in one connection for each of ``numbers``, at most ``window`` under way at once.

        One that fails is counted and tried again until ``seconds`` are over.
        """
        opening = self._opening = Opening()
        waiting = self._again = deque(numbers)
        total, begin = len(numbers), time.monotonic()
        while opening.opened < total and not loop.stopped:
            for _ in range(min(window - len(self._begun_ns), len(waiting))):
                self._dial(waiting.popleft())
            loop.turn(0.1)
            progress(opening.opened, total)
            if time.monotonic() > begin + seconds:
                opening.error("not open in time")
                break
        opening.seconds = time.monotonic() - begin
        for fd in list(self._begun_ns):
            self._forget(fd)
            self.crowd.drop(fd)
        return opening

    def _dial(self, number: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._dials += 1
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            if self.target.loopback:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source_address(self.index, self._dials), 0))
            code = sock.connect_ex((self.target.ws_host, self.target.ws_port))
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._again.append(number)
            self._opening.error(errno.errorcode.get(code, str(code)))
            return
        fd = sock.detach()
        self._begun_ns[fd] = time.monotonic_ns()
        self.crowd.adopt(fd, number, WRITE)
        self._write(fd, self._request, UPGRADING)  # on loopback the connection stands by now

    def _write(self, fd: int, data: bytes, phase: int) -> None:
        """Send ``data``, which begins ``phase``."""
        try:
            os.write(fd, data)
        except BlockingIOError:
            return
        except OSError as error:
            self.failed(fd, errno.errorcode.get(error.errno or 0, "error"))
            return
        self.crowd.phase[fd] = phase
        if phase == UPGRADING:
            self.crowd.watch(fd, READ)

    def failed(self, fd: int, reason: str) -> None:
        """One that was under way has ended; it is tried again."""
        self._again.append(self.crowd.number_of(fd))
        self._opening.error(reason)
        self._forget(fd)
        self.crowd.drop(fd)

    def _forget(self, fd: int) -> int:
        self._rest.pop(fd, None)
        return self._begun_ns.pop(fd, 0)

    def advance(self, fd: int, data: bytes) -> None:
        """Take a connection one step further with what it received; no data says that it can be written."""
        phase = self.crowd.phase[fd]
        if phase == DIALLING:
            self._write(fd, self._request, UPGRADING)
        elif phase == UPGRADING and data == self._upgraded:
            self._log_in(fd)
        elif phase == LOGGING_IN and data == self._logged_in:
            self._arrived(fd, b"")
        else:
            self._look(fd, phase, self._rest.pop(fd, b"") + data)

    def _look(self, fd: int, phase: int, data: bytes) -> None:
        if phase == UPGRADING:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._rest[fd] = data
            elif data.startswith(b"HTTP/1.1 101") and UPGRADE_ACCEPT in data:
                self._upgraded = data
                self._log_in(fd)
            else:
                self.failed(fd, "upgrade refused: " + data[:40].split(b"\r")[0].decode("latin-1"))
            return
        found, used = scan(data, len(data))
        self._rest[fd] = data[used:]
        for opcode, start, stop in found:
            payload = data[start:stop]
            login = b'"cmd":"login"' in payload
            if login and b'"code":200' in payload:
                if stop == len(data):
                    self._logged_in = data
                self._arrived(fd, data[stop:])
                return
            if login or opcode == CLOSE:
                self.failed(fd, f"login refused: {payload[:120]!r}")
                return

    def _log_in(self, fd: int) -> None:
        name = user_name(self.crowd.number_of(fd))
        self._write(fd, login_frame(self.target.app, name, "login"), LOGGING_IN)

    def _arrived(self, fd: int, rest: bytes) -> None:
        begun_ns = self._forget(fd)
        self._opening.opened += 1
        self._opening.latency.add((time.monotonic_ns() - begun_ns) // 1000)
        self.crowd.opened(fd, rest)


EDGE = getattr(select, "EPOLLET", 0)
EVENTS = 2048
MOST_FILES = 1 << 20
QUIET_SECONDS = 15.0
BEAT = request_frame("heartbeat", "beat", {})
GOODBYE = client_frame((1000).to_bytes(2, "big"), CLOSE)

#: Phases besides those of :mod:`.peer`; from OPEN on a connection is logged in.
LEAVING, NONE = OPEN + 1, 255

Progress = Callable[[int, int], None]


class Crowd:
    """The connections of one generator process. Owns their descriptors, and all that is known of each by its
    descriptor: phase, user number, broadcasts received.

    Has an epoll of its own inside that of the loop, so that the loop keeps nothing for a connection either.
    """

    def __init__(self, loop: Loop, target: Target, index: int = 0) -> None:
        self.loop = loop
        self.epoll = select.epoll()
        loop.add(self.epoll.fileno(), READ, self)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        files = files if 0 < files < MOST_FILES else MOST_FILES
        self.phase = bytearray([NONE]) * files
        self.number = array("I", bytes(4 * files))
        self.received = Received(files)
        self.arrivals = CrowdOpening(self, target, index)
        self.open_now = 0
        self.lost = 0
        self.reasons: dict[str, int] = {}
        self.beats = 0
        self.notices = 0
        self._beaten = b"-"  # the answer to a heartbeat, the same for everybody
        self._rest: dict[int, bytes] = {}

    def adopt(self, fd: int, number: int, mask: int) -> None:
        """Take over the descriptor of user ``number``."""
        self.phase[fd], self.number[fd] = DIALLING, number
        self.epoll.register(fd, mask)

    def watch(self, fd: int, mask: int) -> None:
        self.epoll.modify(fd, mask)

    def number_of(self, fd: int) -> int:
        return self.number[fd]

    def opened(self, fd: int, data: bytes) -> None:
        """From now on the descriptor is a logged-in connection, which has received ``data`` already."""
        self.phase[fd] = OPEN
        self.epoll.modify(fd, READ | EDGE)
        self.open_now += 1
        if data:
            self._scan(fd, data)

    def drop(self, fd: int) -> None:
        """Close and forget; by a reset, so that no port waits."""
        if OPEN <= self.phase[fd] < NONE:
            self.open_now -= 1
        self.phase[fd] = NONE
        self._rest.pop(fd, None)
        self.epoll.unregister(fd)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        sock.close()

    def ready(self, _fd: int, _mask: int) -> None:
        """Receive what is there for any of the connections."""
        self._receive()

    def _receive(self) -> int:
        phase, read = self.phase, os.read
        events = self.epoll.poll(0, EVENTS)
        for fd, _events in events:
            if phase[fd] == DIALLING:
                self.arrivals.advance(fd, b"")
                continue
            try:
                data = read(fd, RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                self._end(fd, errno.errorcode.get(error.errno or 0, "error"))
                continue
            if not data:
                self._end(fd, "end of stream")
            elif phase[fd] < OPEN:
                self.arrivals.advance(fd, data)
            else:
                self._take(fd, data)
                if len(data) == RECEIVE_BYTES and phase[fd] != NONE:
                    self.epoll.modify(fd, READ | EDGE)  # there may be more, which is no new edge
        return len(events)

    def _take(self, fd: int, data: bytes) -> None:
        if fd in self._rest:
            self._scan(fd, self._rest.pop(fd) + data)
        elif data == self._beaten:
            self.beats += 1
        elif not self.received.same(fd, data):
            self._scan(fd, data)

    def _scan(self, fd: int, data: bytes) -> None:
        found, used = scan(data, len(data))
        if used < len(data):
            self._rest[fd] = data[used:]
        begin = 0
        for opcode, start, stop in found:
            payload, frame = data[start:stop], data[begin:stop]
            begin = stop
            if opcode == TEXT and b'"cmd":"msg"' in payload:
                self.received.message(fd, self.number[fd], frame)
            elif opcode == TEXT and b'"cmd":"heartbeat"' in payload and b'"code":200' in payload:
                self.beats += 1
                self._beaten = frame
            elif opcode == TEXT:
                self.notices += 1
            elif opcode == PING:
                self._write(fd, client_frame(payload, PONG))
            elif opcode == CLOSE:
                self._end(fd, f"close {int.from_bytes(payload[:2], 'big')}")
                return

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """While it lasts nobody waits for these sockets, so that a frame that arrives wakes no process.

        What is measured is the server then, not how often it has to wake the few processes that play so many
        clients. To begin and to end it the kernel looks at every connection: do it once, not in a loop.
        """
        self.loop.remove(self.epoll.fileno())
        try:
            yield
        finally:
            self.loop.add(self.epoll.fileno(), READ, self)

    def harvest(self, seconds: float, look_seconds: float) -> None:
        """Receive whatever comes for so long, while :meth:`unheard`, with pauses of ``look_seconds``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._receive() < EVENTS:
                time.sleep(look_seconds)

    def count_anew(self) -> None:
        self.received = Received(len(self.phase))

    def members(self) -> list[int]:
        phase = self.phase
        return [fd for fd in range(len(phase)) if phase[fd] == OPEN]

    def beat(self, progress: Progress, window: int) -> int:
        """Send one heartbeat on each connection, at most ``window`` unanswered; return how many stay so."""
        return self._each(self.members(), BEAT, lambda: self.beats, progress, window)

    def leave(self, progress: Progress, window: int) -> int:
        """Close all connections as clients do, by a close frame; return how many got no answer."""
        fds = self.members()
        for fd in fds:
            self.phase[fd] = LEAVING
        begun = self.open_now
        missing = self._each(fds, GOODBYE, lambda: begun - self.open_now, progress, window)
        for fd in fds:
            if self.phase[fd] == LEAVING:
                self.drop(fd)
        return missing

    def _each(
        self, fds: list[int], frame: bytes, answered: Callable[[], int], progress: Progress, window: int
    ) -> int:
        """Send ``frame`` on each of ``fds`` and wait for as many answers; return how many did not come."""
        before, lost, total, sent = answered(), self.lost, len(fds), 0
        quiet = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < quiet and not self.loop.stopped:
            done = answered() - before + self.lost - lost
            progress(done, total)
            if done >= total:
                break
            for fd in fds[sent : done + window]:
                sent += 1
                if self.phase[fd] != NONE:
                    self._write(fd, frame)
            if self.loop.turn(0.1):
                quiet = time.monotonic() + QUIET_SECONDS
        return total - (answered() - before)

    def _write(self, fd: int, frame: bytes) -> None:
        try:
            os.write(fd, frame)
        except OSError as error:
            self._end(fd, errno.errorcode.get(error.errno or 0, "error"))

    def _end(self, fd: int, reason: str) -> None:
        phase = self.phase[fd]
        if phase < OPEN:
            self.arrivals.failed(fd, reason)
            return
        if phase == OPEN:
            self.lost += 1
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.drop(fd)


COME_WINDOW = 256
COME_SECONDS = 900.0
HARVEST_SECONDS = 0.2


def crowd_of(generator: Generator) -> Crowd:
    """Return the crowd of this process; the first call makes it."""
    crowd = generator.kept.get("crowd")
    if not isinstance(crowd, Crowd):
        crowd = generator.kept["crowd"] = Crowd(generator.loop, generator.target, generator.index)
    return crowd


def facts_of(crowd: Crowd) -> dict[str, Any]:
    """Return how many connections stand, what became of those that the server ended, and how many frames came
    that nobody counts: notices of logins and departures."""
    return {
        "connections": crowd.open_now,
        "lost": crowd.lost,
        "closes": crowd.reasons,
        "notices": crowd.notices,
    }


def tell(generator: Generator) -> dict[str, Any]:
    """Task: tell how many connections stand."""
    return facts_of(crowd_of(generator))


def come(
    generator: Generator, first: int, count: int, window: int = COME_WINDOW, seconds: float = COME_SECONDS
) -> dict[str, Any]:
    """Task: log in ``count`` users, ``first`` and following; done when all are in, or after ``seconds``."""
    crowd = crowd_of(generator)
    begin = time.monotonic()
    opening = crowd.arrivals.open(
        generator.loop,
        range(first, first + count),
        window=window,
        seconds=seconds,
        progress=generator.progress,
    )
    return {**pack_opening(opening), "begin": begin, "end": time.monotonic(), **facts_of(crowd)}


def beat(generator: Generator, window: int = COME_WINDOW) -> dict[str, Any]:
    """Task: one heartbeat of everybody."""
    crowd = crowd_of(generator)
    sent = crowd.open_now
    return {"sent": sent, "unanswered": crowd.beat(generator.progress, window), **facts_of(crowd)}


def count_anew(generator: Generator) -> dict[str, Any]:
    """Task: forget what was received."""
    crowd = crowd_of(generator)
    crowd.count_anew()
    return facts_of(crowd)


def expect(generator: Generator, broadcasts: int, seconds: float, look_seconds: float) -> dict[str, Any]:
    """Task: receive until all have so many broadcasts, for ``seconds`` at most; with pauses between looks."""
    crowd = crowd_of(generator)
    end = time.monotonic() + seconds
    with crowd.unheard():
        while time.monotonic() < end and not generator.loop.stopped:
            wanted = broadcasts * crowd.open_now
            if crowd.received.total >= wanted:
                break
            crowd.harvest(max(HARVEST_SECONDS, look_seconds), look_seconds)
            generator.loop.turn(0)
            generator.progress(crowd.received.total, wanted)
    return facts_of(crowd)


def verdict(generator: Generator, broadcasts: int) -> dict[str, Any]:
    """Task: tell what was received, compared with so many broadcasts to everybody."""
    crowd = crowd_of(generator)
    generator.loop.turn(0)
    return {"verdict": crowd.received.verdict(crowd.members(), broadcasts), **facts_of(crowd)}


def leave(generator: Generator, window: int = COME_WINDOW) -> dict[str, Any]:
    """Task: everybody closes."""
    crowd = crowd_of(generator)
    stayed = crowd.open_now
    missing = crowd.leave(generator.progress, window)
    return {"left": stayed - missing, "missing": missing, **facts_of(crowd)}
