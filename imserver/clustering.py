"""A node among others: builds the registry, the RPC and the services that speak through them.

Loaded only where Redis is configured: a node that is alone pays nothing for it.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Callable, Collection
from time import time

from imserver.cluster.address import own_address
from imserver.cluster.contract import Lease
from imserver.cluster.redis_registry import RedisRegistry
from imserver.cluster.rpc import Rpc
from imserver.config import Config
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.lifecycle import derive_key
from imserver.metrics import Metrics
from imserver.model import Signal
from imserver.services.logins.verdict import Admits
from imserver.services.nodes.courier import (
    Courier,
    Item,
    Notice,
    Replaced,
    ToApp,
    ToConnection,
    ToFollowers,
    ToLog,
    ToRoom,
    ToUser,
    Unsettled,
)
from imserver.services.nodes.one_database import OneDatabase
from imserver.services.nodes.others import Others
from imserver.services.nodes.questions import Alive, Kick, Questions, encode
from imserver.services.pushes.cluster_pushes import ClusterPushes
from imserver.services.pushes.dedupe import Dedupe
from imserver.services.pushes.delivery import Delivery
from imserver.services.pushes.order import Arrivals
from imserver.services.pushes.strays import Strays
from imserver.services.rooms.cluster_connections import ClusterConnections
from imserver.services.rooms.cluster_rooms import ClusterRooms
from imserver.services.sessions.attendance import Attendance
from imserver.services.sessions.cluster_presence import ClusterPresence
from imserver.services.sessions.cluster_removals import ClusterRemovals
from imserver.services.sessions.cluster_sessions import ClusterSessions
from imserver.services.sessions.connection_ids import ConnectionIds
from imserver.services.sessions.removals import LocalRemovals
from imserver.storage.log_contract import Entry
from imserver.storage.store import Store

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0


class Cluster:
    """The cluster's parts in one node, started and stopped together. Owner of each of them."""

    def __init__(
        self,
        config: Config,
        secret: bytes,
        store: Store,
        questions: Questions,
        ids: ConnectionIds,
        hub: Hub,
        fanout: Fanout,
        delivery: Delivery,
        dedupe: Dedupe,
        metrics: Metrics,
        logins: Admits,
        max_rooms: Callable[[str], int],
    ) -> None:
        self._config = config
        self._store = store
        self._hub = hub
        self._fanout = fanout
        self._delivery = delivery
        self._fingerprint = hashlib.sha256(derive_key(secret, "cluster fingerprint")).hexdigest()[:32]
        self.questions = questions
        self._ids = ids
        self.registry = RedisRegistry(
            config.redis, config.cluster, tuple(config.apps), config.api.dedupe_seconds
        )
        self.rpc = Rpc(
            secret,
            self.questions.answer,
            self._received,
            queue_items=config.cluster.queue_items,
            queue_bytes=config.cluster.queue_bytes,
        )
        self.courier = Courier(self.registry, self.rpc)
        self.courier.apply = self._apply
        self.tell_stored = self.courier.tell_stored
        self.on_stored: Callable[[str, int, int, list[Entry]], None] = lambda *_: None
        """Told of what other nodes have stored. Must not switch."""
        self.on_signal: Callable[[str, Collection[str], int, Signal], None] = lambda *_: None
        """Told what happens in a conversation, and is not stored. Must not switch."""
        self.database = OneDatabase(store, self.registry)
        others = Others(self.registry, self.courier, self.rpc, config.cluster.rpc_seconds)
        self._build_sessions(others, metrics, logins)
        self._build_rooms(others, metrics, max_rooms)
        self._build_pushes(metrics, dedupe)
        self.registry.sessions = self.sessions.registered_sessions
        self.registry.on_restore = self._restore
        self.registry.on_replaced = self.sessions.replaced
        self.registry.on_leases = self._leases_changed

    def _build_sessions(self, others: Others, metrics: Metrics, logins: Admits) -> None:
        require = self._config.cluster.require_registry
        self.sessions = ClusterSessions(self._hub, self._fanout, metrics, logins, others, require)
        self.arrivals = Arrivals(self._hub)
        self.sessions.on_came = self.arrivals.came
        self.removals = ClusterRemovals(LocalRemovals(self._hub, self.sessions), others)

    def _build_rooms(self, others: Others, metrics: Metrics, max_rooms: Callable[[str], int]) -> None:
        hub, fanout, ids = self._hub, self._fanout, self._ids

        def node() -> str:
            return self.registry.lease.node

        self.connections = ClusterConnections(hub, fanout, ids, self.questions, node, others)
        self.connections.rooms = self.rooms = ClusterRooms(
            hub, fanout, metrics, self.connections, ids.birth, max_rooms, others
        )
        attendance = Attendance(hub, self.connections, node)
        self.presence = ClusterPresence(others, hub, attendance, self.connections.node_of)

    def _build_pushes(self, metrics: Metrics, dedupe: Dedupe) -> None:
        registry, courier, delivery, arrivals = self.registry, self.courier, self._delivery, self.arrivals
        self.pushes = ClusterPushes(registry, courier, self._hub, delivery, dedupe, metrics, arrivals)
        self.strays = Strays(registry, courier, delivery, self.sessions, arrivals)

    def start(self, public_ws_url: str, port: int) -> None:
        """Join the cluster: from when this returns, live nodes know this one and forward to it.

        ``port`` is where its clients connect. Raises :class:`imserver.errors.StartError` if this node must
        not or cannot join.
        """
        config = self._config
        questions = self.questions
        self.presence.add_to(questions)
        questions.add("kick", Kick, self.sessions.kick_here)
        questions.add("alive", Alive, self.sessions.is_alive)
        questions.add("hello", Lease, self._hello)
        self.removals.add_to(questions)
        self.rooms.add_to(questions)
        self.connections.add_to(questions)
        host = config.cluster.bind or self.address()
        rpc_port = config.app.rpc_port
        self.rpc.start(host, rpc_port, rpc_port + 1 if rpc_port else 0)
        address = self.address()
        control, data = (
            bound.rpartition(":")[2] for bound in (self.rpc.control_address, self.rpc.data_address)
        )
        lease = self.registry.start(
            Lease(
                f"{address}:{control}",
                control=f"tcp://{address}:{control}",
                data=f"tcp://{address}:{data}",
                fingerprint=self._fingerprint,
                started_at=time(),
                host=socket.gethostname(),
                public_ws_url=public_ws_url,
                database=self._store.id,
                birth=self._ids.birth,
                clients=f"{address}:{port}",
            )
        )
        self._leases_changed()
        self.sessions.start()
        self.rooms.registrar.start()
        self._greet(lease)

    def address(self) -> str:
        """The address under which other nodes reach this one."""
        return self._config.cluster.advertise or own_address()

    def _greet(self, lease: Lease) -> None:
        """Say hello, so that nobody's next broadcast misses this node."""
        peers = self.courier.peers()
        if peers:
            _, missing = self.rpc.ask_all(peers, "hello", encode(lease), self._config.cluster.rpc_seconds)
            for node in missing:
                log.warning("%s did not answer the hello of this node", node)

    def _hello(self, lease: Lease) -> bool:
        if lease.fingerprint != self._fingerprint:
            return False
        self.registry.learn(lease)
        self._leases_changed()
        return True

    def _leases_changed(self) -> None:
        self.rpc.epoch = self.courier.own_epoch
        self.rpc.update(self.registry.leases())

    def _restore(self, everything: bool) -> None:
        self.rooms.registrar.hurry()
        self.sessions.restore(everything)

    # --- being told -----------------------------------------------------------------------------------------

    def _received(self, source: int, items: list[bytes]) -> None:
        self.courier.received(source, items)

    def _apply(self, item: Item) -> None:
        """Carry out what another node has sent."""
        if isinstance(item, ToUser):
            self.strays.deliver(item)
        elif isinstance(item, ToRoom):
            self.rooms.received(item)
        elif isinstance(item, ToConnection):
            self.connections.received(item)
        elif isinstance(item, ToLog):
            self.on_stored(item.app, item.first, item.last, item.entries)
        elif isinstance(item, ToFollowers):
            self.on_signal(item.app, item.users, item.group, item.signal)
        elif isinstance(item, Unsettled):
            self.rooms.heard_unsettled(item.epoch)
        elif isinstance(item, ToApp):
            self._delivery.to_app(item.app, item.event, item.except_user, item.except_users)
        elif isinstance(item, Notice):
            app = self._hub.apps.get(item.app)
            if app is not None:
                app.elsewhere = max(app.elsewhere + (1 if item.event.kind == "enter" else -1), 0)
                self._fanout.notice(app, item.event)
        elif isinstance(item, Replaced):
            self.sessions.replaced(item.app, item.user, item.session_id)

    # --- at the end ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Leave: what waits is sent, departures are told, the lease is given back."""
        clean = self.sessions.flush(_FLUSH_SECONDS)
        clean = self.rooms.registrar.stop(_FLUSH_SECONDS) and clean
        self.sessions.stop()
        self.registry.stop(clean)
        self.rpc.stop()
