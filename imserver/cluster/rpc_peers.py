"""All other nodes: a greenlet that sends what waits for them, and one that sees who does not answer."""

from __future__ import annotations

import logging
from collections.abc import Container
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event as Signal

from imserver.cluster.complaint import Complaint
from imserver.cluster.contract import Lease
from imserver.cluster.forward import Numbers, Outgoing
from imserver.cluster.rpc_line import Home
from imserver.cluster.rpc_peer import Peer

log = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 0.5
_PROBE_SECONDS: Final = 1.0


class Peers:
    """The peers of one node by epoch. Owner of them and of two greenlets, and one more a doubtful peer."""

    def __init__(self, home: Home, queue_items: int, queue_bytes: int) -> None:
        self._home = home
        self._limits = queue_items, queue_bytes
        self._peers: dict[int, Peer] = {}
        self._numbers = Numbers()
        self._waiting: dict[Peer, None] = {}
        self._wanted = Signal()
        """Something waits to be sent."""
        self._active = Signal()
        """Somebody has to be watched."""
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._other_version = Complaint(
            log, "%s speaks version %d of the RPC, this node %d: nothing goes between them"
        )

    def start(self) -> None:
        """Begin to send and to watch."""
        self._greenlets = [gevent.spawn(self._flush), gevent.spawn(self._watch)]

    def close(self, linger_ms: int) -> None:
        """Hang up on all; what ZeroMQ has is still sent within ``linger_ms``. Never switches."""
        gevent.killall(self._greenlets, block=False)
        self._greenlets = []
        for peer in self._peers.values():
            peer.close(linger_ms)
        self._peers.clear()

    def get(self, lease: Lease) -> Peer | None:
        """The peer with this lease, made if need be. None: nothing can go between it and this node."""
        peer = self._peers.get(lease.epoch)
        if peer is not None:
            return peer
        home = self._home
        if not self._greenlets or lease.epoch == home.epoch:
            return None
        if abs(lease.version - home.version) > 1:
            self._other_version(lease.node, lease.version, home.version)
            return None
        number = self._numbers.resume(lease.epoch)
        peer = Peer(home, lease, number, Outgoing(*self._limits), self._wake)
        self._peers[lease.epoch] = peer
        return peer

    def keep(self, epochs: Container[int]) -> None:
        """Hang up on all others; what waits for them is dropped and counted. Never switches."""
        for epoch in [epoch for epoch in self._peers if epoch not in epochs]:
            peer = self._peers.pop(epoch)
            self._numbers.keep(epoch, peer.number)
            self._waiting.pop(peer, None)
            peer.close()

    def renumber(self) -> None:
        """Number items from 1 again: this node has a new epoch."""
        self._numbers.forget()
        for peer in self._peers.values():
            peer.number = 0

    def all(self) -> list[Peer]:
        """All peers that were used."""
        return list(self._peers.values())

    # --- sending --------------------------------------------------------------------------------------------

    def _wake(self, peer: Peer) -> None:
        self._waiting[peer] = None
        self._wanted.set()

    def _flush(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            waiting, self._waiting = self._waiting, {}
            for peer in waiting:
                try:
                    more = peer.flush()
                except Exception:
                    log.exception("cannot send to %s", peer.lease.node)
                    continue
                if more:
                    self._wake(peer)
            self._active.set()
            if self._waiting:
                gevent.sleep(0)

    # --- watching -------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Something is asked of a peer."""
        self._active.set()

    def _watch(self) -> None:
        while True:
            self._active.wait()
            self._active.clear()
            now = monotonic()
            for peer in self._peers.values():
                if peer.doubtful(now) and peer.watcher is None:
                    peer.watcher = gevent.spawn(_look_after, peer)
                if peer.active:
                    self._active.set()
            gevent.sleep(_WATCH_SECONDS)


def _look_after(peer: Peer) -> None:
    """Try a peer until it answers. Ended with the peer."""
    try:
        while not (peer.link.allows() and peer.probe(_PROBE_SECONDS)):
            gevent.sleep(peer.link.wait_seconds)
    finally:
        peer.watcher = None
