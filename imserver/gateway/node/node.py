"""The node: its parts, and their lifecycle as an ordered list. This module
builds all parts of one process."""

import gc
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic, time
from typing import Final

import gevent
from gevent.event import Event as Flag
from msgspec import Struct

from imserver.gateway.auth.observer import Act
from imserver.gateway.auth.principal import Principal
from imserver.gateway.auth.rates import LastingRates
from imserver.gateway.auth.tenants import Tenant
from imserver.gateway.clock import until_beat
from imserver.gateway.config.settings import Config
from imserver.gateway.core.core import Core
from imserver.gateway.core.network import gate_policy, wait_while
from imserver.gateway.errors import StartError, StorageUnavailable
from imserver.gateway.hub.expiry import Pings
from imserver.gateway.logging import RequestLog
from imserver.gateway.node.feature_list import (
    build_parts,
    declarations_of,
    features_for_cluster,
    load_features,
    objection_of,
    tables_of,
    with_core,
)
from imserver.gateway.node.http_servers import (
    Application,
    Servers,
    close_all,
    listen,
    refuse_open_demo,
)
from imserver.gateway.process import connection_limit
from imserver.gateway.storage.contract import Changes
from imserver.gateway.transport.gate import host_of
from imserver.gateway.transport.listener import wrapped

log = logging.getLogger(__name__)

_LAST_REQUESTS_SECONDS: Final = 2.0
"""Time limit for requests that are still running when the drain begins."""
_IDLE_SECONDS: Final = 1.0
"""How long idle connections for requests stay open in the drain."""
_KILL_SECONDS: Final = 5.0
"""Time limit for the end of the greenlets of periodic work."""
_KILL_PAUSE_SECONDS: Final = 0.2
_COLLECT_AFTER: Final = (50_000, 20, 100)
"""Thresholds of the garbage collector: new objects, then younger
collections."""


def _nothing() -> None:
    """Do nothing. It stands for a lifecycle function that a part does not
    have."""


class Stage(Struct, frozen=True):
    """The lifecycle functions of one part of a node.

    Parts are set up, then started, in the order of :meth:`Node._stages`. They
    drain, then stop, in the reverse order.

    - ``setup`` reads stored data.
    - ``start`` begins to serve.
    - ``drain`` finishes running work and refuses new work.
    - ``stop`` closes everything.

    ``setup`` and ``start`` may raise :class:`StartError`. All of them may
    switch greenlets.
    """

    name: str
    setup: Callable[[], object] = _nothing
    start: Callable[[], object] = _nothing
    drain: Callable[[], object] = _nothing
    stop: Callable[[], object] = _nothing


class _PeriodicWork:
    """The greenlets that run from start to stop, such as pings."""

    def __init__(self, runs: Sequence[Callable[[], object]]) -> None:
        """``runs`` has the function of each greenlet."""
        self._runs = runs
        self._greenlets: list[gevent.Greenlet[[], object]] = []

    def start(self) -> None:
        """Start all greenlets."""
        self._greenlets.extend(gevent.spawn(run) for run in self._runs)

    def stop(self) -> None:
        """Kill all these greenlets, and wait for their ends.

        A greenlet that is killed inside a database driver may mistake that for
        a failed connection, and continue. So the greenlet is killed repeatedly.
        """
        greenlets = self._greenlets
        deadline = monotonic() + _KILL_SECONDS
        while any(not each.dead for each in greenlets) and monotonic() < deadline:
            gevent.killall(greenlets, block=False)
            gevent.joinall(greenlets, timeout=_KILL_PAUSE_SECONDS)


class Node:
    """One process of the server: its parts and their lifecycle.

    ``create_application`` makes the WSGI application of this node, with the
    pages, and the routes that the front server does not answer itself.
    ``listeners`` has the listening sockets from the supervisor, by listener
    (such as ``"http"``), which the node closes at its end. None means that the
    node opens its own.
    """

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        create_application: Callable[[Servers], Application],
        listeners: Mapping[str, socket.socket] | None = None,
    ) -> None:
        """Make the core with the features of ``config``. Nothing is read or
        served before :meth:`start`."""
        features = load_features(config)
        self._features = with_core(features)
        self.core = Core(
            config=config,
            request_log=request_log,
            objection=objection_of(features),
            declared=declarations_of(features),
            answers=[each.answers for each in features if each.answers is not None],
            wires={each.name: each.wire for each in self._features},
            tables=tables_of(features),
        )
        # Nodes of a cluster compare their features.
        self._cluster_features = features_for_cluster(features)
        self._only_local = False
        """Whether only nodes of the same machine can reach this node."""
        self.servers: Servers
        self._config_last_read = config
        """The configuration as last read, at the start or at SIGHUP."""
        self._create_application = create_application
        self._listeners = listeners
        self._sockets: Mapping[str, socket.socket] = {}
        self._stages: tuple[Stage, ...] = ()
        self._rates: tuple[LastingRates, ...] = ()
        """The rates that are kept over a restart; empty in a cluster, because
        the nodes of a cluster count in Redis."""
        self._stopped = Flag()

    def _make_stages(self) -> tuple[Stage, ...]:
        """Return the parts of the node in the order in which they start.

        Each part uses only parts before it. The parts end in the reverse order,
        so the servers stop first, and the data folder last.
        """
        core = self.core
        rates = [
            Stage("rates", setup=each.start, stop=each.write) for each in self._rates
        ]
        features = [
            Stage(name, stop=feature.stop) for name, feature in core.features.items()
        ]
        periodic = _PeriodicWork(self._periodic_functions())
        return (
            Stage("data folder", stop=core.node.data.stop),
            *rates,
            Stage("store", setup=core.store.start, stop=core.store.close),
            Stage("requests to the outside", stop=core.outgoing.close),
            Stage("request log", stop=core.node.request_log.flush),
            Stage("pending pushes", drain=core.pending.pass_on),
            Stage(
                "connections",
                drain=core.draining.close_clients,
                stop=core.network.poller.close,
            ),
            Stage("work of clients", drain=core.draining.end_work),
            Stage("registry", start=self._join, stop=self._leave_function()),
            Stage("periodic work", start=periodic.start, stop=periodic.stop),
            *features,
            Stage(
                "servers",
                start=self._open_servers,
                drain=self._drain_servers,
                stop=self.servers.close,
            ),
            self._garbage_collector(),
        )

    def _leave_function(self) -> Callable[[], object]:
        """Return the function by which the node leaves the registry.

        A node of a cluster leaves in several steps.
        """
        if self.core.member is not None:
            return self.core.member.stop
        return self.core.registry.stop

    def _open_servers(self) -> None:
        """Begin to serve clients."""
        self.servers.open(self._sockets)

    def _periodic_functions(self) -> list[Callable[[], object]]:
        """Return the functions of the greenlets that run from start to stop.

        The functions of the core come first, then the functions of the
        features.
        """
        core = self.core
        settings = core.config.websocket
        sweep = core.network.sweep
        runs: list[Callable[[], object]] = [
            partial(sweep.run_sweeps, settings.sweep_seconds)
        ]
        # 0 seconds means that the server sends no pings.
        if settings.ping_seconds:
            runs.append(sweep.run_pings)
        pings = self._pings_of_clients()
        runs += [pings.run, self._tick, core.store.run, core.pending.run]
        runs += [rates.run for rates in self._rates]
        if core.config.clustered:
            runs.append(core.channels.subscriptions.run)
        for feature in core.features.values():
            runs += feature.run
        return runs

    def _pings_of_clients(self) -> Pings:
        """Return the check of clients that ping the server by themselves."""
        core = self.core
        settings = core.config.websocket
        return Pings(
            context=core.network.context,
            metrics=core.metrics,
            ping_seconds=settings.client_ping_seconds,
            silent_seconds=settings.client_silent_seconds,
        )

    def _garbage_collector(self) -> Stage:
        """Return the stage that excludes the objects made at the start from
        garbage collection.

        These objects live as long as the node, so the collector would check
        them in vain.
        """
        unwatch: list[Callable[[], None]] = []

        def start() -> None:
            """Freeze all objects that exist now."""
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)
            # gevent records the parent of each greenlet. Nothing uses this
            # record, and it makes up two thirds of the cost of a greenlet.
            gevent.config.track_greenlet_tree = False
            unwatch.append(self.core.metrics.watch_collector())

        def stop() -> None:
            """Stop measuring the garbage collector."""
            for call in unwatch:
                call()

        return Stage("garbage collector", start=start, stop=stop)

    # --- start ----------------------------------------------------------------

    def start(self, listeners: bool = True) -> None:
        """Build everything, listen and serve.

        ``listeners`` is False if the node runs under another server, which owns the
        listening sockets. Raises :class:`StartError` with a message of one line.
        """
        core = self.core
        if listeners:
            self._sockets = self._listeners or self._bind()
        try:
            self._set_up()
            refuse_open_demo(core.config, core.keys.closed, listeners=listeners)
            if listeners:
                self.servers.announce(self._sockets)
            else:
                # The other server has one listener for HTTP and WebSocket.
                core.node.ws_port = core.node.http_port
            for stage in self._stages:
                core.node.stage = stage.name
                stage.start()
        except StartError:
            self._clean_up_failed_start()
            raise
        core.node.life = "serves"
        self._report_act("node.start")

    def _clean_up_failed_start(self) -> None:
        """Close what a start has opened before it failed."""
        close_all(self._sockets)
        self.core.store.close()
        self.core.node.data.stop()

    def _bind(self) -> Mapping[str, socket.socket]:
        """Listen on all ports, and return the sockets by listener. Raises
        StartError."""
        # listen() returns the sockets of each process; here there is one.
        (sockets,) = listen(self.core.config)
        return {name: wrapped(sock) for name, sock in sockets.items()}

    def _set_up(self) -> None:
        """Build all parts and read stored data.

        The core comes first, then each feature adds its parts to it, and then
        come the servers. Raises StartError.
        """
        core = self.core
        core.build()
        self._build_features()
        core.prepare()

        self.servers = Servers(core, self._features, self._create_application)
        self._follow_changes()
        if not core.config.clustered:
            rates = LastingRates(core.buckets, core.node.data.path, core.node.key_for)
            self._rates = (rates,)

        self._stages = self._make_stages()
        for stage in self._stages:
            stage.setup()

    def _follow_changes(self) -> None:
        """Let the parts learn, from now on, about changes that other nodes
        store."""
        core = self.core
        core.store.report_to(self.learn_keys)
        core.store.report_to(core.sessions.learn)
        core.tenants.report_to(changed=self._learn_app)

    def _build_features(self) -> None:
        """Build the parts of each feature, and add them to the core."""
        for feature in self._features:
            self.core.learn_dialects(feature.dialects)
            self.core.join(feature.name, build_parts(feature, self.core))
            self.core.metric_rows.append(feature.metrics)

    def learn_keys(self, changes: Changes) -> None:
        """Apply created and revoked API keys. Never switches greenlets."""
        if self.core.keys.learn(changes):
            self._demo_ended()

    def _learn_app(self, tenant: Tenant) -> None:
        """Apply a new or changed app. The secret of a stored app ends demo
        mode."""
        if tenant.stored and tenant.ends_demo and self.core.keys.close():
            self._demo_ended()

    def _demo_ended(self) -> None:
        """Apply the login rules and limits of a server with keys."""
        self.core.logins.reload()
        log.info("demo mode has ended: requests need a key")
        if self._only_local:
            log.warning(
                "nodes on other machines reach this one after a restart: demo mode "
                "listens on loopback"
            )
        self._apply_limits()

    def _report_act(self, name: str) -> None:
        """Tell features about an act of this node, such as ``node.start``.

        The node acts by itself, or because of a signal.
        """
        by = Principal("node", key=self.core.status.lease().node)
        self.core.observer.acted(Act(name, by))

    def _join(self) -> None:
        """Join the cluster, before clients can connect. A node alone has its
        lease already."""
        core = self.core
        config = core.config
        if core.member is None:
            return
        # In demo mode anybody may do everything. So only nodes of this machine
        # may reach this node.
        only_local = core.keys.demo and not config.server.insecure
        core.member.start(
            config.server.public_ws_url,
            core.node.http_port,
            only_local,
            self._cluster_features,
        )
        self._only_local = only_local and not config.cluster.advertise

    def serve_forever(self) -> None:
        """Return when :meth:`stop` is done."""
        self._stopped.wait()

    # --- once per second ------------------------------------------------------

    def _tick(self) -> None:
        """Greenlet: check all deadlines, and report the state of this node,
        once per second.

        It also measures the delay of the event loop.
        """
        core = self.core
        while True:
            pause = until_beat(1.0)
            expected = monotonic() + pause
            gevent.sleep(pause)
            core.hub.now = int(time())
            core.metrics.lagged(max(monotonic() - expected, 0.0))
            self._look_after()

    def _look_after(self) -> None:
        """Report the state of this node, and check all deadlines."""
        core = self.core
        self._report()
        core.status.unready()  # records since when the node is not ready
        if core.member is not None:
            core.member.elsewhere.count()
            core.member.database.check()
        self._check_deadlines()
        core.metrics.slow_readers = core.network.flusher.slow_readers
        core.metrics.outbox_bytes_now = core.network.flusher.budget.total

    def _check_deadlines(self) -> None:
        """Let each part end what has expired. If one fails, the others run
        nevertheless."""
        core = self.core
        works = (
            core.network.flusher.expire,
            core.network.context.expire,
            core.logins.expire,
            partial(core.keys.expire, core.sessions.is_banned),
            self.servers.expire,
            core.node.request_log.flush,
            core.metrics.commands.fold,
        )
        for work in works:
            try:
                work()
            # The name of the function tells which part has failed.
            except Exception:
                log.exception("%s failed", getattr(work, "func", work).__qualname__)

    def _report(self) -> None:
        """Report the load and the state of this node to the cluster, for its
        lease.

        The report says that a node is unsettled if the registry does not know
        all its channels.
        """
        core = self.core
        registrar = core.registrar
        unsettled = registrar is not None and registrar.unsettled()
        core.registry.report(
            connections=len(core.network.context.connections),
            counts=core.status.counts(),
            draining=core.node.draining,
            unsettled=unsettled,
        )

    # --- stop -----------------------------------------------------------------

    def stop(self) -> None:
        """Drain, then stop. Switches greenlets.

        The drain refuses new work, finishes running work, and closes clients
        with 1001 at a limited rate. If a drain is already running, another call
        does nothing.
        """
        core = self.core
        if core.node.life == "stops":
            return
        core.node.life = "stops"
        core.node.stage = "delay"
        self._report()
        self._report_act("node.drain")
        # In this time, load balancers notice that this node takes no more
        # clients.
        gevent.sleep(core.config.drain.delay_seconds)
        self._end_stages()
        self._stopped.set()

    def _end_stages(self) -> None:
        """Drain all parts, then stop them, the servers first."""
        node = self.core.node
        for stage in reversed(self._stages):
            node.stage = stage.name
            stage.drain()
        for stage in reversed(self._stages):
            node.stage = stage.name
            stage.stop()

    def _drain_servers(self) -> None:
        """Refuse new connections, and let running requests end."""
        self.core.network.gate.full = True
        self.servers.drain()
        # If a connection ends while a proxy sends a POST, the proxy must not
        # repeat the request. So idle connections stay open for a while. The
        # answer to the next request says that the connection ends.
        wait_while(lambda: self.servers.connected, _IDLE_SECONDS)
        self.servers.end_idle()
        wait_while(lambda: self.servers.busy, _LAST_REQUESTS_SECONDS)

    # --- reload ---------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """Apply new keys, apps, origins, limits and settings of the log
        (SIGHUP).

        Other settings need a restart. Closes no connection. Raises StartError
        if a limit is too high; then nothing has changed.
        """
        core = self.core
        core.node.max_connections = connection_limit(config)
        # Nothing raises from here on.
        self._config_last_read = config
        core.tenants.reload(config)
        core.keys.reload(config)
        core.page_tokens.reload(config)
        core.allowed.learn(core.tenants.all())
        core.logins.reload()
        self._configure_features(config)
        self._apply_limits()
        core.node.request_log.settings = config.log
        logging.getLogger("imserver").setLevel(config.log.level.upper())
        self._report_act("node.reload")
        core.store.try_refresh()
        self._recount_connections()

    def _recount_connections(self) -> None:
        """Let the gate count connections by address anew.

        Connections that are closing count no longer.
        """
        network = self.core.network
        network.gate.recount(
            host_of(connection.peer)
            for connection in network.context.connections
            if connection.is_open
        )

    def _configure_features(self, config: Config) -> None:
        """Let each feature apply its settings. A feature that cannot apply them
        keeps its old settings."""
        for name, feature in self.core.features.items():
            try:
                feature.configure(config)
            except (StartError, StorageUnavailable) as error:
                log.error("the settings of %s: %s", name, error)

    def _apply_limits(self) -> None:
        """Apply the limits of the configuration as last read."""
        core = self.core
        config = self._config_last_read
        core.idempotency.shared = core.keys.demo
        core.pending.limit_pushes = config.limits.pending_pushes
        core.pending.limit_bytes = config.limits.pending_bytes
        self.servers.api.reload(config)
        # The gate decides which connections are accepted.
        policy = gate_policy(config, core.node.max_connections, core.keys.demo)
        core.network.gate.set_policy(policy)
