"""What a crowd received: broadcasts by connection, messages to single users, how long they took."""

from __future__ import annotations

import time
from array import array
from typing import Any

from bench.latency import STAMP_DIGITS, STAMP_WRAP, Latency

#: A message text is its time stamp and the number of the user it is for, or EVERYBODY.
TARGET_DIGITS = 7
EVERYBODY = 9_999_999
TEXT_AT = b'"msg":"'
#: A broadcast to a million takes seconds.
SPREAD_STEP_US = 10_000


def message_text(stamp: int, target: int) -> bytes:
    """Return the text of a message that is sent at ``stamp``."""
    return b"%0*d%0*d" % (STAMP_DIGITS, stamp, TARGET_DIGITS, target)


class Received:
    """The messages of one measurement at all connections of a process. Owned by its crowd.

    ``broadcasts`` counts by descriptor. ``strays`` are messages that reached somebody they were not for.
    """

    def __init__(self, files: int) -> None:
        self.broadcasts = array("H", bytes(2 * files))
        self.total = self.singles = self.strays = self.last_ns = 0
        self.latency = Latency()
        self.spread = Latency(SPREAD_STEP_US)
        self._frame = b"-"
        self._stamp = 0

    def same(self, fd: int, data: bytes) -> bool:
        """Count ``data`` if it is the broadcast that others got already."""
        if data != self._frame:
            return False
        self._broadcast(fd)
        return True

    def message(self, fd: int, number: int, frame: bytes) -> None:
        """Count a message that came to user ``number``."""
        at = frame.find(TEXT_AT) + len(TEXT_AT)
        stamp = int(frame[at : at + STAMP_DIGITS])
        target = int(frame[at + STAMP_DIGITS : at + STAMP_DIGITS + TARGET_DIGITS])
        if target == EVERYBODY:
            self._frame, self._stamp = frame, stamp
            self._broadcast(fd)
        elif target == number:
            self.singles += 1
            self.latency.add(self._since(stamp))
        else:
            self.strays += 1

    def _broadcast(self, fd: int) -> None:
        self.broadcasts[fd] += 1
        self.total += 1
        self.spread.add(self._since(self._stamp))

    def _since(self, stamp: int) -> int:
        self.last_ns = now = time.monotonic_ns()
        return (now // 1000 - stamp) % STAMP_WRAP

    def verdict(self, fds: list[int], wanted: int) -> dict[str, Any]:
        """Compare what came with ``wanted`` broadcasts to each of ``fds``."""
        counts = [self.broadcasts[fd] for fd in fds]
        return {
            "received": self.total,
            "lost": sum(wanted - count for count in counts if count < wanted),
            "doubled": sum(count - wanted for count in counts if count > wanted),
            "singles": self.singles,
            "strays": self.strays,
            "last_ns": self.last_ns,
            "latency": self.latency.pack(),
            "spread": self.spread.pack(),
        }
