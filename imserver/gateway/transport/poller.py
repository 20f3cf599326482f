"""Readiness of parked sockets, and the pool of reader greenlets that serve
them.

A ready socket is queued. A reader greenlet serves the queue until it is empty.
If a reader blocks inside a command, another reader replaces it at the next
turn. The socket of the blocked reader is masked meanwhile, so the messages of
one connection stay in order.

On Linux one epoll instance watches all sockets, and one watcher of gevent's
loop watches that instance. So a parked socket needs no watcher, and one turn of
the loop handles many ready sockets. Elsewhere (macOS) each socket has a
watcher.
"""

import _socket
import logging
import select
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import gevent
from gevent import monkey
from gevent.hub import get_hub
from greenlet import greenlet

log = logging.getLogger(__name__)


NO_SOCKET = _socket.socket()
"""Placeholder for a socket that was passed to another owner."""
NO_SOCKET.close()


class Parked(ABC):
    """A socket in the poller: of a listener, an HTTP connection or a WebSocket.

    ``sock`` becomes :data:`NO_SOCKET` when the socket is passed to another
    object. The other fields belong to the poller. ``reading`` says whether a
    reader serves the object. ``masked`` is True if the socket became ready
    while it was served. Then it is not watched for reading until the reader has
    finished. ``interest`` are the events that are watched while the socket is
    not masked. 0 means that the socket was never watched.
    """

    __slots__ = ("fd", "interest", "masked", "reading", "sock")

    def __init__(self, sock: _socket.socket) -> None:
        """Take the socket. Nobody watches it yet."""
        self.sock = sock
        self.fd = sock.fileno()
        self.reading = False
        self.masked = False
        self.interest = 0

    @abstractmethod
    def on_readable(self) -> None:
        """Read, because data is available or the peer has closed."""

    @abstractmethod
    def on_writable(self) -> None:
        """Continue to write, because the socket accepts bytes again.

        It is called only after ``watch_writable``.
        """

    @abstractmethod
    def lost(self) -> None:
        """Close, because serving this object raised an error."""


def _end(parked: Parked, extra: Mapping[str, str]) -> None:
    """End an object that failed. ``extra`` names it in the log."""
    try:
        parked.lost()
    except Exception:
        log.exception("closing failed", extra=extra)


class Readers(ABC):
    """The pool of greenlets that serve ready sockets. It owns the queue.

    ``idle_readers`` is how many greenlets stay while they are idle. There may
    be more greenlets, one for each blocked connection, so that other
    connections need not wait.
    """

    def __init__(self, idle_readers: int) -> None:
        """Begin without greenlets. They are made when sockets are ready."""
        self._idle_readers = idle_readers
        self._idle: list[greenlet] = []
        self.count = 0
        """Number of reader greenlets."""
        self.ready: deque[Parked] = deque()
        """The queue of ready sockets."""
        self.highest = -1
        """The highest file descriptor that was ever watched."""

    def wake(self) -> None:
        """Let readers serve the queue. It is called in the hub's greenlet.

        If all readers block, a new reader serves the rest in the same turn, so
        that their queries to Redis leave together.
        """
        while self.ready and self._idle:
            self._idle.pop().switch()
        if self.ready:
            self.count += 1
            gevent.spawn_raw(self._run)

    def _run(self) -> None:
        """Greenlet of a reader: serve the queue until it is empty, then wait.

        The greenlet waits in ``_idle``. It ends if enough other readers wait
        there.
        """
        ready = self.ready
        idle = self._idle
        me = gevent.getcurrent()
        hub = get_hub()
        while True:
            while ready:
                parked = ready.popleft()
                # A blocked reader still serves this socket. No other reader may
                # serve it, because its messages must stay in order.
                if parked.reading:
                    self.mask(parked)
                    continue
                parked.reading = True
                try:
                    parked.on_readable()
                except Exception:
                    extra = {"connection": getattr(parked, "peer", "listener")}
                    log.exception("serving failed", extra=extra)
                    _end(parked, extra)
                parked.reading = False
                if parked.masked:
                    self.unmask(parked)
            if len(idle) >= self._idle_readers:
                self.count -= 1
                return
            idle.append(me)
            greenlet.switch(hub)

    def release(self, parked: Parked) -> None:
        """Note that an object is no longer served, which was served without the
        queue.

        If the object was masked, its socket is watched again.
        """
        parked.reading = False
        if parked.masked:
            self.unmask(parked)

    @abstractmethod
    def at(self, fd: int) -> Parked | None:
        """Return the object for which a file descriptor is watched, or None."""

    @abstractmethod
    def mask(self, parked: Parked) -> None:
        """Stop watching a socket for reading, because somebody serves it
        already."""

    @abstractmethod
    def unmask(self, parked: Parked) -> None:
        """Watch a masked socket again, because nobody serves it any more."""


try:
    # gevent removes epoll from the patched select module, because polling could
    # block the loop. Here only a ready instance is polled.
    EPOLL: Any = monkey.get_original("select", "epoll")
except AttributeError:  # not Linux
    EPOLL = None


_WATCH_READABLE: Final = 1
_WATCH_WRITABLE: Final = 2
"""The events of gevent's loop for a watcher of a descriptor."""
_EVENTS_PER_TURN: Final = 512
_HUNG_UP_PER_TURN: Final = 64
"""How many sockets with an ended peer are served in a turn. The limit keeps a
mass disconnect from delaying others."""
# The usual values of Linux, for platforms whose module lacks the names.
_READABLE = int(getattr(select, "EPOLLIN", 1))
_WRITE = int(getattr(select, "EPOLLOUT", 4))
_READ = int(getattr(select, "EPOLLIN", 1) | getattr(select, "EPOLLRDHUP", 8192))
_GONE = int(
    getattr(select, "EPOLLRDHUP", 8192)
    | getattr(select, "EPOLLHUP", 16)
    | getattr(select, "EPOLLERR", 8)
)


class EpollPoller(Readers):
    """All parked sockets in one level-triggered epoll instance.

    ``_parked`` is a list indexed by file descriptor. A dictionary would take 60
    bytes more per socket. If a peer has closed, epoll would report its socket
    again and again. So such a socket is removed from epoll, and waits in
    ``_hung_up``.
    """

    def __init__(self, loop: Any, readers: int) -> None:
        """Let gevent's loop watch one epoll instance, which watches all
        sockets.

        ``readers`` is how many reader greenlets stay while they are idle.
        """
        super().__init__(readers)
        self._epoll = EPOLL()
        self._parked: list[Parked | None] = []
        self._hung_up: deque[Parked] = deque()
        self._watcher = loop.io(self._epoll.fileno(), _WATCH_READABLE)
        self._watcher.start(self._poll)
        self._later = loop.timer(0.0)

    def add(self, parked: Parked) -> None:
        """Start to watch a socket."""
        parked.interest = _READ
        self._register(parked)

    def take(self, parked: Parked) -> None:
        """Watch a socket for ``parked`` from now on.

        Another object may have watched it before.
        """
        previous = self.at(parked.fd)
        if previous is None:
            self.add(parked)
            return
        parked.interest = _READ
        self._parked[parked.fd] = parked
        if previous.masked or previous.interest != _READ:
            self._epoll.modify(parked.fd, _READ)

    def _register(self, parked: Parked) -> None:
        """Add a socket to epoll and to the list."""
        fd = parked.fd
        self._epoll.register(fd, parked.interest)
        if fd > self.highest:
            self._parked.extend([None] * (fd - self.highest))
            self.highest = fd
        self._parked[fd] = parked

    def at(self, fd: int) -> Parked | None:
        """Return the object for which a file descriptor is watched, or None."""
        if 0 <= fd <= self.highest:
            return self._parked[fd]
        return None

    def remove(self, parked: Parked) -> None:
        """Stop watching a socket, which may have been removed before."""
        if self.at(parked.fd) is parked:
            self._parked[parked.fd] = None
            self._epoll.unregister(parked.fd)

    def pause(self, parked: Parked, paused: bool) -> None:
        """Pause or resume watching a listener."""
        if self.at(parked.fd) is not None:
            events = 0 if paused else _READ
            self._epoll.modify(parked.fd, events)

    def watch_writable(self, parked: Parked, wanted: bool) -> None:
        """Start or stop calling ``on_writable``."""
        parked.interest = _READ
        if wanted:
            parked.interest |= _WRITE
        if self.at(parked.fd) is parked:
            events = parked.interest
            if parked.masked:
                events &= _WRITE
            self._epoll.modify(parked.fd, events)

    def mask(self, parked: Parked) -> None:
        """Stop watching a socket for reading. Writing is still watched."""
        parked.masked = True
        if self.at(parked.fd) is parked:
            self._epoll.modify(parked.fd, parked.interest & _WRITE)

    def unmask(self, parked: Parked) -> None:
        """Watch a masked socket again.

        The socket may have been closed since then, or it may have been removed
        from epoll because its peer has closed.
        """
        parked.masked = False
        if self.at(parked.fd) is parked:
            self._epoll.modify(parked.fd, parked.interest)
        elif (
            parked.sock.fileno() == parked.fd
            and parked.interest
            and not self._epoll.closed
        ):
            # The socket was removed because its peer has closed or it has an
            # error. If it is registered again, epoll reports its end again.
            self._register(parked)

    def close(self) -> None:
        """End polling. Connections that end later have nothing to change."""
        self._watcher.stop()
        self._later.stop()
        self._epoll.close()
        self._parked.clear()
        self.highest = -1

    def _poll(self) -> None:
        """Callback: queue the sockets that are ready, and let readers serve
        them.

        gevent's loop calls it when epoll has events. Most sockets are only
        readable; others need more care.
        """
        ready = self.ready
        parked_by_fd = self._parked
        # Sockets that are still in the queue are reported again, but must not
        # be queued twice. Nearly always the queue is empty.
        queued = {id(parked) for parked in ready} if ready else ()
        for fd, events in self._epoll.poll(0, _EVENTS_PER_TURN):
            parked = parked_by_fd[fd]
            if parked is None or (queued and id(parked) in queued):
                continue
            if events != _READABLE:
                self._handle_other(parked, events)
            elif parked.reading:
                self.mask(parked)
            else:
                ready.append(parked)
        if ready:
            self.wake()

    def _handle_other(self, parked: Parked, events: int) -> None:
        """Handle a socket that is more than readable.

        The socket is writable, its peer has closed, or it has an error.
        """
        if events & _WRITE:
            parked.on_writable()
            if self.at(parked.fd) is not parked:  # the object has ended
                return

        if events & _GONE:
            if parked.reading:
                self.mask(parked)
                if events & ~_WRITE & ~_READ:
                    # An error cannot be masked. unmask() registers the socket
                    # again, and then the error is reported again.
                    self.remove(parked)
                return
            self._add_hung_up(parked)
        elif events & select.EPOLLIN:
            if parked.reading:
                self.mask(parked)
            else:
                self.ready.append(parked)

    def _add_hung_up(self, parked: Parked) -> None:
        """Let :meth:`_serve_hung_up` queue a socket whose peer has closed."""
        self.remove(parked)
        self._hung_up.append(parked)
        if len(self._hung_up) == 1:
            self._later.start(self._serve_hung_up)

    def _serve_hung_up(self) -> None:
        """Callback of the timer: queue some of the sockets whose peer has
        closed.

        Each of these sockets is queued again and again, until its owner closes
        it.
        """
        hung_up = self._hung_up
        ready = self.ready
        queued = {id(parked) for parked in ready}
        for _ in range(min(len(hung_up), _HUNG_UP_PER_TURN)):
            parked = hung_up.popleft()
            if parked.reading:
                # The reader registers the socket again when it has finished.
                # Then epoll reports the end of the socket again.
                parked.masked = True
            elif parked.sock.fileno() == parked.fd:  # the socket is still open
                if id(parked) not in queued:
                    ready.append(parked)
                hung_up.append(parked)
        if hung_up:
            self._later.start(self._serve_hung_up)
        if ready:
            self.wake()


class WatcherPoller(Readers):
    """A poller for platforms without epoll: a watcher of the loop per
    socket."""

    def __init__(self, loop: Any, readers: int) -> None:
        """Begin without watchers."""
        super().__init__(readers)
        self._loop = loop
        self._watchers: dict[int, tuple[Parked, Any, Any]] = {}
        """File descriptor → its object, and the watchers for reading and for
        writing."""
        self._fired: list[Parked] = []
        """The objects whose sockets became readable in this turn."""

    def add(self, parked: Parked) -> None:
        """Start to watch a socket."""
        reading = self._loop.io(parked.fd, _WATCH_READABLE)
        writing = self._loop.io(parked.fd, _WATCH_WRITABLE)
        self._watchers[parked.fd] = (parked, reading, writing)
        self.highest = max(self.highest, parked.fd)
        reading.start(self._readable, parked.fd)

    def at(self, fd: int) -> Parked | None:
        """Return the object for which a file descriptor is watched, or None."""
        entry = self._watchers.get(fd)
        if entry is None:
            return None
        return entry[0]

    def take(self, parked: Parked) -> None:
        """Watch a socket for ``parked`` from now on.

        Another object may have watched it before.
        """
        if parked.fd in self._watchers:
            _, reading, writing = self._watchers[parked.fd]
            self._watchers[parked.fd] = (parked, reading, writing)
            reading.start(self._readable, parked.fd)
        else:
            self.add(parked)

    def remove(self, parked: Parked) -> None:
        """Stop watching a socket, which may have been removed before."""
        entry = self._watchers.get(parked.fd)
        if entry is not None and entry[0] is parked:
            del self._watchers[parked.fd]
            for watcher in entry[1:]:
                watcher.stop()
                watcher.close()

    def pause(self, parked: Parked, paused: bool) -> None:
        """Pause or resume watching a listener."""
        entry = self._watchers.get(parked.fd)
        if entry is not None:
            if paused:
                entry[1].stop()
            else:
                entry[1].start(self._readable, parked.fd)

    def watch_writable(self, parked: Parked, wanted: bool) -> None:
        """Start or stop calling ``on_writable``."""
        entry = self._watchers.get(parked.fd)
        if entry is not None:
            if wanted:
                entry[2].start(self._writable, parked.fd)
            else:
                entry[2].stop()

    def mask(self, parked: Parked) -> None:
        """Stop watching a socket for reading, because somebody serves it
        already."""
        parked.masked = True
        self.pause(parked, paused=True)

    def unmask(self, parked: Parked) -> None:
        """Watch a masked socket again, unless it has another owner now."""
        parked.masked = False
        entry = self._watchers.get(parked.fd)
        if entry is not None and entry[0] is parked:
            self.pause(parked, paused=False)

    def close(self) -> None:
        """Stop watching all sockets."""
        for parked, *_ in tuple(self._watchers.values()):
            self.remove(parked)

    def _readable(self, fd: int) -> None:
        """Callback of a watcher: note a readable socket.

        At the end of the turn, the socket is queued together with others.
        """
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
        """Callback: queue the sockets that became readable, and let readers
        serve them."""
        fired = self._fired
        self._fired = []
        queued = {id(parked) for parked in self.ready}
        self.ready.extend(parked for parked in fired if id(parked) not in queued)
        if self.ready:
            self.wake()

    def _writable(self, fd: int) -> None:
        """Callback of a watcher: let the owner of a socket continue to
        write."""
        entry = self._watchers.get(fd)
        if entry is not None:
            entry[0].on_writable()


Poller = EpollPoller | WatcherPoller


def make(loop: Any, readers: int) -> Poller:
    """Make the best poller for this platform.

    ``readers`` is how many reader greenlets stay while they are idle.
    """
    if EPOLL is None:
        return WatcherPoller(loop, readers)
    return EpollPoller(loop, readers)
