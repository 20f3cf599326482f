"""Very many connections in one process, a few bytes each: descriptors and arrays, no object a connection.

What :class:`~bench.client.Swarm` is to hundreds of receivers that are looked at closely, this is to
a million that sit there: it opens them, keeps them alive, and counts what each of them gets.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.arrival import RECEIVE_BYTES, Arrivals
from bench.client import RESET_ON_CLOSE
from bench.frames import CLOSE, PING, PONG, TEXT, client_frame, request_frame, scan
from bench.loop import READ, Loop
from bench.peer import DIALLING, OPEN, Target
from bench.received import Received

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
        self.arrivals = Arrivals(self, target, index)
        self.open_now = 0
        self.lost = 0
        self.reasons: dict[str, int] = {}
        self.beats = 0
        self.notices = 0
        self._beaten = b"-"  # the answer to a heartbeat, the same for everybody
        self._rest: dict[int, bytes] = {}

    # -- what arrivals ask for ---------------------------------------------------------------------------

    def adopt(self, fd: int, number: int, mask: int) -> None:
        """Take over the descriptor of user ``number``."""
        self.phase[fd], self.number[fd] = DIALLING, number
        self.epoll.register(fd, mask)

    def watch(self, fd: int, mask: int) -> None:
        """Change what is waited for."""
        self.epoll.modify(fd, mask)

    def number_of(self, fd: int) -> int:
        """Return the user number."""
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

    # -- receiving ---------------------------------------------------------------------------------------

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
        """Count what a logged-in connection got."""
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
        """Count messages from zero."""
        self.received = Received(len(self.phase))

    def members(self) -> list[int]:
        """Return the descriptors that are open."""
        phase = self.phase
        return [fd for fd in range(len(phase)) if phase[fd] == OPEN]

    # -- staying and leaving -----------------------------------------------------------------------------

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
        """The server, or the network, ended a connection."""
        phase = self.phase[fd]
        if phase < OPEN:
            self.arrivals.failed(fd, reason)
            return
        if phase == OPEN:
            self.lost += 1
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.drop(fd)
