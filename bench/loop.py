"""The event loop of a generator process: one epoll, one owner per descriptor, commands on standard input."""

from __future__ import annotations

import json
import os
import select
import sys
from collections import deque
from typing import Any, Protocol

READ = getattr(select, "EPOLLIN", 1)
WRITE = getattr(select, "EPOLLOUT", 4)
BATCH = 1024
#: What travels between processes: the parameters of a task, its answer, a report.
Json = dict[str, Any]


class BenchError(Exception):
    """A measurement cannot be made; the text is one clear line for the person who asked for it."""


class Owner(Protocol):
    """Whoever registered a descriptor."""

    def ready(self, fd: int, mask: int) -> None:
        """Handle the epoll events ``mask`` of ``fd``."""


class Loop:
    """One epoll and what is registered in it. Owned by the process; nothing in it blocks but :meth:`turn`."""

    def __init__(self, commands_fd: int = 0) -> None:
        if not hasattr(select, "epoll"):
            raise BenchError("the load tools need Linux (epoll, /proc)")
        self.epoll = select.epoll()
        self.owners: dict[int, Owner] = {}
        self.commands_fd = commands_fd
        self.inbox: deque[dict[str, Any]] = deque()
        self.stopped = False
        self._partial = b""
        self.add(commands_fd, READ, self)

    def add(self, fd: int, mask: int, owner: Owner) -> None:
        self.owners[fd] = owner
        self.epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        self.epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forget ``fd``; call before it is closed."""
        del self.owners[fd]
        self.epoll.unregister(fd)

    def turn(self, timeout_seconds: float) -> int:
        """Wait for events at most ``timeout_seconds``, hand them to their owners, return how many came."""
        owners = self.owners
        events = self.epoll.poll(timeout_seconds, BATCH)
        for fd, mask in events:
            owner = owners.get(fd)  # an earlier event of this batch may have closed it
            if owner is not None:
                owner.ready(fd, mask)
        return len(events)

    def command(self) -> dict[str, Any]:
        """Wait for the next command; whatever sockets receive meanwhile is handled by their owners."""
        while not self.inbox:
            self.turn(60)
        self.stopped = False
        return self.inbox.popleft()

    def ready(self, fd: int, mask: int) -> None:
        """Read commands; ``quit``, or the end of the input, ends the process."""
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
