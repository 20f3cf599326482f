"""The event loop of a generator process: one epoll, one owner per descriptor,
commands on standard input."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

READ = getattr(select, "EPOLLIN", 1)
WRITE = getattr(select, "EPOLLOUT", 4)
BATCH = 1024
ITEMS_A_TURN = 64
LOOK_SECONDS = 0.1
#: Data between processes: the parameters of a task, its answer, a report.
Json = dict[str, Any]
T = TypeVar("T")


class BenchError(Exception):
    """A measurement cannot be made; the text is one line for the user of the
    tool."""


class Handler(Protocol):
    """The owner of a registered descriptor."""

    def ready(self, fd: int, mask: int) -> None:
        """Handle the epoll events ``mask`` of ``fd``."""


class Loop:
    """One epoll and its descriptors. Owned by the process; only :meth:`turn`
    blocks."""

    def __init__(self, commands_fd: int = 0) -> None:
        if not hasattr(select, "epoll"):
            raise BenchError("the load tools need Linux (epoll, /proc)")
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.commands_fd = commands_fd
        self.inbox: deque[dict[str, Any]] = deque()
        self.stopped = False
        self._partial = b""
        self.add(commands_fd, READ, self)

    def add(self, fd: int, mask: int, handler: Handler) -> None:
        self.handlers[fd] = handler
        self.epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        self.epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Remove ``fd``; call this before closing it."""
        del self.handlers[fd]
        self.epoll.unregister(fd)

    def turn(self, timeout_seconds: float) -> int:
        """Wait for events at most ``timeout_seconds``, pass them to their
        owners, return their number."""
        handlers = self.handlers
        events = self.epoll.poll(timeout_seconds, BATCH)
        for fd, mask in events:
            # an earlier event of this batch may have closed it
            handler = handlers.get(fd)
            if handler is not None:
                handler.ready(fd, mask)
        return len(events)

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Handle events until ``done()`` or a stop, at most for ``seconds``;
        return whether it is done."""
        end = time.monotonic() + seconds
        while not done():
            if self.stopped or time.monotonic() > end:
                return False
            self.turn(LOOK_SECONDS)
        return True

    def until_quiet(self, done: Callable[[], bool], quiet_seconds: float) -> None:
        """Handle events until ``done()`` or a stop, or until there was none for
        ``quiet_seconds``."""
        last_news = time.monotonic()
        while (
            not done()
            and not self.stopped
            and time.monotonic() < last_news + quiet_seconds
        ):
            if self.turn(LOOK_SECONDS):
                last_news = time.monotonic()

    def paced(self, rate: float, seconds: float) -> Iterator[int]:
        """Yield 0, 1, 2 … ``rate`` times a second, and handle events meanwhile;
        ends when it is stopped, or is a second late."""
        begin = time.monotonic()
        turn = 0
        while turn < int(rate * seconds + 0.5) and not self.stopped:
            left = begin + turn / rate - time.monotonic()
            if left > 0:
                self.turn(left)
            elif begin + seconds + 1 < time.monotonic():
                return
            else:
                yield turn
                turn += 1

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield ``items``, and handle events after the first and then after
        every 64."""
        for number, item in enumerate(items):
            yield item
            if not number % ITEMS_A_TURN:
                self.turn(0)

    def command(self) -> dict[str, Any]:
        """Wait for the next command; meanwhile the owners handle received
        data."""
        while not self.inbox:
            self.turn(60)
        self.stopped = False
        return self.inbox.popleft()

    def ready(self, fd: int, mask: int) -> None:
        """Read commands; ``quit``, or the end of the input, ends the
        process."""
        data = os.read(fd, 1 << 20)
        if not data:
            sys.exit(0)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if line == b"quit":
                sys.exit(0)
            elif line == b"stop":
                self.stopped = True
            elif line:
                self.inbox.append(json.loads(line))
