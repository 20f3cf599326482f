"""Many WebSocket connections in one loop: connect, upgrade, log in, receive,
close."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.frames import (
    CLOSE,
    PING,
    PONG,
    UPGRADE_ACCEPT,
    client_frame,
    request_frame,
    scan,
    upgrade_request,
    user_name,
)
from bench.latency import Latency
from bench.loop import READ, WRITE, Json, Loop

DIALLING, UPGRADING, LOGGING_IN, OPEN, LEAVING = range(5)
OPEN_WINDOW = 256
OPEN_SECONDS = 60.0
MOST_REFUSED = 100
"""So many refusals, and no connection that was opened: the server admits
nobody."""
LOGIN_ANSWER = b'":"login"'
"""Occurs in the answer to a login in every dialect that has one, and nowhere
else."""
BUFFER_BYTES = 1 << 18
PORTS_PER_SOURCE = 12_000
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; not in the socket module of Python 3.11
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Opener:
    """The way to open a connection. ``path``: replaces the target's path.

    ``login`` returns the frame that logs a user in, for app and number; without
    it only the upgrade is done. ``answer``: the beginning of the payload that
    answers a login, if it lacks LOGIN_ANSWER.
    """

    path: str = ""
    login: Callable[[int, int], bytes] | None = None
    answer: bytes = b""


@dataclass(frozen=True)
class Target:
    """The server under test, for a generator process."""

    ws_host: str
    ws_port: int
    ws_path: str = "/acc"
    http_host: str = "127.0.0.1"
    http_port: int = 0
    app: int = 101
    key: str = ""

    @property
    def loopback(self) -> bool:
        """Whether any source address can be chosen (127.0.0.0/8)."""
        return self.ws_host == "localhost" or self.ws_host.startswith("127.")


class Connection:
    """One connection: its socket, its phase, and the received data (set by the
    tallies)."""

    __slots__ = (
        "begun_ns",
        "checksum",
        "digest",
        "fd",
        "frames",
        "number",
        "numbers",
        "phase",
        "rest",
        "sock",
    )

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.number = number
        self.phase = DIALLING
        self.rest = b""
        self.begun_ns = time.monotonic_ns()
        self.clear()

    def clear(self) -> None:
        self.frames = self.digest = self.checksum = 0
        self.numbers: list[int] | None = None


@dataclass
class Opening:
    opened: int = 0
    seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    latency: Latency = field(default_factory=Latency)

    def error(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def pack(self) -> Json:
        return {**vars(self), "latency": self.latency.pack()}


def error_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error")


class ConnectionSet:
    """The connections of one generator process. Owner of their sockets and of
    one receive buffer.

    ``take(conn, end)`` handles ``buffer[:end]`` of an open connection and
    stores an unfinished frame in ``conn.rest``. Scenarios replace it. It must
    not store the buffer. ``socket_bytes``: buffer size requested from the
    kernel; ``index``: connections use source addresses of that process only.
    """

    def __init__(
        self, loop: Loop, target: Target, index: int = 0, socket_bytes: int = 0
    ) -> None:
        self.loop = loop
        self.target = target
        self.index = index
        self.socket_bytes = socket_bytes
        self.by_fd: dict[int, Connection] = {}
        self.lost = 0
        self.pings = 0
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.take: Callable[[Connection, int], object] = self.payloads
        self._dials = 0
        self._opening = Opening()
        self._again: deque[int] = deque()
        self._opener = Opener()
        self._upgrade = b""
        self._retry = False
        self._busy = 0

    def open(
        self,
        numbers: Sequence[int],
        opener: Opener,
        *,
        window: int = OPEN_WINDOW,
        seconds: float = OPEN_SECONDS,
        retry: bool = False,
    ) -> Opening:
        """Open one connection for each of ``numbers``, at most ``window`` at
        the same time, in ``seconds``.

        With ``retry`` a connection that fails is tried again until the time is
        over (each failure is counted), or until the server has refused the
        first :data:`MOST_REFUSED`.
        """
        target = self.target
        self._upgrade = upgrade_request(
            f"{target.ws_host}:{target.ws_port}", opener.path or target.ws_path
        )
        opening = Opening()
        self._opening = opening
        self._opener = opener
        self._retry = retry
        self._busy = 0
        waiting = deque(numbers)
        self._again = waiting
        total = len(numbers)
        begin = time.monotonic()
        while opening.opened < total and not self.loop.stopped:
            for _ in range(min(window - self._busy, len(waiting))):
                self._dial(waiting.popleft())
            if not self._busy and not waiting:
                break
            self.loop.turn(0.1)
            if opening.refused >= MOST_REFUSED and not opening.opened:
                break
            if time.monotonic() > begin + seconds:
                opening.error("not open in time")
                break
        opening.seconds = time.monotonic() - begin
        if opening.opened < total:
            for conn in [conn for conn in self.by_fd.values() if conn.phase < OPEN]:
                self.drop(conn)
        return opening

    def _dial(self, number: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._busy += 1
        conn = Connection(sock, number)
        self.by_fd[sock.fileno()] = conn
        self.loop.add(conn.fd, WRITE, self)
        self._dials += 1
        try:
            if self.socket_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.socket_bytes)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.socket_bytes)
            if self.target.loopback:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                # an address has no more ports
                part = 1 + self._dials // PORTS_PER_SOURCE % 250
                sock.bind((f"127.{16 + self.index % 200}.{part}.1", 0))
            code = sock.connect_ex((self.target.ws_host, self.target.ws_port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "")
            self._send_upgrade(conn)  # on loopback the connection is established now
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(conn, error_name(error))

    def _send_upgrade(self, conn: Connection) -> None:
        conn.sock.send(self._upgrade)
        conn.phase = UPGRADING
        self.loop.change(conn.fd, READ)

    def _advance(self, conn: Connection) -> None:
        """Continue the opening of a connection."""
        try:
            if conn.phase == DIALLING:
                self._send_upgrade(conn)
                return
            data = conn.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(conn, error_name(error))
            return
        if not data:
            self._failed(conn, "closed by the server while opening")
        elif conn.phase == UPGRADING:
            self._upgraded(conn, conn.rest + data)
        else:
            self._logged_in(conn, conn.rest + data)

    def _upgraded(self, conn: Connection, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            conn.rest = data
        elif not data.startswith(b"HTTP/1.1 101") or UPGRADE_ACCEPT not in data:
            self._opening.refused += data.startswith(b"HTTP/1.1 4")
            self._failed(
                conn, "upgrade refused: " + data[:40].split(b"\r")[0].decode("latin-1")
            )
        else:
            conn.rest = data[end + 4 :]
            if self._opener.login is None:
                self._opened(conn)
            else:
                conn.sock.send(self._opener.login(self.target.app, conn.number))
                conn.phase = LOGGING_IN

    def _logged_in(self, conn: Connection, data: bytes) -> None:
        found, used = scan(data, len(data))
        conn.rest = data[used:]
        for opcode, start, stop in found:
            payload = data[start:stop]
            answer = self._opener.answer
            if answer:
                login = payload.startswith(answer)
            else:
                login = LOGIN_ANSWER in payload
            if opcode == CLOSE or (
                login and not answer and b'"code":200' not in payload
            ):
                self._opening.refused += 1
                self._failed(conn, f"login refused: {payload[:120]!r}")
                return
            if login:
                self._opened(conn)

    def _opened(self, conn: Connection) -> None:
        conn.phase = OPEN
        self._busy -= 1
        self._opening.opened += 1
        self._opening.latency.add((time.monotonic_ns() - conn.begun_ns) // 1000)

    def _failed(self, conn: Connection, reason: str) -> None:
        self.drop(conn)
        self._busy -= 1
        self._opening.error(reason)
        if self._retry:
            self._again.append(conn.number)

    def ready(self, fd: int, mask: int) -> None:
        conn = self.by_fd[fd]
        if conn.phase < OPEN:
            self._advance(conn)
            return
        rest = len(conn.rest)
        try:
            size = conn.sock.recv_into(self.view[rest:] if rest else self.view)
        except BlockingIOError:
            return
        except OSError:
            self.lose(conn)
            return
        if not size:
            self.lose(conn)
            return
        if rest:
            self.buffer[:rest] = conn.rest
        self.take(conn, rest + size)

    def send(self, conn: Connection, frame: bytes) -> None:
        try:
            conn.sock.send(frame)
        except OSError:
            self.lose(conn)

    def payloads(self, conn: Connection, end: int) -> list[bytes]:
        """Return what text and binary frames contain; answer pings, count
        closes: the ``take`` of an idle connection."""
        data = bytes(self.view[:end])
        found = []
        frames, used = scan(data, end)
        conn.rest = data[used:]
        for opcode, start, stop in frames:
            if opcode >= CLOSE:
                self.control(conn, opcode, data[start:stop])
            else:
                found.append(data[start:stop])
        return found

    @contextmanager
    def reading(self, read: Callable[[Connection, bytes], None]) -> Iterator[None]:
        """Give what frames contain to ``read``, as long as this is entered."""

        def take(conn: Connection, end: int) -> None:
            for payload in self.payloads(conn, end):
                read(conn, payload)

        self.take = take
        yield
        self.take = self.payloads

    def control(self, conn: Connection, opcode: int, payload: bytes) -> None:
        """Answer a ping, or count a close."""
        if opcode == PING:
            self.pings += 1
            conn.sock.send(client_frame(payload, PONG))
        elif opcode == CLOSE:
            self.lose(conn)

    def lose(self, conn: Connection) -> None:
        """Record that the server ended a connection, which is an error unless
        the client is closing it."""
        if conn.fd in self.by_fd:
            if conn.phase == OPEN:
                self.lost += 1
            self.drop(conn, reset=conn.phase == LEAVING)

    def drop(self, conn: Connection, reset: bool = False) -> None:
        """Close and remove a connection; ``reset`` leaves no port in
        TIME_WAIT."""
        del self.by_fd[conn.fd]
        self.loop.remove(conn.fd)
        if reset:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        conn.sock.close()

    def close(self, *, reset: bool = True) -> int:
        conns = list(self.by_fd.values())
        for conn in conns:
            self.drop(conn, reset)
        return len(conns)

    def settle(self, quiet_seconds: float, seconds: float) -> bool:
        """Receive until nothing has arrived for ``quiet_seconds``. Return False
        if that took more than ``seconds``.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if not self.loop.turn(quiet_seconds):
                return True
        return False

    def facts(self) -> Json:
        return {"connections": len(self.by_fd), "lost": self.lost}


KEY = "a-secret-of-32-bytes-or-more-for-measuring-only"


def _cmd_login(**more: object) -> Callable[[int, int], bytes]:
    """Log in, with further fields."""

    def login(app: int, number: int) -> bytes:
        user = user_name(number)
        return request_frame("login", user, {"userID": user, "appID": app, **more})

    return login


def protobuf_login(token: str) -> bytes:
    # loads the codec of the server, which most generators do not need
    from bench.protobuf import login_frame

    return login_frame(token)


OPENERS = {
    "cmd": Opener(login=_cmd_login()),
    "cmd-cursor": Opener(login=_cmd_login(cursor=0)),
    "centrifuge": Opener(
        "/connection/101/websocket",
        lambda _app, _number: client_frame(b'{"id":1,"connect":{}}'),
        b'{"id":1,"connect":{',
    ),
    "protobuf": Opener(
        "/ws", answer=b'\n\x12\x08\x04\x10\xc8\x01\x1a\x07Success"\x02\x08\x03'
    ),
}
"""By the name of the dialect."""
