"""Push services that take notifications, fail, do not know an endpoint any more, or never answer."""

from __future__ import annotations

import socket
import time
from collections import Counter
from typing import Final

from bench.loop import READ, Loop

GOOD, DEAD, FAILING, HANGING = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""Hosts of push services, by what they do."""
STATUS: Final = {GOOD: "201 Created", DEAD: "410 Gone", FAILING: "500 Internal Server Error"}
# Of RFC 8291, appendix A.
P256DH: Final = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH: Final = "BTBZMqHH6r4Tts7J_aSIgg"
RECEIVE_BYTES: Final = 65536


class PushServices:
    """The push services. Owner of their sockets. They count requests, by path."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.requests: Counter[str] = Counter()
        self.body_bytes = 0
        """Longest body."""
        self.last = 0.0
        """When the last request to the good host came (monotonic)."""
        self._answers: dict[int, bytes] = {}
        """Listener → what its host answers; ``b""``: nothing."""
        self._open: dict[int, tuple[socket.socket, bytes, bytearray]] = {}
        """Connection → socket, answer, and what was received of a request."""
        self._listeners: dict[int, socket.socket] = {}
        self.port = 0
        for host in (GOOD, DEAD, FAILING, HANGING):
            sock = socket.create_server((host, self.port), backlog=1024)
            sock.setblocking(False)
            self.port = sock.getsockname()[1]
            status = STATUS.get(host)
            answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n" if status else ""
            self._answers[sock.fileno()] = answer.encode()
            self._listeners[sock.fileno()] = sock
            loop.add(sock.fileno(), READ, self)

    def good(self) -> int:
        """The number of requests to the good host."""
        return sum(1 for path in self.requests if path.startswith(f"/{GOOD}/"))

    def ready(self, fd: int, mask: int) -> None:
        if (listener := self._listeners.get(fd)) is not None:
            sock, _address = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[sock.fileno()] = sock, self._answers[fd], bytearray()
            self.loop.add(sock.fileno(), READ, self)
            return
        sock, answer, buffer = self._open[fd]
        try:
            data = sock.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self.loop.remove(fd)
            del self._open[fd]
            sock.close()
            return
        buffer += data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(buffer[:end])
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(buffer) < end + 4 + length:
                return
            del buffer[: end + 4 + length]
            self._take(head.split(b" ", 2)[1].decode(), length)
            if answer:
                sock.send(answer)

    def _take(self, path: str, length: int) -> None:
        self.requests[path] += 1
        self.body_bytes = max(self.body_bytes, length)
        if path.startswith(f"/{GOOD}/"):
            self.last = time.monotonic()
