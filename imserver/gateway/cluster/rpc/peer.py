"""One peer: its send queue, data and control channels, and circuit breakers.

Items are opaque bytes. The items queued in one loop iteration leave in one
*batch*:

RPC version, sender's epoch, destination's epoch, number of the first item,
items

Numbers count the items from one sender's epoch to one destination's epoch, from
1. So a receiver drops items for its earlier epochs, and knows how many items of
  a lost batch are missing. The channel is one-way: the sender does not learn
  that a batch was lost.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

import gevent
import zerorpc
import zmq
from gevent.event import Event as Flag
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc.counters import PeerBusy, PeerUnavailable, RpcCounters
from imserver.gateway.cluster.rpc.curve import CurveKeys
from imserver.gateway.cluster.rpc.wire import (
    BUSY,
    FAILED,
    OK,
    REASONS,
    Answer,
    ControlClient,
    DataSender,
    SocketFull,
    ZmqSocket,
)
from imserver.gateway.logging import RateLimitedLog
from imserver.gateway.model import Service

log = logging.getLogger(__name__)

SECOND_MS: Final = 1000
"""Milliseconds of a second, in which ZeroMQ counts its times."""
ITEM_BYTES: Final = 1024 * 1024
"""Most bytes of an item. With its batch, an item must stay below the limit of
the receiver (2 MB)."""
BATCH_BYTES: Final = 128 * 1024
BATCH_ITEMS: Final = 256
"""Most items of a batch. A receiver also handles this number of items before it
lets other greenlets run."""
_TURN_BATCHES: Final = 8
"""Limit of the batches that go to one peer before the next peer has its
turn."""
_LINK_FAILURES: Final = 2
"""How many failed pings in a row open the circuit of a node."""
_CONTROL_FAILURES: Final = 3
"""How many failed queries in a row open the circuit of a control channel."""
_MIN_QUERY_SECONDS: Final = 0.001
"""The least time limit of a query that was accepted."""
LATE_SECONDS: Final = 0.1
"""If the end of a ping is noticed this many seconds too late, the ping says
nothing about the peer. The answer may have arrived, but is unread."""


class SendQueue:
    """The items that wait to be sent to one peer, limited in number and bytes.

    Owner: the peer; never switches greenlets.
    """

    def __init__(self, limit_items: int, limit_bytes: int) -> None:
        self.items: deque[bytes] = deque()
        self.bytes = 0
        self._limit_items = limit_items
        self._limit_bytes = limit_bytes

    def add(self, item: bytes) -> bool:
        """Append an item. Returns False if the queue is full or the item is too
        large."""
        size = self.bytes + len(item)
        if size > self._limit_bytes or len(item) > ITEM_BYTES:
            return False
        # Many small items take more memory than their bytes.
        if len(self.items) >= self._limit_items:
            return False
        self.items.append(item)
        self.bytes = size
        return True

    def take(self) -> list[bytes]:
        """Remove and return the items of the next batch, in order.

        The batch has at least one item, unless the queue is empty.
        """
        items = self.items
        # Most queues are small enough for one batch.
        if self.bytes <= BATCH_BYTES and len(items) <= BATCH_ITEMS:
            batch = list(items)
            items.clear()
            self.bytes = 0
            return batch

        batch = [items.popleft()]
        size = len(batch[0])
        while (
            items and len(batch) < BATCH_ITEMS and size + len(items[0]) <= BATCH_BYTES
        ):
            item = items.popleft()
            size += len(item)
            batch.append(item)
        self.bytes -= size
        return batch

    def put_back(self, batch: list[bytes]) -> None:
        """Put the items of the last batch back to the front of the queue."""
        self.items.extendleft(reversed(batch))
        self.bytes += sum(map(len, batch))

    def clear(self) -> int:
        """Drop all items; returns their number."""
        count = len(self.items)
        self.items.clear()
        self.bytes = 0
        return count


class Peer:
    """The connection to one epoch of another node. An epoch is one life of a
    node.

    It has a queue of items to send, a channel for queries, and a circuit that
    stops sending to a node that does not answer. It connects on first use.
    Owner: the RPC.
    """

    def __init__(
        self,
        rpc_context: RpcContext,
        lease: Lease,
        number: int,
        queue: SendQueue,
        wake: Callable[[Peer], None],
    ) -> None:
        """``number`` is the number of the last item sent to the peer, or 0.

        ``wake`` schedules :meth:`flush`.
        """
        self.lease = lease
        self.number = number
        self.queue = queue
        self.control = ControlChannel(rpc_context, lease)
        self.link = Breaker(_LINK_FAILURES)
        """The circuit of the node. Failed pings and a stalled send queue open
        it, so that nothing is sent."""
        self.watcher: gevent.Greenlet[..., None] | None = None
        """Probes the peer while its state is in doubt."""

        self._rpc = rpc_context
        self._wake = wake
        self._sender: DataSender | None = None
        """The data channel; None while it is not connected."""
        self._is_closed = False
        self._due = False
        """Whether a flush is scheduled, by this node or by ZeroMQ."""
        self._connected_at = 0.0
        self.blocked_since = 0.0
        """Time since which ZeroMQ accepts no items; 0 if it accepts items."""
        self._unanswered_since = 0.0
        """Time of the first item that was sent since something was last
        received from the peer; 0 if there is no such item."""
        self._used = True
        """Whether anything was sent since the last :meth:`needs_probe`."""
        self._idle_since = 0.0
        """Time of the last :meth:`needs_probe` that found the peer in use."""
        # At most one line is logged per period.
        self._connect_failed = RateLimitedLog(log, "%s")
        self._overflow = RateLimitedLog(log, "peer %s: send queue full, dropping items")

    # --- data -----------------------------------------------------------------

    def send(self, item: bytes) -> bool:
        """Queue an item. Never switches greenlets.

        Returns False if the item is dropped, because the circuit is open or the
        queue is full.
        """
        if not self.link.admits_calls:
            self._rpc.counters.refused += 1
            return False
        if not self.queue.add(item):
            self._rpc.counters.overflows += 1
            self._overflow(self.lease.node)
            return False
        # The items of one turn of the loop leave in one batch.
        if not self._due:
            self._due = True
            self._wake(self)
        return True

    @property
    def waits(self) -> bool:
        """Whether there are queued items, and they may still be sent."""
        return bool(self.queue.items and self.link.admits_calls)

    def flush(self) -> bool:
        """Pass queued items to ZeroMQ in batches. Never switches greenlets.

        Returns whether items are left that another call can send. If ZeroMQ
        accepts no more items, ZeroMQ schedules the next call.
        """
        queue = self.queue
        rpc_context = self._rpc
        lease = self.lease
        counters = rpc_context.counters
        self._due = False
        try:
            sender = self._sender or self._connect()
        except PeerUnavailable as error:
            self._connect_failed(error)
            self._block()
            return False

        # Only a few batches are sent, so that other peers have their turn.
        for turn in range(_TURN_BATCHES):
            if not queue.items:
                break
            bytes_before = queue.bytes
            items = queue.take()
            try:
                version = min(rpc_context.version, lease.version)
                sender.send(
                    version, rpc_context.epoch, lease.epoch, self.number + 1, items
                )
            except SocketFull:
                queue.put_back(items)
                self._block(moved=turn > 0)
                return False
            self.number += len(items)
            counters.sent += len(items)
            counters.batches_sent += 1
            counters.bytes_sent += bytes_before - queue.bytes

        self.blocked_since = 0.0
        self._unanswered_since = self._unanswered_since or monotonic()
        self._used = True
        return bool(queue.items)

    def _block(self, moved: bool = False) -> None:
        """Wait until ZeroMQ accepts items again.

        ``moved`` means that ZeroMQ has just accepted some items, so the time of
        the blockade begins anew.
        """
        # ZeroMQ wakes the flusher, so send() must not schedule it.
        self._due = True
        if moved or not self.blocked_since:
            self.blocked_since = monotonic()

    def _connect(self) -> DataSender:
        """Connect the data channel. Raises PeerUnavailable."""
        if self._is_closed:
            raise PeerUnavailable(self.lease.node, "its lease is gone")
        zmq_socket = self._rpc.connect_to(
            self.lease, zmq.PUSH, self.lease.data, self._writable
        )
        # A new connection gets more time before it counts as stalled.
        self._connected_at = monotonic()
        self._sender = DataSender(self._rpc.context, zmq_socket, self._rpc.counters)
        return self._sender

    def _writable(self) -> None:
        """Callback: note that ZeroMQ accepts items again."""
        if self.blocked_since:
            self._wake(self)

    # --- questions ------------------------------------------------------------

    def query(
        self, kind: str, body: bytes, seconds: float, slow: bool = False
    ) -> bytes:
        """Query the peer for at most ``seconds``, and return its answer.

        ``slow`` means that the answer waits for a client. Such queries have a
        limit of their own, so that they do not delay other queries. Raises
        PeerUnavailable.
        """
        if not self.link.admits_calls:
            raise PeerUnavailable(self.lease.node, "its circuit is open")
        self._used = True
        breaker = self.control.breaker
        admitted_calls = breaker.admits_calls
        query = self.control.query_slowly if slow else self.control.query
        try:
            answer = query(kind, body, seconds)
        finally:
            # The failure of this query has opened the circuit.
            if admitted_calls and not breaker.admits_calls:
                self._note_open_circuit()
        self._unanswered_since = 0.0
        return answer

    def renew(self, lease: Lease) -> None:
        """Continue with a new epoch of the same process.

        The next items are numbered from 1 again. Never switches greenlets.
        """
        self.lease = lease
        self.control.lease = lease
        self.number = 0

    def _note_open_circuit(self) -> None:
        """Count a circuit that has opened, and let the peer be probed soon."""
        self._rpc.counters.breaker_opens += 1
        # A probe is due when the peer was silent for too long. So this moment
        # counts as the beginning of such a silence.
        if not self._unanswered_since:
            self._unanswered_since = monotonic() - self._rpc.seconds.silence

    # --- state ----------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether there is anything to monitor."""
        return bool(
            self._sender
            or self.blocked_since
            or self.control.connected
            or not self.link.admits_calls
        )

    def needs_probe(self, now: float) -> bool:
        """Whether to probe the peer now. Call this regularly while the peer is
        :attr:`active`.

        This also closes idle channels, and opens the circuit if the send queue
        has stalled.
        """
        seconds = self._rpc.seconds
        if self._used:
            self._used = False
            self._idle_since = now
        elif not self.waits and now - self._idle_since > seconds.idle:
            self._disconnect_idle()

        has_stalled = self._has_stalled(now)
        if has_stalled and self.link.admits_calls:
            self._trip()
        if has_stalled or not self.link.admits_calls:
            return True

        # The data channel is one-way, so the peer may have ended without
        # notice.
        since = self._unanswered_since
        return bool(since) and now - since > seconds.silence

    def _disconnect_idle(self) -> None:
        """Close the channels, because nothing was sent for a while."""
        linger_seconds = self._rpc.seconds.idle_linger
        self._disconnect_data(round(SECOND_MS * linger_seconds))
        self.control.disconnect()

    def _trip(self) -> None:
        """Open the circuit of the node, because its send queue has stalled."""
        self.link.trip()
        self._note_open_circuit()
        log.warning(
            "peer %s: send queue stalled, circuit open, retrying", self.lease.node
        )

    def _has_stalled(self, now: float) -> bool:
        """Whether ZeroMQ has accepted no items for too long.

        A new connection has more time.
        """
        if not self.blocked_since:
            return False
        seconds = self._rpc.seconds
        stall_ends = self.blocked_since + seconds.stall
        connect_ends = self._connected_at + seconds.connect
        if now <= max(stall_ends, connect_ends):
            return False
        # If only this loop was late, ZeroMQ accepts items again now.
        return self._sender is None or self._is_blocked()

    def probe(self, seconds: float) -> bool:
        """Ping the peer, for at most ``seconds``, and set the circuit of the
        node by the result.

        Returns whether the peer has answered and its send queue moves.
        """
        deadline = monotonic() + seconds
        try:
            code, _ = self.control.call(PING, b"", deadline)
        except (TimeoutError, PeerUnavailable):
            code = FAILED
        except BaseException:
            if not self.link.admits_calls:
                self.link.failed()  # else the circuit waits for ever
            raise
        if code == OK and not self._is_blocked():
            self._note_answer()
            return True

        if not self.link.admits_calls:
            self.link.failed()
            self._reconnect()
        elif monotonic() <= deadline + LATE_SECONDS:
            self._note_silence()
        # If this loop was late, the answer may have arrived, but is unread.
        # Then the failed ping does not count.
        return False

    def _reconnect(self) -> None:
        """Connect channels again that have not worked for a long time."""
        self.control.reconnect()
        reconnect_seconds = self._rpc.seconds.reconnect
        is_new = monotonic() - self._connected_at <= reconnect_seconds
        if self._is_blocked() and not is_new:
            # The next flush connects again.
            self._disconnect_data(linger_ms=0)
            self._wake(self)

    def _note_silence(self) -> None:
        """Count a ping without an answer, which may open the circuit."""
        self.link.failed()
        if not self.link.admits_calls:
            self._note_open_circuit()
            log.warning(
                "peer %s: no answer to ping, circuit open, retrying",
                self.lease.node,
            )

    def _note_answer(self) -> None:
        """Close the circuits, because the peer has answered a probe, and send
        its queued items."""
        if not self.link.admits_calls:
            log.warning("peer %s: available again", self.lease.node)
            self.control.breaker.succeeded()
        self.link.succeeded()
        self._unanswered_since = 0.0
        if self.queue.items:
            self._wake(self)

    def _is_blocked(self) -> bool:
        """Whether ZeroMQ still accepts no items."""
        if not self.blocked_since or self._sender is None:
            return False
        return not self._sender.zmq_socket.writable()

    def _disconnect_data(self, linger_ms: int) -> None:
        """Close the data channel, if it is connected. ZeroMQ still sends its
        items within ``linger_ms``."""
        if self._sender is not None:
            self._sender.zmq_socket.close(linger_ms)
            self._sender = None

    def close(self, linger_ms: int = 0) -> None:
        """Disconnect for good, and drop the queued items.

        ZeroMQ may still send the items that it has accepted, within
        ``linger_ms``. Never waits.
        """
        self._is_closed = True
        if self.watcher is not None:
            self.watcher.kill(block=False)
        self._rpc.counters.dropped += self.queue.clear()
        self._disconnect_data(linger_ms)
        self.control.close()


PING: Final = ""
"""The query that every node answers by itself."""
CALLS_IN_FLIGHT: Final = 64
"""Most parallel queries to one peer. The number is well below the high-water
mark of the peer, above which it would drop answers."""
SLOW_CALLS_IN_FLIGHT: Final = 32
"""Most parallel queries to one peer with answers that wait for clients."""


class RpcSeconds(Struct, frozen=True):
    """The times of the RPC, in seconds."""

    stall: float = 1.0
    """A send queue without progress for this long opens the circuit."""
    connect: float = 5.0
    """A send queue waits this long for a new connection. When nodes start
    together, each connects to all others. 56 nodes make 3,080 encrypted
    connections, and the last connections are ready after some seconds."""
    silence: float = 2.0
    """A peer that received items and sent nothing for this long is probed."""
    idle: float = 60.0
    """Unused channels are closed after this time, because a cluster of 60 nodes
    has 7,000 channels."""
    idle_linger: float = 1.0
    """How long ZeroMQ still sends the items of an unused channel."""
    reconnect: float = 10.0
    """A channel that did not work for this long is opened again. This is needed
    because ZeroMQ never reconnects after a protocol error. Nothing is lost,
    because TCP gives up earlier."""
    watch: float = 0.5
    """The time between two checks of the peers in use."""
    probe: float = 1.0
    """A probe waits this long for an answer."""
    stop: float = 2.0
    """A node that stops waits this long until its queues are sent."""
    stop_linger: float = 1.0
    """How long ZeroMQ still sends its items after a node has stopped."""


SECONDS: Final = RpcSeconds()
"""The times of every node."""


class RpcContext(Struct):
    """The state that all channels of one node share. Owner: the RPC."""

    own_keys: CurveKeys
    accepted: Mapping[str, CurveKeys]
    """Fingerprint of each secret that this node accepts → its keys."""
    counters: RpcCounters
    version: int
    seconds: RpcSeconds
    epoch: int = 0
    context: zerorpc.Context = None
    """The context of ZeroMQ, which is created when the RPC starts."""

    def connect_to(
        self, lease: Lease, kind: int, endpoint: str, on_writable: Callable[[], None]
    ) -> ZmqSocket:
        """Make an encrypted connection to the node of ``lease``.

        ``kind`` is the type of ZeroMQ's socket, and ``endpoint`` has the form
        ``tcp://ip:port``. ``on_writable`` is called when the connection accepts
        messages. Raises PeerUnavailable. Never switches greenlets.
        """
        zmq_socket = None
        try:
            zmq_socket = ZmqSocket(self.context, kind, on_writable)
            # The node may have another of the accepted secrets.
            keys = self.accepted.get(lease.fingerprint, self.own_keys)
            keys.connect_to(zmq_socket.socket)
            zmq_socket.connect(endpoint)
        except zmq.ZMQError as error:
            if zmq_socket is not None:
                zmq_socket.close()
            raise PeerUnavailable(
                lease.node, f"cannot dial {endpoint}: {error}"
            ) from None
        return zmq_socket


class ControlChannel:
    """Queries one epoch of another node. It connects on first use. Owner: the
    peer."""

    def __init__(self, rpc_context: RpcContext, lease: Lease) -> None:
        """Prepare the channel, without connecting."""
        self.breaker = Breaker(_CONTROL_FAILURES)
        """The circuit breaker, which knows whether the peer answers queries in
        time."""
        self._rpc = rpc_context
        self.lease = lease
        self._client: ControlClient | None = None
        """The connection; None while it is not connected."""
        self._connected = Flag()
        """A flag that is set when the connection accepts queries, and when the
        channel is closed."""
        self._connected_at = 0.0
        self._calls = BoundedSemaphore(CALLS_IN_FLIGHT)
        self._slow_calls = BoundedSemaphore(SLOW_CALLS_IN_FLIGHT)
        self._is_closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection or an attempt."""
        return self._client is not None

    def query(self, kind: str, body: bytes, seconds: float) -> bytes:
        """Query the peer, and return its answer.

        Waits at most ``seconds`` for a free place among the parallel queries
        and for the answer. Raises PeerUnavailable.
        """
        node = self.lease.node
        started = monotonic()
        if len(body) > ITEM_BYTES:
            raise PeerUnavailable(node, "the query is too large")
        if not self.breaker.allows():
            raise PeerUnavailable(node, "its control circuit is open")

        # From here on this query may be the probe of the circuit breaker. So
        # the outcome must be reported in every case.
        try:
            code, answer = self._call_in_turn(kind, body, started, seconds)
        except TimeoutError:
            self.breaker.failed()
            raise PeerUnavailable(node, "no answer in time") from None
        except BaseException as error:
            # If the caller was killed, that says nothing about the peer. But
            # the query must not remain the probe.
            if isinstance(error, PeerUnavailable) or not self.breaker.admits_calls:
                self.breaker.failed()
            raise

        self._rpc.counters.call_seconds.observe(monotonic() - started)
        if code == BUSY:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        return self._checked(code, answer)

    def _call_in_turn(
        self, kind: str, body: bytes, started: float, seconds: float
    ) -> Answer:
        """Query the peer once there is a free place among the parallel queries.

        Raises TimeoutError ``seconds`` after the query was ``started``.
        """
        if not self._calls.acquire(timeout=max(0.0, seconds)):
            raise TimeoutError
        try:
            return self.call(kind, body, started + seconds)
        finally:
            self._calls.release()

    def query_slowly(self, kind: str, body: bytes, seconds: float) -> bytes:
        """Query a peer whose answer waits for a client.

        Waits at most ``seconds`` for its turn, and then at most as long for the
        answer. Such queries have a limit of their own, so that they never delay
        other queries. Their failures do not open the circuit. Raises
        PeerUnavailable; PeerBusy if they have no turn within ``seconds``.
        """
        node = self.lease.node
        if not self.breaker.admits_calls:
            raise PeerUnavailable(node, "its control circuit is open")
        if not self._slow_calls.acquire(timeout=seconds):
            raise PeerBusy(node, "too many queries wait for clients")
        # The time for the answer begins only now.
        try:
            code, answer = self.call(kind, body, monotonic() + seconds)
        except TimeoutError:
            raise PeerUnavailable(node, "no answer in time") from None
        finally:
            self._slow_calls.release()
        if code == BUSY:
            raise PeerBusy(node, REASONS[BUSY])
        return self._checked(code, answer)

    def _checked(self, code: int, answer: bytes) -> bytes:
        """Return the body of an answer if its code is OK.

        Otherwise raises PeerUnavailable with the meaning of the code.
        """
        if code == OK:
            return answer
        reason = f"code {code}"  # a later version may have other codes
        if 0 <= code < len(REASONS):
            reason = REASONS[code]
        raise PeerUnavailable(self.lease.node, reason)

    def call(self, kind: str, body: bytes, deadline: float) -> tuple[int, bytes]:
        """Query the peer regardless of the circuit and the limits.

        Returns the code and the body of its answer. Raises TimeoutError after
        the ``deadline``, or PeerUnavailable.
        """
        while True:
            # Another greenlet may disconnect during the wait. So each round
            # takes the current connection.
            client = self._client or self._connect()
            if client.zmq_socket.writable():
                break
            self._connected.clear()
            if not self._connected.wait(max(0.0, deadline - monotonic())):
                raise TimeoutError
        seconds = max(_MIN_QUERY_SECONDS, deadline - monotonic())
        version = min(self._rpc.version, self.lease.version)
        return client.query(version, self.lease.epoch, kind, body, seconds)

    def _connect(self) -> ControlClient:
        """Connect the control channel. Raises PeerUnavailable."""
        if self._is_closed:
            raise PeerUnavailable(self.lease.node, "its lease is gone")
        zmq_socket = self._rpc.connect_to(
            self.lease, zmq.DEALER, self.lease.control, self._connected.set
        )
        # A connection that is old and does not work is made anew.
        self._connected_at = monotonic()
        self._client = ControlClient(self._rpc.context, zmq_socket, self._rpc.counters)
        return self._client

    def reconnect(self) -> None:
        """Let the next query connect again, unless this connection is new."""
        if monotonic() - self._connected_at > self._rpc.seconds.reconnect:
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection; the next query connects again. Never
        switches greenlets."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """Close permanently. Queries that wait for a connection fail. Never
        switches greenlets."""
        self._is_closed = True
        self.disconnect()
        self._connected.set()


BASE_SECONDS: Final = 0.2
"""The longest wait after the first failure."""
CAP_SECONDS: Final = 5.0
"""The longest wait after any number of failures."""
_MAX_DOUBLINGS: Final = 30
"""Limit of the exponent, which keeps the power of two small. The wait reaches
:data:`CAP_SECONDS` long before."""


class Breaker(Service):
    """A circuit breaker: stops calls to a node that does not answer.

    All calls pass until ``threshold`` failures in a row open the circuit. While
    the circuit is open, one call at a time may pass as a probe. The circuit
    closes when a probe succeeds.

    After the n-th failed probe, the next probe waits a random time between 0
    and ``base_seconds`` · 2ⁿ, at most :data:`CAP_SECONDS`. The time is random
    so that nodes that have lost a peer do not all return at once. Never
    switches greenlets.
    """

    threshold: int
    base_seconds: float = BASE_SECONDS
    clock: Callable[[], float] = monotonic
    uniform: Callable[[float, float], float] = random.uniform
    admits_calls: bool = True
    """Whether calls may pass. Code that runs very often reads this attribute;
    :meth:`allows` also admits the probe."""
    _failures: int = 0
    """Failures in a row while calls may pass."""
    _probes: int = 0
    """How many times the breaker has begun to wait for a probe since the last
    success."""
    _probing: bool = False
    """Whether a probe is under way."""
    _retry_at: float = 0.0
    """Time of ``clock`` from which the next probe may start."""

    def allows(self) -> bool:
        """Whether the caller may make its call.

        While the circuit is open, this lets one caller pass as the probe. This
        caller must report by :meth:`succeeded` or :meth:`failed` in any case.
        """
        if self.admits_calls:
            return True
        if self._probing or self.clock() < self._retry_at:
            return False
        self._probing = True
        return True

    @property
    def wait_seconds(self) -> float:
        """Seconds until the next probe; 0 if it may start now, or if calls
        may pass."""
        if self.admits_calls:
            return 0.0
        return max(0.0, self._retry_at - self.clock())

    def succeeded(self) -> None:
        """Record that a call or the probe was answered."""
        self.admits_calls = True
        self._failures = 0
        self._probes = 0
        self._probing = False

    def failed(self) -> None:
        """Record that a call or the probe was not answered.

        Late failures of earlier calls change nothing.
        """
        if self.admits_calls:
            self._failures += 1
            if self._failures >= self.threshold:
                self.trip()
        elif self._probing:
            self._probing = False
            self._wait()

    def trip(self) -> None:
        """Open the circuit at once."""
        if self.admits_calls:
            self.admits_calls = False
            self._wait()

    def _wait(self) -> None:
        """Choose the time of the next probe."""
        doublings = min(self._probes, _MAX_DOUBLINGS)
        limit = min(CAP_SECONDS, self.base_seconds * 2**doublings)
        self._probes += 1
        # The time is random, so that the nodes do not all probe a peer at once.
        self._retry_at = self.clock() + self.uniform(0.0, limit)
