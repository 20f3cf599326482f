"""The parts of a node below its HTTP API, built in order from the configuration.

Only this module knows all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gevent.hub import get_hub
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
from imserver.auth.quotas import BotRates
from imserver.auth.relations import NoRelations, Relations
from imserver.auth.reviews import NoReviews, Reviews
from imserver.auth.rules import AppObjection
from imserver.auth.tenants import Tenants
from imserver.channels.channels import Channels
from imserver.channels.commands import ChannelCommands
from imserver.channels.connections import Connections
from imserver.channels.consent import ChannelConsent
from imserver.channels.stored import ChannelLog
from imserver.channels.streamed_messages import ChannelStreams, StreamedMessages
from imserver.cluster.history import LocalHistory
from imserver.cluster.nodes import NodeQueries, OtherNodes, Overview, StateQuery, ToFollowers, ToLog
from imserver.cluster.registry import Lease, LocalValues, Registry, SoloRegistry
from imserver.config.settings import Config
from imserver.config.values import CORE, Declarations
from imserver.hub.expiry import Check, Sweep
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.logging import RequestLog
from imserver.messages.annotations import AnnotationCommands
from imserver.messages.messaging import MessageCommands, MessageSearch, Messaging
from imserver.messages.receipts import Receipts, Signals
from imserver.messages.retention import Retention
from imserver.metrics import Metrics, resident_bytes
from imserver.process import DataDirectory, connection_limit, derive_key, openable_files
from imserver.protocol.dialect import Dialect
from imserver.push.idempotency import Dedupe, MessageIds, RequestIds
from imserver.push.publish import PendingPushes, Publishing
from imserver.push.push import Delivery, LocalReach, Pushes
from imserver.sessions.connection_ids import ConnectionIds, ConnectionTable, new_birth
from imserver.sessions.presence import Presence
from imserver.sessions.sessions import Sessions
from imserver.storage.action_positions import ActionPositions
from imserver.storage.contract import Erasure, tables_of
from imserver.storage.store import Store
from imserver.transport import poller
from imserver.transport.connection import Connection, ConnectionContext, Serve
from imserver.transport.dispatch import CommandTable, Dispatcher
from imserver.transport.gate import Gate, GatePolicy, Opened, Origins
from imserver.transport.outbox import Budget, Flusher
from imserver.transport.outgoing import Outgoing
from imserver.transport.proxies import TrustedProxies
from imserver.transport.stream import StreamPath

if TYPE_CHECKING:
    from imserver.core.cluster import Cluster
    from imserver.metric_table import Metric

log = logging.getLogger(__name__)


OnEnded = Callable[[Connection, int], None]
"""Called with each connection that has ended, and its close code. Never switches."""


OnForgotten = Callable[[Connection], None]
"""Called with each session that is no longer addressed, while its connection stays open. Never switches."""


def _nothing(*_: object) -> None:
    pass


def _no_streams(_serve: Serve) -> Mapping[str, StreamPath]:
    return {}


class FeatureParts(Struct, frozen=True):
    """What a feature adds to one node.

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
    """Who reviews messages, decides about clients and hears what happens."""

    reviews: Reviews
    back_ends: BackEnds
    observer: Observer


NO_HOOKS: Final = Hooks(NoReviews(), NoBackEnds(), NoObserver())

_Answer = TypeVar("_Answer")


class Answers(Struct, frozen=True):
    """Who answers the questions of the core. None: this feature does not answer.

    The core calls the first function for each question, with the parts that it has built so far. Where nobody
    answers, the core has an answer of its own.
    ``accounts``: who holds a token of an account, and which users are accounts. ``relations``: whether a user
    may reach another, and see that they are online; ``accounts`` is built. ``hooks``: who speaks for the back
    ends of apps; connections, apps and the store are built, logins are not.
    """

    accounts: Callable[[Parts], AccountLookup] | None = None
    relations: Callable[[Parts], Relations] | None = None
    hooks: Callable[[Parts], Hooks] | None = None


class Parts:
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
        self.messaging = self._make_messaging()
        self.temporary_values = LocalValues() if self.cluster is None else self.cluster.registry
        self.overview = self._make_overview()
        self.channel_consent = ChannelConsent(self.back_ends, self.reviews, self.store, self.channels)
        self.channel_commands = ChannelCommands(
            self.channels,
            self.logins,
            self.channel_consent,
            {},
            self.table,
        )
        others = None if self.cluster is None else self.cluster.others
        self._make_streams(others)
        self.dispatcher = self._make_dispatcher()
        self.gate = Gate(self.proxies, self.origins, config.websocket.deflate, self.gate_policy(config))
        self.sweep = Sweep(
            self.context,
            self.metrics,
            config.websocket.heartbeat_seconds,
            config.limits.login_seconds,
            config.websocket.ping_seconds,
            config.websocket.pong_seconds,
        )
        self.on_ended = (
            self.messaging.catch_up.ended,
            self.channels.ended,
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
        """Those of all features."""
        return tuple(each.erasure for each in self.features.values() if each.erasure is not None)

    def erase_user(self, app: str, user: str) -> None:
        """Erase what features and the core have of a deleted user, in this order.

        May switch. May be called again: then it erases what was added meanwhile. Raises Unavailable.
        """
        # Features first: a bucket may be unavailable while everything else is reachable.
        for erasure in self.erasures:
            erasure.user(app, user)
        self.store.delete_rows_of_user(app, user, tables_of(self.erasures))
        self.store.log().erase_user(app, user)
        self.messaging.pongs.forget(app, user)

    def prepare(self) -> None:
        """Read the settings of all apps. Raises StartError."""
        self.logins.prepare()
        for feature in self.features.values():
            feature.prepare()

    def _build_core(self) -> None:
        """Build connections, logins, and the services that locate sessions, users and channels."""
        config, limits = self.config, self.config.limits
        self.max_connections = connection_limit(config)
        log.info("this process may open %d files", openable_files())
        self.data.start()
        loop = get_hub().loop
        self._secret = secret = self.data.secret(config.server.secret_file)
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
        self.tenants = Tenants(config, self.store, self.hub, self._objection, self.declared)
        self.keys = Keys(config, self.tenants.resolve)
        self.proxies = TrustedProxies(config.server.trusted_proxies)
        self.origins = Origins(self.proxies, self.gate_policy(config))
        self.dedupe = Dedupe(config.api.dedupe_ids, config.api.dedupe_seconds, shared=self.keys.demo)
        self.queries = NodeQueries()
        self.ids = ConnectionIds(secret, new_birth())
        self.table = ConnectionTable(self.hub, self.ids)
        self._make_logins(secret)
        self.relations: Relations = self._answer(each.relations for each in self._answers) or NoRelations()
        self._choose_services(secret)
        self.tenants.on_delete.append(self.sessions.close_app)

    def _answer(self, functions: Iterable[Callable[[Parts], _Answer] | None]) -> _Answer | None:
        """The answers of the first feature that has any."""
        return next((function(self) for function in functions if function is not None), None)

    def _make_logins(self, secret: bytes) -> None:
        """Build authentication and login rules."""
        self.bot_rates = BotRates(self.config.limits.bot_rate)
        self.accounts: AccountLookup = (
            self._answer(each.accounts for each in self._answers) or NoAccountLookup()
        )
        self.page_tokens = PageTokens(self.config, secret)
        self.outgoing = outgoing = Outgoing()
        hooks = self._answer(each.hooks for each in self._answers) or NO_HOOKS
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
        """Choose the services of a single node or of a cluster."""
        self.sessions: Sessions
        self.presence: Presence
        self.pushes: Pushes
        self.message_ids: MessageIds
        self.registry: Registry
        self.channels: Channels
        self.connections: Connections
        channel_log = ChannelLog(self.store, lambda app: self.messaging.follower.follow(app), self.metrics)
        if not self.config.clustered:
            # The services use the hub. The registry only holds the lease, for operators.
            self.registry = SoloRegistry()
            self.sessions = Sessions(self.hub, self.fanout, self.metrics, self.logins, self.store)
            self.message_ids = MessageIds(self.dedupe)
            self.pushes = Pushes(self.message_ids, LocalReach(self.message_ids, self.delivery), self.metrics)
            history = LocalHistory(self.config.limits.history_bytes, self.hub.member_count)
            self.tenants.on_delete.append(history.forget)
            self.channels = Channels(
                self.hub, self.fanout, self.metrics, self.table, self.tenants.get, history, channel_log
            )
            self.connections = Connections(
                self.table,
                self.channels,
                self.hub,
                self.fanout,
                self.queries,
                self.registry,
            )
            self.presence = Presence(self.hub, self.table, self.registry)
            return
        # Imported here: Redis and zerorpc cost memory that a single node saves.
        from imserver.core.cluster import Cluster

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
            self.tenants,
            channel_log,
        )
        self.cluster = cluster
        self.message_ids = cluster.message_ids
        self.registry = cluster.registry
        self.sessions, self.presence, self.pushes = cluster.sessions, cluster.presence, cluster.pushes
        self.channels, self.connections = cluster.channels, cluster.connections

    def _database_objection(self, database: str) -> str:
        return "" if self.cluster is None else self.cluster.database.objection(database)

    def _database_opened(self, database: str) -> None:
        if self.cluster is not None:
            self.cluster.registry.report_database(database)

    def _make_messaging(self) -> Messaging:
        """Build everything for stored messages except the commands."""
        store = self.store
        node_messages = None if self.cluster is None else self.cluster.node_messages
        self.action_positions = ActionPositions(store)
        messaging = Messaging(
            self.hub,
            self.fanout,
            self.metrics,
            store,
            self.logins,
            self.action_positions,
            self.reviews,
            self.bot_rates,
            self.channels,
            node_messages,
            self.observer,
        )
        signals = Signals(
            self.hub,
            self.fanout,
            messaging.log_subscriptions.followers,
            store,
            self.relations,
            messaging.streams,
            node_messages,
        )
        if node_messages is not None:
            node_messages.handle(
                {
                    ToLog: lambda m: messaging.follower.committed(m.app, m.first, m.last, m.entries),
                    ToFollowers: signals.deliver,
                }
            )
        self.signals = signals
        self.receipts = Receipts(signals, store)
        self.message_search = MessageSearch(store)
        self.retention = Retention(
            self.config.storage,
            self.tenants.get,
            store,
            self.metrics,
            self.action_positions,
            self.observer,
        )
        return messaging

    def _make_publishing(self) -> None:
        """Build the services that push to all kinds of targets, and the pending pushes."""
        limits = self.config.limits
        self.pending = PendingPushes(
            self.pushes,
            self.presence,
            limits.pending_pushes,
            limits.pending_bytes,
            node_messages=None if self.cluster is None else self.cluster.node_messages,
        )
        # After the sessions were closed: what they have not acknowledged becomes pending pushes.
        self.tenants.on_delete.append(self.pending.forget)
        self.request_ids = RequestIds(self.message_ids)
        self.publishing = Publishing(
            self.pushes,
            self.channels,
            self.connections,
            self.pending,
            self.store,
            self.request_ids,
            self.observer.absent,
        )

    def _make_streams(self, others: OtherNodes | None) -> None:
        """Build streamed messages in channels."""
        limits = self.config.limits
        in_channels = ChannelStreams(self.channels, self.hub, self.connections)
        self.streamed_messages = StreamedMessages(in_channels, self.table, self.queries, limits, others)
        self.tenants.on_delete.append(self.streamed_messages.forget)

    def _make_dispatcher(self) -> Dispatcher:
        messages = MessageCommands(
            self.sessions, self.messaging, self.receipts, self.message_search, self.store
        )
        services = (
            self.sessions,
            messages,
            AnnotationCommands(self.store),
            self.receipts,
            self.signals,
            self.channel_commands,
        )
        return Dispatcher((service.rows() for service in services), self.metrics)

    def _make_overview(self) -> Overview:
        def own_state(asked: StateQuery) -> dict[str, Any]:
            return self.state(asked.debug, asked.detail)

        def own_metrics() -> str:
            # Imported at the first scrape: half a megabyte that a node without scrapes does without.
            from imserver.metric_table import render

            return render(self, self.lease().node, (row for rows in self.metric_rows for row in rows()))

        rpc = None if self.cluster is None else self.cluster.rpc
        seconds = self.config.cluster.rpc_seconds
        overview = Overview(own_state, own_metrics, self.lease, self.registry, rpc, seconds)
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
        self.messaging.pongs.ponged(connection, data)

    def _forgotten(self, connection: Connection) -> None:
        """A session is no longer addressed, but its connection stays open."""
        self.messaging.catch_up.forget(connection)
        for forgotten in self.on_forgotten:
            forgotten(connection)
        self.channels.leave_all(connection)

    # --- state of the node ----------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether this node can serve clients."""
        one = self.cluster is None or not self.cluster.database.wrong
        return self.serving and self.registry.healthy() and self.store.healthy() and one

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
            "numGoroutine": self.poller.count + self.metrics.http_running,
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
                "kept": len(self.dedupe),
                "repeats": self.dedupe.repeats,
                "evicted": self.dedupe.evicted,
            },
        }
