"""A TCP proxy that can break what it carries, for the ports between nodes. A thread of this process."""

import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self

_BUFFER_BYTES = 65536
_TICK_SECONDS = 0.01


class _End:
    """One side of a connection: what is to be written to it, and from when on."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.other: _End
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.came_from_client = False


class Proxy:
    """Carries connections to ``host:port`` for some ports of another host.

    ``delay_seconds`` holds everything back for so long, both ways. :meth:`drop` makes a black hole of it:
    connections stay open and nothing passes, as when a cable is cut; :meth:`heal` resets those, and lets
    new ones pass. :meth:`stall` holds everything, :meth:`resume` carries on as if nothing had been.
    """

    def __init__(self, listen_host: str, host: str, ports: tuple[int, ...]) -> None:
        self.delay_seconds = 0.0
        self._stalled = self._dropping = self._closing = False
        self.ports = ports
        self._host = host
        self._selector = selectors.DefaultSelector()
        self._ends: set[_End] = set()
        self._lock = threading.Lock()
        for port in ports:
            listener = socket.create_server((listen_host, port))
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, port)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._thread.join()
        for key in [*self._selector.get_map().values()]:
            key.fileobj.close()  # type: ignore[union-attr]
        for end in self._ends:
            end.sock.close()
        self._selector.close()

    def stall(self) -> None:
        """Let nothing pass for the moment."""
        self._stalled = True

    def resume(self) -> None:
        """Carry on, with all that waits."""
        self._stalled = False

    def drop(self) -> None:
        """Swallow everything; accept new connections, and let them wait."""
        self._dropping = True

    def heal(self) -> None:
        """Let new connections pass. Old ones, which have holes, are reset."""
        with self._lock:
            for end in [*self._ends]:
                self._cut(end)
            self._dropping = False

    @property
    def connections(self) -> int:
        return len(self._ends) // 2

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            ready = [] if self._stalled else self._selector.select(_TICK_SECONDS)
            if self._stalled:
                time.sleep(_TICK_SECONDS)
            with self._lock:
                for key, _ in ready:
                    if isinstance(key.data, int):
                        self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                    elif key.data in self._ends:
                        self._read(key.data)
                if not self._stalled:
                    for end in [*self._ends]:
                        self._write(end)

    def _accept(self, listener: socket.socket, port: int) -> None:
        with suppress(OSError):
            near, _ = listener.accept()
            try:
                far = socket.create_connection((self._host, port), 1.0)
            except OSError:  # the node has ended
                near.close()
                return
            ends = _End(near), _End(far)
            for end, other in (ends, ends[::-1]):
                end.other = other
                end.sock.setblocking(False)
                end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(end.sock, selectors.EVENT_READ, end)
                self._ends.add(end)

    def _read(self, end: _End) -> None:
        try:
            data = end.sock.recv(_BUFFER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if not self._dropping:
                self._cut(end)
            else:
                self._selector.unregister(end.sock)
        elif not self._dropping:
            end.other.waiting.append((time.monotonic() + self.delay_seconds, data))

    def _write(self, end: _End) -> None:
        now = time.monotonic()
        while end.waiting and end.waiting[0][0] <= now and end in self._ends:
            due, data = end.waiting.popleft()
            try:
                sent = end.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._cut(end)
                return
            if sent < len(data):
                end.waiting.appendleft((due, data[sent:]))
                return

    def _cut(self, end: _End) -> None:
        for one in (end, end.other):
            if one in self._ends:
                self._ends.discard(one)
                with suppress(KeyError, ValueError):
                    self._selector.unregister(one.sock)
                one.sock.close()
