"""The node: its parts, and their lifecycle as an ordered list. The composition root of one process."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import gevent
from gevent.event import Event as Signal

from imserver import errors
from imserver.auth.tenants import Tenant
from imserver.clock import until_beat
from imserver.cluster.registry import Lease, SoloRegistry, node_name
from imserver.config.settings import Config
from imserver.core.core import Parts
from imserver.errors import StartError
from imserver.hub.expiry import Pings
from imserver.logging import RequestLog
from imserver.node.feature_list import declarations_of, load_core, load_features, objection_of
from imserver.node.http_servers import Application, Servers, bind_all, refuse_open_demo
from imserver.process import connection_limit
from imserver.storage.contract import Changes
from imserver.transport.connection import OPEN
from imserver.transport.gate import host_of

log = logging.getLogger(__name__)

_GC_THRESHOLDS = (50_000, 20, 100)
_TICK_SECONDS = 1.0
_CLOSES_PER_TURN = 200
_KILL_SECONDS = 5.0
"""Time limit for ending the periodic work."""
_KEPT_SECONDS = 1.0
"""Time for clients with kept connections to see, at their next request, that these end."""
_LAST_REQUESTS_SECONDS = 2.0
"""Time limit for requests that were running when the drain began."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Stage:
    """Lifecycle functions of one part.

    Parts are set up, then started, in the order of :meth:`Node._stages`. They drain, then stop, in the
    reverse order. ``setup`` reads stored data. ``setup`` and ``start`` may raise :class:`StartError`.
    ``drain`` finishes running work and refuses new work. All of them may switch.
    """

    name: str
    setup: Callable[[], object] = _nothing
    start: Callable[[], object] = _nothing
    drain: Callable[[], object] = _nothing
    stop: Callable[[], object] = _nothing


class PeriodicWork:
    """Owner of the greenlets that run from the start of a node to its end."""

    def __init__(self, *runs: Callable[[], None]) -> None:
        self._runs = runs
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Start all greenlets."""
        self._greenlets = [gevent.spawn(run) for run in self._runs]

    def stop(self) -> None:
        """End all greenlets within :data:`_KILL_SECONDS`.

        A greenlet that is killed inside a database driver may take this for a failed connection and continue.
        So it is killed repeatedly.
        """
        deadline = monotonic() + _KILL_SECONDS
        while self._greenlets and monotonic() < deadline:
            gevent.killall(self._greenlets, block=False)
            gevent.joinall(self._greenlets, timeout=0.2)
            self._greenlets = [each for each in self._greenlets if not each.dead]


class Node:
    """One process: its parts and their lifecycle.

    ``create_application`` makes the WSGI application of this node (pages, and routes that the front server
    does not answer itself). ``listeners``: listening sockets ``"http"`` and ``"websocket"`` from the
    supervisor, which the node closes at its end. Without them it binds its own.
    """

    def __init__(
        self,
        config: Config,
        request_log: RequestLog,
        create_application: Callable[[Servers], Application],
        listeners: Mapping[str, socket.socket] | None = None,
    ) -> None:
        features = load_features(config)
        self._features = (*load_core(), *features)
        self.parts = Parts(
            config,
            request_log,
            objection_of(features),
            declarations_of(features),
            [each.answers for each in features],
        )
        self._names = [feature.name for feature in features]
        self._only_local = False
        """Whether other nodes reach this one from the same machine only."""
        self.servers: Servers
        self._reread = config
        """The configuration as last read."""
        self._create_application = create_application
        self._listeners = listeners
        self._sockets: Mapping[str, socket.socket] = {}
        self._stages: tuple[Stage, ...] = ()
        self._stopped = Signal()

    def _make_stages(self) -> tuple[Stage, ...]:
        """The parts with a lifecycle, in the order of their start."""
        parts, cluster = self.parts, self.parts.cluster
        return (
            Stage("data folder", stop=parts.data.stop),
            Stage("store", setup=parts.store.start, stop=parts.store.close),
            *(Stage(name, stop=feature.stop) for name, feature in parts.features.items()),
            Stage("requests to the outside", stop=parts.outgoing.close),
            Stage("request log", stop=parts.request_log.flush),
            Stage("pending pushes", drain=parts.pending.pass_on),
            Stage("connections", drain=self._close_clients, stop=parts.poller.close),
            Stage("streamed messages", drain=parts.streamed_messages.close_all),
            *(Stage(f"drain of {name}", drain=feature.drain) for name, feature in parts.features.items()),
            Stage(
                "registry", start=self._join, stop=parts.registry.stop if cluster is None else cluster.stop
            ),
            Stage("servers", start=self._listen, drain=self._drain_servers, stop=self.servers.close),
            self._periodic_work(),
            self._garbage_collector(),
            *(Stage(f"end of {name}", stop=feature.finish) for name, feature in parts.features.items()),
        )

    def _periodic_work(self) -> Stage:
        parts = self.parts
        settings = parts.config.websocket
        pings = Pings(
            parts.context, parts.metrics, settings.client_ping_seconds, settings.client_silent_seconds
        )
        work = PeriodicWork(
            lambda: parts.sweep.run_sweeps(settings.sweep_seconds),
            *([parts.sweep.run_pings] if settings.ping_seconds else []),
            pings.run,
            self._tick,
            parts.store.run,
            parts.pending.run,
            parts.messaging.follower.run,
            parts.retention.run,
            *([parts.channels.run] if parts.config.clustered else []),
            parts.streamed_messages.run,
            *(run for feature in parts.features.values() for run in feature.run),
        )
        return Stage("periodic work", start=work.start, stop=work.stop)

    def _garbage_collector(self) -> Stage:
        """Exclude everything that was built from garbage collection, because it lives long."""
        unwatch: list[Callable[[], None]] = []

        def start() -> None:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            # gevent records the parent of each greenlet. Nobody uses it, and it takes two thirds of a
            # greenlet's cost.
            gevent.config.track_greenlet_tree = False
            unwatch.append(self.parts.metrics.watch_collector())

        return Stage("garbage collector", start=start, stop=lambda: [call() for call in unwatch])

    # --- start ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Build everything, listen and serve. Raises :class:`StartError` with a one-line message."""
        self._sockets = self._listeners or bind_all(self.parts.config)
        try:
            self._set_up()
            refuse_open_demo(self.parts.config, self.parts.keys.closed)
            self.servers.announce(self._sockets)
            self._start_stages()
        except StartError:
            for sock in self._sockets.values():
                sock.close()
            self._give_up()
            raise

    def start_without_listeners(self) -> None:
        """Start under another server, which owns the listeners. Raises :class:`StartError`."""
        try:
            self._set_up()
            refuse_open_demo(self.parts.config, self.parts.keys.closed, listeners=False)
            self.parts.ws_port = self.parts.http_port  # the other server has one listener for both
            self._start_stages()
        except StartError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """End what a start that failed has begun."""
        self.parts.store.close()
        self.parts.data.stop()

    def _set_up(self) -> None:
        """Build all parts and read stored data. Raises StartError."""
        parts = self.parts
        parts.build()
        for feature in self._features:
            parts.learn_dialects(feature.dialects)
            parts.join(feature.name, feature.build(parts))
            parts.metric_rows.append(feature.metrics)
        parts.prepare()
        self.servers = Servers(parts, self._features, self._create_application)
        parts.store.on_changes.append(self.learn_keys)
        parts.store.on_changes.append(parts.sessions.learn)
        parts.tenants.on_change.append(self._learn_app)
        self._stages = self._make_stages()
        for stage in self._stages:
            stage.setup()

    def learn_keys(self, changes: Changes) -> None:
        """Apply created and revoked API keys. Never switches."""
        if self.parts.keys.learn(changes):
            self._demo_ended()

    def _learn_app(self, tenant: Tenant) -> None:
        """Apply a new or changed app. The secret of a stored app ends demo mode."""
        if tenant.stored and tenant.ends_demo and self.parts.keys.close():
            self._demo_ended()

    def _demo_ended(self) -> None:
        self.parts.logins.reload()
        log.info("demo mode has ended: requests need a key")
        if self._only_local:
            log.warning(
                "nodes on other machines reach this one after a restart: demo mode listens on loopback"
            )
        self._apply_limits()

    def _start_stages(self) -> None:
        for stage in self._stages:
            stage.start()
        self.parts.serving = True

    def _join(self) -> None:
        """Take a lease before clients can connect. In a cluster the other nodes see it."""
        parts, config = self.parts, self.parts.config
        if parts.cluster is not None:
            only_local = parts.keys.demo and not config.server.insecure
            parts.cluster.start(config.server.public_ws_url, parts.http_port, only_local, self._names)
            self._only_local = only_local and not config.cluster.advertise
            return
        assert isinstance(parts.registry, SoloRegistry)
        parts.registry.start(
            Lease(
                node_name(config.cluster.advertise, config.app.rpc_port),
                started_at=parts.started_at,
                host=socket.gethostname(),
                public_ws_url=config.server.public_ws_url,
                birth=parts.ids.birth,
            )
        )

    def _listen(self) -> None:
        self.servers.open(self._sockets)

    def serve_forever(self) -> None:
        """Return when :meth:`stop` is done."""
        self._stopped.wait()

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the servers for display."""
        return self.servers.addresses

    # --- once per second ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Greenlet: check deadlines, late acknowledgements and the delay of the loop, once per second."""
        parts = self.parts
        while True:
            pause = until_beat(_TICK_SECONDS)
            expected = monotonic() + pause
            gevent.sleep(pause)
            now = monotonic()
            parts.hub.now = int(time())
            parts.metrics.lagged(max(now - expected, 0.0))
            self._report()
            if parts.cluster is not None:
                parts.cluster.sessions.count_elsewhere()
                parts.cluster.database.check()
            for work in (
                parts.flusher.expire,
                parts.context.expire,
                parts.logins.expire,
                self.servers.expire,
                *(tick for feature in parts.features.values() for tick in feature.tick),
                parts.messaging.catch_up.check_acks,
                parts.request_log.flush,
            ):
                try:
                    work()
                except Exception:
                    log.exception("%s failed", work.__qualname__)
            parts.metrics.slow_readers = parts.flusher.slow_readers
            parts.metrics.outbox_bytes_now = parts.flusher.budget.total

    def _report(self) -> None:
        """Report the state of this node to the registry."""
        parts = self.parts
        unsettled = parts.cluster is not None and parts.cluster.registrar.unsettled()
        parts.registry.report(len(parts.context.connections), parts.counts(), parts.draining, unsettled)

    # --- stop -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain: refuse new work, finish running work, close clients with 1001 at a limited rate; then
        stop."""
        parts = self.parts
        if parts.draining:
            return
        parts.draining = True
        parts.serving = False
        self._report()
        gevent.sleep(parts.config.drain.delay_seconds)
        for stage in reversed(self._stages):
            stage.drain()
        for stage in reversed(self._stages):
            stage.stop()
        self._stopped.set()

    def _drain_servers(self) -> None:
        self.parts.gate.full = True
        self.servers.drain()
        # A proxy must not repeat a POST if its connection ends, so idle connections end after a while only.
        _wait_while(lambda: self.servers.connected, _KEPT_SECONDS)
        self.servers.end_kept()
        _wait_while(lambda: self.servers.busy, _LAST_REQUESTS_SECONDS)

    def _close_clients(self) -> None:
        """Close all clients with 1001, spread over time so that they do not all reconnect at once."""
        connections, config = self.parts.context.connections, self.parts.config
        clients = [c for c in connections if c.state == OPEN]
        turns = -(-len(clients) // _CLOSES_PER_TURN)
        pause = max(config.drain.close_seconds / turns if turns > 1 else 0.0, 0.001)
        for index, connection in enumerate(clients):
            if index and index % _CLOSES_PER_TURN == 0:
                gevent.sleep(pause)
            connection.close(errors.CLOSE_GOING_AWAY)
        _wait_while(lambda: bool(connections), config.websocket.close_seconds + 1)
        for connection in tuple(connections):
            connection.lost()

    # --- reload ---------------------------------------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """Apply new keys, apps, origins and limits (SIGHUP). Other settings need a restart. Closes no
        connection.

        Raises StartError if a limit is too high; then nothing has changed.
        """
        parts = self.parts
        parts.max_connections = connection_limit(config)
        self._reread = config
        parts.tenants.reload(config)
        parts.keys.reload(config)
        parts.page_tokens.reload(config)
        parts.allowed.learn(parts.tenants.all())
        parts.logins.reload()
        for feature in parts.features.values():
            feature.reload(config)
        self._apply_limits()
        parts.store.try_refresh()
        # Closing connections were already subtracted.
        parts.gate.recount(host_of(c.peer) for c in parts.context.connections if c.state == OPEN)

    def _apply_limits(self) -> None:
        parts, config = self.parts, self._reread
        parts.dedupe.shared = parts.keys.demo
        limits = config.limits
        parts.pending.limit_pushes, parts.pending.limit_bytes = limits.pending_pushes, limits.pending_bytes
        self.servers.api.reload(config)
        parts.gate.set_policy(parts.gate_policy(config))


def _wait_while(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until ``condition`` is false, at most ``seconds``."""
    deadline = monotonic() + seconds
    while condition() and monotonic() < deadline:
        gevent.sleep(0.01)
