"""Grace: sessions whose clients do not say at login where they stand are given a moment to ask, and longer to
ask for what follows a page.

A client's cursor is the greatest id that it has seen: what is told before it has asked would hide what it
missed. Whoever does not ask is told what is new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent

from imserver.transport.connection import Connection

HOLD_SECONDS: Final = 0.25
"""How long a client has to ask for what it missed before it is told what is new. Those that ask at all do so
without waiting for an answer; the others are not to wait long for what is new."""
PAGE_SECONDS: Final = 5.0
"""How long it has to ask for the rest, when a page has left for it: its question has to come back over its
line, which may be a slow one."""
_TOGETHER: Final = 0.1
"""Those who come within this part of the time are let go together."""


class Grace:
    """Owner of who is still expected to ask. ``release`` lets a connection go; it must not switch.

    The time counts from when all that was sent to it before has left.
    """

    def __init__(self, release: Callable[[Connection], object], hold_seconds: float) -> None:
        self._release = release
        self._hold_seconds = hold_seconds
        self._together_seconds = hold_seconds * _TOGETHER
        self._expected: deque[tuple[float, set[Connection]]] = deque()
        """Until when, and who; those who came last are last."""

    @property
    def idle(self) -> bool:
        """Whether nobody is expected."""
        return not self._expected

    def expect(self, connection: Connection) -> None:
        """Give a session its moment. Never switches."""
        deadline = monotonic() + self._hold_seconds
        if self._expected and deadline < self._expected[-1][0] + self._together_seconds:
            self._expected[-1][1].add(connection)
            return
        self._expected.append((deadline, {connection}))
        if len(self._expected) == 1:
            gevent.spawn(self._let_go)

    def asked(self, connection: Connection) -> None:
        """A session has asked, or is over. Never switches."""
        for _, some in self._expected:
            some.discard(connection)

    def _let_go(self) -> None:
        """Greenlet: release those who have not asked in time; until nobody is expected."""
        while self._expected:
            # Those who joined last have their whole time, too.
            left = self._expected[0][0] + self._together_seconds - monotonic()
            if left > 0:
                gevent.sleep(left)
                continue
            for connection in self._expected[0][1]:
                if connection.outbox is None:
                    self._release(connection)
                else:
                    self.expect(connection)
            self._expected.popleft()


class PageEnds:
    """Owner of where the pages of those have come to who have still to ask for the rest. Never switches.

    Who is told something newer in between will ask with the place of that, up to which it does not have
    everything: it is given what is behind its last page.
    """

    def __init__(self) -> None:
        self._asking: dict[Connection, int] = {}
        self._passed_over: dict[Connection, int] = {}

    @property
    def empty(self) -> bool:
        """Whether nobody has to ask for more."""
        return not self._asking and not self._passed_over

    def begin(self, connection: Connection, after: int) -> int:
        """A client asks for what is behind a place: the place behind which it is to be given."""
        self._asking.pop(connection, None)
        return min(after, self._passed_over.get(connection, after))

    def come_to(self, connection: Connection, place: int) -> None:
        """It was given a page that ends here; 0: there is no more."""
        ends = self._passed_over if connection in self._passed_over else self._asking
        if place:
            ends[connection] = place
        else:
            ends.pop(connection, None)

    def pass_over(self, connection: Connection) -> None:
        """It is told what is new before it has asked for the rest."""
        if connection in self._asking:
            self._passed_over[connection] = self._asking.pop(connection)

    def forget(self, connection: Connection) -> None:
        """It is over."""
        self._asking.pop(connection, None)
        self._passed_over.pop(connection, None)
