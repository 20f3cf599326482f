"""A balancer in front of nodes: it gives each connection to any of them, and cuts all now and then."""

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from imserver.plugin.testing import HostAndPort

CUT_SECONDS = 0.4
_BUFFER_BYTES = 65536


class Balancer:
    """Owner of its sockets. ``port``: where it listens, on 127.0.0.1. ``cuts``: how often it has cut all."""

    def __init__(self, targets: Sequence[HostAndPort]) -> None:
        self.cuts = 0
        self._targets = targets
        self._chance = random.Random(7)
        self._open: set[socket.socket] = set()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        for run in (self._accept, self._cut):
            threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        """End all connections, and accept no more."""
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                near, _ = self._listener.accept()
                target = self._chance.choice(self._targets)
                far = socket.create_connection((target.host, target.port))
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                sink.sendall(data)
        for each in (source, sink):
            self._end(each)

    def _cut(self) -> None:
        while not self._ended.wait(self._chance.uniform(CUT_SECONDS / 2, CUT_SECONDS * 2)):
            self.cuts += 1
            self._end_all()

    def _end_all(self) -> None:
        for each in tuple(self._open):
            self._end(each)

    def _end(self, sock: socket.socket) -> None:
        self._open.discard(sock)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


@contextmanager
def balancer_of(targets: Sequence[HostAndPort]) -> Iterator[Balancer]:
    """A balancer for one test."""
    one = Balancer(targets)
    try:
        yield one
    finally:
        one.close()
