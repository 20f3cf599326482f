"""Pings to clients that have no heartbeat command, spread over their period without a list or a timer each.

A period has :data:`SLOTS` steps; in each of them those connections are pinged whose file descriptor leaves
the step's number as remainder. Descriptors are handed out densely, so each step has its share, and whoever
comes or goes costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Final

import gevent

from imserver import errors
from imserver.clock import until_beat
from imserver.metrics import Metrics
from imserver.transport.carrier import Carrier
from imserver.transport.connection import OPEN, Connection

SLOTS: Final = 25
"""Steps of a period."""
_BATCH: Final = 500
"""Connections pinged between two turns of the loop."""
_TURN_SECONDS: Final = 0.001
PING_FRAME: Final = b"\x89\x00"


class Pings:
    """Pings the connections of ``pinged`` dialects each ``ping_seconds``, and closes the silent.

    Whoever has shown no sign of life for ``silent_seconds`` is closed at the next look, so up to
    ``ping_seconds`` later. Whatever is read is a sign of life, a pong too.
    """

    def __init__(
        self, carrier: Carrier, metrics: Metrics, ping_seconds: float, silent_seconds: float
    ) -> None:
        self._carrier = carrier
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
            if not number % _BATCH:
                gevent.sleep(_TURN_SECONDS)

    def _in(self, slot: int) -> Iterator[Connection]:
        """Connections in service whose clients are pinged."""
        if not self._carrier.pinged:
            return
        poller = self._carrier.poller
        for fd in range(slot, poller.highest + 1, SLOTS):
            found = poller.at(fd)
            if isinstance(found, Connection) and found.state == OPEN and found.encoding.dialect.pinged:
                yield found
