"""What a connection of the generators is, and the server it goes to: plain data."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

from bench.latency import Latency

DIALLING, UPGRADING, LOGGING_IN, OPEN = range(4)


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
    """One connection: its socket, its phase, and what it received (filled in by :mod:`.tally`)."""

    __slots__ = (
        "checksum",
        "dialled_ns",
        "digest",
        "fd",
        "frames",
        "number",
        "numbers",
        "phase",
        "recv_into",
        "rest",
        "sock",
    )

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv_into = sock.recv_into
        self.number = number
        self.phase = DIALLING
        self.rest = b""
        self.dialled_ns = time.monotonic_ns()
        self.clear()

    def clear(self) -> None:
        """Forget what was received."""
        self.frames = 0
        self.digest = 0
        self.checksum = 0
        self.numbers: list[int] | None = None


@dataclass
class Opening:
    """What came of an attempt to open many connections."""

    opened: int = 0
    seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency)

    def error(self, reason: str) -> None:
        """Count one connection that failed."""
        self.errors[reason] = self.errors.get(reason, 0) + 1
