"""The pool of reader greenlets, and what they serve.

A ready socket is queued; a reader greenlet serves the queue until it is empty. A reader that blocks inside a
command is replaced by another one at the next turn, and the socket that it serves is masked meanwhile, so
that the messages of one connection never overtake each other.
"""

from __future__ import annotations

import _socket
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

import gevent
from gevent.hub import get_hub
from greenlet import greenlet

log = logging.getLogger(__name__)


NO_SOCKET = _socket.socket()
"""Stands where a socket was that somebody else owns now."""
NO_SOCKET.close()


class Parked(Protocol):
    """Whatever waits in the poller: a listener, an HTTP connection, a WebSocket.

    ``sock`` is replaced by :data:`NO_SOCKET` when the socket is given to another object. ``reading``,
    ``masked`` and ``interest`` are the poller's own marks, initially False, False and 0: being served; ready
    meanwhile; the events that are wanted.
    """

    sock: _socket.socket
    fd: int
    reading: bool
    masked: bool
    interest: int

    def on_readable(self) -> None:
        """The socket has something to read, or its peer has gone."""

    def on_writable(self) -> None:
        """The socket takes bytes again (only after ``watch_writable``)."""

    def lost(self) -> None:
        """Close: serving this object raised."""


def _name_of(parked: Parked) -> str:
    name: str = getattr(parked, "peer", "listener")
    return name


class Readers(ABC):
    """The pool of greenlets that serve ready sockets. Owner of the queue.

    ``kept`` of them are kept when there is nothing to do. There may be as many as there are connections
    whose commands block, or those that do not block would have to wait for them.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._idle: list[greenlet] = []
        self.count = 0
        self.ready: deque[Parked] = deque()
        self.highest = -1
        """The highest file descriptor that was ever watched."""

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
                if parked.reading:
                    self.mask(parked)
                    continue
                parked.reading = True
                try:
                    parked.on_readable()
                except Exception:
                    log.exception("serving failed", extra={"connection": _name_of(parked)})
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
            log.exception("closing failed", extra={"connection": _name_of(parked)})

    @abstractmethod
    def at(self, fd: int) -> Parked | None:
        """What is watched under a file descriptor."""

    @abstractmethod
    def mask(self, parked: Parked) -> None:
        """A socket is ready that is being served: do not look at it for reading until that is done."""

    @abstractmethod
    def unmask(self, parked: Parked) -> None:
        """Look at a masked socket again."""
