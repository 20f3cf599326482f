"""Readiness of all parked sockets by one epoll instance.

One watcher of gevent's loop watches that instance: a parked socket owns no watcher, and one turn of the loop
takes many ready sockets at once.
"""

from __future__ import annotations

import select
from collections import deque
from typing import Any

from gevent import monkey

from imserver.transport.readers import Parked, Readers

_MAX_EVENTS = 512
"""Ready sockets taken in one turn of the loop."""
_MAX_HANG_UPS = 64
"""Sockets whose peer has gone that are served in one turn: thousands that vanish at once delay nobody."""


try:
    # Patching takes epoll out of the select module, lest somebody block the loop with it. We only ever ask an
    # instance that the loop has found ready.
    EPOLL: Any = monkey.get_original("select", "epoll")
except AttributeError:  # no Linux
    EPOLL = None


_WRITE = int(getattr(select, "EPOLLOUT", 4))
_READ = int(getattr(select, "EPOLLIN", 1) | getattr(select, "EPOLLRDHUP", 8192))
_GONE = int(
    getattr(select, "EPOLLRDHUP", 8192) | getattr(select, "EPOLLHUP", 16) | getattr(select, "EPOLLERR", 8)
)


class EpollPoller(Readers):
    """All parked sockets in one level-triggered epoll instance.

    ``_parked`` holds what is registered at the places of the file descriptors: a dictionary would take 60
    bytes more a socket. A socket whose peer has gone is not registered: epoll would report it over and over
    until its turn comes, so it waits in ``_hung_up`` instead.
    """

    def __init__(self, loop: Any, readers: int) -> None:
        super().__init__(readers)
        self._epoll = EPOLL()
        self._parked: list[Parked | None] = []
        self._hung_up: deque[Parked] = deque()
        self._watcher = loop.io(self._epoll.fileno(), 1)
        self._watcher.start(self._poll)
        self._later = loop.timer(0.0)

    def add(self, parked: Parked) -> None:
        """Start to watch a socket."""
        parked.interest = _READ
        self._register(parked)

    def take(self, parked: Parked) -> None:
        """Watch a socket from now on for ``parked``; another object may have been watching it until now."""
        if self.at(parked.fd) is not None:
            parked.interest = _READ
            self._parked[parked.fd] = parked
            # The one before may have been masked.
            self._epoll.modify(parked.fd, _READ)
        else:
            self.add(parked)

    def _register(self, parked: Parked) -> None:
        fd = parked.fd
        self._epoll.register(fd, parked.interest)
        if fd > self.highest:
            self._parked.extend([None] * (fd - self.highest))
            self.highest = fd
        self._parked[fd] = parked

    def at(self, fd: int) -> Parked | None:
        """What is watched under a file descriptor."""
        return self._parked[fd] if 0 <= fd <= self.highest else None

    def remove(self, parked: Parked) -> None:
        """Watch a socket no more; it may have been removed before."""
        if self.at(parked.fd) is parked:
            self._parked[parked.fd] = None
            self._epoll.unregister(parked.fd)

    def pause(self, parked: Parked, paused: bool) -> None:
        """Do not look at a listener for a while, or do again."""
        if self.at(parked.fd) is not None:
            self._epoll.modify(parked.fd, 0 if paused else _READ)

    def watch_writable(self, parked: Parked, wanted: bool) -> None:
        """Have ``on_writable`` called, or no more."""
        parked.interest = _READ | _WRITE if wanted else _READ
        if self.at(parked.fd) is parked:
            self._epoll.modify(parked.fd, parked.interest & (_WRITE if parked.masked else ~0))

    def mask(self, parked: Parked) -> None:
        parked.masked = True
        if self.at(parked.fd) is parked:
            self._epoll.modify(parked.fd, parked.interest & _WRITE)

    def unmask(self, parked: Parked) -> None:
        parked.masked = False
        if self.at(parked.fd) is parked:
            self._epoll.modify(parked.fd, parked.interest)
        elif parked.sock.fileno() == parked.fd and parked.interest:
            self._register(parked)

    def close(self) -> None:
        """End polling."""
        self._watcher.stop()
        self._later.stop()
        self._epoll.close()

    def _poll(self) -> None:
        ready = self.ready
        parked_by_fd = self._parked
        queued = {id(parked) for parked in ready}
        for fd, events in self._epoll.poll(0, _MAX_EVENTS):
            parked = parked_by_fd[fd]
            if parked is None or id(parked) in queued:
                continue
            if events != select.EPOLLIN:
                self._unusual(parked, events)
            elif parked.reading:
                self.mask(parked)
            else:
                ready.append(parked)
        if ready:
            self.wake()

    def _unusual(self, parked: Parked, events: int) -> None:
        """Something else than plain readability."""
        if events & _WRITE:
            parked.on_writable()
            if self.at(parked.fd) is not parked:
                return
        if events & _GONE:
            if parked.reading:
                self.mask(parked)
                if events & ~_WRITE & ~_READ:
                    # An error cannot be masked. It will be found again when it is registered again.
                    self.remove(parked)
                return
            self.remove(parked)
            self._hung_up.append(parked)
            if len(self._hung_up) == 1:
                self._later.start(self._serve_hung_up)
        elif events & select.EPOLLIN:
            if parked.reading:
                self.mask(parked)
            else:
                self.ready.append(parked)

    def _serve_hung_up(self) -> None:
        hung_up = self._hung_up
        ready = self.ready
        queued = {id(parked) for parked in ready}
        for _ in range(min(len(hung_up), _MAX_HANG_UPS)):
            parked = hung_up.popleft()
            if parked.reading:
                # Whoever serves it looks at it again afterwards.
                parked.masked = True
            elif parked.sock.fileno() == parked.fd:
                if id(parked) not in queued:
                    ready.append(parked)
                # Again, until it has read the end of the stream and closes.
                hung_up.append(parked)
        if hung_up:
            self._later.start(self._serve_hung_up)
        if ready:
            self.wake()
