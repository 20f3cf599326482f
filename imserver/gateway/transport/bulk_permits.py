"""Permits to write broadcasts. If a supervisor has many nodes, only as many of
them as there are processors write to very many connections at a time. The other
nodes leave the processors to logins, pushes and answers.

A node asks the supervisor over a line, a pair of sockets that is made before
the fork. Nodes get permits in the order in which they ask. When a process ends,
however it ends, the kernel closes its end of the line, so the permit of a
killed node is free at once. There are three time limits. A node writes for
:data:`WRITE_SECONDS`. The permit of a stopped node ends after
:data:`HOLD_SECONDS`. No node waits longer than :data:`WAIT_SECONDS`.
"""

import _socket
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

from gevent import monkey

WRITE_SECONDS: Final = 0.05
"""How long a node writes. Then it asks again, and queues behind all waiting
nodes."""
HOLD_SECONDS: Final = 1.0
"""How long a node may keep a permit. Then the supervisor gives it to another
node, even if it was not returned."""
WAIT_SECONDS: Final = 5.0
"""How long a node waits for a permit. Then it writes without one: the
supervisor is stopped, or there are too many nodes."""

# The words on a line. A node asks or returns, and the supervisor grants.
_ASK = b"+"
_RETURN = b"-"
_GRANT = b"!"
_MOST_BYTES: Final = 4096
"""Bytes per read of a line. A word has one byte, and a line has few words."""
_READABLE: Final = 1
"""``select.POLLIN``, and ``READ`` of gevent's loops."""
_SECOND_MS: Final = 1000


class BulkPermits:
    """The supervisor's side of the permits.

    It gives at most ``most`` permits at a time; if ``most`` is 0, nodes need no
    permits. It owns the lines to its nodes. The supervisor has no loop of
    gevent, and waits with :meth:`wait`.
    """

    def __init__(self, most: int, hold_seconds: float) -> None:
        """Begin without lines.

        At most ``most`` nodes have a permit at a time. A permit ends after
        ``hold_seconds``, if the node does not return it.
        """
        self._most = most
        self._hold_seconds = hold_seconds
        self._poll = monkey.get_original("select", "poll")()
        self._lines: dict[int, _socket.socket] = {}
        """File descriptor → the supervisor's end of a line."""
        self._waiting: dict[int, None] = {}
        """The descriptors of the lines whose node has asked for a permit, in
        the order of asking, as an ordered set."""
        self._ends: dict[int, float] = {}
        """Descriptor of a line whose node has a permit → monotonic time at
        which the permit ends."""

    @contextmanager
    def line(self) -> Iterator[_socket.socket | None]:
        """Make a line to a child process, and yield the child's end of it.

        Fork the child inside the ``with`` block. The supervisor closes the
        child's end after the block. Yields None if nodes need no permits.
        """
        if not self._most:
            yield None
            return
        near, far = _socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._lines[near.fileno()] = near
        self._poll.register(near.fileno(), _READABLE)
        try:
            yield far
        finally:
            far.close()

    def close(self) -> None:
        """Close the supervisor's ends of all lines in this process."""
        for line in self._lines.values():
            line.close()

    def wait(self, file: int, seconds: float) -> bool:
        """Give permits to nodes until a file descriptor is readable.

        It waits at most for ``seconds``. Returns whether ``file`` is readable.
        """
        self._poll.register(file, _READABLE)
        end = monotonic() + seconds
        while True:
            # The wait ends when a permit ends, so that the next node gets that
            # permit.
            wake_at = min([end, *self._ends.values()])
            pause_seconds = max(wake_at - monotonic(), 0.0)
            ready = [fd for fd, _ in self._poll.poll(pause_seconds * _SECOND_MS)]
            for fd in ready:
                if fd != file:
                    self._read(fd)

            self._grant()
            if file in ready:
                return True
            if monotonic() >= end:
                return False

    def _read(self, fd: int) -> None:
        """Read what a node says over its line.

        The node asks for a permit, returns its permit, or has ended.
        """
        try:
            # Only the last of several words counts.
            word = self._lines[fd].recv(_MOST_BYTES)[-1:]
        except BlockingIOError:
            return
        except OSError:
            word = b""  # as at the end of the line

        # In each case the node does not use its permit any more.
        self._ends.pop(fd, None)
        if word == _ASK:
            self._waiting[fd] = None
            return

        self._waiting.pop(fd, None)
        if not word:
            self._poll.unregister(fd)
            self._lines.pop(fd).close()

    def _grant(self) -> None:
        """End the permits that are held for too long, and give free permits to
        nodes.

        The nodes that have waited longest get the free permits.
        """
        now = monotonic()
        self._end_overdue(now)
        while self._waiting and len(self._ends) < self._most:
            fd = next(iter(self._waiting))
            del self._waiting[fd]
            # If the node has ended, or its line is full, it gets no permit. It
            # waits for a limited time only.
            with suppress(OSError):
                self._lines[fd].send(_GRANT)
                self._ends[fd] = now + self._hold_seconds

    def _end_overdue(self, now: float) -> None:
        """End the permits that are held for too long."""
        overdue = [fd for fd, end in self._ends.items() if end <= now]
        for fd in overdue:
            del self._ends[fd]


class BulkPermit:
    """A node's side of the permits.

    ``granted`` is called in the loop's greenlet when the node may write. The
    module explains the three times. The node's end of the line belongs to this
    object. Nothing here switches greenlets.
    """

    def __init__(
        self,
        line: _socket.socket,
        loop: Any,
        granted: Callable[[], object],
        write_seconds: float,
        hold_seconds: float,
        wait_seconds: float,
    ) -> None:
        """Begin without a permit, and listen to the line.

        ``line`` is the node's end of the line to the supervisor. The module
        explains the three times.
        """
        self._line = line
        self._granted = granted
        self._write_seconds = write_seconds
        self._hold_seconds = hold_seconds
        self._asks = False
        """Whether the node has asked and has no permit yet."""
        self._end = 0.0
        """Monotonic time until which the node may write. 0 means that it has no
        permit. Infinity means that it needs no permit."""
        self._granted_at = 0.0
        """Monotonic time at which the permit began."""
        self._watcher = loop.io(line.fileno(), _READABLE, ref=False)
        self._watcher.start(self._read)
        # The timer repeats, because a one-shot timer that has fired would fire
        # at once when it is restarted.
        self._timer = loop.timer(wait_seconds, wait_seconds, ref=False)

    def request(self) -> bool:
        """Tell whether the node may write now. If it may not, ask for a
        permit.

        When the permit comes, ``granted`` is called.
        """
        if self._end > monotonic():
            return True
        if not self._asks:
            self._asks = True
            self._end = 0.0
            self._send(_ASK)
            # If no permit comes in time, the node writes without one.
            self._timer.again(self._begin)
        return False

    def extend(self) -> None:
        """Let the node write longer, because an answer waits for its writing.

        The time ends ``hold_seconds`` after the begin of the permit.
        """
        if self._end:
            self._end = max(self._end, self._granted_at + self._hold_seconds)

    def release(self) -> None:
        """Give the permit back, because the node has written everything."""
        if 0.0 < self._end < math.inf:
            self._end = 0.0
            self._send(_RETURN)

    def close(self) -> None:
        """Let the node always write from now on, without asking."""
        self._watcher.stop()
        self._timer.stop()
        self._line.close()
        self._asks = False
        self._end = math.inf

    def _send(self, word: bytes) -> None:
        """Tell the supervisor that the node asks, or returns a permit."""
        # If nobody reads the line, no answer comes, and the time limits apply.
        with suppress(OSError):
            self._line.send(word)

    def _read(self) -> None:
        """Callback: read the grant of a permit, or the end of the line."""
        try:
            word = self._line.recv(_MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:  # the supervisor has ended
            self.close()
            self._granted()
        elif self._asks:
            self._begin()
        else:  # it came too late: the node has written without it
            self._send(_RETURN)

    def _begin(self) -> None:
        """Begin to write: with a permit, or because the wait for it was too
        long."""
        self._asks = False
        self._granted_at = monotonic()
        self._end = self._granted_at + self._write_seconds
        self._timer.stop()
        self._granted()
