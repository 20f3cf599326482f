"""Closes silent connections, and pings clients without a heartbeat command."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf
from time import monotonic
from typing import Final

import gevent
from msgspec import field

from imserver.gateway.clock import until_beat
from imserver.gateway.errors import CloseCode
from imserver.gateway.metrics import Metrics
from imserver.gateway.model import Service
from imserver.gateway.transport.connection import (
    Connection,
    ConnectionContext,
    quiet_seconds,
)
from imserver.gateway.transport.states import CLOSING

_BATCH = 1000
"""Number of connections checked between two turns of the loop."""
_TURN_SECONDS = 0.001
_LEAST_SWEEP_SECONDS: Final = 0.5

Check = Callable[[Connection], float | None]
"""A function that each sweep calls for each session of a dialect. It returns
after how many seconds without any traffic the session is closed. It returns
None if the session must send heartbeats instead. The function may close the
session. It never switches greenlets."""


def _open_in_batches(connections: Iterable[Connection]) -> Iterable[Connection]:
    """Yield the connections that are in service, and let others run now and
    then.

    The function iterates over a copy, because connections come and go while
    others run.
    """
    for index, connection in enumerate(tuple(connections)):
        if index and index % _BATCH == 0:
            gevent.sleep(_TURN_SECONDS)
        if connection.state < CLOSING:
            yield connection


class Sweep(Service):
    """Closes silent connections, and pings clients.

    ``heartbeat_seconds`` is how long a session may be silent. ``login_seconds``
    is the time in which a client must log in. 0 means as long as a session may
    be silent. ``ping_seconds`` is the time between two pings, and
    ``pong_seconds`` the time in which a client must answer a ping.
    """

    context: ConnectionContext
    metrics: Metrics
    heartbeat_seconds: float
    login_seconds: float
    ping_seconds: float
    pong_seconds: float
    checks: dict[str, Check] = field(default_factory=dict)
    """Name of a dialect → the check for its sessions."""

    def run_sweeps(self, sweep_seconds: float) -> None:
        """Greenlet: check all connections every ``sweep_seconds``."""
        # If clients have little time to log in, the check runs more often. So a
        # late client is found at most half of this time later.
        if self.login_seconds:
            login_sweep_seconds = max(self.login_seconds / 2, _LEAST_SWEEP_SECONDS)
            sweep_seconds = min(sweep_seconds, login_sweep_seconds)
        while True:
            gevent.sleep(sweep_seconds)
            self.sweep()

    def sweep(self) -> None:
        """Close connections whose last sign of life is too old.

        The dialect decides what counts as a sign of life: a heartbeat command,
        any traffic, or an answer to a ping.
        """
        self.metrics.sweeps += 1
        # A connection is closed if it was seen last before these times.
        now = monotonic()
        oldest_heartbeat = now - self.heartbeat_seconds
        if self.login_seconds:
            oldest_login = now - self.login_seconds
        else:
            oldest_login = 0.0
        for connection in _open_in_batches(self.context.connections):
            dialect = connection.encoding.dialect
            check = self.checks.get(dialect.name)
            if check is None or connection.app is None:
                silent_seconds = None
            else:
                silent_seconds = check(connection)

            if connection.state >= CLOSING:  # the check has closed it
                pass
            elif silent_seconds and connection.user is not None:
                self._check_traffic(connection, now - silent_seconds)
            elif dialect.pinged:
                # last_seen is above 0 only before the login.
                if 0 < connection.last_seen < (oldest_login or oldest_heartbeat):
                    self._close(connection, CloseCode.LOGIN_TIMEOUT)
            elif connection.last_seen < oldest_heartbeat:
                self._close(connection, CloseCode.HEARTBEAT_EXPIRED)
            elif connection.user is None and connection.last_seen < oldest_login:
                self._close(connection, CloseCode.LOGIN_TIMEOUT)

    def _check_traffic(self, connection: Connection, since: float) -> None:
        """Close a session without any traffic since a monotonic time."""
        if connection.last_seen >= since:
            return
        # Only the kernel knows of traffic after the last check.
        last_traffic = monotonic() - quiet_seconds(connection.sock)
        connection.last_seen = max(connection.last_seen, last_traffic)
        if connection.last_seen < since:
            self._close(connection, CloseCode.HEARTBEAT_EXPIRED)

    def run_pings(self) -> None:
        """Greenlet: ping all clients of dialects with a heartbeat command.

        The greenlet pings in rounds, and closes the clients that do not answer
        within ``pong_seconds``. :class:`Pings` pings the clients of other
        dialects.
        """
        round_ends: deque[float] = deque()
        """The end times of the rounds of pings whose answers are not checked
        yet."""
        next_round = monotonic() + self.ping_seconds
        while True:
            if round_ends:
                next_check = round_ends[0] + self.pong_seconds
            else:
                next_check = inf
            pause = min(next_check, next_round) - monotonic()
            gevent.sleep(max(pause, 0.0))

            # The answers to the oldest round are due now.
            if next_check <= next_round:
                self._close_unanswered(round_ends.popleft())
                continue

            next_round = monotonic() + self.ping_seconds
            self._ping_all()
            round_ends.append(monotonic())

    def _ping_all(self) -> None:
        """Ping all clients of dialects with a heartbeat command. May switch
        greenlets."""
        for connection in _open_in_batches(self.context.connections):
            if not connection.encoding.dialect.pinged:
                connection.ping()

    def _close_unanswered(self, round_end: float) -> None:
        """Close connections that have not answered the pings of a round.

        The round has ended at the monotonic time ``round_end``.
        """
        for connection in _open_in_batches(self.context.connections):
            if connection.encoding.dialect.pinged:
                continue
            if 0 < connection.pinged_at <= round_end:
                self._close(connection, CloseCode.HEARTBEAT_EXPIRED)

    def _close(self, connection: Connection, code: int) -> None:
        """Close a silent connection, and count it."""
        self.metrics.swept += 1
        connection.close(code)


SLOTS: Final = 25
"""Number of steps in a period of ``ping_seconds``. A step pings the connections
of one slot: every 25th file descriptor."""
_PING_BATCH: Final = 500
"""Number of connections pinged between two turns of the loop."""


class Pings:
    """Pings the clients of dialects without a heartbeat command.

    Each client is pinged every ``ping_seconds``. A connection without a sign of
    life for ``silent_seconds`` is closed at the next check, up to
    ``ping_seconds`` later. All received data is a sign of life, even a pong.
    """

    def __init__(
        self,
        context: ConnectionContext,
        metrics: Metrics,
        ping_seconds: float,
        silent_seconds: float,
    ) -> None:
        """Compute the times between two steps, and until a connection is
        silent."""
        self._context = context
        self._metrics = metrics
        self._step_seconds = ping_seconds / SLOTS
        # Two checks of one connection are about one period apart. The patience
        # is half a period shorter, so that a delay of the loop does not add
        # another period.
        self._patience = max(silent_seconds - ping_seconds / 2, ping_seconds / 2)

    def run(self) -> None:
        """Greenlet: run one step after the other. Each step is for a part of
        the connections.

        If the loop was late, the missed steps follow at once.
        """
        step = 0
        started_at = monotonic() + until_beat(self._step_seconds)
        while True:
            pause = started_at + step * self._step_seconds - monotonic()
            gevent.sleep(max(pause, 0.0))
            step += 1
            self.step(step % SLOTS)

    def step(self, slot: int) -> None:
        """Ping all connections of a slot, and close the silent ones.

        A slot is every 25th file descriptor, so that not all clients answer at
        once.
        """
        now = monotonic()
        for number, connection in enumerate(self._connections_of(slot), 1):
            since = connection.pinged_at
            if not since:  # the last ping is answered
                connection.ping()
            elif now - since < self._patience:
                # The client is pinged again, but its time limit counts from the
                # first unanswered ping.
                connection.send_frame(connection.encoding.ping_frame)
            else:
                self._metrics.swept += 1
                connection.close(CloseCode.HEARTBEAT_EXPIRED)
            if not number % _PING_BATCH:
                gevent.sleep(_TURN_SECONDS)

    def _connections_of(self, slot: int) -> Iterator[Connection]:
        """Yield the connections of a slot whose clients are pinged.

        All these connections are in service. A connection that still has to log
        in is left out.
        """
        if not self._context.pinged:
            return
        poller = self._context.poller
        for fd in range(slot, poller.highest + 1, SLOTS):
            connection = poller.at(fd)
            if not isinstance(connection, Connection) or connection.state >= CLOSING:
                continue
            # last_seen is above 0 only before the login. A client that comes
            # back must not be pinged then, because it would answer in the name
            # of its last session.
            if connection.encoding.dialect.pinged and not connection.last_seen:
                yield connection
