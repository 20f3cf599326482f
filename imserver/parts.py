"""The parts of a node, built in order from the configuration. Nothing else knows all of them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any

from gevent.hub import get_hub
from msgspec.structs import replace

from imserver import __version__
from imserver.api.call import Api
from imserver.api.metrics import render
from imserver.api.v1.events import PATH as EVENTS_PATH
from imserver.api.v1.events import Events
from imserver.api.v1.publisher import Publisher
from imserver.auth.account_tokens import AccountTokens
from imserver.auth.authority import AllowLists, Authority
from imserver.auth.keys import Keys
from imserver.auth.login import Logins
from imserver.auth.page_tokens import PageTokens
from imserver.auth.rules import objection
from imserver.auth.tenants import Tenants
from imserver.cluster.registry import Lease, Registry
from imserver.cluster.solo import SoloRegistry
from imserver.config.settings import Config
from imserver.errors import StartError
from imserver.hub.expiry import Sweep
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.lifecycle import DataDirectory, raise_file_limit
from imserver.logging import RequestLog
from imserver.metrics import Metrics, resident_bytes
from imserver.servers import Application, Servers
from imserver.services.commands import Dispatcher, command_table
from imserver.services.dialects.action_messages import ActionMessages, publish_stored
from imserver.services.dialects.action_service import ActionService
from imserver.services.dialects.client_service import ClientService
from imserver.services.dialects.event_streams import EventStreams
from imserver.services.dialects.protobuf_service import ProtobufService
from imserver.services.dialects.protobuf_uplink import ProtobufUplink
from imserver.services.files.uploads import Uploads
from imserver.services.messages.message_commands import MessageCommands, MessageSearch
from imserver.services.messages.messaging import Messaging
from imserver.services.messages.receipts import Receipts, Signals
from imserver.services.messages.retention import Retention
from imserver.services.nodes.messages import ToFollowers, ToLog
from imserver.services.nodes.queries import NodeQueries, StateQuery
from imserver.services.people.accounts import Accounts
from imserver.services.people.friends import Friends
from imserver.services.people.groups import Groups
from imserver.services.push.idempotency import Dedupe, MessageIds, RequestIds
from imserver.services.push.pending import PendingPushes
from imserver.services.push.publish import Publishing
from imserver.services.push.push import Delivery, LocalReach, Pushes
from imserver.services.rooms.connections import Connections
from imserver.services.rooms.rooms import Rooms
from imserver.services.sessions.connection_ids import ConnectionIds, ConnectionTable, new_birth
from imserver.services.sessions.overview import Overview
from imserver.services.sessions.presence import Presence
from imserver.services.sessions.sessions import Sessions
from imserver.services.webhooks.requests import Outgoing
from imserver.services.webhooks.webhooks import Webhooks
from imserver.storage.accounts import AccountStore
from imserver.storage.store import Store
from imserver.storage.talk_positions import TalkPositions
from imserver.transport import poller
from imserver.transport.connection import Connection, ConnectionContext
from imserver.transport.gate import Gate, Opened, host_of
from imserver.transport.outbox import Budget, Flusher
from imserver.transport.proxies import TrustedProxies
from imserver.transport.stream import Streams
from imserver.ws_routes import ws_routes

if TYPE_CHECKING:
    from imserver.cluster_node import Cluster

log = logging.getLogger(__name__)

_SPARE_FILES = 64
"""Open files that are no connections: logs, listeners, requests."""
_SPARE_FILES_OF_A_CLUSTER = 320
"""The same with Redis and 60 other nodes, each of which takes three."""


def hosts_of(config: Config) -> tuple[str, ...]:
    """Names and addresses by which the settings say that this server is reached."""
    server, app = config.server, config.app
    addresses = (app.http_url, app.websocket_url, server.public_ws_url)
    # "::" has no host name as it stands: an IPv6 address needs its brackets.
    hosts = (server.host, *(row.host for row in server.extra_listen))
    return (*addresses, *(f"[{host}]" if ":" in host else host for host in hosts))


class Parts:
    """Everything that a node is made of. Parts are reached as attributes and own their state themselves."""

    servers: Servers

    def __init__(self, config: Config, request_log: RequestLog) -> None:
        self.config = config
        self.request_log = request_log
        self.started_at = time()
        self.metrics = Metrics()
        self.data = DataDirectory(config.server.data_dir, shared=config.clustered)
        self.store = Store(
            config.storage,
            config.server.data_dir,
            objection=self._database_objection,
            on_open=self._database_opened,
        )
        self.serving = False
        """True from the end of the start to the beginning of the drain."""
        self.draining = False
        self.cluster: Cluster | None = None
        """The other nodes; None on a node that is alone."""
        self.opened: dict[str, Opened] = {}
        """What dialects do when a connection begins, by their name."""
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port

    def build(self, create_application: Callable[[Parts], Application]) -> None:
        """Build all parts. Raises :class:`StartError` with one clear line if it cannot."""
        config = self.config
        self._build_core()
        self._make_publishing()
        self._make_accounts()
        self.overview = self._make_overview()
        self.messaging = self._make_messaging()
        self.action_service = self._make_action_service()
        self.client_service = self._make_client_service()
        uplink = ProtobufUplink(self.messaging, self.store)
        self.protobuf_service = ProtobufService(self.sessions, self.logins, self.messaging, uplink)
        self.dispatcher = Dispatcher(
            command_table(
                self.sessions,
                MessageCommands(
                    self.sessions, self.messaging, self.receipts, self.message_search, self.store
                ),
                self.receipts,
                self.signals,
                self.action_service,
                self.protobuf_service,
                uplink,
            ),
            self.metrics,
        )
        self.gate = self._make_gate()
        self.logins.origins = self.gate.origins
        self.logins.prepare()
        self.uploads = Uploads(config.uploads, config.server.data_dir, self.store, self.metrics)
        self.sweep = Sweep(
            self.context,
            self.metrics,
            config.websocket.heartbeat_seconds,
            config.limits.login_seconds,
            config.websocket.ping_seconds,
            config.websocket.pong_seconds,
            {"protobuf": config.websocket.protobuf_silent_seconds},
            self.protobuf_service.check_token,
        )
        self.streams = self._make_streams()
        self.application = create_application(self)
        self.servers = Servers(
            config,
            self.context,
            self.gate,
            self.metrics,
            self.api,
            self.application,
            self.request_log,
            self.streams,
        )

    def _build_core(self) -> None:
        """Connections, logins, and the services that know where sessions, users and rooms are."""
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
        self.context = ConnectionContext(
            self.poller, self.flusher, self._ended, config.websocket.close_seconds, self._ponged
        )
        policies = {
            name: tenant.policy_of(name) for name, tenant in config.apps.items() if not tenant.same_as
        }
        self.hub = Hub(policies, self.context.connections, self._forgotten)
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
            self.context.connections,
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

    def _database_objection(self, database: str) -> str:
        return "" if self.cluster is None else self.cluster.database.objection(database)

    def _database_opened(self, database: str) -> None:
        if self.cluster is not None:
            self.cluster.registry.report_database(database)

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

    def _make_messaging(self) -> Messaging:
        """Everything about stored messages but the commands."""
        store = self.store
        node_messages = None if self.cluster is None else self.cluster.node_messages
        self.talk_positions = TalkPositions(store)
        messaging = Messaging(
            self.hub,
            self.fanout,
            self.metrics,
            store,
            self.talk_positions,
            node_messages,
            (self.webhooks.stored, partial(publish_stored, self.rooms)),
        )
        store.log_listener = messaging
        signals = Signals(self.hub, self.fanout, messaging.subscriptions.rooms, store, node_messages)
        if node_messages is not None:
            node_messages.handle(
                {
                    ToLog: lambda m: messaging.follower.committed(m.app, m.first, m.last, m.entries),
                    ToFollowers: lambda m: signals.deliver(m.app, m.users, m.group, m.signal),
                }
            )
        self.signals = signals
        self.receipts = Receipts(signals, store)
        self.message_search = MessageSearch(store)
        self.retention = Retention(
            self.config.storage, self.tenants.get, store, self.metrics, self.talk_positions
        )
        return messaging

    def _make_action_service(self) -> ActionService:
        def members(app: str) -> Mapping[str, Sequence[str]]:
            tenant = self.tenants.get(app)
            return {} if tenant is None else tenant.room_members

        def is_storing(app: str) -> bool:
            tenant = self.tenants.get(app)
            return tenant is not None and tenant.keep_talks

        service = ActionService(
            self.hub,
            self.sessions,
            self.rooms,
            self.pushes,
            members,
            self.config.hub.notice_members,
            ActionMessages(self.messaging, is_storing, self.store),
            self.webhooks,
        )
        self.opened["action"] = service.opened
        return service

    def _make_client_service(self) -> ClientService:
        service = ClientService(
            self.hub,
            self.ids,
            self.rooms,
            self.connections,
            self.queries,
            self.tenants,
            self.logins,
            self.metrics,
            self.config.hub.notice_members,
        )
        self.opened["client"] = service.opened
        return service

    def _make_publishing(self) -> None:
        """What sends to targets of all kinds, and what it keeps for later."""
        limits = self.config.limits
        self.pending = PendingPushes(self.pushes, self.presence, limits.pending_pushes, limits.pending_bytes)
        self.publishing = Publishing(
            self.pushes, self.rooms, self.connections, self.pending, self.webhooks.absent
        )
        self.request_ids = RequestIds(self.message_ids)
        self.api = Api(self)
        self.publisher = Publisher(self.api, limits.body_bytes)

    def _make_accounts(self) -> None:
        """Users who register here, and their relations."""
        accounts, store = self.kept_accounts, self.store
        self.friends = Friends(accounts, self.config.accounts.friends)
        self.groups = Groups(store.log, lambda: store.keeps, self.config.accounts.group_members)
        self.accounts = Accounts(
            self.config,
            self.account_tokens,
            accounts,
            self.sessions.close,
            lambda: self.keys.demo,
            None if self.cluster is None else self.cluster.registry.attempt,
            (
                # Uploads first: a bucket may be unavailable while all else is there.
                lambda gone: self.uploads.forget(gone.app, gone.user),
                lambda gone: self.groups.forget(gone.app, gone.user),
                lambda gone: store.log().forget(gone.app, gone.user),
                lambda gone: self.messaging.pongs.forget(gone.app, gone.user),
            ),
        )

    def _make_streams(self) -> Streams:
        events = Events(
            self,
            EventStreams(
                self.sessions, self.logins, self.rooms, self.connections, self.messaging, self.store
            ),
        )
        return Streams(
            self.context,
            self.gate,
            self.metrics,
            {EVENTS_PATH: events.open},
            events.refuse,
            self.config.websocket.client_silent_seconds,
        )

    def _make_overview(self) -> Overview:
        def own_state(asked: StateQuery) -> dict[str, Any]:
            return self.state(asked.debug, asked.detail)

        def own_metrics() -> str:
            return render(self, self.lease().node)

        rpc = None if self.cluster is None else self.cluster.rpc
        seconds = self.config.cluster.rpc_seconds
        overview = Overview(own_state, own_metrics, self.lease, self.registry, rpc, seconds)
        overview.add_to(self.queries)
        return overview

    def _make_gate(self) -> Gate:
        config = self.config
        return Gate(
            {
                **ws_routes(config, self.dispatcher.serve, self.opened),
                self.publisher.path: self.publisher.choose,
            },
            TrustedProxies(config.server.trusted_proxies),
            config.websocket.deflate,
            self.max_connections,
            config.limits.max_connections_per_address,
            config.server.origin_policy == "any",
            config.server.origins,
            self.keys.demo,
            hosts_of(config),
        )

    # --- the ends of connections ----------------------------------------------------------------------------

    def _ended(self, connection: Connection, code: int) -> None:
        self.gate.left(host_of(connection.peer))
        if log.isEnabledFor(logging.DEBUG):
            who = f" of {connection.user} in {connection.app}" if connection.user is not None else ""
            log.debug("end%s: %d", who, code, extra={"connection": connection.peer})
        self.messaging.catch_up.ended(connection)
        self.rooms.ended(connection)
        self.table.ended(connection)
        self.logins.ended(connection, code)
        self.sessions.ended(connection, code)
        self.client_service.ended(connection)
        self.protobuf_service.ended(connection)

    def _ponged(self, connection: Connection, data: bytes) -> None:
        self.messaging.pongs.ponged(connection, data)

    def _forgotten(self, connection: Connection) -> None:
        """A session is addressed no longer, though its connection lives on."""
        self.messaging.catch_up.ended(connection)
        self.rooms.leave_all(connection)

    def announce(self, sockets: Mapping[str, socket.socket]) -> None:
        """Learn the ports and addresses of the listening sockets; nothing is accepted yet."""
        self.servers.announce(sockets)
        self.http_port, self.ws_port = self.servers.ports["http"], self.servers.ports["websocket"]

    # --- the state of the node ------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether this node can do its work."""
        one = self.cluster is None or not self.cluster.database.wrong
        return self.serving and self.registry.healthy() and self.store.healthy() and one

    def lease(self) -> Lease:
        """The lease of this node, as of now. Only operators see that of a node without a cluster."""
        return replace(
            self.registry.lease,
            connections=len(self.context.connections),
            counts=self.counts(),
            draining=self.draining,
        )

    def counts(self) -> dict[str, int]:
        """Users here by app, of those registered apps that have any."""
        return {app.name: len(app.users) for app in self.hub.registered() if app.users}

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """What ``/system/state`` tells of this self.

        With ``debug`` also peers and users, one by one; with ``detail`` also what the original does not have.
        """
        connections = self.hub.connections()
        apps = {name: len(app.users) for name, app in self.hub.apps.items()}
        manager: dict[str, Any] = {
            "chanBroadcastLen": sum(isinstance(writer, Connection) for writer in self.flusher.dirty)
            + len(self.flusher.bulk),
            "chanLoginLen": 0,
            "chanRegisterLen": len(self.poller.ready),
            "chanUnregisterLen": len(self.context.closing),
            "clientsLen": len(connections),
            "usersLen": sum(apps.values()),
        }
        if debug:
            manager["clients"] = [connection.peer for connection in connections]
            manager["users"] = [f"{name}_{user}" for name in apps for user in self.hub.user_names(name)]
        state = {
            "managerInfo": manager,
            "numCPU": os.cpu_count() or 1,
            "numGoroutine": self.poller.count + self.servers.running,
        }
        if not detail:
            return state
        return {
            **state,
            "apps": apps,
            "version": __version__,
            "ready": self.ready(),
            "clustered": self.cluster is not None,
            "maxConnections": self.gate.limit,
            "uptimeSeconds": round(time() - self.started_at, 1),
            "cpuSeconds": round(sum(os.times()[:2]), 3),
            "memoryBytes": resident_bytes(),
            "metrics": self.metrics.snapshot(),
            "msgIDs": {
                "kept": len(self.dedupe),
                "repeats": self.dedupe.repeats,
                "evicted": self.dedupe.evicted,
            },
        }
