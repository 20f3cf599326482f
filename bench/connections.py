"""Many WebSocket connections in one loop: connect, upgrade, log in, receive, leave."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.frames import CLOSE, PING, PONG, UPGRADE_ACCEPT, client_frame, scan, upgrade_request
from bench.latency import Latency
from bench.loop import READ, WRITE, Json, Loop

DIALLING, UPGRADING, LOGGING_IN, OPEN, LEAVING = range(5)
OPEN_WINDOW = 256
OPEN_SECONDS = 60.0
LOGIN_ANSWER = b'":"login"'
"""Stands in the answer to a login in every dialect that has one, and in nothing else."""
BUFFER_BYTES = 1 << 18
PORTS_PER_SOURCE = 12_000
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; not in the socket module of Python 3.11
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Target:
    """The server under test, as a generator process needs it."""

    ws_host: str
    ws_port: int
    ws_path: str = "/acc"
    http_host: str = "127.0.0.1"
    http_port: int = 0
    app: int = 101
    key: str = ""

    @property
    def loopback(self) -> bool:
        """Whether source addresses can be chosen freely (127.0.0.0/8)."""
        return self.ws_host == "localhost" or self.ws_host.startswith("127.")


class Peer:
    """One connection: its socket, its phase, and what it received (filled in by the tallies)."""

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
    latency: Latency = field(default_factory=Latency)

    def error(self, reason: str) -> None:
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def pack(self) -> Json:
        return {**vars(self), "latency": self.latency.pack()}


def error_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error")


class Swarm:
    """The connections of one generator process. Owns their sockets and one receive buffer.

    ``take(peer, end)`` handles ``buffer[:end]`` of an open connection and keeps an unfinished frame in
    ``peer.rest``; scenarios replace it. It may not keep the buffer. ``socket_bytes``: buffers to ask the
    kernel for; ``index``: connections come from addresses of that process alone.
    """

    def __init__(self, loop: Loop, target: Target, index: int = 0, socket_bytes: int = 0) -> None:
        self.loop = loop
        self.target = target
        self.index = index
        self.socket_bytes = socket_bytes
        self.peers: dict[int, Peer] = {}
        self.lost = 0
        self.closes: dict[str, int] = {}
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.take: Callable[[Peer, int], None] = self.skim
        self._dials = 0
        self._opening = Opening()
        self._again: deque[int] = deque()
        self._login: Callable[[int], bytes] | None = None
        self._answer = self._upgrade = b""
        self._retry = False
        self._busy = 0

    def open(
        self,
        numbers: range,
        login: Callable[[int], bytes] | None,
        *,
        window: int = OPEN_WINDOW,
        seconds: float = OPEN_SECONDS,
        retry: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        path: str = "",
        answer: bytes = b"",
    ) -> Opening:
        """Open one connection for each of ``numbers``, at most ``window`` under way at once, in ``seconds``.

        ``login(number)`` gives the login frame, sent after the upgrade; None leaves the connection at that.
        With ``retry`` a connection that fails is tried again until the time is over (each failure counted).
        ``path`` is asked for in place of the target's; ``answer``: the payload that answers a login, where it
        is no JSON.
        """
        target = self.target
        self._upgrade = upgrade_request(f"{target.ws_host}:{target.ws_port}", path or target.ws_path)
        opening = self._opening = Opening()
        self._login, self._retry, self._busy, self._answer = login, retry, 0, answer
        waiting = self._again = deque(numbers)
        total, begin = len(numbers), time.monotonic()
        while opening.opened < total and not self.loop.stopped:
            for _ in range(min(window - self._busy, len(waiting))):
                self._dial(waiting.popleft())
            if not self._busy and not waiting:
                break
            self.loop.turn(0.1)
            progress(opening.opened, total)
            if time.monotonic() > begin + seconds:
                opening.error("not open in time")
                break
        opening.seconds = time.monotonic() - begin
        if opening.opened < total:
            for peer in [peer for peer in self.peers.values() if peer.phase < OPEN]:
                self.drop(peer)
        return opening

    def _dial(self, number: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._busy += 1
        peer = self.peers[sock.fileno()] = Peer(sock, number)
        self.loop.add(peer.fd, WRITE, self)
        self._dials += 1
        try:
            if self.socket_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.socket_bytes)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.socket_bytes)
            if self.target.loopback:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                part = 1 + self._dials // PORTS_PER_SOURCE % 250  # an address has no more ports
                sock.bind((f"127.{16 + self.index % 200}.{part}.1", 0))
            code = sock.connect_ex((self.target.ws_host, self.target.ws_port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "")
            self._send_upgrade(peer)  # on loopback the connection stands by now
        except BlockingIOError:
            pass
        except OSError as error:
            self._failed(peer, error_name(error))

    def _send_upgrade(self, peer: Peer) -> None:
        peer.sock.send(self._upgrade)
        peer.phase = UPGRADING
        self.loop.change(peer.fd, READ)

    def _advance(self, peer: Peer) -> None:
        """Take a connection that is not open yet one step further."""
        try:
            if peer.phase == DIALLING:
                self._send_upgrade(peer)
                return
            data = peer.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(peer, error_name(error))
            return
        if not data:
            self._failed(peer, "closed by the server while opening")
        elif peer.phase == UPGRADING:
            self._upgraded(peer, peer.rest + data)
        else:
            self._logged_in(peer, peer.rest + data)

    def _upgraded(self, peer: Peer, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            peer.rest = data
        elif not data.startswith(b"HTTP/1.1 101") or UPGRADE_ACCEPT not in data:
            self._failed(peer, "upgrade refused: " + data[:40].split(b"\r")[0].decode("latin-1"))
        else:
            peer.rest = data[end + 4 :]
            if self._login is None:
                self._opened(peer)
            else:
                peer.sock.send(self._login(peer.number))
                peer.phase = LOGGING_IN

    def _logged_in(self, peer: Peer, data: bytes) -> None:
        found, used = scan(data, len(data))
        peer.rest = data[used:]
        for opcode, start, stop in found:
            payload = data[start:stop]
            login = payload == self._answer if self._answer else LOGIN_ANSWER in payload
            if opcode == CLOSE or (login and not self._answer and b'"code":200' not in payload):
                self._failed(peer, f"login refused: {payload[:120]!r}")
                return
            if login:
                self._opened(peer)

    def _opened(self, peer: Peer) -> None:
        peer.phase = OPEN
        self._busy -= 1
        self._opening.opened += 1
        self._opening.latency.add((time.monotonic_ns() - peer.begun_ns) // 1000)

    def _failed(self, peer: Peer, reason: str) -> None:
        self.drop(peer)
        self._busy -= 1
        self._opening.error(reason)
        if self._retry:
            self._again.append(peer.number)

    def ready(self, fd: int, mask: int) -> None:
        peer = self.peers[fd]
        if peer.phase < OPEN:
            self._advance(peer)
            return
        kept = len(peer.rest)
        try:
            size = peer.sock.recv_into(self.view[kept:] if kept else self.view)
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(peer, error_name(error))
            return
        if not size:
            self.lose(peer, "end of stream")
            return
        if kept:
            self.buffer[:kept] = peer.rest
        self.take(peer, kept + size)

    def send(self, peer: Peer, frame: bytes) -> None:
        try:
            peer.sock.send(frame)
        except OSError as error:
            self.lose(peer, error_name(error))

    def skim(self, peer: Peer, end: int) -> None:
        """Drop text frames, answer pings, note closes: the ``take`` of a connection that just sits there."""
        found, used = scan(self.buffer, end)
        peer.rest = bytes(self.view[used:end])
        for opcode, start, stop in found:
            if opcode >= CLOSE:
                self.control(peer, opcode, bytes(self.view[start:stop]))

    def control(self, peer: Peer, opcode: int, payload: bytes) -> None:
        """Answer a ping; remember the code of a close."""
        if opcode == PING:
            peer.sock.send(client_frame(payload, PONG))
        elif opcode == CLOSE:
            self.lose(peer, f"close {int.from_bytes(payload[:2], 'big')}")

    def lose(self, peer: Peer, reason: str) -> None:
        """Note that the server ended a connection, which should have stayed unless it is leaving."""
        if peer.fd in self.peers:
            if peer.phase == OPEN:
                self.closes[reason] = self.closes.get(reason, 0) + 1
                self.lost += 1
            self.drop(peer, reset=peer.phase == LEAVING)

    def drop(self, peer: Peer, reset: bool = False) -> None:
        """Close and forget a connection; ``reset`` leaves no port waiting."""
        del self.peers[peer.fd]
        self.loop.remove(peer.fd)
        if reset:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        peer.sock.close()

    def close(self, *, reset: bool = True) -> int:
        peers = list(self.peers.values())
        for peer in peers:
            self.drop(peer, reset)
        return len(peers)

    def settle(self, quiet_seconds: float, seconds: float) -> bool:
        """Receive until nothing came for ``quiet_seconds``; False when that took more than ``seconds``."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if not self.loop.turn(quiet_seconds):
                return True
        return False

    def facts(self) -> Json:
        return {"connections": len(self.peers), "lost": self.lost, "closes": self.closes}
