"""One other node: its two channels, what waits for it, and whether it is worth trying."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

import zerorpc
import zmq
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from msgspec import Struct

from imserver.cluster.breaker import Breaker
from imserver.cluster.complaint import Complaint
from imserver.cluster.contract import Lease
from imserver.cluster.forward import ITEM_BYTES, Outgoing, PeerUnavailable, RpcCounters
from imserver.cluster.rpc_curve import Keys
from imserver.cluster.rpc_wire import (
    BUSY,
    FAILED,
    HIGH_WATER,
    MESSAGE_BYTES,
    OK,
    REASONS,
    ControlClient,
    DataSender,
    Full,
    Mailbox,
)

log = logging.getLogger(__name__)

PING: Final = ""
"""The question that every node answers by itself."""
CALLS_IN_FLIGHT: Final = 64
"""Questions to one peer at one time; below the high-water mark, so that none is lost there."""
STALL_SECONDS: Final = 1.0
"""A queue that could not move for so long opens the circuit."""
SILENCE_SECONDS: Final = 2.0
"""A peer that got items and was not heard for so long is asked whether it lives."""
REDIAL_SECONDS: Final = 10.0
"""A data channel that could not move for so long is dialled anew. Nothing is lost by that, heartbeats end the
old one earlier; but ZeroMQ itself never dials again where bytes came that broke the protocol."""
IDLE_SECONDS: Final = 60.0
"""Channels not used for so long are hung up: the heartbeats of a mesh of 60 nodes cost 15 % of a core."""
_IDLE_LINGER_MS: Final = 1000
_BATCHES_A_TURN: Final = 8


class Home(Struct):
    """What all peers of one node use. Owner: the RPC."""

    keys: Keys
    counters: RpcCounters
    version: int
    queue_items: int
    queue_bytes: int
    wake: Callable[[Peer], None]
    """Has :meth:`Peer.flush` called soon."""
    epoch: int = 0
    context: zerorpc.Context = None
    """Made when the RPC starts."""


def connecting(socket: zmq.Socket[bytes], keys: Keys, endpoint: str) -> None:
    """Set the options of a socket that dials, and dial."""
    for option, value in (
        (zmq.SNDHWM, HIGH_WATER),
        (zmq.RCVHWM, HIGH_WATER),
        (zmq.LINGER, 0),
        (zmq.IMMEDIATE, 1),
        (zmq.MAXMSGSIZE, MESSAGE_BYTES),
        # The dialling end alone sends heartbeats; what it says of their time makes the other end watch, too.
        (zmq.HEARTBEAT_IVL, 3000),
        (zmq.HEARTBEAT_TIMEOUT, 9000),
        (zmq.HEARTBEAT_TTL, 9000),
        (zmq.CONNECT_TIMEOUT, 3000),
        (zmq.HANDSHAKE_IVL, 5000),
        (zmq.RECONNECT_IVL, 100),
        (zmq.RECONNECT_IVL_MAX, 2000),
        (zmq.IPV6, "[" in endpoint),
    ):
        socket.setsockopt(option, int(value))
    keys.dial(socket)
    socket.connect(endpoint)


class Peer:
    """One life of another node. Dialled on first use. Owner: the RPC."""

    __slots__ = (
        "_blocked_since",
        "_calls",
        "_connected",
        "_control",
        "_due",
        "_gone",
        "_home",
        "_idle_since",
        "_overflow",
        "_sender",
        "_undialled",
        "_unheard_since",
        "_used",
        "asks",
        "lease",
        "link",
        "number",
        "queue",
        "watched",
    )

    def __init__(self, home: Home, lease: Lease, number: int) -> None:
        self.lease = lease
        self.number = number
        """That of the last item handed to ZeroMQ."""
        self.queue = Outgoing(home.queue_items, home.queue_bytes)
        self.link = Breaker(2)
        """Whether the node is there at all; tried by pings, and by a queue that stands still."""
        self.asks = Breaker(3)
        """Whether it answers questions in time."""
        self.watched = False
        """A greenlet of the RPC finds out whether it lives."""
        self._home = home
        self._sender: DataSender | None = None
        self._control: ControlClient | None = None
        self._connected = Signal()
        self._calls = BoundedSemaphore(CALLS_IN_FLIGHT)
        self._due = False
        """The flusher will come, called by us or by ZeroMQ."""
        self._gone = False
        self._blocked_since = 0.0
        """Since when ZeroMQ has taken nothing; 0: it does."""
        self._unheard_since = 0.0
        """When items left that nothing was heard after; 0: there are none."""
        self._used = True
        self._idle_since = 0.0
        self._undialled = Complaint(log, "%s")
        self._overflow = Complaint(log, "the queue to %s is full; events are not forwarded")

    @property
    def version(self) -> int:
        """The RPC version to speak: the older one's of the two."""
        return min(self._home.version, self.lease.version)

    # --- data -----------------------------------------------------------------------------------------------

    def send(self, item: bytes) -> bool:
        """Queue an item. Never switches."""
        if not self.link.closed:
            self._home.counters.refused += 1
            return False
        if not self.queue.add(item):
            self._home.counters.overflows += 1
            self._overflow(self.lease.node)
            return False
        if not self._due:
            self._due = True
            self._home.wake(self)
        return True

    @property
    def waits(self) -> bool:
        """Whether something waits for it that may still be sent."""
        return bool(self.queue.items and self.link.closed)

    def flush(self) -> bool:
        """Hand what waits to ZeroMQ, in batches. True: there is more that would be taken. Never switches."""
        home, queue = self._home, self.queue
        self._due = False
        try:
            sender = self._sender or self._dial_data()
        except PeerUnavailable as error:
            self._undialled(error)
            self._block()
            return False
        for turn in range(_BATCHES_A_TURN):
            if not queue.items:
                break
            size = queue.bytes
            items = queue.take()
            size -= queue.bytes
            try:
                sender.send(self.version, home.epoch, self.lease.epoch, self.number + 1, items)
            except Full:
                queue.put_back(items)
                self._block(moved=turn > 0)
                return False
            self.number += len(items)
            home.counters.sent += len(items)
            home.counters.batches_sent += 1
            home.counters.bytes_sent += size
        self._blocked_since = 0.0
        self._unheard_since = self._unheard_since or monotonic()
        self._used = True
        return bool(queue.items)

    def _block(self, moved: bool = False) -> None:
        # Nobody wakes the flusher for this peer before ZeroMQ says so.
        self._due = True
        if moved or not self._blocked_since:
            self._blocked_since = monotonic()

    def _dial_data(self) -> DataSender:
        mailbox = self._dial(zmq.PUSH, self.lease.data, self._writable)
        self._sender = DataSender(self._home.context, mailbox, self._home.counters)
        return self._sender

    def _writable(self) -> None:
        if self._blocked_since:
            self._home.wake(self)

    # --- questions ------------------------------------------------------------------------------------------

    def ask(self, kind: str, body: bytes, seconds: float) -> bytes:
        """Ask and wait for the answer, at most ``seconds``. Raises PeerUnavailable."""
        node = self.lease.node
        if len(body) > ITEM_BYTES:
            raise PeerUnavailable(node, "the question is too large")
        if not self.link.closed or not self.asks.allows():
            raise PeerUnavailable(node, "it did not answer lately")
        started = monotonic()
        self._used = True
        try:
            code, answer = self._call(kind, body, started + seconds)
        except TimeoutError:
            self._failed(self.asks)
            raise PeerUnavailable(node, "no answer in time") from None
        except BaseException:
            self._failed(self.asks)
            raise
        self._home.counters.call_seconds.observe(monotonic() - started)
        self._unheard_since = 0.0
        if code == BUSY:
            self._failed(self.asks)
        else:
            self.asks.succeeded()
        if code != OK:
            raise PeerUnavailable(node, REASONS[code] if 0 <= code < len(REASONS) else f"code {code}")
        return answer

    def _call(self, kind: str, body: bytes, deadline: float) -> tuple[int, bytes]:
        if not self._calls.acquire(timeout=max(0.0, deadline - monotonic())):
            raise TimeoutError
        try:
            # While this waits somebody else may hang up.
            while not (client := self._control or self._dial_control()).mailbox.writable():
                self._connected.clear()
                if not self._connected.wait(max(0.0, deadline - monotonic())):
                    raise TimeoutError
            left = max(0.001, deadline - monotonic())
            return client.ask(self.version, self.lease.epoch, kind, body, left)
        finally:
            self._calls.release()

    def _dial_control(self) -> ControlClient:
        mailbox = self._dial(zmq.DEALER, self.lease.control, self._connected.set)
        self._control = ControlClient(self._home.context, mailbox, self._home.counters)
        return self._control

    def _dial(self, kind: int, endpoint: str, on_writable: Callable[[], None]) -> Mailbox:
        if self._gone:
            raise PeerUnavailable(self.lease.node, "its lease is gone")
        mailbox = None
        try:
            mailbox = Mailbox(self._home.context, kind, on_writable)
            connecting(mailbox.socket, self._home.keys, endpoint)
        except zmq.ZMQError as error:
            if mailbox is not None:
                mailbox.close()
            raise PeerUnavailable(self.lease.node, f"cannot dial {endpoint}: {error}") from None
        return mailbox

    def _failed(self, breaker: Breaker) -> None:
        was_closed = breaker.closed
        breaker.failed()
        if was_closed and not breaker.closed:
            self._opened()

    def _opened(self) -> None:
        self._home.counters.breaker_opens += 1
        self._unheard_since = self._unheard_since or monotonic() - SILENCE_SECONDS

    # --- is it there? ---------------------------------------------------------------------------------------

    def doubtful(self, now: float) -> bool:
        """Whether somebody should find out if this node lives; hangs up if nobody wants anything of it.

        To be called from time to time while :attr:`dialled`. Never switches.
        """
        if self._used:
            self._used, self._idle_since = False, now
        elif self.dialled and not self.waits and now - self._idle_since > IDLE_SECONDS:
            self._hang_up_data(_IDLE_LINGER_MS)
            self._hang_up_control()
        stalled = self._blocked_since and now - self._blocked_since > STALL_SECONDS
        if stalled and self.link.closed:
            self.link.trip()
            self._opened()
            log.warning("%s takes nothing any more; trying again", self.lease.node)
        unheard = self._unheard_since and now - self._unheard_since > SILENCE_SECONDS
        return bool(stalled or unheard or not self.link.closed)

    @property
    def dialled(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._sender or self._control or not self.link.closed)

    def probe(self, seconds: float) -> bool:
        """Ask whether it lives, see whether its queue moves, and set the circuit by that."""
        try:
            code, _ = self._call(PING, b"", monotonic() + seconds)
        except (TimeoutError, PeerUnavailable):
            code = FAILED
        lives = code == OK and not self._stands_still()
        if lives:
            if not self.link.closed:
                log.warning("%s is back", self.lease.node)
                self.asks.succeeded()
            self.link.succeeded()
            self._unheard_since = 0.0
            if self.queue.items:
                self._home.wake(self)
            return True
        if self.link.closed:
            self._failed(self.link)
            if not self.link.closed:
                log.warning("%s does not answer; trying again", self.lease.node)
        else:
            self.link.failed()
            self._hang_up()
        return False

    def _stands_still(self) -> bool:
        return bool(self._blocked_since and self._sender and not self._sender.mailbox.writable())

    def _hang_up(self) -> None:
        self._hang_up_control()
        if self._stands_still() and monotonic() - self._blocked_since > REDIAL_SECONDS:
            self._hang_up_data(0)
            self._home.wake(self)

    def _hang_up_data(self, linger_ms: int) -> None:
        if self._sender is not None:
            self._sender.mailbox.close(linger_ms)
            self._sender = None

    def _hang_up_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def close(self, linger_ms: int = 0) -> None:
        """Hang up and drop what waits; what ZeroMQ has is still sent within ``linger_ms``. Never waits."""
        self._gone = True
        self._home.counters.dropped += self.queue.clear()
        self._hang_up_data(linger_ms)
        self._hang_up_control()
        self._connected.set()
