"""The parts of a node below its HTTP API, built in order from the configuration.

Only this module knows all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from gevent import Greenlet
from msgspec import Struct
from msgspec.structs import asdict, replace

from imserver import __version__
from imserver.auth.accounts import AccountLookup, NoAccountLookup
from imserver.auth.authority import AllowLists, Authority, Keys
from imserver.auth.back_ends import BackEnds, NoBackEnds
from imserver.auth.issuers import Issuers
from imserver.auth.login import Logins
from imserver.auth.observer import NoObserver, Observer
from imserver.auth.page_tokens import PageTokens
from imserver.auth.rates import SenderRates
from imserver.auth.relations import NoRelations, Relations
from imserver.auth.reviews import NoReviews, Reviews
from imserver.auth.rules import AppObjection
from imserver.auth.tenants import Tenants
from imserver.channels.client_commands import ChannelCommands
from imserver.channels.consent import ChannelConsent
from imserver.channels.stored import ChannelLog
from imserver.channels.streamed_messages import ChannelStreams, StreamedMessages
from imserver.cluster.nodes import NodeQueries, Overview, StateQuery
from imserver.cluster.registry import Lease, Registry, TemporaryValues
from imserver.config.settings import Config
from imserver.config.values import CORE, Declarations
from imserver.core.alone import Alone
from imserver.core.network import build_network
from imserver.core.stored_messages import build_stored_messages
from imserver.hub.acks import AckTracker
from imserver.hub.expiry import Check
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.logging import RequestLog
from imserver.metrics import Metrics, resident_bytes
from imserver.process import DataDirectory, derive_key
from imserver.protocol.dialect import Dialect
from imserver.push.idempotency import Idempotency
from imserver.push.pending import PendingPushes
from imserver.push.push import Publishing, Reach
from imserver.sessions.connection_ids import ConnectionIds, ConnectionTable, new_birth
from imserver.sessions.sessions import Sessions
from imserver.storage.contract import Erasure, tables_of
from imserver.storage.store import Store
from imserver.transport.connection import Connection, Serve
from imserver.transport.dispatch import CommandTable, Dispatcher
from imserver.transport.gate import Gate, GatePolicy, Opened, Origins
from imserver.transport.outgoing import Outgoing
from imserver.transport.proxies import TrustedProxies
from imserver.transport.stream import StreamPath

if TYPE_CHECKING:
    from imserver.core.cluster import Cluster
    from imserver.metric_table import Metric

log = logging.getLogger(__name__)

_greenlets: WeakSet[Greenlet[..., Any]] = WeakSet()
"""All greenlets of this process that have not been freed."""
Greenlet.add_spawn_callback(_greenlets.add)


OnEnded = Callable[[Connection, int], None]
"""Called with each connection that has ended, and its close code. Never switches."""


OnForgotten = Callable[[Connection], None]
"""Called with each session that is no longer addressed, while its connection stays open. Never switches."""


def _nothing(*_: object) -> None:
    pass


def _no_streams(_serve: Serve) -> Mapping[str, StreamPath]:
    return {}


class FeatureParts(Struct, frozen=True):
    """The parts that a feature adds to one node.

    ``service``: what its routes and other features use. ``opened``: dialect → its function for new
    connections. ``prepare`` reads the settings of all apps before the node serves, and may raise StartError.
    ``reload`` reads them again, and applies new limits (SIGHUP). ``silent_seconds``: dialect → after how many
    seconds without traffic the sweep closes its sessions; of others it expects heartbeats. ``checks``:
    dialect → the sweep's check of its sessions. ``streams``: path of streams → how it is served, made
    from the function that serves messages. ``tick``: called once per second; they never switch.
    ``run``: functions of greenlets, from the start of the node until they are killed. ``drain``: called when
    the servers have drained, before the connections of clients end. ``erasure``: of what is more than rows.
    ``counters``: numbers since the start, for the state of the node.
    ``finish``: called when all connections have ended, while the greenlets of the node still run.
    ``stop``: called at the end of the node, before its store is closed.
    """

    service: Any = None
    commands: CommandTable = {}
    opened: Mapping[str, Opened] = {}
    ended: tuple[OnEnded, ...] = ()
    prepare: Callable[[], object] = _nothing
    reload: Callable[[Config], object] = _nothing
    silent_seconds: Mapping[str, float] = {}
    checks: Mapping[str, Check] = {}
    streams: Callable[[Serve], Mapping[str, StreamPath]] = _no_streams
    forgotten: tuple[OnForgotten, ...] = ()
    tick: tuple[Callable[[], object], ...] = ()
    run: tuple[Callable[[], None], ...] = ()
    drain: Callable[[], object] = _nothing
    erasure: Erasure | None = None
    counters: Struct | None = None
    finish: Callable[[], object] = _nothing
    stop: Callable[[], object] = _nothing


class Hooks(Struct, frozen=True):
    """The answers to questions about messages and clients, and the observer."""

    reviews: Reviews
    back_ends: BackEnds
    observer: Observer


_Answer = TypeVar("_Answer")


class Answers(Struct, frozen=True):
    """The answers of a feature to the questions of the core. None: this feature does not answer.

    The core calls the first function for each question, with the parts that it has built so far. Where nobody
    answers, the core has an answer of its own.
    ``accounts``: who holds a token of an account, and which users are accounts. ``relations``: whether a user
    may reach another, and see that they are online; ``accounts`` is built. ``hooks``: who speaks for the back
    ends of apps; connections, apps and the store are built, logins are not.
    """

    accounts: Callable[[Core], AccountLookup] | None = None
    relations: Callable[[Core], Relations] | None = None
    hooks: Callable[[Core], Hooks] | None = None


class Core:
    """All parts of a node below its HTTP API, as attributes. Each part owns its state.

    ``objection`` checks the settings of an app for the core and all features. ``declared``: which settings
    there are. ``answers``: those of the features, in their order.
    """

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        objection: AppObjection,
        declared: Declarations = CORE,
        answers: Sequence[Answers] = (),
    ) -> None:
        self._objection = objection
        self._answers = answers
        self.declared = declared
        self.features: dict[str, FeatureParts] = {}
        """Name of a feature → its parts."""
        self.metric_rows: list[Callable[[], Iterable[Metric]]] = []
        """Functions that return the metrics of features."""
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
            log_listener=lambda: self.messaging,
        )
        self.serving = False
        """True from the end of the start to the beginning of the drain."""
        self.draining = False
        self.cluster: Cluster | None = None
        """The cluster parts; None on a single node."""
        self.on_ended: tuple[OnEnded, ...] = ()
        """Called in this order."""
        self.on_forgotten: tuple[OnForgotten, ...] = ()
        """Called in this order."""
        self.opened: dict[str, Opened] = {}
        """Dialect → its function for new connections."""
        self.chat_page = ""
        """Address of this server's own page for chats, which a feature sets; ``""``: it has none."""
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port

    def build(self) -> None:
        """Build all parts. Raises :class:`StartError` with a one-line message."""
        config = self.config
        self._build_core()
        self._make_publishing()
        self._make_messaging()
        self.overview = self._make_overview()
        self.channel_consent = ChannelConsent(self.back_ends, self.reviews, self.store, self.channels)
        self.channel_commands = ChannelCommands(
            self.channels,
            self.logins,
            self.channel_consent,
            {},
            self.table,
        )
        self._make_streams()
        self.dispatcher = self._make_dispatcher()
        self.gate = Gate(self.proxies, self.origins, config.websocket.deflate, self.gate_policy(config))
        self.on_ended = (
            self.messaging.catch_up.ended,
            self.channels.members.ended,
            self.table.ended,
            self.logins.ended,
            self.sessions.ended,
        )

    def key_for(self, purpose: str) -> bytes:
        """A key for one purpose, which all nodes derive from their common secret."""
        return derive_key(self._secret, purpose)

    def learn_dialects(self, dialects: Iterable[Dialect]) -> None:
        """Apply what dialects say of origins and tokens."""
        self.origins.open_dialects.update(row.name for row in dialects if row.any_origin)
        self.logins.bare_dialects.update(row.name for row in dialects if row.bare_tokens)

    def join(self, name: str, feature: FeatureParts) -> None:
        """Add the parts of a feature."""
        self.features[name] = feature
        self.dispatcher.add(feature.commands)
        self.opened.update(feature.opened)
        self.on_ended += feature.ended
        self.sweep.silent_seconds.update(feature.silent_seconds)
        self.sweep.checks.update(feature.checks)
        self.on_forgotten += feature.forgotten

    @property
    def erasures(self) -> tuple[Erasure, ...]:
        """The erasures of all features."""
        return tuple(each.erasure for each in self.features.values() if each.erasure is not None)

    def erase_user(self, app: str, user: str) -> None:
        """Erase what features and the core have of a deleted user, in this order.

        May switch. May be called again: then it erases what was added meanwhile. Raises Unavailable.
        """
        # Features first: a bucket may be unavailable while everything else is reachable.
        for erasure in self.erasures:
            erasure.user(app, user)
        self.channels.erase_user(app, user)
        self.store.delete_rows_of_user(app, user, tables_of(self.erasures))
        self.store.log().erase_user(app, user)
        self.messaging.positions.forget(app, user)

    def prepare(self) -> None:
        """Read the settings of all apps. Raises StartError."""
        self.logins.prepare()
        for feature in self.features.values():
            feature.prepare()

    def _build_core(self) -> None:
        """Build connections, logins, and the services that locate sessions, users and channels."""
        config = self.config
        self.data.start()
        self._secret = secret = self.data.secret(config.server.secret_file)
        network = build_network(config, self.metrics, self._ended, self._ponged)
        self.max_connections, self.sweep = network.max_connections, network.sweep
        self.poller, self.flusher, self.context = network.poller, network.flusher, network.context
        policies = {
            name: tenant.policy_of(name) for name, tenant in config.apps.items() if not tenant.same_as
        }
        self.hub = Hub(policies, self.context.connections, self._forgotten)
        self.fanout = Fanout(self.hub, self.flusher, self.metrics, config.hub.notice_members)
        self.tenants = Tenants(config, self.store, self.hub, self._objection, self.declared)
        self.keys = Keys(config, self.tenants.resolve)
        self.proxies = TrustedProxies(config.server.trusted_proxies)
        self.origins = Origins(self.proxies, self.gate_policy(config))
        api = config.api
        self.idempotency = Idempotency(api.dedupe_ids, api.dedupe_seconds, shared=self.keys.demo)
        self.queries = NodeQueries()
        self.ids = ConnectionIds(secret, new_birth())
        self.table = ConnectionTable(self.hub, self.ids)
        self._make_logins(secret)
        self.relations: Relations = self._answer(each.relations for each in self._answers) or NoRelations()
        self._choose_services(secret)
        self.tenants.on_delete.append(self.sessions.close_app)

    def _answer(self, functions: Iterable[Callable[[Core], _Answer] | None]) -> _Answer | None:
        """The answers of the first feature that has any."""
        return next((function(self) for function in functions if function is not None), None)

    def _make_logins(self, secret: bytes) -> None:
        """Build authentication and login rules."""
        self.sender_rates = SenderRates(self.config.limits.bot_rate, self.config.limits.guest_rate)
        self.accounts: AccountLookup = (
            self._answer(each.accounts for each in self._answers) or NoAccountLookup()
        )
        self.page_tokens = PageTokens(self.config, secret)
        self.outgoing = outgoing = Outgoing()
        hooks = self._answer(each.hooks for each in self._answers) or Hooks(
            NoReviews(self.tenants), NoBackEnds(), NoObserver()
        )
        self.reviews, self.back_ends, self.observer = hooks.reviews, hooks.back_ends, hooks.observer
        self.logins = Logins(
            self.tenants,
            self.page_tokens,
            self.accounts,
            lambda: self.keys.demo,
            self.back_ends,
            self.observer,
            Issuers(outgoing),
            secret,
            self.context.connections,
            self.metrics,
            self.origins,
        )
        self.allowed = AllowLists()
        self.allowed.learn(self.tenants.all())
        self.tenants.on_change += [self.keys.app_changed, self.logins.changed, self.allowed.changed]
        self.tenants.on_delete += [self.keys.app_deleted, self.logins.deleted, self.allowed.deleted]
        self.authority = Authority(self.keys, self.page_tokens, self.logins, self.accounts, self.allowed)

    def _choose_services(self, secret: bytes) -> None:
        """Build the services that find users, channels and ids: of a node alone, or of a cluster node."""
        config = self.config
        parts = (
            self.store,
            self.queries,
            self.table,
            self.hub,
            self.fanout,
            self.idempotency,
            self.metrics,
            self.logins,
            self.tenants,
            ChannelLog(self.store, lambda app: self.messaging.follower.follow(app), self.metrics),
        )
        services: Alone | Cluster
        if config.clustered:
            # Imported here: Redis and zerorpc cost memory that a single node saves.
            from imserver.core.cluster import Cluster

            services = self.cluster = Cluster(config, secret, *parts)
        else:
            services = Alone(config.limits.history_bytes, *parts)
        self.registry: Registry = services.registry
        self.pushes = services.pushes
        self.reach: Reach = services.reach
        self.sessions: Sessions = services.sessions
        self.presence, self.channels = services.presence, services.channels
        self.connections = services.connections
        self.node_messages, self.others, self.rpc = services.node_messages, services.others, services.rpc
        """None on a node alone."""
        self.attempt = services.attempt
        """Counts attempts on all nodes together; None on a node alone."""
        self.temporary_values: TemporaryValues = services.values

    def _database_objection(self, database: str) -> str:
        return "" if self.cluster is None else self.cluster.database.objection(database)

    def _database_opened(self, database: str) -> None:
        if self.cluster is not None:
            self.cluster.registry.report_database(database)

    def _make_messaging(self) -> None:
        """Build the services for stored messages."""
        self.stored_messages = stored = build_stored_messages(
            self.config.storage,
            self.store,
            self.hub,
            self.fanout,
            self.metrics,
            self.logins,
            self.sessions,
            self.channels,
            self.tenants,
            self.relations,
            self.reviews,
            self.observer,
            self.sender_rates,
            self.node_messages,
            AckTracker(self.metrics, self.config.limits.node_outbox_bytes),
        )
        self.messaging, self.signals, self.receipts = stored.messaging, stored.signals, stored.receipts
        self.messaging.add_to(self.queries)
        self.message_search, self.retention = stored.search, stored.retention

    def _make_publishing(self) -> None:
        """Build the services that push to all kinds of targets, and the pending pushes."""
        limits = self.config.limits
        self.pending = PendingPushes(
            self.reach.to_user,
            self.presence,
            limits.pending_pushes,
            limits.pending_bytes,
            node_messages=self.node_messages,
        )
        # After the sessions were closed: what they have not acknowledged becomes pending pushes.
        self.tenants.on_delete.append(self.pending.forget)
        self.publishing = Publishing(
            self.reach,
            self.channels,
            self.connections,
            self.pending,
            self.store,
            self.idempotency,
            self.observer.absent,
        )

    def _make_streams(self) -> None:
        """Build streamed messages in channels."""
        limits = self.config.limits
        in_channels = ChannelStreams(self.channels, self.hub, self.connections)
        self.streamed_messages = StreamedMessages(in_channels, self.table, self.queries, limits, self.others)
        self.tenants.on_delete.append(self.streamed_messages.forget)

    def _make_dispatcher(self) -> Dispatcher:
        services = (self.sessions, *self.stored_messages.commands, self.channel_commands)
        return Dispatcher((service.rows() for service in services), self.metrics)

    def _make_overview(self) -> Overview:
        def own_state(query: StateQuery) -> dict[str, Any]:
            return self.state(query.debug, query.detail)

        def own_metrics() -> str:
            # Imported at the first scrape: half a megabyte that a node without scrapes does without.
            from imserver.metric_table import render

            return render(self, self.lease().node, (row for rows in self.metric_rows for row in rows()))

        seconds = self.config.cluster.rpc_seconds
        overview = Overview(own_state, own_metrics, self.lease, self.registry, self.rpc, seconds)
        overview.add_to(self.queries)
        return overview

    def gate_policy(self, config: Config) -> GatePolicy:
        """Limits and origins of ``config``, which may be newer than at the start."""
        server, app = config.server, config.app
        addresses = (app.http_url, app.websocket_url, server.public_ws_url)
        # The address "::" needs brackets as a host name.
        hosts = (server.host, *(row.host for row in server.extra_listen))
        return GatePolicy(
            self.max_connections,
            config.limits.max_connections_per_address,
            server.origin_policy == "any",
            server.origins,
            self.keys.demo,
            (*addresses, *(f"[{host}]" if ":" in host else host for host in hosts)),
        )

    # --- end of a connection --------------------------------------------------------------------------------

    def _ended(self, connection: Connection, code: int) -> None:
        self.gate.left(connection.peer)
        if log.isEnabledFor(logging.DEBUG):
            who = f" of {connection.user} in {connection.app}" if connection.user is not None else ""
            log.debug("connection%s closed: code %d", who, code, extra={"connection": connection.peer})
        for ended in self.on_ended:
            ended(connection, code)

    def _ponged(self, connection: Connection, data: bytes) -> None:
        self.messaging.catch_up.ponged(connection, data)

    def _forgotten(self, connection: Connection) -> None:
        """A session is no longer addressed, but its connection stays open."""
        self.messaging.catch_up.forget(connection)
        for forgotten in self.on_forgotten:
            forgotten(connection)
        self.channels.members.leave_all(connection)

    # --- state of the node ----------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether this node can serve clients."""
        return not self.unready()

    def unready(self) -> str:
        """Why this node cannot serve clients; ``""``: it can."""
        if not self.serving:
            return "it starts or stops"
        if not self.registry.healthy():
            return "Redis is away, or the lease is lost"
        if not self.store.healthy():
            return "the database is away, or refuses writes"
        if self.cluster is not None and self.cluster.database.wrong:
            return "the database is not that of the cluster"
        return ""

    def lease(self) -> Lease:
        """The current lease of this node. On a single node only operators see it."""
        return replace(
            self.registry.lease,
            connections=len(self.context.connections),
            counts=self.counts(),
            draining=self.draining,
        )

    def counts(self) -> dict[str, int]:
        """App → number of its users on this node, for registered apps with users."""
        return {app.name: len(app.users) for app in self.hub.registered() if app.users}

    def _feature_counters(self) -> dict[str, Any]:
        counters = [each.counters for each in self.features.values() if each.counters is not None]
        return {name: value for each in counters for name, value in asdict(each).items()}

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """The content of ``/system/state``.

        ``debug``: with all peers and users. ``detail``: with fields that the original does not have.
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
            "numGoroutine": sum(not greenlet.dead for greenlet in _greenlets),
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
            "metrics": {**self.metrics.snapshot(), **self._feature_counters()},
            "msgIDs": {
                "kept": len(self.idempotency),
                "repeats": self.idempotency.repeats,
                "evicted": self.idempotency.evicted,
            },
        }
