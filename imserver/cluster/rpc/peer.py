"""One other node: what waits for it, the data channel to it, and whether it lives."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent
import zerorpc
import zmq
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.cluster.registry import Lease
from imserver.cluster.rpc.curve import CurveKeys
from imserver.cluster.rpc.queues import ITEM_BYTES, PeerUnavailable, RpcCounters, SendQueue
from imserver.cluster.rpc.wire import (
    BUSY,
    FAILED,
    OK,
    REASONS,
    ControlClient,
    DataSender,
    SocketFull,
    ZmqSocket,
)
from imserver.log_lines import RateLimitedLog

log = logging.getLogger(__name__)

STALL_SECONDS: Final = 1.0
"""A queue that could not move for so long opens the circuit."""
SILENCE_SECONDS: Final = 2.0
"""A peer that got items and was not heard for so long is asked whether it lives."""
IDLE_SECONDS: Final = 60.0
"""Channels not used for so long are hung up: a mesh of 60 nodes has 7,000 of them."""
_IDLE_LINGER_MS: Final = 1000
_BATCHES_A_TURN: Final = 8


class Peer:
    """One life of another node. Dialled on first use. Owner: the RPC."""

    __slots__ = (
        "_blocked_since",
        "_connect_failed",
        "_connected_at",
        "_due",
        "_gone",
        "_idle_since",
        "_overflow",
        "_rpc",
        "_sender",
        "_unheard_since",
        "_used",
        "_wake",
        "control",
        "lease",
        "link",
        "number",
        "queue",
        "watcher",
    )

    def __init__(
        self,
        rpc_context: RpcContext,
        lease: Lease,
        number: int,
        queue: SendQueue,
        wake: Callable[[Peer], None],
    ) -> None:
        """``number`` is that of the last item sent there; ``wake`` has :meth:`flush` called soon."""
        self.lease = lease
        self.number = number
        self.queue = queue
        self.control = ControlChannel(rpc_context, lease)
        self.link = Breaker(2)
        """Whether the node is there at all; tried by pings, and by a queue that stands still."""
        self.watcher: gevent.Greenlet[..., None] | None = None
        """Finds out whether it lives, while that is in doubt."""
        self._rpc = rpc_context
        self._wake = wake
        self._sender: DataSender | None = None
        self._gone = False
        self._due = False
        """The flusher will come, called by us or by ZeroMQ."""
        self._connected_at = 0.0
        self._blocked_since = 0.0
        """Since when ZeroMQ has taken nothing; 0: it does."""
        self._unheard_since = 0.0
        """When items left that nothing was heard after; 0: there are none."""
        self._used = True
        self._idle_since = 0.0
        self._connect_failed = RateLimitedLog(log, "%s")
        self._overflow = RateLimitedLog(log, "the queue to %s is full; events are not forwarded")

    # --- data -----------------------------------------------------------------------------------------------

    def send(self, item: bytes) -> bool:
        """Queue an item. Never switches."""
        if not self.link.closed:
            self._rpc.counters.refused += 1
            return False
        if not self.queue.add(item):
            self._rpc.counters.overflows += 1
            self._overflow(self.lease.node)
            return False
        if not self._due:
            self._due = True
            self._wake(self)
        return True

    @property
    def waits(self) -> bool:
        """Whether something waits for it that may still be sent."""
        return bool(self.queue.items and self.link.closed)

    def flush(self) -> bool:
        """Hand what waits to ZeroMQ, in batches. True: there is more that would be taken. Never switches."""
        queue = self.queue
        self._due = False
        try:
            sender = self._sender or self._connect()
        except PeerUnavailable as error:
            self._connect_failed(error)
            self._block()
            return False
        for turn in range(_BATCHES_A_TURN):
            if not queue.items:
                break
            before = queue.bytes
            items = queue.take()
            try:
                self._send_batch(sender, items, before - queue.bytes)
            except SocketFull:
                queue.put_back(items)
                self._block(moved=turn > 0)
                return False
        self._blocked_since = 0.0
        self._unheard_since = self._unheard_since or monotonic()
        self._used = True
        return bool(queue.items)

    def _send_batch(self, sender: DataSender, items: list[bytes], size: int) -> None:
        rpc_context, lease = self._rpc, self.lease
        sender.send(rpc_context.version_for(lease), rpc_context.epoch, lease.epoch, self.number + 1, items)
        self.number += len(items)
        rpc_context.counters.sent += len(items)
        rpc_context.counters.batches_sent += 1
        rpc_context.counters.bytes_sent += size

    def _block(self, moved: bool = False) -> None:
        # Nobody wakes the flusher for this peer before ZeroMQ says so.
        self._due = True
        if moved or not self._blocked_since:
            self._blocked_since = monotonic()

    def _connect(self) -> DataSender:
        if self._gone:
            raise PeerUnavailable(self.lease.node, "its lease is gone")
        zmq_socket = self._rpc.connect_to(self.lease, zmq.PUSH, self.lease.data, self._writable)
        self._connected_at = monotonic()
        self._sender = DataSender(self._rpc.context, zmq_socket, self._rpc.counters)
        return self._sender

    def _writable(self) -> None:
        if self._blocked_since:
            self._wake(self)

    # --- questions ------------------------------------------------------------------------------------------

    def query(self, kind: str, body: bytes, seconds: float) -> bytes:
        """Ask and wait for the answer, at most ``seconds``. Raises PeerUnavailable."""
        if not self.link.closed:
            raise PeerUnavailable(self.lease.node, "it does not answer")
        self._used = True
        breaker = self.control.breaker
        was_closed = breaker.closed
        try:
            answer = self.control.query(kind, body, seconds)
        finally:
            if was_closed and not breaker.closed:
                self._opened()
        self._unheard_since = 0.0
        return answer

    def _opened(self) -> None:
        self._rpc.counters.breaker_opens += 1
        # Is it only slow, or gone? Find out soon.
        self._unheard_since = self._unheard_since or monotonic() - SILENCE_SECONDS

    # --- is it there? ---------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._sender or self._blocked_since or self.control.connected or not self.link.closed)

    def needs_probe(self, now: float) -> bool:
        """Whether somebody should find out if this node lives; hangs up if nobody wants anything of it.

        To be called from time to time while :attr:`active`. Never switches.
        """
        if self._used:
            self._used, self._idle_since = False, now
        elif not self.waits and now - self._idle_since > IDLE_SECONDS:
            self._disconnect_data(_IDLE_LINGER_MS)
            self.control.disconnect()
        stalled = self._blocked_since and now - self._blocked_since > STALL_SECONDS
        if stalled and self.link.closed:
            self.link.trip()
            self._opened()
            log.warning("%s takes nothing any more; trying again", self.lease.node)
        unheard = self._unheard_since and now - self._unheard_since > SILENCE_SECONDS
        return bool(stalled or unheard or not self.link.closed)

    def probe(self, seconds: float) -> bool:
        """Ask whether it lives, see whether its queue moves, and set the circuit by that."""
        try:
            code, _ = self.control.call(PING, b"", monotonic() + seconds)
        except (TimeoutError, PeerUnavailable):
            code = FAILED
        if code == OK and not self._is_stalled():
            self._alive()
            return True
        if self.link.closed:
            self.link.failed()
            if not self.link.closed:
                self._opened()
                log.warning("%s does not answer; trying again", self.lease.node)
        else:
            self.link.failed()
            self._reconnect()
        return False

    def _alive(self) -> None:
        if not self.link.closed:
            log.warning("%s is back", self.lease.node)
            self.control.breaker.succeeded()
        self.link.succeeded()
        self._unheard_since = 0.0
        if self.queue.items:
            self._wake(self)

    def _is_stalled(self) -> bool:
        return bool(self._blocked_since and self._sender and not self._sender.zmq_socket.writable())

    def _reconnect(self) -> None:
        self.control.reconnect()
        if self._is_stalled() and monotonic() - self._connected_at > RECONNECT_SECONDS:
            self._disconnect_data(0)
            self._wake(self)

    def _disconnect_data(self, linger_ms: int) -> None:
        if self._sender is not None:
            self._sender.zmq_socket.close(linger_ms)
            self._sender = None

    def close(self, linger_ms: int = 0) -> None:
        """Hang up and drop what waits; what ZeroMQ has is still sent within ``linger_ms``. Never waits."""
        self._gone = True
        if self.watcher is not None:
            self.watcher.kill(block=False)
        self._rpc.counters.dropped += self.queue.clear()
        self._disconnect_data(linger_ms)
        self.control.close()


PING: Final = ""
"""The question that every node answers by itself."""
CALLS_IN_FLIGHT: Final = 64
"""Questions to one peer at one time; well below the peer's high-water mark, where it would drop answers."""
RECONNECT_SECONDS: Final = 10.0
"""A channel that did not work for so long is dialled anew. Nothing is lost by that, as TCP gives up the old
connection earlier; and ZeroMQ itself never dials again where bytes came that broke the protocol."""


class RpcContext(Struct):
    """What all lines of one node have in common. Owner: the RPC."""

    keys: CurveKeys
    counters: RpcCounters
    version: int
    epoch: int = 0
    context: zerorpc.Context = None
    """Made when the RPC starts."""

    def version_for(self, lease: Lease) -> int:
        """The RPC version to speak with a node: the older one's of the two."""
        return min(self.version, lease.version)

    def connect_to(
        self, lease: Lease, kind: int, endpoint: str, on_writable: Callable[[], None]
    ) -> ZmqSocket:
        """A new connection, encrypted. Raises PeerUnavailable. Never switches."""
        zmq_socket = None
        try:
            zmq_socket = ZmqSocket(self.context, kind, on_writable)
            self.keys.connect_to(zmq_socket.socket)
            zmq_socket.connect(endpoint)
        except zmq.ZMQError as error:
            if zmq_socket is not None:
                zmq_socket.close()
            raise PeerUnavailable(lease.node, f"cannot dial {endpoint}: {error}") from None
        return zmq_socket


class ControlChannel:
    """Asks one life of another node. Dialled on first use. Owner: the peer."""

    __slots__ = ("_calls", "_client", "_connected", "_connected_at", "_gone", "_lease", "_rpc", "breaker")

    def __init__(self, rpc_context: RpcContext, lease: Lease) -> None:
        self.breaker = Breaker(3)
        """Whether it answers questions in time."""
        self._rpc = rpc_context
        self._lease = lease
        self._client: ControlClient | None = None
        self._connected = Signal()
        self._connected_at = 0.0
        self._calls = BoundedSemaphore(CALLS_IN_FLIGHT)
        self._gone = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection, or one is tried."""
        return self._client is not None

    def query(self, kind: str, body: bytes, seconds: float) -> bytes:
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
        self._rpc.counters.call_seconds.observe(monotonic() - started)
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
            while not (client := self._client or self._connect()).zmq_socket.writable():
                self._connected.clear()
                if not self._connected.wait(max(0.0, deadline - monotonic())):
                    raise TimeoutError
            left = max(0.001, deadline - monotonic())
            return client.query(self._rpc.version_for(self._lease), self._lease.epoch, kind, body, left)
        finally:
            self._calls.release()

    def _connect(self) -> ControlClient:
        if self._gone:
            raise PeerUnavailable(self._lease.node, "its lease is gone")
        zmq_socket = self._rpc.connect_to(self._lease, zmq.DEALER, self._lease.control, self._connected.set)
        self._connected_at = monotonic()
        self._client = ControlClient(self._rpc.context, zmq_socket, self._rpc.counters)
        return self._client

    def reconnect(self) -> None:
        """It does not answer: have the next question dial again, unless this connection is a new one."""
        if monotonic() - self._connected_at > RECONNECT_SECONDS:
            self.disconnect()

    def disconnect(self) -> None:
        """End the connection; the next question dials again. Never switches."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """End for good; questions that wait for a connection fail. Never switches."""
        self._gone = True
        self.disconnect()
        self._connected.set()


BASE_SECONDS: Final = 0.2
CAP_SECONDS: Final = 5.0


class Breaker:
    """Closed until ``threshold`` failures in a row open it; half open while one probe is under way.

    After the n-th vain probe the next one waits a random time between 0 and ``base_seconds`` · 2ⁿ, at most
    ``cap_seconds`` ("full jitter": nodes that lost the same peer do not all come back at the same moment).
    Owner: whoever calls; never switches.
    """

    __slots__ = (
        "_base",
        "_cap",
        "_clock",
        "_failures",
        "_probes",
        "_probing",
        "_random",
        "_retry_at",
        "_threshold",
        "closed",
        "opens",
    )

    def __init__(
        self,
        threshold: int,
        *,
        base_seconds: float = BASE_SECONDS,
        cap_seconds: float = CAP_SECONDS,
        clock: Callable[[], float] = monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.closed = True
        """Whether calls may pass. For hot paths; :meth:`allows` is for calls that may serve as the probe."""
        self.opens = 0
        """How often it opened, vain probes not counted."""
        self._threshold = threshold
        self._base = base_seconds
        self._cap = cap_seconds
        self._clock = clock
        self._random = uniform
        self._failures = 0
        self._probes = 0
        self._probing = False
        self._retry_at = 0.0

    def allows(self) -> bool:
        """Whether the caller may go on.

        While the breaker is not closed, the one caller that may is the probe: it must report by
        :meth:`succeeded` or :meth:`failed`, whatever happens.
        """
        if self.closed:
            return True
        if self._probing or self._clock() < self._retry_at:
            return False
        self._probing = True
        return True

    @property
    def wait_seconds(self) -> float:
        """How long until the next probe may start; 0 if it may now, or if the breaker is closed."""
        return 0.0 if self.closed else max(0.0, self._retry_at - self._clock())

    def succeeded(self) -> None:
        """A call, or the probe, was answered."""
        self.closed = True
        self._failures = self._probes = 0
        self._probing = False

    def failed(self) -> None:
        """A call, or the probe, was not answered. Stragglers from before it opened change nothing."""
        if self.closed:
            self._failures += 1
            if self._failures >= self._threshold:
                self.trip()
        elif self._probing:
            self._probing = False
            self._wait()

    def trip(self) -> None:
        """Open at once, however few failures there were."""
        if self.closed:
            self.closed = False
            self.opens += 1
            self._wait()

    def _wait(self) -> None:
        limit = min(self._cap, self._base * 2 ** min(self._probes, 30))
        self._probes += 1
        self._retry_at = self._clock() + self._random(0.0, limit)
