"""One other node: what waits for it, the data channel to it, and whether it lives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent
import zmq

from imserver.cluster import rpc_line
from imserver.cluster.breaker import Breaker
from imserver.cluster.complaint import Complaint
from imserver.cluster.contract import Lease
from imserver.cluster.forward import Outgoing, PeerUnavailable
from imserver.cluster.rpc_line import PING, ControlLine, Home
from imserver.cluster.rpc_mailbox import Full
from imserver.cluster.rpc_wire import FAILED, OK, DataSender

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
        "_dialled_at",
        "_due",
        "_gone",
        "_home",
        "_idle_since",
        "_overflow",
        "_sender",
        "_undialled",
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
        self, home: Home, lease: Lease, number: int, queue: Outgoing, wake: Callable[[Peer], None]
    ) -> None:
        """``number`` is that of the last item sent there; ``wake`` has :meth:`flush` called soon."""
        self.lease = lease
        self.number = number
        self.queue = queue
        self.control = ControlLine(home, lease)
        self.link = Breaker(2)
        """Whether the node is there at all; tried by pings, and by a queue that stands still."""
        self.watcher: gevent.Greenlet[..., None] | None = None
        """Finds out whether it lives, while that is in doubt."""
        self._home = home
        self._wake = wake
        self._sender: DataSender | None = None
        self._gone = False
        self._due = False
        """The flusher will come, called by us or by ZeroMQ."""
        self._dialled_at = 0.0
        self._blocked_since = 0.0
        """Since when ZeroMQ has taken nothing; 0: it does."""
        self._unheard_since = 0.0
        """When items left that nothing was heard after; 0: there are none."""
        self._used = True
        self._idle_since = 0.0
        self._undialled = Complaint(log, "%s")
        self._overflow = Complaint(log, "the queue to %s is full; events are not forwarded")

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
            sender = self._sender or self._dial()
        except PeerUnavailable as error:
            self._undialled(error)
            self._block()
            return False
        for turn in range(_BATCHES_A_TURN):
            if not queue.items:
                break
            before = queue.bytes
            items = queue.take()
            try:
                self._send_batch(sender, items, before - queue.bytes)
            except Full:
                queue.put_back(items)
                self._block(moved=turn > 0)
                return False
        self._blocked_since = 0.0
        self._unheard_since = self._unheard_since or monotonic()
        self._used = True
        return bool(queue.items)

    def _send_batch(self, sender: DataSender, items: list[bytes], size: int) -> None:
        home, lease = self._home, self.lease
        sender.send(home.speaks(lease), home.epoch, lease.epoch, self.number + 1, items)
        self.number += len(items)
        home.counters.sent += len(items)
        home.counters.batches_sent += 1
        home.counters.bytes_sent += size

    def _block(self, moved: bool = False) -> None:
        # Nobody wakes the flusher for this peer before ZeroMQ says so.
        self._due = True
        if moved or not self._blocked_since:
            self._blocked_since = monotonic()

    def _dial(self) -> DataSender:
        if self._gone:
            raise PeerUnavailable(self.lease.node, "its lease is gone")
        mailbox = self._home.dial(self.lease, zmq.PUSH, self.lease.data, self._writable)
        self._dialled_at = monotonic()
        self._sender = DataSender(self._home.context, mailbox, self._home.counters)
        return self._sender

    def _writable(self) -> None:
        if self._blocked_since:
            self._wake(self)

    # --- questions ------------------------------------------------------------------------------------------

    def ask(self, kind: str, body: bytes, seconds: float) -> bytes:
        """Ask and wait for the answer, at most ``seconds``. Raises PeerUnavailable."""
        if not self.link.closed:
            raise PeerUnavailable(self.lease.node, "it does not answer")
        self._used = True
        breaker = self.control.breaker
        was_closed = breaker.closed
        try:
            answer = self.control.ask(kind, body, seconds)
        finally:
            if was_closed and not breaker.closed:
                self._opened()
        self._unheard_since = 0.0
        return answer

    def _opened(self) -> None:
        self._home.counters.breaker_opens += 1
        # Is it only slow, or gone? Find out soon.
        self._unheard_since = self._unheard_since or monotonic() - SILENCE_SECONDS

    # --- is it there? ---------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._sender or self._blocked_since or self.control.dialled or not self.link.closed)

    def doubtful(self, now: float) -> bool:
        """Whether somebody should find out if this node lives; hangs up if nobody wants anything of it.

        To be called from time to time while :attr:`active`. Never switches.
        """
        if self._used:
            self._used, self._idle_since = False, now
        elif not self.waits and now - self._idle_since > IDLE_SECONDS:
            self._hang_up_data(_IDLE_LINGER_MS)
            self.control.hang_up()
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
        if code == OK and not self._stands_still():
            self._lives()
            return True
        if self.link.closed:
            self.link.failed()
            if not self.link.closed:
                self._opened()
                log.warning("%s does not answer; trying again", self.lease.node)
        else:
            self.link.failed()
            self._redial()
        return False

    def _lives(self) -> None:
        if not self.link.closed:
            log.warning("%s is back", self.lease.node)
            self.control.breaker.succeeded()
        self.link.succeeded()
        self._unheard_since = 0.0
        if self.queue.items:
            self._wake(self)

    def _stands_still(self) -> bool:
        return bool(self._blocked_since and self._sender and not self._sender.mailbox.writable())

    def _redial(self) -> None:
        self.control.redial()
        if self._stands_still() and monotonic() - self._dialled_at > rpc_line.REDIAL_SECONDS:
            self._hang_up_data(0)
            self._wake(self)

    def _hang_up_data(self, linger_ms: int) -> None:
        if self._sender is not None:
            self._sender.mailbox.close(linger_ms)
            self._sender = None

    def close(self, linger_ms: int = 0) -> None:
        """Hang up and drop what waits; what ZeroMQ has is still sent within ``linger_ms``. Never waits."""
        self._gone = True
        if self.watcher is not None:
            self.watcher.kill(block=False)
        self._home.counters.dropped += self.queue.clear()
        self._hang_up_data(linger_ms)
        self.control.close()
