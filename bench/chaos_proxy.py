"""The network between nodes: carries TCP connections, and can lose, hold back or break all of it."""

from __future__ import annotations

import errno
import socket
from typing import Any

from bench.generator import Generator
from bench.loop import READ, WRITE, Loop

RECEIVE_BYTES = 65_536
BACKLOG = 100


class End:
    """One side of a carried connection, and what waits to be written to it."""

    __slots__ = ("fd", "other", "sock", "waiting", "watched")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.other: End
        self.waiting = b""
        self.watched = False


class Network:
    """Listens at addresses of its own and carries what comes to the same ports of 127.0.0.1. Owns sockets.

    Connections that were carried while it was cut have holes, and are reset when it is healed.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.listeners: dict[int, tuple[socket.socket, int]] = {}
        self.ends: dict[int, End] = {}
        self.is_cut = self.is_held = False

    def listen(self, address: str, port: int) -> None:
        """Carry what comes to this port of ``address``."""
        sock = socket.create_server((address, port), backlog=BACKLOG)
        sock.setblocking(False)
        self.listeners[sock.fileno()] = sock, port
        self.loop.add(sock.fileno(), READ, self)

    def cut(self) -> None:
        """Swallow everything from now on; connections stay open, and new ones are taken."""
        self.is_cut = True

    def hold(self) -> None:
        self.is_held = True
        for end in self.ends.values():
            self._unwatch(end)

    def heal(self) -> None:
        """Carry on: what was held, with all of it; what was cut, with new connections."""
        if self.is_held:
            for end in self.ends.values():
                self._watch(end)
        if self.is_cut:
            for end in [*self.ends.values()]:
                self._break(end)
        self.is_cut = self.is_held = False

    def close(self) -> None:
        self.heal()
        for end in [*self.ends.values()]:
            self._break(end)
        for fd, (sock, _) in self.listeners.items():
            self.loop.remove(fd)
            sock.close()
        self.listeners.clear()

    def ready(self, fd: int, mask: int) -> None:
        if fd in self.listeners:
            self._accept(*self.listeners[fd])
            return
        end = self.ends[fd]
        if mask & WRITE:
            self._write(end)
        if mask & ~WRITE and fd in self.ends:
            self._read(end)

    def _accept(self, listener: socket.socket, port: int) -> None:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if far.connect_ex(("127.0.0.1", port)) not in (0, errno.EINPROGRESS):
            near.close()
            far.close()
            return
        pair = End(near), End(far)
        for end, other in (pair, pair[::-1]):
            end.other = other
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ends[end.fd] = end
            if not self.is_held:
                self._watch(end)

    def _read(self, end: End) -> None:
        try:
            data = end.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self.is_cut:
            if not data:
                self._unwatch(end)  # the other side does not learn of it
        elif data:
            end.other.waiting += data
            self._write(end.other)
        else:
            self._break(end)

    def _write(self, end: End) -> None:
        if end.fd not in self.ends:
            return
        try:
            end.waiting = end.waiting[end.sock.send(end.waiting) :] if end.waiting else b""
        except BlockingIOError:
            pass
        except OSError:
            self._break(end)
            return
        if end.watched:
            self.loop.change(end.fd, READ | (WRITE if end.waiting else 0))

    def _break(self, end: End) -> None:
        for one in (end, end.other):
            if self.ends.pop(one.fd, None) is not None:
                self._unwatch(one)
                one.sock.close()

    def _watch(self, end: End) -> None:
        end.watched = True
        self.loop.add(end.fd, READ | (WRITE if end.waiting else 0), self)

    def _unwatch(self, end: End) -> None:
        # Not a mask of nothing: epoll would go on to tell of a hang-up.
        if end.watched:
            end.watched = False
            self.loop.remove(end.fd)


def carry(generator: Generator, address: str, ports: list[int]) -> dict[str, Any]:
    """Task: carry what comes to these ports of an address, from now on."""
    network: Network | None = generator.kept.get("network")
    if network is None:
        network = generator.kept["network"] = Network(generator.loop)
        generator.at_exit.append(network.close)
    for port in ports:
        network.listen(address, port)
    return {}


def disturb_network(generator: Generator, how: str) -> dict[str, Any]:
    """Task: ``cut``, ``hold`` or ``heal`` what is carried."""
    network: Network = generator.kept["network"]
    {"cut": network.cut, "hold": network.hold, "heal": network.heal}[how]()
    return {"connections": len(network.ends) // 2}
