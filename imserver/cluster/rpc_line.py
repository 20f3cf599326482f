"""The control channel to one peer: questions, capped in flight, with a circuit of their own."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

import zerorpc
import zmq
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.cluster.breaker import Breaker
from imserver.cluster.contract import Lease
from imserver.cluster.forward import ITEM_BYTES, PeerUnavailable, RpcCounters
from imserver.cluster.rpc_curve import Keys
from imserver.cluster.rpc_mailbox import Mailbox
from imserver.cluster.rpc_wire import BUSY, OK, REASONS, ControlClient

PING: Final = ""
"""The question that every node answers by itself."""
CALLS_IN_FLIGHT: Final = 64
"""Questions to one peer at one time; well below the peer's high-water mark, where it would drop answers."""
REDIAL_SECONDS: Final = 10.0
"""A channel that did not work for so long is dialled anew. Nothing is lost by that, as TCP gives up the old
connection earlier; and ZeroMQ itself never dials again where bytes came that broke the protocol."""


class Home(Struct):
    """What all lines of one node have in common. Owner: the RPC."""

    keys: Keys
    counters: RpcCounters
    version: int
    epoch: int = 0
    context: zerorpc.Context = None
    """Made when the RPC starts."""

    def speaks(self, lease: Lease) -> int:
        """The RPC version to speak with a node: the older one's of the two."""
        return min(self.version, lease.version)

    def dial(self, lease: Lease, kind: int, endpoint: str, on_writable: Callable[[], None]) -> Mailbox:
        """A new connection, encrypted. Raises PeerUnavailable. Never switches."""
        mailbox = None
        try:
            mailbox = Mailbox(self.context, kind, on_writable)
            self.keys.dial(mailbox.socket)
            mailbox.connect(endpoint)
        except zmq.ZMQError as error:
            if mailbox is not None:
                mailbox.close()
            raise PeerUnavailable(lease.node, f"cannot dial {endpoint}: {error}") from None
        return mailbox


class ControlLine:
    """Asks one life of another node. Dialled on first use. Owner: the peer."""

    __slots__ = ("_calls", "_client", "_connected", "_dialled_at", "_gone", "_home", "_lease", "breaker")

    def __init__(self, home: Home, lease: Lease) -> None:
        self.breaker = Breaker(3)
        """Whether it answers questions in time."""
        self._home = home
        self._lease = lease
        self._client: ControlClient | None = None
        self._connected = Signal()
        self._dialled_at = 0.0
        self._calls = BoundedSemaphore(CALLS_IN_FLIGHT)
        self._gone = False

    @property
    def dialled(self) -> bool:
        """Whether there is a connection, or one is tried."""
        return self._client is not None

    def ask(self, kind: str, body: bytes, seconds: float) -> bytes:
        """Ask and wait for the answer, at most ``seconds``. Raises PeerUnavailable."""
        node, started = self._lease.node, monotonic()
        if len(body) > ITEM_BYTES:
            raise PeerUnavailable(node, "the question is too large")
        if not self.breaker.allows():
            raise PeerUnavailable(node, "it did not answer lately")
        try:
            code, answer = self.call(kind, body, started + seconds)
        except TimeoutError:
            self.breaker.failed()
            raise PeerUnavailable(node, "no answer in time") from None
        except BaseException as error:
            # Who is killed while it waits says nothing of the peer, but must not remain the probe.
            if isinstance(error, PeerUnavailable) or not self.breaker.closed:
                self.breaker.failed()
            raise
        self._home.counters.call_seconds.observe(monotonic() - started)
        if code == BUSY:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        if code != OK:
            raise PeerUnavailable(node, REASONS[code] if 0 <= code < len(REASONS) else f"code {code}")
        return answer

    def call(self, kind: str, body: bytes, deadline: float) -> tuple[int, bytes]:
        """Ask, whatever the circuit says. Raises TimeoutError or PeerUnavailable."""
        if not self._calls.acquire(timeout=max(0.0, deadline - monotonic())):
            raise TimeoutError
        try:
            # While this waits somebody else may hang up.
            while not (client := self._client or self._dial()).mailbox.writable():
                self._connected.clear()
                if not self._connected.wait(max(0.0, deadline - monotonic())):
                    raise TimeoutError
            left = max(0.001, deadline - monotonic())
            return client.ask(self._home.speaks(self._lease), self._lease.epoch, kind, body, left)
        finally:
            self._calls.release()

    def _dial(self) -> ControlClient:
        if self._gone:
            raise PeerUnavailable(self._lease.node, "its lease is gone")
        mailbox = self._home.dial(self._lease, zmq.DEALER, self._lease.control, self._connected.set)
        self._dialled_at = monotonic()
        self._client = ControlClient(self._home.context, mailbox, self._home.counters)
        return self._client

    def redial(self) -> None:
        """It does not answer: have the next question dial again, unless this connection is a new one."""
        if monotonic() - self._dialled_at > REDIAL_SECONDS:
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection; the next question dials again. Never switches."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """End for good; questions that wait for a connection fail. Never switches."""
        self._gone = True
        self.hang_up()
        self._connected.set()
