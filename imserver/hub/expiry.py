"""Closing connections that are silent, and pinging clients that have no heartbeat command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Final

import gevent

from imserver import errors
from imserver.clock import until_beat
from imserver.metrics import Metrics
from imserver.transport.connection import OPEN, Connection, ConnectionContext, quiet_seconds

_BATCH = 1000
"""Connections looked at between two turns of the loop."""
_TURN_SECONDS = 0.001


def _paced(connections: Iterable[Connection]) -> Iterable[Connection]:
    """A copy of ``connections`` in batches, with a turn of the loop between two."""
    for index, connection in enumerate(tuple(connections)):
        if index and index % _BATCH == 0:
            gevent.sleep(_TURN_SECONDS)
        if connection.state == OPEN:
            yield connection


class Sweep:
    """Closes the silent. All times in seconds; ``ping_seconds`` 0 sends no pings, ``login_seconds`` 0 lets a
    connection live without a login as long as a silent one. ``by_traffic``: names of dialects in whose
    sessions all that is read or written is a sign of life, and for how long they may do without. ``look`` is
    called at each look at one of these sessions; it must not switch."""

    def __init__(
        self,
        context: ConnectionContext,
        metrics: Metrics,
        heartbeat_seconds: float,
        login_seconds: float,
        ping_seconds: float,
        pong_seconds: float,
        by_traffic: Mapping[str, float] | None = None,
        check: Callable[[Connection], object] | None = None,
    ) -> None:
        self._context = context
        self._metrics = metrics
        self.heartbeat_seconds = heartbeat_seconds
        self.login_seconds = login_seconds
        self.ping_seconds = ping_seconds
        self.pong_seconds = pong_seconds
        self._by_traffic = by_traffic or {}
        self._check = check
        """Called for each of these sessions in each sweep; must not switch."""

    def run_sweeps(self, sweep_seconds: float) -> None:
        """Greenlet: look at every connection each ``sweep_seconds``."""
        if self.login_seconds:
            sweep_seconds = min(sweep_seconds, max(self.login_seconds / 2, 0.5))
        while True:
            gevent.sleep(sweep_seconds)
            self.sweep()

    def sweep(self) -> None:
        """Close whoever's last sign of life is too long ago."""
        self._metrics.sweeps += 1
        now = monotonic()
        expired = now - self.heartbeat_seconds
        too_late = now - self.login_seconds if self.login_seconds else 0.0
        for connection in _paced(self._context.connections):
            dialect = connection.encoding.dialect
            if dialect.pinged:
                pass
            elif dialect.name in self._by_traffic and connection.user is not None:
                self._look_at_traffic(connection, now - self._by_traffic[dialect.name])
            elif connection.last_seen < expired:
                self._close(connection, errors.CLOSE_HEARTBEAT_EXPIRED)
            elif connection.user is None and connection.last_seen < too_late:
                self._close(connection, errors.CLOSE_LOGIN_TIMEOUT)

    def _look_at_traffic(self, connection: Connection, expired: float) -> None:
        """Ask the kernel about a connection that was not asked about for so long."""
        if self._check is not None:
            self._check(connection)
        if connection.state == OPEN and connection.last_seen < expired:
            connection.last_seen = max(connection.last_seen, monotonic() - quiet_seconds(connection.sock))
            if connection.last_seen < expired:
                self._close(connection, errors.CLOSE_HEARTBEAT_EXPIRED)

    def run_pings(self) -> None:
        """Greenlet: ping everybody each ``ping_seconds``; who is silent after ``pong_seconds`` more goes."""
        while True:
            gevent.sleep(self.ping_seconds)
            connections = _paced(self._context.connections)
            pinged = [connection for connection in connections if not connection.encoding.dialect.pinged]
            for connection in _paced(pinged):
                connection.ping()
            gevent.sleep(self.pong_seconds)
            # Somebody else may have pinged it a moment ago: only a ping of this round is overdue.
            overdue = monotonic() - self.pong_seconds / 2
            for connection in _paced(pinged):
                if 0 < connection.pinged_at < overdue:
                    self._close(connection, errors.CLOSE_HEARTBEAT_EXPIRED)

    def _close(self, connection: Connection, code: int) -> None:
        self._metrics.swept += 1
        connection.close(code, errors.CLOSE[code].name)


SLOTS: Final = 25
"""Steps of a period."""
_PING_BATCH: Final = 500
"""Connections pinged between two turns of the loop."""
PING_FRAME: Final = b"\x89\x00"


class Pings:
    """Pings the connections of ``pinged`` dialects each ``ping_seconds``, and closes the silent.

    Whoever has shown no sign of life for ``silent_seconds`` is closed at the next look, so up to
    ``ping_seconds`` later. Whatever is read is a sign of life, a pong too.
    """

    def __init__(
        self, context: ConnectionContext, metrics: Metrics, ping_seconds: float, silent_seconds: float
    ) -> None:
        self._context = context
        self._metrics = metrics
        self._step_seconds = ping_seconds / SLOTS
        # The looks at one connection are a period apart, give or take what the loop is late.
        self._patience = max(silent_seconds - ping_seconds / 2, ping_seconds / 2)

    def run(self) -> None:
        """Greenlet: one step after the other. A step that the loop was late for is made up for."""
        step = 0
        began = monotonic() + until_beat(self._step_seconds)
        while True:
            gevent.sleep(max(began + step * self._step_seconds - monotonic(), 0.0))
            step += 1
            self.step(step % SLOTS)

    def step(self, slot: int) -> None:
        """Ping everybody in a slot."""
        now = monotonic()
        for number, connection in enumerate(self._in(slot), 1):
            since = connection.pinged_at
            if not since:
                connection.ping()
            elif now - since < self._patience:
                connection.send_frame(PING_FRAME)
            else:
                self._metrics.swept += 1
                code = errors.CLOSE_HEARTBEAT_EXPIRED
                connection.close(code, errors.CLOSE[code].name)
            if not number % _PING_BATCH:
                gevent.sleep(_TURN_SECONDS)

    def _in(self, slot: int) -> Iterator[Connection]:
        """Connections in service whose clients are pinged."""
        if not self._context.pinged:
            return
        poller = self._context.poller
        for fd in range(slot, poller.highest + 1, SLOTS):
            found = poller.at(fd)
            if isinstance(found, Connection) and found.state == OPEN and found.encoding.dialect.pinged:
                yield found
