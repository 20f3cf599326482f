"""A bad line: a TCP proxy that cuts connections at random."""

import random
import select
import socket
import struct
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Lock, Thread
from typing import Any, Final, Self

_LOOK_SECONDS: Final = 0.1


class LossyProxy(ThreadingTCPServer):
    """Carries connections to ``target``. Each piece of bytes that it carries,
    in either direction, ends its connection with the probability ``share``
    instead. ``cut``: how many connections it has cut.
    """

    def __init__(self, target: tuple[str, int], share: float, seed: int = 7) -> None:
        super().__init__(("127.0.0.1", 0), BaseRequestHandler)
        self.target = target
        self.share = share
        self.cut = 0
        self.address: tuple[str, int] = self.socket.getsockname()
        self._chance, self._lock, self._closing = random.Random(seed), Lock(), False
        self._left = -1

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, args=(_LOOK_SECONDS,)).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        self.shutdown()
        self.server_close()

    def cut_after(self, most: int) -> None:
        """End the connection that carries the byte behind so many more ones of
        the server: there."""
        with self._lock:
            self._left = most

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Carry a connection, until it is cut, the node was killed, or the
        client has gone."""
        with suppress(OSError), socket.create_connection(self.target) as server:
            self._exchange({request: server, server: request}, server)

    def shutdown_request(self, request: Any) -> None:
        request.close()

    def _exchange(
        self, ends: dict[socket.socket, socket.socket], server: socket.socket
    ) -> None:
        while not self._closing:
            for source in select.select(list(ends), [], [], _LOOK_SECONDS)[0]:
                piece = source.recv(32768)
                if not piece:
                    return
                with self._lock:
                    lost = self._chance.random() < self.share
                    self.cut += lost
                    left = self._left if source is server else -1
                    if left >= 0:
                        self._left = max(-1, left - len(piece))
                        self.cut += left < len(piece)
                if 0 <= left < len(piece):
                    ends[source].sendall(piece[:left])
                    return
                if lost:
                    for each in ends:
                        each.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    return
                ends[source].sendall(piece)
