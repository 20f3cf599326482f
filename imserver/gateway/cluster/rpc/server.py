"""The RPC of a node: messages one way, ordered and in batches; queries with
answers.

Each node has two ports. On the *data* port, :meth:`Rpc.send` queues an item.
The items of one loop iteration are sent as one batch, and ``received`` gets
them at the other node in order. On the *control* port, :meth:`Rpc.query`
returns the result of ``answer`` at the other node. It raises
:class:`~imserver.gateway.cluster.rpc.counters.PeerUnavailable` if there is no
result.

Importing this module loads ZeroMQ and zerorpc. No context or socket exists
before :meth:`Rpc.start`, so the supervisor may import it before it forks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Final

import gevent
import zerorpc
import zmq
from gevent.event import AsyncResult
from gevent.event import Event as Flag
from gevent.hub import get_hub
from msgspec import Struct, field

from imserver.gateway.clock import until_beat
from imserver.gateway.cluster.registry import Lease
from imserver.gateway.cluster.rpc.counters import (
    PeerUnavailable,
    RpcCounters,
    UnknownQuery,
)
from imserver.gateway.cluster.rpc.curve import Authenticator, CurveKeys
from imserver.gateway.cluster.rpc.peer import (
    BATCH_ITEMS,
    PING,
    SECOND_MS,
    SECONDS,
    Peer,
    RpcContext,
    RpcSeconds,
    SendQueue,
)
from imserver.gateway.cluster.rpc.wire import (
    FAILED,
    MESSAGE_BYTES,
    OK,
    STALE,
    TOO_LARGE,
    VERSION,
    Answer,
    ControlServer,
    DataReceiver,
    ZmqSocket,
    private_address,
)
from imserver.gateway.errors import StartError
from imserver.gateway.logging import RateLimitedLog
from imserver.gateway.process import Secret, fingerprint_of

log = logging.getLogger(__name__)

REMEMBERED_EPOCHS: Final = 4096
"""How many epochs are remembered, each with the number of its next item."""
_OWN_EPOCHS: Final = 16
"""How many epochs of this process are remembered."""
_QUEUE_ITEMS: Final = 100_000
_QUEUE_BYTES: Final = 64 * 1024 * 1024
_MAX_SOCKETS: Final = 8192
"""How many sockets of ZeroMQ one node may have: two for each peer, and more
while it reconnects."""
_LOOK_SECONDS: Final = 0.01
"""Seconds between two checks whether the queues of a node that stops are
sent."""
_RESTART_SECONDS: Final = 0.2
"""Time before a receiver that has ended starts again."""
_ENVELOPE_BYTES: Final = 64 * 1024
"""Room for the head of a message with an answer."""
RPC_VERSION: Final = 1
"""The version of the RPC of this node. The node also understands the version
before."""


class SequenceTracker(Struct, eq=False):
    """Finds out which batches of items are late, and how many items were lost.

    Items from one node to another have numbers. This class knows the number of
    the next item that is expected from each sender. Owner: the RPC; never
    switches greenlets.
    """

    _counters: RpcCounters
    _next: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Epoch of a sender → the latest epoch of this node to which it has sent
    items, and the number that the next item for this epoch should have. The
    most recent sender is last."""

    def accept(self, sender: int, destination: int, first: int, count: int) -> bool:
        """Whether to deliver a batch of items that another node has sent.

        ``sender`` and ``destination`` are the epochs of the two nodes: an epoch
        is one life of a node. ``first`` is the number of the first of ``count``
        items.

        Returns False for late items, which are dropped to keep the order. They
        have a lower number than expected, or are for an earlier epoch than the
        items before. Missing numbers are counted as lost items.
        """
        # The sender is taken out and put back, so that the most recent sender
        # is last.
        latest, expected = self._next.pop(sender, (destination, 1))
        if destination > latest:
            # The sender numbers the items for another epoch from 1.
            latest = destination
            expected = 1

        # The items are late, because a later batch was already delivered.
        if destination < latest or first < expected:
            self._next[sender] = latest, expected
            self._counters.late += count
            return False

        if first > expected:
            self._counters.gaps += 1
            self._counters.lost += first - expected
        self._next[sender] = latest, first + count
        # The first sender in the table has been silent for the longest time.
        if len(self._next) > REMEMBERED_EPOCHS:
            del self._next[next(iter(self._next))]
        return True


class Rpc:
    """Connects this node with all other nodes: items one way, and queries with
    answers.

    An *item* is a message in bytes, which arrives in order or is lost. A
    *query* has an answer. Owner of the peers, sockets and greenlets.
    """

    def __init__(
        self,
        secret: Secret,
        answer: Callable[[str, bytes], bytes],
        received: Callable[[int, list[bytes]], None],
        *,
        version: int = RPC_VERSION,
        queue_items: int = _QUEUE_ITEMS,
        queue_bytes: int = _QUEUE_BYTES,
        seconds: RpcSeconds = SECONDS,
    ) -> None:
        """Prepare the RPC. No socket exists before :meth:`start`.

        ``secret`` is the secret of the cluster, from which the keys of
        encryption are made. ``answer(kind, body)`` answers a query of another
        node and may switch greenlets. Its exceptions are logged, and reach the
        other node as a code.

        ``received(epoch, items)`` gets the items that the node with this epoch
        has sent, in their order. It should not wait, because nothing else is
        received meanwhile. ``queue_items`` and ``queue_bytes`` limit the items
        that wait for one peer.
        """
        self.counters = RpcCounters()
        self.control_address = ""
        """``tcp://ip:port`` where this node receives queries; known after
        :meth:`start`."""
        self.data_address = ""
        """``tcp://ip:port`` where this node receives items; known after
        :meth:`start`."""
        self._answer = answer
        self._received = received
        self._version = version

        # While the secret of a cluster is changed, its nodes accept two
        # secrets. A node says by a fingerprint which secret it has.
        accepted = {
            fingerprint_of(each): CurveKeys.derive(each) for each in secret.accepted
        }
        self._rpc = RpcContext(
            own_keys=CurveKeys.derive(secret.first),
            accepted=accepted,
            counters=self.counters,
            version=version,
            seconds=seconds,
        )

        self._sequences = SequenceTracker(self.counters)
        self.peers = PeerTable(self._rpc, queue_items, queue_bytes)
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._running = False
        self._turn = 0
        """The number of items received since other greenlets last had their
        turn."""
        self._epochs: deque[int] = deque(maxlen=_OWN_EPOCHS)
        """The last epochs of this process, which takes a new one after it has
        lost its lease. The node accepts items for an earlier epoch, because
        they are for users who are still here."""

    # --- start and stop -------------------------------------------------------

    def start(self, host: str, control_port: int, data_port: int) -> None:
        """Listen at one address. Port 0 takes a free port.

        Raises StartError if the address or a port cannot be used.
        """
        # The node never listens on all addresses of the machine, because
        # strangers might reach them.
        address = private_address(host)
        context = zerorpc.Context()
        self._rpc.context = context
        context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._authenticator = Authenticator(
            context, self._rpc.accepted.values(), self.counters
        )
        control = ZmqSocket(context, zmq.ROUTER)
        data = ZmqSocket(context, zmq.PULL)
        try:
            self.control_address = self._listen(
                control, "control", address, control_port
            )
            self.data_address = self._listen(data, "data", address, data_port)
        except StartError:
            self._close_after_failed_start(control, data)
            raise

        self._serve(context, control, data)

    def _close_after_failed_start(self, *sockets: ZmqSocket) -> None:
        """Close what a start has opened."""
        self._authenticator.close()
        for socket in sockets:
            socket.close()
        self._terminate()

    def _serve(
        self, context: zerorpc.Context, control: ZmqSocket, data: ZmqSocket
    ) -> None:
        """Begin to answer queries and to receive items, at these sockets."""
        self._server = ControlServer(
            context, control, self._answer_query, self.counters
        )
        self._receiver = DataReceiver(context, data, self._receive, self.counters)
        self._running = True
        # A receiver that ends because of a fault is started again.
        self._greenlets = [
            gevent.spawn(self._keep_running, self._server.run),
            gevent.spawn(self._keep_running, self._receiver.run),
        ]
        self.peers.start()

    def _listen(self, zmq_socket: ZmqSocket, name: str, address: str, port: int) -> str:
        """Let a socket accept connections of nodes. Returns ``tcp://ip:port``.

        ``name`` is the name of the port, for errors. Raises StartError.
        """
        # This comes before the socket is bound, so that no connection is
        # accepted without a check.
        self._rpc.own_keys.serve(zmq_socket.socket)
        self._authenticator.watch(zmq_socket.socket, name)
        try:
            return zmq_socket.bind(f"tcp://{address}:{port}")
        except zmq.ZMQError as error:
            raise StartError(
                f"the RPC cannot listen on {address}:{port} ({name}): "
                f"{error}. A node uses app.rpc_port and the next port: "
                "nodes on one machine need numbers that are two apart"
            ) from None

    def stop(self) -> None:
        """Send the queued items, then end.

        May switch greenlets; takes about three seconds at most.
        """
        if not self._running:
            return
        deadline = monotonic() + self._rpc.seconds.stop
        while monotonic() < deadline and any(peer.waits for peer in self.peers.all()):
            gevent.sleep(_LOOK_SECONDS)
        # ZeroMQ still sends the items that it has accepted.
        self._end(round(SECOND_MS * self._rpc.seconds.stop_linger))
        self._terminate().wait()

    def kill(self) -> None:
        """End at once; queued items are lost. Never waits."""
        if self._running:
            self._end(linger_ms=0)
            self._terminate()

    def _terminate(self) -> AsyncResult[None]:
        """End ZeroMQ, in a thread.

        The result is set when all items are sent, or when the time for sending
        them is over.
        """
        # The call blocks until then, so it runs in a thread.
        return get_hub().threadpool.spawn(self._rpc.context.term)

    def _end(self, linger_ms: int) -> None:
        """End the greenlets, and close all sockets.

        ZeroMQ still sends its items within ``linger_ms``.
        """
        self._running = False
        gevent.killall(self._greenlets, block=False)
        self.peers.close(linger_ms)
        self._authenticator.close()
        self._server.close()
        self._receiver.close()

    def _keep_running(self, run: Callable[[], None]) -> None:
        """Greenlet: run a receiver, and start it again if it ends, until the
        RPC stops."""
        while self._running:
            try:
                run()
            except Exception:
                log.exception("an RPC receiver failed")
            if self._running:
                self.counters.restarts += 1
                gevent.sleep(_RESTART_SECONDS)

    # --- peers ----------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of this node, as in its lease. Before it is set, no items
        are accepted. Items for an earlier epoch of this process are accepted,
        too."""
        return self._rpc.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        """The epoch of this node, as in its lease.

        Before it is set, no items are accepted. Items for an earlier epoch of
        this process are accepted, too.

        An epoch is the number of one life of a node.
        """
        if epoch != self._rpc.epoch:
            self._rpc.epoch = epoch
            self._epochs.append(epoch)
            self.peers.renumber()

    @property
    def queued_items(self) -> int:
        """Items queued for all peers."""
        return sum(len(peer.queue.items) for peer in self.peers.all())

    @property
    def queued_bytes(self) -> int:
        """Bytes of the queued items."""
        return sum(peer.queue.bytes for peer in self.peers.all())

    def update(self, leases: Mapping[int, Lease]) -> None:
        """Disconnect peers without a lease. Their queued items are dropped and
        counted.

        If a process has a new epoch, its peer continues with that epoch. Never
        switches greenlets.
        """
        self.peers.retain(leases)

    # --- data -----------------------------------------------------------------

    def send(self, lease: Lease, item: bytes) -> bool:
        """Send one item to a peer, after all earlier items. Never switches
        greenlets.

        Returns False if the item will not arrive, because the circuit is open,
        the queue is full or the version does not fit. True does not mean that
        the item will arrive: items in transit are lost when a peer or
        connection fails.
        """
        peer = self.peers.get(lease)
        return peer is not None and peer.send(item)

    def _receive(
        self,
        version: int,
        sender: int,
        destination: int,
        first: int,
        items: list[bytes],
    ) -> None:
        """Handle a batch of items of another node.

        ``sender`` is the epoch of that node, and ``destination`` is the epoch
        of this node to which the batch is addressed. ``first`` is the number of
        the first item.

        An epoch is the number of one life of a node.
        """
        counters = self.counters
        # Nodes of the previous version are understood during an upgrade.
        if not self._version - 1 <= version <= self._version:
            counters.malformed += 1
        elif destination not in self._epochs:
            counters.stale += len(items)
        elif self._sequences.accept(sender, destination, first, len(items)):
            counters.received += len(items)
            counters.batches_received += 1
            counters.bytes_received += sum(map(len, items))
            try:
                self._received(sender, items)
            except Exception:
                log.exception("handling %d items of another node failed", len(items))
            # Other greenlets may run from time to time.
            self._turn += len(items)
            if self._turn >= BATCH_ITEMS:
                self._turn = 0
                gevent.sleep(0)

    # --- queries --------------------------------------------------------------

    def query(
        self,
        lease: Lease,
        kind: str,
        body: bytes,
        timeout: float = 1.0,
        *,
        slow: bool = False,
    ) -> bytes:
        """Query a peer, and return its answer.

        Waits at most ``timeout`` seconds. ``slow`` means that the answer waits
        for a client. Then this waits at most twice as long. Raises
        PeerUnavailable, and PeerBusy if too many slow queries wait.
        """
        peer = self.peers.get(lease)
        try:
            if peer is None:
                raise PeerUnavailable(lease.node, "no connection is possible")
            self.peers.active.set()  # the peer must be monitored from now on
            return peer.query(kind, body, timeout, slow)
        except PeerUnavailable:
            self.counters.call_failures += 1
            raise

    def query_all(
        self, leases: Collection[Lease], kind: str, body: bytes, timeout: float = 1.0
    ) -> tuple[dict[str, bytes], list[str]]:
        """Query several peers at once, for ``timeout`` seconds.

        Returns the answers by node, and the nodes that did not answer.
        """
        answers: dict[str, bytes] = {}
        missing: list[str] = []

        def query(lease: Lease) -> None:
            """Query one node, and store its answer."""
            try:
                answers[lease.node] = self.query(lease, kind, body, timeout)
            except PeerUnavailable:
                missing.append(lease.node)

        # Each query has its own time limit, so this ends in time, too.
        gevent.joinall([gevent.spawn(query, lease) for lease in leases])
        return answers, sorted(missing)

    def _answer_query(self, version: int, epoch: int, kind: str, body: bytes) -> Answer:
        """Answer a query of another node, by a code and a body.

        ``version`` is the version of the other node's RPC. ``epoch`` is the
        epoch of this node to which the query is addressed.

        An epoch is the number of one life of a node.
        """
        # Nodes of the previous version are understood during an upgrade.
        if not self._version - 1 <= version <= self._version:
            return VERSION, b""
        if epoch not in self._epochs:
            return STALE, b""  # the query is for another process
        if kind == PING:
            return OK, b""

        self.counters.answered += 1
        return self._answer_by_kind(kind, body)

    def _answer_by_kind(self, kind: str, body: bytes) -> Answer:
        """Let the function for queries answer. Its exceptions are logged."""
        try:
            answer = self._answer(kind, body)
        except UnknownQuery:
            log.warning("node query %r is not known here", kind)
            return FAILED, b""
        except Exception:
            log.exception("node query %r failed", kind)
            return FAILED, b""

        if len(answer) > MESSAGE_BYTES - _ENVELOPE_BYTES:
            return TOO_LARGE, b""
        return OK, answer


class PeerTable:
    """The other nodes with which this node communicates, by their epochs.

    Owner of the peers, of two greenlets, and of one greenlet per peer that is
    probed.
    """

    def __init__(
        self, rpc_context: RpcContext, queue_items: int, queue_bytes: int
    ) -> None:
        """``queue_items`` and ``queue_bytes`` limit the items that wait for one
        peer."""
        self._rpc = rpc_context
        self._limits = queue_items, queue_bytes
        self._peers: dict[int, Peer] = {}
        self._last_numbers: dict[int, int] = {}
        """Epoch of a node without a peer now → the number of the last item that
        was sent there. If the node gets a peer again, the numbers continue."""
        self._to_flush: dict[Peer, None] = {}
        """The peers with items to send, as an ordered set."""
        self._has_items = Flag()
        """A flag that is set when a peer is added to ``_to_flush``."""
        self.active = Flag()
        """A flag that is set when a peer has to be monitored, because something
        is sent to it."""
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._other_version = RateLimitedLog(
            log, "peer %s: RPC version %d is not compatible with %d of this node"
        )

    def start(self) -> None:
        """Start the sending and monitoring greenlets."""
        self._greenlets = [gevent.spawn(self._flush), gevent.spawn(self._watch)]

    def close(self, linger_ms: int) -> None:
        """Disconnect all peers.

        ZeroMQ still sends its items within ``linger_ms``. Never switches
        greenlets.
        """
        gevent.killall(self._greenlets, block=False)
        self._greenlets = []
        for peer in self._peers.values():
            peer.close(linger_ms)
        self._peers.clear()

    def get(self, lease: Lease) -> Peer | None:
        """Return the peer with this lease, which is created if needed.

        The result is None if no connection is possible: the RPC has not
        started, the lease is the lease of this node, or the versions do not
        fit.
        """
        peer = self._peers.get(lease.epoch)
        if peer is not None:
            return peer
        rpc_context = self._rpc
        if not self._greenlets or lease.epoch == rpc_context.epoch:
            return None
        if abs(lease.version - rpc_context.version) > 1:
            self._other_version(lease.node, lease.version, rpc_context.version)
            return None

        # A process that has taken a new epoch keeps its queue.
        peer = self._take_renewed(lease)
        if peer is None:
            peer = self._new_peer(lease)
        self._peers[lease.epoch] = peer
        return peer

    def _new_peer(self, lease: Lease) -> Peer:
        """Return a peer with an empty queue, which continues the numbers of an
        earlier peer of the node."""
        number = self._last_numbers.pop(lease.epoch, 0)
        queue = SendQueue(*self._limits)
        return Peer(self._rpc, lease, number, queue, self._wake)

    def _take_renewed(self, lease: Lease) -> Peer | None:
        """Take the peer with an earlier epoch of the same process out of the
        table.

        The peer gets this lease, so that its queued items are not lost. Returns
        None if there is no such peer.

        An epoch is the number of one life of a node.
        """
        for epoch, peer in self._peers.items():
            if lease.birth and peer.lease.birth == lease.birth:
                del self._peers[epoch]
                peer.renew(lease)
                return peer
        return None

    def retain(self, leases: Mapping[int, Lease]) -> None:
        """Keep only the peers whose nodes have a lease, and disconnect the
        others.

        A peer is another node to which this node sends. A lease proves for some
        seconds that a node lives.
        """
        # Renewed peers come first: a process that has taken a new epoch keeps
        # its queue.
        for epoch, lease in leases.items():
            if epoch in self._peers:
                continue
            renewed = self._take_renewed(lease)
            if renewed is not None:
                self._peers[epoch] = renewed

        for epoch in [epoch for epoch in self._peers if epoch not in leases]:
            self._drop(epoch)

    def _drop(self, epoch: int) -> None:
        """End the connection to the peer with this epoch.

        The lease of a node that is only late may come back. So the number of
        the last item is kept.

        An epoch is the number of one life of a node.
        """
        peer = self._peers.pop(epoch)
        if peer.number:
            self._last_numbers[epoch] = peer.number
        if len(self._last_numbers) > REMEMBERED_EPOCHS:
            del self._last_numbers[next(iter(self._last_numbers))]
        self._to_flush.pop(peer, None)
        peer.close()

    def renumber(self) -> None:
        """Number items from 1 again, because this node has a new epoch."""
        self._last_numbers.clear()
        for peer in self._peers.values():
            peer.number = 0

    def all(self) -> list[Peer]:
        """Return all peers that were used."""
        return list(self._peers.values())

    # --- sending --------------------------------------------------------------

    def _wake(self, peer: Peer) -> None:
        """Let the sending greenlet flush a peer."""
        self._to_flush[peer] = None
        self._has_items.set()

    def _flush(self) -> None:
        """Greenlet: send the queued items of all peers, one after the other."""
        while True:
            self._has_items.wait()
            self._has_items.clear()
            # A flush may add its peer again, for the next round.
            peers = self._to_flush
            self._to_flush = {}
            for peer in peers:
                try:
                    has_more = peer.flush()
                except Exception:
                    log.exception("peer %s: sending failed", peer.lease.node)
                    continue
                if has_more:
                    self._wake(peer)
            self.active.set()
            if self._to_flush:
                gevent.sleep(0)

    def _watch(self) -> None:
        """Greenlet: check the active peers regularly.

        Each peer whose state is in doubt is probed by a greenlet of its own.
        """
        while True:
            self.active.wait()
            # The flag is set again below as long as a peer is active.
            self.active.clear()
            now = monotonic()
            for peer in self._peers.values():
                if peer.needs_probe(now) and peer.watcher is None:
                    peer.watcher = gevent.spawn(
                        _probe_until_alive, peer, self._rpc.seconds.probe
                    )
                if peer.active:
                    self.active.set()
            gevent.sleep(until_beat(self._rpc.seconds.watch))


def _probe_until_alive(peer: Peer, seconds: float) -> None:
    """Greenlet: probe a peer until it answers, each time for this many seconds.

    The greenlet ends with the peer.
    """
    try:
        while not (peer.link.allows() and peer.probe(seconds)):
            gevent.sleep(peer.link.wait_seconds)
    finally:
        peer.watcher = None
