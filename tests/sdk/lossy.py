"""A bad line: a TCP proxy that cuts connections at random."""

import random
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self

_PIECE_BYTES: Final = 32768
_LOOK_SECONDS: Final = 0.1
_RESET: Final = struct.pack("ii", 1, 0)


class LossyProxy:
    """Carries connections to ``target``. Each piece of bytes that it carries, in either direction, ends its
    connection with the probability ``share`` instead. ``cut``: how many connections it has cut.
    """

    def __init__(self, target: tuple[str, int], share: float, seed: int = 7) -> None:
        self.target = target
        self.share = share
        self.cut = 0
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept)]
        self._closing = False
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            if not select.select([self._listener], [], [], _LOOK_SECONDS)[0]:
                continue
            client, _ = self._listener.accept()
            thread = threading.Thread(target=self._carry, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            try:
                with socket.create_connection(self.target) as server:
                    self._exchange({client: server, server: client})
            except OSError:  # the node was killed, or the client has gone
                pass

    def _exchange(self, ends: dict[socket.socket, socket.socket]) -> None:
        while not self._closing:
            for source in select.select(list(ends), [], [], _LOOK_SECONDS)[0]:
                piece = source.recv(_PIECE_BYTES)
                if not piece:
                    return
                with self._lock:
                    lost = self._chance.random() < self.share
                    self.cut += lost
                if lost:
                    for each in ends:
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
                ends[source].sendall(piece)
