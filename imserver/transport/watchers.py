"""Readiness of parked sockets by a watcher each: the portable way, where there is no epoll (macOS)."""

from __future__ import annotations

from typing import Any

from imserver.transport.readers import Parked, Readers


class WatcherPoller(Readers):
    """The portable way: one watcher of gevent's loop a socket."""

    def __init__(self, loop: Any, readers: int) -> None:
        super().__init__(readers)
        self._loop = loop
        self._watchers: dict[int, tuple[Parked, Any, Any]] = {}
        self._fired: list[Parked] = []

    def add(self, parked: Parked) -> None:
        """Start to watch a socket."""
        reading, writing = self._loop.io(parked.fd, 1), self._loop.io(parked.fd, 2)
        self._watchers[parked.fd] = (parked, reading, writing)
        self.highest = max(self.highest, parked.fd)
        reading.start(self._readable, parked.fd)

    def at(self, fd: int) -> Parked | None:
        """What is watched under a file descriptor."""
        entry = self._watchers.get(fd)
        return None if entry is None else entry[0]

    def take(self, parked: Parked) -> None:
        """Watch a socket from now on for ``parked``; another object may have been watching it until now."""
        if parked.fd in self._watchers:
            _, reading, writing = self._watchers[parked.fd]
            self._watchers[parked.fd] = (parked, reading, writing)
            reading.start(self._readable, parked.fd)
        else:
            self.add(parked)

    def remove(self, parked: Parked) -> None:
        """Watch a socket no more; it may have been removed before."""
        entry = self._watchers.get(parked.fd)
        if entry is not None and entry[0] is parked:
            del self._watchers[parked.fd]
            for watcher in entry[1:]:
                watcher.stop()
                watcher.close()

    def pause(self, parked: Parked, paused: bool) -> None:
        """Do not look at a listener for a while, or do again."""
        entry = self._watchers.get(parked.fd)
        if entry is not None:
            if paused:
                entry[1].stop()
            else:
                entry[1].start(self._readable, parked.fd)

    def watch_writable(self, parked: Parked, wanted: bool) -> None:
        """Have ``on_writable`` called, or no more."""
        entry = self._watchers.get(parked.fd)
        if entry is not None:
            if wanted:
                entry[2].start(self._writable, parked.fd)
            else:
                entry[2].stop()

    def mask(self, parked: Parked) -> None:
        parked.masked = True
        self.pause(parked, True)

    def unmask(self, parked: Parked) -> None:
        parked.masked = False
        entry = self._watchers.get(parked.fd)
        if entry is not None and entry[0] is parked:
            self.pause(parked, False)

    def close(self) -> None:
        """End polling."""
        for parked, *_ in tuple(self._watchers.values()):
            self.remove(parked)

    def _readable(self, fd: int) -> None:
        entry = self._watchers.get(fd)
        if entry is None:
            return
        parked = entry[0]
        if parked.reading:
            self.mask(parked)
            return
        if not self._fired:
            self._loop.run_callback(self._wake)
        self._fired.append(parked)

    def _wake(self) -> None:
        fired, self._fired = self._fired, []
        queued = {id(parked) for parked in self.ready}
        self.ready.extend(parked for parked in fired if id(parked) not in queued)
        if self.ready:
            self.wake()

    def _writable(self, fd: int) -> None:
        entry = self._watchers.get(fd)
        if entry is not None:
            entry[0].on_writable()
