"""The parts that only a node of a cluster has: registry, RPC, and services that reach other nodes.

Loaded only if Redis is configured.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterable
from math import ceil
from time import monotonic, time

from imserver.auth.login import Logins
from imserver.auth.tenants import Tenants
from imserver.channels.channels import Channels
from imserver.channels.connections import Connections
from imserver.channels.members import ChannelMembers
from imserver.channels.nodes import ChannelNodes
from imserver.channels.registrar import Registrar
from imserver.channels.stored import ChannelLog
from imserver.cluster.nodes import (
    ChannelsUnsettled,
    NodeMessages,
    NodeQueries,
    Notice,
    OtherNodes,
    Replaced,
    ToApp,
    ToChannel,
    ToConnection,
    ToUser,
    encode,
)
from imserver.cluster.redis.registry import RedisRegistry
from imserver.cluster.registry import Lease, RegistryEvents, advertised_address
from imserver.cluster.rpc.server import Rpc
from imserver.config.settings import Config
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.metrics import Metrics
from imserver.process import derive_key
from imserver.push.idempotency import Idempotency
from imserver.push.push import Pushes
from imserver.push.routing import ClusterReach, ReorderGuard, Rerouting
from imserver.push.user_channels import UserChannels
from imserver.sessions.cluster_sessions import ClusterSessions
from imserver.sessions.connection_ids import ConnectionTable
from imserver.sessions.presence import Presence
from imserver.storage.store import Store

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0
_DATABASE_SECONDS = 10.0
"""Time for a node to find a database that another node has just created, and to publish its id."""
_OTHER_DATABASE = (
    "the cluster uses another database for apps and keys: give all nodes the same storage.url, or, on "
    "one machine, the same server.data_dir"
)


class Cluster:
    """The cluster parts of one node. Owner of each of them. They are started and stopped together."""

    def __init__(
        self,
        config: Config,
        secret: bytes,
        store: Store,
        queries: NodeQueries,
        table: ConnectionTable,
        hub: Hub,
        fanout: Fanout,
        idempotency: Idempotency,
        metrics: Metrics,
        logins: Logins,
        tenants: Tenants,
        channel_log: ChannelLog,
    ) -> None:
        self._config = config
        self._store = store
        self._fanout = fanout
        self._fingerprint = hashlib.sha256(derive_key(secret, "cluster fingerprint")).hexdigest()[:32]
        self.queries = queries
        self._table = table
        self.registry = registry = RedisRegistry(
            config.redis, config.cluster, tuple(config.apps), config.api.dedupe_seconds, tenants.created
        )
        self.values, self.attempt = registry, registry.attempt
        idempotency.registry = registry
        self.rpc = Rpc(
            secret,
            self.queries.answer,
            lambda sender, items: self.node_messages.received(sender, items),
            queue_items=config.cluster.queue_items,
            queue_bytes=config.cluster.queue_bytes,
        )
        self.node_messages = messages = NodeMessages(registry, self.rpc)
        self.database = DatabaseCheck(store, registry)
        self.others = others = OtherNodes(registry, messages, self.rpc, queries, config.cluster.rpc_seconds)
        guard = ReorderGuard(hub)
        lease_lag = ceil(config.cluster.renew_seconds) + 2
        required = config.cluster.require_registry
        self.sessions = ClusterSessions(
            hub, fanout, metrics, logins, store, others, required, guard.logged_in, lease_lag
        )
        self.registrar = Registrar(registry, messages, hub)
        members = ChannelMembers(hub, table, tenants.get, others, self.registrar)
        self.channel_nodes = ChannelNodes(others, self.registrar)
        self.channels = Channels(
            members,
            hub,
            fanout,
            metrics,
            table,
            tenants.get,
            registry.history,
            channel_log,
            self.channel_nodes,
        )
        self.connections = Connections(table, self.channels, fanout, queries, registry, others)
        self.presence = Presence(hub, table, registry, others)
        self.reach = ClusterReach(registry, messages, hub, fanout, idempotency, guard, metrics)
        self.pushes = Pushes(
            idempotency, self.reach, metrics, UserChannels(self.channels, self.reach.to_user)
        )
        self.rerouting = Rerouting(registry, messages, fanout, self.sessions, guard)
        self.node_messages.handle(
            {
                ToUser: self.rerouting.deliver,
                ToApp: self._deliver_to_app,
                ToChannel: self.channels.received,
                ToConnection: self.connections.received,
                Notice: self.sessions.noticed,
                Replaced: self._replaced,
                ChannelsUnsettled: self._unsettled,
            }
        )

    def start(self, public_ws_url: str, port: int, only_local: bool, features: Iterable[str]) -> None:
        """Join the cluster: when this returns, live nodes know this one and forward to it.

        ``port`` is the port of its clients. ``only_local``: the RPC ports listen on loopback, unless the
        settings name an address. ``features``: those of this node. Raises
        :class:`imserver.errors.StartError` if this node must not or cannot join.
        """
        config = self._config
        queries = self.queries
        self.presence.add_to(queries)
        queries.add("hello", Lease, self._hello)
        self.sessions.add_to(queries)
        self.channels.members.add_to(queries)
        self.connections.add_to(queries)
        address = advertised_address(config.cluster.advertise, only_local)
        host = config.cluster.bind or address
        rpc_port = config.app.rpc_port
        self.rpc.start(host, rpc_port, rpc_port + 1 if rpc_port else 0)
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
                birth=self._table.ids.birth,
                clients=f"{address}:{port}",
                features=" ".join(("core", *sorted(features))),
            ),
            RegistryEvents(
                sessions=self.sessions.registered_sessions,
                reregister=self._reregister,
                replaced=self.sessions.replaced,
                leases_changed=self._leases_changed,
            ),
        )
        self._leases_changed()
        self.registrar.start()
        self._announce(lease)

    def _announce(self, lease: Lease) -> None:
        """Send hello to all live nodes, so that this node receives their next broadcast."""
        peers = self.node_messages.peers()
        if peers:
            seconds = self._config.cluster.rpc_seconds
            _, missing = self.rpc.query_all(peers, "hello", encode(lease), seconds)
            for node in missing:
                log.warning("peer %s: no answer to the hello of this node", node)

    def _hello(self, lease: Lease) -> bool:
        if lease.fingerprint != self._fingerprint:
            return False
        self.registry.add_lease(lease)
        self._leases_changed()
        return True

    def _leases_changed(self) -> None:
        self.rpc.epoch = self.node_messages.own_epoch
        self.rpc.update(self.registry.leases())

    def _reregister(self, everything: bool) -> None:
        self.registrar.wake()
        self.sessions.reregister(everything)

    # --- handlers of node messages --------------------------------------------------------------------------

    def _deliver_to_app(self, message: ToApp) -> None:
        self._fanout.to_app(message.app, message.event, message.except_user, message.except_users)

    def _replaced(self, message: Replaced) -> None:
        self.sessions.replaced(message.app, message.user, message.session_id)

    def _unsettled(self, message: ChannelsUnsettled) -> None:
        self.channel_nodes.peer_unsettled(message.epoch)

    # --- at the end -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Leave the cluster: report logouts and channels, give back the lease, send what is queued."""
        clean = self.sessions.flush(_FLUSH_SECONDS)
        clean = self.registrar.stop(_FLUSH_SECONDS) and clean
        self.sessions.stop()
        self.registry.stop(clean)
        self.rpc.stop()


class DatabaseCheck:
    """Compares the database ids of all nodes: a cluster has one database. ``wrong``: they differ."""

    def __init__(self, store: Store, registry: RedisRegistry) -> None:
        self.wrong = False
        self._store = store
        self._registry = registry
        self._since = 0.0

    def check(self) -> None:
        """Compare; called once a second. Never switches."""
        if not self._differs(self._store.id):
            if self.wrong:
                log.info("all nodes of the cluster have the same database again")
            self.wrong, self._since = False, 0.0
            return
        self._since = self._since or monotonic()
        if not self.wrong and monotonic() - self._since > _DATABASE_SECONDS:
            self.wrong = True
            log.error("%s", _OTHER_DATABASE)

    def objection(self, database: str) -> str:
        """Why this node must not use a database (``objection`` of its store)."""
        return _OTHER_DATABASE if self._differs(database) else ""

    def _differs(self, database: str) -> bool:
        return any(lease.database not in ("", database) for lease in self._registry.leases().values())
