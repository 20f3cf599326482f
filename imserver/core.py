"""The core of a node: its connections, who may log in, and where sessions, users and rooms are."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from time import time
from typing import TYPE_CHECKING

from gevent.hub import get_hub

from imserver.auth.account_tokens import AccountTokens
from imserver.auth.authority import AllowLists, Authority
from imserver.auth.keys import Keys
from imserver.auth.login import Logins
from imserver.auth.page_tokens import PageTokens
from imserver.auth.rules import objection
from imserver.auth.tenants import Tenants
from imserver.cluster.registry import Registry
from imserver.cluster.solo import SoloRegistry
from imserver.config import Config
from imserver.errors import StartError
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.lifecycle import DataDirectory, raise_file_limit
from imserver.metrics import Metrics
from imserver.services.nodes.queries import NodeQueries
from imserver.services.push.idempotency import Dedupe, MessageIds
from imserver.services.push.push import Delivery, LocalReach, Pushes
from imserver.services.rooms.connections import Connections
from imserver.services.rooms.rooms import Rooms
from imserver.services.sessions.connection_ids import ConnectionIds, ConnectionTable, new_birth
from imserver.services.sessions.presence import Presence
from imserver.services.sessions.sessions import Sessions
from imserver.services.webhooks.requests import Outgoing
from imserver.services.webhooks.webhooks import Webhooks
from imserver.storage.accounts import AccountStore
from imserver.storage.store import Store
from imserver.transport import poller
from imserver.transport.backlog import Budget
from imserver.transport.carrier import Carrier
from imserver.transport.connection import Connection
from imserver.transport.outbox import Flusher

if TYPE_CHECKING:
    from imserver.cluster_node import Cluster

log = logging.getLogger(__name__)

_SPARE_FILES = 64
"""Open files that are no connections: logs, listeners, requests."""
_SPARE_FILES_OF_A_CLUSTER = 320
"""The same with Redis and 60 other nodes, each of which takes three."""


class Core(ABC):
    """What all else is built on; see :class:`imserver.parts.Parts`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started_at = time()
        self.metrics = Metrics()
        self.data = DataDirectory(config.server.data_dir, shared=config.clustered)
        self.store = Store(
            config.storage,
            config.server.data_dir,
            objection=self._database_objection,
            on_open=self._database_opened,
        )
        self.draining = False
        self.cluster: Cluster | None = None
        """The other nodes; None on a node that is alone."""

    @abstractmethod
    def _ended(self, connection: Connection, code: int) -> None:
        """A connection is over (the carrier's ``ended``)."""

    @abstractmethod
    def _forgotten(self, connection: Connection) -> None:
        """A session is no longer addressed, but its connection lives on."""

    def _database_objection(self, database: str) -> str:
        return "" if self.cluster is None else self.cluster.database.objection(database)

    def _database_opened(self, database: str) -> None:
        if self.cluster is not None:
            self.cluster.registry.report_database(database)

    def _build_core(self) -> None:
        """Build it. Raises :class:`StartError` with one clear line if it cannot."""
        config, limits = self.config, self.config.limits
        self.max_connections = self._connection_limit(raise_file_limit())
        self.data.start()
        loop = get_hub().loop
        secret = self.data.secret(config.server.secret_file)
        self.poller = poller.make(loop, config.hub.readers)
        self.flusher = Flusher(
            loop,
            config.hub.flush_connections,
            limits.outbox_bytes,
            limits.outbox_seconds,
            Budget(limits.node_outbox_bytes),
        )
        self.carrier = Carrier(self.poller, self.flusher, self._ended, config.websocket.close_seconds)
        policies = {
            name: tenant.policy_of(name) for name, tenant in config.apps.items() if not tenant.same_as
        }
        self.hub = Hub(policies, self.carrier.connections, self._forgotten)
        self.fanout = Fanout(self.flusher, self.metrics, config.hub.notice_members)
        self.delivery = Delivery(self.hub, self.fanout)
        self.tenants = Tenants(config, self.store, self.hub, objection)
        self.keys = Keys(config, self.tenants.resolve)
        self.dedupe = Dedupe(config.api.dedupe_ids, config.api.dedupe_seconds, shared=self.keys.demo)
        self.queries = NodeQueries()
        self.ids = ConnectionIds(secret, new_birth())
        self.table = ConnectionTable(self.hub, self.ids)
        self._make_logins(secret)
        self._choose_services(secret)

    def _make_logins(self, secret: bytes) -> None:
        """Who acts, who may log in, and what back ends are told and asked."""
        self.kept_accounts = AccountStore(self.store)
        self.account_tokens = AccountTokens(
            self.config, secret, self.kept_accounts, self.tenants, lambda: self.keys.demo
        )
        self.page_tokens = PageTokens(self.config, secret)
        self.webhooks = Webhooks(
            Outgoing(),
            self.table.id_of,
            lambda: self.registry.lease.node,
        )
        self.logins = Logins(
            self.tenants,
            self.page_tokens,
            self.account_tokens,
            lambda: self.keys.demo,
            self.webhooks,
            secret,
            self.carrier.connections,
            self.metrics,
        )
        self.allowed = AllowLists()
        self.allowed.learn(self.tenants.all())
        self.tenants.on_change += [self.keys.app_changed, self.logins.changed, self.allowed.changed]
        self.keys.on_closed.append(self.logins.reload)
        self.authority = Authority(
            self.keys, self.page_tokens, self.logins, self.account_tokens, self.allowed
        )

    def _choose_services(self, secret: bytes) -> None:
        """What asks only this node, or what asks the others too."""
        self.sessions: Sessions
        self.presence: Presence
        self.pushes: Pushes
        self.message_ids: MessageIds
        self.registry: Registry
        self.rooms: Rooms
        self.connections: Connections
        if not self.config.clustered:
            # Services ask the hub; the registry only holds the lease, for operators.
            self.registry = SoloRegistry()
            self.sessions = Sessions(self.hub, self.fanout, self.metrics, self.logins)
            self.message_ids = MessageIds(self.dedupe)
            self.pushes = Pushes(self.message_ids, LocalReach(self.message_ids, self.delivery), self.metrics)
            self.rooms = Rooms(self.hub, self.fanout, self.metrics, self.table, self._max_rooms)
            self.connections = Connections(
                self.table,
                self.rooms,
                self.hub,
                self.fanout,
                self.queries,
                lambda: self.registry.lease.node,
            )
            self.presence = Presence(self.hub, self.table.id_of, lambda: self.registry.lease.node)
            return
        # Redis, zerorpc and what they bring cost memory that a node that is alone need not pay.
        from imserver.cluster_node import Cluster

        cluster = Cluster(
            self.config,
            secret,
            self.store,
            self.queries,
            self.table,
            self.hub,
            self.fanout,
            self.delivery,
            self.dedupe,
            self.metrics,
            self.logins,
            self._max_rooms,
        )
        self.cluster = cluster
        self.message_ids = cluster.message_ids
        self.registry = cluster.registry
        self.sessions, self.presence, self.pushes = cluster.sessions, cluster.presence, cluster.pushes
        self.rooms, self.connections = cluster.rooms, cluster.connections

    def _max_rooms(self, app: str) -> int:
        tenant = self.tenants.get(app)
        return 0 if tenant is None else tenant.max_rooms

    def _connection_limit(self, files: int) -> int:
        wanted = self.config.limits.max_connections
        if wanted > files:
            raise StartError(
                f"limits.max_connections {wanted} is above the {files} files that this process may open: "
                "raise the limit (ulimit -n) or lower the setting"
            )
        log.info("this process may open %d files", files)
        return wanted or max(
            files - (_SPARE_FILES_OF_A_CLUSTER if self.config.clustered else _SPARE_FILES), 1
        )
