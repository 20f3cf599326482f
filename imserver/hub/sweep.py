"""The sweep: one periodic pass that closes connections whose heartbeat expired, instead of a timer each.

Clients that have no heartbeat are :mod:`imserver.hub.pings`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic

import gevent

from imserver import errors
from imserver.metrics import Metrics
from imserver.transport.carrier import Carrier
from imserver.transport.connection import OPEN, Connection
from imserver.transport.traffic import quiet_seconds

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
    sessions all that is read or written is a sign of life, and for how long they may do without."""

    def __init__(
        self,
        carrier: Carrier,
        metrics: Metrics,
        heartbeat_seconds: float,
        login_seconds: float,
        ping_seconds: float,
        pong_seconds: float,
        by_traffic: Mapping[str, float] | None = None,
    ) -> None:
        self._carrier = carrier
        self._metrics = metrics
        self.heartbeat_seconds = heartbeat_seconds
        self.login_seconds = login_seconds
        self.ping_seconds = ping_seconds
        self.pong_seconds = pong_seconds
        self._by_traffic = by_traffic or {}
        self.look: Callable[[Connection], object] = lambda _connection: None
        """Called at each look at one of these sessions; must not switch."""

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
        for connection in _paced(self._carrier.connections):
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
        self.look(connection)
        if connection.state == OPEN and connection.last_seen < expired:
            connection.last_seen = max(connection.last_seen, monotonic() - quiet_seconds(connection.sock))
            if connection.last_seen < expired:
                self._close(connection, errors.CLOSE_HEARTBEAT_EXPIRED)

    def run_pings(self) -> None:
        """Greenlet: ping everybody each ``ping_seconds``; who is silent after ``pong_seconds`` more goes."""
        while True:
            gevent.sleep(self.ping_seconds)
            connections = _paced(self._carrier.connections)
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
