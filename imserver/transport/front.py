"""The front door: what its HTTP connections share, and the adoption of upgraded sockets.

Where a request goes is decided as soon as its head is read (``transport.http``).
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from imserver import errors
from imserver.metrics import Metrics
from imserver.transport.body import BodyLimit, Streamed
from imserver.transport.carrier import Carrier
from imserver.transport.connection import OPEN, Connection
from imserver.transport.exchange import HttpRoutes
from imserver.transport.gate import Admission, Gate, host_of
from imserver.transport.handover import HandOver
from imserver.transport.http import HttpConnection
from imserver.transport.http_peer import HttpPeer
from imserver.transport.known_heads import KnownHeads
from imserver.transport.stream import Streams

log = logging.getLogger(__name__)


class Front:
    """What all HTTP connections of the front share. Owner of the set of parked ones.

    ``fast`` are the routes that are answered here, ``routes`` all those that refuse in a style of their own.
    """

    def __init__(
        self,
        carrier: Carrier,
        gate: Gate,
        routes: HttpRoutes,
        fast: HttpRoutes,
        body_limit: BodyLimit,
        hand_over: HandOver,
        metrics: Metrics,
        header_bytes: int,
        body_bytes: int,
        handshake_seconds: float,
        keepalive_seconds: float,
        request_log: Callable[..., None] | None,
        admitted: Callable[[_socket.socket, Admission, bytes], None],
        ws_dialect: str = "",
        streams: Streams | None = None,
        streamed: Streamed = frozenset(),
    ) -> None:
        self.streamed = streamed
        self.carrier = carrier
        self.gate = gate
        self.origins = gate.origins
        self.routes = routes
        self.fast = fast
        self.body_limit = body_limit
        self.hand_over = hand_over
        self.metrics = metrics
        self.header_bytes = header_bytes
        self.body_bytes = body_bytes
        self.handshake_seconds = handshake_seconds
        self.keepalive_seconds = keepalive_seconds
        self.request_log = request_log
        self.admitted = admitted
        self.ws_dialect = ws_dialect
        self.streams = streams
        self.heads = KnownHeads()
        self.parked: set[HttpPeer] = set()
        self.draining = False

    def accept(self, sock: _socket.socket, address: Any) -> None:
        """Park a new connection (a listener's ``accepted``)."""
        self.park(HttpConnection(self, sock, address))

    def park(self, connection: HttpPeer) -> None:
        """Wait for the next request on ``connection``."""
        self.parked.add(connection)
        self.carrier.poller.take(connection)

    def expire(self) -> None:
        """Close what has waited too long: unfinished heads, unfinished bodies, silent kept-alive ones."""
        now = monotonic()
        for connection in tuple(self.parked):
            if now > connection.deadline and not connection.reading:
                connection.expire()

    def drain(self) -> None:
        """Serve what has arrived already, end the connections that wait for a next request.

        Those that have just been accepted and not served yet may still bring one; :attr:`busy` counts them.
        """
        self.draining = True
        for connection in tuple(self.parked):
            connection.look_once_more()

    @property
    def busy(self) -> bool:
        """True while a request is unfinished, or may be on its way on a connection without one so far."""
        return self.hand_over.busy or any(connection.unfinished for connection in self.parked)


def adopt(
    carrier: Carrier, gate: Gate, sock: _socket.socket, admission: Admission, rest: bytes
) -> Connection:
    """Make a parked WebSocket of a socket whose 101 is on its way, and serve what was read behind it.

    Used by both doors. The socket must be non-blocking; the poller may know it already.
    """
    connection = Connection(carrier, sock, admission.peer, admission.encoding, monotonic())
    connection.origin = admission.origin
    gate.entered(host_of(admission.peer))
    carrier.poller.take(connection)
    if admission.close_code:
        connection.close(admission.close_code, errors.CLOSE[admission.close_code].name)
    elif rest or admission.opened is not None:
        connection.reading = True
        try:
            if admission.opened is not None:
                assert admission.head is not None
                admission.opened(connection, admission.head)
            if rest and connection.state == OPEN:
                connection.feed(rest)
        except Exception:
            log.exception("serving failed", extra={"connection": connection.peer})
            connection.lost()
        finally:
            connection.reading = False
            if connection.masked:
                carrier.poller.unmask(connection)
    return connection
