"""A small transport in this process: real sockets, gevent's own loop, and
clients that a test holds in hand.

Nothing here is patched: the test runs in the main greenlet, and everything else
whenever it waits.
"""

import _socket
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any, Self

import gevent
from gevent.event import Event as Flag
from gevent.hub import get_hub

from imserver.gateway.protocol.dialect import Dialect, EchoDialect
from imserver.gateway.transport.connection import (
    Connection,
    ConnectionContext,
    Encoding,
    Serve,
)
from imserver.gateway.transport.outbox import Budget, Flusher
from imserver.gateway.transport.poller import EpollPoller, WatcherPoller
from tests.integration.raw import (
    CLOSE,
    CONTROL_OPCODES,
    PING,
    PONG,
    Frame,
    frame,
    handshake,
    take_frame,
)
from tests.support import until as until

POLLERS = (EpollPoller, WatcherPoller)
MEBIBYTE = 1 << 20


def turn() -> None:
    """Let the callbacks of this turn of the loop run: the flush is one of
    them."""
    gevent.sleep(0)


def look() -> None:
    """Let the loop look at its sockets once more."""
    gevent.sleep(0.001)


class Socket(_socket.socket):
    """A socket that remembers how many bytes each ``send`` was given.
    ``on_send``: called before it."""

    on_send: Callable[[], object] = list

    def __init__(self, sock: _socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.setblocking(False)
        self.sends: list[int] = []

    def send(self, data: bytes, *flags: int) -> int:  # type: ignore[override]
        self.sends.append(len(data))
        self.on_send()
        return super().send(data, *flags)


def tcp_pair() -> tuple[_socket.socket, _socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    return _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, far.detach()), near


class Far:
    """The far end of one connection. ``waiting``: what has come and nobody has
    taken."""

    def __init__(self, sock: _socket.socket, came: bytes = b"") -> None:
        self.sock = sock
        sock.setblocking(False)
        self.ended = False
        self.waiting = bytearray(came)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Write all of ``data``, as the server takes it."""
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                look()

    def receive(self) -> bool:
        """Take whatever has come. Returns whether the stream has ended."""
        while not self.ended:
            try:
                data = self.sock.recv(MEBIBYTE)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.ended = not data
            self.waiting += data
        return self.ended

    def until_ended(self) -> bytes:
        """Wait for the end of the stream; what nobody has taken before it."""
        until(self.receive)
        return bytes(self.waiting)

    def hang_up(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(
            _socket.SOL_SOCKET, _socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()


class Client(Far):
    """One of WebSockets. ``frames`` are all that have been read so far."""

    def __init__(self, sock: _socket.socket, came: bytes = b"") -> None:
        super().__init__(sock, came)
        self.frames: list[Frame] = []

    def read(self) -> list[Frame]:
        """Take whatever has come; all frames so far."""
        self.receive()
        self.frames += iter(lambda: take_frame(self.waiting), None)
        return self.frames

    def expect(self, count: int) -> list[Frame]:
        until(lambda: len(self.read()) >= count or self.ended)
        assert len(self.frames) >= count, self.frames
        return self.frames

    def payloads(self) -> list[bytes]:
        return [
            found.payload
            for found in self.read()
            if found.opcode not in CONTROL_OPCODES
        ]

    def close_code(self) -> int | None:
        """Wait for the server's close frame, which must be the last thing it
        sends; its code."""
        until(lambda: any(found.opcode == CLOSE for found in self.read()) or self.ended)
        assert self.frames, "TCP ended without a frame"
        return self.frames[-1].close_code

    def until_ended(self) -> bytes:
        """Wait for the end of the stream, and take its frames."""
        super().until_ended()
        self.read()
        return bytes(self.waiting)

    def answer_pings(self) -> int:
        """Answer the pings that have come; how many there were."""
        count = sum(found.opcode == PING for found in self.read())
        self.frames[:] = [found for found in self.frames if found.opcode != PING]
        self.send(frame(PONG) * count)
        return count

    def probe(self, word: bytes = b"probe") -> None:
        """Wait until the server has answered a ping sent now: all that it owed
        before has come."""
        self.send(frame(PING, word))
        until(
            lambda: any(
                found.opcode == PONG and found.payload == word for found in self.read()
            )
        )


class Caller(Far):
    """One of HTTP, on a socket, or on a new one to a port."""

    def __init__(self, end: int | _socket.socket) -> None:
        super().__init__(
            socket.create_connection(("127.0.0.1", end))
            if isinstance(end, int)
            else end
        )

    def wait_for(self, condition: Callable[[], bool]) -> bytes:
        """Wait until what has come fulfils a condition; all of it."""
        until(lambda: self.receive() or condition())
        assert condition(), f"the stream ended after {self.waiting!r}"
        return bytes(self.waiting)

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """Wait for a response: status, headers by lower-case name, body."""
        head, _, rest = self.wait_for(lambda: b"\r\n\r\n" in self.waiting).partition(
            b"\r\n\r\n"
        )
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        size = int(headers.get("content-length", 0))
        self.waiting = bytearray(rest)
        body = self.wait_for(lambda: len(self.waiting) >= size)[:size]
        del self.waiting[:size]
        return int(first.split()[1]), headers, body

    def expect(self, part: bytes) -> None:
        self.wait_for(lambda: part in self.waiting)

    def upgrade(
        self, path: str = "/acc", *more: tuple[str, str], behind: bytes = b""
    ) -> Client:
        """Become a WebSocket; ``behind`` is sent in the same packet as the
        request."""
        self.send(handshake(path, more=more) + behind)
        status, _, _ = self.response()
        assert status == 101
        return Client(self.sock, self.waiting)


def ignore(_connection: Connection, _payload: bytes, _text: bool) -> None:
    """Serve nothing."""


def waiting() -> tuple[Flag, list[bytes], Serve]:
    """A signal, the payloads so far, and what serves them: it waits for the
    signal each time."""
    go = Flag()
    served = list[bytes]()

    def slow(_connection: Connection, payload: bytes, _text: bool) -> None:
        served.append(payload)
        go.wait()

    return go, served, slow


class SocketHarness:
    """Poller, flusher and context as a node has them. ``ended`` are the
    connections that were counted out."""

    def __init__(
        self,
        *,
        poller: Callable[[Any, int], Any] = EpollPoller,
        batch: int = 256,
        outbox_bytes: int = MEBIBYTE,
        outbox_seconds: float = 30,
        node_bytes: int = 256 * MEBIBYTE,
        close_seconds: float = 5,
    ) -> None:
        self.loop = get_hub().loop
        self.poller = poller(self.loop, 4)
        self.budget = Budget(node_bytes)
        self.flusher = Flusher(
            self.loop, self.poller, batch, outbox_bytes, outbox_seconds, self.budget
        )
        self.context = ConnectionContext(
            self.poller, self.flusher, self.on_ended, close_seconds
        )
        self.ended: list[tuple[Connection, int]] = []
        self.clients: list[Far] = []
        self._encodings: dict[Any, Encoding] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in tuple(self.context.connections):
            connection.lost()
        for client in self.clients:
            client.sock.close()
        turn()
        self.poller.close()

    def on_ended(self, connection: Connection, code: int) -> None:
        self.ended.append((connection, code))

    def encoding(
        self,
        serve: Serve = ignore,
        limit: int = 65536,
        deflate: int = 0,
        dialect: Dialect | None = None,
    ) -> Encoding:
        """One encoding for all who ask for the same."""
        key = (serve, limit, deflate, dialect)
        if key not in self._encodings:
            self._encodings[key] = Encoding(
                dialect or EchoDialect("/echo"), serve, limit, deflate
            )
        return self._encodings[key]

    def connect(
        self,
        encoding: Encoding | None = None,
        *,
        tcp: bool = False,
        buffer_bytes: int = 0,
    ) -> tuple[Connection, Client]:
        """A parked connection and its client, over TCP or with small buffers if
        asked for."""
        far, near = tcp_pair() if tcp else _socket.socketpair()
        if buffer_bytes:
            far.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, buffer_bytes)
            near.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, buffer_bytes)
        client = Client(near)
        self.clients.append(client)
        peer = f"127.0.0.1:{len(self.clients)}"
        connection = Connection(
            self.context, Socket(far), peer, encoding or self.encoding(), monotonic()
        )
        self.poller.add(connection)
        return connection, client
