"""The node: builds all parts from the configuration and runs them. The composition root of one process."""

from __future__ import annotations

import gc
import importlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event as Signal
from gevent.hub import get_hub

from imserver import errors
from imserver.api.call import Api
from imserver.api.metrics import render
from imserver.api.v1.events import PATH as EVENTS_PATH
from imserver.api.v1.events import Events
from imserver.api.v1.publisher import Publisher
from imserver.auth import Auth
from imserver.cluster.address import node_name
from imserver.cluster.contract import Lease, Registry
from imserver.cluster.memory import MemoryRegistry
from imserver.config import Config
from imserver.doors import Application, Doors, bind_all
from imserver.errors import StartError
from imserver.exposure import refuse_open_demo
from imserver.hub.fanout import Fanout
from imserver.hub.hub import Hub
from imserver.hub.pings import Pings
from imserver.hub.sweep import Sweep
from imserver.lifecycle import DataDirectory, raise_file_limit
from imserver.logs import RequestLog
from imserver.metrics import Metrics
from imserver.pages.compiled import precompile
from imserver.report import Report
from imserver.services.allow_lists import AllowLists
from imserver.services.attendance import Attendance
from imserver.services.clients import Clients
from imserver.services.connection_ids import ConnectionIds, new_birth
from imserver.services.connections import Connections, LocalConnections
from imserver.services.dedupe import Dedupe
from imserver.services.delivery import Delivery
from imserver.services.dispatch import Dispatcher
from imserver.services.holding import Holding
from imserver.services.idempotency import Ids
from imserver.services.local_rooms import LocalRooms
from imserver.services.logins import Logins
from imserver.services.outgoing import Outgoing
from imserver.services.overview import Overview
from imserver.services.presence import LocalPresence, Presence
from imserver.services.publishing import Publishing
from imserver.services.pushing import LocalPushes, Pushes
from imserver.services.questions import Questions, State
from imserver.services.removals import LocalRemovals, Removals
from imserver.services.rooms import Rooms
from imserver.services.rules import objection
from imserver.services.sessions import Sessions
from imserver.services.streams import EventStreams
from imserver.services.talks import Talks
from imserver.services.tenants import Tenant, Tenants
from imserver.services.webhooks import Webhooks
from imserver.speaking import paths_of
from imserver.storage.store import Store
from imserver.transport import poller
from imserver.transport.connection import OPEN, Carrier, Connection
from imserver.transport.gate import Gate, Opened, host_of
from imserver.transport.outbox import Budget, Flusher
from imserver.transport.proxies import TrustedProxies
from imserver.transport.stream import Streams

if TYPE_CHECKING:
    from imserver.clustering import Cluster

log = logging.getLogger(__name__)

_SPARE_FILES = 64
"""Open files that are no connections: logs, listeners, requests."""
_SPARE_FILES_OF_A_CLUSTER = 320
"""The same with Redis and 60 other nodes, each of which takes three."""
_GC_THRESHOLDS = (50_000, 20, 100)
_TICK_SECONDS = 1.0
_CLOSES_PER_TURN = 200
_LOADED_LATE = (
    "encodings.ascii",
    "encodings.idna",
    "encodings.unicode_escape",
    "gevent.pool",
    "gevent.resolver.thread",
    "gevent.threadpool",
)
_WEBHOOK_SECONDS = 2.0
"""Time for back ends to be told of the last events."""
_LAST_REQUESTS_SECONDS = 2.0
"""Time for requests that were under way when the drain began."""


class Node:
    """One process. Owner of every part; parts are reached as attributes and own their state themselves.

    ``create_application`` makes the WSGI application of this node (pages and the routes that the front does
    not answer itself). ``listeners`` are sockets that listen already, ``"http"`` and ``"websocket"``, where
    somebody else has made them; the node closes them at its end. Without them it binds its own.
    """

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        create_application: Callable[[Node], Application],
        listeners: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self.config = config
        self._reread = config
        """The same as it was read last."""
        self._inherited = listeners
        self.request_log = request_log
        self.started_at = time()
        self.metrics = Metrics()
        self.data = DataDirectory(config.server.data_dir, shared=config.clustered)
        self.store = Store(config.storage, config.server.data_dir)
        self._create_application = create_application
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._listeners = listeners
        self._stopped = Signal()
        self._unwatch_collector: Callable[[], None] = lambda: None
        self._ready = False
        self.draining = False
        self.report = Report(self)
        self.opened: dict[str, Opened] = {}
        """What dialects do when a connection begins, by their name."""
        self.cluster: Cluster | None = None
        """The other nodes; None on a node that is alone."""
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port

    # --- building -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build all parts but the listeners: what an application under a foreign server needs.

        Raises :class:`StartError` with one clear line if that is impossible.
        """
        config, limits = self.config, self.config.limits
        self.max_connections = self._connection_limit(raise_file_limit())
        self.data.start()
        loop = get_hub().loop
        secret = self.data.secret(config.server.secret_file)
        self.auth = Auth(config, secret)
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
        self.hub = Hub(policies, self.carrier.connections)
        self.fanout = Fanout(self.flusher, self.metrics, config.hub.notice_members)
        self.delivery = Delivery(self.hub, self.fanout)
        self.dedupe = Dedupe(config.api.dedupe_ids, config.api.dedupe_seconds, shared=self.auth.demo)
        self.questions = Questions()
        self.ids = ConnectionIds(secret, new_birth())
        self.tenants = Tenants(config, self.store, self.hub, objection)
        self._make_logins(secret)
        self._choose_services(secret)
        self.hub.on_forgotten = self.rooms.leave_all
        self._make_publishing()
        self.overview = self._make_overview()
        self.dispatcher = Dispatcher(self.sessions, self.metrics)
        self.talks = self._make_talks()
        self.clients = self._make_clients()
        self.gate = self._make_gate()
        self.logins.origins = self.gate.origins
        self.logins.prepare()
        self.sweep = Sweep(
            self.carrier,
            self.metrics,
            config.websocket.heartbeat_seconds,
            limits.login_seconds,
            config.websocket.ping_seconds,
            config.websocket.pong_seconds,
        )
        self.api = self.publisher.api = Api(self)
        self.streams = self._make_streams()
        self.application = self._create_application(self)
        self.doors = Doors(
            config,
            self.carrier,
            self.gate,
            self.metrics,
            self.api,
            self.application,
            self.request_log,
            self.streams,
        )
        self._open_store()

    def _open_store(self) -> None:
        """Learn what is kept: apps, and keys. Raises StartError."""

        def secrets_end_demo(tenant: Tenant) -> None:
            if tenant.jwt and tenant.stored:
                self.auth.close()

        def demo_ended() -> None:
            log.info("demo mode is over: requests need a key")
            self._keep_limits()

        self.store.on_changes.append(self.auth.learn)
        self.tenants.on_change.append(secrets_end_demo)
        self.auth.on_closed = demo_ended
        self.store.start()

    def _make_logins(self, secret: bytes) -> None:
        """Who may log in, and what back ends are told and asked."""
        self.webhooks = Webhooks(
            Outgoing(),
            lambda connection: self.connections.id_of(connection),
            lambda: self.registry.lease.node,
        )
        self.logins = Logins(
            self.tenants,
            self.auth.may_login,
            self.webhooks,
            secret,
            self.carrier.connections,
            self.metrics,
        )
        self.allowed = AllowLists()
        self.allowed.learn(self.tenants.all())
        self.tenants.on_change += [self.logins.changed, self.allowed.changed]

    def _choose_services(self, secret: bytes) -> None:
        """What asks only this node, or what asks the others too."""
        self.sessions: Sessions
        self.presence: Presence
        self.pushes: Pushes
        self.removals: Removals
        self.registry: Registry
        self.rooms: Rooms
        self.connections: Connections
        if not self.config.clustered:
            # It asks its own hub who is here; the registry tells operators of the one node that lives.
            self.registry = MemoryRegistry()
            self.sessions = Sessions(self.hub, self.fanout, self.metrics, self.logins)
            self.pushes = LocalPushes(self.dedupe, self.delivery, self.metrics)
            self.removals = LocalRemovals(self.hub, self.sessions)
            self.rooms, self.connections = self._local_rooms()
            attendance = Attendance(self.hub, self.connections, lambda: self.registry.lease.node)
            self.presence = LocalPresence(self.hub, attendance)
            return
        # Redis, zerorpc and what they bring cost memory that a node that is alone need not pay.
        from imserver.clustering import Cluster

        cluster = Cluster(
            self.config,
            secret,
            self.store,
            self.questions,
            self.ids,
            self.hub,
            self.fanout,
            self.delivery,
            self.dedupe,
            self.metrics,
            self.logins,
            self._max_rooms,
        )
        self.cluster = cluster
        self.registry = cluster.registry
        self.sessions, self.presence, self.pushes = cluster.sessions, cluster.presence, cluster.pushes
        self.removals = cluster.removals
        self.rooms, self.connections = cluster.rooms, cluster.connections

    def _local_rooms(self) -> tuple[LocalRooms, LocalConnections]:
        connections = LocalConnections(
            self.hub, self.fanout, self.ids, self.questions, lambda: self.registry.lease.node
        )
        connections.rooms = rooms = LocalRooms(
            self.hub, self.fanout, self.metrics, connections, self.ids.birth, self._max_rooms
        )
        return rooms, connections

    def _make_talks(self) -> Talks:
        def stored(app: str) -> Mapping[str, Sequence[str]]:
            tenant = self.tenants.get(app)
            return {} if tenant is None else tenant.room_members

        limit = self.config.hub.notice_members
        talks = Talks(self.hub, self.sessions, self.rooms, self.pushes, stored, limit)
        talks.on_said = self.webhooks.message
        talks.add_to(self.dispatcher)
        self.opened["action"] = talks.opened
        return talks

    def _make_clients(self) -> Clients:
        clients = Clients(
            self.hub,
            self.ids,
            self.rooms,
            self.connections,
            self.questions,
            self.tenants,
            self.logins,
            self.metrics,
            self.config.hub.notice_members,
        )
        self.opened["client"] = clients.opened
        return clients

    def _make_publishing(self) -> None:
        """What sends to targets of all kinds, and what it keeps for later."""
        limits = self.config.limits
        self.holding = Holding(self.pushes, self.presence, limits.held_pushes, limits.held_bytes)
        self.publishing = Publishing(self.pushes, self.rooms, self.connections, self.holding)
        self.publishing.on_absent = self.webhooks.absent
        self.request_ids = Ids(self.dedupe, None if self.cluster is None else self.registry)
        self.publisher = Publisher(limits.body_bytes)

    def _max_rooms(self, app: str) -> int:
        tenant = self.tenants.get(app)
        return 0 if tenant is None else tenant.max_rooms

    def _make_streams(self) -> Streams:
        events = Events(self, EventStreams(self.sessions, self.logins, self.rooms, self.connections))
        return Streams(
            self.carrier,
            self.gate,
            self.metrics,
            {EVENTS_PATH: events.open},
            events.refuse,
            self.config.websocket.client_silent_seconds,
        )

    def _make_overview(self) -> Overview:
        def own_state(asked: State) -> dict[str, Any]:
            return self.state(asked.debug, asked.detail)

        def own_metrics() -> str:
            return render(self, self.lease().node)

        rpc = None if self.cluster is None else self.cluster.rpc
        seconds = self.config.cluster.rpc_seconds
        overview = Overview(own_state, own_metrics, self.lease, self.registry, rpc, seconds)
        overview.add_to(self.questions)
        return overview

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

    def _make_gate(self) -> Gate:
        config = self.config
        return Gate(
            {
                **paths_of(config, self.dispatcher.serve, self.opened),
                self.publisher.path: self.publisher.choose,
            },
            TrustedProxies(config.server.trusted_proxies),
            config.websocket.deflate,
            self.max_connections,
            config.limits.max_connections_per_address,
            self._any_origin(config),
            config.server.origins,
        )

    # --- running --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Build everything, listen and serve. Raises :class:`StartError` with one clear line."""
        sockets = self._listeners or bind_all(self.config)
        try:
            self.prepare()
            refuse_open_demo(self.config, self.auth.closed)
            self.doors.announce(sockets)
            self.http_port, self.ws_port = self.doors.ports["http"], self.doors.ports["websocket"]
            self.join()
        except StartError:
            for sock in sockets.values():
                sock.close()
            self.store.close()
            self.data.stop()
            raise
        self.doors.open(sockets)
        self.run()

    def join(self) -> None:
        """Become one of many, if this node is to be; before anybody can connect. Raises StartError."""
        config = self.config
        if self.cluster is not None:
            self.cluster.start(config.server.public_ws_url, self.http_port)
            return
        self.registry.start(
            Lease(
                node_name(config.cluster.advertise, config.app.rpc_port),
                started_at=self.started_at,
                host=socket.gethostname(),
                public_ws_url=config.server.public_ws_url,
                birth=self.ids.birth,
            )
        )

    def run(self) -> None:
        """Start the periodic work. Everything that was built lives long: keep the collector off it."""
        sweep, config = self.sweep, self.config
        self._greenlets.append(gevent.spawn(sweep.run_sweeps, config.websocket.sweep_seconds))
        if config.websocket.ping_seconds:
            self._greenlets.append(gevent.spawn(sweep.run_pings))
        pings = Pings(
            self.poller,
            self.metrics,
            config.websocket.client_ping_seconds,
            config.websocket.client_silent_seconds,
        )
        self._greenlets.append(gevent.spawn(pings.run))
        self._greenlets.append(gevent.spawn(self._tick))
        self._greenlets.append(gevent.spawn(self.store.run))
        self._greenlets.append(gevent.spawn(self.holding.run))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._unwatch_collector = self.metrics.watch_collector()
        self._ready = True

    def serve_forever(self) -> None:
        """Return when :meth:`stop` is done."""
        self._stopped.wait()

    def _ended(self, connection: Connection, code: int) -> None:
        self.gate.left(host_of(connection.peer))
        if log.isEnabledFor(logging.DEBUG):
            who = f" of {connection.user} in {connection.app}" if connection.user is not None else ""
            log.debug("end%s: %d", who, code, extra={"connection": connection.peer})
        self.rooms.ended(connection)
        self.connections.ended(connection)
        self.logins.ended(connection, code)
        self.sessions.ended(connection, code)
        self.clients.ended(connection)

    def _tick(self) -> None:
        """Greenlet: what is looked at once a second, and how late the second came (the loop's lag)."""
        expected = monotonic() + _TICK_SECONDS
        while True:
            gevent.sleep(max(expected - monotonic(), 0.001))
            now = monotonic()
            self.hub.now = int(time())
            self.metrics.lagged(max(now - expected, 0.0))
            expected = now + _TICK_SECONDS
            self._report()
            if self.cluster is not None:
                self.cluster.sessions.count_elsewhere()
                self.cluster.database.check()
            self.flusher.expire()
            self.carrier.expire()
            self.logins.expire()
            self.doors.expire()
            self.metrics.slow_readers = self.flusher.slow_readers
            self.metrics.outbox_bytes_now = self.flusher.budget.total

    def _report(self) -> None:
        """Tell the registry how this node is."""
        unsettled = self.cluster is not None and self.cluster.rooms.registrar.unsettled()
        connections, counts = len(self.carrier.connections), self.report.counts()
        self.registry.report(connections, counts, self.draining, unsettled)

    # --- stopping -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain: take nothing new, finish what was begun, close clients with 1001, paced; then end."""
        if self.draining:
            return
        self.draining = True
        self._ready = False
        self._report()
        drain = self.config.drain
        gevent.sleep(drain.delay_seconds)
        self.gate.full = True
        self.doors.drain()
        self._wait_while(lambda: self.doors.busy, _LAST_REQUESTS_SECONDS)
        self._close_clients(drain.close_seconds)
        self._wait_while(lambda: bool(self.carrier.connections), self.config.websocket.close_seconds + 1)
        for connection in tuple(self.carrier.connections):
            connection.lost()
        self.webhooks.stop(_WEBHOOK_SECONDS)
        self.doors.close()
        if self.cluster is not None:
            self.cluster.stop()
        else:
            self.registry.stop()
        gevent.killall(self._greenlets)
        self._unwatch_collector()
        self.poller.close()
        self.request_log.flush()
        self.store.close()
        self.data.stop()
        self._stopped.set()

    def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when ``condition`` has ended, or after ``seconds``."""
        deadline = monotonic() + seconds
        while condition() and monotonic() < deadline:
            gevent.sleep(0.01)

    def _close_clients(self, seconds: float) -> None:
        """Close everybody with 1001, spread over ``seconds`` so that they do not come back all at once."""
        clients = [c for c in self.carrier.connections if c.state == OPEN]
        turns = -(-len(clients) // _CLOSES_PER_TURN)
        pause = max(seconds / turns if turns > 1 else 0.0, 0.001)
        for index, connection in enumerate(clients):
            if index and index % _CLOSES_PER_TURN == 0:
                gevent.sleep(pause)
            connection.close(errors.CLOSE_GOING_AWAY, errors.CLOSE[errors.CLOSE_GOING_AWAY].name)

    @property
    def addresses(self) -> dict[str, str]:
        """What is reached where, for people."""
        return self.doors.addresses

    # --- being asked ----------------------------------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """Take over keys, origins and limits (SIGHUP); everything else needs a restart. Drops nobody."""
        self._reread = config
        self.auth.reload(config)
        self.tenants.reload(config)
        self.allowed.learn(self.tenants.all())
        self.logins.reload()
        self._keep_limits()
        self.store.look_again()
        # Those that are closing have been counted out.
        self.gate.recount(host_of(c.peer) for c in self.carrier.connections if c.state == OPEN)

    def _keep_limits(self) -> None:
        config = self._reread
        self.api.reload(config)
        self.gate.set_policy(
            config.limits.max_connections or self.max_connections,
            config.limits.max_connections_per_address,
            self._any_origin(config),
            config.server.origins,
        )

    def _any_origin(self, config: Config) -> bool:
        policy = config.server.origin_policy
        return policy == "any" or (policy == "" and self.auth.demo)

    def ready(self) -> bool:
        """Whether this node can do its work."""
        one = self.cluster is None or not self.cluster.database.wrong
        return self._ready and self.registry.healthy() and self.store.healthy() and one

    def state(self, debug: bool, detail: bool = False) -> dict[str, Any]:
        """What ``/system/state`` tells of this node; see :meth:`imserver.report.Report.state`."""
        return self.report.state(debug, detail)

    def lease(self) -> Lease:
        """What this node says of itself, as of now."""
        return self.report.lease()


def load_modules(config: Config) -> None:
    """Load what a node of these settings comes to load while it runs; for a process that forks nodes.

    None of these modules makes anything when it is imported: no loop, thread, socket or file.
    """
    names = list(_LOADED_LATE)
    if config.clustered:
        names.append("imserver.clustering")
    if config.server.door == "wsgi":
        names.append("imserver.transport.upgrade")
    if any(tenant.jwt for tenant in config.apps.values()):
        names.append("jwt.api_jws")
    if any(tenant.webhook.url or tenant.webhook.authorise_url for tenant in config.apps.values()):
        names.append("urllib3")
    for name in names:
        importlib.import_module(name)
    precompile()
