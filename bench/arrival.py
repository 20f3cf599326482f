"""How the connections of a crowd come to be: dial, upgrade, log in, so many at once."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from bench.client import IP_BIND_ADDRESS_NO_PORT, source_address
from bench.frames import CLOSE, UPGRADE_ACCEPT, login_frame, scan, upgrade_request, user_name
from bench.loop import READ, WRITE, Loop
from bench.peer import DIALLING, LOGGING_IN, UPGRADING, Opening, Target

RECEIVE_BYTES = 4096
#: Asked for buffers; the kernel doubles them. A client that sits there needs no more.
BUFFER_BYTES = 8192


class Carrier(Protocol):
    """Whoever keeps the descriptors: their phases and user numbers, and an epoll."""

    phase: bytearray

    def adopt(self, fd: int, number: int, mask: int) -> None:
        """Take over the descriptor of user ``number``."""

    def watch(self, fd: int, mask: int) -> None:
        """Change what is waited for."""

    def number_of(self, fd: int) -> int:
        """Return the user number."""

    def opened(self, fd: int, data: bytes) -> None:
        """From now on the descriptor is a logged-in connection, which has received ``data`` already."""

    def drop(self, fd: int) -> None:
        """Close and forget."""


class Arrivals:
    """The opening of connections in one process. Owns what is under way: since when, half-read answers."""

    def __init__(self, carrier: Carrier, target: Target, index: int) -> None:
        self.carrier = carrier
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
        self,
        loop: Loop,
        numbers: range,
        *,
        window: int,
        seconds: float,
        progress: Callable[[int, int], None],
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
            self.carrier.drop(fd)
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
        self.carrier.adopt(fd, number, WRITE)
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
        self.carrier.phase[fd] = phase
        if phase == UPGRADING:
            self.carrier.watch(fd, READ)

    def failed(self, fd: int, reason: str) -> None:
        """One that was under way has ended; it is tried again."""
        self._again.append(self.carrier.number_of(fd))
        self._opening.error(reason)
        self._forget(fd)
        self.carrier.drop(fd)

    def _forget(self, fd: int) -> int:
        self._rest.pop(fd, None)
        return self._begun_ns.pop(fd, 0)

    def advance(self, fd: int, data: bytes) -> None:
        """Take a connection one step further with what it received; no data says that it can be written."""
        phase = self.carrier.phase[fd]
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
        name = user_name(self.carrier.number_of(fd))
        self._write(fd, login_frame(self.target.app, name, "login"), LOGGING_IN)

    def _arrived(self, fd: int, rest: bytes) -> None:
        begun_ns = self._forget(fd)
        self._opening.opened += 1
        self._opening.latency.add((time.monotonic_ns() - begun_ns) // 1000)
        self.carrier.opened(fd, rest)
