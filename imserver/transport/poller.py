"""Readiness of all parked sockets, and the pool of reader greenlets that serve them.

One epoll instance holds every parked socket, and one watcher of gevent's loop watches that instance: a parked
socket owns no watcher, and one turn of the loop takes many ready sockets at once. Where there is no epoll
(macOS), :class:`WatcherPoller` does the same with a watcher a socket.

A ready socket is queued; a reader greenlet serves the queue until it is empty. A reader that blocks inside a
command is replaced by another one at the next turn, and the socket that it serves is masked meanwhile, so
that the messages of one connection never overtake each other.
"""

from __future__ import annotations

import _socket
import logging
import select
from collections import deque
from typing import Any, Protocol

import gevent
from gevent.hub import get_hub
from greenlet import greenlet

log = logging.getLogger(__name__)

_MAX_EVENTS = 512
"""Ready sockets taken in one turn of the loop."""
_MAX_HANG_UPS = 64
"""Sockets whose peer has gone that are served in one turn: thousands that vanish at once delay nobody."""


class Parked(Protocol):
    """Whatever waits in the poller: a listener, an HTTP connection, a WebSocket.

    ``reading`` and ``masked`` are the poller's own marks; the object only carries them.
    """

    sock: _socket.socket
    fd: int
    reading: bool
    masked: bool

    def on_readable(self) -> None:
        """The socket has something to read, or its peer has gone."""

    def on_writable(self) -> None:
        """The socket takes bytes again (only after ``watch_writable``)."""

    def lost(self) -> None:
        """Close: serving this object raised."""


class Readers:
    """The pool of greenlets that serve ready sockets. Owner of the queue.

    ``kept`` of them are kept when there is nothing to do. There may be as many as there are connections
    whose commands block, or those that do not block would have to wait for them.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._idle: list[greenlet] = []
        self.count = 0
        self.ready: deque[Parked] = deque()

    def wake(self) -> None:
        """Let a reader serve what is queued. Called from the hub; returns when the reader has nothing to do
        or blocks."""
        if self._idle:
            self._idle.pop().switch()
        else:
            self.count += 1
            gevent.Greenlet(self._run).start()

    def _run(self) -> None:
        ready = self.ready
        idle = self._idle
        me = gevent.getcurrent()
        hub = get_hub()
        while True:
            while ready:
                parked = ready.popleft()
                parked.reading = True
                try:
                    parked.on_readable()
                except Exception:
                    log.exception("serving %s failed", getattr(parked, "peer", "a listener"))
                    self._give_up(parked)
                parked.reading = False
                if parked.masked:
                    self.unmask(parked)
            if len(idle) >= self._kept:
                self.count -= 1
                return
            idle.append(me)
            hub.switch()

    def _give_up(self, parked: Parked) -> None:
        try:
            parked.lost()
        except Exception:
            log.exception("closing %s failed", getattr(parked, "peer", "a listener"))

    def unmask(self, parked: Parked) -> None:
        """A socket became ready while it was being served: look at it again."""
        raise NotImplementedError


class EpollPoller(Readers):
    """All parked sockets in one level-triggered epoll instance."""

    def __init__(self, loop: Any, readers: int) -> None:
        super().__init__(readers)
        self._epoll = select.epoll()
        self._parked: dict[int, Parked] = {}
        self._hung_up: deque[Parked] = deque()
        self._watcher = loop.io(self._epoll.fileno(), 1)
        self._watcher.start(self._poll)
        self._later = loop.timer(0.0)
        self._in = select.EPOLLIN | select.EPOLLRDHUP
        self._gone = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

    def add(self, parked: Parked) -> None:
        """Start to watch a socket."""
        self._epoll.register(parked.fd, self._in)
        self._parked[parked.fd] = parked

    def take(self, parked: Parked) -> None:
        """Watch a socket from now on for ``parked``; another object may have been watching it until now."""
        if parked.fd in self._parked:
            self._parked[parked.fd] = parked
        else:
            self.add(parked)

    def remove(self, parked: Parked) -> None:
        """Watch a socket no more; it may have been removed before."""
        if self._parked.get(parked.fd) is parked:
            del self._parked[parked.fd]
            try:
                self._epoll.unregister(parked.fd)
            except OSError:
                log.debug("fd %d was not watched", parked.fd)

    def pause(self, parked: Parked, paused: bool) -> None:
        """Do not look at a listener for a while, or do again."""
        if parked.fd in self._parked:
            self._epoll.modify(parked.fd, 0 if paused else self._in)

    def watch_writable(self, parked: Parked, wanted: bool) -> None:
        """Have ``on_writable`` called, or no more."""
        if self._parked.get(parked.fd) is parked:
            self._epoll.modify(parked.fd, self._in | select.EPOLLOUT if wanted else self._in)

    def unmask(self, parked: Parked) -> None:
        parked.masked = False
        if parked.fd >= 0 and parked.sock.fileno() == parked.fd and parked.fd not in self._parked:
            self.add(parked)

    def close(self) -> None:
        """End polling."""
        self._watcher.stop()
        self._later.stop()
        self._epoll.close()

    def _poll(self) -> None:
        ready = self.ready
        parked_by_fd = self._parked
        waiting = {id(parked) for parked in ready} if ready else ()
        for fd, events in self._epoll.poll(0, _MAX_EVENTS):
            parked = parked_by_fd.get(fd)
            if parked is None or (waiting and id(parked) in waiting):
                continue
            if events == 1:
                if parked.reading:
                    self._mask(parked)
                else:
                    ready.append(parked)
            else:
                self._unusual(parked, events)
        if ready:
            self.wake()

    def _unusual(self, parked: Parked, events: int) -> None:
        """Something else than plain readability."""
        if events & select.EPOLLOUT:
            parked.on_writable()
        if parked.sock.fileno() < 0 or not events & ~select.EPOLLOUT:
            return
        if parked.reading:
            self._mask(parked)
        elif events & self._gone:
            # Level-triggered: it would be reported again and again until its turn comes.
            self.remove(parked)
            self._hung_up.append(parked)
            if len(self._hung_up) == 1:
                self._later.start(self._serve_hung_up)
        else:
            self.ready.append(parked)

    def _mask(self, parked: Parked) -> None:
        parked.masked = True
        self.remove(parked)

    def _serve_hung_up(self) -> None:
        hung_up = self._hung_up
        ready = self.ready
        for _ in range(min(len(hung_up), _MAX_HANG_UPS)):
            parked = hung_up.popleft()
            if parked.sock.fileno() < 0:
                continue
            if not parked.reading:
                ready.append(parked)
            # Until it has read the end of the stream and closes.
            hung_up.append(parked)
        if hung_up:
            self._later.start(self._serve_hung_up)
        if ready:
            self.wake()


class WatcherPoller(Readers):
    """The portable way: one watcher of gevent's loop a socket."""

    def __init__(self, loop: Any, readers: int) -> None:
        super().__init__(readers)
        self._loop = loop
        self._watchers: dict[int, tuple[Parked, Any, Any]] = {}
        self._woken = False

    def add(self, parked: Parked) -> None:
        """Start to watch a socket."""
        reading, writing = self._loop.io(parked.fd, 1), self._loop.io(parked.fd, 2)
        self._watchers[parked.fd] = (parked, reading, writing)
        reading.start(self._readable, parked.fd)

    def take(self, parked: Parked) -> None:
        """Watch a socket from now on for ``parked``; another object may have been watching it until now."""
        if parked.fd in self._watchers:
            _, reading, writing = self._watchers[parked.fd]
            self._watchers[parked.fd] = (parked, reading, writing)
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

    def unmask(self, parked: Parked) -> None:
        parked.masked = False
        if parked.fd >= 0 and parked.sock.fileno() == parked.fd and parked.fd not in self._watchers:
            self.add(parked)

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
            parked.masked = True
            self.remove(parked)
            return
        if parked not in self.ready:
            self.ready.append(parked)
        if not self._woken:
            self._woken = True
            self._loop.run_callback(self._wake)

    def _wake(self) -> None:
        self._woken = False
        if self.ready:
            self.wake()

    def _writable(self, fd: int) -> None:
        entry = self._watchers.get(fd)
        if entry is not None:
            entry[0].on_writable()


Poller = EpollPoller | WatcherPoller


def make(loop: Any, readers: int) -> Poller:
    """The best poller of this platform."""
    return EpollPoller(loop, readers) if hasattr(select, "epoll") else WatcherPoller(loop, readers)
